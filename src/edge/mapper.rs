//! From the session's log to the wire's events: a pure fold.
//!
//! Two rules of the house live here. What a caller says over our voice is not told while our voice is only
//! *held*: a client takes `speech_started` for an interruption and throws its playout away, so the event
//! waits until the reply is cut, and is forgotten when it was a cough. And our own event types go only to a
//! client that asked for them, because some clients raise on a type they do not know.

use viva_actors::event::{ItemId, LogEntry, Outcome, SessionEvent, TurnMetrics, Usage};
use viva_actors::turn::Endpointing;
use viva_actors::types::Epoch;
use viva_models::Role;

use super::protocol::server_events::{DurationUsage, TurnMetricsBody};
use super::protocol::session_object::Format;
use super::protocol::{ErrorBody, Ids, ItemObject, Part, ServerEvent};
use super::tools;

pub mod reply;

use reply::{Names, Place, Reply};

/// What of the session's settings shows in its responses.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// Replies are spoken.
    pub spoken: bool,
    /// Transcripts of the caller are wanted.
    pub transcription: bool,
    /// A reply may be a call of a function: what kind of item it is shows only when it begins.
    pub tools: bool,
    /// Format of our voice.
    pub format: Format,
    /// Its name.
    pub voice: String,
    /// `max_output_tokens`, as the wire shows it.
    pub max_output_tokens: serde_json::Value,
}

/// What one response has of its own.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Own {
    /// Spoken or written, in place of the session's.
    pub spoken: Option<bool>,
    /// Whether it may be a call of a function, in place of the session's.
    pub calls: Option<bool>,
    /// The client's metadata.
    pub metadata: Option<serde_json::Value>,
    /// `max_output_tokens` as the wire shows it, in place of the session's.
    pub max_output_tokens: Option<serde_json::Value>,
}

/// A session's log as the wire tells it.
pub struct Mapper {
    conversation_id: String,
    extended: bool,
    /// Our voice travels beside the events: they say where it begins and ends.
    apart: bool,
    view: View,
    own: Option<Own>,
    interruptible: bool,
    manual: bool,
    reply: Option<Reply>,
    last_reply: Option<Names>,
    held_back: Vec<ServerEvent>,
    caption: Option<Caption>,
}

/// The caller's words of one item, as far as they are told.
struct Caption {
    item: ItemId,
    told: String,
    waiting: Vec<String>,
}

impl Mapper {
    /// A fold at the start of a log. `extended` lets our own events through.
    pub fn new(conversation_id: String, extended: bool, view: View) -> Self {
        Self {
            conversation_id,
            extended,
            apart: false,
            view,
            own: None,
            interruptible: true,
            manual: false,
            reply: None,
            last_reply: None,
            held_back: Vec::new(),
            caption: None,
        }
    }

    /// The settings changed.
    pub fn set_view(&mut self, view: View) {
        self.view = view;
    }

    /// Our voice travels beside the events from now on, or in them.
    pub fn set_audio_apart(&mut self, apart: bool) {
        self.apart = apart;
        if let Some(reply) = &mut self.reply {
            // Told again over the transport that carries it now.
            reply.heard = false;
        }
    }

    /// The next response was asked for with settings of its own.
    pub fn expect(&mut self, own: Own) {
        self.own = Some(own);
    }

    /// It is not wanted any more.
    pub fn unexpect(&mut self) {
        self.own = None;
    }

    /// The response under way.
    pub fn active(&self) -> Option<&str> {
        self.reply.as_ref().map(|r| r.names.response.as_str())
    }

    /// The wire's events of one line of the log, in order.
    pub fn event(&mut self, entry: &LogEntry) -> Vec<ServerEvent> {
        let mut out = Vec::new();
        self.fold(entry, &mut out);
        if !self.extended {
            out.retain(|e| !e.is_extended());
        }
        out
    }

    /// Where a frame of our voice belongs, with the events that come before it. None for a frame of a reply
    /// that is over.
    pub fn audio(&mut self, epoch: Epoch) -> Option<(Vec<ServerEvent>, &Ids)> {
        let reply = self.reply.as_mut().filter(|r| r.names.epoch == epoch)?;
        let mut out = Vec::new();
        reply.open_part(&mut out);
        if self.apart && !std::mem::replace(&mut reply.heard, true) {
            out.push(ServerEvent::AudioBufferStarted { response_id: reply.names.response.clone() });
        }
        Some((out, &reply.ids))
    }

    /// What was sent of this reply and not played yet is void; so much was sent.
    pub fn flush(&mut self, epoch: Epoch, sent_ms: u64) -> Vec<ServerEvent> {
        let current = self.reply.as_ref().map(|r| &r.names);
        let names = current.into_iter().chain(&self.last_reply).find(|n| n.epoch == epoch).cloned();
        let Some(names) = names else { return Vec::new() };
        if !self.apart {
            let clear = ServerEvent::PlaybackClear { item_id: names.item };
            return if self.extended { vec![clear] } else { Vec::new() };
        }
        let heard =
            self.reply.as_mut().is_some_and(|r| r.names.epoch == epoch && std::mem::take(&mut r.heard));
        if !heard {
            return Vec::new();
        }
        let audio_end_ms = self.extended.then_some(sent_ms);
        vec![ServerEvent::AudioBufferCleared { response_id: names.response, audio_end_ms }]
    }

    fn fold(&mut self, entry: &LogEntry, out: &mut Vec<ServerEvent>) {
        match &entry.event {
            SessionEvent::Opened { turn, .. } | SessionEvent::Configured { turn } => {
                self.interruptible = turn.interrupt_response;
                self.manual = turn.endpointing == Endpointing::Manual;
            }
            SessionEvent::SpeechStarted { at, item } => {
                let event = ServerEvent::SpeechStarted { audio_start_ms: at.ms(), item_id: item.clone() };
                self.speech(event, out);
            }
            SessionEvent::SpeechStopped { at, item } => {
                let event = ServerEvent::SpeechStopped { audio_end_ms: at.ms(), item_id: item.clone() };
                self.speech(event, out);
            }
            SessionEvent::Resumed { .. } => self.held_back.clear(),
            SessionEvent::Dismissed { .. } => {
                self.held_back.clear();
                self.caption = None;
            }
            SessionEvent::CallerWords { item, delta } => self.caller_words(item, delta, out),
            SessionEvent::TurnEnded { item, previous, text, audio_ms, .. } => {
                self.turn_ended(item, previous.clone(), text, *audio_ms, out);
            }
            SessionEvent::HearingFailed { item, message } => {
                self.caption = None;
                if self.view.transcription {
                    out.push(ServerEvent::TranscriptionFailed {
                        item_id: item.clone(),
                        content_index: 0,
                        error: ErrorBody {
                            kind: "transcription_error",
                            ..ErrorBody::server("audio_unintelligible", message.clone())
                        },
                    });
                }
            }
            SessionEvent::ReplyStarted { epoch, response, item, previous } => {
                let names = Names { epoch: *epoch, response: response.clone(), item: item.clone() };
                self.reply_started(names, previous.clone(), out);
            }
            SessionEvent::ReplyText { epoch, delta } => self.reply_text(*epoch, delta, out),
            SessionEvent::ReplyCalls { epoch, call } => {
                if let Some(reply) = self.reply.as_mut().filter(|r| r.names.epoch == *epoch) {
                    reply.call = tools::call(call);
                }
            }
            SessionEvent::ReplyEnded { epoch, outcome, heard, usage, .. } => {
                self.reply_ended(*epoch, outcome, heard, *usage, out);
            }
            SessionEvent::Truncated { item, audio_ms, .. } => out.push(ServerEvent::ItemTruncated {
                item_id: item.clone(),
                content_index: 0,
                audio_end_ms: *audio_ms,
            }),
            SessionEvent::Measured { metrics, heard, said } => out.push(self.measured(metrics, heard, said)),
            SessionEvent::State { state } => out.push(ServerEvent::State { state: state.clone() }),
            SessionEvent::Directed { news } => {
                out.push(ServerEvent::Interview { interview: news.clone() });
            }
            SessionEvent::StageRestarted { stage, reason } => {
                out.push(ServerEvent::StageRestarted { stage: stage.name(), reason: reason.clone() });
            }
            SessionEvent::Trouble { code, message } => {
                out.push(ServerEvent::Error { error: ErrorBody::server(code, message.clone()) });
            }
            // What is decided shows in its consequences; while our voice is held nothing is told.
            SessionEvent::Decided { .. }
            | SessionEvent::ReplyAudible { .. }
            | SessionEvent::Held { .. }
            | SessionEvent::Line { .. }
            | SessionEvent::Ended { .. } => {}
        }
    }

    /// Speech over our voice waits for the verdict. A client that finds turns by itself is told nothing.
    fn speech(&mut self, event: ServerEvent, out: &mut Vec<ServerEvent>) {
        if self.manual {
            return;
        }
        if self.reply.is_some() && self.interruptible {
            self.held_back.push(event);
        } else {
            out.append(&mut self.held_back);
            out.push(event);
        }
    }

    fn caller_words(&mut self, item: &ItemId, delta: &str, out: &mut Vec<ServerEvent>) {
        if !self.view.transcription {
            return;
        }
        if self.caption.as_ref().is_none_or(|c| c.item != *item) {
            self.caption = Some(Caption { item: item.clone(), told: String::new(), waiting: Vec::new() });
        }
        let Some(caption) = &mut self.caption else { return };
        caption.told.push_str(delta);
        // The protocol's clients know an item only from its commit on; ours want captions at once.
        if self.extended && self.held_back.is_empty() {
            out.push(transcription_delta(item, delta.to_owned()));
        } else {
            caption.waiting.push(delta.to_owned());
        }
    }

    fn turn_ended(
        &mut self,
        item: &ItemId,
        previous: Option<ItemId>,
        text: &str,
        audio_ms: u64,
        out: &mut Vec<ServerEvent>,
    ) {
        out.append(&mut self.held_back);
        let object = |transcript: Option<String>| {
            ItemObject::message(item.clone(), Role::User, "completed", vec![Part::InputAudio { transcript }])
        };
        out.push(ServerEvent::Committed { previous_item_id: previous.clone(), item_id: item.clone() });
        out.push(ServerEvent::ItemAdded { previous_item_id: previous.clone(), item: object(None) });
        let caption = self.caption.take().filter(|c| c.item == *item);
        if self.view.transcription {
            let told = caption.as_ref().map_or("", |c| c.told.as_str());
            let rest = text.strip_prefix(told).unwrap_or_default();
            let waiting = caption.as_ref().map_or(&[][..], |c| &c.waiting);
            for delta in waiting.iter().map(String::as_str).chain([rest]).filter(|d| !d.is_empty()) {
                out.push(transcription_delta(item, delta.to_owned()));
            }
            out.push(ServerEvent::TranscriptionCompleted {
                item_id: item.clone(),
                content_index: 0,
                transcript: text.to_owned(),
                usage: DurationUsage::of_ms(audio_ms),
            });
        }
        let transcript = self.view.transcription.then(|| text.to_owned());
        out.push(ServerEvent::ItemDone { previous_item_id: previous, item: object(transcript) });
    }

    fn reply_started(&mut self, names: Names, previous: Option<ItemId>, out: &mut Vec<ServerEvent>) {
        let own = self.own.take().unwrap_or_default();
        let calls = own.calls.unwrap_or(self.view.tools);
        let place = Place { conversation: Some(self.conversation_id.clone()), previous };
        let mut reply = Reply::new(names, place, own, &self.view);
        reply.begin(&self.view, calls, out);
        self.reply = Some(reply);
    }

    fn reply_text(&mut self, epoch: Epoch, delta: &str, out: &mut Vec<ServerEvent>) {
        if let Some(reply) = self.reply.as_mut().filter(|r| r.names.epoch == epoch) {
            reply.text(delta, out);
        }
    }

    fn reply_ended(
        &mut self,
        epoch: Epoch,
        outcome: &Outcome,
        heard: &str,
        usage: Usage,
        out: &mut Vec<ServerEvent>,
    ) {
        let Some(mut reply) = self.reply.take_if(|r| r.names.epoch == epoch) else { return };
        self.last_reply = Some(reply.names.clone());
        // An interruption is now decided, or our voice ended under what the caller says.
        out.append(&mut self.held_back);
        reply.end(outcome, heard, usage, &self.view, out);
        // How much is left is known to whoever tells it.
        out.push(ServerEvent::RateLimits { rate_limits: Vec::new() });
    }

    fn measured(&self, m: &TurnMetrics, heard: &str, said: &str) -> ServerEvent {
        let current = self.reply.as_ref().map(|r| &r.names);
        let names = current.into_iter().chain(&self.last_reply).find(|n| n.epoch.turn == m.turn);
        ServerEvent::TurnMetrics(Box::new(TurnMetricsBody {
            turn: m.turn,
            item_id: names.map(|n| n.item.clone()),
            response_id: names.map(|n| n.response.clone()),
            heard: heard.to_owned(),
            said: said.to_owned(),
            endpoint_ms: m.endpoint_ms,
            asr_final_ms: m.asr_final_ms,
            llm_first_token_ms: m.llm_first_token_ms,
            first_sentence_ms: m.first_sentence_ms,
            first_audio_ms: m.first_audio_ms,
            voice_to_voice_ms: m.voice_to_voice_ms,
            prompt_tokens: m.prompt_tokens,
            reused_tokens: m.reused_tokens,
            discarded_drafts: m.discarded_drafts,
        }))
    }
}

fn transcription_delta(item: &ItemId, delta: String) -> ServerEvent {
    ServerEvent::TranscriptionDelta { item_id: item.clone(), content_index: 0, delta }
}

#[cfg(test)]
mod tests;
