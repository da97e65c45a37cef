//! The engines' contract: what a recogniser, a voice or a language model must offer to serve Viva.
//!
//! Everything here is synchronous and knows no session. Work comes in two shapes:
//!
//! * **Jobs** ([`Vad`], [`TurnDetector`], [`Asr`], [`Tts`], [`Embedder`]): idempotent, cancellable and
//!   free of state between calls, so that a job can be submitted again to a fresh engine.
//! * **Sequences** ([`Llm`]): a conversation keeps a place in the model's key/value cache. The cache is
//!   only ever an optimisation: [`Llm::begin`] carries the whole prompt, so a restarted engine rebuilds
//!   a sequence from what the session knows.
//!
//! Audio is mono `f32` in −1..1 throughout; rates are in hertz and stand beside the samples.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

/// What every engine call returns.
pub type Result<T> = std::result::Result<T, EngineError>;

/// Why an engine could not do its work; the kind says who should act.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum EngineError {
    /// The engine itself is gone (process dead, endpoint unreachable). Its link restarts it and may
    /// submit the work again.
    #[error("engine unavailable: {0}")]
    Unavailable(String),
    /// The work itself cannot be done as asked; submitting it again would fail again.
    #[error("invalid request: {0}")]
    Invalid(String),
    /// The engine tried and failed.
    #[error("engine failed: {0}")]
    Failed(String),
    /// Somebody cancelled the work.
    #[error("cancelled")]
    Cancelled,
}

/// A flag that whoever waits for a job raises when the answer no longer matters.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A flag that is not raised.
    pub fn new() -> Self {
        Self::default()
    }

    /// Raises the flag. It is never lowered again.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether the flag is up.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// The raw flag, for engines whose abort callback takes a pointer to it.
    pub fn flag(&self) -> &Arc<AtomicBool> {
        &self.0
    }
}

// ---------------------------------------------------------------------------------------------
// Voice activity
// ---------------------------------------------------------------------------------------------

/// Samples of one VAD window: 32 ms at 16 kHz, the size Silero was trained on.
pub const VAD_WINDOW: usize = 512;

/// What Silero carries from one window to the next. It travels with the job, so that any engine can
/// take the next window.
#[derive(Debug, Clone, PartialEq)]
pub struct VadState {
    /// Recurrent state, 2 × 128.
    pub recurrent: Box<[f32; 256]>,
    /// The last 64 samples of the window before.
    pub context: Box<[f32; 64]>,
}

impl Default for VadState {
    fn default() -> Self {
        Self { recurrent: Box::new([0.0; 256]), context: Box::new([0.0; 64]) }
    }
}

/// One window of one caller at 16 kHz.
#[derive(Debug, Clone)]
pub struct VadJob {
    /// State in; the engine leaves the state for the next window here.
    pub state: VadState,
    /// The window's samples.
    pub window: Box<[f32; VAD_WINDOW]>,
}

/// Says how likely each window holds speech.
pub trait Vad: Send {
    /// Name and version, for logs and reports.
    fn name(&self) -> &str;
    /// Runs all windows in one call. `probabilities` is cleared and filled, one in 0..1 a window.
    fn detect(&mut self, batch: &mut [VadJob], probabilities: &mut Vec<f32>) -> Result<()>;
}

// ---------------------------------------------------------------------------------------------
// End of turn
// ---------------------------------------------------------------------------------------------

/// Says how likely a caller who has just paused is done.
pub trait TurnDetector: Send {
    /// Name and version, for logs and reports.
    fn name(&self) -> &str;
    /// `batch`: each caller's turn so far at 16 kHz, at most the last 8 s are used.
    /// Returns one probability in 0..1 a caller.
    fn score(&mut self, batch: &[Arc<[f32]>]) -> Result<Vec<f32>>;
}

// ---------------------------------------------------------------------------------------------
// Recognition
// ---------------------------------------------------------------------------------------------

/// A stretch of speech to recognise.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct AsrJob {
    /// Mono at 16 kHz, at most 30 s.
    pub samples: Vec<f32>,
    /// BCP-47 primary tag ("en"), or none to detect it where the model can.
    pub language: Option<String>,
    /// Text that came before, and names to expect; biases the decoder.
    pub prompt: Option<String>,
    /// Whether word timings are wanted.
    pub words: bool,
}

/// One recognised word.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Word {
    /// The word as written, with its punctuation, without surrounding space.
    pub text: String,
    /// Start within the job's samples, milliseconds.
    pub start_ms: u32,
    /// End within the job's samples, milliseconds.
    pub end_ms: u32,
    /// The model's own probability of the word, 0..1.
    pub confidence: f32,
}

/// What was recognised.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Transcription {
    /// The whole text, trimmed. Empty when nothing was said.
    pub text: String,
    /// Language recognised or assumed.
    pub language: String,
    /// The words in order; empty unless asked for.
    pub words: Vec<Word>,
    /// Mean token probability, 0..1.
    pub confidence: f32,
}

/// Turns speech into text.
pub trait Asr: Send {
    /// Name and version, for logs and reports.
    fn name(&self) -> &str;
    /// Blocks until recognised, cancelled or failed.
    fn transcribe(&mut self, job: &AsrJob, cancel: &Cancel) -> Result<Transcription>;
}

// ---------------------------------------------------------------------------------------------
// Speech
// ---------------------------------------------------------------------------------------------

/// How a line is to be spoken. An engine honours what its [`StyleSupport`] names and ignores the rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Style {
    /// A voice's name as the engine lists it; empty for its first.
    pub voice: String,
    /// 1.0 is the voice's own pace; 0.25..4.
    pub pace: f32,
    /// Semitones from the voice's own pitch, −12..12.
    pub pitch: f32,
    /// A word such as "warm" or "curious".
    pub emotion: Option<String>,
    /// A recording to sound like, as a file name the engine can read.
    pub reference: Option<String>,
}

impl Default for Style {
    fn default() -> Self {
        Self { voice: String::new(), pace: 1.0, pitch: 0.0, emotion: None, reference: None }
    }
}

/// Which parts of a [`Style`] an engine can honour.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StyleSupport {
    /// The voices it has.
    pub voices: Vec<String>,
    /// Whether pace changes anything.
    pub pace: bool,
    /// Whether pitch changes anything.
    pub pitch: bool,
    /// Whether emotion changes anything.
    pub emotion: bool,
    /// Whether a reference recording changes anything.
    pub reference: bool,
}

/// One sentence or clause to speak.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct TtsJob {
    /// Plain text, at most [`TTS_TEXT_MAX`] bytes.
    pub text: String,
    /// How to speak it.
    pub style: Style,
    /// BCP-47 primary tag.
    pub language: Option<String>,
}

/// Bytes of text one [`TtsJob`] may carry: the limit of the speech endpoint we serve.
pub const TTS_TEXT_MAX: usize = 4096;

/// Turns text into speech.
pub trait Tts: Send {
    /// Name and version, for logs and reports.
    fn name(&self) -> &str;
    /// Hertz of the samples it makes.
    fn sample_rate(&self) -> u32;
    /// Which parts of a style it honours.
    fn styles(&self) -> StyleSupport;
    /// Speaks the text, handing samples to `sink` as they are made.
    fn speak(&mut self, job: &TtsJob, cancel: &Cancel, sink: &mut dyn FnMut(&[f32])) -> Result<()>;
}

// ---------------------------------------------------------------------------------------------
// Embeddings
// ---------------------------------------------------------------------------------------------

/// Turns texts into unit vectors.
pub trait Embedder: Send {
    /// Name and version, for logs and the index's version.
    fn name(&self) -> &str;
    /// Length of each vector.
    fn dimensions(&self) -> usize;
    /// One vector of length 1 a text, in order.
    fn embed(&mut self, texts: &[String]) -> Result<Vec<Vec<f32>>>;
}

// ---------------------------------------------------------------------------------------------
// Language
// ---------------------------------------------------------------------------------------------

/// Names one conversation's place in the model's cache. Chosen by the caller below
/// [`LlmInfo::sequences`]; reused after [`Llm::close`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SeqId(pub u32);

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions.
    System,
    /// The caller.
    User,
    /// Viva.
    Assistant,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// The whole conversation so far. Engines find out for themselves what of it they hold already.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// In order. Rendered by the model's own chat template.
    pub messages: Vec<Message>,
    /// The last user message is not finished: bring the cache up to its words and generate nothing.
    pub unfinished: bool,
}

/// How tokens are chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sampling {
    /// Tokens after which generation ends with [`StopReason::Length`].
    pub max_tokens: u32,
    /// 0 is greedy.
    pub temperature: f32,
    /// Nucleus; 1 is off.
    pub top_p: f32,
    /// Smallest probability relative to the best; 0 is off.
    pub min_p: f32,
    /// Penalty on tokens of the last 64; 1 is off.
    pub repeat_penalty: f32,
    /// Seed of the sampler.
    pub seed: u32,
    /// Texts that end generation; not part of the answer.
    pub stop: Vec<String>,
    /// A GBNF grammar the answer must follow.
    pub grammar: Option<String>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            max_tokens: 128,
            temperature: 0.0,
            top_p: 1.0,
            min_p: 0.0,
            repeat_penalty: 1.0,
            seed: 0,
            stop: Vec::new(),
            grammar: None,
        }
    }
}

/// What a language model offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LlmInfo {
    /// Name and version.
    pub model: String,
    /// Tokens of one sequence, prompt and answer together.
    pub context: u32,
    /// Sequences that can be open at once.
    pub sequences: u32,
}

/// What [`Llm::begin`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// Tokens of the whole prompt.
    pub prompt_tokens: u32,
    /// Of these, already in the cache (this sequence's own, or copied from another's prefix).
    pub reused_tokens: u32,
}

/// Who runs in one step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepPlan {
    /// Sequences whose prompt goes on, each by at most so many tokens.
    pub prefill: Vec<(SeqId, u32)>,
    /// Sequences that make one token.
    pub decode: Vec<SeqId>,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopReason {
    /// The model said so, or a stop text came.
    Stop,
    /// `max_tokens`, or the context is full.
    Length,
}

/// What one step did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum StepEvent {
    /// So many prompt tokens are still to be prefilled; at 0 the sequence can decode.
    Prefilled {
        /// Which.
        seq: SeqId,
        /// Tokens left.
        left: u32,
    },
    /// The last message's words are in the cache: how likely a sentence ends with them, as the model itself
    /// guesses what comes next. Once a prompt that ends with a user's words, from models that can tell.
    Ends {
        /// Which.
        seq: SeqId,
        /// 0..1.
        probability: f32,
    },
    /// Text of a token. May be empty while a character or a stop text is incomplete.
    Token {
        /// Which.
        seq: SeqId,
        /// The piece of text that is now certain.
        piece: String,
    },
    /// The generation is over; the cache stays.
    Done {
        /// Which.
        seq: SeqId,
        /// Text that had been held back.
        piece: String,
        /// Why.
        reason: StopReason,
        /// Tokens generated.
        tokens: u32,
    },
    /// This sequence failed alone; its cache is gone.
    Failed {
        /// Which.
        seq: SeqId,
        /// Why.
        error: EngineError,
    },
}

/// A language model with many sequences in one cache.
pub trait Llm: Send {
    /// What it offers.
    fn info(&self) -> LlmInfo;
    /// Sets what `seq` is to answer, replacing what it was doing. Keeps the longest common prefix with
    /// what is cached, rolls the rest back, computes nothing yet.
    fn begin(&mut self, seq: SeqId, prompt: &Prompt, sampling: &Sampling) -> Result<Begun>;
    /// Runs one step for those named. A sequence named in `decode` must have no prompt left.
    fn step(&mut self, plan: &StepPlan) -> Result<Vec<StepEvent>>;
    /// Stops generating in `seq` and keeps its cache.
    fn stop(&mut self, seq: SeqId) -> Result<()>;
    /// Frees the sequence's cache.
    fn close(&mut self, seq: SeqId) -> Result<()>;
}

// ---------------------------------------------------------------------------------------------
// Noise
// ---------------------------------------------------------------------------------------------

/// Cleans one caller's audio in place, inline in the session's own path.
pub trait Denoiser: Send {
    /// Hertz it works at.
    fn sample_rate(&self) -> u32;
    /// Samples it takes at a time.
    fn frame(&self) -> usize;
    /// Cleans exactly one frame.
    fn process(&mut self, frame: &mut [f32]);
}
