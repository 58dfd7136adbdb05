//! `process` of the configuration, as the command sees it.

use serde_json::json;

use super::bundle::Bundle;
use crate::support::any_engine;

#[test]
fn environment_directory_and_name_are_the_configurations() {
    for engine in any_engine() {
        let bundle = Bundle::sh(engine, "busybox env | busybox sort; busybox pwd; busybox hostname; busybox cat /proc/sys/kernel/domainname")
            .with("/process/env", json!(["PATH=/bin", "A=1=2", "B="]))
            .with("/process/cwd", json!("/some/where"))
            .with("/domainname", json!("example"));
        let (code, out, err) = bundle.run();
        assert_eq!((code, &*err), (0, ""));
        let lines: Vec<&str> = out
            .lines()
            .filter(|line| !line.starts_with("SHLVL=") && !line.starts_with("PWD="))
            .collect();
        assert_eq!(
            lines,
            [
                "A=1=2",
                "B=",
                "HOME=/root",
                "PATH=/bin",
                "/some/where",
                "box",
                "example"
            ]
        );
    }
}

#[test]
fn the_user_has_the_numbers_groups_mask_and_limits_that_are_asked_for() {
    for engine in any_engine() {
        let bundle = Bundle::sh(engine, "busybox grep -E 'Uid|Gid|Groups|Umask' /proc/self/status; ulimit -n; ulimit -Hn; ulimit -c")
            .with("/process/user", json!({"uid": 1000, "gid": 100, "umask": 63, "additionalGids": [5, 70000]}))
            .with("/process/rlimits/-", json!({"type": "RLIMIT_CORE", "soft": 0, "hard": 0}));
        let (code, out, _) = bundle.run();
        assert_eq!(code, 0);
        let words: Vec<Vec<&str>> = out
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        let expected: [&[&str]; 7] = [
            &["Umask:", "0077"],
            &["Uid:", "1000", "1000", "1000", "1000"],
            &["Gid:", "100", "100", "100", "100"],
            &["Groups:", "5", "70000"],
            &["512"],
            &["1024"],
            &["0"],
        ];
        assert_eq!(words, expected);
    }
}

#[test]
fn capabilities_are_those_of_the_sets() {
    for engine in any_engine() {
        let show = "busybox grep -E '^(Cap|NoNewPrivs)' /proc/self/status";
        let root = Bundle::sh(engine, show).with("/process/noNewPrivileges", json!(true));
        let user = Bundle::sh(engine, show)
            .with("/process/user/uid", json!(1000))
            .with("/process/capabilities/inheritable", json!(["CAP_KILL"]))
            .with("/process/capabilities/ambient", json!(["CAP_KILL"]));
        let none = Bundle::sh(engine, show).with("/process/capabilities", json!(null));
        let sets = |bundle: &Bundle| -> Vec<u64> {
            let (code, out, _) = bundle.run();
            assert_eq!(code, 0);
            let number = |line: &str| {
                u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
            };
            out.lines().map(number).collect()
        };
        // Inheritable, permitted, effective, bounding, ambient; then no_new_privs.
        let (four, kill) = (1 | 1 << 5 | 1 << 7 | 1 << 10, 1 << 5);
        assert_eq!(sets(&root), [0, four, four, four, 0, 1]);
        assert_eq!(sets(&user), [kill, kill, kill, four, kill, 0]);
        assert_eq!(sets(&none), [0, 0, 0, 0, 0, 0]);
    }
}

#[test]
fn a_capability_that_there_is_not_is_a_warning() {
    for engine in any_engine() {
        let mut bundle =
            Bundle::sh(engine, "exit 0").with("/process/capabilities/bounding/-", json!("CAP_FLY"));
        let log = bundle.path("log");
        bundle.options = ["--log", log.to_str().unwrap(), "--log-format", "json"]
            .map(str::to_owned)
            .to_vec();
        assert_eq!(bundle.run().0, 0);
        let lines = std::fs::read_to_string(&log).unwrap();
        let line = lines.lines().find(|line| line.contains("CAP_FLY")).unwrap();
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["level"], "warning");
    }
}

#[test]
fn what_guards_the_hosts_kernel_is_a_warning() {
    for engine in any_engine().iter().take(1) {
        let mut bundle = Bundle::sh(engine, "exit 0")
            .with("/process/apparmorProfile", json!("docker-default"))
            .with("/process/selinuxLabel", json!("system_u:system_r:x"))
            .with("/linux/mountLabel", json!("system_u:object_r:x"));
        let log = bundle.path("log");
        bundle.options = ["--log", log.to_str().unwrap()].map(str::to_owned).to_vec();
        drop(bundle.create("one"));
        let log = std::fs::read_to_string(&log).unwrap();
        for name in [
            "linux.seccomp",
            "linux.mountLabel",
            "process.apparmorProfile",
            "process.selinuxLabel",
        ] {
            assert!(
                log.contains(&format!("level=warning msg=\"{name}: is not applied")),
                "{log}"
            );
        }
    }
}

#[test]
fn sysctls_masks_and_read_only_paths_hold() {
    for engine in any_engine() {
        let script = "
            busybox cat /proc/sys/net/ipv4/ip_default_ttl
            echo 1 2>/dev/null >/proc/sys/kernel/panic || echo fixed
            busybox wc -c </proc/version; busybox ls /sys/kernel | busybox wc -l";
        let bundle = Bundle::sh(engine, script)
            .with("/linux/sysctl", json!({"net.ipv4.ip_default_ttl": "77"}))
            .with(
                "/linux/maskedPaths",
                json!(["/proc/version", "/sys/kernel", "/nonexistent"]),
            );
        let (code, out, err) = bundle.run();
        assert_eq!((code, &*out), (0, "77\nfixed\n0\n0\n"), "{err}");
        let bundle =
            Bundle::sh(engine, "exit 0").with("/linux/sysctl", json!({"net.no.such": "1"}));
        let (code, _, err) = bundle.run();
        assert_eq!(code, 125);
        assert!(
            err.contains("net/no/such") || err.contains("net.no.such"),
            "{err}"
        );
    }
}

#[test]
fn a_read_only_root_is_one_and_what_is_mounted_is_not() {
    for engine in any_engine() {
        let script = "
            echo x 2>/dev/null >/file || echo fixed
            for d in /dev/shm /tmp /run/more; do echo x >$d/file && echo $d; done
            busybox df -k /tmp | busybox awk 'NR==2 {print $2}'";
        let tmpfs = |at: &str| json!({"destination": at, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=1m"]});
        let bundle = Bundle::sh(engine, script)
            .with("/root/readonly", json!(true))
            .with("/mounts/-", tmpfs("/tmp"))
            .with("/mounts/-", tmpfs("/run/more"));
        let (code, out, err) = bundle.run();
        assert_eq!(
            (code, &*out),
            (0, "fixed\n/dev/shm\n/tmp\n/run/more\n1024\n"),
            "{err}"
        );
    }
}
