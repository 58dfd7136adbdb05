//! The command's privileges: its user, groups, capabilities and file mode mask, taken on in the order in which each is still
//! possible.

use crate::spawn::{Failure, at};
use crate::sys;
use rdvm_proto::{Capabilities, HAS_CAPABILITIES, NO_NEW_PRIVILEGES, Stage, Start};

/// Takes all of them on, for good.
pub(crate) fn take_on(start: &Start<'_>) -> Result<(), Failure> {
    let refused = at(Stage::Privileges);
    let capabilities = (start.flags & HAS_CAPABILITIES != 0).then(|| known(start.capabilities));
    if let Some(capabilities) = &capabilities {
        keep_bounding(capabilities.bounding).map_err(&refused)?;
        // Else another user than root would have none left that could be kept.
        sys::keep_capabilities().map_err(&refused)?;
    }
    take_on_user(start).map_err(at(Stage::User))?;
    if let Some(capabilities) = &capabilities {
        sys::set_capabilities(capabilities).map_err(&refused)?;
        for number in numbers(capabilities.ambient) {
            sys::raise_ambient(number).map_err(&refused)?;
        }
    }
    sys::umask(start.umask as usize);
    match start.flags & NO_NEW_PRIVILEGES {
        0 => Ok(()),
        _ => sys::no_new_privileges().map_err(&refused),
    }
}

fn take_on_user(start: &Start<'_>) -> sys::Result<()> {
    // PID 1 starts without any; where there is nothing to change, nothing can be refused (user namespaces do).
    if !start.groups().is_empty() {
        sys::setgroups(start.groups())?;
    }
    sys::setgid(start.gid)?;
    sys::setuid(start.uid)
}

/// Drops from the bounding set what is not in `bounding`.
fn keep_bounding(bounding: u64) -> sys::Result<()> {
    let dropped = numbers(!bounding).take_while(|number| sys::is_capability(*number));
    for number in dropped {
        sys::drop_bounding(number)?;
    }
    Ok(())
}

/// The sets without what this kernel does not know: those of a newer one may be asked for.
fn known(sets: Capabilities) -> Capabilities {
    let count = (0..64).take_while(|number| sys::is_capability(*number));
    let known = count.fold(0, |known, number| known | 1 << number);
    Capabilities {
        bounding: sets.bounding & known,
        effective: sets.effective & known,
        inheritable: sets.inheritable & known,
        permitted: sets.permitted & known,
        ambient: sets.ambient & known,
    }
}

/// The numbers of the bits that are set.
fn numbers(set: u64) -> impl Iterator<Item = usize> {
    (0..64).filter(move |number| set >> number & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn sets_are_numbers_and_what_the_kernel_does_not_know_is_left_out() {
        assert_eq!(numbers(1 << 63 | 0b1010).collect::<Vec<_>>(), [1, 3, 63]);
        let all = Capabilities {
            bounding: u64::MAX,
            effective: 1 << 63 | 1,
            ..Capabilities::default()
        };
        let known = known(all);
        // CAP_BPF is 39 and has been there since 5.8; no kernel has all 64.
        assert!(known.bounding.trailing_ones() >= 40 && known.bounding.leading_zeros() > 0);
        assert_eq!((known.effective, known.ambient), (1, 0));
    }
}
