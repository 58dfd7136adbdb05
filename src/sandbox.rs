//! A run on a thread of its own, for programs that do more than wait for it.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crate::error::{Error, Result};
use crate::pipeline::{self, Finished, Ready, StopSignals, Streams};
use crate::request::Request;

/// A machine that is prepared, boots on a thread of its own, and can be stopped.
#[derive(Debug)]
pub struct Sandbox {
    signals: Arc<StopSignals>,
    state: State,
}

#[derive(Debug)]
enum State {
    Created(Box<(Request, Ready)>),
    Started(JoinHandle<Result<Finished>>),
    Gone,
}

impl Sandbox {
    /// Prepares the machine: reads the image, plans the RAM, finds a kernel and an engine.
    ///
    /// # Errors
    /// The machine cannot be built, or its command cannot start.
    pub fn create(request: Request) -> Result<Self> {
        let ready = pipeline::prepare(&request)?;
        let signals = StopSignals::new().map_err(host("a sandbox's signals"))?;
        Ok(Self {
            signals: Arc::new(signals),
            state: State::Created(Box::new((request, ready))),
        })
    }

    /// Boots the machine on a thread of its own.
    ///
    /// # Errors
    /// It was started before; no thread, no terminal.
    pub fn start(&mut self, streams: Streams) -> Result<()> {
        let created = match std::mem::replace(&mut self.state, State::Gone) {
            State::Created(created) => created,
            state => {
                self.state = state;
                let source = io::Error::other("was started before; create another");
                return Err(host("the sandbox")(source));
            }
        };
        let terminal = pipeline::terminal(&created.0)?;
        let signals = Arc::clone(&self.signals);
        let boot = move || {
            let (request, ready) = *created;
            pipeline::boot(&request, ready, streams, terminal, || Ok(&*signals))
        };
        let thread = thread::Builder::new()
            .name("sandbox".to_owned())
            .spawn(boot);
        self.state = State::Started(thread.map_err(host("starting a thread"))?);
        Ok(())
    }

    /// Stops the machine as this signal to `rdvm run` does; the report names it.
    pub fn signal(&self, signal: i32) {
        self.signals.stop(signal);
    }

    /// Has the command started, where the request holds it.
    pub fn release(&self) {
        self.signals.release();
    }

    /// Delivers a signal to the command, whose own affair it is; before the command runs it may end the machine
    /// ([`StopSignals::deliver`]).
    pub fn deliver(&self, signal: i32) {
        self.signals.deliver(signal);
    }

    /// Waits for the machine to end.
    ///
    /// # Errors
    /// The machine could not run, or was not started.
    pub fn wait(self) -> Result<Finished> {
        match self.state {
            State::Started(thread) => thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            State::Created(_) | State::Gone => Err(host("the sandbox")(io::Error::other(
                "was not started; start it",
            ))),
        }
    }
}

fn host(what: &str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Host {
        what: what.to_owned(),
        source,
    }
}
