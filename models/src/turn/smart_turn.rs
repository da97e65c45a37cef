//! smart-turn v3.2 on ONNX Runtime: from eight seconds of speech to "done" or "not yet".

use std::path::Path;
use std::sync::Arc;

use ort::session::Session;
use ort::value::TensorRef;

use super::LogMel;
use crate::ort_runtime;
use crate::{Result, TurnDetector};

/// The detector. It listens to intonation as much as to words, and wants the pause of some 200 ms, in which
/// it is asked, at the end of the samples.
///
/// Its weights are 8-bit, and that makes scores between about 0.2 and 0.7 uncertain: noise of 0.00001 in the
/// picture moved a score of 0.4 anywhere between 0.30 and 0.59. Decide by the ends of the scale, and let a
/// silence timeout have the middle.
pub struct SmartTurn {
    session: Session,
    mel: LogMel,
    features: Vec<f32>,
}

impl SmartTurn {
    /// Opens `model` (`smart-turn-v3.2-cpu.onnx`) on the ONNX Runtime library at `runtime`.
    pub fn open(model: &Path, runtime: &Path, threads: usize) -> Result<Self> {
        let session = ort_runtime::session(model, runtime, threads)?;
        Ok(Self { session, mel: LogMel::new(), features: vec![0.0; LogMel::BANDS * LogMel::FRAMES] })
    }

    fn run(&mut self, samples: &[f32]) -> std::result::Result<f32, ort::Error> {
        self.mel.compute(samples, &mut self.features);
        let shape = [1, LogMel::BANDS, LogMel::FRAMES];
        let features = TensorRef::from_array_view((shape, &self.features[..]))?;
        let outputs = self.session.run(ort::inputs!["input_features" => features])?;
        // The output is called "logits", but the sigmoid is part of the model.
        let (_, scores) = outputs["logits"].try_extract_tensor::<f32>()?;
        scores.first().map(|p| p.clamp(0.0, 1.0)).ok_or_else(|| ort::Error::new("the model gave no score"))
    }
}

impl TurnDetector for SmartTurn {
    fn name(&self) -> &str {
        "smart-turn-3.2"
    }

    /// Callers are scored one after another: on a CPU a batch takes as long as its parts (ARCHITECTURE.md,
    /// "The scheduler").
    fn score(&mut self, batch: &[Arc<[f32]>]) -> Result<Vec<f32>> {
        batch
            .iter()
            .map(|samples| self.run(samples).map_err(|e| ort_runtime::failed("end of turn", &e)))
            .collect()
    }
}
