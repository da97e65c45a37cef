//! The contract's traits, spoken by a child.

use super::connection::Connection;
use super::process::Launch;
use super::wire::{EngineInfo, Outcome, Request};
use crate::contract::{
    Asr, AsrJob, Begun, Cancel, EngineError, Llm, LlmInfo, Prompt, Result, Sampling, SeqId, StepEvent,
    StepPlan, StyleSupport, Transcription, Tts, TtsJob,
};

fn mismatch(launch: &Launch, found: &EngineInfo) -> EngineError {
    EngineError::Invalid(format!("{} hosts another kind of engine: {found:?}", launch.program.display()))
}

fn out_of_turn(found: &Outcome) -> EngineError {
    EngineError::Failed(format!("the engine answered another question: {found:?}"))
}

fn no_speech(_: &[f32]) {}

/// Recognition by a child.
#[derive(Debug)]
pub struct AsrProxy {
    line: Connection,
    name: String,
}

impl AsrProxy {
    /// Starts the child and waits until it is ready.
    pub fn open(launch: &Launch) -> Result<Self> {
        match Connection::open(launch)? {
            (line, EngineInfo::Asr { name }) => Ok(Self { line, name }),
            (_, other) => Err(mismatch(launch, &other)),
        }
    }

    /// The child's process id.
    pub fn pid(&self) -> u32 {
        self.line.pid()
    }
}

impl Asr for AsrProxy {
    fn name(&self) -> &str {
        &self.name
    }

    fn transcribe(&mut self, job: &AsrJob, cancel: &Cancel) -> Result<Transcription> {
        let make = |id| Request::Transcribe { job: id, body: job.clone() };
        match self.line.call(make, Some(cancel), &mut no_speech)? {
            Outcome::Transcription(text) => Ok(text),
            other => Err(out_of_turn(&other)),
        }
    }
}

/// Speech by a child.
#[derive(Debug)]
pub struct TtsProxy {
    line: Connection,
    name: String,
    sample_rate: u32,
    styles: StyleSupport,
}

impl TtsProxy {
    /// Starts the child and waits until it is ready.
    pub fn open(launch: &Launch) -> Result<Self> {
        match Connection::open(launch)? {
            (line, EngineInfo::Tts { name, sample_rate, styles }) => {
                Ok(Self { line, name, sample_rate, styles })
            }
            (_, other) => Err(mismatch(launch, &other)),
        }
    }

    /// The child's process id.
    pub fn pid(&self) -> u32 {
        self.line.pid()
    }
}

impl Tts for TtsProxy {
    fn name(&self) -> &str {
        &self.name
    }

    fn sample_rate(&self) -> u32 {
        self.sample_rate
    }

    fn styles(&self) -> StyleSupport {
        self.styles.clone()
    }

    fn speak(&mut self, job: &TtsJob, cancel: &Cancel, sink: &mut dyn FnMut(&[f32])) -> Result<()> {
        let make = |id| Request::Speak { job: id, body: job.clone() };
        match self.line.call(make, Some(cancel), sink)? {
            Outcome::Nothing => Ok(()),
            other => Err(out_of_turn(&other)),
        }
    }
}

/// Language by a child.
#[derive(Debug)]
pub struct LlmProxy {
    line: Connection,
    info: LlmInfo,
}

impl LlmProxy {
    /// Starts the child and waits until it is ready.
    pub fn open(launch: &Launch) -> Result<Self> {
        match Connection::open(launch)? {
            (line, EngineInfo::Llm(info)) => Ok(Self { line, info }),
            (_, other) => Err(mismatch(launch, &other)),
        }
    }

    /// The child's process id.
    pub fn pid(&self) -> u32 {
        self.line.pid()
    }

    fn plain(&mut self, make: impl FnOnce(u64) -> Request) -> Result<()> {
        match self.line.call(make, None, &mut no_speech)? {
            Outcome::Nothing => Ok(()),
            other => Err(out_of_turn(&other)),
        }
    }
}

impl Llm for LlmProxy {
    fn info(&self) -> LlmInfo {
        self.info.clone()
    }

    fn begin(&mut self, seq: SeqId, prompt: &Prompt, sampling: &Sampling) -> Result<Begun> {
        let make = |id| Request::Begin { job: id, seq, prompt: prompt.clone(), sampling: sampling.clone() };
        match self.line.call(make, None, &mut no_speech)? {
            Outcome::Begun(begun) => Ok(begun),
            other => Err(out_of_turn(&other)),
        }
    }

    fn step(&mut self, plan: &StepPlan) -> Result<Vec<StepEvent>> {
        let make = |id| Request::Step { job: id, plan: plan.clone() };
        match self.line.call(make, None, &mut no_speech)? {
            Outcome::Stepped(events) => Ok(events),
            other => Err(out_of_turn(&other)),
        }
    }

    fn stop(&mut self, seq: SeqId) -> Result<()> {
        self.plain(|job| Request::Stop { job, seq })
    }

    fn close(&mut self, seq: SeqId) -> Result<()> {
        self.plain(|job| Request::Close { job, seq })
    }
}
