//! The thread that writes what comes: whatever the host's file system does, nothing but this thread waits for it.
//!
//! A queue of bounded size is before it; who fills it stops when it is full, and is woken when it is not. A thread that a
//! hung file system does not give back is left behind, and ends with the process.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use rdvm_confine::{Access, Role};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::beat::Beat;
use super::error::CopyError;
use super::{Copied, Receiver};
use rdvm_vmm::guest::CopySink;
use rdvm_vmm::stop_signals::{StopSignals, Waker};

/// Bytes that may wait for the thread before no more are taken.
const QUEUE: usize = 256 << 10;
/// The time that the host may make no progress after all has come, before it is given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same where nothing is wanted any more but that what was begun is removed.
const CLEANING: Duration = Duration::from_secs(1);

/// Receives the files of a run on a thread of its own. What is not finished is given up when this is dropped.
#[derive(Debug)]
pub struct CopyOut {
    shared: Arc<Shared>,
    /// Of every wish: GUEST and HOST.
    names: Vec<[String; 2]>,
    patience: Duration,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    beat: Arc<Beat>,
    waker: Waker,
}

#[derive(Debug)]
struct State {
    pieces: VecDeque<Vec<u8>>,
    /// Bytes in the pieces, and in the one that is being written.
    held: usize,
    /// A caller has been told that there is less room than it wanted.
    is_awaited: bool,
    task: Task,
    /// The thread waits for something to do.
    is_idle: bool,
    /// See [`Receiver::is_over`] and [`Receiver::progress`].
    is_over: bool,
    progress: u64,
    /// The results so far.
    copied: Vec<Copied>,
    has_ended: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Task {
    Receive,
    Finish(Option<String>),
    GiveUp,
}

/// Why waiting for the thread came to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waited {
    Ended,
    Stuck,
    Signal(i32),
}

impl CopyOut {
    /// Starts the thread, which takes what `receiver` is for. `waker` wakes whoever has been told that there is no room, or
    /// waits for the end.
    ///
    /// # Errors
    ///
    /// The host gives no threads.
    pub(crate) fn start(receiver: Receiver, waker: Waker) -> io::Result<Self> {
        let names = receiver.names();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                pieces: VecDeque::new(),
                held: 0,
                is_awaited: false,
                task: Task::Receive,
                is_idle: true,
                is_over: receiver.is_over(),
                progress: 0,
                copied: Vec::new(),
                has_ended: false,
            }),
            changed: Condvar::new(),
            beat: receiver.beat(),
            waker,
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("copy-out".to_owned());
        let (confined, is_confined) = mpsc::sync_channel(1);
        thread.spawn(move || {
            let _end = End(&theirs);
            let result = confine(&receiver);
            let goes_on = result.is_ok();
            // The caller waits for it.
            let _ = confined.send(result);
            if goes_on {
                theirs.work(receiver);
            }
        })?;
        is_confined.recv().map_err(io::Error::other)??;
        Ok(Self {
            shared,
            names,
            patience: PATIENCE,
        })
    }

    /// Has everything put into position that is whole; says for each wish what became of it, and which signal came before
    /// that was done. `unanswered` is why the guest did not send what has not come.
    pub(crate) fn finish(
        &self,
        unanswered: Option<&str>,
        signals: &StopSignals,
    ) -> (Vec<Copied>, Option<i32>) {
        self.shared
            .give(Task::Finish(unanswered.map(str::to_owned)));
        let (error, signal) = match self.wait(self.patience, true, signals) {
            Waited::Ended => (None, None),
            Waited::Stuck => (Some(None), None),
            Waited::Signal(signal) => {
                self.shared.give(Task::GiveUp);
                self.wait(CLEANING, false, signals);
                let why = format!("signal {signal} came before it was in position");
                (Some(Some(why)), Some(signal))
            }
        };
        (self.copied(error.as_ref()), signal)
    }

    /// Forgets what has come: nothing of it is put into position, which `why` is the reason for.
    pub(crate) fn give_up(&self, why: &str, signals: &StopSignals) -> Vec<Copied> {
        self.shared.give(Task::GiveUp);
        self.wait(CLEANING, false, signals);
        self.copied(Some(&Some(why.to_owned())))
    }

    /// Returns the result for each path. Those without one have an error: a reason, or that their host does not answer.
    fn copied(&self, error: Option<&Option<String>>) -> Vec<Copied> {
        let mut copied = std::mem::take(&mut self.shared.state().copied);
        for [guest, host] in self.names.iter().skip(copied.len()) {
            let error = match error {
                Some(Some(why)) => CopyError::Unanswered(why.clone()),
                _ => CopyError::Stuck {
                    host: host.clone(),
                    seconds: self.patience.as_secs(),
                },
            };
            copied.push(Copied::failed(guest.clone(), host.clone(), &error));
        }
        copied
    }

    /// Waits for the thread's end as long as it works, or until a signal comes that is to be heeded.
    fn wait(&self, patience: Duration, heeded: bool, signals: &StopSignals) -> Waited {
        loop {
            signals.seen();
            let state = self.shared.state();
            if state.has_ended {
                return Waited::Ended;
            }
            if let Some(signal) = signals.signal().filter(|_| heeded) {
                return Waited::Signal(signal);
            }
            let left = match state.is_idle {
                // It is about to see that there is something to do.
                true => patience,
                false => patience.saturating_sub(self.shared.beat.quiet()),
            };
            drop(state);
            if left.is_zero() {
                return Waited::Stuck;
            }
            let mut set = [PollFd::new(signals, PollFlags::IN)];
            let _ = poll(&mut set, Timespec::try_from(left).ok().as_ref());
        }
    }
}

impl CopySink for CopyOut {
    fn room(&self, wanted: usize) -> usize {
        let mut state = self.shared.state();
        let room = QUEUE.saturating_sub(state.held);
        state.is_awaited = room < wanted.min(QUEUE);
        room
    }

    fn push(&self, bytes: &[u8]) {
        let mut state = self.shared.state();
        if state.is_over || state.task != Task::Receive {
            return;
        }
        state.held += bytes.len();
        state.pieces.push_back(bytes.to_vec());
        self.shared.changed.notify_one();
    }

    fn is_over(&self) -> bool {
        self.shared.state().is_over
    }

    fn progress(&self) -> u64 {
        self.shared.state().progress
    }
}

impl Drop for CopyOut {
    fn drop(&mut self) {
        self.shared.give(Task::GiveUp);
    }
}

/// Confines the calling thread to the directories that it writes to.
fn confine(receiver: &Receiver) -> io::Result<()> {
    let homes: Vec<_> = receiver.homes().map(|home| (home, Access::Build)).collect();
    rdvm_confine::enter_with(Role::CopyOut, &homes)
}

/// Says that the thread has ended, also when it panics.
struct End<'a>(&'a Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        (state.has_ended, state.is_over) = (true, true);
        drop(state);
        self.0.waker.wake();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self, task: Task) {
        self.state().task = task;
        self.changed.notify_one();
    }

    /// Runs the thread. What is staged and not in position is removed at the end, when the receiver goes.
    fn work(&self, mut receiver: Receiver) {
        loop {
            let mut state = self.state();
            while state.pieces.is_empty() && state.task == Task::Receive {
                state.is_idle = true;
                let waited = self.changed.wait(state);
                state = waited.unwrap_or_else(PoisonError::into_inner);
            }
            state.is_idle = false;
            self.beat.begin();
            let (task, piece) = (state.task.clone(), state.pieces.pop_front());
            drop(state);
            match (task, piece) {
                (Task::GiveUp, _) => return,
                (_, Some(piece)) => {
                    receiver.receive(&piece);
                    self.received(&receiver, piece.len());
                }
                (Task::Finish(why), None) => {
                    return receiver.finish_each(why.as_deref(), |copied| {
                        let mut state = self.state();
                        state.copied.push(copied);
                        state.task != Task::GiveUp
                    });
                }
                (Task::Receive, None) => {}
            }
        }
    }

    fn received(&self, receiver: &Receiver, count: usize) {
        let mut state = self.state();
        state.held -= count;
        state.progress = receiver.progress();
        let is_over = receiver.is_over();
        let wake = is_over != state.is_over || state.is_awaited;
        (state.is_over, state.is_awaited) = (is_over, false);
        drop(state);
        if wake {
            self.waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use rdvm_proto::{COPY_MAX, CopyFrame, Sent};

    use super::*;
    use crate::request::{self, Copies};

    /// Two wishes, `a` and `b`, and a stream of one file for each.
    fn copying(dir: &Path) -> (CopyOut, Arc<Beat>, StopSignals, Vec<u8>) {
        let spec = |name: &str| request::CopyOut {
            guest: name.into(),
            host: dir.join(name),
        };
        let receiver = Receiver::open(&Copies {
            out: vec![spec("a"), spec("b")],
            ..Copies::default()
        });
        let signals = StopSignals::new().unwrap();
        let receiver = receiver.unwrap();
        let beat = receiver.beat();
        let copy_out = CopyOut::start(receiver, signals.waker().unwrap()).unwrap();
        let content = [7; 60_000];
        let mut stream = Vec::new();
        for spec in 0..2 {
            let file = CopyFrame::Entry(Sent {
                mode: 0o100644,
                mtime: 0,
                mtime_ns: 0,
                size: content.len() as u64,
                path: b"",
                target: b"",
            });
            let data = CopyFrame::Data(&content);
            for parcel in [CopyFrame::Begin(spec), file, data, CopyFrame::FileEnd(0)] {
                let mut frame = vec![0; COPY_MAX];
                let length = parcel.encode(&mut frame).unwrap();
                stream.extend_from_slice(&frame[..length]);
            }
        }
        let mut end = [0; 64];
        let length = CopyFrame::End.encode(&mut end).unwrap();
        stream.extend_from_slice(&end[..length]);
        (copy_out, beat, signals, stream)
    }

    fn is_empty(dir: &Path) -> bool {
        fs::read_dir(dir).unwrap().count() == 0
    }

    #[test]
    fn what_is_taken_arrives_whole_and_its_end_wakes_the_one_who_waits() {
        let dir = tempfile::tempdir().unwrap();
        let (copy_out, _, signals, stream) = copying(dir.path());
        for piece in stream.chunks(1000) {
            copy_out.push(piece);
        }
        while !copy_out.is_over() {
            let mut set = [PollFd::new(&signals, PollFlags::IN)];
            poll(&mut set, None).unwrap();
            signals.seen();
        }
        assert_eq!(copy_out.progress(), stream.len() as u64);
        let (copied, signal) = copy_out.finish(None, &signals);
        assert_eq!((copied.len(), signal), (2, None));
        assert!(copied.iter().all(Copied::is_complete));
        assert_eq!(fs::read(dir.path().join("b")).unwrap(), [7; 60_000]);
    }

    #[test]
    fn a_host_that_hangs_fills_the_queue_and_no_more_and_nobody_waits_for_it_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let (mut copy_out, beat, signals, stream) = copying(dir.path());
        let hang = beat.hang.lock().unwrap();
        let mut sent = 0;
        while copy_out.room(1) > 0 {
            copy_out.push(&stream[..1000]);
            sent += 1000;
        }
        assert!(sent < QUEUE + 1000, "{sent}");
        assert!(!copy_out.is_over());
        copy_out.patience = Duration::from_millis(10);
        let (copied, signal) = copy_out.finish(Some("never said"), &signals);
        assert_eq!((copied.len(), signal), (2, None));
        for copied in copied {
            let error = copied.error.unwrap();
            assert!(error.contains("has not answered"), "{error}");
        }
        // When it goes on, what was begun is removed.
        drop(hang);
        for _ in 0..1000 {
            if is_empty(dir.path()) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(is_empty(dir.path()));
    }

    #[test]
    fn whoever_is_told_of_too_little_room_is_woken_when_there_is_more() {
        let dir = tempfile::tempdir().unwrap();
        let (copy_out, beat, signals, stream) = copying(dir.path());
        let woken = |seconds| {
            let limit = Timespec {
                tv_sec: seconds,
                tv_nsec: 0,
            };
            let mut set = [PollFd::new(&signals, PollFlags::IN)];
            poll(&mut set, Some(&limit)) == Ok(1)
        };
        // Each piece has the end of a frame, at which the thread does something on the host, and hangs.
        let pieces = stream.chunks(stream.len() / 3 + 1);
        for (wanted, piece) in [1, QUEUE, usize::MAX].into_iter().zip(pieces) {
            let hang = beat.hang.lock().unwrap();
            copy_out.push(piece);
            assert_eq!(copy_out.room(wanted), QUEUE - piece.len());
            drop(hang);
            assert_eq!(woken(if wanted > 1 { 60 } else { 0 }), wanted > 1);
            signals.seen();
            while copy_out.room(0) < QUEUE {
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn what_is_given_up_leaves_nothing_and_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let (copy_out, _, signals, stream) = copying(dir.path());
        copy_out.push(&stream[..stream.len() / 2]);
        let copied = copy_out.give_up("stopped", &signals);
        let errors: Vec<_> = copied
            .into_iter()
            .filter_map(|copied| copied.error)
            .collect();
        assert_eq!(errors, ["not copied out: stopped"; 2]);
        assert!(is_empty(dir.path()));
    }
}
