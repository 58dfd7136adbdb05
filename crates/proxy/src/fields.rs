//! The fields of a head: what they say about the connection and the body, and those that are passed on.

use crate::input::HeadError;

/// Fields that concern one connection and are not passed on. Host, and the length of the body, are written anew.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "content-length",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A field of a head.
#[derive(Debug)]
struct Field {
    name: String,
    value: Vec<u8>,
}

/// The fields that are passed on, and what all of them say about the connection and the body.
#[derive(Debug)]
pub(crate) struct Fields {
    fields: Vec<Field>,
    /// The length of the body, if there is one.
    pub(crate) length: Option<u64>,
    pub(crate) is_chunked: bool,
    /// This is the last message of the connection.
    pub(crate) is_last: bool,
}

impl Fields {
    /// Reads the fields, and refuses those that could be read in two ways.
    pub(crate) fn read(headers: &[httparse::Header<'_>], is_1_1: bool) -> Result<Self, HeadError> {
        let mut this = Self {
            fields: Vec::new(),
            length: None,
            is_chunked: false,
            is_last: !is_1_1,
        };
        let (mut options, mut hosts) = (Vec::new(), 0);
        for header in headers {
            let value = header.value;
            match header.name.to_ascii_lowercase().as_str() {
                "content-length" => {
                    let length = content_length(value)?;
                    if this.length.is_some_and(|other| other != length) {
                        return Err(HeadError::Malformed("two lengths of the body"));
                    }
                    this.length = Some(length);
                }
                "transfer-encoding" => {
                    if this.is_chunked || !value.eq_ignore_ascii_case(b"chunked") || !is_1_1 {
                        let reason = "a Transfer-Encoding other than chunked";
                        return Err(HeadError::Malformed(reason));
                    }
                    this.is_chunked = true;
                }
                "connection" | "proxy-connection" => {
                    let names = value.split(|&byte| byte == b',');
                    let names = names.map(|name| name.trim_ascii().to_ascii_lowercase());
                    options.extend(names);
                }
                "host" => hosts += 1,
                _ => {}
            }
            this.fields.push(Field {
                name: header.name.to_owned(),
                value: value.to_vec(),
            });
        }
        if this.is_chunked && this.length.is_some() {
            let reason = "both Content-Length and Transfer-Encoding";
            return Err(HeadError::Malformed(reason));
        }
        if hosts > 1 {
            return Err(HeadError::Malformed("two Host fields"));
        }
        this.is_last |= options.iter().any(|option| option == b"close");
        // Fields that the sender meant for this connection alone.
        this.fields.retain(|field| {
            let name = field.name.to_ascii_lowercase();
            let is_listed = options.iter().any(|option| option == name.as_bytes());
            !is_listed && !HOP_BY_HOP.contains(&name.as_str())
        });
        Ok(this)
    }

    /// Appends the fields that are passed on.
    pub(crate) fn write(&self, head: &mut Vec<u8>) {
        for field in &self.fields {
            head.extend(field.name.as_bytes());
            head.extend(b": ");
            head.extend(&field.value);
            head.extend(b"\r\n");
        }
    }
}

fn content_length(value: &[u8]) -> Result<u64, HeadError> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| is_number);
    let length = text.and_then(|text| text.parse().ok());
    length.ok_or(HeadError::Malformed(
        "a Content-Length that is not a number",
    ))
}
