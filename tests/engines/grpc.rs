//! Calls of gRPC services on a Unix socket, with messages written by hand: curl speaks HTTP/2, and a message is a list of numbered
//! fields. Enough for the interface between Kubernetes and containerd, and no crate.

use std::fs;

use crate::lab::{command, fed, lab};

/// A message under construction. Fields are numbered as in the service's `.proto` file.
#[derive(Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    /// With a string.
    pub(crate) fn text(self, field: u64, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    /// With a number or a value of an enumeration.
    pub(crate) fn number(mut self, field: u64, number: u64) -> Self {
        self.varint(field << 3);
        self.varint(number);
        self
    }

    /// With a message.
    pub(crate) fn message(self, field: u64, message: &Message) -> Self {
        self.bytes(field, &message.0)
    }

    /// With an entry of a map of strings.
    pub(crate) fn entry(self, field: u64, key: &str, value: &str) -> Self {
        self.message(field, &Self::default().text(1, key).text(2, value))
    }

    fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }
}

/// A received message. A field that is not there has its default, as in the protocol.
#[derive(Debug)]
pub(crate) struct Reply(Vec<(u64, Value)>);

#[derive(Debug)]
enum Value {
    Number(u64),
    Bytes(Vec<u8>),
}

impl Reply {
    fn parse(mut rest: &[u8]) -> Self {
        let mut fields = Vec::new();
        while !rest.is_empty() {
            let tag = take_varint(&mut rest);
            let value = match tag & 7 {
                0 => Value::Number(take_varint(&mut rest)),
                2 => {
                    let length = take_varint(&mut rest) as usize;
                    let (bytes, behind) = rest.split_at(length);
                    rest = behind;
                    Value::Bytes(bytes.to_owned())
                }
                kind => panic!("a field of kind {kind}, which this interface has not"),
            };
            fields.push((tag >> 3, value));
        }
        Self(fields)
    }

    fn field(&self, field: u64) -> Option<&Value> {
        let mut fields = self.0.iter();
        fields
            .find(|(number, _)| *number == field)
            .map(|(_, value)| value)
    }

    /// A string.
    pub(crate) fn text(&self, field: u64) -> String {
        match self.field(field) {
            Some(Value::Bytes(bytes)) => String::from_utf8(bytes.clone()).unwrap(),
            Some(Value::Number(_)) => panic!("field {field} is a number: {self:?}"),
            None => String::new(),
        }
    }

    /// A number.
    pub(crate) fn number(&self, field: u64) -> u64 {
        match self.field(field) {
            Some(Value::Number(number)) => *number,
            Some(Value::Bytes(_)) => panic!("field {field} is no number: {self:?}"),
            None => 0,
        }
    }

    /// A message.
    pub(crate) fn message(&self, field: u64) -> Self {
        match self.field(field) {
            Some(Value::Bytes(bytes)) => Self::parse(bytes),
            Some(Value::Number(_)) => panic!("field {field} is a number: {self:?}"),
            None => Self(Vec::new()),
        }
    }
}

fn take_varint(rest: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, behind) = rest.split_first().expect("a whole number");
        *rest = behind;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    number
}

/// Calls `METHOD` of `package.Service`; returns its reply, or the service's message where it reports an error.
pub(crate) fn call(socket: &str, method: &str, request: &Message) -> Result<Reply, String> {
    let files = tempfile::TempDir::new_in(&lab().dir).unwrap();
    let (headers, body) = (files.path().join("headers"), files.path().join("body"));
    let mut curl = command(
        "curl",
        &["-sS", "--http2-prior-knowledge", "--unix-socket", socket],
    );
    curl.args(["-H", "content-type: application/grpc", "-H", "te: trailers"]);
    curl.arg("-D").arg(&headers).arg("-o").arg(&body);
    curl.args(["--data-binary", "@-", &format!("http://localhost/{method}")]);
    // Not compressed, and the length.
    let mut framed = vec![0];
    framed.extend((request.0.len() as u32).to_be_bytes());
    framed.extend(&request.0);
    // An error is a response whose stream the service resets, so that curl's exit code says little.
    let run = fed(curl, &framed);
    // The trailers are behind the headers.
    let headers = fs::read_to_string(headers).unwrap_or_default();
    let header = |name: &str| headers.lines().find_map(|line| line.strip_prefix(name));
    match header("grpc-status: ").map(str::trim) {
        Some("0") => Ok(Reply::parse(&fs::read(body).unwrap()[5..])),
        Some(_) => Err(header("grpc-message: ").unwrap_or_default().to_owned()),
        None => panic!("{method} has no status: {headers}; {run}"),
    }
}
