//! Fakes for tests and for measuring the framework itself. Nothing here is part of the product: it is
//! compiled only with the feature `testkit` and used only where a flag says "fake".
//!
//! The fake engines keep to the contract and cost what their [`Costs`] say, slept, not computed, so that
//! hundreds of sessions can be driven on a small machine. They can be told to die ([`Faults`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use viva_models::registry::Opened;
use viva_models::{
    Asr, AsrJob, Begun, Cancel, EngineError, Llm, LlmInfo, Prompt, Result, Sampling, SeqId, StepEvent,
    StepPlan, StopReason, StyleSupport, Transcription, Tts, TtsJob, TurnDetector, Vad, VadJob, Word,
};

use crate::gpu::device::Opener;
use crate::gpu::{Cores, Engines, Order};

/// What the fake engines cost, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Costs {
    /// One recognition.
    pub asr_ms: u64,
    /// One turn decision.
    pub turn_ms: u64,
    /// 64 tokens of prompt.
    pub prefill_ms: u64,
    /// One step of the language model.
    pub step_ms: u64,
    /// One clause of speech.
    pub tts_ms: u64,
}

impl Costs {
    /// Nothing costs anything.
    pub const FREE: Self = Self { asr_ms: 0, turn_ms: 0, prefill_ms: 0, step_ms: 0, tts_ms: 0 };

    /// About what the small weights cost on two CPU cores.
    pub const SMALL_CPU: Self = Self { asr_ms: 250, turn_ms: 75, prefill_ms: 200, step_ms: 15, tts_ms: 90 };
}

/// How often each engine is to die (or fail) from now on.
#[derive(Debug, Default)]
pub struct Faults {
    /// The recogniser dies in its next jobs.
    pub asr_deaths: AtomicU32,
    /// The voice dies in its next jobs.
    pub tts_deaths: AtomicU32,
    /// The language model dies in its next steps.
    pub llm_deaths: AtomicU32,
    /// Letters the voice was given.
    pub tts_letters: AtomicU32,
    /// Times the language model was opened.
    pub llm_opened: AtomicU32,
    /// Milliseconds of the longest piece the recogniser was given.
    pub asr_longest: AtomicU32,
}

fn dies(count: &AtomicU32) -> Result<()> {
    let due = count.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1)).is_ok();
    if due { Err(EngineError::Unavailable("killed by the test".into())) } else { Ok(()) }
}

fn cost(ms: u64) {
    if ms > 0 {
        std::thread::sleep(Duration::from_millis(ms));
    }
}

fn opened<T: ?Sized>(engine: Box<T>) -> Result<Opened<T>> {
    Ok(Opened { engine, pid: None })
}

/// All engines fake. What the recogniser hears is [`heard_words`]; the reply is `reply`.
pub fn engines(costs: Costs, reply: &str, faults: &Arc<Faults>) -> Engines {
    let reply: Arc<str> = reply.into();
    let (f1, f2, f3) = (Arc::clone(faults), Arc::clone(faults), Arc::clone(faults));
    Engines {
        vad: Arc::new(|| opened(Box::new(EnergyVad) as Box<dyn Vad>)),
        turn: Arc::new(move || opened(Box::new(FakeTurn { costs }) as Box<dyn TurnDetector>)),
        asr: Arc::new(move || opened(Box::new(FakeAsr { costs, faults: Arc::clone(&f1) }) as Box<dyn Asr>)),
        llm: Arc::new(move || {
            f2.llm_opened.fetch_add(1, Ordering::AcqRel);
            let llm =
                FakeLlm { costs, faults: Arc::clone(&f2), reply: Arc::clone(&reply), seqs: HashMap::new() };
            opened(Box::new(llm) as Box<dyn Llm>)
        }),
        tts: Arc::new(move || opened(Box::new(FakeTts { costs, faults: Arc::clone(&f3) }) as Box<dyn Tts>)),
        embed: None,
        spoken: None,
        more: Vec::new(),
        // Sleeping occupies no core.
        cores: Cores { total: 64, asr: 1, llm: 1, llm_alone: 0, tts: 1, turn: 0 },
        order: Order::default(),
    }
}

/// The same with a real voice-activity detector.
pub fn engines_with_vad(costs: Costs, reply: &str, vad: Opener<dyn Vad>) -> Engines {
    Engines { vad, ..engines(costs, reply, &Arc::default()) }
}

/// Speech is what is loud.
struct EnergyVad;

impl Vad for EnergyVad {
    fn name(&self) -> &str {
        "fake energy VAD"
    }

    fn detect(&mut self, batch: &mut [VadJob], probabilities: &mut Vec<f32>) -> Result<()> {
        probabilities.clear();
        probabilities.extend(batch.iter().map(|job| {
            let energy: f32 = job.window.iter().map(|s| s * s).sum::<f32>() / job.window.len() as f32;
            if energy.sqrt() > 0.02 { 0.95 } else { 0.02 }
        }));
        Ok(())
    }
}

struct FakeTurn {
    costs: Costs,
}

impl TurnDetector for FakeTurn {
    fn name(&self) -> &str {
        "fake turn detector"
    }

    fn score(&mut self, batch: &[Arc<[f32]>]) -> Result<Vec<f32>> {
        cost(self.costs.turn_ms * batch.len() as u64);
        Ok(vec![0.95; batch.len()])
    }
}

/// Hears a word in every 300 ms of sound; a sound shorter than that is "mm".
pub fn heard_words(samples: &[f32]) -> String {
    let loud = samples.iter().filter(|s| s.abs() > 0.02).count();
    match loud / 4800 {
        0 if loud > 400 => "mm".into(),
        0 => String::new(),
        words => (1..=words).map(|n| format!("word{n}")).collect::<Vec<_>>().join(" "),
    }
}

struct FakeAsr {
    costs: Costs,
    faults: Arc<Faults>,
}

impl Asr for FakeAsr {
    fn name(&self) -> &str {
        "fake recogniser"
    }

    fn transcribe(&mut self, job: &AsrJob, _cancel: &Cancel) -> Result<Transcription> {
        self.faults.asr_longest.fetch_max((job.samples.len() / 16) as u32, Ordering::AcqRel);
        cost(self.costs.asr_ms);
        dies(&self.faults.asr_deaths)?;
        let text = heard_words(&job.samples);
        let words = text.split_whitespace().zip(1u32..).map(|(w, n)| Word {
            text: w.into(),
            start_ms: n * 300,
            end_ms: n * 300 + 300,
            confidence: 0.9,
        });
        Ok(Transcription { words: words.collect(), text, language: "en".into(), confidence: 0.9 })
    }
}

struct FakeSeq {
    left: u32,
    words: Vec<String>,
    said: usize,
    sampling: Sampling,
}

/// Answers every prompt with the same text, a word a token. A prompt that says "POISON" kills the engine
/// at every step.
struct FakeLlm {
    costs: Costs,
    faults: Arc<Faults>,
    reply: Arc<str>,
    seqs: HashMap<SeqId, (FakeSeq, bool)>,
}

impl Llm for FakeLlm {
    fn info(&self) -> LlmInfo {
        LlmInfo { model: "fake language model".into(), context: 2048, sequences: 256 }
    }

    fn begin(&mut self, seq: SeqId, prompt: &Prompt, sampling: &Sampling) -> Result<Begun> {
        let text: usize = prompt.messages.iter().map(|m| m.content.len()).sum();
        let tokens = (text / 4) as u32 + 1;
        let poison = prompt.messages.iter().any(|m| m.content.contains("POISON"));
        let words = self.reply.split_inclusive(' ').map(str::to_owned).collect();
        let state = FakeSeq { left: 1.max(tokens / 4), words, said: 0, sampling: sampling.clone() };
        self.seqs.insert(seq, (state, poison));
        Ok(Begun { prompt_tokens: tokens, reused_tokens: tokens - 1.max(tokens / 4) })
    }

    fn step(&mut self, plan: &StepPlan) -> Result<Vec<StepEvent>> {
        dies(&self.faults.llm_deaths)?;
        let prompts: u32 = plan.prefill.iter().map(|p| p.1).sum();
        cost(u64::from(prompts) * self.costs.prefill_ms / 64);
        if !plan.decode.is_empty() {
            cost(self.costs.step_ms);
        }
        let mut events = Vec::new();
        for seq in plan.prefill.iter().map(|p| p.0).chain(plan.decode.iter().copied()) {
            if self.seqs.get(&seq).is_some_and(|s| s.1) {
                return Err(EngineError::Unavailable("poisoned by the test".into()));
            }
        }
        for (seq, budget) in &plan.prefill {
            if let Some((s, _)) = self.seqs.get_mut(seq) {
                s.left = s.left.saturating_sub(*budget);
                events.push(StepEvent::Prefilled { seq: *seq, left: s.left });
            }
        }
        for seq in &plan.decode {
            let Some((s, _)) = self.seqs.get_mut(seq) else { continue };
            let (seq, tokens) = (*seq, s.said as u32);
            match s.words.get(s.said) {
                None => events.push(StepEvent::Done {
                    seq,
                    piece: String::new(),
                    reason: StopReason::Stop,
                    tokens,
                }),
                Some(_) if tokens >= s.sampling.max_tokens => events.push(StepEvent::Done {
                    seq,
                    piece: String::new(),
                    reason: StopReason::Length,
                    tokens,
                }),
                Some(word) => {
                    events.push(StepEvent::Token { seq, piece: word.clone() });
                    s.said += 1;
                }
            }
        }
        Ok(events)
    }

    fn stop(&mut self, seq: SeqId) -> Result<()> {
        self.seqs.remove(&seq);
        Ok(())
    }

    fn close(&mut self, seq: SeqId) -> Result<()> {
        self.seqs.remove(&seq);
        Ok(())
    }
}

/// Hums for 60 ms a character.
struct FakeTts {
    costs: Costs,
    faults: Arc<Faults>,
}

/// Hertz of the fake voice.
const RATE: u32 = 24_000;

impl Tts for FakeTts {
    fn name(&self) -> &str {
        "fake voice"
    }

    fn sample_rate(&self) -> u32 {
        RATE
    }

    fn styles(&self) -> StyleSupport {
        StyleSupport { voices: vec!["hum".into()], pace: true, ..StyleSupport::default() }
    }

    fn speak(&mut self, job: &TtsJob, _cancel: &Cancel, sink: &mut dyn FnMut(&[f32])) -> Result<()> {
        cost(self.costs.tts_ms);
        dies(&self.faults.tts_deaths)?;
        self.faults.tts_letters.fetch_add(job.text.len() as u32, Ordering::AcqRel);
        let length = job.text.len() * 60 * RATE as usize / 1000;
        sink(&tone(220.0, length, RATE));
        Ok(())
    }
}

/// A tone at a third of full scale.
pub fn tone(hertz: f32, samples: usize, rate: u32) -> Vec<f32> {
    let step = std::f32::consts::TAU * hertz / rate as f32;
    (0..samples).map(|i| (i as f32 * step).sin() * 0.3).collect()
}
