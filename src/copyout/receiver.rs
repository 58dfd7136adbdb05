//! The stream → wishes: which frame may follow which, and how much may come.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rdvm_proto::{COPY_MAX, CopyFrame, FrameError, MOUNTED, Sent};
use rustix::fs::FileType;

use super::beat::Beat;
use super::destination::{Destination, Error};
use super::error::{CopyError, StreamFault};
use super::incoming::{Incoming, Staged, check_path};
use super::place::place;
use super::{Copied, ENTRIES, LINKS_NAMED, LeftLink, NAMES};
use crate::request::{Copies, Links};
use rdvm_hostfs::escape::escaped;
use rdvm_hostfs::units::ByteSize;

/// Takes what the guest sends, for all `--copy-out`s of a run.
#[derive(Debug)]
pub struct Receiver {
    specs: Vec<CopySpec>,
    limit: ByteSize,
    /// The number of requests that have begun; the last of them is the one that is coming.
    begun: usize,
    /// A file is coming.
    in_file: bool,
    /// Bytes that files were said to have, and that have come in them.
    declared: u64,
    received: u64,
    entries: u64,
    names: u64,
    /// The beginning of a frame.
    pub(super) pending: Vec<u8>,
    progress: u64,
    over: Option<Result<(), StreamFault>>,
    links: Links,
    beat: Arc<Beat>,
}

#[derive(Debug)]
struct CopySpec {
    guest: String,
    to: Destination,
    state: State,
}

#[derive(Debug)]
enum State {
    Waiting,
    Coming(Box<Incoming>),
    Whole(Box<Staged>),
    Failed(CopyError),
}

impl Receiver {
    /// Looks at all destinations, and holds on to them until the machine has run.
    ///
    /// # Errors
    /// One of them cannot be written to.
    pub(crate) fn open(copies: &Copies) -> Result<Self, Error> {
        let beat = Arc::new(Beat::new());
        let open = |copy| {
            Ok(CopySpec {
                guest: String::new(),
                to: Destination::open(copy, &beat)?,
                state: State::Waiting,
            })
        };
        let mut specs = copies.out.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        for (spec, copy) in specs.iter_mut().zip(&copies.out) {
            spec.guest = escaped(copy.guest.as_bytes());
        }
        Ok(Self {
            specs,
            limit: copies.limit,
            begun: 0,
            in_file: false,
            declared: 0,
            received: 0,
            entries: 0,
            names: 0,
            pending: Vec::new(),
            progress: 0,
            over: None,
            links: copies.links,
            beat,
        })
    }

    /// GUEST and HOST of everything that is wished for, fit to be shown.
    pub(super) fn names(&self) -> Vec<[String; 2]> {
        let names = |spec: &CopySpec| [spec.guest.clone(), spec.to.shown().to_owned()];
        self.specs.iter().map(names).collect()
    }

    /// The directories below which everything goes.
    pub(super) fn homes(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.specs.iter().map(|spec| spec.to.home().as_fd())
    }

    /// The counter that advances when the host answers.
    pub(super) fn beat(&self) -> Arc<Beat> {
        Arc::clone(&self.beat)
    }

    /// True if nothing more is to come: the guest has said so, or has sent what it may not.
    pub(crate) fn is_over(&self) -> bool {
        self.over.is_some()
    }

    /// Returns the number of bytes in complete frames.
    pub(crate) fn progress(&self) -> u64 {
        self.progress
    }

    /// Takes the next bytes of the stream. After its end they are passed over.
    pub(crate) fn receive(&mut self, mut bytes: &[u8]) {
        while !self.is_over() && !bytes.is_empty() {
            // Never more than one frame of the largest kind is kept.
            let taken = bytes.len().min(COPY_MAX - self.pending.len());
            self.pending.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            let pending = std::mem::take(&mut self.pending);
            let used = self.take_frames(&pending);
            self.pending = pending;
            self.pending.drain(..used);
        }
        if self.is_over() {
            self.pending = Vec::new();
        }
    }

    /// Puts what is whole into position; says for each wish what became of it. `unanswered` is why the guest did not send
    /// what has not come.
    pub(crate) fn finish(self, unanswered: Option<&str>) -> Vec<Copied> {
        let mut copied = Vec::new();
        self.finish_each(unanswered, |next| {
            copied.push(next);
            true
        });
        copied
    }

    /// The same one by one, as long as `go_on` says so.
    pub(super) fn finish_each(
        mut self,
        unanswered: Option<&str>,
        mut go_on: impl FnMut(Copied) -> bool,
    ) {
        let stream = match self.over {
            Some(Err(error)) => Some(error),
            _ => None,
        };
        let missing = || match (stream, unanswered) {
            (Some(error), _) => CopyError::Stream(error),
            (None, Some(why)) => CopyError::Unanswered(why.to_owned()),
            (None, None) => {
                CopyError::Unanswered("the machine ended before it had sent it".to_owned())
            }
        };
        for spec in std::mem::take(&mut self.specs) {
            if !go_on(spec.finish(self.links, &missing)) {
                break;
            }
        }
    }

    /// Takes whole frames from the front; returns how many bytes they had.
    fn take_frames(&mut self, bytes: &[u8]) -> usize {
        let mut used = 0;
        while !self.is_over() {
            let result = match CopyFrame::decode(&bytes[used..]) {
                Ok((parcel, length)) => {
                    used += length;
                    self.progress += length as u64;
                    self.beat.tick();
                    self.take(&parcel)
                }
                Err(FrameError::Incomplete) => break,
                Err(FrameError::Malformed | FrameError::Version(_)) => Err(StreamFault::Damaged),
            };
            if let Err(error) = result {
                self.over = Some(Err(error));
                // What cannot become whole any more need not wait for the end.
                if let Some(spec) = self.coming() {
                    spec.fail_if_coming(CopyError::Stream(error));
                }
            }
        }
        used
    }

    fn take(&mut self, parcel: &CopyFrame<'_>) -> Result<(), StreamFault> {
        let of_a_file = matches!(parcel, CopyFrame::Data(_) | CopyFrame::FileEnd(_));
        if of_a_file != self.in_file {
            return Err(StreamFault::Order);
        }
        match *parcel {
            CopyFrame::Begin(spec) => {
                self.begin(spec)?.state = State::Coming(Box::default());
            }
            CopyFrame::Missing { copy: spec, errno } => {
                self.begin(spec)?.state = State::Failed(CopyError::Missing(errno));
            }
            CopyFrame::Entry(ref sent) => {
                self.count(sent)?;
                self.in_file = is_file(sent);
                let spec = self.coming().ok_or(StreamFault::Order)?;
                spec.step(|incoming, to| incoming.entry(to, sent));
            }
            CopyFrame::Data(bytes) => {
                self.received = self.received.saturating_add(bytes.len() as u64);
                // The guest may have said less than it sends.
                if self.received > self.limit.0 {
                    return Err(StreamFault::Bytes(self.limit));
                }
                let spec = self.coming().ok_or(StreamFault::Order)?;
                spec.step(|incoming, to| incoming.data(to, bytes));
            }
            CopyFrame::FileEnd(errno) => {
                self.in_file = false;
                let spec = self.coming().ok_or(StreamFault::Order)?;
                spec.step(|incoming, to| incoming.file_end(to, errno));
            }
            CopyFrame::Unread { errno, path } => {
                self.count_entry()?;
                let spec = self.coming().ok_or(StreamFault::Order)?;
                spec.step(|incoming, _| match (check_path(path), errno) {
                    (Ok(()), MOUNTED) => {
                        incoming.mounted();
                        Ok(())
                    }
                    (Ok(()), errno) => Err(CopyError::Unread {
                        path: path.to_vec(),
                        errno,
                    }),
                    (Err(why), _) => Err(CopyError::Path {
                        path: path.to_vec(),
                        why,
                    }),
                });
            }
            CopyFrame::End => {
                if self.begun < self.specs.len() {
                    return Err(StreamFault::Order);
                }
                self.complete();
                self.over = Some(Ok(()));
            }
        }
        Ok(())
    }

    /// The wish that is coming, if one has begun.
    fn coming(&mut self) -> Option<&mut CopySpec> {
        self.specs.get_mut(self.begun.checked_sub(1)?)
    }

    /// Completes what was coming.
    fn complete(&mut self) {
        let links = self.links;
        if let Some(spec) = self.coming() {
            spec.complete(links);
        }
    }

    /// The next wish, which has to be this one.
    fn begin(&mut self, spec: u32) -> Result<&mut CopySpec, StreamFault> {
        if usize::try_from(spec) != Ok(self.begun) || self.begun >= self.specs.len() {
            return Err(StreamFault::Order);
        }
        self.complete();
        self.begun += 1;
        self.coming().ok_or(StreamFault::Order)
    }

    /// Counts what is coming, whether it is kept or not: a guest that is not believed any more may not go on for ever.
    fn count(&mut self, sent: &Sent<'_>) -> Result<(), StreamFault> {
        self.count_entry()?;
        if is_file(sent) {
            self.declared = self.declared.saturating_add(sent.size);
            if self.declared > self.limit.0 {
                return Err(StreamFault::Bytes(self.limit));
            }
        }
        self.names += (sent.path.len() + sent.target.len()) as u64;
        if self.names > NAMES {
            return Err(StreamFault::Names(NAMES));
        }
        Ok(())
    }

    fn count_entry(&mut self) -> Result<(), StreamFault> {
        self.entries += 1;
        match self.entries > ENTRIES {
            true => Err(StreamFault::Entries(ENTRIES)),
            false => Ok(()),
        }
    }
}

impl CopySpec {
    /// Takes the next piece, unless it has failed already.
    fn step(&mut self, take: impl FnOnce(&mut Incoming, &Destination) -> Result<(), CopyError>) {
        if let State::Coming(incoming) = &mut self.state
            && let Err(error) = take(incoming, &self.to)
        {
            self.state = State::Failed(error);
        }
    }

    fn fail_if_coming(&mut self, error: CopyError) {
        if let State::Coming(_) = self.state {
            self.state = State::Failed(error);
        }
    }

    fn complete(&mut self, links: Links) {
        self.state = match std::mem::replace(&mut self.state, State::Waiting) {
            State::Coming(incoming) => match incoming.complete(&self.to, links) {
                Ok(staged) => State::Whole(Box::new(staged)),
                Err(error) => State::Failed(error),
            },
            state => state,
        };
    }

    fn finish(self, links: Links, missing: &impl Fn() -> CopyError) -> Copied {
        let host = self.to.shown().to_owned();
        let error = match self.state {
            State::Whole(mut staged) => match place(&self.to, &mut staged, links) {
                Ok(()) => {
                    let named = staged.left.iter().take(LINKS_NAMED);
                    return Copied {
                        guest: self.guest,
                        host,
                        files: staged.counts.files,
                        directories: staged.counts.directories,
                        links: staged.counts.links,
                        bytes: staged.counts.bytes,
                        left_out: staged.counts.left_out,
                        links_left_out: staged.left.len() as u64,
                        left_links: named
                            .map(|link| LeftLink {
                                path: escaped(&link.path),
                                target: escaped(&link.target),
                            })
                            .collect(),
                        error: None,
                    };
                }
                Err(error) => error,
            },
            State::Failed(error) => error,
            State::Waiting | State::Coming(_) => missing(),
        };
        Copied::failed(self.guest, host, &error)
    }
}

fn is_file(sent: &Sent<'_>) -> bool {
    FileType::from_raw_mode(sent.mode) == FileType::RegularFile
}
