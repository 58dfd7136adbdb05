//! The reasons why a vCPU leaves the guest, and what is to be done.
//!
//! A free function of (exit, bus), so that tests can invent exits. Getting exits out of KVM is `vcpu.rs`.

use super::bus::{Bus, Reply};
use rdvm_hostfs::escape::reason;

/// An exit that a guest or KVM has caused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Exit<'a> {
    /// Any number of writes of `width` bytes to a port.
    Out {
        port: u16,
        width: u8,
        data: &'a [u8],
    },
    /// Any number of reads of `width` bytes from a port.
    In {
        port: u16,
        width: u8,
        data: &'a mut [u8],
    },
    /// A read of memory where there is none.
    MmioRead(&'a mut [u8]),
    /// A write to memory where there is none.
    MmioWrite,
    /// A triple fault.
    Shutdown,
    /// The CPU halts and nothing could wake it; KVM tells only where it has no interrupt controller.
    Halt,
    /// KVM's own words for a reset or a crash.
    SystemEvent(u32),
    /// KVM cannot go on: its number, the data with it, and where the guest was.
    InternalError {
        suberror: u32,
        data: Vec<u64>,
        rip: u64,
    },
    /// The guest could not be entered, with KVM's `hardware_entry_failure_reason`.
    FailEntry { reason: u64 },
    /// Any other reason that KVM knows.
    Other(String),
    /// KVM_RUN failed with this errno.
    Failed(i32),
}

/// The next step after an exit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Back into the guest.
    Go,
    /// The machine is over, for a reason to follow "the machine ".
    Stop(String),
}

/// Does what `exit` asks for.
pub(super) fn handle(exit: Exit<'_>, bus: &mut Bus) -> Step {
    match exit {
        Exit::Out { port, width, data } => match bus.write(port, width, data) {
            Reply::Done => Step::Go,
            Reply::Reset(by) => stop(format!("was reset by {by}")),
            Reply::Off => stop("switched itself off"),
        },
        Exit::In { port, width, data } => {
            bus.read(port, width, data);
            Step::Go
        }
        Exit::MmioRead(data) => {
            data.fill(0xff);
            bus.stray();
            Step::Go
        }
        Exit::MmioWrite => {
            bus.stray();
            Step::Go
        }
        Exit::Shutdown => stop("was reset by a triple fault"),
        Exit::Halt => stop("halted for good"),
        Exit::SystemEvent(kind) => stop(match kind {
            SYSTEM_EVENT_SHUTDOWN => "switched itself off".to_owned(),
            SYSTEM_EVENT_RESET => "reset itself".to_owned(),
            SYSTEM_EVENT_CRASH => "reported a crash to KVM".to_owned(),
            other => format!("ended with KVM's system event {other}"),
        }),
        Exit::InternalError {
            suberror,
            data,
            rip,
        } => stop(internal_error(suberror, &data, rip)),
        Exit::FailEntry { reason } => stop(entry_failure(reason)),
        Exit::Other(what) => stop(format!("made an exit that is not known here: {what}")),
        Exit::Failed(errno) => stop(format!(
            "could not be run: KVM_RUN: {}",
            reason(&std::io::Error::from_raw_os_error(errno))
        )),
    }
}

// `include/uapi/linux/kvm.h`.
const SYSTEM_EVENT_SHUTDOWN: u32 = 1;
const SYSTEM_EVENT_RESET: u32 = 2;
const SYSTEM_EVENT_CRASH: u32 = 3;
const INTERNAL_ERROR_EMULATION: u32 = 1;

fn stop(reason: impl Into<String>) -> Step {
    Step::Stop(reason.into())
}

/// KVM's internal errors are bugs of the host, or guests that do what nothing can emulate.
fn internal_error(suberror: u32, data: &[u64], rip: u64) -> String {
    let what = match suberror {
        INTERNAL_ERROR_EMULATION => " (an instruction that it cannot emulate)",
        _ => "",
    };
    let data: Vec<String> = data.iter().map(|word| format!("{word:#x}")).collect();
    format!(
        "was given up by KVM: internal error, suberror {suberror}{what}, rip {rip:#x}, data [{}]",
        data.join(" ")
    )
}

// Intel's manual, volume 3, appendix C: the exit reason of an entry that failed after the guest's state was looked at has
// this bit, and one of these basic reasons.
const FAILED_VM_ENTRY: u64 = 1 << 31;
const INVALID_GUEST_STATE: u64 = 33;
const MSR_LOADING: u64 = 34;
const MACHINE_CHECK: u64 = 41;
/// SVM's VMEXIT_INVALID, -1, in the 32 bits that KVM keeps of it, or in 64.
const SVM_INVALID: [u64; 2] = [0xffff_ffff, u64::MAX];

/// Describes KVM's `hardware_entry_failure_reason`: an exit reason of VMX with bit 31, the number of a VM-instruction
/// error, for which VMLAUNCH and VMRESUME did not get as far as the guest, or an exit code of SVM.
fn entry_failure(reason: u64) -> String {
    let why = if SVM_INVALID.contains(&reason) {
        "the CPU refused its state or KVM's settings for it (SVM's exit code -1)".to_owned()
    } else if reason & FAILED_VM_ENTRY != 0 {
        match reason & 0xffff {
            INVALID_GUEST_STATE => "the CPU refused its state".to_owned(),
            MSR_LOADING => "the CPU could not load its MSRs".to_owned(),
            MACHINE_CHECK => "a machine check came meanwhile, look into the host's log".to_owned(),
            other => format!("the VM entry failed for the basic reason {other}"),
        }
    } else if let Some(meaning) = vm_instruction_error(reason) {
        format!(
            "the CPU refused KVM's instruction before it came to the guest's state \
             (VM-instruction error {reason}, {meaning}), a fault of the host's KVM or of the machine that it runs in"
        )
    } else {
        "for a reason that is neither a failed VM entry nor a VM-instruction error".to_owned()
    };
    format!("could not be entered: {why}, hardware reason {reason:#x}")
}

/// The meaning of those VM-instruction errors that VMLAUNCH and VMRESUME can have (Intel's manual, volume 3, table 31-1);
/// other instructions have the rest.
fn vm_instruction_error(number: u64) -> Option<&'static str> {
    Some(match number {
        4 => "VMLAUNCH with a VMCS that is not clear",
        5 => "VMRESUME with a VMCS that is not launched",
        6 => "VMRESUME after VMXOFF",
        7 => "invalid control fields",
        8 => "invalid host-state fields",
        25 => "a VMCS of another revision",
        26 => "events blocked by MOV SS",
        1..=28 => "one that no VM entry has",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_and_memory_accesses_go_on() {
        let mut bus = Bus::default();
        let (port, width) = (0x3f8, 1);
        let exit = Exit::Out {
            port,
            width,
            data: b"x",
        };
        assert_eq!(handle(exit, &mut bus), Step::Go);
        assert_eq!(bus.serial[0].output(), b"x");
        let mut data = [0; 4];
        let exit = Exit::In {
            port: 0x1234,
            width: 4,
            data: &mut data,
        };
        assert_eq!((handle(exit, &mut bus), data), (Step::Go, [0xff; 4]));
        let mut data = [0; 8];
        assert_eq!(
            (handle(Exit::MmioRead(&mut data), &mut bus), data),
            (Step::Go, [0xff; 8])
        );
        assert_eq!(handle(Exit::MmioWrite, &mut bus), Step::Go);
        assert_eq!(bus.strays(), 6);
    }

    #[test]
    fn an_entry_that_failed_says_who_refused_what() {
        let refused = "could not be entered: the CPU refused its state";
        for (reason, words) in [
            (0x8000_0021, refused),
            (0x8000_0022, "could not load its MSRs"),
            (0x8000_0029, "a machine check came"),
            (0x8000_0033, "the basic reason 51"),
            (7, "VM-instruction error 7, invalid control fields"),
            (8, "VM-instruction error 8, invalid host-state fields"),
            (9, "VM-instruction error 9, one that no VM entry has"),
            (0xffff_ffff, "SVM's exit code -1"),
            (u64::MAX, "SVM's exit code -1"),
            (0, "neither a failed VM entry"),
            (0x400, "neither a failed VM entry"),
        ] {
            let Step::Stop(why) = handle(Exit::FailEntry { reason }, &mut Bus::default()) else {
                panic!("{reason:#x}: went on");
            };
            assert!(why.contains(words), "{reason:#x}: {why}");
            assert!(
                why.ends_with(&format!("hardware reason {reason:#x}")),
                "{why}"
            );
            // The state is what VMX names with bit 31 alone.
            assert_eq!(
                why.contains("refused its state,"),
                reason == 0x8000_0021,
                "{why}"
            );
        }
    }

    #[test]
    fn every_other_exit_ends_the_machine_and_says_why() {
        let error = Exit::InternalError {
            suberror: 1,
            data: vec![4, 0x10],
            rip: 0x1000,
        };
        let reset = Exit::Out {
            port: 0xcf9,
            width: 1,
            data: &[6],
        };
        for (exit, words) in [
            (Exit::Shutdown, "triple fault"),
            (Exit::Halt, "halted"),
            (Exit::SystemEvent(1), "switched itself off"),
            (Exit::SystemEvent(2), "reset itself"),
            (Exit::SystemEvent(3), "crash"),
            (Exit::SystemEvent(9), "system event 9"),
            (
                error,
                "suberror 1 (an instruction that it cannot emulate), rip 0x1000, data [0x4 0x10]",
            ),
            (
                Exit::FailEntry {
                    reason: 0x8000_0021,
                },
                "hardware reason 0x80000021",
            ),
            (Exit::Other("Hyperv".into()), "not known here: Hyperv"),
            (Exit::Failed(14), "KVM_RUN: Bad address"),
            (reset, "was reset by port 0xcf9"),
        ] {
            let Step::Stop(why) = handle(exit, &mut Bus::default()) else {
                panic!("{words}: went on");
            };
            assert!(why.contains(words), "{why}");
        }
    }
}
