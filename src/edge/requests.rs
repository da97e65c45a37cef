//! What a client asks for, one function a kind of event. Everything it gets wrong is answered with an error
//! that names the field and the client's own event; the call goes on.

use std::time::Duration;

use ractor::RpcReplyPort;
use ractor::rpc::CallResult;
use viva_actors::conversation::{ItemError, Place};
use viva_actors::ports::{ResponseOptions, SessionMsg, TruncateError};

use super::call::{Call, view};
use super::mapper::Own;
use super::protocol::client_events::{ResponseParams, Truncate};
use super::protocol::session_object::{Functions, checked_instructions, checked_modality};
use super::protocol::{
    ClientEvent, ErrorBody, ItemObject, Parsed, ServerEvent, SessionObject, SessionPatch, WireItem, parse,
};
use super::sideband::Asker;
use super::transport::{Lost, Transport};

mod beside;
mod items;

use items::{checked_item, function_item, shown};

/// A session answers in microseconds; one that takes this long is about to be restarted or gone.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// What answers a request: events in order.
type Answer = Result<Vec<ServerEvent>, ErrorBody>;

impl<T: Transport + 'static> Call<T> {
    /// Reads one message of a line and does what it asks. What changes the session is told to all, the rest to whoever
    /// asked.
    pub(super) async fn request(&mut self, asker: Asker, text: &str) -> Result<(), Lost> {
        let Parsed { event_id, event } = parse(text);
        let answer = match event {
            Ok(event) => self.answer(asker, event).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(events) => {
                for event in events {
                    match event {
                        ServerEvent::ItemRetrieved { .. } => self.say_to(asker, event).await?,
                        _ => self.say(event).await?,
                    }
                }
                Ok(())
            }
            Err(error) => {
                let error = ErrorBody { event_id, ..error };
                self.say_to(asker, ServerEvent::Error { error }).await
            }
        }
    }

    async fn answer(&mut self, asker: Asker, event: ClientEvent<'_>) -> Answer {
        match event {
            ClientEvent::SessionUpdate(patch) => self.update(asker, *patch),
            ClientEvent::Append(_) if asker != Asker::Caller => Err(ErrorBody::invalid(
                "unsupported",
                "Audio is the caller's; a sideband has none.",
                Some("type"),
            )),
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
            ClientEvent::ResponseCreate(params) => self.respond(asker, *params).await,
            ClientEvent::ResponseCancel(id) => self.cancel(asker, id),
        }
    }

    fn update(&mut self, asker: Asker, patch: SessionPatch) -> Answer {
        let patch = patch.without(self.locked.as_ref().filter(|_| self.bound(asker)));
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
        let shown = function_item(&item, "item")?;
        let item = checked_item(item, "item")?;
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

    async fn respond(&mut self, asker: Asker, mut params: ResponseParams) -> Answer {
        if self.object.only_listens() {
            let message = "This session only writes down what is said; nothing is answered in it.";
            return Err(ErrorBody::invalid("unsupported", message, Some("type")));
        }
        if let Some(locked) = self.locked.as_ref().filter(|_| self.bound(asker)) {
            // Not by this way either.
            params.instructions = params.instructions.filter(|_| locked.instructions.is_none());
            params.output_modalities =
                params.output_modalities.filter(|_| locked.output_modalities.is_none());
            params.tools = params.tools.filter(|_| locked.tools.is_none());
            params.tool_choice = params.tool_choice.filter(|_| locked.tool_choice.is_none());
        }
        if params.conversation.as_deref() == Some("none") {
            return self.respond_beside(asker, params).await;
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

    fn cancel(&mut self, asker: Asker, id: Option<String>) -> Answer {
        if id.as_deref().is_some_and(|id| self.beside.cancel(asker, id)) {
            return Ok(Vec::new());
        }
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
    let message = format!("There is no item '{}' in this conversation.", shown(id));
    ErrorBody::invalid("item_not_found", message, Some("item_id"))
}

fn checked_response(
    params: ResponseParams,
    session: &SessionObject,
    prompt_chars_max: usize,
) -> Result<(ResponseOptions, Own), ErrorBody> {
    if params.conversation.as_deref().is_some_and(|c| c != "auto" && c != "none") {
        let message = "Invalid 'response.conversation': it is auto or none.";
        return Err(ErrorBody::invalid("invalid_value", message, Some("response.conversation")));
    }
    if params.input.as_ref().is_some_and(|input| !input.is_empty()) {
        let message = "A reply of the conversation reads the conversation: place items with                        'conversation.item.create', or set 'conversation' to 'none'.";
        return Err(ErrorBody::invalid("unsupported", message, Some("response.input")));
    }
    let modality = match &params.output_modalities {
        Some(m) => Some(checked_modality(m, "response.output_modalities")?),
        None => None,
    };
    let spoken = modality.map(|m| m == ["audio"]);
    let max_output_tokens = params.max_output_tokens.and_then(|limit| serde_json::to_value(limit).ok());
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
    Ok((options, Own { spoken, calls, metadata: params.metadata, max_output_tokens }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};
    use viva_actors::ports::SessionSpec;

    use super::*;
    use crate::edge::protocol::session_object::Offer;

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
