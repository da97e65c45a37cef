//! The scheduler's decisions, pure: who runs next.
//!
//! Two questions are answered here. [`grant`]: which idle engines may start their most urgent work, given
//! the cores that are free. [`plan_step`]: which sequences the language model moves in its next step.
//! Time is microseconds on any monotonic clock.
//!
//! Work is due by the audio clock: words before the turn is decided, a clause before the playout runs dry. The
//! least slack goes first, that is the earliest moment at which work must *begin* to be done when it is due.
//! Deadlines stand still while time goes on, so whatever waits becomes the most urgent in the end, and only what
//! is done on suspicion can wait for ever: it is either wanted one day, and then certain, or void.

use viva_models::{SeqId, StepPlan};

/// In which order work is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Discipline {
    /// What must begin first, together with what can run beside it: [`grant`] and [`plan_step`].
    #[default]
    Slack,
    /// What servers do that do not schedule, to measure against: [`grant_in_order`]. One call at a time on all engines
    /// but the speech detector, in the order of arrival; one piece of work a call; a text is read and written to its
    /// end before anything else; nothing is left undone because nobody waits for it any more; no line is known from
    /// before. Each session keeps its own prompt in the cache.
    Arrival,
}

/// Prompt tokens moved in one step while others decode, where nothing is known of their cost: at about 4 ms a
/// token on two CPU cores (a 135M model) 48 tokens delay the decoders by about 0.2 s at the most.
pub const PREFILL_BESIDE_DECODE: u32 = 48;

/// Prompt tokens moved in one step while nobody decodes; a cancelled prompt wastes at most this.
pub const PREFILL_ALONE: u32 = 128;

/// How long prompts may hold up those who decode in one step. A step cannot be stopped, and everything else that is
/// due meanwhile waits for it: with 150 ms two simulated cores carried two callers fewer.
pub const STEP_US: u64 = 80_000;

/// Prompt tokens a step has at most, however quick the device: llama.cpp's own batch.
const PREFILL_MAX: u32 = 512;

/// Prompt tokens of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefillBudget {
    /// While nobody decodes.
    pub alone: u32,
    /// While somebody does.
    pub beside: u32,
}

impl PrefillBudget {
    /// By what a token of prompt costs, as far as it is known (0 where not). A quick device takes more of them at a
    /// time: what counts is how long a step holds up the others, and how much a cancelled one wastes.
    pub fn by_cost(token_us: u64) -> Self {
        if token_us == 0 {
            return Self { alone: PREFILL_ALONE, beside: PREFILL_BESIDE_DECODE };
        }
        let tokens = |us: u64| u32::try_from(us / token_us).unwrap_or(PREFILL_MAX);
        Self {
            alone: tokens(3 * STEP_US).clamp(PREFILL_ALONE, PREFILL_MAX),
            beside: tokens(STEP_US).clamp(16, PREFILL_MAX),
        }
    }
}

/// An idle engine with work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Which engine.
    pub link: usize,
    /// When its most urgent work is due.
    pub deadline_us: u64,
    /// How long that takes, as far as it is known.
    pub cost_us: u64,
    /// Its most urgent work may turn out to be for nothing.
    pub speculative: bool,
    /// Cores it occupies while it runs; 0 for work too small to count.
    pub cores: u32,
}

impl Candidate {
    /// When it must begin.
    fn latest_start_us(&self) -> u64 {
        self.deadline_us.saturating_sub(self.cost_us)
    }
}

/// Which candidates start now, most urgent first. An engine that wants more cores than the device has
/// runs when the device is idle. The most urgent one that does not fit holds back those behind it
/// (else small work would starve it), except what occupies no core. Work on suspicion only gets what
/// nobody else waits for.
pub fn grant(candidates: &mut [Candidate], mut free: u32, total: u32) -> Vec<usize> {
    candidates.sort_by_key(|c| (c.speculative, c.latest_start_us(), c.link));
    let mut blocked = false;
    let mut granted = Vec::new();
    for c in candidates.iter() {
        let need = c.cores.min(total);
        if need == 0 {
            granted.push(c.link);
        } else if !blocked && need <= free {
            free -= need;
            granted.push(c.link);
        } else {
            blocked = true;
        }
    }
    granted
}

/// Which candidate starts in the order of arrival, given with when each was asked for: the first, once nobody is at work.
pub fn grant_in_order(asked: impl IntoIterator<Item = (u64, usize)>, at_work: bool) -> Option<usize> {
    if at_work { None } else { asked.into_iter().min().map(|(_, link)| link) }
}

/// A sequence with something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeqView {
    /// Which.
    pub seq: SeqId,
    /// Prompt tokens left; at 0 it decodes.
    pub left: u32,
    /// When its next clause is due.
    pub deadline_us: u64,
    /// It may turn out to be for nothing.
    pub speculative: bool,
    /// Killed its engine and has not completed a step since: it runs alone.
    pub suspect: bool,
}

/// The next step: every decoder, and prompts in chunks, most urgent first. A suspect runs alone, so that
/// if it kills the engine again it is known who did.
pub fn plan_step(sequences: &mut [SeqView], prefill: PrefillBudget) -> StepPlan {
    sequences.sort_by_key(|s| (s.speculative, s.deadline_us, s.seq));
    if let Some(suspect) = sequences.iter().find(|s| s.suspect) {
        return if suspect.left > 0 {
            StepPlan { prefill: vec![(suspect.seq, prefill.alone)], decode: vec![] }
        } else {
            StepPlan { prefill: vec![], decode: vec![suspect.seq] }
        };
    }
    let decode: Vec<SeqId> = sequences.iter().filter(|s| s.left == 0).map(|s| s.seq).collect();
    let mut budget = if decode.is_empty() { prefill.alone } else { prefill.beside };
    let mut prompts = Vec::new();
    for s in sequences.iter().filter(|s| s.left > 0) {
        let share = s.left.min(budget);
        if share == 0 {
            break;
        }
        budget -= share;
        prompts.push((s.seq, share));
    }
    StepPlan { prefill: prompts, decode }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(link: usize, deadline_us: u64, speculative: bool, cores: u32) -> Candidate {
        Candidate { link, deadline_us, cost_us: 0, speculative, cores }
    }

    /// What is known of no cost.
    const BUDGET: PrefillBudget = PrefillBudget { alone: PREFILL_ALONE, beside: PREFILL_BESIDE_DECODE };

    #[test]
    fn least_slack_first_and_speculation_last() {
        let mut c = [candidate(0, 10, true, 1), candidate(1, 30, false, 1), candidate(2, 20, false, 1)];
        assert_eq!(grant(&mut c, 2, 2), [2, 1]);
    }

    #[test]
    fn what_takes_long_begins_before_what_is_due_a_little_sooner() {
        let long = Candidate { cost_us: 50, ..candidate(0, 100, false, 1) };
        let short = Candidate { cost_us: 5, ..candidate(1, 80, false, 1) };
        assert_eq!(grant(&mut [short, long], 1, 2), [0]);
    }

    #[test]
    fn a_quick_device_reads_more_of_a_prompt_at_a_time() {
        assert_eq!(PrefillBudget::by_cost(0), BUDGET);
        let slow = PrefillBudget::by_cost(8_000);
        assert_eq!((slow.alone, slow.beside), (PREFILL_ALONE, 16));
        let quick = PrefillBudget::by_cost(50);
        assert_eq!((quick.alone, quick.beside), (512, 512));
    }

    #[test]
    fn big_work_is_not_starved_by_small() {
        let mut c = [candidate(0, 10, false, 2), candidate(1, 20, false, 1), candidate(2, 30, false, 0)];
        assert_eq!(grant(&mut c, 1, 2), [2]);
        assert_eq!(grant(&mut c, 2, 2), [0, 2]);
    }

    #[test]
    fn an_engine_wider_than_the_device_runs_when_it_is_idle() {
        assert_eq!(grant(&mut [candidate(0, 1, false, 8)], 2, 2), [0]);
        assert!(grant(&mut [candidate(0, 1, false, 8)], 1, 2).is_empty());
    }

    #[test]
    fn in_the_order_of_arrival_one_call_runs_at_a_time() {
        let asked = [(9, 0), (3, 2), (5, 1)];
        assert_eq!((grant_in_order(asked, false), grant_in_order(asked, true)), (Some(2), None));
    }

    fn view(seq: u32, left: u32, deadline_us: u64) -> SeqView {
        SeqView { seq: SeqId(seq), left, deadline_us, speculative: false, suspect: false }
    }

    #[test]
    fn decode_goes_before_prefill() {
        let plan = plan_step(&mut [view(0, 100, 5), view(1, 0, 9)], BUDGET);
        assert_eq!(plan.decode, [SeqId(1)]);
        assert_eq!(plan.prefill, [(SeqId(0), PREFILL_BESIDE_DECODE)]);
    }

    #[test]
    fn a_suspect_runs_alone() {
        let mut bad = view(1, 0, 9);
        bad.suspect = true;
        let plan = plan_step(&mut [view(0, 0, 5), bad], BUDGET);
        assert_eq!(plan, StepPlan { prefill: vec![], decode: vec![SeqId(1)] });
    }

    /// One piece of work of the simulation below.
    #[derive(Debug, Clone)]
    struct Piece {
        engine: usize,
        arrives: u64,
        patience: u64,
        cost: u64,
        void_after: Option<u64>,
    }

    fn piece() -> impl Strategy<Value = Piece> {
        (0usize..4, 0u64..2_000, 10u64..300, 1u64..60, prop::option::weighted(0.2, 0u64..100)).prop_map(
            |(engine, arrives, patience, cost, void)| Piece {
                engine,
                arrives,
                patience,
                cost,
                void_after: void.map(|after| arrives + after),
            },
        )
    }

    /// Four engines on so many cores, driven as the scheduler drives them, until nothing is left. Gives when each
    /// piece began; nothing for those that were void before.
    fn simulate(pieces: &[Piece], cores_of: [u32; 4], total: u32) -> Vec<Option<u64>> {
        let mut began: Vec<Option<u64>> = vec![None; pieces.len()];
        let mut waiting: Vec<usize> = (0..pieces.len()).collect();
        let mut busy: [Option<u64>; 4] = [None; 4];
        for now in 0.. {
            for until in &mut busy {
                *until = until.filter(|&until| until > now);
            }
            waiting.retain(|&w| pieces[w].void_after.is_none_or(|at| at > now));
            let used: u32 = (0..4).filter(|&e| busy[e].is_some()).map(|e| cores_of[e].min(total)).sum();
            let due = |w: usize| pieces[w].arrives + pieces[w].patience;
            let mut candidates = Vec::new();
            let mut heads = [None; 4];
            for engine in (0..4).filter(|&e| busy[e].is_none()) {
                let here = waiting
                    .iter()
                    .copied()
                    .filter(|&w| pieces[w].engine == engine && pieces[w].arrives <= now);
                heads[engine] = here.min_by_key(|&w| (due(w), w));
                if let Some(head) = heads[engine] {
                    candidates.push(Candidate {
                        link: engine,
                        deadline_us: due(head),
                        cost_us: pieces[head].cost,
                        speculative: false,
                        cores: cores_of[engine],
                    });
                }
            }
            let work = !candidates.is_empty();
            let granted = grant(&mut candidates, total - used.min(total), total);
            assert!(!work || used > 0 || !granted.is_empty(), "idle with work at {now}");
            for engine in granted {
                let head = heads[engine].expect("a candidate has a head");
                began[head] = Some(now);
                busy[engine] = Some(now + pieces[head].cost);
                waiting.retain(|&w| w != head);
            }
            if waiting.is_empty() {
                return began;
            }
            assert!(now < 100_000, "{} pieces are never begun", waiting.len());
        }
        began
    }

    proptest! {
        #[test]
        fn nothing_is_lost_nothing_void_runs_and_nobody_waits_longer_than_all_the_work_before_them(
            pieces in prop::collection::vec(piece(), 1..120), total in 1u32..4)
        {
            let began = simulate(&pieces, [0, 1, 2, 3], total);
            for (i, piece) in pieces.iter().enumerate() {
                match began[i] {
                    Some(at) => {
                        prop_assert!(at >= piece.arrives);
                        prop_assert!(piece.void_after.is_none_or(|void| at < void));
                        // Whatever is begun before it while it waits was there before it was due, or is due before
                        // it: a finite amount, whatever comes later. One piece an engine may be under way.
                        let due = piece.arrives + piece.patience;
                        let before: u64 = pieces
                            .iter()
                            .enumerate()
                            .filter(|(j, p)| *j != i && p.arrives <= due + p.cost)
                            .map(|(_, p)| p.cost)
                            .sum();
                        prop_assert!(at <= piece.arrives + piece.patience + before + 240);
                    }
                    None => prop_assert!(piece.void_after.is_some(), "lost"),
                }
            }
        }

        #[test]
        fn never_more_cores_than_free_and_never_idle_with_work(
            all in prop::collection::vec((0u64..100, any::<bool>(), 0u32..4), 1..8), free in 0u32..5)
        {
            let total = 4;
            let free = free.min(total);
            let mut c: Vec<_> = all.iter().enumerate().map(|(i, &(d, s, n))| candidate(i, d, s, n)).collect();
            let granted = grant(&mut c, free, total);
            let used: u32 = granted.iter().map(|&g| all[g].2).sum();
            prop_assert!(used <= free);
            if free == total {
                prop_assert!(!granted.is_empty());
            }
        }

        #[test]
        fn every_decoder_moves_and_the_budget_holds(
            all in prop::collection::vec((0u32..300, 0u64..100), 1..32))
        {
            let mut v: Vec<_> = all.iter().enumerate().map(|(i, &(l, d))| view(i as u32, l, d)).collect();
            let plan = plan_step(&mut v, BUDGET);
            prop_assert_eq!(plan.decode.len(), all.iter().filter(|a| a.0 == 0).count());
            let sum: u32 = plan.prefill.iter().map(|p| p.1).sum();
            prop_assert!(sum <= PREFILL_ALONE);
            prop_assert!(!plan.decode.is_empty() || !plan.prefill.is_empty());
        }
    }
}
