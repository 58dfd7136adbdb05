//! One HTTP exchange: a request, redirects, and the answer that counts. Retries and logins are the callers'.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ureq::http::{HeaderMap, HeaderName, header};
use ureq::{Agent, Body};

use crate::config::registries::Registries;
use crate::config::{certificates, proxies};
use crate::environment::Environment;
use crate::error::Error;
use crate::url::Url;

/// The most redirects from one request; registries have one, to where blobs are kept.
const REDIRECTS: usize = 5;
/// The longest head of an answer in bytes.
const HEAD_LIMIT: usize = 64 << 10;
/// The bytes that are read at a time.
pub(crate) const PIECE: usize = 128 << 10;

/// Times and numbers of failures that are put up with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// The longest silence of a host.
    pub(crate) silence: Duration,
    /// The pause before the second attempt; it doubles with each further one.
    pub(crate) pause: Duration,
    /// The longest pause that a host may ask for.
    pub(crate) longest_pause: Duration,
    /// The attempts without progress before it is given up.
    pub(crate) attempts: u32,
    /// The longest time for an answer that is a document.
    pub(crate) document: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(30),
            pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(60),
            attempts: 5,
            document: Duration::from_secs(300),
        }
    }
}

/// Connections to hosts, each with its certificates and proxy.
pub(crate) struct Client<'a> {
    environment: &'a Environment,
    registries: &'a Registries,
    pub(crate) patience: Patience,
    agents: Mutex<HashMap<String, Agent>>,
}

/// A request without a body, or with a form.
#[derive(Debug, Default)]
pub(crate) struct Request<'a> {
    pub(crate) accept: Option<&'a str>,
    /// Sent to the first host only.
    pub(crate) authorization: Option<&'a str>,
    /// The first byte that is wanted.
    pub(crate) from: u64,
    pub(crate) form: Option<&'a [(&'a str, &'a str)]>,
    /// Certificates need not be trusted.
    pub(crate) insecure: bool,
}

/// An answer, before its body is read.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
    /// The host that it came from, which redirects may have led to.
    pub(crate) host: String,
    /// It came from the host that was asked.
    pub(crate) is_first: bool,
}

/// A request without an answer.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    pub(crate) kind: FailureKind,
}

/// The chances of another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// None.
    Final,
    /// It may go well the next time.
    Passing,
    /// The host does not speak TLS, or broke off before it did.
    NoTls,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            error,
            kind: FailureKind::Final,
        }
    }
}

impl Answer {
    /// Returns a header's value, if it is text.
    pub(crate) fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns the length that was announced.
    pub(crate) fn length(&self) -> Option<u64> {
        self.header(header::CONTENT_LENGTH)?.parse().ok()
    }
}

impl<'a> Client<'a> {
    /// Returns a client without connections.
    pub(crate) fn new(
        environment: &'a Environment,
        registries: &'a Registries,
        patience: Patience,
    ) -> Self {
        Self {
            environment,
            registries,
            patience,
            agents: Mutex::default(),
        }
    }

    /// Sends a request, and returns the answer of the host that redirects lead to.
    pub(crate) fn send(&self, url: &Url, request: &Request<'_>) -> Result<Answer, Failure> {
        let mut at = url.clone();
        for _ in 0..=REDIRECTS {
            let is_first = at.has_origin_of(url);
            let answer = self.send_once(&at, request, is_first)?;
            if !matches!(answer.status, 301 | 302 | 303 | 307 | 308) || request.form.is_some() {
                return Ok(answer);
            }
            let location = answer
                .header(header::LOCATION)
                .unwrap_or_default()
                .to_owned();
            let refused = |why| Error::Redirect {
                host: at.authority().to_owned(),
                to: location.chars().take(100).collect(),
                why,
            };
            let next = at
                .join(&location)
                .map_err(|_| refused("which is not a URL of a host"))?;
            if at.is_https() && !next.is_https() {
                return Err(refused("away from TLS").into());
            }
            if !next.is_https() && !self.may_be_plain(&next) && !next.has_origin_of(&at) {
                return Err(refused("a host that is not known to need no TLS").into());
            }
            at = next;
        }
        Err(Error::Redirect {
            host: url.authority().to_owned(),
            to: at.authority().to_owned(),
            why: "and so on, more often than there can be a reason for",
        }
        .into())
    }

    /// True if a host may be spoken to without TLS.
    pub(crate) fn may_be_plain(&self, url: &Url) -> bool {
        url.is_loopback() || self.registries.is_insecure(url.authority())
    }

    fn send_once(
        &self,
        url: &Url,
        request: &Request<'_>,
        is_first: bool,
    ) -> Result<Answer, Failure> {
        let insecure =
            (is_first && request.insecure) || self.registries.is_insecure(url.authority());
        let agent = self.agent(url, !insecure)?;
        let text = url.to_string();
        let sent = match request.form {
            Some(form) => agent.post(&text).send_form(form.iter().copied()),
            None => {
                let mut get = agent.get(&text);
                if let Some(accept) = request.accept {
                    get = get.header(header::ACCEPT, accept);
                }
                if let Some(authorization) = request.authorization.filter(|_| is_first) {
                    get = get.header(header::AUTHORIZATION, authorization);
                }
                if request.from > 0 {
                    get = get.header(header::RANGE, format!("bytes={}-", request.from));
                }
                get.call()
            }
        };
        let (parts, body) = sent.map_err(|error| failure(url, &error))?.into_parts();
        Ok(Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
            host: url.authority().to_owned(),
            is_first,
        })
    }

    fn agent(&self, url: &Url, is_verified: bool) -> Result<Agent, Error> {
        let key = format!("{}://{} {is_verified}", url.is_https(), url.authority());
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(&key) {
            return Ok(agent.clone());
        }
        let silence = Some(self.patience.silence);
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(proxies::of(self.environment, url)?)
            .timeout_resolve(silence)
            .timeout_connect(silence)
            .timeout_per_read(silence)
            .timeout_per_write(silence)
            .max_response_header_size(HEAD_LIMIT)
            .input_buffer_size(PIECE)
            .user_agent(concat!("rdvm/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity");
        if url.is_https() {
            config = config.tls_config(certificates::tls(
                self.environment,
                url.authority(),
                is_verified,
            )?);
        }
        let agent: Agent = config.build().into();
        agents.insert(key, agent.clone());
        Ok(agent)
    }
}

/// Sorts an error of the connection.
pub(crate) fn failure(url: &Url, error: &ureq::Error) -> Failure {
    let host = url.authority().to_owned();
    let why = why(error);
    match of_tls(error) {
        Some(rustls::Error::InvalidCertificate(_)) => {
            return Error::Certificate { host, why }.into();
        }
        // Of a host that wants another certificate of this client, for example.
        Some(rustls::Error::AlertReceived(_)) => return Error::Connection { host, why }.into(),
        Some(_) => return no_tls(host, why),
        None => {}
    }
    match error {
        ureq::Error::Io(source) if url.is_https() && is_broken_off(source) => no_tls(host, why),
        ureq::Error::LargeResponseHeader(..) | ureq::Error::Protocol(_) | ureq::Error::Http(_) => {
            Error::Answer {
                host,
                what: "its answer".to_owned(),
                why,
            }
            .into()
        }
        _ => Failure {
            error: Error::Connection { host, why },
            kind: FailureKind::Passing,
        },
    }
}

fn no_tls(host: String, why: String) -> Failure {
    Failure {
        error: Error::NoTls { host, why },
        kind: FailureKind::NoTls,
    }
}

fn is_broken_off(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
    )
}

/// The error of TLS in an error of the connection.
fn of_tls(error: &ureq::Error) -> Option<&rustls::Error> {
    match error {
        ureq::Error::Rustls(error) => Some(error),
        ureq::Error::Io(error) => {
            let inner = error.get_ref()?;
            inner
                .downcast_ref()
                .or_else(|| inner.source()?.downcast_ref())
        }
        _ => None,
    }
}

/// The words for an error, without the numbers of the system's.
pub(crate) fn why(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => rdvm_hostfs::escape::reason(error),
        ureq::Error::Timeout(_) => "says nothing for too long".to_owned(),
        ureq::Error::HostNotFound => "there is no host of that name".to_owned(),
        other => crate::error::quoted(&other.to_string()),
    }
}
