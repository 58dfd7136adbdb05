//! PID 1's life, in order: record, mounts, ports, command, end, reset.

use crate::protocol::{
    Event, FRAME_MAX, RECORD_SUFFIX, Stage, Start, Strings, Totals, WANT_TIMELINE,
};
use crate::spawn::{self, Failure, at};
use crate::{mounts, relay, sys, timeline};

/// Runs the machine's one command and resets the machine. `name` is rdinit's own path (its `argv[0]`) with its NUL.
pub fn run(name: &[u8]) -> ! {
    let born = sys::boot_clock();
    // Before anything else, so that no child's end can be missed.
    let _ = sys::block_signals();
    mounts::make();
    let _ = sys::loopback_up();
    let (mut status, mut linger_ms) = (-1, 0);
    if let Err(failure) = live(name, born, &mut status, &mut linger_ms) {
        send(
            status,
            &Event::Failed {
                stage: failure.stage,
                errno: failure.errno.0,
            },
        );
    }
    relay::drain(status);
    // The host stops the machine when it has read the last event. The reset is for one that does not; it comes late,
    // since the kernel announces it on the console, which to the host is the command's standard error.
    sys::pause_ms(linger_ms.into());
    sys::restart();
    // In a PID namespace, or under a kernel that refuses: there is nothing left to do.
    sys::exit(0)
}

fn live(name: &[u8], born: u64, status: &mut i32, linger_ms: &mut u32) -> Result<(), Failure> {
    let (start, strings) = read_record(name)
        .map_err(at(Stage::Record))
        .inspect_err(|_| {
            // Without a record nobody said where the status port is: take the usual place.
            *status = open_port(b"/dev/ttyS2\0").unwrap_or(-1);
        })?;
    *linger_ms = start.linger_ms;
    let ports = at(Stage::Ports);
    *status = open_port(strings.status).map_err(&ports)?;
    let (unpack_begin, unpack_end) = match start.flags & WANT_TIMELINE {
        0 => (0, 0),
        _ => timeline::unpacking(),
    };
    send(
        *status,
        &Event::Ready {
            init: born,
            unpack_begin,
            unpack_end,
        },
    );
    let console = open_port(strings.console).map_err(&ports)?;
    let stdout = open_port(strings.stdout).map_err(&ports)?;
    if start.root_limit > 0 {
        mounts::grow_root(start.root_limit);
    }
    if let [name @ .., 0] = strings.hostname
        && !name.is_empty()
    {
        let _ = sys::sethostname(name);
    }
    let children = sys::child_signal_fd().map_err(at(Stage::Pipes))?;
    let child = spawn::spawn(&start, &strings)?;
    send(*status, &Event::Started(sys::boot_clock()));
    // Sent before the command's first byte, so that the host never takes its stderr for the kernel's words.
    relay::drain(*status);
    let end = relay::until_the_end(&child, children, stdout, console);
    send(*status, &ending(&end));
    Ok(())
}

/// Maps the start record and removes it and rdinit itself, so that the command sees the image and nothing else.
fn read_record(name: &[u8]) -> sys::Result<(Start<'static>, Strings<'static>)> {
    let name = name.strip_suffix(b"\0").unwrap_or(name);
    let mut record_name = [0u8; 256];
    let length = name.len() + RECORD_SUFFIX.len();
    let slot = record_name.get_mut(..length).ok_or(sys::EINVAL)?;
    slot[..name.len()].copy_from_slice(name);
    slot[name.len()..].copy_from_slice(RECORD_SUFFIX.as_bytes());
    let record_name = &record_name[..=length];
    let fd = sys::open(record_name, sys::O_RDONLY | sys::O_CLOEXEC)?;
    let record = sys::map_file(fd)?;
    sys::close(fd);
    let _ = sys::unlink(record_name);
    let mut own_name = [0u8; 256];
    own_name[..name.len()].copy_from_slice(name);
    let _ = sys::unlink(&own_name[..=name.len()]);
    Start::decode(record).ok_or(sys::EINVAL)
}

/// Opens a serial port for raw bytes. Anything else that can be opened (a pipe, in tests) is taken as it is.
fn open_port(name: &[u8]) -> sys::Result<i32> {
    let fd = sys::open(name, sys::O_RDWR | sys::O_NOCTTY | sys::O_CLOEXEC)?;
    let _ = sys::set_raw(fd);
    Ok(fd)
}

fn send(port: i32, event: &Event) {
    let mut frame = [0u8; FRAME_MAX];
    let length = event.encode(&mut frame);
    let mut rest = &frame[..length];
    while !rest.is_empty() {
        match sys::write(port, rest) {
            Ok(count) => rest = &rest[count..],
            Err(sys::EINTR) => {}
            Err(_) => return,
        }
    }
}

fn ending(end: &relay::End) -> Event {
    let totals = Totals {
        stdout: end.stdout,
        stderr: end.stderr,
        oom_kills: oom_kills(),
        user_us: end.usage.user_us,
        system_us: end.usage.system_us,
        max_rss_kib: end.usage.max_rss_kib,
    };
    match end.status & 0x7f {
        0 => Event::Exited((end.status >> 8) as u8, totals),
        signal => Event::Killed(signal as u8, totals),
    }
}

/// The `oom_kill` line of `/proc/vmstat`; zero where there is none.
fn oom_kills() -> u32 {
    let mut text = [0u8; 8192];
    let Ok(fd) = sys::open(b"/proc/vmstat\0", sys::O_RDONLY | sys::O_CLOEXEC) else {
        return 0;
    };
    let length = sys::read(fd, &mut text).unwrap_or(0);
    sys::close(fd);
    let lines = text[..length].split(|&byte| byte == b'\n');
    let digits = lines
        .filter_map(|line| line.strip_prefix(b"oom_kill "))
        .next()
        .unwrap_or_default();
    digits.iter().fold(0u32, |sum, digit| {
        sum.wrapping_mul(10)
            .wrapping_add(u32::from(digit.wrapping_sub(b'0')))
    })
}
