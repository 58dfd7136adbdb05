//! docs/performance.md and docs/pictures, made of what the measuring scripts left in benches/results.
//!
//! The same results give the same bytes on every machine, so that a test can tell when the document is not up to date.

pub mod chart;
pub mod compare;
pub mod document;
pub mod pictures;
pub mod table;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use table::Table;

/// What keeps the document from being made.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("benches/results/{0}.tsv has no line of columns; measure it again")]
    Empty(String),
    #[error(
        "benches/results/{table}.tsv, line {line}: {found} fields where there are {wanted} columns"
    )]
    Fields {
        table: String,
        line: usize,
        found: usize,
        wanted: usize,
    },
    #[error("benches/results/{0}.tsv is named but not there; measure it, or take the name away")]
    Missing(String),
    #[error("benches/results/{table}.tsv has no column '{column}'")]
    Column { table: String, column: String },
    #[error("benches/results/{table}.tsv has no row with '{row}'")]
    Row { table: String, row: String },
    #[error("benches/results/{table}.tsv: '{field}' in column '{column}' is no number")]
    NoNumber {
        table: String,
        column: String,
        field: String,
    },
    #[error("performance.md.in: '{0}' is no mark; see benches/figures/src/document.rs")]
    Mark(String),
    #[error("a picture cannot be drawn: {0}")]
    Draw(String),
}

/// The files that are made: paths below the project's directory, and contents.
///
/// # Errors
///
/// Template or results cannot be read, or do not fit together.
pub fn make(project: &Path) -> Result<BTreeMap<PathBuf, String>, Error> {
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
pub fn read(path: &Path) -> Result<Table, Error> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    Table::parse(&name, &fs::read_to_string(path).map_err(at(path))?)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { path, source }
}

#[cfg(test)]
mod tests;
