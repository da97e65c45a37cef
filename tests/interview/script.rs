//! The script of the interview that is held for `docs/interviews`, in virtual time: it lasts as long as the interview.

use viva::client::interviews::fitting;
use viva::client::{Script, Step};
use viva::interview::event::{Act, Event};
use viva::interview::find::{Finder, Plain};
use viva::interview::plan::{Plan, Section, Wanted};
use viva::interview::{Interview, replay};
use viva::knowledge::bank::Bank;
use viva::presets;

const MINUTES: u32 = 15;

/// Milliseconds between a candidate's last word and ours, and a second more: what is measured, and what a busy machine
/// makes of it.
const GAPS_MS: [u64; 2] = [1_200, 2_200];

/// Milliseconds a word of Piper's takes, at the quickest and at the slowest.
const WORDS_MS: [u64; 2] = [310, 390];

/// Texts as long as they are spoken.
fn spoken_ms(text: &str, word_ms: u64) -> u64 {
    text.split_whitespace().count() as u64 * word_ms
}

#[tokio::test]
async fn the_script_for_a_quarter_of_an_hour_lasts_for_it_and_answers_at_least_eight_questions() {
    let script = Script::load("docs/interviews/ward-nurse.toml".as_ref()).unwrap();
    script.check().unwrap();
    for (gap_ms, word_ms) in GAPS_MS.into_iter().zip(WORDS_MS) {
        for seed in 0..6 {
            hold(&script, seed, gap_ms, word_ms).await;
        }
    }
}

async fn hold(script: &Script, seed: u64, gap_ms: u64, word_ms: u64) {
    let preset = presets::interviewer("ward").unwrap();
    let wanted = Wanted { minutes: Some(MINUTES), ..Wanted::default() };
    let plan = Plan::new("ward", &preset.conduct, wanted).unwrap();
    let total = plan.total_ms();
    let (finder, mut iv) = (Plain::own(), Interview::new(plan, seed));
    let mut left: Vec<&Step> = script.steps.iter().collect();
    let (mut now, mut answers) = (4_000, 0);
    let mut said: Option<(String, u64)> = None;
    loop {
        let heard = said.as_ref().map(|(text, ms)| (text.as_str(), *ms));
        let found = match heard.and_then(|(words, _)| iv.wanted(words, now)) {
            Some(query) => finder.find(&query).await,
            None => Vec::new(),
        };
        let Some(decision) = iv.decide(heard, &found, now) else { break };
        let settled = iv.settle(&decision, None);
        iv.adopt(&decision, &settled);
        let text = format!("{} {}", decision.lead, settled.chosen.text);
        now += spoken_ms(&text, word_ms);
        iv.spoken(text.trim(), true, now);
        if iv.is_closing() {
            break;
        }
        let section = serde_json::to_value(iv.section()).unwrap();
        let section = section.as_str().unwrap();
        said = fitting(&left, section, iv.question().unwrap_or_default()).map(|at| {
            let Step::Say { text } = left.remove(at) else { panic!("it has words only") };
            (text.clone(), spoken_ms(text, word_ms).min(iv.answer_max_ms()))
        });
        match &said {
            Some((_, ms)) => {
                now += 600 + ms + gap_ms;
                answers += u32::from(*ms > 20_000);
            }
            // Nothing is left to say: they wait for what comes.
            None => {
                assert_eq!(iv.section(), Section::Questions, "seed {seed}: the script ran out {now} ms in");
                now +=
                    iv.nudge_after_ms().unwrap_or(u64::MAX).min(iv.time_up_ms().unwrap().saturating_sub(now));
            }
        }
    }
    assert!(now.abs_diff(total) <= 30_000, "seed {seed}: it ended after {now} ms");
    assert!(answers >= 8, "seed {seed}: {answers} answers");
    let parts = iv.log().iter().filter(|e| matches!(e.event, Event::SectionBegan { .. })).count();
    assert_eq!(parts, 6, "seed {seed}");
    let asked = iv.log().iter().filter(|e| matches!(e.event, Event::Decided { act: Act::Ask, .. })).count();
    assert!(asked >= 4, "seed {seed}: {asked} questions");
    let bank = Bank::general().unwrap();
    assert_eq!(replay(iv.log(), |id| bank.get(id)), None);
}

#[test]
fn a_candidate_says_what_has_to_do_with_the_question_and_asks_when_invited() {
    let say = |text: &str| Step::Say { text: text.into() };
    let lines = [
        say("I planned the shift by hand."),
        say("How many nurses are there?"),
        say("The wound was red and warm."),
    ];
    let left: Vec<&Step> = lines.iter().collect();
    assert_eq!(fitting(&left, "technical", "How do you judge a red wound?"), Some(2));
    assert_eq!(fitting(&left, "technical", "What is a contract?"), Some(0), "the next one");
    assert_eq!(fitting(&left, "questions", "What would you like to know?"), Some(1));
    assert_eq!(fitting(&left, "close", ""), None);
    let file = Step::Play { file: "a.wav".into() };
    assert_eq!(fitting(&[&file, left[2]], "technical", "How do you judge it?"), Some(0));
}
