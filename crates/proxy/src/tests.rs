//! A proxy with a guest's end, servers and clients, all on the loopback.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rdvm_proto::NetSide;

use crate::gateway::{Gateway, Settings};
use crate::link::LinkError;
use crate::mux::Mux;
use crate::record::Record;
use crate::record_file::RecordFile;
use crate::rules::Published;
use crate::serve::serve;

mod clients;
mod hostile;
mod http;
mod links;
mod process;
mod tunnels;
mod upstream;

/// Time that passes only if something hangs.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A proxy and the end of a guest, whose port leads to it.
pub(crate) struct Net {
    /// The proxy, as programs in the guest see it.
    pub(crate) proxy: SocketAddr,
    pub(crate) gateway: Arc<Gateway>,
    link: UnixStream,
    host: Option<JoinHandle<Result<(), LinkError>>>,
    guest: Option<JoinHandle<Result<(), LinkError>>>,
}

/// Rules that allow a server of the loopback by name and address.
pub(crate) fn allow(server: SocketAddr) -> Vec<String> {
    let port = server.port();
    vec![
        format!("*.test:{port}"),
        format!("127.0.0.1:{port}"),
        format!("[::1]:{port}"),
    ]
}

/// A gateway with these rules. Names below `test` are on the loopback; time runs out early.
pub(crate) fn gateway(rules: &[String]) -> Gateway {
    let settings = Settings {
        allow: rules.iter().map(|rule| rule.parse().unwrap()).collect(),
        upstream: None,
        remedy: "--rule {} allows it".into(),
    };
    let mut gateway = Gateway::new(settings);
    gateway.resolve = Box::new(|name| match name.ends_with(".test") {
        true => Ok(vec![Ipv4Addr::LOCALHOST.into()]),
        false => Err(io::Error::other("lookup: no such name")),
    });
    gateway
}

impl Net {
    pub(crate) fn new(gateway: Gateway) -> Self {
        Self::publishing(gateway, Vec::new())
    }

    pub(crate) fn publishing(gateway: Gateway, published: Vec<Published>) -> Self {
        let (gateway, (link, theirs)) = (Arc::new(gateway), UnixStream::pair().unwrap());
        let host = {
            let gateway = Arc::clone(&gateway);
            let record = RecordFile::new().unwrap();
            thread::spawn(move || serve(theirs, &gateway, published, record))
        };
        let (proxy, guest) = guest(&link);
        Self {
            proxy,
            gateway,
            link,
            host: Some(host),
            guest: Some(guest),
        }
    }

    /// Connects to the proxy.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.proxy).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    }

    /// Sends a request and ends the sending direction; returns everything that comes back.
    pub(crate) fn ask(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        rest(&mut stream)
    }

    pub(crate) fn record(&self) -> Record {
        self.gateway.ledger.record()
    }
}

/// The guest's end of a link, and where its programs find the proxy.
pub(crate) fn guest(link: &UnixStream) -> (SocketAddr, JoinHandle<Result<(), LinkError>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let open = Box::new(|port| {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
        Some((stream.into(), None))
    });
    let link = link.try_clone().unwrap();
    let mut mux = Mux::new(NetSide::Guest, link, vec![(listener, 0)], open).unwrap();
    (address, thread::spawn(move || mux.run()))
}

impl Drop for Net {
    fn drop(&mut self) {
        self.link.shutdown(Shutdown::Both).unwrap();
        for end in [self.host.take(), self.guest.take()] {
            let ended = end.unwrap().join().unwrap();
            if !thread::panicking() {
                ended.unwrap();
            }
        }
    }
}

/// Reads to the end or to a reset.
pub(crate) fn rest(stream: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads a head with its empty line, byte by byte so that nothing behind it is lost.
pub(crate) fn head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// A server that has every connection handled on a thread of its own.
pub(crate) fn server(handle: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    server_on(IpAddr::V4(Ipv4Addr::LOCALHOST), handle)
}

pub(crate) fn server_on(
    address: IpAddr,
    handle: impl Fn(TcpStream) + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let handle = Arc::new(handle);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let handle = Arc::clone(&handle);
            thread::spawn(move || handle(stream));
        }
    });
    address
}

/// A server that reads a head and answers with these bytes, then closes.
pub(crate) fn answering(response: &'static str) -> SocketAddr {
    server(move |mut stream| {
        if !head(&mut stream).is_empty() {
            let _ = stream.write_all(response.as_bytes());
        }
    })
}

/// Waits until this is true.
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}
