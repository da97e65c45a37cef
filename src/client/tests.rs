//! The caller against a small realtime server of the test's own, over real sockets in real time.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{MissedTickBehavior, interval};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::clip::{AUDIBLE, FRAME};
use super::*;

/// How the test's server behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Manner {
    /// Answers 15 frames after the caller's last sound, with 50 frames.
    Normal,
    /// Begins to answer 25 frames into the caller's speech, and again after its end.
    Hasty,
    /// Sends nothing for 20 frames in mid-reply.
    Stutter,
    /// Never answers.
    Mute,
    /// Hangs up when the caller is done.
    Vanish,
    /// Stops at the caller's voice and cancels the reply.
    Polite,
    /// Stops at the caller's voice and goes on 10 frames after it.
    Patient,
    /// Does not like the session's voice.
    Picky,
    /// Waits for `response.create`.
    Manual,
}

/// A server for any number of calls; returns its address.
pub(crate) async fn server(manner: Manner) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.set_nodelay(true).unwrap();
                let socket = tokio_tungstenite::accept_async(stream).await.unwrap();
                let mut serving =
                    Serving { socket, manner, voiced: 0, quiet: 0, reply: None, replies: 0, asked: false };
                serving.serve().await;
            });
        }
    });
    address
}

struct Serving {
    socket: WebSocketStream<TcpStream>,
    manner: Manner,
    /// Frames of voice since the last turn.
    voiced: u32,
    /// Frames of silence since the last voice.
    quiet: u32,
    /// Frames of the reply sent.
    reply: Option<u32>,
    replies: u32,
    asked: bool,
}

impl Serving {
    async fn serve(&mut self) {
        self.say(json!({"type": "session.created", "session": {}})).await;
        let mut ticks = interval(Duration::from_millis(20));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        loop {
            tokio::select! {
                message = self.socket.next() => match message {
                    Some(Ok(Message::Text(text))) => {
                        if self.take(&serde_json::from_str(&text).unwrap()).await { return }
                    }
                    Some(Ok(_)) => {}
                    _ => return,
                },
                _ = ticks.tick() => self.tick().await,
            }
        }
    }

    /// Takes an event; true to vanish.
    async fn take(&mut self, event: &Value) -> bool {
        match event["type"].as_str().unwrap() {
            "session.update" if self.manner == Manner::Picky => {
                let error =
                    json!({"type": "invalid_request_error", "message": "no such voice", "param": "voice"});
                self.say(json!({"type": "error", "error": error})).await;
            }
            "session.update" => {
                self.say(json!({"type": "session.updated", "session": event["session"]})).await
            }
            "response.create" => self.asked = true,
            "input_audio_buffer.append" => {
                let pcm = BASE64.decode(event["audio"].as_str().unwrap()).unwrap();
                let loud =
                    pcm.chunks_exact(2).any(|s| i16::from_le_bytes([s[0], s[1]]).unsigned_abs() > AUDIBLE);
                if loud {
                    (self.voiced, self.quiet) = (self.voiced + 1, 0)
                } else {
                    self.quiet += 1
                }
                return self.judge(loud).await;
            }
            _ => {}
        }
        false
    }

    async fn judge(&mut self, loud: bool) -> bool {
        if self.reply.is_some() {
            if loud && self.manner == Manner::Polite {
                self.finish("cancelled").await;
            }
            return false;
        }
        let hasty = self.manner == Manner::Hasty && self.replies == 0 && self.voiced == 25;
        let done = match self.manner {
            Manner::Manual => self.asked,
            _ => self.voiced > 0 && self.quiet == 15,
        };
        if !(hasty || done) || self.manner == Manner::Mute {
            return false;
        }
        if self.manner == Manner::Vanish {
            return true;
        }
        (self.voiced, self.asked) = (0, false);
        self.replies += 1;
        self.reply = Some(0);
        self.say(json!({"type": "input_audio_buffer.committed", "item_id": "u"})).await;
        let heard =
            json!({"type": "conversation.item.input_audio_transcription.completed", "transcript": "hello"});
        self.say(heard).await;
        self.say(json!({"type": "response.created", "response": {"id": self.id(), "status": "in_progress"}}))
            .await;
        let turn = json!({"type": "metrics.turn", "response_id": self.id(), "endpoint_ms": 300.0});
        self.say(turn).await;
        let words = json!({"type": "response.output_audio_transcript.delta", "response_id": self.id(), "delta": "hi"});
        self.say(words).await;
        false
    }

    async fn tick(&mut self) {
        let Some(sent) = self.reply else { return };
        let silent = (self.manner == Manner::Stutter && (25..45).contains(&sent))
            || (self.manner == Manner::Patient && self.quiet < 10 && self.voiced > 0);
        if !silent {
            let audio = BASE64.encode([0, 8].repeat(FRAME));
            self.say(
                json!({"type": "response.output_audio.delta", "response_id": self.id(), "delta": audio}),
            )
            .await;
        }
        let held = silent && self.manner == Manner::Patient;
        self.reply = Some(sent + u32::from(!held));
        let length = if self.manner == Manner::Hasty && self.replies == 1 { 10 } else { 75 };
        if sent + 1 >= length {
            self.finish("completed").await;
        }
    }

    async fn finish(&mut self, status: &str) {
        self.say(json!({"type": "response.done", "response": {"id": self.id(), "status": status}})).await;
        self.reply = None;
        self.voiced = if self.manner == Manner::Patient { 0 } else { self.voiced };
    }

    fn id(&self) -> String {
        format!("resp_{}", self.replies)
    }

    async fn say(&mut self, event: Value) {
        // A caller who has hung up is found out by the read side.
        let _ = self.socket.send(Message::text(event.to_string())).await;
    }
}

/// A second of tone, and another sound to interrupt with.
pub(crate) fn clips() -> Clips {
    let tone = |name: &str, seconds: f64| {
        let samples =
            (0..(seconds * f64::from(RATE)) as u32).map(|i| ((f64::from(i) * 0.1).sin() * 9000.0) as i16);
        std::sync::Arc::new(Clip::new(name, samples.collect()))
    };
    let mut clips = Clips::default();
    clips.insert("hello", tone("hello", 1.0));
    clips.insert("no", tone("no", 0.6));
    clips
}

async fn call(
    manner: Manner,
    options: CallOptions,
    script: &str,
) -> (CallReport, Result<(), ClientError>, Call) {
    let mut call = Call::connect(&server(manner).await, clips(), options).await.unwrap();
    let script = Script::parse(script, true).unwrap();
    let done = call.run(&script, false).await;
    (call.report(), done, call)
}

const ONE_TURN: &str = r#"{"steps":[{"do":"play","file":"hello"},{"do":"wait","timeout_ms":2500}]}"#;

fn recorded() -> CallOptions {
    CallOptions { keep_audio: true, ..CallOptions::default() }
}

#[tokio::test]
async fn an_answer_is_heard_measured_and_recorded() {
    let (report, done, call) = call(Manner::Normal, recorded(), ONE_TURN).await;
    done.unwrap();
    let turn = &report.turns[0];
    let waited = turn.voice_to_voice_ms.unwrap();
    assert!((250.0..900.0).contains(&waited), "15 frames of silence are 300 ms, measured {waited}");
    assert_eq!((turn.heard.as_str(), turn.said.as_str()), ("hello", "hi"));
    assert_eq!(turn.server.as_ref().unwrap().endpoint_ms, Some(300.0));
    assert!(turn.answered && turn.cut_off.is_none() && turn.status == "completed", "{turn:?}");
    assert_eq!((report.frames, report.errors), (75, 0));
    let (own, reply) = call.tracks();
    assert_eq!(own.len(), reply.len());
    let sound = |track: &[i16]| track.iter().filter(|s| s.unsigned_abs() > AUDIBLE).count();
    assert_eq!(sound(&reply), 75 * FRAME);
    // The reply begins so long after the caller's end as was measured, plus the player's buffer.
    let end = own.iter().rposition(|s| s.unsigned_abs() > AUDIBLE).unwrap();
    let start = reply.iter().position(|s| s.unsigned_abs() > AUDIBLE).unwrap();
    let between = (start - end) as f64 * 1000.0 / f64::from(RATE);
    assert!((between - waited - 40.0).abs() < 25.0, "{between} on the recording, {waited} measured");
}

#[tokio::test]
async fn a_server_that_speaks_too_early_cuts_off() {
    let (report, done, _) = call(Manner::Hasty, CallOptions::default(), ONE_TURN).await;
    done.unwrap();
    let cut_off = report.turns[0].cut_off.clone().unwrap();
    assert!(cut_off.spoke && (300.0..=600.0).contains(&cut_off.early_ms), "{cut_off:?}");
    assert!(report.turns[0].voice_to_voice_ms.is_some(), "the second reply is the answer");
}

#[tokio::test]
async fn a_stutter_is_a_glitch() {
    let (report, done, _) = call(Manner::Stutter, CallOptions::default(), ONE_TURN).await;
    done.unwrap();
    let longest = report.glitches.iter().map(|gap| gap.ms).fold(0.0, f64::max);
    assert!((300.0..700.0).contains(&longest), "{:?}", report.glitches);
    assert!(report.late_frames >= 1 && report.missing_frames >= 15, "{report:?}");
}

#[tokio::test]
async fn an_answer_that_never_comes_is_told_with_what_was_said() {
    let (report, done, _) = call(Manner::Mute, CallOptions::default(), ONE_TURN).await;
    let error = done.unwrap_err().to_string();
    assert!(error.contains("the answer (after hello) did not come"), "{error}");
    assert!(report.turns[0].dead_air && !report.turns[0].answered);
}

#[tokio::test]
async fn a_server_that_vanishes_ends_the_call_at_once() {
    let begin = std::time::Instant::now();
    let (_, done, _) = call(Manner::Vanish, CallOptions::default(), ONE_TURN).await;
    assert!(matches!(done, Err(ClientError::Gone(_))), "{done:?}");
    assert!(begin.elapsed() < Duration::from_secs(6));
}

#[tokio::test]
async fn an_interruption_is_measured_to_silence() {
    let script = r#"{"steps":[{"do":"play","file":"hello"},{"do":"barge_in","file":"no","after_ms":400},
        {"do":"wait"}]}"#;
    let (report, done, _) = call(Manner::Polite, CallOptions::default(), script).await;
    done.unwrap();
    assert_eq!(report.turns.len(), 2);
    let second = &report.turns[1];
    assert!(second.barge_in && !second.barge_in_ignored && second.answered, "{second:?}");
    assert!(second.barge_in_silent_ms.unwrap() < 250.0, "{second:?}");
}

#[tokio::test]
async fn a_reply_that_waits_for_a_cough_and_goes_on_is_no_false_barge_in() {
    let script = r#"{"steps":[{"do":"play","file":"hello"},{"do":"cough","after_ms":300},{"do":"wait"}]}"#;
    let (report, done, _) = call(Manner::Patient, CallOptions::default(), script).await;
    done.unwrap();
    assert_eq!((report.coughs, report.false_barge_ins, report.glitches.len()), (1, 0, 0), "{report:?}");
    assert_eq!(report.holds.len(), 1);
    assert_eq!(report.frames, 75);
}

#[tokio::test]
async fn a_talker_who_goes_on_ignores_an_interruption() {
    let script = r#"{"steps":[{"do":"play","file":"hello"},{"do":"barge_in","file":"no","after_ms":800},
        {"do":"pause","ms":300},{"do":"wait","timeout_ms":500}]}"#;
    let (report, _, _) = call(Manner::Normal, CallOptions::default(), script).await;
    assert!(report.turns[1].barge_in_ignored, "{:?}", report.turns[1]);
}

#[tokio::test]
async fn without_turn_detection_the_caller_asks_for_the_answer() {
    let options = CallOptions { manual_turns: true, ..CallOptions::default() };
    let (report, done, _) = call(Manner::Manual, options, ONE_TURN).await;
    done.unwrap();
    assert!(report.turns[0].answered);
}

#[tokio::test]
async fn a_wish_that_is_not_granted_is_told() {
    let address = server(Manner::Picky).await;
    let error = Call::connect(&address, clips(), CallOptions::default()).await.err().unwrap();
    assert!(
        matches!(&error, ClientError::Rejected(why) if why.contains("no such voice (param: voice)")),
        "{error}"
    );
}

#[tokio::test]
async fn a_full_server_says_when_to_come_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 2048];
        let _ = stream.read(&mut request).await.unwrap();
        let body = r#"{"error":{"message":"all seats are taken","type":"server_error"}}"#;
        let head = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Type: application/json\r\n";
        let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    let error = Call::connect(&address, clips(), CallOptions::default()).await.err().unwrap().to_string();
    assert_eq!(error, "the server refused the call with HTTP 503: all seats are taken; try again in 7 s");
}

#[tokio::test]
async fn nobody_there_is_told_with_the_address() {
    let error =
        Call::connect("127.0.0.1:9", clips(), CallOptions::default()).await.err().unwrap().to_string();
    assert!(error.starts_with("cannot reach ws://127.0.0.1:9/v1/realtime"), "{error}");
}

#[tokio::test]
async fn frames_leave_in_real_time_without_drift() {
    let (report, done, _) = call(Manner::Normal, CallOptions::default(), ONE_TURN).await;
    done.unwrap();
    let due = (report.seconds * 50.0) as u64;
    assert!(
        report.sent.frames.abs_diff(due) <= 2,
        "{} frames sent in {} s",
        report.sent.frames,
        report.seconds
    );
}

#[tokio::test]
async fn words_in_a_script_are_said_with_the_sound_given_to_them() {
    let mut clips = clips();
    let hello = std::sync::Arc::clone(clips.file(std::path::Path::new("hello")).unwrap());
    clips.insert_line("Hello there.", hello);
    let mut call = Call::connect(&server(Manner::Normal).await, clips, CallOptions::default()).await.unwrap();
    let script = r#"{"steps":[{"do":"say","text":"Hello there."},{"do":"wait"}]}"#;
    call.run(&Script::parse(script, true).unwrap(), false).await.unwrap();
    assert!(call.report().turns[0].answered);
    let unknown = r#"{"steps":[{"do":"say","text":"Nobody spoke this."},{"do":"wait"}]}"#;
    let error = call.run(&Script::parse(unknown, true).unwrap(), false).await.unwrap_err().to_string();
    assert!(error.contains("Nobody spoke this."), "{error}");
}

#[tokio::test]
async fn a_line_lost_where_the_server_gave_no_way_back_ends_the_call() {
    let script = r#"{"steps":[{"do":"play","file":"hello"},{"do":"drop","ms":200},{"do":"wait"}]}"#;
    let (report, done, _) = call(Manner::Normal, CallOptions::default(), script).await;
    let error = done.unwrap_err().to_string();
    assert!(error.contains("gave no token"), "{error}");
    assert_eq!(report.turns.len(), 1);
}
