//! The command of a run, as far as the image tells: who runs it, and whether it is there.

use std::os::unix::ffi::OsStrExt;

use rdvm_proto::Stage;

use crate::command;
use crate::error::{Error, Result};
use crate::payload;
use crate::prepared_image::PreparedImage;
use crate::report::{Report, Subjects};
use crate::request::{Command, Request, SetupStep};
use rdvm_hostfs::escape::escaped;
use rdvm_image::account::{self, Account};
use rdvm_vmm::guest::ending::Ending;

/// Looks the command up where the image alone has it and its tree was read.
///
/// # Errors
/// The guest could not start it.
pub(super) fn check(
    image: &PreparedImage,
    command: &Command,
    account: &Account,
    request: &Request,
) -> Result<()> {
    let Some(image) = image.image() else {
        return Ok(());
    };
    if request.rdinit.is_some() {
        return Ok(());
    }
    // What is put there may be it, or hide it.
    let copies = request.copies.into.iter().map(|copy| copy.guest.as_bytes());
    let volumes = request.volumes.iter().map(|volume| volume.guest.as_bytes());
    let steps = request.steps.iter().filter_map(SetupStep::covers);
    let covered = command::MOUNTED.into_iter().chain(copies).chain(volumes);
    let covered: Vec<&[u8]> = covered.chain(steps).collect();
    let (default, path) = (payload::DEFAULT_COMMAND, payload::DEFAULT_PATH);
    match command::missing(&image.tree, &covered, command, default, path, account.uid) {
        Some(errno) => {
            let ending = Ending::NotStarted {
                stage: Stage::Exec,
                errno: errno.raw_os_error(),
                which: 0,
            };
            let subjects = Subjects {
                command: &name_of(command),
                memory: "",
                copies: &[],
                modules: &[],
                scratch: "",
                steps: &[],
            };
            Err(Error::NotStarted(Box::new(Report::of(&ending, subjects))))
        }
        None => Ok(()),
    }
}

/// Looks up the account that runs the command. A PID 1 of the user's own receives none.
pub(super) fn account_of(
    image: &PreparedImage,
    command: &Command,
    request: &Request,
) -> Result<Account> {
    let is_told = request.rdinit.is_none();
    let user = command.user.as_ref().filter(|_| is_told);
    let files = match (image.image(), user) {
        (Some(image), Some(_)) => account::Files::read(&image.tree),
        // Without --user the command runs as root, whatever these files are.
        (Some(image), None) if is_told => Ok(account::Files::read(&image.tree).unwrap_or_default()),
        _ => Ok(image.info().accounts.clone()),
    };
    let account = files.and_then(|files| account::account(&files, user));
    Ok(account?)
}

/// Returns the name of the command for messages.
pub(super) fn name_of(command: &Command) -> String {
    match command.argv.first() {
        Some(name) if name.is_empty() => "\"\"".to_owned(),
        Some(name) => escaped(name.as_encoded_bytes()),
        None => payload::DEFAULT_COMMAND.to_owned(),
    }
}

/// Returns the bytes of the command's words and variables.
pub(super) fn words(command: &Command) -> u64 {
    let words = command.entrypoint.iter().chain(&command.argv);
    let words = words.chain(&command.env).chain(&command.workdir);
    let words: u64 = words.map(|word| word.len() as u64 + 1).sum();
    words + command.groups.as_ref().map_or(0, Vec::len) as u64 * 4
}
