//! `linux.resources` of a configuration: what becomes of it in the machine, and in the control group of the host that
//! the machine is in.

use super::error::Result;
use super::refusals::Refusals;
use super::spec::{Cpu, Resources};
use crate::request::MemorySpec;
use rdvm_hostfs::units::ByteSize;

/// The most vCPUs of a machine.
const CPUS_MAX: u64 = 16;

/// Checks what cannot be kept.
///
/// # Errors
/// A limit that would have no effect.
pub(super) fn check(resources: &Resources, refusals: &Refusals) -> Result<()> {
    let is_something = |value: &Option<serde_json::Value>| value.as_ref().is_some_and(has_content);
    let cpu = &resources.cpu;
    let asked = [
        ("memory.swappiness", resources.memory.swappiness.is_some()),
        (
            "memory.disableOOMKiller",
            resources.memory.disable_oom_killer,
        ),
        (
            "cpu.realtimeRuntime",
            cpu.realtime_runtime.unwrap_or(0) != 0,
        ),
        ("blockIO", is_something(&resources.block_io)),
        (
            "hugepageLimits",
            resources
                .hugepage_limits
                .iter()
                .any(|limit| limit.limit != 0),
        ),
        ("network", is_something(&resources.network)),
        ("rdma", is_something(&resources.rdma)),
    ];
    for (name, _) in asked.iter().filter(|(_, is_asked)| *is_asked) {
        let what = format!("linux.resources.{name}: has no effect on a machine");
        refusals.refuse("resources", what)?;
    }
    let mut unified = resources.unified.keys();
    match unified.find(|name| !name.starts_with("cpu") && !name.starts_with("io.")) {
        Some(name) => refusals.refuse(
            "resources",
            format!("linux.resources.unified: {name}: has no effect on a machine"),
        ),
        None => Ok(()),
    }
}

/// True unless everything in it is zero or empty: engines write out the members that nobody has set.
fn has_content(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Null => false,
        serde_json::Value::Bool(is_set) => *is_set,
        serde_json::Value::Number(number) => number.as_f64() != Some(0.0),
        serde_json::Value::String(text) => !text.is_empty(),
        serde_json::Value::Array(items) => items.iter().any(has_content),
        serde_json::Value::Object(members) => members.values().any(has_content),
    }
}

/// Returns the guest's RAM: a limit of memory is the room of the command, on top of the machine's own need.
pub(super) fn memory(resources: &Resources) -> MemorySpec {
    match resources.memory.limit {
        Some(limit) if limit > 0 => MemorySpec::Room(ByteSize(limit as u64)),
        _ => MemorySpec::FromImage,
    }
}

/// Returns the number of vCPUs: as many as the quota keeps busy, or as the set of CPUs has.
pub(super) fn cpus(cpu: &Cpu) -> u8 {
    let by_quota = match (cpu.quota, cpu.period) {
        (Some(quota), Some(period)) if quota > 0 && period > 0 => {
            Some((quota as u64).div_ceil(period))
        }
        _ => None,
    };
    let by_set = Some(count(&cpu.cpus)).filter(|count| *count > 0);
    let cpus = by_quota.into_iter().chain(by_set).min().unwrap_or(1);
    cpus.clamp(1, CPUS_MAX) as u8
}

/// Returns the number of CPUs in a list like `0-3,7` (cpuset(7), List format); what is no list has none.
fn count(list: &str) -> u64 {
    let ranges = list.split(',').map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| text.trim().parse::<u64>().ok();
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => last - first + 1,
            _ => 0,
        }
    });
    ranges.fold(0, u64::saturating_add)
}

/// Returns the most processes that the command may have.
pub(super) fn pids(resources: &Resources) -> Option<u32> {
    let limit = u32::try_from(resources.pids.limit).ok();
    limit.filter(|limit| *limit > 0)
}

/// Files of a control group and their contents.
pub(super) type Settings = Vec<(String, String)>;

/// Returns what is written into the control group of version 1. The guest's RAM and its own limit of processes take the
/// place of those two controllers.
pub(super) fn version_1(cpu: &Cpu) -> Settings {
    let shares = cpu.shares.filter(|shares| *shares > 0);
    let quota = cpu.quota.filter(|quota| *quota != 0);
    let period = cpu.period.filter(|period| *period > 0);
    let set = |list: &str| Some(list.to_owned()).filter(|list| !list.is_empty());
    let settings = [
        ("cpuset.cpus", set(&cpu.cpus)),
        ("cpuset.mems", set(&cpu.mems)),
        ("cpu.shares", shares.map(|shares| shares.to_string())),
        ("cpu.cfs_period_us", period.map(|period| period.to_string())),
        ("cpu.cfs_quota_us", quota.map(|quota| quota.to_string())),
        ("cpu.cfs_burst_us", cpu.burst.map(|burst| burst.to_string())),
    ];
    given(settings)
}

/// The same of version 2.
pub(super) fn version_2(cpu: &Cpu) -> Settings {
    // As runc converts it: 2 to 262144 becomes 1 to 10000.
    let weight = cpu.shares.filter(|shares| *shares > 0);
    let weight = weight.map(|shares| 1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142);
    let quota = cpu.quota.filter(|quota| *quota != 0);
    let period = cpu.period.filter(|period| *period > 0).unwrap_or(100_000);
    let quota = quota.map(|quota| match quota {
        1.. => format!("{quota} {period}"),
        _ => format!("max {period}"),
    });
    let set = |list: &str| Some(list.to_owned()).filter(|list| !list.is_empty());
    let settings = [
        ("cpuset.cpus", set(&cpu.cpus)),
        ("cpuset.mems", set(&cpu.mems)),
        ("cpu.weight", weight.map(|weight| weight.to_string())),
        ("cpu.idle", cpu.idle.map(|idle| idle.to_string())),
        ("cpu.max", quota),
        ("cpu.max.burst", cpu.burst.map(|burst| burst.to_string())),
    ];
    given(settings)
}

fn given<const N: usize>(settings: [(&'static str, Option<String>); N]) -> Settings {
    let given = settings
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    given.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(quota: i64, period: u64, cpus: &str) -> Cpu {
        Cpu {
            quota: Some(quota),
            period: Some(period),
            cpus: cpus.to_owned(),
            ..Cpu::default()
        }
    }

    #[test]
    fn a_machine_has_the_cpus_that_its_quota_keeps_busy() {
        for (quota, period, list, want) in [
            (50_000, 100_000, "", 1),
            (100_000, 100_000, "", 1),
            (150_000, 100_000, "", 2),
            (400_000, 100_000, "0-1", 2),
            (-1, 100_000, "", 1),
            (-1, 100_000, "0-2,5", 4),
            (i64::MAX, 1, "", 16),
            (0, 0, "0-63", 16),
            (0, 0, "7-3,x", 1),
        ] {
            assert_eq!(
                cpus(&cpu(quota, period, list)),
                want,
                "{quota} {period} {list}"
            );
        }
    }

    #[test]
    fn control_groups_of_both_versions_are_told_the_same() {
        let one = version_1(&cpu(50_000, 100_000, "0-1"));
        let pairs: Vec<_> = one
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(
            pairs,
            [
                "cpuset.cpus=0-1",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000"
            ]
        );
        let shares = Cpu {
            shares: Some(1024),
            ..cpu(-1, 0, "")
        };
        let two = version_2(&shares);
        let pairs: Vec<_> = two
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(pairs, ["cpu.weight=39", "cpu.max=max 100000"]);
    }

    #[test]
    fn members_that_engines_write_out_unset_are_nothing() {
        let unset =
            serde_json::json!({"weight": 0, "throttle": [], "name": "", "more": {"x": null}});
        assert!(!has_content(&unset));
        assert!(has_content(&serde_json::json!({"weight": 10})));
    }

    #[test]
    fn memory_and_processes_without_a_limit_have_none() {
        let mut resources = Resources::default();
        for limit in [None, Some(0), Some(-1)] {
            resources.memory.limit = limit;
            assert_eq!(memory(&resources), MemorySpec::FromImage);
        }
        resources.memory.limit = Some(64 << 20);
        assert_eq!(memory(&resources), MemorySpec::Room(ByteSize::mib(64)));
        for (limit, want) in [(-1, None), (0, None), (7, Some(7)), (i64::MAX, None)] {
            resources.pids.limit = limit;
            assert_eq!(pids(&resources), want);
        }
    }
}
