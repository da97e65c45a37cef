//! The bank of questions: one record a line, in files that a person can read and compare.
//!
//! Viva's own bank is `presets/questions/bank.jsonl`, which `viva bank build` writes from the authored sources
//! beside it and which is part of the program. Banks that an operator imports lie in the knowledge folder, in
//! `banks/<name>.jsonl`. All of them have the same form, and together they are what is indexed.

pub mod build;
pub mod import;
pub mod record;
pub mod screen;
mod source;

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub use record::{Category, Level, Record, SCHEMA};

/// Viva's own bank.
const GENERAL: &str = include_str!("../../presets/questions/bank.jsonl");

/// What messages call it.
const GENERAL_NAME: &str = "presets/questions/bank.jsonl";

/// The folder of imported banks, within the knowledge folder.
pub const IMPORTED: &str = "banks";

/// Records of all banks together: as many as exact search answers in time for (measured at 100,000; see
/// `benches/runs`).
pub const RECORDS_MAX: usize = 200_000;

/// Bytes of one bank's file: 1.5 kB a record, with room to spare.
const FILE_BYTES_MAX: u64 = 512 << 20;

/// What is wrong with a bank.
#[derive(Debug, thiserror::Error)]
pub enum BankError {
    /// A file cannot be read.
    #[error("cannot read {path}: {error}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A line is no record.
    #[error("{origin}, line {line}: {what}; mend the line, or remove it")]
    Line {
        /// The file.
        origin: String,
        /// From 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// A line was written for another version of Viva.
    #[error(
        "{origin}, line {line}: the record has schema {found}, this Viva reads schema {SCHEMA}; write the file \
         anew with this Viva: its own bank with viva bank build, an imported one with viva bank import"
    )]
    Schema {
        /// The file.
        origin: String,
        /// From 1.
        line: usize,
        /// The version it names; `none` where it names none.
        found: String,
    },
    /// Two records have one id.
    #[error("the id {id} stands twice: in {first} and in {second}; remove one of the two")]
    Duplicate {
        /// The id.
        id: String,
        /// Where it stands, as `file:line`.
        first: String,
        /// Where it stands again.
        second: String,
    },
    /// There is nothing in it.
    #[error("{0} holds no question; write it with viva bank build or fill it with viva bank import")]
    Empty(String),
    /// There is too much in it.
    #[error("the banks hold more than {RECORDS_MAX} questions together; remove some of those imported")]
    TooMany,
    /// An authored source cannot be expanded.
    #[error("{path}: {what}", path = path.display())]
    Source {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

/// Records with ids of their own.
#[derive(Debug, Clone, Default)]
pub struct Bank {
    records: Vec<Record>,
    places: HashMap<String, Place>,
}

/// Where a record came from.
#[derive(Debug, Clone)]
struct Place {
    origin: String,
    line: usize,
    at: usize,
}

impl Bank {
    /// Viva's own bank.
    pub fn general() -> Result<Self, BankError> {
        let mut bank = Self::default();
        bank.add(GENERAL_NAME, GENERAL)?;
        bank.filled(GENERAL_NAME)
    }

    /// Viva's own bank and those imported into the knowledge folder `dir`, in the order of their names.
    pub fn with_imported(dir: &Path) -> Result<Self, BankError> {
        let mut bank = Self::general()?;
        for path in imported(dir)? {
            bank.add_file(&path)?;
        }
        Ok(bank)
    }

    /// A bank of one file.
    pub fn of_file(path: &Path) -> Result<Self, BankError> {
        let mut bank = Self::default();
        bank.add_file(path)?;
        bank.filled(&path.display().to_string())
    }

    fn filled(self, origin: &str) -> Result<Self, BankError> {
        if self.records.is_empty() { Err(BankError::Empty(origin.to_owned())) } else { Ok(self) }
    }

    fn add_file(&mut self, path: &Path) -> Result<(), BankError> {
        let failed = |error| BankError::Read { path: path.to_owned(), error };
        let length = std::fs::metadata(path).map_err(failed)?.len();
        if length > FILE_BYTES_MAX {
            return Err(BankError::TooMany);
        }
        let text = std::fs::read_to_string(path).map_err(failed)?;
        self.add(&path.display().to_string(), &text)
    }

    /// Takes the records of a file's text. Nothing is taken of a text with a broken line.
    pub fn add(&mut self, origin: &str, text: &str) -> Result<(), BankError> {
        let mut lines = Vec::new();
        for (n, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            lines.push((n + 1, parse(origin, n + 1, line)?));
        }
        if self.records.len() + lines.len() > RECORDS_MAX {
            return Err(BankError::TooMany);
        }
        let mut fresh: HashMap<&str, usize> = HashMap::new();
        for (line, record) in &lines {
            let first = match (self.places.get(&record.id), fresh.insert(&record.id, *line)) {
                (Some(place), _) => format!("{}:{}", place.origin, place.line),
                (None, Some(line)) => format!("{origin}:{line}"),
                (None, None) => continue,
            };
            let second = format!("{origin}:{line}");
            return Err(BankError::Duplicate { id: record.id.clone(), first, second });
        }
        for (line, record) in lines {
            let place = Place { origin: origin.to_owned(), line, at: self.records.len() };
            self.places.insert(record.id.clone(), place);
            self.records.push(record);
        }
        Ok(())
    }

    /// All records: Viva's own first, then file by file.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The record of this id.
    pub fn get(&self, id: &str) -> Option<&Record> {
        self.places.get(id).map(|place| &self.records[place.at])
    }
}

/// Records as the text of a bank's file.
pub fn to_lines(records: &[Record]) -> String {
    let mut text = String::new();
    for record in records {
        text.push_str(&serde_json::to_string(record).expect("a record is plain data"));
        text.push('\n');
    }
    text
}

/// The files of imported banks.
pub fn imported(dir: &Path) -> Result<Vec<PathBuf>, BankError> {
    let folder = dir.join(IMPORTED);
    let failed = |error| BankError::Read { path: folder.clone(), error };
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|ending| ending == "jsonl") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn parse(origin: &str, line: usize, text: &str) -> Result<Record, BankError> {
    let wrong = |what: String| BankError::Line { origin: origin.to_owned(), line, what };
    // The version first: a record of another one need not have the fields of this one.
    let value: serde_json::Value =
        serde_json::from_str(text).map_err(|error| wrong(format!("it is not JSON: {error}")))?;
    let schema = value.get("schema");
    if schema.and_then(serde_json::Value::as_u64) != Some(u64::from(SCHEMA)) {
        let found = schema.map_or_else(|| "none".to_owned(), ToString::to_string);
        return Err(BankError::Schema { origin: origin.to_owned(), line, found });
    }
    let record: Record = serde_path_to_error::deserialize(value)
        .map_err(|error| wrong(format!("{}: {}", error.path(), error.inner())))?;
    record.check().map_err(wrong)?;
    Ok(record)
}
