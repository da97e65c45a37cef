//! Viva, a self-hosted real-time voice server for job interviews.

pub mod client;
pub mod lab;
