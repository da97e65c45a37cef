//! One language model, as the scheduler sees it: its thread, its book, what its steps cost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use viva_models::Llm;

use super::binding::Serves;
use super::cost::Cost;
use super::device::{LinkStatus, Opener};
use super::policy::PrefillBudget;
use super::sequences::{Book, LlmLink, Outcome, spawn_llm};

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
    pub(super) cores: u32,
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
        cores: u32,
        opener: Opener<dyn Llm>,
        report: impl Fn(Outcome) + Send + 'static,
    ) -> std::io::Result<Self> {
        let link = spawn_llm(opener, report)?;
        let opening = Busy { held: 0, certain: false, since: Instant::now(), prefill: 0, decode: 0 };
        Ok(Self {
            serves,
            cores,
            book: Book::new(),
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

    /// The most urgent work, while it is idle: when it is due, and whether it may be for nothing.
    pub(super) fn head(&mut self) -> Option<(Instant, bool)> {
        if self.busy.is_some() { None } else { self.book.head() }
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
        let (order, certain) = self.book.order(self.prefill());
        let (prefill, decode) = order.size();
        if self.link.orders.try_send(order).is_err() {
            return 0;
        }
        let held = self.cores.min(total);
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
