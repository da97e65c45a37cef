//! Viva's engines behind batch-first contracts.
//!
//! This crate knows no session, no actor and no transport. Engines light and safe enough run in-process
//! ([`vad`], [`turn`], [`embed`], [`enhance`]); the native ones (whisper, llama, piper) are processes of
//! their own that speak [`host`]'s wire form of the same traits; [`asr`], [`llm`] and [`tts`] hold the
//! traits' remote form over an OpenAI-compatible endpoint. [`registry`] is the only place that names
//! them all, [`fetch`] brings their weights.

pub mod asr;
pub mod audio;
pub mod contract;
pub mod embed;
pub mod enhance;
pub mod fetch;
pub mod host;
pub mod llm;
pub mod ort_runtime;
pub mod registry;
pub mod remote;
pub mod tts;
pub mod turn;
pub mod vad;

pub use contract::*;
