//! Device links: the threads that own engines.
//!
//! One link owns one engine, in-process or a process of its own, and runs exactly one batch at a time. An
//! engine may die at any moment: the link opens it again, with a growing pause between attempts, and runs
//! what was in flight once more, each piece alone. A piece of work that was there at two deaths fails
//! alone. An engine that dies while idle is noticed within [`IDLE_CHECK`] and opened again, so that the
//! next caller does not pay for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use viva_models::registry::Opened;
use viva_models::{Asr, Embedder, EngineError, Tts, TurnDetector, Vad};

use crate::metrics as m;

use super::queue::Done;
use super::work::{Answer, Job, Work};

/// Opens an engine; called again whenever the engine died.
pub type Opener<T> = Arc<dyn Fn() -> viva_models::Result<Opened<T>> + Send + Sync>;

/// How often an idle engine's process is looked at.
const IDLE_CHECK: Duration = Duration::from_millis(250);

/// Attempts to open an engine before the work that waits for it fails. The pauses below are 1.5 s together: with
/// the attempts themselves longer than a restart, shorter than a caller's patience.
const OPEN_ATTEMPTS: u32 = 5;

/// Pause before the second attempt to open an engine; doubles with each.
const OPEN_PAUSE: Duration = Duration::from_millis(100);

/// Pause after which an engine that could not be opened is tried again while nobody works: no caller is let
/// in while it is down, so none of their work would do it. Loading large weights in vain costs some seconds
/// of a core.
const REOPEN_AFTER: Duration = Duration::from_secs(10);

/// Deaths of its engine after which a piece of work fails.
const STRIKES_MAX: u8 = 2;

/// What is known of an engine from outside its thread.
#[derive(Debug, Default)]
pub struct LinkStatus {
    up: AtomicBool,
    restarts: AtomicU64,
    pid: AtomicU32,
    refused: Mutex<Option<EngineError>>,
}

impl LinkStatus {
    /// Whether the engine is open.
    pub fn up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// How often it was opened again.
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// Its process, where it is one.
    pub fn pid(&self) -> Option<u32> {
        Some(self.pid.load(Ordering::Relaxed)).filter(|&p| p != 0)
    }

    /// Why it could not be opened, after all attempts; nothing while it is up or still being tried.
    pub fn refused(&self) -> Option<EngineError> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_refused(&self, error: Option<EngineError>) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    pub(super) fn set_up(&self, pid: Option<u32>) {
        self.set_refused(None);
        self.pid.store(pid.unwrap_or(0), Ordering::Relaxed);
        self.up.store(true, Ordering::Release);
    }

    pub(super) fn set_down(&self) {
        self.up.store(false, Ordering::Release);
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }
}

/// An engine that is opened when needed and known to be alive or not.
pub(super) struct Held<T: ?Sized> {
    name: &'static str,
    opener: Opener<T>,
    opened: Option<Opened<T>>,
    /// When all attempts to open it had failed.
    gave_up: Option<Instant>,
    status: Arc<LinkStatus>,
}

impl<T: ?Sized> Held<T> {
    pub(super) fn new(name: &'static str, opener: Opener<T>, status: Arc<LinkStatus>) -> Self {
        Self { name, opener, opened: None, gave_up: None, status }
    }

    /// The engine, opened if it is not.
    pub(super) fn get(&mut self) -> Result<&mut T, EngineError> {
        let mut pause = OPEN_PAUSE;
        let mut attempt = 1;
        while self.opened.is_none() {
            match catch_unwind(AssertUnwindSafe(|| (self.opener)()))
                .unwrap_or_else(|p| Err(EngineError::Unavailable(panic_text(p.as_ref()))))
            {
                Ok(opened) => {
                    self.status.set_up(opened.pid);
                    self.opened = Some(opened);
                }
                Err(error) if attempt >= OPEN_ATTEMPTS || matches!(error, EngineError::Invalid(_)) => {
                    tracing::error!(engine = self.name, %error, "engine cannot be opened");
                    self.status.set_refused(Some(error.clone()));
                    self.gave_up = Some(Instant::now());
                    return Err(error);
                }
                Err(error) => {
                    tracing::warn!(engine = self.name, %error, attempt, "engine does not open, trying again");
                    std::thread::sleep(pause);
                    pause *= 2;
                    attempt += 1;
                }
            }
        }
        Ok(self.opened.as_mut().expect("opened above").engine.as_mut())
    }

    /// Lets go of an engine that died.
    pub(super) fn bury(&mut self, why: &EngineError) {
        if self.opened.take().is_some() {
            self.status.set_down();
            metrics::counter!(m::ENGINE_RESTARTS, "stage" => self.name).increment(1);
            tracing::warn!(engine = self.name, error = %why, "engine died, starting it again");
        }
    }

    /// Opens the engine again if its process is gone, or if it could not be opened a while ago. Returns
    /// whether what was known of it is void.
    pub(super) fn check(&mut self) -> bool {
        if self.opened.is_none() && self.gave_up.is_some_and(|at| at.elapsed() >= REOPEN_AFTER) {
            // The error was logged, and this comes round again.
            return self.get().is_ok();
        }
        let gone = self.opened.as_ref().and_then(|o| o.pid).is_some_and(|pid| !process_lives(pid));
        if gone {
            self.bury(&EngineError::Unavailable("its process ended while idle".into()));
            // The error was logged; the next work tries again.
            self.get().ok();
        }
        gone
    }

    /// Calls the engine. A panic counts as its death.
    pub(super) fn call<R>(
        &mut self,
        f: impl FnOnce(&mut T) -> Result<R, EngineError>,
    ) -> Result<R, EngineError> {
        let engine = self.get()?;
        let result = catch_unwind(AssertUnwindSafe(|| f(engine)))
            .unwrap_or_else(|p| Err(EngineError::Unavailable(panic_text(p.as_ref()))));
        if let Err(error @ EngineError::Unavailable(_)) = &result {
            self.bury(error);
        }
        result
    }
}

/// The text of a panic.
pub(crate) fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no text".into());
    format!("panicked: {text}")
}

/// Whether a process runs. Where there is no `/proc` it is believed to.
fn process_lives(pid: u32) -> bool {
    if !std::path::Path::new("/proc/self/stat").exists() {
        return true;
    }
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|s| !s.trim_start().starts_with(['Z', 'X'])))
}

/// A link's other end: send it a batch when it is idle.
pub(super) struct LinkHandle {
    pub(super) batches: SyncSender<Vec<Work>>,
    pub(super) status: Arc<LinkStatus>,
}

/// How an engine of some kind runs a batch. Answers what it can and returns what was lost with the
/// engine, with the error.
pub(super) type Run<T> = fn(&mut Held<T>, Vec<Work>) -> Option<(Vec<Work>, EngineError)>;

/// Starts the thread of a link. `idle` is called whenever a batch is done (and once at the start).
pub(super) fn spawn_link<T: ?Sized + Send + 'static>(
    name: &'static str,
    opener: Opener<T>,
    run: Run<T>,
    idle: impl Fn(Option<Done>) + Send + 'static,
) -> std::io::Result<LinkHandle> {
    let (batches, inbox) = sync_channel(1);
    let status = Arc::new(LinkStatus::default());
    let held = Held::new(name, opener, Arc::clone(&status));
    std::thread::Builder::new()
        .name(format!("viva-{name}"))
        .spawn(move || link_loop(held, &inbox, run, &idle))?;
    Ok(LinkHandle { batches, status })
}

fn link_loop<T: ?Sized>(
    mut held: Held<T>,
    inbox: &Receiver<Vec<Work>>,
    run: Run<T>,
    idle: &dyn Fn(Option<Done>),
) {
    // An engine in this process computes on this thread for a tenth of a second at a time; those that carry the audio
    // must get a core at once.
    viva_models::host::give_way();
    // A failure is logged and shown by the status; the first work tries again.
    held.get().ok();
    idle(None);
    loop {
        match inbox.recv_timeout(IDLE_CHECK) {
            Ok(batch) => {
                let units = batch.iter().map(|work| work.job.units()).sum();
                let began = Instant::now();
                run_batch(&mut held, batch, run);
                idle(Some(Done { units, took: began.elapsed() }));
            }
            Err(RecvTimeoutError::Timeout) => {
                held.check();
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn run_batch<T: ?Sized>(held: &mut Held<T>, batch: Vec<Work>, run: Run<T>) {
    let Some((lost, _)) = run(held, batch) else { return };
    // One of these may have killed the engine: each runs alone now, and who is there again fails.
    for work in lost {
        let mut strikes = 1;
        let mut work = Some(work);
        while let Some(again) = work.take() {
            let Some((mut lost, error)) = run(held, vec![again]) else { break };
            strikes += 1;
            let Some(lost) = lost.pop() else { break };
            if strikes >= STRIKES_MAX {
                lost.job.fail(EngineError::Failed(format!("the engine died of it twice: {error}")));
            } else {
                work = Some(lost);
            }
        }
    }
}

/// When a piece of work was asked for and begun, how long its batch took and how many were in it.
#[derive(Clone, Copy)]
struct Times {
    submitted: Instant,
    started: Instant,
    took: Duration,
    batch: u32,
}

impl Times {
    /// Of work that ran alone and is done now.
    fn alone(submitted: Instant, started: Instant) -> Self {
        Self { submitted, started, took: started.elapsed(), batch: 1 }
    }
}

/// An answer with its times: what it waited, and its share of the batch's time.
fn answered<T>(times: Times, engine: &'static str, value: T) -> Answer<T> {
    let queue = times.started.saturating_duration_since(times.submitted);
    let compute = times.took / times.batch;
    metrics::histogram!(m::QUEUE_MS, "stage" => engine).record(m::ms(queue));
    metrics::histogram!(m::COMPUTE_MS, "stage" => engine).record(m::ms(compute));
    Answer { value, queue_ms: queue.as_millis() as u32, compute_ms: compute.as_millis() as u32 }
}

/// An engine that answers fewer than it was asked, or what is no probability, answered nothing.
fn all_answered(what: &str, asked: usize, answers: &[f32]) -> Result<(), EngineError> {
    if answers.len() == asked && answers.iter().all(|p| (0.0..=1.0).contains(p)) {
        return Ok(());
    }
    Err(EngineError::Failed(format!("{} answers for {asked} {what}, or such as cannot be", answers.len())))
}

fn batch_size(stage: &'static str, size: usize) {
    metrics::histogram!(m::BATCH_SIZE, "stage" => stage).record(size as f64);
}

pub(super) fn run_vad(held: &mut Held<dyn Vad>, batch: Vec<Work>) -> Option<(Vec<Work>, EngineError)> {
    let started = Instant::now();
    batch_size("vad", batch.len());
    let (mut jobs, mut replies) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
    for work in batch {
        if let Job::Vad { job, reply } = work.job {
            jobs.push(job);
            replies.push((work.submitted, reply));
        }
    }
    let mut probabilities = Vec::with_capacity(jobs.len());
    let result = held.call(|vad| {
        vad.detect(&mut jobs, &mut probabilities)?;
        all_answered("windows", jobs.len(), &probabilities)
    });
    let (took, batch) = (started.elapsed(), u32::try_from(jobs.len()).unwrap_or(u32::MAX).max(1));
    // A window is not worth a second run: the next one is 32 ms away.
    for ((job, (submitted, reply)), i) in jobs.into_iter().zip(replies).zip(0..) {
        reply(match &result {
            Ok(()) => Ok(answered(Times { submitted, started, took, batch }, "vad", (job, probabilities[i]))),
            Err(e) => Err(e.clone()),
        });
    }
    None
}

pub(super) fn run_turn(
    held: &mut Held<dyn TurnDetector>,
    batch: Vec<Work>,
) -> Option<(Vec<Work>, EngineError)> {
    let started = Instant::now();
    batch_size("turn", batch.len());
    let samples: Vec<Arc<[f32]>> = batch
        .iter()
        .filter_map(|w| if let Job::Turn { samples, .. } = &w.job { Some(Arc::clone(samples)) } else { None })
        .collect();
    let result = held.call(|turn| {
        let scores = turn.score(&samples)?;
        all_answered("turns", samples.len(), &scores).map(|()| scores)
    });
    match result {
        Err(error @ EngineError::Unavailable(_)) => return Some((batch, error)),
        result => {
            let took = started.elapsed();
            let size = u32::try_from(batch.len()).unwrap_or(u32::MAX).max(1);
            for (work, i) in batch.into_iter().zip(0..) {
                let Job::Turn { reply, .. } = work.job else { continue };
                let times = Times { submitted: work.submitted, started, took, batch: size };
                reply(match &result {
                    Ok(scores) => Ok(answered(times, "turn", scores[i])),
                    Err(e) => Err(e.clone()),
                });
            }
        }
    }
    None
}

pub(super) fn run_asr(held: &mut Held<dyn Asr>, batch: Vec<Work>) -> Option<(Vec<Work>, EngineError)> {
    for_each_alone(batch, |work| {
        let Job::Asr { job, .. } = &work.job else { return None };
        let started = Instant::now();
        let result = held.call(|asr| asr.transcribe(job, &work.cancel));
        if let Err(error @ EngineError::Unavailable(_)) = result {
            return Some((work, error));
        }
        let submitted = work.submitted;
        if let Job::Asr { reply, .. } = work.job {
            let result = result.map(|mut heard| {
                truncate(&mut heard.text, HEARD_MAX);
                heard
            });
            reply(result.map(|t| answered(Times::alone(submitted, started), "asr", t)));
        }
        None
    })
}

/// Bytes of text one recognition may give: thirty seconds of the fastest speech have a tenth of it.
const HEARD_MAX: usize = 8_192;

fn truncate(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        let end = (0..=bytes).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        text.truncate(end);
    }
}

pub(super) fn run_tts(held: &mut Held<dyn Tts>, batch: Vec<Work>) -> Option<(Vec<Work>, EngineError)> {
    for_each_alone(batch, |mut work| {
        let Job::Tts { job, sink, delivered, .. } = &mut work.job else { return None };
        let started = Instant::now();
        let mut made = 0;
        let result = held.call(|tts| {
            let rate = tts.sample_rate();
            tts.speak(job, &work.cancel, &mut |samples| {
                let skip = delivered.saturating_sub(made).min(samples.len());
                made += samples.len();
                if skip < samples.len() {
                    *delivered = made;
                    let new = &samples[skip..];
                    if new.iter().all(|s| s.is_finite()) {
                        sink(new, rate);
                    } else {
                        // What is no number would be a click that no limiter holds.
                        let clean: Vec<f32> =
                            new.iter().map(|s| if s.is_finite() { *s } else { 0.0 }).collect();
                        sink(&clean, rate);
                    }
                }
            })
        });
        if let Err(error @ EngineError::Unavailable(_)) = result {
            return Some((work, error));
        }
        let submitted = work.submitted;
        if let Job::Tts { reply, .. } = work.job {
            reply(result.map(|()| answered(Times::alone(submitted, started), "tts", ())));
        }
        None
    })
}

pub(super) fn run_embed(held: &mut Held<dyn Embedder>, batch: Vec<Work>) -> Option<(Vec<Work>, EngineError)> {
    for_each_alone(batch, |work| {
        let Job::Embed { texts, .. } = &work.job else { return None };
        let started = Instant::now();
        let result = held.call(|embedder| embedder.embed(texts));
        if let Err(error @ EngineError::Unavailable(_)) = result {
            return Some((work, error));
        }
        let submitted = work.submitted;
        if let Job::Embed { reply, .. } = work.job {
            reply(result.map(|v| answered(Times::alone(submitted, started), "embed", v)));
        }
        None
    })
}

/// Runs each piece by itself; collects those whose engine died.
fn for_each_alone(
    batch: Vec<Work>,
    mut run: impl FnMut(Work) -> Option<(Work, EngineError)>,
) -> Option<(Vec<Work>, EngineError)> {
    let mut lost = Vec::new();
    let mut last = None;
    for work in batch {
        if work.cancel.is_cancelled() {
            work.job.fail(EngineError::Cancelled);
            continue;
        }
        if let Some((work, error)) = run(work) {
            lost.push(work);
            last = Some(error);
        }
    }
    last.map(|error| (lost, error))
}
