//! What ends a run from our side, whichever engine runs it.

use crate::guest::Listener;
use crate::guest::ending::Ending;
use crate::watch::Watch;

/// The ending, where a signal, the deadline or a reader that is gone asks for one.
pub(super) fn ended(listener: &mut Listener, watch: &Watch) -> Option<Ending> {
    if let Some(signal) = watch.signal() {
        return Some(Ending::Interrupted(signal));
    }
    if watch.time_left().is_some_and(|left| left.is_zero()) {
        return Some(Ending::TimedOut {
            started: listener.moments().started.is_some(),
        });
    }
    let [stdout, _] = listener.outlets();
    match stdout.failure() {
        Some(errno) => Some(Ending::OutputFailed(errno.raw_os_error())),
        None => stdout.is_closed().then_some(Ending::OutputClosed),
    }
}
