//! One connection of a client: requests, one behind the other, each carried out or refused.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;

use crate::body::{self, Framing};
use crate::exchange::{Exchange, Next};
use crate::gateway::{Gateway, Session};
use crate::head::{Request, Target};
use crate::input::{Input, linger};
use crate::origin::Origin;
use crate::refusal::{Failure, Refusal};

/// The stack of a thread that copies.
pub(crate) const COPIER: usize = 128 << 10;

/// Carries out the requests of a connection until it ends.
pub(crate) fn serve(client: &UnixStream, gateway: &Gateway, session: &Session) {
    let mut input = Input::new(client);
    let mut kept = None;
    loop {
        let mut method = String::new();
        let served = serve_one(&mut input, client, gateway, session, &mut kept, &mut method);
        match served {
            Ok(true) => {}
            Ok(false) => break,
            Err(Failure::Refused(refusal)) => {
                // A client that is gone needs no answer.
                let mut client = client;
                let _ = client.write_all(&refusal.response(&method));
                break;
            }
            Err(Failure::Cut) => {
                session.cut();
                let _ = client.shutdown(Shutdown::Both);
                return;
            }
        }
    }
    session.end();
    linger(&mut input, gateway.patience.linger);
}

/// Carries out one request; returns true if another may follow.
fn serve_one(
    input: &mut Input<&UnixStream>,
    client: &UnixStream,
    gateway: &Gateway,
    session: &Session,
    kept: &mut Option<Origin>,
    method: &mut String,
) -> Result<bool, Failure> {
    let patience = gateway.patience;
    let head = match input.head(patience.idle, patience.head) {
        Ok(Some(head)) => head,
        // Nothing was asked for.
        Ok(None) => return Ok(false),
        Err(_) if input.buffered().is_empty() => return Ok(false),
        Err(error) => return Err(Refusal::of_request(error).into()),
    };
    input.set_patience(None);
    let request = Request::parse(&head).map_err(Refusal::of_request)?;
    method.clone_from(&request.method);
    gateway.permit(&request.host, request.port)?;
    let Target::Path(path) = &request.target else {
        let origin = Origin::tunnel(gateway, session, &request.host, request.port)?;
        return tunnel(input, client, origin, session);
    };
    let exchange = Exchange {
        gateway,
        session,
        client,
        request: &request,
        path,
    };
    let Next { client, origin } = exchange.run(input, kept.take())?;
    *kept = origin;
    Ok(client)
}

/// Copies in both directions until both have ended. The end of one is passed on while the other goes on.
fn tunnel(
    input: &mut Input<&UnixStream>,
    mut client: &UnixStream,
    mut origin: Origin,
    session: &Session,
) -> Result<bool, Failure> {
    let begun = client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n");
    begun.map_err(|_| Failure::Cut)?;
    origin.input.set_patience(None);
    let wire = origin.wire.clone();
    thread::scope(|scope| {
        let there = thread::Builder::new()
            .stack_size(COPIER)
            .spawn_scoped(scope, || {
                let copied = body::copy(input, Framing::UntilClose, wire.clone(), false).is_ok();
                wire.shut_down(end_of(copied, session));
                copied
            });
        let there = there.map_err(|_| Failure::Cut)?;
        let back = body::copy(&mut origin.input, Framing::UntilClose, client, false).is_ok();
        let ended = client.shutdown(end_of(back, session));
        if !back {
            origin.wire.shut_down(Shutdown::Both);
        }
        let there = there.join().unwrap_or(false);
        match back && there && ended.is_ok() {
            true => Ok(false),
            false => Err(Failure::Cut),
        }
    })
}

/// Returns the way to end the other side of a direction. One that has failed is noted first: what ends then is not complete.
fn end_of(is_complete: bool, session: &Session) -> Shutdown {
    if is_complete {
        return Shutdown::Write;
    }
    session.cut();
    Shutdown::Both
}
