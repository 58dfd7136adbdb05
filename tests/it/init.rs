//! rdinit on its own, as PID 1 of a PID namespace: no machine, so every code and every signal can be tried.

use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rdvm::payload::RDINIT;
use rdvm_proto::{
    ATTRIBUTES_SUFFIX, AttributesTable, Capabilities, Event, FRAME_MAX, FrameError, HAS_ATTRIBUTES,
    HAS_CAPABILITIES, HELD, HOST_REQUEST_MAX, HostRequest, MAKE_WORKDIR, NO_NEW_PRIVILEGES,
    RECORD_SUFFIX, Stage, StartRecord, Step, StepAction,
};

use crate::support::{Image, missing};

/// A root directory with rdinit in it and regular files as its ports.
struct Guest {
    image: Image,
}

/// What came out of the three ports.
struct Said {
    console: Vec<u8>,
    stdout: Vec<u8>,
    events: Vec<Event>,
}

impl Guest {
    fn new() -> Self {
        let image = Image::busybox()
            .file("init", 0o755, RDINIT)
            .file("ports/x", 0o644, "");
        // Without /proc, which a user namespace may not mount, busybox does not find its own applets.
        let image = ["cat", "head", "setsid", "sleep"]
            .into_iter()
            .fold(image, |image, name| {
                image.link("busybox", &format!("bin/{name}"))
            });
        Self { image }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.image.path().join(name)
    }

    /// `None` where user or PID namespaces are not to be had.
    fn run(&self, argv: &[&[u8]], env: &[&[u8]], workdir: &str) -> Option<Said> {
        self.run_record(&Self::record(MAKE_WORKDIR, argv, env, workdir))
    }

    /// Runs `true` after a table of attributes, which may be missing.
    fn run_table(&self, table: Option<&[u8]>) -> Option<Said> {
        let path = self.path(&format!("init{ATTRIBUTES_SUFFIX}"));
        if let Some(table) = table {
            fs::write(path, table).unwrap();
        }
        self.run_record(&Self::record(
            HAS_ATTRIBUTES,
            &[b"/bin/busybox", b"true"],
            &[],
            "/",
        ))
    }

    fn record(flags: u32, argv: &[&[u8]], env: &[&[u8]], workdir: &str) -> Vec<u8> {
        StartRecord {
            flags,
            workdir: workdir.as_bytes(),
            env,
            ..Self::plain(argv)
        }
        .encode()
    }

    fn plain<'a>(argv: &'a [&'a [u8]]) -> StartRecord<'a> {
        StartRecord {
            flags: 0,
            uid: 0,
            gid: 0,
            groups: &[],
            linger_ms: 0,
            ports: [b"/ports/console", b"/ports/stdout", b"/ports/status"],
            workdir: b"/",
            hostname: b"",
            argv,
            env: &[b"PATH=/bin"],
            window: [0; 2],
            rings: 0,
            umask: 0o22,
            pids: 0,
            capabilities: Capabilities::default(),
            limits: &[],
            copies_in: &[],
            copies_out: &[],
            regions: &[],
            steps: &[],
        }
    }

    fn run_record(&self, record: &[u8]) -> Option<Said> {
        self.run_held(record, b"", 0..0)
    }

    /// Runs it with these bytes in the file that is the status port, of which those in `requests` are the host's.
    fn run_held(&self, record: &[u8], status: &[u8], requests: Range<usize>) -> Option<Said> {
        // It removes itself and its record when it starts.
        fs::write(self.path("init"), RDINIT).unwrap();
        fs::set_permissions(
            self.path("init"),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
        fs::write(self.path(&format!("init{RECORD_SUFFIX}")), record).unwrap();
        for port in ["console", "stdout", "status"] {
            fs::write(self.path("ports").join(port), b"").unwrap();
        }
        fs::write(self.path("ports/status"), status).unwrap();
        let output = Command::new("timeout")
            .args([
                "-s",
                "KILL",
                "60",
                "unshare",
                "-r",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount",
                "--uts",
                "--root",
            ])
            .arg(self.image.path())
            .arg("/init")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        if text.contains("unshare failed") || text.contains("Operation not permitted") {
            missing(&format!("a PID namespace ({})", text.trim()));
            return None;
        }
        let read = |port: &str| fs::read(self.path("ports").join(port)).unwrap();
        Some(Said {
            console: read("console"),
            stdout: read("stdout"),
            events: {
                let mut status = read("status");
                status.drain(requests);
                events(&status)
            },
        })
    }
}

fn events(mut bytes: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    // Status on port /dev/ttyS2 is a stream; in the file it is the same stream.
    while !bytes.is_empty() {
        match Event::decode(bytes) {
            Ok((event, length)) => {
                events.push(event);
                bytes = &bytes[length..];
            }
            Err(FrameError::Incomplete) => panic!("half a frame"),
            Err(error) => panic!("{error:?}"),
        }
    }
    events
}

fn sh(guest: &Guest, script: &str) -> Option<Said> {
    guest.run(
        &[b"/bin/sh", b"-c", script.as_bytes()],
        &[b"PATH=/bin"],
        "/",
    )
}

#[test]
fn every_exit_code_is_reported() {
    let guest = Guest::new();
    for code in 0..=255 {
        let Some(said) = sh(&guest, &format!("exit {code}")) else {
            return;
        };
        let [
            Event::Ready { .. },
            Event::Started(_),
            Event::Exited(seen, _),
        ] = said.events[..]
        else {
            panic!("{:?}", said.events);
        };
        assert_eq!(seen, code);
    }
}

#[test]
fn every_deadly_signal_is_reported() {
    let mut guest = Guest::new();
    guest.image = guest.image.program("bin/die", "die");
    // Those that do not end a process by default: CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG, WINCH; 32 and 33 are libc's.
    for signal in (1..=64).filter(|n| ![17, 18, 19, 20, 21, 22, 23, 28, 32, 33].contains(n)) {
        let number = signal.to_string();
        let Some(said) = guest.run(&[b"/bin/die", number.as_bytes()], &[], "/") else {
            return;
        };
        assert!(
            matches!(said.events.last(), Some(Event::Killed(seen, _)) if *seen == signal),
            "{signal}: {:?}",
            said.events
        );
    }
}

#[test]
fn output_is_complete_and_counted_before_the_exit_event() {
    let guest = Guest::new();
    let Some(said) = sh(
        &guest,
        "head -c 3000000 /proc/kcore 2>/dev/null || cat /bin/busybox; echo err >&2; exit 3",
    ) else {
        return;
    };
    let Some(Event::Exited(3, totals)) = said.events.last() else {
        panic!("{:?}", said.events)
    };
    assert_eq!(
        (totals.stdout, totals.stderr),
        (said.stdout.len() as u64, 4)
    );
    assert_eq!(said.console, b"err\n");
}

#[test]
fn orphans_are_killed_reaped_and_heard() {
    let mut guest = Guest::new();
    guest.image = guest.image.program("bin/leave", "leave");
    let Some(said) = guest.run(&[b"/bin/leave"], &[], "/") else {
        return;
    };
    assert_eq!(said.stdout, b"early\n");
    assert!(
        matches!(said.events.last(), Some(Event::Exited(1, _))),
        "{:?}",
        said.events
    );
}

#[test]
fn a_child_cannot_kill_or_stop_pid_1() {
    let guest = Guest::new();
    let script = "kill -9 1; kill -19 1; kill -15 1; kill -2 1; kill -9 -1; echo here; exit 2";
    let Some(said) = sh(&guest, script) else {
        return;
    };
    assert_eq!(said.stdout, b"here\n");
    assert!(
        matches!(said.events.last(), Some(Event::Exited(2, _))),
        "{:?}",
        said.events
    );
}

#[test]
fn commands_are_looked_up_in_path_and_what_is_wrong_with_them_is_told() {
    let guest = Guest::new();
    fs::write(guest.path("bin/plain"), "text").unwrap();
    let failed = |argv: &[&[u8]], env: &[&[u8]]| -> Option<(Stage, i32)> {
        match guest.run(argv, env, "/")?.events.last()? {
            Event::Failed { stage, errno, .. } => Some((*stage, *errno)),
            other => panic!("{other:?}"),
        }
    };
    let Some(first) = failed(&[b"nothing"], &[b"PATH=/bin:/sbin"]) else {
        return;
    };
    assert_eq!(first, (Stage::Exec, 2));
    assert_eq!(
        failed(&[b"plain"], &[b"PATH=/nowhere:/bin"]),
        Some((Stage::Exec, 13))
    );
    assert_eq!(
        failed(&[b"sh"], &[b"PATH=/nowhere:/bin/sh"]),
        Some((Stage::Exec, 2))
    );
    assert_eq!(failed(&[b""], &[]), Some((Stage::Exec, 2)));
    let said = guest
        .run(&[b"sh", b"-c", b"echo $0"], &[b"PATH=/nowhere::/bin"], "/")
        .unwrap();
    assert_eq!(said.stdout, b"sh\n");
    let said = guest.run(&[b"busybox", b"true"], &[], "/").unwrap();
    assert!(
        matches!(said.events.last(), Some(Event::Exited(0, _))),
        "without PATH the usual one is searched"
    );
}

#[test]
fn a_missing_working_directory_is_made_and_a_file_in_its_place_is_told() {
    let guest = Guest::new();
    let Some(said) = guest.run(&[b"/bin/busybox", b"pwd"], &[], "/a/b//c") else {
        return;
    };
    assert_eq!(said.stdout, b"/a/b/c\n");
    let said = guest
        .run(&[b"/bin/busybox", b"pwd"], &[], "/bin/busybox")
        .unwrap();
    assert!(
        matches!(
            said.events.last(),
            Some(Event::Failed {
                stage: Stage::Workdir,
                errno: 20,
                which: 0,
            })
        ),
        "{:?}",
        said.events
    );
}

fn step<'a>(action: StepAction, source: &'a [u8], target: &'a [u8], flags: u64) -> Step<'a> {
    Step {
        action,
        flags,
        source,
        target,
        kind: source,
        data: b"",
    }
}

#[test]
fn steps_are_carried_out_in_order_and_the_first_that_fails_is_told() {
    const BIND: u64 = 4096;
    let mut guest = Guest::new();
    guest.image = guest
        .image
        .file("data/f", 0o644, "data\n")
        .file("hidden/x", 0o644, "")
        .file("etc/set", 0o644, "")
        .directory("open", 0o755);
    let good = [
        step(StepAction::Mount, b"tmpfs", b"/t/deep", 0),
        step(StepAction::Mount, b"/data", b"/b", BIND),
        step(StepAction::Mount, b"/data/f", b"/c/file", BIND),
        Step {
            data: b"value\n",
            ..step(StepAction::Write, b"", b"/etc/set", 0)
        },
        step(StepAction::Mask, b"", b"/hidden", 0),
        step(StepAction::Mask, b"", b"/nowhere", 0),
        step(StepAction::ReadOnly, b"", b"/data", 0),
        step(StepAction::ReadOnly, b"", b"/nowhere", 0),
    ];
    let script = b"cat /b/f /c/file /etc/set; cat /hidden/x || echo hidden; : > /t/deep/x && echo t
        ( : > /b/g ) && echo b; ( : > /data/g ) || echo shut; ( : > /open/x ) && echo open; umask";
    let argv: [&[u8]; 3] = [b"/bin/sh", b"-c", script];
    let record = StartRecord {
        steps: &good,
        umask: 0o27,
        ..Guest::plain(&argv)
    };
    let Some(said) = guest.run_record(&record.encode()) else {
        return;
    };
    let stdout = String::from_utf8_lossy(&said.stdout);
    let lines = "data\ndata\nvalue\nhidden\nt\nb\nshut\nopen\n0027\n";
    let console = String::from_utf8_lossy(&said.console);
    assert_eq!(stdout, lines, "{console} {:?}", said.events);

    let bad = step(StepAction::Mount, b"nosuchfs", b"/x", 0);
    let steps = [good[0], bad, good[3]];
    let record = StartRecord {
        steps: &steps,
        ..record
    };
    let said = guest.run_record(&record.encode()).unwrap();
    let failed = Event::Failed {
        stage: Stage::Setup,
        errno: 19,
        which: 1,
    };
    assert_eq!(said.events.last(), Some(&failed));
    assert!(said.stdout.is_empty());
}

#[test]
fn capabilities_are_given_up_and_a_limit_without_control_groups_starts_nothing() {
    let mut guest = Guest::new();
    guest.image = guest.image.link("busybox", "bin/chroot");
    let script = b"chroot / /bin/sh -c 'echo changed' || echo kept";
    let argv: [&[u8]; 3] = [b"/bin/sh", b"-c", script];
    /// CAP_SYS_CHROOT.
    const CHROOT: u64 = 1 << 18;
    for (set, printed) in [(CHROOT, "changed\n"), (!CHROOT, "kept\n")] {
        let record = StartRecord {
            flags: HAS_CAPABILITIES | NO_NEW_PRIVILEGES,
            capabilities: Capabilities {
                bounding: set,
                effective: set,
                permitted: set,
                ..Capabilities::default()
            },
            ..Guest::plain(&argv)
        };
        let Some(said) = guest.run_record(&record.encode()) else {
            return;
        };
        let stdout = String::from_utf8_lossy(&said.stdout);
        assert_eq!(stdout, printed, "{:?}", said.events);
    }
    let record = StartRecord {
        pids: 9,
        ..Guest::plain(&argv)
    };
    let said = guest.run_record(&record.encode()).unwrap();
    let failed = Event::Failed {
        stage: Stage::Pids,
        errno: 2,
        which: 0,
    };
    assert_eq!(said.events.last(), Some(&failed));
}

#[test]
fn a_held_command_is_announced_and_starts_with_the_hosts_request() {
    let guest = Guest::new();
    let argv: [&[u8]; 3] = [b"/bin/sh", b"-c", b"echo runs"];
    let record = StartRecord {
        flags: HELD,
        ..Guest::plain(&argv)
    };
    // In a file PID 1 reads on behind what it has written.
    let length = |event: Event| event.encode(&mut [0; FRAME_MAX]);
    let ready = Event::Ready {
        init: 0,
        unpack_begin: 0,
        unpack_end: 0,
    };
    let before = length(ready) + length(Event::Held);
    let mut status = vec![0; before];
    for request in [HostRequest::CopyOut, HostRequest::Start] {
        let mut frame = [0; HOST_REQUEST_MAX];
        let length = request.encode(&mut frame);
        status.extend(&frame[..length]);
    }
    let requests = before..status.len();
    let Some(said) = guest.run_held(&record.encode(), &status, requests) else {
        return;
    };
    let [
        Event::Ready { .. },
        Event::Held,
        Event::Started(_),
        Event::Exited(0, _),
    ] = said.events[..]
    else {
        panic!("{:?}", said.events);
    };
    assert_eq!(said.stdout, b"runs\n");
}

#[test]
fn a_damaged_record_starts_nothing() {
    let guest = Guest::new();
    for record in [&b"rdvmgo"[..], b"", &[0xff; 5000]] {
        let Some(said) = guest.run_record(record) else {
            return;
        };
        // Nobody said where the status port is, so nothing is heard; the machine ends all the same.
        assert!(said.events.is_empty() && said.stdout.is_empty());
    }
}

/// A user namespace's root may set `user.*` and nothing that only the machine's root may.
#[test]
fn attributes_are_set_before_the_command_and_what_is_refused_is_counted() {
    let guest = Guest::new();
    let mut table = AttributesTable::default();
    table.push(b".", [(&b"user.root"[..], &b"r"[..])].into_iter());
    let two: [(&[u8], &[u8]); 3] = [
        (b"security.capability", b"malformed"),
        (b"trusted.a", b""),
        (b"user.b", b"\0\xff"),
    ];
    table.push(b"bin/busybox", two.into_iter());
    // A link, which is not followed, may not have it.
    table.push(b"bin/sh", [(&b"user.link"[..], &b""[..])].into_iter());
    table.push(b"nowhere", [(&b"user.c"[..], &b""[..])].into_iter());
    let Some(said) = guest.run_table(table.finish().as_deref()) else {
        return;
    };
    let [
        Event::Ready { .. },
        Event::AttributesLost(lost),
        Event::Started(_),
        Event::Exited(0, _),
    ] = said.events[..]
    else {
        panic!("{:?}", said.events);
    };
    assert_eq!(
        (lost.attributes, lost.files, lost.capabilities, lost.first),
        (4, 3, 1, 1)
    );
    assert_eq!(lost.errno, 22);
    let value = |path: &str, name: &str| {
        let mut value = [0; 64];
        let length = rustix::fs::lgetxattr(guest.path(path), name, &mut value).unwrap();
        value[..length].to_vec()
    };
    assert_eq!(value("", "user.root"), b"r");
    assert_eq!(value("bin/busybox", "user.b"), b"\0\xff");
    let mut none = [0; 8];
    let followed = rustix::fs::lgetxattr(guest.path("bin/busybox"), "user.link", &mut none);
    assert_eq!(followed, Err(rustix::io::Errno::NODATA));
    assert!(!guest.path("init.xattrs").exists());
}

#[test]
fn a_table_that_is_damaged_or_missing_starts_nothing() {
    let guest = Guest::new();
    let mut table = AttributesTable::default();
    table.push(b"bin", [(&b"user.a"[..], &b"a"[..])].into_iter());
    let table = table.finish().unwrap();
    for table in [Some(&table[..table.len() - 1]), Some(b""), None] {
        let Some(said) = guest.run_table(table) else {
            return;
        };
        // As without a record: nobody said where the status port is.
        assert!(said.events.is_empty() && said.stdout.is_empty());
        let mut value = [0; 8];
        let found = rustix::fs::lgetxattr(guest.path("bin"), "user.a", &mut value);
        assert_eq!(found, Err(rustix::io::Errno::NODATA));
    }
}

#[test]
fn rdinit_is_a_small_static_program_that_needs_nothing() {
    assert!(RDINIT.len() < 72 << 10, "{} bytes", RDINIT.len());
    assert_eq!(&RDINIT[..4], b"\x7fELF");
    let program_headers = RDINIT[64..].chunks(56).take(usize::from(RDINIT[56]));
    const PT_INTERP: u8 = 3;
    assert!(
        program_headers
            .into_iter()
            .all(|header| header[0] != PT_INTERP),
        "it wants a dynamic loader"
    );
}
