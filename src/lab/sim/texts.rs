//! The language model's book in virtual time: who writes, who holds a place in the cache, and what the next step
//! moves.

use std::collections::BTreeMap;

use viva_actors::types::Epoch;

use super::policy::{Policy, Ready, Sequence, WRITING_SLACK_MS};
use super::session::Session;
use super::world::LLM;

/// A text under way.
#[derive(Debug, Clone)]
struct Text {
    epoch: Option<Epoch>,
    left: u32,
    asked_us: u64,
    due_us: u64,
    /// It has a place and was begun.
    begun: bool,
    /// Some of it was handed on.
    delivered: bool,
    speculative: bool,
}

/// A step under way, in what it costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepCost {
    /// Sequences that get a token.
    pub decodes: usize,
    /// Tokens of prompt that are read.
    pub prompt: u32,
    /// Tokens that the sequences attend to.
    pub context: u64,
    /// Sequences moved.
    pub sequences: u64,
    /// What those begun now had waited, microseconds.
    pub queued_us: u64,
}

/// What a step did.
#[derive(Debug, Clone, Default)]
pub struct Stepped {
    /// Sessions whose prompt is read.
    pub read: Vec<usize>,
    /// Sessions that got a token.
    pub wrote: Vec<usize>,
}

/// The book. Ordered by session, so that a run is the same each time.
#[derive(Debug)]
pub struct Texts {
    texts: BTreeMap<usize, Text>,
    /// Who holds a place, and since when unused.
    places: BTreeMap<usize, u64>,
    sequences: usize,
    cache_tokens: u64,
    /// The step under way: who reads how much, who gets a token.
    step: (Vec<(usize, u32)>, Vec<usize>),
}

impl Texts {
    /// Nobody writes.
    pub fn new(sequences: usize, cache_tokens: u64) -> Self {
        let (texts, places) = (BTreeMap::new(), BTreeMap::new());
        Self { texts, places, sequences, cache_tokens, step: Default::default() }
    }

    /// Takes a session's new text in place of the one it has.
    pub fn write(&mut self, session: usize, epoch: Option<Epoch>, left: u32, now: u64, due_us: u64) {
        self.stop(session);
        let text = Text {
            epoch,
            left: left.max(1),
            asked_us: now,
            due_us,
            begun: false,
            delivered: false,
            speculative: true,
        };
        self.texts.insert(session, text);
    }

    /// A session's text is void.
    pub fn stop(&mut self, session: usize) {
        self.texts.remove(&session);
        self.step.0.retain(|part| part.0 != session);
        self.step.1.retain(|&other| other != session);
    }

    /// Whether the session has a text.
    pub fn holds(&self, session: usize) -> bool {
        self.texts.contains_key(&session)
    }

    /// The most urgent work. `certain` says whether a draft is sure to be heard.
    pub fn head(&mut self, now: u64, certain: &dyn Fn(usize, Option<Epoch>) -> bool) -> Option<Ready> {
        for (session, text) in &mut self.texts {
            // Words of a pause are wanted; words read ahead of one are not yet.
            text.speculative = match text.epoch {
                Some(_) => !certain(*session, text.epoch),
                None => text.due_us - text.asked_us > 1_000_000,
            };
        }
        let later = now + WRITING_SLACK_MS * 1_000;
        let due = |text: &Text| if text.delivered { text.due_us.max(later) } else { text.due_us };
        let head = self.texts.values().min_by_key(|text| (text.speculative, due(text)))?;
        let asked_us = self.texts.values().map(|text| text.asked_us).min()?;
        Some(Ready {
            link: LLM,
            due_us: due(head),
            asked_us,
            cost_us: 0,
            speculative: head.speculative,
            tokens: 0,
        })
    }

    /// Begins the next step; none if nothing can be moved.
    pub fn start(
        &mut self,
        policy: Policy,
        token_us: u64,
        now: u64,
        sessions: &mut [Session],
    ) -> Option<StepCost> {
        let queued_us = self.place(now, sessions);
        let views: Vec<Sequence> = self
            .texts
            .iter()
            .filter(|(_, text)| text.begun)
            .map(|(&session, text)| Sequence {
                seq: session as u32,
                left: text.left,
                due_us: text.due_us,
                asked_us: text.asked_us,
                speculative: text.speculative,
            })
            .collect();
        let step = policy.plan_step(&views, token_us);
        let tokens = |seq: u32| sessions[seq as usize].held_tokens();
        let cost = StepCost {
            decodes: step.decode.len(),
            prompt: step.prefill.iter().map(|part| part.1).sum(),
            context: step.decode.iter().map(|&seq| tokens(seq)).sum(),
            sequences: (step.decode.len() + step.prefill.len()) as u64,
            queued_us,
        };
        if cost.sequences == 0 {
            return None;
        }
        self.step = (
            step.prefill.iter().map(|part| (part.0 as usize, part.1)).collect(),
            step.decode.iter().map(|&seq| seq as usize).collect(),
        );
        Some(cost)
    }

    /// Gives places to those who wait, most urgent first; takes them from those idle longest, also where the
    /// cache is too full. Gives what those begun now had waited.
    fn place(&mut self, now: u64, sessions: &mut [Session]) -> u64 {
        let mut waiting: Vec<usize> =
            self.texts.iter().filter(|(_, text)| !text.begun).map(|(&session, _)| session).collect();
        waiting.sort_by_key(|session| {
            let text = &self.texts[session];
            (text.speculative, text.due_us, *session)
        });
        let mut waited = 0;
        for session in waiting {
            while !self.places.contains_key(&session) && self.places.len() >= self.sequences {
                if !self.evict(sessions) {
                    return waited;
                }
            }
            self.places.insert(session, now);
            let held = |places: &BTreeMap<usize, u64>, sessions: &[Session]| -> u64 {
                places.keys().map(|&other| sessions[other].held_tokens()).sum()
            };
            while held(&self.places, sessions) > self.cache_tokens && self.evict(sessions) {}
            if let Some(text) = self.texts.get_mut(&session) {
                waited += now - text.asked_us;
                text.begun = true;
            }
        }
        waited
    }

    fn evict(&mut self, sessions: &mut [Session]) -> bool {
        let idle = self.places.iter().filter(|(session, _)| !self.texts.contains_key(session));
        let Some((&session, _)) = idle.min_by_key(|(session, used)| (**used, **session)) else {
            return false;
        };
        self.places.remove(&session);
        sessions[session].evicted();
        true
    }

    /// Takes the step's end.
    pub fn stepped(&mut self) -> Stepped {
        let (prefill, decode) = std::mem::take(&mut self.step);
        let mut stepped = Stepped::default();
        for (session, tokens) in prefill {
            let Some(text) = self.texts.get_mut(&session) else { continue };
            text.left = text.left.saturating_sub(tokens);
            if text.left == 0 {
                stepped.read.push(session);
            }
        }
        for session in decode {
            if let Some(text) = self.texts.get_mut(&session) {
                text.delivered = true;
                stepped.wrote.push(session);
            }
        }
        stepped
    }
}
