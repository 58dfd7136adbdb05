//! Host to guest, in the start record: what PID 1 sets up besides its own mounts before the command runs.

use crate::Decoder;

/// Bytes of a step's numbers: action, flags.
pub(crate) const STEP: usize = 12;
/// Strings of a step: source, target, kind, data.
pub(crate) const STEP_STRINGS: usize = 4;

/// The action of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum StepAction {
    /// Mount `source`, a file system of `kind` with the options `data`, on `target`, which is made where it is missing.
    Mount = 1,
    /// Write `data` to the file `target`.
    Write = 2,
    /// Hide `target`, if it is there: a file behind `/dev/null`, a directory behind an empty one.
    Mask = 3,
    /// Make `target` read-only, if it is there.
    ReadOnly = 4,
}

impl StepAction {
    fn from_number(number: u32) -> Option<Self> {
        [Self::Mount, Self::Write, Self::Mask, Self::ReadOnly]
            .into_iter()
            .find(|action| *action as u32 == number)
    }
}

/// One step. In a decoded record its strings have their NULs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step<'a> {
    /// What is done.
    pub action: StepAction,
    /// Bits of `mount(2)`.
    pub flags: u64,
    /// What is mounted.
    pub source: &'a [u8],
    /// The path that the step is about.
    pub target: &'a [u8],
    /// The kind of the file system.
    pub kind: &'a [u8],
    /// Options of the mount, or the bytes to write.
    pub data: &'a [u8],
}

#[cfg(not(freestanding))]
impl<'a> Step<'a> {
    pub(crate) fn strings(&self) -> [&'a [u8]; STEP_STRINGS] {
        [self.source, self.target, self.kind, self.data]
    }
}

/// The steps whose numbers and strings these are; it ends at the first that is none.
pub(crate) fn steps<'a>(numbers: &'a [u8], strings: &'a [u8]) -> impl Iterator<Item = Step<'a>> {
    let mut strings = Decoder { bytes: strings };
    numbers.chunks_exact(STEP).map_while(move |bytes| {
        let mut r = Decoder { bytes };
        Some(Step {
            action: StepAction::from_number(r.u32()?)?,
            flags: r.u64()?,
            source: strings.string()?,
            target: strings.string()?,
            kind: strings.string()?,
            data: strings.string()?,
        })
    })
}
