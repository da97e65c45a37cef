//! The child's side: one thread reads requests (and answers pings, and raises cancel flags), the main
//! thread computes.

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::wire::{
    CHUNK_SAMPLES_MAX, EngineInfo, FrameReader, Outcome, Reply, Request, WIRE_VERSION, write_frame,
};
use crate::contract::{Asr, Cancel, EngineError, Llm, Result, Tts};

/// Jobs that may wait behind the running one. A proxy sends one at a time; the rest is slack for a caller
/// that gave one up.
const JOBS_QUEUED_MAX: usize = 4;

/// How far an engine gives way to other programs. Its threads take every core they are given for a tenth of a second
/// at a time; the server's, which carry the audio, run for microseconds and must do so at once. On an idle machine it
/// costs nothing.
const NICE: i32 = 5;

/// How long a computation may go on after the parent is gone. A step of a large model is the longest thing
/// that cannot be cancelled.
const ORPHAN_MS_MAX: u64 = 5_000;

/// The engine a child hosts.
pub enum HostedEngine {
    /// Recognition.
    Asr(Box<dyn Asr>),
    /// Speech.
    Tts(Box<dyn Tts>),
    /// Language.
    Llm(Box<dyn Llm>),
}

impl HostedEngine {
    fn info(&self) -> EngineInfo {
        match self {
            Self::Asr(asr) => EngineInfo::Asr { name: asr.name().to_owned() },
            Self::Tts(tts) => EngineInfo::Tts {
                name: tts.name().to_owned(),
                sample_rate: tts.sample_rate(),
                styles: tts.styles(),
            },
            Self::Llm(llm) => EngineInfo::Llm(llm.info()),
        }
    }
}

/// `main` of an engine's binary: reads its settings (JSON) from the first argument, opens the engine and
/// serves it until the parent goes.
pub fn serve_from_args<S: DeserializeOwned>(open: impl FnOnce(S) -> Result<HostedEngine>) -> Result<()> {
    let text = std::env::args().nth(1).ok_or_else(|| {
        EngineError::Invalid("this is an engine of Viva; it is started by viva, with its settings".into())
    })?;
    serve(|| {
        let settings = serde_json::from_str(&text)
            .map_err(|e| EngineError::Invalid(format!("the engine's settings do not parse: {e}")))?;
        open(settings)
    })
}

/// Opens the engine and serves it on the socket that is our standard input, until that ends or the parent
/// asks for the end. A failed `open` is told to the parent and returned.
pub fn serve(open: impl FnOnce() -> Result<HostedEngine>) -> Result<()> {
    let socket = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map(UnixStream::from)
        .map_err(|e| EngineError::Failed(format!("standard input cannot be used: {e}")))?;
    let reader = socket.try_clone().map_err(|e| EngineError::Failed(e.to_string()))?;
    give_way();
    let link = Link { writer: Arc::new(Mutex::new(socket)), cancels: Arc::default(), over: Arc::default() };
    let mut engine = match open() {
        Ok(engine) => engine,
        Err(error) => {
            link.send(&Reply::Refused(error.clone())).map_err(gone)?;
            return Err(error);
        }
    };
    link.send(&Reply::Hello { version: WIRE_VERSION, info: engine.info() }).map_err(gone)?;
    let (jobs, waiting) = sync_channel(JOBS_QUEUED_MAX);
    let listening = link.clone();
    std::thread::Builder::new()
        .name("requests".into())
        .spawn(move || listening.listen(reader, &jobs))
        .map_err(|e| EngineError::Failed(format!("no thread for requests: {e}")))?;
    let result = link.work(&mut engine, &waiting);
    link.over.store(true, Ordering::Release);
    result
}

/// Lowers the priority of this thread and of those it starts from now on.
pub fn give_way() {
    // Linux keeps a priority per thread. Where it cannot be lowered all goes on as before.
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::debug!(%error, "an engine runs at the priority of the server");
    }
}

fn gone(error: io::Error) -> EngineError {
    EngineError::Unavailable(format!("the parent is gone: {error}"))
}

/// What both threads of a child share.
#[derive(Clone)]
struct Link {
    writer: Arc<Mutex<UnixStream>>,
    cancels: Arc<Mutex<HashMap<u64, Cancel>>>,
    over: Arc<AtomicBool>,
}

impl Link {
    fn send(&self, reply: &Reply) -> io::Result<()> {
        // A poisoned lock means a thread panicked while writing: the frame may be torn, so the link is dead.
        let mut writer = self.writer.lock().map_err(|_| io::Error::other("the writer panicked"))?;
        write_frame(&mut *writer, reply)
    }

    /// Computes jobs until the listener hangs up.
    fn work(&self, engine: &mut HostedEngine, waiting: &Receiver<(Request, Cancel)>) -> Result<()> {
        while let Ok((request, cancel)) = waiting.recv() {
            let Some(job) = request.job() else { continue };
            let outcome = if cancel.is_cancelled() {
                Err(EngineError::Cancelled)
            } else {
                self.run(engine, request, &cancel)
            };
            self.cancels().remove(&job);
            // A parent that no longer reads is the listener's to notice: it ends our queue.
            if self.send(&Reply::Finished { job, outcome }).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn run(&self, engine: &mut HostedEngine, request: Request, cancel: &Cancel) -> Result<Outcome> {
        match (engine, request) {
            (HostedEngine::Asr(asr), Request::Transcribe { body, .. }) => {
                asr.transcribe(&body, cancel).map(Outcome::Transcription)
            }
            (HostedEngine::Tts(tts), Request::Speak { job, body }) => {
                let mut lost = None;
                tts.speak(&body, cancel, &mut |samples| {
                    for part in samples.chunks(CHUNK_SAMPLES_MAX) {
                        if lost.is_none() {
                            lost = self.send(&Reply::Chunk { job, samples: part.to_vec() }).err();
                        }
                    }
                })?;
                lost.map_or(Ok(Outcome::Nothing), |error| Err(gone(error)))
            }
            (HostedEngine::Llm(llm), Request::Begin { seq, prompt, sampling, .. }) => {
                llm.begin(seq, &prompt, &sampling).map(Outcome::Begun)
            }
            (HostedEngine::Llm(llm), Request::Step { plan, .. }) => llm.step(&plan).map(Outcome::Stepped),
            (HostedEngine::Llm(llm), Request::Stop { seq, .. }) => llm.stop(seq).map(|()| Outcome::Nothing),
            (HostedEngine::Llm(llm), Request::Close { seq, .. }) => llm.close(seq).map(|()| Outcome::Nothing),
            _ => Err(EngineError::Invalid("this engine does another kind of work".into())),
        }
    }

    /// Reads until the parent goes or asks for the end; dropping `jobs` then ends [`work`](Self::work).
    fn listen(&self, mut socket: UnixStream, jobs: &SyncSender<(Request, Cancel)>) {
        let mut frames = FrameReader::default();
        let orphaned = loop {
            match frames.poll::<Request>(&mut socket) {
                Ok(Some(Request::Shutdown)) => break false,
                Ok(Some(Request::Ping(n))) => {
                    if self.send(&Reply::Pong(n)).is_err() {
                        break true;
                    }
                }
                Ok(Some(Request::Cancel { job })) => {
                    if let Some(cancel) = self.cancels().get(&job) {
                        cancel.cancel();
                    }
                }
                Ok(Some(request)) => {
                    if !self.queue(request, jobs) {
                        break true;
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    if error.kind() != io::ErrorKind::UnexpectedEof {
                        eprintln!("the parent's requests cannot be read: {error}");
                    }
                    break true;
                }
            }
        };
        for cancel in self.cancels().values() {
            cancel.cancel();
        }
        if orphaned {
            // Whoever writes learns at once that nobody reads.
            let _ = socket.shutdown(Shutdown::Both);
            self.end_if_stuck();
        }
    }

    /// Puts a job in the queue, or answers that it is full. False when the link is broken.
    fn queue(&self, request: Request, jobs: &SyncSender<(Request, Cancel)>) -> bool {
        let Some(job) = request.job() else { return true };
        let cancel = Cancel::new();
        self.cancels().insert(job, cancel.clone());
        match jobs.try_send((request, cancel)) {
            Ok(()) => true,
            Err(TrySendError::Disconnected(_)) => false,
            Err(TrySendError::Full(_)) => {
                self.cancels().remove(&job);
                let error = EngineError::Failed(format!("more than {JOBS_QUEUED_MAX} jobs are waiting"));
                self.send(&Reply::Finished { job, outcome: Err(error) }).is_ok()
            }
        }
    }

    /// A computation that neither ends nor heeds its cancel flag must not outlive its parent: an orphan
    /// would hold cores and memory that nobody accounts for.
    fn end_if_stuck(&self) {
        let (_never, wait) = sync_channel::<()>(0);
        let _ = wait.recv_timeout(Duration::from_millis(ORPHAN_MS_MAX));
        if !self.over.load(Ordering::Acquire) {
            eprintln!("still computing {ORPHAN_MS_MAX} ms after the parent went: giving up");
            std::process::abort();
        }
    }

    fn cancels(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Cancel>> {
        self.cancels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::AsrJob;
    use crate::host::wire::FrameReader;

    #[test]
    fn so_many_jobs_wait_and_the_next_is_told_at_once() {
        let (ours, mut parents) = UnixStream::pair().unwrap();
        let link = Link { writer: Arc::new(Mutex::new(ours)), cancels: Arc::default(), over: Arc::default() };
        let (jobs, _waiting) = sync_channel(JOBS_QUEUED_MAX);
        for job in 0..=JOBS_QUEUED_MAX as u64 {
            assert!(link.queue(Request::Transcribe { job, body: AsrJob::default() }, &jobs));
        }
        let told: Option<Reply> = FrameReader::default().poll(&mut parents).unwrap();
        let Some(Reply::Finished { job, outcome: Err(EngineError::Failed(why)) }) = told else {
            panic!("{told:?}")
        };
        assert_eq!(job, JOBS_QUEUED_MAX as u64);
        assert!(why.contains("4 jobs"), "{why}");
        assert_eq!(link.cancels().len(), JOBS_QUEUED_MAX, "what was refused leaves nothing");
    }
}
