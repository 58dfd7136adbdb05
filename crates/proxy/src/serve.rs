//! A proxy as a whole: a link, a thread for each of the guest's connections, and the record of them.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use rdvm_proto::{NET_STREAMS, NetSide};
use rustix::net::sockopt;

use crate::connection;
use crate::gateway::{Gateway, Session};
use crate::link::LinkError;
use crate::mux::{Mux, Open};
use crate::record::Record;
use crate::record_file::RecordFile;
use crate::rules::Published;

/// The stack of a connection's thread: the C library looks names up on it.
const STACK: usize = 256 << 10;
/// The most bytes that the kernel keeps between a stream and its thread, in each direction.
const BETWEEN: usize = 64 << 10;
/// How old the written record may be.
const RECORDED: Duration = Duration::from_secs(1);

/// Carries the guest's streams until the link ends, with a record that is never older than a second.
///
/// # Errors
///
/// The guest broke a rule of the link, which the record names too, or the link failed.
pub(crate) fn serve(
    link: UnixStream,
    gateway: &Arc<Gateway>,
    published: Vec<Published>,
    record: RecordFile,
) -> Result<(), LinkError> {
    let listeners = published.into_iter();
    let listeners = listeners
        .map(|each| (each.listener, each.guest_port))
        .collect();
    let mut mux =
        Mux::new(NetSide::Host, link, listeners, opener(gateway)).map_err(LinkError::Link)?;
    let (running, has_ended) = channel();
    thread::scope(|scope| {
        scope.spawn(move || keep_record(gateway, record, &has_ended));
        let served = mux.run();
        if let Err(error) = &served {
            gateway.ledger.fault(error.to_string());
        }
        // The streams' connections end before the record does.
        drop(mux);
        drop::<std::sync::mpsc::Sender<()>>(running);
        served
    })
}

/// Writes the record whenever it has changed, until the channel ends.
fn keep_record(gateway: &Gateway, mut file: RecordFile, has_ended: &Receiver<()>) {
    let mut written = Record::default();
    loop {
        let ended = has_ended.recv_timeout(RECORDED) != Err(RecvTimeoutError::Timeout);
        let record = gateway.ledger.record();
        // The memory is sealed to a size that is large enough; the reader has the copy before if it was not.
        if record != written && file.write(&record).is_ok() {
            written = record;
        }
        if ended {
            return;
        }
    }
}

/// Opens a stream of the guest's by a thread at the other end of a pair of sockets.
fn opener(gateway: &Arc<Gateway>) -> Open {
    let gateway = Arc::clone(gateway);
    // Every thread has a clone. One may outlive its stream while a name is looked up.
    let threads = Arc::new(());
    Box::new(move |_| {
        if Arc::strong_count(&threads) > NET_STREAMS {
            return None;
        }
        let (ours, theirs) = UnixStream::pair().ok()?;
        for socket in [&ours, &theirs] {
            sockopt::set_socket_send_buffer_size(socket, BETWEEN).ok()?;
        }
        let session = Arc::new(Session::default());
        let (gateway, counted) = (Arc::clone(&gateway), Arc::clone(&threads));
        let thread = {
            let session = Arc::clone(&session);
            thread::Builder::new().stack_size(STACK).spawn(move || {
                let _counted = counted;
                connection::serve(&theirs, &gateway, &session);
            })
        };
        thread.ok()?;
        Some((ours.into(), Some(session)))
    })
}
