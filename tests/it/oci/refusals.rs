//! Refusals by name of what a machine cannot give, before anything is made.

use serde_json::{Value, json};

use super::bundle::Bundle;
use crate::support::{any_engine, is_missing, left_out, missing};

fn namespaces(without: &str) -> Value {
    let kinds = ["pid", "network", "ipc", "uts", "mount"];
    let kinds = kinds.iter().filter(|kind| **kind != without);
    kinds.map(|kind| json!({ "type": kind })).collect()
}

#[test]
fn what_cannot_be_kept_is_refused_by_name() {
    let hook = json!([{"path": "/bin/true"}]);
    let shared = |kind: &str| json!([{"type": kind, "path": "/proc/self/ns/x"}]);
    let cases: [(&str, Value, &str); 25] = [
        (
            "/ociVersion",
            json!("2.0.0"),
            "ociVersion: \"2.0.0\": is not read",
        ),
        ("/ociVersion", json!(""), "ociVersion"),
        ("/windows", json!({}), "windows: guests run Linux"),
        (
            "/vm",
            json!({"kernel": {"path": "/boot/x"}}),
            "vm: guests run Linux",
        ),
        ("/process", Value::Null, "process: is missing"),
        ("/root", Value::Null, "root: is missing"),
        (
            "/root/path",
            json!("/nonexistent/root"),
            "/nonexistent/root: No such file",
        ),
        ("/root/path", json!("/bin/busybox"), "is no directory"),
        (
            "/process/args",
            json!([]),
            "process.args: there is no program",
        ),
        (
            "/process/cwd",
            json!("relative"),
            "process.cwd: not an absolute path",
        ),
        (
            "/process/env",
            json!(["=x"]),
            "process.env: \"=x\": no name",
        ),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_NOSUCH", "soft": 1, "hard": 1}]),
            "RLIMIT_NOSUCH: no limit",
        ),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]),
            "soft is more than hard",
        ),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}, {"type": "RLIMIT_CPU", "soft": 1, "hard": 1}]),
            "given twice",
        ),
        (
            "/process/scheduler",
            json!({"policy": "SCHED_FIFO"}),
            "org.rdvm.ignore=scheduler",
        ),
        (
            "/hooks/startContainer",
            hook.clone(),
            "org.rdvm.ignore=hooks",
        ),
        ("/hooks/createContainer", hook, "org.rdvm.ignore=hooks"),
        (
            "/hooks/prestart",
            json!([{"path": "relative"}]),
            "not an absolute path",
        ),
        (
            "/linux/devices",
            json!([{"path": "/dev/kvm", "type": "c", "major": 10, "minor": 232}]),
            "/dev/kvm: a machine has no devices",
        ),
        (
            "/linux/namespaces",
            namespaces("pid"),
            "org.rdvm.ignore=pid",
        ),
        ("/linux/namespaces", shared("ipc"), "org.rdvm.ignore=ipc"),
        (
            "/linux/namespaces",
            json!([{"type": "pid"}, {"type": "pid"}]),
            "pid: given twice",
        ),
        (
            "/linux/namespaces",
            json!([{"type": "nosuch"}]),
            "no kind of namespace",
        ),
        (
            "/linux/personality",
            json!({"domain": "LINUX32"}),
            "org.rdvm.ignore=personality",
        ),
        (
            "/linux/resources",
            json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4096}]}),
            "org.rdvm.ignore=resources",
        ),
    ];
    for engine in any_engine().iter().take(1) {
        for (pointer, value, text) in &cases {
            Bundle::sh(engine, "exit 0")
                .with(pointer, value.clone())
                .is_refused(text);
        }
    }
}

#[test]
fn annotations_of_rdvms_own_are_checked() {
    for engine in any_engine().iter().take(1) {
        for (name, value, text) in [
            ("org.rdvm.nosuch", "1", "there is no such annotation"),
            (
                "org.rdvm.ignore",
                "network,nosuch",
                "nosuch: nothing is refused by that name",
            ),
            ("org.rdvm.memory", "much", "org.rdvm.memory"),
            ("org.rdvm.cpus", "17", "not a number from 1 to 16"),
            ("org.rdvm.timeout", "x", "org.rdvm.timeout"),
            ("org.rdvm.root", "x", "not auto, initrd or erofs"),
            ("org.rdvm.volumes", "x", "the only value is copy"),
            ("org.rdvm.allow", "http://x/", "org.rdvm.allow"),
        ] {
            Bundle::sh(engine, "exit 0")
                .annotated(name, value)
                .is_refused(text);
        }
    }
}

#[test]
fn a_network_is_refused_unless_it_is_not_wanted() {
    for engine in any_engine() {
        let host = Bundle::sh(engine, "exit 0").with("/linux/namespaces", namespaces("network"));
        host.is_refused("none is the host's, but a machine has no network card");
        let bundle = host.annotated("org.rdvm.ignore", "network");
        assert_eq!(bundle.run().0, 0);
        let absent = Bundle::sh(engine, "exit 0").with(
            "/linux/namespaces",
            json!([{"type": "pid"}, {"type": "ipc"}, {"type": "network", "path": "/nonexistent/ns"}]),
        );
        absent.is_refused("/nonexistent/ns: No such file");
        if is_missing("ip") {
            return missing("ip (iproute2)");
        }
        let veth = "ip link add rdvmtest0 type veth peer name rdvmtest1";
        let probe = std::process::Command::new("unshare")
            .args(["-n", "sh", "-c", veth])
            .status();
        if !probe.unwrap().success() {
            return left_out("this kernel has no veth");
        }
        // An interface that a hook puts there, as docker does.
        let script = "pid=$(busybox grep -o '\"pid\":[0-9]*' | busybox cut -d: -f2); ip link add rdvmtest0 netns $pid type veth peer name rdvmtest1 netns $pid";
        let script = script.replace("busybox", "/bin/busybox");
        let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/sbin:/sbin:/usr/bin:/bin"]}]);
        let bundle = Bundle::sh(engine, "exit 0").with("/hooks/prestart", hook);
        bundle.is_refused("has the interface rdvmtest");
    }
}

#[test]
fn a_step_of_a_build_is_refused_with_the_way_out() {
    for engine in any_engine().iter().take(1) {
        let bundle = Bundle::sh(engine, "exit 0");
        bundle.write();
        let path = bundle.path("");
        let words = ["create", "-b", path.to_str().unwrap(), "buildah-buildah123"];
        bundle.refuses(&words, "podman build --isolation chroot");
        for id in ["", "..", "a/b", "a b", &"x".repeat(256)] {
            bundle.refuses(
                &["create", "-b", path.to_str().unwrap(), id],
                "the name is not usable",
            );
        }
    }
}

#[test]
fn a_configuration_that_is_none_is_an_error() {
    for engine in any_engine().iter().take(1) {
        let bundle = Bundle::sh(engine, "exit 0");
        let path = bundle.path("");
        let words = ["create", "-b", path.to_str().unwrap(), "one"];
        bundle.refuses(&words, "config.json: No such file");
        for text in [
            "",
            "{",
            "[]",
            "{\"process\": 7}",
            "\u{0}",
            &"[".repeat(100_000),
        ] {
            std::fs::write(bundle.path("config.json"), text).unwrap();
            bundle.refuses(&words, "config.json");
        }
        bundle.refuses(
            &["create", "-b", "/nonexistent/bundle", "one"],
            "/nonexistent/bundle: No such file",
        );
    }
}
