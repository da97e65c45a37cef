#![allow(clippy::unwrap_used)]
use std::path::Path;

use super::*;
use crate::lab::ramp::LATE_SHARE;

fn simulate(machine: &Machine, policy: Policy, scenario: &str, sessions: u64, seed: u64) -> Outcome {
    let (scenario, clips) = Scenario::load(Path::new(scenario)).unwrap();
    let plan = Plan {
        machine,
        policy,
        scenario: Arc::new(scenario),
        clips: Arc::new(clips),
        sessions,
        seconds: 120.0,
        ramp_up_s: 12.0,
        seed,
    };
    run(&plan)
}

fn cpu() -> Machine {
    Machine::load(Path::new("cpu2")).unwrap()
}

#[test]
fn the_same_seed_gives_the_same_run_to_the_last_bit() {
    let machine = cpu();
    let of = |seed| {
        let outcome = simulate(&machine, Policy::Viva, "interview", 12, seed);
        let bits: Vec<u64> = outcome.waits.iter().map(|wait| wait.1.to_bits()).collect();
        (serde_json::to_string(&outcome).unwrap(), bits)
    };
    assert_eq!(of(5), of(5));
    assert_ne!(of(5).1, of(6).1);
}

#[test]
fn one_caller_is_answered_each_time_and_never_cut_off() {
    let outcome = simulate(&cpu(), Policy::Viva, "short", 1, 3);
    assert!(outcome.turns >= 8 && outcome.answered == outcome.turns, "{outcome:?}");
    assert_eq!((outcome.cut_offs, outcome.missing_frames), (0, 0), "{outcome:?}");
    let waited = &outcome.voice_to_voice_ms;
    assert!((450.0..900.0).contains(&waited.p50), "{waited:?}");
}

#[test]
fn nobody_is_forgotten_when_it_gets_busy() {
    for seed in 1..6 {
        let outcome = simulate(&cpu(), Policy::Viva, "short", 8, seed);
        assert!(outcome.turns >= 56 && outcome.answered == outcome.turns, "{seed}: {outcome:?}");
    }
}

#[test]
fn who_stops_to_think_is_waited_for_and_noises_are_resumed_from() {
    let long = simulate(&cpu(), Policy::Viva, "long", 4, 3);
    assert!(long.turns > 0 && long.cut_offs == 0, "{long:?}");
    let noisy = simulate(&cpu(), Policy::Viva, "interruptions", 3, 3);
    assert!(noisy.noises > 5 && noisy.resumed >= noisy.noises / 2, "{noisy:?}");
    assert_eq!(noisy.answered, noisy.turns, "{noisy:?}");
}

#[test]
fn more_callers_never_wait_less_and_a_quicker_machine_carries_more() {
    let slow = cpu();
    let waits: Vec<f64> = [1, 4, 8, 16, 32]
        .map(|sessions| simulate(&slow, Policy::Viva, "short", sessions, 3).voice_to_voice_ms.mean)
        .to_vec();
    assert!(waits.windows(2).all(|pair| pair[1] >= pair[0] * 0.9), "{waits:?}");
    assert!(waits[4] > waits[0] * 2.0, "32 callers are too many for two cores: {waits:?}");
    let mut quick = slow.clone();
    (quick.cpu_cores, quick.tokens) = (8.0, 8);
    for jobs in [&mut quick.asr, &mut quick.tts] {
        jobs.job_ms.0.iter_mut().chain(&mut jobs.call_ms.0).for_each(|point| point.1 /= 4.0);
    }
    assert!(capacity(&quick, Policy::Viva) > capacity(&slow, Policy::Viva));
}

fn capacity(machine: &Machine, policy: Policy) -> u64 {
    let (scenario, clips) = Scenario::load(Path::new("short")).unwrap();
    let plan = Plan {
        machine,
        policy,
        scenario: Arc::new(scenario),
        clips: Arc::new(clips),
        sessions: 1,
        seconds: 120.0,
        ramp_up_s: 12.0,
        seed: 3,
    };
    let limits = |_: &Outcome| Limits { p95_ms: 2_000.0, late_share: LATE_SHARE };
    ramp(&plan, 256, limits, &mut |_| ()).1.callers
}

#[test]
fn the_scheduler_carries_more_than_the_order_of_arrival() {
    let machine = cpu();
    let (viva, naive) = (capacity(&machine, Policy::Viva), capacity(&machine, Policy::Arrival));
    assert!(viva * 10 >= naive * 13 && naive >= 1, "{viva} against {naive}");
    let gpu = Machine::load(Path::new("h100-48")).unwrap();
    let waits = |policy| simulate(&gpu, policy, "short", 24, 3).voice_to_voice_ms.p95;
    assert!(waits(Policy::Arrival) > 2.0 * waits(Policy::Viva), "one call at a time leaves a GPU idle");
}

#[test]
fn naive_servers_do_what_nobody_waits_for_any_more() {
    let calls = |policy, engine| {
        let outcome = simulate(&cpu(), policy, "interview", 8, 3);
        let engine = outcome.engines.iter().find(|used| used.engine == engine).unwrap();
        (engine.calls, engine.batch_max)
    };
    let (arrival, fifo) = (calls(Policy::Arrival, "llm"), calls(Policy::Fifo, "llm"));
    assert!(arrival.0 > fifo.0, "a text that is void is written to its end: {arrival:?} {fifo:?}");
    assert_eq!((arrival.1, fifo.1), (1, 1), "one text at a time");
    assert!(calls(Policy::Viva, "llm").1 > 1);
}

#[test]
fn an_engine_of_several_processes_works_on_as_many_pieces() {
    let one = Machine::load(Path::new("h100-48")).unwrap();
    let mut alone = one.clone();
    alone.tts.processes = 1;
    let waits = |machine: &Machine| simulate(machine, Policy::Viva, "short", 64, 3).voice_to_voice_ms.p50;
    assert!(waits(&alone) > 1.5 * waits(&one), "{} {}", waits(&alone), waits(&one));
}

#[test]
fn hundreds_of_sessions_on_a_gpu_share_their_steps() {
    let machine = Machine::load(Path::new("h100-80")).unwrap();
    let outcome = simulate(&machine, Policy::Viva, "short", 64, 3);
    let llm = outcome.engines.iter().find(|engine| engine.engine == "llm").unwrap();
    assert!(llm.batch_max > 2, "{llm:?}");
    let asr = outcome.engines.iter().find(|engine| engine.engine == "asr").unwrap();
    assert_eq!(asr.batch_max, 1, "whisper.cpp does not batch");
}
