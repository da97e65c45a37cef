//! From a bank to an edition in a store.
//!
//! A question has four vectors, its views: the question alone, with its topic, with what an answer is judged by, and
//! with what may be asked after it. Each leans towards the mean of all views of its block, and a question is as near
//! to a query as the nearest of its views: another wording is near to the question, an answer to criteria and probes,
//! a job's title to the topic, and a sum of all would be dulled by those that have nothing to do with it. Chosen on
//! the tuning half of the labelled queries; `benches/runs` has what each choice is worth.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::bank::{Bank, Record};
use super::embedding::{Embedding, Haste};
use super::store::{Edition, Result, StoreError, VectorStore};

/// Texts embedded in one piece of work: some 100 ms with MiniLM, so that whoever comes meanwhile does not wait
/// longer.
const TEXTS_AT_ONCE: usize = 8;

/// Version of what is embedded and of what is written beside it; part of the content's hash, so that a change
/// makes a new index.
const FORM: &str = "viva-index-3";

/// What the cosine with the block counts beside that with the view. Between 0.1 and 0.3 it makes no difference that
/// the labels would show.
const BLOCK_WEIGHT: f32 = 0.2;

/// What became of a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// The store holds just this already.
    UpToDate(Edition),
    /// It holds it now.
    Fresh(Edition),
}

/// What identifies an edition: the embedder, and every record as it is.
pub fn content(embedder: &str, records: &[Record]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(FORM);
    hash.update([0]);
    hash.update(embedder);
    for record in records {
        hash.update([0]);
        hash.update(serde_json::to_vec(record).expect("a record is plain data"));
    }
    hash.finalize().into()
}

/// Puts a bank into a store, unless it is there already or `anew` is set. `progress` is told how many questions
/// are embedded.
pub async fn publish(
    bank: &Bank,
    embedding: &dyn Embedding,
    store: &dyn VectorStore,
    anew: bool,
    progress: impl FnMut(usize) + Send,
) -> Result<Published> {
    let records = bank.records();
    let content = content(embedding.name(), records);
    if !anew && let Some(edition) = store.edition().await?.filter(|edition| edition.content == content) {
        return Ok(Published::UpToDate(edition));
    }
    let vectors = vectors(records, embedding, progress).await?;
    let dimensions = vectors.first().map_or(0, |views| views.len() / VIEWS);
    let edition = Edition { embedder: embedding.name().to_owned(), dimensions, content, rows: records.len() };
    store.publish(edition.clone(), records.to_vec(), vectors.concat()).await?;
    Ok(Published::Fresh(edition))
}

/// The vectors of questions: of each its views, one behind the other. The product of one with a query's is the mean
/// of two cosines, with the view and, by [`BLOCK_WEIGHT`], with the block; so none is longer than 1.
pub async fn vectors(
    records: &[Record],
    embedding: &dyn Embedding,
    mut progress: impl FnMut(usize) + Send,
) -> Result<Vec<Vec<f32>>> {
    let mut texts: Vec<(usize, String)> = records.iter().flat_map(views).enumerate().collect();
    // Texts of one length go together: a batch costs as much as if all were as long as its longest.
    texts.sort_by_key(|(at, text)| (text.len(), *at));
    let mut embedded: Vec<Vec<f32>> = vec![Vec::new(); texts.len()];
    let (mut done, all) = (0, texts.len());
    for part in texts.chunks(TEXTS_AT_ONCE) {
        let vectors =
            embedding.embed(part.iter().map(|(_, text)| text.clone()).collect(), Haste::Index).await?;
        for ((at, _), vector) in part.iter().zip(vectors) {
            embedded[*at] = vector;
        }
        done += part.len();
        progress(done * records.len() / all);
    }
    let mut blocks: HashMap<&str, Vec<f32>> = HashMap::new();
    for (record, views) in records.iter().zip(embedded.chunks(VIEWS)) {
        let mean = blocks.entry(block(record)).or_default();
        views.iter().try_for_each(|view| add(mean, view, 1.0))?;
    }
    blocks.values_mut().for_each(|mean| normalise(mean));
    for (at, view) in embedded.iter_mut().enumerate() {
        add(view, &blocks[block(&records[at / VIEWS])], BLOCK_WEIGHT)?;
        view.iter_mut().for_each(|value| *value /= 1.0 + BLOCK_WEIGHT);
    }
    Ok(embedded.chunks(VIEWS).map(<[Vec<f32>]>::concat).collect())
}

/// Views of a question.
const VIEWS: usize = 4;

/// What is embedded of a question.
fn views(record: &Record) -> [String; VIEWS] {
    let question = &record.question;
    [
        question.clone(),
        format!("{question} {}", record.tags.join(": ")),
        format!("{question} {}", record.criteria.join(". ")),
        format!("{question} {}", record.probes.join(" ")),
    ]
}

/// What a question's id has in common with those beside it.
fn block(record: &Record) -> &str {
    record.id.rsplit_once('.').map_or(&record.id, |(block, _)| block)
}

fn add(sum: &mut Vec<f32>, vector: &[f32], weight: f32) -> Result<()> {
    if sum.is_empty() {
        sum.resize(vector.len(), 0.0);
    }
    if vector.is_empty() || sum.len() != vector.len() {
        return Err(StoreError::failed("the embedder", "its vectors are not of one length"));
    }
    sum.iter_mut().zip(vector).for_each(|(sum, value)| *sum += weight * value);
    Ok(())
}

/// Scales to length 1. Zero stays zero.
fn normalise(vector: &mut [f32]) {
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|value| *value /= length);
    }
}
