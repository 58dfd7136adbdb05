//! A container runtime's demands on a machine: privileges, mounts, limits, a held start, signals.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, pipe};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rdvm::pipeline::{self, Finished, StopSignals, Streams};
use rdvm::request::{Capabilities, MemorySpec, Privileges, RootSpec, SetupStep};
use rdvm::{EngineChoice, Outcome, Request};
use rdvm_hostfs::units::ByteSize;

use crate::support::{Image, any_engine, busybox, note_run};

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;
const SIGUSR1: i32 = 10;
const SIGWINCH: i32 = 28;

const MS_RDONLY: u64 = 1;
const MS_NOSUID: u64 = 2;
const MS_NODEV: u64 = 4;
const MS_NOEXEC: u64 = 8;
const MS_BIND: u64 = 4096;
const MS_REC: u64 = 16384;
const MS_PRIVATE: u64 = 1 << 18;

/// A request on this engine for a script in this image.
fn request(engine: &str, image: &Image, script: &str) -> Request {
    note_run(engine);
    let choice = match engine {
        "kvm" => EngineChoice::Kvm,
        _ => EngineChoice::Qemu,
    };
    Request::new(image.path(), ["busybox", "sh", "-c", script]).engine(choice)
}

/// A machine on a thread of its own.
struct Running {
    signals: Arc<StopSignals>,
    stdout: BufReader<std::io::PipeReader>,
    stderr: std::io::PipeReader,
    thread: JoinHandle<Finished>,
}

impl Running {
    fn boot(request: Request) -> Self {
        Self::with(request, StopSignals::new().unwrap())
    }

    fn with(request: Request, signals: StopSignals) -> Self {
        let signals = Arc::new(signals);
        let ((stdout, out), (stderr, err)) = (pipe().unwrap(), pipe().unwrap());
        let streams = Streams {
            stdin: Some(File::open("/dev/null").unwrap().into()),
            stdout: out.into(),
            stderr: err.into(),
        };
        let told = Arc::clone(&signals);
        let boot = move || {
            let ready = pipeline::prepare(&request).unwrap();
            pipeline::boot(&request, ready, streams, None, || Ok(&*told)).unwrap()
        };
        Self {
            signals,
            stdout: BufReader::new(stdout),
            stderr,
            thread: thread::spawn(boot),
        }
    }

    /// The next line of its output.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// The rest of its output, what it printed on standard error, and how it ended.
    fn finish(mut self) -> (String, String, Finished) {
        let (mut printed, mut said) = (String::new(), String::new());
        self.stdout.read_to_string(&mut printed).unwrap();
        self.stderr.read_to_string(&mut said).unwrap();
        (printed, said, self.thread.join().unwrap())
    }

    /// Its end, which is not the exit code 0 of a command.
    #[track_caller]
    fn ends(self, code: u8, outcome: Outcome) -> String {
        let (printed, said, finished) = self.finish();
        let report = finished.report;
        assert_eq!(
            (report.exit_code, report.outcome),
            (code, outcome),
            "{report:?} {said}"
        );
        printed
    }
}

/// Runs it to the end; gives all that it printed.
#[track_caller]
fn printed(request: Request) -> String {
    let (printed, said, finished) = Running::boot(request).finish();
    let report = finished.report;
    assert_eq!(report.exit_code, 0, "{printed} {said} {:?}", report.message);
    printed
}

fn mount(kind: &str, source: &str, target: &str, flags: u64, data: &str) -> SetupStep {
    SetupStep::Mount {
        kind: kind.into(),
        source: source.into(),
        target: target.into(),
        flags,
        data: data.into(),
    }
}

fn write(path: &str, value: &str) -> SetupStep {
    SetupStep::Write {
        path: path.into(),
        value: value.into(),
    }
}

/// The lines of /proc/self/status that say what a process may do, as a program that it executes sees them.
const STATUS: &str = "grep -E '^(Cap|NoNewPrivs|Uid|Gid)' /proc/self/status";

fn status(sets: [u64; 5], no_new_privileges: u8, id: u32) -> String {
    let names = ["Inh", "Prm", "Eff", "Bnd", "Amb"];
    let sets = names.iter().zip(sets);
    let sets: String = sets
        .map(|(name, set)| format!("Cap{name}:\t{set:016x}\n"))
        .collect();
    let ids = format!("{id}\t{id}\t{id}\t{id}");
    format!("Uid:\t{ids}\nGid:\t{ids}\n{sets}NoNewPrivs:\t{no_new_privileges}\n")
}

#[test]
fn root_has_exactly_the_capabilities_that_it_is_given() {
    /// CAP_CHOWN, CAP_KILL, CAP_NET_BIND_SERVICE.
    const SOME: u64 = 1 | 1 << 5 | 1 << 10;
    for engine in any_engine() {
        let mut request = request(engine, busybox(), STATUS);
        request.command.privileges = Privileges {
            capabilities: Some(Capabilities {
                // One that no kernel has.
                bounding: SOME | 1 << 62,
                effective: SOME,
                inheritable: 0,
                permitted: SOME | 1 << 62,
                ambient: 0,
            }),
            no_new_privileges: true,
            umask: None,
        };
        assert_eq!(printed(request), status([0, SOME, SOME, SOME, 0], 1, 0));
    }
}

#[test]
fn another_user_keeps_what_is_ambient_and_any_number_of_groups() {
    const BIND: u64 = 1 << 10;
    const TWO: u64 = BIND | 1 << 5;
    let groups: Vec<u32> = (2000..2100).collect();
    let script = format!("{STATUS}; id -G; umask; touch /tmp/x; stat -c %a /tmp/x");
    for engine in any_engine() {
        for (ambient, kept) in [(BIND, BIND), (0, 0)] {
            let mut request = request(engine, busybox(), &script);
            request.command.user = Some("1000:1000".parse().unwrap());
            request.command.groups = Some(groups.clone());
            request.command.privileges = Privileges {
                capabilities: Some(Capabilities {
                    bounding: TWO,
                    effective: TWO,
                    inheritable: BIND,
                    permitted: TWO,
                    ambient,
                }),
                no_new_privileges: false,
                umask: Some(0o137),
            };
            let ids: Vec<String> = groups.iter().map(u32::to_string).collect();
            let more = format!("1000 {}\n0137\n640\n", ids.join(" "));
            let sets = [BIND, kept, kept, TWO, ambient];
            assert_eq!(printed(request), status(sets, 0, 1000) + &more);
        }
    }
}

#[test]
fn sets_that_contradict_each_other_are_refused_in_words() {
    for engine in any_engine() {
        let mut request = request(engine, busybox(), "true");
        request.command.privileges.capabilities = Some(Capabilities {
            ambient: 1,
            ..Capabilities::default()
        });
        let (.., finished) = Running::boot(request).finish();
        let report = finished.report;
        assert_eq!(
            (report.exit_code, report.outcome),
            (125, Outcome::SetupFailed)
        );
        let message = report.message.unwrap();
        assert!(message.contains("refused its capabilities"), "{message}");
    }
}

#[test]
fn an_exact_environment_has_nothing_of_rdvms_but_a_home_where_there_is_none() {
    for engine in any_engine() {
        for (given, seen) in [
            (&["A=1"][..], "HOME=/root\nA=1\n"),
            (&["HOME=/h"], "HOME=/h\n"),
        ] {
            let mut request = request(engine, busybox(), "");
            request.command.argv = ["/bin/busybox", "env"].map(OsString::from).to_vec();
            request.command.env = given.iter().map(OsString::from).collect();
            request.command.exact_env = true;
            assert_eq!(printed(request), seen);
        }
    }
}

/// Prints for each path whether a file can be made in it or it can be written to.
const TRY: &str =
    "try() { for path; do if ( : > $path ) 2>/dev/null; then echo $path; fi; done; }\n";

#[test]
fn a_read_only_root_has_the_mounts_that_were_asked_for() {
    let image = Image::busybox()
        .file("etc/secret", 0o644, "secret")
        .file("etc/plain", 0o644, "plain")
        .file("hidden/x", 0o644, "x")
        .file("data/file", 0o644, "data")
        .link("data", "link");
    let script = format!(
        "{TRY}try /etc/plain /new /dev/shm/x /scratch/x /ro/y /rw/deep/y /open/x /shut/x /one
        ls /ro; pwd; cat /etc/secret /hidden/x /proc/cmdline 2>&1; cat /proc/sys/vm/swappiness
        grep -c ' /scratch tmpfs rw,nosuid,.*,size=64k' /proc/mounts; grep -c ' /data/below tmpfs' /proc/mounts
        grep -c ' /shut tmpfs ro,nodev,noexec,' /proc/mounts
        dd if=/dev/zero of=/scratch/z bs=1k count=100 2>/dev/null || echo full; cat /one"
    );
    let path = |path: &str| OsString::from(path);
    let bind = MS_BIND | MS_REC;
    let roots = [RootSpec::Initrd, RootSpec::Erofs];
    for (engine, root) in any_engine()
        .iter()
        .flat_map(|engine| roots.map(|root| (engine, root)))
    {
        let mut request = request(engine, &image, &script);
        request.root = root;
        request.read_only_root = true;
        request.command.workdir = Some("/made/here".into());
        request.steps = vec![
            mount("tmpfs", "tmpfs", "/scratch", MS_NOSUID, "size=64k"),
            mount("", "/scratch", "/ro", bind | MS_RDONLY, ""),
            mount("bind", "/scratch", "/rw/deep", bind | MS_PRIVATE, ""),
            // A file, in a directory that the root has.
            mount("bind", "/data/file", "/one", MS_BIND, ""),
            // By a link of the image, to a directory that is not there.
            mount("tmpfs", "tmpfs", "/link/below", 0, ""),
            mount("tmpfs", "tmpfs", "/open", 0, ""),
            mount("tmpfs", "tmpfs", "/shut", MS_NODEV | MS_NOEXEC, ""),
            write("/proc/sys/vm/swappiness", "7"),
        ];
        let masked = ["/etc/secret", "/hidden", "/proc/cmdline", "/nowhere"];
        let mask = |masked| SetupStep::Mask { path: path(masked) };
        request.steps.extend(masked.map(mask));
        let shut = |shut| SetupStep::ReadOnly { path: path(shut) };
        request.steps.extend(["/shut", "/nowhere"].map(shut));
        let lines = [
            "/dev/shm/x",
            "/scratch/x",
            "/rw/deep/y",
            "/open/x",
            "/one",
            "x",
            "y",
            "/made/here",
            "cat: can't open '/hidden/x': No such file or directory",
            "7",
            "1",
            "1",
            "1",
            "full",
        ];
        assert_eq!(printed(request), lines.join("\n") + "\n");
    }
}

#[test]
fn an_init_with_a_proc_of_its_own_finds_the_same_paths_hidden() {
    let script = "#!/bin/busybox sh\necho $$; busybox wc -c < /proc/cmdline; ( : > /proc/sys/vm/swappiness ) || echo shut";
    let image = Image::busybox().file("sbin/init", 0o755, script);
    for engine in any_engine() {
        let mut request = request(engine, &image, "");
        request.command.argv = vec!["/sbin/init".into()];
        request.steps = vec![
            write("/proc/sys/vm/swappiness", "7"),
            SetupStep::Mask {
                path: "/proc/cmdline".into(),
            },
            SetupStep::ReadOnly {
                path: "/proc/sys".into(),
            },
        ];
        assert_eq!(printed(request), "1\n0\nshut\n");
    }
}

#[test]
fn a_step_that_fails_is_named_and_nothing_runs() {
    for engine in any_engine() {
        for (step, message) in [
            (
                mount("nosuchfs", "x", "/x", 0, ""),
                "mounting nosuchfs on /x: the guest's kernel refused it: No such device",
            ),
            (
                write("/proc/sys/net/none.x", "1"),
                "sysctl net.none/x: the guest's kernel refused it: No such file or directory",
            ),
            (
                write("/proc/sys/vm/swappiness", "many"),
                "sysctl vm.swappiness: the guest's kernel refused it: Invalid argument",
            ),
        ] {
            let mut request = request(engine, busybox(), "echo ran");
            request.steps = vec![mount("tmpfs", "x", "/tmp", 0, ""), step];
            let (printed, _, finished) = Running::boot(request).finish();
            let report = finished.report;
            assert_eq!(
                (report.exit_code, report.outcome),
                (125, Outcome::SetupFailed)
            );
            assert_eq!(
                (printed.as_str(), report.message.as_deref()),
                ("", Some(message))
            );
        }
    }
}

#[test]
fn processes_are_limited_also_for_root() {
    let script = "for n in 1 2 3 4 5 6; do sleep 1000 & echo $n; done; echo all";
    for engine in any_engine() {
        let mut request = request(engine, busybox(), script);
        request.pids = Some(4);
        let (printed, said, finished) = Running::boot(request).finish();
        // The shell is one of them.
        assert_eq!(printed, "1\n2\n3\n", "{said}");
        assert!(
            said.contains("fork: Resource temporarily unavailable"),
            "{said}"
        );
        assert_ne!(finished.report.exit_code, 0);
    }
}

#[test]
fn a_held_command_runs_when_it_is_released_and_not_before() {
    for engine in any_engine() {
        let mut request = request(engine, busybox(), "echo runs; exit 3");
        request.held = true;
        let mut early = request.clone();
        early.command.argv[3] = "echo early".into();

        let mut running = Running::boot(request);
        // Long enough for the machine to be up in most cases; the outcome is the same where it is not.
        thread::sleep(Duration::from_secs(5));
        assert!(!running.thread.is_finished());
        running.signals.deliver(SIGWINCH);
        running.signals.release();
        assert_eq!(running.line(), "runs");
        running.ends(3, Outcome::Exited);

        let mut running = Running::boot(early);
        running.signals.release();
        assert_eq!(running.line(), "early");
        running.ends(0, Outcome::Exited);
    }
}

#[test]
fn a_signal_before_the_start_ends_a_held_machine_as_it_would_a_process() {
    for engine in any_engine() {
        for (signal, late) in [(SIGTERM, false), (SIGKILL, true)] {
            let mut request = request(engine, busybox(), "echo ran");
            request.held = true;
            // It counts from the release, so it does not end a machine that waits for that.
            request.timeout = Some(Duration::from_secs(1));
            let running = Running::boot(request);
            if late {
                thread::sleep(Duration::from_secs(5));
            }
            running.signals.deliver(signal);
            let printed = running.ends(128 + signal as u8, Outcome::Interrupted);
            assert_eq!(printed, "");
        }
    }
}

#[test]
fn signals_are_delivered_as_often_as_they_come_and_stop_no_machine() {
    let script = "trap 'echo term' TERM; trap 'echo usr1' USR1; trap 'echo int; exit 9' INT
        echo on; while :; do sleep 0.05; done";
    for engine in any_engine() {
        let mut request = request(engine, busybox(), script);
        request.held = true;
        request.stop_timeout = Duration::ZERO;
        let mut running = Running::boot(request);
        running.signals.release();
        assert_eq!(running.line(), "on");
        for _ in 0..2 {
            running.signals.deliver(SIGTERM);
            assert_eq!(running.line(), "term");
        }
        // In one go: none gets lost, though the kernel takes them in the order of their numbers.
        running.signals.deliver(SIGTERM);
        running.signals.deliver(SIGUSR1);
        let mut both = [running.line(), running.line()];
        both.sort();
        assert_eq!(both, ["term", "usr1"]);
        running.signals.deliver(SIGINT);
        assert_eq!(running.line(), "int");
        running.ends(9, Outcome::Exited);
    }
}

#[test]
fn room_is_what_a_command_can_use_on_top_of_the_machines_own_need() {
    let script = "dd if=/dev/zero of=/dev/shm/x bs=1M count=40 2>/dev/null && echo fits; free -m | grep -o 'Mem: *[0-9]*'";
    for engine in any_engine() {
        let mut request = request(engine, busybox(), script);
        request.memory = MemorySpec::Room(ByteSize::mib(96));
        let seen = printed(request);
        let (fits, total) = seen.split_once('\n').unwrap();
        assert_eq!(fits, "fits");
        let total: u64 = total.trim().rsplit(' ').next().unwrap().parse().unwrap();
        assert!((96..400).contains(&total), "{seen}");
    }
}
