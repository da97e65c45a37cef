//! One language model, as the scheduler sees it: its thread, its book, what its steps cost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use viva_models::Llm;

use super::binding::Serves;
use super::cost::Cost;
use super::device::{LinkStatus, Opener};
use super::policy::{Discipline, PrefillBudget};
use super::sequences::{Book, Head, LlmLink, Outcome, spawn_llm};

/// What it is doing.
struct Busy {
    held: u32,
    certain: bool,
    since: Instant,
    prefill: u32,
    decode: u32,
}

/// One language model.
pub(super) struct Writer {
    pub(super) serves: Serves,
    /// Cores of a step of several tokens.
    cores: u32,
    /// Cores of a step of a single token: llama.cpp has a number of threads of its own for it.
    alone: u32,
    pub(super) book: Book,
    link: LlmLink,
    busy: Option<Busy>,
    /// Of a token of prompt.
    token: Cost,
    /// Of a step that makes tokens.
    step: Cost,
}

impl Writer {
    pub(super) fn spawn(
        serves: Serves,
        (cores, alone): (u32, u32),
        opener: Opener<dyn Llm>,
        discipline: Discipline,
        report: impl Fn(Outcome) + Send + 'static,
    ) -> std::io::Result<Self> {
        let link = spawn_llm(opener, report)?;
        let opening = Busy { held: 0, certain: false, since: Instant::now(), prefill: 0, decode: 0 };
        Ok(Self {
            serves,
            cores,
            alone: if alone == 0 { cores } else { alone.min(cores) },
            book: Book::new(discipline),
            link,
            busy: Some(opening),
            token: Cost::default(),
            step: Cost::default(),
        })
    }

    pub(super) fn status(&self) -> &Arc<LinkStatus> {
        &self.link.status
    }

    pub(super) fn busy_since(&self) -> Option<Instant> {
        self.busy.as_ref().map(|busy| busy.since)
    }

    /// Whether it can begin a text now: it is up, and nobody waits for a place in its cache.
    pub(super) fn has_room(&self) -> bool {
        self.link.status.up() && self.book.waiting() == 0
    }

    /// Whether a step is under way.
    pub(super) fn at_work(&self) -> bool {
        self.busy.is_some() && self.link.status.up()
    }

    /// The most urgent work, while it is idle.
    pub(super) fn head(&mut self) -> Option<Head> {
        if self.busy.is_some() { None } else { self.book.head() }
    }

    /// Cores that a step occupies at most; none where the model is elsewhere.
    pub(super) fn cores_at_most(&self) -> u32 {
        self.cores
    }

    /// Cores that its next step occupies.
    pub(super) fn cores(&self) -> u32 {
        if self.book.moves_one_token() { self.alone } else { self.cores }
    }

    /// What its next step takes, microseconds, as far as it is known.
    pub(super) fn step_us(&self) -> u64 {
        self.step.of(1.0).max(self.token.of(f64::from(self.prefill().beside)))
    }

    fn prefill(&self) -> PrefillBudget {
        PrefillBudget::by_cost(self.token.of(1.0))
    }

    /// Starts a step. Gives the cores it holds from now on.
    pub(super) fn start(&mut self, total: u32) -> u32 {
        let cores = self.cores();
        let (order, certain) = self.book.order(self.prefill());
        let (prefill, decode) = order.size();
        if self.link.orders.try_send(order).is_err() {
            return 0;
        }
        let held = cores.min(total);
        self.busy = Some(Busy { held, certain, since: Instant::now(), prefill, decode });
        held
    }

    /// Takes what came of an order. Gives the cores that are free again, and how long they worked and whether
    /// somebody waited for it.
    pub(super) fn done(&mut self, outcome: Outcome) -> (u32, Option<(u64, bool)>) {
        // A death while idle is reported without an order; one may be on its way all the same.
        let ordered = outcome.ordered || self.busy.as_ref().is_none_or(|busy| busy.held == 0);
        let mut freed = (0, None);
        if ordered && let Some(busy) = self.busy.take() {
            let took = outcome.took;
            if outcome.step.is_ok() {
                self.learn(&busy, took);
            }
            freed = (busy.held, Some((took.as_micros() as u64, busy.certain)));
        }
        self.book.outcome(outcome);
        freed
    }

    /// A step of both kinds says little about either.
    fn learn(&mut self, busy: &Busy, took: Duration) {
        match (busy.prefill, busy.decode) {
            (0, 0) => {}
            (0, _) => self.step.learn(1.0, took),
            (tokens, 0) => self.token.learn(f64::from(tokens), took),
            (tokens, _) => {
                let step = Duration::from_micros(self.step.of(1.0));
                self.token.learn(f64::from(tokens), took.saturating_sub(step));
            }
        }
    }
}
