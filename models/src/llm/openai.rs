//! A language model behind an OpenAI-compatible `/chat/completions` (vLLM, llama.cpp's server, …).

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::remote::{Client, Incoming, Remote, Upload, message_in};
use crate::{
    Begun, EngineError, Llm, LlmInfo, Prompt, Result, Role, Sampling, SeqId, StepEvent, StepPlan, StopReason,
};

/// Longest a step waits for a token: a step of a local model on a CPU takes about as long.
const STEP_WAIT: Duration = Duration::from_millis(20);
/// Tokens of context where the endpoint's limit is not set: the smallest window of models in use today.
const CONTEXT: u32 = 8_192;
/// Sequences at once where nothing is set: half of the requests a client may have under way, so that those
/// just given up do not count against new ones.
const SEQUENCES: u32 = 32;
/// Bytes of one line of the event stream.
const LINE_MAX: usize = 256 * 1024;
/// Texts the protocol takes as `stop`.
const STOPS_MAX: usize = 4;
/// English text has about so many bytes a token; only an estimate is needed here.
const BYTES_PER_TOKEN: usize = 4;

/// A language model elsewhere. Its cache is its own business: a prompt counts as prefilled at once, and the
/// text that has arrived comes as one token a piece.
pub struct OpenAiLlm {
    client: Client,
    info: LlmInfo,
    streams: HashMap<SeqId, Stream>,
    /// Rung by every stream that has something.
    doorbell: (SyncSender<()>, Receiver<()>),
}

impl OpenAiLlm {
    /// Connects at the first prompt, not before.
    pub fn new(remote: Remote) -> Self {
        let info =
            LlmInfo { model: format!("openai:{}", remote.model), context: CONTEXT, sequences: SEQUENCES };
        Self { client: Client::new(remote), info, streams: HashMap::new(), doorbell: sync_channel(1) }
    }

    /// Takes what has arrived for those who decode; true when that was anything.
    fn collect(&mut self, decode: &[SeqId], events: &mut Vec<StepEvent>) -> bool {
        let before = events.len();
        for &seq in decode {
            let Some(stream) = self.streams.get_mut(&seq) else {
                let error = EngineError::Invalid("the sequence has no prompt".into());
                events.push(StepEvent::Failed { seq, error });
                continue;
            };
            if stream.read(seq, events) {
                self.streams.remove(&seq);
            }
        }
        events.len() > before
    }
}

impl Llm for OpenAiLlm {
    fn info(&self) -> LlmInfo {
        self.info.clone()
    }

    /// Sends the request (or nothing, for an unfinished prompt). What is wrong with it shows in the steps.
    fn begin(&mut self, seq: SeqId, prompt: &Prompt, sampling: &Sampling) -> Result<Begun> {
        if seq.0 >= self.info.sequences {
            return Err(EngineError::Invalid(format!("there are only {} sequences", self.info.sequences)));
        }
        self.streams.remove(&seq);
        let bytes: usize = prompt.messages.iter().map(|m| m.content.len() + BYTES_PER_TOKEN).sum();
        let tokens = u32::try_from(bytes / BYTES_PER_TOKEN).unwrap_or(u32::MAX);
        if !prompt.unfinished {
            let body = body(&self.client.remote().model, prompt, sampling);
            let upload = Upload {
                path: "chat/completions",
                content_type: "application/json".into(),
                body: body.to_string().into_bytes(),
            };
            let incoming = self.client.send(upload, Some(self.doorbell.0.clone()))?;
            self.streams.insert(seq, Stream::new(incoming, self.client.remote().clone()));
        }
        Ok(Begun { prompt_tokens: tokens, reused_tokens: tokens })
    }

    fn step(&mut self, plan: &StepPlan) -> Result<Vec<StepEvent>> {
        let mut events: Vec<StepEvent> =
            plan.prefill.iter().map(|(seq, _)| StepEvent::Prefilled { seq: *seq, left: 0 }).collect();
        let deadline = Instant::now() + STEP_WAIT;
        while !self.collect(&plan.decode, &mut events) && events.is_empty() && !plan.decode.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.doorbell.1.recv_timeout(left).is_err() {
                break;
            }
        }
        Ok(events)
    }

    fn stop(&mut self, seq: SeqId) -> Result<()> {
        self.streams.remove(&seq);
        Ok(())
    }

    fn close(&mut self, seq: SeqId) -> Result<()> {
        self.streams.remove(&seq);
        Ok(())
    }
}

/// The request. Fields beyond OpenAI's own go along only where they ask for something.
fn body(model: &str, prompt: &Prompt, sampling: &Sampling) -> Value {
    let messages: Vec<Value> = prompt
        .messages
        .iter()
        .map(|message| {
            let role = match message.role {
                Role::System => "system",
                Role::User => "user",
                Role::Assistant => "assistant",
            };
            json!({ "role": role, "content": message.content })
        })
        .collect();
    let mut body = Map::new();
    let mut set = |name: &str, value: Value| drop(body.insert(name.to_owned(), value));
    set("model", json!(model));
    set("messages", json!(messages));
    set("stream", json!(true));
    set("max_tokens", json!(sampling.max_tokens));
    set("temperature", json!(sampling.temperature));
    set("seed", json!(sampling.seed));
    if sampling.top_p < 1.0 {
        set("top_p", json!(sampling.top_p));
    }
    if sampling.min_p > 0.0 {
        set("min_p", json!(sampling.min_p));
    }
    if sampling.repeat_penalty != 1.0 {
        // vLLM's name and llama.cpp's.
        set("repetition_penalty", json!(sampling.repeat_penalty));
        set("repeat_penalty", json!(sampling.repeat_penalty));
    }
    if !sampling.stop.is_empty() {
        set("stop", json!(sampling.stop.iter().take(STOPS_MAX).collect::<Vec<_>>()));
    }
    if let Some(grammar) = &sampling.grammar {
        set("grammar", json!(grammar));
    }
    Value::Object(body)
}

/// One answer on its way.
struct Stream {
    incoming: Incoming,
    remote: Remote,
    lines: Lines,
    waiting: VecDeque<Delta>,
    reason: Option<StopReason>,
    tokens: u32,
    over: bool,
}

enum Delta {
    Text(String),
    Reason(StopReason),
    End,
    Failed(String),
}

impl Stream {
    fn new(incoming: Incoming, remote: Remote) -> Self {
        let lines = Lines::default();
        Self { incoming, remote, lines, waiting: VecDeque::new(), reason: None, tokens: 0, over: false }
    }

    /// Turns what is there into events; true when the stream has ended.
    fn read(&mut self, seq: SeqId, events: &mut Vec<StepEvent>) -> bool {
        while let Some(piece) = self.incoming.poll() {
            match piece {
                Ok(Some(bytes)) => {
                    self.lines.feed(&bytes, &mut self.waiting);
                    if self.drain(seq, events) {
                        return true;
                    }
                }
                Ok(None) => {
                    events.push(self.ended(seq));
                    return true;
                }
                Err(error) => {
                    events.push(StepEvent::Failed { seq, error });
                    return true;
                }
            }
        }
        false
    }

    fn drain(&mut self, seq: SeqId, events: &mut Vec<StepEvent>) -> bool {
        while let Some(delta) = self.waiting.pop_front() {
            match delta {
                Delta::Text(piece) => {
                    self.tokens += 1;
                    events.push(StepEvent::Token { seq, piece });
                }
                Delta::Reason(reason) => self.reason = Some(reason),
                Delta::End => {
                    self.over = true;
                    events.push(self.ended(seq));
                    return true;
                }
                Delta::Failed(why) => {
                    events
                        .push(StepEvent::Failed { seq, error: EngineError::Failed(self.remote.clean(&why)) });
                    return true;
                }
            }
        }
        false
    }

    /// An answer that ends without saying so, or saying why, was cut off.
    fn ended(&self, seq: SeqId) -> StepEvent {
        if self.reason.is_none() && !self.over {
            let why = format!("{}: the answer broke off", self.remote.base_url);
            return StepEvent::Failed { seq, error: EngineError::Unavailable(why) };
        }
        let reason = self.reason.unwrap_or(StopReason::Stop);
        StepEvent::Done { seq, piece: String::new(), reason, tokens: self.tokens }
    }
}

/// Splits an event stream into lines and reads those that carry data.
#[derive(Default)]
struct Lines {
    partial: Vec<u8>,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Option<Content>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Content {
    #[serde(default)]
    content: Option<String>,
}

impl Lines {
    fn feed(&mut self, mut bytes: &[u8], out: &mut VecDeque<Delta>) {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            self.partial.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut self.partial);
            read_line(&line, out);
        }
        self.partial.extend_from_slice(bytes);
        if self.partial.len() > LINE_MAX {
            self.partial.clear();
            out.push_back(Delta::Failed("a line of the event stream is too long".into()));
        }
    }
}

fn read_line(line: &[u8], out: &mut VecDeque<Delta>) {
    let line = String::from_utf8_lossy(line);
    let line = line.trim_end_matches('\r');
    let Some(data) = line.strip_prefix("data:").map(str::trim) else {
        // Comments, event names, empty lines; or a whole answer that is no event stream at all.
        if line.starts_with('{') {
            let why = message_in(line).unwrap_or_else(|| "the answer is no event stream".into());
            out.push_back(Delta::Failed(why));
        }
        return;
    };
    if data == "[DONE]" {
        out.push_back(Delta::End);
        return;
    }
    if data.contains("\"error\"")
        && let Some(why) = message_in(data)
    {
        out.push_back(Delta::Failed(why));
        return;
    }
    let Ok(chunk) = serde_json::from_str::<Chunk>(data) else {
        out.push_back(Delta::Failed(format!("an event is no JSON we know: {data}")));
        return;
    };
    // Chunks without choices carry usage only.
    let Some(choice) = chunk.choices.into_iter().next() else { return };
    if let Some(text) = choice.delta.and_then(|d| d.content).filter(|text| !text.is_empty()) {
        out.push_back(Delta::Text(text));
    }
    match choice.finish_reason.as_deref() {
        None => {}
        Some("length") => out.push_back(Delta::Reason(StopReason::Length)),
        Some(_) => out.push_back(Delta::Reason(StopReason::Stop)),
    }
}
