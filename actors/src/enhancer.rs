//! The enhancer stage: makes our voice even, clear and never too loud, in frames ready to send.
//!
//! *Input:* samples from the TTS stage's lane, at the voice's own rate. *Output:* 20 ms frames at 24 kHz into the
//! playout's lane; the length of each clause to the session. *Bound:* what finds the playout's lane full waits
//! here and the lane behind it fills, which makes the voice wait. *On a crash:* the filters start anew
//! (inaudible) and at most 20 ms of sound are lost.

use std::collections::VecDeque;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use viva_models::audio::{Resampler, SPEAK_RATE, to_i16};
use viva_models::enhance::Voice;

use crate::lane::Lane;
use crate::playout::PlayItem;
use crate::ports::OUT_FRAME;
use crate::session::{Report, Reporter};
use crate::tts::Speech;
use crate::types::Epoch;

/// How soon to look again whether the playout has room.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Samples that go through the chain at a time: 100 ms. A voice hands over whole sentences, and what lies between
/// the steps must not be as long as they are.
const PIECE: usize = SPEAK_RATE as usize / 10;

/// What the stage is started with.
pub struct Args {
    /// From the TTS stage.
    pub speech: Lane<Speech>,
    /// To the playout.
    pub frames: Lane<PlayItem>,
    /// To the session.
    pub reporter: Reporter,
    /// The voice's gain.
    pub gain: f32,
}

/// What the stage is told.
pub enum Msg {
    /// Speech is there.
    Doorbell,
    /// It is time to see again whether the playout has room.
    LookAgain,
    /// Another voice's gain.
    Gain(f32),
    /// Fail, to see the restart table at work.
    #[cfg(any(test, feature = "testkit"))]
    Panic,
}

/// The stage.
pub struct Enhancer;

/// The stage's state.
pub struct State {
    args: Args,
    chain: Voice,
    resampler: Option<Resampler>,
    epoch: Epoch,
    /// At 24 kHz, before the chain.
    wide: Vec<f32>,
    /// After the chain, not yet a whole frame.
    ready: Vec<f32>,
    /// Made, but the playout had no room.
    waiting: VecDeque<PlayItem>,
    /// Samples of the clause so far.
    clause: u64,
    /// A look has been ordered: one at a time.
    looking: bool,
}

impl Actor for Enhancer {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, me: ActorRef<Msg>, args: Args) -> Result<State, ActorProcessingErr> {
        args.speech.attach(Box::new(move || {
            me.cast(Msg::Doorbell).ok();
        }));
        Ok(State {
            chain: Voice::new(SPEAK_RATE, args.gain),
            resampler: None,
            epoch: Epoch::default(),
            wide: Vec::with_capacity(2 * PIECE),
            ready: Vec::with_capacity(2 * PIECE),
            waiting: VecDeque::new(),
            clause: 0,
            looking: false,
            args,
        })
    }

    async fn handle(&self, me: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Doorbell => state.args.speech.answer(),
            Msg::LookAgain => state.looking = false,
            Msg::Gain(gain) => state.chain.set_gain(gain),
            #[cfg(any(test, feature = "testkit"))]
            Msg::Panic => panic!("asked to"),
        }
        while state.pass_on() {
            let Some(speech) = state.args.speech.pop() else { return Ok(()) };
            state.take(speech)?;
        }
        if !state.looking {
            state.looking = true;
            me.send_after(LOOK_AGAIN, || Msg::LookAgain);
        }
        Ok(())
    }
}

impl State {
    fn take(&mut self, speech: Speech) -> Result<(), ActorProcessingErr> {
        match speech {
            Speech::Samples(epoch, samples, rate) => {
                self.turn_to(epoch);
                self.resample(&samples, rate)?;
            }
            Speech::ClauseEnd(epoch, text) => {
                self.turn_to(epoch);
                self.drain_resampler();
                let ms = self.clause * 1000 / u64::from(SPEAK_RATE);
                self.clause = 0;
                self.args.reporter.tell(Report::ClauseSpoken { epoch, text, ms });
            }
            Speech::End(epoch) => {
                self.turn_to(epoch);
                self.drain_resampler();
                self.chain.flush(&mut self.ready);
                let missing = self.ready.len().next_multiple_of(OUT_FRAME) - self.ready.len();
                self.ready.extend(std::iter::repeat_n(0.0, missing));
                self.cut_frames();
                self.waiting.push_back(PlayItem::End(epoch));
            }
        }
        Ok(())
    }

    /// Another reply begins: nothing of the one before may be heard in it.
    fn turn_to(&mut self, epoch: Epoch) {
        if self.epoch == epoch {
            return;
        }
        self.epoch = epoch;
        self.chain.reset();
        self.ready.clear();
        self.clause = 0;
        if let Some(r) = &mut self.resampler {
            r.reset();
        }
    }

    fn resample(&mut self, samples: &[f32], rate: u32) -> Result<(), ActorProcessingErr> {
        if self.clause == 0 && self.ready.is_empty() {
            self.args.reporter.tell(Report::AudioMade { epoch: self.epoch });
        }
        if rate != SPEAK_RATE && self.resampler.as_ref().is_none_or(|r| r.from_rate() != rate) {
            self.resampler = Some(Resampler::new(rate, SPEAK_RATE)?);
        }
        for piece in samples.chunks(PIECE) {
            self.wide.clear();
            match &mut self.resampler {
                Some(resampler) if rate != SPEAK_RATE => resampler.process(piece, &mut self.wide),
                _ => self.wide.extend_from_slice(piece),
            }
            self.through_chain();
        }
        Ok(())
    }

    fn drain_resampler(&mut self) {
        self.wide.clear();
        if let Some(r) = &mut self.resampler {
            r.flush(&mut self.wide);
        }
        self.through_chain();
    }

    fn through_chain(&mut self) {
        self.clause += self.wide.len() as u64;
        self.chain.process(&self.wide, &mut self.ready);
        self.cut_frames();
    }

    fn cut_frames(&mut self) {
        let whole = self.ready.len() - self.ready.len() % OUT_FRAME;
        for samples in self.ready[..whole].chunks_exact(OUT_FRAME) {
            let mut frame = Box::new([0i16; OUT_FRAME]);
            for (to, &from) in frame.iter_mut().zip(samples) {
                *to = to_i16(from);
            }
            self.waiting.push_back(PlayItem::Frame(self.epoch, frame));
        }
        self.ready.drain(..whole);
    }

    /// Gives the playout what it has room for. Says whether that was all.
    fn pass_on(&mut self) -> bool {
        while let Some(item) = self.waiting.pop_front() {
            if let Err(item) = self.args.frames.push(item) {
                self.waiting.push_front(item);
                return false;
            }
        }
        true
    }
}
