//! What passes between a simulated session and its world: work to do, and when to be woken.

use viva_actors::types::Epoch;

/// What a session asks of the engines.
#[derive(Debug, Clone)]
pub enum Order {
    /// A turn decision.
    Score {
        /// Of which pause.
        pause: u32,
    },
    /// Nobody waits for a turn decision any more.
    StopScoring,
    /// A recognition.
    Recognise {
        /// Of which pause; none to make words final.
        pause: Option<u32>,
        /// Seconds of audio.
        seconds: f64,
        /// What its answer must carry to be taken.
        ticket: u64,
    },
    /// The recognition under way is void.
    StopRecognising,
    /// A text. It takes the place of the one before.
    Write {
        /// A draft, or none to only read.
        epoch: Option<Epoch>,
        /// The pause whose words are read.
        pause: Option<u32>,
        /// Tokens of prompt to read.
        left: u32,
        /// Tokens to write; none where words are only read.
        tokens: u32,
        /// What its answers must carry to be taken.
        ticket: u64,
        /// Microseconds until it is due.
        due_us: u64,
    },
    /// The text under way is void.
    StopWriting,
    /// A clause.
    Speak {
        /// Of which reply.
        epoch: Epoch,
        /// Characters.
        chars: f64,
        /// Microseconds until it is due.
        due_us: u64,
        /// What its answer must carry to be taken.
        ticket: u64,
    },
}

/// Why a session is to be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wake {
    /// The next window is full.
    Window,
    /// Windows have waited for others; no session's.
    Gathered,
    /// The turn machine wants to look at the clock.
    Tick(u64),
    /// The candidate acts.
    Caller(u64),
    /// A reply's first frame leaves.
    PlayStart(u64),
    /// A reply's last frame was played.
    PlayEnd(u64),
    /// The voice may go on.
    Voice,
}

/// What a session did, for the world to carry out.
#[derive(Debug, Default)]
pub struct Io {
    /// Now, microseconds.
    pub now: u64,
    /// Work.
    pub orders: Vec<Order>,
    /// When to be woken, and why.
    pub wakes: Vec<(u64, Wake)>,
}

impl Io {
    pub(super) fn wake(&mut self, at: u64, why: Wake) {
        self.wakes.push((at.max(self.now), why));
    }
}
