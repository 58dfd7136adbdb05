//! `rdvm cache`.

use rdvm::cache::Cache;
use rdvm::cli::CacheVerb;
use rdvm::prepared_image::cached_name;
use rdvm_hostfs::escape::{reason, shown};
use rdvm_kernel::Search;

use crate::Result;
use crate::print::print;

/// Lists the packed images that are kept, or removes some.
pub(crate) fn cache(verb: CacheVerb) -> Result<u8> {
    let cache = Search::from_env().cache;
    let cache = cache.ok_or("no cache directory; set RDVM_CACHE, XDG_CACHE_HOME or HOME")?;
    let images = Cache::below(&cache);
    let failed = |error| format!("{}: {}", shown(images.directory()), reason(&error));
    match verb {
        CacheVerb::List => {
            let entries = images.list().map_err(failed)?;
            let lines = entries.iter().map(|entry| {
                let unused = entry.used.elapsed().unwrap_or_default().as_secs();
                let days = unused / (24 * 60 * 60);
                let image = images.facts(entry).and_then(|facts| cached_name(&facts));
                format!(
                    "{:>10}  used {days} days ago  {}  {}\n",
                    entry.size.to_string(),
                    image.as_deref().unwrap_or("-"),
                    entry.name
                )
            });
            print(&lines.collect::<String>())
        }
        CacheVerb::Prune { to } => {
            let pruned = images.prune(to).map_err(failed)?;
            print(&format!(
                "removed {} images, {}\n",
                pruned.entries, pruned.bytes
            ))
        }
    }
}
