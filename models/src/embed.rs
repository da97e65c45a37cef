//! Texts as vectors.

mod onnx;

pub use onnx::OnnxEmbedder;
