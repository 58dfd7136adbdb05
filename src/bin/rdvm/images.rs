//! `rdvm images`.

use std::time::{SystemTime, UNIX_EPOCH};

use rdvm::cli::ImagesArgs;
use rdvm::names::Images;
use rdvm_hostfs::civil::timestamp;
use rdvm_registry::StoredImage;
use serde::Serialize;

use crate::Result;
use crate::print::print;

/// The digits of a digest in the table.
const DIGITS: usize = 12;

/// An image as JSON has it.
#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    digest: String,
    source: String,
    size: u64,
    layers: usize,
    pulled: Option<String>,
    used: Option<String>,
}

/// Lists the images of the store, the one used last first.
pub(crate) fn images(args: &ImagesArgs) -> Result<u8> {
    let images = Images::open()?.store.images()?;
    if args.json {
        let lines: Vec<Line<'_>> = images.iter().map(Line::of).collect();
        return print(&(serde_json::to_string_pretty(&lines)? + "\n"));
    }
    let header = ["NAME", "DIGEST", "SIZE", "PULLED"].map(str::to_owned);
    let rows: Vec<[String; 4]> = std::iter::once(header)
        .chain(images.iter().map(row))
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    let lines = rows.iter().map(|[name, digest, size, age]| {
        format!(
            "{name:a$}  {digest:b$}  {size:>c$}  {age}\n",
            a = widths[0],
            b = widths[1],
            c = widths[2]
        )
    });
    print(&lines.collect::<String>())
}

fn row(image: &StoredImage) -> [String; 4] {
    let digest = image.manifest.to_string();
    let digits = digest.trim_start_matches("sha256:");
    [
        image.name.clone(),
        digits[..DIGITS].to_owned(),
        image.size.to_string(),
        image.pulled.map_or_else(|| "-".to_owned(), age),
    ]
}

/// A time as its distance from now.
fn age(time: SystemTime) -> String {
    let seconds = time.elapsed().unwrap_or_default().as_secs();
    let (count, unit) = match seconds {
        ..60 => return "just now".to_owned(),
        60..3600 => (seconds / 60, "minute"),
        3600..86400 => (seconds / 3600, "hour"),
        _ => (seconds / 86400, "day"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural} ago")
}

impl<'a> Line<'a> {
    fn of(image: &'a StoredImage) -> Self {
        let time = |time: SystemTime| {
            let seconds = time
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs();
            timestamp(seconds.try_into().unwrap_or(i64::MAX))
        };
        Self {
            name: &image.name,
            digest: image.manifest.to_string(),
            source: image.source.to_string(),
            size: image.size.0,
            layers: image.layers,
            pulled: image.pulled.map(time),
            used: image.used.map(time),
        }
    }
}
