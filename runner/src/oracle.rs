//! `shatter oracle`: another model's verdicts held against ours.
//!
//! The file's header says what its rows are. `transitions` are single changes, judged by the rule base alone. Every
//! row is read before anything is said to agree: a damaged file proves nothing.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use csv::{ReaderBuilder, StringRecord};
use vmsa::{
    oracle::{COLUMNS, Opinion},
    rule::Needed,
};

use crate::cli::Exit;

/// Why a file could not be held against the rules.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read, or is no text.
    #[error("failed to read `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No kind of rows has these columns.
    #[error(
        "`{}` has the columns {found}; known are those of transitions, {}",
        path.display(), COLUMNS.join(",")
    )]
    Header {
        /// The file.
        path: PathBuf,
        /// Its columns.
        found: String,
    },
    /// A row is damaged.
    #[error("`{}`, line {line}: {what}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// There is nothing but a header.
    #[error("`{}` has no rows", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The report could not be written.
    #[error("failed to write the report: {0}")]
    Report(#[from] io::Error),
}

/// A row and its line, from 1.
struct Row {
    line: usize,
    values: StringRecord,
}

/// The lines of `text` that are neither empty nor comments. The reader of `csv` counts a row with the comments before
/// it, so it gets one line at a time.
fn rows(text: &str) -> Result<Vec<Row>, (usize, csv::Error)> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let row = |(at, line): (usize, &str)| {
        let mut values = StringRecord::new();
        let mut reader = ReaderBuilder::new().has_headers(false).from_reader(line.as_bytes());
        reader.read_record(&mut values).map_err(|error| (at + 1, error))?;
        Ok(Row { line: at + 1, values })
    };
    lines.map(row).collect()
}

/// Holds each row of the file at `path` against the rules and prints those that differ.
///
/// # Errors
/// If the file cannot be read, is damaged or has no rows, or `out` cannot be written.
pub fn main(path: &Path, out: &mut dyn io::Write) -> Result<Exit, Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let damaged =
        |(line, error): (usize, csv::Error)| Error::Row { path: path.to_owned(), line, what: error.to_string() };
    let rows = rows(&text).map_err(damaged)?;
    match rows.split_first() {
        Some((header, _)) if header.values.iter().ne(COLUMNS) => {
            let found = header.values.iter().collect::<Vec<_>>().join(",");
            Err(Error::Header { path: path.to_owned(), found })
        }
        Some((_, rows)) if !rows.is_empty() => transitions(path, rows, out),
        _ => Err(Error::Empty { path: path.to_owned() }),
    }
}

fn transitions(path: &Path, rows: &[Row], out: &mut dyn io::Write) -> Result<Exit, Error> {
    let opinion = |row: &Row| {
        let values: Vec<&str> = row.values.iter().collect();
        Opinion::parse(&values).map_err(|what| Error::Row {
            path: path.to_owned(),
            line: row.line,
            what: what.to_string(),
        })
    };
    let opinions: Vec<Opinion> = rows.iter().map(opinion).collect::<Result<_, _>>()?;
    let mut differ = 0;
    for (row, opinion) in rows.iter().zip(&opinions) {
        if let Some((bbm, Needed { need, rule, why })) = opinion.contradiction() {
            differ += 1;
            let values = row.values.iter().collect::<Vec<_>>().join(",");
            writeln!(out, "line {}: {values}: the rules say {need} at BBM level {bbm} ({rule}, {why})", row.line)?;
        }
    }
    let agree = rows.len() - differ;
    writeln!(out, "{agree} of {} transitions agree with the rule base", rows.len())?;
    Ok(if differ == 0 { Exit::Clean } else { Exit::Forbidden })
}
