//! Texts as vectors.

pub mod onnx;

pub use onnx::OnnxEmbedder;
