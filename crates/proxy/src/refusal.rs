//! The answer to a request that the proxy does not carry out: a status and one line, which is its reason and its body.

use crate::input::HeadError;

/// A request that is not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// `SUBJECT: REASON; WAY OUT`, printable ASCII.
    pub(crate) line: String,
}

/// Why a request has no complete response of a server's.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It has the proxy's own response instead.
    Refused(Refusal),
    /// The response has begun, and cannot be completed: the connection is cut, so that it is not taken for a whole one.
    Cut,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Refusal {
    pub(crate) fn new(status: u16, line: &str) -> Self {
        // Some programs show the reason of a status, and nothing else of a proxy's response.
        let line = line.chars().map(|c| match c {
            ' '..='~' => c,
            _ => '?',
        });
        Self {
            status,
            line: line.take(500).collect(),
        }
    }

    /// The refusal of a request's head or body.
    pub(crate) fn of_request(error: HeadError) -> Self {
        match error {
            HeadError::TooLong => Self::new(
                431,
                "request: its head is longer than 16384 bytes or 100 fields; send less",
            ),
            HeadError::Malformed(reason) => Self::malformed(reason),
            HeadError::Late | HeadError::Gone => Self::new(
                408,
                "request: its head did not come to an end; send it at once",
            ),
        }
    }

    pub(crate) fn malformed(reason: &str) -> Self {
        Self::new(
            400,
            &format!("request: not valid: {reason}; send a request for an HTTP/1.1 proxy"),
        )
    }

    /// Something that a server, or the way to it, is to blame for.
    pub(crate) fn bad_gateway(subject: &str, reason: &str) -> Self {
        Self::new(
            502,
            &format!("{subject}: {reason}; try again later, or another server"),
        )
    }

    /// Another proxy, on the way to `subject`, that wants to know who asks.
    pub(crate) fn unknown_to_upstream(subject: &str) -> Self {
        Self::new(
            502,
            &format!(
                "{subject}: the upstream proxy does not accept the credentials; name it with the user and password that it asks for"
            ),
        )
    }

    pub(crate) fn timed_out(subject: &str, reason: &str) -> Self {
        Self::new(
            504,
            &format!("{subject}: {reason}; try again later, or another server"),
        )
    }

    /// Returns the response, which is the last of its connection.
    pub(crate) fn response(&self, method: &str) -> Vec<u8> {
        let Self { status, line } = self;
        let length = line.len() + 1;
        let body = match method {
            "HEAD" => String::new(),
            _ => format!("{line}\n"),
        };
        format!(
            "HTTP/1.1 {status} {line}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        )
        .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_the_reason_and_the_body_and_printable() {
        let refusal = Refusal::new(403, "a\r\nSet-Cookie: \u{e9}");
        let response = String::from_utf8(refusal.response("GET")).unwrap();
        assert_eq!(
            response,
            "HTTP/1.1 403 a??Set-Cookie: ?\r\nContent-Type: text/plain\r\nContent-Length: 17\r\n\
             Connection: close\r\n\r\na??Set-Cookie: ?\n"
        );
        assert!(refusal.response("HEAD").ends_with(b"close\r\n\r\n"));
        assert_eq!(Refusal::new(403, &"a".repeat(10_000)).line.len(), 500);
    }
}
