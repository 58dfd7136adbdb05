//! Requests to one endpoint about one image: TLS or not, logins, and attempts after failures.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use ureq::http::header;

use crate::challenge;
use crate::client::{self, Answer, Client, Failure, FailureKind, Request};
use crate::config::credentials::Credentials;
use crate::config::registries::Endpoint;
use crate::error::{Error, quoted};
use crate::reference::Reference;
use crate::url::Url;
use rdvm_hostfs::units::ByteSize;

/// The longest answer of a host of tokens in bytes.
const TOKEN_LIMIT: u64 = 1 << 20;
/// The bytes of an error that are read.
const ERROR_LIMIT: u64 = 16 << 10;

/// An endpoint, as it is spoken to.
pub(crate) struct Session<'a> {
    pub(crate) client: &'a Client<'a>,
    pub(crate) endpoint: &'a Endpoint,
    name: String,
    credentials: Option<Credentials>,
    /// The host was found to speak no TLS, and needs none.
    is_plain: AtomicBool,
    /// The header that let the last request in.
    authorization: Mutex<Option<String>>,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<OneError>,
}

#[derive(Deserialize)]
struct OneError {
    #[serde(default)]
    message: String,
}

/// The attempts at one thing.
pub(crate) struct Attempts {
    failed: u32,
    patience: client::Patience,
}

impl Attempts {
    /// Waits before the next attempt, as long as the host asked for.
    ///
    /// # Errors
    /// The failure, if it is final or there were too many.
    pub(crate) fn after(&mut self, failure: Failure, asked: Option<Duration>) -> Result<(), Error> {
        self.failed += 1;
        if failure.kind == FailureKind::Final || self.failed >= self.patience.attempts {
            return Err(failure.error);
        }
        let pause = self.patience.pause * 2u32.pow((self.failed - 1).min(10));
        thread::sleep(asked.unwrap_or(pause).min(self.patience.longest_pause));
        Ok(())
    }

    /// Forgets the failures before: something came.
    pub(crate) fn progressed(&mut self) {
        self.failed = 0;
    }
}

impl<'a> Session<'a> {
    /// Returns a session that has not said anything yet.
    pub(crate) fn new(
        client: &'a Client<'a>,
        endpoint: &'a Endpoint,
        reference: &Reference,
        credentials: Option<Credentials>,
    ) -> Self {
        Self {
            client,
            endpoint,
            name: reference.to_string(),
            credentials,
            is_plain: AtomicBool::new(false),
            authorization: Mutex::new(None),
        }
    }

    /// Returns a count of no attempts.
    pub(crate) fn attempts(&self) -> Attempts {
        Attempts {
            failed: 0,
            patience: self.client.patience,
        }
    }

    /// Asks for `manifests/VERSION` or `blobs/DIGEST`, and returns an answer with status 200 or 206.
    pub(crate) fn get(
        &self,
        path: &str,
        accept: Option<&str>,
        from: u64,
    ) -> Result<Answer, (Failure, Option<Duration>)> {
        let answer = self
            .admitted(path, accept, from)
            .map_err(|failure| (failure, None))?;
        match answer.status {
            200 | 206 => Ok(answer),
            _ => {
                let asked = answer.header(header::RETRY_AFTER);
                let asked = asked
                    .and_then(|text| text.trim().parse().ok())
                    .map(Duration::from_secs);
                Err((self.refused(path, answer), asked))
            }
        }
    }

    /// Reads a document of at most `limit` bytes, with as many attempts as there may be.
    pub(crate) fn document(
        &self,
        path: &str,
        accept: &str,
        limit: u64,
    ) -> Result<(Vec<u8>, Answer), Error> {
        let mut attempts = self.attempts();
        loop {
            let (failure, asked) = match self.get(path, Some(accept), 0) {
                Ok(mut answer) => match self.body(&mut answer, path, limit) {
                    Ok(bytes) => return Ok((bytes, answer)),
                    Err(failure) => (failure, None),
                },
                Err(failed) => failed,
            };
            attempts.after(failure, asked)?;
        }
    }

    fn body(&self, answer: &mut Answer, what: &str, limit: u64) -> Result<Vec<u8>, Failure> {
        let too_long = || Error::TooLong {
            host: answer.host.clone(),
            what: what.to_owned(),
            limit: ByteSize(limit),
        };
        if answer.length().is_some_and(|length| length > limit) {
            return Err(too_long().into());
        }
        let until = Instant::now() + self.client.patience.document;
        let mut reader = answer.body.as_reader();
        let (mut bytes, mut piece) = (Vec::new(), [0; 8192]);
        loop {
            let broken = |why| Failure {
                error: Error::Connection {
                    host: answer.host.clone(),
                    why,
                },
                kind: FailureKind::Passing,
            };
            match reader.read(&mut piece) {
                Ok(0) => return Ok(bytes),
                Ok(count) => bytes.extend_from_slice(&piece[..count]),
                Err(error) => return Err(broken(client::why(&error.into()))),
            }
            if bytes.len() as u64 > limit {
                return Err(too_long().into());
            }
            if Instant::now() > until {
                return Err(broken("sends too slowly".to_owned()));
            }
        }
    }

    /// Sends a request, and once more with a login if one is asked for.
    fn admitted(&self, path: &str, accept: Option<&str>, from: u64) -> Result<Answer, Failure> {
        let used = self.authorization().clone();
        let answer = self.send(path, accept, from, used.as_deref())?;
        if answer.status != 401 || !answer.is_first {
            return Ok(answer);
        }
        let authorization = self.log_in(&answer, used.as_deref())?;
        let Some(authorization) = authorization else {
            return Ok(answer);
        };
        *self.authorization() = Some(authorization.clone());
        self.send(path, accept, from, Some(&authorization))
    }

    fn authorization(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn send(
        &self,
        path: &str,
        accept: Option<&str>,
        from: u64,
        authorization: Option<&str>,
    ) -> Result<Answer, Failure> {
        let request = Request {
            accept,
            authorization,
            from,
            form: None,
            insecure: self.endpoint.insecure,
        };
        if !self.is_plain.load(Ordering::Relaxed) {
            match self.client.send(&self.url(true, path), &request) {
                Err(failure) if failure.kind == FailureKind::NoTls && self.may_be_plain() => {}
                sent => return sent,
            }
        }
        let sent = self.client.send(&self.url(false, path), &request)?;
        self.is_plain.store(true, Ordering::Relaxed);
        Ok(sent)
    }

    fn url(&self, is_https: bool, path: &str) -> Url {
        let path = format!("/v2/{}/{path}", self.endpoint.repository);
        Url::new(is_https, &self.endpoint.host, path)
    }

    fn may_be_plain(&self) -> bool {
        self.endpoint.insecure || self.client.may_be_plain(&self.url(false, ""))
    }

    /// Returns the header that a host asks for; `None` if there is none but the one that it has just refused.
    fn log_in(&self, answer: &Answer, refused: Option<&str>) -> Result<Option<String>, Failure> {
        let headers = answer.headers.get_all(header::WWW_AUTHENTICATE).iter();
        let challenges: Vec<_> = headers
            .filter_map(|header| header.to_str().ok())
            .flat_map(challenge::parse)
            .collect();
        if let Some(bearer) = challenges.iter().find(|it| it.scheme == "bearer") {
            // One that has run out is refused as well.
            return self.token(bearer).map(Some);
        }
        let basic = challenges.iter().any(|it| it.scheme == "basic");
        let own = self.credentials.as_ref().and_then(Credentials::basic);
        match challenges.is_empty() || basic {
            true => Ok(own.filter(|own| basic && refused != Some(own))),
            false => Err(self
                .login_error(format!("of the kind {}", quoted(&challenges[0].scheme)))
                .into()),
        }
    }

    fn login_error(&self, why: String) -> Error {
        Error::Login {
            host: self.endpoint.host.clone(),
            why,
        }
    }

    /// Gets a token for reading the image from the host that a challenge names.
    fn token(&self, bearer: &challenge::Challenge) -> Result<String, Failure> {
        let realm = bearer.parameter("realm").unwrap_or_default();
        let wrong = |why: &str| self.login_error(format!("at {}, {why}", quoted(realm)));
        let url: Url = realm
            .parse()
            .map_err(|_| wrong("which is not a URL of a host"))?;
        let own = self.url(!self.is_plain.load(Ordering::Relaxed), "");
        let is_trusted = url.is_https()
            || (!own.is_https() && (url.has_origin_of(&own) || self.client.may_be_plain(&url)));
        if !is_trusted {
            return Err(wrong("without TLS").into());
        }
        let service = bearer.parameter("service").unwrap_or_default();
        let scope = format!("repository:{}:pull", self.endpoint.repository);
        let basic = self.credentials.as_ref().and_then(Credentials::basic);
        let insecure = self.endpoint.insecure && url.has_origin_of(&own);
        let form;
        let (url, request) = match &self.credentials {
            Some(Credentials::IdentityToken(token)) => {
                form = [
                    ("grant_type", "refresh_token"),
                    ("refresh_token", token.as_str()),
                    ("service", service),
                    ("scope", scope.as_str()),
                    ("client_id", "rdvm"),
                ];
                let request = Request {
                    form: Some(&form),
                    insecure,
                    ..Request::default()
                };
                (url, request)
            }
            _ => {
                let separator = if realm.contains('?') { '&' } else { '?' };
                let query = format!(
                    "{url}{separator}service={}&scope={}",
                    encoded(service),
                    encoded(&scope)
                );
                let url = query
                    .parse()
                    .map_err(|_| wrong("which is not a URL of a host"))?;
                let request = Request {
                    authorization: basic.as_deref(),
                    insecure,
                    ..Request::default()
                };
                (url, request)
            }
        };
        let mut answer = self.client.send(&url, &request)?;
        if answer.status != 200 {
            return Err(self.refused("a token", answer));
        }
        let bytes = self.body(&mut answer, "a token", TOKEN_LIMIT)?;
        match token_of(&bytes) {
            Some(token) => Ok(format!("Bearer {token}")),
            None => Err(Error::Answer {
                host: answer.host,
                what: "a token".to_owned(),
                why: "is not in its answer".to_owned(),
            }
            .into()),
        }
    }

    /// The failure that another status than 200 means.
    fn refused(&self, what: &str, mut answer: Answer) -> Failure {
        let (name, host, status) = (self.name.clone(), answer.host.clone(), answer.status);
        let mut bytes = Vec::new();
        // Only for the message.
        let _ = answer
            .body
            .as_reader()
            .take(ERROR_LIMIT)
            .read_to_end(&mut bytes);
        let text = message_of(&bytes);
        let (error, kind) = match status {
            401 | 403 => (Error::Denied { name, host, text }, FailureKind::Final),
            404 => (Error::NotFound { name, host, text }, FailureKind::Final),
            _ => {
                let kind = match status {
                    408 | 425 | 429 | 500 | 502 | 503 | 504 => FailureKind::Passing,
                    _ => FailureKind::Final,
                };
                let what = what.to_owned();
                (
                    Error::Status {
                        host,
                        what,
                        status,
                        text,
                    },
                    kind,
                )
            }
        };
        Failure { error, kind }
    }
}

/// The token of an answer, if it can stand in a header.
pub(crate) fn token_of(bytes: &[u8]) -> Option<String> {
    let token: Token = serde_json::from_slice(bytes).ok()?;
    let token = token.token.or(token.access_token)?;
    let is_plain = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    is_plain.then_some(token)
}

/// A server's words about an error, with a colon before them; empty if there are none.
pub(crate) fn message_of(bytes: &[u8]) -> String {
    let errors: Option<Errors> = serde_json::from_slice(bytes).ok();
    let first = errors.and_then(|all| all.errors.into_iter().next());
    match first.map(|error| quoted(&error.message)) {
        Some(text) if !text.is_empty() => format!(": {text}"),
        _ => String::new(),
    }
}

/// A value in a query.
fn encoded(text: &str) -> String {
    let one = |byte: u8| match byte {
        byte if byte.is_ascii_alphanumeric() || b"-._~:/".contains(&byte) => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}
