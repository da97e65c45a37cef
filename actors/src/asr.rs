//! The ASR stage: keeps the caller's turn and has it recognised at its pauses.
//!
//! *Input:* judged windows from the VAD stage's lane; orders from the session. *Output:* the words of the whole
//! turn (so far) to the session, words that are final already while the caller still speaks, and turn
//! scores. *Bound:* the open window is at most [`WINDOW_MAX`]; from [`WINDOW_LONG`] on its older words
//! are made final even without a pause. One recognition at a time; a newer order voids the one under way.
//! *On a crash:* what was heard lives in the session's [`Memory`], so nothing of the utterance is lost; the
//! session orders again what was under way.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use viva_models::asr::agreement::Agreement;
use viva_models::audio::LISTEN_RATE;
use viva_models::{AsrJob, Cancel, EngineError, Transcription};

use crate::gpu::work::{Answer, Job, Pause, Stake};
use crate::gpu::{Submitter, within};
use crate::lane::Lane;
use crate::ports::ListeningConfig;
use crate::session::{Report, Reporter};
use crate::types::{MediaTime, Stage};
use crate::vad::Listened;

/// Audio kept from before a speech start: soft onsets lie below the VAD's threshold.
const PREFIX_MS: u32 = 300;

/// Audio kept while nobody speaks: the prefix and the windows in which a start is recognised.
const IDLE_MAX: usize = ms(800);

/// An open window from here on has its older words made final. Recognition of up to 9 s costs the same
/// (whisper's smallest safe audio context) and each second beyond costs more, but nobody speaks half as long
/// again without a moment of quiet to cut at.
const WINDOW_LONG: usize = ms(14_000);

/// The open window never exceeds this: the most whisper takes at once, less a margin.
pub const WINDOW_MAX: usize = ms(29_000);

/// Words this close to the end of an unfinished window may still change.
const UNSTABLE_MS: u32 = 1_500;

/// A long window is cut in its quietest stretch of this length: shorter than a breath, longer than the gap
/// in a plosive.
const QUIET: usize = ms(160);

/// Nothing before this is worth a cut of its own.
const CUT_FROM: usize = ms(4_000);

/// What the turn detector looks at.
const SCORED_MAX: usize = ms(8_000);

/// When the words of a pause are due: they stand at the head of the way to the reply.
const DUE_MS: u64 = 250;

/// A pause that lasts so long after it was found may well be the end, whatever its score: it is found at 96 ms of
/// silence, and at 400 its words are ordered in any case (`TRANSCRIBE_MS` in `turn.rs`).
const LASTS_MS: u64 = 300;

/// From this score on the caller may be done (`TRANSCRIBE_SCORE` in `turn.rs`).
const PROMISING: f32 = 0.3;

const fn ms(ms: usize) -> usize {
    ms * LISTEN_RATE as usize / 1000
}

/// What was heard of the turn so far. Belongs to the session, so that it outlives the stage.
#[derive(Debug, Default)]
pub struct Memory {
    /// The open window; while nobody speaks, the last moments.
    window: VecDeque<f32>,
    /// The last seconds of the turn, for the turn detector.
    recent: VecDeque<f32>,
    /// A turn is open.
    open: bool,
    /// Words that are final.
    frozen: String,
    /// Words that two hypotheses agree on: what the client has been shown.
    agreed: Agreement,
    /// Words of the window as last recognised, and up to which sample of it.
    latest: Option<(String, usize)>,
}

/// The session's handle to the [`Memory`].
pub type SharedMemory = Arc<Mutex<Memory>>;

/// What the stage is started with.
pub struct Args {
    /// From the VAD stage.
    pub listened: Lane<Listened>,
    /// What was heard so far.
    pub memory: SharedMemory,
    /// To the scheduler.
    pub submitter: Submitter,
    /// To the session.
    pub reporter: Reporter,
    /// How to listen.
    pub config: ListeningConfig,
    /// BCP-47 primary tag.
    pub language: String,
}

/// What the stage is told.
pub enum Msg {
    /// The lane has windows.
    Doorbell,
    /// The caller began to speak there.
    Open(MediaTime),
    /// Recognise the turn so far.
    Transcribe(u32),
    /// Ask the turn detector.
    Score(u32),
    /// The caller goes on; if `true`, the words before the pause are final.
    GoOn(bool),
    /// The turn is over, or was none.
    Close,
    /// A recognition is done.
    Recognised(Box<Recognised>),
    /// Listen like this from now on.
    Configure(ListeningConfig, String),
    /// Fail, to see the restart table at work.
    #[cfg(any(test, feature = "testkit"))]
    Panic,
}

/// A recognition's answer.
pub struct Recognised {
    /// For which pause; none for one of our own to make words final.
    pause: Option<u32>,
    ticket: u64,
    samples: usize,
    result: Result<Answer<Transcription>, EngineError>,
}

/// The stage.
pub struct Asr;

/// The stage's state.
pub struct State {
    args: Args,
    ticket: u64,
    running: Option<Cancel>,
    /// The pause that was asked about last.
    pause: Option<Asked>,
    /// The turn decision under way.
    scoring: Option<Cancel>,
    /// The caller went on before the words of their pause were there: they are final when they come.
    freeze_due: bool,
    next_at: MediaTime,
}

/// A pause that was asked about, what is known of it, and from when on it counts as an end.
struct Asked {
    pause: u32,
    known: Pause,
    lasts: Instant,
}

impl Drop for State {
    fn drop(&mut self) {
        // Nobody reads its answer any more.
        if let Some(running) = &self.running {
            running.cancel();
        }
    }
}

impl Actor for Asr {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, me: ActorRef<Msg>, args: Args) -> Result<State, ActorProcessingErr> {
        args.listened.attach(Box::new(move || {
            me.cast(Msg::Doorbell).ok();
        }));
        Ok(State {
            args,
            ticket: 0,
            running: None,
            pause: None,
            scoring: None,
            freeze_due: false,
            next_at: MediaTime(0),
        })
    }

    async fn handle(&self, me: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        // Whatever is ordered concerns audio that may still lie in the lane.
        state.listen();
        match msg {
            Msg::Doorbell => state.freeze_long(&me),
            Msg::Open(at) => state.open(at),
            Msg::Transcribe(pause) => state.transcribe(Some(pause), &me),
            Msg::Score(pause) => state.score(pause),
            Msg::GoOn(freeze) => state.go_on(freeze),
            Msg::Close => state.close(),
            Msg::Recognised(r) => state.recognised(*r),
            Msg::Configure(config, language) => {
                (state.args.config, state.args.language) = (config, language);
            }
            #[cfg(any(test, feature = "testkit"))]
            Msg::Panic => panic!("asked to"),
        }
        Ok(())
    }
}

/// The memory, also after a stage died holding it: it is only ever appended to or cut, so what is there
/// is whole.
fn lock(memory: &SharedMemory) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// Takes the windows that wait.
    fn listen(&mut self) {
        self.args.listened.answer();
        let mut memory = lock(&self.args.memory);
        while let Some(window) = self.args.listened.pop() {
            memory.window.extend(window.samples.iter());
            self.next_at = MediaTime(window.at.0 + window.samples.len() as u64);
            if memory.open {
                memory.recent.extend(window.samples.iter());
            }
        }
        let kept = if memory.open { WINDOW_MAX } else { IDLE_MAX };
        let too_much = memory.window.len().saturating_sub(kept);
        if too_much > 0 {
            memory.window.drain(..too_much);
            if memory.open {
                self.args.reporter.dropped(Stage::Asr, "window_full");
            }
        }
        let old = memory.recent.len().saturating_sub(SCORED_MAX);
        memory.recent.drain(..old);
    }

    fn open(&mut self, at: MediaTime) {
        let prefix = ms(self.args.config.prefix_ms.unwrap_or(PREFIX_MS) as usize);
        let mut memory = lock(&self.args.memory);
        if memory.open {
            return;
        }
        memory.open = true;
        let back = (self.next_at.0.saturating_sub(at.0)) as usize + prefix;
        let old = memory.window.len().saturating_sub(back);
        memory.window.drain(..old);
        let Memory { window, recent, .. } = &mut *memory;
        recent.clear();
        recent.extend(window.iter());
    }

    /// Voids the recognition under way.
    fn void(&mut self) {
        if let Some(running) = self.running.take() {
            running.cancel();
        }
        self.ticket += 1;
        self.freeze_due = false;
    }

    fn transcribe(&mut self, pause: Option<u32>, me: &ActorRef<Msg>) {
        self.void();
        let ticket = self.ticket;
        let samples: Vec<f32> = lock(&self.args.memory).window.iter().copied().collect();
        let length = samples.len();
        let job = AsrJob {
            samples,
            language: Some(self.args.language.clone()),
            prompt: self.args.config.prompt.clone(),
            words: pause.is_none(),
        };
        let me = me.clone();
        let reply = Box::new(move |result| {
            let recognised = Recognised { pause, ticket, samples: length, result };
            me.cast(Msg::Recognised(Box::new(recognised))).ok();
        });
        let job = Job::Asr { job, reply };
        let (due, stake) = match pause {
            Some(pause) => {
                let asked = self.asked(pause);
                (DUE_MS, Stake::Words(asked.known.clone(), asked.lasts))
            }
            None => (4 * DUE_MS, Stake::Wanted),
        };
        self.running = Some(self.args.submitter.submit(job, within(due), stake));
    }

    fn asked(&mut self, pause: u32) -> &Asked {
        let same = self.pause.take().filter(|asked| asked.pause == pause);
        let new = || Asked { pause, known: Pause::default(), lasts: within(LASTS_MS) };
        self.pause.insert(same.unwrap_or_else(new))
    }

    fn score(&mut self, pause: u32) {
        let samples: Arc<[f32]> = lock(&self.args.memory).recent.iter().copied().collect();
        let (reporter, known) = (self.args.reporter.clone(), self.asked(pause).known.clone());
        let reply = Box::new(move |result: Result<Answer<f32>, EngineError>| {
            let probability = match result {
                Ok(answer) => Some(answer.value),
                Err(EngineError::Cancelled) => return,
                Err(error) => {
                    tracing::warn!(%error, "a pause was not scored, silence decides");
                    None
                }
            };
            if probability.is_none_or(|score| score >= PROMISING) {
                known.promising();
            }
            reporter.tell(Report::Scored { pause, probability });
        });
        let scoring = self.args.submitter.submit(Job::Turn { samples, reply }, within(DUE_MS), Stake::Wanted);
        self.unscore();
        self.scoring = Some(scoring);
    }

    /// Nobody waits for the turn decision under way.
    fn unscore(&mut self) {
        if let Some(scoring) = self.scoring.take() {
            scoring.cancel();
        }
    }

    fn go_on(&mut self, freeze: bool) {
        self.unscore();
        if freeze {
            // What was said before the pause is final: somebody waits for it after all.
            if let Some(asked) = &self.pause {
                asked.known.promising();
            }
            let latest = lock(&self.args.memory).latest.take();
            match latest {
                Some((text, samples)) => {
                    // One more recognition of the same words would say them once more behind the final ones.
                    self.void();
                    self.freeze(&text, samples);
                }
                None => self.freeze_due = self.running.is_some(),
            }
            return;
        }
        if let Some(asked) = &self.pause {
            asked.known.over();
        }
        lock(&self.args.memory).latest = None;
    }

    /// Makes words final and forgets the audio they were in.
    fn freeze(&self, text: &str, samples: usize) {
        let mut memory = lock(&self.args.memory);
        let samples = samples.min(memory.window.len());
        memory.window.drain(..samples);
        // It began where the window began.
        memory.latest = None;
        if text.is_empty() {
            return;
        }
        memory.frozen = joined(&memory.frozen, text);
        // Final words are agreed on, whatever the next hypothesis says.
        let frozen = memory.frozen.clone();
        let mut delta = memory.agreed.push(&frozen);
        delta.push_str(&memory.agreed.push(&frozen));
        self.tell_words(delta);
    }

    fn tell_words(&self, delta: String) {
        if !delta.is_empty() {
            self.args.reporter.tell(Report::Words { delta });
        }
    }

    /// Makes the older words of a long window final while the caller speaks on.
    fn freeze_long(&mut self, me: &ActorRef<Msg>) {
        let long = {
            let memory = lock(&self.args.memory);
            memory.open && memory.window.len() >= WINDOW_LONG
        };
        if long && self.running.is_none() {
            self.transcribe(None, me);
        }
    }

    fn close(&mut self) {
        self.unscore();
        self.void();
        let mut memory = lock(&self.args.memory);
        let old = memory.window.len().saturating_sub(IDLE_MAX);
        memory.window.drain(..old);
        // A long answer must not keep its room for the rest of the session.
        memory.window.shrink_to(IDLE_MAX);
        *memory = Memory { window: std::mem::take(&mut memory.window), ..Memory::default() };
    }

    fn recognised(&mut self, r: Recognised) {
        if r.ticket != self.ticket {
            return;
        }
        self.running = None;
        let freeze = std::mem::take(&mut self.freeze_due);
        match (r.pause, r.result) {
            (_, Err(EngineError::Cancelled)) => {}
            (Some(_), Ok(answer)) if freeze => self.freeze(&answer.value.text, r.samples),
            (Some(pause), Ok(answer)) => {
                let heard = answer.value;
                let text = {
                    let mut memory = lock(&self.args.memory);
                    memory.latest = Some((heard.text.clone(), r.samples));
                    let text = joined(&memory.frozen, &heard.text);
                    let delta = memory.agreed.push(&text);
                    self.tell_words(delta);
                    text
                };
                self.args.reporter.tell(Report::Heard {
                    pause,
                    text,
                    confidence: heard.confidence,
                    compute_ms: answer.compute_ms,
                });
            }
            (Some(pause), Err(error)) => {
                self.args.reporter.tell(Report::HearingFailed { pause, message: error.to_string() });
            }
            (None, Ok(answer)) => {
                let cut = {
                    let mut memory = lock(&self.args.memory);
                    let window = memory.window.make_contiguous();
                    quietest(&window[..r.samples.min(window.len())])
                };
                let Some(cut) = cut else { return };
                let text = words_before(&answer.value, (cut * 1000 / LISTEN_RATE as usize) as u32);
                self.freeze(&text, cut);
            }
            (None, Err(error)) => tracing::warn!(%error, "the older words of a long turn stay open"),
        }
    }
}

/// Final words and what follows them. A word at the seam is heard on both sides of it when the cut fell
/// into its last sound; it is said once.
fn joined(frozen: &str, text: &str) -> String {
    let bare = |w: &str| w.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase();
    let (last, first) = (frozen.split_whitespace().next_back(), text.split_whitespace().next());
    let twice = matches!((last, first), (Some(a), Some(b)) if !bare(a).is_empty() && bare(a) == bare(b));
    let text = text.trim();
    let rest =
        if twice { text.split_once(char::is_whitespace).map_or("", |(_, rest)| rest.trim()) } else { text };
    match (frozen.is_empty(), rest.is_empty()) {
        (true, _) => rest.to_owned(),
        (_, true) => frozen.to_owned(),
        _ => format!("{frozen} {rest}"),
    }
}

/// The middle of the quietest stretch of a window, where it is cut best; not near its ends.
fn quietest(window: &[f32]) -> Option<usize> {
    let until = window.len().checked_sub(ms(UNSTABLE_MS as usize))?;
    let zone = window.get(CUT_FROM..until)?;
    let energy = |s: &[f32]| s.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>();
    let starts = (0..zone.len().checked_sub(QUIET)?).step_by(QUIET / 4);
    let quiet =
        starts.min_by(|&a, &b| energy(&zone[a..a + QUIET]).total_cmp(&energy(&zone[b..b + QUIET])))?;
    Some(CUT_FROM + quiet + QUIET / 2)
}

/// The words spoken before a moment of quiet. The recogniser's times may be off by a fifth of a second: a word
/// belongs to the side on which its middle lies.
fn words_before(heard: &Transcription, at_ms: u32) -> String {
    let before = heard.words.iter().take_while(|w| (w.start_ms + w.end_ms) / 2 < at_ms);
    before.map(|w| w.text.as_str()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use viva_models::Word;

    use super::*;

    #[test]
    fn a_word_at_the_seam_is_said_once() {
        assert_eq!(joined("the migration tool", "Tool that copied"), "the migration tool that copied");
        assert_eq!(joined("we wrote,", "and then"), "we wrote, and then");
        assert_eq!(joined("", "Hello."), "Hello.");
        assert_eq!(joined("Hello", "hello."), "Hello");
    }

    #[test]
    fn a_long_window_is_cut_where_it_is_quiet() {
        let mut window: Vec<f32> = (0..ms(14_000)).map(|i| (i as f32 * 0.1).sin() * 0.3).collect();
        window[ms(7_000)..ms(7_400)].fill(0.001);
        let cut = quietest(&window).map(|c| c * 1000 / LISTEN_RATE as usize);
        assert!(cut.is_some_and(|c| (7_000..7_400).contains(&c)), "{cut:?}");
        assert_eq!(quietest(&window[..ms(3_000)]), None);
        let word = |text: &str, start_ms| Word {
            text: text.into(),
            start_ms,
            end_ms: start_ms + 300,
            confidence: 1.0,
        };
        let heard = Transcription {
            words: vec![word("one", 6_000), word("two", 6_800), word("three", 7_300)],
            ..Transcription::default()
        };
        assert_eq!(words_before(&heard, 7_200), "one two");
    }
}
