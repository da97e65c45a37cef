//! Checks what a client wants changed, and says what it means to the session.

use viva_actors::ports::{ListeningConfig, SessionSettings};
use viva_actors::turn::{Endpointing, TurnConfig};

use super::super::server_events::ErrorBody;
use super::functions::Functions;
use super::{
    AudioObject, Eagerness, Field, Format, FormatKind, InputObject, InputPatch, NoiseReduction, Offer,
    OutputObject, OutputPatch, SessionObject, SessionPatch, TokenLimit, Transcription, TurnDetection,
    TurnKind, VoiceName,
};

/// Bytes of instructions a client may set: more than the context of any model we serve.
pub const INSTRUCTIONS_MAX: usize = 64 * 1024;

/// The silence of `server_vad` when none is given: the protocol's own default.
const SILENCE_MS: u32 = 500;

/// Longest silence or padding a client may ask for; beyond it is a mistake in units.
const PERIOD_MS_MAX: u32 = 10_000;

/// Bytes of hints for the recogniser: it reads at most 224 tokens of them.
const HINTS_MAX: usize = 1024;

/// How speech may be paced: the protocol's own range.
const SPEED: std::ops::RangeInclusive<f32> = 0.25..=1.5;

/// How long a caller may be silent before they are asked: the protocol's own range.
const IDLE_MS: std::ops::RangeInclusive<u32> = 5_000..=30_000;

/// The voices of the protocol's first server. Stock clients ask for one of them by default; they get ours.
const FOREIGN_VOICES: [&str; 13] = [
    "alloy", "ash", "ballad", "coral", "echo", "fable", "nova", "onyx", "sage", "shimmer", "verse", "marin",
    "cedar",
];

impl SessionObject {
    /// A session's first settings.
    pub fn new(id: String, offer: &Offer, expires_at: u64) -> Self {
        let spec = &offer.spec;
        let turn_detection = match spec.turn.endpointing {
            Endpointing::Manual => None,
            Endpointing::Silence { silence_ms } => {
                Some(TurnDetection { silence_duration_ms: Some(silence_ms), ..TurnDetection::server_vad() })
            }
            Endpointing::Semantic { .. } => Some(TurnDetection::semantic_vad()),
        };
        let noise_reduction = spec.listening.denoise.then_some(NoiseReduction { kind: Field::NearField });
        let voice = offer.voices.first().cloned().unwrap_or_else(|| "default".into());
        Self {
            kind: "realtime",
            object: "realtime.session",
            id,
            model: offer.model.clone(),
            output_modalities: [if spec.voice.spoken { "audio" } else { "text" }],
            instructions: spec.voice.instructions.clone(),
            tools: Vec::new(),
            tool_choice: "auto".into(),
            max_output_tokens: TokenLimit::INF,
            truncation: "auto",
            tracing: None,
            prompt: None,
            include: None,
            expires_at,
            audio: AudioObject {
                input: InputObject {
                    format: Format::PCM,
                    transcription: None,
                    noise_reduction,
                    turn_detection,
                },
                output: OutputObject { format: Format::PCM, voice, speed: spec.voice.style.pace },
            },
        }
    }

    /// Whether replies are spoken.
    pub fn spoken(&self) -> bool {
        self.output_modalities == ["audio"]
    }

    /// The settings with `patch` applied, or what is wrong with it; nothing is applied by halves.
    /// `spoken_yet`: the session has been heard, so that its voice stays.
    pub fn patched(&self, patch: SessionPatch, offer: &Offer, spoken_yet: bool) -> Result<Self, ErrorBody> {
        if patch.kind != self.kind {
            let kind: String = patch.kind.chars().take(40).collect();
            let message = format!("Invalid 'session.type': '{kind}'; this session is '{}'.", self.kind);
            return Err(ErrorBody::invalid("invalid_value", message, Some("session.type")));
        }
        let mut next = self.clone();
        if let Some(text) = patch.instructions {
            next.instructions =
                checked_instructions(text, offer.spec.prompt_chars_max, "session.instructions")?;
        }
        if let Some(modalities) = &patch.output_modalities {
            next.output_modalities = checked_modality(modalities, "session.output_modalities")?;
        }
        if let Some(limit) = patch.max_output_tokens {
            limit.checked("session.max_output_tokens")?;
            next.max_output_tokens = limit;
        }
        if patch.tools.is_some() || patch.tool_choice.is_some() {
            next.tools = patch.tools.unwrap_or(next.tools);
            next.tool_choice = patch.tool_choice.unwrap_or(next.tool_choice);
            let functions = Functions::read(&next.tools, Some(&next.tool_choice), "session")?;
            functions.fit(&next.instructions, offer.spec.prompt_chars_max, "session.tools")?;
        }
        let audio = patch.audio.unwrap_or_default();
        next.patch_input(audio.input.unwrap_or_default())?;
        next.patch_output(audio.output.unwrap_or_default(), offer, spoken_yet)?;
        Ok(next)
    }

    fn patch_input(&mut self, patch: InputPatch) -> Result<(), ErrorBody> {
        let input = &mut self.audio.input;
        if let Some(format) = patch.format {
            input.format = checked_format(format, "session.audio.input.format")?;
        }
        if let Some(transcription) = patch.transcription {
            let hints = transcription.as_ref().map_or(0, |t| hints(t).len());
            if hints > HINTS_MAX {
                let what = format!("{hints} bytes of prompt and keywords are more than {HINTS_MAX}");
                return Err(out_of_range("session.audio.input.transcription.prompt", what));
            }
            input.transcription = transcription.map(Transcription::checked).transpose()?;
        }
        if let Some(reduction) = patch.noise_reduction {
            input.noise_reduction = reduction;
        }
        if let Some(detection) = patch.turn_detection {
            input.turn_detection = detection.map(TurnDetection::checked).transpose()?;
        }
        Ok(())
    }

    fn patch_output(&mut self, patch: OutputPatch, offer: &Offer, spoken_yet: bool) -> Result<(), ErrorBody> {
        let output = &mut self.audio.output;
        if let Some(format) = patch.format {
            output.format = checked_format(format, "session.audio.output.format")?;
        }
        if let Some(VoiceName::Name(name) | VoiceName::Id { id: name }) = patch.voice {
            let known = known_voice(&name, &offer.voices)
                .map_err(|what| out_of_range("session.audio.output.voice", what))?;
            let voice = known.unwrap_or_else(|| output.voice.clone());
            if voice != output.voice && spoken_yet {
                return Err(ErrorBody::invalid(
                    "cannot_update_voice",
                    "Cannot update a conversation's voice if assistant audio is present.",
                    Some("session.audio.output.voice"),
                ));
            }
            output.voice = voice;
        }
        if let Some(speed) = patch.speed {
            if !SPEED.contains(&speed) {
                let what = format!("{speed} is not in {}..={}", SPEED.start(), SPEED.end());
                return Err(out_of_range("session.audio.output.speed", what));
            }
            output.speed = speed;
        }
        Ok(())
    }

    /// The settings as the session understands them.
    pub fn settings(&self, offer: &Offer) -> SessionSettings {
        let spec = &offer.spec;
        let input = &self.audio.input;
        let mut voice = spec.voice.clone();
        voice.instructions.clone_from(&self.instructions);
        voice.spoken = self.spoken();
        voice.style.pace = self.audio.output.speed;
        // The first is the engine's own default, whatever the engine calls it.
        if offer.voices.iter().skip(1).any(|v| *v == self.audio.output.voice) {
            voice.style.voice.clone_from(&self.audio.output.voice);
        }
        if let Ok(functions) = Functions::read(&self.tools, Some(&self.tool_choice), "session") {
            functions.apply(&mut voice);
        }
        if let TokenLimit::Tokens(n) = self.max_output_tokens {
            voice.sampling.max_tokens = n;
        }
        let detection = input.turn_detection.as_ref();
        let transcription = input.transcription.as_ref();
        SessionSettings {
            turn: TurnConfig {
                create_response: !self.only_listens() && turn_config(&spec.turn, detection).create_response,
                ..turn_config(&spec.turn, detection)
            },
            voice,
            listening: ListeningConfig {
                denoise: input.noise_reduction.is_some(),
                prompt: transcription.map(hints).filter(|h| !h.is_empty()),
                vad_threshold: detection.and_then(|d| d.threshold).or(spec.listening.vad_threshold),
                prefix_ms: detection.and_then(|d| d.prefix_padding_ms).or(spec.listening.prefix_ms),
            },
            quality: spec.quality,
            language: transcription.and_then(|t| t.language.clone()).unwrap_or_else(|| spec.language.clone()),
        }
    }
}

impl Transcription {
    /// The language by its primary tag, which is all that a recogniser knows of it.
    fn checked(mut self) -> Result<Self, ErrorBody> {
        if let Some(tag) = &self.language {
            let primary = tag.split(['-', '_']).next().unwrap_or_default().to_ascii_lowercase();
            if !(2..=3).contains(&primary.len()) || !primary.bytes().all(|b| b.is_ascii_lowercase()) {
                let shown: String = tag.chars().take(20).collect();
                let what = format!("'{shown}' is no language tag like 'en' or 'pt-BR'");
                return Err(out_of_range("session.audio.input.transcription.language", what));
            }
            self.language = Some(primary);
        }
        Ok(self)
    }
}

impl TurnDetection {
    fn semantic_vad() -> Self {
        Self {
            kind: TurnKind::SemanticVad,
            create_response: true,
            interrupt_response: true,
            eagerness: Some(Eagerness::Auto),
            threshold: None,
            prefix_padding_ms: None,
            silence_duration_ms: None,
            idle_timeout_ms: None,
        }
    }

    fn server_vad() -> Self {
        Self {
            kind: TurnKind::ServerVad,
            eagerness: None,
            threshold: Some(0.5),
            prefix_padding_ms: Some(300),
            silence_duration_ms: Some(SILENCE_MS),
            ..Self::semantic_vad()
        }
    }

    /// Range checks, and the defaults the protocol shows for what was left out.
    fn checked(mut self) -> Result<Self, ErrorBody> {
        let param = |name: &str| format!("session.audio.input.turn_detection.{name}");
        if let Some(t) = self.threshold.filter(|t| !(0.0..=1.0).contains(t)) {
            return Err(out_of_range(&param("threshold"), format!("{t} is not in 0..=1")));
        }
        for (name, ms) in
            [("prefix_padding_ms", self.prefix_padding_ms), ("silence_duration_ms", self.silence_duration_ms)]
        {
            if let Some(ms) = ms.filter(|ms| *ms > PERIOD_MS_MAX) {
                return Err(out_of_range(&param(name), format!("{ms} is more than {PERIOD_MS_MAX}")));
            }
        }
        if let Some(ms) = self.idle_timeout_ms {
            if self.kind != TurnKind::ServerVad {
                return Err(out_of_range(&param("idle_timeout_ms"), "it is for server_vad".into()));
            }
            if !IDLE_MS.contains(&ms) {
                let what = format!("{ms} is not in {}..={}", IDLE_MS.start(), IDLE_MS.end());
                return Err(out_of_range(&param("idle_timeout_ms"), what));
            }
        }
        match self.kind {
            TurnKind::SemanticVad => {
                self.eagerness.get_or_insert(Eagerness::Auto);
            }
            TurnKind::ServerVad => {
                let defaults = Self::server_vad();
                self.eagerness = None;
                self.threshold = self.threshold.or(defaults.threshold);
                self.prefix_padding_ms = self.prefix_padding_ms.or(defaults.prefix_padding_ms);
                self.silence_duration_ms = self.silence_duration_ms.or(defaults.silence_duration_ms);
            }
        }
        Ok(self)
    }
}

fn turn_config(base: &TurnConfig, detection: Option<&TurnDetection>) -> TurnConfig {
    let Some(detection) = detection else {
        return TurnConfig {
            endpointing: Endpointing::Manual,
            create_response: false,
            interrupt_response: false,
            ..base.clone()
        };
    };
    let endpointing = match detection.kind {
        TurnKind::ServerVad => {
            Endpointing::Silence { silence_ms: detection.silence_duration_ms.unwrap_or(SILENCE_MS) }
        }
        TurnKind::SemanticVad => {
            let base = match base.endpointing {
                Endpointing::Semantic { patience } => patience,
                _ => 1.0,
            };
            let eagerness = detection.eagerness.unwrap_or(Eagerness::Auto);
            Endpointing::Semantic { patience: base * eagerness.patience() }
        }
    };
    TurnConfig {
        endpointing,
        create_response: detection.create_response,
        interrupt_response: detection.interrupt_response,
        ..base.clone()
    }
}

/// What the recogniser is told to expect.
fn hints(transcription: &Transcription) -> String {
    let mut hints = transcription.prompt.clone().unwrap_or_default();
    if !transcription.keywords.is_empty() {
        if !hints.is_empty() {
            hints.push(' ');
        }
        hints.push_str(&transcription.keywords.join(", "));
    }
    hints
}

/// A voice of ours by its name; none for one of the protocol's first server, whose clients get what is usual here.
pub fn known_voice(name: &str, voices: &[String]) -> Result<Option<String>, String> {
    if let Some(voice) = voices.iter().find(|voice| *voice == name) {
        return Ok(Some(voice.clone()));
    }
    if FOREIGN_VOICES.contains(&name) {
        return Ok(None);
    }
    let shown: String = name.chars().take(80).collect();
    Err(format!("there is no voice '{shown}'; there are: {}", voices.join(", ")))
}

fn checked_format(format: Format, param: &str) -> Result<Format, ErrorBody> {
    match (format.kind, format.rate) {
        (FormatKind::Pcm, None | Some(24_000)) => Ok(Format::PCM),
        (FormatKind::Pcm, Some(rate)) => {
            let what = format!("{rate} Hz; 'audio/pcm' is 24000 Hz");
            Err(out_of_range(&format!("{param}.rate"), what))
        }
        (_, None | Some(8_000)) => Ok(Format { rate: None, ..format }),
        (_, Some(rate)) => {
            Err(out_of_range(&format!("{param}.rate"), format!("{rate} Hz; G.711 is 8000 Hz")))
        }
    }
}

/// Instructions of a length that can be read, and that leaves a third of the prompt to the conversation.
pub fn checked_instructions(text: String, prompt_chars_max: usize, param: &str) -> Result<String, ErrorBody> {
    let max = INSTRUCTIONS_MAX.min(prompt_chars_max / 3 * 2);
    if text.len() <= max {
        return Ok(text);
    }
    let what = format!("{} bytes are more than the {max} this server's model has room for", text.len());
    Err(ErrorBody::invalid("string_above_max_length", format!("Invalid '{param}': {what}."), Some(param)))
}

/// Exactly one of `audio` and `text`.
pub fn checked_modality(modalities: &[String], param: &str) -> Result<[&'static str; 1], ErrorBody> {
    match modalities {
        [one] if one == "audio" => Ok(["audio"]),
        [one] if one == "text" => Ok(["text"]),
        _ => Err(out_of_range(param, "it must be [\"audio\"] or [\"text\"]".into())),
    }
}

pub(super) fn out_of_range(param: &str, what: String) -> ErrorBody {
    ErrorBody::invalid("invalid_value", format!("Invalid '{param}': {what}."), Some(param))
}
