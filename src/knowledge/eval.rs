//! How well questions are found: labelled queries, and measures over what comes back for them.
//!
//! `presets/questions/eval.jsonl` has queries a person might say with the ids that fit. A hash of the query puts
//! each into one of two halves: settings are chosen on the one, and the other says what they are worth.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Knowledge;
use super::bank::{Bank, Category};
use super::store::{Filter, Ranking, Result, StoreError};

/// The labelled queries.
const LABELS: &str = include_str!("../../presets/questions/eval.jsonl");

/// Results looked at.
const DEPTH: usize = 10;

/// What a query is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// A job's title with a topic.
    TitleTopic,
    /// An answer that begs to be followed up.
    Answer,
    /// A question in other words.
    Paraphrase,
}

/// Which half of the labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Half {
    /// Settings are chosen on it.
    Tuning,
    /// Nothing is.
    HeldOut,
}

/// A query with the questions that fit.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Label {
    /// What is said.
    pub query: String,
    /// What it is like.
    pub class: Class,
    /// Where the questions are.
    pub category: Category,
    /// The questions.
    pub ids: Vec<String>,
}

impl Label {
    /// The half it is in.
    pub fn half(&self) -> Half {
        let odd = Sha256::digest(&self.query)[0] % 2 == 1;
        if odd { Half::HeldOut } else { Half::Tuning }
    }
}

/// Measures over some queries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Scores {
    /// Queries.
    pub queries: usize,
    /// Share of queries whose first result fits.
    pub hit_1: f64,
    /// Share with one that fits among the first five.
    pub hit_5: f64,
    /// Normalised discounted cumulative gain of the first ten.
    pub ndcg_10: f64,
}

/// Where a query looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// In the collection it is for, as an interview does: it knows what it wants to ask about.
    Category,
    /// In all four.
    Everything,
}

/// The measures of some queries by each ranking.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Where they look.
    pub scope: Scope,
    /// Which half; none for both.
    pub half: Option<Half>,
    /// Which class; none for all.
    pub class: Option<Class>,
    /// Which category; none for all.
    pub category: Option<Category>,
    /// By meaning.
    pub dense: Scores,
    /// By words.
    pub text: Scores,
    /// By both.
    pub fused: Scores,
}

/// All labels.
pub fn labels() -> std::result::Result<Vec<Label>, serde_json::Error> {
    LABELS.lines().filter(|line| !line.trim().is_empty()).map(serde_json::from_str).collect()
}

/// What one query's results are worth.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Worth {
    hit_1: bool,
    hit_5: bool,
    ndcg_10: f64,
}

/// Asks every labelled query. `progress` is told how many were asked.
pub async fn evaluate(knowledge: &Knowledge, mut progress: impl FnMut(usize)) -> Result<Vec<Row>> {
    let labels = labels().map_err(|error| StoreError::failed("presets/questions/eval.jsonl", error))?;
    let mut asked = Vec::new();
    for (n, label) in labels.iter().enumerate() {
        for scope in [Scope::Category, Scope::Everything] {
            let category = (scope == Scope::Category).then_some(label.category);
            let mut worths = [Worth { hit_1: false, hit_5: false, ndcg_10: 0.0 }; 3];
            for (worth, ranking) in worths.iter_mut().zip([Ranking::Dense, Ranking::Text, Ranking::Fused]) {
                let filter = Filter { category, ..Filter::default() };
                let hits = knowledge.query_by(&label.query, filter, DEPTH, ranking).await?;
                let found: Vec<&str> = hits.iter().map(|hit| &hit.record.id[..]).collect();
                *worth = judge(&found, &label.ids);
            }
            asked.push((label, scope, worths));
        }
        progress(n + 1);
    }
    Ok(rows(&asked))
}

/// Every combination that a query is in: both halves and each, all classes and each, all categories and each.
fn rows(asked: &[(&Label, Scope, [Worth; 3])]) -> Vec<Row> {
    type Group = (Scope, Option<Half>, Option<Class>, Option<Category>);
    let mut groups: BTreeMap<Group, Vec<[Worth; 3]>> = BTreeMap::new();
    for (label, scope, worths) in asked {
        for half in [None, Some(label.half())] {
            for class in [None, Some(label.class)] {
                for category in [None, Some(label.category)] {
                    groups.entry((*scope, half, class, category)).or_default().push(*worths);
                }
            }
        }
    }
    let of = |all: &[[Worth; 3]], ranking: usize| scores(all.iter().map(|worths| worths[ranking]));
    let row = |((scope, half, class, category), all): (_, Vec<[Worth; 3]>)| Row {
        scope,
        half,
        class,
        category,
        dense: of(&all, 0),
        text: of(&all, 1),
        fused: of(&all, 2),
    };
    groups.into_iter().map(row).collect()
}

fn scores(worths: impl Iterator<Item = Worth>) -> Scores {
    let mut sum = Scores::default();
    for worth in worths {
        sum.queries += 1;
        sum.hit_1 += f64::from(u8::from(worth.hit_1));
        sum.hit_5 += f64::from(u8::from(worth.hit_5));
        sum.ndcg_10 += worth.ndcg_10;
    }
    let n = sum.queries.max(1) as f64;
    Scores { hit_1: sum.hit_1 / n, hit_5: sum.hit_5 / n, ndcg_10: sum.ndcg_10 / n, ..sum }
}

fn judge(found: &[&str], fitting: &[String]) -> Worth {
    let fitting: HashSet<&str> = fitting.iter().map(String::as_str).collect();
    let fits = |id: &&str| fitting.contains(*id);
    // The discount of a place, counted from 0 (Järvelin and Kekäläinen, 2002).
    let gain = |place: usize| 1.0 / (place as f64 + 2.0).log2();
    let ideal: f64 = (0..fitting.len().min(DEPTH)).map(gain).sum();
    let real: f64 =
        found.iter().take(DEPTH).enumerate().filter(|(_, id)| fits(id)).map(|(i, _)| gain(i)).sum();
    Worth {
        hit_1: found.first().is_some_and(&fits),
        hit_5: found.iter().take(5).any(fits),
        ndcg_10: if ideal > 0.0 { real / ideal } else { 0.0 },
    }
}

/// The labels that name questions which are not in the bank, as `query: id`.
pub fn unknown_ids(labels: &[Label], bank: &Bank) -> Vec<String> {
    let named = labels.iter().flat_map(|label| label.ids.iter().map(|id| (&label.query, id)));
    named.filter(|(_, id)| bank.get(id).is_none()).map(|(query, id)| format!("{query}: {id}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn worth(found: &[&str], fitting: &[&str]) -> (bool, bool, f64) {
        let fitting: Vec<String> = fitting.iter().map(ToString::to_string).collect();
        let worth = judge(found, &fitting);
        (worth.hit_1, worth.hit_5, worth.ndcg_10)
    }

    #[test]
    fn measures_are_those_of_the_books() {
        assert_eq!(worth(&["a", "b"], &["a", "b"]), (true, true, 1.0));
        assert_eq!(worth(&["x", "y"], &["a"]), (false, false, 0.0));
        assert_eq!(worth(&[], &["a"]), (false, false, 0.0));
        let (first, five, ndcg) = worth(&["x", "a", "y", "b"], &["a", "b"]);
        // (1/log2 3 + 1/log2 5) / (1 + 1/log2 3)
        assert!(!first && five && (ndcg - 0.650_92).abs() < 1e-4, "{ndcg}");
        let (_, five, ndcg) = worth(&["1", "2", "3", "4", "5", "a"], &["a"]);
        assert!(!five && ndcg > 0.3);
    }

    #[test]
    fn every_label_names_questions_of_the_bank() {
        let (labels, bank) = (labels().unwrap(), Bank::general().unwrap());
        assert!(labels.len() >= 400, "{}", labels.len());
        assert_eq!(unknown_ids(&labels, &bank), Vec::<String>::new());
        let mut queries = HashSet::new();
        for label in &labels {
            assert!(!label.ids.is_empty() && queries.insert(&label.query), "{}", label.query);
            let of_category = |id: &String| bank.get(id).unwrap().category == label.category;
            assert!(label.ids.iter().any(of_category), "{}", label.query);
        }
        for class in [Class::TitleTopic, Class::Answer, Class::Paraphrase] {
            assert!(labels.iter().filter(|label| label.class == class).count() >= 100, "{class:?}");
        }
        let held_out = labels.iter().filter(|label| label.half() == Half::HeldOut).count();
        assert!(held_out * 5 > labels.len() * 2 && held_out * 5 < labels.len() * 3, "{held_out}");
    }
}
