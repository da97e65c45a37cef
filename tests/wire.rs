//! The wire: what public clients rely on, and what must happen when a client is wrong, slow or gone.

#![allow(clippy::unwrap_used)]

#[path = "wire/process.rs"]
mod process;
#[path = "wire/public_clients.rs"]
mod public_clients;
mod support;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use support::{Caller, Server, WITHIN, append, fakes, speech};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::tungstenite::Message;
use viva::client::{Call, CallOptions, Clips, Script};
use viva::config::WebRtcSection;
use viva::edge::protocol::session_object::Offer;
use viva::edge::ws::SILENT_MAX;
use viva_actors::ports::SessionSpec;
use viva_actors::testkit::{Costs, engines};
use viva_models::registry::{OnnxSpec, VadSpec, open_vad};

fn transcribed() -> serde_json::Value {
    json!({"type": "realtime", "audio": {"input": {"transcription": {}}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoken_turn_is_answered_and_measured() {
    let server = Server::start().await;
    let mut caller = Caller::connect(server.address, "?events=extended").await;
    assert_eq!(caller.handshake.headers()["sec-websocket-protocol"], "realtime");
    caller.update(transcribed()).await;
    caller.speak(&speech(1200)).await;
    let done = caller.hush_until("response.done", 0).await;
    assert_eq!(done["response"]["status"], "completed");
    let heard = caller.seen.iter().find(|e| e["type"].as_str().unwrap().ends_with("transcription.completed"));
    assert_eq!(heard.unwrap()["transcript"], "word1 word2 word3");
    let metrics = caller.hush_until("metrics.turn", 0).await;
    assert_eq!(metrics["response_id"], done["response"]["id"]);
    assert!(metrics["voice_to_voice_ms"].is_u64(), "{metrics}");
    let (_, _, page) = server.get("/metrics", "").await;
    assert!(page.contains("viva_turn_voice_to_voice_ms_bucket"), "{page}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cough_over_our_voice_is_not_told_to_plain_clients() {
    let server = Server::start().await;
    let mut caller = Caller::connect(server.address, "").await;
    caller.speak(&speech(1200)).await;
    caller.hush_until("response.output_audio.delta", 0).await;
    let from = caller.seen.len();
    caller.speak(&speech(200)).await;
    let done = caller.hush_until("response.done", from).await;
    assert_eq!(done["response"]["status"], "completed");
    let types = caller.types(from);
    assert!(!types.iter().any(|t| t.starts_with("input_audio_buffer")), "{types:?}");
    assert!(!types.iter().any(|t| t.contains("viva") || t.contains("metrics")), "{types:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mistake_is_answered_by_name_and_the_session_goes_on() {
    let server = Server::start().await;
    let mut caller = Caller::connect(server.address, "").await;
    let format = |f: &str| {
        format!(
            r#"{{"type":"session.update","event_id":"e9","session":{{"type":"realtime","audio":{{"input":{{"format":{f}}}}}}}}}"#
        )
    };
    let cases = [
        (r#"{"type":"make.coffee","event_id":"e9"}"#.to_owned(), "invalid_value", "type"),
        (r#"{"event_id":"e9"}"#.to_owned(), "missing_required_parameter", "type"),
        (
            r#"{"type":"input_audio_buffer.append","event_id":"e9"}"#.to_owned(),
            "missing_required_parameter",
            "audio",
        ),
        (
            r#"{"type":"input_audio_buffer.append","event_id":"e9","audio":"%%%"}"#.to_owned(),
            "invalid_base64",
            "audio",
        ),
        (
            r#"{"type":"input_audio_buffer.append","event_id":"e9","audio":"AAAA"}"#.to_owned(),
            "invalid_audio",
            "audio",
        ),
        (format(r#"{"type":"audio/pcm","rate":44100}"#), "invalid_value", "session.audio.input.format.rate"),
        (format(r#"{"type":"audio/opus"}"#), "invalid_value", "session.audio.input.format.type"),
    ];
    for (text, code, param) in cases {
        let error = caller.refused(&text).await;
        assert_eq!((error["code"].as_str(), error["param"].as_str()), (Some(code), Some(param)), "{text}");
        assert_eq!(error["event_id"], "e9", "{error}");
        assert_eq!(error["type"], "invalid_request_error");
    }
    for text in ["{", "", "\u{0}", "{\"type\": \"response.create\", ", "[[[[[[[["] {
        assert_eq!(caller.refused(text).await["code"], "invalid_json", "{text:?}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(caller.refused(&deep).await["type"], "invalid_request_error");
    futures_util::SinkExt::send(&mut caller.socket, Message::binary(vec![1, 2, 3])).await.unwrap();
    let from = caller.seen.len();
    while !caller.types(from).contains(&"error".to_owned()) {
        caller.next().await.unwrap();
    }
    caller.update(transcribed()).await;
    caller.speak(&speech(900)).await;
    caller.hush_until("response.done", 0).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_beyond_the_limit_is_refused_and_the_session_goes_on() {
    let server = Server::start().await;
    let mut caller = Caller::connect(server.address, "").await;
    let audio = "A".repeat(16 * 1024 * 1024 / 3 * 4);
    let text = format!(r#"{{"type":"input_audio_buffer.append","event_id":"big","audio":"{audio}"}}"#);
    let error = caller.refused(&text).await;
    assert_eq!((error["code"].as_str(), error["event_id"].as_str()), (Some("audio_too_large"), Some("big")));
    caller.update(transcribed()).await;
    server.stop().await;
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_megabytes_end_in_a_clear_error_and_are_never_held() {
    let server = Server::start().await;
    let mut caller = Caller::connect(server.address, "").await;
    let before = resident();
    let MaybeTlsStream::Plain(stream) = caller.socket.get_mut() else { panic!() };
    // A masked text frame of 100 MB, by hand, so that this side does not hold it either.
    let mut header = vec![0x81, 0x80 | 127];
    header.extend_from_slice(&100_000_000u64.to_be_bytes());
    header.extend_from_slice(&[0; 4]);
    stream.write_all(&header).await.unwrap();
    let mut sent = 0;
    let mut most = 0;
    while sent < 100_000_000 {
        let room = timeout(Duration::from_millis(300), stream.write(&[b'A'; 65_536])).await;
        let Ok(Ok(n)) = room else { break };
        sent += n;
        most = most.max(resident().saturating_sub(before));
    }
    assert!(sent < 100_000_000, "all of it was taken");
    assert!(most < 100_000_000, "{most} bytes were held");
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(Ok(n)) = timeout(WITHIN, stream.read(&mut buffer)).await {
        if n == 0 {
            break;
        }
        answer.extend_from_slice(&buffer[..n]);
    }
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("message_too_large") && answer.contains("smaller appends"), "{answer}");
    server.sessions(0).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_and_noise_are_not_speech() {
    let models = viva_models::fetch::models_dir();
    let (model, runtime) = (models.join("vad/silero_vad.onnx"), models.join("ort/libonnxruntime.so"));
    assert!(
        model.is_file() && runtime.is_file(),
        "no weights in {}; run: viva models pull",
        models.display()
    );
    let spec = VadSpec::Silero(OnnxSpec { model, runtime, threads: 1 });
    let mut engines = fakes();
    engines.vad = Arc::new(move || open_vad(&spec));
    let server = Server::with(engines, 8, SessionSpec::default()).await;
    let mut caller = Caller::connect(server.address, "?events=extended").await;
    caller.speak(&[0; 48_000]).await;
    // White noise at a tenth of full scale, from a fixed seed.
    let mut state = 0x2545_F491_4F6C_DD1Du64;
    let noise: Vec<i16> = (0..24_000 * 3)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state as i16) / 10
        })
        .collect();
    caller.speak(&noise).await;
    caller.speak(&[0; 24_000]).await;
    let types = caller.types(0);
    let quiet = types.iter().all(|t| !t.starts_with("input_audio_buffer") && !t.starts_with("response"));
    assert!(quiet, "{types:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clipping_caller_is_heard_and_nothing_overflows() {
    let server = Server::start().await;
    let mut caller = Caller::connect(server.address, "").await;
    let square: Vec<i16> = (0..28_800).map(|i| if i / 50 % 2 == 0 { i16::MAX } else { i16::MIN }).collect();
    caller.speak(&square).await;
    let done = caller.hush_until("response.done", 0).await;
    assert_eq!(done["response"]["status"], "completed");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_never_stops_is_answered_in_the_end() {
    let mut spec = SessionSpec::default();
    spec.turn.turn_ms_max = 2_000;
    let server = Server::with(fakes(), 8, spec).await;
    let mut caller = Caller::connect(server.address, "").await;
    caller.speak(&speech(4_000)).await;
    assert!(caller.types(0).contains(&"input_audio_buffer.committed".to_owned()), "{:?}", caller.types(0));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_vanishes_in_mid_word_leaves_nothing() {
    let server = Server::start().await;
    for _ in 0..5 {
        let mut caller = Caller::connect(server.address, "").await;
        caller.send(append(&speech(300))).await;
        server.sessions(1).await;
        // No close frame: the connection is just gone.
        drop(caller);
        server.sessions(0).await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_lasts_too_long_is_told_and_closed() {
    let offer = Offer { session_s_max: 1, ..support::offer(SessionSpec::default()) };
    let server = Server::with_offer(fakes(), 8, offer, WebRtcSection::default(), None).await;
    let mut caller = Caller::connect(server.address, "").await;
    let error = caller.until("error").await;
    assert_eq!(error["error"]["code"], "session_expired", "{error}");
    let (code, _) = loop {
        if let Err(closed) = caller.next().await {
            break closed;
        }
    };
    assert_eq!(code, 1000);
    server.sessions(0).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_faster_than_it_is_answered_is_read_no_further_and_served_in_order() {
    let server = Server::start().await;
    let mut caller = Caller::connect(server.address, "").await;
    let (updates, before) = (3_000, resident());
    for n in 0..updates {
        caller
            .send(json!({"type": "session.update", "session": {"type": "realtime",
            "instructions": format!("update {n}")}}))
            .await;
        // It reads what it is sent, or it would be a client of another kind.
        while caller.seen.len() + 200 < n {
            caller.next().await.unwrap();
        }
    }
    loop {
        let updated = caller.until("session.updated").await;
        if updated["session"]["instructions"] == format!("update {}", updates - 1) {
            break;
        }
    }
    let updated = caller.seen.iter().filter(|e| e["type"] == "session.updated").count();
    assert_eq!(updated, updates);
    assert!(resident() < before + (100 << 20), "{} to {}", before, resident());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_says_so_before_the_handshake() {
    let server = Server::with(fakes(), 1, SessionSpec::default()).await;
    let caller = Caller::connect(server.address, "").await;
    let upgrade = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let (status, head, body) = server.get("/v1/realtime", upgrade).await;
    assert_eq!(status, 503, "{body}");
    assert!(head.contains("retry-after: "), "{head}");
    assert!(body.contains("server_full") && body.contains("free in about"), "{body}");
    let ready: serde_json::Value = serde_json::from_str(&server.get("/readyz", "").await.2).unwrap();
    assert_eq!((&ready["next"], &ready["engines"][0]["serves"]["spill"]), (&"refuse".into(), &false.into()));
    // Whoever is willing to wait gets the next seat.
    let address = server.address;
    let waiting = tokio::spawn(async move { Caller::connect(address, "?wait=20").await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    drop(caller);
    waiting.await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_around_it_are_served() {
    let server = Server::start().await;
    let (status, head, body) = server.get("/", "").await;
    assert_eq!(status, 200, "{body}");
    assert!(
        head.contains("text/html") && head.contains("content-security-policy: default-src 'self'"),
        "{head}"
    );
    assert_eq!(server.get("/healthz", "").await.0, 200);
    let (status, _, body) = server.get("/readyz", "").await;
    assert!(status == 200 && body.contains("\"asr\""), "{body}");
    let (status, _, body) = server.get("/v1/models", "").await;
    assert!(status == 200 && body.contains("\"viva\""), "{body}");
    let (status, _, body) = server.get("/v1/models/none", "").await;
    assert!(status == 404 && body.contains("model_not_found"), "{body}");
    let (status, _, body) = server.get("/v1/nowhere", "").await;
    assert!(status == 404 && body.contains("\"error\""), "{body}");
    assert_eq!(server.get("/../Cargo.toml", "").await.0, 404);
    assert_eq!(server.get("/v1/realtime", "").await.0, 426);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_pages_are_kept_out() {
    let server = Server::start().await;
    let (status, _, body) = server.get("/v1/realtime", "Origin: https://evil.example\r\n").await;
    assert!(status == 403 && body.contains("origin_not_allowed"), "{body}");
    assert_eq!(server.get("/healthz", "Origin: https://friend.example\r\n").await.0, 200);
    let own = format!("Origin: {}\r\n", server.url());
    assert_eq!(server.get("/healthz", &own).await.0, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_ends_its_sessions_with_a_close_frame() {
    let server = Server::start().await;
    let mut caller = Caller::connect(server.address, "").await;
    let stopping = tokio::spawn(server.stop());
    let (code, reason) = loop {
        match caller.next().await {
            Ok(_) => {}
            Err(closed) => break closed,
        }
    };
    assert!((code, reason.contains("shutting down")) == (1000, true), "{code} {reason}");
    stopping.await.unwrap();
}

/// A client of which nothing comes, not even a pong, and one who only answers pings.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_which_nothing_comes_is_gone_and_one_who_answers_pings_is_not() {
    let server = Server::start().await;
    let mut alive = Caller::connect(server.address, "").await;
    let mut mute = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let hello = format!(
        "GET /v1/realtime HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        server.address
    );
    mute.write_all(hello.as_bytes()).await.unwrap();
    server.sessions(2).await;
    let both = async {
        // Reading is what answers pings.
        let pongs = async { while alive.next_within(2 * SILENT_MAX).await.is_ok() {} };
        let mut rest = Vec::new();
        tokio::select! {
            () = pongs => panic!("the one who answers was let go: {:?}", alive.seen),
            end = timeout(2 * SILENT_MAX, mute.read_to_end(&mut rest)) => drop(end.expect("it is let go")),
        }
    };
    let began = std::time::Instant::now();
    both.await;
    assert!(began.elapsed() >= SILENT_MAX - Duration::from_secs(1), "after {:?}", began.elapsed());
    server.sessions(1).await;
    alive.speak(&speech(900)).await;
    alive.hush_until("response.done", 0).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_caller_is_told_on_its_next_line_what_the_last_one_missed() {
    // The reply is made while nobody is there.
    let slow = engines(Costs { prefill_ms: 600, ..Costs::FREE }, "I see what you mean.", &Arc::default());
    let server = Server::with_lines(slow, 8, SessionSpec::default(), WebRtcSection::default(), None).await;
    let clips = Clips::load([]).unwrap();
    let mut call = Call::connect(&server.url(), clips, CallOptions::default()).await.unwrap();
    let script = r#"{"steps":[{"do":"ask"},{"do":"drop","ms":1500},{"do":"wait"}]}"#;
    call.run(&Script::parse(script, true).unwrap(), false).await.unwrap();
    let report = call.report();
    assert_eq!((report.turns.len(), report.stray_deltas), (1, 0), "{report:?}");
    assert!(report.turns[0].answered && report.turns[0].said == "I see what you mean.", "{report:?}");
    call.hang_up().await;
    server.stop().await;
}
