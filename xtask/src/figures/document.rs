//! The document: a template whose marks are replaced by what the tables hold.
//!
//! | mark | becomes |
//! |---|---|
//! | `{{about NAME}}` | a sentence of the table's head |
//! | `{{table NAME}}` | the table |
//! | `{{table NAME COLUMN=VALUE}}` | its rows that have the value there, without that column |
//! | `{{picture NAME TEXT}}` | the picture, TEXT for who cannot see it |
//! | `{{value NAME/ROW/COLUMN}}` | one field, of the row that begins with ROW; stands anywhere in a line |

use std::collections::BTreeMap;

use super::{Error, Table};

/// The first line of what is made.
const NOTE: &str =
    "<!-- Made by `make bench-draw` of performance.md.in and benches/results; edit those. -->";

/// The template with everything filled in.
///
/// # Errors
///
/// A mark that is unknown or names what is not there.
pub(crate) fn fill(template: &str, tables: &BTreeMap<String, Table>) -> Result<String, Error> {
    let mut text = format!("{NOTE}\n\n");
    for line in template.lines() {
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("{{") {
            let (mark, behind) = after
                .split_once("}}")
                .ok_or_else(|| Error::Mark(line.to_owned()))?;
            text += before;
            text += &replace(mark, tables)?;
            rest = behind;
        }
        text += rest;
        text += "\n";
    }
    Ok(text)
}

fn replace(mark: &str, tables: &BTreeMap<String, Table>) -> Result<String, Error> {
    let unknown = || Error::Mark(mark.to_owned());
    let table = |name: &str| {
        tables
            .get(name)
            .ok_or_else(|| Error::Missing(name.to_owned()))
    };
    let (verb, rest) = mark.split_once(' ').ok_or_else(unknown)?;
    match verb {
        "about" => Ok(about(table(rest)?)),
        "table" => match rest.split_once(' ') {
            None => Ok(markdown(table(rest)?, None)),
            Some((name, condition)) => {
                let (column, value) = condition.split_once('=').ok_or_else(unknown)?;
                let part = table(name)?.only(column, value)?;
                Ok(markdown(&part, Some(part.column(column)?)))
            }
        },
        "picture" => {
            let (name, text) = rest.split_once(' ').ok_or_else(unknown)?;
            Ok(format!("![{text}](pictures/{name}.svg)"))
        }
        "value" => {
            let parts: Vec<&str> = rest.split('/').collect();
            let [name, row, column] = parts[..] else {
                return Err(unknown());
            };
            let table = table(name)?;
            let at = table.column(column)?;
            let found = table.rows.iter().find(|fields| fields[0] == row);
            let found = found.ok_or_else(|| Error::Row {
                table: name.to_owned(),
                row: row.to_owned(),
            })?;
            Ok(found[at].clone())
        }
        _ => Err(unknown()),
    }
}

fn about(table: &Table) -> String {
    let parts: Vec<String> = table
        .about
        .iter()
        .map(|(key, value)| format!("{key}: {value}"))
        .collect();
    format!(
        "<sub>{}. ([{name}.tsv](../benches/results/{name}.tsv))</sub>",
        parts.join("; "),
        name = table.name
    )
}

fn markdown(table: &Table, without: Option<usize>) -> String {
    let line = |fields: &[String]| {
        let shown = fields.iter().enumerate();
        shown
            .filter(|(at, _)| Some(*at) != without)
            .map(|(_, field)| format!(" {} |", parted(field)))
            .fold("|".to_owned(), |line, field| line + &field)
    };
    let rule = vec!["---".to_owned(); table.columns.len()];
    let mut heads = table.columns.clone();
    // What the rows are called needs no heading of its own.
    if let Some(first) = (0..heads.len()).find(|at| Some(*at) != without)
        && heads[first] == "what"
    {
        heads[first].clear();
    }
    let mut lines = vec![
        line(&heads).replace("|  |", "| |"),
        line(&rule).replace(' ', ""),
    ];
    lines.extend(table.rows.iter().map(|row| line(row)));
    lines.join("\n")
}

/// A whole number of five digits and more with commas; anything else as it is.
fn parted(field: &str) -> String {
    match field.parse::<u32>() {
        Ok(number) if field.len() > 4 => super::chart::short(f64::from(number)),
        _ => field.to_owned(),
    }
}
