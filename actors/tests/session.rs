//! Whole sessions on the test kit's engines: turns, interruptions, faults, leaks. Real time, since the
//! playout is paced; all tests run side by side.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ractor::concurrency::oneshot;
use viva_actors::event::{LogEntry, Outcome, SessionEvent, replay};
use viva_actors::gpu::Engines;
use viva_actors::ports::{Out, SessionMsg, SessionPorts, SessionSpec};
use viva_actors::root::{Limits, OpenError, Viva};
use viva_actors::testkit::{Costs, Faults, engines, tone};
use viva_actors::turn::CutReason;
use viva_actors::types::Stage;

const REPLY: &str = "Thank you for telling me that. What did you learn from it in the end?";

/// Nothing here takes longer; what does is broken.
const LIMIT: Duration = Duration::from_secs(20);

struct Room {
    viva: Viva,
    faults: Arc<Faults>,
}

impl Room {
    async fn open(reply: &str) -> Self {
        let faults = Arc::new(Faults::default());
        Self::with(engines(Costs::FREE, reply, &faults), faults, 64).await
    }

    async fn with(engines: Engines, faults: Arc<Faults>, sessions: usize) -> Self {
        let viva = Viva::start(engines, Limits { sessions }).await.unwrap();
        let started = Instant::now();
        while !viva.readiness().ready {
            assert!(started.elapsed() < LIMIT, "the engines never came up");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Self { viva, faults }
    }

    async fn caller(&self) -> Caller {
        Caller { ports: self.viva.open(SessionSpec::default()).await.unwrap(), seen: Vec::new(), voice: 0 }
    }
}

/// A caller who sends audio in real time and notes what comes back.
struct Caller {
    ports: SessionPorts,
    seen: Vec<Arc<LogEntry>>,
    /// Frames of Viva's voice received.
    voice: usize,
}

impl Caller {
    /// Sends this for a while, noting what comes.
    async fn send(&mut self, loud: bool, ms: u64) {
        let mut clock = tokio::time::interval(Duration::from_millis(20));
        for _ in 0..ms / 20 {
            clock.tick().await;
            let chunk = if loud { tone(200.0, 320, 16_000) } else { vec![0.0; 320] };
            self.ports.mic.push_latest(chunk.into_boxed_slice());
            self.note();
        }
    }

    async fn speak(&mut self, ms: u64) {
        self.send(true, ms).await;
    }

    fn note(&mut self) {
        while let Ok(out) = self.ports.out.try_recv() {
            match out {
                Out::Event(e) => self.seen.push(e),
                Out::Audio { .. } => self.voice += 1,
                Out::Flush { .. } => {}
            }
        }
    }

    /// Stays silent until something happened; gives the first such event.
    async fn wait<T>(&mut self, what: &str, mut f: impl FnMut(&SessionEvent) -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(found) = self.seen.iter().find_map(|e| f(&e.event)) {
                return found;
            }
            assert!(started.elapsed() < LIMIT, "never: {what}; saw {:#?}", self.seen);
            self.send(false, 20).await;
        }
    }

    async fn ended(&mut self) -> (Outcome, String) {
        self.wait("a reply's end", |e| match e {
            SessionEvent::ReplyEnded { outcome, heard, .. } => Some((outcome.clone(), heard.clone())),
            _ => None,
        })
        .await
    }

    fn count(&self, f: impl Fn(&SessionEvent) -> bool) -> usize {
        self.seen.iter().filter(|e| f(&e.event)).count()
    }

    async fn log(&self) -> Vec<LogEntry> {
        let (reply, answer) = oneshot();
        self.ports.control.cast(SessionMsg::Log(reply.into())).unwrap();
        answer.await.unwrap().iter().map(|e| (**e).clone()).collect()
    }
}

fn audible(e: &SessionEvent) -> Option<()> {
    matches!(e, SessionEvent::ReplyAudible { .. }).then_some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_is_heard_answered_and_remembered() {
    let room = Room::open(REPLY).await;
    let mut caller = room.caller().await;
    caller.speak(1500).await;
    let (outcome, heard) = caller.ended().await;
    assert_eq!(outcome, Outcome::Completed);
    assert_eq!(heard, REPLY, "what was played to its end was heard");
    let text = caller
        .wait("the turn's text", |e| match e {
            SessionEvent::TurnEnded { text, .. } => Some(text.clone()),
            _ => None,
        })
        .await;
    assert!(text.starts_with("word1"), "{text}");
    let expected = REPLY.len() * 60 / 20;
    assert!(caller.voice.abs_diff(expected) <= 4, "{} frames for {expected}", caller.voice);
    let log = caller.log().await;
    assert_eq!(replay(&log), None, "the same log gives the same decisions");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cough_holds_our_voice_and_lets_it_go_on() {
    let room = Room::open(REPLY).await;
    let mut caller = room.caller().await;
    caller.speak(1500).await;
    caller.wait("our voice", audible).await;
    caller.send(false, 400).await;
    caller.speak(160).await;
    let (outcome, heard) = caller.ended().await;
    assert_eq!((outcome, heard.as_str()), (Outcome::Completed, REPLY));
    assert_eq!(caller.count(|e| matches!(e, SessionEvent::Held { .. })), 1);
    assert_eq!(caller.count(|e| matches!(e, SessionEvent::Resumed { .. })), 1);
    let expected = REPLY.len() * 60 / 20;
    assert!(caller.voice.abs_diff(expected) <= 4, "nothing was lost or said twice: {}", caller.voice);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interruption_cuts_and_only_what_was_heard_remains() {
    let room = Room::open(REPLY).await;
    let mut caller = room.caller().await;
    caller.speak(1500).await;
    caller.wait("our voice", audible).await;
    caller.send(false, 600).await;
    caller.speak(1500).await;
    let (outcome, heard) = caller.ended().await;
    assert_eq!(outcome, Outcome::Cut(CutReason::BargeIn));
    assert!(REPLY.starts_with(&heard) && heard.len() < REPLY.len() / 2, "{heard:?}");
    let turns = |c: &Caller| c.count(|e| matches!(e, SessionEvent::TurnEnded { .. }));
    let started = Instant::now();
    while turns(&caller) < 2 {
        assert!(started.elapsed() < LIMIT, "the interruption is a turn of its own");
        caller.send(false, 20).await;
    }
    assert_eq!(replay(&caller.log().await), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn our_voice_stops_soon_after_the_caller_starts() {
    let room = Room::open(&REPLY.repeat(3)).await;
    let mut caller = room.caller().await;
    caller.speak(1500).await;
    caller.wait("our voice", audible).await;
    caller.send(false, 400).await;
    let before = caller.voice;
    caller.speak(600).await;
    // 64 ms of speech make a start, a tick is 20 ms: the rest is room for a busy machine.
    assert!(caller.voice - before <= 12, "{} frames after the caller began", caller.voice - before);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_stage_may_die_and_the_caller_is_answered() {
    for stage in Stage::ALL {
        let room = Room::open(REPLY).await;
        let mut caller = room.caller().await;
        caller.speak(700).await;
        caller.ports.control.cast(SessionMsg::Panic(stage)).unwrap();
        caller.speak(700).await;
        let (outcome, heard) = caller.ended().await;
        assert_eq!((outcome, heard.as_str()), (Outcome::Completed, REPLY), "{stage:?}");
        assert_eq!(
            caller.count(|e| matches!(e, SessionEvent::StageRestarted { stage: s, .. } if *s == stage)),
            1
        );
        let text = caller
            .wait("the turn", |e| match e {
                SessionEvent::TurnEnded { text, .. } => Some(text.clone()),
                _ => None,
            })
            .await;
        assert!(text.contains("word4"), "{stage:?}: nothing of the utterance is lost: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_stage_may_die_while_we_speak() {
    for stage in Stage::ALL {
        let room = Room::open(REPLY).await;
        let mut caller = room.caller().await;
        caller.speak(900).await;
        caller.wait("our voice", audible).await;
        caller.send(false, 200).await;
        caller.ports.control.cast(SessionMsg::Panic(stage)).unwrap();
        let (outcome, heard) = caller.ended().await;
        assert_eq!((outcome, heard.as_str()), (Outcome::Completed, REPLY), "{stage:?}");
        let expected = REPLY.len() * 60 / 20;
        assert!(caller.voice.abs_diff(expected) <= 5, "{stage:?}: {} frames for {expected}", caller.voice);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voice_stage_that_dies_in_mid_clause_says_nothing_twice() {
    let faults = Arc::new(Faults::default());
    let slow = Costs { tts_ms: 400, ..Costs::FREE };
    let room = Room::with(engines(slow, REPLY, &faults), faults, 4).await;
    let mut caller = room.caller().await;
    caller.speak(900).await;
    caller.wait("the first clause", |e| matches!(e, SessionEvent::ReplyText { .. }).then_some(())).await;
    caller.send(false, 100).await;
    caller.ports.control.cast(SessionMsg::Panic(Stage::Tts)).unwrap();
    let (outcome, heard) = caller.ended().await;
    assert_eq!((outcome, heard.as_str()), (Outcome::Completed, REPLY));
    let expected = REPLY.len() * 60 / 20;
    assert!(caller.voice.abs_diff(expected) <= 5, "{} frames for {expected}", caller.voice);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_that_keeps_dying_ends_its_session_only() {
    let room = Room::open(REPLY).await;
    let (mut bad, mut good) = (room.caller().await, room.caller().await);
    let started = Instant::now();
    while bad.count(|e| matches!(e, SessionEvent::Ended { .. })) == 0 {
        assert!(started.elapsed() < LIMIT);
        bad.ports.control.cast(SessionMsg::Panic(Stage::Tts)).ok();
        bad.send(false, 40).await;
    }
    good.speak(900).await;
    assert_eq!(good.ended().await.0, Outcome::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_once_costs_nothing_but_time() {
    let room = Room::open(REPLY).await;
    let mut caller = room.caller().await;
    room.faults.asr_deaths.store(1, Ordering::Release);
    room.faults.tts_deaths.store(1, Ordering::Release);
    room.faults.llm_deaths.store(1, Ordering::Release);
    caller.speak(1500).await;
    let (outcome, heard) = caller.ended().await;
    assert_eq!((outcome, heard.as_str()), (Outcome::Completed, REPLY));
    let restarts: u64 = room.viva.readiness().engines.iter().map(|e| e.restarts).sum();
    assert_eq!(restarts, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_kills_its_engine_fails_alone() {
    let room = Room::open(REPLY).await;
    let mut spec = SessionSpec::default();
    spec.voice.instructions = "POISON".into();
    let mut bad = Caller { ports: room.viva.open(spec).await.unwrap(), seen: Vec::new(), voice: 0 };
    let mut good = room.caller().await;
    let (a, b) = tokio::join!(
        async {
            bad.speak(900).await;
            bad.ended().await
        },
        async {
            good.speak(900).await;
            good.ended().await
        }
    );
    assert!(matches!(&a.0, Outcome::Failed(m) if m.contains("twice")), "{a:?}");
    assert_eq!(b, (Outcome::Completed, REPLY.to_owned()), "nobody else notices");
    bad.seen.clear();
    bad.speak(900).await;
    assert!(matches!(bad.ended().await.0, Outcome::Failed(_)), "the session goes on and says so");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recogniser_that_fails_for_good_is_an_event_not_an_end() {
    let room = Room::open(REPLY).await;
    let mut caller = room.caller().await;
    room.faults.asr_deaths.store(2, Ordering::Release);
    caller.speak(1200).await;
    caller.wait("the failure", |e| matches!(e, SessionEvent::HearingFailed { .. }).then_some(())).await;
    caller.speak(1200).await;
    assert_eq!(caller.ended().await.0, Outcome::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_says_when_to_come_back_and_a_draining_one_takes_nobody() {
    let faults = Arc::new(Faults::default());
    let room = Room::with(engines(Costs::FREE, REPLY, &faults), faults, 2).await;
    let (a, _b) = (room.caller().await, room.caller().await);
    let full = room.viva.open(SessionSpec::default()).await.err();
    assert!(matches!(full, Some(OpenError::Full { retry_after_s }) if retry_after_s > 0));
    a.ports.control.cast(SessionMsg::Hangup("done".into())).unwrap();
    let started = Instant::now();
    while room.viva.sessions() > 1 {
        assert!(started.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let _c = room.caller().await;
    room.viva.drain(Duration::from_millis(100)).await;
    assert_eq!(room.viva.sessions(), 0, "a drain ends what does not end by itself");
    assert!(room.viva.open(SessionSpec::default()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_vanishes_is_gone() {
    let room = Room::open(REPLY).await;
    let mut caller = room.caller().await;
    caller.speak(400).await;
    drop(caller);
    let started = Instant::now();
    while room.viva.sessions() > 0 {
        assert!(started.elapsed() < LIMIT, "his graph, slots and memory with him");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_answered_with_silence() {
    let room = Room::open(REPLY).await;
    let mut caller = room.caller().await;
    caller.send(false, 3000).await;
    assert_eq!(caller.count(|e| matches!(e, SessionEvent::SpeechStarted { .. })), 0);
    assert_eq!(caller.voice, 0);
}
