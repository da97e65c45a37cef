//! Where questions come from: the index where there is one, and the bank itself where there is none (yet).

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;

use crate::knowledge::Knowledge;
use crate::knowledge::bank::{Bank, Category, Record};
use crate::knowledge::store::Filter;

use super::next::{CANDIDATES, FIELDS_MAX, Query, fields};
use super::words::{content, tokens};

/// How long a question is looked for while somebody waits for it: an embedding behind a busy language model takes a
/// tenth of a second. What is later is looked for in the bank itself.
const WITHIN: Duration = Duration::from_millis(400);

/// How long the fields of a role are looked for, before an interview begins.
const FIELDS_WITHIN: Duration = Duration::from_secs(5);

/// Finds questions. Never fails: a worse question is better than none.
#[async_trait]
pub trait Finder: Send + Sync {
    /// Candidates for a question, best first.
    async fn find(&self, query: &Query) -> Vec<Record>;

    /// Fields of the bank's technical questions that a role is asked about.
    async fn fields(&self, role: &str) -> Vec<String>;
}

/// The bank alone, by the words it shares with a query.
pub struct Plain(Words);

/// Records with the words they are found by.
type Words = Arc<Vec<(Record, HashSet<String>)>>;

/// Viva's own bank is part of the program and read once.
static OWN: LazyLock<Words> = LazyLock::new(|| {
    let bank = Bank::general().expect("a test reads the bank that the program is built with");
    Plain::new(&bank).0
});

/// The records of Viva's own bank.
pub(super) fn own_records() -> impl Iterator<Item = &'static Record> {
    OWN.iter().map(|(record, _)| record)
}

impl Plain {
    /// Of these records.
    pub fn new(bank: &Bank) -> Self {
        let words = |record: &Record| {
            let text = format!("{} {} {}", record.question, record.tags.join(" "), record.subcategory);
            content(&text)
        };
        Self(Arc::new(bank.records().iter().map(|record| (record.clone(), words(record))).collect()))
    }

    /// Of Viva's own bank.
    pub fn own() -> Self {
        Self(Arc::clone(&OWN))
    }

    /// Fields whose names have most words in common with a role: "nursing" for a nurse.
    fn named_like(&self, role: &str) -> Vec<String> {
        let role: Vec<String> =
            tokens(role).into_iter().filter(|w| !ANY_TRADE.contains(&w.as_str())).collect();
        let mut names: Vec<&str> = self
            .0
            .iter()
            .filter(|(r, _)| r.category == Category::Technical)
            .map(|(r, _)| r.subcategory.as_str())
            .collect();
        names.sort_unstable();
        names.dedup();
        let shared = |name: &str| {
            let words = tokens(&name.replace('-', " "));
            role.iter().filter(|wanted| words.iter().any(|word| alike(word, wanted))).count()
        };
        let most = names.iter().map(|name| shared(name)).max().unwrap_or_default();
        let best = names.into_iter().filter(|name| most > 0 && shared(name) == most);
        best.take(FIELDS_MAX).map(str::to_owned).collect()
    }

    fn among(&self, text: &str, filter: &Filter, n: usize) -> Vec<Record> {
        let wanted = content(text);
        let mut hits: Vec<(usize, &Record)> = self
            .0
            .iter()
            .filter(|(record, _)| lets_through(filter, record))
            .map(|(record, words)| (words.intersection(&wanted).count(), record))
            .collect();
        // Of equals those that come first in a text-dependent order, or every interview would ask the same.
        let salt = wanted.iter().map(|word| word.len()).sum::<usize>() as u64;
        hits.sort_by_key(|(shared, record)| (std::cmp::Reverse(*shared), hash(&record.id, salt)));
        hits.into_iter().take(n).map(|(_, record)| record.clone()).collect()
    }
}

/// Words that are in the titles of any trade.
const ANY_TRADE: [&str; 12] = [
    "engineer",
    "engineering",
    "manager",
    "management",
    "senior",
    "junior",
    "assistant",
    "specialist",
    "lead",
    "head",
    "developer",
    "and",
];

/// Letters two words begin with alike when they are of one trade: nurse and nursing.
const ALIKE: usize = 4;

fn alike(a: &str, b: &str) -> bool {
    let shared = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count();
    a == b || (shared >= ALIKE && shared + 2 >= a.len().min(b.len()))
}

/// FNV-1a: the same on every machine.
fn hash(text: &str, salt: u64) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325 ^ salt, |h, byte| {
        (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn lets_through(filter: &Filter, record: &Record) -> bool {
    let or_open = |wanted: &Option<String>, has: Option<&str>| {
        wanted.as_deref().is_none_or(|wanted| has == Some(wanted))
    };
    record.owner == filter.owner
        && filter.category.is_none_or(|category| record.category == category)
        && or_open(&filter.subcategory, Some(&record.subcategory))
        && (record.industry.is_none() || or_open(&filter.industry, record.industry.as_deref()))
        && (filter.levels.is_empty() || filter.levels.contains(&record.level))
        && filter.difficulty.contains(&record.difficulty)
        && !filter.exclude.contains(&record.id)
}

#[async_trait]
impl Finder for Plain {
    async fn find(&self, query: &Query) -> Vec<Record> {
        let found = self.among(&query.text, &query.filter, CANDIDATES);
        if found.is_empty() { self.among(&query.text, &query.wider, CANDIDATES) } else { found }
    }

    async fn fields(&self, role: &str) -> Vec<String> {
        let named = self.named_like(role);
        if named.is_empty() { fields(&self.among(role, &technical(), CANDIDATES)) } else { named }
    }
}

fn technical() -> Filter {
    Filter { category: Some(Category::Technical), ..Filter::default() }
}

/// The index, and the bank where it does not answer.
pub struct Indexed {
    knowledge: Knowledge,
    plain: Plain,
}

impl Indexed {
    /// Of an index; `plain` is asked where it has no answer in time.
    pub fn new(knowledge: Knowledge, plain: Plain) -> Self {
        Self { knowledge, plain }
    }

    async fn ask(&self, text: &str, filter: &Filter, within: Duration) -> Option<Vec<Record>> {
        let asked = self.knowledge.query(text, filter.clone(), CANDIDATES);
        match tokio::time::timeout(within, asked).await {
            Ok(Ok(hits)) => Some(hits.into_iter().map(|hit| hit.record).collect()),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the index was not asked; the bank is");
                None
            }
            Err(_) => None,
        }
    }
}

#[async_trait]
impl Finder for Indexed {
    async fn find(&self, query: &Query) -> Vec<Record> {
        match self.ask(&query.text, &query.filter, WITHIN).await {
            Some(found) if !found.is_empty() => found,
            Some(_) => match self.ask(&query.text, &query.wider, WITHIN).await {
                Some(found) if !found.is_empty() => found,
                _ => self.plain.find(query).await,
            },
            None => self.plain.find(query).await,
        }
    }

    async fn fields(&self, role: &str) -> Vec<String> {
        match self.ask(role, &technical(), FIELDS_WITHIN).await {
            Some(found) if !found.is_empty() => fields(&found),
            _ => self.plain.fields(role).await,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn roles_have_their_fields() {
        let plain = Plain::new(&Bank::general().unwrap());
        for (role, field) in [
            ("nurse", "nursing"),
            ("backend engineer", "backend-engineering"),
            ("sales representative", "sales"),
            ("teacher", "teaching"),
            ("machine learning engineer", "machine-learning"),
        ] {
            let fields = plain.fields(role).await;
            assert_eq!(fields.first().map(String::as_str), Some(field), "{role}: {fields:?}");
        }
    }
}
