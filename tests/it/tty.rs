//! A terminal for the command: raw while it runs and exactly what it was before at every end, as large as ours, every key
//! the guest's.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::support::{
    Image, RDVM, Rdvm, any_engine, busybox, children_of, engines, eventually, hold_up, is_alive,
    note_run,
};
use crate::terminal::terminal;

/// A window with rdvm in it, in a session of its own as from a shell.
struct Window {
    master: File,
    programs: OwnedFd,
    before: String,
    rdvm: Child,
    seen: Arc<Mutex<Vec<u8>>>,
    closed: Arc<AtomicBool>,
    reader: JoinHandle<()>,
}

/// Everything that a terminal's settings are.
fn settings(terminal: &OwnedFd) -> String {
    format!("{:?}", tcgetattr(terminal).unwrap())
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// Shows what the programs in a window print, until none is left in it or it is closed.
fn show(mut master: File, seen: &Mutex<Vec<u8>>, closed: &AtomicBool) {
    let mut buffer = [0; 4096];
    let tick = Timespec {
        tv_sec: 0,
        tv_nsec: 50_000_000,
    };
    while !closed.load(Ordering::Relaxed) {
        if poll(&mut [PollFd::new(&master, PollFlags::IN)], Some(&tick)) == Ok(0) {
            continue;
        }
        match master.read(&mut buffer) {
            Ok(count @ 1..) => seen.lock().unwrap().extend_from_slice(&buffer[..count]),
            // EIO: nobody has the other end any more.
            _ => return,
        }
    }
}

impl Window {
    /// `rdvm run -it OPTIONS IMAGE COMMAND` in a window of 33 by 77.
    fn open(engine: &str, options: &[&str], image: &Path, command: &[&str]) -> Self {
        note_run(engine);
        let (master, programs) = terminal();
        tcsetwinsize(&master, size(33, 77)).unwrap();
        let end = || programs.try_clone().unwrap();
        let before = settings(&programs);
        // It executes the program in its own place: the number is rdvm's.
        let rdvm = Command::new("setsid")
            .args(["-c", RDVM, "run", "-it", "--engine", engine])
            .args(options)
            .arg(image)
            .args(command)
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let closed = Arc::new(AtomicBool::new(false));
        let reader = std::thread::spawn({
            let (master, seen) = (master.try_clone().unwrap(), Arc::clone(&seen));
            let closed = Arc::clone(&closed);
            move || show(master, &seen, &closed)
        });
        Self {
            master,
            programs,
            before,
            rdvm,
            seen,
            closed,
            reader,
        }
    }

    fn sh(engine: &str, options: &[&str], script: &str) -> Self {
        Self::open(engine, options, busybox().path(), &["sh", "-c", script])
    }

    /// Waits until a text has appeared.
    #[track_caller]
    fn shows(&mut self, text: &str) {
        let mut waited = 0;
        while !self.text().contains(text) {
            if let Some(status) = self.rdvm.try_wait().unwrap() {
                // It may have been the last that it wrote.
                std::thread::sleep(std::time::Duration::from_millis(100));
                let there = self.text();
                assert!(there.contains(text), "{status}, and no {text:?}: {there:?}");
                return;
            }
            waited += 1;
            assert!(waited < 6000, "no {text:?} in {:?}", self.text());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Types.
    fn types(&self, keys: &[u8]) {
        (&self.master).write_all(keys).unwrap();
    }

    fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.programs).unwrap().local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ISIG | LocalModes::ECHO)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.rdvm.id().try_into().unwrap()).unwrap()
    }

    /// Waits for rdvm's end: it has this code, and the terminal is as it was before. Gives all that was shown.
    #[track_caller]
    fn ends(mut self, code: i32) -> String {
        let status = self.rdvm.wait().unwrap();
        let after = settings(&self.programs);
        assert_eq!(status.code(), Some(code), "{status}: {:?}", self.text());
        assert_eq!(after, self.before, "the terminal is not what it was");
        drop(self.programs);
        self.reader.join().unwrap();
        let seen = self.seen.lock().unwrap();
        String::from_utf8_lossy(&seen).into_owned()
    }
}

/// How a run ends: options, what the command does when Enter is typed, what else is done then, and the exit code.
type End = (&'static [&'static str], &'static str, fn(&Window), i32);

#[test]
fn the_terminal_is_raw_while_the_command_runs_and_as_before_however_that_ends() {
    let nothing = |_: &Window| {};
    let ends: [End; 6] = [
        (&[], "exit 3", nothing, 3),
        (&[], "busybox reboot -f; sleep 100", nothing, 125),
        (&[], "echo c >/proc/sysrq-trigger; sleep 100", nothing, 125),
        (&["--timeout", "15s"], "sleep 1000", nothing, 124),
        (
            &[],
            "sleep 1000",
            |window| kill_process(window.pid(), Signal::TERM).unwrap(),
            143,
        ),
        (
            &[],
            "sleep 1000",
            |window| window.types(b"\x1d\x1d\x1d"),
            130,
        ),
    ];
    for engine in engines() {
        for (options, how, act, code) in ends {
            let script = format!("echo ready; read -r line; {how}");
            let mut window = Window::sh(engine, options, &script);
            window.shows("ready\r\n");
            assert!(window.is_raw(), "{how}");
            window.types(b"\r");
            act(&window);
            window.ends(code);
        }
    }
}

#[test]
fn the_terminal_is_left_alone_where_nothing_boots() {
    for engine in any_engine() {
        let window = Window::open(engine, &[], Path::new("/no/such/image"), &["sh"]);
        let text = window.ends(125);
        assert!(text.contains("/no/such/image"), "{text}");
    }
}

#[test]
fn before_the_command_runs_ctrl_c_is_ours() {
    for engine in engines() {
        // A talkative kernel takes its time.
        let options = ["--show-boot", "--append", "initcall_debug ignore_loglevel"];
        let mut window = Window::sh(engine, &options, "sleep 1000");
        window.shows("Linux version");
        assert!(!window.is_raw());
        window.types(b"\x03");
        window.ends(130);
    }
}

#[test]
fn the_command_has_a_terminal_as_large_as_ours_at_every_time() {
    for engine in engines() {
        let script =
            "stty size; trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.1; done";
        let mut window = Window::sh(engine, &[], script);
        window.shows("33 77\r\nready\r\n");
        tcsetwinsize(&window.master, size(40, 100)).unwrap();
        window.shows("40 100\r\n");
        window.ends(5);
    }
}

#[test]
fn a_window_that_changes_while_the_machine_boots_is_as_large_inside() {
    for engine in engines() {
        let script = "while [ \"$(stty size)\" != '40 100' ]; do sleep 0.1; done; exit 5";
        let mut window = Window::sh(engine, &["--show-boot"], script);
        window.shows("Linux version");
        tcsetwinsize(&window.master, size(40, 100)).unwrap();
        window.ends(5);
    }
}

/// Emulated, a boot takes longer than what no bar is shown for; on KVM it may not.
#[test]
fn a_bar_tells_how_long_it_boots_and_is_gone_before_the_first_byte() {
    for engine in engines() {
        let window = Window::sh(engine, &[], "printf begin; exit 5");
        if *engine == "qemu" {
            // However fast the host is, it boots for long enough.
            hold_up(window.rdvm.id(), || {
                window.text().contains("booting, ") || window.text().contains("begin")
            });
        }
        let text = window.ends(5);
        let (before, _) = text.split_once("begin").unwrap();
        assert_eq!(
            before.contains("rdvm: booting, "),
            !before.is_empty(),
            "{text:?}"
        );
        assert!(
            before.is_empty() || before.ends_with("s\r\u{1b}[K"),
            "{text:?}"
        );
        assert!(*engine != "qemu" || !before.is_empty(), "{text:?}");
        let quiet = Window::sh(engine, &["-q"], "printf begin; exit 5");
        assert!(quiet.ends(5).starts_with("begin"));
    }
}

#[test]
fn ctrl_c_and_the_like_are_the_guests() {
    for engine in engines() {
        let script = "trap 'echo int; i=1' INT; trap 'echo quit; exit 7' QUIT; echo ready; \
            while :; do sleep 0.1; done";
        let mut window = Window::sh(engine, &[], script);
        window.shows("ready\r\n");
        window.types(b"\x03");
        window.shows("int\r\n");
        window.types(b"\x1c");
        window.shows("quit\r\n");
        window.ends(7);
    }
}

#[test]
fn ctrl_c_is_heard_while_output_pours_out() {
    for engine in engines() {
        let mut window = Window::sh(engine, &[], "trap 'exit 9' INT; yes; exit 8");
        window.shows("y\r\ny\r\n");
        window.types(b"\x03");
        window.ends(9);
    }
}

#[test]
fn a_shell_has_its_jobs_and_ctrl_d_ends_it() {
    for engine in any_engine() {
        let mut window = Window::open(engine, &[], busybox().path(), &["sh"]);
        window.shows("# ");
        window.types(b"echo $((6 * 7))\r");
        window.shows("\n42\r\n");
        // A job of its own: Ctrl-C is for that and not for the shell.
        window.types(b"echo u''p; busybox cat\r");
        window.shows("\nup\r\n");
        window.types(b"line\r");
        window.shows("line\r\nline\r\n");
        window.types(b"\x03");
        window.shows("^C\r\n/ # ");
        window.types(b"echo code $?\r");
        window.shows("\ncode 130\r\n");
        window.types(b"\x04");
        let text = window.ends(0);
        assert!(!text.contains("job control"), "{text}");
    }
}

#[test]
fn keys_and_output_go_through_the_guests_terminal_and_through_nothing_else() {
    let all: Vec<u8> = (0..=255).collect();
    let image = Image::busybox().file("all", 0o644, &all);
    for engine in engines() {
        // What is printed, our terminal passes on as it is: in raw mode it changes nothing.
        let script = "printf 'a\\nb\\n'; stty raw -echo; cat /all; dd bs=1 count=256 2>/dev/null | sha256sum";
        // Nothing of ours: no bar while it boots.
        let mut window = Window::open(engine, &["-q"], image.path(), &["sh", "-c", script]);
        window.shows("a\r\nb\r\n");
        let printed = [b"a\r\nb\r\n", &all[..]].concat();
        eventually("all bytes are shown", || {
            window.seen.lock().unwrap().len() >= printed.len()
        });
        assert_eq!(*window.seen.lock().unwrap(), printed);
        window.types(&all);
        window.shows("40aff2e9d2d8922e47afd4648e6967497158785fbd1da870e7110266bf944880  -\n");
        window.ends(0);
    }
}

#[test]
fn a_user_of_the_images_can_open_the_terminal() {
    for engine in any_engine() {
        let script = "echo one >/dev/tty; echo two >\"$(tty)\"; read -r line </dev/tty; echo \"got $line\"; exit 4";
        let options = ["-u", "1000:1000"];
        let mut window = Window::sh(engine, &options, script);
        window.shows("one\r\ntwo\r\n");
        window.types(b"three\r");
        window.shows("got three\r\n");
        window.ends(4);
    }
}

#[test]
fn a_window_that_is_closed_ends_the_run() {
    for engine in engines() {
        let mut window = Window::sh(engine, &[], "echo ready; sleep 1000");
        window.shows("ready\r\n");
        let machines = children_of(window.rdvm.id());
        window.closed.store(true, Ordering::Relaxed);
        window.reader.join().unwrap();
        drop((window.master, window.programs));
        assert_eq!(window.rdvm.wait().unwrap().code(), Some(129));
        assert!(!machines.iter().any(|&pid| is_alive(pid)));
    }
}

/// Without a terminal of ours, the command still has one.
fn without(engine: &str, options: &[&str]) -> Rdvm {
    let rdvm = Rdvm::on(engine);
    let rdvm = options
        .iter()
        .fold(rdvm, |rdvm, option| rdvm.option(option));
    rdvm.image(busybox().path())
}

#[test]
fn without_a_terminal_of_ours_the_command_still_has_one_and_its_input_ends() {
    // More than a terminal holds, in lines that it takes.
    let lines: String = (0..8000)
        .map(|n| format!("this is line {n:04}\n"))
        .collect();
    for engine in any_engine() {
        for (input, script, expected) in [
            ("hi\n", "cat", "hi\r\nhi\r\n"),
            ("hi", "cat", "hihi"),
            ("", "cat; echo end", "end\r\n"),
            (&lines, "stty -echo; sleep 1; wc -l", "8000\r\n"),
        ] {
            let (run, fed) = without(engine, &["-it"])
                .sh(script)
                .fed(|mut stdin| stdin.write_all(input.as_bytes()));
            fed.unwrap();
            let run = run.exits(0).says_only("");
            // What came before echo was off is shown as well.
            let shown = run.stdout();
            assert!(shown.ends_with(expected), "{script}: {shown:?}");
            assert!(input.len() > 9 || shown == expected, "{script}: {shown:?}");
        }
        let (run, ended) = without(engine, &["-it"]).sh("head -n 1").fed(|mut stdin| {
            loop {
                if let Err(error) = stdin.write_all(b"line\n") {
                    return error.kind();
                }
            }
        });
        assert!(run.exits(0).stdout().contains("line\r\n"));
        assert_eq!(ended, ErrorKind::BrokenPipe);
    }
}

#[test]
fn a_terminal_without_input_is_one_too() {
    for engine in any_engine() {
        let script = "[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo out && echo err >&2; exit 3";
        without(engine, &["-t"])
            .stdin(Stdio::null())
            .sh(script)
            .run()
            .exits(3)
            .prints("out\r\nerr\r\n")
            .says_only("");
    }
}

#[test]
fn a_terminal_that_is_closed_or_hung_up_is_there_when_it_is_opened_again() {
    let image = Image::busybox().program("calls", "calls");
    let again = "sleep 0.2; exec <>/dev/console >&0 2>&0; [ -t 1 ] && echo again; exit 5";
    for engine in any_engine() {
        for end in [
            "exec </dev/null >/dev/null 2>&1",
            "trap '' HUP; /calls hangup",
        ] {
            Rdvm::on(engine)
                .option("-t")
                .stdin(Stdio::null())
                .image(image.path())
                .sh(&format!("echo first; {end}; {again}"))
                .run()
                .exits(5)
                .prints("first\r\nagain\r\n");
        }
    }
}
