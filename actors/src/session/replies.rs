//! A reply's life in the session: drafted unheard, committed, played, ended or cut.

use std::time::Instant;

use viva_models::{Begun, Role};

use crate::conversation::{Item, Place};
use crate::event::{ItemId, Outcome, SessionEvent, TurnMetrics, Usage};
use crate::gpu::work::Stake;
use crate::ledger::Certainty;
use crate::metrics as m;
use crate::playout::{Command, PlayoutReport};
use crate::rag::DraftRequest;
use crate::turn::{CutReason, EndReason, Input};
use crate::types::Epoch;
use crate::{asr, llm, rag, tts};

use super::report::Report;
use super::{CallerTurn, State};

/// A reply under way.
pub(super) struct Reply {
    pub(super) epoch: Epoch,
    item: ItemId,
    aloud: bool,
    committed: bool,
    /// Clauses written, in order.
    clauses: Vec<String>,
    /// A call of one of the client's functions, in place of words.
    call: Option<String>,
    usage: Option<Usage>,
    begun: Option<Begun>,
    complete: bool,
    /// Its writer died: what was written is all there is.
    shortened: bool,
    failed: Option<String>,
    /// Clauses spoken before the commit, with their length.
    drafted: Vec<(String, u64)>,
    request: DraftRequest,
    marks: Marks,
    cut: Option<CutReason>,
    discarded: u32,
}

/// When things were done.
#[derive(Debug, Clone, Copy)]
struct Marks {
    asked: Instant,
    /// End of the caller's speech; none for a reply that only was asked for.
    speech_end: Option<Instant>,
    heard: Option<Instant>,
    /// When the silence said that the turn is over, or the client did.
    decided: Option<Instant>,
    first_token: Option<Instant>,
    first_clause: Option<Instant>,
    first_audio: Option<Instant>,
    audible: Option<Instant>,
}

impl Reply {
    fn written(&self) -> String {
        self.clauses.join(" ")
    }

    /// How it ends when nobody cuts it.
    fn outcome(&self) -> Outcome {
        match &self.failed {
            Some(message) => Outcome::Failed(message.clone()),
            None if self.shortened => Outcome::Shortened,
            None if self.complete => Outcome::Completed,
            None => Outcome::Incomplete,
        }
    }

    fn metrics(&self) -> TurnMetrics {
        let marks = &self.marks;
        let origin = marks.speech_end.unwrap_or(marks.asked);
        let after =
            |at: Option<Instant>| at.map(|at| at.saturating_duration_since(origin).as_millis() as u64);
        TurnMetrics {
            turn: self.epoch.turn,
            endpoint_ms: after(marks.decided),
            asr_final_ms: after(marks.heard),
            llm_first_token_ms: after(marks.first_token),
            first_sentence_ms: after(marks.first_clause),
            first_audio_ms: after(marks.first_audio),
            voice_to_voice_ms: after(marks.audible),
            prompt_tokens: self.begun.map_or(0, |b| b.prompt_tokens),
            reused_tokens: self.begun.map_or(0, |b| b.reused_tokens),
            discarded_drafts: self.discarded,
        }
    }
}

impl State {
    pub(super) fn draft(&mut self, epoch: Epoch) {
        let cue = self.cue(epoch);
        let words = Some(self.caller.words.clone()).filter(|w| !w.trim().is_empty());
        let voice = &self.settings.voice;
        let instructions = self.options.instructions.as_ref().unwrap_or(&voice.instructions);
        let mut sampling = voice.sampling.clone();
        if let Some(max) = self.options.max_tokens {
            sampling.max_tokens = max;
        }
        if let Some(grammar) = &self.options.grammar {
            sampling.grammar.clone_from(grammar);
        }
        let request = DraftRequest {
            epoch,
            pause: self.caller.pause.map(|(pause, _)| pause),
            messages: self.conversation.messages(instructions, words.as_deref(), self.prompt_chars_max),
            sampling,
            stake: Stake::Draft(epoch, self.soil.lanes.certain.clone()),
            cue,
            saying: None,
        };
        let aloud = self.options.spoken.unwrap_or(voice.spoken);
        let item = self.name("item");
        let marks = Marks {
            asked: Instant::now(),
            speech_end: self.caller.ended,
            heard: self.caller.heard_at,
            decided: None,
            first_token: None,
            first_clause: None,
            first_audio: None,
            audible: None,
        };
        self.reply = Some(Reply {
            epoch,
            item,
            aloud,
            committed: false,
            clauses: Vec::new(),
            call: None,
            usage: None,
            begun: None,
            complete: true,
            shortened: false,
            failed: None,
            drafted: Vec::new(),
            request: request.clone(),
            marks,
            cut: None,
            discarded: self.caller.discarded,
        });
        self.configure_voice();
        // A line that is said as it is has no model that would judge whether the caller's words are whole.
        if let (true, Some(words)) = (self.soil.director.is_some(), &words) {
            self.read_ahead(words, request.pause);
        }
        self.graph.rag.cast(rag::Msg::Draft(Box::new(request))).ok();
    }

    /// Has the LLM read words of the caller's ahead, and say whether their sentence ends at this pause.
    pub(super) fn read_ahead(&mut self, words: &str, pause: Option<u32>) {
        let messages = match &self.soil.director {
            Some(director) => director.ahead(words),
            None => {
                let instructions = &self.settings.voice.instructions;
                self.conversation.messages(instructions, Some(words), self.prompt_chars_max)
            }
        };
        self.graph.llm.cast(llm::Msg::Prefill(messages, pause)).ok();
    }

    pub(super) fn configure_voice(&mut self) {
        let voice = &self.settings.voice;
        let aloud = self.reply.as_ref().map_or(voice.spoken, |r| r.aloud);
        let style = voice.style.clone();
        self.graph.tts.cast(tts::Msg::Configure(style, self.settings.language.clone(), aloud)).ok();
    }

    /// Orders what the stages have not finished of the reply once more.
    pub(super) fn write_again(&mut self) {
        let Some(reply) = &mut self.reply else { return };
        if reply.usage.is_some() || reply.failed.is_some() {
            return;
        }
        if reply.clauses.is_empty() {
            let request = reply.request.clone();
            self.graph.rag.cast(rag::Msg::Draft(Box::new(request))).ok();
            return;
        }
        // Some of it is on its way to be heard: it ends there.
        (reply.usage, reply.shortened) = (Some(Usage::default()), true);
        let epoch = reply.epoch;
        let last = llm::Clause { epoch, text: String::new(), last: true };
        self.graph.tts.cast(tts::Msg::Append(last)).ok();
        self.end_if_silent(epoch);
    }

    fn void(&mut self, epoch: Epoch) {
        self.graph.llm.cast(llm::Msg::Void(epoch)).ok();
        self.graph.tts.cast(tts::Msg::Void(epoch)).ok();
        self.playout(Command::Cut(epoch));
    }

    pub(super) fn discard(&mut self, epoch: Epoch) {
        self.reply = None;
        self.direct_discarded(epoch);
        self.caller.discarded += 1;
        metrics::counter!(m::DRAFTS_DISCARDED).increment(1);
        self.void(epoch);
    }

    pub(super) fn decided(&mut self, epoch: Epoch) {
        self.soil.lanes.certain.up_to(epoch);
        if let Some(reply) = self.of(epoch) {
            reply.marks.decided = Some(Instant::now());
        }
    }

    pub(super) fn commit(&mut self, epoch: Epoch, turn: bool, reply: bool, why: EndReason) {
        if turn {
            self.end_of_turn(epoch, why);
        }
        if !reply {
            return;
        }
        self.direct_committed(epoch);
        self.soil.lanes.certain.up_to(epoch);
        let Some(reply) = &mut self.reply else { return };
        reply.committed = true;
        reply.marks.decided.get_or_insert_with(Instant::now);
        let item = reply.item.clone();
        let previous = self
            .conversation
            .insert(
                Item {
                    id: item.clone(),
                    role: Role::Assistant,
                    text: String::new(),
                    spoken: reply.aloud,
                    complete: false,
                },
                Place::Last,
            )
            .unwrap_or_default();
        let (aloud, clauses) = (reply.aloud, reply.clauses.clone());
        let failed = reply.failed.take();
        let drafted = std::mem::take(&mut reply.drafted);
        self.ledger.open(epoch, item.clone());
        for (text, ms) in drafted {
            self.ledger.clause(epoch, &text, ms);
        }
        let response = self.name("resp");
        self.log(SessionEvent::ReplyStarted { epoch, response, item, previous });
        if aloud {
            self.playout(Command::Commit(epoch));
        }
        for (i, clause) in clauses.into_iter().enumerate() {
            self.reply_text(epoch, &clause, i > 0);
        }
        if let Some(message) = failed {
            self.reply_failed(epoch, message);
        } else {
            self.end_if_silent(epoch);
        }
    }

    /// The caller's turn becomes an item.
    fn end_of_turn(&mut self, epoch: Epoch, why: EndReason) {
        self.graph.asr.cast(asr::Msg::Close).ok();
        let item = self.caller_item();
        let caller = std::mem::take(&mut self.caller);
        let at = caller.speech_end.max(caller.since);
        self.log(SessionEvent::SpeechStopped { at, item: item.clone() });
        let entry = Item {
            id: item.clone(),
            role: Role::User,
            text: caller.words.clone(),
            spoken: true,
            complete: true,
        };
        let previous = self.conversation.insert(entry, Place::Last).unwrap_or_default();
        let audio_ms = at.since_ms(caller.since);
        tracing::debug!(
            session = %self.id,
            turn = epoch.turn,
            ?why,
            audio_ms,
            drafts_discarded = caller.discarded,
            "the caller's turn is over"
        );
        let text = caller.words;
        self.log(SessionEvent::TurnEnded { epoch, item, previous, text, why, audio_ms });
        self.caller = CallerTurn::default();
    }

    fn reply_text(&mut self, epoch: Epoch, clause: &str, more: bool) {
        let delta = if more { format!(" {clause}") } else { clause.to_owned() };
        self.log(SessionEvent::ReplyText { epoch, delta });
    }

    pub(super) fn cut(&mut self, epoch: Epoch, why: CutReason) {
        let Some(mut reply) = self.reply.take() else { return };
        metrics::counter!(m::CUTS, "reason" => format!("{why:?}").to_lowercase()).increment(1);
        reply.cut = Some(why);
        let aloud = reply.aloud;
        self.void(epoch);
        if aloud {
            // The playout says where; it does so within a tick.
            self.cutting = Some(reply);
        } else {
            let written = reply.written();
            self.end_reply(reply, written, 0, Outcome::Cut(why));
        }
    }

    /// What the stages and the playout say of a reply.
    pub(super) fn reply_report(&mut self, report: Report) {
        match report {
            Report::FirstToken { epoch, begun } => {
                if let Some(reply) = self.of(epoch) {
                    reply.begun = begun;
                    reply.marks.first_token.get_or_insert_with(Instant::now);
                    let asked = reply.marks.asked;
                    metrics::histogram!(m::TTFT_MS).record(m::ms(asked.elapsed()));
                }
            }
            Report::Clause { epoch, text } => {
                let Some(reply) = self.of(epoch) else { return };
                reply.marks.first_clause.get_or_insert_with(Instant::now);
                reply.clauses.push(text.clone());
                let (committed, more) = (reply.committed, reply.clauses.len() > 1);
                let in_text = !reply.aloud;
                if committed {
                    self.reply_text(epoch, &text, more);
                } else if in_text && !more {
                    self.tell(Input::ReplyReady { epoch });
                }
            }
            Report::Called { epoch, text } => {
                if let Some(reply) = self.of(epoch) {
                    reply.call = Some(text);
                }
            }
            Report::Written { epoch, usage, complete } => {
                let Some(reply) = self.of(epoch) else { return };
                (reply.usage, reply.complete) = (Some(usage), complete);
                let nothing_comes = reply.clauses.is_empty() && !reply.committed;
                self.end_if_silent(epoch);
                if nothing_comes {
                    self.tell(Input::ReplyReady { epoch });
                }
            }
            Report::AudioMade { epoch } => {
                let Some(reply) = self.of(epoch) else { return };
                reply.marks.first_audio.get_or_insert_with(Instant::now);
                if !reply.committed {
                    self.tell(Input::ReplyReady { epoch });
                }
            }
            Report::ClauseSpoken { epoch, text, ms } => self.clause_spoken(epoch, &text, ms),
            Report::ReplyFailed { epoch, message } => self.reply_failed(epoch, message),
            Report::Playout(report) => self.played(report),
            _ => {}
        }
    }

    fn of(&mut self, epoch: Epoch) -> Option<&mut Reply> {
        self.reply.as_mut().filter(|r| r.epoch == epoch)
    }

    fn clause_spoken(&mut self, epoch: Epoch, text: &str, ms: u64) {
        let Some(reply) = self.of(epoch) else { return };
        if reply.committed {
            self.ledger.clause(epoch, text, ms);
        } else {
            reply.drafted.push((text.to_owned(), ms));
        }
    }

    fn reply_failed(&mut self, epoch: Epoch, message: String) {
        tracing::error!(session = %self.id, %epoch, %message, "a reply failed");
        let Some(reply) = self.of(epoch) else { return };
        reply.failed = Some(message.clone());
        if !reply.committed {
            self.tell(Input::ReplyReady { epoch });
            return;
        }
        if reply.marks.audible.is_some() {
            // What was made is played to its end; the draining ends the reply.
            let last = llm::Clause { epoch, text: String::new(), last: true };
            self.graph.tts.cast(tts::Msg::Append(last)).ok();
            return;
        }
        let Some(reply) = self.reply.take() else { return };
        self.void(epoch);
        self.end_reply(reply, String::new(), 0, Outcome::Failed(message));
        self.tell(Input::ReplyFailed { epoch });
    }

    /// A reply in text only is over when it is written.
    fn end_if_silent(&mut self, epoch: Epoch) {
        let over = self.of(epoch).is_some_and(|r| r.committed && !r.aloud && r.usage.is_some());
        if over && let Some(reply) = self.reply.take() {
            let written = reply.written();
            let outcome = reply.outcome();
            self.measure(&reply);
            self.end_reply(reply, written, 0, outcome);
            self.tell(Input::PlayoutDrained { epoch });
        }
    }

    fn played(&mut self, report: PlayoutReport) {
        match report {
            PlayoutReport::EdgeGone => self.closing = Some("the client is gone".into()),
            PlayoutReport::Started(epoch) => {
                let Some(reply) = self.of(epoch) else { return };
                reply.marks.audible = Some(Instant::now());
                self.log(SessionEvent::ReplyAudible { epoch });
                if let Some(reply) = self.reply.take() {
                    self.measure(&reply);
                    self.reply = Some(reply);
                }
                self.tell(Input::PlayoutStarted { epoch });
            }
            PlayoutReport::Drained { epoch, played_ms } => {
                self.ledger.played(epoch, played_ms, played_ms, Certainty::Sent);
                let Some(reply) = self.reply.take_if(|r| r.epoch == epoch) else { return };
                let outcome = reply.outcome();
                let heard = self.ledger.get(epoch).map(|s| s.text()).unwrap_or_default();
                self.end_reply(reply, heard, played_ms, outcome);
                self.tell(Input::PlayoutDrained { epoch });
            }
            PlayoutReport::WasCut { epoch, played_ms, sent_ms, certainty } => {
                self.ledger.played(epoch, played_ms, sent_ms, certainty);
                let Some(reply) = self.cutting.take_if(|r| r.epoch == epoch) else { return };
                let heard = self.ledger.get(epoch).map(|s| s.text_until(played_ms)).unwrap_or_default();
                let why = reply.cut.unwrap_or(CutReason::Client);
                self.end_reply(reply, heard, played_ms, Outcome::Cut(why));
            }
        }
    }

    fn measure(&mut self, reply: &Reply) {
        let metrics = reply.metrics();
        let record = |name, value: Option<u64>| {
            if let Some(v) = value {
                metrics::histogram!(name).record(v as f64);
            }
        };
        if reply.marks.speech_end.is_some() {
            record(m::ENDPOINT_MS, metrics.endpoint_ms);
            record(m::ASR_FINAL_MS, metrics.asr_final_ms);
            record(m::FIRST_AUDIO_MS, metrics.first_audio_ms);
            record(m::VOICE_TO_VOICE_MS, metrics.voice_to_voice_ms);
        }
        metrics::counter!(m::TURNS).increment(1);
        tracing::info!(
            session = %self.id,
            turn = metrics.turn,
            endpoint_ms = metrics.endpoint_ms,
            asr_final_ms = metrics.asr_final_ms,
            llm_first_token_ms = metrics.llm_first_token_ms,
            first_audio_ms = metrics.first_audio_ms,
            voice_to_voice_ms = metrics.voice_to_voice_ms,
            "turn answered"
        );
        let heard = self.last_words();
        self.log(SessionEvent::Measured { metrics, heard, said: reply.written() });
    }

    /// What the caller said last.
    fn last_words(&self) -> String {
        let items = self.conversation.items().iter().rev();
        items.filter(|i| i.role == Role::User).map(|i| i.text.clone()).next().unwrap_or_default()
    }

    fn end_reply(&mut self, reply: Reply, heard: String, heard_ms: u64, outcome: Outcome) {
        self.options = Default::default();
        if let Some(item) = self.conversation.get_mut(&reply.item) {
            item.text.clone_from(&heard);
            item.complete = matches!(outcome, Outcome::Completed);
        }
        let written = reply.written();
        let usage = reply.usage.unwrap_or_default();
        let epoch = reply.epoch;
        // The model reads its call again; one that was cut off never was one.
        if let Some(call) = reply.call.filter(|_| matches!(outcome, Outcome::Completed)) {
            if let Some(item) = self.conversation.get_mut(&reply.item) {
                (item.text, item.spoken) = (call.clone(), false);
            }
            self.log(SessionEvent::ReplyCalls { epoch, call });
        }
        let whole = matches!(outcome, Outcome::Completed | Outcome::Incomplete);
        let told = heard.clone();
        self.log(SessionEvent::ReplyEnded { epoch, outcome, heard, written, heard_ms, usage });
        self.direct_ended(epoch, &told, whole);
    }
}
