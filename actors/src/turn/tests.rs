#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::endpointing::{PAUSE_ASKED_MAX_MS, SILENCE_LONG_MS};
use super::*;

fn ms(ms: u64) -> MediaTime {
    MediaTime::from_ms(ms)
}

fn machine() -> TurnMachine {
    TurnMachine::new(TurnConfig::default())
}

fn started(at: u64) -> Input {
    Input::SpeechStarted { at: ms(at) }
}

fn paused(at: u64) -> Input {
    Input::SpeechPaused { at: ms(at) }
}

fn scored(pause: u32, p: f32) -> Input {
    Input::Scored { pause, probability: Some(p) }
}

fn heard(pause: u32, text: &str) -> Input {
    Input::Heard { pause, text: text.into(), confidence: 0.9 }
}

fn ready(epoch: Epoch) -> Input {
    Input::ReplyReady { epoch }
}

/// Feeds inputs at their times; gives all actions.
fn run(m: &mut TurnMachine, script: &[(u64, Input)]) -> Vec<Action> {
    script.iter().flat_map(|(at, input)| m.handle(input, ms(*at))).collect()
}

const E11: Epoch = Epoch { turn: 1, rev: 1 };

/// A machine whose reply 1.1 is being heard, at 3 s.
fn speaking() -> TurnMachine {
    let mut m = machine();
    let actions = run(
        &mut m,
        &[
            (100, started(50)),
            (2160, paused(2000)),
            (2250, scored(1, 0.95)),
            (2400, heard(1, "I worked on compilers.")),
            (2600, ready(E11)),
            (2700, Input::Tick),
            (3000, Input::PlayoutStarted { epoch: E11 }),
        ],
    );
    assert!(actions.contains(&Action::Commit {
        epoch: E11,
        turn: true,
        reply: true,
        why: EndReason::Scored
    }));
    assert!(m.speaking());
    m
}

#[test]
fn a_finished_turn_is_drafted_at_once_and_committed_when_it_can_be_heard() {
    let mut m = machine();
    run(&mut m, &[(100, started(50)), (2160, paused(2000)), (2250, scored(1, 0.95))]);
    assert_eq!(m.handle(&heard(1, "Yes, I did."), ms(2400)), [Action::Draft { epoch: E11 }]);
    assert_eq!(m.handle(&Input::Tick, ms(2430)), []);
    let due = m.next_tick().unwrap();
    assert!(due > ms(2430) && due < ms(2600), "{due:?}");
    let commit = [Action::Commit { epoch: E11, turn: true, reply: true, why: EndReason::Scored }];
    let mut early = m.clone();
    assert_eq!(early.handle(&ready(E11), ms(2440)), [], "the silence is not long enough");
    assert_eq!(early.handle(&Input::Tick, due), commit);
    assert_eq!(m.handle(&Input::Tick, due), [Action::Decide { epoch: E11 }]);
    assert_eq!(m.state(), "thinking");
    assert_eq!(m.clone().handle(&ready(E11), ms(2900)), commit);
    // A draft that is not heard from is not waited for forever.
    let due = m.next_tick().unwrap();
    assert!(due > ms(3800) && due < ms(4100), "{due:?}");
    assert_eq!(m.handle(&Input::Tick, due), commit);
}

#[test]
fn a_decision_that_nobody_heard_of_is_taken_back_without_a_trace() {
    let mut m = machine();
    run(
        &mut m,
        &[(100, started(50)), (2160, paused(2000)), (2250, scored(1, 0.95)), (2400, heard(1, "Yes."))],
    );
    assert_eq!(m.handle(&Input::Tick, ms(2500)), [Action::Decide { epoch: E11 }]);
    assert_eq!(
        m.handle(&started(2600), ms(2660)),
        [Action::GoOn { pause: 1, freeze: false }, Action::Discard { epoch: E11 }],
        "one turn, no commit, no cut"
    );
    assert_eq!(m.handle(&ready(E11), ms(2700)), [], "a word of the discarded draft comes too late");
}

#[test]
fn a_pause_of_a_long_turn_is_recognised_when_its_score_is_worth_it() {
    let mut m = machine();
    run(&mut m, &[(100, started(50))]);
    assert_eq!(m.handle(&paused(12_000), ms(12_160)), [Action::Score { pause: 1 }]);
    assert_eq!(m.handle(&scored(1, 0.9), ms(12_220)), [Action::Transcribe { pause: 1 }]);
    m.handle(&started(12_300), ms(12_360));
    m.handle(&paused(14_000), ms(14_160));
    assert_eq!(m.handle(&scored(2, 0.05), ms(14_220)), [], "a breath: the caller is likely to go on");
    assert_eq!(m.next_tick(), Some(ms(14_300)));
    assert_eq!(m.handle(&Input::Tick, ms(14_300)), [Action::Score { pause: 2 }], "asked again");
    assert_eq!(m.next_tick(), Some(ms(14_400)));
    assert_eq!(m.handle(&Input::Tick, ms(14_400)), [Action::Transcribe { pause: 2 }]);
    m.handle(&started(14_500), ms(14_560));
    m.handle(&paused(16_000), ms(16_160));
    let silent = Input::Scored { pause: 3, probability: None };
    assert_eq!(m.handle(&silent, ms(16_200)), [Action::Transcribe { pause: 3 }], "no score, no saving");
}

#[test]
fn an_unsure_score_is_asked_again_and_may_end_the_turn() {
    let mut m = machine();
    run(&mut m, &[(100, started(50))]);
    let both = [Action::Transcribe { pause: 1 }, Action::Score { pause: 1 }];
    assert_eq!(m.handle(&paused(3000), ms(3160)), both, "in a short turn every pause is recognised");
    run(&mut m, &[(3210, scored(1, 0.1)), (3290, heard(1, "I did that."))]);
    assert_eq!(m.handle(&Input::Tick, ms(3300)), [Action::Score { pause: 1 }]);
    assert_eq!(m.handle(&scored(1, 0.95), ms(3350)), [Action::Draft { epoch: E11 }]);
    m.handle(&Input::Tick, ms(3460));
    let actions = m.handle(&ready(E11), ms(3470));
    assert!(matches!(actions[..], [Action::Commit { why: EndReason::Scored, .. }]), "{actions:?}");
}

#[test]
fn a_caller_who_pauses_long_is_given_longer() {
    let committed = |actions: &[Action]| actions.iter().any(|a| matches!(a, Action::Commit { .. }));
    let answer = |first: &str| {
        let mut m = machine();
        let first = heard(1, first);
        run(&mut m, &[(100, started(50)), (3160, paused(3000)), (3200, scored(1, 0.1)), (3300, first)]);
        m.handle(&started(4000), ms(4060));
        run(&mut m, &[(6160, paused(6000)), (6200, scored(2, 0.99)), (6300, heard(2, "I did it."))]);
        m.handle(&Input::Tick, ms(6700));
        let early = committed(&m.handle(&ready(E11), ms(7000)));
        (early, committed(&m.handle(&Input::Tick, ms(7100))), committed(&m.handle(&Input::Tick, ms(7200))))
    };
    assert_eq!(answer("I tried."), (false, false, true), "he went on after a second of silence before");
    assert!(answer("And then I").0, "in mid-sentence, which says nothing of the end of one");
}

#[test]
fn very_short_and_long_turns_may_have_longer_pauses() {
    assert_eq!(silence_floor_ms(5_000, 0), 0.0);
    assert!(silence_floor_ms(1_400, 0) > 570.0, "a greeting is not the answer");
    assert_eq!(silence_floor_ms(60_000, 0), SILENCE_LONG_MS);
    assert_eq!(silence_floor_ms(5_000, 9_000), PAUSE_ASKED_MAX_MS);
}

#[test]
fn an_unfinished_turn_gets_the_time_of_a_thinking_pause() {
    let mut m = machine();
    run(&mut m, &[(100, started(50)), (2160, paused(2000)), (2250, scored(1, 0.05))]);
    let actions = m.handle(&heard(1, "I think that"), ms(2400));
    assert_eq!(actions, [Action::Score { pause: 1 }, Action::ReadAhead { pause: 1 }]);
    m.handle(&scored(1, 0.05), ms(2450));
    assert_eq!(m.handle(&Input::Tick, ms(2600)), [Action::Score { pause: 1 }]);
    m.handle(&scored(1, 0.05), ms(2650));
    assert_eq!(m.handle(&Input::Tick, ms(3300)), []);
    let went_on = m.handle(&started(3600), ms(3650));
    assert_eq!(went_on, [Action::GoOn { pause: 1, freeze: true }]);
    run(&mut m, &[(5160, paused(5000)), (5200, heard(2, "I think that it works")), (5210, scored(2, 0.05))]);
    m.handle(&Input::Tick, ms(6800));
    let actions = m.handle(&ready(E11), ms(7000));
    assert!(
        actions.contains(&Action::Commit { epoch: E11, turn: true, reply: true, why: EndReason::Silence }),
        "{actions:?}"
    );
}

#[test]
fn a_draft_is_discarded_without_a_trace_when_the_caller_goes_on() {
    let mut m = machine();
    run(
        &mut m,
        &[(100, started(50)), (2160, paused(2000)), (2250, scored(1, 0.9)), (2300, heard(1, "Yes."))],
    );
    assert_eq!(
        m.handle(&started(2400), ms(2450)),
        [Action::GoOn { pause: 1, freeze: false }, Action::Discard { epoch: E11 }]
    );
    let again = run(
        &mut m,
        &[
            (4160, paused(4000)),
            (4200, scored(2, 0.9)),
            (4300, heard(2, "Yes and more.")),
            (4500, ready(Epoch { turn: 1, rev: 2 })),
            (4700, Input::Tick),
        ],
    );
    let second = Epoch { turn: 1, rev: 2 };
    assert!(again.contains(&Action::Draft { epoch: second }));
    assert!(again.contains(&Action::Commit {
        epoch: second,
        turn: true,
        reply: true,
        why: EndReason::Scored
    }));
}

#[test]
fn a_cough_holds_and_resumes() {
    let mut m = speaking();
    assert_eq!(m.handle(&started(3500), ms(3560)), [Action::Hold { epoch: E11 }]);
    assert_eq!(m.handle(&paused(3800), ms(3960)), [Action::Transcribe { pause: 2 }]);
    assert_eq!(m.handle(&heard(2, ""), ms(4200)), [Action::Dismiss, Action::Resume { epoch: E11 }]);
    assert!(m.speaking());
}

#[test]
fn a_backchannel_resumes_and_words_cut() {
    let mut m = speaking();
    run(&mut m, &[(3560, started(3500)), (3960, paused(3800))]);
    assert!(m.handle(&heard(2, "Mm-hm, yeah."), ms(4200)).contains(&Action::Resume { epoch: E11 }));
    run(&mut m, &[(5060, started(5000)), (5560, paused(5400))]);
    let cut = m.handle(&heard(3, "Wait, stop."), ms(5800));
    assert_eq!(cut[..2], [Action::Cut { epoch: E11, why: CutReason::BargeIn }, Action::Score { pause: 3 }]);
}

#[test]
fn words_that_hang_are_waited_for_whatever_the_voice_says() {
    let mut m = machine();
    let ends = |probability| Input::SentenceEnds { pause: 1, probability };
    run(&mut m, &[(100, started(50)), (2260, paused(2000)), (2300, scored(1, 0.95))]);
    assert_eq!(m.handle(&heard(1, "The hardest part was."), ms(2400)), [Action::Draft { epoch: E11 }]);
    assert_eq!(m.handle(&ends(0.001), ms(2450)), [], "the draft's own prompt tells that they hang");
    m.handle(&ready(E11), ms(2700));
    assert_eq!(m.handle(&Input::Tick, ms(3400)), [], "and it waits with them");
    let mut whole = m.clone();
    assert_eq!(
        m.handle(&started(3500), ms(3550)),
        [Action::GoOn { pause: 1, freeze: true }, Action::Discard { epoch: E11 }]
    );
    let actions = whole.handle(&ends(0.4), ms(3420));
    assert!(matches!(actions[..], [Action::Commit { turn: true, .. }]), "{actions:?}");
}

#[test]
fn whole_words_end_the_turn_of_a_caller_who_does_not_sound_finished() {
    let mut m = machine();
    run(&mut m, &[(100, started(50)), (2160, paused(2000)), (2200, scored(1, 0.03))]);
    assert_eq!(m.handle(&heard(1, "I saw what good care does."), ms(2290)), [Action::ReadAhead { pause: 1 }]);
    m.handle(&Input::SentenceEnds { pause: 1, probability: 0.3 }, ms(2380));
    let due = m.next_tick().unwrap();
    run(
        &mut m,
        &[(2310, Input::Tick), (2360, scored(1, 0.03)), (2510, Input::Tick), (2560, scored(1, 0.03))],
    );
    let draft = m.next_tick().unwrap();
    assert!(due < draft && draft < ms(2800), "{draft:?}");
    assert_eq!(m.handle(&Input::Tick, draft), [Action::Draft { epoch: E11 }]);
    m.handle(&ready(E11), ms(3100));
    let over = m.next_tick().unwrap();
    assert!(over > ms(3200) && over < ms(3400), "{over:?}");
    assert!(matches!(m.handle(&Input::Tick, over)[..], [Action::Commit { .. }]));
}

#[test]
fn long_speech_cuts_whatever_the_words() {
    let mut m = speaking();
    m.handle(&started(3500), ms(3560));
    assert_eq!(m.handle(&Input::Tick, ms(4100)), []);
    assert_eq!(m.handle(&Input::Tick, ms(4160)), [Action::Cut { epoch: E11, why: CutReason::BargeIn }]);
    assert_eq!(m.state(), "hearing");
}

#[test]
fn a_held_reply_with_no_verdict_is_decided_by_length() {
    let mut m = speaking();
    run(&mut m, &[(3560, started(3500)), (3960, paused(3800))]);
    assert_eq!(m.handle(&Input::Tick, ms(5300)), [Action::Dismiss, Action::Resume { epoch: E11 }]);
    run(&mut m, &[(6060, started(6000)), (6660, paused(6500))]);
    assert_eq!(m.handle(&Input::Tick, ms(8000)), [Action::Cut { epoch: E11, why: CutReason::BargeIn }]);
}

#[test]
fn a_caller_who_goes_on_before_the_reply_is_heard_cuts_it() {
    let mut m = machine();
    run(
        &mut m,
        &[(100, started(50)), (2160, paused(2000)), (2250, scored(1, 0.95)), (2400, heard(1, "Yes."))],
    );
    m.handle(&ready(E11), ms(2700));
    let actions = m.handle(&started(2800), ms(2860));
    assert_eq!(actions, [Action::Cut { epoch: E11, why: CutReason::CallerWentOn }]);
}

#[test]
fn without_a_score_silence_decides() {
    let mut m = machine();
    run(&mut m, &[(100, started(50)), (2160, paused(2000)), (2300, heard(1, "Yes."))]);
    run(&mut m, &[(2310, Input::Scored { pause: 1, probability: None })]);
    assert_eq!(m.handle(&Input::Tick, ms(2700)), []);
    m.handle(&Input::Tick, ms(2900));
    m.handle(&ready(E11), ms(3300));
    let actions = m.handle(&Input::Tick, ms(3400));
    assert!(matches!(actions[..], [.., Action::Commit { why: EndReason::Silence, .. }]), "{actions:?}");
}

#[test]
fn a_stalled_stream_is_not_silence() {
    let mut m = machine();
    run(&mut m, &[(100, started(50)), (2160, paused(2000)), (2300, heard(1, "I")), (2310, scored(1, 0.1))]);
    // However often time is looked at, the media clock stands still.
    for _ in 0..100 {
        assert_eq!(m.handle(&Input::Tick, ms(2310)), []);
    }
}

#[test]
fn a_manual_client_says_when() {
    let config = TurnConfig { endpointing: Endpointing::Manual, ..TurnConfig::default() };
    let mut m = TurnMachine::new(config);
    assert_eq!(run(&mut m, &[(100, started(50)), (2160, paused(2000)), (9000, Input::Tick)]), []);
    assert_eq!(m.handle(&Input::CommitAsked, ms(9000)), [Action::Transcribe { pause: 2 }]);
    assert_eq!(
        m.handle(&heard(2, "Hello."), ms(9300)),
        [Action::Commit {
            epoch: Epoch { turn: 1, rev: 0 },
            turn: true,
            reply: false,
            why: EndReason::Client
        }]
    );
    let e = Epoch { turn: 2, rev: 1 };
    assert_eq!(
        m.handle(&Input::ReplyAsked, ms(9400)),
        [
            Action::Draft { epoch: e },
            Action::Commit { epoch: e, turn: false, reply: true, why: EndReason::Client }
        ]
    );
    assert_eq!(m.handle(&Input::ReplyAsked, ms(9410)), [], "one reply at a time");
    assert_eq!(m.handle(&Input::CancelAsked, ms(9500)), [Action::Cut { epoch: e, why: CutReason::Client }]);
}

#[test]
fn a_caller_who_never_stops_is_answered_in_the_end() {
    let mut m = machine();
    m.handle(&started(0), ms(60));
    let due = m.next_tick().unwrap();
    assert_eq!(m.handle(&Input::Tick, due), [Action::Transcribe { pause: 1 }]);
    let actions = m.handle(&heard(1, "and then"), due);
    assert!(matches!(actions[..], [.., Action::Commit { why: EndReason::TooLong, .. }]));
}

#[test]
fn patience_and_open_ends_ask_for_longer_silence() {
    let quick = TurnConfig { endpointing: Endpointing::Semantic { patience: 0.7 }, ..TurnConfig::default() };
    let normal = TurnConfig::default();
    let asked = |c: &TurnConfig, score, ends, text| {
        c.silence_asked_ms(Evidence { score: Some(score), ends, text, turn_ms: 3_000 })
    };
    assert!(asked(&quick, 0.9, None, "Yes.") < asked(&normal, 0.9, None, "Yes."));
    assert!(asked(&normal, 0.9, None, "I did this because") > asked(&normal, 0.9, None, "I did."));
    assert!(
        asked(&normal, 0.9, Some(0.001), "The hardest part was.") > asked(&normal, 0.9, None, "It was."),
        "a recogniser's full stop does not end a sentence that hangs"
    );
    for ends in [None, Some(0.001), Some(0.03), Some(0.5)] {
        let scores: Vec<f32> = (0..=10).map(|i| asked(&normal, i as f32 / 10.0, ends, "x")).collect();
        assert!(scores.windows(2).all(|w| w[0] >= w[1]), "more finished never waits longer: {scores:?}");
    }
}

#[test]
fn backchannels_are_told_from_words() {
    for yes in ["Mm-hm.", "yeah", "Uh-huh", "OK.", "I see.", "Right, right.", "MMMM.", "Aha."] {
        assert!(is_backchannel(yes), "{yes}");
    }
    for no in ["Wait.", "No", "I see what you mean", "Him", "yeah but", "stop please"] {
        assert!(!is_backchannel(no), "{no}");
    }
}

fn any_input() -> impl Strategy<Value = Input> {
    let epoch = (1u32..4, 1u32..4).prop_map(|(turn, rev)| Epoch { turn, rev });
    prop_oneof![
        3 => Just(started(0)),
        3 => Just(paused(0)),
        3 => (1u32..8, 0f32..1.0).prop_map(|(p, s)| scored(p, s)),
        2 => (1u32..8, 0f32..1.0).prop_map(|(pause, probability)| Input::SentenceEnds { pause, probability }),
        3 => (1u32..8, prop_oneof![Just(""), Just("yes"), Just("I did it.")]).prop_map(|(p, t)| heard(p, t)),
        1 => (1u32..8).prop_map(|pause| Input::HearingFailed { pause }),
        2 => epoch.clone().prop_map(|epoch| Input::PlayoutStarted { epoch }),
        2 => epoch.clone().prop_map(|epoch| Input::PlayoutDrained { epoch }),
        2 => epoch.clone().prop_map(|epoch| Input::ReplyReady { epoch }),
        1 => epoch.prop_map(|epoch| Input::ReplyFailed { epoch }),
        1 => Just(Input::CommitAsked),
        1 => Just(Input::ReplyAsked),
        1 => Just(Input::CancelAsked),
        1 => Just(Input::ClearAsked),
        4 => Just(Input::Tick),
    ]
}

proptest! {
    /// Whatever comes in whatever order: no panic, drafts end exactly once, nothing is committed that was
    /// not drafted, holds are resolved, and the same inputs give the same decisions.
    #[test]
    fn any_order_of_events_keeps_the_rules(script in prop::collection::vec((any_input(), 1u64..900), 1..120)) {
        let (mut a, mut b) = (machine(), machine());
        let mut now = 0;
        let mut open: Option<Epoch> = None;
        let mut held = false;
        for (input, step) in script {
            now += step;
            // Speech reports carry the time they happened at.
            let input = match input {
                Input::SpeechStarted { .. } => started(now.saturating_sub(60)),
                Input::SpeechPaused { .. } => paused(now.saturating_sub(160)),
                other => other,
            };
            let actions = a.handle(&input, ms(now));
            prop_assert_eq!(&actions, &b.handle(&input, ms(now)));
            for action in actions {
                match action {
                    Action::Draft { epoch } => {
                        prop_assert!(open.is_none_or(|o| o < epoch));
                        open = Some(epoch);
                    }
                    Action::Discard { epoch } | Action::Cut { epoch, .. } => {
                        prop_assert_eq!(open, Some(epoch));
                        held = false;
                    }
                    Action::Commit { epoch, reply: true, .. } => prop_assert_eq!(open, Some(epoch)),
                    Action::Hold { .. } => { prop_assert!(!held); held = true; }
                    Action::Resume { .. } => { prop_assert!(held); held = false; }
                    _ => {}
                }
            }
            if !a.speaking() { held = false; }
        }
    }
}
