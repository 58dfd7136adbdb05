//! Request → what a run of it needs: the image and what is copied in laid out, the kernel opened, the RAM planned.

use std::io;
use std::thread;

use rdvm_proto::Stage;

use super::host;
use crate::cache::Cache;
use crate::command;
use crate::copyin::{self, Gathered};
use crate::error::{Error, Result};
use crate::memory::{self, MemoryPlan, Needs};
use crate::payload;
use crate::prepared_image::{CachePolicy, ImageInfo, PreparedImage};
use crate::report::{Report, Subjects};
use crate::request::{Command, ImageRef, KernelSpec, MemorySpec, Request};
use rdvm_hostfs::escape::escaped;
use rdvm_hostfs::hostmem::Memory;
use rdvm_hostfs::progress::Progress;
use rdvm_hostfs::units::ByteSize;
use rdvm_image::account::{self, Account};
use rdvm_image::tree::Tree;
use rdvm_initrd::layout::{Layout, Places};
use rdvm_initrd::{Contents, Epoch};
use rdvm_kernel::{Kernel, Search};
use rdvm_vmm::guest::ending::Ending;

/// The least that is counted for a command's words and variables, so that a plan does not change with each.
const FEW_WORDS: u64 = 64 << 10;

/// The needs of a run, computed without booting.
#[derive(Debug)]
pub struct Plan {
    /// The image.
    pub image: PreparedImage,
    /// The kernel that boots.
    pub kernel: Kernel,
    /// The RAM, as a sum.
    pub memory: MemoryPlan,
    /// Problems that do not keep the machine from running, one line each.
    pub warnings: Vec<String>,
    /// The request's command over the image's.
    pub(super) command: Command,
    /// The account that runs it.
    pub(super) account: Account,
    /// The files that are copied in, laid out.
    pub(super) copied: Option<(Tree, Places)>,
    /// The sizes of the image and the copied files together.
    pub(super) contents: Contents,
    /// True if machines map the packed image together.
    pub(super) share: bool,
}

/// Plans a run; nothing is written.
///
/// # Errors
/// Whatever keeps the machine from being built, as far as reading tells.
pub fn plan(request: &Request) -> Result<Plan> {
    make(request, CachePolicy::Nothing)
}

/// Plans a run like [`plan`], and keeps the packed image where the request says so.
///
/// # Errors
/// Those of [`plan`]; a shared image cannot be kept.
pub(super) fn plan_and_keep(request: &Request) -> Result<Plan> {
    let policy = match (request.cache, is_shared(request)) {
        (_, true) => CachePolicy::All,
        // A PID 1 of the user's own receives nothing that is kept besides the archive.
        (true, false) if request.rdinit.is_none() => CachePolicy::Archives,
        _ => CachePolicy::Nothing,
    };
    make(request, policy)
}

fn is_shared(request: &Request) -> bool {
    request.share && request.rdinit.is_none()
}

fn make(request: &Request, policy: CachePolicy) -> Result<Plan> {
    // Before anything is read.
    let host = Memory::gather();
    if let MemorySpec::Exactly(given) = request.memory {
        host.check_given(given)?;
    }
    let search = Search::from_env();
    let cache = search.cache.as_deref().map(Cache::below);
    let (image, kernel) = read(request, &search, policy, cache.as_ref())?;
    let info = image.info();
    let mut warnings = info.warnings.clone();
    if policy != CachePolicy::Nothing && cache.is_none() {
        let warning =
            "--cache: there is no directory for it, the packed image is not kept; set RDVM_CACHE";
        warnings.push(warning.to_owned());
    }
    warnings.extend(kernel.warnings.iter().cloned());
    let command = command::over(&request.command, &info.config);
    let account = account_of(&image, &command, request)?;
    check_command(&image, &command, &account, request)?;
    let below = payload::copy_in_directory(&info.init);
    let mut needs = needs(info, &kernel, request.cpus, words(&command));
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
        image,
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

/// Opens the image and the kernel, both at once.
///
/// # Errors
/// Those of the image, then those of the kernel; a shared image has no directory to be kept in.
fn read(
    request: &Request,
    search: &Search,
    policy: CachePolicy,
    cache: Option<&Cache>,
) -> Result<(PreparedImage, Kernel)> {
    if policy == CachePolicy::All && cache.is_none() {
        let source = io::Error::other("there is no directory to keep it in; set RDVM_CACHE");
        return Err(host(|| "--share".to_owned())(source));
    }
    let epoch = Epoch::from_env_or_last()?;
    let image_boot = request.image.path.join("boot");
    let (kernel, image) = thread::scope(|scope| {
        let kernel = scope.spawn(|| rdvm_kernel::open(&request.kernel, Some(&image_boot), search));
        let image = PreparedImage::open(&request.image, epoch, policy, cache, &request.progress);
        (kernel.join(), image)
    });
    // The image's errors first: it is what the user named.
    let image = image?;
    let kernel = kernel.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    Ok((image, kernel))
}

/// Returns what image and kernel need together, with a command of so many bytes, all its words and variables counted.
fn needs(image: &ImageInfo, kernel: &Kernel, cpus: u8, command: u64) -> Needs {
    let table = image.attributes.as_ref().map_or(0, Vec::len) as u64;
    // In the record, in PID 1 and with the command; most are short.
    let words = command.saturating_mul(3).max(FEW_WORDS);
    Needs {
        contents: image.contents,
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
/// # Errors
/// The image cannot be used, or is not the expected one; the second result holds why there is no plan.
pub fn look(
    image: &ImageRef,
    kernel: &KernelSpec,
    cpus: u8,
    progress: &Progress,
) -> Result<(PreparedImage, Result<(Kernel, MemoryPlan)>)> {
    let epoch = Epoch::from_env_or_last()?;
    let prepared = PreparedImage::open(image, epoch, CachePolicy::Nothing, None, progress)?;
    let kernel = rdvm_kernel::open(kernel, Some(&image.path.join("boot")), &Search::from_env());
    let machine = kernel.map_err(Error::from).and_then(|kernel| {
        let needs = needs(prepared.info(), &kernel, cpus, 0);
        let memory = memory::plan(&needs, MemorySpec::FromImage)?;
        Ok((kernel, memory))
    });
    Ok((prepared, machine))
}

/// Looks up the account that runs the command. A PID 1 of the user's own receives none.
fn account_of(image: &PreparedImage, command: &Command, request: &Request) -> Result<Account> {
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

/// Looks the command up where the image alone has it: nothing is copied in, and its tree was read.
///
/// # Errors
/// The guest could not start it.
fn check_command(
    image: &PreparedImage,
    command: &Command,
    account: &Account,
    request: &Request,
) -> Result<()> {
    let Some(image) = image.image() else {
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

/// Returns the name of the command for messages.
pub(super) fn command_name(command: &Command) -> String {
    match command.argv.first() {
        Some(name) if name.is_empty() => "\"\"".to_owned(),
        Some(name) => escaped(name.as_encoded_bytes()),
        None => payload::DEFAULT_COMMAND.to_owned(),
    }
}

/// Returns the bytes of the command's words and variables.
fn words(command: &Command) -> u64 {
    let words = command.entrypoint.iter().chain(&command.argv);
    let words = words.chain(&command.env).chain(&command.workdir);
    words.map(|word| word.len() as u64 + 1).sum()
}
