//! A machine that a program starts, stops and waits for, through the library.

use std::fs::File;
use std::io::{Read, pipe};

use rdvm::{EngineChoice, Request, Sandbox, Streams};

use crate::support::{busybox, engines, note_run};

const SIGTERM: i32 = 15;

#[test]
fn a_sandbox_is_started_once_stopped_and_waited_for() {
    for engine in engines() {
        note_run(engine);
        let choice = match *engine {
            "kvm" => EngineChoice::Kvm,
            _ => EngineChoice::Qemu,
        };
        let sandbox = |script: &str| {
            let words = ["busybox", "sh", "-c", script];
            Sandbox::create(Request::new(busybox().path(), words).engine(choice)).unwrap()
        };
        let (mut output, stdout) = pipe().unwrap();
        let mut streams = Some(stdout.into());
        let mut streams = || Streams {
            stdin: None,
            stdout: streams
                .take()
                .unwrap_or_else(|| File::create("/dev/null").unwrap().into()),
            stderr: File::create("/dev/null").unwrap().into(),
        };

        let mut ends = sandbox("echo out; exit 3");
        ends.start(streams()).unwrap();
        assert!(ends.start(streams()).is_err(), "started twice");
        let mut printed = String::new();
        output.read_to_string(&mut printed).unwrap();
        assert_eq!(printed, "out\n");
        assert_eq!(ends.wait().unwrap().report.exit_code, 3);

        let mut held = Request::new(busybox().path(), ["busybox", "true"]).engine(choice);
        held.held = true;
        let mut held = Sandbox::create(held).unwrap();
        held.start(streams()).unwrap();
        held.release();
        assert_eq!(held.wait().unwrap().report.exit_code, 0);

        let mut sleeps = sandbox("sleep 1000");
        sleeps.start(streams()).unwrap();
        sleeps.signal(SIGTERM);
        assert_eq!(sleeps.wait().unwrap().report.exit_code, 128 + 15);

        assert!(sandbox("true").wait().is_err(), "was not started");
    }
}
