//! A session: one caller's conversation, supervised.
//!
//! *Input:* control from an edge, reports from the stages and the playout. *Output:* orders to the stages and the
//! playout, and the log, whose lines go out to the edge in one ordered stream. *Bound:* the stages tell it
//! decisions, never audio; its log keeps [`LOG_MAX`] lines. *When the edge does not read* the session ends.
//! *On a crash* of a stage its row of the restart table ([`graph`]) holds; a crash of the session itself ends
//! this conversation and no other.
//!
//! It decides nothing by itself: what happens goes to the turn machine, and what the machine answers is
//! carried out here.

mod directed;
pub mod graph;
mod orders;
mod replies;
mod report;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::mpsc;

use crate::conversation::Conversation;
use crate::event::{ItemId, LogEntry, SessionEvent};
use crate::gpu::binding::{Handed, Quality, Want};
use crate::gpu::{GpuMsg, Submitter};
use crate::ledger::Ledger;
use crate::metrics as m;
use crate::playout::{Pacer, Playout};
use crate::ports::{Out, SessionMsg, SessionSettings, SessionSpec};
use crate::rag::Retriever;
use crate::recorder::Recorder;
use crate::turn::{Action, Input, TurnMachine};
use crate::types::{MediaTime, SessionId, Stage};

use graph::{Graph, Lanes, RESTARTS_MAX, Soil, spawn_graph};
use replies::Reply;
pub use report::{Report, Reporter};

/// Lines of the log a session keeps: hours of conversation at about 20 lines a turn.
pub const LOG_MAX: usize = 50_000;

/// The shortest wait before the clock is looked at again; a stream that stalls must not spin.
const TIMER_MIN: Duration = Duration::from_millis(20);

/// What a session is started with.
pub struct Args {
    /// Its name.
    pub id: SessionId,
    /// What makes it its own.
    pub spec: SessionSpec,
    /// Where it was handed for want of room.
    pub handed: Handed,
    /// The scheduler.
    pub gpu: ActorRef<GpuMsg>,
    /// The pacer.
    pub pacer: Pacer,
    /// What outlives the stages.
    pub lanes: Lanes,
    /// To the edge.
    pub out: mpsc::Sender<Out>,
    /// The RAG hook.
    pub retriever: Arc<dyn Retriever>,
}

fn want(language: &str, quality: Quality) -> Want {
    Want { language: language.to_owned(), quality, ..Want::default() }
}

/// The actor.
pub struct Session;

/// What is known of the caller's turn.
#[derive(Default)]
struct CallerTurn {
    item: Option<ItemId>,
    since: MediaTime,
    speech_end: MediaTime,
    /// The end of speech on the monotonic clock.
    ended: Option<Instant>,
    /// The pause under way, with what was ordered for it.
    pause: Option<(u32, bool)>,
    words: String,
    /// Of the words, what the client has been told.
    told: String,
    heard_at: Option<Instant>,
    discarded: u32,
}

/// The session's state.
pub struct State {
    me: ActorRef<SessionMsg>,
    id: SessionId,
    settings: SessionSettings,
    soil: Soil,
    graph: Graph,
    restarts: HashMap<Stage, u32>,
    machine: TurnMachine,
    conversation: Conversation,
    ledger: Ledger,
    caller: CallerTurn,
    reply: Option<Reply>,
    /// The reply that was cut and whose playout has not said yet where.
    cutting: Option<Reply>,
    options: crate::ports::ResponseOptions,
    /// Of a prompt, bytes.
    prompt_chars_max: usize,
    started: Instant,
    log: Vec<Arc<LogEntry>>,
    seq: u64,
    shown: &'static str,
    timer: Option<(MediaTime, tokio::task::AbortHandle)>,
    directed: directed::Directed,
    out: mpsc::Sender<Out>,
    /// Completes its file when the session is dropped.
    _recorder: Option<Recorder>,
    items: u64,
    closing: Option<String>,
}

impl Actor for Session {
    type Msg = SessionMsg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, me: ActorRef<SessionMsg>, args: Args) -> Result<State, ActorProcessingErr> {
        let Args { id, spec, handed, gpu, pacer, lanes, out, retriever } = args;
        let reporter = Reporter::new(me.clone());
        let recorder = match (&spec.recordings, spec.consent.recording) {
            (Some(folder), true) => Some(Recorder::start(folder, &id, &spec)?),
            _ => None,
        };
        let playout =
            Playout::new(lanes.playout.frames.clone(), lanes.playout.commands.clone(), spec.lead_ms)
                .recorded(recorder.as_ref().map(Recorder::lane), Arc::clone(&lanes.clock));
        let tell = reporter.clone();
        pacer.add(playout, out.downgrade(), Box::new(move |r| tell.tell(Report::Playout(r)))).await;
        let soil = Soil {
            lanes,
            submitter: Submitter::register(&gpu, Want { handed, ..want(&spec.language, spec.quality) }),
            reporter,
            retriever,
            director: spec.director.clone(),
            session: me.get_cell(),
            recording: recorder.as_ref().map(Recorder::lane),
        };
        let settings = SessionSettings {
            turn: spec.turn.clone(),
            voice: spec.voice.clone(),
            listening: spec.listening.clone(),
            language: spec.language.clone(),
            quality: spec.quality,
        };
        let graph = spawn_graph(&soil, &settings).await?;
        metrics::gauge!(m::SESSIONS).increment(1.0);
        metrics::counter!(m::SESSIONS_OPENED).increment(1);
        let mut state = State {
            me,
            machine: TurnMachine::new(settings.turn.clone()),
            id,
            settings,
            soil,
            graph,
            restarts: HashMap::new(),
            conversation: Conversation::default(),
            ledger: Ledger::default(),
            caller: CallerTurn::default(),
            reply: None,
            cutting: None,
            options: Default::default(),
            prompt_chars_max: spec.prompt_chars_max,
            started: Instant::now(),
            log: Vec::new(),
            seq: 0,
            shown: "",
            timer: None,
            directed: directed::Directed::default(),
            out,
            _recorder: recorder,
            items: 0,
            closing: None,
        };
        let opened = SessionEvent::Opened { id: state.id.clone(), turn: state.settings.turn.clone() };
        state.log(opened);
        state.direct_manner();
        state.show_state();
        state.direct();
        Ok(state)
    }

    async fn handle(
        &self,
        me: ActorRef<SessionMsg>,
        msg: SessionMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            SessionMsg::Internal(report) => state.report(report),
            other => state.order(other),
        }
        state.show_state();
        state.set_timer();
        state.direct();
        if let Some(reason) = state.closing.take() {
            state.log(SessionEvent::Ended { reason: reason.clone() });
            me.stop(Some(reason));
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<SessionMsg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (who, reason) = match event {
            SupervisionEvent::ActorFailed(who, error) => (who, error.to_string()),
            SupervisionEvent::ActorTerminated(who, _, reason) => {
                (who, reason.unwrap_or_else(|| "it stopped".into()))
            }
            _ => return Ok(()),
        };
        let Some(stage) = state.graph.stage_of(who.get_id()) else { return Ok(()) };
        let times = state.restarts.entry(stage).or_default();
        *times += 1;
        metrics::counter!(m::STAGE_RESTARTS, "stage" => stage.name()).increment(1);
        tracing::error!(session = %state.id, stage = stage.name(), %reason, "a stage died");
        if *times > RESTARTS_MAX {
            let reason = format!("the {} stage died {RESTARTS_MAX} times", stage.name());
            let message = format!("{reason}; this session ends, please start a new one");
            state.log(SessionEvent::Trouble { code: "session_failed".into(), message });
            state.log(SessionEvent::Ended { reason: reason.clone() });
            me.stop(Some(reason));
            return Ok(());
        }
        let speaking = state.machine.caller_speaks();
        state.graph.restart(stage, &state.soil, &state.settings, speaking).await?;
        state.log(SessionEvent::StageRestarted { stage, reason });
        state.order_again(stage);
        Ok(())
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // Here and not in `post_stop`, which does not run when the session is killed.
        metrics::gauge!(m::SESSIONS).decrement(1.0);
        if let Some((_, timer)) = &self.timer {
            timer.abort();
        }
        self.directed.stop();
    }
}

impl State {
    fn now(&self) -> MediaTime {
        MediaTime(self.soil.lanes.clock.load(Ordering::Acquire))
    }

    /// A new name for an item or a response.
    fn name(&mut self, kind: &str) -> String {
        self.items += 1;
        format!("{kind}_{:016x}{:04x}", rand::random::<u64>(), self.items)
    }

    fn log(&mut self, event: SessionEvent) {
        self.log_at(event, self.now());
    }

    fn log_at(&mut self, event: SessionEvent, media: MediaTime) {
        let entry = Arc::new(LogEntry {
            seq: self.seq,
            media,
            mono_ms: self.started.elapsed().as_millis() as u64,
            event,
        });
        self.seq += 1;
        if self.log.len() < LOG_MAX {
            self.log.push(Arc::clone(&entry));
        }
        if self.out.try_send(Out::Event(entry)).is_err() && self.closing.is_none() {
            self.closing = Some("the client does not read what it is sent".into());
        }
    }

    /// Tells the machine what happened and does what it says.
    fn tell(&mut self, input: Input) {
        let now = self.now();
        let actions = self.machine.handle(&input, now);
        if input == Input::Tick && actions.is_empty() {
            return;
        }
        // The log's time is the machine's time: a replay needs the same.
        let entry = SessionEvent::Decided { input, actions: actions.clone() };
        self.log_at(entry, now);
        for action in actions {
            self.act(action);
        }
    }

    fn show_state(&mut self) {
        let state = self.machine.state();
        if state != self.shown {
            self.shown = state;
            self.log(SessionEvent::State { state: state.to_owned() });
        }
    }

    /// Wakes us when the machine wants to look at the clock.
    fn set_timer(&mut self) {
        let due = self.machine.next_tick();
        if let Some((at, task)) = &self.timer {
            if due == Some(*at) && !task.is_finished() {
                return;
            }
            task.abort();
            self.timer = None;
        }
        let Some(due) = due else { return };
        let wait = Duration::from_millis(due.since_ms(self.now())).max(TIMER_MIN);
        let me = self.me.clone();
        let task = me.send_after(wait, || SessionMsg::Internal(Report::Timer));
        self.timer = Some((due, task.abort_handle()));
    }

    fn act(&mut self, action: Action) {
        use crate::asr;
        match action {
            Action::Transcribe { pause } => {
                self.caller.pause = Some((pause, false));
                self.graph.asr.cast(asr::Msg::Transcribe(pause)).ok();
            }
            Action::Score { pause } => {
                self.caller.pause = Some((pause, true));
                self.graph.asr.cast(asr::Msg::Score(pause)).ok();
            }
            Action::ReadAhead { pause } => {
                let words = self.caller.words.clone();
                self.read_ahead(&words, Some(pause));
            }
            Action::GoOn { freeze, .. } => {
                self.caller.pause = None;
                self.graph.asr.cast(asr::Msg::GoOn(freeze)).ok();
            }
            Action::Dismiss => self.dismiss(),
            Action::Draft { epoch } => self.draft(epoch),
            Action::Discard { epoch } => self.discard(epoch),
            Action::Decide { epoch } => self.decided(epoch),
            Action::Commit { epoch, turn, reply, why } => self.commit(epoch, turn, reply, why),
            Action::Hold { epoch } => {
                self.playout(crate::playout::Command::Hold);
                self.log(SessionEvent::Held { epoch });
            }
            Action::Resume { epoch } => {
                self.playout(crate::playout::Command::Resume);
                metrics::counter!(m::FALSE_BARGE_INS).increment(1);
                self.log(SessionEvent::Resumed { epoch });
            }
            Action::Cut { epoch, why } => self.cut(epoch, why),
        }
    }

    fn playout(&mut self, command: crate::playout::Command) {
        // Read every 20 ms; more commands than fit in one tick would be a fault of ours.
        if self.soil.lanes.playout.commands.push(command).is_err() {
            tracing::error!(session = %self.id, ?command, "the playout does not read its commands");
        }
    }

    fn report(&mut self, report: Report) {
        match report {
            Report::SpeechStarted { at } => self.speech_started(at),
            Report::SpeechPaused { at } => {
                self.caller.speech_end = at;
                let ago = Duration::from_millis(self.now().since_ms(at));
                self.caller.ended = Instant::now().checked_sub(ago);
                self.tell(Input::SpeechPaused { at });
            }
            Report::Scored { pause, probability } => {
                let silence_ms = self.now().since_ms(self.caller.speech_end);
                tracing::debug!(session = %self.id, pause, probability, silence_ms, "a pause was scored");
                self.tell(Input::Scored { pause, probability });
            }
            Report::SentenceEnds { pause, probability } => {
                tracing::debug!(session = %self.id, pause, probability, "a pause's words were read");
                self.tell(Input::SentenceEnds { pause, probability });
            }
            Report::Heard { pause, text, confidence, .. } => {
                if self.caller.pause.is_some_and(|(p, _)| p == pause) {
                    self.caller.words = text.clone();
                    self.caller.heard_at = Some(Instant::now());
                }
                self.tell(Input::Heard { pause, text, confidence });
            }
            Report::HearingFailed { pause, message } => {
                if let Some(item) = self.caller.item.clone() {
                    self.log(SessionEvent::HearingFailed { item, message });
                }
                self.tell(Input::HearingFailed { pause });
            }
            Report::Words { delta } => {
                self.caller.told.push_str(&delta);
                let item = self.caller_item();
                self.log(SessionEvent::CallerWords { item, delta });
                let told = self.caller.told.clone();
                self.read_ahead(&told, None);
            }
            Report::Timer => self.tell(Input::Tick),
            Report::Wake => self.woken(),
            other => self.reply_report(other),
        }
    }

    fn speech_started(&mut self, at: MediaTime) {
        self.graph.asr.cast(crate::asr::Msg::Open(at)).ok();
        self.caller.pause = None;
        if self.caller.item.is_none() {
            self.caller.since = at;
            let item = self.caller_item();
            self.log(SessionEvent::SpeechStarted { at, item });
        }
        self.tell(Input::SpeechStarted { at });
    }

    fn caller_item(&mut self) -> ItemId {
        if let Some(item) = &self.caller.item {
            return item.clone();
        }
        let item = self.name("item");
        self.caller.item = Some(item.clone());
        item
    }

    /// What was heard was nothing.
    fn dismiss(&mut self) {
        self.graph.asr.cast(crate::asr::Msg::Close).ok();
        let caller = std::mem::take(&mut self.caller);
        if let Some(item) = caller.item {
            self.log(SessionEvent::SpeechStopped { at: caller.speech_end, item: item.clone() });
            self.log(SessionEvent::Dismissed { item });
        }
    }

    /// After a stage's restart: what it had been ordered and had not done.
    fn order_again(&mut self, stage: Stage) {
        match stage {
            Stage::Asr => {
                // What it had not come to do may have been the turn's start or its end.
                let open = if self.caller.item.is_some() {
                    crate::asr::Msg::Open(self.caller.since)
                } else {
                    crate::asr::Msg::Close
                };
                self.graph.asr.cast(open).ok();
                if let Some((pause, score)) = self.caller.pause {
                    self.graph.asr.cast(crate::asr::Msg::Transcribe(pause)).ok();
                    if score {
                        self.graph.asr.cast(crate::asr::Msg::Score(pause)).ok();
                    }
                }
            }
            Stage::Rag | Stage::Llm => self.write_again(),
            Stage::Tts => self.configure_voice(),
            Stage::Vad | Stage::Enhancer => {}
        }
    }
}
