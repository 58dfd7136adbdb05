//! A guest that says whatever it likes: nothing panics, nothing grows, and what comes too late counts for nothing.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rdvm_proto::{FRAME_MAX, HOST_REQUEST_MAX, RING, RootUse, Stage, Totals};
use rustix::pipe::pipe;
use vm_memory::MmapRegion;

use super::rings::RINGS;
use super::*;
use crate::watch::Watch;
use rdvm_hostfs::units::ByteSize;

/// A guest that is spoken to in every way there is; its input has no end, and nothing of what it prints is kept.
fn spoken_to(copy_out: Option<Arc<Files>>) -> Listener {
    let null = || {
        File::options()
            .write(true)
            .open("/dev/null")
            .unwrap()
            .into()
    };
    let console = Console::new(OutputStream::new(null()), None, false);
    let zero = File::open("/dev/zero").unwrap();
    let mut listener = Listener::new(OutputStream::new(null()), console, Control::frames())
        .with_input(Input::new(Some(zero.into()), false), None)
        .with_limits(Limits {
            stop_timeout: Duration::from_secs(1000),
            timeout: None,
            max_output: Some(ByteSize(1 << 20)),
        });
    if let Some(copy_out) = copy_out {
        listener = listener.with_copy_out(copy_out);
    }
    listener.attach(Rings::new(MmapRegion::new(RINGS as usize).unwrap()));
    listener
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

fn say(listener: &mut Listener, event: Event) {
    let mut frame = [0; FRAME_MAX];
    let length = event.encode(&mut frame);
    listener.receive(Port::Status, &frame[..length]);
}

/// The next orders, which are taken as the guest would take them.
fn requests(listener: &mut Listener) -> Vec<HostRequest> {
    let mut rest = listener.pending(Port::Status).to_vec();
    listener.sent(Port::Status, rest.len());
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
        let mut listener = spoken_to(None);
        if early {
            say(&mut listener, Event::Mapped);
            say(&mut listener, Event::Mapped);
        }
        say(&mut listener, Event::Started(1));
        say(&mut listener, Event::Mapped);
        say(&mut listener, Event::Credit(100));
        assert!(listener.input().is_some());
        listener.take_input();
        let by_port = listener.pending(Port::Stdout).len();
        let by_ring = requests(&mut listener).contains(&expected);
        assert_eq!(
            (by_port, by_ring),
            if early { (0, true) } else { (100, false) }
        );
    }
}

#[test]
fn files_that_nobody_asked_for_and_more_than_a_ring_of_them_are_not_taken() {
    let mut listener = spoken_to(Some(Arc::default()));
    say(&mut listener, Event::Mapped);
    say(&mut listener, Event::Started(1));
    say(&mut listener, Event::Produced(10));
    assert_eq!(requests(&mut listener), []);
    say(&mut listener, EXITED);
    assert!(listener.conclude().is_none());
    assert_eq!(requests(&mut listener), [HostRequest::CopyOut]);
    for wrong in [RING + 1, u64::MAX] {
        say(&mut listener, Event::Produced(wrong));
        assert_eq!(requests(&mut listener), [], "{wrong}");
    }
    say(&mut listener, Event::Produced(10));
    assert_eq!(requests(&mut listener), [HostRequest::Consumed(10)]);
    // The same again is no news, and it cannot have become less.
    for stale in [10, 9, 0] {
        say(&mut listener, Event::Produced(stale));
        assert_eq!(requests(&mut listener), [], "{stale}");
    }
}

/// A million events, most of them in no order that makes sense; nobody ever reads what is sent back.
#[test]
fn a_guest_that_lies_all_the_time_makes_nothing_panic_or_grow() {
    let watch = Watch::start(None).unwrap();
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for round in 0..10 {
        let mut listener = spoken_to((round % 2 == 0).then(Arc::default));
        for _ in 0..100_000 {
            let number = next() >> (next() % 64);
            match next() % 16 {
                0 => say(&mut listener, Event::Mapped),
                1 => say(&mut listener, Event::Credit(number)),
                2 | 3 => say(&mut listener, Event::Produced(number)),
                4 if round % 5 == 0 => say(&mut listener, Event::Started(number)),
                5 if round % 7 == 0 => say(&mut listener, EXITED),
                6 if next() % 5000 == 0 => say(
                    &mut listener,
                    Event::Failed {
                        stage: Stage::Fork,
                        errno: number as i32,
                        which: number as u32,
                    },
                ),
                7 => listener.receive(Port::Status, &number.to_le_bytes()),
                8 if listener.has_room(Port::Stdout) => {
                    listener.receive(Port::Stdout, &number.to_le_bytes());
                }
                9 if listener.has_room(Port::Console) => {
                    listener.receive(Port::Console, &number.to_le_bytes());
                }
                10 => drop(listener.steer(&watch)),
                11 => drop(listener.conclude()),
                _ if listener.input().is_some() => listener.take_input(),
                _ => {}
            }
            let waiting =
                listener.pending(Port::Status).len() + listener.pending(Port::Stdout).len();
            assert!(
                waiting < (128 << 10) + HOST_REQUEST_MAX,
                "{waiting} bytes wait"
            );
            listener.outlets().into_iter().for_each(OutputStream::flush);
        }
    }
}

#[test]
fn what_is_below_the_limit_is_owed_to_a_reader_that_is_slow() {
    let watch = Watch::start(None).unwrap();
    let (read, write) = pipe().unwrap();
    let null = File::options().write(true).open("/dev/null").unwrap();
    let console = Console::new(OutputStream::new(null.into()), None, false);
    let mut listener = Listener::new(OutputStream::new(write), console, Control::frames())
        .with_limits(Limits {
            stop_timeout: Duration::from_nanos(1),
            timeout: None,
            max_output: Some(ByteSize(100_000)),
        });
    say(&mut listener, Event::Started(1));
    listener.receive(Port::Stdout, &[7; 100_001]);
    listener.outlets().into_iter().for_each(OutputStream::flush);
    // The first time the command is told, later its time is over.
    for _ in 0..3 {
        assert_eq!(listener.steer(&watch), None);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(
        listener.time_left(&watch),
        None,
        "it is looked at again and again"
    );
    let mut seen = 0;
    while seen < 100_000 {
        seen += rustix::io::read(&read, &mut [0; 65_536][..]).unwrap();
        listener.outlets().into_iter().for_each(OutputStream::flush);
    }
    assert_eq!(listener.steer(&watch), Some(ending::Ending::OutputLimit));
}
