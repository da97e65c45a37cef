//! A text in the making that may turn out to be a call of a function, for whoever asks for one beside the conversations.

use viva_actors::event::Usage;
use viva_actors::gpu::work::GenEvent;
use viva_models::{Prompt, Sampling, StopReason};

use super::Refusal;
use super::desk::{Text, Ticket};
use crate::edge::tools::{self, Call};

/// How a text ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Finish {
    /// The model had no more to say.
    Whole,
    /// It reached its limit.
    Length,
    /// It is a call.
    Call(Call),
}

/// A text in the making. Its drop takes the order back.
pub struct Writing {
    with_tools: bool,
    text: Text,
    written: String,
    usage: Usage,
    finish: Option<Finish>,
    _ticket: Ticket,
}

impl Writing {
    /// Orders it. `with_tools`: it may be a call.
    pub fn begin(ticket: Ticket, prompt: Prompt, sampling: Sampling, with_tools: bool) -> Self {
        let text = ticket.write(prompt, sampling);
        let (written, usage) = (String::new(), Usage::default());
        Self { with_tools, text, written, usage, finish: None, _ticket: ticket }
    }

    /// More of it; none at its end. What may become a call is kept until it is one.
    ///
    /// # Errors
    /// When the engine fails or does not come to it in time.
    pub async fn next(&mut self) -> Result<Option<String>, Refusal> {
        if self.finish.is_some() {
            return Ok(None);
        }
        loop {
            let (piece, end) = match self.text.next().await? {
                GenEvent::Begun(begun) => {
                    (self.usage.input, self.usage.cached) = (begun.prompt_tokens, begun.reused_tokens);
                    continue;
                }
                GenEvent::Token(piece) => (piece, None),
                GenEvent::Done { piece, reason, tokens } => {
                    self.usage.output = tokens;
                    (piece, Some(reason))
                }
                // The stream turns a failure into an error, and nobody speaks here.
                GenEvent::Ends(_) | GenEvent::Failed(_) => continue,
            };
            self.written.push_str(&piece);
            let calling = self.with_tools && tools::is_call(&self.written);
            let Some(reason) = end else {
                if piece.is_empty() || calling {
                    continue;
                }
                return Ok(Some(piece));
            };
            if calling && let Some(call) = tools::call(&self.written) {
                self.finish = Some(Finish::Call(call));
                return Ok(None);
            }
            self.finish = Some(if reason == StopReason::Length { Finish::Length } else { Finish::Whole });
            let rest = if calling { self.written.clone() } else { piece };
            return Ok(Some(rest).filter(|rest| !rest.is_empty()));
        }
    }

    /// What there is of it.
    pub fn written(&self) -> &str {
        &self.written
    }

    /// What it cost; the answer's tokens are known at its end.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// How it ended; none before its end.
    pub fn finish(&self) -> Option<&Finish> {
        self.finish.as_ref()
    }
}
