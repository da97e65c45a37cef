//! An interview at work: a session asks it what to say.
//!
//! A [`Room`] is one interview with all that is kept of it; a [`Seat`] in it is one session's, of which there is one at
//! a time. Whoever comes back over a new call sits down in the same room and is asked the same question again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ractor::ActorRef;
use serde::Serialize;
use serde_json::Value;
use viva_actors::director::{Cue, Director, Found, Manner, Saying, Wake, Wording};
use viva_actors::ports::SessionMsg;
use viva_actors::types::{Epoch, SessionId};
use viva_models::{Message, Sampling};

use crate::knowledge::bank::Record;

use super::find::Finder;
use super::next::Query;
use super::plan::Section;
use super::words::tokens;
use super::{Choice, Decision, Interview, Settled};

/// When the words of a question must be there, after the candidate's last sound: two seconds, less
/// what it takes to speak them.
const WORDED_MS: u64 = 1_900;

/// What the model is given at the least and at the most of that: 40 tokens of a small one on two cores, and what a
/// listener bears between the first words and the rest.
const MODEL_MS: std::ops::RangeInclusive<u64> = 700..=1_600;

/// Words that make it worth looking for questions again while the candidate speaks: a sentence or two.
const NEW_WORDS: usize = 18;

/// Drafts that are remembered: a session has one at a time, and one that is being cut.
const DRAFTS_MAX: usize = 4;

/// Sessions one interview may have, one after another: somebody who is cut off every quarter of a minute.
const SESSIONS_MAX: usize = 64;

/// What follows from a draft, as far as it is known.
struct Draft {
    cue: Cue,
    decision: Option<Decision>,
    settled: Option<Settled>,
    committed: bool,
    adopted: bool,
}

/// Questions that were looked for ahead.
struct Ahead {
    query: Query,
    words: usize,
    found: Vec<Record>,
}

impl Ahead {
    /// Whether they are what is looked for now, but for some words.
    fn is_for(&self, query: &Query) -> bool {
        self.query.section == query.section && self.query.filter == query.filter
    }
}

struct Inner {
    interview: Interview,
    /// The interview's clock when this session began, and where it stands as far as is known.
    base_ms: u64,
    clock_ms: u64,
    drafts: VecDeque<Draft>,
    ahead: Option<Ahead>,
    /// Words at the last look ahead; a look is under way.
    looked: usize,
    looking: bool,
    news: bool,
    seated: bool,
    session: Option<ActorRef<SessionMsg>>,
    /// All that had the seat.
    sessions: Vec<SessionId>,
}

/// One interview.
pub struct Room {
    inner: Mutex<Inner>,
    finder: Arc<dyn Finder>,
    seed: u64,
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Room").finish_non_exhaustive()
    }
}

/// A part of the plan, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct SectionState {
    /// Which.
    pub name: Section,
    /// `done`, `now` or `to_come`.
    pub state: &'static str,
}

/// Where an interview stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Progress {
    /// `waiting`, `running`, `paused` (its candidate is not on the line) or `over`.
    pub state: &'static str,
    /// The part it is in.
    pub section: Section,
    /// All parts, in order.
    pub sections: Vec<SectionState>,
    /// The question on the table.
    pub question: Option<String>,
    /// Milliseconds since it began.
    pub elapsed_ms: u64,
    /// Milliseconds it has left.
    pub left_ms: u64,
}

impl Room {
    /// A room for an interview.
    pub fn new(interview: Interview, finder: Arc<dyn Finder>, seed: u64) -> Arc<Self> {
        let inner = Inner {
            interview,
            base_ms: 0,
            clock_ms: 0,
            drafts: VecDeque::new(),
            ahead: None,
            looked: 0,
            looking: false,
            news: true,
            seated: false,
            session: None,
            sessions: Vec::new(),
        };
        Arc::new(Self { inner: Mutex::new(inner), finder, seed })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A seat for a session, unless there is one already, or the interview is over.
    pub fn sit(self: &Arc<Self>) -> Option<Arc<Seat>> {
        let mut inner = self.lock();
        if inner.seated || inner.interview.is_over() || inner.sessions.len() >= SESSIONS_MAX {
            return None;
        }
        inner.seated = true;
        inner.base_ms = inner.clock_ms;
        inner.drafts.clear();
        let base = inner.base_ms;
        inner.interview.rejoin(base);
        Some(Arc::new(Seat { room: Arc::clone(self) }))
    }

    /// The session that has the seat, so that it can be ended, and its recording deleted.
    pub fn seated(&self, id: SessionId, session: ActorRef<SessionMsg>) {
        let mut inner = self.lock();
        inner.sessions.push(id);
        if inner.interview.is_over() {
            // It was closed while they were let in.
            session.cast(SessionMsg::Hangup("the interview is over".to_owned())).ok();
            return;
        }
        inner.session = Some(session);
    }

    /// All sessions that had the seat.
    pub fn sessions(&self) -> Vec<SessionId> {
        self.lock().sessions.clone()
    }

    /// Ends the session there is, and the interview.
    pub fn close(&self, why: &str) {
        let mut inner = self.lock();
        let now = inner.clock_ms;
        inner.interview.end(why, now);
        if let Some(session) = inner.session.take() {
            // It may have ended by itself.
            session.cast(SessionMsg::Hangup(why.to_owned())).ok();
        }
    }

    /// Whether a session has the seat.
    pub fn in_use(&self) -> bool {
        self.lock().seated
    }

    /// Looks at the interview.
    pub fn look<T>(&self, f: impl FnOnce(&Interview) -> T) -> T {
        f(&self.lock().interview)
    }

    /// Where it stands.
    pub fn progress(&self) -> Progress {
        let inner = self.lock();
        inner.progress(inner.clock_ms)
    }
}

impl Inner {
    fn now(&mut self, session_ms: u64) -> u64 {
        self.clock_ms = self.clock_ms.max(self.base_ms + session_ms);
        self.base_ms + session_ms
    }

    fn draft(&mut self, epoch: Epoch) -> Option<&mut Draft> {
        self.drafts.iter_mut().find(|draft| draft.cue.epoch == epoch)
    }

    /// A place for a draft, which may have been committed before it was asked for.
    fn place(&mut self, cue: &Cue) {
        let committed = self.draft(cue.epoch).is_some_and(|draft| draft.committed);
        self.drafts.retain(|draft| draft.cue.epoch != cue.epoch);
        if self.drafts.len() >= DRAFTS_MAX {
            self.drafts.pop_front();
        }
        let cue = cue.clone();
        self.drafts.push_back(Draft { cue, decision: None, settled: None, committed, adopted: false });
    }

    fn adopt(&mut self, epoch: Epoch) {
        let Some(at) = self.drafts.iter().position(|draft| draft.cue.epoch == epoch) else { return };
        let draft = &mut self.drafts[at];
        if draft.adopted || !draft.committed {
            return;
        }
        let (Some(decision), Some(settled)) = (&draft.decision, &draft.settled) else { return };
        draft.adopted = true;
        tracing::debug!(%epoch, act = ?settled.chosen.act, why = settled.chosen.why, "decided");
        self.interview.adopt(decision, settled);
        (self.ahead, self.looked, self.news) = (None, 0, true);
    }

    fn progress(&self, now_ms: u64) -> Progress {
        let interview = &self.interview;
        let (section, total) = (interview.section(), interview.plan().total_ms());
        let sections = interview.plan().sections().map(|name| {
            let state = match name.cmp(&section) {
                std::cmp::Ordering::Less => "done",
                std::cmp::Ordering::Equal => "now",
                std::cmp::Ordering::Greater => "to_come",
            };
            SectionState { name, state }
        });
        let state = match (interview.is_over(), self.seated, now_ms) {
            (true, ..) => "over",
            (false, true, _) => "running",
            (false, false, 0) => "waiting",
            (false, false, _) => "paused",
        };
        Progress {
            state,
            section,
            sections: sections.collect(),
            question: interview.question().filter(|_| !interview.is_closing()).map(str::to_owned),
            elapsed_ms: now_ms,
            left_ms: total.saturating_sub(now_ms),
        }
    }
}

/// A session's place in a room. It is free again when the session has let go of it.
#[derive(Debug)]
pub struct Seat {
    room: Arc<Room>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.room.lock();
        (inner.seated, inner.session, inner.news) = (false, None, true);
        let (closing, now) = (inner.interview.is_closing(), inner.clock_ms);
        if closing {
            inner.interview.end("the close was said", now);
        }
    }
}

impl Seat {
    /// Questions for what would be asked now. Those found ahead will do where they were found for the same part.
    async fn found(&self, query: Option<Query>) -> Vec<Record> {
        let Some(query) = query else { return Vec::new() };
        {
            let mut inner = self.room.lock();
            let now = inner.clock_ms;
            // Those the model has read already are worth more than those that are nearer by a sentence.
            let read = inner.interview.moves_on(now);
            let words = tokens(&query.text).len();
            let fits = |ahead: &Ahead| ahead.is_for(&query) && (read || ahead.words + NEW_WORDS * 2 >= words);
            if let Some(ahead) = inner.ahead.as_mut().filter(|ahead| fits(ahead)) {
                return ahead.found.clone();
            }
        }
        self.room.finder.find(&query).await
    }

    /// Looks for questions while the candidate speaks, once they have said enough that is new.
    fn look_ahead(&self, words: &str) {
        let count = tokens(words).len();
        let query = {
            let mut inner = self.room.lock();
            let now = inner.clock_ms;
            let due = match (inner.interview.moves_on(now), &inner.ahead) {
                // Before the first word, and then ever more seldom: with every look the model reads other questions.
                (true, None) => true,
                (true, Some(_)) => count >= (inner.looked * 2).max(NEW_WORDS),
                (false, _) => count >= inner.looked + NEW_WORDS,
            };
            if inner.looking || !due {
                return;
            }
            let Some(query) = inner.interview.wanted(words, now) else { return };
            (inner.looking, inner.looked) = (true, count);
            query
        };
        let room = Arc::clone(&self.room);
        tokio::spawn(async move {
            let found = room.finder.find(&query).await;
            let mut inner = room.lock();
            inner.looking = false;
            inner.ahead = Some(Ahead { words: tokens(&query.text).len(), query, found });
        });
    }

    fn decide(&self, cue: &Cue, found: &[Record]) -> Saying {
        let mut inner = self.room.lock();
        let now = inner.now(cue.now_ms);
        let words = cue.words.as_deref().map(|words| (words, cue.spoke_ms));
        let Some(decision) = inner.interview.decide(words, found, now) else {
            return Saying::Say(String::new());
        };
        let saying = match &decision.choice {
            Choice::Fixed(chosen) => Saying::Say(super::join(&decision.lead, &chosen.text)),
            Choice::Model(modelled) => {
                let left = WORDED_MS.saturating_sub(cue.ended_ms_ago);
                Saying::Word(Box::new(Wording {
                    lead: decision.lead.clone(),
                    messages: modelled.messages.clone(),
                    sampling: sampling(modelled.form(), self.room.seed ^ now),
                    within: Duration::from_millis(left.clamp(*MODEL_MS.start(), *MODEL_MS.end())),
                }))
            }
        };
        let fixed = matches!(decision.choice, Choice::Fixed(_));
        let settled = fixed.then(|| inner.interview.settle(&decision, None));
        if let Some(draft) = inner.draft(cue.epoch) {
            (draft.decision, draft.settled) = (Some(decision), settled);
        }
        inner.adopt(cue.epoch);
        saying
    }
}

/// How the model words what it may write, in this grammar and within so many tokens.
pub fn sampling((grammar, max_tokens): (String, u32), seed: u64) -> Sampling {
    Sampling {
        max_tokens,
        // Cool: the rails refuse what is original.
        temperature: 0.3,
        top_p: 0.9,
        repeat_penalty: 1.1,
        seed: (seed & u64::from(u32::MAX)) as u32,
        grammar: Some(grammar),
        ..Sampling::default()
    }
}

impl Director for Seat {
    fn ahead(&self, words: &str) -> Vec<Message> {
        self.look_ahead(words);
        let inner = self.room.lock();
        let now = inner.clock_ms;
        let query = inner.interview.wanted(words, now);
        let ahead = inner.ahead.as_ref().filter(|ahead| query.is_some_and(|query| ahead.is_for(&query)));
        inner.interview.ahead(words, ahead.map_or(&[], |ahead| &ahead.found), now)
    }

    fn draft(self: Arc<Self>, cue: Cue) -> Found<Saying> {
        Box::pin(async move {
            let query = {
                let mut inner = self.room.lock();
                let now = inner.now(cue.now_ms);
                inner.place(&cue);
                inner.interview.wanted(cue.words.as_deref().unwrap_or_default(), now)
            };
            // Silence asks no new question.
            let query = query.filter(|_| cue.words.is_some());
            let found = self.found(query).await;
            self.decide(&cue, &found)
        })
    }

    fn worded(&self, epoch: Epoch, raw: Option<&str>) -> String {
        let mut inner = self.room.lock();
        let Some(decision) = inner.draft(epoch).and_then(|draft| draft.decision.clone()) else {
            return String::new();
        };
        let settled = inner.interview.settle(&decision, raw);
        let text = settled.chosen.text.clone();
        if let Some(draft) = inner.draft(epoch) {
            draft.settled = Some(settled);
        }
        inner.adopt(epoch);
        text
    }

    fn discarded(&self, epoch: Epoch) {
        self.room.lock().drafts.retain(|draft| draft.cue.epoch != epoch);
    }

    fn committed(&self, epoch: Epoch, now_ms: u64) {
        let mut inner = self.room.lock();
        inner.now(now_ms);
        match inner.draft(epoch) {
            Some(draft) => draft.committed = true,
            None => {
                let cue = Cue { epoch, words: None, spoke_ms: 0, ended_ms_ago: 0, now_ms };
                inner.place(&cue);
                if let Some(draft) = inner.draft(epoch) {
                    draft.committed = true;
                }
            }
        }
        inner.adopt(epoch);
    }

    fn ended(&self, epoch: Epoch, heard: &str, whole: bool, now_ms: u64) {
        let mut inner = self.room.lock();
        let now = inner.now(now_ms);
        if let Some(at) = inner.drafts.iter().position(|draft| draft.cue.epoch == epoch && !draft.adopted) {
            // It was cut before its words were found: what the candidate said is kept all the same.
            let Draft { cue, decision, .. } = inner.drafts.swap_remove_back(at).expect("it was just found");
            let words = cue.words.as_deref().map(|words| (words, cue.spoke_ms));
            let at_ms = inner.base_ms + cue.now_ms;
            if let Some(decision) = decision.or_else(|| inner.interview.decide(words, &[], at_ms)) {
                inner.interview.cut_off(&decision);
            }
        }
        inner.drafts.retain(|draft| draft.cue.epoch > epoch);
        inner.interview.spoken(heard, whole, now);
        inner.news = true;
    }

    fn manner(&self) -> Manner {
        let inner = self.room.lock();
        let turn_ms_max = u32::try_from(inner.interview.answer_max_ms()).unwrap_or(u32::MAX);
        Manner { patience: inner.interview.patience(), turn_ms_max }
    }

    fn wake(&self) -> Wake {
        let inner = self.room.lock();
        Wake {
            silent_ms: inner.interview.nudge_after_ms(),
            at_ms: inner.interview.time_up_ms().map(|ms| ms.saturating_sub(inner.base_ms)),
            hang_up: inner.interview.is_closing() || inner.interview.is_over(),
        }
    }

    fn over(&self) -> bool {
        self.room.lock().interview.is_over()
    }

    fn news(&self, now_ms: u64) -> Option<Value> {
        let mut inner = self.room.lock();
        let now = inner.now(now_ms);
        if !std::mem::take(&mut inner.news) {
            return None;
        }
        serde_json::to_value(inner.progress(now)).ok()
    }
}
