//! Conversation items as the wire shows and takes them.

use serde::{Deserialize, Serialize};
use viva_actors::conversation::Item;
use viva_models::Role;

/// An item on its way out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ItemObject {
    /// Its name.
    pub id: String,
    /// Always `realtime.item`.
    pub object: &'static str,
    /// Always `message`: there are no other items of ours.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `in_progress`, `completed` or `incomplete`.
    pub status: &'static str,
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: Vec<Part>,
}

/// One part of an item's content.
#[derive(Debug, Clone, PartialEq, Serialize)]
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
#[derive(Debug, Clone, PartialEq, Serialize)]
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
        Self { id, object: "realtime.item", kind: "message", status, role, content }
    }

    /// A stored item. A spoken one shows its words only: we keep no audio of the conversation to send back.
    pub fn stored(item: Item) -> Self {
        let Item { id, role, text, spoken, complete } = item;
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
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct WireItem {
    /// Its name; one is made where none is given.
    #[serde(default)]
    pub id: Option<String>,
    /// `message`; other kinds are refused.
    #[serde(rename = "type")]
    pub kind: String,
    /// Who says it; every message has one.
    #[serde(default)]
    pub role: Option<Role>,
    /// Its parts.
    #[serde(default)]
    pub content: Vec<WirePart>,
}

/// A part of it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
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
