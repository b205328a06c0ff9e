//! `shatter oracle`: another model's verdicts held against ours.
//!
//! The file's header says what its rows are. `transitions` are single changes, judged by the rule base alone;
//! `sequences` run on the model. Every row is read before anything is said to agree: a damaged file proves nothing.

mod sequences;

use std::{
    fs, io,
    num::NonZeroU64,
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
        "`{}` has the columns {found}; known are those of transitions, {}, and of sequences, {}",
        path.display(), COLUMNS.join(","), sequences::COLUMNS.join(",")
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

/// What to read, and how long to look.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// A CSV file of single changes, or of sequences, with a verdict each
    #[arg(value_name = "FILE.csv")]
    file: PathBuf,
    /// Seeds that sequences run with, on each of the model's profiles
    #[arg(long, value_name = "N", default_value = "16")]
    seeds: NonZeroU64,
    /// Rounds that each sequence runs
    #[arg(long, value_name = "N", default_value = "64")]
    rounds: NonZeroU64,
}

/// Holds each row of a file against the rules or the model, and prints those that differ.
///
/// # Errors
/// If the file cannot be read, is damaged or has no rows, or `out` cannot be written.
pub fn main(args: &Args, out: &mut dyn io::Write) -> Result<Exit, Error> {
    let path = &args.file;
    let text = fs::read_to_string(path).map_err(|source| Error::Read { path: path.clone(), source })?;
    let damaged = |(line, error): (usize, csv::Error)| Error::Row { path: path.clone(), line, what: error.to_string() };
    let rows = rows(&text).map_err(damaged)?;
    let Some((Row { values: header, .. }, rows @ [_, ..])) = rows.split_first() else {
        return Err(Error::Empty { path: path.clone() });
    };
    if header.iter().eq(COLUMNS) {
        transitions(path, rows, out)
    } else if header.iter().eq(sequences::COLUMNS) {
        let parse = |Row { line, values }: &Row| {
            let values: Vec<&str> = values.iter().collect();
            let steps = sequences::Steps::parse(&values);
            let steps = steps.map_err(|what| Error::Row { path: path.clone(), line: *line, what })?;
            Ok((*line, values.join(","), steps))
        };
        let rows: Vec<_> = rows.iter().map(parse).collect::<Result<_, Error>>()?;
        Ok(sequences::check(&rows, args.seeds, args.rounds, out)?)
    } else {
        Err(Error::Header { path: path.clone(), found: header.iter().collect::<Vec<_>>().join(",") })
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
