//! `config.json` of a bundle, as the OCI runtime specification 1.0 to 1.2 has it: what rdvm reads of it.
//!
//! Unknown members are passed over, which the specification asks for ("Extensibility").

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The versions whose bundles are read.
pub(super) const OLDEST: &str = "1.0.0";
/// The version that the state is written in.
pub(super) const VERSION: &str = "1.2.0";

/// A bundle's configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Spec {
    pub(super) oci_version: String,
    pub(super) process: Option<Process>,
    pub(super) root: Option<Root>,
    pub(super) hostname: String,
    pub(super) domainname: String,
    pub(super) mounts: Vec<Mount>,
    pub(super) hooks: Hooks,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) linux: Linux,
    pub(super) solaris: Option<serde_json::Value>,
    pub(super) windows: Option<serde_json::Value>,
    pub(super) vm: Option<serde_json::Value>,
    pub(super) zos: Option<serde_json::Value>,
}

/// The container's command.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Process {
    pub(super) terminal: bool,
    pub(super) console_size: Option<ConsoleSize>,
    pub(super) cwd: String,
    pub(super) env: Vec<String>,
    pub(super) args: Vec<String>,
    pub(super) user: User,
    pub(super) rlimits: Vec<Rlimit>,
    pub(super) capabilities: Option<CapabilityNames>,
    pub(super) no_new_privileges: bool,
    pub(super) oom_score_adj: Option<i32>,
    pub(super) apparmor_profile: String,
    pub(super) selinux_label: String,
    #[serde(rename = "ioPriority")]
    pub(super) io_priority: Option<serde_json::Value>,
    pub(super) scheduler: Option<serde_json::Value>,
    #[serde(rename = "execCPUAffinity")]
    pub(super) exec_cpu_affinity: Option<serde_json::Value>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct ConsoleSize {
    pub(super) height: u16,
    pub(super) width: u16,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) umask: Option<u32>,
    pub(super) additional_gids: Vec<u32>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Rlimit {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) soft: u64,
    pub(super) hard: u64,
}

/// The sets of capabilities, by their names in capabilities(7).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct CapabilityNames {
    pub(super) bounding: Vec<String>,
    pub(super) effective: Vec<String>,
    pub(super) inheritable: Vec<String>,
    pub(super) permitted: Vec<String>,
    pub(super) ambient: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Root {
    pub(super) path: String,
    #[serde(default)]
    pub(super) readonly: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Mount {
    pub(super) destination: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) source: String,
    pub(super) options: Vec<String>,
    pub(super) uid_mappings: Vec<IdMapping>,
    pub(super) gid_mappings: Vec<IdMapping>,
}

/// Programs of the engine's that are called on the way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Hooks {
    pub(super) prestart: Vec<Hook>,
    pub(super) create_runtime: Vec<Hook>,
    pub(super) create_container: Vec<Hook>,
    pub(super) start_container: Vec<Hook>,
    pub(super) poststart: Vec<Hook>,
    pub(super) poststop: Vec<Hook>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Hook {
    pub(super) path: String,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    /// Seconds.
    pub(super) timeout: Option<i64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Linux {
    pub(super) namespaces: Vec<Namespace>,
    pub(super) uid_mappings: Vec<IdMapping>,
    pub(super) gid_mappings: Vec<IdMapping>,
    pub(super) time_offsets: Option<serde_json::Value>,
    pub(super) devices: Vec<Device>,
    pub(super) net_devices: BTreeMap<String, serde_json::Value>,
    pub(super) cgroups_path: String,
    pub(super) resources: Resources,
    pub(super) intel_rdt: Option<serde_json::Value>,
    pub(super) sysctl: BTreeMap<String, String>,
    pub(super) masked_paths: Vec<String>,
    pub(super) readonly_paths: Vec<String>,
    pub(super) rootfs_propagation: String,
    pub(super) seccomp: Option<serde_json::Value>,
    pub(super) mount_label: String,
    pub(super) personality: Option<Personality>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Namespace {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct IdMapping {
    #[serde(rename = "containerID")]
    pub(super) container_id: u32,
    #[serde(rename = "hostID")]
    pub(super) host_id: u32,
    pub(super) size: u32,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Device {
    pub(super) path: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Personality {
    #[serde(default)]
    pub(super) domain: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Resources {
    pub(super) memory: Memory,
    pub(super) cpu: Cpu,
    pub(super) pids: Pids,
    #[serde(rename = "blockIO")]
    pub(super) block_io: Option<serde_json::Value>,
    pub(super) hugepage_limits: Vec<HugepageLimit>,
    pub(super) network: Option<serde_json::Value>,
    pub(super) rdma: Option<serde_json::Value>,
    pub(super) unified: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Memory {
    /// Bytes; zero and less are no limit.
    pub(super) limit: Option<i64>,
    pub(super) swappiness: Option<u64>,
    #[serde(rename = "disableOOMKiller")]
    pub(super) disable_oom_killer: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Cpu {
    pub(super) shares: Option<u64>,
    /// Microseconds in each period.
    pub(super) quota: Option<i64>,
    /// Microseconds.
    pub(super) period: Option<u64>,
    pub(super) cpus: String,
    pub(super) mems: String,
    pub(super) realtime_runtime: Option<i64>,
    pub(super) idle: Option<i64>,
    pub(super) burst: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pids {
    /// Zero and less are no limit.
    pub(super) limit: i64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HugepageLimit {
    #[serde(default)]
    pub(super) limit: u64,
}

impl Spec {
    /// Reads a configuration.
    ///
    /// # Errors
    /// It is no JSON, or a member is of another type than the specification's.
    pub(super) fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        // Engines in Go write null for what is not there.
        let mut value: serde_json::Value = serde_json::from_slice(text)?;
        remove_nulls(&mut value);
        serde_json::from_value(value)
    }

    /// True for the container that engines of Kubernetes start first in each pod, and in which nothing runs: containerd and
    /// CRI-O name it by these annotations.
    pub(super) fn is_pod_sandbox(&self) -> bool {
        let kinds = [
            "io.kubernetes.cri.container-type",
            "io.kubernetes.cri-o.ContainerType",
        ];
        let mut kinds = kinds.iter().filter_map(|name| self.annotations.get(*name));
        kinds.any(|kind| kind == "sandbox")
    }

    /// True for a container of such a pod.
    pub(super) fn is_in_pod(&self) -> bool {
        let names = [
            "io.kubernetes.cri.sandbox-id",
            "io.kubernetes.cri-o.SandboxID",
        ];
        names
            .iter()
            .any(|name| self.annotations.contains_key(*name))
    }
}

fn remove_nulls(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(remove_nulls);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(remove_nulls),
        _ => {}
    }
}
