//! Where requests of no session are let in, and their way to the scheduler.
//!
//! *Bound:* so many requests of a kind are worked on at once, and [`WAITING_MAX`] wait; who comes then is told when to
//! try again. Everything is ordered as [`Stake::Ahead`]: the scheduler does it when no conversation wants anything.
//! *When a client goes away* its [`Ticket`] is dropped, and the scheduler forgets what it ordered; what an engine is
//! doing for it is cancelled.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use viva_actors::gpu::work::{Answer, GenEvent, Job, Reply, Stake};
use viva_actors::gpu::{Submitter, within};
use viva_actors::root::Viva;
use viva_models::{AsrJob, Cancel, EngineError, Prompt, Sampling, Transcription, TtsJob};

use super::Refusal;

/// Requests of one kind that are worked on at once. An engine does one thing at a time, so a second one only keeps it
/// busy while the first is being encoded or sent; a text also takes a place in the cache that conversations share.
const AT_ONCE: usize = 2;

/// Requests that may wait for their turn: at some seconds each, longer than most clients' patience.
const WAITING_MAX: usize = 32;

/// When somebody who was turned away may come back: about what two requests take.
const RETRY_AFTER_S: u64 = 5;

/// When work is due: after everything that a caller hears.
const DUE_MS: u64 = 60_000;

/// How long one piece of work is waited for. Conversations go first, and beside a full house of them it may never
/// come to be done; the client should not wait for ever.
const PIECE_WITHIN: Duration = Duration::from_secs(120);

/// Pieces of speech that may wait for a client that reads slowly. The next sentence is ordered only when one is sent,
/// and an engine hands a sentence over in a few pieces of some seconds each.
const SPEECH_PIECES: usize = 1_024;

/// What requests ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Words of a recording.
    Recognise,
    /// Speech of a text.
    Speak,
    /// Vectors of texts.
    Embed,
    /// A text.
    Write,
}

/// Lets requests in.
#[derive(Debug)]
pub struct Desk {
    places: [Arc<Semaphore>; 4],
    waiting: AtomicUsize,
}

impl Default for Desk {
    fn default() -> Self {
        Self {
            places: std::array::from_fn(|_| Arc::new(Semaphore::new(AT_ONCE))),
            waiting: AtomicUsize::new(0),
        }
    }
}

/// Counts one who waits, for as long as it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Desk {
    /// Waits for a place.
    pub async fn enter(&self, kind: Kind, viva: &Viva) -> Result<Ticket, Refusal> {
        let waiting = Waiting(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::AcqRel) >= WAITING_MAX {
            return Err(Refusal::busy(RETRY_AFTER_S));
        }
        let place = Arc::clone(&self.places[kind as usize]);
        let place = timeout(PIECE_WITHIN, place.acquire_owned()).await;
        drop(waiting);
        let place = match place {
            Ok(Ok(place)) => place,
            // The semaphore is never closed.
            Ok(Err(_)) | Err(_) => return Err(Refusal::busy(RETRY_AFTER_S)),
        };
        let gone = || Refusal::unavailable("the server is about to end", RETRY_AFTER_S);
        let submitter = viva.submitter().await.ok_or_else(gone)?;
        Ok(Ticket { submitter, _place: place })
    }
}

/// A request's place, and its way to the scheduler. Its drop takes back whatever it has ordered.
pub struct Ticket {
    submitter: Submitter,
    _place: OwnedSemaphorePermit,
}

/// Work under way. Its drop cancels it.
pub struct Ordered(Cancel);

impl Drop for Ordered {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// A sentence being spoken: pieces as they are made, with their rate, and at last how it went.
pub struct Speech {
    pieces: mpsc::Receiver<Piece>,
    _ordered: Ordered,
}

enum Piece {
    /// Samples with their rate.
    Samples(Vec<f32>, u32),
    /// How it went.
    End(Result<(), EngineError>),
}

impl Speech {
    /// The next piece; none when all is said.
    pub async fn next(&mut self) -> Option<Result<(Vec<f32>, u32), Refusal>> {
        match timeout(PIECE_WITHIN, self.pieces.recv()).await {
            Ok(Some(Piece::Samples(samples, rate))) => Some(Ok((samples, rate))),
            Ok(Some(Piece::End(Ok(())))) => None,
            Ok(Some(Piece::End(Err(error)))) => Some(Err(refusal(error))),
            Ok(None) => Some(Err(Refusal::unavailable("the scheduler was restarted", RETRY_AFTER_S))),
            Err(_) => Some(Err(Refusal::busy(RETRY_AFTER_S))),
        }
    }
}

/// A text being written.
pub struct Text {
    events: mpsc::Receiver<GenEvent>,
    _ordered: Ordered,
}

impl Text {
    /// What happens next; not to be asked after [`GenEvent::Done`].
    pub async fn next(&mut self) -> Result<GenEvent, Refusal> {
        match timeout(PIECE_WITHIN, self.events.recv()).await {
            Ok(Some(GenEvent::Failed(error))) => Err(refusal(error)),
            Ok(Some(event)) => Ok(event),
            Ok(None) => Err(Refusal::unavailable("the scheduler was restarted", RETRY_AFTER_S)),
            Err(_) => Err(Refusal::busy(RETRY_AFTER_S)),
        }
    }
}

impl Ticket {
    /// Has a stretch of speech recognised.
    pub async fn recognise(&self, job: AsrJob) -> Result<Transcription, Refusal> {
        self.ask(|reply| Job::Asr { job, reply }).await
    }

    /// Has texts embedded.
    pub async fn embed(&self, texts: Vec<String>) -> Result<Vec<Vec<f32>>, Refusal> {
        self.ask(|reply| Job::Embed { texts, reply }).await
    }

    async fn ask<T: Send + 'static>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, Refusal> {
        let (sender, answer) = oneshot::channel::<Result<Answer<T>, EngineError>>();
        // Who gave up waiting does not listen.
        let reply: Reply<T> = Box::new(move |result| drop(sender.send(result)));
        let _ordered = Ordered(self.submitter.submit(job(reply), within(DUE_MS), Stake::Ahead));
        match timeout(PIECE_WITHIN, answer).await {
            Ok(Ok(result)) => result.map(|answer| answer.value).map_err(refusal),
            Ok(Err(_)) => Err(Refusal::unavailable("the scheduler was restarted", RETRY_AFTER_S)),
            Err(_) => Err(Refusal::busy(RETRY_AFTER_S)),
        }
    }

    /// Has a sentence spoken.
    pub fn speak(&self, job: TtsJob) -> Speech {
        let (sender, pieces) = mpsc::channel(SPEECH_PIECES);
        let last = sender.clone();
        let sink = Box::new(move |samples: &[f32], rate: u32| {
            // Who does not listen has gone away, and the order is cancelled.
            sender.try_send(Piece::Samples(samples.to_vec(), rate)).ok();
        });
        let reply: Reply<()> = Box::new(move |result| {
            last.try_send(Piece::End(result.map(|_| ()))).ok();
        });
        let job = Job::Tts { job, sink, delivered: 0, reply };
        let ordered = Ordered(self.submitter.submit(job, within(DUE_MS), Stake::Ahead));
        Speech { pieces, _ordered: ordered }
    }

    /// Has a text written.
    pub fn write(&self, prompt: Prompt, sampling: Sampling) -> Text {
        /// The beginning, the end, and what the model says of the prompt.
        const BESIDE_TOKENS: usize = 8;
        let (sender, events) = mpsc::channel(sampling.max_tokens as usize + BESIDE_TOKENS);
        let sink = Box::new(move |event| {
            sender.try_send(event).ok();
        });
        let job = Job::Generate { prompt, sampling, sink };
        let ordered = Ordered(self.submitter.submit(job, within(DUE_MS), Stake::Ahead));
        Text { events, _ordered: ordered }
    }
}

/// What a client may know of an engine's failure.
fn refusal(error: EngineError) -> Refusal {
    match error {
        EngineError::Invalid(why) => {
            Refusal::invalid("invalid_value", format!("This cannot be done: {why}."), None)
        }
        EngineError::Unavailable(why) => {
            tracing::warn!(why, "an engine was not there for a request");
            Refusal::unavailable("an engine is being restarted", RETRY_AFTER_S)
        }
        EngineError::Cancelled => Refusal::unavailable("the work was taken back", RETRY_AFTER_S),
        EngineError::Failed(why) => Refusal::internal(&why),
    }
}
