//! Engines as processes: the contract's wire form over a Unix socket.
//!
//! Whisper and llama each bring a ggml of their own, ggml aborts its process on a failed assertion, and
//! espeak-ng is GPL: so each native engine is a small binary that runs [`serve`], and its owner talks to it
//! through a proxy ([`AsrProxy`], [`TtsProxy`], [`LlmProxy`]) that is the same trait again. The child's
//! standard input *is* the socket; when it ends, the child ends. A child that dies, falls silent or cannot
//! start turns into [`EngineError::Unavailable`](crate::EngineError::Unavailable) with how it ended and its
//! last words; the owner opens a new one.

mod child;
mod connection;
mod process;
mod proxy;
mod wire;

pub use child::{HostedEngine, give_way, serve, serve_from_args};
pub use process::{Launch, Process, kill};
pub use proxy::{AsrProxy, LlmProxy, TtsProxy};
pub use wire::{EngineInfo, FRAME_BYTES_MAX, WIRE_VERSION};
