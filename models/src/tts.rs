//! Speech: the remote engine, and lines that were spoken before.

pub mod openai;
pub mod spoken;
