//! What was decided in an interview, in order and with its reason. The log is append-only; state, transcript, progress
//! and the audit are folds over it.

use serde::{Deserialize, Serialize};

use super::plan::{Plan, Section};
use super::rails::Rejection;
use super::talk::Talk;

/// Lines a log keeps: an hour of short exchanges has some 1,500.
pub const LOG_MAX: usize = 4_000;

/// What a reply does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// Welcomes, and asks whether to begin.
    Greet,
    /// Asks a question of the bank.
    Ask,
    /// Asks for more about the answer.
    Probe,
    /// Puts the question in other words.
    Rephrase,
    /// Asks a short answer to go on.
    Encourage,
    /// Asks the same again.
    Repeat,
    /// Gives time.
    Wait,
    /// Says that there is time, to somebody who is silent.
    Nudge,
    /// Says how much time is left.
    TimeLeft,
    /// Puts a question of theirs off.
    Later,
    /// Invites their questions, or answers one.
    Invite,
    /// Asks for respect.
    Respect,
    /// Stays in the role.
    StayInRole,
    /// Asks once more what could not be heard.
    Resume,
    /// Ends the interview.
    Close,
    /// Says goodbye to whoever speaks after the end.
    Goodbye,
}

/// Where the words of a reply are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Wording {
    /// From the interviewer's own lines.
    Own,
    /// From the bank.
    Bank,
    /// From the language model, checked.
    Model,
    /// From the bank, because the model's was refused.
    Fallback(Rejection),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The first line.
    Opened {
        /// Of this interview.
        plan: Plan,
        /// Decides whatever is left to chance.
        seed: u64,
    },
    /// A part began.
    SectionBegan {
        /// Which.
        section: Section,
        /// When it is to end, on the interview's clock.
        ends_ms: u64,
    },
    /// The candidate said something.
    Heard {
        /// The words.
        text: String,
        /// How long it took.
        spoke_ms: u64,
        /// What it was.
        talk: Talk,
    },
    /// The interviewer decided what to say.
    Decided {
        /// What it does.
        act: Act,
        /// Why.
        why: String,
        /// The candidates for the next question, best first.
        found: Vec<String>,
        /// The question of the bank that is asked or asked about.
        question: Option<String>,
        /// What the language model wrote, if it was asked.
        raw: Option<String>,
        /// Where the words are from.
        wording: Wording,
        /// The words.
        text: String,
        /// How difficult the next question should be, 1..5.
        ability: f32,
    },
    /// Words of the interviewer's were heard.
    Spoken {
        /// These.
        text: String,
        /// All that there was to hear.
        whole: bool,
    },
    /// The candidate's line is a new one.
    Rejoined,
    /// The last line.
    Ended {
        /// Why.
        why: String,
    },
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Entry {
    /// Counts from 0.
    pub seq: u64,
    /// The interview's clock, milliseconds.
    pub at_ms: u64,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// Who said a line of the transcript.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Speaker {
    /// Viva.
    Interviewer,
    /// The other.
    Candidate,
}

/// A line of the transcript.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Line {
    /// The interview's clock, milliseconds.
    pub at_ms: u64,
    /// Who.
    pub speaker: Speaker,
    /// What was heard.
    pub text: String,
}

/// What was said and heard.
pub fn transcript(log: &[Entry]) -> Vec<Line> {
    log.iter()
        .filter_map(|entry| {
            let (speaker, text) = match &entry.event {
                Event::Heard { text, .. } => (Speaker::Candidate, text),
                Event::Spoken { text, .. } => (Speaker::Interviewer, text),
                _ => return None,
            };
            let said = !text.trim().is_empty();
            said.then(|| Line { at_ms: entry.at_ms, speaker, text: text.clone() })
        })
        .collect()
}
