//! What an interviewer knows: the bank of questions, and how the right one is found.
//!
//! * [`bank`]: the records, the authored sources they are built from, and the import of other lists.
//! * [`store`]: what every place that keeps them can do; [`index`] is the one on this machine's disk, [`pgvector`]
//!   the one that many machines share.
//! * [`embedding`]: how texts become vectors; [`publish`] brings a bank into a store.
//! * [`eval`]: how well it finds what it should.
//! * [`Knowledge`]: all of it together, as the server and the command line hold it.

pub mod bank;
pub mod embedding;
pub mod eval;
pub mod index;
pub mod pgvector;
pub mod publish;
pub mod store;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bank::Bank;
use embedding::{Embedding, Haste};
use index::Index;
use pgvector::PgVector;
use publish::Published;
use store::{Filter, Hit, Ranking, Result, Search, StoreError, VectorStore, check_filter, check_query};

use crate::config::Config;

/// The folder of knowledge beside that of the weights.
const FOLDER: &str = "knowledge";

/// The bank in a store, and who turns queries into vectors for it. Clones share both.
#[derive(Clone)]
pub struct Knowledge {
    store: Arc<dyn VectorStore>,
    embedding: Arc<dyn Embedding>,
    folder: PathBuf,
}

/// Where knowledge lies unless the configuration says otherwise: beside the folder of the weights.
pub fn default_dir(models: &Path) -> PathBuf {
    models.parent().unwrap_or(models).join(FOLDER)
}

impl Knowledge {
    /// Opens the configured store for an embedder. An index on disk that is damaged, or another embedder's, is
    /// an error.
    pub async fn open(config: &Config, embedding: Arc<dyn Embedding>) -> Result<Self> {
        Self::opened(config, embedding, false).await
    }

    /// The same for whoever builds the index anew: what is wrong with the one there does not matter.
    pub async fn open_to_publish(config: &Config, embedding: Arc<dyn Embedding>) -> Result<Self> {
        Self::opened(config, embedding, true).await
    }

    async fn opened(config: &Config, embedding: Arc<dyn Embedding>, damaged_too: bool) -> Result<Self> {
        let folder = config.knowledge_dir();
        let store: Arc<dyn VectorStore> = match config.knowledge.postgres.as_str() {
            "" => match Index::open(&folder, embedding.name()) {
                Err(error) if damaged_too => {
                    tracing::warn!(%error, "the index is built anew");
                    Arc::new(Index::blank(&folder, embedding.name()))
                }
                index => Arc::new(index?),
            },
            url => Arc::new(PgVector::open(url, embedding.name()).await?),
        };
        Ok(Self { store, embedding, folder })
    }

    /// Knowledge of any store.
    pub fn of(store: Arc<dyn VectorStore>, embedding: Arc<dyn Embedding>, folder: PathBuf) -> Self {
        Self { store, embedding, folder }
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn VectorStore> {
        &self.store
    }

    /// The embedder.
    pub fn embedding(&self) -> &Arc<dyn Embedding> {
        &self.embedding
    }

    /// Where imported banks and the index lie.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The best questions for a text, best first.
    pub async fn query(&self, text: &str, filter: Filter, n: usize) -> Result<Vec<Hit>> {
        self.query_by(text, filter, n, Ranking::Fused).await
    }

    /// The same by one ranking alone.
    pub async fn query_by(&self, text: &str, filter: Filter, n: usize, ranking: Ranking) -> Result<Vec<Hit>> {
        check_query(text)?;
        check_filter(&filter)?;
        let mut vectors = self.embedding.embed(vec![text.to_owned()], Haste::Query).await?;
        let vector = vectors.pop().ok_or_else(|| StoreError::failed("the embedder", "it gave no vector"))?;
        self.store.search(Search { text: text.to_owned(), vector, filter, ranking, n }).await
    }

    /// Brings the bank and what was imported into the store, unless it is there already or `anew` is set.
    pub async fn publish(&self, anew: bool, progress: impl FnMut(usize) + Send) -> Result<Published> {
        let folder = self.folder.clone();
        let read = tokio::task::spawn_blocking(move || Bank::with_imported(&folder)).await;
        let bank = read.map_err(|error| StoreError::failed("the bank was not read", error))??;
        publish::publish(&bank, &*self.embedding, &*self.store, anew, progress).await
    }
}
