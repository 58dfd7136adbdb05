//! Steps that the host asks for besides the usual mounts: file systems, kernel settings, paths that are hidden or read-only.
//!
//! Paths lead where they lead in the guest's root: there is nothing outside of it.

use crate::spawn::{Failure, at, at_one};
use crate::{place, sys};
use rdvm_proto::{MAKE_WORKDIR, READ_ONLY_ROOT, Stage, Start, Step, StepAction, Strings};

const RDONLY: usize = 1;
const NOSUID_NODEV_NOEXEC: usize = 2 | 4 | 8;
const REMOUNT: usize = 32;
const BIND: usize = 4096;
const REC: usize = 16384;
/// `MS_UNBINDABLE`, `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`: each wants a call of its own.
const PROPAGATION: usize = 15 << 17;

const NONE: &[u8] = b"\0";

/// Carries out every step in order, then makes the root read-only where that is wanted.
pub(crate) fn carry_out(start: &Start<'_>, strings: &Strings<'_>) -> Result<(), Failure> {
    for (which, step) in (0..).zip(start.steps(strings)) {
        one(&step).map_err(at_one(Stage::Setup, which))?;
    }
    if start.flags & READ_ONLY_ROOT == 0 {
        return Ok(());
    }
    if start.flags & MAKE_WORKDIR != 0 {
        // Afterwards it could not be made. What keeps it from being made now is told when it is entered.
        let _ = place::make_directory(strings.workdir);
    }
    sys::mount_from(NONE, b"/\0", NONE, BIND | REMOUNT | RDONLY, NONE)
        .map_err(at(Stage::ReadOnlyRoot))
}

/// Carries out again what is below `/proc`, after that was mounted anew. What was written there is still so.
pub(crate) fn again_below_proc(start: &Start<'_>, strings: &Strings<'_>) -> Result<(), Failure> {
    for (which, step) in (0..).zip(start.steps(strings)) {
        if step.action != StepAction::Write && step.target.starts_with(b"/proc/") {
            one(&step).map_err(at_one(Stage::Setup, which))?;
        }
    }
    Ok(())
}

fn one(step: &Step<'_>) -> sys::Result<()> {
    match step.action {
        StepAction::Mount => mount(step),
        StepAction::Write => write(step.target, step.data.strip_suffix(NONE).unwrap_or(NONE)),
        StepAction::Mask | StepAction::ReadOnly => match sys::stat(step.target) {
            Err(sys::ENOENT) => Ok(()),
            Err(errno) => Err(errno),
            Ok(_) if step.action == StepAction::ReadOnly => make_read_only(step.target),
            Ok(there) if there.is_directory() => sys::mount(b"tmpfs\0", step.target, RDONLY, NONE),
            Ok(_) => sys::mount_from(b"/dev/null\0", step.target, NONE, BIND, NONE),
        },
    }
}

fn mount(step: &Step<'_>) -> sys::Result<()> {
    let (all, target) = (step.flags as usize, step.target);
    let flags = all & !PROPAGATION;
    let is_new = flags & REMOUNT == 0;
    let is_bind = is_new && flags & BIND != 0;
    if is_new {
        make_target(step, is_bind)?;
    }
    // What a bind mount is to be but a bind mount, it becomes afterwards.
    let first = if is_bind { flags & (BIND | REC) } else { flags };
    sys::mount_from(step.source, target, step.kind, first, step.data)?;
    if first != flags {
        sys::mount_from(NONE, target, NONE, flags & !REC | REMOUNT, NONE)?;
    }
    match all & PROPAGATION {
        0 => Ok(()),
        how => sys::mount_from(NONE, target, NONE, how | all & REC, NONE),
    }
}

/// Makes the mount point where it is missing: what it is mounted over has to be of the same kind.
fn make_target(step: &Step<'_>, is_bind: bool) -> sys::Result<()> {
    let is_file = is_bind && !sys::stat(step.source)?.is_directory();
    match sys::stat(step.target) {
        Err(sys::ENOENT) if is_file => place::make_file(step.target),
        Err(sys::ENOENT) => place::make_directory(step.target),
        there => there.map(drop),
    }
}

/// Covers a path with a read-only view of itself, which allows no more than it did before.
fn make_read_only(target: &[u8]) -> sys::Result<()> {
    sys::mount_from(target, target, NONE, BIND | REC, NONE)?;
    let kept = sys::stat_fs(target)?.flags & NOSUID_NODEV_NOEXEC;
    sys::mount_from(NONE, target, NONE, BIND | REMOUNT | RDONLY | kept, NONE)
}

/// Writes all of `bytes` to a file that is there.
pub(crate) fn write(name: &[u8], bytes: &[u8]) -> sys::Result<()> {
    let fd = sys::open(name, sys::O_WRONLY | sys::O_CLOEXEC)?;
    let written = sys::write(fd, bytes);
    sys::close(fd);
    match written? {
        count if count == bytes.len() => Ok(()),
        _ => Err(sys::EIO),
    }
}
