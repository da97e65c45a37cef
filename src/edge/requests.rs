//! What a client asks for, one function a kind of event. Everything it gets wrong is answered with an error
//! that names the field and the client's own event; the call goes on.

use std::time::Duration;

use ractor::RpcReplyPort;
use ractor::rpc::CallResult;
use viva_actors::conversation::{Item, ItemError, Place};
use viva_actors::ports::{ResponseOptions, SessionMsg, TruncateError};
use viva_models::Role;

use super::call::{Call, view};
use super::mapper::Own;
use super::protocol::client_events::{ResponseParams, Truncate};
use super::protocol::items::{ItemBody, WirePart};
use super::protocol::session_object::{Functions, checked_instructions, checked_modality};
use super::protocol::{
    ClientEvent, ErrorBody, ItemObject, Parsed, ServerEvent, SessionObject, SessionPatch, WireItem, parse,
};
use super::tools;
use super::transport::{Lost, Transport};

/// A session answers in microseconds; one that takes this long is about to be restarted or gone.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Bytes of text one item may bring: more than the context of any model we serve.
const ITEM_TEXT_MAX: usize = 64 * 1024;

/// Bytes an item's name may have: twice the protocol's own limit.
const ITEM_ID_MAX: usize = 64;

/// What answers a request: events in order.
type Answer = Result<Vec<ServerEvent>, ErrorBody>;

impl<T: Transport + 'static> Call<T> {
    /// Reads one message of the client's and does what it asks.
    pub(super) async fn request(&mut self, text: &str) -> Result<(), Lost> {
        let Parsed { event_id, event } = parse(text);
        let answer = match event {
            Ok(event) => self.answer(event).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(events) => {
                for event in events {
                    self.say(event).await?;
                }
                Ok(())
            }
            Err(error) => self.say(ServerEvent::Error { error: ErrorBody { event_id, ..error } }).await,
        }
    }

    async fn answer(&mut self, event: ClientEvent<'_>) -> Answer {
        match event {
            ClientEvent::SessionUpdate(patch) => self.update(*patch),
            ClientEvent::Append(_) if self.transport.carries_audio() => Err(ErrorBody::invalid(
                "unsupported",
                "Audio comes on the call's track here; 'input_audio_buffer.append' is for WebSockets.",
                Some("type"),
            )),
            ClientEvent::Append(audio) => {
                if self.intake.append(&audio)? {
                    return Err(ErrorBody::invalid(
                        "input_audio_overflow",
                        "Audio came faster than it can be listened to; the oldest of it was dropped.",
                        Some("audio"),
                    ));
                }
                Ok(Vec::new())
            }
            ClientEvent::Commit => {
                self.intake.commit()?;
                self.commit_open = true;
                self.tell(SessionMsg::CommitAudio);
                Ok(Vec::new())
            }
            ClientEvent::Clear => {
                self.intake.clear();
                self.tell(SessionMsg::ClearAudio);
                Ok(vec![ServerEvent::Cleared {}])
            }
            ClientEvent::OutputClear if self.transport.carries_audio() => {
                // The playout says where it stopped; with nothing to stop there is nothing to say.
                if self.replying() {
                    self.reply_unasked();
                    self.tell(SessionMsg::Cancel);
                }
                Ok(Vec::new())
            }
            ClientEvent::OutputClear => Err(ErrorBody::invalid(
                "unsupported",
                "'output_audio_buffer.clear' is for WebRTC; on a WebSocket use 'response.cancel'.",
                Some("type"),
            )),
            ClientEvent::ItemCreate { item, previous } => self.create_item(item, previous).await,
            ClientEvent::ItemRetrieve(id) => {
                let found = self.ask(|port| SessionMsg::GetItem(id.clone(), port)).await?;
                let item = found.ok_or_else(|| unknown_item(&id))?;
                Ok(vec![ServerEvent::ItemRetrieved { item: ItemObject::stored(item) }])
            }
            ClientEvent::ItemDelete(id) => {
                let deleted = self.ask(|port| SessionMsg::DeleteItem(id.clone(), port)).await?;
                deleted.map_err(|_| unknown_item(&id))?;
                Ok(vec![ServerEvent::ItemDeleted { item_id: id }])
            }
            ClientEvent::ItemTruncate(truncate) => self.truncate(truncate).await,
            ClientEvent::ResponseCreate(params) => self.respond(*params),
            ClientEvent::ResponseCancel(id) => self.cancel(id),
        }
    }

    fn update(&mut self, patch: SessionPatch) -> Answer {
        let patch = patch.without(self.locked.as_ref());
        let object = self.object.patched(patch, &self.offer, self.spoken_yet)?;
        self.fits(&object)?;
        self.intake.set_format(object.audio.input.format);
        self.mapper.set_view(view(&object));
        let settings = object.settings(&self.offer);
        self.tell(SessionMsg::Configure(Box::new(settings)));
        self.object = object;
        Ok(vec![ServerEvent::SessionUpdated { session: self.shown() }])
    }

    /// Settings that could not be repeated to the client are not taken: over a data channel a message has a
    /// limit, and instructions or tools can be longer.
    fn fits(&self, object: &SessionObject) -> Result<(), ErrorBody> {
        /// What an event has around its session.
        const AROUND: usize = 256;
        let max = self.transport.event_max();
        let bytes = serde_json::to_string(object).map_or(0, |text| text.len() + AROUND);
        if bytes <= max {
            return Ok(());
        }
        let param =
            if object.instructions.len() * 2 > bytes { "session.instructions" } else { "session.tools" };
        let message = format!(
            "Invalid '{param}': the session's settings would have {bytes} bytes, and a message on the data channel has {max}."
        );
        Err(ErrorBody::invalid("string_above_max_length", message, Some(param)))
    }

    async fn create_item(&mut self, item: WireItem, previous: Option<String>) -> Answer {
        let shown = function_item(&item)?;
        let item = checked_item(item)?;
        let place = match previous.as_deref() {
            None => Place::Last,
            Some("root") => Place::First,
            Some(id) => Place::After(id.to_owned()),
        };
        let placed = self.ask(|port| SessionMsg::AddItem(item.clone(), place, port)).await?;
        let previous_item_id = placed.map_err(|error| match error {
            ItemError::Unknown(_) => {
                ErrorBody::invalid("item_not_found", error.to_string(), Some("previous_item_id"))
            }
            ItemError::Duplicate(_) => ErrorBody::invalid("item_exists", error.to_string(), Some("item.id")),
        })?;
        let item = match shown {
            Some(body) => ItemObject { id: item.id, object: "realtime.item", status: "completed", body },
            None => ItemObject::stored(item),
        };
        Ok(vec![
            ServerEvent::ItemAdded { previous_item_id: previous_item_id.clone(), item: item.clone() },
            ServerEvent::ItemDone { previous_item_id, item },
        ])
    }

    /// The confirmation comes out of the log, in its place among what else happened.
    async fn truncate(&mut self, truncate: Truncate) -> Answer {
        let Truncate { item_id, content_index, audio_end_ms } = truncate;
        if content_index != 0 {
            let message = "Invalid 'content_index': items have one part, 0.";
            return Err(ErrorBody::invalid("invalid_value", message, Some("content_index")));
        }
        let result = self.ask(|port| SessionMsg::TruncateItem(item_id, audio_end_ms, port)).await?;
        match result {
            Ok(_) => Ok(Vec::new()),
            Err(error @ TruncateError::Unknown(_)) => {
                Err(ErrorBody::invalid("item_not_found", error.to_string(), Some("item_id")))
            }
            Err(error @ TruncateError::TooLong { .. }) => {
                Err(ErrorBody::invalid("invalid_value", error.to_string(), Some("audio_end_ms")))
            }
        }
    }

    fn respond(&mut self, mut params: ResponseParams) -> Answer {
        if self.object.only_listens() {
            let message = "This session only writes down what is said; nothing is answered in it.";
            return Err(ErrorBody::invalid("unsupported", message, Some("type")));
        }
        if let Some(locked) = &self.locked {
            // Not by this way either.
            params.instructions = params.instructions.filter(|_| locked.instructions.is_none());
            params.output_modalities =
                params.output_modalities.filter(|_| locked.output_modalities.is_none());
            params.tools = params.tools.filter(|_| locked.tools.is_none());
            params.tool_choice = params.tool_choice.filter(|_| locked.tool_choice.is_none());
        }
        if self.replying() {
            let name = self.mapper.active().unwrap_or("the one just asked for").to_owned();
            let message = format!("Conversation already has an active response in progress: {name}.");
            return Err(ErrorBody::invalid("conversation_already_has_active_response", message, None));
        }
        let (options, own) = checked_response(params, &self.object, self.offer.spec.prompt_chars_max)?;
        self.mapper.expect(own);
        self.reply_asked();
        // What was committed must have become words before the reply reads them.
        if self.commit_open {
            self.queued_reply = Some(Box::new(options));
        } else {
            self.tell(SessionMsg::Respond(Box::new(options)));
        }
        Ok(Vec::new())
    }

    fn cancel(&mut self, id: Option<String>) -> Answer {
        let named_another = id.is_some_and(|id| self.mapper.active() != Some(id.as_str()));
        if named_another || !self.replying() {
            let message = "Cancellation failed: no active response found";
            return Err(ErrorBody::invalid("response_cancel_not_active", message, None));
        }
        self.reply_unasked();
        self.tell(SessionMsg::Cancel);
        Ok(Vec::new())
    }

    pub(super) async fn ask<R: Send + 'static>(
        &self,
        message: impl FnOnce(RpcReplyPort<R>) -> SessionMsg,
    ) -> Result<R, ErrorBody> {
        match self.control.0.call(message, Some(ANSWER_WITHIN)).await {
            Ok(CallResult::Success(answer)) => Ok(answer),
            _ => Err(ErrorBody::server("session_unavailable", "The session did not answer; try again.")),
        }
    }
}

fn unknown_item(id: &str) -> ErrorBody {
    let shown: String = id.chars().take(ITEM_ID_MAX).collect();
    let message = format!("There is no item '{shown}' in this conversation.");
    ErrorBody::invalid("item_not_found", message, Some("item_id"))
}

/// How a call or its result is shown, if it is one.
fn function_item(item: &WireItem) -> Result<Option<ItemBody>, ErrorBody> {
    let needed = |field: &Option<String>, name: &str| {
        field.clone().ok_or_else(|| {
            let message = format!("Missing required parameter: 'item.{name}'.");
            ErrorBody::invalid("missing_required_parameter", message, Some(&format!("item.{name}")))
        })
    };
    Ok(match item.kind.as_str() {
        "function_call" => Some(ItemBody::FunctionCall {
            // A client that begins a conversation anew may have forgotten it.
            call_id: item
                .call_id
                .clone()
                .unwrap_or_else(|| format!("call_{:020x}", rand::random::<u128>() >> 48)),
            name: needed(&item.name, "name")?,
            arguments: needed(&item.arguments, "arguments")?,
        }),
        "function_call_output" => Some(ItemBody::FunctionCallOutput {
            call_id: needed(&item.call_id, "call_id")?,
            output: needed(&item.output, "output")?,
        }),
        _ => None,
    })
}

/// An item of words. Audio has to come with its transcript: what is not recognised here cannot be read.
fn checked_item(item: WireItem) -> Result<Item, ErrorBody> {
    let invalid =
        |message: String, param: &str| Err(ErrorBody::invalid("invalid_value", message, Some(param)));
    let item = words_of_functions(item);
    if item.kind != "message" {
        let message = format!("This server has no items of type '{}', only 'message'.", shown(&item.kind));
        return Err(ErrorBody::invalid("unsupported", message, Some("item.type")));
    }
    let Some(role) = item.role else {
        let message = "Missing required parameter: 'item.role'.";
        return Err(ErrorBody::invalid("missing_required_parameter", message, Some("item.role")));
    };
    let id = item.id.unwrap_or_else(|| format!("item_{:020x}", rand::random::<u128>() >> 48));
    if id.is_empty() || id.len() > ITEM_ID_MAX {
        return invalid(format!("Invalid 'item.id': 1 to {ITEM_ID_MAX} bytes."), "item.id");
    }
    let (mut text, mut spoken) = (String::new(), false);
    for (i, part) in item.content.into_iter().enumerate() {
        let param = format!("item.content[{i}]");
        let (kind, words) = match (role, part.kind.as_str()) {
            (Role::User | Role::System, "input_text") | (Role::Assistant, "output_text") => {
                ("text", part.text)
            }
            (Role::User, "input_audio") | (Role::Assistant, "output_audio") => {
                spoken = true;
                ("transcript", part.transcript)
            }
            (_, kind) => {
                let message = format!("Invalid '{param}.type': '{}' for this role.", shown(kind));
                return invalid(message, &format!("{param}.type"));
            }
        };
        let Some(words) = words else {
            let param = format!("{param}.{kind}");
            let message = format!("Missing required parameter: '{param}'; items are made of words here.");
            return Err(ErrorBody::invalid("missing_required_parameter", message, Some(&param)));
        };
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&words);
    }
    if text.trim().is_empty() {
        return invalid("Invalid 'item.content': it is empty.".into(), "item.content");
    }
    if text.len() > ITEM_TEXT_MAX {
        let message = format!("Invalid 'item.content': {} bytes are more than {ITEM_TEXT_MAX}.", text.len());
        return Err(ErrorBody::invalid("string_above_max_length", message, Some("item.content")));
    }
    Ok(Item { id, role, text, spoken, complete: true })
}

/// Calls and their results become words, since that is how the model reads them.
fn words_of_functions(item: WireItem) -> WireItem {
    let (role, kind, text) = match item.kind.as_str() {
        "function_call" => {
            let (name, arguments) = (item.name.as_deref(), item.arguments.as_deref());
            let call = tools::as_written(name.unwrap_or_default(), arguments.unwrap_or_default());
            (Role::Assistant, "output_text", call)
        }
        "function_call_output" => {
            (Role::User, "input_text", tools::result(item.output.as_deref().unwrap_or_default()))
        }
        _ => return item,
    };
    let part = WirePart { kind: kind.into(), text: Some(text), transcript: None };
    WireItem { kind: "message".into(), role: Some(role), content: vec![part], ..item }
}

fn shown(text: &str) -> String {
    text.chars().take(ITEM_ID_MAX).collect()
}

fn checked_response(
    params: ResponseParams,
    session: &SessionObject,
    prompt_chars_max: usize,
) -> Result<(ResponseOptions, Own), ErrorBody> {
    if params.conversation.as_deref().is_some_and(|c| c != "auto") {
        let message = "Replies outside the conversation are not supported; leave 'conversation' at 'auto'.";
        return Err(ErrorBody::invalid("unsupported", message, Some("response.conversation")));
    }
    if params.input.as_ref().is_some_and(|input| !input.is_empty()) {
        let message = "A reply reads the conversation; place items with 'conversation.item.create'.";
        return Err(ErrorBody::invalid("unsupported", message, Some("response.input")));
    }
    let modality = match &params.output_modalities {
        Some(m) => Some(checked_modality(m, "response.output_modalities")?),
        None => None,
    };
    let spoken = modality.map(|m| m == ["audio"]);
    let max_tokens = match params.max_output_tokens {
        Some(limit) => limit.checked("response.max_output_tokens")?,
        None => None,
    };
    let checked = |text| checked_instructions(text, prompt_chars_max, "response.instructions");
    let mut instructions = params.instructions.map(checked).transpose()?;
    let (mut grammar, mut calls) = (None, None);
    if instructions.is_some() || params.tools.is_some() || params.tool_choice.is_some() {
        let tools = params.tools.as_ref().unwrap_or(&session.tools);
        let choice = params.tool_choice.as_ref().unwrap_or(&session.tool_choice);
        let functions = Functions::read(tools, Some(choice), "response")?;
        let base = instructions.as_ref().unwrap_or(&session.instructions);
        functions.fit(base, prompt_chars_max, "response.tools")?;
        (instructions, grammar) = (Some(functions.instructions(base)), Some(functions.grammar()));
        calls = Some(functions.callable());
    }
    let options = ResponseOptions { instructions, max_tokens, spoken, grammar };
    Ok((options, Own { spoken, calls, metadata: params.metadata }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};
    use viva_actors::ports::SessionSpec;

    use super::*;
    use crate::edge::protocol::session_object::Offer;

    fn item(value: Value) -> Result<Item, ErrorBody> {
        checked_item(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn items_are_made_of_words() {
        let typed = json!({"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "one"}, {"type": "input_audio", "transcript": "two"}]});
        let made = item(typed).unwrap();
        assert_eq!((made.text.as_str(), made.spoken), ("one two", true));
        assert!(made.id.starts_with("item_"));
    }

    #[test]
    fn what_cannot_be_an_item_is_named() {
        let cases = [
            (json!({"type": "mcp_call"}), "item.type"),
            (json!({"type": "message", "content": []}), "item.role"),
            (json!({"type": "message", "role": "user", "content": []}), "item.content"),
            (
                json!({"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": "AA"}]}),
                "item.content[0].transcript",
            ),
            (
                json!({"type": "message", "role": "user", "content": [{"type": "output_text", "text": "x"}]}),
                "item.content[0].type",
            ),
        ];
        for (value, param) in cases {
            assert_eq!(item(value.clone()).unwrap_err().param.as_deref(), Some(param), "{value}");
        }
    }

    #[test]
    fn an_item_has_so_many_bytes_and_not_one_more() {
        let of = |n: usize| {
            item(json!({"type": "message", "role": "user",
                "content": [{"type": "input_text", "text": "x".repeat(n)}]}))
        };
        assert_eq!(of(ITEM_TEXT_MAX).unwrap().text.len(), ITEM_TEXT_MAX);
        assert_eq!(of(ITEM_TEXT_MAX + 1).unwrap_err().param.as_deref(), Some("item.content"));
        let named = |n: usize| {
            item(json!({"type": "message", "role": "user", "id": "i".repeat(n),
                "content": [{"type": "input_text", "text": "x"}]}))
        };
        assert!(named(ITEM_ID_MAX).is_ok());
        assert_eq!(named(ITEM_ID_MAX + 1).unwrap_err().param.as_deref(), Some("item.id"));
    }

    #[test]
    fn a_response_may_have_functions_of_its_own() {
        let offer = Offer {
            model: "m".into(),
            voices: vec!["v".into()],
            spec: SessionSpec::default(),
            session_s_max: 60,
        };
        let session = SessionObject::new("sess_1".into(), &offer, 0);
        let check = |value: Value| checked_response(serde_json::from_value(value).unwrap(), &session, 1_200);
        let offered = json!({"tools": [{"type": "function", "name": "f"}], "tool_choice": "auto"});
        let (options, _) = check(offered).unwrap();
        assert!(options.instructions.unwrap().contains("- f:") && options.grammar.flatten().is_some());
        let unknown = check(json!({"tool_choice": {"type": "function", "name": "f"}})).unwrap_err();
        assert_eq!(unknown.param.as_deref(), Some("response.tool_choice"));
        let quiet =
            check(json!({"tools": [{"type": "function", "name": "f"}], "tool_choice": "none"})).unwrap();
        assert_eq!(quiet.0.grammar, Some(None));
    }
}
