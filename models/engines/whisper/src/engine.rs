//! One whisper model with one state: one decode at a time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use viva_models::registry::WhisperSpec;
use viva_models::{Asr, AsrJob, Cancel, EngineError, Result, Transcription};
use whisper_rs::{
    FullParams, SamplingStrategy, WhisperContext, WhisperContextParameters, WhisperState, get_lang_id,
    get_lang_str,
};

use crate::ffi;
use crate::text::{Piece, repeats_itself, words_of};

/// Samples a second whisper was trained on.
const RATE: usize = 16_000;

/// Seconds of whisper's window; it hears nothing beyond.
const WINDOW_S: usize = 30;

/// Less than this is no word, and whisper.cpp itself skips the last 100 ms.
const SAMPLES_MIN: usize = RATE / 10;

/// Shorter audio is padded with silence to this: whisper answers nothing or nonsense to less than a second.
const SAMPLES_PADDED: usize = RATE;

/// Peak below which a clip is silence (−60 dBFS): whisper makes up "you" and "Thank you." for it.
const SILENCE_PEAK: f32 = 0.001;

/// Samples of one position of the encoder (50 a second).
const SAMPLES_PER_POSITION: usize = RATE / 50;

/// The encoder's cost is its positions, not the audio. Below 512, tiny and base fell into repetition loops
/// (measured); above, 64 positions of silence let the decoder see the end.
const AUDIO_CTX_MIN: usize = 512;
const AUDIO_CTX_MARGIN: usize = 64;

/// Tokens a decode may make: fast English is 6 tokens a second; a loop ends here instead of at 224.
const TOKENS_BASE: usize = 24;
const TOKENS_PER_S: usize = 10;

/// Tokens of prompt whisper can use: half of its text context of 448, less one.
const PROMPT_TOKENS_MAX: usize = 223;

/// Bytes of prompt we tokenise, from its end: more than [`PROMPT_TOKENS_MAX`] tokens hold.
const PROMPT_BYTES_MAX: usize = 2_048;

/// whisper.cpp's word for a language it is to find out.
const DETECT: &str = "auto";

/// whisper.cpp behind the contract.
pub(crate) struct Whisper {
    name: String,
    threads: i32,
    language: Option<&'static str>,
    context: WhisperContext,
    state: WhisperState,
    /// Parameters by language. whisper-rs leaks a language's name each time it is set, so it is set once.
    params: HashMap<&'static str, FullParams<'static, 'static>>,
    /// The flag the backend still points to; see [`ffi::abort_when`].
    abort: Arc<AtomicBool>,
}

/// What one decode gave.
struct Decoded {
    pieces: Vec<Piece>,
    looped: bool,
}

impl Whisper {
    /// Loads the weights.
    pub(crate) fn open(spec: WhisperSpec) -> Result<Self> {
        let mut parameters = WhisperContextParameters::new();
        parameters.use_gpu(spec.gpu && cfg!(feature = "cuda"));
        let context = WhisperContext::new_with_params(&spec.model, parameters)
            .map_err(|e| EngineError::Invalid(format!("{} cannot be loaded: {e}", spec.model.display())))?;
        let state = context.create_state().map_err(|e| EngineError::Failed(format!("no state: {e}")))?;
        let file = spec.model.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let model = file.strip_prefix("ggml-").unwrap_or(&file);
        Ok(Self {
            name: format!("whisper.cpp {} {model}", whisper_rs::WHISPER_CPP_VERSION),
            threads: i32::try_from(spec.threads.max(1)).unwrap_or(1),
            language: spec.language.as_deref().map(known_language).transpose()?,
            context,
            state,
            params: HashMap::new(),
            abort: Arc::default(),
        })
    }

    /// The language to decode in: an English model knows only English.
    fn language_of(&self, job: &AsrJob) -> Result<&'static str> {
        if !self.context.is_multilingual() {
            return Ok("en");
        }
        match job.language.as_deref() {
            Some(language) => known_language(language),
            None => Ok(self.language.unwrap_or(DETECT)),
        }
    }

    fn params(&mut self, language: &'static str) -> FullParams<'static, 'static> {
        let threads = self.threads;
        self.params
            .entry(language)
            .or_insert_with(|| {
                let mut params = FullParams::new(SamplingStrategy::Greedy { best_of: 1 });
                params.set_language(Some(language));
                params.set_n_threads(threads);
                params.set_no_context(true);
                params.set_single_segment(true);
                params.set_suppress_blank(true);
                params.set_suppress_nst(true);
                // No second try at a higher temperature: a wrong text now beats a right one too late, and
                // loops are dealt with here.
                params.set_temperature_inc(0.0);
                params.set_print_special(false);
                params.set_print_progress(false);
                params.set_print_realtime(false);
                params.set_print_timestamps(false);
                params
            })
            .clone()
    }

    fn prompt_tokens(&self, prompt: Option<&str>) -> Vec<i32> {
        let Some(prompt) = prompt.map(str::trim).filter(|p| !p.is_empty()) else { return Vec::new() };
        let mut from = prompt.len().saturating_sub(PROMPT_BYTES_MAX);
        while !prompt.is_char_boundary(from) {
            from += 1;
        }
        let text = format!(" {}", prompt[from..].replace('\0', " "));
        // A prompt that does not tokenise is a hint lost, not a job lost.
        let tokens = self.context.tokenize(&text, PROMPT_BYTES_MAX).unwrap_or_default();
        tokens[tokens.len().saturating_sub(PROMPT_TOKENS_MAX)..].to_vec()
    }

    fn decode(
        &mut self,
        samples: &[f32],
        audio_ctx: usize,
        language: &'static str,
        job: &AsrJob,
        cancel: &Cancel,
    ) -> Result<Decoded> {
        let tokens_max = TOKENS_BASE + TOKENS_PER_S * samples.len().div_ceil(RATE);
        let prompt = self.prompt_tokens(job.prompt.as_deref());
        let mut params: FullParams<'_, '_> = self.params(language);
        params.set_audio_ctx(i32::try_from(audio_ctx).unwrap_or(0));
        params.set_max_tokens(i32::try_from(tokens_max).unwrap_or(0));
        params.set_no_timestamps(!job.words);
        params.set_token_timestamps(job.words);
        if !prompt.is_empty() {
            params.set_tokens(&prompt);
        }
        let before = std::mem::replace(&mut self.abort, Arc::clone(cancel.flag()));
        // SAFETY: `self.abort` keeps the flag alive until the next job has replaced it in the backend.
        unsafe { ffi::abort_when(&mut params, &self.abort) };
        let result = self.state.full(params, samples);
        drop(before);
        if cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        result.map_err(|e| EngineError::Failed(format!("whisper could not decode: {e}")))?;
        let pieces = self.pieces();
        let looped = pieces.len() >= tokens_max || repeats_itself(&words_of(&pieces, samples.len()));
        Ok(Decoded { pieces, looped })
    }

    /// The text tokens of the last decode.
    fn pieces(&self) -> Vec<Piece> {
        let end = self.context.token_eot();
        let mut pieces = Vec::new();
        for segment in self.state.as_iter() {
            for i in 0..segment.n_tokens() {
                let Some(token) = segment.get_token(i) else { continue };
                if token.token_id() >= end {
                    continue;
                }
                let data = token.token_data();
                pieces.push(Piece {
                    bytes: token.to_bytes().map(<[u8]>::to_vec).unwrap_or_default(),
                    probability: data.p,
                    start_cs: data.t0,
                    end_cs: data.t1,
                });
            }
        }
        pieces
    }

    fn spoken_language(&self, asked: &'static str) -> &'static str {
        if asked != DETECT {
            return asked;
        }
        get_lang_str(self.state.full_lang_id_from_state()).unwrap_or("en")
    }
}

/// whisper's own name of a BCP-47 tag.
fn known_language(tag: &str) -> Result<&'static str> {
    let primary = tag.split(['-', '_']).next().unwrap_or_default().to_ascii_lowercase();
    let plain = !primary.is_empty() && primary.bytes().all(|b| b.is_ascii_alphabetic());
    plain
        .then(|| get_lang_id(&primary))
        .flatten()
        .and_then(get_lang_str)
        .ok_or_else(|| EngineError::Invalid(format!("whisper knows no language {tag:?}")))
}

impl Asr for Whisper {
    fn name(&self) -> &str {
        &self.name
    }

    fn transcribe(&mut self, job: &AsrJob, cancel: &Cancel) -> Result<Transcription> {
        if job.samples.len() > RATE * WINDOW_S {
            let seconds = job.samples.len() as f32 / RATE as f32;
            return Err(EngineError::Invalid(format!(
                "{seconds:.1} s of audio; whisper hears at most {WINDOW_S} s at once"
            )));
        }
        let language = self.language_of(job)?;
        let mut samples: Vec<f32> =
            job.samples.iter().map(|s| if s.is_finite() { s.clamp(-1.0, 1.0) } else { 0.0 }).collect();
        let silent = samples.iter().all(|s| s.abs() < SILENCE_PEAK);
        if samples.len() < SAMPLES_MIN || silent {
            let language = if language == DETECT { "en" } else { language };
            return Ok(Transcription { language: language.to_owned(), ..Transcription::default() });
        }
        let heard = samples.len();
        if heard < SAMPLES_PADDED {
            samples.resize(SAMPLES_PADDED, 0.0);
        }
        let full = usize::try_from(self.context.n_audio_ctx()).unwrap_or(1500);
        let needed = heard.div_ceil(SAMPLES_PER_POSITION) + AUDIO_CTX_MARGIN;
        let short = needed.max(AUDIO_CTX_MIN).min(full);
        let mut decoded = self.decode(&samples, short, language, job, cancel)?;
        if decoded.looped && short < full {
            decoded = self.decode(&samples, full, language, job, cancel)?;
        }
        let spoken = words_of(&decoded.pieces, heard);
        let text = spoken.iter().map(|w| w.text.as_str()).collect::<Vec<_>>().join(" ");
        let confidence = match decoded.pieces.len() {
            0 => 0.0,
            n => decoded.pieces.iter().map(|p| p.probability).sum::<f32>() / n as f32,
        };
        Ok(Transcription {
            confidence: if text.is_empty() { 0.0 } else { confidence },
            text,
            language: self.spoken_language(language).to_owned(),
            words: if job.words { spoken } else { Vec::new() },
        })
    }
}
