//! Silero VAD v6 on ONNX Runtime, all callers' windows in one run.

use std::path::Path;

use ort::session::Session;
use ort::value::TensorRef;

use crate::ort_runtime;
use crate::{Result, VAD_WINDOW, Vad, VadJob};

/// Samples of the window before that the model wants in front of each window at 16 kHz.
const CONTEXT: usize = 64;
/// Samples the model sees a window.
const INPUT: usize = CONTEXT + VAD_WINDOW;
/// Recurrent cells; the state is 2 × batch × this.
const CELLS: usize = 128;
/// Windows in one run. The cost of a window stops falling at about 64 (ARCHITECTURE.md, "The scheduler"); more would
/// only make those at the front wait for those at the back.
const BATCH_MAX: usize = 64;

/// Silero VAD. Holds no caller's state: that travels in [`VadJob`].
pub struct Silero {
    session: Session,
    input: Vec<f32>,
    state: Vec<f32>,
}

impl Silero {
    /// Opens `model` (`silero_vad.onnx`) on the ONNX Runtime library at `runtime`, on one thread.
    pub fn open(model: &Path, runtime: &Path) -> Result<Self> {
        let session = ort_runtime::session(model, runtime, 1)?;
        Ok(Self {
            session,
            input: Vec::with_capacity(BATCH_MAX * INPUT),
            state: Vec::with_capacity(2 * BATCH_MAX * CELLS),
        })
    }

    fn run(
        &mut self,
        batch: &mut [VadJob],
        probabilities: &mut Vec<f32>,
    ) -> std::result::Result<(), ort::Error> {
        let n = batch.len();
        self.input.clear();
        self.state.clear();
        for job in batch.iter() {
            self.input.extend_from_slice(&job.state.context[..]);
            self.input.extend(job.window.iter().map(|s| if s.is_finite() { *s } else { 0.0 }));
        }
        for layer in 0..2 {
            for job in batch.iter() {
                self.state.extend_from_slice(&job.state.recurrent[layer * CELLS..(layer + 1) * CELLS]);
            }
        }
        let rate = [i64::from(crate::audio::LISTEN_RATE)];
        let outputs = self.session.run(ort::inputs! {
            "input" => TensorRef::from_array_view(([n, INPUT], &self.input[..]))?,
            "state" => TensorRef::from_array_view(([2, n, CELLS], &self.state[..]))?,
            "sr" => TensorRef::from_array_view(([0usize; 0], &rate[..]))?,
        })?;
        let (_, speech) = outputs["output"].try_extract_tensor::<f32>()?;
        let (_, state) = outputs["stateN"].try_extract_tensor::<f32>()?;
        if speech.len() != n || state.len() != 2 * n * CELLS {
            return Err(ort::Error::new(format!("{} probabilities for {n} windows", speech.len())));
        }
        probabilities.extend(speech.iter().map(|p| p.clamp(0.0, 1.0)));
        for (i, job) in batch.iter_mut().enumerate() {
            for layer in 0..2 {
                let from = (layer * n + i) * CELLS;
                job.state.recurrent[layer * CELLS..(layer + 1) * CELLS]
                    .copy_from_slice(&state[from..from + CELLS]);
            }
            let from = i * INPUT + VAD_WINDOW;
            job.state.context.copy_from_slice(&self.input[from..from + CONTEXT]);
        }
        Ok(())
    }
}

impl Vad for Silero {
    fn name(&self) -> &str {
        "silero-vad-6"
    }

    fn detect(&mut self, batch: &mut [VadJob], probabilities: &mut Vec<f32>) -> Result<()> {
        probabilities.clear();
        for part in batch.chunks_mut(BATCH_MAX) {
            self.run(part, probabilities).map_err(|e| ort_runtime::failed("voice activity", &e))?;
        }
        Ok(())
    }
}
