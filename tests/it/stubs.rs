//! The KVM engine by stub guests: a few instructions in place of a kernel, through the whole of `Engine::Kvm`.
//!
//! They run on any /dev/kvm, also on a paravirtual one that could not run Linux, and take milliseconds. What the devices
//! answer is sent back over the second port, so that it can be seen here.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdvm::request::{ImageRef, KernelSpec, Ownership};
use rdvm_hostfs::units::ByteSize;
use rdvm_initrd::{Epoch, Initrd, Layout};
use rdvm_kernel::Search;
use rdvm_vmm::Engine;
use rdvm_vmm::guest::GuestPorts;
use rdvm_vmm::guest::console::Console;
use rdvm_vmm::guest::control::Control;
use rdvm_vmm::guest::ending::Ending;
use rdvm_vmm::guest::output_stream::OutputStream;
use rdvm_vmm::machine::{Machine, Scratch};
use rdvm_vmm::stop_signals::StopSignals;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use crate::support::scenario::this_is_none;
use crate::support::{Image, Run, large_image, missing, while_reading};

/// Where a stub's first instruction is.
const ENTRY: u64 = 0x10_0000;
const STDOUT: u16 = 0x2f8;
/// Memory where nothing is: above the stub's RAM, and mapped by its page tables.
const NOWHERE: u64 = 0x2000_0000;

/// Machine code in the making.
#[derive(Default)]
struct Code(Vec<u8>);

impl Code {
    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// mov dx, PORT
    fn port(self, port: u16) -> Self {
        let [low, high] = port.to_le_bytes();
        self.bytes(&[0x66, 0xba, low, high])
    }

    /// mov eax, VALUE
    fn value(self, value: u32) -> Self {
        self.bytes(&[0xb8]).bytes(&value.to_le_bytes())
    }

    /// out dx, al or ax or eax
    fn out(self, width: u8) -> Self {
        self.bytes(match width {
            1 => &[0xee],
            2 => &[0x66, 0xef],
            _ => &[0xef],
        })
    }

    /// in al or ax or eax, dx
    fn read(self, width: u8) -> Self {
        self.bytes(match width {
            1 => &[0xec],
            2 => &[0x66, 0xed],
            _ => &[0xed],
        })
    }

    fn write(self, port: u16, width: u8, value: u32) -> Self {
        self.port(port).value(value).out(width)
    }

    /// Sends the lowest `count` bytes of eax back.
    fn send(mut self, count: u8) -> Self {
        self = self.port(STDOUT);
        for _ in 0..count {
            self = self.out(1).bytes(&[0xc1, 0xe8, 8]); // shr eax, 8
        }
        self
    }

    /// Reads a port and sends back what came.
    fn ask(self, port: u16, width: u8) -> Self {
        self.value(0).port(port).read(width).send(width)
    }

    /// rep outsb, outsw or outsd of bytes that stand in the code
    fn write_string(self, port: u16, width: u8, data: &[u8]) -> Self {
        let length = data.len() as u32;
        self.port(port)
            .bytes(&[0x48, 0x8d, 0x35, 5, 0, 0, 0]) // lea rsi, [rip + 5]
            .bytes(&[0xe9])
            .bytes(&length.to_le_bytes()) // jmp over the data
            .bytes(data)
            .bytes(&[0xb9])
            .bytes(&(length / u32::from(width)).to_le_bytes()) // mov ecx, count
            .bytes(match width {
                1 => &[0xf3, 0x6e],
                2 => &[0x66, 0xf3, 0x6f],
                _ => &[0xf3, 0x6f],
            })
    }

    /// mov rbx, ADDRESS
    fn address(self, address: u64) -> Self {
        self.bytes(&[0x48, 0xbb]).bytes(&address.to_le_bytes())
    }

    /// A triple fault: an invalid instruction, and no table of handlers.
    fn fault(self) -> Self {
        self.bytes(&[0x0f, 0x0b])
    }
}

/// An ELF file of one segment.
fn elf(code: &[u8]) -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let word = |elf: &mut Vec<u8>, value: u64| elf.extend(value.to_le_bytes());
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]); // an executable for x86-64
    [ENTRY, 64, 0]
        .iter()
        .for_each(|&value| word(&mut elf, value));
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]); // PT_LOAD, readable and executable
    let length = code.len() as u64;
    [0x1000, ENTRY, ENTRY, length, length, 0x1000]
        .iter()
        .for_each(|&value| word(&mut elf, value));
    elf.resize(0x1000, 0);
    elf.extend(code);
    elf
}

/// The variable that has the machines' threads confined, in a process of tests that `confine.rs` starts.
pub(crate) const CONFINED: &str = "RDVM_TEST_CONFINED";

/// What came of a stub.
struct Outcome {
    ending: Result<Ending, String>,
    stdout: Vec<u8>,
    console: Vec<u8>,
}

impl Outcome {
    /// How the machine died.
    #[track_caller]
    fn how(&self) -> &str {
        match &self.ending {
            Ok(Ending::Died { how: Some(how), .. }) => how,
            other => panic!("{other:?}"),
        }
    }
}

/// Whether there is a /dev/kvm of any kind.
fn has_kvm() -> bool {
    this_is_none();
    let open = fs::File::options().read(true).write(true).open("/dev/kvm");
    if open.is_err() {
        missing("a /dev/kvm that can be opened");
    }
    open.is_ok()
}

fn boot(code: Code, cpus: u8, timeout: Duration) -> Outcome {
    let image = Image::empty().file("etc/x", 0o644, "x");
    boot_with(image.path(), code, cpus, timeout)
}

/// With what is in `etc` of this image.
fn boot_with(image: &Path, code: Code, cpus: u8, timeout: Duration) -> Outcome {
    match StopSignals::catch() {
        Ok(signals) => boot_image(image, code, cpus, timeout, &signals),
        Err(error) => Outcome {
            ending: Err(format!("catching signals: {error}; {NOT_THE_ENGINES}")),
            stdout: Vec::new(),
            console: Vec::new(),
        },
    }
}

/// With signals of the caller's.
fn boot_until(code: Code, cpus: u8, timeout: Duration, signals: &StopSignals) -> Outcome {
    let image = Image::empty().file("etc/x", 0o644, "x");
    boot_image(image.path(), code, cpus, timeout, signals)
}

fn boot_image(
    image: &Path,
    code: Code,
    cpus: u8,
    timeout: Duration,
    signals: &StopSignals,
) -> Outcome {
    boot_changed(image, code, cpus, timeout, signals, |machine| machine)
}

/// With something else about the machine.
fn boot_changed(
    image: &Path,
    code: Code,
    cpus: u8,
    timeout: Duration,
    signals: &StopSignals,
    change: impl FnOnce(Machine) -> Machine,
) -> Outcome {
    let is_confined = std::env::var_os(CONFINED).is_some();
    if is_confined {
        rdvm_confine::begin(&rdvm_confine::Wish::default()).unwrap();
    }
    let kernel = tempfile::NamedTempFile::new().unwrap();
    fs::write(kernel.path(), elf(&code.0)).unwrap();
    let (stdout, ours) = pipe();
    let (console, theirs) = pipe();
    let reader = |mut file: fs::File| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map(|_| bytes).unwrap()
        })
    };
    let (stdout, console) = (reader(stdout), reader(console));
    let guest = GuestPorts::new(
        OutputStream::new(ours),
        Console::new(OutputStream::new(theirs), None, true),
        Control::frames(),
    );
    let guest = guest.with_timeout(Some(timeout));
    let machine = change(machine(kernel.path(), image, cpus));
    let run = || Engine::Kvm.boot(machine, guest, signals);
    // A thread that is confined stays so; the test goes on with another one.
    let result = match is_confined {
        true => std::thread::scope(|scope| scope.spawn(run).join().unwrap()),
        false => run(),
    };
    let ending = result
        .map(|(ending, _)| ending)
        .map_err(|error| error.to_string());
    let (stdout, console) = (stdout.join().unwrap(), console.join().unwrap());
    Outcome {
        ending,
        stdout,
        console,
    }
}

fn machine(kernel: &Path, image: &Path, cpus: u8) -> Machine {
    let tree = rdvm_image::open(&ImageRef {
        path: image.join("etc"),
        owner: Ownership::Root,
        ..ImageRef::default()
    });
    let tree = tree.unwrap().tree;
    let places = Layout::of(&tree, Epoch::default()).unwrap().into_places();
    let mut initrd = Initrd::default();
    initrd.push(tree, places);
    let room = initrd.size() >> 20;
    Machine {
        kernel: rdvm_kernel::open(&KernelSpec::File(kernel.into()), None, &Search::default())
            .unwrap(),
        initrd,
        cmdline: "stub".into(),
        memory: ByteSize::mib(8 + room),
        cpus,
        rings: false,
        regions: Vec::new(),
        scratch: None,
    }
}

/// Code that writes to the first byte of a region, which the stub's page tables do not map: a directory at 1 MiB less a page does, for
/// the fifth GiB.
fn write_to_region() -> Code {
    const DIRECTORY: u32 = 0xf_f000;
    const FIFTH_POINTER: u32 = 0xa000 + 4 * 8;
    let store = |code: Code, at: u32, low: u32, high: u32| {
        let word = |code: Code, at: u32, value: u32| {
            // mov dword [at], value
            code.bytes(&[0xc7, 0x04, 0x25])
                .bytes(&at.to_le_bytes())
                .bytes(&value.to_le_bytes())
        };
        word(word(code, at, low), at + 4, high)
    };
    let code = store(Code::default(), DIRECTORY, 0x83, 1);
    let code = store(code, FIFTH_POINTER, DIRECTORY | 3, 0);
    let code = code.address(4 << 30).value(WRITTEN);
    code.bytes(&[0x89, 0x03]) // mov [rbx], eax
}

/// The value that is written there.
const WRITTEN: u32 = 0x5a17_c0de;

#[test]
fn scratch_space_is_the_file_and_a_host_without_a_page_for_it_is_named() {
    if !has_kvm() {
        return;
    }
    let signals = StopSignals::new().unwrap();
    let image = Image::empty().file("etc/x", 0o644, "x");
    let file = || {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        fs::File::from(memfd_create("scratch", flags).unwrap())
    };
    let run = |code: Code, scratch: Scratch| {
        let with_scratch = |machine: Machine| Machine {
            scratch: Some(scratch),
            ..machine
        };
        boot_changed(
            image.path(),
            code,
            1,
            Duration::from_secs(60),
            &signals,
            with_scratch,
        )
    };
    let whole = file();
    let scratch = Scratch::new(whole.try_clone().unwrap(), 4 << 20).unwrap();
    let code = write_to_region().write(STDOUT, 1, b'x'.into()).fault();
    let outcome = run(code, scratch);
    assert_eq!(
        (outcome.how(), &outcome.stdout[..]),
        ("was reset by a triple fault", &b"x"[..])
    );
    let mut first = [0; 4];
    whole.read_exact_at(&mut first, 0).unwrap();
    assert_eq!(first, WRITTEN.to_le_bytes());
    // A file without a page that cannot grow.
    let cut = file();
    let scratch = Scratch::new(cut.try_clone().unwrap(), 4 << 20).unwrap();
    cut.set_len(0).unwrap();
    fcntl_add_seals(&cut, SealFlags::GROW).unwrap();
    let outcome = run(write_to_region().fault(), scratch);
    let errno = rustix::io::Errno::PERM.raw_os_error();
    assert_eq!(
        outcome.ending,
        Ok(Ending::NoRoom {
            started: false,
            errno
        })
    );
}

fn pipe() -> (fs::File, OwnedFd) {
    let (read, write) = std::io::pipe().unwrap();
    (OwnedFd::from(read).into(), write.into())
}

fn run(code: Code) -> Outcome {
    boot(code, 1, Duration::from_secs(60))
}

#[test]
fn every_register_of_every_port_answers() {
    if !has_kvm() {
        return;
    }
    let mut code = Code::default();
    let mut expected = Vec::new();
    for base in [0x3f8, 0x2f8, 0x3e8] {
        // Divisor, FIFO on, line, modem, scratch.
        for (offset, value) in [(3, 0x80), (0, 0x34), (1, 0x12)] {
            code = code.write(base + offset, 1, value);
        }
        code = code.value(0).port(base).read(1).bytes(&[0x88, 0xc1]); // mov cl, al
        code = code.write(base + 3, 1, 3).bytes(&[0x88, 0xc8]).send(1); // mov al, cl
        for (offset, value) in [(1, 5), (2, 1), (4, 0xb), (7, 0x5a)] {
            code = code.write(base + offset, 1, value);
        }
        for offset in 1..8 {
            code = code.ask(base + offset, 1);
        }
        code = code.write(base + 1, 1, 0);
        expected.extend([0x34, 5, 0xc1, 3, 0xb, 0x60, 0xb0, 0x5a]);
    }
    let outcome = run(code.fault());
    assert_eq!(outcome.how(), "was reset by a triple fault");
    assert_eq!(outcome.stdout, expected);
}

#[test]
fn strings_of_any_length_and_width_arrive_whole() {
    if !has_kvm() {
        return;
    }
    let data: Vec<u8> = (0..60_000u32).map(|n| ((n * 7) >> 3) as u8).collect();
    let code =
        Code::default()
            .write_string(STDOUT, 1, &data)
            .write_string(0x3f8, 1, b"to the console\n");
    assert!(run(code.fault()).stdout == data);
    // Wider accesses reach the ports behind: of four bytes the first goes to the data port.
    let code = Code::default().write_string(STDOUT, 4, b"a\0\0\x03b\0\0\x03");
    assert_eq!(run(code.fault()).stdout, b"ab");
    let code = Code::default().write_string(0x3f8, 1, b"to the console\n");
    assert_eq!(run(code.fault()).console, b"to the console\n");
}

#[test]
fn strings_can_be_read_too() {
    if !has_kvm() {
        return;
    }
    // Five times the scratch register into memory at 4 MiB, then back out.
    let code = Code::default()
        .write(0x3ff, 1, 0x42)
        .port(0x3ff)
        .bytes(&[0xbf, 0, 0, 0x40, 0, 0xb9, 5, 0, 0, 0]) // mov edi, 4 MiB; mov ecx, 5
        .bytes(&[0xf3, 0x6c]) // rep insb
        .port(STDOUT)
        .bytes(&[0xbe, 0, 0, 0x40, 0, 0xb9, 6, 0, 0, 0]) // mov esi, 4 MiB; mov ecx, 6
        .bytes(&[0xf3, 0x6e]); // rep outsb
    assert_eq!(run(code.fault()).stdout, b"BBBBB\0");
}

#[test]
fn where_nothing_is_every_bit_is_one() {
    if !has_kvm() {
        return;
    }
    let mut code = Code::default();
    for port in [0x60, 0x64, 0x2e8, 0xcf8, 0xcfc, 0x1234, 0xfff0] {
        for width in [1, 2, 4] {
            code = code.ask(port, width);
        }
    }
    code = code.address(NOWHERE);
    for load in [&[0x8a, 0x03][..], &[0x66, 0x8b, 0x03], &[0x8b, 0x03]] {
        code = code.value(0).bytes(load).send(4); // mov al or ax or eax, [rbx]
    }
    code = code.bytes(&[0x89, 0x03]); // mov [rbx], eax
    let outcome = run(code.fault());
    let mut expected = vec![0xff; 7 * 7];
    expected.extend([0xff, 0, 0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(outcome.stdout, expected);
}

#[test]
fn the_clock_has_no_update_in_progress_and_tells_the_year() {
    if !has_kvm() {
        return;
    }
    let code = Code::default().write(0x70, 1, 0xa).ask(0x71, 1);
    let code = code.write(0x70, 1, 0x32).ask(0x71, 1);
    assert_eq!(run(code.fault()).stdout, [0x26, 0x20]);
}

#[test]
fn each_way_to_end_a_machine_ends_it_by_its_name() {
    if !has_kvm() {
        return;
    }
    let fault = || Code::default().fault();
    let out = |port, width, value| Code::default().write(port, width, value);
    for (code, how) in [
        (fault(), "was reset by a triple fault"),
        (out(0x64, 1, 0xfe), "was reset by the keyboard controller"),
        (out(0x92, 1, 1), "was reset by port 0x92"),
        (out(0xcf9, 1, 6), "was reset by port 0xcf9"),
        (out(0x604, 2, 0x3400), "switched itself off"),
        (Code::default().bytes(&[0xfa, 0xf4]), "halted for good"), // cli; hlt
    ] {
        // What it had said before is not lost.
        let before = Code::default().write(STDOUT, 1, b'x'.into());
        let loops = [0xeb, 0xfe]; // jmp to itself
        let outcome = run(before.bytes(&code.0).bytes(&loops));
        assert_eq!((outcome.how(), &outcome.stdout[..]), (how, &b"x"[..]));
    }
}

#[test]
fn cpus_that_were_never_started_do_not_keep_a_halted_machine_alive() {
    if !has_kvm() {
        return;
    }
    let outcome = boot(
        Code::default().bytes(&[0xfa, 0xf4]),
        4,
        Duration::from_secs(60),
    );
    assert_eq!(outcome.how(), "halted for good");
}

#[test]
fn a_guest_that_spins_is_stopped_at_the_deadline() {
    if !has_kvm() {
        return;
    }
    let outcome = boot(spin(), 1, Duration::from_millis(300));
    assert_eq!(outcome.ending, Ok(Ending::TimedOut { started: false }));
    // Nor does one that never leaves its ports.
    let noisy = Code::default().port(STDOUT).bytes(&[0xee, 0xeb, 0xfd]); // out; jmp back
    // Long enough for a byte on a busy host.
    let outcome = boot(noisy, 1, Duration::from_secs(3));
    assert_eq!(outcome.ending, Ok(Ending::TimedOut { started: false }));
    assert!(!outcome.stdout.is_empty());
}

/// Marks a call that was not the engine's.
const NOT_THE_ENGINES: &str = "not the engine's";

#[test]
fn a_kvm_that_only_ever_says_again_is_given_up() {
    if !has_kvm() {
        return;
    }
    // More calls than are made before the machine runs.
    let outcome = with_failing("ioctl:error=EAGAIN:when=60+");
    assert!(
        outcome.contains("KVM_RUN: Resource temporarily unavailable"),
        "{outcome}"
    );
}

#[test]
fn the_timers_output_can_be_seen_at_its_port() {
    if !has_kvm() {
        return;
    }
    // Channel 2 counts down from 0x10, once; its output is bit 5 of port 0x61, as kernels without kvm-clock want it.
    let code = Code::default()
        .write(0x61, 1, 1)
        .write(0x43, 1, 0xb0)
        .write(0x42, 1, 0x10)
        .write(0x42, 1, 0)
        .port(0x61)
        .bytes(&[0xec, 0xa8, 0x20, 0x74, 0xfb]) // in al, dx; test al, 0x20; jz back
        .write(STDOUT, 1, b'x'.into());
    assert_eq!(run(code.fault()).stdout, b"x");
}

/// How many exits the fuzzed guest makes: `make soak` makes a million.
fn exits() -> u32 {
    let wish = std::env::var("RDVM_SOAK_EXITS").ok();
    wish.map_or(10_000, |text| {
        text.parse().expect("RDVM_SOAK_EXITS is a number")
    })
}

/// Ports that would end the machine, and those that KVM answers itself.
fn is_spared(port: u16) -> bool {
    matches!(port, 0x61..=0x64 | 0x92 | 0xcf8..=0xcfc | 0x5fd..=0x605)
}

#[test]
fn a_guest_that_does_anything_to_any_port_does_no_harm() {
    if !has_kvm() {
        return;
    }
    let mut state = 0x2545_f491_4f6c_dd1d_u64; // xorshift64, the same every time
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u32
    };
    let mut left = exits();
    while left > 0 {
        let count = left.min(20_000);
        left -= count;
        let mut code = Code::default();
        for _ in 0..count {
            // Half of all accesses go where there are devices.
            let near =
                [0x3f8, 0x2f8, 0x3e8, 0x70, 0x600][random() as usize % 5] + (random() % 8) as u16;
            let port = if random() % 2 == 0 {
                near
            } else {
                random() as u16
            };
            let port = if is_spared(port) { 0x80 } else { port };
            let width = [1, 2, 4][random() as usize % 3];
            let address = NOWHERE + u64::from(random() % 0x1000_0000);
            code = match random() % 8 {
                0..=2 => code.write(port, width, random()),
                3..=5 => code.port(port).read(width),
                6 => code.write_string(port, width, &random().to_le_bytes()),
                _ => code
                    .address(address)
                    .bytes(&[[0x8b, 0x03], [0x89, 0x03], [0x88, 0x03]][random() as usize % 3]),
            };
        }
        // The port may have been left in a loop, or with its divisor in the way.
        for (offset, value) in [(4, 0), (3, 3), (1, 0)] {
            code = code.write(STDOUT + offset, 1, value);
        }
        let code = code.write_string(STDOUT, 1, b"the end");
        let outcome = boot(code.fault(), 1, Duration::from_secs(600));
        assert_eq!(outcome.how(), "was reset by a triple fault");
        assert!(
            outcome.stdout.ends_with(b"the end"),
            "{:?}",
            outcome.stdout.len()
        );
    }
}

/// Run by the next tests in a process of its own, which starts in circumstances of theirs: `RDVM_STUB_CHILD` says what
/// it does.
#[test]
fn one_machine_for_a_test_that_needs_a_process() {
    let Ok(wish) = std::env::var("RDVM_STUB_CHILD") else {
        return;
    };
    if !has_kvm() {
        return;
    }
    let outcome = match wish.split_once(' ') {
        None if wish == "exits" => {
            let mut code = Code::default();
            for _ in 0..100 {
                code = code.write(STDOUT + 7, 1, 0); // an exit each
            }
            run(code.fault())
        }
        None if wish == "many" => many(),
        None if wish == "four" => four(),
        None if wish == "spins" => {
            let status = fs::read_to_string("/proc/thread-self/status").unwrap();
            let blocked = status.lines().find(|line| line.starts_with("SigBlk"));
            println!("{}", blocked.unwrap());
            boot(spin(), 1, Duration::from_millis(300))
        }
        Some(("loads", image)) => {
            let fault = Code::default().fault();
            boot_with(Path::new(image), fault, 1, Duration::from_secs(2))
        }
        _ => panic!("{wish}"),
    };
    println!("outcome: {:?}", outcome.ending);
}

/// The descriptors and caught signals of this process.
fn state() -> (usize, String) {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let caught = status.lines().find(|line| line.starts_with("SigCgt"));
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().count();
    (descriptors, caught.unwrap().to_owned())
}

/// A thousand machines one after the other; prints what of the process is another than before.
fn many() -> Outcome {
    let before = state();
    let mut outcome = run(Code::default().fault());
    let after = state();
    for _ in 1..1000 {
        outcome = run(Code::default().fault());
    }
    // What a first run leaves open may be for all of them; the signals are not. A machine's descriptor is closed a little
    // later than the machine is gone.
    let is_as_before = || state() == after;
    let settled = (0..1000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        is_as_before()
    });
    println!("process: {:?}", (before.1 == state().1, settled));
    outcome
}

/// Four machines at once, which are stopped by four signals that only their caller knows of; a fifth run catches signals as
/// rdvm does. The program has a handler of its own for one of them. Prints what of the process is another than before.
fn four() -> Outcome {
    let own = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGTERM, Arc::clone(&own)).unwrap();
    let before = state();
    let raise = || {
        signal_hook::low_level::raise(SIGTERM).unwrap();
        assert!(
            own.swap(false, Ordering::SeqCst),
            "the program's handler was not called"
        );
    };
    let numbers = [SIGINT, SIGTERM, SIGHUP, SIGQUIT];
    let machines = numbers.map(|_| StopSignals::new().unwrap());
    std::thread::scope(|scope| {
        let runs = machines.each_ref().map(|signals| {
            let run = move || boot_until(spin(), 1, Duration::from_secs(60), signals);
            scope.spawn(run)
        });
        // One that comes to the process is the program's own affair.
        raise();
        std::thread::sleep(Duration::from_millis(300));
        assert!(runs.iter().all(|run| !run.is_finished()));
        let mut handled = state().1;
        // On a busy host it takes longer until the first of them runs.
        for _ in 0..200 {
            if handled != before.1 {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
            handled = state().1;
        }
        for (signals, number) in machines.iter().zip(numbers) {
            signals.stop(number);
        }
        for (run, number) in runs.into_iter().zip(numbers) {
            let ending = run.join().unwrap().ending;
            assert_eq!(ending, Ok(Ending::Interrupted(number)));
        }
        println!("meanwhile: {}", caught_beside(&before.1, &handled));
    });
    drop(machines);
    println!("afterwards: {}", caught_beside(&before.1, &state().1));
    let caught = StopSignals::catch().unwrap();
    let outcome = std::thread::scope(|scope| {
        let run = scope.spawn(|| boot_until(spin(), 1, Duration::from_secs(60), &caught));
        raise();
        run.join().unwrap()
    });
    drop(caught);
    raise();
    println!("at last: {}", caught_beside(&before.1, &state().1));
    outcome
}

/// The bits of signals that are caught in one `SigCgt` line of proc(5) and not in the other.
fn caught_beside(before: &str, after: &str) -> String {
    let bits = |line: &str| u64::from_str_radix(line.rsplit('\t').next().unwrap(), 16).unwrap();
    format!("{:x}", bits(before) ^ bits(after))
}

#[test]
fn a_thousand_machines_in_one_process_leave_its_descriptors_and_signals_as_they_were() {
    if !has_kvm() {
        return;
    }
    let run = Run(child("many").output().unwrap());
    assert_eq!(
        outcome_of(&run),
        "Ok(Died { started: false, panic: None, how: Some(\"was reset by a triple fault\") })"
    );
    assert!(
        run.stdout().contains("process: (true, true)"),
        "{}",
        run.stdout()
    );
}

#[test]
fn four_machines_at_once_are_stopped_one_by_one_and_the_programs_handlers_stay_in_force() {
    if !has_kvm() {
        return;
    }
    let run = Run(child("four").output().unwrap());
    assert_eq!(outcome_of(&run), "Ok(Interrupted(15))", "{}", run.stderr());
    // Only the signal by which vCPUs are made to leave the guest: 34, the 34th bit.
    for line in ["meanwhile: 200000000", "afterwards: 0", "at last: 0"] {
        assert!(run.stdout().contains(line), "{line}: {}", run.stdout());
    }
}

#[test]
fn what_is_no_machine_is_refused_before_anything_is_asked_of_the_host() {
    let kernel = tempfile::NamedTempFile::new().unwrap();
    fs::write(kernel.path(), elf(&Code::default().fault().0)).unwrap();
    let image = Image::empty().file("etc/x", 0o644, "x");
    let refused = |change: fn(&mut Machine)| {
        let mut machine = machine(kernel.path(), image.path(), 1);
        change(&mut machine);
        let null = || fs::File::options().write(true).open("/dev/null").unwrap();
        let console = Console::new(OutputStream::new(null().into()), None, false);
        let guest = GuestPorts::new(OutputStream::new(null().into()), console, Control::frames());
        let signals = StopSignals::new().unwrap();
        let error = Engine::Kvm.boot(machine, guest, &signals).unwrap_err();
        assert!(matches!(error, rdvm_vmm::Error::Machine(_)), "{error:?}");
        error.to_string()
    };
    for (error, words) in [
        (
            refused(|machine| machine.cpus = 0),
            "machine: 0 CPUs; give it 1 to 16",
        ),
        (refused(|machine| machine.cpus = 33), "machine: 33 CPUs"),
        (
            refused(|machine| machine.memory.0 += 1),
            "give it a multiple of 4096",
        ),
        (
            refused(|machine| machine.cmdline = "x".repeat(2048)),
            "2047 are the most",
        ),
    ] {
        assert!(
            error.starts_with("machine: ") && error.contains(words),
            "{error}"
        );
    }
}

/// cli; jmp to itself
fn spin() -> Code {
    Code::default().bytes(&[0xfa, 0xeb, 0xfe])
}

/// This program with that one test, which does what `wish` says.
fn child(wish: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "stubs::one_machine_for_a_test_that_needs_a_process",
        "--nocapture",
    ]);
    command.env("RDVM_STUB_CHILD", wish);
    command
}

/// The outcome that such a child has printed.
#[track_caller]
fn outcome_of(run: &Run) -> String {
    let text = run.stdout();
    let outcome = text.lines().find_map(|line| line.split_once("outcome: "));
    outcome
        .unwrap_or_else(|| panic!("{text} {}", run.stderr()))
        .1
        .to_owned()
}

fn with_failing(what: &str) -> String {
    let child = child("exits");
    let output = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=ioctl", "-e"])
        .arg(format!("inject={what}"))
        .arg(child.get_program())
        .args(child.get_args())
        .env("RDVM_STUB_CHILD", "exits")
        // strace makes a call fail by taking its number away, and a filter ends the process for one without.
        .env_remove(CONFINED)
        .output()
        .unwrap();
    outcome_of(&Run(output))
}

#[test]
fn a_signal_or_the_deadline_ends_a_run_whose_image_is_being_loaded() {
    if !has_kvm() {
        return;
    }
    let (image, file) = large_image();
    let child = child(&format!("loads {}", image.path().display()));
    for (inject, ending) in [
        ("signal=TERM:when=5", "Ok(Interrupted(15))"),
        (
            "delay_enter=3000000:when=5",
            "Ok(TimedOut { started: false })",
        ),
    ] {
        let (run, reads) = while_reading(&file, inject, &child);
        assert_eq!(outcome_of(&run), ending);
        assert!(reads < 64, "{inject}: {reads} of 128");
    }
}

#[test]
fn a_vcpu_is_stopped_though_rdvm_was_started_with_its_signal_blocked() {
    if !has_kvm() {
        return;
    }
    let child = child("spins");
    // With the signal blocked its thread would never end: then this says so instead of waiting as well.
    let output = Command::new("timeout")
        .args(["--signal=KILL", "60", "env", "--block-signal=RTMIN"])
        .arg(child.get_program())
        .args(child.get_args())
        .env("RDVM_STUB_CHILD", "spins")
        .output()
        .unwrap();
    let run = Run(output);
    let text = run.stdout();
    let mask = text.lines().find_map(|line| line.split_once("SigBlk:"));
    let mask = mask.unwrap_or_else(|| panic!("{text}")).1.trim();
    // SIGRTMIN is 34, the 34th bit.
    let blocked = u64::from_str_radix(mask, 16).unwrap() >> 33 & 1;
    assert_eq!(blocked, 1, "{text}");
    assert_eq!(outcome_of(&run), "Ok(TimedOut { started: false })");
}

#[test]
fn each_call_to_kvm_that_fails_is_named_and_nothing_panics() {
    if !has_kvm() {
        return;
    }
    let mut errors = Vec::new();
    // More calls than there are before the machine runs; the last ones change nothing then.
    for number in 1..=40 {
        let outcome = with_failing(&format!("ioctl:error=ENOMEM:when={number}"));
        match outcome.strip_prefix("Err(\"") {
            Some(error) => errors.push(error.to_owned()),
            // Once it runs, a failure is an ending.
            None => assert!(
                outcome.contains("was reset by a triple fault")
                    || outcome.contains("KVM_RUN: Cannot allocate memory"),
                "{number}: {outcome}"
            ),
        }
        if number == 40 {
            assert!(
                outcome.starts_with("Ok"),
                "there are more calls than were tried"
            );
        }
    }
    errors.retain(|error| !error.contains(NOT_THE_ENGINES));
    assert!(errors.len() >= 20, "{errors:#?}");
    for error in &errors {
        assert!(
            error.contains("; ") && !error.contains("panicked"),
            "{error}"
        );
    }
    for what in [
        "making a machine",
        "interrupt controllers",
        "the guest's RAM",
        "a vCPU",
        "CPUID",
        "registers",
    ] {
        assert!(
            errors.iter().any(|error| error.contains(what)),
            "{what}: {errors:#?}"
        );
    }
}

#[test]
fn calls_to_kvm_that_are_interrupted_are_made_again() {
    if !has_kvm() {
        return;
    }
    for errno in ["EINTR", "EAGAIN"] {
        let outcome = with_failing(&format!("ioctl:error={errno}:when=2+3"));
        assert!(
            outcome.contains("was reset by a triple fault"),
            "{errno}: {outcome}"
        );
    }
}
