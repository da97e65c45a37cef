//! Sessions that only write down what is said: no reply, no voice.

use serde::Serialize;
use utoipa::ToSchema;

use super::{InputObject, SessionObject, Transcription};

/// What a session of this kind is called.
pub const TRANSCRIPTION: &str = "transcription";

/// A session's settings as its client sees them, by its kind.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum ShownSession {
    /// A conversation.
    Realtime(Box<SessionObject>),
    /// One that only listens.
    Transcription(Box<TranscriptionObject>),
}

/// The settings of a session that only listens.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[allow(missing_docs)] // The fields are the protocol's.
pub struct TranscriptionObject {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub object: &'static str,
    pub id: String,
    pub include: Option<Vec<String>>,
    pub expires_at: u64,
    pub audio: TranscriptionAudio,
}

/// Its one direction.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TranscriptionAudio {
    /// How the caller is heard.
    pub input: InputObject,
}

impl SessionObject {
    /// The same for a session that only listens; transcripts are what it is for.
    pub fn into_transcription(mut self) -> Self {
        (self.kind, self.object) = (TRANSCRIPTION, "realtime.transcription_session");
        self.audio.input.transcription.get_or_insert_with(Transcription::default);
        self
    }

    /// Whether it only listens.
    pub fn only_listens(&self) -> bool {
        self.kind == TRANSCRIPTION
    }

    /// As its client sees it.
    pub fn shown(self) -> ShownSession {
        if !self.only_listens() {
            return ShownSession::Realtime(Box::new(self));
        }
        let Self { kind, object, id, include, expires_at, audio, .. } = self;
        let audio = TranscriptionAudio { input: audio.input };
        ShownSession::Transcription(Box::new(TranscriptionObject {
            kind,
            object,
            id,
            include,
            expires_at,
            audio,
        }))
    }
}
