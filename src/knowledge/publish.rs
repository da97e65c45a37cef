//! From a bank to an edition in a store.

use sha2::{Digest, Sha256};

use super::bank::{Bank, Record};
use super::embedding::{Embedding, Haste};
use super::store::{Edition, Result, StoreError, VectorStore};

/// Texts embedded in one piece of work: some 60 ms with MiniLM, so that whoever comes meanwhile does not wait
/// longer.
pub const TEXTS_AT_ONCE: usize = 8;

/// Version of what is embedded and of what is written beside it; part of the content's hash, so that a change
/// makes a new index.
const FORM: &str = "viva-index-1";

/// What became of a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// The store holds just this already.
    UpToDate(Edition),
    /// It holds it now.
    Fresh(Edition),
}

/// What is embedded of a question.
pub fn embedded(record: &Record) -> String {
    embedded_question(&record.question)
}

/// The same of a question of which nothing else is known.
pub fn embedded_question(question: &str) -> String {
    question.to_owned()
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
    mut progress: impl FnMut(usize) + Send,
) -> Result<Published> {
    let records = bank.records();
    let content = content(embedding.name(), records);
    if !anew && let Some(edition) = store.edition().await?.filter(|edition| edition.content == content) {
        return Ok(Published::UpToDate(edition));
    }
    let mut values: Vec<f32> = Vec::new();
    for (done, texts) in records.chunks(TEXTS_AT_ONCE).enumerate() {
        let vectors = embedding.embed(texts.iter().map(embedded).collect(), Haste::Index).await?;
        values.extend(vectors.into_iter().flatten());
        progress(done * TEXTS_AT_ONCE + texts.len());
    }
    if values.is_empty() || !values.len().is_multiple_of(records.len()) {
        return Err(StoreError::failed("the embedder", "its vectors are not of one length"));
    }
    let dimensions = values.len() / records.len();
    let edition = Edition { embedder: embedding.name().to_owned(), dimensions, content, rows: records.len() };
    store.publish(edition.clone(), records.to_vec(), values).await?;
    Ok(Published::Fresh(edition))
}
