//! One request to a server and its response, both copied while they come.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

use crate::body::{self, BodyError, Framing};
use crate::connection::COPIER;
use crate::gateway::{Gateway, Session};
use crate::head::{Request, Response};
use crate::input::{HeadError, Input};
use crate::origin::Origin;
use crate::refusal::{Failure, Refusal};

/// Interim responses that a server may send.
const INTERIM: usize = 16;
/// How long a body that was read to its end needs to be noted as such.
const NOTED: Duration = Duration::from_millis(100);
/// How long a client may take to notice that its body is no longer read.
const STOPPED: Duration = Duration::from_secs(2);

/// A request that is being carried out.
pub(crate) struct Exchange<'a> {
    pub(crate) gateway: &'a Gateway,
    pub(crate) session: &'a Session,
    pub(crate) client: &'a UnixStream,
    pub(crate) request: &'a Request,
    pub(crate) path: &'a str,
}

/// The state of both connections after a response.
pub(crate) struct Next {
    /// The client may send another request.
    pub(crate) client: bool,
    /// The server accepts another request.
    pub(crate) origin: Option<Origin>,
}

/// Why a server's response was not passed on.
enum Unanswered {
    /// The connection ended before the response began.
    Gone,
    Failed(Failure),
}

impl From<Failure> for Unanswered {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Refusal> for Unanswered {
    fn from(refusal: Refusal) -> Self {
        Self::Failed(refusal.into())
    }
}

impl Exchange<'_> {
    /// Sends the request, over a connection that was kept if it goes to the same server, and passes the response on.
    pub(crate) fn run(
        &self,
        input: &mut Input<&UnixStream>,
        kept: Option<Origin>,
    ) -> Result<Next, Failure> {
        let Request { host, port, .. } = self.request;
        let connect = || Origin::connect(self.gateway, self.session, host, *port);
        let kept = kept.filter(|origin| origin.can_take(host, *port));
        let was_kept = kept.is_some();
        let mut origin = match kept {
            Some(origin) => origin,
            None => connect()?,
        };
        let mut answered = self.attempt(input, &mut origin);
        // A server may end a connection that is not in use at the moment a request is sent.
        let is_harmless = matches!(self.request.method.as_str(), "GET" | "HEAD" | "OPTIONS");
        if was_kept && is_harmless && !self.has_body() && matches!(answered, Err(Unanswered::Gone))
        {
            origin = connect()?;
            answered = self.attempt(input, &mut origin);
        }
        match answered {
            Ok((client, keeps_alive)) => Ok(Next {
                client: client && self.request.keeps_alive,
                origin: keeps_alive.then_some(origin),
            }),
            Err(Unanswered::Failed(failure)) => Err(failure),
            Err(Unanswered::Gone) => Err(self
                .bad("the server closed the connection without an answer")
                .into()),
        }
    }

    fn has_body(&self) -> bool {
        !matches!(self.request.framing, Framing::None | Framing::Length(0))
    }

    fn subject(&self) -> String {
        format!("{}:{}", self.request.host, self.request.port)
    }

    fn bad(&self, reason: &str) -> Refusal {
        Refusal::bad_gateway(&self.subject(), reason)
    }

    /// Sends the request and passes the response on; returns whether client and server keep their connections.
    fn attempt(
        &self,
        input: &mut Input<&UnixStream>,
        origin: &mut Origin,
    ) -> Result<(bool, bool), Unanswered> {
        let upstream = self.gateway.upstream.as_ref();
        let credentials = upstream.map(|proxy| proxy.authorization());
        let head = self.request.head(self.path, credentials.as_deref());
        // If the server is gone, what it has sent before may be a response all the same.
        let _ = origin.wire.write_all(&head);
        if !self.has_body() {
            return self.answer(origin, || false);
        }
        let wire = origin.wire.clone();
        let framing = self.request.framing;
        let (done, is_done) = sync_channel(1);
        thread::scope(|scope| {
            let sender = thread::Builder::new()
                .stack_size(COPIER)
                .spawn_scoped(scope, || {
                    let wire = wire.clone();
                    let in_chunks = framing == Framing::Chunked;
                    let copied = body::copy(input, framing, wire.clone(), in_chunks);
                    if !matches!(copied, Ok(()) | Err(BodyError::Sink)) {
                        wire.shut_down(Shutdown::Both);
                    }
                    let _ = done.send(copied);
                });
            sender.map_err(|_| self.bad("no thread for the request's body"))?;
            let mut sent = wire.sent();
            let answered = self.answer(origin, || {
                std::mem::replace(&mut sent, wire.sent()) != wire.sent()
            });
            let sent = self.finish_body(&is_done, origin);
            match (answered, sent) {
                (answered, Ok(())) => answered,
                // The response came before the body was read: neither connection is at the end of a message.
                (Ok(_), Err(_)) => Ok((false, false)),
                (Err(Unanswered::Failed(Failure::Cut)), _) => Err(Failure::Cut.into()),
                (Err(_), Err(BodyError::Malformed(reason))) => {
                    Err(Refusal::malformed(reason).into())
                }
                (Err(_), Err(BodyError::Source)) => {
                    Err(Refusal::malformed("its body ended too early").into())
                }
                (Err(answered), Err(BodyError::Sink)) => Err(answered),
            }
        })
    }

    /// Waits for the thread that sends the request's body, which has no reader any more if it did not end by itself.
    fn finish_body(
        &self,
        is_done: &Receiver<Result<(), BodyError>>,
        origin: &Origin,
    ) -> Result<(), BodyError> {
        if let Ok(sent) = is_done.recv_timeout(NOTED) {
            return sent;
        }
        origin.wire.shut_down(Shutdown::Both);
        if is_done.recv_timeout(STOPPED).is_err() {
            let _ = self.client.shutdown(Shutdown::Read);
        }
        Err(BodyError::Sink)
    }

    /// Passes the response on. `is_sending` returns true if the request has made progress since it was last called.
    fn answer(
        &self,
        origin: &mut Origin,
        mut is_sending: impl FnMut() -> bool,
    ) -> Result<(bool, bool), Unanswered> {
        let mut client = self.client;
        let mut interim = 0;
        let response = loop {
            let response = self.response(origin, &mut is_sending)?;
            match response.status {
                101 => return Err(self.bad("the server switched to another protocol").into()),
                100..200 => {
                    interim += 1;
                    if interim > INTERIM {
                        return Err(self.bad("the server sends no final response").into());
                    }
                    if self.request.is_1_1 {
                        let head = response.head(false, true);
                        client.write_all(&head).map_err(|_| Failure::Cut)?;
                    }
                }
                407 if self.gateway.upstream.is_some() => {
                    return Err(Refusal::unknown_to_upstream(&self.subject()).into());
                }
                _ => break response,
            }
        };
        let in_chunks = response.framing == Framing::Chunked && self.request.is_1_1;
        let has_end = match response.framing {
            Framing::Chunked => in_chunks,
            framing => framing != Framing::UntilClose,
        };
        let head = response.head(in_chunks, has_end && self.request.keeps_alive);
        client.write_all(&head).map_err(|_| Failure::Cut)?;
        origin
            .input
            .set_patience(Some(self.gateway.patience.answer));
        let copied = body::copy(&mut origin.input, response.framing, client, in_chunks);
        copied.map_err(|_| Failure::Cut)?;
        Ok((has_end, response.keeps_alive))
    }

    /// Reads the head of a response.
    fn response(
        &self,
        origin: &mut Origin,
        is_sending: &mut impl FnMut() -> bool,
    ) -> Result<Response, Unanswered> {
        let patience = self.gateway.patience.answer;
        let head = loop {
            match origin.input.head(patience, patience) {
                Ok(Some(head)) => break head,
                Err(HeadError::Late) if is_sending() => {}
                Err(HeadError::Late) => {
                    let refusal = Refusal::timed_out(&self.subject(), "the server did not answer");
                    return Err(refusal.into());
                }
                Ok(None) | Err(HeadError::Gone) => return Err(Unanswered::Gone),
                Err(HeadError::TooLong) => {
                    return Err(self
                        .bad("the head of the server's response is too long")
                        .into());
                }
                Err(HeadError::Malformed(reason)) => return Err(self.invalid(reason).into()),
            }
        };
        Response::parse(&head, &self.request.method).map_err(|error| match error {
            HeadError::Malformed(reason) => self.invalid(reason).into(),
            _ => self
                .bad("the head of the server's response is too long")
                .into(),
        })
    }

    fn invalid(&self, reason: &str) -> Refusal {
        self.bad(&format!("the server's response is not valid: {reason}"))
    }
}
