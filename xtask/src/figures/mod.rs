//! docs/performance.md and docs/pictures, made of what the measuring scripts left in benches/results.
//!
//! The same results give the same bytes on every machine, so that a test can tell when the document is not up to date.

mod chart;
pub(crate) mod command;
mod compare;
mod document;
mod pictures;
mod table;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub(crate) use table::Table;

/// An obstacle to making the document.
#[derive(Debug)]
pub(crate) enum Error {
    File {
        path: PathBuf,
        source: io::Error,
    },
    Empty(String),
    Fields {
        table: String,
        line: usize,
        found: usize,
        wanted: usize,
    },
    Missing(String),
    Column {
        table: String,
        column: String,
    },
    Row {
        table: String,
        row: String,
    },
    NoNumber {
        table: String,
        column: String,
        field: String,
    },
    Mark(String),
    Draw(String),
}

// By hand: a derive would bring a compiler's parser into a program that is to compile in seconds.
impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = |table: &str| format!("benches/results/{table}.tsv");
        match self {
            Self::File { path, source } => write!(out, "{}: {source}", path.display()),
            Self::Empty(table) => {
                write!(
                    out,
                    "{} has no line of columns; measure it again",
                    file(table)
                )
            }
            Self::Fields {
                table,
                line,
                found,
                wanted,
            } => write!(
                out,
                "{}, line {line}: {found} fields where there are {wanted} columns",
                file(table)
            ),
            Self::Missing(table) => write!(
                out,
                "{} is named but not there; measure it, or take the name away",
                file(table)
            ),
            Self::Column { table, column } => {
                write!(out, "{} has no column '{column}'", file(table))
            }
            Self::Row { table, row } => write!(out, "{} has no row with '{row}'", file(table)),
            Self::NoNumber {
                table,
                column,
                field,
            } => write!(
                out,
                "{}: '{field}' in column '{column}' is no number",
                file(table)
            ),
            Self::Mark(mark) => write!(
                out,
                "performance.md.in: '{mark}' is no mark; see xtask/src/figures/document.rs"
            ),
            Self::Draw(why) => write!(out, "a picture cannot be drawn: {why}"),
        }
    }
}

impl std::error::Error for Error {}

/// The files that are made: paths below the project's directory, and contents.
///
/// # Errors
///
/// Template or results cannot be read, or do not fit together.
pub(crate) fn make(project: &Path) -> Result<BTreeMap<PathBuf, String>, Error> {
    let results = project.join("benches/results");
    let mut tables = BTreeMap::new();
    for entry in fs::read_dir(&results).map_err(at(&results))? {
        let path = entry.map_err(at(&results))?.path();
        if path.extension().is_some_and(|extension| extension == "tsv") {
            let table = read(&path)?;
            tables.insert(table.name.clone(), table);
        }
    }
    let template = project.join("docs/performance.md.in");
    let template = fs::read_to_string(&template).map_err(at(&template))?;
    let mut files = BTreeMap::new();
    files.insert(
        PathBuf::from("docs/performance.md"),
        document::fill(&template, &tables)?,
    );
    for (name, svg) in pictures::all(&tables)? {
        files.insert(PathBuf::from(format!("docs/pictures/{name}.svg")), svg);
    }
    Ok(files)
}

/// The table in a file.
///
/// # Errors
///
/// The file cannot be read, or holds no table.
pub(crate) fn read(path: &Path) -> Result<Table, Error> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    Table::parse(&name, &fs::read_to_string(path).map_err(at(path))?)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { path, source }
}

#[cfg(test)]
mod tests;
