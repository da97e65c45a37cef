//! Piper as a process of Viva's. Started by viva, never by hand. This binary links espeak-ng, which is
//! GPL-3: that is one of the reasons why it is a program of its own.

mod engine;
mod text;

use viva_models::host::{HostedEngine, serve_from_args};
use viva_models::registry::PiperSpec;

fn main() -> viva_models::Result<()> {
    serve_from_args(|spec: PiperSpec| Ok(HostedEngine::Tts(Box::new(engine::Voice::open(&spec)?))))
}
