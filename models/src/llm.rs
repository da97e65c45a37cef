//! Language models: the remote engine.

pub mod openai;
