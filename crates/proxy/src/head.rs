//! The heads of requests and responses: read strictly, and written anew with what concerns the next connection alone.
//!
//! httparse reads the syntax. Whatever two programs on the way could read differently is refused: the length of a body given
//! twice or in two ways, a target with a user name, a host that is not the target's.

use std::fmt::Write;

use crate::body::Framing;
use crate::fields::Fields;
use crate::host::{Authority, Host};
use crate::input::HeadError;

/// The most fields that a head has.
const FIELDS: usize = 100;

/// The destination of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A tunnel to host and port.
    Tunnel,
    /// A path on an HTTP server.
    Path(String),
}

/// A request.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) host: Host,
    pub(crate) port: u16,
    pub(crate) target: Target,
    pub(crate) framing: Framing,
    /// HTTP/1.1, and not 1.0.
    pub(crate) is_1_1: bool,
    /// The client may send another request behind it.
    pub(crate) keeps_alive: bool,
    fields: Fields,
}

/// A response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) framing: Framing,
    /// The server accepts another request behind it.
    pub(crate) keeps_alive: bool,
    reason: String,
    fields: Fields,
}

/// The error of the parser, in words.
fn syntax(error: httparse::Error) -> HeadError {
    use httparse::Error;
    HeadError::Malformed(match error {
        Error::TooManyHeaders => return HeadError::TooLong,
        Error::HeaderName => "a field's name",
        Error::HeaderValue => "a field's value",
        Error::Status => "the status",
        Error::Version => "the version of HTTP",
        Error::NewLine => "the end of a line",
        Error::Token => "the first line",
    })
}

impl Request {
    /// Parses a head with its empty line.
    ///
    /// # Errors
    ///
    /// `TooLong` for too many fields, else `Malformed`.
    pub(crate) fn parse(head: &[u8]) -> Result<Self, HeadError> {
        let mut headers = [httparse::EMPTY_HEADER; FIELDS];
        let mut parsed = httparse::Request::new(&mut headers);
        let status = parsed.parse(head).map_err(syntax)?;
        let (Some(method), Some(target), Some(minor), true) = (
            parsed.method,
            parsed.path,
            parsed.version,
            status.is_complete(),
        ) else {
            return Err(HeadError::Malformed("the first line"));
        };
        let is_1_1 = minor == 1;
        let fields = Fields::read(parsed.headers, is_1_1)?;
        let framing = match (fields.length, fields.is_chunked) {
            (_, true) => Framing::Chunked,
            (Some(length), false) => Framing::Length(length),
            (None, false) => Framing::None,
        };
        let (authority, default, target) = match method {
            "CONNECT" => (target, None, Target::Tunnel),
            _ => {
                let (authority, path) = absolute(method, target).map_err(HeadError::Malformed)?;
                (authority, Some(80), Target::Path(path))
            }
        };
        if target == Target::Tunnel && !matches!(framing, Framing::None | Framing::Length(0)) {
            return Err(HeadError::Malformed("a CONNECT with a body"));
        }
        let authority =
            Authority::parse(authority).map_err(|error| HeadError::Malformed(error.text()))?;
        let port = authority.port.or(default);
        Ok(Self {
            method: method.to_owned(),
            host: authority.host,
            port: port.ok_or(HeadError::Malformed("a CONNECT without a port"))?,
            target,
            framing,
            is_1_1,
            keeps_alive: !fields.is_last,
            fields,
        })
    }

    /// Returns the head for the server; for another proxy with the whole URL and these credentials.
    pub(crate) fn head(&self, path: &str, upstream: Option<&str>) -> Vec<u8> {
        let authority = match self.port {
            80 => self.host.to_string(),
            port => format!("{}:{port}", self.host),
        };
        let mut head = Vec::new();
        let start = match upstream {
            // OPTIONS * has no URL with a path.
            Some(_) if path == "*" => format!("http://{authority}"),
            Some(_) => format!("http://{authority}{path}"),
            None => path.to_owned(),
        };
        head.extend(format!("{} {start} HTTP/1.1\r\nHost: {authority}\r\n", self.method).bytes());
        self.fields.write(&mut head);
        match self.framing {
            Framing::Length(length) => {
                head.extend(format!("Content-Length: {length}\r\n").bytes());
            }
            Framing::Chunked => head.extend(b"Transfer-Encoding: chunked\r\n"),
            Framing::None | Framing::UntilClose => {}
        }
        head.extend(upstream.unwrap_or_default().bytes());
        head.extend(b"\r\n");
        head
    }
}

/// Takes a URL apart into authority and path with query.
fn absolute<'a>(method: &str, target: &'a str) -> Result<(&'a str, String), &'static str> {
    let (scheme, rest) = target
        .split_once("://")
        .ok_or("a target that is not a whole URL, as a proxy needs it")?;
    if scheme.eq_ignore_ascii_case("https") {
        return Err("an https URL, which needs CONNECT");
    }
    if !scheme.eq_ignore_ascii_case("http") {
        return Err("a URL that does not begin with http://");
    }
    if !rest.bytes().all(|byte| byte.is_ascii_graphic()) || rest.contains('#') {
        return Err("a URL with characters that have to be escaped");
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let path = match path {
        "" if method == "OPTIONS" => "*".to_owned(),
        path if path.starts_with('/') => path.to_owned(),
        query => format!("/{query}"),
    };
    Ok((authority, path))
}

impl Response {
    /// Parses a head with its empty line, the answer to this method.
    ///
    /// # Errors
    ///
    /// `TooLong` for too many fields, else `Malformed`.
    pub(crate) fn parse(head: &[u8], method: &str) -> Result<Self, HeadError> {
        let mut headers = [httparse::EMPTY_HEADER; FIELDS];
        let mut parsed = httparse::Response::new(&mut headers);
        let complete = parsed.parse(head).map_err(syntax)?;
        let (Some(status), Some(minor), true) =
            (parsed.code, parsed.version, complete.is_complete())
        else {
            return Err(HeadError::Malformed("the first line"));
        };
        if !(100..600).contains(&status) {
            return Err(HeadError::Malformed("the status"));
        }
        let fields = Fields::read(parsed.headers, minor == 1)?;
        let framing = match (fields.length, fields.is_chunked) {
            _ if status < 200 || status == 204 || status == 304 || method == "HEAD" => {
                Framing::None
            }
            (_, true) => Framing::Chunked,
            (Some(length), false) => Framing::Length(length),
            (None, false) => Framing::UntilClose,
        };
        Ok(Self {
            status,
            framing,
            keeps_alive: !fields.is_last && framing != Framing::UntilClose,
            reason: parsed.reason.unwrap_or_default().to_owned(),
            fields,
        })
    }

    /// Returns the head for the client. Chunks are announced if the body is sent so, and that the connection ends if it does.
    pub(crate) fn head(&self, in_chunks: bool, keeps_alive: bool) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, self.reason).into_bytes();
        self.fields.write(&mut head);
        if let Some(length) = self
            .fields
            .length
            .filter(|_| self.status >= 200 && self.status != 204)
        {
            head.extend(format!("Content-Length: {length}\r\n").bytes());
        }
        if in_chunks {
            head.extend(b"Transfer-Encoding: chunked\r\n");
        }
        if !keeps_alive && self.status >= 200 {
            head.extend(b"Connection: close\r\n");
        }
        head.extend(b"\r\n");
        head
    }

    /// Returns the status in words.
    pub(crate) fn status_line(&self) -> String {
        let mut line = self.status.to_string();
        let reason = self
            .reason
            .chars()
            .filter(|c| *c == ' ' || c.is_ascii_graphic());
        let _ = write!(line, " {}", reason.take(80).collect::<String>());
        line.truncate(line.trim_end().len());
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(head: &str) -> Result<Request, String> {
        Request::parse(head.as_bytes()).map_err(|error| match error {
            HeadError::Malformed(reason) => reason.to_owned(),
            error => format!("{error:?}"),
        })
    }

    fn response(head: &str, method: &str) -> Result<Response, String> {
        Response::parse(head.as_bytes(), method).map_err(|error| format!("{error:?}"))
    }

    fn forwarded(head: &str) -> String {
        let request = request(head).unwrap();
        let Target::Path(path) = &request.target else {
            panic!("{request:?}")
        };
        String::from_utf8(request.head(path, None)).unwrap()
    }

    #[test]
    fn a_url_becomes_a_path_with_the_urls_own_host() {
        for (target, line, host) in [
            ("http://a.example/x?y=1", "GET /x?y=1", "a.example"),
            ("HTTP://A.Example:80", "GET /", "a.example"),
            ("http://a.example:8080?q", "GET /?q", "a.example:8080"),
            ("http://[::1]:81/%41//../", "GET /%41//../", "[::1]:81"),
            ("http://0x7f.1/", "GET /", "127.0.0.1"),
        ] {
            let head = forwarded(&format!(
                "GET {target} HTTP/1.1\r\nHost: other.example\r\nA: b\r\n\r\n"
            ));
            assert_eq!(
                head,
                format!("{line} HTTP/1.1\r\nHost: {host}\r\nA: b\r\n\r\n")
            );
        }
        let head = forwarded("OPTIONS http://a.example HTTP/1.0\r\n\r\n");
        assert_eq!(head, "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n");
        let request = request("GET http://a.example:81/x HTTP/1.1\r\n\r\n").unwrap();
        let head = request.head("/x", Some("Proxy-Authorization: Basic x\r\n"));
        assert_eq!(
            String::from_utf8(head).unwrap(),
            "GET http://a.example:81/x HTTP/1.1\r\nHost: a.example:81\r\nProxy-Authorization: Basic x\r\n\r\n"
        );
    }

    #[test]
    fn fields_of_one_connection_are_not_passed_on() {
        let head = forwarded(
            "POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nConnection: Keep-Alive, X-Private\r\nx-private: 1\r\n\
             Proxy-Connection: keep-alive\r\nKeep-Alive: 5\r\nTE: trailers\r\nTrailer: X\r\nUpgrade: websocket\r\n\
             Proxy-Authorization: Basic x\r\nAuthorization: Basic y\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\
             X: \t a\x09b \r\n\r\n",
        );
        assert_eq!(
            head,
            "POST / HTTP/1.1\r\nHost: a.example\r\nAuthorization: Basic y\r\nExpect: 100-continue\r\nX: a\tb\r\n\
             Content-Length: 5\r\n\r\n"
        );
        // What is listed does not take the length of the body away.
        let head = forwarded(
            "POST http://a.example/ HTTP/1.1\r\nConnection: content-length\r\nContent-Length: 5\r\n\r\n",
        );
        assert!(head.ends_with("Content-Length: 5\r\n\r\n"), "{head}");
    }

    #[test]
    fn connections_end_as_their_version_and_fields_say() {
        for (head, keeps_alive) in [
            ("GET http://a/ HTTP/1.1\r\n\r\n", true),
            (
                "GET http://a/ HTTP/1.1\r\nConnection: a, Close\r\n\r\n",
                false,
            ),
            (
                "GET http://a/ HTTP/1.1\r\nProxy-Connection: close\r\n\r\n",
                false,
            ),
            (
                "GET http://a/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
                false,
            ),
        ] {
            assert_eq!(request(head).unwrap().keeps_alive, keeps_alive, "{head}");
        }
    }

    #[test]
    fn requests_that_could_be_read_in_two_ways_are_refused() {
        for (fields, reason) in [
            (
                "Content-Length: 5\r\nContent-Length: 6",
                "two lengths of the body",
            ),
            (
                "Content-Length: 5, 5",
                "a Content-Length that is not a number",
            ),
            (
                "Content-Length: +5",
                "a Content-Length that is not a number",
            ),
            (
                "Content-Length: 0x5",
                "a Content-Length that is not a number",
            ),
            ("Content-Length:", "a Content-Length that is not a number"),
            (
                "Content-Length: 18446744073709551616",
                "a Content-Length that is not a number",
            ),
            (
                "Content-Length: 5\r\nTransfer-Encoding: chunked",
                "both Content-Length and Transfer-Encoding",
            ),
            (
                "Transfer-Encoding: chunked\r\nContent-Length: 5",
                "both Content-Length and Transfer-Encoding",
            ),
            (
                "Transfer-Encoding: gzip, chunked",
                "a Transfer-Encoding other than chunked",
            ),
            (
                "Transfer-Encoding: chunked, identity",
                "a Transfer-Encoding other than chunked",
            ),
            (
                "Transfer-Encoding: xchunked",
                "a Transfer-Encoding other than chunked",
            ),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
                "a Transfer-Encoding other than chunked",
            ),
            ("Transfer-Encoding:\x0bchunked", "a field's value"),
            ("Transfer-Encoding : chunked", "a field's name"),
            (" Transfer-Encoding: chunked", "a field's name"),
            ("A: b\r\n c", "a field's name"),
            ("A: b\r\n\tTransfer-Encoding: chunked", "a field's name"),
            ("A\0: b", "a field's name"),
            ("A: b\0c", "a field's value"),
            ("A\u{e9}: b", "a field's name"),
            (": b", "a field's name"),
            ("A", "a field's name"),
            ("Host: a\r\nHost: b", "two Host fields"),
        ] {
            let head = format!("POST http://a.example/ HTTP/1.1\r\n{fields}\r\n\r\n");
            assert_eq!(request(&head).err().as_deref(), Some(reason), "{fields:?}");
        }
        // The same length twice is one length.
        let twice = "POST http://a/ HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(request(twice).unwrap().framing, Framing::Length(5));
        let old = "POST http://a/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(request(old).is_err());
        let many = format!("GET http://a/ HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(101));
        assert_eq!(request(&many).unwrap_err(), "TooLong");
    }

    /// First lines, and the reasons to refuse them.
    const TARGETS: &[(&str, &str)] = &[
        (
            "GET / HTTP/1.1",
            "a target that is not a whole URL, as a proxy needs it",
        ),
        (
            "GET a.example:80 HTTP/1.1",
            "a target that is not a whole URL, as a proxy needs it",
        ),
        (
            "GET https://a.example/ HTTP/1.1",
            "an https URL, which needs CONNECT",
        ),
        (
            "GET ftp://a.example/ HTTP/1.1",
            "a URL that does not begin with http://",
        ),
        (
            "GET http://allowed.example@evil.example/ HTTP/1.1",
            "a user name has no place in a host",
        ),
        (
            "GET http://allowed.example:80@evil.example/ HTTP/1.1",
            "a user name has no place in a host",
        ),
        (
            "GET http://evil.example\\@allowed.example/ HTTP/1.1",
            "a user name has no place in a host",
        ),
        (
            "GET http://evil.example\\.allowed.example/ HTTP/1.1",
            "the host has characters that no host name has",
        ),
        (
            "GET http://evil.example#.allowed.example/ HTTP/1.1",
            "a URL with characters that have to be escaped",
        ),
        (
            "GET http:///path HTTP/1.1",
            "the host is empty, too long or has an empty part",
        ),
        (
            "GET http://[fe80::1%eth0]/ HTTP/1.1",
            "IPv6 zones cannot be used",
        ),
        (
            "GET http://a.example:0/ HTTP/1.1",
            "the port is not a number from 1 to 65535",
        ),
        (
            "GET http://a.example:80:80/ HTTP/1.1",
            "the port is not a number from 1 to 65535",
        ),
        ("CONNECT a.example HTTP/1.1", "a CONNECT without a port"),
        (
            "CONNECT allowed.example@evil.example:443 HTTP/1.1",
            "a user name has no place in a host",
        ),
        (
            "CONNECT http://a.example:443 HTTP/1.1",
            "the port is not a number from 1 to 65535",
        ),
        (
            "CONNECT a.example:443/ HTTP/1.1",
            "the port is not a number from 1 to 65535",
        ),
        ("GET http://a.example/ HTTP/2.0", "the version of HTTP"),
        ("GET http://a.example/ HTTP/0.9", "the version of HTTP"),
        ("GET http://a.example/", "the first line"),
        ("GET  http://a.example/ HTTP/1.1", "the first line"),
        ("GET http://a.example/ x HTTP/1.1", "the version of HTTP"),
        ("G@T http://a.example/ HTTP/1.1", "the first line"),
    ];

    #[test]
    fn targets_that_lead_elsewhere_than_they_seem_are_refused() {
        for &(line, reason) in TARGETS {
            let refused = request(&format!("{line}\r\nHost: allowed.example\r\n\r\n"));
            assert_eq!(refused.err().as_deref(), Some(reason), "{line}");
        }
        let refused = request("GET http://b\u{fc}cher.example/ HTTP/1.1\r\n\r\n");
        assert!(refused.is_err());
        let body = request("CONNECT a:443 HTTP/1.1\r\nContent-Length: 5\r\n\r\n");
        assert_eq!(body.unwrap_err(), "a CONNECT with a body");
        let tunnel = request("CONNECT A.example.:443 HTTP/1.1\r\nHost: b\r\n\r\n").unwrap();
        assert_eq!((tunnel.target, tunnel.port), (Target::Tunnel, 443));
        assert_eq!(tunnel.host, Host::Name("a.example".into()));
    }

    #[test]
    fn responses_have_the_body_that_their_status_and_fields_say() {
        for (head, method, framing, keeps_alive) in [
            (
                "200 OK\r\nContent-Length: 5",
                "GET",
                Framing::Length(5),
                true,
            ),
            ("200 OK\r\nContent-Length: 5", "HEAD", Framing::None, true),
            (
                "200 OK\r\nTransfer-Encoding: Chunked",
                "GET",
                Framing::Chunked,
                true,
            ),
            (
                "200 OK\r\nTransfer-Encoding: chunked",
                "HEAD",
                Framing::None,
                true,
            ),
            ("200", "GET", Framing::UntilClose, false),
            (
                "204 No Content\r\nContent-Length: 5",
                "GET",
                Framing::None,
                true,
            ),
            (
                "304 Not Modified\r\nContent-Length: 5",
                "GET",
                Framing::None,
                true,
            ),
            ("100 Continue", "GET", Framing::None, true),
            (
                "200 OK\r\nConnection: close\r\nContent-Length: 0",
                "GET",
                Framing::Length(0),
                false,
            ),
        ] {
            let response = response(&format!("HTTP/1.1 {head}\r\n\r\n"), method).unwrap();
            assert_eq!(
                (response.framing, response.keeps_alive),
                (framing, keeps_alive),
                "{head}"
            );
        }
        for head in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked",
            "HTTP/1.1 200 OK\r\nA : b",
            "HTTP/1.1 200 OK\r\nA: b\r\n c",
            "HTTP/2 200 OK",
            "HTTP/1.1 099 OK",
            "HTTP/1.1 600 OK",
            "HTTP/1.1 2000 OK",
            "ICY 200 OK",
            "",
        ] {
            assert!(
                response(&format!("{head}\r\n\r\n"), "GET").is_err(),
                "{head}"
            );
        }
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(101));
        assert_eq!(response(&many, "GET").unwrap_err(), "TooLong");
    }

    #[test]
    fn a_response_is_written_for_the_clients_connection() {
        let head = "HTTP/1.0 200 Fine\r\nContent-Length: 5\r\nConnection: close, x\r\nX: 1\r\nSet-Cookie: a\r\n\
                    Set-Cookie: b\r\nUpgrade: h2c\r\nProxy-Authenticate: Basic\r\n\r\n";
        let written = response(head, "HEAD").unwrap().head(false, true);
        assert_eq!(
            String::from_utf8(written).unwrap(),
            "HTTP/1.1 200 Fine\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 5\r\n\r\n"
        );
        let chunked = response(
            "HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET",
        )
        .unwrap();
        assert_eq!(
            String::from_utf8(chunked.head(true, false)).unwrap(),
            "HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(chunked.status_line(), "404 No");
    }
}
