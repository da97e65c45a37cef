//! The language model's book in virtual time: who writes, who holds a place in the cache, and what the next step
//! moves.

use std::collections::BTreeMap;

use viva_actors::types::Epoch;

use super::policy::{Policy, Ready, Sequence, WRITING_SLACK_MS};
use super::session::Session;
use super::world::LLM;

/// A text as a session orders it.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// Whose.
    pub session: usize,
    /// What the session knows it by.
    pub ticket: u64,
    /// A draft, or none to only read.
    pub epoch: Option<Epoch>,
    /// Tokens of prompt to read.
    pub left: u32,
    /// Tokens to write.
    pub tokens: u32,
    /// When it was ordered, microseconds.
    pub asked_us: u64,
    /// When it is due.
    pub due_us: u64,
}

/// A text under way.
#[derive(Debug, Clone)]
struct Text {
    id: u32,
    asked: Asked,
    left: u32,
    written: u32,
    /// It has a place and was begun.
    begun: bool,
    speculative: bool,
}

impl Text {
    /// Some of it was handed on.
    fn delivered(&self) -> bool {
        self.written > 0
    }
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

/// What a step did: sessions with the ticket of their text.
#[derive(Debug, Clone, Default)]
pub struct Stepped {
    /// Those whose prompt is read.
    pub read: Vec<(usize, u64)>,
    /// Those that got a token.
    pub wrote: Vec<(usize, u64)>,
}

/// The book. Ordered, so that a run is the same each time.
#[derive(Debug)]
pub struct Texts {
    policy: Policy,
    texts: Vec<Text>,
    ids: u32,
    /// Who holds a place, and since when unused.
    places: BTreeMap<usize, u64>,
    sequences: usize,
    cache_tokens: u64,
    /// The step under way: who reads how much, who gets a token, by the text's id.
    step: (Vec<(u32, u32)>, Vec<u32>),
}

impl Texts {
    /// Nobody writes.
    pub fn new(policy: Policy, sequences: usize, cache_tokens: u64) -> Self {
        let (texts, places) = (Vec::new(), BTreeMap::new());
        Self { policy, texts, ids: 0, places, sequences, cache_tokens, step: Default::default() }
    }

    /// Takes a session's new text, in place of the one it has.
    pub fn write(&mut self, asked: Asked) {
        self.stop(asked.session);
        self.ids += 1;
        let left = asked.left.max(1);
        let (id, written) = (self.ids, 0);
        self.texts.push(Text { id, asked, left, written, begun: false, speculative: true });
    }

    /// A session's text is void.
    pub fn stop(&mut self, session: usize) {
        if self.policy.cancels() {
            self.texts.retain(|text| text.asked.session != session);
        }
    }

    /// The most urgent work. `certain` says whether a draft is sure to be heard.
    pub fn head(&mut self, now: u64, certain: &dyn Fn(usize, Option<Epoch>) -> bool) -> Option<Ready> {
        for text in &mut self.texts {
            let Asked { session, epoch, asked_us, due_us, .. } = text.asked;
            // Words of a pause are wanted; words read ahead of one are not yet.
            text.speculative = match epoch {
                Some(_) => !certain(session, epoch),
                None => due_us - asked_us > 1_000_000,
            };
        }
        let later = now + WRITING_SLACK_MS * 1_000;
        let due =
            |text: &Text| if text.delivered() { text.asked.due_us.max(later) } else { text.asked.due_us };
        let head = self.texts.iter().min_by_key(|text| (text.speculative, due(text), text.asked.session))?;
        let asked_us = self.texts.iter().map(|text| text.asked.asked_us).min()?;
        Some(Ready {
            link: LLM,
            due_us: due(head),
            asked_us,
            cost_us: 0,
            speculative: head.speculative,
            tokens: 0,
        })
    }

    /// Whether somebody waits for a text, as of the last look at the most urgent.
    pub fn certain_waits(&self) -> bool {
        self.texts.iter().any(|text| !text.speculative)
    }

    /// Whether the next step moves a single sequence by a single token.
    pub fn moves_one_token(&self) -> bool {
        let mut begun = self.texts.iter().filter(|text| text.begun);
        begun.next().is_some_and(|text| text.left == 0) && begun.next().is_none()
    }

    /// Begins the next step; none if nothing can be moved.
    pub fn start(&mut self, token_us: u64, now: u64, sessions: &mut [Session]) -> Option<StepCost> {
        let queued_us = self.place(now, sessions);
        let view = |text: &Text| Sequence {
            seq: text.id,
            left: text.left,
            due_us: text.asked.due_us,
            asked_us: text.asked.asked_us,
            speculative: text.speculative,
        };
        let views: Vec<Sequence> = self.texts.iter().filter(|text| text.begun).map(view).collect();
        let step = self.policy.plan_step(&views, token_us);
        let decoding = self.texts.iter().filter(|text| step.decode.contains(&text.id));
        let cost = StepCost {
            decodes: step.decode.len(),
            prompt: step.prefill.iter().map(|part| part.1).sum(),
            context: decoding.map(|text| sessions[text.asked.session].held_tokens()).sum(),
            sequences: (step.decode.len() + step.prefill.len()) as u64,
            queued_us,
        };
        if cost.sequences == 0 {
            return None;
        }
        self.step = (step.prefill, step.decode);
        Some(cost)
    }

    /// Gives places to those who wait, most urgent first; takes them from those idle longest, also where the
    /// cache is too full. Gives what those begun now had waited.
    fn place(&mut self, now: u64, sessions: &mut [Session]) -> u64 {
        let mut waiting: Vec<(bool, u64, usize, u32)> = self
            .texts
            .iter()
            .filter(|text| !text.begun)
            .map(|text| (text.speculative, text.asked.due_us, text.asked.session, text.id))
            .collect();
        if !self.policy.cancels() {
            // A session may have several, of which one is written at a time: the first.
            waiting.sort_unstable_by_key(|waiting| waiting.3);
            waiting.truncate(usize::from(self.texts.iter().all(|text| !text.begun)));
        }
        waiting.sort_unstable();
        let mut waited = 0;
        for (_, _, session, id) in waiting {
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
            if let Some(text) = self.texts.iter_mut().find(|text| text.id == id) {
                waited += now - text.asked.asked_us;
                text.begun = true;
            }
        }
        waited
    }

    fn evict(&mut self, sessions: &mut [Session]) -> bool {
        let writes = |session: &usize| self.texts.iter().any(|text| text.asked.session == *session);
        let idle = self.places.iter().filter(|(session, _)| !writes(session));
        let Some((&session, _)) = idle.min_by_key(|(session, used)| (**used, **session)) else {
            return false;
        };
        self.places.remove(&session);
        sessions[session].evicted();
        true
    }

    /// Takes the step's end. What is whole is gone before its session hears of it: it may order the next at once.
    pub fn stepped(&mut self) -> Stepped {
        let (prefill, decode) = std::mem::take(&mut self.step);
        let mut stepped = Stepped::default();
        for (id, tokens) in prefill {
            let Some(text) = self.texts.iter_mut().find(|text| text.id == id) else { continue };
            text.left = text.left.saturating_sub(tokens);
            if text.left == 0 {
                stepped.read.push((text.asked.session, text.asked.ticket));
            }
        }
        for id in decode {
            if let Some(text) = self.texts.iter_mut().find(|text| text.id == id) {
                text.written += 1;
                stepped.wrote.push((text.asked.session, text.asked.ticket));
            }
        }
        self.texts.retain(|text| text.left > 0 || text.written < text.asked.tokens);
        stepped
    }
}
