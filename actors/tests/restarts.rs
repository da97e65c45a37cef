//! The restart table, row by row: what dies, what is lost, what the caller notices.
#![allow(clippy::unwrap_used)]

mod room;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use room::{Caller, LIMIT, REPLY, Room, audible};
use viva_actors::event::{Outcome, SessionEvent};
use viva_actors::ports::{SessionMsg, SessionSpec};
use viva_actors::testkit::{Costs, Faults, engines};
use viva_actors::types::Stage;

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

/// A room whose engines take their time, so that what dies has something under way.
async fn slow_room(costs: Costs, reply: &str) -> Room {
    let faults = Arc::new(Faults::default());
    Room::with(engines(costs, reply, &faults), faults, 4).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_dies_with_nothing_written_writes_again() {
    let room = slow_room(Costs { prefill_ms: 600, ..Costs::FREE }, REPLY).await;
    let mut caller = room.caller().await;
    caller.speak(900).await;
    caller
        .wait("the words", |e| {
            matches!(e, SessionEvent::CallerWords { .. } | SessionEvent::State { .. }).then_some(())
        })
        .await;
    caller.send(false, 400).await;
    caller.ports.control.cast(SessionMsg::Panic(Stage::Llm)).unwrap();
    let (outcome, heard) = caller.ended().await;
    assert_eq!((outcome, heard.as_str()), (Outcome::Completed, REPLY));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_dies_in_mid_text_leaves_a_shorter_reply() {
    let room = slow_room(Costs { step_ms: 120, ..Costs::FREE }, REPLY).await;
    let mut caller = room.caller().await;
    caller.speak(900).await;
    caller.wait("our voice", audible).await;
    caller.ports.control.cast(SessionMsg::Panic(Stage::Llm)).unwrap();
    let (outcome, heard) = caller.ended().await;
    assert_eq!(outcome, Outcome::Shortened);
    assert!(!heard.is_empty() && REPLY.starts_with(&heard) && heard.len() < REPLY.len(), "{heard:?}");
    caller.seen.clear();
    caller.speak(900).await;
    assert_eq!(caller.ended().await, (Outcome::Completed, REPLY.to_owned()), "the next reply is whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recogniser_stage_that_dies_in_mid_recognition_recognises_again() {
    let room = slow_room(Costs { asr_ms: 400, ..Costs::FREE }, REPLY).await;
    let mut caller = room.caller().await;
    caller.speak(1500).await;
    caller.send(false, 300).await;
    caller.ports.control.cast(SessionMsg::Panic(Stage::Asr)).unwrap();
    let text = caller.turn().await;
    assert!(text.contains("word4"), "nothing of the utterance is lost: {text}");
    assert_eq!(caller.ended().await.0, Outcome::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recogniser_stage_that_dies_as_the_caller_begins_hears_them_from_the_start() {
    let room = Room::open(REPLY).await;
    let mut caller = room.caller().await;
    caller.send(false, 300).await;
    // The order to open the turn goes to a stage that is already dying.
    caller.ports.control.cast(SessionMsg::Panic(Stage::Asr)).unwrap();
    caller.speak(2000).await;
    let text = caller.turn().await;
    assert!(text.contains("word1") && text.contains("word5"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detector_of_speech_that_dies_invents_no_pause() {
    let room = Room::open(REPLY).await;
    let mut caller = room.caller().await;
    caller.speak(900).await;
    caller.ports.control.cast(SessionMsg::Panic(Stage::Vad)).unwrap();
    // Silent before the new one has heard a window of speech.
    caller.send(false, 40).await;
    let latency = caller
        .wait("the turn's times", |e| match e {
            SessionEvent::Measured { metrics, .. } => Some(metrics.voice_to_voice_ms),
            _ => None,
        })
        .await;
    assert!(latency.is_some_and(|ms| ms < 5_000), "{latency:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_killed_ends_alone() {
    let room = Room::open(REPLY).await;
    let (mut bad, mut good) = (room.caller().await, room.caller().await);
    bad.speak(400).await;
    bad.ports.control.kill();
    let started = Instant::now();
    while room.viva.sessions() > 1 {
        assert!(started.elapsed() < LIMIT, "its place is free again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(bad.ports.out.is_closed() || bad.closed().await, "its edge is told");
    good.speak(900).await;
    assert_eq!(good.ended().await.0, Outcome::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_that_dies_ends_the_sessions_and_a_new_one_serves_new_callers() {
    let room = Room::open(REPLY).await;
    let mut caller = room.caller().await;
    caller.speak(400).await;
    room.viva.panic_scheduler();
    assert!(caller.closed().await, "the connection closes");
    let started = Instant::now();
    let mut next = loop {
        match room.viva.open(SessionSpec::default()).await {
            Ok(ports) => break Caller { ports, seen: Vec::new(), voice: 0 },
            Err(error) => assert!(started.elapsed() < LIMIT, "no new scheduler: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    next.speak(900).await;
    assert_eq!(next.ended().await.0, Outcome::Completed);
}
