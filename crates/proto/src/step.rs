//! Host to guest, in the start record: steps that PID 1 carries out after its own mounts and before the command.

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
    /// The action.
    pub action: StepAction,
    /// Bits of `mount(2)`.
    pub flags: u64,
    /// The source of the mount.
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

/// The steps of a record; it ends at the first that is none.
pub struct Steps<'a> {
    pub(crate) numbers: Decoder<'a>,
    pub(crate) strings: Decoder<'a>,
}

impl<'a> Iterator for Steps<'a> {
    type Item = Step<'a>;

    // Once in PID 1, which is small.
    #[inline(never)]
    fn next(&mut self) -> Option<Step<'a>> {
        let Self { numbers, strings } = self;
        Some(Step {
            action: StepAction::from_number(numbers.u32()?)?,
            flags: numbers.u64()?,
            source: strings.string()?,
            target: strings.string()?,
            kind: strings.string()?,
            data: strings.string()?,
        })
    }
}
