//! whisper.cpp as a process of Viva's. Started by viva, never by hand.

mod engine;
mod ffi;
mod text;

use viva_models::host::{HostedEngine, serve_from_args};
use viva_models::registry::WhisperSpec;

fn main() -> viva_models::Result<()> {
    serve_from_args(|spec: WhisperSpec| Ok(HostedEngine::Asr(Box::new(engine::Whisper::open(spec)?))))
}
