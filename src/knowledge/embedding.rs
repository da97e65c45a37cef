//! Texts as vectors, whoever makes them: in the server the scheduler, in a program of its own its own engine.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;
use viva_actors::gpu::work::{Job, Stake};
use viva_actors::gpu::{Submitter, within};
use viva_actors::root::Viva;
use viva_models::registry::{EmbedSpec, Opened, open_embed};
use viva_models::{Embedder, EngineError};

/// When the vector of a query is due, milliseconds: it takes 7 (MiniLM) to 43 (mpnet) and somebody waits.
const QUERY_DUE_MS: u64 = 20;

/// When vectors of an index are due: after everything that a caller hears.
const INDEX_DUE_MS: u64 = 60_000;

/// How long a query's vector is waited for. A busy language model holds all cores for a second or two.
const QUERY_WITHIN: Duration = Duration::from_secs(5);

/// The same for vectors of an index, which come after everybody else's work.
const INDEX_WITHIN: Duration = Duration::from_secs(120);

/// Whether somebody waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Haste {
    /// A query.
    Query,
    /// An index being built.
    Index,
}

/// Turns texts into unit vectors.
#[async_trait]
pub trait Embedding: Send + Sync {
    /// Name of the model; vectors of different names must not be compared.
    fn name(&self) -> &str;

    /// One vector a text, in order.
    async fn embed(&self, texts: Vec<String>, haste: Haste) -> Result<Vec<Vec<f32>>, EngineError>;
}

/// An engine that nobody else uses, for programs without a scheduler.
pub struct Alone {
    name: String,
    engine: Arc<Mutex<Box<dyn Embedder>>>,
}

impl Alone {
    /// Opens the engine. Blocks until its weights are loaded.
    pub fn open(spec: &EmbedSpec) -> Result<Self, EngineError> {
        let Opened { engine, .. } = open_embed(spec)?;
        Ok(Self { name: engine.name().to_owned(), engine: Arc::new(Mutex::new(engine)) })
    }
}

#[async_trait]
impl Embedding for Alone {
    fn name(&self) -> &str {
        &self.name
    }

    async fn embed(&self, texts: Vec<String>, _haste: Haste) -> Result<Vec<Vec<f32>>, EngineError> {
        let engine = Arc::clone(&self.engine);
        let work = move || engine.lock().unwrap_or_else(PoisonError::into_inner).embed(&texts);
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| EngineError::Failed(error.to_string()))?
    }
}

/// The scheduler's engine, among all other work.
pub struct Scheduled {
    name: String,
    viva: Viva,
    /// Registered with the first text; again when the scheduler was started anew.
    submitter: tokio::sync::Mutex<Option<Submitter>>,
}

impl Scheduled {
    /// The embedder `name` of a server that has one.
    pub fn new(viva: Viva, name: String) -> Self {
        Self { name, viva, submitter: tokio::sync::Mutex::default() }
    }

    async fn submitter(&self) -> Result<Submitter, EngineError> {
        let mut held = self.submitter.lock().await;
        if let Some(submitter) = held.as_ref() {
            return Ok(submitter.clone());
        }
        let fresh = self.viva.submitter().await;
        let fresh = fresh.ok_or_else(|| EngineError::Unavailable("the server is ending".into()))?;
        Ok(held.insert(fresh).clone())
    }

    /// One attempt. None where no answer came: the scheduler is gone, or far behind.
    async fn attempt(&self, texts: Vec<String>, haste: Haste) -> Result<Option<Vec<Vec<f32>>>, EngineError> {
        let (due_ms, limit, stake) = match haste {
            Haste::Query => (QUERY_DUE_MS, QUERY_WITHIN, Stake::Wanted),
            Haste::Index => (INDEX_DUE_MS, INDEX_WITHIN, Stake::Ahead),
        };
        let (sender, answer) = oneshot::channel();
        // Who gave up waiting does not listen.
        let reply = Box::new(move |result| drop(sender.send(result)));
        let submitter = self.submitter().await?;
        let cancel = submitter.submit(Job::Embed { texts, reply }, within(due_ms), stake);
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(result)) => result.map(|answer| Some(answer.value)),
            Ok(Err(_)) | Err(_) => {
                cancel.cancel();
                *self.submitter.lock().await = None;
                Ok(None)
            }
        }
    }
}

#[async_trait]
impl Embedding for Scheduled {
    fn name(&self) -> &str {
        &self.name
    }

    async fn embed(&self, texts: Vec<String>, haste: Haste) -> Result<Vec<Vec<f32>>, EngineError> {
        // Once more with the scheduler that is there now.
        if let Some(vectors) = self.attempt(texts.clone(), haste).await? {
            return Ok(vectors);
        }
        let again = self.attempt(texts, haste).await?;
        again.ok_or_else(|| EngineError::Unavailable("the scheduler gave no vectors in time".into()))
    }
}
