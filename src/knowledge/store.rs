//! Where questions are kept and found: the trait of every store, and what is asked of it.
//!
//! A store holds one *edition*: all questions, embedded by one embedder. It is published whole and replaces the
//! one before at once; who is searching meanwhile searches the old one to its end. Questions lie in collections,
//! one a category and owner. Every request names its owner or nobody, and sees that owner's questions or
//! nobody's, never both.

pub mod fuse;
pub mod words;

use std::ops::RangeInclusive;

use async_trait::async_trait;

use super::bank::{BankError, Category, Level, Record};

/// Results of one search: a screen full, and more than an interview chooses from.
pub const RESULTS_MAX: usize = 100;

/// Questions that one search may leave out: more than the longest interview asks.
pub const EXCLUDED_MAX: usize = 1_000;

/// Characters of a query: what a person says in four minutes. What is behind it an embedder would cut off.
pub const QUERY_CHARS_MAX: usize = 4_000;

/// Vectors of one question: more than any choice of views that was of use (`publish`).
pub const VIEWS_MAX: usize = 8;

/// What a place by words is worth in fusion, with one by meaning at 1. A query that is itself a question is mostly
/// one in other words, and what few words it shares mislead. Both were chosen on the tuning half of the labelled
/// queries.
const WORDS_WEIGHT: f32 = 0.3;
const WORDS_WEIGHT_ASKED: f32 = 0.1;

/// Candidates each of the two rankings contributes for one result, and at least.
const DEPTH_FACTOR: usize = 4;
const DEPTH_MIN: usize = 100;

/// What a store holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edition {
    /// Who made the vectors.
    pub embedder: String,
    /// Numbers of a vector.
    pub dimensions: usize,
    /// SHA-256 of what was embedded and how.
    pub content: [u8; 32],
    /// Questions.
    pub rows: usize,
}

impl Edition {
    /// The first digits of the content's hash, for people.
    pub fn short(&self) -> String {
        self.content[..6].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// How many vectors each of these records has; fails where records and vectors cannot be what it says.
    pub fn views(&self, records: &[Record], vectors: &[f32]) -> Result<usize> {
        if records.is_empty() {
            return Err(BankError::Empty("the bank".into()).into());
        }
        let whole = self.rows * self.dimensions;
        let views = vectors.len().checked_div(whole).unwrap_or(0);
        if records.len() != self.rows || !(1..=VIEWS_MAX).contains(&views) || vectors.len() != whole * views {
            return Err(StoreError::Asked(format!(
                "an edition of {} rows of {} was given {} records and {} numbers",
                self.rows,
                self.dimensions,
                records.len(),
                vectors.len()
            )));
        }
        Ok(views)
    }
}

/// A named set of questions of one category and one owner.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Collection {
    /// Such as `general_technical_questions`.
    pub name: String,
    /// Whose; none for everybody's.
    pub owner: Option<String>,
    /// Of which kind.
    pub category: Category,
    /// Questions in it.
    pub rows: usize,
}

/// The name of a collection.
pub fn collection_name(owner: Option<&str>, category: Category) -> String {
    match owner {
        None => category.collection().to_owned(),
        Some(_) => format!("personal_{category}_questions"),
    }
}

/// Which ranking answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ranking {
    /// By meaning.
    Dense,
    /// By words.
    Text,
    /// By both.
    #[default]
    Fused,
}

/// Which questions count. All conditions hold together; those left open hold always.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Whose questions; none for those that belong to nobody.
    pub owner: Option<String>,
    /// Of this category.
    pub category: Option<Category>,
    /// Of this field, group or industry.
    pub subcategory: Option<String>,
    /// Of this industry, or of none at all.
    pub industry: Option<String>,
    /// Of one of these levels; empty for all.
    pub levels: Vec<Level>,
    /// As difficult as this.
    pub difficulty: RangeInclusive<u8>,
    /// None of these ids.
    pub exclude: Vec<String>,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            owner: None,
            category: None,
            subcategory: None,
            industry: None,
            levels: Vec::new(),
            difficulty: 1..=5,
            exclude: Vec::new(),
        }
    }
}

/// A search.
#[derive(Debug, Clone, PartialEq)]
pub struct Search {
    /// What is looked for, in words.
    pub text: String,
    /// The same as a vector.
    pub vector: Vec<f32>,
    /// Which questions count.
    pub filter: Filter,
    /// Which ranking answers.
    pub ranking: Ranking,
    /// Results wanted.
    pub n: usize,
}

impl Search {
    /// Whether a store that holds `edition` can answer it.
    pub fn check(&self, edition: &Edition) -> Result<()> {
        check_query(&self.text)?;
        check_filter(&self.filter)?;
        if self.n > RESULTS_MAX {
            return Err(StoreError::Asked(format!(
                "{} results are asked for; there may be {RESULTS_MAX}",
                self.n
            )));
        }
        if self.vector.len() != edition.dimensions {
            return Err(StoreError::Asked(format!(
                "the query was embedded with {} numbers and the index with {}",
                self.vector.len(),
                edition.dimensions
            )));
        }
        Ok(())
    }

    /// What a place by words is worth, with one by meaning at 1.
    pub fn words_weight(&self) -> f32 {
        if self.text.trim_end().ends_with('?') { WORDS_WEIGHT_ASKED } else { WORDS_WEIGHT }
    }

    /// Candidates each ranking contributes.
    pub fn depth(&self) -> usize {
        DEPTH_MIN.max(self.n * DEPTH_FACTOR)
    }
}

/// Whether a text can be looked for.
pub fn check_query(text: &str) -> Result<()> {
    match text.chars().count() {
        n if n > QUERY_CHARS_MAX => Err(StoreError::Asked(format!(
            "the query has {n} characters and may have {QUERY_CHARS_MAX}; send the part of it that matters"
        ))),
        _ if text.trim().is_empty() => {
            Err(StoreError::Asked("the query is empty; say what to look for".into()))
        }
        _ => Ok(()),
    }
}

/// Whether a filter is within its bounds.
pub fn check_filter(filter: &Filter) -> Result<()> {
    let difficulty = &filter.difficulty;
    if difficulty.is_empty() || *difficulty.start() < 1 || *difficulty.end() > 5 {
        return Err(StoreError::Asked(format!(
            "the difficulty {}..={} is no range within 1..=5",
            difficulty.start(),
            difficulty.end()
        )));
    }
    if filter.exclude.len() > EXCLUDED_MAX {
        return Err(StoreError::Asked(format!(
            "{} questions are excluded; there may be {EXCLUDED_MAX}",
            filter.exclude.len()
        )));
    }
    Ok(())
}

/// A question that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// It.
    pub record: Record,
    /// How good it is among the others of this search; larger is better.
    pub score: f32,
    /// One less the product of the query with the nearest of the question's vectors: near 0 it is the same, 1 nothing in
    /// common, 2 the opposite.
    pub distance: f32,
    /// Its place by meaning, from 1, if it has one.
    pub dense_rank: Option<usize>,
    /// Its place by words, from 1, if it has one.
    pub text_rank: Option<usize>,
}

/// Some of the questions that a filter lets through.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// How many there are altogether.
    pub total: usize,
    /// These, by id.
    pub records: Vec<Record>,
}

/// What a store cannot do, with what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing was published yet.
    #[error("there is no index yet in {0}; run: viva bank index")]
    NoIndex(String),
    /// The vectors there are another model's.
    #[error(
        "the index in {place} was built by the embedder {found}, and this Viva embeds with {wanted}; run \
         viva bank index with the same profile"
    )]
    OtherEmbedder {
        /// Where it lies.
        place: String,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        wanted: String,
    },
    /// An index cannot be trusted.
    #[error("the index {place} is damaged: {what}; run: viva bank index --rebuild")]
    Damaged {
        /// Where it lies.
        place: String,
        /// What is wrong with it.
        what: String,
    },
    /// What is asked for cannot be.
    #[error("{0}")]
    Asked(String),
    /// A name that no question has.
    #[error("no question has the {field} {found:?}; viva bank stats lists those there are")]
    Unknown {
        /// What is named.
        field: &'static str,
        /// The name.
        found: String,
    },
    /// The bank cannot be indexed.
    #[error(transparent)]
    Bank(#[from] BankError),
    /// Another process is building.
    #[error("another viva is building the index in {0}; wait for it, or end it")]
    Busy(String),
    /// The embedder failed.
    #[error("the text could not be embedded: {0}")]
    Embedding(#[from] viva_models::EngineError),
    /// A file or a database failed.
    #[error("{what}: {why}")]
    Failed {
        /// What was being done.
        what: String,
        /// What went wrong.
        why: String,
    },
}

impl StoreError {
    /// Something that went wrong on the way.
    pub fn failed(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::Failed { what: what.into(), why: why.to_string() }
    }
}

/// What every call here returns.
pub type Result<T> = std::result::Result<T, StoreError>;

/// A place where questions are kept and found.
#[async_trait]
pub trait VectorStore: Send + Sync {
    /// What it holds, if anything was published.
    async fn edition(&self) -> Result<Option<Edition>>;

    /// Replaces all it holds, at once and only when all of it is safe: on an error the edition before stays.
    /// `vectors` has for every record, in the records' order, one or more vectors of `edition.dimensions`, as many
    /// for each, at most [`VIEWS_MAX`], none longer than 1; a record is as near to a query as the nearest of them.
    async fn publish(&self, edition: Edition, records: Vec<Record>, vectors: Vec<f32>) -> Result<()>;

    /// The best questions for a query, best first.
    async fn search(&self, search: Search) -> Result<Vec<Hit>>;

    /// The questions that a filter lets through, from the `skip`th on, by id; at most [`RESULTS_MAX`].
    async fn browse(&self, filter: Filter, skip: usize, n: usize) -> Result<Page>;

    /// Questions of one owner by their ids, in the order asked for. Ids that do not exist, or are another's,
    /// are left out.
    async fn get(&self, owner: Option<&str>, ids: Vec<String>) -> Result<Vec<Record>>;

    /// The collections of one owner.
    async fn collections(&self, owner: Option<&str>) -> Result<Vec<Collection>>;
}
