//! What a server runs on: its engines, how they share the machine, how many processes each kind has.

use std::sync::Arc;

use viva_models::tts::spoken::Spoken;
use viva_models::{Asr, Embedder, Llm, Tts, TurnDetector, Vad};

use super::binding::Serves;
use super::device::Opener;
use super::policy::Discipline;

/// The engines a server runs on.
#[derive(Clone)]
pub struct Engines {
    /// Finds speech.
    pub vad: Opener<dyn Vad>,
    /// Judges whether a caller is done.
    pub turn: Opener<dyn TurnDetector>,
    /// Recognises.
    pub asr: Opener<dyn Asr>,
    /// Writes.
    pub llm: Opener<dyn Llm>,
    /// Speaks.
    pub tts: Opener<dyn Tts>,
    /// Embeds.
    pub embed: Option<Opener<dyn Embedder>>,
    /// Lines of the voice that were spoken before.
    pub spoken: Option<Arc<Spoken>>,
    /// For other languages and qualities than these, and to spill to.
    pub more: Vec<(Serves, More)>,
    /// How they share the machine.
    pub cores: Cores,
    /// Processes of the recogniser and of the voice, and in which order all work is done.
    pub order: Order,
}

/// How many processes work on what waits, and in which order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Order {
    /// Processes of the recogniser: an engine that cannot work on several pieces at once is bound by one.
    pub asr_processes: u32,
    /// Of the voice.
    pub tts_processes: u32,
    /// What goes first.
    pub discipline: Discipline,
    /// Cores that a session takes, as far as it is known before any was served; 0 where it is not.
    pub session_cores: f64,
}

impl Default for Order {
    fn default() -> Self {
        Self { asr_processes: 1, tts_processes: 1, discipline: Discipline::Slack, session_cores: 0.0 }
    }
}

/// Processes an engine may have: each holds its weights once more, and beyond a core of its own it gains nothing.
pub const PROCESSES_MAX: u32 = 16;

/// One engine more of a kind.
#[derive(Clone)]
pub enum More {
    /// Recognises.
    Asr(Opener<dyn Asr>, Share),
    /// Writes; one process, which moves many texts together.
    Llm(Opener<dyn Llm>, Share),
    /// Speaks.
    Tts(Opener<dyn Tts>, Share),
}

/// What an engine takes of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Cores that one process occupies while it works; 0 for an engine elsewhere.
    pub cores: u32,
    /// Processes that work side by side; of an engine elsewhere, requests.
    pub processes: u32,
}

impl Share {
    /// One process on so many cores.
    pub fn of(cores: u32) -> Self {
        Self { cores, processes: 1 }
    }
}

/// Cores of the device and how many of them each engine occupies while it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cores {
    /// Of the device.
    pub total: u32,
    /// Of the recogniser.
    pub asr: u32,
    /// Of the language model.
    pub llm: u32,
    /// Of the language model while it makes a single token; 0 for as many.
    pub llm_alone: u32,
    /// Of the voice.
    pub tts: u32,
    /// Of the turn detector; 0 lets it run beside a recogniser that has all cores: both are needed at the
    /// same pause, and together they take as long as one after the other.
    pub turn: u32,
}

impl Default for Cores {
    fn default() -> Self {
        let total = std::thread::available_parallelism().map_or(2, |n| n.get() as u32);
        // A voice gains nothing from a second thread (a short line: 84 ms against 94), and one leaves a core
        // to the language model.
        Self { total, asr: total.min(4), llm: total.min(4), llm_alone: 0, tts: 1, turn: 0 }
    }
}
