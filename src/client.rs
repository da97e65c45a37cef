//! Our own caller: a candidate without a microphone, for `viva talk`, the load lab, benches and tests.
//!
//! [`Caller`] holds the line: it sends 20 ms of sound every 20 ms and notes when each event comes.
//! [`Hearing`](hearing::Hearing) folds both sides into what a person would have experienced, with a
//! [`Playout`](playout::Playout) model of their player. [`Call`] does the steps of a [`Script`] on top of
//! both and ends in a [`CallReport`]. [`ServerProcess`] starts a server to call.

pub mod call;
pub mod caller;
pub mod clip;
pub mod error;
pub mod hearing;
pub mod interviews;
mod line;
pub mod playout;
pub mod recording;
pub mod report;
pub mod script;
pub mod server;
pub mod signals;
pub mod webrtc;
pub mod wire;

#[cfg(test)]
pub(crate) mod tests;

pub use call::{Call, CallOptions, Clips, Outcome};
pub use caller::{Arrival, Caller, CallerOptions};
pub use clip::{Clip, RATE};
pub use error::ClientError;
pub use line::Via;
pub use report::{CallReport, CutOff, TurnReport};
pub use script::{Script, Step};
pub use server::{ServerOptions, ServerProcess};
pub use wire::{Event, TurnMetrics, Wishes};
