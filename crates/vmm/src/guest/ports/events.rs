//! Events of the guest.

use std::time::Instant;

use rdvm_proto::{Event, HostRequest, RING};

use super::{GuestPorts, push};
use crate::guest::BootClock;
use crate::guest::ending::Ending;
use crate::guest::lifecycle;

impl GuestPorts {
    /// Acts on an event.
    pub(super) fn note(&mut self, event: Event) {
        if let (Event::Produced(total), true) = (event, self.lifecycle.is_copying())
            && let Some(rings) = &mut self.rings
        {
            rings.announce(total);
            self.take_files();
        }
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
            Event::Produced(_) => {}
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

    /// Takes as much of what PID 1 has put into the ring as there is room for, while files are received. The rest stays
    /// there, which stops PID 1.
    pub(super) fn take_files(&mut self) {
        if let (true, Some(copy_out), Some(rings)) =
            (self.lifecycle.is_copying(), &self.copy_out, &mut self.rings)
            && rings.mapped
            && rings.has_more()
        {
            let room = copy_out.room(RING as usize) as u64;
            let progress = self.output.progress();
            if let Some(total) = rings.take(room, |bytes| push(copy_out.as_ref(), progress, bytes))
            {
                self.input.request(HostRequest::Consumed(total));
            }
        }
    }
}
