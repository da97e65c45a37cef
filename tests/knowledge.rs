//! The bank of questions and how they are found: what the bank holds, both stores over the same checks, bad
//! input, imports, and retrieval over real weights.

#![allow(clippy::unwrap_used)]

#[path = "knowledge/bank.rs"]
mod bank;
#[path = "knowledge/command.rs"]
mod command;
#[path = "knowledge/contract.rs"]
mod contract;
#[path = "knowledge/disk.rs"]
mod disk;
#[path = "knowledge/import.rs"]
mod import;
#[path = "knowledge/meaning.rs"]
mod meaning;
#[path = "knowledge/postgres.rs"]
mod postgres;
#[path = "knowledge/scheduled.rs"]
mod scheduled;

use async_trait::async_trait;
use viva::knowledge::bank::{Bank, Category, Level, Record, SCHEMA, to_lines};
use viva::knowledge::embedding::{Embedding, Haste};
use viva::knowledge::publish::{Published, publish};
use viva::knowledge::store::{Ranking, Search, VectorStore};
use viva_models::EngineError;

/// Numbers of a fake vector: enough that letters of unrelated texts seldom meet in one.
const DIMENSIONS: usize = 512;

/// An embedder without weights: texts are near each other by the letters they share three by three.
pub struct Letters(pub &'static str);

impl Letters {
    pub fn vector(text: &str) -> Vec<f32> {
        let mut vector = vec![0.0f32; DIMENSIONS];
        let letters: Vec<u8> = text.to_lowercase().into_bytes();
        for three in letters.windows(3) {
            let hash = three.iter().fold(17usize, |hash, byte| hash * 131 + usize::from(*byte));
            vector[hash % DIMENSIONS] += 1.0;
        }
        let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-6);
        vector.iter().map(|v| v / length).collect()
    }
}

#[async_trait]
impl Embedding for Letters {
    fn name(&self) -> &str {
        self.0
    }

    async fn embed(&self, texts: Vec<String>, _haste: Haste) -> Result<Vec<Vec<f32>>, EngineError> {
        Ok(texts.iter().map(|text| Self::vector(text)).collect())
    }
}

/// A record with a question.
pub fn record(id: &str, category: Category, question: &str) -> Record {
    Record {
        id: id.into(),
        category,
        subcategory: "nursing".into(),
        industry: None,
        level: Level::Mid,
        difficulty: 3,
        question: question.into(),
        criteria: vec!["Explains why".into(), "Explains how".into(), "Explains when".into()],
        outline: vec!["Explain: it".into()],
        probes: ["Why?".into(), "How?".into()],
        tags: vec!["wards".into()],
        minutes: 3,
        focus_area: None,
        rationale: None,
        owner: None,
        schema: SCHEMA,
    }
}

pub fn bank(records: &[Record]) -> Bank {
    let mut bank = Bank::default();
    bank.add("test", &to_lines(records)).unwrap();
    bank
}

/// Publishes a bank by letters.
pub async fn published(store: &dyn VectorStore, records: &[Record]) -> Published {
    publish(&bank(records), &Letters("letters"), store, false, |_| {}).await.unwrap()
}

/// A search by letters.
pub fn search(text: &str) -> Search {
    Search {
        text: text.into(),
        vector: Letters::vector(text),
        filter: Default::default(),
        ranking: Ranking::Fused,
        n: 5,
    }
}

/// The ids a search finds.
pub async fn ids(store: &dyn VectorStore, search: Search) -> Vec<String> {
    store.search(search).await.unwrap().into_iter().map(|hit| hit.record.id).collect()
}
