//! Connections to servers, directly or through another proxy: resolved once, checked, counted.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rdvm_hostfs::escape::reason;

use crate::gateway::{Gateway, Session};
use crate::head::Response;
use crate::host::Host;
use crate::input::{HeadError, Input, Timed, is_timeout};
use crate::policy::Denied;
use crate::record::Traffic;
use crate::refusal::Refusal;

/// Addresses of a name that are tried.
const ADDRESSES: usize = 16;
/// How long an address is tried before the next one.
const NEXT_ADDRESS: Duration = Duration::from_secs(5);

/// A connection to a server, whose bytes are counted. Its clones are the same connection.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    stream: Arc<TcpStream>,
    traffic: Arc<Traffic>,
}

impl Wire {
    pub(crate) fn shut_down(&self, how: Shutdown) {
        // It fails if the connection is gone already.
        let _ = self.stream.shutdown(how);
    }

    /// Returns how many bytes were sent to the server, by all connections.
    pub(crate) fn sent(&self) -> u64 {
        self.traffic.sent.load(Relaxed)
    }

    /// Returns true if the server has neither ended the connection nor sent anything that was not asked for.
    pub(crate) fn is_quiet(&self) -> bool {
        let peeked = self
            .stream
            .set_nonblocking(true)
            .and_then(|()| self.stream.peek(&mut [0]));
        let quiet = peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        self.stream.set_nonblocking(false).is_ok() && quiet
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = (&*self.stream).read(buffer)?;
        self.traffic.received.fetch_add(count as u64, Relaxed);
        Ok(count)
    }
}

impl Write for Wire {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = (&*self.stream).write(buffer)?;
        self.traffic.sent.fetch_add(count as u64, Relaxed);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Timed for Wire {
    fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(patience)
    }
}

/// A connection with its buffer.
#[derive(Debug)]
pub(crate) struct Origin {
    host: Host,
    port: u16,
    pub(crate) wire: Wire,
    pub(crate) input: Input<Wire>,
}

impl Origin {
    /// Connects to host and port, which the rules have allowed by name.
    pub(crate) fn connect(
        gateway: &Gateway,
        session: &Session,
        host: &Host,
        port: u16,
    ) -> Result<Self, Refusal> {
        let stream = match &gateway.upstream {
            None => {
                let permit = |address| gateway.permit_address(host, port, address);
                dial(gateway, &format!("{host}:{port}"), host, port, permit)?
            }
            // Messages about it show that it is not the server.
            Some(proxy) => {
                let subject = format!("upstream proxy {proxy}");
                dial(gateway, &subject, &proxy.host, proxy.port, |_| Ok(()))?
            }
        };
        // Fails for a connection that is gone already, which the next write shows.
        let _ = stream.set_nodelay(true);
        let wire = Wire {
            stream: Arc::new(stream),
            traffic: gateway.ledger.reached(host.to_string(), port),
        };
        session.attach(Arc::clone(&wire.stream));
        Ok(Self {
            host: host.clone(),
            port,
            input: Input::new(wire.clone()),
            wire,
        })
    }

    /// Connects to host and port for a tunnel: another proxy is asked for one.
    pub(crate) fn tunnel(
        gateway: &Gateway,
        session: &Session,
        host: &Host,
        port: u16,
    ) -> Result<Self, Refusal> {
        let mut origin = Self::connect(gateway, session, host, port)?;
        let Some(proxy) = &gateway.upstream else {
            return Ok(origin);
        };
        let head = format!(
            "CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{}\r\n",
            proxy.authorization()
        );
        let subject = proxy.to_string();
        let gone = || Refusal::bad_gateway(&subject, "the upstream proxy closed the connection");
        origin.wire.write_all(head.as_bytes()).map_err(|_| gone())?;
        let patience = gateway.patience.answer;
        let head = origin
            .input
            .head(patience, patience)
            .map_err(|error| match error {
                HeadError::Late => {
                    Refusal::timed_out(&subject, "the upstream proxy did not answer")
                }
                HeadError::Gone => gone(),
                _ => Refusal::bad_gateway(&subject, "the upstream proxy's answer is not valid"),
            })?;
        let response = Response::parse(&head.ok_or_else(gone)?, "CONNECT").map_err(|_| {
            Refusal::bad_gateway(&subject, "the upstream proxy's answer is not valid")
        })?;
        match response.status {
            200..300 => Ok(origin),
            407 => Err(Refusal::unknown_to_upstream(&format!("{host}:{port}"))),
            _ => {
                let reason = format!("the upstream proxy answered {}", response.status_line());
                Err(Refusal::bad_gateway(&format!("{host}:{port}"), &reason))
            }
        }
    }

    /// Returns true if another request to host and port can be sent.
    pub(crate) fn can_take(&self, host: &Host, port: u16) -> bool {
        (&self.host, self.port) == (host, port)
            && self.input.buffered().is_empty()
            && self.wire.is_quiet()
    }
}

/// Connects to one of the addresses that are permitted, each in its turn. They are looked up once: what was checked is what the
/// connection goes to.
fn dial(
    gateway: &Gateway,
    subject: &str,
    host: &Host,
    port: u16,
    permit: impl Fn(IpAddr) -> Result<(), Denied>,
) -> Result<TcpStream, Refusal> {
    let addresses = match host {
        Host::Address(address) => vec![*address],
        Host::Name(name) => (gateway.resolve)(name).map_err(|error| {
            let reason = reason(&error);
            // The C library's words come behind some of std's.
            let words = reason.rsplit(": ").next().unwrap_or(&reason);
            Refusal::bad_gateway(subject, &format!("the name was not resolved: {words}"))
        })?,
    };
    let (mut permitted, mut denied) = (Vec::new(), None);
    for address in addresses.into_iter().take(ADDRESSES) {
        match permit(address) {
            Ok(()) => permitted.push(address.to_canonical()),
            Err(reason) => denied = denied.or(Some(reason)),
        }
    }
    if let (true, Some(denied)) = (permitted.is_empty(), denied) {
        return Err(gateway.refuse(host, port, &denied));
    }
    let deadline = Instant::now() + gateway.patience.connect;
    let mut failed = None;
    for (at, address) in permitted.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = match at + 1 == permitted.len() {
            true => left,
            false => left.min(NEXT_ADDRESS),
        };
        // connect_timeout panics for no time at all.
        let left = left.max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&SocketAddr::new(*address, port), left) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = Some(error),
        }
    }
    Err(match failed {
        None => Refusal::bad_gateway(subject, "the name has no addresses"),
        Some(error) if is_timeout(&error) => {
            Refusal::timed_out(subject, "the server did not accept a connection")
        }
        Some(error) => Refusal::bad_gateway(subject, &format!("no connection: {}", reason(&error))),
    })
}
