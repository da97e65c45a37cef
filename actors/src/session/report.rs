//! What the stages and the playout tell their session.

use ractor::ActorRef;
use viva_models::Begun;

use crate::event::Usage;
use crate::metrics as m;
use crate::playout::PlayoutReport;
use crate::ports::SessionMsg;
use crate::types::{Epoch, MediaTime, Stage};

/// One report.
#[derive(Debug)]
pub enum Report {
    /// The caller began to speak.
    SpeechStarted {
        /// First sample.
        at: MediaTime,
    },
    /// The caller paused.
    SpeechPaused {
        /// Last sample of speech.
        at: MediaTime,
    },
    /// A pause was scored.
    Scored {
        /// Which.
        pause: u32,
        /// How likely the caller is done; none if it could not be said.
        probability: Option<f32>,
    },
    /// The words before a pause were read by the language model.
    SentenceEnds {
        /// Which pause.
        pause: u32,
        /// How likely a sentence ends with them.
        probability: f32,
    },
    /// A pause was recognised.
    Heard {
        /// Which.
        pause: u32,
        /// All words of the turn.
        text: String,
        /// How sure the recogniser is.
        confidence: f32,
        /// Milliseconds it took.
        compute_ms: u32,
    },
    /// A pause could not be recognised.
    HearingFailed {
        /// Which.
        pause: u32,
        /// Why.
        message: String,
    },
    /// Words became final while the caller speaks.
    Words {
        /// Text to append.
        delta: String,
    },
    /// A reply's first token is there.
    FirstToken {
        /// Which reply.
        epoch: Epoch,
        /// What its prompt cost.
        begun: Option<Begun>,
    },
    /// A clause was written.
    Clause {
        /// Of which reply.
        epoch: Epoch,
        /// Its words.
        text: String,
    },
    /// What was written is no words, but a call of one of the client's functions.
    Called {
        /// Which reply.
        epoch: Epoch,
        /// The call, as the model wrote it.
        text: String,
    },
    /// A reply is written.
    Written {
        /// Which.
        epoch: Epoch,
        /// Tokens.
        usage: Usage,
        /// By the model's own end, not by the limit.
        complete: bool,
    },
    /// A reply's first samples are there.
    AudioMade {
        /// Which.
        epoch: Epoch,
    },
    /// A clause was spoken.
    ClauseSpoken {
        /// Of which reply.
        epoch: Epoch,
        /// Its words.
        text: String,
        /// Its length.
        ms: u64,
    },
    /// A reply could not be made, or not to its end.
    ReplyFailed {
        /// Which.
        epoch: Epoch,
        /// Why.
        message: String,
    },
    /// From the playout.
    Playout(PlayoutReport),
    /// It is time to look at the clock.
    Timer,
    /// It is time to see whether the director wants to speak.
    Wake,
}

/// A stage's way to its session.
#[derive(Clone)]
pub struct Reporter(ActorRef<SessionMsg>);

impl Reporter {
    /// To this session.
    pub fn new(session: ActorRef<SessionMsg>) -> Self {
        Self(session)
    }

    /// Tells the session.
    pub fn tell(&self, report: Report) {
        // A session that is gone takes its stages with it.
        self.0.cast(SessionMsg::Internal(report)).ok();
    }

    /// Counts something that was dropped.
    pub fn dropped(&self, stage: Stage, reason: &'static str) {
        metrics::counter!(m::DROPS, "stage" => stage.name(), "reason" => reason).increment(1);
    }
}
