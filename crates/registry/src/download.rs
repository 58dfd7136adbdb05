//! Blobs of one image from one endpoint, several at a time.

use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use ureq::http::header;

use crate::client::{self, Answer, Failure, FailureKind, PIECE};
use crate::document::Part;
use crate::error::{Error, Result};
use crate::session::Session;
use crate::store::{Partial, Store};
use rdvm_hostfs::progress::Progress;

/// Blobs that come at a time.
const THREADS: usize = 4;
/// The least progress, on the whole, between two cuts of a connection.
const PER_CUT: u64 = 1 << 20;

/// Blobs of an endpoint, on their way to the store.
pub(crate) struct Download<'a> {
    pub(crate) session: &'a Session<'a>,
    pub(crate) store: &'a Store,
    pub(crate) progress: &'a Progress,
    stopped: AtomicBool,
}

impl<'a> Download<'a> {
    /// Returns one that has not begun.
    pub(crate) fn new(session: &'a Session<'a>, store: &'a Store, progress: &'a Progress) -> Self {
        Self {
            session,
            store,
            progress,
            stopped: AtomicBool::new(false),
        }
    }

    /// Fetches blobs, the largest first.
    ///
    /// # Errors
    /// The first failure; the others are stopped then, and what has come of them stays for the next time.
    pub(crate) fn fetch(&self, parts: &[Part]) -> Result<()> {
        let mut parts = parts.to_vec();
        parts.sort_by_key(|part| std::cmp::Reverse(part.size));
        let next = AtomicUsize::new(0);
        let first_error = Mutex::new(None);
        let work = || {
            while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                if self.stopped.load(Ordering::Relaxed) {
                    return;
                }
                if let Err(error) = self.blob(part) {
                    self.stopped.store(true, Ordering::Relaxed);
                    let mut first = first_error.lock().unwrap_or_else(PoisonError::into_inner);
                    first.get_or_insert(error);
                }
            }
        };
        thread::scope(|scope| {
            for _ in 1..THREADS.min(parts.len()) {
                scope.spawn(work);
            }
            work();
        });
        let first = first_error
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        first.map_or(Ok(()), Err)
    }

    /// Fetches one blob, in as many requests as it takes.
    fn blob(&self, part: &Part) -> Result<()> {
        // Bytes of an earlier process may be wrong, and then all come once more.
        for is_last in [false, true] {
            let Some(mut partial) = self.store.partial(part)? else {
                // Another process has fetched it.
                self.progress.add(part.size);
                return Ok(());
            };
            let found = partial.length();
            self.progress.add(found);
            let host = self.fill(part, &mut partial)?;
            match partial.finish()? {
                Ok(()) => return Ok(()),
                Err(_) if found > 0 && !is_last => {}
                Err(found) => {
                    return Err(Error::Contents {
                        host,
                        expected: part.digest,
                        found,
                    });
                }
            }
        }
        Err(Error::Stopped)
    }

    /// Requests what is missing of a blob until it has its length. Returns the host that the last of it came from.
    fn fill(&self, part: &Part, partial: &mut Partial<'_>) -> Result<String> {
        let mut attempts = self.session.attempts();
        // A host that breaks off after each few bytes does not get any number of attempts.
        let mut cuts = 8 + part.size / PER_CUT;
        let mut host = self.session.endpoint.host.clone();
        let path = format!("blobs/{}", part.digest);
        while partial.length() < part.size {
            let before = partial.length();
            let (failure, asked) = match self.session.get(&path, None, before) {
                Ok(mut answer) => {
                    host = answer.host.clone();
                    match self.copy(part, partial, &mut answer) {
                        Ok(()) => continue,
                        Err(failure) => (failure, None),
                    }
                }
                Err((failure, asked)) => (failure, asked),
            };
            cuts = cuts.saturating_sub(1);
            if partial.length() > before && cuts > 0 {
                attempts.progressed();
            }
            attempts.after(failure, asked)?;
        }
        Ok(host)
    }

    /// Copies an answer's body to the end of a blob.
    fn copy(
        &self,
        part: &Part,
        partial: &mut Partial<'_>,
        answer: &mut Answer,
    ) -> std::result::Result<(), Failure> {
        let host = answer.host.clone();
        if !goes_on(answer, partial.length()) {
            partial.restart()?;
        }
        let wrong_size = |found| Error::Size {
            host: host.clone(),
            digest: part.digest,
            expected: part.size,
            found,
        };
        if let Some(length) = answer.length()
            && partial.length().saturating_add(length) != part.size
        {
            return Err(wrong_size(partial.length().saturating_add(length)).into());
        }
        let mut reader = answer.body.as_reader();
        let mut piece = vec![0; PIECE];
        loop {
            if self.stopped.load(Ordering::Relaxed) {
                return Err(Error::Stopped.into());
            }
            let passing = |why| Failure {
                error: Error::Connection {
                    host: host.clone(),
                    why,
                },
                kind: FailureKind::Passing,
            };
            let count = reader.read(&mut piece);
            let count = count.map_err(|error| passing(client::why(&error.into())))?;
            let length = partial.length() + count as u64;
            match count {
                0 if length == part.size => return Ok(()),
                0 => return Err(passing("broke off".to_owned())),
                _ if length > part.size => return Err(wrong_size(length).into()),
                _ => {
                    partial.write(&piece[..count])?;
                    self.progress.add(count as u64);
                }
            }
        }
    }
}

/// True if an answer goes on after so many bytes, and does not begin anew.
fn goes_on(answer: &Answer, from: u64) -> bool {
    let range = answer.header(header::CONTENT_RANGE);
    let start = range.and_then(|text| {
        text.strip_prefix("bytes ")?
            .split('-')
            .next()?
            .trim()
            .parse()
            .ok()
    });
    from == 0 || (answer.status == 206 && start == Some(from))
}
