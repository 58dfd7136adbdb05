//! The proxy in a process of its own. The process is this test program, told to run one test.

use std::fs;
use std::process::Command;

use rdvm_proto::{NetFrame, NetKind};

use super::*;
use crate::process::{Proxy, main};
use crate::skips::left_out;

/// The process that the others start: without a parent it is a test that does nothing.
#[test]
fn child() {
    let is_child = std::env::args().any(|argument| argument == "--test-threads=1")
        && std::env::vars_os().next().is_none();
    if is_child {
        std::process::exit(match main() == std::process::ExitCode::SUCCESS {
            true => 0,
            false => 1,
        });
    }
}

fn command() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "tests::process::child",
        "--test-threads=1",
        "--nocapture",
    ]);
    command
}

fn settings(rules: &[String]) -> Settings {
    Settings {
        allow: rules.iter().map(|rule| rule.parse().unwrap()).collect(),
        upstream: None,
        remedy: "--rule {} allows it".into(),
    }
}

fn ask(proxy: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(proxy).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    rest(&mut stream)
}

#[test]
fn the_process_carries_requests_and_published_ports_and_leaves_a_record() {
    let server = answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    let published = format!("0:{}", server.port())
        .parse::<crate::PublishRule>()
        .unwrap()
        .listen()
        .unwrap();
    let port = published.listener.local_addr().unwrap();
    let (proxy, link) =
        Proxy::start(command(), &settings(&allow(server)), vec![published]).unwrap();
    let (address, end) = guest(&link);
    let get = |host: &str| {
        format!(
            "GET http://{host}:{}/ HTTP/1.1\r\nConnection: close\r\n\r\n",
            server.port()
        )
    };
    assert!(ask(address, &get("127.0.0.1")).ends_with("ok"));
    assert!(ask(address, &get("evil.example")).contains("--rule evil.example:"));
    assert!(
        ask(port, "GET / HTTP/1.1\r\n\r\n").ends_with("ok"),
        "by the published port"
    );
    // The record comes while the process runs, too.
    until("the record is written", || {
        !proxy.record().reached.is_empty()
    });
    link.shutdown(Shutdown::Both).unwrap();
    drop(link);
    end.join().unwrap().unwrap();
    let id = proxy.id();
    let (record, complaint) = proxy.finish();
    assert_eq!(complaint, None);
    assert_eq!(
        (
            record.reached[0].host.as_str(),
            record.reached[0].connections
        ),
        ("127.0.0.1", 1)
    );
    assert!(record.reached[0].received > 50, "{record:?}");
    assert_eq!(
        (record.refused[0].host.as_str(), record.refused[0].times),
        ("evil.example", 1)
    );
    assert_eq!(record.fault, None);
    assert!(!fs::exists(format!("/proc/{id}")).unwrap());
}

fn check_confinement(id: u32) {
    let file = |name: &str| fs::read_to_string(format!("/proc/{id}/{name}")).unwrap();
    assert_eq!(file("environ"), "");
    // The first thread is the test program's own, which has started before. That of the request may end meanwhile.
    let threads = fs::read_dir(format!("/proc/{id}/task")).unwrap().flatten();
    let threads = threads.filter(|thread| *thread.file_name() != *id.to_string());
    let read = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("status")).ok();
    let statuses: Vec<_> = threads.filter_map(read).collect();
    assert!(statuses.len() >= 2, "{statuses:?}");
    for status in statuses {
        assert!(status.contains("\nNoNewPrivs:\t1\n"), "{status}");
    }
    let limits = file("limits");
    for (name, limit) in [
        ("Max core file size", "0"),
        ("Max open files", "1024"),
        ("Max file size", "4194304"),
    ] {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        let values: Vec<_> = line[name.len()..].split_whitespace().take(2).collect();
        assert_eq!(values, [limit, limit], "{line}");
    }
    let mut links: Vec<_> = fs::read_dir(format!("/proc/{id}/fd"))
        .unwrap()
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .map(|path| path.to_string_lossy().split(':').next().unwrap().to_owned())
        .collect();
    links.sort();
    links.dedup();
    assert_eq!(links, ["/dev/null", "/memfd", "pipe", "socket"]);
    assert_eq!(
        fs::read_link(format!("/proc/{id}/cwd")).unwrap().to_str(),
        Some("/")
    );
}

#[test]
fn the_process_has_its_link_its_record_and_nothing_of_its_parents() {
    // A descriptor that the parent would pass on, and a variable.
    let secret = fs::File::open("/proc/version").unwrap();
    rustix::io::fcntl_setfd(&secret, rustix::io::FdFlags::empty()).unwrap();
    let mut command = command();
    command.env("SECRET", "x");
    let (proxy, link) = Proxy::start(command, &settings(&[]), Vec::new()).unwrap();
    drop(secret);
    let id = proxy.id();
    let (address, end) = guest(&link);
    assert!(
        ask(address, "nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "),
        "it runs"
    );
    // Not dumpable, its files below /proc are root's.
    match rustix::process::geteuid().is_root() {
        true => check_confinement(id),
        false => left_out("only root can look into a process that is not dumpable"),
    }
    link.shutdown(Shutdown::Both).unwrap();
    end.join().unwrap().unwrap();
    assert_eq!(proxy.finish(), (Record::default(), None));
}

#[test]
fn a_record_survives_a_process_that_is_killed() {
    let (proxy, link) = Proxy::start(command(), &settings(&[]), Vec::new()).unwrap();
    let (address, end) = guest(&link);
    assert!(ask(address, "GET http://a.example/ HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 403"));
    until("the record is written", || {
        !proxy.record().refused.is_empty()
    });
    let id = rustix::process::Pid::from_raw(proxy.id() as i32).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
    end.join().unwrap().unwrap();
    let (record, _) = proxy.finish();
    assert_eq!(record.refused[0].host, "a.example");
}

#[test]
fn a_guest_that_breaks_a_rule_ends_the_process_and_is_named_in_the_record() {
    let (proxy, link) = Proxy::start(command(), &settings(&[]), Vec::new()).unwrap();
    let mut frame = [0; 16];
    let length = NetFrame {
        stream: 2,
        kind: NetKind::Finish,
    }
    .encode(&mut frame)
    .unwrap();
    (&link).write_all(&frame[..length]).unwrap();
    assert_eq!((&link).read(&mut [0; 1]).unwrap_or(0), 0, "the link ends");
    let (record, complaint) = proxy.finish();
    assert_eq!(
        record.fault.unwrap(),
        "network: the guest sent a frame for a stream that was never opened"
    );
    assert_eq!(complaint, None);
}

#[test]
fn a_process_that_hangs_is_killed() {
    let mut command = Command::new("sleep");
    command.arg("1000");
    let start = std::time::Instant::now();
    let (proxy, link) = Proxy::start(command, &settings(&[]), Vec::new()).unwrap();
    let id = proxy.id();
    drop(link);
    assert_eq!(proxy.finish(), (Record::default(), None));
    assert!(start.elapsed() < LONG && !fs::exists(format!("/proc/{id}")).unwrap());
}

#[test]
fn what_does_not_start_is_told_in_a_line() {
    let start = |command, settings: &Settings, count: usize| {
        let published = (0..count).map(|_| {
            "0:80"
                .parse::<crate::PublishRule>()
                .unwrap()
                .listen()
                .unwrap()
        });
        Proxy::start(command, settings, published.collect())
            .unwrap_err()
            .to_string()
    };
    let missing = start(Command::new("/nonexistent"), &settings(&[]), 0);
    assert_eq!(
        missing,
        "network: the proxy did not start: No such file or directory"
    );
    let many = start(command(), &settings(&[]), 201);
    assert_eq!(
        many,
        "network: 201 published ports are too many; the most are 200"
    );
    let long = settings(&vec!["a.example".to_owned(); 1_000_000]);
    assert!(start(command(), &long, 0).starts_with("network: the rules have "));
}

#[test]
fn sixty_four_downloads_at_once_need_little_memory() {
    const LENGTH: usize = 4 << 20;
    let server = server(|mut stream| {
        head(&mut stream);
        let _ = write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\nConnection: close\r\n\r\n"
        );
        let _ = stream.write_all(&vec![b'x'; LENGTH]);
    });
    let (proxy, link) = Proxy::start(command(), &settings(&allow(server)), Vec::new()).unwrap();
    let (address, end) = guest(&link);
    let request = format!(
        "GET http://127.0.0.1:{}/ HTTP/1.1\r\nConnection: close\r\n\r\n",
        server.port()
    );
    thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                let answer = ask(address, &request);
                assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.len() > LENGTH);
            });
        }
    });
    let status = fs::read_to_string(format!("/proc/{}/status", proxy.id())).unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let peak: u64 = peak.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    println!("the proxy's peak: {peak} KiB");
    assert!(peak < 48 << 10, "{peak} KiB");
    link.shutdown(Shutdown::Both).unwrap();
    end.join().unwrap().unwrap();
    let (record, complaint) = proxy.finish();
    assert_eq!(complaint, None);
    assert_eq!(record.reached[0].connections, 64);
    assert!(record.reached[0].received > 64 * LENGTH as u64);
}
