//! Text of the help and the man pages beyond the options: examples, environment, exit status.

use std::fmt::Write;

/// A command line and its description.
pub(crate) type Example = (&'static str, &'static str);

/// Examples of `run`.
pub const RUN: &[Example] = &[
    (
        "rdvm run debian.tar dpkg -l",
        "Run a command in an archive, as root of a machine of its own.",
    ),
    (
        "docker save app | rdvm run - make check",
        "Run a docker image from a pipe.",
    ),
    (
        "rdvm run debian:12 dpkg -l",
        "Run an image by its name, which is pulled from its registry if it is not here.",
    ),
    (
        "rdvm run -it -m 2g debian sh",
        "Open a shell in a machine with 2 GiB of RAM.",
    ),
    (
        "rdvm run --copy-in src:/src --copy-out /src/out:out build.tar make -C /src",
        "Build, and fetch the result.",
    ),
    (
        "rdvm run --timeout 10s --report r.json -u nobody box ./program",
        "Run untrusted code, and write a report.",
    ),
];

/// Examples of `oci`.
pub const OCI: &[Example] = &[
    (
        "podman --runtime /usr/local/bin/rdvm-oci run --network=none debian dpkg -l",
        "Run a container of podman's as a machine; rdvm-oci is a link to rdvm.",
    ),
    (
        "rdvm oci run --bundle dir name",
        "Run a bundle in the foreground.",
    ),
    (
        "rdvm oci list",
        "Show the containers and the state of each.",
    ),
];

/// Examples of `pack`.
pub const PACK: &[Example] = &[
    (
        "rdvm pack -o root.cpio debian",
        "Write a directory as an initrd.",
    ),
    (
        "rdvm pack -o app.tar --format docker --tag app:1 --cmd /bin/app dir",
        "Make an image for docker load.",
    ),
    (
        "rdvm pack -o layer.tar --base debian.tar changed",
        "Write only what differs from another image.",
    ),
];

/// Examples of `inspect`.
pub const INSPECT: &[Example] = &[
    (
        "rdvm inspect debian.tar",
        "Show layers, digest, command and the RAM a run needs.",
    ),
    (
        "rdvm inspect --json debian.tar | jq -r .digest",
        "Print the digest alone.",
    ),
    (
        "rdvm inspect --lock debian.tar",
        "Lock the image: later runs reject another digest.",
    ),
];

/// Examples of `kernel`.
pub const KERNEL: &[Example] = &[
    ("rdvm kernel list", "Show which kernel a run uses, and why."),
    (
        "rdvm kernel build",
        "Build the small kernel, for all later runs.",
    ),
    (
        "rdvm kernel check /boot/config-6.1.0",
        "Show which features of rdvm a kernel supports.",
    ),
];

/// Examples of `doctor`.
pub const DOCTOR: &[Example] = &[
    (
        "rdvm doctor",
        "Show what works here, with a remedy for each problem.",
    ),
    (
        "rdvm doctor --json | jq -r '.findings[] | select(.level == \"problem\").text'",
        "Print the problems alone.",
    ),
];

/// Examples of `pull`.
pub const PULL: &[Example] = &[
    (
        "rdvm pull debian:12",
        "Fetch an image by docker's short name.",
    ),
    (
        "rdvm pull localhost:5000/app@sha256:...",
        "Fetch the image with this digest, from a registry on this host.",
    ),
];

/// Examples of `images`.
pub const IMAGES: &[Example] = &[
    ("rdvm images", "List names, digests, sizes and ages."),
    (
        "rdvm images --json | jq -r '.[].name'",
        "Print the names alone.",
    ),
];

/// Examples of `rmi`.
pub const RMI: &[Example] = &[
    (
        "rdvm rmi debian:12",
        "Remove an image, and the blobs that no other image has.",
    ),
    (
        "rdvm rmi --to 10g",
        "Remove what was not used for longest, down to 10 GiB.",
    ),
];

/// Examples of `cache`.
pub const CACHE: &[Example] = &[
    (
        "rdvm cache list",
        "Show the packed images that runs have kept.",
    ),
    (
        "rdvm cache prune --to 2g",
        "Remove the least recently used, down to 2 GiB.",
    ),
];

/// The variables that rdvm reads.
pub const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "RDVM_KERNEL",
        "The kernel to boot; --kernel takes precedence.",
    ),
    (
        "RDVM_QEMU",
        "The QEMU program to use instead of qemu-system-x86_64 from PATH.",
    ),
    (
        "RDVM_CACHE",
        "The cache directory: kernels, pulled images, and packed images.",
    ),
    (
        "RDVM_STORE_LIMIT",
        "The size of pulled images above which the least recently used ones are removed (default: 32g).",
    ),
    (
        "REGISTRY_AUTH_FILE, DOCKER_CONFIG, CONTAINERS_REGISTRIES_CONF",
        "Credentials and configuration of registries, as podman and docker find them.",
    ),
    (
        "SSL_CERT_FILE, SSL_CERT_DIR",
        "The certificates of CAs to trust, in place of or beside the system's.",
    ),
    (
        "XDG_CACHE_HOME, HOME",
        "Without RDVM_CACHE, the cache is $XDG_CACHE_HOME/rdvm, else $HOME/.cache/rdvm.",
    ),
    (
        "TMPDIR",
        "The directory for temporary files (default: /tmp, and /var/tmp for --scratch).",
    ),
    (
        "SOURCE_DATE_EPOCH",
        "The latest modification time of packed files, in seconds since 1970.",
    ),
];

/// The exit status of `run`.
pub const RUN_STATUS: &[(&str, &str)] = &[
    ("0 to 255", "The command's own."),
    ("124", "--timeout passed."),
    (
        "125",
        "rdvm or the machine failed, or the command line was wrong; --report distinguishes it from a command's own 125.",
    ),
    ("126", "The command was found but cannot be run."),
    ("127", "The command was not found."),
    ("128+n", "Signal n killed the command, or stopped rdvm."),
];

/// The exit status of verbs that judge: doctor and kernel check.
pub const VERDICT_STATUS: &[(&str, &str)] = &[
    ("0", "A run can work."),
    ("1", "A run cannot work; the output says why."),
    ("125", "rdvm failed, or the command line was wrong."),
];

/// The exit status of all other verbs.
pub const STATUS: &[(&str, &str)] = &[
    ("0", "Success."),
    ("125", "rdvm failed, or the command line was wrong."),
];

/// The examples as the end of a verb's help.
pub(super) fn examples(examples: &[Example]) -> String {
    let mut text = String::from("Examples:");
    for (line, what) in examples {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n  {line}\n      {what}");
    }
    text
}
