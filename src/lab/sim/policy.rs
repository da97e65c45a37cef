//! The simulator's only way to the scheduler's decisions: the same pure functions that the server runs.
//!
//! Everything the simulator knows of `viva_actors::gpu` stands here, with what the stages around it do about
//! deadlines, so that a change there is a change of this file alone.

use serde::Serialize;
use viva_actors::gpu::policy::{self, Candidate, PrefillBudget, SeqView};
use viva_models::SeqId;

/// When work is due after it was ordered, milliseconds: `DUE_MS` and its like in `vad.rs`, `asr.rs`, `llm.rs` and
/// `tts.rs` of the actors.
pub const DUE_MS: Due =
    Due { vad: 20, turn: 250, asr: 250, freeze: 1000, draft: 300, ahead: 2000, clause: 100 };

/// See [`DUE_MS`].
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct Due {
    pub vad: u64,
    pub turn: u64,
    pub asr: u64,
    pub freeze: u64,
    pub draft: u64,
    pub ahead: u64,
    pub clause: u64,
}

/// A text of which something was handed on is due so much later than now (`WRITING_SLACK` in `gpu/sequences.rs`).
pub const WRITING_SLACK_MS: u64 = 400;

/// Windows and decisions in one call at most (`BATCH_MAX` in `gpu.rs`).
pub const BATCH_MAX: usize = 64;

/// Speech that waits to be played, beyond which no clause is begun (`AHEAD_MS` in `tts.rs`).
pub const SPEECH_AHEAD_MS: u64 = 8_000;

/// From so many sessions on windows of speech wait for those of others, so long (`GATHER_FROM` and `GATHER` in
/// `gpu/dispatch.rs`).
pub const GATHER: (usize, u64) = (8, 8_000);

/// From this score on the words of a pause are wanted, and when it lasts so long, milliseconds (`PROMISING` and
/// `LASTS_MS` in `asr.rs`).
pub const WORDS: (f32, u64) = (0.3, 300);

/// Who decides what runs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// The server's own scheduler
    Viva,
    /// What naive servers do: one call at a time in the order of arrival, each to its end, nothing cancelled
    Arrival,
    /// The order of arrival alone: one call at a time, with our cancelling and our cache
    Fifo,
}

/// An idle engine with work.
#[derive(Debug, Clone, Copy)]
pub struct Ready {
    /// Which engine.
    pub link: usize,
    /// When its most urgent work is due, microseconds.
    pub due_us: u64,
    /// When that work was ordered, microseconds.
    pub asked_us: u64,
    /// How long that work takes, microseconds.
    pub cost_us: u64,
    /// It may turn out to be for nothing.
    pub speculative: bool,
    /// Tokens it holds while it works.
    pub tokens: u32,
}

/// A sequence with something to do.
#[derive(Debug, Clone, Copy)]
pub struct Sequence {
    /// Which.
    pub seq: u32,
    /// Prompt tokens left.
    pub left: u32,
    /// When its next clause is due, microseconds.
    pub due_us: u64,
    /// When it was ordered, microseconds.
    pub asked_us: u64,
    /// It may turn out to be for nothing.
    pub speculative: bool,
}

/// What the language model does next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// Which read how many tokens of their prompt.
    pub prefill: Vec<(u32, u32)>,
    /// Which get a token.
    pub decode: Vec<u32>,
}

impl Policy {
    /// What it is, for a reader who is to judge a comparison.
    pub fn definition(self) -> &'static str {
        match self {
            Self::Viva => "the server's own scheduler",
            Self::Arrival => {
                "what naive servers do: one call at a time on all engines but the speech detector, in the order of \
                 arrival; one piece of work a call; a prompt is read whole and a text written to its end before anything \
                 else; nothing is left undone because nobody waits for it any more; each session keeps its own \
                 prompt in the cache"
            }
            Self::Fifo => {
                "the order of arrival alone: as naive servers do, but what nobody waits for any more is dropped"
            }
        }
    }

    /// Whether what nobody waits for any more is left undone.
    pub fn cancels(self) -> bool {
        self != Self::Arrival
    }

    /// Whether several pieces of work share a call.
    pub fn batches(self) -> bool {
        self == Self::Viva
    }

    /// Which engines start. `free` of `total` tokens are not held; `busy` engines work.
    pub fn grant(self, ready: &mut [Ready], free: u32, total: u32, busy: usize) -> Vec<usize> {
        match self {
            Self::Viva => {
                let candidate = |r: &Ready| Candidate {
                    link: r.link,
                    deadline_us: r.due_us,
                    cost_us: r.cost_us,
                    speculative: r.speculative,
                    cores: r.tokens,
                };
                let mut candidates: Vec<Candidate> = ready.iter().map(candidate).collect();
                policy::grant(&mut candidates, free, total)
            }
            // The speech detector runs beside everything in naive servers, too.
            Self::Arrival | Self::Fifo => {
                let vad = ready.iter().map(|r| r.link).find(|&link| link == super::world::VAD);
                let others = ready.iter().filter(|r| r.link != super::world::VAD);
                let first = policy::grant_in_order(others.map(|r| (r.asked_us, r.link)), busy > 0);
                vad.into_iter().chain(first).collect()
            }
        }
    }

    /// The language model's next step.
    pub fn plan_step(self, sequences: &[Sequence], token_us: u64) -> Step {
        match self {
            Self::Viva => {
                let view = |s: &Sequence| SeqView {
                    seq: SeqId(s.seq),
                    left: s.left,
                    deadline_us: s.due_us,
                    speculative: s.speculative,
                    suspect: false,
                };
                let mut views: Vec<SeqView> = sequences.iter().map(view).collect();
                let plan = policy::plan_step(&mut views, PrefillBudget::by_cost(token_us));
                Step {
                    prefill: plan.prefill.iter().map(|(seq, tokens)| (seq.0, *tokens)).collect(),
                    decode: plan.decode.iter().map(|seq| seq.0).collect(),
                }
            }
            Self::Arrival | Self::Fifo => match sequences.iter().min_by_key(|s| (s.asked_us, s.seq)) {
                Some(first) if first.left > 0 => {
                    Step { prefill: vec![(first.seq, first.left)], decode: vec![] }
                }
                Some(first) => Step { prefill: vec![], decode: vec![first.seq] },
                None => Step::default(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn naive_servers_run_one_call_at_a_time_in_the_order_of_arrival() {
        let ready = |link, asked_us, due_us| Ready {
            link,
            due_us,
            asked_us,
            cost_us: 0,
            speculative: false,
            tokens: 1,
        };
        let all = [ready(2, 5, 100), ready(3, 9, 10), ready(super::super::world::VAD, 9, 9)];
        assert_eq!(Policy::Fifo.grant(&mut all.clone(), 8, 8, 0), [super::super::world::VAD, 2]);
        assert_eq!(Policy::Fifo.grant(&mut all.clone(), 8, 8, 1), [super::super::world::VAD]);
        assert_eq!(Policy::Viva.grant(&mut all.clone(), 8, 8, 1)[1], 3, "the scheduler looks at what is due");
    }

    #[test]
    fn a_naive_server_writes_one_text_to_its_end() {
        let seq = |seq, left, asked_us| Sequence { seq, left, due_us: 0, asked_us, speculative: false };
        let all = [seq(0, 0, 7), seq(1, 0, 3), seq(2, 40, 9)];
        assert_eq!(Policy::Fifo.plan_step(&all, 0), Step { prefill: vec![], decode: vec![1] });
        assert_eq!(Policy::Viva.plan_step(&all, 0).decode, [0, 1]);
    }
}
