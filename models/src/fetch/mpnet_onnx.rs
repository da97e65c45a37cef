//! all-mpnet-base-v2's safetensors to ONNX.
use std::io::Write;
use std::path::Path;

use super::ct2_ggml::ConvertError;
/// (being written)
pub fn convert(_model: &Path, _out: &mut dyn Write) -> Result<(), ConvertError> {
    Err(ConvertError::Bad("(being written)".to_owned()))
}
