//! One response as the wire tells it: what it is made of, in the order that clients expect.
//!
//! A response of the conversation is told from the session's log ([`super::Mapper`]); one beside it from the text that
//! is being written for it ([`crate::edge::out_of_band`]). Only the first has an item that others can name.

use serde_json::Value;
use viva_actors::event::{ItemId, Outcome, Usage};
use viva_actors::turn::CutReason;
use viva_actors::types::Epoch;
use viva_models::Role;

use super::{Own, View};
use crate::edge::protocol::items::{ItemBody, ResponsePart};
use crate::edge::protocol::server_events::{
    ResponseAudio, ResponseAudioOutput, ResponseObject, StatusDetails, StatusError,
};
use crate::edge::protocol::{Ids, ItemObject, Part, ServerEvent};
use crate::edge::tools::Call;

/// What a response and its item are called.
#[derive(Debug, Clone)]
pub struct Names {
    /// By the session; the default for one beside the conversation, of which the session knows nothing.
    pub epoch: Epoch,
    /// `resp_…`.
    pub response: String,
    /// `item_…`.
    pub item: ItemId,
}

/// Where a response stands.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// In which conversation; none for one beside it.
    pub conversation: Option<String>,
    /// After which item of it.
    pub previous: Option<ItemId>,
}

/// A response under way.
pub struct Reply {
    /// Its names.
    pub names: Names,
    /// The same with its one item and part.
    pub ids: Ids,
    /// The function it calls, once that is known.
    pub call: Option<Call>,
    /// It is being heard, over a transport that carries audio apart.
    pub heard: bool,
    place: Place,
    /// The client knows of the item.
    added: bool,
    spoken: bool,
    metadata: Option<Value>,
    max_output_tokens: Option<Value>,
    part_open: bool,
}

impl Reply {
    /// A response of which nothing is told yet.
    pub fn new(names: Names, place: Place, own: Own, view: &View) -> Self {
        let ids = Ids {
            response_id: names.response.clone(),
            item_id: names.item.clone(),
            output_index: 0,
            content_index: 0,
        };
        Self {
            names,
            ids,
            call: None,
            heard: false,
            place,
            added: false,
            spoken: own.spoken.unwrap_or(view.spoken),
            metadata: own.metadata,
            max_output_tokens: own.max_output_tokens,
            part_open: false,
        }
    }

    /// It begins. What kind of item one has that may be a call (`calls`) shows later.
    pub fn begin(&mut self, view: &View, calls: bool, out: &mut Vec<ServerEvent>) {
        let response = self.object(view, "in_progress", None, Vec::new(), None);
        out.push(ServerEvent::ResponseCreated { response: Box::new(response) });
        if !calls {
            self.add_item(out);
        }
    }

    /// More of its words.
    pub fn text(&mut self, delta: &str, out: &mut Vec<ServerEvent>) {
        self.open_part(out);
        let (ids, delta) = (self.ids.clone(), delta.to_owned());
        out.push(if self.spoken {
            ServerEvent::SpokenDelta { ids, delta }
        } else {
            ServerEvent::TextDelta { ids, delta }
        });
    }

    /// It is over; `heard` are its words.
    pub fn end(
        &mut self,
        outcome: &Outcome,
        heard: &str,
        usage: Usage,
        view: &View,
        out: &mut Vec<ServerEvent>,
    ) {
        let item_status = if *outcome == Outcome::Completed { "completed" } else { "incomplete" };
        self.add_item(out);
        self.call_told(out);
        let item = self.item(item_status, self.part_open.then_some(heard));
        if self.part_open {
            self.close_part(heard, out);
        }
        if self.place.conversation.is_some() {
            let previous_item_id = self.place.previous.clone();
            out.push(ServerEvent::ItemDone { previous_item_id, item: item.clone() });
        }
        out.push(ServerEvent::OutputItemDone {
            response_id: self.names.response.clone(),
            output_index: 0,
            item: item.clone(),
        });
        let (status, details) = status_of(outcome);
        let response = self.object(view, status, Some(details), vec![item], Some(usage));
        out.push(ServerEvent::ResponseDone { response: Box::new(response) });
        if self.heard {
            out.push(ServerEvent::AudioBufferStopped { response_id: self.names.response.clone() });
        }
    }

    fn object(
        &self,
        view: &View,
        status: &'static str,
        status_details: Option<StatusDetails>,
        output: Vec<ItemObject>,
        usage: Option<Usage>,
    ) -> ResponseObject {
        let tokens = self.max_output_tokens.as_ref();
        ResponseObject {
            object: "realtime.response",
            id: self.names.response.clone(),
            conversation_id: self.place.conversation.clone(),
            status,
            status_details,
            output,
            output_modalities: [if self.spoken { "audio" } else { "text" }],
            audio: ResponseAudio {
                output: ResponseAudioOutput { format: view.format, voice: view.voice.clone() },
            },
            usage: usage.map(Into::into),
            metadata: self.metadata.clone(),
            max_output_tokens: tokens.unwrap_or(&view.max_output_tokens).clone(),
        }
    }

    fn part(&self, text: String) -> ResponsePart {
        if self.spoken { ResponsePart::Audio { transcript: text } } else { ResponsePart::Text { text } }
    }

    /// Tells of the item, once.
    fn add_item(&mut self, out: &mut Vec<ServerEvent>) {
        if std::mem::replace(&mut self.added, true) {
            return;
        }
        let item = match &self.call {
            Some(call) => {
                ItemObject::call(self.names.item.clone(), "in_progress", call.name.clone(), String::new())
            }
            None => self.item("in_progress", None),
        };
        let response_id = self.names.response.clone();
        out.push(ServerEvent::OutputItemAdded { response_id, output_index: 0, item: item.clone() });
        if self.place.conversation.is_some() {
            out.push(ServerEvent::ItemAdded { previous_item_id: self.place.previous.clone(), item });
        }
    }

    /// Tells what the function is called with.
    fn call_told(&self, out: &mut Vec<ServerEvent>) {
        let (Some(call), ItemBody::FunctionCall { call_id, .. }) = (&self.call, self.item("", None).body)
        else {
            return;
        };
        let (response_id, item_id) = (self.names.response.clone(), self.names.item.clone());
        let Call { name, arguments } = call.clone();
        out.push(ServerEvent::ArgumentsDelta {
            response_id: response_id.clone(),
            item_id: item_id.clone(),
            output_index: 0,
            call_id: call_id.clone(),
            delta: arguments.clone(),
        });
        out.push(ServerEvent::ArgumentsDone {
            response_id,
            item_id,
            output_index: 0,
            call_id,
            name,
            arguments,
        });
    }

    /// Tells that its words begin, once.
    pub fn open_part(&mut self, out: &mut Vec<ServerEvent>) {
        self.add_item(out);
        if !self.part_open {
            self.part_open = true;
            out.push(ServerEvent::PartAdded { ids: self.ids.clone(), part: self.part(String::new()) });
        }
    }

    fn close_part(&self, text: &str, out: &mut Vec<ServerEvent>) {
        if self.spoken {
            out.push(ServerEvent::AudioDone { ids: self.ids.clone() });
            out.push(ServerEvent::SpokenDone { ids: self.ids.clone(), transcript: text.to_owned() });
        } else {
            out.push(ServerEvent::TextDone { ids: self.ids.clone(), text: text.to_owned() });
        }
        out.push(ServerEvent::PartDone { ids: self.ids.clone(), part: self.part(text.to_owned()) });
    }

    /// The item. While it is being made it has no content: that is what the protocol's text says.
    fn item(&self, status: &'static str, text: Option<&str>) -> ItemObject {
        if let Some(Call { name, arguments }) = self.call.clone().filter(|_| !self.part_open) {
            return ItemObject::call(self.names.item.clone(), status, name, arguments);
        }
        let content = text.map(|text| match self.spoken {
            true => Part::OutputAudio { transcript: text.to_owned() },
            false => Part::OutputText { text: text.to_owned() },
        });
        ItemObject::message(self.names.item.clone(), Role::Assistant, status, content.into_iter().collect())
    }
}

fn status_of(outcome: &Outcome) -> (&'static str, StatusDetails) {
    let details = |kind, reason| StatusDetails { kind, reason, error: None };
    match outcome {
        Outcome::Completed => ("completed", details("completed", None)),
        Outcome::Incomplete => ("incomplete", details("incomplete", Some("max_output_tokens"))),
        Outcome::Shortened => ("incomplete", details("incomplete", None)),
        Outcome::Cut(CutReason::BargeIn | CutReason::CallerWentOn) => {
            ("cancelled", details("cancelled", Some("turn_detected")))
        }
        Outcome::Cut(CutReason::Client) => ("cancelled", details("cancelled", Some("client_cancelled"))),
        Outcome::Failed(why) => {
            let error =
                StatusError { kind: "server_error", code: "reply_failed".into(), message: why.clone() };
            ("failed", StatusDetails { kind: "failed", reason: None, error: Some(error) })
        }
    }
}
