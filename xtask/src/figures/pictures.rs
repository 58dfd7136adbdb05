//! Which pictures there are, and what of which table each shows.

use std::collections::BTreeMap;

use super::chart::{Bars, Line, Lines, Scale, short};
use super::{Error, Table};

/// All of them: the file's name without `.svg`, and the picture.
///
/// # Errors
///
/// A table is missing or holds something else than the picture shows.
pub(crate) fn all(tables: &BTreeMap<String, Table>) -> Result<Vec<(String, String)>, Error> {
    let table = |name: &str| {
        tables
            .get(name)
            .ok_or_else(|| Error::Missing(name.to_owned()))
    };
    let mut made = Vec::new();
    for (engine, unit) in [
        ("KVM", "milliseconds since exec, counted instructions"),
        ("QEMU", "milliseconds since exec, wall time, emulated"),
    ] {
        let name = format!("timeline-{}", engine.to_lowercase());
        let phases = table(&name)?;
        for (short, kernel) in [("small", "small kernel"), ("debian", "Debian's kernel")] {
            let phases = phases.only("kernel", kernel)?;
            let picture = timeline(&phases, &["hello", "Debian"], engine, unit)?;
            made.push((format!("{name}-{short}"), picture.svg()?));
        }
        // Emulated, they would take half a minute.
        if engine == "KVM" {
            let picture = timeline(phases, &["50,000 files"], engine, unit)?;
            made.push((format!("{name}-files"), picture.svg()?));
        }
    }
    made.push(("peers".to_owned(), peers(table("peers")?)?.svg()?));
    made.push(("memory".to_owned(), memory(table("memory")?)?.svg()?));
    for (engine, unit) in [("KVM", "counted"), ("QEMU", "emulated, wall time")] {
        let name = format!("ports-{}", engine.to_lowercase());
        let picture = ports(table(&name)?, engine, unit)?.svg()?;
        made.push((name, picture));
    }
    made.push(("starts".to_owned(), starts(table("starts")?)?.svg()?));
    made.push((
        "scale-entries".to_owned(),
        scale(table("scale")?, "entries", "entries")?.svg()?,
    ));
    made.push((
        "scale-bytes".to_owned(),
        scale(table("scale")?, "bytes", "MiB")?.svg()?,
    ));
    Ok(made)
}

/// A bar for each of these images with each kernel, a part for each phase.
fn timeline(table: &Table, images: &[&str], engine: &str, axis: &str) -> Result<Bars, Error> {
    let [kernel, image, phase] = ["kernel", "image", "phase"].map(|name| table.column(name));
    let (kernel, image, phase) = (kernel?, image?, phase?);
    let parts = table.values("phase")?;
    let mut bars: Vec<(String, Vec<f64>)> = Vec::new();
    for row in &table.rows {
        if !images.contains(&row[image].as_str()) {
            continue;
        }
        let name = format!("{}, {}", row[image], row[kernel]);
        if bars.last().is_none_or(|(last, _)| *last != name) {
            bars.push((name, vec![0.0; parts.len()]));
        }
        let part = parts.iter().position(|part| *part == row[phase]);
        if let (Some((_, lengths)), Some(part)) = (bars.last_mut(), part) {
            lengths[part] += table.number(row, "ms")?;
        }
    }
    Ok(Bars {
        title: format!("Where the time goes: the {engine} engine"),
        axis: axis.to_owned(),
        parts,
        bars,
    })
}

/// The time of each program's first boot to user space, and on to its end.
fn peers(table: &Table) -> Result<Bars, Error> {
    let name = table.column("what")?;
    let mut bars = Vec::new();
    for row in &table.rows {
        let user_space = table.number(row, "exec to user space, ms")?;
        let exit = table.number(row, "exec to exit, ms")?;
        bars.push((row[name].clone(), vec![user_space, exit - user_space]));
    }
    Ok(Bars {
        title: "The same hello on KVM, by program and kernel".to_owned(),
        axis: "milliseconds, counted instructions".to_owned(),
        parts: vec!["exec to user space".to_owned(), "to the exit".to_owned()],
        bars,
    })
}

/// Planned RAM and the least that will do, over the size of the image.
fn memory(table: &Table) -> Result<Lines, Error> {
    let by_size = Table {
        rows: table
            .rows
            .iter()
            .filter(|row| row[0].contains("MiB in"))
            .cloned()
            .collect(),
        ..table.clone()
    };
    let mut lines = Vec::new();
    let kernels = by_size.values("kernel")?;
    for kernel in &kernels {
        let rows = by_size.only("kernel", kernel)?;
        for (column, name) in [
            ("planned MiB", "planned"),
            ("least with room MiB", "least with room to write"),
            ("least that boots MiB", "least that boots"),
        ] {
            // A kernel may be measured in one way only.
            let at = rows.column(column)?;
            let mut points = Vec::new();
            for row in rows.rows.iter().filter(|row| row[at] != "-") {
                points.push((rows.number(row, "initrd MiB")?, rows.number(row, column)?));
            }
            if !points.is_empty() {
                lines.push(Line {
                    name: format!("{name}, {kernel}"),
                    points,
                    guide: false,
                });
            }
        }
    }
    let ticks = [1, 4, 16, 64, 256, 1024].map(f64::from).to_vec();
    Ok(Lines {
        title: "RAM planned against RAM needed".to_owned(),
        axes: [
            "size of the initrd, MiB".to_owned(),
            "guest RAM, MiB".to_owned(),
        ],
        ticks,
        tick: short,
        lines,
        scale: Scale::Both,
    })
}

/// The starts in a second, over the number of machines started at a time.
fn starts(table: &Table) -> Result<Lines, Error> {
    let mut lines = Vec::new();
    let mut ticks = Vec::new();
    let table = table.only("image", "libs")?;
    for mode in table.values("mode")? {
        let rows = table.only("mode", &mode)?;
        let mut points = Vec::new();
        for row in &rows.rows {
            points.push((
                rows.number(row, "at a time")?,
                rows.number(row, "machines per second")?,
            ));
        }
        ticks = points.iter().map(|(x, _)| *x).collect();
        lines.push(Line {
            name: format!("--root {mode}"),
            points,
            guide: false,
        });
    }
    Ok(Lines {
        title: "Starts in a second".to_owned(),
        axes: [
            "started at a time".to_owned(),
            "machines per second".to_owned(),
        ],
        ticks,
        tick: short,
        lines,
        scale: Scale::OnlyX,
    })
}

/// The throughput of each way in or out, over the size of a message.
fn ports(table: &Table, engine: &str, unit: &str) -> Result<Lines, Error> {
    let mut lines = Vec::new();
    for name in table.values("what")? {
        let rows = table.only("what", &name)?;
        let mut points = Vec::new();
        for row in &rows.rows {
            points.push((rows.number(row, "bytes")?, rows.number(row, "MB/s")?));
        }
        lines.push(Line {
            name,
            points,
            guide: false,
        });
    }
    Ok(Lines {
        title: format!("Throughput of the ways in and out: the {engine} engine"),
        axes: [
            "size of the message, bytes".to_owned(),
            format!("MB/s, {unit}"),
        ],
        ticks: (0..5).map(|power| 4096.0 * 16f64.powi(power)).collect(),
        tick: bytes,
        lines,
        scale: Scale::Both,
    })
}

/// The cost of packing and booting over the number of entries or of bytes, with a line of proportional cost.
fn scale(table: &Table, over: &str, column: &str) -> Result<Lines, Error> {
    let rows = table.only("over", over)?;
    let mut lines = Vec::new();
    for (figure, name) in [
        ("pack, CPU ms", "rdvm pack, CPU time"),
        (
            "boot on KVM, ms",
            "run on KVM above an empty image, counted",
        ),
        (
            "boot in QEMU, CPU ms",
            "run in QEMU above an empty image, CPU time",
        ),
    ] {
        let at = rows.column(figure)?;
        let mut points = Vec::new();
        for row in rows.rows.iter().filter(|row| row[at] != "-") {
            points.push((rows.number(row, column)?, rows.number(row, figure)?));
        }
        if !points.is_empty() {
            lines.push(Line {
                name: name.to_owned(),
                points,
                guide: false,
            });
        }
    }
    // Through the last point of each line, down to the left; named once.
    let ends: Vec<(f64, f64)> = lines
        .iter()
        .filter_map(|line| line.points.last().copied())
        .collect();
    let mut xs = Vec::new();
    for row in &rows.rows {
        xs.push(rows.number(row, column)?);
    }
    for (at, (end, cost)) in ends.into_iter().enumerate() {
        let points = xs
            .iter()
            .filter(|x| **x <= end)
            .map(|x| (*x, x * cost / end))
            .collect();
        let name = if at == 0 {
            "twice as much for twice as much"
        } else {
            ""
        };
        lines.push(Line {
            name: name.to_owned(),
            points,
            guide: true,
        });
    }
    Ok(Lines {
        title: format!("Packing and booting, over {over}"),
        axes: [
            if over == "bytes" {
                "MiB in 8 files"
            } else {
                "files of 10 bytes"
            }
            .to_owned(),
            "milliseconds".to_owned(),
        ],
        ticks: xs,
        tick: short,
        lines,
        scale: Scale::Both,
    })
}

fn bytes(value: f64) -> String {
    match value {
        value if value >= 1048576.0 => format!("{} MiB", short(value / 1048576.0)),
        value if value >= 1024.0 => format!("{} KiB", short(value / 1024.0)),
        _ => short(value),
    }
}
