//! Recognition: the remote engine, and how partial results become text that only ever grows.

pub mod agreement;
pub mod openai;
