//! Viva's sessions: supervised graphs of stages, turn-taking, and the scheduler that all inference goes through.
//!
//! A session reads top to bottom as the audio travels: [`vad`] → [`asr`] → ([`turn`]) → [`rag`] → [`llm`] →
//! [`tts`] → [`enhancer`] → [`playout`]. Stages tell their [`session`] what they find and are told what to do;
//! audio, text and speech travel from stage to stage in bounded [`lane`]s. Nothing here knows a transport, an
//! engine's name or an interview: what a session says may be a [`director`]'s to decide.

pub mod ahead;
pub mod asr;
pub mod conversation;
pub mod director;
pub mod enhancer;
pub mod event;
pub mod gpu;
pub mod lane;
pub mod lateness;
pub mod ledger;
pub mod llm;
pub mod metrics;
pub mod playout;
pub mod ports;
pub mod rag;
pub mod recorder;
pub mod root;
pub mod session;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
pub mod tts;
pub mod turn;
pub mod types;
pub mod vad;
