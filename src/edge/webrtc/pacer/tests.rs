use super::*;

/// The slots that are filled when our voice comes at the given times (in ms), and where silence was put.
fn run(voice: &[u64], until_ms: u64) -> (Vec<u64>, Vec<u64>) {
    let mut slots = Slots { next: 0, speaking: false };
    let (mut said, mut silent) = (Vec::new(), Vec::new());
    for ms in 0..until_ms {
        if ms % 20 == 0 {
            silent.extend(slots.keep(ms / 20));
        }
        for _ in voice.iter().filter(|at| **at == ms) {
            said.push(slots.speak(ms / 20).0);
        }
    }
    (said, silent)
}

#[test]
fn without_a_voice_every_tick_has_one_silence() {
    assert_eq!(run(&[], 200), (vec![], (0..10).collect()));
}

#[test]
fn a_voice_in_time_is_unbroken_wherever_in_the_tick_it_comes() {
    for phase in 0..20 {
        let voice: Vec<u64> = (0..50).map(|n| 100 + phase + n * 20).collect();
        let (said, silent) = run(&voice, 2_000);
        assert!(said.windows(2).all(|w| w[1] == w[0] + 1), "phase {phase}: {said:?}");
        let mut all: Vec<u64> = said.iter().chain(&silent).copied().collect();
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<u64>>(), "phase {phase}: every tick has one packet");
    }
}

#[test]
fn a_frame_late_by_almost_two_ticks_is_waited_for() {
    // The third frame is 18 ms late, wherever in the tick the others come.
    for phase in 0..20 {
        let voice = [100, 120, 158, 160, 180].map(|at| at + phase);
        let (said, _) = run(&voice, 400);
        assert!(said.windows(2).all(|w| w[1] == w[0] + 1), "phase {phase}: {said:?}");
    }
}

#[test]
fn a_voice_that_pauses_gives_way_to_silence_and_goes_on_at_the_clock() {
    let (said, silent) = run(&[105, 125, 505, 525], 700);
    assert_eq!(said[..2], [6, 7]);
    assert_eq!(said[2..], [26, 27], "the clock went on meanwhile");
    assert_eq!(silent.iter().filter(|slot| (8..26).contains(*slot)).count(), 18);
}

#[test]
fn a_stall_makes_the_clock_jump_and_no_burst() {
    let mut slots = Slots { next: 0, speaking: false };
    assert_eq!(slots.keep(0), 0..1);
    assert_eq!(slots.keep(100).count(), 2);
    assert_eq!(slots.keep(100).count(), 0);
    assert_eq!(slots.keep(101), 101..102);
}
