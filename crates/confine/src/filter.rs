//! A role's calls → a seccomp filter of the calling thread.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use crate::rules::{Call, Facts, Only, Role, calls, refused};

/// Filters that a thread puts on itself. They stay as long as it runs, and its threads and children inherit them.
#[derive(Debug)]
pub(crate) struct Filter {
    programs: Vec<BpfProgram>,
}

impl Filter {
    /// Makes the filter of a role.
    ///
    /// # Errors
    ///
    /// The rules cannot be compiled.
    pub(crate) fn of(role: Role, facts: &Facts) -> io::Result<Self> {
        let allowed = program(
            calls(role, facts),
            SeccompAction::KillProcess,
            SeccompAction::Allow,
        )?;
        let mut programs = vec![allowed];
        let refused = refused(role);
        if !refused.is_empty() {
            let action = SeccompAction::Errno(libc::ENOSYS as u32);
            // Put on first: the other one has no call that adds filters.
            programs.insert(0, program(refused, SeccompAction::Allow, action)?);
        }
        Ok(Self { programs })
    }

    /// Makes the filter of a process without children.
    ///
    /// # Errors
    ///
    /// The rules cannot be compiled.
    #[cfg(test)]
    fn of_process(role: Role) -> io::Result<Self> {
        Self::of(
            role,
            &Facts {
                process: std::process::id(),
                ..Facts::default()
            },
        )
    }

    /// Puts it on the calling thread, which can gain no privileges from then on.
    ///
    /// # Errors
    ///
    /// The kernel has no such filters.
    pub(crate) fn enter(&self) -> io::Result<()> {
        for program in &self.programs {
            seccompiler::apply_filter(program).map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Returns the number of instructions.
    #[cfg(test)]
    fn length(&self) -> usize {
        self.programs.iter().map(Vec::len).sum()
    }
}

fn program(calls: Vec<Call>, other: SeccompAction, named: SeccompAction) -> io::Result<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for (number, only) in calls {
        let conditions = conditions(&only).map_err(io::Error::other)?;
        let entry = rules.entry(number).or_default();
        // A call without rules is allowed with any arguments.
        entry.extend(conditions);
    }
    let filter = SeccompFilter::new(rules, other, named, TargetArch::x86_64);
    let filter = filter.map_err(io::Error::other)?;
    BpfProgram::try_from(filter).map_err(io::Error::other)
}

/// Returns the rules of which one has to hold.
fn conditions(only: &Only) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let one = |argument, width, op, value| {
        let condition = SeccompCondition::new(argument, width, op, value)?;
        SeccompRule::new(vec![condition])
    };
    let masked = |bits: u32| Op::MaskedEq(u64::from(bits));
    match only {
        Only::Any => Ok(Vec::new()),
        Only::OneOf(argument, values) => values
            .iter()
            .map(|&value| one(*argument, Width::Dword, Op::Eq, value.into()))
            .collect(),
        Only::Masked(argument, mask, values) => {
            let rules = values.iter();
            let rules =
                rules.map(|&value| one(*argument, Width::Dword, masked(*mask), value.into()));
            rules.collect()
        }
        Only::Null(argument) => Ok(vec![one(*argument, Width::Qword, Op::Eq, 0)?]),
    }
}

/// Returns why this host has no filters that end a process, if it has none.
pub(crate) fn missing() -> Option<String> {
    const ACTIONS: &str = "/proc/sys/kernel/seccomp/actions_avail";
    match std::fs::read_to_string(ACTIONS) {
        Ok(actions) => {
            let ends_process = |action| action == "kill_process";
            let has = actions.split_whitespace().any(ends_process);
            (!has).then(|| "the kernel is older than Linux 4.14".to_owned())
        }
        Err(error) => Some(format!(
            "the kernel has no seccomp filters ({})",
            error.kind()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLES: [Role; 7] = [
        Role::EventLoop,
        Role::Vcpu,
        Role::Stream,
        Role::CopyOut,
        Role::Watcher,
        Role::Control,
        Role::Proxy,
    ];

    #[test]
    fn every_role_has_a_filter_that_the_kernel_takes() {
        for role in ROLES {
            let filter = Filter::of_process(role).unwrap();
            // The kernel's limit of a program (BPF_MAXINSNS).
            assert!(filter.length() < 4096, "{role:?}: {}", filter.length());
            let thread = std::thread::spawn(move || filter.enter());
            thread.join().unwrap().unwrap();
        }
    }

    #[test]
    fn none_may_start_trace_or_load_anything_and_few_open_files() {
        let never = [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_pidfd_getfd,
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
            libc::SYS_io_uring_enter,
            libc::SYS_memfd_create,
            libc::SYS_userfaultfd,
            libc::SYS_perf_event_open,
            libc::SYS_keyctl,
            libc::SYS_open,
        ];
        for role in ROLES {
            let calls = calls(role, &Facts::default());
            let has = |number| calls.iter().any(|(call, _)| *call == number);
            for number in never {
                assert!(!has(number), "{role:?}: {number}");
            }
            let opens = matches!(role, Role::CopyOut | Role::Watcher | Role::Proxy);
            assert_eq!(has(libc::SYS_openat), opens, "{role:?}");
            for number in [libc::SYS_socket, libc::SYS_connect, libc::SYS_clone] {
                assert_eq!(has(number), role == Role::Proxy, "{role:?}: {number}");
            }
        }
    }

    #[test]
    fn the_proxy_connects_and_starts_threads_but_asks_no_service_of_this_host() {
        let filter = Filter::of_process(Role::Proxy).unwrap();
        let thread = std::thread::spawn(move || {
            filter.enter().unwrap();
            let nothing = std::net::TcpStream::connect(("127.0.0.1", 9));
            let local = std::os::unix::net::UnixStream::connect("/run/docker.sock");
            let pair = std::os::unix::net::UnixStream::pair().map(drop);
            let thread = std::thread::spawn(|| 7).join().unwrap();
            (
                nothing.unwrap_err().kind(),
                local.unwrap_err(),
                pair,
                thread,
            )
        });
        let (nothing, local, pair, seven) = thread.join().unwrap();
        assert_eq!(nothing, io::ErrorKind::ConnectionRefused);
        assert_eq!(local.raw_os_error(), Some(libc::ENOSYS));
        assert!(pair.is_ok());
        assert_eq!(seven, 7);
    }
}
