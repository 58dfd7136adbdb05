//! Modules of the kernel that the host has sent along: the drivers and file systems of regions, where the kernel does not have
//! them built in.

use crate::sys;
use rdvm_proto::Modules;

/// Loads all modules of the file `table`, and removes it.
///
/// # Errors
/// Which module, from 0 on, and why; 0 where the file is not there or has another format.
pub(crate) fn load(table: &[u8]) -> Result<(), (u32, sys::Errno)> {
    let first = |errno| (0, errno);
    let fd = sys::open(table, sys::O_RDONLY | sys::O_CLOEXEC).map_err(first)?;
    let loaded = sys::with_mapped_file(fd, |bytes| {
        load_all(Modules::decode(bytes).ok_or((0, sys::EINVAL))?)
    });
    sys::close(fd);
    let _ = sys::unlink(table);
    loaded.map_err(first)?
}

fn load_all(modules: Modules<'_>) -> Result<(), (u32, sys::Errno)> {
    for (index, module) in (0..).zip(modules.iter()) {
        match sys::init_module(module) {
            // Built in after all, as some algorithms are under another name.
            Ok(()) | Err(sys::EEXIST) => {}
            Err(errno) => return Err((index, errno)),
        }
    }
    Ok(())
}
