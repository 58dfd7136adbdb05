//! `mounts` of the configuration: snapshots of the host's files, and file systems of the guest's own.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;

use serde_json::{Value, json};

use super::bundle::Bundle;
use crate::support::any_engine;

fn bind(source: &std::path::Path, destination: &str, options: &[&str]) -> Value {
    let options: Vec<&str> = ["rbind", "rprivate"]
        .iter()
        .chain(options)
        .copied()
        .collect();
    json!({"destination": destination, "type": "bind", "source": source, "options": options})
}

#[test]
fn directories_and_files_of_the_host_are_snapshots() {
    for engine in any_engine() {
        let script = "
            busybox cat /data/file /data/sub/more /etc/one; busybox stat -c %u:%g:%a /data/file /etc/one
            for f in /data/file /data/new /etc/one; do echo changed 2>/dev/null >$f || echo fixed; done";
        let bundle = Bundle::sh(engine, script);
        let data = bundle.path("data");
        fs::create_dir_all(data.join("sub")).unwrap();
        fs::write(data.join("file"), "file\n").unwrap();
        fs::write(data.join("sub/more"), "more\n").unwrap();
        fs::write(bundle.path("one"), "one\n").unwrap();
        for path in [data.join("file"), bundle.path("one")] {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            chown(&path, Some(1000), Some(100)).unwrap();
        }
        let one = bind(&bundle.path("one"), "/etc/one", &["ro"]);
        let bundle = bundle
            .with("/mounts/-", bind(&data, "/data", &["ro"]))
            .with("/mounts/-", one);
        let (code, out, err) = bundle.run();
        let owners = "1000:100:644\n1000:100:644\n";
        let expected = format!("file\nmore\none\n{owners}fixed\nfixed\nfixed\n");
        assert_eq!((code, &*out), (0, &*expected), "{err}");
        assert_eq!(fs::read(data.join("file")).unwrap(), b"file\n");
    }
}

#[test]
fn a_writable_bind_is_refused_or_copied_back() {
    for engine in any_engine() {
        let script = "echo new >/data/new; echo changed >/data/old; exit 3";
        let bundle = Bundle::sh(engine, script);
        let data = bundle.path("data");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("old"), "old\n").unwrap();
        let bundle = bundle.with("/mounts/-", bind(&data, "/data", &["rw"]));
        bundle.is_refused(
            "/data: the guest cannot write to the host's files; bind it read-only, or as a copy",
        );
        let bundle = bundle.annotated("org.rdvm.volumes", "copy");
        let (code, _, err) = bundle.run();
        assert_eq!(code, 3, "{err}");
        assert_eq!(fs::read(data.join("new")).unwrap(), b"new\n");
        assert_eq!(fs::read(data.join("old")).unwrap(), b"changed\n");
    }
}

#[test]
fn the_files_that_engines_bind_everywhere_are_copies() {
    for engine in any_engine() {
        let script = "busybox cat /etc/hosts; echo more >>/etc/hosts && echo last words >/dev/termination-log";
        let bundle = Bundle::sh(engine, script);
        let (hosts, log) = (bundle.path("hosts"), bundle.path("log"));
        fs::write(&hosts, "127.0.0.1 box\n").unwrap();
        fs::write(&log, "").unwrap();
        let bundle = bundle
            .with("/mounts/-", bind(&hosts, "/etc/hosts", &["rw"]))
            .with("/mounts/-", bind(&log, "/dev/termination-log", &["rw"]));
        let (code, out, err) = bundle.run();
        assert_eq!((code, &*out), (0, "127.0.0.1 box\n"), "{err}");
        assert_eq!(fs::read(&hosts).unwrap(), b"127.0.0.1 box\n");
        assert_eq!(fs::read(&log).unwrap(), b"last words\n");
    }
}

#[test]
fn mounts_that_a_guest_cannot_have_are_refused() {
    for engine in any_engine() {
        let socket = || {
            let bundle = Bundle::sh(engine, "exit 0");
            let path = bundle.path("docker.sock");
            drop(UnixListener::bind(&path).unwrap());
            bundle.with("/mounts/-", bind(&path, "/var/run/docker.sock", &["ro"]))
        };
        socket().is_refused("docker.sock is a socket of the host's; a machine has no way to it");
        let mount = |mount: Value| Bundle::sh(engine, "exit 0").with("/mounts/-", mount);
        mount(json!({"destination": "/x", "type": "nfs", "source": "host:/x"}))
            .is_refused("no file system \"nfs\"");
        mount(json!({"destination": "/x", "type": "bind", "source": "/nonexistent/x", "options": ["ro"]}))
            .is_refused("/nonexistent/x: No such file");
        mount(json!({"destination": "/../", "type": "tmpfs"}))
            .is_refused("the root is no mount point");
        mount(bind("/etc".as_ref(), "/x", &["ro", "rshared"]))
            .is_refused("org.rdvm.ignore=propagation");
        mount(bind("/etc".as_ref(), "/x", &["ro", "nosuch"]))
            .is_refused("option \"nosuch\" is not known");
        let mapped = json!({"destination": "/x", "type": "bind", "source": "/etc", "options": ["ro"],
            "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]});
        mount(mapped).is_refused("org.rdvm.ignore=mount-options");
    }
}

#[test]
fn a_tmpfs_that_copies_up_needs_an_empty_place() {
    for engine in any_engine() {
        let tmpfs = |at: &str| json!({"destination": at, "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]});
        let bundle = Bundle::sh(engine, "busybox touch /empty/x && echo ok")
            .with("/mounts/-", tmpfs("/empty"));
        assert_eq!(bundle.run().1, "ok\n");
        let bundle = Bundle::sh(engine, "exit 0").with("/mounts/-", tmpfs("/bin"));
        bundle.is_refused("org.rdvm.ignore=tmpcopyup");
    }
}
