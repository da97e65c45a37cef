//! What is said next. Everything here looks at the interview and changes nothing.

use viva_models::Message;

use crate::knowledge::bank::{Category, Record};

use super::choice::{self, Chosen};
use super::desk::Desk;
use super::event::{Act, Wording};
use super::follow_up;
use super::next::{self, Context, Query, query};
use super::plan::{CLOSE_MS, Section};
use super::rails::{self, Against, Rejection, Wish, accept};
use super::talk::{Talk, classify};
use super::{Interview, Table};

/// Milliseconds a question takes with its answer before anybody knows how long this candidate talks.
const ROUND_MS: u64 = 60_000;

/// Bounds of what is learnt of it, so that one yes or one speech does not decide the plan.
const ROUND_RANGE_MS: std::ops::RangeInclusive<u64> = 25_000..=110_000;

/// Share of a round that must be left in a part for another question.
const ROUND_SHARE: f32 = 0.6;

/// Milliseconds the candidate's questions need at least.
const QUESTIONS_MS: u64 = 25_000;

/// Share of a usual round that a follow-up takes: its question and its answer are the shorter ones.
const FOLLOW_UP_SHARE: f32 = 0.7;

/// Milliseconds before an answer's limit that count as having reached it: the limit is the turn's, and a turn has a
/// little silence in it.
const RAMBLED_MS: u64 = 1_500;

/// When whoever sends no sound is greeted all the same: they type, or their microphone needs so long.
const GREET_WITHIN_MS: u64 = 4_000;

/// Words the candidate said, as they were heard.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard {
    /// The words.
    pub words: String,
    /// How long they took.
    pub spoke_ms: u64,
    /// What they are.
    pub talk: Talk,
}

/// A question that is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Of the bank; none for one of our own.
    pub record: Option<Record>,
    /// As it is said.
    pub text: String,
}

/// One thing that can be said, with what follows from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Move {
    /// What it does.
    pub act: Act,
    /// Why.
    pub why: String,
    /// The words behind the opening ones.
    pub text: String,
    /// The part that begins with it, and when that is to end.
    pub section: Option<(Section, u64)>,
    /// The question that lies on the table then.
    pub question: Option<Question>,
    /// How difficult the next one should be.
    pub ability: f32,
    /// Where its words are from.
    pub wording: Wording,
}

/// What is left to choose.
#[derive(Debug, Clone, PartialEq)]
pub enum Choice {
    /// Nothing.
    Fixed(Box<Move>),
    /// The language model words a question about the answer, or has the next one asked.
    Model(Box<Modelled>),
}

/// A choice of the language model's: whether and what to ask about an answer, or which question comes next.
#[derive(Debug, Clone, PartialEq)]
pub struct Modelled {
    /// What it reads.
    pub messages: Vec<Message>,
    /// The answer it asks about.
    pub answer: String,
    /// What its question does.
    pub act: Act,
    /// What is said when its words are refused.
    pub fallback: Move,
    /// What is said when it has no question; none where it must have one.
    pub next: Option<Move>,
    /// The questions it chooses from; none where it asks about the answer.
    pub among: Vec<Record>,
}

impl Modelled {
    /// What it may write, in GBNF, and how many tokens of it.
    pub fn form(&self) -> (String, u32) {
        if self.among.is_empty() {
            return (rails::grammar(self.next.is_some()), rails::TOKENS_MAX);
        }
        (choice::grammar(&self.among.iter().collect::<Vec<_>>()), choice::TOKENS_MAX)
    }
}

/// What was decided about some words, or about silence.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// When, on the interview's clock.
    pub at_ms: u64,
    /// The words; none for silence.
    pub heard: Option<Heard>,
    /// Ids of the questions there were to choose from.
    pub found: Vec<String>,
    /// The first words, which are true whatever the choice.
    pub lead: String,
    /// The rest.
    pub choice: Choice,
}

/// A decision with nothing left to choose.
#[derive(Debug, Clone, PartialEq)]
pub struct Settled {
    /// What is said.
    pub chosen: Move,
    /// What the model wrote.
    pub raw: Option<String>,
    /// Where the words are from.
    pub wording: Wording,
}

impl Interview {
    /// What to say to these words, of which the candidate spoke so long, or to their silence. `found` are the
    /// candidates for the next question, as [`Self::wanted`] asks for them. None when there is nothing to say.
    pub fn decide(&self, said: Option<(&str, u64)>, found: &[Record], now_ms: u64) -> Option<Decision> {
        let heard = said.map(|(words, spoke_ms)| {
            let talk = classify(words, self.section == Section::Questions && self.may_ask());
            Heard { words: words.trim().to_owned(), spoke_ms, talk }
        });
        let desk = Desk { iv: self, found, now_ms };
        let (lead, choice) = match &heard {
            Some(heard) => desk.to_words(heard),
            None => desk.to_silence()?,
        };
        let found = found.iter().map(|record| record.id.clone()).collect();
        Some(Decision { at_ms: now_ms, heard, found, lead, choice })
    }

    /// What the language model's words make of a decision.
    pub fn settle(&self, decision: &Decision, raw: Option<&str>) -> Settled {
        let modelled = match &decision.choice {
            Choice::Fixed(chosen) => {
                return Settled { chosen: (**chosen).clone(), raw: None, wording: chosen.wording };
            }
            Choice::Model(modelled) if !modelled.among.is_empty() => return self.settle_next(modelled, raw),
            Choice::Model(modelled) => modelled,
        };
        let papers = self.table.as_ref().and_then(|table| table.record.as_ref());
        let papers = papers.map_or(String::new(), |r| {
            format!("{} {} {}", r.criteria.join(" "), r.probes.join(" "), r.tags.join(" "))
        });
        let asked: String = self.table.as_ref().map_or(String::new(), |t| format!("{} {}", t.first, t.last));
        let against = Against {
            asked: &asked,
            papers: &papers,
            answer: &modelled.answer,
            before: &self.texts,
            rephrases: modelled.act == Act::Rephrase,
        };
        let wish = raw.ok_or(Rejection::Missing).and_then(|raw| accept(raw, &against));
        let (chosen, wording) = match (wish, &modelled.next) {
            (Ok(Wish::Next), Some(next)) => (next.clone(), next.wording),
            (Ok(Wish::Ask(text)), _) => {
                let why = "the answer has something to ask about".to_owned();
                (Move { text, why, act: modelled.act, ..modelled.fallback.clone() }, Wording::Model)
            }
            (Ok(Wish::Next), None) => refused(modelled, Rejection::Form),
            (Err(why), _) => refused(modelled, why),
        };
        Settled { chosen, raw: raw.map(str::to_owned), wording }
    }

    /// What the language model's choice among questions makes of a decision.
    fn settle_next(&self, modelled: &Modelled, raw: Option<&str>) -> Settled {
        let few: Vec<&Record> = modelled.among.iter().collect();
        let read = raw.ok_or(Rejection::Missing);
        let read = read.and_then(|raw| choice::read(raw, &few, &modelled.answer, &self.texts));
        let raw = raw.map(str::to_owned);
        let Chosen { at, wording } = match read {
            Ok(chosen) => chosen,
            Err(why) => {
                let (chosen, wording) = refused(modelled, why);
                return Settled { chosen, raw, wording };
            }
        };
        let record = &modelled.among[at];
        let (text, wording) = match wording {
            Ok(text) if text == record.question => (text, Wording::Bank),
            Ok(text) => (text, Wording::Model),
            Err(why) => (record.question.clone(), Wording::Fallback(why)),
        };
        let why = format!("{}; the model chose the {} of {}", modelled.fallback.why, nth(at), few.len());
        let question = Some(Question { record: Some(record.clone()), text: text.clone() });
        let chosen = Move { why, text, question, wording, ..modelled.fallback.clone() };
        Settled { chosen, raw, wording }
    }

    /// The questions to look for before [`Self::decide`], should one be asked now.
    pub fn wanted(&self, words: &str, now_ms: u64) -> Option<Query> {
        let section = self.section_for_next(now_ms).0;
        let (section, category) = match section {
            Section::Questions if self.may_ask() || self.section == Section::Questions => {
                (Section::Questions, self.spare_category())
            }
            section => (section, section.category()?),
        };
        let said = self.answer_with(words);
        Some(query(&Context {
            plan: &self.plan,
            section,
            category,
            ability: self.ability,
            asked: &self.asked,
            said: &said,
        }))
    }

    /// Whether the next question comes whatever the answer is that is awaited.
    pub(super) fn moves_on(&self, now_ms: u64) -> bool {
        let waits = !self.greeted || self.closed || self.unheard.is_some();
        match (&self.table, self.section) {
            (_, Section::Questions | Section::Close) => false,
            _ if waits => false,
            (Some(table), _) if table.record.is_some() => {
                let given = self.given(table, ("", ""), 0, now_ms);
                follow_up::moves_on(&given)
            }
            _ => true,
        }
    }

    /// What is known of an answer of which so much was spoken.
    pub(super) fn given<'a>(
        &self,
        table: &Table,
        (answer, last): (&'a str, &'a str),
        spoke_ms: u64,
        now_ms: u64,
    ) -> follow_up::Given<'a> {
        follow_up::Given {
            answer,
            last,
            follow_ups: table.follow_ups,
            encouraged: table.encouraged,
            rambled: spoke_ms + RAMBLED_MS >= self.answer_max_ms && spoke_ms > 0,
            left_ms: self.ends_ms.saturating_sub(now_ms),
            needs_ms: (self.round_ms() as f32 * FOLLOW_UP_SHARE) as u64,
            spare_ms: self.spare_ms(now_ms),
            minutes: self.plan.conduct.minutes,
            short_is_fine: table.follow_ups > 0 || follow_up::short_is_fine(&table.last),
        }
    }

    /// Milliseconds that are left when every part to come has what it needs at the least.
    fn spare_ms(&self, now_ms: u64) -> u64 {
        self.plan.total_ms().saturating_sub(now_ms).saturating_sub(self.plan.kept_ms(self.section))
    }

    /// The questions one of which is asked next, best first.
    pub(super) fn shortlist<'a>(&self, found: &'a [Record], section: Section) -> Vec<&'a Record> {
        let category = section.category().unwrap_or_else(|| self.spare_category());
        let table = next::Table {
            category,
            ability: self.ability,
            plan: &self.plan,
            asked: &self.asked,
            texts: &self.texts,
            had: &self.topics,
        };
        next::shortlist(found, &table)
    }

    /// What the language model reads while these words are spoken, where these questions were found for what comes
    /// next: what it will read in the end, as far as that is known.
    pub fn ahead(&self, words: &str, found: &[Record], now_ms: u64) -> Vec<Message> {
        if self.moves_on(now_ms) {
            let few = self.shortlist(found, self.section_for_next(now_ms).0);
            if few.len() > 1 {
                return self.choice(&few, words);
            }
        }
        self.messages(words)
    }

    /// What the language model reads to choose the next question.
    pub(super) fn choice(&self, few: &[&Record], words: &str) -> Vec<Message> {
        choice::messages(&self.plan.conduct.role, few, &self.answer_with(words))
    }

    /// Whether the candidate was invited to ask, and nothing else lies on the table.
    pub(super) fn may_ask(&self) -> bool {
        self.table.as_ref().is_some_and(|table| table.record.is_none())
    }

    /// What is asked of who has no questions: more of what the interview is mostly about.
    pub(super) fn spare_category(&self) -> Category {
        let mix = &self.plan.conduct.mix;
        if mix.technical > mix.behavioral { Category::Technical } else { Category::Behavioral }
    }

    /// How long a question takes with its answer, as this candidate talks.
    pub(super) fn round_ms(&self) -> u64 {
        let n = self.rounds.len().max(1) as u64;
        let mean = if self.rounds.is_empty() { ROUND_MS } else { self.rounds.iter().sum::<u64>() / n };
        mean.clamp(*ROUND_RANGE_MS.start(), *ROUND_RANGE_MS.end())
    }

    /// The part of the next question, and when it ends if it begins with it.
    pub(super) fn section_for_next(&self, now_ms: u64) -> (Section, Option<u64>) {
        let round = self.round_ms();
        let last_call = self.plan.total_ms().saturating_sub(CLOSE_MS + QUESTIONS_MS);
        let stays = match self.section {
            Section::Greeting => false,
            Section::Questions | Section::Close => true,
            _ if now_ms >= last_call && self.asked_in_section > 0 => false,
            _ => {
                let left = self.ends_ms.saturating_sub(now_ms) as f32;
                self.asked_in_section == 0 || left >= round as f32 * ROUND_SHARE
            }
        };
        if stays {
            return (self.section, None);
        }
        let next = self.plan.after(self.section);
        (next, Some(self.plan.ends_ms(next, now_ms)))
    }

    /// How long the candidate may be silent before we say something, by what they were asked last, milliseconds;
    /// none where only the end of the time makes us speak.
    pub fn nudge_after_ms(&self) -> Option<u64> {
        if self.ended {
            return None;
        }
        if !self.greeted || self.unheard.is_some() || self.rejoined {
            return Some(700);
        }
        if self.closed {
            return Some(4_000);
        }
        let thought = match self.section {
            Section::Behavioral => 14_000,
            Section::Technical | Section::SoftSkills => 12_000,
            Section::Greeting | Section::Questions => 8_000,
            _ => 10_000,
        };
        let base = match (self.nudges, self.thinking) {
            (0, true) => 30_000,
            (0, false) => thought,
            (1, _) => thought + 6_000,
            (2, _) => 30_000,
            _ => return None,
        };
        Some((base as f32 * self.plan.conduct.patience) as u64)
    }

    /// When we speak into the silence whatever lies on the table, on the interview's clock.
    pub fn time_up_ms(&self) -> Option<u64> {
        if !self.greeted {
            return Some(GREET_WITHIN_MS);
        }
        (!self.closed).then(|| self.plan.total_ms().saturating_sub(CLOSE_MS))
    }

    /// By how much every silence that ends a turn is to be longer than usual, for the answer that is awaited.
    pub fn patience(&self) -> f32 {
        let asked = if self.thinking {
            1.8
        } else {
            let follows = self.table.as_ref().is_some_and(|table| table.follow_ups > 0);
            match self.section {
                // A yes, or a question of their own.
                Section::Greeting | Section::Close => 0.8,
                Section::Questions => 1.0,
                _ if follows => 1.15,
                Section::SelfIntroduction => 1.3,
                // "Tell me about a time": people look for the story while they tell it.
                Section::Behavioral => 1.5,
                Section::Technical | Section::SoftSkills => 1.3,
            }
        };
        asked * self.plan.conduct.patience
    }

    /// How long the answer may be that is awaited, milliseconds.
    pub fn answer_max_ms(&self) -> u64 {
        self.answer_max_ms
    }
}

fn nth(at: usize) -> &'static str {
    ["first", "second", "third"].get(at).copied().unwrap_or("last")
}

fn refused(modelled: &Modelled, why: Rejection) -> (Move, Wording) {
    (modelled.fallback.clone(), Wording::Fallback(why))
}
