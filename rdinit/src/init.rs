//! PID 1's life, in order: record, modules, the image's attributes, mounts, ports, what the host has set up, command, end, reset.

use crate::copy_writer::CopyWriter;
use crate::input::HostRequests;
use crate::net::Net;
use crate::relay::Ports;
use crate::rings::{Inbound, Outbound, Rings};
use crate::spawn::{self, Failure, at, at_one};
use crate::sys::PollFd;
use crate::{
    attributes, collect, etc, group, modules, mounts, place, regions, relay, root, setup, sys,
    timeline,
};
use rdvm_proto::{
    ATTRIBUTES_SUFFIX, AttributesLost, Event, FRAME_MAX, HAS_ATTRIBUTES, HAS_MODULES, HAS_NETWORK,
    HAS_PROXY, HAS_REQUESTS, HAS_STDIN, HELD, HostRequest, MODULES_SUFFIX, OWNS_ROOT,
    RECORD_SUFFIX, Ring, Stage, Start, Strings, Totals, WANT_TIMELINE,
};

/// Runs the machine's one command and resets the machine. `name` is rdinit's own path (its `argv[0]`) with its NUL.
pub fn run(name: &[u8]) -> ! {
    let born = sys::boot_clock();
    // Before anything else, so that no child's end can be missed.
    let _ = sys::block_signals();
    let name = name.strip_suffix(b"\0").unwrap_or(name);
    // What the host says of the image is said of its own directories, before anything is mounted over them.
    let mut requests = read_record(name).and_then(|(start, strings)| {
        let (lost, in_region) = finish_root(name, &start, &strings)?;
        Ok((start, strings, lost, in_region))
    });
    let in_region = matches!(requests, Ok((.., Ok(true))));
    mounts::make(in_region);
    if let Ok((start, strings, _, entered)) = &mut requests
        && start.flags & OWNS_ROOT != 0
        && matches!(entered, Ok(false))
    {
        if let Err(failure) = swap_on(strings.regions) {
            *entered = Err(failure);
        }
        root::set_limits();
    }
    let _ = sys::loopback_up();
    let (mut status, mut linger_ms) = (-1, 0);
    if let Err(failure) = live(requests, born, &mut status, &mut linger_ms) {
        send(
            status,
            &Event::Failed {
                stage: failure.stage,
                errno: failure.errno.0,
                which: failure.which,
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

/// The record, which of the image's attributes could not be set, and whether its root is a region.
type Task = (
    Start<'static>,
    Strings<'static>,
    AttributesLost,
    Result<bool, Failure>,
);

/// Loads modules, enters a root file system that can be pivoted and gives its files their extended attributes.
fn finish_root(
    name: &[u8],
    start: &Start<'_>,
    strings: &Strings<'_>,
) -> sys::Result<(AttributesLost, Result<bool, Failure>)> {
    let mut buffer = [0u8; 256];
    let loaded = match start.flags & HAS_MODULES {
        0 => Ok(()),
        _ => modules::load(beside(name, MODULES_SUFFIX, &mut buffer)?),
    };
    let in_region = match loaded {
        Ok(()) => enter_root(name, strings.regions),
        Err((which, errno)) => Err(at_one(Stage::Modules, which)(errno)),
    };
    if start.flags & OWNS_ROOT != 0 && matches!(in_region, Ok(false)) {
        root::cover();
    }
    if start.flags & HAS_ATTRIBUTES == 0 {
        return Ok((AttributesLost::default(), in_region));
    }
    let table = beside(name, ATTRIBUTES_SUFFIX, &mut buffer)?;
    let lost = attributes::set(table);
    let _ = sys::unlink(table);
    Ok((lost?, in_region))
}

/// Enters the root that is a region, if there is one.
fn enter_root(name: &[u8], regions: &[u8]) -> Result<bool, Failure> {
    if !regions::have_root(regions) {
        return Ok(false);
    }
    mounts::early();
    // The root's limits go by it.
    swap_on(regions)?;
    regions::enter_root(name).map_err(at(Stage::Region))?;
    Ok(true)
}

fn swap_on(regions: &[u8]) -> Result<(), Failure> {
    regions::swap_on(regions).map_err(at(Stage::Scratch))
}

fn live(
    requests: sys::Result<Task>,
    born: u64,
    status: &mut i32,
    linger_ms: &mut u32,
) -> Result<(), Failure> {
    let (mut start, strings, lost, root) =
        requests.map_err(at(Stage::Record)).inspect_err(|_| {
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
    if lost.attributes > 0 {
        send(*status, &Event::AttributesLost(lost));
    }
    root?;
    let console = open_port(strings.console).map_err(&ports)?;
    let stdout = open_port(strings.stdout).map_err(&ports)?;
    if let [name @ .., 0] = strings.hostname
        && !name.is_empty()
    {
        let _ = sys::sethostname(name);
    }
    let mut rings = Rings::new(start.rings);
    // What goes in, and files, are worth it at once; output only once there is much of it.
    let is_mapped =
        (start.flags & HAS_STDIN != 0 || start.copies_out > 0) && rings.memory().is_some();
    if is_mapped {
        send(*status, &Event::Mapped);
    }
    let net = match start.flags & HAS_NETWORK {
        0 => None,
        _ => {
            let has_proxy = start.flags & HAS_PROXY != 0;
            Some(network(has_proxy, &mut rings, *status).map_err(at(Stage::Network))?)
        }
    };
    let children = sys::child_signal_fd().map_err(at(Stage::Pipes))?;
    let group = surround(&start, &strings)?;
    let held = match start.flags & HELD {
        0 => None,
        _ => Some(hold(*status, &mut start)),
    };
    let child = spawn::spawn(&start, &strings, group)?;
    send(*status, &Event::Started(sys::boot_clock()));
    // Sent before the command's first byte, so that the host never takes its stderr for the kernel's words.
    relay::drain(*status);
    let mut ports = Ports {
        console,
        stdout,
        status: *status,
        rings,
        has_input_ring: is_mapped,
        net,
        requests: held
            .or_else(|| (start.flags & HAS_REQUESTS != 0).then(|| HostRequests::new(*status))),
    };
    let end = relay::until_the_end(&child, children, &mut ports);
    send(*status, &ending(&end, child.is_init));
    if let Some(requests) = &mut ports.requests
        && start.copies_out > 0
    {
        // Asked for once the host has all the output: from then on the port carries the files.
        while requests.wait() != HostRequest::CopyOut {}
        let memory = is_mapped.then(|| ports.rings.memory()).flatten();
        let mut outlet = match memory {
            Some(memory) => {
                CopyWriter::Ring(Outbound::new(memory, Ring::Stdout, *status), requests)
            }
            None => CopyWriter::Port(stdout),
        };
        collect::send(&mut outlet, strings.copies_out, start.copies_out);
        outlet.flush();
    }
    Ok(())
}

/// Makes everything that the command finds around it. Returns the way into its control group, where it has one.
fn surround(start: &Start<'_>, strings: &Strings<'_>) -> Result<Option<i32>, Failure> {
    regions::mount_volumes(strings.regions)
        .map_err(|(which, errno)| at_one(Stage::Region, which)(errno))?;
    place::place(strings.copies_in, start.copies_in)
        .map_err(|(which, errno)| at_one(Stage::CopyIn, which)(errno))?;
    etc::complete(strings.hostname);
    // Before anything is mounted over the control groups.
    let group = match start.pids {
        0 => None,
        limit => Some(group::make(limit).map_err(at(Stage::Pids))?),
    };
    setup::carry_out(start, strings)?;
    Ok(group)
}

/// Tells the host that everything is ready, and waits until the command is to be started. The terminal may change its size
/// meanwhile.
fn hold(status: i32, start: &mut Start<'_>) -> HostRequests {
    let mut requests = HostRequests::new(status);
    send(status, &Event::Held);
    loop {
        match requests.wait() {
            HostRequest::Start => return requests,
            HostRequest::Resize { rows, columns } => start.window = [rows, columns],
            _ => {}
        }
    }
}

fn network(has_proxy: bool, rings: &mut Rings, status: i32) -> sys::Result<Net> {
    let memory = rings.memory().ok_or(sys::ENOENT)?;
    let outbound = Outbound::new(memory, Ring::NetOut, status);
    let inbound = Inbound::new(memory, Ring::NetIn, status);
    Net::new(has_proxy, outbound, inbound)
}

/// Maps the start record and removes it and rdinit itself, so that the command sees the image and nothing else.
fn read_record(name: &[u8]) -> sys::Result<(Start<'static>, Strings<'static>)> {
    let mut buffer = [0u8; 256];
    let record_name = beside(name, RECORD_SUFFIX, &mut buffer)?;
    let fd = sys::open(record_name, sys::O_RDONLY | sys::O_CLOEXEC)?;
    let record = sys::map_file(fd)?;
    sys::close(fd);
    let _ = sys::unlink(record_name);
    let _ = sys::unlink(beside(name, "", &mut buffer)?);
    Start::decode(record).ok_or(sys::EINVAL)
}

/// rdinit's own path, which is `name`, with a suffix and a NUL. A path that the buffer cannot hold is `EINVAL`.
fn beside<'a>(name: &[u8], suffix: &str, buffer: &'a mut [u8; 256]) -> sys::Result<&'a [u8]> {
    let length = name.len() + suffix.len();
    let path = buffer.get_mut(..=length).ok_or(sys::EINVAL)?;
    path[..name.len()].copy_from_slice(name);
    path[name.len()..length].copy_from_slice(suffix.as_bytes());
    path[length] = 0;
    Ok(path)
}

/// Opens a serial port for raw bytes. Anything else that can be opened (a pipe, in tests) is taken as it is.
fn open_port(name: &[u8]) -> sys::Result<i32> {
    let fd = sys::open(name, sys::O_RDWR | sys::O_NOCTTY | sys::O_CLOEXEC)?;
    let _ = sys::set_raw(fd);
    Ok(fd)
}

/// Sends an event.
pub(crate) fn send(port: i32, event: &Event) {
    let mut frame = [0u8; FRAME_MAX];
    let length = event.encode(&mut frame);
    let mut rest = &frame[..length];
    while !rest.is_empty() {
        match sys::write(port, rest) {
            Ok(count) => rest = &rest[count..],
            Err(sys::EINTR) => {}
            // The port does not wait for us where orders are read from it.
            Err(sys::EAGAIN) => {
                let _ = sys::poll(&mut [PollFd::new(port, sys::POLLOUT)], -1);
            }
            Err(_) => return,
        }
    }
}

fn ending(end: &relay::End, is_init: bool) -> Event {
    const SIGINT: i32 = 2;
    let totals = Totals {
        stdout: end.stdout,
        stderr: end.stderr,
        oom_kills: oom_kills(),
        user_us: end.usage.user_us,
        system_us: end.usage.system_us,
        max_rss_kib: end.usage.max_rss_kib,
        root: root::in_use(),
    };
    match end.status & 0x7f {
        0 => Event::Exited((end.status >> 8) as u8, totals),
        // reboot(2) in a PID namespace: this is what the kernel makes of halt and power off there.
        SIGINT if is_init => Event::Exited(0, totals),
        signal => Event::Killed(signal as u8, totals),
    }
}

/// The `oom_kill` line of `/proc/vmstat`; zero where there is none.
fn oom_kills() -> u32 {
    let mut text = [0u8; 8192];
    let length = sys::read_file(b"/proc/vmstat\0", &mut text).unwrap_or(0);
    let lines = text[..length].split(|&byte| byte == b'\n');
    let digits = lines
        .filter_map(|line| line.strip_prefix(b"oom_kill "))
        .next()
        .unwrap_or_default();
    sys::decimal(digits) as u32
}
