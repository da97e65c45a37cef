//! What may be asked of the scheduler, and what comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Instant;

use viva_models::{
    AsrJob, Begun, Cancel, EngineError, Prompt, Sampling, StopReason, Transcription, TtsJob, VadJob,
};

use crate::types::Epoch;

/// Up to which reply a session's work is certain to be wanted. Shared by the session, which knows, and the
/// work it has ordered, which waits in the scheduler's queues meanwhile.
#[derive(Debug, Clone, Default)]
pub struct Certain(Arc<AtomicU64>);

impl Certain {
    /// This reply will be heard, if nobody interrupts it.
    pub fn up_to(&self, epoch: Epoch) {
        self.0.fetch_max(epoch.to_bits(), Ordering::AcqRel);
    }

    fn holds(&self, epoch: Epoch) -> bool {
        epoch.to_bits() <= self.0.load(Ordering::Acquire)
    }
}

/// What is known of a pause whose words are ordered. Shared by the stage, which learns it, and the work that waits in
/// the scheduler's queues meanwhile.
#[derive(Debug, Clone, Default)]
pub struct Pause(Arc<AtomicU8>);

impl Pause {
    const PROMISING: u8 = 1;
    const OVER: u8 = 2;

    /// The caller may be done: somebody waits for the words.
    pub fn promising(&self) {
        self.0.store(Self::PROMISING, Ordering::Release);
    }

    /// The caller goes on: the words are only to be shown.
    pub fn over(&self) {
        self.0.store(Self::OVER, Ordering::Release);
    }
}

/// What hangs on a piece of work.
#[derive(Debug, Clone)]
pub enum Stake {
    /// Somebody waits for it.
    Wanted,
    /// Nobody waits for it yet: it saves time later.
    Ahead,
    /// A draft that may still be thrown away.
    Draft(Epoch, Certain),
    /// The words of a pause that may be none. From then on it is taken for one, whatever is known of it.
    Words(Pause, Instant),
}

impl Stake {
    /// Whether it was done for somebody, as far as is known when it is done: words of a pause are, unless the caller
    /// went on.
    pub fn wanted(&self) -> bool {
        match self {
            Self::Words(..) => !self.is_over(),
            other => !other.speculative(),
        }
    }

    /// Whether these are words of a pause after which the caller went on.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Words(pause, _) if pause.0.load(Ordering::Acquire) == Pause::OVER)
    }

    /// Whether nobody waits for it yet, or any more.
    pub fn speculative(&self) -> bool {
        match self {
            Self::Wanted => false,
            Self::Ahead => true,
            Self::Draft(epoch, certain) => !certain.holds(*epoch),
            Self::Words(pause, from) => match pause.0.load(Ordering::Acquire) {
                Pause::PROMISING => false,
                Pause::OVER => true,
                _ => Instant::now() < *from,
            },
        }
    }
}

/// An answer, with where its time went.
#[derive(Debug, Clone)]
pub struct Answer<T> {
    /// The answer itself.
    pub value: T,
    /// Milliseconds it waited for its turn.
    pub queue_ms: u32,
    /// Milliseconds the engine worked on it (its share of the time, where it was one of a batch).
    pub compute_ms: u32,
}

/// Takes an answer. Called on a device thread: it must be quick and must not block.
pub type Reply<T> = Box<dyn FnOnce(Result<Answer<T>, EngineError>) + Send>;

/// Takes samples as they are made, with their rate. Called on a device thread, as [`Reply`] is.
pub type SpeechSink = Box<dyn FnMut(&[f32], u32) + Send>;

/// What happened to a generation.
#[derive(Debug, Clone, PartialEq)]
pub enum GenEvent {
    /// The prompt was taken.
    Begun(Begun),
    /// How likely a sentence ends with the caller's last word, 0..1.
    Ends(f32),
    /// Text.
    Token(String),
    /// The end, with text that had been held back.
    Done {
        /// The rest of the text.
        piece: String,
        /// Why.
        reason: StopReason,
        /// Tokens generated.
        tokens: u32,
    },
    /// It failed.
    Failed(EngineError),
}

/// Work for an engine.
pub enum Job {
    /// One window of VAD.
    Vad {
        /// The window, with its state.
        job: VadJob,
        /// Gets the job back with its new state, and the probability.
        reply: Reply<(VadJob, f32)>,
    },
    /// A turn decision.
    Turn {
        /// The turn's last seconds at 16 kHz.
        samples: Arc<[f32]>,
        /// Gets the probability that the turn is over.
        reply: Reply<f32>,
    },
    /// A recognition.
    Asr {
        /// What to recognise.
        job: AsrJob,
        /// Gets the text.
        reply: Reply<Transcription>,
    },
    /// A clause to speak.
    Tts {
        /// The clause.
        job: TtsJob,
        /// Gets the samples, at the rate given to it.
        sink: SpeechSink,
        /// Samples handed over already: a second attempt after the engine's death skips them.
        delivered: usize,
        /// Told at the end.
        reply: Reply<()>,
    },
    /// Texts to embed.
    Embed {
        /// The texts.
        texts: Vec<String>,
        /// Gets the vectors.
        reply: Reply<Vec<Vec<f32>>>,
    },
    /// A text to write. A session has at most one; a new one replaces it.
    Generate {
        /// The whole conversation.
        prompt: Prompt,
        /// How tokens are chosen.
        sampling: Sampling,
        /// Gets what happens.
        sink: Box<dyn FnMut(GenEvent) + Send>,
    },
}

/// The shortest text costs a voice as much as so many letters.
const SHORT_TEXT: usize = 16;

/// A job with what the policy needs to know about it.
pub struct Work {
    /// What.
    pub job: Job,
    /// When the answer is due.
    pub deadline: Instant,
    /// When it was asked for.
    pub submitted: Instant,
    /// Raised when the answer no longer matters: the work is then dropped before it costs anything.
    pub cancel: Cancel,
    /// What hangs on it.
    pub stake: Stake,
    /// Whose it is.
    pub session: u64,
}

impl Work {
    /// Whether it may turn out to be for nothing.
    pub fn speculative(&self) -> bool {
        self.stake.speculative()
    }
}

impl Job {
    /// How much of its engine's work it is: letters to speak, texts to embed, otherwise one.
    pub fn units(&self) -> f64 {
        match self {
            Job::Tts { job, .. } => job.text.len().max(SHORT_TEXT) as f64,
            Job::Embed { texts, .. } => texts.len() as f64,
            _ => 1.0,
        }
    }

    /// Answers with an error.
    pub fn fail(self, error: EngineError) {
        match self {
            Job::Vad { reply, .. } => reply(Err(error)),
            Job::Turn { reply, .. } => reply(Err(error)),
            Job::Asr { reply, .. } => reply(Err(error)),
            Job::Tts { reply, .. } => reply(Err(error)),
            Job::Embed { reply, .. } => reply(Err(error)),
            Job::Generate { mut sink, .. } => sink(GenEvent::Failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::within;

    #[test]
    fn words_of_a_pause_are_wanted_once_it_promises_to_be_the_end_or_lasts() {
        let work = |stake| Work {
            job: Job::Embed { texts: Vec::new(), reply: Box::new(|_| ()) },
            deadline: within(0),
            submitted: within(0),
            cancel: Cancel::new(),
            stake,
            session: 1,
        };
        let pause = Pause::default();
        let words = work(Stake::Words(pause.clone(), within(60_000)));
        assert!(words.speculative() && words.stake.wanted(), "it costs what somebody may want");
        pause.promising();
        assert!(!words.speculative());
        pause.over();
        assert!(!words.stake.wanted());
        assert!(words.speculative(), "the caller went on: nobody waits for them");
        assert!(!work(Stake::Words(Pause::default(), within(0))).speculative(), "it lasts");
    }
}
