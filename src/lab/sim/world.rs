//! Virtual time: the machine's engines, the scheduler's decisions, and all sessions.
//!
//! Whatever happens is an event in one queue, ordered by its microsecond and then by when it was put there, so that
//! a run is the same each time. Engines at work share what computes: when they keep more of it busy than there
//! is, each slows down by the same factor.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use viva_actors::types::Epoch;

use super::machine::{Jobs, Machine, Unit};
use super::orders::{Io, Order, Wake};
use super::policy::{BATCH_MAX, DUE_MS, GATHER, Policy, Ready};
use super::session::Session;
use super::texts::{Asked, Texts};

/// Links, as the scheduler numbers them.
pub const VAD: usize = 0;
/// Turn decisions.
pub const TURN: usize = 1;
/// Recognitions.
pub const ASR: usize = 2;
/// Clauses.
pub const TTS: usize = 3;
/// Texts.
pub const LLM: usize = 4;
/// How many there are.
pub const LINKS: usize = 5;
/// Their names.
pub const NAMES: [&str; LINKS] = ["vad", "turn", "asr", "tts", "llm"];

/// A core is never taken whole by what sessions cost beside the engines: the rest of them stays.
const ENGINES_SHARE_MIN: f64 = 0.05;
/// A recognition that is stopped ends at the next node of its graph: a decoder's takes a millisecond or two.
const GIVE_WAY_US: f64 = 2_000.0;
/// The shortest call, microseconds: to an engine's process and back.
const CALL_US_MIN: f64 = 50.0;

/// Work in a queue.
#[derive(Debug, Clone)]
struct Job {
    session: usize,
    order: Order,
    asked_us: u64,
    due_us: u64,
}

/// A call under way.
struct Call {
    link: usize,
    jobs: Vec<Job>,
    left_us: f64,
    width: f64,
    on: Unit,
    tokens: u32,
}

/// What an engine did.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Use {
    /// Calls.
    pub calls: u64,
    /// Jobs, or sequences moved, in all calls.
    pub jobs: u64,
    /// The most in one.
    pub most: u64,
    /// Microseconds during which it worked.
    pub busy_us: f64,
    /// Microseconds its jobs waited for their call.
    pub queued_us: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    at: u64,
    order: u64,
    session: usize,
    wake: Wake,
}

/// Everything.
pub struct World<'a> {
    machine: &'a Machine,
    policy: Policy,
    now: u64,
    events: BinaryHeap<Reverse<Event>>,
    order: u64,
    /// Every session that was ever opened.
    pub sessions: Vec<Session>,
    queues: [VecDeque<Job>; LINKS],
    texts: Texts,
    calls: Vec<Call>,
    free: u32,
    /// Windows wait for others.
    gathering: bool,
    /// Core-microseconds and GPU-microseconds that were used, of sessions and engines.
    pub used_us: (f64, f64),
    /// What each engine did.
    pub uses: [Use; LINKS],
    /// Events handled.
    pub handled: u64,
    io: Io,
}

impl<'a> World<'a> {
    /// Empty, at zero.
    pub fn new(machine: &'a Machine, policy: Policy) -> Self {
        Self {
            machine,
            policy,
            now: 0,
            events: BinaryHeap::new(),
            order: 0,
            sessions: Vec::new(),
            queues: Default::default(),
            texts: Texts::new(policy, machine.llm.sequences, machine.llm.cache_tokens),
            calls: Vec::new(),
            free: machine.tokens,
            gathering: false,
            used_us: (0.0, 0.0),
            uses: [Use::default(); LINKS],
            handled: 0,
            io: Io::default(),
        }
    }

    /// Opens a session, with what its candidate wants to be woken for.
    pub fn open(&mut self, session: Session, wakes: Vec<(u64, Wake)>) {
        let index = self.sessions.len();
        self.push(session.window_full(), index, Wake::Window);
        self.sessions.push(session);
        for (at, wake) in wakes {
            self.push(at, index, wake);
        }
    }

    fn push(&mut self, at: u64, session: usize, wake: Wake) {
        self.order += 1;
        self.events.push(Reverse(Event { at, order: self.order, session, wake }));
    }

    /// Lets time pass until then.
    pub fn run_until(&mut self, end: u64) {
        loop {
            let event = self.events.peek().map(|Reverse(event)| event.at);
            let done = self.next_done();
            let Some(next) = event.into_iter().chain(done).min().filter(|&at| at <= end) else { break };
            self.pass(next);
            if event == Some(next) {
                // What happens at the same moment is handled before anything is decided.
                while let Some(Reverse(event)) = self.events.peek().copied().filter(|e| e.0.at == next) {
                    self.events.pop();
                    self.handled += 1;
                    self.wake(event);
                }
            }
            self.finish();
            self.dispatch();
        }
        self.pass(end);
    }

    /// What calls on this want of it, and what there is for them.
    fn wanted(&self, on: Unit) -> (f64, f64) {
        let wanted: f64 = self.calls.iter().filter(|call| call.on == on).map(|call| call.width).sum();
        let there = match on {
            Unit::Gpu => 1.0,
            Unit::Cpu => {
                (self.machine.cpu_cores - self.beside()).max(self.machine.cpu_cores * ENGINES_SHARE_MIN)
            }
        };
        (wanted, there)
    }

    /// Cores that sessions take beside the engines.
    fn beside(&self) -> f64 {
        self.machine.session.cpu * self.sessions.len() as f64
    }

    /// How much slower than alone calls on this go now, as a factor of at most 1.
    fn speed(&self, on: Unit) -> f64 {
        let (wanted, there) = self.wanted(on);
        if wanted > there { there / wanted } else { 1.0 }
    }

    fn next_done(&self) -> Option<u64> {
        let (cpu, gpu) = (self.speed(Unit::Cpu), self.speed(Unit::Gpu));
        let speed = |on| if on == Unit::Cpu { cpu } else { gpu };
        self.calls.iter().map(|call| self.now + (call.left_us / speed(call.on)).ceil().max(0.0) as u64).min()
    }

    fn pass(&mut self, to: u64) {
        let passed = to.saturating_sub(self.now) as f64;
        if passed > 0.0 {
            let (cpu, gpu) = (self.speed(Unit::Cpu), self.speed(Unit::Gpu));
            for call in &mut self.calls {
                call.left_us -= passed * if call.on == Unit::Cpu { cpu } else { gpu };
                self.uses[call.link].busy_us += passed;
            }
            let used = |(wanted, there): (f64, f64)| passed * wanted.min(there);
            let (cores, gpu) = (used(self.wanted(Unit::Cpu)), used(self.wanted(Unit::Gpu)));
            self.used_us.0 += cores + passed * self.beside().min(self.machine.cpu_cores);
            self.used_us.1 += gpu;
        }
        self.now = self.now.max(to);
    }

    fn wake(&mut self, event: Event) {
        if event.wake == Wake::Gathered {
            self.gathering = false;
            return;
        }
        if event.wake == Wake::Window {
            if self.policy.batches() && self.sessions.len() >= GATHER.0 && !self.gathering {
                self.gathering = true;
                self.push(self.now + GATHER.1, event.session, Wake::Gathered);
            }
            let due_us = self.now + DUE_MS.vad * 1_000;
            // Any order will do: the queue is the window's.
            let order = Order::StopWriting;
            self.queues[VAD].push_back(Job { session: event.session, order, asked_us: self.now, due_us });
            return;
        }
        self.with(event.session, |session, io| session.wake(event.wake, io));
    }

    /// Lets a session do something, and carries out what it orders.
    fn with<R>(&mut self, index: usize, what: impl FnOnce(&mut Session, &mut Io) -> R) -> R {
        let mut io = std::mem::take(&mut self.io);
        io.now = self.now;
        let result = what(&mut self.sessions[index], &mut io);
        for (at, wake) in io.wakes.drain(..) {
            self.push(at, index, wake);
        }
        for order in io.orders.drain(..) {
            self.take(index, order);
        }
        self.io = io;
        result
    }

    fn take(&mut self, session: usize, order: Order) {
        let now = self.now;
        let (link, due_us) = match &order {
            Order::Score { .. } => (TURN, now + DUE_MS.turn * 1_000),
            Order::Recognise { pause, .. } => {
                (ASR, now + if pause.is_some() { DUE_MS.asr } else { DUE_MS.freeze } * 1_000)
            }
            Order::Speak { due_us, .. } => (TTS, now + due_us),
            Order::StopScoring => {
                if self.policy.cancels() {
                    self.queues[TURN].retain(|job| job.session != session);
                }
                return;
            }
            Order::StopRecognising => {
                if !self.policy.cancels() {
                    return;
                }
                self.queues[ASR].retain(|job| job.session != session);
                // A recogniser that works for nobody stops.
                for call in &mut self.calls {
                    if call.link == ASR && call.jobs[0].session == session {
                        call.left_us = call.left_us.min(CALL_US_MIN);
                    }
                }
                return;
            }
            Order::StopWriting => return self.texts.stop(session),
            Order::Write { epoch, left, tokens, ticket, due_us, .. } => {
                return self.texts.write(Asked {
                    session,
                    ticket: *ticket,
                    epoch: *epoch,
                    left: *left,
                    tokens: *tokens,
                    asked_us: now,
                    due_us: now + due_us,
                });
            }
        };
        self.queues[link].push_back(Job { session, order, asked_us: now, due_us });
    }

    fn jobs_of(&self, link: usize) -> &'a Jobs {
        match link {
            VAD => &self.machine.vad,
            TURN => &self.machine.turn,
            ASR => &self.machine.asr,
            _ => &self.machine.tts,
        }
    }

    /// Answers the calls that are done.
    fn finish(&mut self) {
        while let Some(at) = self.calls.iter().position(|call| call.left_us < 0.5) {
            let call = self.calls.remove(at);
            self.free += call.tokens;
            if call.link == LLM {
                self.stepped();
                continue;
            }
            for job in call.jobs {
                self.answer(call.link, job);
            }
        }
    }

    fn answer(&mut self, link: usize, job: Job) {
        let Job { session, order, .. } = job;
        match order {
            _ if link == VAD => {
                self.with(session, Session::window);
                let full = self.sessions[session].window_full();
                self.push(full.max(self.now), session, Wake::Window);
            }
            Order::Score { pause } => self.with(session, |s, io| s.scored(pause, io)),
            Order::Recognise { pause, ticket, .. } => {
                self.with(session, |s, io| s.recognised(pause, ticket, io));
            }
            Order::Speak { epoch, chars, ticket, .. } => {
                self.with(session, |s, io| s.spoken(ticket, epoch, chars, io));
            }
            Order::StopScoring | Order::StopRecognising | Order::StopWriting | Order::Write { .. } => {}
        }
    }

    fn stepped(&mut self) {
        let step = self.texts.stepped();
        for (session, ticket) in step.read {
            if self.sessions[session].awaits(ticket) {
                self.with(session, Session::read);
            }
        }
        for (session, ticket) in step.wrote {
            if self.sessions[session].awaits(ticket) {
                self.with(session, Session::token);
            }
        }
    }

    fn certain(&self, session: usize, epoch: Option<Epoch>) -> bool {
        epoch.is_none_or(|epoch| epoch <= self.sessions[session].certain)
    }

    /// Whether a job may turn out to be for nothing.
    fn speculative(&self, job: &Job) -> bool {
        match job.order {
            Order::Speak { epoch, .. } => !self.certain(job.session, Some(epoch)),
            Order::Recognise { pause: Some(pause), .. } => {
                self.sessions[job.session].words_are_speculative(pause, self.now)
            }
            _ => false,
        }
    }

    /// Starts whatever may start now.
    fn dispatch(&mut self) {
        let mut ready = Vec::with_capacity(LINKS);
        for link in 0..LLM {
            self.heads(link, &mut ready);
        }
        if !self.calls.iter().any(|call| call.link == LLM) {
            let sessions = &self.sessions;
            let certain = |s: usize, epoch: Option<Epoch>| epoch.is_some_and(|e| e <= sessions[s].certain);
            if let Some(mut head) = self.texts.head(self.now, &certain) {
                head.tokens = self.step_tokens();
                head.cost_us = (self.machine.llm.decode_ms.at(1.0) * 1e3) as u64;
                ready.push(head);
            }
        }
        if ready.is_empty() {
            return;
        }
        let busy = self.calls.iter().filter(|call| call.link != VAD).count();
        for link in self.policy.grant(&mut ready, self.free, self.machine.tokens, busy) {
            if link == LLM { self.start_step() } else { self.start(link) }
        }
        self.give_way();
    }

    /// Words that are only to be shown give way to what somebody waits for, as far as that has not begun.
    fn give_way(&mut self) {
        if self.policy != Policy::Viva {
            return;
        }
        let waits = |link: usize| {
            let begun = self.queues[link].is_empty() || (link == VAD && self.gathering);
            !begun && self.queues[link].iter().any(|job| !self.speculative(job))
        };
        let writes = !self.calls.iter().any(|call| call.link == LLM) && self.texts.certain_waits();
        if !writes && !(0..LLM).any(waits) {
            return;
        }
        let sessions = &self.sessions;
        let over = |job: &Job| match job.order {
            Order::Recognise { pause: Some(pause), .. } => sessions[job.session].words_are_over(pause),
            _ => false,
        };
        for call in self.calls.iter_mut().filter(|call| call.link == ASR && over(&call.jobs[0])) {
            call.left_us = call.left_us.min(GIVE_WAY_US);
        }
    }

    /// Tokens that the language model's next step holds.
    fn step_tokens(&self) -> u32 {
        let llm = &self.machine.llm;
        if llm.decode_tokens > 0 && self.texts.moves_one_token() { llm.decode_tokens } else { llm.tokens }
    }

    /// Jobs in one call at most.
    fn batch_max(&self, link: usize) -> usize {
        if self.policy.batches() { self.jobs_of(link).batch_max.min(BATCH_MAX) } else { 1 }
    }

    /// Orders a queue, and says what its idle processes would do next.
    fn heads(&mut self, link: usize, ready: &mut Vec<Ready>) {
        let engine = self.jobs_of(link);
        let idle = engine.processes - self.calls.iter().filter(|call| call.link == link).count();
        if idle == 0 || self.queues[link].is_empty() || (link == VAD && self.gathering) {
            return;
        }
        if link == TTS && self.policy.cancels() {
            let sessions = &self.sessions;
            self.queues[TTS].retain(|job| match job.order {
                Order::Speak { ticket, .. } => sessions[job.session].speaking == Some(ticket),
                _ => false,
            });
        }
        let mut queue = std::mem::take(&mut self.queues[link]);
        // Where all are due equally long after they were asked for, the first is the most urgent.
        if self.policy == Policy::Viva && !matches!(link, VAD | TURN) {
            queue.make_contiguous().sort_by_key(|job| (self.speculative(job), job.due_us, job.asked_us));
        }
        for job in queue.iter().step_by(self.batch_max(link)).take(idle) {
            ready.push(Ready {
                link,
                due_us: job.due_us,
                asked_us: job.asked_us,
                cost_us: ((engine.call_ms.at(1.0) + engine.job_ms.at(size(job))) * 1e3) as u64,
                speculative: self.speculative(job),
                tokens: engine.tokens,
            });
        }
        self.queues[link] = queue;
    }

    fn start(&mut self, link: usize) {
        let engine = self.jobs_of(link);
        let count = self.batch_max(link).min(self.queues[link].len());
        let jobs: Vec<Job> = self.queues[link].drain(..count).collect();
        let each: f64 = jobs.iter().map(|job| engine.job_ms.at(size(job))).sum();
        let ms = engine.call_ms.at(jobs.len() as f64) + each;
        let queued = jobs.iter().map(|job| self.now - job.asked_us).sum();
        let count = jobs.len() as u64;
        self.begin(
            Call {
                link,
                jobs,
                left_us: ms * 1_000.0,
                width: engine.width,
                on: engine.on,
                tokens: engine.tokens,
            },
            count,
            queued,
        );
    }

    fn start_step(&mut self) {
        let llm = &self.machine.llm;
        // What a long prompt's token costs, as the server learns it.
        let token_us = (llm.prefill_ms.at(128.0) / 128.0 * 1e3) as u64;
        let tokens = self.step_tokens();
        let sessions = &mut self.sessions;
        let Some(step) = self.texts.start(token_us, self.now, sessions) else { return };
        let mut ms = 0.0;
        if step.decodes > 0 {
            ms += llm.decode_ms.at(step.decodes as f64);
        }
        if step.prompt > 0 {
            ms += llm.prefill_ms.at(f64::from(step.prompt));
        }
        ms += step.context as f64 * llm.context_us / 1e6;
        let width = if step.prompt > 0 || step.decodes > 1 { llm.width } else { llm.decode_width };
        let call = Call { link: LLM, jobs: Vec::new(), left_us: ms * 1_000.0, width, on: llm.on, tokens };
        self.begin(call, step.sequences, step.queued_us);
    }

    fn begin(&mut self, mut call: Call, jobs: u64, queued_us: u64) {
        call.left_us = call.left_us.max(CALL_US_MIN);
        call.tokens = call.tokens.min(self.machine.tokens).min(self.free);
        self.free -= call.tokens;
        let used = &mut self.uses[call.link];
        used.calls += 1;
        used.jobs += jobs;
        used.most = used.most.max(jobs);
        used.queued_us += queued_us;
        self.calls.push(call);
    }
}

/// How much of its engine's work a job is: seconds to hear, characters to speak, otherwise one.
fn size(job: &Job) -> f64 {
    match job.order {
        Order::Recognise { seconds, .. } => seconds,
        Order::Speak { chars, .. } => chars,
        _ => 1.0,
    }
}
