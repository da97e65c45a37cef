//! What simulated candidates do: some scripts, of which each caller plays one a cycle.
//!
//! ```toml
//! name = "short answers"
//! cycle_s = 12.0              # from one script's start to the next one's, ...
//! think_ms = [500, 2000]      # ... and never sooner than so long after the answer's end, drawn anew
//! network = "loss=0.02,jitter=30"  # over WebRTC
//!
//! [[scripts]]
//! name = "one answer"
//! weight = 2.0                # twice as often as one without
//! steps = [
//!   { do = "say", text = "I led a team of five, and" },
//!   { do = "pause", ms = 600, ms_max = 1500 },
//!   { do = "say", text = "um, we wrote the billing system." },
//!   { do = "backchannel", text = "yeah", after_ms = 900, chance = 0.5 },
//!   { do = "wait" },
//! ]
//! ```

use std::path::Path;
use std::sync::Arc;

use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::client::error::{ClientError, Result};
use crate::client::{Clip, Clips, Script, Step};
use crate::edge::webrtc::impair::Impairment;
use crate::presets;

/// Seconds from one script's start to the next one's, where nobody says otherwise: an answer of some
/// seconds, its reply, and a moment of thought.
pub const CYCLE_S: f64 = 12.0;
/// Longest cycle: an hour.
const CYCLE_S_MAX: f64 = 3_600.0;
/// Scripts a scenario may have.
const SCRIPTS_MAX: usize = 1_000;
/// Longest thought between two turns, milliseconds: after five minutes it is no conversation.
const THINK_MS_MAX: u32 = 300_000;
/// The folder of the scenarios inside the binary.
const PRESETS: &str = "scenarios";

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
    /// Least and most milliseconds of thought between a script's end and the next one's start.
    #[serde(default)]
    pub think_ms: Option<(u32, u32)>,
    /// What the network does to calls over WebRTC, as `viva load --impair` takes it.
    #[serde(default)]
    pub network: Option<String>,
    /// Each cycle plays one of them, chosen by the run's seed.
    pub scripts: Vec<Script>,
}

fn cycle_s() -> f64 {
    CYCLE_S
}

impl Scenario {
    /// Scripts of equal weight at a cycle, and nothing else.
    pub fn new(name: &str, cycle_s: f64, scripts: Vec<Script>) -> Self {
        Self { name: name.to_owned(), cycle_s, think_ms: None, network: None, scripts }
    }

    /// Each clip is an answer, followed by a wait. Gives the clips, too.
    pub fn of_clips(name: &str, clips: Vec<Arc<Clip>>) -> (Self, Clips) {
        let mut loaded = Clips::default();
        let mut scripts = Vec::with_capacity(clips.len());
        for clip in clips {
            scripts.push(Script::of_files(&[clip.name.clone().into()]));
            loaded.insert(clip.name.clone(), clip);
        }
        (Self::new(name, CYCLE_S, scripts), loaded)
    }

    /// Reads a scenario that comes with Viva, by its name, or a file: a scenario, or a single script as a
    /// scenario of one (TOML, or JSON by its extension). Gives the recordings it names, too; its lines of words
    /// are not spoken yet.
    pub fn load(path: &Path) -> Result<(Self, Clips)> {
        let refuse = |why: String| ClientError::Script { path: path.to_path_buf(), why };
        if let Some(text) = path.to_str().and_then(|name| presets::text(PRESETS, name)) {
            return Ok((Self::parse(&text, false).map_err(refuse)?, Clips::default()));
        }
        let text = std::fs::read_to_string(path).map_err(|error| {
            refuse(format!("{error}; those that come with Viva are {}", Self::names().join(", ")))
        })?;
        let json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        let mut scenario = Self::parse(&text, json).map_err(refuse)?;
        for script in &mut scenario.scripts {
            script.found_beside(path.parent().unwrap_or(Path::new("")));
        }
        let clips = Clips::load(&scenario.scripts)?;
        Ok((scenario, clips))
    }

    /// The scenarios that come with Viva.
    pub fn names() -> Vec<String> {
        presets::names(PRESETS)
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
            Self::new(&script.name.clone(), CYCLE_S, vec![script])
        };
        scenario.check()?;
        Ok(scenario)
    }

    /// Every line of words in it, each once.
    pub fn texts(&self) -> Vec<&str> {
        let mut texts: Vec<&str> = self.scripts.iter().flat_map(Script::texts).collect();
        texts.sort_unstable();
        texts.dedup();
        texts
    }

    /// The network it asks for.
    pub fn network(&self) -> std::result::Result<Option<Impairment>, String> {
        self.network.as_deref().map(str::parse).transpose()
    }

    /// The next script, with what it leaves to chance drawn.
    pub fn draw(&self, dice: &mut impl Rng) -> Script {
        let weight = |script: &Script| script.weight.unwrap_or(1.0);
        let mut left = dice.random_range(0.0..1.0) * self.scripts.iter().map(weight).sum::<f64>();
        let chosen = self.scripts.iter().find(|script| {
            left -= weight(script);
            left < 0.0
        });
        // Rounding may leave a crumb behind the last one.
        chosen.unwrap_or(&self.scripts[self.scripts.len() - 1]).drawn(dice)
    }

    /// Milliseconds of thought before the next script.
    pub fn think_ms(&self, dice: &mut impl Rng) -> u32 {
        self.think_ms.map_or(0, |(least, most)| dice.random_range(least..=most))
    }

    fn check(&self) -> std::result::Result<(), String> {
        if self.scripts.is_empty() || self.scripts.len() > SCRIPTS_MAX {
            return Err(format!("it has {} scripts; 1 to {SCRIPTS_MAX} are allowed", self.scripts.len()));
        }
        if !(0.0..=CYCLE_S_MAX).contains(&self.cycle_s) {
            return Err(format!("cycle_s = {} is not between 0 and {CYCLE_S_MAX}", self.cycle_s));
        }
        if self.think_ms.is_some_and(|(least, most)| least > most || most > THINK_MS_MAX) {
            return Err(format!("think_ms must be [least, most], at most {THINK_MS_MAX}"));
        }
        self.network().map_err(|why| format!("network: {why}"))?;
        for (index, script) in self.scripts.iter().enumerate() {
            let number = index + 1;
            script.check().map_err(|why| format!("script {number}: {why}"))?;
            if !script.steps.iter().any(|step| matches!(step, Step::Wait { .. })) {
                return Err(format!("script {number}: it never waits for an answer"));
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
        let wait = "steps = [{ do = \"say\", text = \"a\" }, { do = \"wait\" }]";
        for (text, expected) in [
            (format!("scripts = [{{ weight = 0, {wait} }}]"), "script 1: its weight"),
            (format!("network = \"loss=7\"\nscripts = [{{ {wait} }}]"), "network: "),
            (format!("think_ms = [9, 3]\nscripts = [{{ {wait} }}]"), "think_ms must"),
            (format!("scripts = [{{ wieght = 1, {wait} }}]"), "unknown field"),
        ] {
            let error = Scenario::parse(&text, false).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn every_scenario_that_comes_along_can_be_played_and_is_in_words() {
        assert!(Scenario::names().len() >= 4, "{:?}", Scenario::names());
        for name in Scenario::names() {
            let (scenario, _) = Scenario::load(Path::new(&name)).unwrap();
            assert!(!scenario.texts().is_empty(), "{name}");
            let files: usize = scenario.scripts.iter().map(|script| script.files().count()).sum();
            assert_eq!(files, 0, "{name} would need files that are not in the binary");
        }
        let error = Scenario::load(Path::new("no-such")).unwrap_err().to_string();
        assert!(error.contains("interview"), "{error}");
    }

    #[test]
    fn the_seed_draws_the_scripts_by_their_weight() {
        use rand::SeedableRng;
        use rand::rngs::StdRng;
        let text = r#"
            scripts = [
              { name = "often", weight = 3, steps = [{ do = "say", text = "a" }, { do = "wait" }] },
              { name = "rarely", steps = [{ do = "say", text = "b" }, { do = "wait" }] },
            ]"#;
        let scenario = Scenario::parse(text, false).unwrap();
        let draw = |seed| {
            let mut dice = StdRng::seed_from_u64(seed);
            (0..400).map(|_| scenario.draw(&mut dice).name).collect::<Vec<_>>()
        };
        let names = draw(5);
        assert_eq!(names, draw(5));
        let often = names.iter().filter(|name| *name == "often").count();
        assert!((260..340).contains(&often), "{often} of 400 at three quarters");
    }
}
