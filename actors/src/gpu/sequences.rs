//! The language model's link and the book of who holds which place in its cache.
//!
//! The thread here only executes: begin these, stop and close those, run this step. What to run is decided
//! by the `Gpu` actor through [`policy`](super::policy). When the engine dies, the thread opens it again and says so; the
//! book then begins every generation anew and swallows the text that was delivered already, so that a
//! reader sees one unbroken text.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use viva_models::{Begun, EngineError, Llm, LlmInfo, Prompt, Sampling, SeqId, StepEvent, StepPlan};

use crate::metrics as m;

use super::device::{Held, LinkStatus, Opener};
use super::policy::{self, Discipline, PrefillBudget, SeqView};
use super::work::{GenEvent, Job, Work};

/// How often an idle model's process is looked at.
const IDLE_CHECK: Duration = Duration::from_millis(250);

/// Deaths of the engine in its presence after which a generation fails.
const STRIKES_MAX: u8 = 2;

/// A text of which something has been handed on is due so much from now, whenever it is looked at: what is being written
/// is heard after what is being spoken, so a clause to speak goes first while the voice is less than this ahead.
const WRITING_SLACK: Duration = Duration::from_millis(400);

/// What the thread is to do, in this order.
#[derive(Debug, Default)]
pub(super) struct Order {
    close: Vec<SeqId>,
    stop: Vec<SeqId>,
    begin: Vec<(SeqId, Prompt, Sampling)>,
    plan: StepPlan,
}

impl Order {
    /// Tokens of prompt it reads, sequences it moves on.
    pub(super) fn size(&self) -> (u32, u32) {
        (self.plan.prefill.iter().map(|p| p.1).sum(), self.plan.decode.len() as u32)
    }
}

/// What came of it.
pub(super) struct Outcome {
    begun: Vec<(SeqId, Result<Begun, EngineError>)>,
    pub(super) step: Result<Vec<StepEvent>, EngineError>,
    info: Option<LlmInfo>,
    /// The engine was lost and opened again (or not): its cache is empty.
    pub(super) lost: Option<EngineError>,
    /// An order was carried out; otherwise the thread speaks for itself.
    pub(super) ordered: bool,
    pub(super) took: Duration,
}

/// The thread's other end.
pub(super) struct LlmLink {
    pub(super) orders: SyncSender<Order>,
    pub(super) status: Arc<LinkStatus>,
}

/// Starts the model's thread. `report` is called after each order, and when the engine died while idle.
pub(super) fn spawn_llm(
    opener: Opener<dyn Llm>,
    report: impl Fn(Outcome) + Send + 'static,
) -> std::io::Result<LlmLink> {
    let (orders, inbox) = sync_channel(1);
    let status = Arc::new(LinkStatus::default());
    let held = Held::new("llm", opener, Arc::clone(&status));
    std::thread::Builder::new().name("viva-llm".into()).spawn(move || llm_loop(held, &inbox, &report))?;
    Ok(LlmLink { orders, status })
}

fn llm_loop(mut held: Held<dyn Llm>, inbox: &Receiver<Order>, report: &dyn Fn(Outcome)) {
    let nothing = |info, lost| Outcome {
        begun: vec![],
        step: Ok(vec![]),
        info,
        lost,
        ordered: false,
        took: Duration::ZERO,
    };
    report(match held.get() {
        Ok(llm) => nothing(Some(llm.info()), None),
        Err(error) => nothing(None, Some(error)),
    });
    loop {
        match inbox.recv_timeout(IDLE_CHECK) {
            Ok(order) => report(execute(&mut held, order)),
            Err(RecvTimeoutError::Timeout) => {
                if held.check() {
                    let info = held.get().ok().map(|llm| llm.info());
                    report(nothing(info, Some(EngineError::Unavailable("died while idle".into()))));
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn execute(held: &mut Held<dyn Llm>, order: Order) -> Outcome {
    let started = Instant::now();
    let mut begun = Vec::with_capacity(order.begin.len());
    let step = held.call(|llm| {
        for seq in order.close {
            llm.close(seq)?;
        }
        for seq in order.stop {
            llm.stop(seq)?;
        }
        for (seq, prompt, sampling) in &order.begin {
            let result = llm.begin(*seq, prompt, sampling);
            if let Err(error @ EngineError::Unavailable(_)) = result {
                return Err(error);
            }
            begun.push((*seq, result));
        }
        if order.plan == StepPlan::default() { Ok(vec![]) } else { llm.step(&order.plan) }
    });
    let lost = match &step {
        Err(error @ EngineError::Unavailable(_)) => Some(error.clone()),
        _ => None,
    };
    // Opened again at once, so that what comes next finds it ready; a failure to open shows up there.
    let info = if lost.is_some() { held.get().ok().map(|llm| llm.info()) } else { None };
    Outcome { begun, step, info, lost, ordered: true, took: started.elapsed() }
}

/// One generation.
struct Active {
    work: Work,
    left: u32,
    begun: bool,
    /// Text given to the reader so far, bytes.
    delivered: usize,
    /// Text still to be swallowed after a new beginning, bytes.
    swallow: usize,
    strikes: u8,
    suspect: bool,
}

/// A session's place in the cache.
struct Place {
    seq: SeqId,
    active: Option<Active>,
    used: Instant,
}

/// The most urgent text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) deadline: Instant,
    /// When it was asked for.
    pub(super) submitted: Instant,
    pub(super) speculative: bool,
}

/// Who holds which place, and what is generated there. Owned by the `Gpu` actor.
pub(super) struct Book {
    discipline: Discipline,
    places: HashMap<u64, Place>,
    free: Vec<SeqId>,
    waiting: Vec<(u64, Work)>,
    close: Vec<SeqId>,
    stop: Vec<SeqId>,
    planned: Vec<u64>,
}

impl Book {
    pub(super) fn new(discipline: Discipline) -> Self {
        Self {
            discipline,
            places: HashMap::new(),
            free: Vec::new(),
            waiting: Vec::new(),
            close: Vec::new(),
            stop: Vec::new(),
            planned: Vec::new(),
        }
    }

    /// Takes a session's new text to write, in place of the one it has.
    pub(super) fn submit(&mut self, session: u64, work: Work) {
        if self.discipline == Discipline::Arrival {
            self.waiting.push((session, work));
            return;
        }
        self.waiting.retain(|(s, _)| *s != session);
        if let Some(place) = self.places.get_mut(&session)
            && place.active.take().is_some()
        {
            self.stop.push(place.seq);
        }
        self.waiting.push((session, work));
    }

    /// The session is gone.
    pub(super) fn release(&mut self, session: u64) {
        self.waiting.retain(|(_, work)| work.session != session);
        if let Some(place) = self.places.remove(&session) {
            self.close.push(place.seq);
            self.free.push(place.seq);
        }
    }

    /// Drops what nobody waits for any more.
    fn sweep(&mut self) {
        self.waiting.retain(|(_, work)| !work.cancel.is_cancelled());
        for place in self.places.values_mut() {
            if place.active.as_ref().is_some_and(|a| a.work.cancel.is_cancelled()) {
                place.active = None;
                self.stop.push(place.seq);
            }
        }
    }

    /// The most urgent work. None if there is none.
    pub(super) fn head(&mut self) -> Option<Head> {
        self.sweep();
        let later = Instant::now() + WRITING_SLACK;
        let of = |work: &Work, deadline| Head {
            deadline,
            submitted: work.submitted,
            speculative: work.speculative(),
        };
        let due = |a: &Active| if a.delivered > 0 { a.work.deadline.max(later) } else { a.work.deadline };
        let active = self.places.values().filter_map(|p| p.active.as_ref()).map(|a| of(&a.work, due(a)));
        let waiting = self.waiting.iter().map(|(_, w)| of(w, w.deadline));
        let all = active.chain(waiting);
        let head = match self.discipline {
            Discipline::Slack => all.min_by_key(|head| (head.speculative, head.deadline)),
            Discipline::Arrival => all.min_by_key(|head| head.submitted),
        };
        // Places to close are tidied up even when nobody generates.
        let tidying = || {
            let deadline = Instant::now() + Duration::from_secs(1);
            Head { deadline, submitted: deadline, speculative: true }
        };
        head.or_else(|| (!self.close.is_empty()).then(tidying))
    }

    /// Whether the next step moves a single sequence by a single token.
    pub(super) fn moves_one_token(&self) -> bool {
        let mut begun = self.places.values().filter_map(|p| p.active.as_ref()).filter(|a| a.begun);
        begun.next().is_some_and(|a| a.left == 0) && begun.next().is_none()
    }

    /// Texts that wait for a place.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Sessions that have a place in the cache.
    pub(super) fn places(&self) -> usize {
        self.places.len()
    }

    /// The next order for the model's thread, and whether somebody waits for any of it.
    pub(super) fn order(&mut self, prefill: PrefillBudget) -> (Order, bool) {
        self.place_waiting();
        let mut order = Order {
            close: std::mem::take(&mut self.close),
            stop: std::mem::take(&mut self.stop),
            ..Order::default()
        };
        let mut views = Vec::new();
        // A suspect begins and steps alone until it has come through a step.
        let suspect = |p: &Place| p.active.as_ref().is_some_and(|a| a.suspect);
        let alone = self.places.values().find(|p| suspect(p)).map(|p| p.seq);
        for place in self.places.values_mut().filter(|p| alone.is_none_or(|seq| seq == p.seq)) {
            let Some(active) = &mut place.active else { continue };
            if active.begun {
                views.push(view(place.seq, active));
            } else if let Job::Generate { prompt, sampling, .. } = &active.work.job {
                order.begin.push((place.seq, prompt.clone(), sampling.clone()));
            }
        }
        order.plan = policy::plan_step(&mut views, prefill);
        let planned: Vec<SeqId> = order
            .begin
            .iter()
            .map(|b| b.0)
            .chain(order.plan.prefill.iter().map(|p| p.0))
            .chain(order.plan.decode.iter().copied())
            .collect();
        self.planned =
            self.places.iter().filter(|(_, p)| planned.contains(&p.seq)).map(|(s, _)| *s).collect();
        if !order.plan.decode.is_empty() || !order.plan.prefill.is_empty() {
            metrics::histogram!(m::LLM_STEP_SEQUENCES)
                .record((order.plan.decode.len() + order.plan.prefill.len()) as f64);
        }
        let certain = self
            .places
            .values()
            .filter(|p| planned.contains(&p.seq))
            .filter_map(|p| p.active.as_ref())
            .any(|a| !a.work.speculative());
        (order, certain)
    }

    /// Gives places to those who wait, most urgent first; takes them from those idle longest.
    fn place_waiting(&mut self) {
        match self.discipline {
            Discipline::Slack => self.waiting.sort_by_key(|(_, w)| (w.speculative(), w.deadline)),
            Discipline::Arrival => self.waiting.sort_by_key(|(_, w)| w.submitted),
        }
        let mut still = Vec::new();
        for (session, work) in std::mem::take(&mut self.waiting) {
            // In the order of arrival only one text at a time is written.
            let alone = self.discipline == Discipline::Arrival;
            if alone && self.places.values().any(|place| place.active.is_some()) {
                still.push((session, work));
                continue;
            }
            if !self.places.contains_key(&session) {
                let Some(seq) = self.free.pop().or_else(|| self.evict()) else {
                    still.push((session, work));
                    continue;
                };
                self.places.insert(session, Place { seq, active: None, used: Instant::now() });
            }
            let waited = work.submitted.elapsed();
            metrics::histogram!(m::QUEUE_MS, "stage" => "llm").record(m::ms(waited));
            let place = self.places.get_mut(&session).expect("it has a place now");
            place.used = Instant::now();
            place.active = Some(Active {
                work,
                left: 0,
                begun: false,
                delivered: 0,
                swallow: 0,
                strikes: 0,
                suspect: false,
            });
        }
        self.waiting = still;
    }

    fn evict(&mut self) -> Option<SeqId> {
        let (&session, _) =
            self.places.iter().filter(|(_, p)| p.active.is_none()).min_by_key(|(_, p)| p.used)?;
        let place = self.places.remove(&session)?;
        self.close.push(place.seq);
        Some(place.seq)
    }

    /// Takes what came of an order.
    pub(super) fn outcome(&mut self, outcome: Outcome) {
        let reopened = outcome.info.is_some();
        if let Some(info) = outcome.info
            && self.places.is_empty()
            && self.free.is_empty()
        {
            self.free = (0..info.sequences).rev().map(SeqId).collect();
        }
        if let Some(error) = &outcome.lost {
            self.engine_lost(error);
            if !reopened {
                self.fail_all(error);
            }
            return;
        }
        for (seq, result) in outcome.begun {
            self.begun(seq, result);
        }
        match outcome.step {
            Ok(events) => {
                if !events.is_empty() {
                    metrics::histogram!(m::COMPUTE_MS, "stage" => "llm").record(m::ms(outcome.took));
                }
                self.planned.clear();
                for event in events {
                    self.event(event);
                }
            }
            Err(error) => {
                for session in std::mem::take(&mut self.planned) {
                    if let Some(place) = self.places.get_mut(&session)
                        && let Some(active) = place.active.take()
                    {
                        self.stop.push(place.seq);
                        active.work.job.fail(error.clone());
                    }
                }
            }
        }
    }

    /// The cache is gone: every generation begins anew; who was there at two deaths fails.
    fn engine_lost(&mut self, error: &EngineError) {
        (self.close, self.stop) = (Vec::new(), Vec::new());
        let planned = std::mem::take(&mut self.planned);
        for (session, place) in &mut self.places {
            let Some(active) = &mut place.active else { continue };
            (active.begun, active.left, active.swallow) = (false, 0, active.delivered);
            if planned.contains(session) {
                active.strikes += 1;
                active.suspect = true;
            }
            if active.strikes >= STRIKES_MAX {
                let active = place.active.take().expect("it is there");
                active.work.job.fail(EngineError::Failed(format!("the engine died of it twice: {error}")));
            }
        }
    }

    /// The engine does not open: whoever waits is told, so that nobody waits for ever.
    fn fail_all(&mut self, error: &EngineError) {
        let active = self.places.values_mut().filter_map(|p| p.active.take()).map(|a| a.work);
        for work in active.chain(std::mem::take(&mut self.waiting).into_iter().map(|(_, w)| w)) {
            work.job.fail(error.clone());
        }
    }

    fn active(&mut self, seq: SeqId) -> Option<&mut Option<Active>> {
        self.places.values_mut().find(|p| p.seq == seq).map(|p| &mut p.active)
    }

    fn begun(&mut self, seq: SeqId, result: Result<Begun, EngineError>) {
        let Some(slot) = self.active(seq) else { return };
        let Some(active) = slot else { return };
        match result {
            Ok(begun) => {
                active.begun = true;
                active.left = begun.prompt_tokens.saturating_sub(begun.reused_tokens);
                let tokens = |kind, n: u32| {
                    metrics::counter!(m::LLM_TOKENS, "kind" => kind).increment(u64::from(n));
                };
                tokens("prompt", begun.prompt_tokens);
                tokens("reused", begun.reused_tokens);
                if active.swallow == 0 {
                    active.say(GenEvent::Begun(begun));
                }
                // Words that are all in the cache have been read: there is nothing left to step.
                if active.left == 0 && active.unfinished() {
                    *slot = None;
                }
            }
            Err(error) => {
                if let Some(active) = slot.take() {
                    active.work.job.fail(error);
                }
            }
        }
    }

    fn event(&mut self, event: StepEvent) {
        let seq = match &event {
            StepEvent::Prefilled { seq, .. }
            | StepEvent::Ends { seq, .. }
            | StepEvent::Token { seq, .. }
            | StepEvent::Done { seq, .. }
            | StepEvent::Failed { seq, .. } => *seq,
        };
        let Some(slot) = self.active(seq) else { return };
        let Some(active) = slot else { return };
        match event {
            StepEvent::Prefilled { left, .. } => {
                (active.left, active.suspect) = (left, false);
                if left == 0 && active.unfinished() {
                    *slot = None;
                }
            }
            StepEvent::Ends { probability, .. } => active.say(GenEvent::Ends(probability)),
            StepEvent::Token { piece, .. } => {
                active.suspect = false;
                active.deliver(&piece);
            }
            StepEvent::Done { piece, reason, tokens, .. } => {
                metrics::counter!(m::LLM_TOKENS, "kind" => "generated").increment(u64::from(tokens));
                active.deliver(&piece);
                active.say(GenEvent::Done { piece: String::new(), reason, tokens });
                *slot = None;
            }
            StepEvent::Failed { error, .. } => {
                active.say(GenEvent::Failed(error));
                *slot = None;
            }
        }
    }
}

impl Active {
    /// Whether the prompt is only read ahead, and answered by nothing.
    fn unfinished(&self) -> bool {
        matches!(&self.work.job, Job::Generate { prompt, .. } if prompt.unfinished)
    }

    fn say(&mut self, event: GenEvent) {
        if let Job::Generate { sink, .. } = &mut self.work.job {
            sink(event);
        }
    }

    /// Hands text on, without what the reader had before the engine was lost.
    fn deliver(&mut self, piece: &str) {
        let skip = self.swallow.min(piece.len());
        self.swallow -= skip;
        let from = (skip..=piece.len()).find(|&i| piece.is_char_boundary(i)).unwrap_or(piece.len());
        let rest = &piece[from..];
        if !rest.is_empty() {
            self.delivered += rest.len();
            let rest = rest.to_owned();
            self.say(GenEvent::Token(rest));
        }
    }
}

fn view(seq: SeqId, active: &Active) -> SeqView {
    SeqView {
        seq,
        left: active.left,
        deadline_us: micros(active.work.deadline),
        speculative: active.work.speculative(),
        suspect: active.suspect,
    }
}

/// Microseconds since the first call, for the policy's clock.
pub(super) fn micros(at: Instant) -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let start = *START.get_or_init(|| Instant::now() - Duration::from_secs(1));
    at.saturating_duration_since(start).as_micros() as u64
}
