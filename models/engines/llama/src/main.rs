//! llama.cpp as a process of Viva's. Started by viva, never by hand.

mod answer;
mod cache;
mod engine;
mod prompt;

use viva_models::host::{HostedEngine, serve_from_args};
use viva_models::registry::LlamaSpec;

fn main() -> viva_models::Result<()> {
    serve_from_args(|spec: LlamaSpec| Ok(HostedEngine::Llm(Box::new(engine::Llama::open(&spec)?))))
}
