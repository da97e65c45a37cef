//! The native engines behind an OpenAI-compatible server: what a remote engine is worth can only be seen with
//! a real one at the other end.

use std::net::TcpStream;
use std::sync::Mutex;

use serde_json::{Value, json};
use viva_models::audio::{Resampler, SPEAK_RATE, decode};
use viva_models::*;

use super::engines::{joe, smollm, whisper};
use super::openai_server::{FINISH, Server, begin_stream, chunk, respond, token};
use super::registry::{open_asr, open_llm, open_tts};

/// A server with all three. Its engines live as long as the test's process.
pub fn engines() -> Server {
    let asr = Mutex::new(open_asr(&whisper("asr/ggml-tiny.en-q8_0.bin", 1)).unwrap().engine);
    let tts = Mutex::new(open_tts(&joe(1)).unwrap().engine);
    let llm = Mutex::new(open_llm(&smollm(1)).unwrap().engine);
    Server::reading(move |request, stream| {
        let at = request.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let (head, body) = (String::from_utf8_lossy(&request[..at]), &request[at + 4..]);
        match head.split(' ').nth(1).unwrap() {
            "/v1/audio/transcriptions" => transcribe(&mut **asr.lock().unwrap(), body, stream),
            "/v1/audio/speech" => speak(&mut **tts.lock().unwrap(), body, stream),
            "/v1/chat/completions" => write(&mut **llm.lock().unwrap(), body, stream),
            _ => respond(stream, "404 Not Found", "application/json", b"{}"),
        }
    })
}

fn refuse(stream: &mut TcpStream, error: &EngineError) {
    let body = json!({"error": {"message": error.to_string(), "type": "invalid_request_error"}}).to_string();
    respond(stream, "400 Bad Request", "application/json", body.as_bytes());
}

fn transcribe(asr: &mut dyn Asr, body: &[u8], stream: &mut TcpStream) {
    let from = body.windows(4).position(|w| w == b"RIFF").unwrap();
    let length = 8 + u32::from_le_bytes(body[from + 4..from + 8].try_into().unwrap()) as usize;
    let sound = decode(&body[from..from + length], Some("wav"), 60).unwrap();
    let job = AsrJob { samples: sound.resampled(16_000).unwrap(), words: true, ..AsrJob::default() };
    match asr.transcribe(&job, &Cancel::new()) {
        Err(error) => refuse(stream, &error),
        Ok(found) => {
            let words: Vec<Value> = found
                .words
                .iter()
                .map(|w| {
                    json!({"word": w.text, "start": f64::from(w.start_ms) / 1e3, "end": f64::from(w.end_ms) / 1e3,
                        "probability": w.confidence})
                })
                .collect();
            let asked = String::from_utf8_lossy(body);
            let mut answer = json!({"text": found.text, "language": "en", "segments": [{"start": 0.0, "end": 1.0,
                "avg_logprob": found.confidence.max(0.01).ln()}]});
            if asked.contains("timestamp_granularities") {
                answer["words"] = Value::Array(words);
            }
            respond(stream, "200 OK", "application/json", answer.to_string().as_bytes());
        }
    }
}

fn speak(tts: &mut dyn Tts, body: &[u8], stream: &mut TcpStream) {
    let asked: Value = serde_json::from_slice(body).unwrap();
    let voice = asked["voice"].as_str().unwrap();
    // The one name that clients ask for unasked is mapped, as compatible servers do.
    let voice = if voice == "alloy" { String::new() } else { voice.to_owned() };
    let style = Style { voice, pace: asked["speed"].as_f64().unwrap() as f32, ..Style::default() };
    let job = TtsJob { text: asked["input"].as_str().unwrap().to_owned(), style, language: None };
    let mut samples = Vec::new();
    if let Err(error) = tts.speak(&job, &Cancel::new(), &mut |part| samples.extend_from_slice(part)) {
        return refuse(stream, &error);
    }
    let (mut resampler, mut out) = (Resampler::new(tts.sample_rate(), SPEAK_RATE).unwrap(), Vec::new());
    resampler.process(&samples, &mut out);
    resampler.flush(&mut out);
    let bytes: Vec<u8> =
        out.iter().flat_map(|s| ((s.clamp(-1.0, 1.0) * 32_767.0) as i16).to_le_bytes()).collect();
    respond(stream, "200 OK", "audio/pcm", &bytes);
}

fn write(llm: &mut dyn Llm, body: &[u8], stream: &mut TcpStream) {
    let asked: Value = serde_json::from_slice(body).unwrap();
    let role = |name: &str| match name {
        "system" => Role::System,
        "assistant" => Role::Assistant,
        _ => Role::User,
    };
    let messages = asked["messages"].as_array().unwrap().iter().map(|m| Message {
        role: role(m["role"].as_str().unwrap()),
        content: m["content"].as_str().unwrap().to_owned(),
    });
    let prompt = Prompt { messages: messages.collect(), unfinished: false };
    let stop =
        asked["stop"].as_array().map(|list| list.iter().map(|s| s.as_str().unwrap().to_owned()).collect());
    let sampling = Sampling {
        max_tokens: asked["max_tokens"].as_u64().unwrap() as u32,
        temperature: asked["temperature"].as_f64().unwrap_or(0.0) as f32,
        stop: stop.unwrap_or_default(),
        ..Sampling::default()
    };
    begin_stream(stream, "text/event-stream");
    let begun = llm.begin(SeqId(0), &prompt, &sampling).unwrap();
    let mut left = begun.prompt_tokens - begun.reused_tokens;
    loop {
        let mut plan = StepPlan::default();
        if left > 0 {
            plan.prefill.push((SeqId(0), 128))
        } else {
            plan.decode.push(SeqId(0))
        }
        for event in llm.step(&plan).unwrap() {
            match event {
                StepEvent::Prefilled { left: still, .. } => left = still,
                StepEvent::Token { piece, .. } => {
                    if !piece.is_empty() && !chunk(stream, token(&piece).as_bytes()) {
                        return;
                    }
                }
                StepEvent::Done { piece, reason, tokens, .. } => {
                    chunk(stream, token(&piece).as_bytes());
                    chunk(
                        stream,
                        format!("data: {{\"choices\":[],\"usage\":{{\"completion_tokens\":{tokens}}}}}\n\n")
                            .as_bytes(),
                    );
                    let end = match reason {
                        StopReason::Stop => FINISH.to_owned(),
                        StopReason::Length => FINISH.replace("\"stop\"", "\"length\""),
                    };
                    chunk(stream, end.as_bytes());
                    return;
                }
                StepEvent::Ends { .. } | StepEvent::Failed { .. } => {}
            }
        }
    }
}
