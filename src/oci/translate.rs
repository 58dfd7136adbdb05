//! A configuration → a [`Request`]. Pure but for looking at what is mounted: nothing is made and nothing started here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{Result, at};
use super::mounts::Mounts;
use super::namespaces::{self, Network};
use super::refusals::{IGNORE, Refusals, refuse};
use super::spec::{Hooks, Linux, Process, Root, Spec};
use super::{devices, process, resources};
use crate::request::{
    AllowRule, EngineChoice, Expectation, Format, ImageRef, KernelSpec, MemorySpec, OwnerRange,
    Ownership, Request, RootSpec, SetupStep,
};
use crate::scratch;
use rdvm_hostfs::units::{ByteSize, parse_span};

/// The host's administrator's choices for all machines: options of the runtime, since whoever writes annotations may be
/// somebody else.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MachineOptions {
    /// The kernel: a file, or a release found in /boot.
    pub kernel: Option<OsString>,
    /// The engine.
    #[serde(with = "Engine")]
    pub engine: EngineChoice,
    /// True if a machine's process has to have every layer of confinement, false if it takes those that there are, `None` for none.
    pub confinement: Option<bool>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "EngineChoice")]
enum Engine {
    Auto,
    Kvm,
    Qemu,
}

/// A container that can be created.
#[derive(Debug)]
pub(super) struct Container {
    /// The machine, its input closed.
    pub(super) request: Request,
    /// The network namespace of its process.
    pub(super) network: Network,
    pub(super) refusals: Refusals,
    /// The root file system, on the host.
    pub(super) root: PathBuf,
    /// Wishes that are not met and of no importance; for the log.
    pub(super) warnings: Vec<String>,
}

/// Translates the configuration of the bundle in the directory `bundle`.
///
/// # Errors
/// It is incomplete, or asks for what a machine cannot give.
pub(super) fn container(spec: &Spec, bundle: &Path, options: &MachineOptions) -> Result<Container> {
    check_version(&spec.oci_version)?;
    check_other_systems(spec)?;
    let refusals = Refusals::of(spec)?;
    check_hooks(&spec.hooks, &refusals)?;
    check_linux(&spec.linux, &refusals)?;
    let network = namespaces::check(spec, &refusals)?;
    let missing = |what: &str| refuse(format!("{what}: is missing"), "a container needs it");
    let own: &Process = spec.process.as_ref().ok_or_else(|| missing("process"))?;
    let Root { path, readonly } = spec.root.as_ref().ok_or_else(|| missing("root"))?;
    let root = bundle.join(path);
    if !root.metadata().map_err(at(&root))?.is_dir() {
        let what = format!("root.path: {}: is no directory", root.display());
        return Err(refuse(what, "name the root file system's"));
    }
    let mut warnings = not_applied(spec, own);
    let command = process::command(spec, own, &refusals, &mut warnings)?;
    let mounts = Mounts::of(spec, bundle, &root, &refusals)?;
    let mut request = Request::new(&root, [""; 0]);
    request.image = ImageRef {
        path: root.clone(),
        format: Some(Format::Dir),
        owner: owner(&spec.linux, &refusals)?,
        expect: Expectation::Nothing,
        ..ImageRef::default()
    };
    request.command = command;
    request.memory = resources::memory(&spec.linux.resources);
    request.cpus = resources::cpus(&spec.linux.resources.cpu);
    request.pids = resources::pids(&spec.linux.resources);
    request.engine = options.engine;
    if let Some(kernel) = &options.kernel {
        request.kernel = KernelSpec::Named(kernel.clone());
    }
    request.read_only_root = *readonly;
    request.stdin.tty = own.terminal;
    request.stdin.escape = false;
    request.volumes = mounts.volumes;
    request.copies.into = mounts.copies_in;
    request.copies.out = mounts.copies_out;
    request.copies.keep_owners = true;
    request.steps = mounts.steps;
    request.steps.extend(settings(spec));
    request.held = true;
    // A container's root is a directory of its own, which no other run has.
    request.cache = false;
    apply(&spec.annotations, &mut request, &network)?;
    Ok(Container {
        request,
        network,
        refusals,
        root,
        warnings,
    })
}

/// Returns a line for each member that guards the host's kernel, which the guest does not use.
fn not_applied(spec: &Spec, process: &Process) -> Vec<String> {
    let members = [
        (spec.linux.seccomp.is_some(), "linux.seccomp"),
        (!spec.linux.mount_label.is_empty(), "linux.mountLabel"),
        (
            !process.apparmor_profile.is_empty(),
            "process.apparmorProfile",
        ),
        (!process.selinux_label.is_empty(), "process.selinuxLabel"),
    ];
    let set = members.iter().filter(|(is_set, _)| *is_set);
    let line = |name| {
        format!("{name}: is not applied; it guards the host's kernel, and a guest has its own")
    };
    set.map(|(_, name)| line(name)).collect()
}

fn check_version(version: &str) -> Result<()> {
    match version.split('.').next() {
        Some("1") => Ok(()),
        _ => Err(refuse(
            format!("ociVersion: {version:?}: is not read"),
            "write it by version 1.0 to 1.2 of the specification",
        )),
    }
}

fn check_other_systems(spec: &Spec) -> Result<()> {
    let systems = [
        ("solaris", &spec.solaris),
        ("windows", &spec.windows),
        ("vm", &spec.vm),
        ("zos", &spec.zos),
    ];
    match systems.iter().find(|(_, member)| member.is_some()) {
        Some((name, _)) => Err(refuse(
            format!("{name}: guests run Linux, in a machine of rdvm's choice"),
            "leave it out",
        )),
        None => Ok(()),
    }
}

fn check_hooks(hooks: &Hooks, refusals: &Refusals) -> Result<()> {
    let kinds = [
        ("prestart", &hooks.prestart),
        ("createRuntime", &hooks.create_runtime),
        ("createContainer", &hooks.create_container),
        ("startContainer", &hooks.start_container),
        ("poststart", &hooks.poststart),
        ("poststop", &hooks.poststop),
    ];
    for (kind, list) in kinds {
        for hook in list {
            if !hook.path.starts_with('/') {
                let what = format!("hooks.{kind}: {:?}: not an absolute path", hook.path);
                return Err(refuse(what, "begin it with a slash"));
            }
            if hook.timeout.is_some_and(|seconds| seconds <= 0) {
                let what = format!(
                    "hooks.{kind}: {}: the time-out is not more than zero",
                    hook.path
                );
                return Err(refuse(what, "leave it out, or give seconds"));
            }
            if matches!(kind, "createContainer" | "startContainer") {
                let what = format!(
                    "hooks.{kind}: {}: runs inside a container, and a machine has no way in",
                    hook.path
                );
                refusals.refuse("hooks", what)?;
            }
        }
    }
    Ok(())
}

fn check_linux(linux: &Linux, refusals: &Refusals) -> Result<()> {
    devices::check(linux, refusals)?;
    resources::check(&linux.resources, refusals)?;
    if linux.intel_rdt.is_some() {
        refusals.refuse("resources", "linux.intelRdt: has no effect on a machine")?;
    }
    let propagation = linux.rootfs_propagation.trim_start_matches('r');
    if matches!(propagation, "shared" | "slave") {
        let what = "linux.rootfsPropagation: mounts do not travel between host and guest";
        refusals.refuse("propagation", what)?;
    }
    match &linux.personality {
        Some(personality) if personality.domain != "LINUX" => {
            let what = format!(
                "linux.personality: {}: is not passed on",
                personality.domain
            );
            refusals.refuse("personality", what)
        }
        _ => Ok(()),
    }
}

/// Returns the owners of the root's files: those in a user namespace of the container's own are the host's numbers.
fn owner(linux: &Linux, refusals: &Refusals) -> Result<Ownership> {
    let has_own = linux.namespaces.iter().any(|ns| ns.kind == "user");
    if !has_own || linux.uid_mappings.is_empty() {
        return Ok(Ownership::Auto);
    }
    if linux.uid_mappings != linux.gid_mappings {
        let what = "linux.gidMappings: is not the same as linux.uidMappings";
        refusals.refuse("user", what)?;
    }
    let ranges = linux.uid_mappings.iter().map(|mapping| OwnerRange {
        host: mapping.host_id,
        guest: mapping.container_id,
        count: mapping.size,
    });
    Ok(Ownership::Map(ranges.collect()))
}

/// Returns what is set and hidden below `/proc` and `/sys`: after all mounts.
fn settings(spec: &Spec) -> Vec<SetupStep> {
    let linux = &spec.linux;
    let domain = Some(&spec.domainname).filter(|name| !name.is_empty());
    let domain = domain.map(|name| ("kernel.domainname".to_owned(), name.clone()));
    let sysctl = linux
        .sysctl
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()));
    let write = |(name, value): (String, String)| {
        // sysctl(8): a dot in a name of an interface is written as a slash.
        let name = name.chars().map(|c| match c {
            '.' => '/',
            '/' => '.',
            other => other,
        });
        SetupStep::Write {
            path: format!("/proc/sys/{}", name.collect::<String>()).into(),
            value: value.into(),
        }
    };
    let masked = linux.masked_paths.iter();
    let masked = masked.map(|path| SetupStep::Mask { path: path.into() });
    let fixed = linux.readonly_paths.iter();
    let fixed = fixed.map(|path| SetupStep::ReadOnly { path: path.into() });
    let written = domain.into_iter().chain(sysctl).map(write);
    written.chain(masked).chain(fixed).collect()
}

/// Applies the annotations of rdvm's own. None of them names a file of the host's: in a cluster users write them.
fn apply(
    annotations: &BTreeMap<String, String>,
    request: &mut Request,
    network: &Network,
) -> Result<()> {
    for (name, value) in annotations {
        let Some(own) = name.strip_prefix("org.rdvm.") else {
            continue;
        };
        let bad = |why: String| {
            refuse(
                format!("annotations: {name}: {value:?}: {why}"),
                "write it as docs/oci.md has it",
            )
        };
        let size = || {
            value
                .parse::<ByteSize>()
                .map_err(|error| bad(error.to_string()))
        };
        let time = || parse_span(value).map_err(|error| bad(error.to_string()));
        match own {
            "memory" => request.memory = MemorySpec::Exactly(size()?),
            "cpus" => {
                let cpus = value.parse().ok().filter(|cpus| (1..=16).contains(cpus));
                request.cpus = cpus.ok_or_else(|| bad("not a number from 1 to 16".to_owned()))?;
            }
            "timeout" => request.timeout = Some(time()?),
            "max-output" => request.max_output = Some(size()?),
            "scratch" => {
                let size =
                    Some(size()?).filter(|size| (scratch::LEAST..=scratch::MOST).contains(size));
                let bounds = || bad(format!("not from {} to {}", scratch::LEAST, scratch::MOST));
                request.scratch = Some(size.ok_or_else(bounds)?);
            }
            "root" => {
                request.root = match value.as_str() {
                    "auto" => RootSpec::Auto,
                    "initrd" => RootSpec::Initrd,
                    "erofs" => RootSpec::Erofs,
                    _ => return Err(bad("not auto, initrd or erofs".to_owned())),
                }
            }
            "allow" if *network == Network::Hosts => {
                return Err(bad(
                    "the proxy would speak from the host's network".to_owned()
                ));
            }
            "allow" => {
                let rules = value
                    .split(',')
                    .map(|rule| rule.trim().parse::<AllowRule>());
                let rules: std::result::Result<_, _> = rules.collect();
                request.network.allow = rules.map_err(|error| bad(error.to_string()))?;
            }
            // Read where they have an effect.
            "volumes" => {}
            _ if name == IGNORE => {}
            _ => return Err(bad("there is no such annotation".to_owned())),
        }
    }
    Ok(())
}
