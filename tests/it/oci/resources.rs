//! Limits, and the control groups of the host.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use super::bundle::Bundle;
use crate::support::{any_engine, left_out};

#[test]
fn the_limit_of_memory_is_the_commands_room() {
    for engine in any_engine() {
        // A hundred MiB go in, two hundred do not.
        let script = |mib: u32| {
            format!(
                "busybox dd if=/dev/zero of=/file bs=1M count={mib} 2>/dev/null && echo fits || echo full"
            )
        };
        let limit = json!({"memory": {"limit": 128 << 20, "swap": 256 << 20}, "cpu": {"shares": 0}, "blockIO": {"weight": 0}});
        let bundle = |mib| Bundle::sh(engine, &script(mib)).with("/linux/resources", limit.clone());
        assert_eq!(bundle(100).run().1, "fits\n");
        assert_eq!(bundle(200).run().1, "full\n");
    }
}

#[test]
fn a_quota_of_cpu_time_gives_the_cpus_that_it_keeps_busy() {
    for engine in any_engine() {
        let cpu = json!({"cpu": {"quota": 150_000, "period": 100_000}});
        let bundle = Bundle::sh(engine, "busybox nproc").with("/linux/resources", cpu);
        assert_eq!(bundle.run().1, "2\n");
        let bundle = Bundle::sh(engine, "busybox nproc").annotated("org.rdvm.cpus", "3");
        assert_eq!(bundle.run().1, "3\n");
    }
}

#[test]
fn there_are_no_more_processes_than_the_limit() {
    for engine in any_engine() {
        let script = "n=0; while [ $n -lt 30 ]; do busybox sleep 100 & n=$((n+1)); done; echo done";
        let bundle = Bundle::sh(engine, script).with("/linux/resources/pids/limit", json!(10));
        let (code, out, err) = bundle.run();
        assert!(code != 0 && !out.contains("done"), "{code} {out} {err}");
        assert!(err.contains("fork"), "{err}");
    }
}

#[test]
fn a_time_out_counts_from_start() {
    for engine in any_engine() {
        let bundle = Bundle::sh(engine, "echo up; sleep 1000").annotated("org.rdvm.timeout", "3s");
        let mut container = bundle.create("one");
        std::thread::sleep(std::time::Duration::from_millis(3200));
        container.start();
        assert_eq!(container.wait(), 124);
        assert_eq!(bundle.printed("out"), "up\n");
    }
}

#[test]
fn the_machine_is_in_the_control_groups_and_they_are_removed() {
    for engine in any_engine() {
        let name = format!("rdvm-test-{}", std::process::id());
        let bundle = Bundle::sh(engine, "sleep 1000")
            .with("/linux/cgroupsPath", json!(format!("/{name}/one")))
            .with(
                "/linux/resources/cpu",
                json!({"shares": 512, "quota": 50_000, "period": 100_000}),
            );
        let container = bundle.create("one");
        let groups = groups(&format!("{name}/one"));
        if groups.is_empty() {
            return left_out("no control groups are mounted, or none can be made");
        }
        for group in &groups {
            let inside = fs::read_to_string(group.join("cgroup.procs")).unwrap();
            assert!(
                inside.lines().any(|pid| pid == container.pid.to_string()),
                "{group:?}"
            );
            let read = |name: &str| fs::read_to_string(group.join(name)).ok();
            let is = |name: &str, value: &str| read(name).is_none_or(|text| text.trim() == value);
            assert!(
                is("cpu.shares", "512")
                    && is("cpu.cfs_quota_us", "50000")
                    && is("cpu.max", "50000 100000")
            );
        }
        bundle.does(&["delete", "--force", "one"]);
        for group in &groups {
            assert!(!group.exists(), "{group:?}");
            let _ = fs::remove_dir(group.parent().unwrap());
        }
    }
}

#[test]
fn without_a_manager_no_group_is_made() {
    for engine in any_engine() {
        let name = format!("rdvm-none-{}", std::process::id());
        let mut bundle =
            Bundle::sh(engine, "exit 0").with("/linux/cgroupsPath", json!(format!("/{name}")));
        bundle.options = ["--cgroup-manager", "disabled"].map(str::to_owned).to_vec();
        let _container = bundle.create("one");
        assert_eq!(groups(&name), [""; 0].map(PathBuf::from));
    }
}

#[test]
fn systemd_is_asked_by_its_own_program() {
    for engine in any_engine() {
        let mut bundle = Bundle::sh(engine, "exit 0")
            .with("/linux/cgroupsPath", json!("machine.slice:libpod:abc"));
        bundle.options = vec!["--systemd-cgroup".to_owned()];
        let tools = bundle.path("tools");
        fs::create_dir(&tools).unwrap();
        let said = bundle.path("said");
        let script = format!(
            "#!/bin/sh\necho \"$@\" >>{}\necho no bus >&2\nexit 1\n",
            said.display()
        );
        fs::write(tools.join("busctl"), script).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(tools.join("busctl"), mode).unwrap();
        bundle.write();
        let path = bundle.path("");
        let mut command = bundle.command(&["create", "-b", path.to_str().unwrap(), "one"]);
        let output = command
            .env("PATH", format!("{}:/usr/bin:/bin", tools.display()))
            .output()
            .unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(
            errors.contains("busctl: asking systemd for libpod-abc.scope: no bus"),
            "{errors}"
        );
        let said = fs::read_to_string(said).unwrap();
        assert!(
            said.contains("StartTransientUnit ssa(sv)a(sa(sv)) libpod-abc.scope replace"),
            "{said}"
        );
        assert!(said.contains("Slice s machine.slice"), "{said}");
    }
}

/// The directories of that name in the hierarchies of this host.
fn groups(name: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (_, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
        kind.starts_with("cgroup")
            .then(|| PathBuf::from(at).join(name))
    });
    mounts.filter(|group| group.exists()).collect()
}
