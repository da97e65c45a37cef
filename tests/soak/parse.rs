//! Damaged events, by the million against the parser and by the ten thousand against a running session.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use viva::edge::protocol::parse;

use super::support::child::Running;
use super::support::churn::seed;
use super::support::{Caller, append, speech};

/// Events against the parser alone: about a minute.
const PARSED: usize = 2_000_000;

/// Events against a session: about half a minute.
const SENT: usize = 30_000;

fn good() -> Vec<String> {
    let session = json!({
        "type": "realtime", "model": "viva", "output_modalities": ["audio"], "instructions": "Be kind.",
        "max_output_tokens": "inf", "tools": [], "tool_choice": "auto",
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": 24000}, "noise_reduction": {"type": "near_field"},
                "transcription": {"language": "en", "prompt": "x", "model": "whisper-1"},
                "turn_detection": {"type": "server_vad", "threshold": 0.5, "silence_duration_ms": 500,
                    "prefix_padding_ms": 300, "create_response": true, "interrupt_response": true}
            },
            "output": {"format": {"type": "audio/pcmu"}, "voice": "fake", "speed": 1.0}
        }
    });
    let item = json!({"id": "item_1", "type": "message", "role": "user",
        "content": [{"type": "input_text", "text": "Hello."}]});
    let events: [Value; 12] = [
        json!({"type": "session.update", "event_id": "e1", "session": session}),
        append(&speech(20)),
        json!({"type": "input_audio_buffer.commit"}),
        json!({"type": "input_audio_buffer.clear", "event_id": "e2"}),
        json!({"type": "output_audio_buffer.clear"}),
        json!({"type": "conversation.item.create", "previous_item_id": "root", "item": item}),
        json!({"type": "conversation.item.retrieve", "item_id": "item_1"}),
        json!({"type": "conversation.item.delete", "item_id": "item_1"}),
        json!({"type": "conversation.item.truncate", "item_id": "item_1", "content_index": 0, "audio_end_ms": 90}),
        json!({"type": "response.create", "response": {"instructions": "Short.", "metadata": {"a": "b"},
            "output_modalities": ["text"], "max_output_tokens": 9}}),
        json!({"type": "response.cancel", "response_id": "resp_1"}),
        json!({"type": "session.update", "session": {"type": "realtime", "audio": {"input": {"turn_detection":
            {"type": "semantic_vad", "eagerness": "high"}}}}}),
    ];
    events.iter().map(Value::to_string).collect()
}

/// What breaks parsers, and what they expect.
const PIECES: [&str; 24] = [
    "null",
    "-1",
    "0",
    "1e999",
    "18446744073709551616",
    "true",
    "\"\"",
    "[]",
    "{}",
    "[[[[[[[[",
    "{\"type\":",
    "\\u0000",
    "\\ud800",
    "\u{FEFF}",
    "\u{202E}",
    "🙂",
    "\"type\"",
    "\"audio\"",
    "\"session\"",
    ",",
    ":",
    "\"",
    "NaN",
    "0.00000000000000000000000001",
];

/// A value somewhere inside becomes another, or goes.
fn bent(value: &mut Value, rng: &mut StdRng) {
    let inside = rng.random_bool(0.8);
    match value {
        Value::Object(fields) if inside && !fields.is_empty() => {
            let name = fields.keys().nth(rng.random_range(0..fields.len())).unwrap().clone();
            match rng.random_bool(0.1) {
                true => drop(fields.remove(&name)),
                false => bent(&mut fields[&name], rng),
            }
        }
        Value::Array(items) if inside && !items.is_empty() => {
            let at = rng.random_range(0..items.len());
            bent(&mut items[at], rng);
        }
        other => {
            let piece = PIECES.choose(rng).unwrap();
            *other = serde_json::from_str(piece).unwrap_or_else(|_| json!(piece));
        }
    }
}

/// One of the good ones, with a mistake or some: half of them are no JSON any more.
fn damaged(good: &[String], rng: &mut StdRng) -> String {
    if rng.random_bool(0.5) {
        let mut event = serde_json::from_str(good.choose(rng).unwrap()).unwrap();
        bent(&mut event, rng);
        return event.to_string();
    }
    broken(good, rng)
}

fn broken(good: &[String], rng: &mut StdRng) -> String {
    let mut bytes = good.choose(rng).unwrap().clone().into_bytes();
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(0..=bytes.len());
        let end = (at + rng.random_range(0..12)).min(bytes.len());
        match rng.random_range(0..6) {
            0 => drop(bytes.drain(at..end)),
            1 => drop(bytes.splice(at..end, PIECES.choose(rng).unwrap().bytes())),
            2 => drop(bytes.splice(at..at, PIECES.choose(rng).unwrap().bytes())),
            3 => bytes.iter_mut().skip(at).take(1).for_each(|b| *b ^= 1 << rng.random_range(0..8)),
            4 => bytes.truncate(at),
            _ => {
                let other = good.choose(rng).unwrap().as_bytes();
                let from = rng.random_range(0..other.len());
                bytes.splice(at..end, other[from..].iter().copied().take(rng.random_range(1..80)));
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn no_event_makes_the_parser_panic() {
    let (good, mut rng) = (good(), StdRng::seed_from_u64(seed()));
    for event in &good {
        let read = parse(event).event;
        assert!(read.is_ok(), "{event}: {read:?}");
    }
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..PARSED {
        let text = if rng.random_bool(0.05) {
            let bytes: Vec<u8> = (0..rng.random_range(0..200)).map(|_| rng.random()).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        } else {
            damaged(&good, &mut rng)
        };
        match parse(&text).event {
            Ok(_) => taken += 1,
            Err(error) => {
                refused += 1;
                assert!(!error.message.is_empty() && error.code.is_some(), "{text:?}: {error:?}");
            }
        }
    }
    println!("{taken} taken, {refused} refused");
    assert!(taken > PARSED / 20 && refused > PARSED / 5, "both kinds were tried: {taken}, {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_event_ends_a_session() {
    let (good, mut rng) = (good(), StdRng::seed_from_u64(seed()));
    let server = Running::start("[log]\nlevel = 'warn'\n").await;
    let (mut sink, mut stream) = Caller::connect(server.address, "?events=extended").await.socket.split();
    let reading = tokio::spawn(async move {
        let (mut answers, mut errors) = (0, 0);
        while let Some(Ok(message)) = stream.next().await {
            let Message::Text(text) = message else { continue };
            let event: Value = serde_json::from_str(&text).unwrap();
            answers += 1;
            errors += usize::from(event["type"] == "error");
            if event["error"]["event_id"] == "the last one" {
                return Some((answers, errors));
            }
        }
        None
    });
    for _ in 0..SENT {
        sink.send(Message::text(damaged(&good, &mut rng))).await.unwrap();
    }
    sink.send(Message::text(json!({"type": "no.such", "event_id": "the last one"}).to_string()))
        .await
        .unwrap();
    let read = timeout(Duration::from_secs(120), reading).await.expect("it answers in time").unwrap();
    let (answers, errors) = read.expect("the session goes on to the last event");
    println!("{SENT} events, {answers} answers, {errors} of them errors");
    assert!(errors > SENT / 5);
    drop(sink);
    server.empty().await;
    // Which also looks for panics in its log.
    server.stop().await;
}
