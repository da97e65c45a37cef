//! Viva, a self-hosted real-time voice server for job interviews.

pub mod calibration;
pub mod cli;
pub mod client;
pub mod config;
pub mod edge;
pub mod engines;
pub mod identity;
pub mod interview;
pub mod knowledge;
pub mod lab;
pub mod presets;
pub mod telemetry;
