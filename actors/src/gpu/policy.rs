//! The scheduler's decisions, pure: who runs next.
//!
//! Two questions are answered here. [`grant`]: which idle engines may start their most urgent work, given
//! the cores that are free. [`plan_step`]: which sequences the language model moves in its next step.
//! Time is microseconds on any monotonic clock; a smaller deadline is more urgent.
//!
//! The policy is simple and fair for now: certain work before speculative work, then least slack first.
//! It has its seat and its seam here so that a better one changes nothing else.

use viva_models::{SeqId, StepPlan};

/// Prompt tokens moved in one step while others decode. At about 4 ms a token on two CPU cores (measured:
/// 250 a second for a 135M model) 48 tokens delay the decoders by about 0.2 s at the most.
pub const PREFILL_BESIDE_DECODE: u32 = 48;

/// Prompt tokens moved in one step while nobody decodes; a cancelled prompt wastes at most this.
pub const PREFILL_ALONE: u32 = 128;

/// An idle engine with work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Which engine.
    pub link: usize,
    /// When its most urgent work is due.
    pub deadline_us: u64,
    /// Its most urgent work may turn out to be for nothing.
    pub speculative: bool,
    /// Cores it occupies while it runs; 0 for work too small to count.
    pub cores: u32,
}

/// Which candidates start now, most urgent first. An engine that wants more cores than the device has
/// runs when the device is idle. The most urgent one that does not fit holds back those behind it
/// (else small work would starve it), except what occupies no core.
pub fn grant(candidates: &mut [Candidate], free: u32, total: u32) -> Vec<usize> {
    candidates.sort_by_key(|c| (c.speculative, c.deadline_us, c.link));
    let mut free = free;
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
pub fn plan_step(sequences: &mut [SeqView]) -> StepPlan {
    sequences.sort_by_key(|s| (s.speculative, s.deadline_us, s.seq));
    if let Some(suspect) = sequences.iter().find(|s| s.suspect) {
        return if suspect.left > 0 {
            StepPlan { prefill: vec![(suspect.seq, PREFILL_ALONE)], decode: vec![] }
        } else {
            StepPlan { prefill: vec![], decode: vec![suspect.seq] }
        };
    }
    let decode: Vec<SeqId> = sequences.iter().filter(|s| s.left == 0).map(|s| s.seq).collect();
    let mut budget = if decode.is_empty() { PREFILL_ALONE } else { PREFILL_BESIDE_DECODE };
    let mut prefill = Vec::new();
    for s in sequences.iter().filter(|s| s.left > 0) {
        let share = s.left.min(budget);
        if share == 0 {
            break;
        }
        budget -= share;
        prefill.push((s.seq, share));
    }
    StepPlan { prefill, decode }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(link: usize, deadline_us: u64, speculative: bool, cores: u32) -> Candidate {
        Candidate { link, deadline_us, speculative, cores }
    }

    #[test]
    fn least_slack_first_and_speculation_last() {
        let mut c = [candidate(0, 10, true, 1), candidate(1, 30, false, 1), candidate(2, 20, false, 1)];
        assert_eq!(grant(&mut c, 2, 2), [2, 1]);
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

    fn view(seq: u32, left: u32, deadline_us: u64) -> SeqView {
        SeqView { seq: SeqId(seq), left, deadline_us, speculative: false, suspect: false }
    }

    #[test]
    fn decode_goes_before_prefill() {
        let plan = plan_step(&mut [view(0, 100, 5), view(1, 0, 9)]);
        assert_eq!(plan.decode, [SeqId(1)]);
        assert_eq!(plan.prefill, [(SeqId(0), PREFILL_BESIDE_DECODE)]);
    }

    #[test]
    fn a_suspect_runs_alone() {
        let mut bad = view(1, 0, 9);
        bad.suspect = true;
        let plan = plan_step(&mut [view(0, 0, 5), bad]);
        assert_eq!(plan, StepPlan { prefill: vec![], decode: vec![SeqId(1)] });
    }

    proptest! {
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
            let plan = plan_step(&mut v);
            prop_assert_eq!(plan.decode.len(), all.iter().filter(|a| a.0 == 0).count());
            let sum: u32 = plan.prefill.iter().map(|p| p.1).sum();
            prop_assert!(sum <= PREFILL_ALONE);
            prop_assert!(!plan.decode.is_empty() || !plan.prefill.is_empty());
        }
    }
}
