//! From a name as an archive has it to a place in the file system: components, symbolic links, missing directories.

use std::borrow::Cow;
use std::ops::Range;

use super::error::{Error, HOPS};
use super::names::{Node, ROOT};
use super::{FileSystem, Kind, Metadata, Rules};
use crate::tree::{self, FileBody};

/// A path that is being followed.
struct Walk<'a> {
    /// Where it has come to.
    at: Node,
    /// The path, or a link's target and what was left behind it.
    path: Cow<'a, [u8]>,
    /// The length of the part that is done.
    done: usize,
    /// The length of the part that comes from links' targets.
    targets: usize,
    /// The last link that was followed.
    link: Node,
    /// The links that may still be followed.
    hops: usize,
}

/// Where a walk stops.
enum Stop {
    /// At its end; what is there may be anything but a link.
    End,
    /// At a name that the directory it has come to does not have: this part of the path.
    Missing(Range<usize>),
    /// At something with more of the path behind it that is no directory.
    NoDirectory,
    /// At one link too many.
    Loop,
}

impl<'a> Walk<'a> {
    fn new(path: &'a [u8], hops: usize) -> Self {
        Self {
            at: ROOT,
            path: Cow::Borrowed(path),
            done: 0,
            targets: 0,
            link: ROOT,
            hops,
        }
    }
}

impl FileSystem {
    /// The directory that a member belongs in, with what is missing on the way made, and its name there; `None` for the
    /// root itself.
    ///
    /// # Errors
    /// `..` in the name, no way to its directory, or one name too many.
    pub(super) fn place<'a>(&mut self, name: &'a [u8]) -> Result<Option<(Node, &'a [u8])>, Error> {
        let Some((above, last)) = split(name)? else {
            return Ok(None);
        };
        let mut walk = Walk::new(above, HOPS);
        loop {
            match self.advance(&mut walk) {
                Stop::End if self.is_directory(walk.at) => return Ok(Some((walk.at, last))),
                Stop::End | Stop::NoDirectory => {
                    return Err(Error::ParentNotDirectory {
                        name: name.to_vec(),
                        parent: self.names.path(walk.at),
                    });
                }
                Stop::Loop => return Err(Error::looping(name, HOPS)),
                // tar makes the directories that a name has, not those of a link's target; containerd makes both.
                Stop::Missing(part) if part.start < walk.targets && self.rules == Rules::Tar => {
                    return Err(Error::ParentDangling {
                        name: name.to_vec(),
                        link: self.names.path(walk.link),
                    });
                }
                Stop::Missing(part) => {
                    let inode = self.new_inode(name, Metadata::implied())?;
                    walk.at = self.make(name, walk.at, &walk.path[part], inode)?;
                }
            }
        }
    }

    /// The node at `name` (which is not followed if it is a link itself), for the member `member`.
    ///
    /// # Errors
    /// `..` in the name, or too many links.
    pub(super) fn find(&self, name: &[u8], member: &[u8]) -> Result<Option<Node>, Error> {
        let Some((above, last)) = split(name)? else {
            return Ok(Some(ROOT));
        };
        let mut walk = Walk::new(above, HOPS);
        match self.advance(&mut walk) {
            Stop::End => Ok(self.names.find(walk.at, last)),
            Stop::Missing(_) | Stop::NoDirectory => Ok(None),
            Stop::Loop => Err(Error::looping(member, HOPS)),
        }
    }

    /// The regular file at `path`, through at most `hops` symbolic links.
    ///
    /// # Errors
    /// More links than that.
    pub(crate) fn file(&self, path: &[u8], hops: usize) -> Result<Option<&FileBody>, Error> {
        let mut walk = Walk::new(path, hops);
        match self.advance(&mut walk) {
            Stop::End => Ok(match self.kind(walk.at) {
                Kind::File(body) => Some(body),
                _ => None,
            }),
            Stop::Missing(_) | Stop::NoDirectory => Ok(None),
            Stop::Loop => Err(Error::looping(path, hops)),
        }
    }

    /// The names in the directory `path`, in no order; none where there is no directory.
    pub(crate) fn names_in(&self, path: &[u8]) -> impl Iterator<Item = &[u8]> {
        let mut walk = Walk::new(path, 0);
        let is_there = matches!(self.advance(&mut walk), Stop::End);
        let children = is_there.then(|| self.names.children(walk.at));
        let children = children.into_iter().flatten();
        children.map(|node| self.names.name(node))
    }

    /// Follows a path as far as it goes.
    fn advance(&self, walk: &mut Walk) -> Stop {
        while let Some(part) = next(&walk.path, walk.done) {
            if !self.is_directory(walk.at) {
                return Stop::NoDirectory;
            }
            walk.done = part.end;
            let component = &walk.path[part.clone()];
            if component == b".." {
                walk.at = self.names.parent(walk.at);
                continue;
            }
            let Some(node) = self.names.find(walk.at, component) else {
                return Stop::Missing(part);
            };
            let Kind::Symlink(target) = self.kind(node) else {
                walk.at = node;
                continue;
            };
            let Some(hops) = walk.hops.checked_sub(1) else {
                return Stop::Loop;
            };
            // Forty links for a name are little, forty long ones for each of many names are not.
            let steps = self.followed.get().saturating_add(target.len() as u64);
            self.followed.set(steps);
            if steps > FOLLOWED {
                return Stop::Loop;
            }
            let rest = &walk.path[walk.done..];
            let path = [target, &b"/"[..], rest].concat();
            *walk = Walk {
                at: match path[0] {
                    b'/' => ROOT,
                    _ => walk.at,
                },
                targets: target.len() + 1 + walk.targets.saturating_sub(walk.done),
                path: Cow::Owned(path),
                done: 0,
                link: node,
                hops,
            };
        }
        Stop::End
    }
}

/// The most bytes of links' targets that are followed for all names of an image together: as many as four million names through a
/// link of 64 bytes each.
const FOLLOWED: u64 = 256 << 20;

impl Error {
    fn looping(name: &[u8], hops: usize) -> Self {
        Self::Loop {
            name: name.to_vec(),
            hops,
        }
    }
}

/// The next component that is not `.`, from `done` on.
fn next(path: &[u8], mut done: usize) -> Option<Range<usize>> {
    loop {
        done += path[done..].iter().position(|&byte| byte != b'/')?;
        let rest = &path[done..];
        let length = rest.iter().position(|&byte| byte == b'/');
        let part = done..done + length.unwrap_or(rest.len());
        done = part.end;
        if path[part.clone()] != *b"." {
            return Some(part);
        }
    }
}

/// A name's last component, and what is before it.
type Split<'a> = (&'a [u8], &'a [u8]);

/// A name without its last component, and that; `None` if it has none.
///
/// # Errors
/// `..` anywhere, or a NUL byte.
fn split(name: &[u8]) -> Result<Option<Split<'_>>, Error> {
    if name.contains(&0) {
        let path = name.to_vec();
        return Err(tree::Error::BadName { path }.into());
    }
    let mut last = None;
    let mut done = 0;
    while let Some(part) = next(name, done) {
        done = part.end;
        if name[part.clone()] == *b".." {
            return Err(Error::Up {
                name: name.to_vec(),
            });
        }
        last = Some(part);
    }
    Ok(last.map(|part| (&name[..part.start], &name[part])))
}
