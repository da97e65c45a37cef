//! Lines that were spoken before: answered at once, without the engine.

use std::sync::{Arc, Mutex, PoisonError};

use viva_models::tts::spoken::{Line, Spoken};

use crate::metrics as m;

use super::work::{Answer, Job, Work};

/// Samples a line may have while it is collected to be kept: half a minute at 24 kHz.
const SAMPLES_MAX: usize = 30 * 24_000;

/// Answers a clause that is known. Gives back the work that the engine must do; its audio is kept where the line is
/// nobody's.
pub(super) fn answer(spoken: &Arc<Spoken>, mut work: Work) -> Option<Work> {
    let Job::Tts { job, delivered, .. } = &work.job else { return Some(work) };
    let Some(key) = spoken.key(job) else { return Some(work) };
    let skip = *delivered;
    if let Some(line) = spoken.get(key) {
        metrics::counter!(m::SPOKEN_LINES, "what" => "known").increment(1);
        let Job::Tts { mut sink, reply, .. } = work.job else { return None };
        let samples: Vec<f32> = line.samples.iter().skip(skip).map(|s| f32::from(*s) / 32_768.0).collect();
        if !samples.is_empty() {
            sink(&samples, line.rate);
        }
        reply(Ok(Answer { value: (), queue_ms: 0, compute_ms: 0 }));
        return None;
    }
    metrics::counter!(m::SPOKEN_LINES, "what" => "made").increment(1);
    // A second attempt begins in the middle of its line.
    if skip == 0 && spoken.asked(key, work.session) {
        let Job::Tts { job, mut sink, delivered, reply } = work.job else { return None };
        let made: Arc<Mutex<(u32, Vec<i16>)>> = Arc::default();
        let (collected, spoken) = (Arc::clone(&made), Arc::clone(spoken));
        let sink = Box::new(move |samples: &[f32], rate: u32| {
            let mut made = collected.lock().unwrap_or_else(PoisonError::into_inner);
            if made.1.len() < SAMPLES_MAX {
                made.0 = rate;
                made.1.extend(samples.iter().map(|s| (s.clamp(-1.0, 1.0) * 32_767.0) as i16));
            }
            drop(made);
            sink(samples, rate);
        });
        let reply = Box::new(move |result: Result<Answer<()>, viva_models::EngineError>| {
            let whole = result.is_ok();
            reply(result);
            let (rate, samples) = std::mem::take(&mut *made.lock().unwrap_or_else(PoisonError::into_inner));
            if whole && !samples.is_empty() && samples.len() < SAMPLES_MAX {
                spoken.keep(key, Line { rate, samples: samples.into() });
            }
        });
        work.job = Job::Tts { job, sink, delivered, reply };
    }
    Some(work)
}
