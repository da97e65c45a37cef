//! How a reply is put together: the rule for each kind of words and of silence, with its lines and its reason.

use crate::knowledge::bank::Record;

use super::decide::{Choice, Heard, Modelled, Move, Question};
use super::event::{Act, Wording};
use super::follow_up::{FollowUp, ability_after, follow_up, moved, probe};
use super::phrases as p;
use super::plan::{CLOSE_MS, Section};
use super::talk::{Talk, is_yes};
use super::{Interview, join};

/// Milliseconds that are not left empty at the end: with more, one more question is asked of who has none.
const SPARE_MS: u64 = 24_000;

/// Insults after which the interview ends.
const INSULTS_MAX: u8 = 3;

/// What is looked at while a reply is decided.
pub(super) struct Desk<'a> {
    pub(super) iv: &'a Interview,
    pub(super) found: &'a [Record],
    pub(super) now_ms: u64,
}

impl Desk<'_> {
    fn pick<'a>(&self, lines: &[&'a str]) -> &'a str {
        p::pick(lines, self.iv.turn.wrapping_add(self.iv.seed), &self.iv.openings)
    }

    fn step(&self, act: Act, why: &str, text: impl Into<String>) -> Move {
        Move {
            act,
            why: why.to_owned(),
            text: text.into(),
            section: None,
            question: None,
            ability: self.iv.ability,
            wording: Wording::Own,
        }
    }

    fn fixed(&self, lead: &str, chosen: Move) -> (String, Choice) {
        (lead.to_owned(), Choice::Fixed(Box::new(chosen)))
    }

    fn left_ms(&self) -> u64 {
        self.iv.plan.total_ms().saturating_sub(self.now_ms)
    }

    /// No question of ours would be answered in time.
    fn too_late(&self) -> bool {
        self.left_ms() <= CLOSE_MS + 12_000
    }

    /// What is said to whoever is silent; none when there is nothing to say any more.
    pub(super) fn to_silence(&self) -> Option<(String, Choice)> {
        let iv = self.iv;
        if iv.ended {
            return None;
        }
        if iv.closed {
            return None;
        }
        if !iv.greeted {
            return Some(self.greet());
        }
        if self.left_ms() <= CLOSE_MS + 500 {
            return Some(self.close("the time is up"));
        }
        if iv.rejoined {
            let question = iv.question().unwrap_or_default();
            let again = self.step(Act::Resume, "the candidate is back", question);
            return Some(self.fixed(self.pick(&p::WELCOME_BACK), again));
        }
        if let Some(question) = &iv.unheard {
            let again = self.step(Act::Resume, "the question could not be heard", question);
            return Some(self.fixed(self.pick(&p::RESUME), again));
        }
        let lines: &[&str] = match iv.nudges {
            0 => &p::NUDGE,
            1 => &p::OFFER,
            _ => &p::HERE,
        };
        Some(self.fixed(self.pick(lines), self.step(Act::Nudge, "the candidate is silent", "")))
    }

    fn greet(&self) -> (String, Choice) {
        let conduct = &self.iv.plan.conduct;
        let text = p::greeting(conduct.tone, &conduct.role, conduct.minutes);
        let asks = text.rsplit_once(['.', '!']).map_or("", |(_, asks)| asks.trim()).to_owned();
        let mut greet = self.step(Act::Greet, "nobody was welcomed yet", text);
        greet.question = Some(Question { record: None, text: asks });
        self.fixed("", greet)
    }

    fn close(&self, why: &str) -> (String, Choice) {
        let mut close = self.step(Act::Close, why, p::close(self.iv.plan.conduct.tone));
        close.section = Some((Section::Close, self.iv.plan.total_ms()));
        self.fixed("", close)
    }

    fn close_early(&self, why: &str, asked_for: bool) -> (String, Choice) {
        let mut close = self.step(Act::Close, why, p::close_early(asked_for));
        close.section = Some((Section::Close, self.iv.plan.total_ms()));
        self.fixed("", close)
    }

    /// The question on the table once more.
    fn again(&self, act: Act, why: &str) -> Move {
        self.step(act, why, self.iv.question().unwrap_or_default())
    }

    /// What is said to these words.
    pub(super) fn to_words(&self, heard: &Heard) -> (String, Choice) {
        let iv = self.iv;
        if iv.closed {
            return self.fixed(self.pick(&p::GOODBYE), self.step(Act::Goodbye, "the interview is over", ""));
        }
        if !iv.greeted {
            return self.greet();
        }
        match heard.talk {
            Talk::Stop => return self.close_early("the candidate wants to stop", true),
            Talk::Abuse if iv.insults + 1 >= INSULTS_MAX => {
                return self.close_early("the candidate insulted too often", false);
            }
            _ => {}
        }
        if self.left_ms() <= CLOSE_MS + 4_000 {
            return self.close("the time is up");
        }
        if let Some(choice) = self.to_talk(heard) {
            return choice;
        }
        if let Some(question) = &iv.unheard {
            let again = self.step(Act::Resume, "the question could not be heard", question);
            return self.fixed(self.pick(&p::RESUME), again);
        }
        match iv.section {
            Section::Greeting => {
                let lead = if is_yes(&heard.words) { self.pick(&p::BEGIN) } else { self.acknowledge() };
                self.ask(lead, self.next("the candidate is ready"), heard)
            }
            Section::Questions => self.to_a_question_of_theirs(heard),
            _ => self.to_answer(heard),
        }
    }

    fn acknowledge(&self) -> &'static str {
        self.pick(p::acknowledge(self.iv.plan.conduct.tone))
    }

    /// What has a rule of its own, whatever part it is.
    fn to_talk(&self, heard: &Heard) -> Option<(String, Choice)> {
        let fixed = |lead: &[&'static str], chosen| Some(self.fixed(self.pick(lead), chosen));
        match heard.talk {
            Talk::Repeat => fixed(&p::AGAIN, self.again(Act::Repeat, "they asked to hear it again")),
            Talk::StillThere => fixed(&p::HERE, self.again(Act::Repeat, "they asked whether we are there")),
            Talk::Moment => fixed(&p::TAKE_TIME, self.step(Act::Wait, "they asked for a moment", "")),
            Talk::Unclear => Some(self.differently(heard)),
            Talk::TimeLeft => {
                let text = join(&time(self.left_ms()), self.iv.question().unwrap_or_default());
                fixed(&p::CLOCK, self.step(Act::TimeLeft, "they asked for the time", text))
            }
            Talk::Skip if self.iv.section != Section::Questions => {
                let mut next = self.next("they would rather not answer");
                next.ability = moved(self.iv.ability, -0.3);
                fixed(&p::SKIPPED, next)
            }
            Talk::DontKnow if self.iv.section.category().is_some() => {
                let mut next = self.next("they do not know");
                next.ability = moved(self.iv.ability, -0.8);
                fixed(&p::NOT_KNOWN, next)
            }
            Talk::Nothing if self.iv.section.category().is_some() => {
                fixed(&p::NOTHING_MORE, self.next("they have nothing to say to it"))
            }
            Talk::Asks if self.iv.section != Section::Questions => {
                fixed(&p::LATER, self.again(Act::Later, "their questions have their time at the end"))
            }
            Talk::Abuse => fixed(&p::RESPECT, self.again(Act::Respect, "they insulted")),
            Talk::Reprogram => {
                fixed(&p::IN_ROLE, self.again(Act::StayInRole, "they wanted something else of us"))
            }
            _ => None,
        }
    }

    /// The question in other words: the model's, or with a hint at what it is about.
    fn differently(&self, heard: &Heard) -> (String, Choice) {
        let lead = self.pick(&p::DIFFERENTLY);
        let Some(table) = self.iv.table.as_ref() else {
            return self.fixed(lead, self.again(Act::Repeat, "they did not understand"));
        };
        let Some(record) = table.record.as_ref().filter(|_| !table.rephrased) else {
            let text = join(&table.last, "If that says nothing to you, we can leave it.");
            return self.fixed(lead, self.step(Act::Repeat, "they did not understand it again", text));
        };
        let topic = record.tags.last().map_or("your work", String::as_str);
        let hint =
            format!("It is about {topic}, and one example from your own work is enough. {}", table.first);
        let fallback = self.step(Act::Rephrase, "they did not understand", hint);
        let modelled = Modelled {
            messages: self.iv.messages(&heard.words),
            answer: heard.words.clone(),
            act: Act::Rephrase,
            fallback: Move { wording: Wording::Bank, ..fallback },
            next: None,
            among: Vec::new(),
        };
        (lead.to_owned(), Choice::Model(Box::new(modelled)))
    }

    fn to_a_question_of_theirs(&self, heard: &Heard) -> (String, Choice) {
        let invited = self.iv.may_ask();
        let spare = self.left_ms() > SPARE_MS + CLOSE_MS;
        let nothing = heard.talk == Talk::Nothing || heard.talk == Talk::Skip || heard.talk == Talk::DontKnow;
        if !invited || nothing {
            // Either an answer to a question that filled the time, or they have none of their own.
            if !spare {
                return self.close("nothing is left to ask");
            }
            let mut next = self.next("there is time left, and they have no question");
            next.ability = ability_after(self.iv.ability, &heard.words);
            let lead = if invited { self.pick(&p::SPARE) } else { self.acknowledge() };
            return self.fixed(lead, next);
        }
        let lead = self.pick(if heard.talk == Talk::Asks { &p::FOR_THE_TEAM } else { &p::HEARD });
        if self.too_late() {
            let close = self.close("the time is up");
            return (lead.to_owned(), close.1);
        }
        let turn = self.iv.turn as usize;
        let mut invite = self.step(
            Act::Invite,
            "they may have another question",
            p::ANYTHING_ELSE[turn % p::ANYTHING_ELSE.len()],
        );
        invite.question = Some(Question { record: None, text: invite.text.clone() });
        self.fixed(lead, invite)
    }

    fn to_answer(&self, heard: &Heard) -> (String, Choice) {
        let iv = self.iv;
        let Some(table) = &iv.table else {
            return self.fixed(self.acknowledge(), self.next("nothing lay on the table"));
        };
        let answer = iv.answer_with(&heard.words);
        let given = iv.given(table, (&answer, &heard.words), heard.spoke_ms, self.now_ms);
        let decided = match follow_up(&given) {
            // Nothing of the bank to fall back on.
            FollowUp::Model | FollowUp::Probe if table.record.is_none() => {
                FollowUp::MoveOn("it was our own question")
            }
            decided => decided,
        };
        let ability = ability_after(iv.ability, &answer);
        match decided {
            FollowUp::Encourage => {
                self.fixed(self.pick(&p::MORE), self.step(Act::Encourage, "the answer is very short", ""))
            }
            FollowUp::MoveOn(why) => {
                let lead = if given.rambled { self.pick(&p::ENOUGH) } else { self.acknowledge() };
                self.ask(lead, Move { ability, ..self.next(why) }, heard)
            }
            FollowUp::Model | FollowUp::Probe => {
                let next = Move { ability, ..self.next("the model found nothing to ask") };
                let lead = self.acknowledge();
                let record = table.record.as_ref();
                let Some(text) = record.and_then(|record| probe(record, &answer, &iv.texts)) else {
                    return self.fixed(lead, Move { why: "the bank has no further probe".into(), ..next });
                };
                let fallback = Move {
                    ability,
                    wording: Wording::Bank,
                    ..self.step(Act::Probe, "the answer leaves something to ask", text)
                };
                let modelled = Modelled {
                    messages: iv.messages(&heard.words),
                    answer,
                    act: Act::Probe,
                    fallback,
                    next: (decided == FollowUp::Model).then_some(next),
                    among: Vec::new(),
                };
                (lead.to_owned(), Choice::Model(Box::new(modelled)))
            }
        }
    }

    /// The next question after these words: the model's choice, where what it has to read for that was read while they
    /// were spoken.
    fn ask(&self, lead: &str, next: Move, heard: &Heard) -> (String, Choice) {
        let iv = self.iv;
        let (section, began) = iv.section_for_next(self.now_ms);
        let few = iv.shortlist(self.found, section);
        if few.len() < 2 || !iv.moves_on(self.now_ms) || next.act != Act::Ask {
            return self.fixed(lead, next);
        }
        let question = next.question.as_ref().map_or_else(String::new, |question| question.text.clone());
        // What leads to the question is true of each of them: it is said while the model writes.
        let lead = join(lead, if began.is_some() { by_turn(p::bridge(section), iv.seed) } else { "" });
        let modelled = Modelled {
            messages: iv.choice(&few, &heard.words),
            answer: iv.answer_with(&heard.words),
            act: Act::Ask,
            fallback: Move { text: question, ..next },
            next: None,
            among: few.into_iter().cloned().collect(),
        };
        (lead, Choice::Model(Box::new(modelled)))
    }

    /// The next question: of this part or of the one after it.
    fn next(&self, why: &str) -> Move {
        let iv = self.iv;
        let (section, began) = iv.section_for_next(self.now_ms);
        let entered = began.map(|ends_ms| (section, ends_ms));
        let bridge = if began.is_some() { by_turn(p::bridge(section), iv.seed) } else { "" };
        if section == Section::Questions && began.is_some() {
            let text = "What would you like to know?";
            let mut invite =
                self.step(Act::Invite, "their own questions have their time", join(bridge, text));
            (invite.section, invite.question) = (entered, Some(Question { record: None, text: text.into() }));
            return invite;
        }
        let chosen = iv.shortlist(self.found, section).first().copied();
        let stock = || {
            let section = if section == Section::Questions { Section::Behavioral } else { section };
            let fresh = p::stock(section).iter().find(|text| !iv.texts.iter().any(|t| t == *text));
            fresh.copied().unwrap_or("Is there something you would like to add to what you have told me?")
        };
        let text = chosen.map_or_else(|| stock().to_owned(), |record| record.question.clone());
        let mut ask = self.step(Act::Ask, why, join(bridge, &text));
        ask.section = entered;
        ask.wording = if chosen.is_some() { Wording::Bank } else { Wording::Own };
        ask.question = Some(Question { record: chosen.cloned(), text });
        ask
    }
}

fn by_turn<'a>(lines: &[&'a str], n: u64) -> &'a str {
    lines.get(n as usize % lines.len().max(1)).copied().unwrap_or_default()
}

/// How much time is left, as the beginning of a reply.
fn time(left_ms: u64) -> String {
    let text = p::time_left(left_ms);
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}
