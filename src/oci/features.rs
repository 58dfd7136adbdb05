//! Features of the runtime, for engines that ask (the specification's document of features).

use serde_json::{Value, json};

use super::options;
use super::process::capability_names;
use super::spec::{OLDEST, VERSION};

/// Returns the answer, as JSON.
pub fn features() -> Value {
    let capabilities: Vec<String> = capability_names().collect();
    let version = env!("CARGO_PKG_VERSION");
    json!({
        "ociVersionMin": OLDEST,
        "ociVersionMax": VERSION,
        "hooks": ["prestart", "createRuntime", "poststart", "poststop"],
        "mountOptions": options::names(),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"],
            "capabilities": capabilities,
            "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": false},
            "seccomp": {"enabled": false},
            "apparmor": {"enabled": false},
            "selinux": {"enabled": false},
            "intelRdt": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": false}},
            "netDevices": {"enabled": false}
        },
        "annotations": {"org.rdvm.version": version},
        "potentiallyUnsafeConfigAnnotations": []
    })
}
