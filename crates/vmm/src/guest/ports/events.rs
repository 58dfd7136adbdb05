//! Events of the guest.

use std::time::{Duration, Instant};

use rdvm_proto::{Event, HostRequest, RING, Ring};

use super::{GuestPorts, push};
use crate::guest::BootClock;
use crate::guest::ending::Ending;
use crate::guest::{Port, lifecycle};

/// Time in which output gathers in the rings before it is looked at again.
const GATHER: Duration = Duration::from_millis(1);

impl GuestPorts {
    /// Acts on an event.
    pub(super) fn note(&mut self, event: Event) {
        self.has_rung |= matches!(event, Event::Bell | Event::Switched(..));
        // The first verdict stands: nothing that a guest sends after that is believed.
        if self.has_verdict() {
            return;
        }
        let now = Instant::now();
        match event {
            Event::Ready {
                init,
                unpack_begin,
                unpack_end,
            } => {
                self.timestamps.ready = Some(now);
                self.timestamps.boot = Some(BootClock {
                    init,
                    unpack_begin,
                    unpack_end,
                    started: 0,
                });
            }
            // Later they are no news, and earlier nothing can have been sent by the port instead.
            Event::Mapped => {
                if let Some(rings) = &mut self.rings {
                    rings.mapped |= self.timestamps.started.is_none();
                }
            }
            Event::Switched(ring, after) => {
                if let Some(rings) = &mut self.rings {
                    rings.switch(ring, after);
                }
            }
            // The rings are looked at anyway, whenever anything comes.
            Event::Bell => {}
            Event::Held => {
                // No ending comes of it.
                self.advance(lifecycle::Event::Held);
            }
            Event::Credit(total) => self.input.granted(total),
            Event::AttributesLost(lost) => self.attributes_lost = Some(lost),
            // Once: a second one is not PID 1's.
            Event::Started(_) if self.timestamps.started.is_some() => {}
            Event::Started(clock) => self.command_runs(clock, now),
            Event::Exited(..) | Event::Killed(..) | Event::Failed { .. } => {
                self.output.remove_bar();
                self.timestamps.ended = Some(now);
                if let Some(ending) = Ending::of(event) {
                    self.lifecycle.on(lifecycle::Event::Ended(ending), now);
                }
            }
        }
    }

    fn command_runs(&mut self, clock: u64, now: Instant) {
        self.output.remove_bar();
        self.timestamps.started = Some(now);
        if let Some(boot) = &mut self.timestamps.boot {
            boot.started = clock;
        }
        self.output.console.command_runs();
        self.input.command_runs();
        self.lifecycle.on(lifecycle::Event::Started, now);
    }

    /// Takes as much of what PID 1 has put into the rings as there is room for. The rest stays there, which stops PID 1.
    pub(super) fn take_rings(&mut self) {
        self.has_rung = false;
        let ready = self.ready_rings();
        let Some(rings) = &mut self.rings else { return };
        if let Some(net) = &mut self.net
            && net.pump(rings)
        {
            self.input.request(HostRequest::Bell);
        }
        for ring in ready.into_iter().flatten() {
            let wakes = match (ring, &self.copy_out) {
                (Ring::Stdout, Some(copy_out)) if self.lifecycle.is_copying() => {
                    let room = copy_out.room(RING as usize) as u64;
                    let progress = self.output.progress();
                    rings.take(ring, room, |bytes| push(copy_out.as_ref(), progress, bytes))
                }
                (Ring::Stderr, _) => rings.take(ring, RING, |bytes| self.output.print_error(bytes)),
                _ => rings.take(ring, RING, |bytes| self.output.print(bytes)),
            };
            if wakes {
                self.input.request(HostRequest::Bell);
            }
            self.output.flush();
            self.gathers = true;
        }
    }

    /// Returns the rings with bytes for which there is room.
    fn ready_rings(&self) -> [Option<Ring>; 2] {
        self.open_rings().map(|ring| {
            ring.filter(|ring| {
                self.rings
                    .as_ref()
                    .is_some_and(|rings| rings.filled(*ring) > 0)
            })
        })
    }

    /// Returns the rings whose bytes are next in their streams, and for which there is room.
    fn open_rings(&self) -> [Option<Ring>; 2] {
        let is_copying = self.copying().is_some();
        let Some(rings) = &self.rings else {
            return [None; 2];
        };
        let is_open = |ring: Ring, port: Port| {
            rings.is_next(ring, self.by_port[port as usize]) && self.has_room(port)
        };
        let stdout = match is_copying {
            true => rings.mapped && self.has_room(Port::Stdout),
            false => is_open(Ring::Stdout, Port::Stdout),
        };
        [
            Some(Ring::Stdout).filter(|_| stdout),
            Some(Ring::Stderr).filter(|ring| is_open(*ring, Port::Console)),
        ]
    }

    /// True if bytes are in the rings that belong to the output.
    pub(super) fn has_ringed_output(&self) -> bool {
        let Some(rings) = &self.rings else {
            return false;
        };
        [(Ring::Stdout, Port::Stdout), (Ring::Stderr, Port::Console)]
            .into_iter()
            .filter(|(_, port)| !(self.lifecycle.is_copying() && *port == Port::Stdout))
            .any(|(ring, port)| {
                rings.is_next(ring, self.by_port[port as usize]) && rings.filled(ring) > 0
            })
    }

    /// Returns how long the rings need not be looked at: who prints much at a time or often is looked at after a while and need
    /// not ring; for who is silent we sleep, and have it ring.
    pub(super) fn rings_rest(&mut self) -> Option<Duration> {
        if std::mem::take(&mut self.gathers) {
            return Some(GATHER);
        }
        let rings = self.rings.as_ref()?;
        // Of what its process does not take, there is no need to hear more.
        let net = self.net.as_ref().filter(|net| !net.waits());
        let net = net.map(|_| Ring::NetOut);
        rings.sleep(self.open_rings().into_iter().flatten().chain(net));
        let is_ready = self.ready_rings().into_iter().flatten().next().is_some();
        let has_frames = net.is_some_and(|ring| rings.filled(ring) > 0);
        (is_ready || has_frames).then_some(Duration::ZERO)
    }

    /// Returns whether the network's socket is to be read, and to be written.
    pub(super) fn net_wanted(&self) -> [bool; 2] {
        let (Some(net), Some(rings)) = (&self.net, &self.rings) else {
            return [false; 2];
        };
        [rings.net_room() > 0, net.waits()]
    }
}
