//! A server on the test kit's engines and callers who speak to it in real time.
#![allow(dead_code, reason = "each test file uses its part of it")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use ractor::concurrency::oneshot;
use viva_actors::event::{LogEntry, Outcome, SessionEvent};
use viva_actors::gpu::Engines;
use viva_actors::ports::{Out, SessionMsg, SessionPorts, SessionSpec};
use viva_actors::root::{Limits, Viva};
use viva_actors::testkit::{Costs, Faults, engines, tone};

pub const REPLY: &str = "Thank you for telling me that. What did you learn from it in the end?";

/// Nothing here takes longer; what does is broken.
pub const LIMIT: Duration = Duration::from_secs(20);

pub struct Room {
    pub viva: Viva,
    pub faults: Arc<Faults>,
}

impl Room {
    pub async fn open(reply: &str) -> Self {
        let faults = Arc::new(Faults::default());
        Self::with(engines(Costs::FREE, reply, &faults), faults, 64).await
    }

    pub async fn with(engines: Engines, faults: Arc<Faults>, sessions: usize) -> Self {
        let viva = Viva::start(engines, Limits { sessions, ..Limits::default() }).await.unwrap();
        let started = Instant::now();
        while !viva.readiness().ready {
            assert!(started.elapsed() < LIMIT, "the engines never came up");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Self { viva, faults }
    }

    pub async fn caller(&self) -> Caller {
        Caller { ports: self.viva.open(SessionSpec::default()).await.unwrap(), seen: Vec::new(), voice: 0 }
    }
}

/// A caller who sends audio in real time and notes what comes back.
pub struct Caller {
    pub ports: SessionPorts,
    pub seen: Vec<Arc<LogEntry>>,
    /// Frames of Viva's voice received.
    pub voice: usize,
}

impl Caller {
    /// Sends this for a while, noting what comes.
    pub async fn send(&mut self, loud: bool, ms: u64) {
        let mut clock = tokio::time::interval(Duration::from_millis(20));
        for _ in 0..ms / 20 {
            clock.tick().await;
            let chunk = if loud { tone(200.0, 320, 16_000) } else { vec![0.0; 320] };
            self.ports.mic.push_latest(chunk.into_boxed_slice());
            self.note();
        }
    }

    pub async fn speak(&mut self, ms: u64) {
        self.send(true, ms).await;
    }

    pub fn note(&mut self) {
        while let Ok(out) = self.ports.out.try_recv() {
            match out {
                Out::Event(e) => self.seen.push(e),
                Out::Audio { .. } => self.voice += 1,
                Out::Flush { .. } => {}
            }
        }
    }

    /// Stays silent until something happened; gives the first such event.
    pub async fn wait<T>(&mut self, what: &str, mut f: impl FnMut(&SessionEvent) -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(found) = self.seen.iter().find_map(|e| f(&e.event)) {
                return found;
            }
            assert!(started.elapsed() < LIMIT, "never: {what}; saw {:#?}", self.seen);
            self.send(false, 20).await;
        }
    }

    pub async fn ended(&mut self) -> (Outcome, String) {
        self.wait("a reply's end", |e| match e {
            SessionEvent::ReplyEnded { outcome, heard, .. } => Some((outcome.clone(), heard.clone())),
            _ => None,
        })
        .await
    }

    /// The words of the caller's turn.
    pub async fn turn(&mut self) -> String {
        self.wait("the turn", |e| match e {
            SessionEvent::TurnEnded { text, .. } => Some(text.clone()),
            _ => None,
        })
        .await
    }

    /// Reads until the session's stream has ended; says whether it did.
    pub async fn closed(&mut self) -> bool {
        let until_closed = async { while self.ports.out.recv().await.is_some() {} };
        tokio::time::timeout(LIMIT, until_closed).await.is_ok()
    }

    pub fn count(&self, f: impl Fn(&SessionEvent) -> bool) -> usize {
        self.seen.iter().filter(|e| f(&e.event)).count()
    }

    pub async fn log(&self) -> Vec<LogEntry> {
        let (reply, answer) = oneshot();
        self.ports.control.cast(SessionMsg::Log(reply.into())).unwrap();
        answer.await.unwrap().iter().map(|e| (**e).clone()).collect()
    }
}

pub fn audible(e: &SessionEvent) -> Option<()> {
    matches!(e, SessionEvent::ReplyAudible { .. }).then_some(())
}
