//! Request → what a run of it needs: the image and what is copied in laid out, the kernel opened, the RAM planned.

use std::io;
use std::thread;

use rdvm_proto::Stage;

use super::host;
use crate::base::{self, Base, Body, Keep};
use crate::cache::Cache;
use crate::command;
use crate::copyin::{self, Gathered};
use crate::error::{Error, Result};
use crate::memory::{self, MemoryPlan, Needs};
use crate::payload;
use crate::report::{Report, Subjects};
use crate::request::{Command, ImageRef, KernelSpec, MemorySpec, Request};
use rdvm_hostfs::escape::escaped;
use rdvm_hostfs::hostmem::Memory;
use rdvm_hostfs::units::ByteSize;
use rdvm_image::account::{self, Account};
use rdvm_image::tree::Tree;
use rdvm_initrd::layout::{Layout, Places};
use rdvm_initrd::{Contents, Epoch};
use rdvm_kernel::{Kernel, Search};
use rdvm_vmm::guest::ending::Ending;

/// What is counted for a command's words and variables when they are fewer, so that a plan does not change with each.
const FEW_WORDS: u64 = 64 << 10;

/// What a run needs, before anything is booted.
#[derive(Debug)]
pub struct Plan {
    /// The image, laid out.
    pub base: Base,
    /// The kernel.
    pub kernel: Kernel,
    /// RAM.
    pub memory: MemoryPlan,
    /// What went less well than it should and is no reason to stop, one line each.
    pub warnings: Vec<String>,
    /// What runs: the request's words over the image's.
    pub(super) command: Command,
    /// Who runs it.
    pub(super) account: Account,
    /// What is copied in, laid out.
    pub(super) copied: Option<(Tree, Places)>,
    /// What the image and what is copied in are together.
    pub(super) contents: Contents,
    /// Whether machines have the packed image mapped together.
    pub(super) share: bool,
}

/// Plans a run; nothing is written.
///
/// Errors: whatever keeps the machine from being built, as far as reading tells.
pub fn plan(request: &Request) -> Result<Plan> {
    make(request, Keep::Nothing)
}

/// As [`plan`], and keeps the packed image where the request says so.
///
/// Errors: the same, and that what is to be shared cannot be kept.
pub(super) fn plan_and_keep(request: &Request) -> Result<Plan> {
    let keep = match (request.cache, is_shared(request)) {
        (_, true) => Keep::All,
        // PID 1 of the user's own is told of nothing that is kept besides the archive.
        (true, false) if request.rdinit.is_none() => Keep::Archives,
        _ => Keep::Nothing,
    };
    make(request, keep)
}

fn is_shared(request: &Request) -> bool {
    request.share && request.rdinit.is_none()
}

fn make(request: &Request, keep: Keep) -> Result<Plan> {
    // Before anything is read.
    let host = Memory::gather();
    if let MemorySpec::Exactly(given) = request.memory {
        host.check_given(given)?;
    }
    let (base, kernel) = read(&request.image, &request.kernel, keep)?;
    let mut warnings = base.facts.warnings.clone();
    warnings.extend(kernel.warnings.iter().cloned());
    let command = command::over(&request.command, &base.facts.config);
    let account = account_of(&base, &command, request)?;
    check_command(&base, &command, &account, request)?;
    let below = payload::copy_in_directory(&base.facts.init);
    let mut needs = needs(&base, &kernel, request.cpus, words(&command));
    let mut copied = None;
    if let Some(gathered) = copyin::read(&request.copies, &below, account.uid, account.gid)? {
        let Gathered {
            tree,
            warnings: left_out,
        } = gathered;
        let places = Layout::of(&tree, Epoch::from_env_or_last()?)?.into_places();
        needs.contents = needs.contents.and(places.contents());
        warnings.extend(left_out);
        copied = Some((tree, places));
    }
    let share = is_shared(request);
    needs.keeps_initrd = share;
    needs.root_keeps_its_half = request.rdinit.is_some();
    let memory = memory::plan(&needs, request.memory)?;
    warnings.extend(host.check_needed(memory.need)?);
    Ok(Plan {
        base,
        kernel,
        memory,
        warnings,
        command,
        account,
        copied,
        contents: needs.contents,
        share,
    })
}

/// The image and the kernel, both at once.
///
/// Errors: those of the image, then those of the kernel; what is to be shared has no directory to be kept in.
fn read(image: &ImageRef, kernel: &KernelSpec, keep: Keep) -> Result<(Base, Kernel)> {
    let search = Search::from_env();
    let cache = search.cache.as_deref().map(Cache::below);
    if keep == Keep::All && cache.is_none() {
        let source = io::Error::other("there is no directory to keep it in; set RDVM_CACHE");
        return Err(host(|| "--share".to_owned())(source));
    }
    let epoch = Epoch::from_env_or_last()?;
    let image_boot = image.path.join("boot");
    let (kernel, base) = thread::scope(|scope| {
        let kernel = scope.spawn(|| rdvm_kernel::open(kernel, Some(&image_boot), &search));
        let base = base::open(image, epoch, keep, cache.as_ref());
        (kernel.join(), base)
    });
    // The image's faults first: it is what the user named.
    let mut base = base?;
    if keep != Keep::Nothing && cache.is_none() {
        let warning =
            "--cache: there is no directory for it, the packed image is not kept; set RDVM_CACHE";
        base.facts.warnings.push(warning.to_owned());
    }
    let kernel = kernel.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    Ok((base, kernel))
}

/// What they need together, with a command of so many bytes, all its words and variables counted.
fn needs(base: &Base, kernel: &Kernel, cpus: u8, command: u64) -> Needs {
    let table = base.facts.attributes.as_ref().map_or(0, Vec::len) as u64;
    // In the record, in PID 1 and with the command; most are short.
    let words = command.saturating_mul(3).max(FEW_WORDS);
    Needs {
        contents: base.facts.contents,
        kernel: ByteSize(kernel.memory_bytes()),
        kernel_end: kernel.load_end(),
        own: ByteSize(payload::RDINIT.len() as u64 + table + words),
        cpus,
        keeps_initrd: false,
        root_keeps_its_half: false,
    }
}

/// Reads the image, and plans a run of it as far as there is a kernel for one.
///
/// Errors: the image cannot be used, or is not the one agreed on; the second result's is why there is no plan.
pub fn look(
    image: &ImageRef,
    kernel: &KernelSpec,
    cpus: u8,
) -> Result<(Base, Result<(Kernel, MemoryPlan)>)> {
    let base = base::open(image, Epoch::from_env_or_last()?, Keep::Nothing, None)?;
    let kernel = rdvm_kernel::open(kernel, Some(&image.path.join("boot")), &Search::from_env());
    let machine = kernel.map_err(Error::from).and_then(|kernel| {
        let memory = memory::plan(&needs(&base, &kernel, cpus, 0), MemorySpec::FromImage)?;
        Ok((kernel, memory))
    });
    Ok((base, machine))
}

/// Who runs the command; PID 1 of the user's own is not told.
fn account_of(base: &Base, command: &Command, request: &Request) -> Result<Account> {
    let is_told = request.rdinit.is_none();
    let user = command.user.as_ref().filter(|_| is_told);
    let files = match (&base.body, user) {
        (Body::Read(image, _), Some(_)) => account::Files::read(&image.tree),
        // Who asked for no user gets root, whatever these files are.
        (Body::Read(image, _), None) if is_told => {
            Ok(account::Files::read(&image.tree).unwrap_or_default())
        }
        _ => Ok(base.facts.accounts.clone()),
    };
    let account = files.and_then(|files| account::account(&files, user));
    Ok(account?)
}

/// Looks the command up where the image alone has it: nothing is copied in, and its tree was read.
///
/// Errors: the guest could not start it.
fn check_command(
    base: &Base,
    command: &Command,
    account: &Account,
    request: &Request,
) -> Result<()> {
    let Body::Read(image, _) = &base.body else {
        return Ok(());
    };
    if request.rdinit.is_some() || !request.copies.into.is_empty() {
        return Ok(());
    }
    let (default, path) = (payload::DEFAULT_COMMAND, payload::DEFAULT_PATH);
    match command::missing(&image.tree, command, default, path, account.uid) {
        Some(errno) => {
            let ending = Ending::NotStarted {
                stage: Stage::Exec,
                errno: errno.raw_os_error(),
                which: 0,
            };
            let subjects = Subjects {
                command: &command_name(command),
                memory: "",
                copies: &[],
            };
            Err(Error::NotStarted(Box::new(Report::of(&ending, subjects))))
        }
        None => Ok(()),
    }
}

/// The command as the user knows it.
pub(super) fn command_name(command: &Command) -> String {
    match command.argv.first() {
        Some(name) if name.is_empty() => "\"\"".to_owned(),
        Some(name) => escaped(name.as_encoded_bytes()),
        None => payload::DEFAULT_COMMAND.to_owned(),
    }
}

/// How many bytes the command's words and variables have.
fn words(command: &Command) -> u64 {
    let words = command.entrypoint.iter().chain(&command.argv);
    let words = words.chain(&command.env).chain(&command.workdir);
    words.map(|word| word.len() as u64 + 1).sum()
}
