//! A call by script: drives a [`Caller`] through the steps of a [`Script`] and keeps what was heard.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::caller::{Caller, CallerOptions};
use super::clip::{Clip, RATE};
use super::error::{ClientError, Result};
use super::hearing::{Hearing, Progress, REPLY_MAX};
use super::report::{CallReport, DEAD_AIR_MS};
use super::script::{Script, Step};
use super::signals;

/// How long an answer may take to begin, where nobody says otherwise: the slowest profile on two busy
/// cores answers within 10 s; three times that is a fault.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How often we look whether a voice has come to its end: people notice a tenth of a second.
const LOOKS_A_SECOND: u64 = 10;

/// How to hold a call.
#[derive(Debug, Clone)]
pub struct CallOptions {
    /// How to connect.
    pub caller: CallerOptions,
    /// How long an answer may take to begin.
    pub answer_timeout: Duration,
    /// Keep both sides' sound for [`Call::tracks`].
    pub keep_audio: bool,
    /// The server detects no turns: commit and ask for the answer ourselves.
    pub manual_turns: bool,
    /// Silence after the caller's last word that counts as dead air, milliseconds.
    pub dead_air_ms: f64,
}

impl Default for CallOptions {
    fn default() -> Self {
        Self {
            caller: CallerOptions::default(),
            answer_timeout: ANSWER_TIMEOUT,
            keep_audio: false,
            manual_turns: false,
            dead_air_ms: DEAD_AIR_MS,
        }
    }
}

/// Clips by file name and by the words they say, each decoded once for all callers.
#[derive(Debug, Clone, Default)]
pub struct Clips {
    files: HashMap<PathBuf, Arc<Clip>>,
    lines: HashMap<String, Arc<Clip>>,
}

impl Clips {
    /// Loads every file the scripts name.
    pub fn load<'a>(scripts: impl IntoIterator<Item = &'a Script>) -> Result<Self> {
        let mut clips = Self::default();
        for file in scripts.into_iter().flat_map(Script::files) {
            if !clips.files.contains_key(file) {
                clips.files.insert(file.to_path_buf(), Clip::load(file)?);
            }
        }
        Ok(clips)
    }

    /// Adds a clip under a name of its own.
    pub fn insert(&mut self, name: impl Into<PathBuf>, clip: Arc<Clip>) {
        self.files.insert(name.into(), clip);
    }

    /// Adds the sound of a line of words.
    pub fn insert_line(&mut self, text: impl Into<String>, clip: Arc<Clip>) {
        self.lines.insert(text.into(), clip);
    }

    /// The recording of that name.
    pub fn file(&self, file: &Path) -> Option<&Arc<Clip>> {
        self.files.get(file)
    }

    /// What a step plays, if it plays anything.
    fn of(&self, step: &Step) -> Result<Option<Arc<Clip>>> {
        let missing =
            |path: PathBuf| ClientError::Clip { path, why: "it was not loaded before the call".into() };
        match (step.file(), step.text()) {
            (Some(file), _) => self.files.get(file).cloned().map(Some).ok_or_else(|| missing(file.into())),
            (None, Some(text)) => self.lines.get(text).cloned().map(Some).ok_or_else(|| missing(text.into())),
            (None, None) => Ok(None),
        }
    }
}

/// How a wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The answer was heard to its end.
    Answered,
    /// No answer, and why.
    Unanswered(String),
}

/// A call going on.
pub struct Call {
    caller: Caller,
    hearing: Hearing,
    options: CallOptions,
    clips: Clips,
}

impl Call {
    /// Calls the server.
    pub async fn connect(server: &str, clips: Clips, options: CallOptions) -> Result<Self> {
        let caller = Caller::connect(server, &options.caller).await?;
        Ok(Self { caller, hearing: Hearing::new(options.keep_audio), options, clips })
    }

    /// Does every step. An answer that does not come ends the script only if `keep_going` is false.
    ///
    /// # Errors
    /// [`ClientError::Gone`] when the server hangs up, [`ClientError::Late`] when an answer does not
    /// come; what was heard until then stays in [`Self::report`].
    pub async fn run(&mut self, script: &Script, keep_going: bool) -> Result<()> {
        for step in &script.steps {
            let outcome = self.step(step).await?;
            if let (Outcome::Unanswered(why), false) = (outcome, keep_going) {
                return Err(ClientError::Late { what: why, seconds: self.options.answer_timeout.as_secs() });
            }
        }
        Ok(())
    }

    /// Does one step. What it leaves to chance is done.
    pub async fn step(&mut self, step: &Step) -> Result<Outcome> {
        let clip = self.clips.of(step)?;
        match (step, clip) {
            (Step::Play { .. } | Step::Say { .. }, Some(clip)) => {
                let start = self.caller.play(&clip).await?;
                self.hearing.speak(&clip, start);
                self.listen_until(start + clip.samples.len() as u64).await?;
            }
            (Step::Pause { ms, .. }, _) => {
                let until = self.now() + u64::from(*ms) * u64::from(RATE) / 1000;
                self.listen_until(until).await?;
            }
            (Step::Wait { timeout_ms }, _) => return self.wait(timeout_ms.map(u64::from)).await,
            (Step::BargeIn { after_ms, .. }, Some(clip)) => return self.barge_in(&clip, *after_ms).await,
            (Step::Cough { after_ms, .. }, clip) => {
                // Any seed will do; the same one makes every run the same.
                let clip = clip.unwrap_or_else(|| signals::cough(1));
                return self.cough(&clip, *after_ms).await;
            }
            (Step::Drop { ms, .. }, _) => {
                let from = self.now();
                self.caller.lose_line(Duration::from_millis(u64::from(*ms))).await?;
                self.hearing.lost_line(from, self.now());
            }
            (Step::Play { .. } | Step::Say { .. } | Step::BargeIn { .. }, None) => {
                unreachable!("such a step names what it plays, or its script was refused")
            }
            (Step::Ask, _) => {
                self.finish_utterance().await?;
                self.hearing.ask(self.now());
                self.caller.send(&json!({"type": "response.create"})).await?;
            }
        }
        Ok(Outcome::Answered)
    }

    /// Listens without saying anything.
    pub async fn listen(&mut self, time: Duration) -> Result<()> {
        self.listen_until(self.now() + (time.as_secs_f64() * f64::from(RATE)) as u64).await
    }

    /// Hears the other side out: one more reply than the `before` there were, to its last sound. Gives how many there
    /// are then.
    ///
    /// # Errors
    /// [`ClientError::Gone`] when the server hangs up, [`ClientError::Late`] when nothing comes.
    pub async fn hear_out(&mut self, before: usize) -> Result<usize> {
        let limit = self.now() + self.limit(None);
        let longest = limit + REPLY_MAX;
        loop {
            let replies = &self.hearing.replies;
            let over = replies.last().is_some_and(|last| last.over.is_some() && last.arrived.is_some());
            let now = self.now();
            if replies.len() > before && over && now >= self.hearing.playout.end() {
                return Ok(replies.len());
            }
            if (replies.len() <= before && now >= limit) || now >= longest {
                return Err(ClientError::Late {
                    what: "what the interviewer says".into(),
                    seconds: self.options.answer_timeout.as_secs(),
                });
            }
            // A look every now and then: the end of what is played is no event.
            self.hear_one(self.instant(now + u64::from(RATE) / LOOKS_A_SECOND)).await?;
        }
    }

    /// What was said since is one answer, and it is over.
    pub fn answered(&mut self) {
        self.hearing.close_turn();
    }

    /// What was heard so far.
    pub fn report(&self) -> CallReport {
        CallReport::new(&self.hearing, self.now(), self.caller.sent(), self.options.dead_air_ms)
    }

    /// Both sides' sound at [`RATE`], aligned: the caller's, the server's as it was played.
    pub fn tracks(&self) -> (Vec<i16>, Vec<i16>) {
        self.hearing.tracks()
    }

    /// Hangs up.
    pub async fn hang_up(self) {
        self.caller.hang_up().await;
    }

    fn now(&self) -> u64 {
        self.caller.clock().now()
    }

    async fn wait(&mut self, timeout_ms: Option<u64>) -> Result<Outcome> {
        self.finish_utterance().await?;
        let Some(turn) = self.hearing.turns.len().checked_sub(1) else { return Ok(Outcome::Answered) };
        let limit = self.limit(timeout_ms);
        loop {
            let now = self.now();
            match self.hearing.progress(turn, now, limit) {
                Progress::Over => return Ok(Outcome::Answered),
                Progress::Failed(why) => return Ok(Outcome::Unanswered(self.complaint(turn, &why))),
                Progress::Until(end) if now >= end => {
                    return Ok(Outcome::Unanswered(self.complaint(turn, "the answer")));
                }
                Progress::Until(end) => self.hear_one(self.instant(end)).await?,
            }
        }
    }

    async fn barge_in(&mut self, clip: &Arc<Clip>, after_ms: u32) -> Result<Outcome> {
        let reply = match self.reply_heard(after_ms).await? {
            Ok(reply) => reply,
            Err(why) => return Ok(Outcome::Unanswered(why)),
        };
        let start = self.caller.play(clip).await?;
        self.hearing.interrupt(clip, start, reply);
        self.listen_until(start + clip.samples.len() as u64).await?;
        Ok(Outcome::Answered)
    }

    async fn cough(&mut self, clip: &Arc<Clip>, after_ms: Option<u32>) -> Result<Outcome> {
        if let Some(after_ms) = after_ms
            && let Err(why) = self.reply_heard(after_ms).await?
        {
            return Ok(Outcome::Unanswered(why));
        }
        let start = self.caller.play(clip).await?;
        self.hearing.cough(clip, start);
        self.listen_until(start + clip.samples.len() as u64).await?;
        Ok(Outcome::Answered)
    }

    /// Waits until so much of the reply to the last turn was heard; gives the reply, or why not.
    async fn reply_heard(&mut self, after_ms: u32) -> Result<std::result::Result<usize, String>> {
        self.finish_utterance().await?;
        let Some(turn) = self.hearing.turns.len().checked_sub(1) else {
            return Ok(Err("a reply to speak into".into()));
        };
        let limit = self.limit(None);
        loop {
            let now = self.now();
            if let Some(reply) = self.hearing.answer(turn)
                && let Some(played) = self.hearing.replies[reply].played
            {
                let due = played + u64::from(after_ms) * u64::from(RATE) / 1000;
                if now >= due {
                    return Ok(Ok(reply));
                }
                if self.hearing.replies[reply].over.is_some() && self.hearing.playout.end() < due {
                    let heard_ms = (self.hearing.playout.end() - played) * 1000 / u64::from(RATE);
                    return Ok(Err(format!(
                        "{after_ms} ms of reply to speak into (it ended after {heard_ms})"
                    )));
                }
                self.hear_one(self.instant(due)).await?;
                continue;
            }
            match self.hearing.progress(turn, now, limit) {
                Progress::Until(end) if now < end => self.hear_one(self.instant(end)).await?,
                Progress::Failed(why) => return Ok(Err(self.complaint(turn, &why))),
                Progress::Until(_) | Progress::Over => {
                    return Ok(Err(self.complaint(turn, "a reply to speak into")));
                }
            }
        }
    }

    /// The caller is done speaking; where the server does not find out by itself, tell it.
    async fn finish_utterance(&mut self) -> Result<()> {
        let open = self.hearing.turns.last().is_some_and(|turn| !turn.closed);
        self.hearing.close_turn();
        if open && self.options.manual_turns {
            self.caller.send(&json!({"type": "input_audio_buffer.commit"})).await?;
            self.caller.send(&json!({"type": "response.create"})).await?;
        }
        Ok(())
    }

    fn limit(&self, timeout_ms: Option<u64>) -> u64 {
        let ms = timeout_ms.unwrap_or(self.options.answer_timeout.as_millis() as u64);
        ms * u64::from(RATE) / 1000
    }

    fn complaint(&self, turn: usize, what: &str) -> String {
        let said = self.hearing.turns[turn].files.join(" + ");
        let told = self.hearing.errors.last().map_or(String::new(), |e| format!("; the server said: {e}"));
        format!("{what} (after {said}{told})")
    }

    fn instant(&self, at: u64) -> Instant {
        self.caller.clock().instant(at)
    }

    async fn listen_until(&mut self, at: u64) -> Result<()> {
        let until = self.instant(at);
        while Instant::now() < until {
            self.hear_one(until).await?;
        }
        Ok(())
    }

    /// Takes the next event, or returns at `until`.
    async fn hear_one(&mut self, until: Instant) -> Result<()> {
        tokio::select! {
            biased;
            arrival = self.caller.next() => match arrival {
                Some(arrival) => {
                    self.hearing.handle(arrival);
                    Ok(())
                }
                None => Err(ClientError::Gone(self.caller.farewell().await)),
            },
            () = sleep_until(until) => Ok(()),
        }
    }
}
