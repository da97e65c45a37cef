//! Simulated candidates: a scenario's scripts as stretches of voice and silence, with what the engines would make of
//! each silence.

use std::collections::VecDeque;

use rand::Rng;
use rand::rngs::StdRng;

use crate::client::{Clips, Script, Step};
use crate::lab::voice;

/// A millisecond in the simulator's microseconds.
pub const MS: u64 = 1_000;

/// Little silences inside fluent speech (before a stop, at a comma) that open a pause: so many a second of speech.
/// In 54 answers of 3.9 s the server recognised 2.15 times each, of which one is the end's
/// (`benches/runs/2026-11-24-voice-to-voice`).
const BREATHS_PER_S: f64 = 0.29;
/// Their length, milliseconds: long enough to open a pause of 96 ms after the detector's tail, and shorter than any
/// silence that ends a turn, since none of those 54 was cut off.
const BREATH_MS: std::ops::Range<f64> = 170.0..400.0;
/// A made cough lasts so long (`client::signals::cough`), milliseconds.
const COUGH_MS: u64 = 450;
/// Where an answer must have begun unless its script says otherwise, seconds (`client::call::ANSWER_TIMEOUT`).
const TIMEOUT_S: u64 = 30;

/// What is heard in a silence.
#[derive(Debug, Clone, PartialEq)]
pub struct Gap {
    /// How finished the caller sounds, when asked for the first, second and third time.
    pub scores: [f32; 3],
    /// How likely a sentence ends there.
    pub ends: f32,
    /// The words of the turn up to here; empty for a noise.
    pub words: String,
}

/// Voice, and the silence behind it.
#[derive(Debug, Clone, PartialEq)]
pub struct Stretch {
    /// Microseconds of voice.
    pub voice_us: u64,
    /// Microseconds of silence before the next stretch; 0 behind the last.
    pub rest_us: u64,
    /// What the silence tells.
    pub gap: Gap,
}

/// One thing a candidate does.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// Says something; where it interrupts, after so many microseconds of the reply.
    Utter {
        /// What is said.
        stretches: Vec<Stretch>,
        /// The wait of an interruption.
        interrupts: Option<u64>,
    },
    /// Makes a noise that is no turn, after so many microseconds of the reply.
    Noise {
        /// The noise.
        stretch: Stretch,
        /// The wait for it.
        after_us: Option<u64>,
    },
    /// Says nothing.
    Rest(u64),
    /// Waits for the answer's end; it must begin within so many microseconds.
    Wait(u64),
}

/// A script as acts.
pub fn acts(script: &Script, clips: &Clips, dice: &mut StdRng) -> VecDeque<Act> {
    let mut acts = VecDeque::new();
    let mut saying = Saying::default();
    for step in &script.steps {
        match step {
            Step::Say { text } => saying.say(text, voice::seconds(text), dice),
            Step::Play { file } => saying.say("Well.", seconds_of(clips, file), dice),
            Step::Pause { ms, .. } | Step::Drop { ms, .. } if saying.stretches.is_empty() => {
                acts.push_back(Act::Rest(u64::from(*ms) * MS));
            }
            // Without a network nobody hears the candidate, which to the server is a silence.
            Step::Pause { ms, .. } | Step::Drop { ms, .. } => saying.rest(u64::from(*ms) * MS),
            // Asking without words is a moment's speech to a simulated server.
            Step::Ask => saying.say("Go on.", 0.5, dice),
            Step::Wait { timeout_ms } => {
                saying.end(None, &mut acts, dice);
                acts.push_back(Act::Wait(timeout_ms.map_or(TIMEOUT_S * 1_000 * MS, |ms| u64::from(ms) * MS)));
            }
            Step::BargeIn { after_ms, .. } => {
                saying.end(None, &mut acts, dice);
                let file = step.file().map(|file| seconds_of(clips, file));
                let text = step.text().unwrap_or("Wait a moment, please.");
                saying.say(text, file.unwrap_or_else(|| voice::seconds(text)), dice);
                saying.end(Some(u64::from(*after_ms) * MS), &mut acts, dice);
            }
            Step::Cough { after_ms, .. } => {
                saying.end(None, &mut acts, dice);
                let words = step.text().unwrap_or_default();
                let file = step.file().map(|file| (seconds_of(clips, file) * 1e6) as u64);
                let said = step.text().map(|text| (voice::seconds(text) * 1e6) as u64);
                let gap = Gap { scores: [0.5; 3], ends: 0.1, words: words.to_owned() };
                let voice_us = file.or(said).unwrap_or(COUGH_MS * MS);
                let stretch = Stretch { voice_us, rest_us: 0, gap };
                acts.push_back(Act::Noise { stretch, after_us: after_ms.map(|ms| u64::from(ms) * MS) });
            }
        }
    }
    saying.end(None, &mut acts, dice);
    acts
}

fn seconds_of(clips: &Clips, file: &std::path::Path) -> f64 {
    clips.file(file).map_or(4.0, |clip| clip.seconds())
}

/// An utterance that grows.
#[derive(Default)]
struct Saying {
    stretches: Vec<Stretch>,
    words: String,
}

impl Saying {
    fn say(&mut self, text: &str, seconds: f64, dice: &mut StdRng) {
        let mut left = (seconds * 1e6) as u64;
        let mut breaths = Vec::new();
        let mut at = dice.random_range(0.0..1.0_f64);
        // Evenly spread with a random start: so many a second on average, never two at once.
        while at < seconds * BREATHS_PER_S {
            breaths.push((at / BREATHS_PER_S * 1e6) as u64);
            at += 1.0;
        }
        let mut said = 0;
        for breath in breaths {
            let voice_us = breath.saturating_sub(said).min(left);
            said += voice_us;
            left -= voice_us;
            let gap = Gap { words: self.so_far(text, said as f64 / (seconds * 1e6)), ..breath_gap(dice) };
            let rest_us = (dice.random_range(BREATH_MS) * 1_000.0) as u64;
            self.stretches.push(Stretch { voice_us, rest_us, gap });
        }
        self.words = self.so_far(text, 1.0);
        let gap = Gap { words: self.words.clone(), scores: [0.0; 3], ends: 0.0 };
        self.stretches.push(Stretch { voice_us: left, rest_us: 0, gap });
    }

    /// The words said when so much of `text` is.
    fn so_far(&self, text: &str, share: f64) -> String {
        let count = (text.chars().count() as f64 * share) as usize;
        let part: String = text.chars().take(count.max(1)).collect();
        if self.words.is_empty() { part } else { format!("{} {part}", self.words) }
    }

    fn rest(&mut self, us: u64) {
        if let Some(last) = self.stretches.last_mut() {
            last.rest_us += us;
        }
    }

    fn end(&mut self, interrupts: Option<u64>, acts: &mut VecDeque<Act>, dice: &mut StdRng) {
        let Self { mut stretches, .. } = std::mem::take(self);
        let Some(last) = stretches.len().checked_sub(1) else { return };
        let rest_us = std::mem::take(&mut stretches[last].rest_us);
        for (i, stretch) in stretches.iter_mut().enumerate() {
            if i == last {
                (stretch.gap.scores, stretch.gap.ends) = finished(dice);
            } else if stretch.gap.ends == 0.0 {
                (stretch.gap.scores, stretch.gap.ends) = thinking(&stretch.gap.words, dice);
            }
        }
        acts.push_back(Act::Utter { stretches, interrupts });
        if rest_us > 0 {
            acts.push_back(Act::Rest(rest_us));
        }
    }
}

/// smart-turn and the language model at the end of an answer. Of 27 finished answers smart-turn is sure of 8 at
/// 160 ms, of 18 at 300 and of 21 at 500, and scores 3 at 0.015 to 0.06 to the end; of 35 the least likely sentence
/// end is 0.029 (`actors/src/turn.rs`, `turn/endpointing.rs`).
fn finished(dice: &mut StdRng) -> ([f32; 3], f32) {
    let sure = dice.random_range(0.85..0.99_f32);
    let unsure = dice.random_range(0.3..0.75_f32);
    let scores = match dice.random_range(0..27) {
        0..8 => [sure; 3],
        8..18 => [unsure, sure, sure],
        18..21 => [unsure, unsure, sure],
        21..24 => [unsure; 3],
        _ => [dice.random_range(0.015..0.06_f32); 3],
    };
    (scores, dice.random_range(0.04..0.6_f32))
}

/// The same in a pause for thought. Of 31 such pauses 9 follow a whole sentence; smart-turn mostly knows, and
/// words that hang have a chance of at most 0.009 to end a sentence.
fn thinking(words: &str, dice: &mut StdRng) -> ([f32; 3], f32) {
    let whole = words.trim_end().ends_with(['.', '!', '?']);
    let ends = if whole { dice.random_range(0.03..0.5_f32) } else { dice.random_range(0.0001..0.009_f32) };
    ([dice.random_range(0.003..0.03_f32); 3], ends)
}

/// The same in a breath: 0.57 drafts a turn are begun and thrown away, so half of these look like an end.
fn breath_gap(dice: &mut StdRng) -> Gap {
    let score = dice.random_range(0.0..0.8_f32);
    let ends = if dice.random_bool(0.5) { 0.1 } else { 0.005 };
    Gap { scores: [score; 3], ends, words: String::new() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rand::SeedableRng;

    use super::*;

    fn of(text: &str) -> VecDeque<Act> {
        let script = Script::parse(text, true).unwrap();
        acts(&script, &Clips::default(), &mut StdRng::seed_from_u64(4))
    }

    #[test]
    fn an_utterance_lasts_as_long_as_its_words_and_ends_finished() {
        let acts = of(r#"{"steps":[{"do":"say","text":"I led a team of five people, and"},
            {"do":"pause","ms":900},{"do":"say","text":"we wrote the billing system."},{"do":"wait"}]}"#);
        let Act::Utter { stretches, interrupts: None } = &acts[0] else { unreachable!("it speaks first") };
        let voice: u64 = stretches.iter().map(|stretch| stretch.voice_us).sum();
        let wanted = voice::seconds("I led a team of five people, and")
            + voice::seconds("we wrote the billing system.");
        assert!(voice.abs_diff((wanted * 1e6) as u64) < 10, "{voice}");
        let thought = stretches.iter().find(|stretch| stretch.rest_us == 900 * MS).unwrap();
        assert!(thought.gap.ends < 0.02 && thought.gap.words.ends_with("and"), "{thought:?}");
        let last = stretches.last().unwrap();
        assert!(last.gap.ends >= 0.04 && last.gap.words.ends_with("system.") && last.rest_us == 0);
        assert!(matches!(acts[1], Act::Wait(_)) && acts.len() == 2);
    }

    #[test]
    fn interruptions_and_noises_wait_for_the_reply() {
        let acts =
            of(r#"{"steps":[{"do":"say","text":"Yes."},{"do":"backchannel","text":"mm-hm","after_ms":700},
            {"do":"barge_in","text":"Sorry, one more thing.","after_ms":800},{"do":"wait"}]}"#);
        assert!(
            matches!(&acts[1], Act::Noise { after_us: Some(700_000), stretch } if stretch.gap.words == "mm-hm")
        );
        assert!(matches!(acts[2], Act::Utter { interrupts: Some(800_000), .. }));
    }

    #[test]
    fn breaths_come_as_often_as_they_were_counted() {
        let text = "For the last three years I have mostly written Rust and a little Python.";
        let script =
            Script::parse(&format!(r#"{{"steps":[{{"do":"say","text":"{text}"}},{{"do":"wait"}}]}}"#), true);
        let (script, mut dice) = (script.unwrap(), StdRng::seed_from_u64(9));
        let breaths: usize = (0..1000)
            .map(|_| match &acts(&script, &Clips::default(), &mut dice)[0] {
                Act::Utter { stretches, .. } => stretches.len() - 1,
                _ => unreachable!("it speaks first"),
            })
            .sum();
        let expected = voice::seconds(text) * BREATHS_PER_S * 1000.0;
        assert!((breaths as f64 - expected).abs() < 100.0, "{breaths}, expected {expected}");
    }
}
