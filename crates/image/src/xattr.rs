//! Extended attributes of the host's files: which of them are the image's, and what they say in the guest.
//!
//! File capabilities, access control lists, `user.*`, and for root `trusted.*`. Not the image's are the labels and
//! signatures of the host's own policy (`security.selinux`, `security.ima`…), which mean nothing to another kernel, what
//! file systems keep for themselves (`btrfs.*`), and an overlay's bookkeeping. Symbolic links and special files are
//! not asked: Linux gives them no capabilities and no `user.*`.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{fgetxattr, fgetxattr_query, flistxattr, flistxattr_query};
use rustix::io::Errno;

use super::acl::{self, ATTRIBUTES as LISTS};
use super::tree::Xattrs;
use crate::reference::Ownership;

/// Where container engines without root keep a file's owner, mode and kind.
const OVERRIDE: &[u8] = b"user.containers.override_stat";
const CAPABILITY: &[u8] = b"security.capability";

/// A file's attributes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct HostXattrs {
    /// The attributes that go to the guest, as the host has them: name → value.
    pub(super) list: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The value of `user.containers.override_stat`, which does not.
    pub(super) stat: Option<Vec<u8>>,
}

/// Reads attributes of one file system; when it turns out to have none it is not asked again.
#[derive(Debug, Default)]
pub(super) struct XattrReader {
    none_here: AtomicBool,
}

impl XattrReader {
    /// The attributes of an open file or directory: one system call where there are none.
    ///
    /// # Errors
    /// `ESTALE` where they change meanwhile, else the host's.
    pub(super) fn read(&self, file: &OwnedFd) -> Result<HostXattrs, Errno> {
        let mut found = HostXattrs::default();
        if self.none_here.load(Ordering::Relaxed) {
            return Ok(found);
        }
        // Asked for the length first: the kernel would make room for the list, and nearly all are empty.
        let length = match flistxattr_query(file) {
            Ok(0) => return Ok(found),
            // No attributes in this file system, or no such calls in this sandbox.
            Err(Errno::NOTSUP | Errno::NOSYS) => {
                self.none_here.store(true, Ordering::Relaxed);
                return Ok(found);
            }
            length => length?,
        };
        let mut names = vec![0; length];
        let length = flistxattr(file, &mut names[..]).map_err(changed)?;
        for name in names[..length].split(|&byte| byte == 0) {
            if name == OVERRIDE {
                found.stat = Some(value(file, name)?);
            } else if is_the_images(name) {
                found.list.insert(name.to_vec(), value(file, name)?);
            }
        }
        Ok(found)
    }
}

fn value(file: &OwnedFd, name: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; fgetxattr_query(file, name).map_err(changed)?];
    let length = fgetxattr(file, name, &mut value[..]).map_err(changed)?;
    value.truncate(length);
    Ok(value)
}

/// An attribute that was there a moment ago has gone or grown.
fn changed(errno: Errno) -> Errno {
    match errno {
        Errno::NODATA | Errno::RANGE => Errno::STALE,
        errno => errno,
    }
}

/// Returns those of an archive's member that go to the guest: the same as for a file of the host, where the archive was written.
pub(super) fn of_member(mut list: Xattrs) -> Xattrs {
    let stays = |name: &Vec<u8>| !is_the_images(name);
    if let Some(shared) = &mut list
        && shared.keys().any(stays)
    {
        Arc::make_mut(shared).retain(|name, _| is_the_images(name));
    }
    list.filter(|list| !list.is_empty())
}

fn is_the_images(name: &[u8]) -> bool {
    let overlay = name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
    let kind = name.starts_with(b"user.") || name.starts_with(b"trusted.");
    name == CAPABILITY || LISTS.contains(&name) || kind && !overlay
}

/// A number in an attribute that an owner map does not have: `user` or `group`, and the number.
pub(super) type Unmapped = (&'static str, u32);

/// Puts the guest's numbers of users and groups in place of the host's.
///
/// A map moves the numbers in an access control list as it does owners. `Ownership::Root` leaves them: it says who owns
/// files, and a list names others.
///
/// # Errors
/// A number in none of the map's ranges.
pub(super) fn put_in_guest(
    name: &[u8],
    value: &mut Vec<u8>,
    owner: &Ownership,
) -> Result<(), Unmapped> {
    if name == CAPABILITY {
        return capability_in_guest(value, owner);
    }
    if !LISTS.contains(&name) || !matches!(owner, Ownership::Map(_)) {
        return Ok(());
    }
    // A version of four bytes, then entries of eight: kind, permissions, number (`linux/posix_acl_xattr.h`).
    for entry in value.get_mut(4..).unwrap_or_default().chunks_exact_mut(8) {
        let what = match u16::from_le_bytes([entry[0], entry[1]]) {
            acl::USER => "user",
            acl::GROUP => "group",
            _ => continue,
        };
        let number = number(entry, 4);
        let number = owner.in_guest(number).ok_or((what, number))?;
        entry[4..].copy_from_slice(&number.to_le_bytes());
    }
    Ok(())
}

/// A capability of revision 3 (`linux/capability.h`) counts only for processes below one root user, whose number is its
/// last field. Where that becomes the guest's root it is written as revision 2, which counts always and has no such field.
fn capability_in_guest(value: &mut Vec<u8>, owner: &Ownership) -> Result<(), Unmapped> {
    const REVISION: usize = 3;
    const ROOT_AT: usize = 20;
    if value.len() != ROOT_AT + 4 || value[REVISION] != 3 {
        return Ok(());
    }
    let root = number(value, ROOT_AT);
    match owner.in_guest(root).ok_or(("user", root))? {
        0 => {
            value.truncate(ROOT_AT);
            value[REVISION] = 2;
        }
        root => value[ROOT_AT..].copy_from_slice(&root.to_le_bytes()),
    }
    Ok(())
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(name: &[u8], value: &[u8], owner: &Ownership) -> Result<Vec<u8>, Unmapped> {
        let mut value = value.to_vec();
        put_in_guest(name, &mut value, owner).map(|()| value)
    }

    /// A list that names a user and a group; its other entries have no number.
    fn list(user: u32, group: u32) -> Vec<u8> {
        let mut list = vec![2, 0, 0, 0];
        for (kind, number) in [
            (1, u32::MAX),
            (2, user),
            (4, u32::MAX),
            (8, group),
            (16, u32::MAX),
        ] {
            list.extend([kind, 0, 6, 0]);
            list.extend(number.to_le_bytes());
        }
        list
    }

    fn capability(revision: u8, root: Option<u32>) -> Vec<u8> {
        let mut value = vec![1, 0, 0, revision];
        value.extend([0x20; 16]);
        value.extend(root.into_iter().flat_map(u32::to_le_bytes));
        value
    }

    #[test]
    fn a_map_moves_the_users_of_lists_and_other_owners_do_not() {
        let map: Ownership = "100000:0:65536".parse().unwrap();
        for name in LISTS {
            assert_eq!(
                moved(name, &list(101_000, 100_100), &map),
                Ok(list(1000, 100))
            );
            assert_eq!(moved(name, &list(101_000, 5), &map), Err(("group", 5)));
            assert_eq!(moved(name, &list(5, 100_100), &map), Err(("user", 5)));
            for owner in [Ownership::Root, Ownership::Keep] {
                assert_eq!(moved(name, &list(1000, 5), &owner), Ok(list(1000, 5)));
            }
            for odd in [&b""[..], b"\x02", b"\x02\0\0\0\x02\0\x06"] {
                assert_eq!(moved(name, odd, &map), Ok(odd.to_vec()));
            }
        }
        let like_a_list = list(101_000, 100_100);
        assert_eq!(
            moved(b"user.x", &like_a_list, &map),
            Ok(like_a_list.clone())
        );
    }

    #[test]
    fn a_capability_of_a_namespace_is_the_guests_own_where_its_root_is() {
        let map: Ownership = "100000:0:65536".parse().unwrap();
        let (plain, of_namespace) = (capability(2, None), |root| capability(3, Some(root)));
        for (value, owner, expected) in [
            (of_namespace(100_000), &map, Ok(plain.clone())),
            (of_namespace(100_001), &map, Ok(of_namespace(1))),
            (of_namespace(7), &map, Err(("user", 7))),
            (of_namespace(100_000), &Ownership::Root, Ok(plain.clone())),
            (
                of_namespace(100_000),
                &Ownership::Keep,
                Ok(of_namespace(100_000)),
            ),
            (plain.clone(), &map, Ok(plain.clone())),
            (vec![3], &map, Ok(vec![3])),
        ] {
            assert_eq!(moved(CAPABILITY, &value, owner), expected, "{value:?}");
        }
    }

    #[test]
    fn labels_of_the_host_and_an_overlays_bookkeeping_stay_behind() {
        for name in [
            "security.capability",
            "system.posix_acl_access",
            "system.posix_acl_default",
            "user.a",
            "trusted.a",
        ] {
            assert!(is_the_images(name.as_bytes()), "{name}");
        }
        for name in [
            "security.selinux",
            "security.ima",
            "security.evm",
            "security.SMACK64",
            "btrfs.compression",
            "system.nfs4_acl",
            "trusted.overlay.opaque",
            "user.overlay.opaque",
            "user",
            "",
        ] {
            assert!(!is_the_images(name.as_bytes()), "{name}");
        }
    }
}
