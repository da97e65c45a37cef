//! Whether somebody waits for the words of a pause, as the recogniser's stage knows it (`Asked` in `asr.rs`).

use super::candidate::MS;
use super::policy::WORDS;

/// What is known of the pause that was asked about last.
#[derive(Debug, Default)]
pub struct Words(Option<Asked>);

#[derive(Debug, Clone, Copy)]
struct Asked {
    pause: u32,
    known: Known,
    /// From then on it counts as an end.
    lasts_us: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Nothing,
    Promising,
    Over,
}

impl Words {
    /// Words or a score of this pause are ordered.
    pub fn asked(&mut self, pause: u32, now: u64) {
        if self.0.is_none_or(|asked| asked.pause != pause) {
            self.0 = Some(Asked { pause, known: Known::Nothing, lasts_us: now + WORDS.1 * MS });
        }
    }

    /// The pause was scored.
    pub fn scored(&mut self, pause: u32, probability: Option<f32>) {
        if probability.is_none_or(|score| score >= WORDS.0)
            && let Some(asked) = self.0.as_mut().filter(|asked| asked.pause == pause)
        {
            asked.known = Known::Promising;
        }
    }

    /// The caller goes on; if `freeze`, what was said is final, and somebody waits for it after all.
    pub fn went_on(&mut self, freeze: bool) {
        if let Some(asked) = &mut self.0 {
            asked.known = if freeze { Known::Promising } else { Known::Over };
        }
    }

    /// Whether the caller has gone on after this pause.
    pub fn over(&self, pause: u32) -> bool {
        match self.0.filter(|asked| asked.pause == pause) {
            Some(asked) => asked.known == Known::Over,
            // A newer pause is open.
            None => self.0.is_some(),
        }
    }

    /// Whether nobody waits for the words of this pause yet.
    pub fn speculative(&self, pause: u32, now: u64) -> bool {
        match self.0.filter(|asked| asked.pause == pause) {
            Some(Asked { known: Known::Nothing, lasts_us, .. }) => now < lasts_us,
            _ => self.over(pause),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_wanted_once_the_pause_promises_to_be_the_end_or_lasts() {
        let mut words = Words::default();
        words.asked(1, 0);
        assert!(words.speculative(1, 299_999) && !words.speculative(1, 300_000));
        words.scored(1, Some(0.29));
        assert!(words.speculative(1, 0));
        words.scored(1, Some(0.3));
        assert!(!words.speculative(1, 0));
        words.went_on(false);
        assert!(words.over(1) && words.speculative(1, 900_000), "whoever goes on waits for nothing");
        words.went_on(true);
        assert!(!words.speculative(1, 0));
    }
}
