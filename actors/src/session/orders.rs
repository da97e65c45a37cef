//! What an edge orders, carried out.

use viva_models::Role;

use crate::event::SessionEvent;
use crate::ledger::Certainty;
use crate::playout::Command;
use crate::ports::{Line, SessionMsg, SessionSettings, TruncateError};
use crate::turn::Input;
use crate::{asr, enhancer, vad};

use super::State;

impl State {
    pub(super) fn order(&mut self, msg: SessionMsg) {
        match msg {
            SessionMsg::Configure(settings) => self.configure(*settings),
            SessionMsg::CommitAudio => self.tell(Input::CommitAsked),
            SessionMsg::ClearAudio => self.tell(Input::ClearAsked),
            SessionMsg::Respond(options) => {
                if !self.machine.replying() {
                    self.options = *options;
                    self.tell(Input::ReplyAsked);
                }
            }
            SessionMsg::Cancel => self.tell(Input::CancelAsked),
            // A reply port whose edge is gone has nobody to disappoint.
            SessionMsg::AddItem(item, place, reply) => {
                let placed = self.conversation.insert(item, place);
                reply.send(placed).ok();
            }
            SessionMsg::DeleteItem(id, reply) => {
                let removed = self.conversation.remove(&id).map(|_| ());
                reply.send(removed).ok();
            }
            SessionMsg::GetItem(id, reply) => {
                reply.send(self.conversation.get(&id).cloned()).ok();
            }
            SessionMsg::GetItems(reply) => {
                reply.send(self.conversation.items().to_vec()).ok();
            }
            SessionMsg::TruncateItem(id, ms, reply) => {
                let truncated = self.truncate(&id, ms);
                reply.send(truncated).ok();
            }
            SessionMsg::Settled(reply) => {
                reply.send(()).ok();
            }
            SessionMsg::Log(reply) => {
                reply.send(self.log.clone()).ok();
            }
            SessionMsg::Line(line) => {
                self.playout(match line {
                    Line::Lost { unheard_ms } => Command::Away { unheard_ms },
                    Line::Back { lead_ms } => Command::Here { lead_ms },
                });
                self.log(SessionEvent::Line { line });
            }
            SessionMsg::Hangup(reason) => self.closing = Some(reason),
            #[cfg(any(test, feature = "testkit"))]
            SessionMsg::Panic(stage) => self.graph.panic(stage),
            SessionMsg::Internal(_) => {}
        }
    }

    fn configure(&mut self, settings: SessionSettings) {
        let old = std::mem::replace(&mut self.settings, settings);
        let new = &self.settings;
        if old.turn != new.turn {
            self.machine.configure(new.turn.clone());
            let turn = new.turn.clone();
            self.log(SessionEvent::Configured { turn });
        }
        let new = &self.settings;
        if (&old.language, old.quality) != (&new.language, new.quality) {
            self.soil.submitter.want(super::want(&new.language, new.quality));
        }
        self.direct_manner();
        let new = &self.settings;
        let (listening, language) = (new.listening.clone(), new.language.clone());
        let (pause_ms, gain) = (new.turn.pause_ms, new.voice.gain);
        self.graph.vad.cast(vad::Msg::Configure(listening.clone(), pause_ms)).ok();
        self.graph.asr.cast(asr::Msg::Configure(listening, language)).ok();
        self.graph.enhancer.cast(enhancer::Msg::Gain(gain)).ok();
        self.configure_voice();
    }

    /// The client says how much of a reply it played: that is what was heard.
    fn truncate(&mut self, id: &str, ms: u64) -> Result<String, TruncateError> {
        let unknown = || TruncateError::Unknown(id.to_owned());
        let spoken = self.ledger.of_item(id).ok_or_else(unknown)?;
        let (epoch, sent_ms) = (spoken.epoch, spoken.sent_ms);
        // While it is being played nobody knows yet how much will have been sent.
        if spoken.heard.is_some() && ms > sent_ms {
            return Err(TruncateError::TooLong { audio_ms: ms, sent_ms });
        }
        let text = spoken.text_until(ms);
        if self.machine.epoch() == Some(epoch) {
            self.tell(Input::CancelAsked);
        }
        self.ledger.played(epoch, ms, sent_ms, Certainty::Reported);
        let item = self.conversation.get_mut(id).filter(|i| i.role == Role::Assistant).ok_or_else(unknown)?;
        item.text.clone_from(&text);
        self.log(SessionEvent::Truncated { item: id.to_owned(), audio_ms: ms, text: text.clone() });
        Ok(text)
    }
}
