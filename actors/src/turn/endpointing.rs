//! How much silence ends a turn.

use serde::{Deserialize, Serialize};

use super::words::hangs;

/// How the end of a turn is found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Endpointing {
    /// A model scores how finished the caller sounds; silence backs it up.
    Semantic {
        /// Multiplies every silence asked for: below 1 is quicker, above 1 more patient.
        patience: f32,
    },
    /// A fixed silence, nothing else.
    Silence {
        /// Milliseconds.
        silence_ms: u32,
    },
    /// Only the client says when.
    Manual,
}

/// The settings of turn-taking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TurnConfig {
    /// How the end of a turn is found.
    pub endpointing: Endpointing,
    /// Silence that opens a pause. 160 ms is five VAD windows: longer than the stop gaps inside words
    /// (up to about 120 ms), short enough that the work on the reply starts early.
    pub pause_ms: u32,
    /// Speech this long while we speak is an interruption, whatever the words. A cough lasts about
    /// 300–500 ms, an "mm-hm" up to 600.
    pub barge_in_ms: u32,
    /// A pause from this length on freezes the text before it when the caller goes on.
    pub freeze_ms: u32,
    /// A turn is ended by force after this.
    pub turn_ms_max: u32,
    /// Reply by ourselves when a turn ends.
    pub create_response: bool,
    /// Let the caller interrupt us.
    pub interrupt_response: bool,
}

impl Default for TurnConfig {
    fn default() -> Self {
        Self {
            endpointing: Endpointing::Semantic { patience: 1.0 },
            pause_ms: 160,
            barge_in_ms: 650,
            freeze_ms: 700,
            turn_ms_max: 300_000,
            create_response: true,
            interrupt_response: true,
        }
    }
}

/// Silence asked for at a score, as points of a line: (score, ms). A caller who sounds finished is
/// answered as soon as an answer can be ready; one who does not gets the time of a long thinking pause.
const SILENCE_BY_SCORE: [(f32, f32); 5] =
    [(0.0, 2_000.0), (0.2, 1_700.0), (0.5, 1_100.0), (0.8, 520.0), (1.0, 420.0)];

/// A long answer has longer pauses between its sentences: the silence that ends a finished sentence grows
/// from the tenth second of the turn on ...
const LONG_TURN_MS: std::ops::Range<u64> = 10_000..20_000;

/// ... to this. Of 31 thinking pauses in eight answers of 20–48 s nine follow a whole sentence, and six of
/// these are shorter than this.
pub(super) const SILENCE_LONG_MS: f32 = 900.0;

/// A caller who went on after such a pause in this turn is given this much more than that pause ...
const PAUSE_MARGIN: f32 = 1.2;

/// ... but not more than this: beyond it everybody has noticed the silence.
pub(super) const PAUSE_ASKED_MAX_MS: f32 = 1_600.0;

/// Silence asked for while no score is there: the backup when the detector is late or broken.
const SILENCE_UNSCORED_MS: f32 = 1_400.0;

impl TurnConfig {
    /// Milliseconds of silence after which the turn is over.
    pub fn silence_asked_ms(&self, score: Option<f32>, text: &str) -> f32 {
        match self.endpointing {
            Endpointing::Silence { silence_ms } => silence_ms as f32,
            Endpointing::Manual => f32::INFINITY,
            Endpointing::Semantic { patience } => {
                let Some(score) = score else { return SILENCE_UNSCORED_MS * patience };
                let score = if hangs(text) { score * 0.35 } else { score };
                patience * interpolate(&SILENCE_BY_SCORE, score)
            }
        }
    }
}

fn interpolate(points: &[(f32, f32)], x: f32) -> f32 {
    let (first, last) = (points[0], points[points.len() - 1]);
    if x <= first.0 {
        return first.1;
    }
    for pair in points.windows(2) {
        let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
        if x <= x1 {
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0);
        }
    }
    last.1
}

/// Silence that turns of this length ask for at least, and that a caller's own pauses have taught us.
pub(super) fn silence_floor_ms(turn_ms: u64, longest_pause_ms: u64) -> f32 {
    let long = interpolate(
        &[(LONG_TURN_MS.start as f32, 0.0), (LONG_TURN_MS.end as f32, SILENCE_LONG_MS)],
        turn_ms as f32,
    );
    long.max((longest_pause_ms as f32 * PAUSE_MARGIN).min(PAUSE_ASKED_MAX_MS))
}
