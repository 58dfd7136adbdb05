//! A tree's content digest: one sha256 for what is in an image, whatever form it came in.
//!
//! Defined in docs/digest.md: the entries in the tree's order, each with path, mode, owner, kind and what belongs to it.
//! Times are not part of it, so that a tree made twice has one digest.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use crate::body::{self, Bodies};
use crate::tree::{Content, Entry, FileBody, Kind, LinkId, Tree};
use rdvm_hostfs::Digest;

/// The start of the records: another definition would begin otherwise.
const FIRST: &[u8] = b"rdvm tree 1\n";
/// A tree without an entry for its root has the directory that the guest's kernel makes.
const ROOT_MODE: u16 = 0o755;
/// Bytes read at a time.
const PIECE: usize = 256 << 10;
/// More would wait for memory.
const READERS: usize = 2;

/// The digest of everything in `tree`; reads all contents, on two threads.
///
/// # Errors
/// A file that cannot be read or changed meanwhile, by name.
pub fn of(tree: &Tree) -> Result<Digest, body::Error> {
    let contents = hash_contents(tree.entries())?;
    let mut records = Records {
        hash: Sha256::new_with_prefix(FIRST),
        first_names: HashMap::new(),
    };
    if tree.get(b"").is_none() {
        records.head(b"", b'd', ROOT_MODE, 0, 0);
        records.number(0);
    }
    for (entry, content) in tree.entries().iter().zip(&contents) {
        records.entry(entry, content);
    }
    Ok(Digest(records.hash.finalize().into()))
}

/// The records as they go into the hash.
struct Records<'a> {
    hash: Sha256,
    /// Of every hard-linked file, the name that came first.
    first_names: HashMap<LinkId, &'a [u8]>,
}

impl<'a> Records<'a> {
    fn entry(&mut self, entry: &'a Entry, content: &[u8; 32]) {
        let (path, mode) = (&*entry.path, entry.mode);
        let mut head = |kind| self.head(path, kind, mode, entry.uid, entry.gid);
        match &entry.kind {
            Kind::Directory => head(b'd'),
            Kind::File(body) => {
                let earlier = body.link.and_then(|link| {
                    let first = *self.first_names.entry(link).or_insert(path);
                    (first != path).then_some(first)
                });
                match earlier {
                    // Everything else was said with the first name.
                    Some(first) => {
                        self.head(path, b'h', 0, 0, 0);
                        self.bytes(first);
                    }
                    None => {
                        self.head(path, b'f', mode, entry.uid, entry.gid);
                        self.number(body.size);
                        self.hash.update(content);
                    }
                }
            }
            Kind::Symlink(target) => {
                // Linux has no other, and archives say this or that.
                self.head(path, b'l', 0o777, entry.uid, entry.gid);
                self.bytes(target);
            }
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                head(match entry.kind {
                    Kind::CharDevice { .. } => b'c',
                    _ => b'b',
                });
                self.number((*major).into());
                self.number((*minor).into());
            }
            Kind::Fifo => head(b'p'),
            Kind::Socket => head(b's'),
        }
        let xattrs = entry.xattrs.as_deref();
        self.number(xattrs.map_or(0, |all| all.len() as u64));
        for (name, value) in xattrs.into_iter().flatten() {
            self.bytes(name);
            self.bytes(value);
        }
    }

    fn head(&mut self, path: &[u8], kind: u8, mode: u16, uid: u32, gid: u32) {
        self.bytes(path);
        self.hash.update([kind]);
        for number in [mode.into(), uid.into(), gid.into()] {
            self.number(number);
        }
    }

    /// Lengths first, so that no two lists of fields are the same bytes.
    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.hash.update(bytes);
    }

    fn number(&mut self, number: u64) {
        self.hash.update(number.to_le_bytes());
    }
}

/// The sha256 of every file's bytes, in the tree's order; of names after a file's first one, and of what is no file,
/// zeros.
fn hash_contents(entries: &[Entry]) -> Result<Vec<[u8; 32]>, body::Error> {
    let mut seen = std::collections::HashSet::new();
    let files: Vec<(usize, &FileBody)> = entries
        .iter()
        .enumerate()
        .filter_map(|(index, entry)| match &entry.kind {
            Kind::File(body) => Some((index, body)),
            _ => None,
        })
        .filter(|(_, body)| body.link.is_none_or(|link| seen.insert(link)))
        .collect();
    let next = AtomicUsize::new(0);
    let first_error = Mutex::new(None);
    let work = || {
        let mut bodies = Bodies::default();
        let mut piece = vec![0; PIECE];
        let mut done = Vec::new();
        while let Some((index, body)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            match hash_file(&mut bodies, body, &mut piece) {
                Ok(hash) => done.push((*index, hash)),
                Err(error) => {
                    next.store(files.len(), Ordering::Relaxed);
                    let mut first = first_error.lock().unwrap_or_else(PoisonError::into_inner);
                    first.get_or_insert(error);
                }
            }
        }
        done
    };
    let mut hashes = vec![[0; 32]; entries.len()];
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..READERS).map(|_| scope.spawn(work)).collect();
        let own = work();
        let theirs = others.into_iter().flat_map(|other| {
            other
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        for (index, hash) in own.into_iter().chain(theirs) {
            hashes[index] = hash;
        }
    });
    match first_error
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
    {
        Some(error) => Err(error),
        None => Ok(hashes),
    }
}

fn hash_file<'a>(
    bodies: &mut Bodies<'a>,
    body: &'a FileBody,
    piece: &mut [u8],
) -> Result<[u8; 32], body::Error> {
    if let Content::Bytes(bytes) = &body.content {
        return Ok(Sha256::digest(bytes).into());
    }
    let mut hash = Sha256::new();
    let mut from = 0;
    while from < body.size {
        let length = (body.size - from).min(piece.len() as u64) as usize;
        let piece = &mut piece[..length];
        bodies.read_filled(&body.content, from, piece)?;
        hash.update(piece);
        from += length as u64;
    }
    Ok(hash.finalize().into())
}
