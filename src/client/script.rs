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

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{ClientError, Result};

/// Steps one script may have: an hour's interview has some hundreds.
pub const STEPS_MAX: usize = 2_000;
/// Longest pause, in milliseconds: after five minutes of nothing it is no conversation.
pub const PAUSE_MS_MAX: u32 = 300_000;

/// A list of steps, done in order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// For reports.
    pub name: String,
    /// Instructions for the session, in place of the server's own.
    pub instructions: Option<String>,
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
    /// Says nothing for so long: a thought in mid-utterance, or a rest between turns.
    Pause {
        /// Milliseconds.
        ms: u32,
    },
    /// Asks for a reply without having said a word: a caller who only listens. A `wait` ends it.
    Ask,
    /// Waits until the answer was heard to its end.
    Wait {
        /// Milliseconds until the answer must begin; the run's own limit when left out.
        timeout_ms: Option<u32>,
    },
    /// Interrupts: waits until so much of the reply was heard, then says a file. The utterance is a turn
    /// of its own, which a later `wait` ends.
    BargeIn {
        /// The recording.
        file: PathBuf,
        /// Milliseconds of the reply heard before.
        after_ms: u32,
    },
    /// A noise that is no interruption: waits until so much of the reply was heard, then makes it.
    Cough {
        /// A recording of it ("mm-hm" is one, too); a made cough when left out.
        file: Option<PathBuf>,
        /// Milliseconds of the reply heard before; left out, it coughs at once.
        after_ms: Option<u32>,
    },
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
            match step {
                Step::Play { file } | Step::BargeIn { file, .. } | Step::Cough { file: Some(file), .. } => {
                    *file = folder.join(&file);
                }
                Step::Cough { file: None, .. } | Step::Pause { .. } | Step::Ask | Step::Wait { .. } => {}
            }
        }
    }

    /// Every file it names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.steps.iter().filter_map(|step| match step {
            Step::Play { file } | Step::BargeIn { file, .. } | Step::Cough { file: Some(file), .. } => {
                Some(file.as_path())
            }
            Step::Cough { file: None, .. } | Step::Pause { .. } | Step::Ask | Step::Wait { .. } => None,
        })
    }

    /// Says what is wrong with it, with the step's number.
    pub fn check(&self) -> std::result::Result<(), String> {
        if self.steps.is_empty() {
            return Err("it has no [[steps]]".into());
        }
        if self.steps.len() > STEPS_MAX {
            return Err(format!("it has {} steps; at most {STEPS_MAX} are allowed", self.steps.len()));
        }
        let mut speaking = false;
        for (index, step) in self.steps.iter().enumerate() {
            let number = index + 1;
            match step {
                Step::Play { .. } | Step::Ask => speaking = true,
                Step::Pause { ms } if *ms > PAUSE_MS_MAX => {
                    return Err(format!("step {number}: a pause of {ms} ms is longer than {PAUSE_MS_MAX}"));
                }
                Step::Wait { .. } if !speaking => {
                    return Err(format!("step {number}: nothing was said that could be answered"));
                }
                Step::BargeIn { .. } | Step::Cough { after_ms: Some(_), .. } if !speaking => {
                    return Err(format!("step {number}: there is no reply to speak into; `play` first"));
                }
                Step::Wait { .. } => speaking = false,
                Step::Pause { .. } | Step::BargeIn { .. } | Step::Cough { .. } => {}
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
