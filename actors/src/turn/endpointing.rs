//! How much silence ends a turn.

use serde::{Deserialize, Serialize};

use super::words;

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
    /// Silence that opens a pause. 96 ms are three VAD windows; the VAD lets go of speech some 50 ms after its
    /// last sound, so this is longer than the stop gaps inside words (up to about 120 ms), and short enough that
    /// the work on the reply starts early.
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
            pause_ms: 96,
            barge_in_ms: 650,
            freeze_ms: 700,
            turn_ms_max: 300_000,
            create_response: true,
            interrupt_response: true,
        }
    }
}

/// Silence asked for after a whole sentence, by how finished the caller sounds, as points of a line: (score, ms).
/// A caller who sounds finished is answered as soon as an answer can be ready. The detector is now and then sure
/// that a finished caller is not: 3 of 27 short finished answers score 0.015 to 0.06 to the end. Pauses for thought
/// after whole words score about 0.006 where the voice stays up (`benches/endings.rs`).
const SILENCE_WHOLE: [(f32, f32); 5] =
    [(0.006, 1_900.0), (0.02, 1_300.0), (0.5, 750.0), (0.8, 480.0), (1.0, 400.0)];

/// Low scores mean more the longer a caller has been speaking: from the one length of turn to the other their
/// silence grows by so much.
const UNSURE_TURN_MS: (f32, f32) = (6_000.0, 9_000.0);
const UNSURE_MORE_MS: f32 = 400.0;

/// Silence asked for after words that hang, whatever the voice says: the longest of 31 thinking pauses is 1.7 s.
const SILENCE_HANGING_MS: f32 = 2_000.0;

/// The chance that a sentence ends with the last word, as the language model sees it: below the first the words
/// hang, from the second on they are whole. Of 35 finished answers the least is 0.029 with SmolLM2-135M and 0.041
/// with Qwen2.5-0.5B; of 15 that stop in mid-sentence the most is 0.009 and 0.003 (`benches/endings`).
const ENDS: (f32, f32) = (0.02, 0.04);

/// Silence asked for at a score where no language model has judged the words.
const SILENCE_BY_SCORE: [(f32, f32); 5] =
    [(0.0, 2_000.0), (0.2, 1_700.0), (0.5, 1_100.0), (0.8, 520.0), (1.0, 420.0)];

/// Who has said very little may only have begun ("Hi, thanks for having me.", and 570 ms later the answer): the
/// least silence asked for, by the length of the turn: (ms, ms).
const SHORT_TURN: [(f32, f32); 2] = [(1_500.0, 750.0), (2_500.0, 0.0)];

/// A long answer has longer pauses between its sentences: the silence that ends a finished sentence grows
/// from the eighth second of the turn on ...
const LONG_TURN_MS: std::ops::Range<u64> = 8_000..16_000;

/// ... to this. Of 31 thinking pauses in eight answers of 20–48 s nine follow a whole sentence; the longest of these
/// lasts 1,480 ms, which is 1,430 as the VAD hears it. Whoever speaks for so long is told by half a second of
/// patience that they may go on; whoever is cut off once keeps their answers short.
pub(super) const SILENCE_LONG_MS: f32 = 1_450.0;

/// A caller who went on after such a pause in this turn is given this much more than that pause ...
const PAUSE_MARGIN: f32 = 1.2;

/// ... but not more than this: beyond it everybody has noticed the silence.
pub(super) const PAUSE_ASKED_MAX_MS: f32 = 1_450.0;

/// Silence asked for while no score is there: the backup when the detector is late or broken.
const SILENCE_UNSCORED_MS: f32 = 1_400.0;

/// What is known of a pause.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// How finished the caller sounds, 0..1.
    pub score: Option<f32>,
    /// How likely a sentence ends with their words, 0..1.
    pub ends: Option<f32>,
    /// All words of the turn.
    pub text: &'a str,
    /// Length of the turn so far.
    pub turn_ms: u64,
}

impl Evidence<'_> {
    /// From 0, the words hang and the caller cannot mean to stop there, to 1, they are whole.
    fn whole(&self) -> f32 {
        match self.ends {
            Some(ends) => ((ends - ENDS.0) / (ENDS.1 - ENDS.0)).clamp(0.0, 1.0),
            None if words::hang(self.text) => 0.0,
            None => 1.0,
        }
    }

    /// Whether the caller cannot mean to stop there.
    pub fn hangs(&self) -> bool {
        self.whole() < 0.5
    }

    fn silence_ms(&self) -> f32 {
        let Some(score) = self.score else {
            return if self.hangs() { SILENCE_HANGING_MS } else { SILENCE_UNSCORED_MS };
        };
        if self.ends.is_none() {
            let score = if self.hangs() { score * 0.35 } else { score };
            return interpolate(&SILENCE_BY_SCORE, score);
        }
        let sure = (score / 0.5).min(1.0);
        let more =
            interpolate(&[(UNSURE_TURN_MS.0, 0.0), (UNSURE_TURN_MS.1, UNSURE_MORE_MS)], self.turn_ms as f32);
        let whole = interpolate(&SILENCE_WHOLE, score) + more * (1.0 - sure);
        SILENCE_HANGING_MS + (whole - SILENCE_HANGING_MS) * self.whole()
    }
}

impl TurnConfig {
    /// Milliseconds of silence after which the turn is over.
    pub fn silence_asked_ms(&self, evidence: Evidence<'_>) -> f32 {
        match self.endpointing {
            Endpointing::Silence { silence_ms } => silence_ms as f32,
            Endpointing::Manual => f32::INFINITY,
            Endpointing::Semantic { patience } => patience * evidence.silence_ms(),
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
    let short = interpolate(&SHORT_TURN, turn_ms as f32);
    short.max(long).max((longest_pause_ms as f32 * PAUSE_MARGIN).min(PAUSE_ASKED_MAX_MS))
}
