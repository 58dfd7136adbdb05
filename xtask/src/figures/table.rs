//! The results of a measurement in benches/results: a tab-separated table with a head that says how it was measured.
//!
//! Lines `# key: value` come first, then the names of the columns, then a row a line. The names are those of the
//! document's tables, units included.

use super::Error;

/// A file of results.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// The file's name without `.tsv`.
    pub(crate) name: String,
    /// The head: kind of number, date, machine, versions.
    pub(crate) about: Vec<(String, String)>,
    /// The names of the columns.
    pub(crate) columns: Vec<String>,
    /// As many fields as columns each.
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    /// The table that stands in `text`.
    ///
    /// # Errors
    ///
    /// A line that has not as many fields as there are columns, or no line of columns.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self, Error> {
        let mut about = Vec::new();
        let mut lines = text.lines().enumerate().peekable();
        while let Some((_, line)) = lines.next_if(|(_, line)| line.starts_with('#')) {
            if let Some((key, value)) = line[1..].split_once(':') {
                about.push((key.trim().to_owned(), value.trim().to_owned()));
            }
        }
        let fields = |line: &str| line.split('\t').map(str::to_owned).collect::<Vec<_>>();
        let (_, columns) = lines.next().ok_or_else(|| Error::Empty(name.to_owned()))?;
        let columns = fields(columns);
        let mut rows = Vec::new();
        for (number, line) in lines {
            let row = fields(line);
            if row.len() != columns.len() {
                return Err(Error::Fields {
                    table: name.to_owned(),
                    line: number + 1,
                    found: row.len(),
                    wanted: columns.len(),
                });
            }
            rows.push(row);
        }
        Ok(Self {
            name: name.to_owned(),
            about,
            columns,
            rows,
        })
    }

    /// The number of the column with this name.
    ///
    /// # Errors
    ///
    /// There is none.
    pub(crate) fn column(&self, name: &str) -> Result<usize, Error> {
        let found = self.columns.iter().position(|column| column == name);
        found.ok_or_else(|| Error::Column {
            table: self.name.clone(),
            column: name.to_owned(),
        })
    }

    /// The number in a field; thousands may be parted by commas.
    ///
    /// # Errors
    ///
    /// The field holds something else.
    pub(crate) fn number(&self, row: &[String], column: &str) -> Result<f64, Error> {
        let field = &row[self.column(column)?];
        field.replace(',', "").parse().map_err(|_| Error::NoNumber {
            table: self.name.clone(),
            column: column.to_owned(),
            field: field.clone(),
        })
    }

    /// The rows whose column has this value.
    ///
    /// # Errors
    ///
    /// There is no such column, or no such row.
    pub(crate) fn only(&self, column: &str, value: &str) -> Result<Self, Error> {
        let at = self.column(column)?;
        let rows: Vec<_> = self
            .rows
            .iter()
            .filter(|row| row[at] == value)
            .cloned()
            .collect();
        match rows.is_empty() {
            true => Err(Error::Row {
                table: self.name.clone(),
                row: value.to_owned(),
            }),
            false => Ok(Self {
                rows,
                ..self.clone()
            }),
        }
    }

    /// The values of a column, each once, in the order of the rows.
    ///
    /// # Errors
    ///
    /// There is no such column.
    pub(crate) fn values(&self, column: &str) -> Result<Vec<String>, Error> {
        let at = self.column(column)?;
        let mut values = Vec::new();
        for row in &self.rows {
            if !values.contains(&row[at]) {
                values.push(row[at].clone());
            }
        }
        Ok(values)
    }
}
