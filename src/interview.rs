//! The interview: pure decisions over (plan, what was said, clock).
//!
//! * [`plan`]: what it is to be, part by part; [`phrases`]: the interviewer's own lines.
//! * [`talk`]: what a candidate's words are besides an answer; [`follow_up`]: what becomes of an answer;
//!   [`next`]: which questions may come then; [`choice`]: the language model's choice among them; [`rails`]: what it
//!   may word.
//! * [`decide`]: all of it together, as functions of a state that nothing else changes; [`event`]: its log.
//! * [`director`], [`find`], [`book`]: the parts with hands. A session asks the first what to say, the second looks
//!   questions up, the third keeps the interviews that were asked for.
//!
//! Deciding and adopting are two things. [`Interview::decide`] looks at the state and changes nothing, so that a
//! reply can be drafted while nobody knows yet whether the candidate is done; [`Interview::adopt`] takes a decision
//! over when its reply is certain. What is decided depends on nothing but the state, the words, the questions
//! found, what the model wrote and the clock, all of which stand in the log: [`replay`] decides again and compares.

pub mod book;
pub mod choice;
pub mod decide;
mod desk;
pub mod director;
pub mod event;
pub mod find;
pub mod follow_up;
pub mod next;
pub mod phrases;
pub mod plan;
pub mod rails;
pub mod talk;
pub mod words;

use std::collections::VecDeque;

use viva_models::Role;

use crate::knowledge::bank::Record;

pub use decide::{Choice, Decision, Heard, Move, Question, Settled};
use event::{Act, Entry, Event, LOG_MAX};
use phrases::{APART, opening};
use plan::{Plan, Section};

/// Share of a question's words that must have been heard for it to count as asked: people answer before the last
/// word, and mean the question.
const ASKED_SHARE: f32 = 0.6;

/// Answers whose length the plan goes by.
const ROUNDS: usize = 4;

/// What lies on the table: a question, and what was said to it.
#[derive(Debug, Clone, PartialEq)]
struct Table {
    /// Of the bank; none for lines of our own.
    record: Option<Record>,
    /// The first question.
    first: String,
    /// What was asked last of it.
    last: String,
    /// Both sides' words about it.
    dialog: Vec<(Role, String)>,
    follow_ups: u8,
    encouraged: bool,
    rephrased: bool,
}

/// What of a reply is still to be heard.
#[derive(Debug, Clone, PartialEq)]
struct Said {
    text: String,
    /// The question in it.
    question: Option<String>,
}

/// An interview under way.
#[derive(Debug, Clone)]
pub struct Interview {
    plan: Plan,
    seed: u64,
    section: Section,
    ends_ms: u64,
    asked_in_section: u32,
    sections_had: Vec<Section>,
    table: Option<Table>,
    /// Ids of what was asked, and every question's words.
    asked: Vec<String>,
    texts: Vec<String>,
    topics: Vec<String>,
    ability: f32,
    openings: VecDeque<String>,
    turn: u64,
    nudges: u8,
    insults: u8,
    /// They asked for time: the silence that follows is theirs.
    thinking: bool,
    /// How long the answer may be that is awaited.
    answer_max_ms: u64,
    /// When it was asked for, and how long the last ones took.
    asked_ms: u64,
    rounds: VecDeque<u64>,
    saying: Option<Said>,
    /// A question that could not be heard.
    unheard: Option<String>,
    greeted: bool,
    rejoined: bool,
    closed: bool,
    ended: bool,
    log: Vec<Entry>,
    seq: u64,
}

impl Interview {
    /// An interview that has not begun. The seed decides what is left to chance.
    pub fn new(plan: Plan, seed: u64) -> Self {
        let ability = next::first_ability(plan.conduct.level);
        let opened = Event::Opened { plan: plan.clone(), seed };
        let mut interview = Self {
            ends_ms: plan.ends_ms(Section::Greeting, 0),
            answer_max_ms: plan.answer_max_ms(Section::Greeting, 0, 0),
            plan,
            seed,
            section: Section::Greeting,
            asked_in_section: 0,
            sections_had: vec![Section::Greeting],
            table: None,
            asked: Vec::new(),
            texts: Vec::new(),
            topics: Vec::new(),
            ability,
            openings: VecDeque::new(),
            turn: 0,
            nudges: 0,
            insults: 0,
            thinking: false,
            asked_ms: 0,
            rounds: VecDeque::new(),
            saying: None,
            unheard: None,
            greeted: false,
            rejoined: false,
            closed: false,
            ended: false,
            log: Vec::new(),
            seq: 0,
        };
        interview.note(opened, 0);
        interview
    }

    fn note(&mut self, event: Event, at_ms: u64) {
        if self.log.len() < LOG_MAX {
            self.log.push(Entry { seq: self.seq, at_ms, event });
        }
        self.seq += 1;
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Everything that was decided, in order.
    pub fn log(&self) -> &[Entry] {
        &self.log
    }

    /// The part it is in.
    pub fn section(&self) -> Section {
        self.section
    }

    /// The question on the table, as it was asked last.
    pub fn question(&self) -> Option<&str> {
        self.table.as_ref().map(|table| table.last.as_str())
    }

    /// The last words were said, and were the last.
    pub fn is_over(&self) -> bool {
        self.ended
    }

    /// The close was said, or is being said.
    pub fn is_closing(&self) -> bool {
        self.closed
    }

    /// Everything that was said to the question on the table, these words included.
    fn answer_with(&self, words: &str) -> String {
        let told = self.table.iter().flat_map(|table| &table.dialog).filter(|(role, _)| *role == Role::User);
        let mut answer = told.map(|(_, text)| text.as_str()).collect::<Vec<_>>().join(" ");
        if !answer.is_empty() {
            answer.push(' ');
        }
        answer.push_str(words.trim());
        answer
    }

    /// What a language model reads to word the next reply, as far as the candidate's words are known.
    pub fn messages(&self, words: &str) -> Vec<viva_models::Message> {
        let (record, dialog) = match &self.table {
            Some(table) => (table.record.as_ref(), table.dialog.as_slice()),
            None => (None, &[][..]),
        };
        follow_up::messages(record, dialog, words)
    }

    /// A decision's reply is certain: it is what happened.
    pub fn adopt(&mut self, decision: &Decision, settled: &Settled) {
        let now_ms = decision.at_ms;
        if let Some(heard) = &decision.heard {
            self.hear(heard, now_ms);
        }
        let Settled { chosen, raw, wording } = settled;
        if let Some((section, ends_ms)) = chosen.section {
            (self.section, self.ends_ms, self.asked_in_section) = (section, ends_ms, 0);
            self.sections_had.push(section);
            self.note(Event::SectionBegan { section, ends_ms }, now_ms);
        }
        let text = join(&decision.lead, &chosen.text);
        // A question of our own is of no record, whatever lay on the table before.
        let record = match &chosen.question {
            Some(question) => question.record.as_ref(),
            None => self.table.as_ref().and_then(|table| table.record.as_ref()),
        };
        let question = record.map(|record| record.id.clone());
        let decided = Event::Decided {
            act: chosen.act,
            why: chosen.why.clone(),
            found: decision.found.clone(),
            question,
            raw: raw.clone(),
            wording: *wording,
            text: text.clone(),
            ability: chosen.ability,
        };
        self.note(decided, now_ms);
        self.ability = chosen.ability;
        self.say(&text);
        self.place(decision, chosen);
        let question = self.table.as_ref().map(|table| table.last.clone());
        self.saying = Some(Said { question: question.filter(|q| text.contains(q.as_str())), text });
        self.asked_ms = now_ms;
        self.answer_max_ms = self.plan.answer_max_ms(self.section, self.ends_ms, now_ms);
    }

    /// Words that were heard, whatever comes of them.
    fn hear(&mut self, heard: &Heard, now_ms: u64) {
        self.note(
            Event::Heard { text: heard.words.clone(), spoke_ms: heard.spoke_ms, talk: heard.talk },
            now_ms,
        );
        self.nudges = 0;
        self.thinking = false;
        if heard.talk == talk::Talk::Abuse {
            self.insults += 1;
        }
        if !matches!(heard.talk, talk::Talk::Answer | talk::Talk::DontKnow) {
            return;
        }
        // What they say to a question they have not heard is no answer to it.
        if let Some(table) = self.table.as_mut().filter(|_| self.unheard.is_none()) {
            table.dialog.push((Role::User, heard.words.clone()));
        }
        self.rounds.push_back(now_ms.saturating_sub(self.asked_ms));
        if self.rounds.len() > ROUNDS {
            self.rounds.pop_front();
        }
    }

    /// Remembers how a reply began.
    fn say(&mut self, text: &str) {
        self.turn += 1;
        self.openings.push_back(opening(text));
        if self.openings.len() > APART {
            self.openings.pop_front();
        }
    }

    /// What a reply leaves on the table.
    fn place(&mut self, decision: &Decision, chosen: &Move) {
        self.unheard = None;
        self.rejoined = false;
        match chosen.act {
            Act::Greet => self.greeted = true,
            Act::Nudge => self.nudges += 1,
            Act::Wait => self.thinking = true,
            Act::Close => self.closed = true,
            Act::Goodbye => self.ended = true,
            _ => {}
        }
        if let Some(question) = &chosen.question {
            self.asked_in_section += 1;
            if let Some(record) = &question.record {
                self.asked.push(record.id.clone());
                self.topics.push(record.subcategory.clone());
            }
            self.texts.push(question.text.clone());
            self.table = Some(Table {
                record: question.record.clone(),
                first: question.text.clone(),
                last: question.text.clone(),
                dialog: vec![(Role::Assistant, question.text.clone())],
                follow_ups: 0,
                encouraged: false,
                rephrased: false,
            });
            return;
        }
        let Some(table) = &mut self.table else { return };
        match chosen.act {
            Act::Probe => table.follow_ups += 1,
            Act::Encourage => table.encouraged = true,
            Act::Rephrase => table.rephrased = true,
            _ => return,
        }
        let asked = join(if chosen.act == Act::Encourage { &decision.lead } else { "" }, &chosen.text);
        self.texts.push(asked.clone());
        table.dialog.push((Role::Assistant, asked.clone()));
        table.last = asked;
    }

    /// The candidate spoke on before a reply was worded: it is dropped, and what they said is not.
    pub fn cut_off(&mut self, decision: &Decision) {
        if let Some(heard) = &decision.heard {
            self.hear(heard, decision.at_ms);
        }
    }

    /// What was heard of the reply that is over. A question of which too little was heard is asked again.
    pub fn spoken(&mut self, text: &str, whole: bool, now_ms: u64) {
        self.note(Event::Spoken { text: text.trim().to_owned(), whole }, now_ms);
        if let Some(said) = self.saying.take()
            && !whole
            && let Some(question) = said.question
        {
            let before = said.text.find(&question).map_or(0, |at| words::tokens(&said.text[..at]).len());
            let of_it = words::tokens(text).len().saturating_sub(before) as f32;
            if of_it < ASKED_SHARE * words::tokens(&question).len() as f32 {
                self.unheard = Some(question);
            }
        }
        self.asked_ms = now_ms;
        // What was given was measured from before our own words.
        self.answer_max_ms = self.plan.answer_max_ms(self.section, self.ends_ms, now_ms);
    }

    /// The candidate comes back over another line.
    pub fn rejoin(&mut self, now_ms: u64) {
        if self.greeted {
            self.note(Event::Rejoined, now_ms);
            self.rejoined = true;
            self.saying = None;
        }
    }

    /// The interview is over, whatever was still to be said.
    pub fn end(&mut self, why: &str, now_ms: u64) {
        if !std::mem::replace(&mut self.ended, true) {
            self.note(Event::Ended { why: why.to_owned() }, now_ms);
        }
    }
}

/// Two texts, one after the other.
fn join(a: &str, b: &str) -> String {
    [a, b].iter().filter(|text| !text.is_empty()).copied().collect::<Vec<_>>().join(" ")
}

/// Decides everything in a log again, from what stands in it, and gives the first line that comes out differently.
/// `bank` gives the records by their ids.
pub fn replay<'a>(log: &[Entry], bank: impl Fn(&str) -> Option<&'a Record>) -> Option<u64> {
    let mut interview: Option<Interview> = None;
    let (mut heard, mut heard_at): (Option<(&str, u64)>, u64) = (None, 0);
    for entry in log {
        let at = entry.at_ms;
        match (&entry.event, interview.as_mut()) {
            (Event::Opened { plan, seed }, _) => interview = Some(Interview::new(plan.clone(), *seed)),
            (Event::Heard { text, spoke_ms, .. }, Some(interview)) => {
                cut_off(interview, heard.take(), heard_at);
                (heard, heard_at) = (Some((text.as_str(), *spoke_ms)), at);
            }
            (Event::Spoken { text, whole }, Some(interview)) => {
                cut_off(interview, heard.take(), heard_at);
                interview.spoken(text, *whole, at);
            }
            (Event::Rejoined, Some(interview)) => interview.rejoin(at),
            (Event::Decided { found, raw, text, wording, .. }, Some(interview)) => {
                let records: Vec<Record> = found.iter().filter_map(|id| bank(id).cloned()).collect();
                let Some(decision) = interview.decide(heard.take(), &records, at) else {
                    return Some(entry.seq);
                };
                let settled = interview.settle(&decision, raw.as_deref());
                if join(&decision.lead, &settled.chosen.text) != *text || settled.wording != *wording {
                    return Some(entry.seq);
                }
                interview.adopt(&decision, &settled);
            }
            _ => {}
        }
    }
    None
}

/// Words that nothing was said to, because their reply was cut before it was worded.
fn cut_off(interview: &mut Interview, words: Option<(&str, u64)>, at_ms: u64) {
    if let Some(decision) = words.and_then(|words| interview.decide(Some(words), &[], at_ms)) {
        interview.cut_off(&decision);
    }
}
