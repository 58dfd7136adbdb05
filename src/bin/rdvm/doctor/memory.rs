//! Doctor's lines about the memory available to a run: the host's, and that of the control group.

use super::diagnosis::Finding;
use rdvm::level::Level;
use rdvm_hostfs::hostmem::Memory;
use rdvm_hostfs::units::ByteSize;

/// Below this no run works, by estimate: QEMU 7.2 booting Debian's 6.1 cloud kernel with 128 MiB of
/// guest RAM and no initrd was measured once, at 201 MiB resident; a little less guest RAM will do.
const LEAST_MEMORY: ByteSize = ByteSize::mib(192);
/// Below this an image of some size will not fit.
const GOOD_MEMORY: ByteSize = ByteSize::mib(512);

/// A finding for the host's memory, and one for a limited control group.
pub(super) fn check(memory: &Memory) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.push(match memory.available {
        Some(available) => {
            let remedy = "ps aux --sort=-rss | head (shows who has the memory)";
            enough(available, format!("{available} available"), remedy)
        }
        None => Finding::new(
            "memory",
            Level::Note,
            "/proc/meminfo does not say what is available".into(),
            None,
        ),
    });
    if let Some(group) = memory.group {
        let text = format!("control group: limit {}, {} left", group.limit, group.left);
        let remedy =
            "raise it: docker run --memory 1g, or systemctl set-property UNIT MemoryMax=1G";
        findings.push(enough(group.left, text, remedy));
    }
    findings
}

fn enough(there: ByteSize, text: String, remedy: &str) -> Finding {
    if there < LEAST_MEMORY {
        let text = format!("{text}, a run needs at least {LEAST_MEMORY}");
        Finding::new("memory", Level::Problem, text, Some(remedy.into()))
    } else if there < GOOD_MEMORY {
        let text = format!("{text}, too little for large images");
        Finding::new("memory", Level::Note, text, Some(remedy.into()))
    } else {
        Finding::new("memory", Level::Ok, text, None)
    }
}
