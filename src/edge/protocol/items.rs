//! Conversation items as the wire shows and takes them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use viva_actors::conversation::Item;
use viva_models::Role;

use crate::edge::tools::{self, Call};

/// An item on its way out.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ItemObject {
    /// Its name.
    pub id: String,
    /// Always `realtime.item`.
    pub object: &'static str,
    /// `in_progress`, `completed` or `incomplete`.
    pub status: &'static str,
    /// What it is.
    #[serde(flatten)]
    pub body: ItemBody,
}

/// What an item is.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ItemBody {
    /// Something said.
    Message {
        /// Who says it.
        #[schema(value_type = String)]
        role: Role,
        /// What is said.
        content: Vec<Part>,
    },
    /// The model calls one of the client's functions.
    FunctionCall {
        /// What its result will name.
        call_id: String,
        /// Which function.
        name: String,
        /// JSON.
        arguments: String,
    },
    /// What a function gave.
    FunctionCallOutput {
        /// Of which call.
        call_id: String,
        /// Text, usually JSON.
        output: String,
    },
}

/// One part of an item's content.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Part {
    /// Typed by the caller or the client.
    InputText {
        /// The text.
        text: String,
    },
    /// Spoken by the caller. The audio itself is never sent back.
    InputAudio {
        /// What was heard; none while it is not known.
        transcript: Option<String>,
    },
    /// Written by us.
    OutputText {
        /// The text.
        text: String,
    },
    /// Spoken by us.
    OutputAudio {
        /// What the caller heard of it.
        transcript: String,
    },
}

/// The content part of `response.content_part.*`, whose types have other names than an item's.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ResponsePart {
    /// Written.
    Text {
        /// The text so far.
        text: String,
    },
    /// Spoken.
    Audio {
        /// The words so far.
        transcript: String,
    },
}

impl ItemObject {
    /// A message.
    pub fn message(id: String, role: Role, status: &'static str, content: Vec<Part>) -> Self {
        Self { id, object: "realtime.item", status, body: ItemBody::Message { role, content } }
    }

    /// A call of a function. Its own name follows from the item's, so that it is the same whenever it is shown.
    pub fn call(id: String, status: &'static str, name: String, arguments: String) -> Self {
        let call_id = format!("call_{}", id.trim_start_matches("item_"));
        Self {
            id,
            object: "realtime.item",
            status,
            body: ItemBody::FunctionCall { call_id, name, arguments },
        }
    }

    /// A stored item. A spoken one shows its words only: we keep no audio of the conversation to send back.
    pub fn stored(item: Item) -> Self {
        let Item { id, role, text, spoken, complete } = item;
        if role == Role::Assistant
            && !spoken
            && let Some(Call { name, arguments }) = tools::call(&text)
        {
            return Self::call(id, "completed", name, arguments);
        }
        let part = match (role, spoken) {
            (Role::Assistant, true) => Part::OutputAudio { transcript: text },
            (Role::Assistant, false) => Part::OutputText { text },
            (Role::User, true) => Part::InputAudio { transcript: Some(text) },
            (Role::User | Role::System, _) => Part::InputText { text },
        };
        Self::message(id, role, if complete { "completed" } else { "incomplete" }, vec![part])
    }
}

/// An item a client wants to place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WireItem {
    /// Its name; one is made where none is given.
    #[serde(default)]
    pub id: Option<String>,
    /// `message`, `function_call` or `function_call_output`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Who says it; every message has one.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub role: Option<Role>,
    /// Its parts.
    #[serde(default)]
    pub content: Vec<WirePart>,
    /// For calls and their results.
    #[serde(default)]
    pub call_id: Option<String>,
    /// For calls.
    #[serde(default)]
    pub name: Option<String>,
    /// For calls: JSON.
    #[serde(default)]
    pub arguments: Option<String>,
    /// For results.
    #[serde(default)]
    pub output: Option<String>,
}

/// A part of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WirePart {
    /// `input_text`, `input_audio`, `output_text` or `output_audio`.
    #[serde(rename = "type")]
    pub kind: String,
    /// For text.
    #[serde(default)]
    pub text: Option<String>,
    /// For audio: without it the part is refused, since only words can enter the conversation this way.
    #[serde(default)]
    pub transcript: Option<String>,
}
