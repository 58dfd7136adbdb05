//! Users and groups as the image knows them: its own `/etc/passwd` and `/etc/group`, never the host's.

use serde::{Deserialize, Serialize};

use super::body::Bodies;
use crate::reference::{Id, UserSpec};
use crate::tree::{Kind, Tree};
use rdvm_hostfs::escape::escaped;

/// The user who runs the command, in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

/// Account files are text of some kilobytes; what is larger is none.
const SIZE_LIMIT: u64 = 4 << 20;
/// The most supplementary groups that rdinit takes on.
const GROUPS_LIMIT: usize = 64;

/// Why a user cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum Error {
    /// A name that the image does not have.
    #[error("the image's {file} has no \"{name}\"; give a number instead")]
    Unknown { file: &'static str, name: String },
    /// The file is too large to be one.
    #[error("the image's {file} has {size} bytes; give numbers instead of names")]
    TooLarge { file: &'static str, size: u64 },
    /// The number that means none.
    #[error("{number} is no user or group; give a number below it")]
    NoUser { number: u32 },
    /// The file cannot be read.
    #[error(transparent)]
    Unreadable(#[from] super::body::Error),
}

/// An image's account files as text, empty where there are none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    passwd: String,
    group: String,
}

impl Files {
    /// Those of `tree`.
    ///
    /// # Errors
    /// They cannot be read, or are too large to be what they should be.
    pub fn read(tree: &Tree) -> Result<Self, Error> {
        Ok(Self {
            passwd: read(tree, PASSWD)?,
            group: read(tree, GROUP)?,
        })
    }
}

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// Numbers, groups and home directory of the user wished for; root without a wish.
///
/// As docker does: a number need not be in the file; without a group it is the user's own, or 0 where the file does
/// not know the user.
///
/// # Errors
/// A name that the image's files do not have, or files that cannot be read.
pub fn account(files: &Files, spec: Option<&UserSpec>) -> Result<Account, Error> {
    let root = UserSpec {
        user: Id::Number(0),
        group: None,
    };
    let spec = spec.unwrap_or(&root);
    let passwd = &files.passwd;
    let known = lines(passwd).find(|fields| match &spec.user {
        Id::Name(name) => fields.first() == Some(&name.as_str()),
        Id::Number(uid) => number(fields, 2) == Some(*uid),
    });
    let uid = match (&spec.user, &known) {
        (Id::Number(uid), _) => *uid,
        (Id::Name(name), known) => known
            .as_ref()
            .and_then(|fields| number(fields, 2))
            .ok_or_else(|| Error::Unknown {
                file: PASSWD,
                name: escaped(name.as_bytes()),
            })?,
    };
    let group_file = &files.group;
    let gid = match &spec.group {
        Some(Id::Number(gid)) => *gid,
        Some(Id::Name(name)) => lines(group_file)
            .find(|fields| fields.first() == Some(&name.as_str()))
            .and_then(|fields| number(&fields, 2))
            .ok_or_else(|| Error::Unknown {
                file: GROUP,
                name: escaped(name.as_bytes()),
            })?,
        None => known
            .as_ref()
            .and_then(|fields| number(fields, 3))
            .unwrap_or(0),
    };
    for number in [uid, gid] {
        // To setuid and its kin this number says "leave it as it is", and that is root.
        if number == u32::MAX {
            return Err(Error::NoUser { number });
        }
    }
    let name = known.as_ref().and_then(|fields| fields.first().copied());
    // A group given by hand stands alone.
    let groups = match name.filter(|_| spec.group.is_none()) {
        Some(name) => lines(group_file)
            .filter(|fields| {
                fields
                    .get(3)
                    .is_some_and(|members| members.split(',').any(|member| member == name))
            })
            .filter_map(|fields| number(&fields, 2))
            .take(GROUPS_LIMIT)
            .collect(),
        None => Vec::new(),
    };
    let home = known
        .as_ref()
        .and_then(|fields| fields.get(5))
        .filter(|home| !home.is_empty());
    Ok(Account {
        uid,
        gid,
        groups,
        home: match (home, uid) {
            (Some(home), _) => home.to_string(),
            (None, 0) => "/root".to_owned(),
            (None, _) => "/".to_owned(),
        },
    })
}

fn lines(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|line| line.split(':').collect())
}

fn number(fields: &[&str], at: usize) -> Option<u32> {
    fields.get(at)?.parse().ok()
}

/// The text of one of the image's files; empty where there is no such file.
fn read(tree: &Tree, file: &'static str) -> Result<String, Error> {
    let Some(entry) = tree.find(file.as_bytes()) else {
        return Ok(String::new());
    };
    let Kind::File(body) = &entry.kind else {
        return Ok(String::new());
    };
    if body.size > SIZE_LIMIT {
        return Err(Error::TooLarge {
            file,
            size: body.size,
        });
    }
    let mut bytes = vec![0; body.size as usize];
    // A hole leaves the zeros that are there.
    Bodies::default().read(&body.content, 0, &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
