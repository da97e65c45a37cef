//! Replies whose words a director decides: said as they are, or written by the model and looked at before anybody
//! hears them.

use ractor::ActorRef;
use viva_models::Begun;

use crate::director::{Saying, Wording};
use crate::event::Usage;
use crate::rag::DraftRequest;
use crate::session::Report;
use crate::types::Epoch;

use super::{ClauseSplitter, Msg, State};

/// What the model has written of a reply that is looked at first.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) raw: String,
}

impl State {
    /// A draft whose director has answered.
    pub(super) fn begin_directed(&mut self, me: &ActorRef<Msg>, mut draft: DraftRequest, saying: Saying) {
        let epoch = draft.epoch;
        match saying {
            Saying::Say(text) => {
                self.stop();
                self.utter(epoch, &text, true);
                let usage = Usage::default();
                self.args.reporter.tell(Report::Written { epoch, usage, complete: true });
            }
            Saying::Word(wording) => {
                let Wording { lead, messages, sampling, within } = *wording;
                (draft.messages, draft.sampling) = (messages, sampling);
                self.write(draft, Some(Held::default()));
                self.utter(epoch, &lead, false);
                me.send_after(within, move || Msg::Overdue(epoch));
            }
        }
    }

    /// The model has taken too long: what it wrote until now is all that counts.
    pub(super) fn overdue(&mut self, epoch: Epoch) {
        let late = self.writing.as_ref().is_some_and(|w| w.epoch == epoch && w.held.is_some());
        if late && let Some(writing) = self.writing.take() {
            writing.cancel.cancel();
            let raw = writing.held.map(|held| held.raw).unwrap_or_default();
            self.worded(epoch, Some(&raw), usage(writing.begun, 0));
        }
    }

    /// The model has written what it had to, or failed: its director says what is said.
    pub(super) fn worded(&mut self, epoch: Epoch, raw: Option<&str>, usage: Usage) {
        let text =
            self.args.director.as_ref().map(|director| director.worded(epoch, raw)).unwrap_or_default();
        self.utter(epoch, &text, true);
        self.args.reporter.tell(Report::Written { epoch, usage, complete: true });
    }

    fn utter(&mut self, epoch: Epoch, text: &str, last: bool) {
        let mut splitter = ClauseSplitter::default();
        let mut clauses = splitter.push(text);
        clauses.extend(splitter.finish(false));
        self.clauses(epoch, clauses, last);
    }
}

pub(super) fn usage(begun: Option<Begun>, output: u32) -> Usage {
    let begun = begun.unwrap_or(Begun { prompt_tokens: 0, reused_tokens: 0 });
    Usage { input: begun.prompt_tokens, cached: begun.reused_tokens, output }
}
