//! `/v1/chat/completions`: a text from the language model that also leads the conversations.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Response;
use axum::response::IntoResponse;
use bytes::Bytes;
use futures_util::stream::unfold;
use serde::Deserialize;
use serde_json::{Value, json};
use viva_actors::event::Usage;
use viva_models::{Message, Prompt, Role, Sampling};

use super::desk::Kind;
use super::writing::{Finish, Writing};
use super::{Refusal, json_body, sse, sse_response, unix_now};
use crate::edge::http::App;
use crate::edge::tools::{self, Choice};
use crate::edge::{grammar, rest};

/// Tokens of an answer at most: no context of ours holds more.
const TOKENS_MAX: u32 = 4_096;

/// Tokens of an answer where the client does not say: a page.
const TOKENS_DEFAULT: u32 = 1_024;

/// Messages of one request; what they hold is bounded by the model's context.
const MESSAGES_MAX: usize = 512;

/// Stop texts: the protocol's limit.
const STOPS_MAX: usize = 4;

/// Bytes of a stop text: the engine's limit.
const STOP_BYTES_MAX: usize = 256;

#[derive(Debug, Deserialize)]
struct Asked {
    #[serde(default)]
    model: Option<String>,
    messages: Vec<Said>,
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    max_tokens: Option<u32>,
    #[serde(default)]
    max_completion_tokens: Option<u32>,
    #[serde(default)]
    temperature: Option<f32>,
    #[serde(default)]
    top_p: Option<f32>,
    #[serde(default)]
    seed: Option<i64>,
    #[serde(default)]
    stop: Option<Stop>,
    #[serde(default)]
    n: Option<u32>,
    #[serde(default)]
    logprobs: Option<bool>,
    #[serde(default)]
    frequency_penalty: Option<f32>,
    #[serde(default)]
    presence_penalty: Option<f32>,
    #[serde(default)]
    response_format: Option<ResponseFormat>,
    #[serde(default)]
    tools: Option<Vec<Value>>,
    #[serde(default)]
    tool_choice: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ResponseFormat {
    Text,
    JsonObject,
    JsonSchema { json_schema: NamedSchema },
}

#[derive(Debug, Deserialize)]
struct NamedSchema {
    #[serde(default)]
    schema: Option<Value>,
}

/// One message, as clients send it.
#[derive(Debug, Deserialize)]
struct Said {
    role: String,
    #[serde(default)]
    content: Option<Content>,
    #[serde(default)]
    tool_calls: Option<Vec<Called>>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    text: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Called {
    function: CalledFunction,
}

#[derive(Debug, Deserialize)]
struct CalledFunction {
    name: String,
    arguments: String,
}

/// `POST /v1/chat/completions`
pub(in crate::edge) async fn create(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response<Body>, Refusal> {
    let asked: Asked = json_body(request).await?;
    let (sampling, with_tools) = sampling(&asked, &app.offer.spec.voice.sampling)?;
    let mut messages = messages(&asked.messages)?;
    if with_tools {
        let known =
            tools::read(asked.tools.as_deref().unwrap_or_default()).map_err(|e| tool_refusal("tools", &e))?;
        instruct(&mut messages, tools::instructions(&known));
    }
    let bytes: usize = messages.iter().map(|message| message.content.len()).sum();
    let bytes_max = app.offer.spec.prompt_chars_max;
    if bytes > bytes_max {
        let message =
            format!("The messages have {bytes} bytes; the model's context holds about {bytes_max}.");
        return Err(Refusal::invalid("context_length_exceeded", message, Some("messages")));
    }
    let ticket = app.desk.enter(Kind::Write, &app.viva).await?;
    let mut writing = Completion {
        id: format!("chatcmpl-{:032x}", rand::random::<u128>()),
        created: unix_now(),
        model: asked.model.unwrap_or_else(|| "viva-chat".into()),
        writing: Writing::begin(ticket, Prompt { messages, unfinished: false }, sampling, with_tools),
    };
    if asked.stream {
        // The first token decides between an answer and an error.
        let first = writing.next().await?;
        let usage = asked.stream_options.is_some_and(|options| options.include_usage);
        return Ok(streamed(writing, first, usage));
    }
    while writing.next().await?.is_some() {}
    Ok(axum::Json(writing.whole()).into_response())
}

/// How tokens are chosen, and whether functions may be called.
fn sampling(asked: &Asked, usual: &Sampling) -> Result<(Sampling, bool), Refusal> {
    if asked.n.is_some_and(|n| n != 1) {
        return Err(Refusal::unsupported("n", "This server writes one answer; leave 'n' at 1."));
    }
    if asked.logprobs == Some(true) {
        return Err(Refusal::unsupported("logprobs", "The model's engine tells no log probabilities."));
    }
    for (name, value) in
        [("frequency_penalty", asked.frequency_penalty), ("presence_penalty", asked.presence_penalty)]
    {
        if value.is_some_and(|value| value != 0.0) {
            return Err(Refusal::unsupported(name, format!("This server has no '{name}'; leave it at 0.")));
        }
    }
    let max_tokens = asked.max_completion_tokens.or(asked.max_tokens).unwrap_or(TOKENS_DEFAULT);
    if !(1..=TOKENS_MAX).contains(&max_tokens) {
        let param =
            if asked.max_completion_tokens.is_some() { "max_completion_tokens" } else { "max_tokens" };
        return Err(Refusal::value(param, format!("{max_tokens} is not in 1..={TOKENS_MAX}")));
    }
    let temperature = asked.temperature.unwrap_or(usual.temperature);
    if !(0.0..=2.0).contains(&temperature) {
        return Err(Refusal::value("temperature", format!("{temperature} is not in 0..=2")));
    }
    let top_p = asked.top_p.unwrap_or(usual.top_p);
    if !(top_p > 0.0 && top_p <= 1.0) {
        return Err(Refusal::value("top_p", format!("{top_p} is not above 0 and at most 1")));
    }
    let stop = match &asked.stop {
        None => Vec::new(),
        Some(Stop::One(text)) => vec![text.clone()],
        Some(Stop::Many(texts)) => texts.clone(),
    };
    if stop.len() > STOPS_MAX || stop.iter().any(|text| text.is_empty() || text.len() > STOP_BYTES_MAX) {
        return Err(Refusal::value(
            "stop",
            format!("it is up to {STOPS_MAX} texts of 1 to {STOP_BYTES_MAX} bytes"),
        ));
    }
    let (grammar, with_tools) = grammar(asked)?;
    // A seed is as large as the protocol's number; its lower half tells seeds apart as well.
    let seed = asked.seed.map_or_else(rand::random, |seed| seed as u32);
    let repeat_penalty = if grammar.is_some() { 1.0 } else { usual.repeat_penalty };
    let sampling =
        Sampling { max_tokens, temperature, top_p, min_p: 0.0, repeat_penalty, seed, stop, grammar };
    Ok((sampling, with_tools))
}

/// What the answer must be, and whether it may be a call.
fn grammar(asked: &Asked) -> Result<(Option<String>, bool), Refusal> {
    let known =
        tools::read(asked.tools.as_deref().unwrap_or_default()).map_err(|e| tool_refusal("tools", &e))?;
    let choice = tools::read_choice(asked.tool_choice.as_ref(), &known)
        .map_err(|e| tool_refusal("tool_choice", &e))?;
    let form = match &asked.response_format {
        None | Some(ResponseFormat::Text) => None,
        Some(ResponseFormat::JsonObject) => Some(grammar::any_object()),
        Some(ResponseFormat::JsonSchema { json_schema }) => {
            let param = "response_format.json_schema.schema";
            let schema = json_schema.schema.as_ref();
            let schema = schema.ok_or_else(|| Refusal::value(param, "it is missing"))?;
            Some(grammar::of_schema(schema).map_err(|error| Refusal::value(param, error))?)
        }
    };
    if known.is_empty() || choice == Choice::None {
        return Ok((form, false));
    }
    if form.is_some() {
        let message = "An answer in a given form and functions to call do not go together here.";
        return Err(Refusal::unsupported("response_format", message));
    }
    let calls = tools::grammar(&known, &choice).map_err(|error| Refusal::value("tools", error))?;
    Ok((calls, true))
}

fn tool_refusal(field: &str, error: &tools::ToolError) -> Refusal {
    Refusal::value(&format!("{field}{}", error.place), &error.why)
}

/// The conversation as the model reads it.
fn messages(said: &[Said]) -> Result<Vec<Message>, Refusal> {
    if said.is_empty() || said.len() > MESSAGES_MAX {
        return Err(Refusal::value(
            "messages",
            format!("{} messages; 1 to {MESSAGES_MAX} are read", said.len()),
        ));
    }
    said.iter().enumerate().map(|(i, said)| message(i, said)).collect()
}

fn message(i: usize, said: &Said) -> Result<Message, Refusal> {
    let mut content = match &said.content {
        None => String::new(),
        Some(Content::Text(text)) => text.clone(),
        Some(Content::Parts(parts)) => {
            let mut whole = String::new();
            for (j, part) in parts.iter().enumerate() {
                let param = format!("messages[{i}].content[{j}]");
                let text = part.text.as_deref().filter(|_| part.kind == "text");
                let text =
                    text.ok_or_else(|| Refusal::unsupported(&param, "Messages are made of text here."))?;
                whole.push_str(text);
            }
            whole
        }
    };
    let role = match said.role.as_str() {
        "system" | "developer" => Role::System,
        "user" => Role::User,
        "assistant" => {
            for called in said.tool_calls.iter().flatten() {
                content.push_str(&tools::as_written(&called.function.name, &called.function.arguments));
            }
            Role::Assistant
        }
        "tool" | "function" => {
            content = tools::result(&content);
            Role::User
        }
        _ => {
            let known = "it is system, developer, user, assistant or tool";
            return Err(Refusal::value(&format!("messages[{i}].role"), known));
        }
    };
    Ok(Message { role, content })
}

/// Says something to the model before everything else.
fn instruct(messages: &mut Vec<Message>, instructions: String) {
    match messages.first_mut().filter(|first| first.role == Role::System) {
        Some(first) => {
            first.content.push_str("\n\n");
            first.content.push_str(&instructions);
        }
        None => messages.insert(0, Message { role: Role::System, content: instructions }),
    }
}

/// An answer in the making.
struct Completion {
    id: String,
    created: u64,
    model: String,
    writing: Writing,
}

impl Completion {
    async fn next(&mut self) -> Result<Option<String>, Refusal> {
        self.writing.next().await
    }

    fn finish(&self) -> Option<&'static str> {
        self.writing.finish().map(|finish| match finish {
            Finish::Whole => "stop",
            Finish::Length => "length",
            Finish::Call(_) => "tool_calls",
        })
    }

    fn usage(&self) -> Value {
        let Usage { input, cached, output } = self.writing.usage();
        json!({
            "prompt_tokens": input,
            "completion_tokens": output,
            "total_tokens": input + output,
            "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        })
    }

    fn tool_calls(&self) -> Option<Value> {
        let Some(Finish::Call(call)) = self.writing.finish() else { return None };
        let id = format!("call_{:024x}", rand::random::<u128>() >> 32);
        let function = json!({"name": call.name, "arguments": call.arguments});
        Some(json!([{"index": 0, "id": id, "type": "function", "function": function}]))
    }

    fn whole(&self) -> Value {
        let mut message = json!({"role": "assistant", "content": self.writing.written(), "refusal": null});
        if let Some(calls) = self.tool_calls() {
            message["content"] = Value::Null;
            message["tool_calls"] = calls;
        }
        json!({
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [{"index": 0, "message": message, "finish_reason": self.finish(), "logprobs": null}],
            "usage": self.usage(),
        })
    }

    fn chunk(&self, choices: Value, usage: Option<Value>) -> Bytes {
        let mut chunk = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        });
        if let Some(usage) = usage {
            chunk["usage"] = usage;
        }
        sse(&chunk)
    }

    fn delta(&self, delta: Value, finish: Option<&str>) -> Bytes {
        self.chunk(json!([{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": null}]), None)
    }

    /// What follows the last words.
    fn closing(&self, usage: bool) -> Bytes {
        let mut out = Vec::new();
        if let Some(calls) = self.tool_calls() {
            out.extend_from_slice(&self.delta(json!({"tool_calls": calls}), None));
        }
        out.extend_from_slice(&self.delta(json!({}), self.finish()));
        if usage {
            out.extend_from_slice(&self.chunk(json!([]), Some(self.usage())));
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
        out.into()
    }
}

fn streamed(writing: Completion, first: Option<String>, usage: bool) -> Response<Body> {
    let mut head = writing.delta(json!({"role": "assistant", "content": ""}), None).to_vec();
    if let Some(piece) = &first {
        head.extend_from_slice(&writing.delta(json!({"content": piece}), None));
    }
    let stream = unfold((Some(Bytes::from(head)), Some(writing)), move |(head, writing)| async move {
        let mut writing = writing?;
        if let Some(head) = head {
            return Some((Ok::<_, Infallible>(head), (None, Some(writing))));
        }
        Some(match writing.next().await {
            Ok(Some(piece)) => (Ok(writing.delta(json!({"content": piece}), None)), (None, Some(writing))),
            Ok(None) => (Ok(writing.closing(usage)), (None, None)),
            Err(refusal) => (Ok(rest::sse(&json!({"error": refusal.body()}))), (None, None)),
        })
    });
    sse_response(stream)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(extra: Value) -> Result<(Sampling, bool), Refusal> {
        let mut body = json!({"messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        sampling(&serde_json::from_value(body).unwrap(), &Sampling::default())
    }

    #[test]
    fn what_the_engine_cannot_do_is_refused_by_field() {
        for (extra, param) in [
            (json!({"n": 2}), "n"),
            (json!({"logprobs": true}), "logprobs"),
            (json!({"temperature": 2.5}), "temperature"),
            (json!({"top_p": 0}), "top_p"),
            (json!({"max_tokens": 0}), "max_tokens"),
            (json!({"max_completion_tokens": 5000}), "max_completion_tokens"),
            (json!({"presence_penalty": 0.5}), "presence_penalty"),
            (json!({"stop": ["a", "b", "c", "d", "e"]}), "stop"),
            (json!({"stop": ""}), "stop"),
            (json!({"tools": [{"type": "function", "function": {"name": "?"}}]}), "tools[0].function.name"),
            (json!({"tool_choice": "required"}), "tool_choice"),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}}),
                "response_format.json_schema.schema",
            ),
        ] {
            let refusal = check(extra.clone()).unwrap_err();
            assert_eq!(refusal.body().param.as_deref(), Some(param), "{extra}");
        }
        let (plain, with_tools) = check(json!({"n": 1, "logprobs": false, "presence_penalty": 0})).unwrap();
        assert_eq!((plain.max_tokens, plain.grammar, with_tools), (TOKENS_DEFAULT, None, false));
    }

    #[test]
    fn functions_and_their_results_become_words() {
        let said: Vec<Said> = serde_json::from_value(json!([
            {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}]},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "c", "type": "function",
                "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c", "content": "42"},
        ]))
        .unwrap();
        let mut read = messages(&said).unwrap();
        instruct(&mut read, "Functions.".into());
        assert_eq!(read[0].content, "Be kind.\n\nFunctions.");
        assert_eq!(read[1].content, "{\"name\": \"f\", \"arguments\": {}}");
        assert_eq!((read[2].role, read[2].content.as_str()), (Role::User, "Result of the function: 42"));
        let image = json!([{"role": "user", "content": [{"type": "image_url"}]}]);
        let image: Vec<Said> = serde_json::from_value(image).unwrap();
        assert_eq!(messages(&image).unwrap_err().body().param.as_deref(), Some("messages[0].content[0]"));
    }
}
