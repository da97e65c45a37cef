//! One parent's line to one child: a job at a time, with cancel, heartbeat and every wait limited.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::process::{Launch, Process};
use super::wire::{EngineInfo, FrameReader, Outcome, Reply, Request, WIRE_VERSION, write_frame};
use crate::contract::{Cancel, EngineError, Result};

/// How long an engine may take to load its weights: 5 GB from a cold spinning disk at 60 MB/s, with room.
const START_MS_MAX: u64 = 120_000;

/// How often a wait looks at its cancel flag. A flag has no doorbell; 10 ms is below anything a caller hears.
const POLL_MS: u64 = 10;

/// Silence after which the child is asked whether it lives.
const PING_AFTER_MS: u64 = 500;

/// Silence after which it is taken for dead. Its answering thread needs microseconds, but on an overloaded
/// machine it may have to wait its turn for seconds.
const SILENCE_MS_MAX: u64 = 5_000;

/// The longest any job may compute: 30 s of speech through the largest model on one slow core take less.
const JOB_MS_MAX: u64 = 120_000;

/// How long a cancelled job may go on. Engines look at their flag between layers or clauses, at worst after
/// one inference of 20 s of speech (3 s on one core).
const CANCEL_MS_MAX: u64 = 10_000;

/// How long the child's socket may refuse our bytes before it counts as dead: its reader does nothing else.
const WRITE_MS_MAX: u64 = 5_000;

/// How long a child may take to end when it is asked to.
const SHUTDOWN_MS_MAX: u64 = 200;

/// How long the system may take to tell us of a death whose socket has already ended.
const EXIT_MS_MAX: u64 = 300;

/// A child, ready for work.
#[derive(Debug)]
pub(super) struct Connection {
    process: Process,
    socket: UnixStream,
    frames: FrameReader,
    jobs: u64,
    /// Set once the child is gone; every later call answers with it.
    dead: Option<EngineError>,
}

impl Connection {
    /// Starts a child and waits until its engine is open.
    pub(super) fn open(launch: &Launch) -> Result<(Self, EngineInfo)> {
        let (process, socket) = Process::spawn(launch)?;
        let mut line = Self { process, socket, frames: FrameReader::default(), jobs: 0, dead: None };
        let set = |r: io::Result<()>| r.map_err(|e| EngineError::Unavailable(e.to_string()));
        set(line.socket.set_read_timeout(Some(Duration::from_millis(POLL_MS))))?;
        set(line.socket.set_write_timeout(Some(Duration::from_millis(WRITE_MS_MAX))))?;
        let started = Instant::now();
        loop {
            match line.frames.poll::<Reply>(&mut line.socket) {
                Ok(Some(Reply::Hello { version: WIRE_VERSION, info })) => {
                    tracing::debug!(engine = launch.name, pid = line.pid(), "engine process is ready");
                    return Ok((line, info));
                }
                Ok(Some(Reply::Hello { version, .. })) => {
                    return Err(line.stale(launch, Some(version)));
                }
                Ok(Some(Reply::Refused(error))) => return Err(error),
                Ok(Some(other)) => {
                    return Err(line.lost(&format!("it spoke before it was ready: {other:?}")));
                }
                Ok(None) if started.elapsed() > Duration::from_millis(START_MS_MAX) => {
                    return Err(line.lost(&format!("it was not ready after {START_MS_MAX} ms")));
                }
                Ok(None) => {}
                Err(e) if e.kind() == io::ErrorKind::InvalidData => return Err(line.stale(launch, None)),
                Err(_) => return Err(line.lost("it ended while it started")),
            }
        }
    }

    fn stale(&mut self, launch: &Launch, version: Option<u32>) -> EngineError {
        let theirs = version.map_or("something else".to_owned(), |v| format!("version {v}"));
        self.lost(&format!(
            "{} speaks {theirs} where this program speaks version {WIRE_VERSION}; build both from the same \
             source: cargo build --release -p viva-engine-{}",
            launch.program.display(),
            launch.name
        ))
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Sends one job and waits for its end, passing its speech to `sink`.
    pub(super) fn call(
        &mut self,
        make: impl FnOnce(u64) -> Request,
        cancel: Option<&Cancel>,
        sink: &mut dyn FnMut(&[f32]),
    ) -> Result<Outcome> {
        if let Some(error) = &self.dead {
            return Err(error.clone());
        }
        if cancel.is_some_and(Cancel::is_cancelled) {
            return Err(EngineError::Cancelled);
        }
        self.jobs += 1;
        let job = self.jobs;
        match write_frame(&mut self.socket, &make(job)) {
            Ok(()) => self.wait(job, cancel, sink),
            // Too large for a frame: nothing was written, so the line is as good as before.
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Err(EngineError::Invalid(e.to_string())),
            Err(e) => Err(self.lost(&format!("it takes no more requests ({e})"))),
        }
    }

    fn wait(&mut self, job: u64, cancel: Option<&Cancel>, sink: &mut dyn FnMut(&[f32])) -> Result<Outcome> {
        let mut watch = Watch::new();
        loop {
            let asked = Instant::now();
            match self.frames.poll::<Reply>(&mut self.socket) {
                Ok(Some(Reply::Finished { job: done, outcome })) if done == job => return outcome,
                Ok(Some(Reply::Chunk { job: of, samples })) if of == job => {
                    watch.heard();
                    if watch.cancelled_ms.is_none() {
                        sink(&samples);
                    }
                }
                Ok(Some(Reply::Pong(_))) => watch.heard(),
                // What is left of a job that somebody stopped waiting for.
                Ok(Some(Reply::Finished { job: of, .. } | Reply::Chunk { job: of, .. })) if of < job => {}
                Ok(Some(other)) => return Err(self.lost(&format!("it answered out of turn: {other:?}"))),
                Ok(None) => {}
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(self.lost("its socket ended"));
                }
                Err(e) => return Err(self.lost(&format!("its answer cannot be read ({e})"))),
            }
            let waited = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
            match watch.tick(waited, cancel) {
                Tick::Wait => {}
                Tick::Ping => self.tell(&Request::Ping(job))?,
                Tick::Cancel => self.tell(&Request::Cancel { job })?,
                Tick::GiveUp(why) => return Err(self.lost(&why)),
            }
        }
    }

    fn tell(&mut self, request: &Request) -> Result<()> {
        write_frame(&mut self.socket, request).map_err(|e| self.lost(&format!("it takes no requests ({e})")))
    }

    /// Ends the child and remembers why.
    fn lost(&mut self, why: &str) -> EngineError {
        self.process.wait(Duration::from_millis(EXIT_MS_MAX));
        let error = EngineError::Unavailable(format!("{why}: {}", self.process.epitaph()));
        self.dead = Some(error.clone());
        error
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.dead.is_none() && write_frame(&mut self.socket, &Request::Shutdown).is_ok() {
            self.process.wait(Duration::from_millis(SHUTDOWN_MS_MAX));
        }
    }
}

/// Keeps the limits of one wait. Time is what was spent waiting for the child, not what the sink took.
struct Watch {
    total_ms: u64,
    silent_ms: u64,
    pinged: bool,
    cancelled_ms: Option<u64>,
}

#[derive(Debug, PartialEq, Eq)]
enum Tick {
    Wait,
    Ping,
    Cancel,
    GiveUp(String),
}

impl Watch {
    fn new() -> Self {
        Self { total_ms: 0, silent_ms: 0, pinged: false, cancelled_ms: None }
    }

    fn heard(&mut self) {
        self.silent_ms = 0;
        self.pinged = false;
    }

    fn tick(&mut self, waited_ms: u64, cancel: Option<&Cancel>) -> Tick {
        self.total_ms += waited_ms;
        self.silent_ms += waited_ms;
        if let Some(since) = &mut self.cancelled_ms {
            *since += waited_ms;
            if *since > CANCEL_MS_MAX {
                return Tick::GiveUp(format!("it went on {CANCEL_MS_MAX} ms after a cancel"));
            }
        } else if cancel.is_some_and(Cancel::is_cancelled) {
            self.cancelled_ms = Some(0);
            return Tick::Cancel;
        }
        if self.total_ms > JOB_MS_MAX {
            return Tick::GiveUp(format!("one job took more than {JOB_MS_MAX} ms"));
        }
        if self.silent_ms > SILENCE_MS_MAX {
            return Tick::GiveUp(format!("it gave no sign of life for {SILENCE_MS_MAX} ms"));
        }
        if self.silent_ms > PING_AFTER_MS && !self.pinged {
            self.pinged = true;
            return Tick::Ping;
        }
        Tick::Wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_child_is_asked_once_and_then_given_up() {
        let mut watch = Watch::new();
        let mut pings = 0;
        for _ in 0..SILENCE_MS_MAX / POLL_MS {
            match watch.tick(POLL_MS, None) {
                Tick::Ping => pings += 1,
                other => assert_eq!(other, Tick::Wait),
            }
        }
        assert_eq!(pings, 1);
        assert!(matches!(watch.tick(POLL_MS, None), Tick::GiveUp(_)));
    }

    #[test]
    fn a_child_that_answers_may_compute_up_to_the_job_limit() {
        let mut watch = Watch::new();
        for _ in 0..JOB_MS_MAX / POLL_MS {
            if watch.tick(POLL_MS, None) == Tick::Ping {
                watch.heard();
            }
        }
        assert!(matches!(watch.tick(POLL_MS, None), Tick::GiveUp(why) if why.contains("one job")));
    }

    #[test]
    fn a_cancel_is_sent_once_and_has_its_own_limit() {
        let (mut watch, cancel) = (Watch::new(), Cancel::new());
        assert_eq!(watch.tick(POLL_MS, Some(&cancel)), Tick::Wait);
        cancel.cancel();
        assert_eq!(watch.tick(POLL_MS, Some(&cancel)), Tick::Cancel);
        let mut waited = 0;
        while waited <= CANCEL_MS_MAX {
            if let Tick::GiveUp(why) = watch.tick(POLL_MS, Some(&cancel)) {
                panic!("given up after {waited} ms: {why}");
            }
            watch.heard();
            waited += POLL_MS;
            if waited == CANCEL_MS_MAX {
                break;
            }
        }
        assert!(matches!(watch.tick(POLL_MS, Some(&cancel)), Tick::GiveUp(_)));
    }
}
