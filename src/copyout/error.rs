//! Why a thing that was wished for is not there.

use std::io;

use rdvm_hostfs::escape::{escaped, reason};
use rdvm_hostfs::units::ByteSize;

/// The way out for what a wish cannot hold.
const PACK_IT: &str = "make a tar archive of it in the machine and copy that out";

/// The failure of one request; its name stands before it.
#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    /// The guest kernel did not find it.
    #[error("not there when the command had ended ({})", reason(&io::Error::from_raw_os_error(*.0)))]
    Missing(i32),
    /// It, or something in it, could not be read.
    #[error("{}could not be read in the machine ({})", inside(.path), reason(&io::Error::from_raw_os_error(*.errno)))]
    Unread { path: Vec<u8>, errno: i32 },
    /// It is a device or the like itself.
    #[error("neither file nor directory; only those can be copied out")]
    Kind,
    /// A path that is none.
    #[error("the machine sent {}, which {why}", escaped(.path))]
    Path { path: Vec<u8>, why: &'static str },
    /// A file came to another length than it was said to have.
    #[error("{}came to another length than it had, as files that a kernel makes up do; copy it to a plain file in the machine and that one out", inside(.0))]
    Length(Vec<u8>),
    /// The host refused.
    #[error("{what}: {}; nothing of it was put into position", reason(source))]
    Host { what: String, source: io::Error },
    /// Something is in the way.
    #[error("{what}, so nothing was put into position; move it away or copy to another place")]
    Conflict { what: String },
    /// It cannot go into a directory.
    #[error("has no name of its own by which to go into a directory")]
    Nameless,
    /// The host refused when some of it was in position already.
    #[error(
        "{what}: {}; {done} of {all} things had been put into position before",
        reason(source)
    )]
    Half {
        what: String,
        source: io::Error,
        done: usize,
        all: usize,
    },
    /// Nothing, or not all of it, has come.
    #[error("{0}")]
    Stream(StreamFault),
    /// The host does not answer.
    #[error(
        "{host}: has not answered for {seconds} seconds and was given up; see to its file system, where .rdvm-… may be left behind"
    )]
    Stuck { host: String, seconds: u64 },
    /// The machine did not answer.
    #[error("not copied out: {0}")]
    Unanswered(String),
}

impl CopyError {
    /// Something of the host's that failed.
    pub(super) fn host(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Host {
            what: what.into(),
            source: source.into(),
        }
    }
}

/// The fault that ended the stream, and with it everything that was incomplete.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub(super) enum StreamFault {
    /// Not what PID 1 sends.
    #[error("what the machine sent is damaged")]
    Damaged,
    /// Frames that do not follow on one another.
    #[error("what the machine sent is in no order")]
    Order,
    /// Too many bytes.
    #[error("more than {0} in all, which is the limit; allow more with --copy-out-limit")]
    Bytes(ByteSize),
    /// Too many things.
    #[error("more than {0} files and directories in all; {PACK_IT}")]
    Entries(u64),
    /// Too much to keep.
    #[error("more than {0} bytes of names of directories and links; {PACK_IT}")]
    Names(u64),
}

/// The path as the beginning of a message; nothing for the thing itself.
fn inside(path: &[u8]) -> String {
    match path.is_empty() {
        true => String::new(),
        false => format!("{} in it ", escaped(path)),
    }
}
