//! One configuration: defaults, then a TOML file, then the environment, then flags. Checked once, then
//! immutable. `viva.example.toml` documents every key.

mod identity;
mod sections;
mod webrtc;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};
use viva_actors::gpu::PROCESSES_MAX;
use viva_actors::ports::SessionSpec;
use viva_actors::turn::{Endpointing, TurnConfig};

use crate::presets;
pub use identity::{IdentitySection, TierSection, TiersSection, TlsSection};
pub use sections::{
    EnginesSection, KnowledgeSection, LogFormat, LogSection, MachineSection, ModelsSection, MoreEngine,
    RecordingsSection, ServerSection, SessionSection, TurnSection,
};
pub use webrtc::{IceServer, WebRtcSection, public_address};

/// Everything that can be set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Who may come in, and how many.
    pub server: ServerSection,
    /// Who may come in.
    pub identity: IdentitySection,
    /// How much they may have.
    pub tiers: TiersSection,
    /// Over what.
    pub tls: TlsSection,
    /// What operators read.
    pub log: LogSection,
    /// Which weights.
    pub models: ModelsSection,
    /// How the engines share the machine.
    pub machine: MachineSection,
    /// What a session starts from.
    pub session: SessionSection,
    /// How turns are taken.
    pub turn: TurnSection,
    /// Recordings.
    pub recordings: RecordingsSection,
    /// The bank of questions.
    pub knowledge: KnowledgeSection,
    /// Calls over WebRTC.
    pub webrtc: WebRtcSection,
    /// Engines other than the profile's.
    pub engines: EnginesSection,
}

/// What flags say; they go before everything else.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)]
pub struct Flags {
    pub listen: Option<SocketAddr>,
    pub profile: Option<String>,
    pub models: Option<PathBuf>,
    pub keys: Option<PathBuf>,
    pub self_signed: bool,
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {error}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is not TOML.
    #[error("{path} is not valid TOML: {error}", path = path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Where and why.
        error: Box<toml::de::Error>,
    },
    /// A key that does not exist, or a value of the wrong type.
    #[error("{origin}: {what}; viva.example.toml documents every key")]
    Key {
        /// Whose.
        origin: String,
        /// The key and what is wrong.
        what: String,
    },
    /// A value that cannot be.
    #[error("{key} = {value}: {why}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it is.
        value: String,
        /// What it must be.
        why: &'static str,
    },
}

impl Config {
    /// Reads and checks everything. `environment` looks a variable up.
    pub fn load(
        file: Option<&Path>,
        flags: &Flags,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let mut config = match file {
            None => Self::default(),
            Some(path) => {
                let read = |error| ConfigError::Read { path: path.to_owned(), error };
                let text = std::fs::read_to_string(path).map_err(read)?;
                let table: Table = toml::from_str(&text)
                    .map_err(|e| ConfigError::Syntax { path: path.to_owned(), error: Box::new(e) })?;
                from_table(table, &path.display().to_string())?
            }
        };
        config = config.with_environment(environment)?;
        if let Some(listen) = flags.listen {
            config.server.listen = listen;
        }
        if let Some(profile) = &flags.profile {
            config.models.profile.clone_from(profile);
        }
        if let Some(models) = &flags.models {
            config.models.dir = models.display().to_string();
        }
        if let Some(keys) = &flags.keys {
            config.identity.keys = keys.display().to_string();
        }
        config.tls.self_signed |= flags.self_signed;
        config.check()?;
        Ok(config)
    }

    /// `VIVA_<SECTION>_<KEY>` sets a key, for every key but those of `[engines]`.
    fn with_environment(self, environment: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut table = Table::try_from(&self).expect("a configuration is always a table");
        let mut changed = Vec::new();
        for (section, keys) in &mut table {
            let Some(keys) = keys.as_table_mut().filter(|_| section != "engines") else { continue };
            for (key, value) in keys {
                let name = format!("VIVA_{section}_{key}").to_uppercase();
                let Some(set) = environment(&name) else { continue };
                *value = match value {
                    Value::String(_) => Value::String(set),
                    _ => set.parse().map_err(|_| ConfigError::Key {
                        origin: name.clone(),
                        what: format!("{set:?} is not a value of {section}.{key}"),
                    })?,
                };
                changed.push(name);
            }
        }
        if changed.is_empty() { Ok(self) } else { from_table(table, &changed.join(", ")) }
    }

    fn check(&self) -> Result<(), ConfigError> {
        let s = &self.session;
        let fail = |key, value: &dyn std::fmt::Display, why| {
            Err(ConfigError::Value { key, value: value.to_string(), why })
        };
        if !(1..=256).contains(&self.server.sessions_max) {
            return fail("server.sessions_max", &self.server.sessions_max, "it must be in 1..=256");
        }
        if !(10..=86_400).contains(&self.server.session_s_max) {
            return fail("server.session_s_max", &self.server.session_s_max, "it must be in 10..=86400");
        }
        if self.server.drain_s > 3_600 {
            return fail("server.drain_s", &self.server.drain_s, "it must be at most 3600");
        }
        if let Some(bad) = self.server.origins.iter().find(|o| !o.contains("://")) {
            return fail("server.origins", bad, "an origin is written like https://example.org");
        }
        let machine = &self.machine;
        for (key, processes) in [
            ("machine.asr_processes", machine.asr_processes),
            ("machine.tts_processes", machine.tts_processes),
        ] {
            if processes > PROCESSES_MAX {
                return fail(key, &processes, "it must be at most 16");
            }
        }
        let more = &self.engines;
        let processes =
            more.more_asr.iter().map(|m| m.processes).chain(more.more_tts.iter().map(|m| m.processes));
        if let Some(bad) = processes.into_iter().find(|n| !(1..=PROCESSES_MAX).contains(n)) {
            return fail("engines.more_*.processes", &bad, "it must be in 1..=16");
        }
        if presets::interviewer(&s.interviewer).is_none() {
            return fail("session.interviewer", &s.interviewer, presets::interviewer_names());
        }
        if !(1..=4096).contains(&s.max_tokens) {
            return fail("session.max_tokens", &s.max_tokens, "it must be in 1..=4096");
        }
        if !(0.0..=2.0).contains(&s.temperature) {
            return fail("session.temperature", &s.temperature, "it must be in 0..=2");
        }
        if !(s.top_p > 0.0 && s.top_p <= 1.0) {
            return fail("session.top_p", &s.top_p, "it must be above 0 and at most 1");
        }
        if !(0.5..=2.0).contains(&s.repeat_penalty) {
            return fail("session.repeat_penalty", &s.repeat_penalty, "it must be in 0.5..=2");
        }
        if s.lead_ms > 120 {
            return fail(
                "session.lead_ms",
                &s.lead_ms,
                "it must be at most 120, or an interruption comes late",
            );
        }
        if !(0.25..=4.0).contains(&self.turn.patience) {
            return fail("turn.patience", &self.turn.patience, "it must be in 0.25..=4");
        }
        if !(64..=1_000).contains(&self.turn.pause_ms) {
            return fail("turn.pause_ms", &self.turn.pause_ms, "it must be in 64..=1000");
        }
        if !(1..=3_600).contains(&self.turn.turn_s_max) {
            return fail("turn.turn_s_max", &self.turn.turn_s_max, "it must be in 1..=3600");
        }
        self.identity.check(self.server.listen.ip())?;
        self.tls.check()?;
        self.webrtc.check()
    }

    /// Where the weights lie.
    pub fn models_dir(&self) -> PathBuf {
        match self.models.dir.as_str() {
            "" => viva_models::fetch::models_dir(),
            dir => PathBuf::from(dir),
        }
    }

    /// Where imported banks and the index lie.
    pub fn knowledge_dir(&self) -> PathBuf {
        match self.knowledge.dir.as_str() {
            "" => crate::knowledge::default_dir(&self.models_dir()),
            dir => PathBuf::from(dir),
        }
    }

    /// What a session starts from.
    pub fn session_spec(&self) -> SessionSpec {
        let mut spec = SessionSpec::default();
        let s = &self.session;
        spec.language.clone_from(&s.language);
        spec.quality = s.quality;
        if !s.instructions.trim().is_empty() {
            spec.voice.instructions.clone_from(&s.instructions);
        } else if let Some(preset) = presets::interviewer(&s.interviewer) {
            spec.voice.instructions.clone_from(&preset.instructions);
        }
        let sampling = &mut spec.voice.sampling;
        (sampling.max_tokens, sampling.temperature) = (s.max_tokens, s.temperature);
        (sampling.top_p, sampling.repeat_penalty) = (s.top_p, s.repeat_penalty);
        spec.listening.denoise = s.denoise;
        spec.lead_ms = s.lead_ms;
        spec.turn = TurnConfig {
            endpointing: Endpointing::Semantic { patience: self.turn.patience },
            pause_ms: self.turn.pause_ms,
            barge_in_ms: self.turn.barge_in_ms,
            freeze_ms: self.turn.freeze_ms,
            turn_ms_max: self.turn.turn_s_max * 1000,
            ..TurnConfig::default()
        };
        spec.recordings = (!self.recordings.dir.is_empty()).then(|| PathBuf::from(&self.recordings.dir));
        spec
    }
}

fn from_table(table: Table, origin: &str) -> Result<Config, ConfigError> {
    serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
        let path = error.path().to_string();
        let what = error.into_inner().to_string();
        let what = what.trim().lines().next().unwrap_or_default();
        ConfigError::Key { origin: origin.to_owned(), what: format!("{path}: {what}") }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use viva_models::registry::LlmSpec;

    use super::*;

    const EXAMPLE: &str = include_str!("../viva.example.toml");

    fn load(toml: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), toml).unwrap();
        let env: std::collections::HashMap<String, String> =
            env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Config::load(Some(file.path()), &Flags::default(), |name| env.get(name).cloned())
    }

    #[test]
    fn the_example_has_every_key_with_its_default() {
        assert_eq!(load(EXAMPLE, &[]).unwrap(), Config::default());
        let example: Table = toml::from_str(EXAMPLE).unwrap();
        for (section, keys) in Table::try_from(Config::default()).unwrap() {
            let shown = example.get(&section).and_then(Value::as_table);
            // Engines beside the profile's are shown, not set: there are none by default.
            for key in keys.as_table().unwrap().keys().filter(|_| section != "engines") {
                assert!(
                    shown.is_some_and(|t| t.contains_key(key)),
                    "viva.example.toml lacks {section}.{key}"
                );
            }
        }
        for engine in ["asr", "llm", "tts", "vad", "turn", "embed"] {
            assert!(
                EXAMPLE.contains(&format!("# [engines.{engine}]")),
                "it does not show [engines.{engine}]"
            );
        }
        for more in ["asr", "llm", "tts"] {
            assert!(EXAMPLE.contains(&format!("# [[engines.more_{more}]]")), "it shows no second {more}");
        }
    }

    #[test]
    fn a_misspelt_key_is_named() {
        let error = load("[server]\nlissten = '127.0.0.1:1'", &[]).unwrap_err().to_string();
        assert!(error.contains("lissten") && error.contains("server"), "{error}");
        let error = load("[servre]\n", &[]).unwrap_err().to_string();
        assert!(error.contains("servre"), "{error}");
        let error = load("[server]\nsessions_max = 'many'", &[]).unwrap_err().to_string();
        assert!(error.contains("server.sessions_max"), "{error}");
    }

    #[test]
    fn the_environment_goes_before_the_file() {
        let env = [("VIVA_SERVER_SESSIONS_MAX", "3"), ("VIVA_MODELS_PROFILE", "test")];
        let config = load("[server]\nsessions_max = 2", &env).unwrap();
        assert_eq!((config.server.sessions_max, config.models.profile.as_str()), (3, "test"));
        let error = load("", &[("VIVA_TURN_PATIENCE", "very")]).unwrap_err().to_string();
        assert!(error.contains("VIVA_TURN_PATIENCE"), "{error}");
    }

    #[test]
    fn values_that_cannot_be_are_refused_with_the_range() {
        for (toml, key) in [
            ("[server]\nsessions_max = 0", "server.sessions_max"),
            ("[session]\nlead_ms = 500", "session.lead_ms"),
            ("[turn]\npatience = 100.0", "turn.patience"),
            ("[machine]\ntts_processes = 17", "machine.tts_processes"),
            ("[server]\norigins = ['example.org']", "server.origins"),
            ("[session]\ninterviewer = 'grim'", "formal, friendly, leadership"),
            ("[server]\nlisten = '0.0.0.0:8790'", "viva keys add"),
            ("[identity]\nkeys = 'k'\nopen = true", "identity.open"),
            ("[tls]\ncert = 'c'", "tls.key"),
            ("[tls]\ncert = 'c'\nkey = 'k'\nself_signed = true", "tls.self_signed"),
        ] {
            let error = load(toml, &[]).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn instructions_go_before_the_interviewer() {
        let told = |toml| load(toml, &[]).unwrap().session_spec().voice.instructions;
        assert!(told("").starts_with("You are a friendly job interviewer"));
        assert!(told("[session]\ninterviewer = 'formal'").contains("formal"));
        assert_eq!(told("[session]\ninterviewer = 'formal'\ninstructions = 'Count.'"), "Count.");
    }

    #[test]
    fn an_engine_can_be_a_remote_one() {
        let toml = "[engines.llm]\nengine = 'openai'\nbase_url = 'http://127.0.0.1:8000/v1'\nmodel = 'm'";
        assert!(matches!(load(toml, &[]).unwrap().engines.llm, Some(LlmSpec::Openai(_))));
    }
}
