//! What a caller does in a call, as a list of steps: the load lab, the benches and the tests all read
//! the same kind of script, from TOML or JSON.
//!
//! ```toml
//! name = "one answer with a thought in it"
//!
//! [[steps]]
//! do = "play"
//! file = "first-half.wav"
//!
//! [[steps]]
//! do = "pause"
//! ms = 900
//!
//! [[steps]]
//! do = "play"
//! file = "second-half.wav"
//!
//! [[steps]]
//! do = "cough"
//! after_ms = 800
//!
//! [[steps]]
//! do = "wait"
//! ```
//!
//! Words may stand in place of a recording (`do = "say"`, `text = "..."`): whoever runs the script has them
//! spoken beforehand. What is left to chance (`ms_max`, `chance`) is drawn by [`Script::drawn`].

use std::path::{Path, PathBuf};

use rand::Rng;
use serde::{Deserialize, Serialize};

use super::error::{ClientError, Result};

/// Steps one script may have: an hour's interview has some hundreds.
pub const STEPS_MAX: usize = 2_000;
/// Longest pause, in milliseconds: after five minutes of nothing it is no conversation.
pub const PAUSE_MS_MAX: u32 = 300_000;
/// Longest line, in characters: a minute and a half of speech, and less than a voice takes at once.
pub const TEXT_MAX: usize = 2_000;

/// A list of steps, done in order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// For reports.
    pub name: String,
    /// Instructions for the session, in place of the server's own.
    pub instructions: Option<String>,
    /// How often it is chosen among the scripts of a scenario, against the others: 1 when left out.
    pub weight: Option<f64>,
    /// What to do.
    pub steps: Vec<Step>,
}

/// One thing a caller does. Plays that follow each other, with pauses between them, are one utterance;
/// `wait` ends it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Says a file to its end.
    Play {
        /// The recording.
        file: PathBuf,
    },
    /// Says a line of words.
    Say {
        /// The words.
        text: String,
    },
    /// Says nothing for so long: a thought in mid-utterance, or a rest between turns.
    Pause {
        /// Milliseconds.
        ms: u32,
        /// Up to so many, drawn anew each time.
        #[serde(default)]
        ms_max: Option<u32>,
    },
    /// Asks for a reply without having said a word: a caller who only listens. A `wait` ends it.
    Ask,
    /// Waits until the answer was heard to its end.
    Wait {
        /// Milliseconds until the answer must begin; the run's own limit when left out.
        timeout_ms: Option<u32>,
    },
    /// Interrupts: waits until so much of the reply was heard, then says something. The utterance is a turn
    /// of its own, which a later `wait` ends.
    BargeIn {
        /// The recording, or ...
        file: Option<PathBuf>,
        /// ... the words.
        text: Option<String>,
        /// Milliseconds of the reply heard before.
        after_ms: u32,
        /// How often it is done at all, 0 to 1.
        #[serde(default)]
        chance: Option<f64>,
    },
    /// A noise that is no interruption: waits until so much of the reply was heard, then makes it.
    #[serde(alias = "backchannel")]
    Cough {
        /// A recording of it, or ...
        file: Option<PathBuf>,
        /// ... words such as "mm-hm"; a made cough when both are left out.
        text: Option<String>,
        /// Milliseconds of the reply heard before; left out, it coughs at once.
        after_ms: Option<u32>,
        /// How often it is done at all, 0 to 1.
        #[serde(default)]
        chance: Option<f64>,
    },
    /// The network is gone for so long; then the call goes on over the same line where there still is one,
    /// and over a new one with the server's token where not.
    Drop {
        /// Milliseconds.
        ms: u32,
        /// How often it is done at all, 0 to 1.
        #[serde(default)]
        chance: Option<f64>,
    },
}

impl Step {
    /// The recording it plays.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Play { file } | Self::BargeIn { file: Some(file), .. } => Some(file),
            Self::Cough { file: Some(file), .. } => Some(file),
            _ => None,
        }
    }

    /// The words it says.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Say { text } | Self::BargeIn { text: Some(text), .. } => Some(text),
            Self::Cough { text: Some(text), .. } => Some(text),
            _ => None,
        }
    }

    fn chance(&self) -> Option<f64> {
        match self {
            Self::BargeIn { chance, .. } | Self::Cough { chance, .. } | Self::Drop { chance, .. } => *chance,
            _ => None,
        }
    }

    /// What is wrong with it, given whether something was said that could be answered.
    fn check(&self, speaking: bool) -> std::result::Result<(), String> {
        if self.chance().is_some_and(|chance| !(0.0..=1.0).contains(&chance)) {
            return Err("a chance lies between 0 and 1".into());
        }
        if self.text().is_some_and(|text| text.chars().count() > TEXT_MAX) {
            return Err(format!("a line has at most {TEXT_MAX} characters"));
        }
        if self.text().is_some_and(|text| !text.chars().any(char::is_alphanumeric)) {
            return Err("there is nothing to say in it".into());
        }
        match self {
            Self::Pause { ms, ms_max } if (*ms).max(ms_max.unwrap_or(0)) > PAUSE_MS_MAX => {
                Err(format!("a pause of {} ms is longer than {PAUSE_MS_MAX}", (*ms).max(ms_max.unwrap_or(0))))
            }
            Self::Pause { ms, ms_max: Some(most) } if most < ms => {
                Err(format!("ms_max = {most} is less than ms = {ms}"))
            }
            Self::Drop { ms, .. } if *ms > PAUSE_MS_MAX => {
                Err(format!("{ms} ms without a network are longer than {PAUSE_MS_MAX}"))
            }
            Self::Wait { .. } if !speaking => Err("nothing was said that could be answered".into()),
            Self::BargeIn { .. } | Self::Cough { after_ms: Some(_), .. } if !speaking => {
                Err("there is no reply to speak into; `play` or `say` first".into())
            }
            Self::BargeIn { file, text, .. } if file.is_some() == text.is_some() => {
                Err("an interruption has either a file or a text".into())
            }
            Self::Cough { file: Some(_), text: Some(_), .. } => {
                Err("a noise has either a file or a text".into())
            }
            _ => Ok(()),
        }
    }
}

impl Script {
    /// Plays each file and waits for its answer.
    pub fn of_files(files: &[PathBuf]) -> Self {
        let turn = |file: &PathBuf| [Step::Play { file: file.clone() }, Step::Wait { timeout_ms: None }];
        Self { steps: files.iter().flat_map(turn).collect(), ..Self::default() }
    }

    /// Reads a script; `.json` files as JSON, others as TOML. Files it names are found beside it.
    pub fn load(path: &Path) -> Result<Self> {
        let refuse = |why: String| ClientError::Script { path: path.to_path_buf(), why };
        let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
        let json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        let mut script = Self::parse(&text, json).map_err(refuse)?;
        script.found_beside(path.parent().unwrap_or(Path::new("")));
        Ok(script)
    }

    /// Reads a script's text.
    pub fn parse(text: &str, json: bool) -> std::result::Result<Self, String> {
        let script: Self = if json {
            serde_json::from_str(text).map_err(|error| error.to_string())?
        } else {
            toml::from_str(text).map_err(|error| error.to_string())?
        };
        script.check()?;
        Ok(script)
    }

    /// Makes relative file names relative to `folder`.
    pub fn found_beside(&mut self, folder: &Path) {
        for step in &mut self.steps {
            if let Step::Play { file }
            | Step::BargeIn { file: Some(file), .. }
            | Step::Cough { file: Some(file), .. } = step
            {
                *file = folder.join(&file);
            }
        }
    }

    /// Every file it names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.steps.iter().filter_map(Step::file)
    }

    /// Every line of words it says.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().filter_map(Step::text)
    }

    /// The script with what it leaves to chance drawn. Every script takes the same share of the dice, however
    /// they fall.
    pub fn drawn(&self, dice: &mut impl Rng) -> Self {
        let mut drawn = Self { steps: Vec::with_capacity(self.steps.len()), ..self.clone() };
        for step in &self.steps {
            let fate: f64 = dice.random_range(0.0..1.0);
            if step.chance().is_some_and(|chance| fate >= chance) {
                continue;
            }
            drawn.steps.push(match step {
                Step::Pause { ms, ms_max: Some(most) } => {
                    let more = fate * f64::from(most.saturating_sub(*ms) + 1);
                    Step::Pause { ms: ms + more as u32, ms_max: None }
                }
                step => step.clone(),
            });
        }
        drawn
    }

    /// Says what is wrong with it, with the step's number.
    pub fn check(&self) -> std::result::Result<(), String> {
        if self.steps.is_empty() {
            return Err("it has no [[steps]]".into());
        }
        if self.steps.len() > STEPS_MAX {
            return Err(format!("it has {} steps; at most {STEPS_MAX} are allowed", self.steps.len()));
        }
        if self.weight.is_some_and(|weight| !weight.is_finite() || weight <= 0.0) {
            return Err("its weight must be above 0".into());
        }
        let mut speaking = false;
        for (index, step) in self.steps.iter().enumerate() {
            step.check(speaking).map_err(|why| format!("step {}: {why}", index + 1))?;
            match step {
                Step::Play { .. } | Step::Say { .. } | Step::Ask => speaking = true,
                Step::Wait { .. } => speaking = false,
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn toml_and_json_say_the_same() {
        let toml = r#"
            name = "x"
            [[steps]]
            do = "play"
            file = "a.wav"
            [[steps]]
            do = "pause"
            ms = 700
            [[steps]]
            do = "barge_in"
            file = "no.wav"
            after_ms = 500
            [[steps]]
            do = "cough"
            [[steps]]
            do = "wait"
            timeout_ms = 9000
        "#;
        let json = r#"{"name":"x","steps":[{"do":"play","file":"a.wav"},{"do":"pause","ms":700},
            {"do":"barge_in","file":"no.wav","after_ms":500},{"do":"cough"},{"do":"wait","timeout_ms":9000}]}"#;
        let script = Script::parse(toml, false).unwrap();
        assert_eq!(script, Script::parse(json, true).unwrap());
        assert_eq!(script.steps.len(), 5);
        assert_eq!(script.files().count(), 2);
    }

    #[test]
    fn files_are_found_beside_the_script() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.toml");
        std::fs::write(&path, "[[steps]]\ndo = \"play\"\nfile = \"a.wav\"\n").unwrap();
        let script = Script::load(&path).unwrap();
        assert_eq!(script.files().next().unwrap(), folder.path().join("a.wav"));
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let error = Script::parse(text, true).unwrap_err();
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    }

    #[test]
    fn mistakes_are_named() {
        check(r#"{"steps":[]}"#, "no [[steps]]");
        check(r#"{"steps":[{"do":"wait"}]}"#, "step 1: nothing was said");
        check(r#"{"steps":[{"do":"sing"}]}"#, "unknown variant `sing`");
        check(r#"{"steps":[{"do":"play","file":"a","loud":1}]}"#, "unknown field `loud`");
        check(r#"{"steps":[{"do":"play","file":"a"},{"do":"pause","ms":400000}]}"#, "step 2: a pause");
        check(r#"{"steps":[{"do":"barge_in","file":"a","after_ms":1}]}"#, "step 1: there is no reply");
        check(
            r#"{"steps":[{"do":"say","text":"a"},{"do":"barge_in","after_ms":1}]}"#,
            "step 2: an interruption has",
        );
        check(r#"{"steps":[{"do":"say","text":"..."}]}"#, "step 1: there is nothing to say");
        check(r#"{"steps":[{"do":"drop","ms":1,"chance":1.5}]}"#, "step 1: a chance");
        check(r#"{"steps":[{"do":"pause","ms":5,"ms_max":4}]}"#, "step 1: ms_max = 4");
    }

    #[test]
    fn chance_is_drawn_by_the_seed_and_by_nothing_else() {
        use rand::SeedableRng;
        use rand::rngs::StdRng;
        let script = Script::parse(
            r#"{"steps":[{"do":"say","text":"Well"},{"do":"pause","ms":600,"ms_max":1500},
            {"do":"backchannel","text":"mm-hm","chance":0.5},{"do":"say","text":"yes."},{"do":"wait"}]}"#,
            true,
        )
        .unwrap();
        let draw = |seed| script.drawn(&mut StdRng::seed_from_u64(seed));
        assert_eq!(draw(3), draw(3));
        let drawn: Vec<Script> = (0..200).map(draw).collect();
        let pauses = drawn.iter().map(|script| match script.steps[1] {
            Step::Pause { ms, ms_max: None } => ms,
            _ => unreachable!("the second step stays a pause"),
        });
        let (least, most) = pauses.fold((u32::MAX, 0), |(a, b), ms| (a.min(ms), b.max(ms)));
        assert!((600..650).contains(&least) && (1450..=1500).contains(&most), "{least} {most}");
        let with = drawn.iter().filter(|script| script.steps.len() == 5).count();
        assert!((70..130).contains(&with), "{with} of 200 at a chance of a half");
        assert_eq!(script.texts().collect::<Vec<_>>(), ["Well", "mm-hm", "yes."]);
    }

    #[test]
    fn files_become_turns() {
        assert!(
            Script::parse(r#"{"steps":[{"do":"ask"},{"do":"wait"}]}"#, true).is_ok(),
            "or nothing is said"
        );
        let script = Script::of_files(&["a.wav".into(), "b.wav".into()]);
        assert_eq!(script.steps.len(), 4);
        script.check().unwrap();
    }
}
