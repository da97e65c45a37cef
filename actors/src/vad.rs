//! The VAD stage: finds where speech begins and pauses.
//!
//! *Input:* the caller's audio at 16 kHz from the mic lane. *Output:* every window, in order, into the lane
//! of the ASR stage; speech starts and pauses to the session. *Bound:* one window is judged at a time;
//! the mic lane holds what arrives meanwhile and drops its oldest when full. *On a crash:* the stage
//! starts again with what lies in the mic lane, with a fresh recurrent state, and remembers whether the
//! caller was speaking.
//!
//! The windows are judged by the scheduler together with those of all other sessions.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use viva_models::enhance::RnNoise16;
use viva_models::{Denoiser, EngineError, VAD_WINDOW, VadJob, VadState};

use crate::gpu::work::{Answer, Job, Stake};
use crate::gpu::{Submitter, within};
use crate::lane::Lane;
use crate::ports::ListeningConfig;
use crate::recorder::Piece;
use crate::session::{Report, Reporter};
use crate::types::{MediaTime, Stage};

/// One window, 32 ms.
const WINDOW_MS: u64 = (VAD_WINDOW as u64) * 1000 / 16_000;

/// A window counts as speech from this probability on: Silero's own recommendation.
pub const THRESHOLD: f32 = 0.5;

/// A window counts as silence only below the threshold less this: Silero's own hysteresis.
const HYSTERESIS: f32 = 0.15;

/// Windows of speech that make a start. Two are 64 ms: a click is shorter, a syllable longer.
const START_WINDOWS: u32 = 2;

/// A single window this sure makes a start by itself: at an interruption its 32 ms are a fifth of the time in
/// which our voice has to fall silent. Clicks and breath stay below (see the tests).
const START_SURE: f32 = 0.85;

/// When a window's answer is due. Barge-in has 150 ms in all.
const DUE_MS: u64 = 20;

/// A window of caller audio, on its way to the ASR stage.
pub struct Listened {
    /// The media clock at its first sample.
    pub at: MediaTime,
    /// The samples.
    pub samples: Box<[f32; VAD_WINDOW]>,
}

/// What the stage is started with.
pub struct Args {
    /// Caller audio.
    pub mic: Lane<Box<[f32]>>,
    /// To the ASR stage.
    pub listened: Lane<Listened>,
    /// The media clock, moved by this stage.
    pub clock: Arc<AtomicU64>,
    /// To the scheduler.
    pub submitter: Submitter,
    /// To the session.
    pub reporter: Reporter,
    /// To the recorder, where there is one.
    pub recording: Option<Lane<Piece>>,
    /// How to listen.
    pub config: ListeningConfig,
    /// Silence that makes a pause.
    pub pause_ms: u32,
    /// The caller was speaking when this stage's predecessor died.
    pub speaking: bool,
}

/// What the stage is told.
pub enum Msg {
    /// The mic lane has audio.
    Doorbell,
    /// A window was judged.
    Judged(Box<Result<Answer<(VadJob, f32)>, EngineError>>),
    /// Listen like this from now on.
    Configure(ListeningConfig, u32),
    /// Fail, to see the restart table at work.
    #[cfg(any(test, feature = "testkit"))]
    Panic,
}

/// The stage.
pub struct Vad;

/// The stage's state.
pub struct State {
    args: Args,
    denoiser: Option<RnNoise16>,
    /// Audio that does not fill a frame of the denoiser yet.
    noisy: Vec<f32>,
    pending: VecDeque<f32>,
    vad: Option<VadState>,
    speech: Hysteresis,
}

/// Speech and pauses from probabilities. Pure.
#[derive(Debug)]
struct Hysteresis {
    threshold: f32,
    pause_windows: u32,
    speaking: bool,
    /// Windows in a row that argue for a change.
    run: u32,
    /// First sample of a possible start.
    first: MediaTime,
    /// Last sample of speech.
    last: MediaTime,
}

#[derive(Debug, PartialEq)]
enum Change {
    Started(MediaTime),
    Paused(MediaTime),
}

impl Hysteresis {
    fn new(config: &ListeningConfig, pause_ms: u32, speaking: bool) -> Self {
        Self {
            threshold: config.vad_threshold.unwrap_or(THRESHOLD).clamp(0.05, 0.95),
            pause_windows: (u64::from(pause_ms).div_ceil(WINDOW_MS)).max(1) as u32,
            speaking,
            run: 0,
            first: MediaTime(0),
            last: MediaTime(0),
        }
    }

    fn window(&mut self, at: MediaTime, probability: f32) -> Option<Change> {
        let end = MediaTime(at.0 + VAD_WINDOW as u64);
        let quiet = (self.threshold - HYSTERESIS).max(0.01);
        if self.speaking {
            if probability >= quiet {
                (self.run, self.last) = (0, end);
                return None;
            }
            self.run += 1;
            if self.run >= self.pause_windows {
                (self.speaking, self.run) = (false, 0);
                return Some(Change::Paused(self.last));
            }
        } else if probability >= self.threshold {
            if self.run == 0 {
                self.first = at;
            }
            self.run += 1;
            if self.run >= START_WINDOWS || probability >= START_SURE {
                (self.speaking, self.run, self.last) = (true, 0, end);
                return Some(Change::Started(self.first));
            }
        } else {
            self.run = 0;
        }
        None
    }
}

impl Actor for Vad {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, me: ActorRef<Msg>, args: Args) -> Result<State, ActorProcessingErr> {
        args.mic.attach(Box::new(move || {
            me.cast(Msg::Doorbell).ok();
        }));
        Ok(State {
            denoiser: args.config.denoise.then(RnNoise16::new),
            noisy: Vec::new(),
            pending: VecDeque::with_capacity(4 * VAD_WINDOW),
            vad: Some(VadState::default()),
            speech: Hysteresis {
                // A caller who fell silent while nobody listened did so no earlier than now.
                last: MediaTime(args.clock.load(Ordering::Acquire)),
                ..Hysteresis::new(&args.config, args.pause_ms, args.speaking)
            },
            args,
        })
    }

    async fn handle(&self, me: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Doorbell => state.args.mic.answer(),
            Msg::Judged(result) => state.judged(*result),
            Msg::Configure(config, pause_ms) => {
                if config.denoise != state.args.config.denoise {
                    state.denoiser = config.denoise.then(RnNoise16::new);
                }
                state.speech = Hysteresis {
                    run: state.speech.run,
                    first: state.speech.first,
                    last: state.speech.last,
                    ..Hysteresis::new(&config, pause_ms, state.speech.speaking)
                };
                state.args.config = config;
            }
            #[cfg(any(test, feature = "testkit"))]
            Msg::Panic => panic!("asked to"),
        }
        state.submit(&me);
        Ok(())
    }
}

impl State {
    /// Sends the next window to be judged, if one is full and none is under way.
    fn submit(&mut self, me: &ActorRef<Msg>) {
        while self.pending.len() < VAD_WINDOW {
            let Some(chunk) = self.args.mic.pop() else { return };
            let Some(denoiser) = &mut self.denoiser else {
                self.pending.extend(chunk.iter());
                continue;
            };
            self.noisy.extend_from_slice(&chunk);
            let whole = self.noisy.len() - self.noisy.len() % denoiser.frame();
            for frame in self.noisy[..whole].chunks_exact_mut(denoiser.frame()) {
                denoiser.process(frame);
                self.pending.extend(frame.iter());
            }
            self.noisy.drain(..whole);
        }
        let Some(state) = self.vad.take() else { return };
        let mut window = Box::new([0.0; VAD_WINDOW]);
        for (to, from) in window.iter_mut().zip(self.pending.drain(..VAD_WINDOW)) {
            *to = from;
        }
        let me = me.clone();
        let reply = Box::new(move |result| {
            me.cast(Msg::Judged(Box::new(result))).ok();
        });
        self.args.submitter.submit(
            Job::Vad { job: VadJob { state, window }, reply },
            within(DUE_MS),
            Stake::Wanted,
        );
    }

    fn judged(&mut self, result: Result<Answer<(VadJob, f32)>, EngineError>) {
        let at = MediaTime(self.args.clock.load(Ordering::Acquire));
        self.args.clock.store(at.0 + VAD_WINDOW as u64, Ordering::Release);
        let (samples, probability) = match result {
            Ok(answer) => {
                let (job, probability) = answer.value;
                self.vad = Some(job.state);
                (job.window, probability)
            }
            Err(error) => {
                // The window is lost with the engine; silence keeps the clock and the next one is judged.
                tracing::warn!(%error, "a VAD window was not judged");
                self.vad = Some(VadState::default());
                (Box::new([0.0; VAD_WINDOW]), if self.speech.speaking { 1.0 } else { 0.0 })
            }
        };
        if let Some(recording) = &self.args.recording {
            recording.push_latest(Piece::Caller(samples.clone()));
        }
        // The ASR stage reads as fast as this lane is written; when it is down the lane keeps the newest.
        if self.args.listened.push_latest(Listened { at, samples }) {
            self.args.reporter.dropped(Stage::Vad, "listened_full");
        }
        match self.speech.window(at, probability) {
            Some(Change::Started(at)) => self.args.reporter.tell(Report::SpeechStarted { at }),
            Some(Change::Paused(at)) => self.args.reporter.tell(Report::SpeechPaused { at }),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(probabilities: &[f32]) -> Vec<Change> {
        let mut h = Hysteresis::new(&ListeningConfig::default(), 160, false);
        probabilities
            .iter()
            .zip(0..)
            .filter_map(|(&p, i)| h.window(MediaTime(i * VAD_WINDOW as u64), p))
            .collect()
    }

    #[test]
    fn two_windows_make_a_start_and_five_a_pause() {
        let mut p = vec![0.1, 0.9, 0.9, 0.9];
        p.extend([0.1; 5]);
        let w = VAD_WINDOW as u64;
        assert_eq!(run(&p), [Change::Started(MediaTime(w)), Change::Paused(MediaTime(4 * w))]);
    }

    #[test]
    fn a_click_is_no_start_and_a_dip_no_pause() {
        assert_eq!(run(&[0.1, 0.8, 0.1, 0.8, 0.1]), []);
        assert_eq!(run(&[0.1, 0.9]).len(), 1, "a window that is sure is enough");
        let mut p = vec![0.9; 4];
        p.extend([0.1, 0.1, 0.1, 0.1, 0.4, 0.1, 0.1, 0.1, 0.1, 0.9]);
        assert_eq!(run(&p).len(), 1, "0.4 is above the lower threshold");
    }
}
