//! Speech: the remote engine.

pub mod openai;
