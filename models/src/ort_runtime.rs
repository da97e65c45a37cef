//! The ONNX Runtime library: loaded once per process, and how sessions on it are made.

mod ffi;

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;

use crate::{EngineError, Result};

/// The library that was loaded. A process can hold only one; it is never unloaded.
static LOADED: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Loads the runtime from `library` unless one is loaded already; later calls change nothing.
/// [`EngineError::Invalid`] names the file when it is missing or is no ONNX Runtime of version 1.24 or later.
pub fn init(library: &Path) -> Result<()> {
    let mut loaded = LOADED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(earlier) = &*loaded {
        if earlier != library {
            tracing::debug!(earlier = %earlier.display(), asked = %library.display(), "ONNX Runtime is loaded already");
        }
        return Ok(());
    }
    require(library)?;
    // ort resolves a relative path against the executable's folder, which is not what a caller means.
    let absolute = std::path::absolute(library).unwrap_or_else(|_| library.to_path_buf());
    let unusable =
        |why: String| EngineError::Invalid(format!("{} is no usable ONNX Runtime: {why}", library.display()));
    ffi::probe(&absolute).map_err(unusable)?;
    let environment = ort::init_from(&absolute).map_err(|e| unusable(e.to_string()))?;
    environment.with_telemetry(false).commit();
    *loaded = Some(library.to_path_buf());
    Ok(())
}

/// Opens `model` on the runtime at `library`, with `threads` threads of its own inside an operator.
///
/// Threads do not spin while they wait: a spinning pool takes the core from the other engines. Memory
/// patterns are off because batch and length change from call to call, and each shape would keep a plan.
pub(crate) fn session(model: &Path, library: &Path, threads: usize) -> Result<Session> {
    init(library)?;
    require(model)?;
    build(model, threads)
        .map_err(|e| EngineError::Invalid(format!("{} is no usable model: {e}", model.display())))
}

fn build(model: &Path, threads: usize) -> std::result::Result<Session, ort::Error> {
    let mut builder = Session::builder()?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(threads.max(1))?
        .with_inter_threads(1)?
        .with_intra_op_spinning(false)?
        .with_inter_op_spinning(false)?
        .with_memory_pattern(false)?;
    builder.commit_from_file(model)
}

/// What a failing run means to the caller.
pub(crate) fn failed(what: &str, error: &ort::Error) -> EngineError {
    EngineError::Failed(format!("{what}: {error}"))
}

fn require(file: &Path) -> Result<()> {
    if file.is_file() {
        return Ok(());
    }
    Err(EngineError::Invalid(format!("{} does not exist; run: viva models pull", file.display())))
}
