//! What comes with Viva inside the binary: `presets/voices/*.toml`, `presets/interviewers/*.toml` and
//! `presets/lines/*.toml`, and for the lab `presets/scenarios/*.toml` and `presets/machines/*.toml`. Each file is one preset; a preset's name is
//! its file's.

use std::sync::LazyLock;

use rust_embed::RustEmbed;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use viva_actors::ports::SessionSpec;
use viva_models::Style;

use crate::interview::plan::Conduct;

#[derive(RustEmbed)]
#[folder = "$CARGO_MANIFEST_DIR/presets"]
// The questions are the bank's (crate::knowledge::bank).
#[include = "voices/*"]
#[include = "interviewers/*"]
#[include = "lines/*"]
#[include = "machines/*"]
#[include = "scenarios/*"]
struct Files;

/// The interviewer of who names none.
pub const INTERVIEWER: &str = "friendly";

/// A voice: what is known of some weights.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VoicePreset {
    /// Its short name, the one on the wire.
    pub name: String,
    /// The name of the weights' file, without its ending.
    pub weights: String,
    /// BCP-47 primary tag.
    pub language: String,
    /// What brings it to −16 LUFS through the exit chain, decibels.
    pub gain_db: f32,
    /// Who may use it for what.
    pub licence: String,
    /// How it speaks unless told otherwise.
    #[serde(default)]
    pub style: Style,
}

impl VoicePreset {
    /// The gain as a factor.
    pub fn gain(&self) -> f32 {
        10f32.powf(self.gain_db / 20.0)
    }
}

/// An interviewer: what the language model is told to be where it answers freely, and how interviews are conducted.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterviewerPreset {
    /// The name it is chosen by.
    pub name: String,
    /// One line for those who choose.
    pub about: String,
    /// The system message. Short, since small models follow little, and every session's cache holds it.
    pub instructions: String,
    /// How they conduct an interview that has a plan.
    #[serde(default)]
    pub conduct: Conduct,
}

static VOICES: LazyLock<Vec<VoicePreset>> = LazyLock::new(|| all("voices/"));
static INTERVIEWERS: LazyLock<Vec<InterviewerPreset>> = LazyLock::new(|| all("interviewers/"));
static INTERVIEWER_NAMES: LazyLock<String> = LazyLock::new(|| {
    let names: Vec<&str> = interviewers().iter().map(|preset| &preset.name[..]).collect();
    format!("it must be one of: {}", names.join(", "))
});

/// All voices, by their files' names.
pub fn voices() -> &'static [VoicePreset] {
    &VOICES
}

/// All interviewers, by their files' names.
pub fn interviewers() -> &'static [InterviewerPreset] {
    &INTERVIEWERS
}

/// The interviewer of that name.
pub fn interviewer(name: &str) -> Option<&'static InterviewerPreset> {
    interviewers().iter().find(|preset| preset.name == name)
}

/// What an interviewer's name must be, for messages.
pub fn interviewer_names() -> &'static str {
    &INTERVIEWER_NAMES
}

/// The voice that belongs to these weights.
pub fn voice_of(weights: &str) -> Option<&'static VoicePreset> {
    voices().iter().find(|preset| preset.weights == weights)
}

/// Gives sessions the loudness and the style of the voice that these weights are, and returns its name on
/// the wire. Weights without a preset speak as they are, under their own name.
pub fn give_voice(spec: &mut SessionSpec, weights: String) -> String {
    let Some(preset) = voice_of(&weights) else {
        tracing::info!(voice = %weights, "no preset in presets/voices belongs to this voice: it is not brought to \
            the loudness of the others");
        return weights;
    };
    if preset.language != spec.language {
        tracing::warn!(
            voice = %preset.name, voice_language = %preset.language, session_language = %spec.language,
            "the voice speaks another language than the sessions"
        );
    }
    spec.voice.gain = preset.gain();
    spec.voice.style = preset.style.clone();
    preset.name.clone()
}

/// What interviewers say to everybody in this language; nothing where we know none.
pub fn lines(language: &str) -> Vec<String> {
    #[derive(Deserialize)]
    struct Lines {
        lines: Vec<String>,
    }
    // The file is part of the program, and a test parses it.
    text("lines", language)
        .and_then(|text| toml::from_str(&text).ok())
        .map_or_else(Vec::new, |Lines { lines }| lines)
}

/// The text of a preset the lab has, by its folder and name.
pub fn text(folder: &str, name: &str) -> Option<String> {
    let file = Files::get(&format!("{folder}/{name}.toml"))?;
    Some(String::from_utf8_lossy(&file.data).into_owned())
}

/// The names of the presets in a folder.
pub fn names(folder: &str) -> Vec<String> {
    let mut names: Vec<String> = Files::iter()
        .filter_map(|path| {
            Some(path.strip_prefix(folder)?.strip_prefix('/')?.strip_suffix(".toml")?.to_owned())
        })
        .collect();
    names.sort();
    names
}

/// Parses what lies in a folder. The files are part of the program, and a test parses them all.
fn all<T: DeserializeOwned>(folder: &str) -> Vec<T> {
    let mut paths: Vec<_> =
        Files::iter().filter(|path| path.starts_with(folder) && path.ends_with(".toml")).collect();
    paths.sort();
    let parse = |path| {
        let file = Files::get(path).expect("it was just listed");
        toml::from_slice(&file.data).unwrap_or_else(|error| panic!("presets/{path}: {error}"))
    };
    paths.iter().map(|path| parse(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words a system message may have: a small model follows the last sentences of a longer one only.
    const WORDS_MAX: usize = 70;

    #[test]
    fn every_voice_is_complete_and_belongs_to_weights_of_its_own() {
        assert!(!voices().is_empty());
        for voice in voices() {
            assert_eq!(voice_of(&voice.weights), Some(voice), "two presets for {}", voice.weights);
            assert!(
                Files::get(&format!("voices/{}.toml", voice.name)).is_some(),
                "{} is elsewhere",
                voice.name
            );
            assert!(voice.gain_db.abs() <= 24.0, "{}: more gain than the exit chain takes", voice.name);
            assert!(!voice.licence.is_empty());
        }
    }

    #[test]
    fn every_interviewer_is_short_and_asks_for_speech() {
        assert!(interviewer(INTERVIEWER).is_some());
        for preset in interviewers() {
            let file = format!("interviewers/{}.toml", preset.name);
            assert!(Files::get(&file).is_some(), "{file} is named otherwise");
            let text = &preset.instructions;
            assert!(text.split_whitespace().count() <= WORDS_MAX, "{}: too long", preset.name);
            assert!(!text.contains('\n') && text.contains("short spoken sentences"), "{text}");
        }
    }

    #[test]
    fn there_are_lines_for_everybody_in_every_language_that_has_some() {
        assert!(names("lines").contains(&"en".to_owned()));
        for language in names("lines") {
            let lines = lines(&language);
            assert!(lines.contains(&"Take your time.".to_owned()) || language != "en", "{lines:?}");
            assert!((5..=viva_actors::ahead::LINES_MAX).contains(&lines.len()), "{language}");
        }
        assert_eq!(lines("xx"), [""; 0]);
    }

    #[test]
    fn joe_speaks_louder_and_under_his_short_name() {
        let mut spec = SessionSpec::default();
        assert_eq!(give_voice(&mut spec, "en_US-joe-medium".into()), "joe");
        assert!((3.0..5.0).contains(&spec.voice.gain), "{}", spec.voice.gain);
    }

    #[test]
    fn an_unknown_voice_speaks_as_it_is() {
        let mut spec = SessionSpec::default();
        assert_eq!(give_voice(&mut spec, "tts-1".into()), "tts-1");
        assert_eq!(spec.voice.gain, 1.0);
    }
}
