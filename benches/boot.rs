//! How long machines on KVM take: from exec to the guest's first instruction in user space, to its end, and for a byte
//! of output. Runs in the rig, where time is a count of instructions; `cargo xtask rig bench` builds and calls it.
//!
//!     boot ours|all DEBIAN SMALL BZIMAGE INITRD GUEST DIR
//!
//! DEBIAN and SMALL are unpacked kernels, BZIMAGE is the packed Debian kernel, GUEST is benches/guest.c, INITRD an
//! archive with it as /init, and DIR what `rdvm run` takes as IMAGE. A missing SMALL is left out. `all` measures QEMU
//! beside rdvm. Prints a line for each machine: name, milliseconds to user space, to the end, microseconds a byte, with
//! tabs between. A machine that does not come to its end is an error.

use std::io::Read;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Guest RAM in MiB: rdvm's plan for Debian's kernel is 140.
pub(crate) const RAM: u32 = 144;

/// The words that rdvm gives every guest, for the others too.
const WORDS: &str = "console=ttyS0 8250.nr_uarts=4 panic=-1 reboot=t cryptomgr.notests random.trust_cpu=on quiet \
                     loglevel=1 rdinit=/init";

const USER_SPACE: &[u8] = b"\x01U\x02";
const ALL_SENT: &[u8] = b"\x01E\x02";

/// Two lengths of output: what both have in common is no cost of a byte.
const FEW: u32 = 4 << 10;
const MANY: u32 = 36 << 10;

/// A command that boots GUEST; `bytes` is how many it sends.
pub(crate) struct Machine {
    name: &'static str,
    pub(crate) command: Box<dyn Fn(u32) -> Vec<String>>,
}

/// One run, from exec on.
pub(crate) struct Times {
    pub(crate) user_space: Duration,
    sent: Option<Duration>,
    pub(crate) end: Duration,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [which, files @ ..] = &arguments[..] else {
        return usage();
    };
    let [debian, small, bzimage, initrd, guest, dir] = files else {
        return usage();
    };
    let mut machines = vec![ours("rdvm, Debian's kernel", debian, guest, dir)];
    let has_small = Path::new(small).exists();
    if has_small {
        machines.insert(0, ours("rdvm, small kernel", small, guest, dir));
    }
    if which == "all" {
        let microvm = "microvm,rtc=on,pit=off,pic=off,isa-serial=off";
        machines.push(qemu(
            "QEMU microvm, Debian's kernel",
            microvm,
            debian,
            initrd,
        ));
        machines.push(qemu("QEMU pc, Debian's kernel", "pc", bzimage, initrd));
        machines.push(qemu("QEMU q35, Debian's kernel", "q35", bzimage, initrd));
        if has_small {
            machines.push(qemu("QEMU microvm, small kernel", microvm, small, initrd));
            machines.push(qemu("QEMU pc, small kernel", "pc", small, initrd));
            machines.push(qemu("QEMU q35, small kernel", "q35", small, initrd));
        }
    }
    for machine in &machines {
        match measure(machine) {
            Ok(line) => println!("{line}"),
            Err(error) => {
                eprintln!("boot: {}: {error}", machine.name);
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("usage: boot ours|all DEBIAN SMALL BZIMAGE INITRD GUEST DIR");
    ExitCode::FAILURE
}

pub(crate) fn ours(name: &'static str, kernel: &str, guest: &str, dir: &str) -> Machine {
    let line = format!("rdvm run -q --engine kvm -m {RAM}m -k {kernel} --rdinit {guest} --append");
    let dir = dir.to_owned();
    let command = move |bytes| {
        let mut words = split(&line);
        words.extend([format!("bytes={bytes}"), dir.clone()]);
        words
    };
    Machine {
        name,
        command: Box::new(command),
    }
}

fn qemu(name: &'static str, board: &str, kernel: &str, initrd: &str) -> Machine {
    let line = format!(
        "qemu-system-x86_64 -accel kvm -cpu host -M {board} -m {RAM} -smp 1 -nodefaults -no-user-config -no-reboot \
         -display none -chardev null,id=console -device isa-serial,chardev=console,index=0 \
         -chardev stdio,id=stdout,signal=off -device isa-serial,chardev=stdout,index=1 \
         -chardev null,id=status -device isa-serial,chardev=status,index=2 -kernel {kernel} -initrd {initrd} -append"
    );
    let command = move |bytes| {
        let mut words = split(&line);
        words.push(format!("{WORDS} bytes={bytes}"));
        words
    };
    Machine {
        name,
        command: Box::new(command),
    }
}

fn split(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// The line of a machine. One run each is enough where time is counted; the boot alone comes last, when the host's
/// kernel has what it keeps of the program and its files.
fn measure(machine: &Machine) -> Result<String, String> {
    let sending = |bytes| -> Result<f64, String> {
        let times = run(&(machine.command)(bytes))?;
        let sent = times.sent.ok_or("not all bytes came")?;
        Ok((sent - times.user_space).as_secs_f64() * 1e6)
    };
    let few = sending(FEW)?;
    let byte = (sending(MANY)? - few) / f64::from(MANY - FEW);
    let times = run(&(machine.command)(0))?;
    let [user_space, end] = [times.user_space, times.end].map(|time| time.as_secs_f64() * 1e3);
    Ok(format!(
        "{}\t{user_space:.3}\t{end:.3}\t{byte:.4}",
        machine.name
    ))
}

/// Runs a command and notes when which mark came.
pub(crate) fn run(command: &[String]) -> Result<Times, String> {
    let start = Instant::now();
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", command[0]))?;
    let mut stdout = child.stdout.take().expect("it is piped");
    let (mut seen, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    let (mut user_space, mut sent) = (None, None);
    loop {
        let count = stdout
            .read(&mut buffer)
            .map_err(|error| error.to_string())?;
        if count == 0 {
            break;
        }
        let now = start.elapsed();
        let from = seen.len().saturating_sub(USER_SPACE.len());
        seen.extend_from_slice(&buffer[..count]);
        let has = |mark: &[u8]| {
            seen[from..]
                .windows(mark.len())
                .any(|window| window == mark)
        };
        user_space = user_space.or_else(|| has(USER_SPACE).then_some(now));
        sent = sent.or_else(|| has(ALL_SENT).then_some(now));
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    let end = start.elapsed();
    match user_space {
        Some(user_space) if status.success() => Ok(Times {
            user_space,
            sent,
            end,
        }),
        Some(_) => Err(format!("{status}")),
        None => Err(format!("user space was never reached, {status}")),
    }
}
