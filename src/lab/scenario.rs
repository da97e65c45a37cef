//! What simulated candidates do: some scripts, of which each caller plays one a cycle.
//!
//! ```toml
//! name = "short answers"
//! cycle_s = 12.0
//!
//! [[scripts]]
//! name = "one answer"
//! steps = [{ do = "play", file = "answer.wav" }, { do = "wait" }]
//! ```

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::client::error::{ClientError, Result};
use crate::client::{Clip, Clips, Script, Step};

/// Seconds from one script's start to the next one's, where nobody says otherwise: an answer of some
/// seconds, its reply, and a moment of thought.
pub const CYCLE_S: f64 = 12.0;
/// Longest cycle: an hour.
const CYCLE_S_MAX: f64 = 3_600.0;
/// Scripts a scenario may have.
const SCRIPTS_MAX: usize = 1_000;

/// Scripts and their rhythm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// For reports.
    #[serde(default)]
    pub name: String,
    /// Seconds from one script's start to the next one's; a script that takes longer is followed at once.
    #[serde(default = "cycle_s")]
    pub cycle_s: f64,
    /// Each cycle plays one of them, chosen by the run's seed.
    pub scripts: Vec<Script>,
}

fn cycle_s() -> f64 {
    CYCLE_S
}

impl Scenario {
    /// Each clip is an answer, followed by a wait. Gives the clips, too.
    pub fn of_clips(name: &str, clips: Vec<Arc<Clip>>) -> (Self, Clips) {
        let mut loaded = Clips::default();
        let mut scripts = Vec::with_capacity(clips.len());
        for clip in clips {
            scripts.push(Script::of_files(&[clip.name.clone().into()]));
            loaded.insert(clip.name.clone(), clip);
        }
        (Self { name: name.to_owned(), cycle_s: CYCLE_S, scripts }, loaded)
    }

    /// Reads a scenario, or a single script as a scenario of one (TOML, or JSON by its extension), and
    /// the clips it names.
    pub fn load(path: &Path) -> Result<(Self, Clips)> {
        let refuse = |why: String| ClientError::Script { path: path.to_path_buf(), why };
        let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
        let json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        let mut scenario = Self::parse(&text, json).map_err(refuse)?;
        for script in &mut scenario.scripts {
            script.found_beside(path.parent().unwrap_or(Path::new("")));
        }
        let clips = Clips::load(&scenario.scripts)?;
        Ok((scenario, clips))
    }

    /// Reads a scenario's text.
    pub fn parse(text: &str, json: bool) -> std::result::Result<Self, String> {
        let value: serde_json::Value = if json {
            serde_json::from_str(text).map_err(|error| error.to_string())?
        } else {
            toml::from_str(text).map_err(|error| error.to_string())?
        };
        let scenario: Self = if value.get("scripts").is_some() {
            serde_json::from_value(value).map_err(|error| error.to_string())?
        } else {
            let script: Script = serde_json::from_value(value).map_err(|error| error.to_string())?;
            Self { name: script.name.clone(), cycle_s: CYCLE_S, scripts: vec![script] }
        };
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> std::result::Result<(), String> {
        if self.scripts.is_empty() || self.scripts.len() > SCRIPTS_MAX {
            return Err(format!("it has {} scripts; 1 to {SCRIPTS_MAX} are allowed", self.scripts.len()));
        }
        if !(0.0..=CYCLE_S_MAX).contains(&self.cycle_s) {
            return Err(format!("cycle_s = {} is not between 0 and {CYCLE_S_MAX}", self.cycle_s));
        }
        for (index, script) in self.scripts.iter().enumerate() {
            script.check().map_err(|why| format!("script {}: {why}", index + 1))?;
            if !script.steps.iter().any(|step| matches!(step, Step::Wait { .. })) {
                return Err(format!("script {}: it never waits for an answer", index + 1));
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
    fn a_script_alone_is_a_scenario() {
        let text = "name = \"x\"\nsteps = [{ do = \"play\", file = \"a.wav\" }, { do = \"wait\" }]";
        let scenario = Scenario::parse(text, false).unwrap();
        assert_eq!((scenario.scripts.len(), scenario.cycle_s, scenario.name.as_str()), (1, CYCLE_S, "x"));
    }

    #[test]
    fn the_mistake_of_one_script_names_it() {
        let text = "cycle_s = 1.0\nscripts = [{ steps = [{ do = \"wait\" }] }]";
        assert!(Scenario::parse(text, false).unwrap_err().starts_with("script 1: step 1: nothing"));
        let text = "scripts = [{ steps = [{ do = \"play\", file = \"a\" }] }]";
        assert!(Scenario::parse(text, false).unwrap_err().contains("never waits"));
    }
}
