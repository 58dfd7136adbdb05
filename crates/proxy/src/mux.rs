//! The loop between the link and the sockets of its streams: frames on one side, connections on the other.
//!
//! It waits for nothing but everything at once, so that no stream holds up another, and keeps a bounded number of bytes: a
//! window for each stream, and what [`Link`] has room for. Both ends of a link can be such a loop.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rdvm_proto::{FrameError, NET_SLOTS, NetEvent, NetFrame, NetKind, NetSide, NetStreams};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with, sockopt};

use crate::gateway::Session;
use crate::link::{Link, LinkError};
use crate::local::{Local, Received};

/// Opens what a stream leads to, by its port; returns this side's socket.
pub(crate) type Open = Box<dyn FnMut(u16) -> Option<(OwnedFd, Option<Arc<Session>>)> + Send>;

/// One end of a link.
pub(crate) struct Mux {
    link: Link,
    streams: NetStreams,
    locals: Vec<Option<Local>>,
    /// Sockets whose connections become streams, and the ports of these.
    listeners: Vec<(TcpListener, u16)>,
    open: Open,
    /// Listeners are left alone until a stream has ended, for want of descriptors.
    is_short: bool,
}

/// A descriptor that was waited for.
#[derive(Debug, Clone, Copy)]
enum Token {
    Link,
    Listener(usize),
    Slot(usize),
}

impl Mux {
    pub(crate) fn new(
        side: NetSide,
        link: UnixStream,
        listeners: Vec<(TcpListener, u16)>,
        open: Open,
    ) -> io::Result<Self> {
        link.set_nonblocking(true)?;
        for (listener, _) in &listeners {
            listener.set_nonblocking(true)?;
        }
        Ok(Self {
            link: Link::new(link),
            streams: NetStreams::new(side),
            locals: (0..NET_SLOTS).map(|_| None).collect(),
            listeners,
            open,
            is_short: false,
        })
    }

    /// Carries streams until the link ends.
    ///
    /// # Errors
    ///
    /// The other end broke a rule, or the link failed.
    pub(crate) fn run(&mut self) -> Result<(), LinkError> {
        loop {
            for (token, flags) in self.wait()? {
                match token {
                    Token::Link => {
                        if flags.contains(PollFlags::OUT) {
                            self.link.send()?;
                        }
                        if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
                            && !self.receive()?
                        {
                            return Ok(());
                        }
                    }
                    Token::Listener(at) => self.accept(at),
                    Token::Slot(slot) => self.serve(slot, flags),
                }
            }
            self.link.send()?;
        }
    }

    /// Waits for whatever can go on, and returns it.
    fn wait(&self) -> Result<Vec<(Token, PollFlags)>, LinkError> {
        let wanted = |wanted, flags| match wanted {
            true => flags,
            false => PollFlags::empty(),
        };
        let mut all = vec![(Token::Link, self.link.fd(), self.link.wanted())];
        if !self.is_short && self.streams.has_room() {
            let listeners = self.listeners.iter().enumerate();
            all.extend(
                listeners.map(|(at, (listener, _))| {
                    (Token::Listener(at), listener.as_fd(), PollFlags::IN)
                }),
            );
        }
        for (slot, local) in self.locals.iter().enumerate() {
            let Some(local) = local else { continue };
            let can_read =
                local.is_readable() && self.streams.room(slot) > 0 && self.link.has_room();
            let flags =
                wanted(can_read, PollFlags::IN) | wanted(local.has_pending(), PollFlags::OUT);
            all.push((Token::Slot(slot), local.fd(), flags));
        }
        // A descriptor from which nothing is wanted would report its end again and again.
        all.retain(|(_, _, flags)| !flags.is_empty());
        let mut fds: Vec<PollFd<'_>> = all
            .iter()
            .map(|&(_, fd, flags)| PollFd::from_borrowed_fd(fd, flags))
            .collect();
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(LinkError::Link(errno.into())),
        }
        let ready = all
            .iter()
            .zip(&fds)
            .map(|(&(token, _, _), fd)| (token, fd.revents()));
        Ok(ready.filter(|(_, flags)| !flags.is_empty()).collect())
    }

    /// Reads from the link and acts on the frames; returns false at its end.
    fn receive(&mut self) -> Result<bool, LinkError> {
        let Some(bytes) = self.link.receive()? else {
            return Ok(false);
        };
        let mut at = 0;
        loop {
            match NetFrame::decode(&bytes[at..]) {
                Ok((frame, length)) => {
                    self.act(&frame)?;
                    at += length;
                }
                Err(FrameError::Incomplete) => break,
                Err(_) => return Err(LinkError::Frame),
            }
        }
        self.link.keep(bytes, at);
        Ok(true)
    }

    fn act(&mut self, frame: &NetFrame<'_>) -> Result<(), LinkError> {
        let event = self.streams.receive(frame).map_err(LinkError::Rule)?;
        match event {
            NetEvent::Opened(slot, port) => match (self.open)(port) {
                Some((socket, session)) => self.locals[slot] = Some(Local::new(socket, session)),
                None => self.reset(slot),
            },
            NetEvent::Full => self.link.put(frame.stream, NetKind::Reset),
            NetEvent::Data(slot) => {
                if let (NetKind::Data(bytes), Some(local)) = (frame.kind, &mut self.locals[slot]) {
                    let passed_on = local.pass_on(bytes);
                    self.passed_on(slot, passed_on);
                }
            }
            NetEvent::Finished(slot) => {
                if let Some(local) = &mut self.locals[slot] {
                    local.finish();
                }
                self.release_if_over(slot);
            }
            NetEvent::Reset(slot) => self.drop_local(slot),
            NetEvent::Credit(_) | NetEvent::Late => {}
        }
        Ok(())
    }

    /// Does what one socket is ready for.
    fn serve(&mut self, slot: usize, flags: PollFlags) {
        let Some(local) = &mut self.locals[slot] else {
            return;
        };
        if local.has_pending() && flags.intersects(PollFlags::OUT | PollFlags::ERR | PollFlags::HUP)
        {
            let passed_on = local.flush();
            self.passed_on(slot, passed_on);
        }
        if flags.intersects(PollFlags::IN | PollFlags::ERR | PollFlags::HUP) {
            self.read(slot);
        }
        self.release_if_over(slot);
    }

    /// Reads one frame from a socket, straight behind its head.
    fn read(&mut self, slot: usize) {
        let room = self.streams.room(slot);
        let (Some(local), Some(stream)) = (&mut self.locals[slot], self.streams.stream(slot))
        else {
            return;
        };
        if room == 0 || !local.is_readable() || !self.link.has_room() {
            return;
        }
        match self
            .link
            .put_data(stream, room, |buffer| local.receive(buffer))
        {
            Received::Bytes(count) => self.streams.sent(slot, count),
            Received::End if self.streams.finish(slot) => self.link.put(stream, NetKind::Finish),
            Received::Reset => self.reset(slot),
            Received::Nothing | Received::End => {}
        }
    }

    /// Gives credit for what a socket took, or resets the stream of one that is closed.
    fn passed_on(&mut self, slot: usize, passed_on: Result<usize, Errno>) {
        let Ok(count) = passed_on else {
            return self.reset(slot);
        };
        self.streams.passed_on(slot, count);
        if let (Some(count), Some(stream)) = (self.streams.grant(slot), self.streams.stream(slot)) {
            self.link.put(stream, NetKind::Credit(count));
        }
    }

    fn accept(&mut self, at: usize) {
        let (listener, port) = &self.listeners[at];
        let port = *port;
        let socket = match accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => socket,
            Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                self.is_short = true;
                return;
            }
            // The connection is gone already, or was another's to accept.
            Err(_) => return,
        };
        // More than one listener may have found the last room.
        if let Some((slot, stream)) = self.streams.open() {
            // It fails for a connection that is gone already.
            let _ = sockopt::set_tcp_nodelay(&socket, true);
            self.locals[slot] = Some(Local::new(socket, None));
            self.link.put(stream, NetKind::Open(port));
        }
    }

    fn reset(&mut self, slot: usize) {
        if let Some(stream) = self.streams.stream(slot) {
            self.link.put(stream, NetKind::Reset);
        }
        self.streams.release(slot);
        self.drop_local(slot);
    }

    fn drop_local(&mut self, slot: usize) {
        self.is_short = false;
        if let Some(local) = self.locals[slot].take() {
            local.abort();
        }
    }

    /// Frees the slot of a stream that both ends have finished, once everything is passed on.
    fn release_if_over(&mut self, slot: usize) {
        let has_pending = self.locals[slot].as_ref().is_some_and(Local::has_pending);
        if self.streams.is_finished(slot) && !has_pending {
            self.streams.release(slot);
            self.is_short = false;
            if let Some(local) = self.locals[slot].take() {
                local.close();
            }
        }
    }
}
