//! A guest that says whatever it likes: nothing panics, nothing grows, and what comes too late counts for nothing.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rdvm_proto::{
    Counter, Event, FRAME_MAX, HOST_REQUEST_MAX, HostRequest, RING, Ring, RootUse, Stage, Totals,
};
use rustix::pipe::pipe;
use vm_memory::MmapRegion;

use super::console::Console;
use super::control::Control;
use super::input_pump::InputPump;
use super::output_stream::OutputStream;
use super::rings::RINGS;
use super::rings::Rings;
use super::*;
use crate::stop_signals::StopSignals;
use rdvm_hostfs::units::ByteSize;

/// A guest that is spoken to in every way there is; its input has no end, and nothing of what it prints is kept.
fn spoken_to(copy_out: Option<Arc<Files>>) -> GuestPorts {
    let null = || {
        File::options()
            .write(true)
            .open("/dev/null")
            .unwrap()
            .into()
    };
    let console = Console::new(OutputStream::new(null()), None, false);
    let zero = File::open("/dev/zero").unwrap();
    let mut guest = GuestPorts::new(OutputStream::new(null()), console, Control::frames())
        .with_input(InputPump::new(Some(zero.into())))
        .with_limits(Limits {
            stop_timeout: Duration::from_secs(1000),
            max_output: Some(ByteSize(1 << 20)),
        });
    if let Some(copy_out) = copy_out {
        guest = guest.with_copy_out(copy_out);
    }
    guest.attach(Rings::new(MmapRegion::new(RINGS as usize).unwrap()));
    guest
}

/// Files that never end, and room for a few of their bytes at a time.
#[derive(Debug, Default)]
struct Files {
    taken: AtomicU64,
}

impl CopySink for Files {
    fn push(&self, bytes: &[u8]) {
        self.taken.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }

    fn room(&self, _wanted: usize) -> usize {
        1 << 10
    }

    fn is_over(&self) -> bool {
        false
    }

    fn progress(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

fn say(guest: &mut GuestPorts, event: Event) {
    let mut frame = [0; FRAME_MAX];
    let length = event.encode(&mut frame);
    guest.receive(Port::Status, &frame[..length]);
}

/// The next orders, which are taken as the guest would take them.
fn requests(guest: &mut GuestPorts) -> Vec<HostRequest> {
    let mut rest = guest.pending(Port::Status).to_vec();
    guest.sent(Port::Status, rest.len());
    let mut requests = Vec::new();
    while let Ok((request, length)) = HostRequest::decode(&rest) {
        requests.push(request);
        rest.drain(..length);
    }
    requests
}

const EXITED: Event = Event::Exited(
    3,
    Totals {
        stdout: 0,
        stderr: 0,
        oom_kills: 0,
        user_us: 0,
        system_us: 0,
        max_rss_kib: 0,
        root: RootUse {
            bytes: 0,
            free_bytes: 0,
            free_inodes: 0,
        },
    },
);

#[test]
fn rings_that_are_mapped_once_the_command_runs_come_too_late() {
    for (early, expected) in [
        (true, HostRequest::Produced(100)),
        (false, HostRequest::StdinEnd(0)),
    ] {
        let mut guest = spoken_to(None);
        if early {
            say(&mut guest, Event::Mapped);
            say(&mut guest, Event::Mapped);
        }
        say(&mut guest, Event::Started(1));
        say(&mut guest, Event::Mapped);
        say(&mut guest, Event::Credit(100));
        assert!(guest.wants_input());
        guest.take_input();
        let by_port = guest.pending(Port::Stdout).len();
        let by_ring = requests(&mut guest).contains(&expected);
        assert_eq!(
            (by_port, by_ring),
            if early { (0, true) } else { (100, false) }
        );
    }
}

#[test]
fn files_that_nobody_asked_for_and_more_than_a_ring_of_them_are_not_taken() {
    let signals = StopSignals::new().unwrap();
    let files = Arc::<Files>::default();
    let mut guest = spoken_to(Some(Arc::clone(&files)));
    let produce = |guest: &mut GuestPorts, bytes: &[u8]| {
        let rings = guest.rings_mut().unwrap();
        rings.lie(Ring::Stdout, Counter::ProducerSleeps, 1);
        rings.produce(Ring::Stdout, bytes);
        say(guest, Event::Bell);
        assert_eq!(guest.steer(&signals), None);
        (files.progress(), requests(guest))
    };
    say(&mut guest, Event::Mapped);
    say(&mut guest, Event::Started(1));
    assert_eq!(produce(&mut guest, b"0123456789"), (0, vec![]));
    say(&mut guest, EXITED);
    assert!(guest.conclude().is_none());
    assert_eq!(requests(&mut guest), [HostRequest::CopyOut]);
    assert_eq!(produce(&mut guest, b""), (10, vec![HostRequest::Bell]));
    for wrong in [0, 9, 10, RING + 11, u64::MAX] {
        let rings = guest.rings_mut().unwrap();
        rings.lie(Ring::Stdout, Counter::Produced, wrong);
        assert_eq!(guest.steer(&signals), None);
        assert_eq!(files.progress(), 10, "{wrong}");
    }
}

/// Its own output, and a reader of it.
fn printing() -> (GuestPorts, std::os::fd::OwnedFd) {
    let (read, write) = pipe().unwrap();
    let null = File::options().write(true).open("/dev/null").unwrap();
    let console = Console::new(OutputStream::new(null.into()), None, false);
    let mut guest = GuestPorts::new(OutputStream::new(write), console, Control::frames());
    guest.attach(Rings::new(MmapRegion::new(RINGS as usize).unwrap()));
    say(&mut guest, Event::Started(1));
    (guest, read)
}

fn read(pipe: impl std::os::fd::AsFd) -> Vec<u8> {
    let mut buffer = vec![0; 1 << 20];
    let count = rustix::io::read(pipe, &mut buffer[..]).unwrap();
    buffer.truncate(count);
    buffer
}

#[test]
fn what_comes_through_a_ring_follows_all_that_came_by_the_port() {
    let signals = StopSignals::new().unwrap();
    let (mut guest, pipe) = printing();
    guest.receive(Port::Stdout, b"ab");
    let rings = guest.rings_mut().unwrap();
    rings.produce(Ring::Stdout, b"def");
    assert_eq!(guest.steer(&signals), None);
    assert!(guest.has_room(Port::Stdout) || !guest.is_flushed());
    say(&mut guest, Event::Switched(Ring::Stdout, 3));
    // The second one is a lie.
    say(&mut guest, Event::Switched(Ring::Stdout, 0));
    guest.flush();
    assert_eq!(guest.steer(&signals), None);
    assert_eq!(read(&pipe), b"ab");
    guest.receive(Port::Stdout, b"c");
    guest.flush();
    assert!(!guest.is_flushed(), "the ring has more");
    assert_eq!(guest.steer(&signals), None);
    assert_eq!(read(&pipe), b"cdef");
    assert!(guest.is_flushed());
    // It is silent: after a while we sleep, and have it ring.
    assert!(guest.time_left().is_some());
    assert_eq!(guest.time_left(), None);
    assert!(guest.rings_mut().unwrap().produce(Ring::Stdout, b"g"));
    assert_eq!(guest.time_left(), Some(Duration::ZERO));
}

#[test]
fn a_reader_that_sleeps_stops_the_ring_and_what_is_left_comes_after_the_verdict() {
    let signals = StopSignals::new().unwrap();
    let (mut guest, pipe) = printing();
    say(&mut guest, Event::Switched(Ring::Stdout, 0));
    let sent: Vec<u8> = (0..2 * RING).map(|n| (n % 251) as u8).collect();
    let (first, second) = sent.split_at(RING as usize);
    let rings = guest.rings_mut().unwrap();
    rings.produce(Ring::Stdout, first);
    assert_eq!(guest.steer(&signals), None);
    // All of it has been taken, and a second time there is no room.
    guest.rings_mut().unwrap().produce(Ring::Stdout, second);
    for _ in 0..3 {
        assert_eq!(guest.steer(&signals), None);
        assert_eq!(guest.rings_mut().unwrap().filled(Ring::Stdout), RING);
    }
    say(&mut guest, EXITED);
    let mut seen = Vec::new();
    while !guest.is_flushed() {
        seen.extend(read(&pipe));
        guest.flush();
        assert_eq!(guest.steer(&signals), None);
    }
    seen.extend(read(&pipe));
    assert!(seen == sent, "{} bytes", seen.len());
    assert!(guest.conclude().is_some());
}

#[test]
fn frames_go_both_ways_as_far_as_there_is_room_and_a_lost_proxy_ends_the_run() {
    let signals = StopSignals::new().unwrap();
    let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let (guest, _pipe) = printing();
    let mut guest = guest.with_network(net_link::NetLink::new(ours.into()));
    let rings = guest.rings_mut().unwrap();
    rings.produce(Ring::NetOut, b"from the guest");
    rings.lie(Ring::NetIn, Counter::ConsumerSleeps, 1);
    std::io::Write::write_all(&mut theirs, b"to the guest").unwrap();
    assert_eq!(guest.steer(&signals), None);
    assert_eq!(requests(&mut guest), [HostRequest::Bell]);
    assert_eq!(read(&theirs), b"from the guest");
    let filled = RING - guest.rings_mut().unwrap().net_room();
    assert_eq!(filled, 12);
    // It takes nothing more: what is beyond a ring stays in the socket.
    theirs.set_nonblocking(true).unwrap();
    let mut sent = 0;
    while let Ok(count) = std::io::Write::write(&mut theirs, &[7; 10_000]) {
        sent += count as u64;
        assert_eq!(guest.steer(&signals), None);
        assert!(sent < 100 * RING, "it has no end");
    }
    assert_eq!(guest.wanted().net, [false, false]);
    // Nor does the process: the guest's frames stay in its ring.
    let full = vec![8; RING as usize];
    for _ in 0..10 {
        let rings = guest.rings_mut().unwrap();
        let room = (RING - rings.filled(Ring::NetOut)) as usize;
        rings.produce(Ring::NetOut, &full[..room]);
        assert_eq!(guest.steer(&signals), None);
    }
    assert!(guest.wanted().net[1]);
    assert_eq!(guest.rings_mut().unwrap().filled(Ring::NetOut), RING);
    drop(theirs);
    let ending = guest.steer(&signals);
    assert!(
        matches!(ending, Some(ending::Ending::Died { .. })),
        "{ending:?}"
    );
}

/// A million events, most of them in no order that makes sense; nobody ever reads what is sent back.
#[test]
fn a_guest_that_lies_all_the_time_makes_nothing_panic_or_grow() {
    let signals = StopSignals::new().unwrap();
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for round in 0..10 {
        let mut guest = spoken_to((round % 2 == 0).then(Arc::default));
        for _ in 0..100_000 {
            let number = next() >> (next() % 64);
            match next() % 16 {
                0 => say(&mut guest, Event::Mapped),
                1 => say(&mut guest, Event::Credit(number)),
                2 => {
                    let counters = [
                        Counter::Produced,
                        Counter::Consumed,
                        Counter::ProducerSleeps,
                    ];
                    let ring = [Ring::Stdin, Ring::Stdout, Ring::Stderr][next() as usize % 3];
                    let rings = guest.rings_mut().unwrap();
                    rings.lie(ring, counters[next() as usize % 3], number);
                }
                3 => say(
                    &mut guest,
                    [Event::Bell, Event::Switched(Ring::Stdout, number >> 32)][next() as usize % 2],
                ),
                4 if round % 5 == 0 => say(&mut guest, Event::Started(number)),
                5 if round % 7 == 0 => say(&mut guest, EXITED),
                6 if next() % 5000 == 0 => say(
                    &mut guest,
                    Event::Failed {
                        stage: Stage::Fork,
                        errno: number as i32,
                        which: number as u32,
                    },
                ),
                7 => guest.receive(Port::Status, &number.to_le_bytes()),
                8 if guest.has_room(Port::Stdout) => {
                    guest.receive(Port::Stdout, &number.to_le_bytes());
                }
                9 if guest.has_room(Port::Console) => {
                    guest.receive(Port::Console, &number.to_le_bytes());
                }
                10 => drop(guest.steer(&signals)),
                11 => drop(guest.conclude()),
                _ if guest.wants_input() => guest.take_input(),
                _ => {}
            }
            let waiting = guest.pending(Port::Status).len() + guest.pending(Port::Stdout).len();
            assert!(
                waiting < (128 << 10) + HOST_REQUEST_MAX,
                "{waiting} bytes wait"
            );
            guest.flush();
        }
    }
}

#[test]
fn what_is_below_the_limit_is_owed_to_a_reader_that_is_slow() {
    let signals = StopSignals::new().unwrap();
    let (read, write) = pipe().unwrap();
    let null = File::options().write(true).open("/dev/null").unwrap();
    let console = Console::new(OutputStream::new(null.into()), None, false);
    let mut guest = GuestPorts::new(OutputStream::new(write), console, Control::frames())
        .with_limits(Limits {
            stop_timeout: Duration::from_nanos(1),
            max_output: Some(ByteSize(100_000)),
        });
    say(&mut guest, Event::Started(1));
    guest.receive(Port::Stdout, &[7; 100_001]);
    guest.flush();
    // The first time the command is told, later its time is over.
    for _ in 0..3 {
        assert_eq!(guest.steer(&signals), None);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(guest.time_left(), None, "it is looked at again and again");
    let mut seen = 0;
    while seen < 100_000 {
        seen += rustix::io::read(&read, &mut [0; 65_536][..]).unwrap();
        guest.flush();
    }
    assert_eq!(guest.steer(&signals), Some(ending::Ending::OutputLimit));
}

#[test]
fn a_span_that_no_clock_can_hold_is_no_deadline_that_comes() {
    let signals = StopSignals::new().unwrap();
    for span in [
        Duration::MAX,
        Duration::from_secs(10_000_000_000_000_000_000),
    ] {
        let mut guest = spoken_to(None).with_timeout(Some(span));
        assert!(guest.time_left() > Some(Duration::from_secs(1 << 30)));
        assert!(!guest.is_over(&signals));
    }
}
