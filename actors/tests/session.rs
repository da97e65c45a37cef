//! Whole sessions on the test kit's engines: turns, interruptions, limits, leaks. Real time, since the
//! playout is paced; all tests run side by side.
#![allow(clippy::unwrap_used)]

mod room;

use std::sync::Arc;
use std::time::{Duration, Instant};

use room::{Caller, LIMIT, REPLY, Room, audible};
use viva_actors::event::{Outcome, SessionEvent, replay};
use viva_actors::gpu::Cores;
use viva_actors::ports::{SessionMsg, SessionSpec};
use viva_actors::root::OpenError;
use viva_actors::testkit::{Costs, Faults, engines};
use viva_actors::turn::CutReason;

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

#[tokio::test(flavor = "multi_thread")]
async fn the_first_clause_is_spoken_while_the_rest_is_still_being_written() {
    let faults = Arc::new(Faults::default());
    let slow = Costs { step_ms: 50, ..Costs::FREE };
    // A machine of two cores, both of which the language model takes for a step.
    let mut engines = engines(slow, &REPLY.repeat(6), &faults);
    engines.cores = Cores { total: 2, asr: 2, llm: 2, ..Cores::default() };
    let room = Room::with(engines, faults, 4).await;
    let mut caller = room.caller().await;
    caller.speak(900).await;
    caller.wait("our voice", audible).await;
    let clauses = caller.count(|e| matches!(e, SessionEvent::ReplyText { .. }));
    assert!(clauses <= 4, "{clauses} clauses were written before one was spoken");
}
