//! Every bound of a session, with its exact count.
#![allow(clippy::unwrap_used)]

mod room;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ractor::concurrency::oneshot;
use room::*;
use viva_actors::asr::WINDOW_MAX;
use viva_actors::event::SessionEvent;
use viva_actors::gpu::SUBMISSIONS;
use viva_actors::gpu::work::{Answer, Job, Stake};
use viva_actors::ports::{Line, OUT_QUEUE, Out, SessionMsg};
use viva_actors::session::LOG_MAX;
use viva_actors::session::graph::RESTARTS_MAX;
use viva_actors::testkit::{Costs, Faults, engines, tone};
use viva_actors::types::Stage;

/// Has the session log a line.
fn a_line(caller: &Caller) {
    caller.ports.control.cast(SessionMsg::Line(Line::Back { lead_ms: 20 })).unwrap();
}

async fn settled(caller: &Caller) {
    let (reply, answer) = oneshot();
    caller.ports.control.cast(SessionMsg::Settled(reply.into())).unwrap();
    tokio::time::timeout(LIMIT, answer).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_keeps_so_many_lines_and_the_session_goes_on() {
    let room = Room::open(REPLY).await;
    let mut caller = room.caller().await;
    for _ in 0..(LOG_MAX + 300) / 100 {
        (0..100).for_each(|_| a_line(&caller));
        settled(&caller).await;
        caller.note();
    }
    assert_eq!(caller.log().await.len(), LOG_MAX);
    caller.seen.clear();
    caller.speak(900).await;
    assert_eq!(caller.ended().await.1, REPLY, "it talks on");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_nothing_is_kept_so_many_things_for_and_then_nothing() {
    let room = Room::open(REPLY).await;
    let mut caller = room.caller().await;
    (0..OUT_QUEUE + 10).for_each(|_| {
        caller.ports.control.cast(SessionMsg::Line(Line::Back { lead_ms: 20 })).ok();
    });
    let began = std::time::Instant::now();
    while room.viva.sessions() > 0 {
        assert!(began.elapsed() < LIMIT, "it never ends");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut kept = 0;
    loop {
        let next = tokio::time::timeout(LIMIT, caller.ports.out.recv()).await;
        let Some(out) = next.unwrap_or_else(|_| panic!("{kept} things came, and no end")) else { break };
        kept += usize::from(matches!(out, Out::Event(_)));
    }
    assert_eq!(kept, OUT_QUEUE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_may_die_so_often_and_not_once_more() {
    let room = Room::open(REPLY).await;
    let mut caller = room.caller().await;
    let restarted = |caller: &Caller| caller.count(|e| matches!(e, SessionEvent::StageRestarted { .. }));
    for times in 1..=RESTARTS_MAX as usize {
        caller.ports.control.cast(SessionMsg::Panic(Stage::Rag)).unwrap();
        while restarted(&caller) < times {
            caller.send(false, 20).await;
        }
    }
    caller.speak(900).await;
    assert_eq!(caller.ended().await.1, REPLY, "so often it is mended");
    caller.ports.control.cast(SessionMsg::Panic(Stage::Rag)).unwrap();
    assert!(caller.closed().await, "and then it has a cause that stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_voice_is_never_more_than_eight_seconds_and_a_clause_ahead() {
    let reply = "This is one more sentence that takes its time to be spoken aloud. ".repeat(20);
    let faults = Arc::new(Faults::default());
    let room = Room::with(engines(Costs::FREE, reply.trim(), &faults), Arc::clone(&faults), 4).await;
    let mut caller = room.caller().await;
    caller.speak(900).await;
    caller.wait("our voice", audible).await;
    let heard_ms = 1_000;
    caller.send(false, heard_ms).await;
    // The fake speaks 60 ms a letter: about four seconds a sentence.
    let spoken_ms = u64::from(faults.tts_letters.load(Ordering::Acquire)) * 60;
    let most = viva_actors::tts::AHEAD_MS + 4_100 + heard_ms + 500;
    assert!((6_000..most).contains(&spoken_ms), "{spoken_ms} ms spoken, {heard_ms} heard");
    tokio::time::sleep(Duration::from_millis(300)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recogniser_is_never_given_more_than_its_longest_window() {
    // The first recognition takes so long that half a minute more is said meanwhile.
    let slow = Costs { asr_ms: 6_000, ..Costs::FREE };
    let faults = Arc::new(Faults::default());
    let room = Room::with(engines(slow, REPLY, &faults), Arc::clone(&faults), 4).await;
    let mut caller = room.caller().await;
    // Eight times as fast as a person speaks, which no stage notices: media time is counted in samples.
    let mut clock = tokio::time::interval(Duration::from_millis(20));
    for _ in 0..42_000 / 160 {
        clock.tick().await;
        for _ in 0..8 {
            caller.ports.mic.push_latest(tone(200.0, 320, 16_000).into_boxed_slice());
        }
        caller.note();
    }
    caller.turn().await;
    assert_eq!(faults.asr_longest.load(Ordering::Acquire) as usize, WINDOW_MAX / 16);
}

/// On one thread, so that the scheduler reads nothing in between.
#[tokio::test]
async fn a_session_may_leave_so_much_work_unread_and_the_rest_fails_at_once() {
    let room = Room::open(REPLY).await;
    let submitter = room.viva.submitter().await.unwrap();
    let mut answers = Vec::new();
    for _ in 0..=SUBMISSIONS {
        let (reply, answer) = tokio::sync::oneshot::channel();
        let reply = Box::new(|score: Result<_, _>| drop(reply.send(score.map(|s: Answer<f32>| s.value))));
        let job = Job::Turn { samples: vec![0.0; 16_000].into(), reply };
        submitter.submit(job, std::time::Instant::now() + LIMIT, Stake::Wanted);
        answers.push(answer);
    }
    let last = answers.pop().unwrap();
    let refused = last.await.unwrap().unwrap_err();
    assert!(refused.to_string().contains("does not keep up"), "{refused}");
    for answer in answers {
        tokio::time::timeout(LIMIT, answer).await.unwrap().unwrap().unwrap();
    }
}
