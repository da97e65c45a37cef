#![allow(clippy::unwrap_used)]

use viva_actors::turn::{CutReason, EndReason, TurnConfig};
use viva_actors::types::{MediaTime, SessionId, Stage};

use super::*;
use crate::edge::protocol::items::ItemBody;

const EPOCH: Epoch = Epoch { turn: 1, rev: 1 };

fn content(item: &ItemObject) -> &[Part] {
    let ItemBody::Message { content, .. } = &item.body else { panic!("no message: {item:?}") };
    content
}

fn view() -> View {
    View {
        tools: false,
        spoken: true,
        transcription: true,
        format: Format::PCM,
        voice: "joe".into(),
        max_output_tokens: "inf".into(),
    }
}

fn mapper(extended: bool) -> Mapper {
    Mapper::new("conv_1".into(), extended, view())
}

fn opened() -> SessionEvent {
    SessionEvent::Opened { id: SessionId("s".into()), turn: TurnConfig::default() }
}

fn started(ms: u64) -> SessionEvent {
    SessionEvent::SpeechStarted { at: MediaTime::from_ms(ms), item: "u1".into() }
}

fn stopped(ms: u64) -> SessionEvent {
    SessionEvent::SpeechStopped { at: MediaTime::from_ms(ms), item: "u1".into() }
}

fn words(delta: &str) -> SessionEvent {
    SessionEvent::CallerWords { item: "u1".into(), delta: delta.into() }
}

fn ended(text: &str) -> SessionEvent {
    SessionEvent::TurnEnded {
        epoch: EPOCH,
        item: "u1".into(),
        previous: None,
        text: text.into(),
        why: EndReason::Scored,
        audio_ms: 1500,
    }
}

fn reply() -> SessionEvent {
    SessionEvent::ReplyStarted {
        epoch: EPOCH,
        response: "resp_1".into(),
        item: "a1".into(),
        previous: Some("u1".into()),
    }
}

fn text(delta: &str) -> SessionEvent {
    SessionEvent::ReplyText { epoch: EPOCH, delta: delta.into() }
}

fn over(outcome: Outcome, heard: &str) -> SessionEvent {
    SessionEvent::ReplyEnded {
        epoch: EPOCH,
        outcome,
        heard: heard.into(),
        written: "Hello there. How are you?".into(),
        heard_ms: 800,
        usage: Usage { input: 10, cached: 4, output: 5 },
    }
}

fn run(mapper: &mut Mapper, script: Vec<SessionEvent>) -> Vec<ServerEvent> {
    let mut out = Vec::new();
    for (seq, event) in script.into_iter().enumerate() {
        let entry = LogEntry { seq: seq as u64, media: MediaTime(0), mono_ms: 0, event };
        out.extend(mapper.event(&entry));
    }
    out
}

fn names(events: &[ServerEvent]) -> Vec<String> {
    events
        .iter()
        .map(|e| {
            e.name()
                .replace("conversation.item.input_audio_transcription", "transcription")
                .replace("conversation.item", "item")
                .replace("input_audio_buffer", "input")
                .replace("output_audio_transcript", "transcript")
        })
        .collect()
}

const USER: [&str; 7] = [
    "input.speech_started",
    "input.speech_stopped",
    "input.committed",
    "item.added",
    "transcription.delta",
    "transcription.completed",
    "item.done",
];
const REPLY_OPEN: [&str; 5] = [
    "response.created",
    "response.output_item.added",
    "item.added",
    "response.content_part.added",
    "response.transcript.delta",
];
const REPLY_CLOSE: [&str; 7] = [
    "response.output_audio.done",
    "response.transcript.done",
    "response.content_part.done",
    "item.done",
    "response.output_item.done",
    "response.done",
    "rate_limits.updated",
];

#[test]
fn a_turn_and_its_reply_come_in_the_order_clients_expect() {
    let mut m = mapper(false);
    let mut events = run(
        &mut m,
        vec![opened(), started(100), stopped(1600), ended("hello"), reply(), text("Hello there.")],
    );
    let (before, ids) = m.audio(EPOCH).unwrap();
    assert_eq!(before, [], "the part is open already");
    assert_eq!((ids.response_id.as_str(), ids.item_id.as_str()), ("resp_1", "a1"));
    assert!(m.audio(Epoch { turn: 1, rev: 2 }).is_none(), "a frame of another draft");
    assert_eq!(m.active(), Some("resp_1"));
    events.extend(run(&mut m, vec![over(Outcome::Completed, "Hello there.")]));
    assert_eq!(names(&events), [&USER[..], &REPLY_OPEN, &REPLY_CLOSE].concat());
    assert_eq!(m.active(), None);
    assert!(m.audio(EPOCH).is_none(), "a late frame");
}

#[test]
fn audio_that_comes_before_its_text_opens_the_part() {
    let mut m = mapper(false);
    run(&mut m, vec![opened(), reply()]);
    assert_eq!(names(&m.audio(EPOCH).unwrap().0), ["response.content_part.added"]);
    assert_eq!(names(&run(&mut m, vec![text("x")])), ["response.transcript.delta"]);
}

#[test]
fn an_interruption_is_told_when_it_is_decided_with_the_words_that_were_heard() {
    let mut m = mapper(false);
    let held = vec![opened(), reply(), text("Hello there. How are you?"), started(3000)];
    run(&mut m, held);
    let quiet = run(&mut m, vec![SessionEvent::Held { epoch: EPOCH }, stopped(3500)]);
    assert_eq!(quiet, []);
    let cut = run(&mut m, vec![over(Outcome::Cut(CutReason::BargeIn), "Hello there.")]);
    let expected = [&["input.speech_started", "input.speech_stopped"][..], &REPLY_CLOSE].concat();
    assert_eq!(names(&cut), expected);
    let ServerEvent::ResponseDone { response } = &cut[cut.len() - 2] else { panic!() };
    assert_eq!(response.status, "cancelled");
    assert_eq!(response.status_details.as_ref().unwrap().reason, Some("turn_detected"));
    assert_eq!(response.output[0].status, "incomplete");
    assert_eq!(content(&response.output[0]), [Part::OutputAudio { transcript: "Hello there.".into() }]);
}

#[test]
fn a_cough_over_our_voice_leaves_no_trace() {
    let mut m = mapper(false);
    run(&mut m, vec![opened(), reply(), text("Hello")]);
    let cough = vec![
        started(3000),
        SessionEvent::Held { epoch: EPOCH },
        stopped(3300),
        SessionEvent::Dismissed { item: "u1".into() },
        SessionEvent::Resumed { epoch: EPOCH },
    ];
    assert_eq!(run(&mut m, cough), []);
    assert_eq!(names(&run(&mut m, vec![over(Outcome::Completed, "Hello")])), REPLY_CLOSE);
}

#[test]
fn speech_over_a_voice_that_cannot_be_interrupted_is_told_at_once() {
    let mut m = mapper(false);
    let turn = TurnConfig { interrupt_response: false, ..TurnConfig::default() };
    run(&mut m, vec![opened(), SessionEvent::Configured { turn }, reply()]);
    assert_eq!(names(&run(&mut m, vec![started(10)])), ["input.speech_started"]);
}

#[test]
fn captions_wait_for_the_commit_unless_the_client_asked_for_more() {
    let script = || vec![opened(), started(0), words("I have"), words(" worked")];
    let mut plain = mapper(false);
    assert_eq!(names(&run(&mut plain, script())), ["input.speech_started"]);
    let done = run(&mut plain, vec![stopped(900), ended("I have worked hard")]);
    let deltas: Vec<&str> = done
        .iter()
        .filter_map(|e| match e {
            ServerEvent::TranscriptionDelta { delta, .. } => Some(delta.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(deltas, ["I have", " worked", " hard"]);
    let mut ours = mapper(true);
    let live = run(&mut ours, script());
    assert_eq!(names(&live), ["input.speech_started", "transcription.delta", "transcription.delta"]);
    let done = run(&mut ours, vec![stopped(900), ended("I have worked")]);
    assert!(!names(&done).contains(&"transcription.delta".to_owned()), "everything was told");
}

#[test]
fn transcripts_are_only_told_to_who_wants_them() {
    let mut m = mapper(false);
    m.set_view(View { transcription: false, ..view() });
    let events = run(&mut m, vec![started(0), words("hello"), stopped(900), ended("hello")]);
    let expected =
        ["input.speech_started", "input.speech_stopped", "input.committed", "item.added", "item.done"];
    assert_eq!(names(&events), expected);
}

#[test]
fn a_reply_cut_before_its_first_word_has_no_content() {
    let mut m = mapper(false);
    run(&mut m, vec![opened(), reply()]);
    let events = run(&mut m, vec![over(Outcome::Cut(CutReason::Client), "")]);
    assert_eq!(
        names(&events),
        ["item.done", "response.output_item.done", "response.done", "rate_limits.updated"]
    );
    let ServerEvent::ResponseDone { response } = &events[2] else { panic!() };
    assert_eq!(response.status_details.as_ref().unwrap().reason, Some("client_cancelled"));
    assert_eq!(content(&response.output[0]), []);
}

#[test]
fn a_written_reply_has_text_events() {
    let mut m = mapper(false);
    m.expect(Own { spoken: Some(false), ..Own::default() });
    let events = run(&mut m, vec![opened(), reply(), text("Hi"), over(Outcome::Incomplete, "Hi")]);
    let text_events: Vec<String> = names(&events).into_iter().filter(|n| n.contains("text")).collect();
    assert_eq!(text_events, ["response.output_text.delta", "response.output_text.done"]);
    let ServerEvent::ResponseDone { response } = &events[events.len() - 2] else { panic!() };
    assert_eq!((response.status, response.output_modalities), ("incomplete", ["text"]));
}

#[test]
fn our_own_events_reach_only_those_who_asked() {
    let script = || {
        vec![
            SessionEvent::State { state: "hearing".into() },
            SessionEvent::StageRestarted { stage: Stage::Asr, reason: "panic".into() },
            SessionEvent::Measured {
                metrics: TurnMetrics { turn: 1, ..TurnMetrics::default() },
                heard: "a".into(),
                said: "b".into(),
            },
        ]
    };
    assert_eq!(run(&mut mapper(false), script()), []);
    let mut ours = mapper(true);
    run(&mut ours, vec![opened(), reply()]);
    let events = run(&mut ours, script());
    assert_eq!(names(&events), ["viva.state", "viva.stage_restarted", "metrics.turn"]);
    let ServerEvent::TurnMetrics(body) = &events[2] else { panic!() };
    assert_eq!(body.response_id.as_deref(), Some("resp_1"));
    assert_eq!(names(&ours.flush(EPOCH, 40)), ["playback.clear"]);
    run(&mut ours, vec![over(Outcome::Cut(CutReason::BargeIn), "")]);
    assert_eq!(names(&ours.flush(EPOCH, 40)), ["playback.clear"], "after its end too");
    assert_eq!(mapper(false).flush(EPOCH, 40), []);
}

#[test]
fn trouble_is_an_error_in_the_protocols_shape() {
    let trouble =
        SessionEvent::Trouble { code: "asr_unavailable".into(), message: "It is back soon.".into() };
    let events = run(&mut mapper(false), vec![trouble]);
    let json = serde_json::to_value(&events[0]).unwrap();
    assert_eq!(json["type"], "error");
    assert_eq!(json["error"]["type"], "server_error");
    assert_eq!(json["error"]["code"], "asr_unavailable");
}

#[test]
fn where_our_voice_travels_apart_the_events_say_when_it_begins_and_ends() {
    let mut m = mapper(true);
    m.set_audio_apart(true);
    run(&mut m, vec![opened(), reply()]);
    let (before, _) = m.audio(EPOCH).unwrap();
    assert_eq!(names(&before), ["response.content_part.added", "output_audio_buffer.started"]);
    assert_eq!(names(&m.audio(EPOCH).unwrap().0), [] as [&str; 0]);
    let done = names(&run(&mut m, vec![over(Outcome::Completed, "Hi")]));
    assert_eq!(
        done[done.len() - 3..],
        ["response.done", "output_audio_buffer.stopped", "rate_limits.updated"]
    );
}

#[test]
fn a_voice_that_is_cut_says_where_and_does_not_stop_again() {
    for (extended, end) in [(true, Some(340)), (false, None)] {
        let mut m = mapper(extended);
        m.set_audio_apart(true);
        run(&mut m, vec![opened(), reply()]);
        m.audio(EPOCH).unwrap();
        let cleared = ServerEvent::AudioBufferCleared { response_id: "resp_1".into(), audio_end_ms: end };
        assert_eq!(m.flush(EPOCH, 340), [cleared]);
        let done = names(&run(&mut m, vec![over(Outcome::Cut(CutReason::BargeIn), "")]));
        assert!(!done.iter().any(|name| name.starts_with("output_audio_buffer")), "{done:?}");
    }
}

#[test]
fn a_call_is_told_as_one_and_nothing_of_it_as_words() {
    let mut m = mapper(false);
    m.set_view(View { tools: true, ..view() });
    // What kind of item it is shows only when it begins.
    assert_eq!(names(&run(&mut m, vec![opened(), reply()])), ["response.created"]);
    let call = r#"{"name": "weather", "arguments": {"city": "Oslo"}}"#.to_owned();
    let told =
        run(&mut m, vec![SessionEvent::ReplyCalls { epoch: EPOCH, call }, over(Outcome::Completed, "")]);
    assert_eq!(
        names(&told),
        [
            "response.output_item.added",
            "item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "item.done",
            "response.output_item.done",
            "response.done",
            "rate_limits.updated"
        ]
    );
}
