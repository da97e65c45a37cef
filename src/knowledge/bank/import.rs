//! Lists of questions that an operator has the rights to, brought into the bank.
//!
//! What a list does not say is taken from the bank: a question's kind from the questions nearest to it, and what
//! its answer is judged by from the nearest of these, with a note in its rationale. A question that is not fit to
//! be asked, or that the bank has already, is rejected with the reason. All that is taken is written at once.

pub mod formats;

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::record::{Category, Level, Record, SCHEMA};
use super::{Bank, BankError, IMPORTED, screen, to_lines};
use crate::knowledge::Knowledge;
use crate::knowledge::embedding::Haste;
use crate::knowledge::index::matrix::dot;
use crate::knowledge::store::{Filter, Hit, Ranking, Search, StoreError};

/// Cosine above which two questions are one: the bank itself holds no such pair.
pub const SAME: f32 = 0.93;

/// Cosine that the nearest question must have for its kind to say anything: unrelated questions of the bank are
/// at 0.0 to 0.3 with MiniLM.
const RELATED: f32 = 0.35;

/// Questions that are asked which kind a new one is of.
const NEIGHBOURS: usize = 10;

/// Questions of one import.
const QUESTIONS_MAX: usize = 20_000;

/// Letters of a bank's name.
const NAME_MAX: usize = 40;

/// A question as a list has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)] // The fields of a record, and where it stands.
pub struct Draft {
    pub question: String,
    pub category: Option<String>,
    pub subcategory: Option<String>,
    pub industry: Option<String>,
    pub level: Option<String>,
    pub difficulty: Option<String>,
    pub criteria: Vec<String>,
    pub outline: Vec<String>,
    pub probes: Vec<String>,
    pub tags: Vec<String>,
    pub minutes: Option<String>,
    pub focus_area: Option<String>,
    pub rationale: Option<String>,
    pub origin: String,
    pub line: usize,
}

/// A question that was not taken.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Rejected {
    /// The file.
    pub origin: String,
    /// From 1.
    pub line: usize,
    /// What it asks, as far as that could be read.
    pub question: String,
    /// Why it was not taken.
    pub why: String,
}

/// What became of an import.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The new records.
    pub taken: Vec<Record>,
    /// All others.
    pub rejected: Vec<Rejected>,
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file cannot be read.
    #[error("cannot read {path}: {error}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file is too large.
    #[error("{path} is larger than {most} bytes; split it", path = path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// What is allowed.
        most: u64,
    },
    /// A file is no text.
    #[error("{path} is not UTF-8 from byte {at} on; save it as UTF-8", path = path.display())]
    NotText {
        /// Which.
        path: PathBuf,
        /// The first bad byte.
        at: usize,
    },
    /// Its ending says nothing.
    #[error("{path}: lists are read from .jsonl, .csv, .tsv and .md", path = .0.display())]
    UnknownForm(PathBuf),
    /// Its columns have no names.
    #[error("{path} has no column \"question\"; its first line must name the columns", path = .0.display())]
    NoColumn(PathBuf),
    /// There is too much of it.
    #[error("there are {0} questions; import at most {QUESTIONS_MAX} at once")]
    TooMany(usize),
    /// A bank cannot have that name.
    #[error("{0:?} is no name for a bank; use up to {NAME_MAX} lower-case letters, digits and hyphens")]
    Name(String),
    /// Another import is writing.
    #[error("another viva is importing into {path}; wait for it", path = .0.display())]
    Busy(PathBuf),
    /// The bank there is broken.
    #[error(transparent)]
    Bank(#[from] BankError),
    /// The bank cannot be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It cannot be written.
    #[error("cannot write {path}: {error}", path = path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

/// Imports files into the bank `name` of the knowledge folder: everything that is fit, or nothing on an error.
pub async fn import(
    files: &[PathBuf],
    name: &str,
    knowledge: &Knowledge,
    mut progress: impl FnMut(usize, usize) + Send,
) -> Result<Report, ImportError> {
    check_name(name)?;
    let folder = knowledge.folder().join(IMPORTED);
    let failed = |path: &Path, error| ImportError::Write { path: path.to_owned(), error };
    fs::create_dir_all(&folder).map_err(|error| failed(&folder, error))?;
    let lock = File::create(folder.join(".lock")).map_err(|error| failed(&folder, error))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(ImportError::Busy(folder)),
        Err(TryLockError::Error(error)) => return Err(failed(&folder, error)),
    }
    let bank = Bank::with_imported(knowledge.folder())?;
    let mut read = Vec::new();
    for file in files {
        read.extend(formats::read(file)?);
    }
    if read.len() > QUESTIONS_MAX {
        return Err(ImportError::TooMany(read.len()));
    }
    let mut intake = Intake {
        name,
        knowledge,
        bank: &bank,
        fresh: Vec::new(),
        known: HashMap::new(),
        report: Report::default(),
    };
    let all = read.len();
    for (n, read) in read.into_iter().enumerate() {
        match read {
            Ok(draft) => intake.take(draft).await?,
            Err(rejected) => intake.report.rejected.push(rejected),
        }
        progress(n + 1, all);
    }
    let report = intake.report;
    if !report.taken.is_empty() {
        write(&folder.join(format!("{name}.jsonl")), &report.taken)?;
    }
    Ok(report)
}

fn check_name(name: &str) -> Result<(), ImportError> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let good = (1..=NAME_MAX).contains(&name.len()) && name.chars().all(fits) && !name.starts_with('-');
    if good { Ok(()) } else { Err(ImportError::Name(name.chars().take(NAME_MAX * 2).collect())) }
}

/// Adds records to a bank's file, which is whole before and after.
fn write(path: &Path, fresh: &[Record]) -> Result<(), ImportError> {
    let mut records = match path.exists() {
        true => Bank::of_file(path)?.records().to_vec(),
        false => Vec::new(),
    };
    records.extend_from_slice(fresh);
    records.sort_by(|a, b| a.id.cmp(&b.id));
    let folder = path.parent().expect("a bank lies in a folder");
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(to_lines(&records).as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|error| ImportError::Write { path: path.to_owned(), error })
}

/// An import under way.
struct Intake<'a> {
    name: &'a str,
    knowledge: &'a Knowledge,
    bank: &'a Bank,
    /// Vectors of those taken, with their ids.
    fresh: Vec<(Vec<f32>, String)>,
    /// Vectors of questions of the bank, by id. In the store a question's vector has more in it than what it asks.
    known: HashMap<String, Vec<f32>>,
    report: Report,
}

/// What the bank knows of a new question.
struct Kin {
    /// The questions nearest to it.
    near: Vec<Hit>,
    category: Category,
    subcategory: String,
}

impl Intake<'_> {
    async fn take(&mut self, mut draft: Draft) -> Result<(), ImportError> {
        draft.question = spoken(&draft.question);
        match self.judged(&draft).await? {
            Ok((record, vector)) => {
                self.fresh.push((vector, record.id.clone()));
                self.report.taken.push(record);
            }
            Err(why) => {
                let Draft { origin, line, question, .. } = draft;
                self.report.rejected.push(Rejected { origin, line, question, why });
            }
        }
        Ok(())
    }

    /// The record of a draft, or why it is not taken.
    async fn judged(&mut self, draft: &Draft) -> Result<Result<(Record, Vec<f32>), String>, ImportError> {
        if draft.question.is_empty() {
            return Ok(Err("it has no question".into()));
        }
        if let Some(why) = screen::unspeakable(&draft.question) {
            return Ok(Err(why));
        }
        let said = [&[draft.question.clone()][..], &draft.probes].concat();
        if let Some(what) = said.iter().find_map(|text| screen::protected(text)) {
            return Ok(Err(format!("it touches a protected matter ({what})")));
        }
        let mut told = Told::default();
        if let Err(why) = told.read(draft) {
            return Ok(Err(why));
        }
        let vector = self.vectors(vec![draft.question.clone()]).await?.pop().unwrap_or_default();
        let same = self.fresh.iter().find(|(other, _)| dot(other, &vector) > SAME);
        if let Some((_, id)) = same {
            return Ok(Err(format!("it says the same as {id}, which is in this import")));
        }
        let search = |filter, ranking| Search {
            text: draft.question.clone(),
            vector: vector.clone(),
            filter,
            ranking,
            n: NEIGHBOURS,
        };
        let store = Arc::clone(self.knowledge.store());
        let near = store.search(search(Filter::default(), Ranking::Dense)).await?;
        let alike = store.search(search(Filter::default(), Ranking::Text)).await?;
        if let Some(same) = self.same(&vector, near.iter().chain(&alike)).await? {
            return Ok(Err(format!("it says the same as {}: {}", same.id, same.question)));
        }
        let filter = Filter { category: told.category, ..Filter::default() };
        let of_kind = store.search(search(filter, Ranking::Dense)).await?;
        // A list may bring the first question of its kind.
        let near = if of_kind.is_empty() { near } else { of_kind };
        Ok(self.record(draft, told, near).map(|record| (record, vector)))
    }

    async fn vectors(&self, texts: Vec<String>) -> Result<Vec<Vec<f32>>, StoreError> {
        Ok(self.knowledge.embedding().embed(texts, Haste::Query).await?)
    }

    /// The question among these that says the same.
    async fn same<'h>(
        &mut self,
        vector: &[f32],
        hits: impl Iterator<Item = &'h Hit>,
    ) -> Result<Option<&'h Record>, StoreError> {
        let records: Vec<&Record> = hits.map(|hit| &hit.record).collect();
        let unknown: Vec<&Record> =
            records.iter().copied().filter(|record| !self.known.contains_key(&record.id)).collect();
        let questions = unknown.iter().map(|record| record.question.clone()).collect();
        for (record, vector) in unknown.iter().zip(self.vectors(questions).await?) {
            self.known.insert(record.id.clone(), vector);
        }
        let is_same =
            |record: &&Record| self.known.get(&record.id).is_some_and(|other| dot(other, vector) > SAME);
        Ok(records.into_iter().find(is_same))
    }

    fn record(&self, draft: &Draft, told: Told, near: Vec<Hit>) -> Result<Record, String> {
        let related = near.first().is_some_and(|hit| 1.0 - hit.distance >= RELATED);
        let complete = told.category.is_some() && told.subcategory.is_some() && draft.criteria.len() >= 3;
        if !related && !complete {
            return Err(
                "the bank has nothing like it: give its category, subcategory and three criteria".into()
            );
        }
        let kin = kin(near, &told).ok_or("the bank is empty")?;
        let base = kin.base();
        let mut borrowed = Vec::new();
        let mut or_base = |what: &str, own: &[String], enough: usize, theirs: &[String]| {
            if own.len() >= enough {
                own.to_vec()
            } else {
                borrowed.push(what.to_owned());
                theirs.to_vec()
            }
        };
        let mut criteria = or_base("criteria", &draft.criteria, 3, &base.criteria);
        criteria.truncate(5);
        let mut outline = or_base("outline", &draft.outline, 1, &base.outline);
        outline.truncate(12);
        let probes = or_base("probes", &draft.probes, 2, &base.probes);
        let probes: [String; 2] = [probes[0].clone(), probes[1].clone()];
        let rationale = match (&draft.rationale, borrowed.is_empty()) {
            (Some(own), _) => Some(own.clone()),
            (None, true) => None,
            (None, false) => {
                Some(format!("{} taken from the nearest question, {}", borrowed.join(", "), base.id))
            }
        };
        let mut tags: Vec<String> = draft.tags.iter().map(|tag| tag.to_lowercase()).collect();
        tags.truncate(12);
        let hash = Sha256::digest(draft.question.to_lowercase());
        let short: String = hash[..6].iter().map(|byte| format!("{byte:02x}")).collect();
        let id = format!("{}.{}.{}.{short}", kin.category.letter(), self.name, kin.subcategory);
        if self.bank.get(&id).is_some() {
            return Err(format!("it was imported already, as {id}"));
        }
        let record = Record {
            id,
            category: kin.category,
            industry: draft.industry.as_deref().map(slug).or_else(|| base.industry.clone()),
            level: told.level.unwrap_or(base.level),
            difficulty: told.difficulty.unwrap_or(base.difficulty),
            question: draft.question.clone(),
            criteria,
            outline,
            probes,
            tags,
            minutes: told.minutes.unwrap_or(base.minutes),
            focus_area: draft.focus_area.clone(),
            rationale,
            owner: None,
            schema: SCHEMA,
            subcategory: kin.subcategory,
        };
        record.check()?;
        Ok(record)
    }
}

impl Kin {
    /// The nearest question of the kind, else the nearest of all.
    fn base(&self) -> &Record {
        let alike = self.near.iter().find(|hit| hit.record.subcategory == self.subcategory);
        &alike.unwrap_or(&self.near[0]).record
    }
}

/// Which kind a question is of: what its list says, else what most of its neighbours are, each with the
/// weight of its nearness.
fn kin(near: Vec<Hit>, told: &Told) -> Option<Kin> {
    let mut weights: HashMap<(Category, &str), f32> = HashMap::new();
    for hit in &near {
        let kind = (hit.record.category, hit.record.subcategory.as_str());
        *weights.entry(kind).or_default() += (1.0 - hit.distance).max(0.0);
    }
    let mut kinds: Vec<_> = weights.into_iter().collect();
    kinds.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let ((category, subcategory), _) = *kinds.first()?;
    let subcategory = told.subcategory.clone().unwrap_or_else(|| subcategory.to_owned());
    Some(Kin { category: told.category.unwrap_or(category), subcategory, near })
}

/// What a list says of a question, read.
#[derive(Debug, Default)]
struct Told {
    category: Option<Category>,
    subcategory: Option<String>,
    level: Option<Level>,
    difficulty: Option<u8>,
    minutes: Option<u8>,
}

impl Told {
    fn read(&mut self, draft: &Draft) -> Result<(), String> {
        let name = |text: &String| text.trim().to_lowercase().replace([' ', '-'], "_");
        if let Some(category) = &draft.category {
            self.category = Some(name(category).parse().map_err(|error| format!("{error}"))?);
        }
        if let Some(level) = &draft.level {
            self.level = Some(name(level).parse().map_err(|error| format!("{error}"))?);
        }
        if let Some(subcategory) = &draft.subcategory {
            let slug = slug(subcategory);
            if slug.is_empty() {
                return Err(format!("subcategory {subcategory:?} has neither letters nor digits"));
            }
            self.subcategory = Some(slug);
        }
        let number = |field: &str, text: &Option<String>| match text {
            None => Ok(None),
            Some(text) => {
                text.parse().map(Some).map_err(|_| format!("{field} is {text:?}, which is no small number"))
            }
        };
        self.difficulty = number("difficulty", &draft.difficulty)?;
        self.minutes = number("minutes", &draft.minutes)?;
        Ok(())
    }
}

/// A text as part of an id.
fn slug(text: &str) -> String {
    let words: Vec<String> = text
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    words.join("-").chars().take(60).collect()
}

/// Words that a question begins with, so that one without a mark at its end is given the right one.
const ASKING: [&str; 22] = [
    "what", "which", "who", "whom", "whose", "when", "where", "why", "how", "do", "does", "did", "can",
    "could", "would", "will", "have", "has", "are", "is", "if", "should",
];

/// A question in one line, with plain quotes and dashes and a mark at its end.
fn spoken(text: &str) -> String {
    let plain: String = text
        .chars()
        .map(|c| match c {
            '\u{2018}' | '\u{2019}' => '\'',
            '\u{201c}' | '\u{201d}' => '"',
            '\u{2013}' | '\u{2014}' => '-',
            other => other,
        })
        .collect();
    let mut line = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    if !line.is_empty() && !line.ends_with(['?', '.', '!']) {
        let first = line.split(' ').next().unwrap_or_default().to_lowercase();
        line.push(if ASKING.contains(&first.as_str()) { '?' } else { '.' });
    }
    line
}

#[cfg(test)]
mod tests;
