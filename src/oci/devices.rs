//! `linux.devices` of a configuration: those that every guest has are there already, and a machine has no others.

use super::error::Result;
use super::refusals::Refusals;
use super::spec::Linux;

/// The devices of every guest.
const DEVICES: [&str; 10] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/console",
    "/dev/ptmx",
    "/dev/kmsg",
    "/dev/fuse",
];

/// True if `path` is a device that every guest has.
pub(super) fn is_in_every_guest(path: &str) -> bool {
    DEVICES.contains(&path)
}

/// Checks the devices of a configuration.
///
/// # Errors
/// One that a machine has not.
pub(super) fn check(linux: &Linux, refusals: &Refusals) -> Result<()> {
    for device in &linux.devices {
        if !is_in_every_guest(&device.path) {
            let what = format!(
                "linux.devices: {}: a machine has no devices of the host's",
                device.path
            );
            refusals.refuse("devices", what)?;
        }
    }
    let mut net = linux.net_devices.keys();
    match net.next() {
        Some(name) => refusals.refuse(
            "network",
            format!("linux.netDevices: {name}: a machine has no network card"),
        ),
        None => Ok(()),
    }
}
