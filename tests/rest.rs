//! The HTTP endpoints over real sockets: what stock clients rely on, and what must happen when a request is wrong,
//! large, late or given up.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use support::{Server, WITHIN, fakes, matrix, outsider, python, speech};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;
use viva_actors::gpu::Engines;
use viva_actors::ports::SessionSpec;
use viva_actors::testkit::{Costs, engines};
use viva_models::audio::decode;
use viva_models::registry::Opened;
use viva_models::{Embedder, Result as EngineResult};

/// Vectors of three dimensions that tell texts apart by their length.
struct Lengths;

impl Embedder for Lengths {
    fn name(&self) -> &str {
        "lengths"
    }

    fn dimensions(&self) -> usize {
        3
    }

    fn embed(&mut self, texts: &[String]) -> EngineResult<Vec<Vec<f32>>> {
        let vector = |text: &String| {
            let (a, b) = (text.len() as f32, 2.0);
            let length = (a * a + b * b + 1.0).sqrt();
            vec![a / length, b / length, 1.0 / length]
        };
        Ok(texts.iter().map(vector).collect())
    }
}

fn with_embedder(engines: Engines) -> Engines {
    let embed = Arc::new(|| Ok(Opened { engine: Box::new(Lengths) as Box<dyn Embedder>, pid: None }));
    Engines { embed: Some(embed), ..engines }
}

async fn server() -> Server {
    Server::with(with_embedder(fakes()), 8, SessionSpec::default()).await
}

struct Answer {
    status: u16,
    kind: String,
    retry_after: Option<String>,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// The data of every server-sent event.
    fn events(&self) -> Vec<String> {
        assert!(self.kind.starts_with("text/event-stream"), "{}", self.kind);
        let text = self.text();
        text.split("\n\n")
            .filter(|e| !e.is_empty())
            .map(|e| e.strip_prefix("data: ").unwrap().into())
            .collect()
    }
}

async fn post(server: &Server, path: &str, kind: &str, body: Vec<u8>) -> Answer {
    let (url, kind) = (format!("{}{path}", server.url()), kind.to_owned());
    let work = move || {
        let request = ureq::post(&url).config().http_status_as_error(false).build();
        let mut response = request.header("content-type", &kind).send(&body[..]).unwrap();
        let header = |name| response.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
        let (status, kind, retry_after) =
            (response.status().as_u16(), header("content-type").unwrap_or_default(), header("retry-after"));
        let mut body = Vec::new();
        response.body_mut().as_reader().read_to_end(&mut body).unwrap();
        Answer { status, kind, retry_after, body }
    };
    timeout(WITHIN, tokio::task::spawn_blocking(work)).await.unwrap().unwrap()
}

async fn post_json(server: &Server, path: &str, body: Value) -> Answer {
    post(server, path, "application/json", body.to_string().into_bytes()).await
}

/// 24 kHz samples as the bytes of a WAV file.
fn wav(samples: &[i16]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    support::write_wav(file.path(), samples);
    std::fs::read(file.path()).unwrap()
}

const BOUNDARY: &str = "edge-of-the-form";

fn form(file: Option<&[u8]>, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in fields {
        let part =
            format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
        body.extend_from_slice(part.as_bytes());
    }
    if let Some(file) = file {
        let head =
            "Content-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav";
        body.extend_from_slice(format!("--{BOUNDARY}\r\n{head}\r\n\r\n").as_bytes());
        body.extend_from_slice(file);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    body
}

async fn transcribe(server: &Server, file: &[u8], fields: &[(&str, &str)]) -> Answer {
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    post(server, "/v1/audio/transcriptions", &kind, form(Some(file), fields)).await
}

/// Two stretches of speech of 3.2 s, ten words each, and a silence of a minute between them.
fn two_remarks() -> Vec<u8> {
    wav(&[speech(3_200), vec![0; 24_000 * 60], speech(3_200)].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_is_written_down_in_every_format() {
    let server = server().await;
    let file = two_remarks();
    let words = "word1 word2 word3 word4 word5 word6 word7 word8 word9 word10";
    let said = format!("{words} {words}");
    let plain = transcribe(&server, &file, &[]).await;
    assert_eq!(plain.status, 200);
    assert_eq!(plain.json(), json!({"text": said, "usage": {"type": "duration", "seconds": 66.4}}));
    assert_eq!(transcribe(&server, &file, &[("response_format", "text")]).await.text(), format!("{said}\n"));
    let srt = transcribe(&server, &file, &[("response_format", "srt")]).await.text();
    assert!(srt.starts_with("1\n00:00:00,300 --> 00:00:0") && srt.contains("00:01:0"), "{srt}");
    let vtt = transcribe(&server, &file, &[("response_format", "vtt")]).await;
    assert!(vtt.text().starts_with("WEBVTT\n\n00:00:00.300 --> "), "{}", vtt.text());
    let fields = [("response_format", "verbose_json"), ("timestamp_granularities[]", "word")];
    let verbose = transcribe(&server, &file, &fields).await.json();
    assert_eq!((verbose["text"].as_str(), verbose["duration"].as_f64()), (Some(&said[..]), Some(66.4)));
    let words = verbose["words"].as_array().unwrap();
    assert_eq!(words.len(), 20);
    // 63.2 s less the margin kept before speech, and 300 ms as the fake recogniser has it.
    let second = words[10]["start"].as_f64().unwrap();
    assert!((63.1..63.6).contains(&second), "{second}");
    assert!(verbose["segments"].as_array().unwrap().len() >= 2, "{verbose}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn words_come_while_the_rest_is_still_being_recognised() {
    let server = server().await;
    let answer = transcribe(&server, &two_remarks(), &[("stream", "true")]).await;
    let events: Vec<Value> = answer.events().iter().map(|e| serde_json::from_str(e).unwrap()).collect();
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["transcript.text.delta", "transcript.text.delta", "transcript.text.done"]);
    let said: String = events[..2].iter().map(|e| e["delta"].as_str().unwrap()).collect();
    assert_eq!(events[2]["text"], said);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_is_spoken_in_every_format() {
    let server = server().await;
    let text = "Good morning. How are you?";
    // The fake voice hums 60 ms a character, and a breath lies between the sentences.
    let expected = 0.060 * 25.0 + 0.180;
    for format in ["wav", "flac", "opus", "pcm"] {
        let body = json!({"model": "tts-1", "voice": "alloy", "input": text, "response_format": format});
        let answer = post_json(&server, "/v1/audio/speech", body).await;
        assert_eq!(answer.status, 200, "{format}");
        let seconds = match format {
            "pcm" => answer.body.len() as f64 / 48_000.0,
            _ => decode(&answer.body, Some(&answer.kind), 60).unwrap().seconds(),
        };
        assert!((expected - 0.05..expected + 0.1).contains(&seconds), "{format}: {seconds} s");
    }
    let body = json!({"voice": "alloy", "input": text, "response_format": "pcm", "stream_format": "sse"});
    let events = post_json(&server, "/v1/audio/speech", body).await.events();
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["type"], "speech.audio.done");
    assert!(events.len() > 2 && last["usage"]["total_tokens"].as_u64() > Some(0), "{last}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_become_vectors_in_either_encoding() {
    use base64::Engine as _;
    let server = server().await;
    let ask = async |extra: Value| {
        let mut body = json!({"model": "m", "input": ["a", "four"]});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        post_json(&server, "/v1/embeddings", body).await.json()
    };
    let float = ask(json!({})).await;
    let first: Vec<f32> = serde_json::from_value(float["data"][0]["embedding"].clone()).unwrap();
    assert_eq!((first.len(), float["data"][1]["index"].as_u64()), (3, Some(1)));
    let coded = ask(json!({"encoding_format": "base64"})).await;
    let bytes = coded["data"][0]["embedding"].as_str().unwrap();
    let bytes = base64::engine::general_purpose::STANDARD.decode(bytes).unwrap();
    let decoded: Vec<f32> = bytes.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    assert_eq!(decoded, first);
    let short = ask(json!({"dimensions": 2})).await;
    let short: Vec<f32> = serde_json::from_value(short["data"][0]["embedding"].clone()).unwrap();
    assert!((short.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5 && short.len() == 2, "{short:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_request_is_named() {
    let server = server().await;
    let check = |answer: Answer, status: u16, code: &str, param: Option<&str>| {
        let body = answer.json();
        let error = &body["error"];
        let found = (answer.status, error["code"].as_str(), error["param"].as_str());
        assert_eq!(found, (status, Some(code), param), "{body}");
        assert!(error["message"].as_str().is_some_and(|m| m.len() > 10), "{body}");
    };
    let json = async |path: &str, body: Value| post_json(&server, path, body).await;
    check(json("/v1/embeddings", json!({"input": 3})).await, 400, "invalid_value", Some("input"));
    check(
        json("/v1/embeddings", json!({"input": "a", "dimensions": "x"})).await,
        400,
        "invalid_value",
        Some("dimensions"),
    );
    check(json("/v1/audio/speech", json!({"input": ""})).await, 400, "invalid_value", Some("input"));
    check(
        json("/v1/audio/speech", json!({"input": "x".repeat(4097)})).await,
        400,
        "invalid_value",
        Some("input"),
    );
    check(
        json("/v1/audio/speech", json!({"input": "x", "voice": "bob"})).await,
        400,
        "invalid_value",
        Some("voice"),
    );
    check(
        json("/v1/audio/speech", json!({"input": "x", "response_format": "aac"})).await,
        400,
        "unsupported",
        Some("response_format"),
    );
    check(
        json("/v1/audio/speech", json!({"input": "x", "speed": 9})).await,
        400,
        "invalid_value",
        Some("speed"),
    );
    check(
        json("/v1/chat/completions", json!({"messages": []})).await,
        400,
        "invalid_value",
        Some("messages"),
    );
    let long = json!({"messages": [{"role": "user", "content": "x".repeat(100_000)}]});
    check(json("/v1/chat/completions", long).await, 400, "context_length_exceeded", Some("messages"));
    check(
        post(&server, "/v1/chat/completions", "application/json", b"{".into()).await,
        400,
        "invalid_json",
        None,
    );
    check(
        post(&server, "/v1/chat/completions", "text/plain", b"{}".into()).await,
        415,
        "unsupported_content_type",
        None,
    );
    check(transcribe(&server, b"no sound", &[]).await, 400, "invalid_audio", Some("file"));
    let file = wav(&speech(300));
    for (field, value, code) in [
        ("response_format", "diarized_json", "unsupported"),
        ("response_format", "xml", "invalid_value"),
        ("include[]", "logprobs", "unsupported"),
        ("stream", "perhaps", "invalid_value"),
    ] {
        check(
            transcribe(&server, &file, &[(field, value)]).await,
            400,
            code,
            Some(field.trim_end_matches("[]")),
        );
    }
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    let none = post(&server, "/v1/audio/transcriptions", &kind, form(None, &[("model", "m")])).await;
    check(none, 400, "missing_required_parameter", Some("file"));
    let cut = form(Some(&file), &[]);
    let cut = post(&server, "/v1/audio/transcriptions", &kind, cut[..cut.len() / 2].to_vec()).await;
    check(cut, 400, "invalid_body", None);
    check(json("/v1/audio/translations", json!({})).await, 400, "unsupported", Some("model"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_a_function_comes_as_one() {
    let call = r#"{"name": "weather", "arguments": {"city": "Oslo"}}"#;
    let costs = Costs { asr_ms: 1, turn_ms: 1, prefill_ms: 1, step_ms: 1, tts_ms: 1 };
    let server = Server::with(engines(costs, call, &Arc::default()), 8, SessionSpec::default()).await;
    let tool = json!({"type": "function", "function": {"name": "weather", "parameters": {"type": "object",
        "properties": {"city": {"type": "string"}}, "required": ["city"]}}});
    let body = json!({"messages": [{"role": "user", "content": "Rain?"}], "tools": [tool], "stream": true});
    let events = post_json(&server, "/v1/chat/completions", body.clone()).await.events();
    assert_eq!(events.last().unwrap(), "[DONE]");
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|e| serde_json::from_str(e).unwrap()).collect();
    let called = &chunks[1]["choices"][0]["delta"]["tool_calls"][0];
    assert_eq!(called["function"], json!({"name": "weather", "arguments": "{\"city\":\"Oslo\"}"}));
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
    let mut without = body;
    without["tool_choice"] = json!("none");
    without["stream"] = json!(false);
    let words = post_json(&server, "/v1/chat/completions", without).await.json();
    assert_eq!(words["choices"][0]["message"]["content"], call);
    server.stop().await;
}

/// Sends a request and does not wait for its answer.
async fn begin(server: &Server, body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\
         Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n",
        server.address,
        body.len().max(1)
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    stream
}

async fn nobody_is_served(server: &Server) {
    let empty = async {
        loop {
            let counts = server.viva.scheduler_counts().await.unwrap();
            if (counts.clients, counts.queued) == (0, 0) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(WITHIN, empty).await.expect("whoever went away is forgotten");
}

/// Counts what a recogniser is asked.
fn counted(asked: &Arc<AtomicU32>) -> Engines {
    struct Slow(Arc<AtomicU32>);
    impl viva_models::Asr for Slow {
        fn name(&self) -> &str {
            "slow"
        }
        fn transcribe(
            &mut self,
            _: &viva_models::AsrJob,
            cancel: &viva_models::Cancel,
        ) -> EngineResult<viva_models::Transcription> {
            self.0.fetch_add(1, Ordering::AcqRel);
            while !cancel.is_cancelled() {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(viva_models::EngineError::Cancelled)
        }
    }
    let asked = Arc::clone(asked);
    let asr = Arc::new(move || {
        let engine = Box::new(Slow(Arc::clone(&asked))) as Box<dyn viva_models::Asr>;
        Ok(Opened { engine, pid: None })
    });
    Engines { asr, ..fakes() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_takes_its_work_along() {
    let asked = Arc::new(AtomicU32::new(0));
    let server = Server::with(counted(&asked), 8, SessionSpec::default()).await;
    let body = form(Some(&wav(&speech(2_000))), &[]);
    // More than are worked on at once: each must free its place.
    for n in 1..=3 {
        let stream = begin(&server, &body).await;
        let reached = async {
            while asked.load(Ordering::Acquire) < n {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(WITHIN, reached).await.expect("the recogniser is asked");
        drop(stream);
        nobody_is_served(&server).await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_too_many_waiting_is_told_when_to_come_back() {
    let server = server().await;
    // Two are let in and wait for their form, 32 wait for a place.
    let mut waiting = Vec::new();
    for _ in 0..34 {
        waiting.push(begin(&server, b"").await);
    }
    let refused = async {
        loop {
            let answer = transcribe(&server, &wav(&speech(300)), &[]).await;
            if answer.status == 503 {
                break answer;
            }
        }
    };
    // The 34 are accepted one by one; until then the request itself would wait.
    let answer = timeout(WITHIN, refused).await.unwrap();
    assert_eq!(
        (answer.json()["error"]["code"].as_str(), answer.retry_after.as_deref()),
        (Some("server_busy"), Some("5"))
    );
    drop(waiting);
    nobody_is_served(&server).await;
    assert_eq!(transcribe(&server, &wav(&speech(300)), &[]).await.status, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_is_answered_while_recordings_are_written_down() {
    let server = server().await;
    let file = wav(&[speech(9_000), vec![0; 24_000]].concat().repeat(6));
    let mut caller = support::Caller::connect(server.address, "?events=extended").await;
    let (answer, response) = tokio::join!(transcribe(&server, &file, &[]), caller.turn(1_200));
    assert_eq!((answer.status, response["status"].as_str()), (200, Some("completed")));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_a_recording() {
    let server = server().await;
    // Forty minutes at 8 kHz: 38 MB as a file, 154 MB as samples at 16 kHz.
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 8_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut writer = hound::WavWriter::create(file.path(), spec).unwrap();
    for i in 0..8_000 * 2_400u32 {
        let loud = i % 80_000 < 8_000;
        writer.write_sample(if loud && i % 2 == 0 { 9_000i16 } else { 0 }).unwrap();
    }
    writer.finalize().unwrap();
    let body = form(Some(&std::fs::read(file.path()).unwrap()), &[]);
    let before = resident();
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    let most = Arc::new(AtomicU32::new(0));
    let watch = {
        let most = Arc::clone(&most);
        tokio::spawn(async move {
            loop {
                most.fetch_max((resident() >> 20) as u32, Ordering::AcqRel);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    };
    let answer = post(&server, "/v1/audio/transcriptions", &kind, body).await;
    watch.abort();
    assert_eq!((answer.status, answer.json()["usage"]["seconds"].as_f64()), (200, Some(2_400.0)));
    let grown = u64::from(most.load(Ordering::Acquire)).saturating_sub(before >> 20);
    assert!(grown < 60, "{grown} MiB more");
    server.stop().await;
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Runs a script of somebody else's client against a server.
async fn client(server: &Server, name: &str, mut command: Command) {
    command.arg(server.url());
    matrix::proved(name, &outsider::run(command, Duration::from_secs(90)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_python_client_finds_every_endpoint() {
    let server = server().await;
    let mut command = Command::new(python());
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/rest_client.py"));
    client(&server, matrix::OPENAI_PYTHON, command).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_node_client_finds_every_endpoint() {
    let server = server().await;
    let mut command = Command::new("node");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node/rest_client.mjs"));
    command.env("VIVA_NODE_MODULES", support::node_modules());
    client(&server, matrix::OPENAI_NODE, command).await;
    server.stop().await;
}
