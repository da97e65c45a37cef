//! llama.cpp as a process of Viva's. Started by viva, never by hand.

mod answer;
mod cache;
mod ending;
mod engine;
mod prompt;

use viva_models::host::{HostedEngine, serve_from_args};
use viva_models::registry::LlamaSpec;

fn main() -> viva_models::Result<()> {
    // Warnings and errors are worth a line of our last words; the shape of every tensor is not.
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_writer(std::io::stderr)
        .without_time()
        .init();
    llama_cpp_2::send_logs_to_tracing(llama_cpp_2::LogOptions::default());
    serve_from_args(|spec: LlamaSpec| Ok(HostedEngine::Llm(Box::new(engine::Llama::open(&spec)?))))
}
