//! What becomes of an answer: a question about it, an invitation to go on, or the next question.
//!
//! Rules decide wherever they can: how long the answer was, how much was asked about it already, how much time there
//! is. Only where a follow-up is possible and not necessary the language model is asked, on rails.

use viva_models::{Message, Role};

use crate::knowledge::bank::Record;

use super::rails::{ASK, NEXT};
use super::words::{named, overlap, tokens};

/// Words up to which an answer is too short to judge.
const SHORT_WORDS: usize = 7;

/// Words from which an answer says enough to be asked about.
const SUBSTANCE_WORDS: usize = 12;

/// Words from which an answer is full.
const FULL_WORDS: usize = 60;

/// Characters of an answer the model reads: what is said in two minutes. It reads the end of a longer one.
const ANSWER_CHARS: usize = 2_000;

/// Minutes from which on a question may have two follow-ups.
const LONG_INTERVIEW: u32 = 12;

/// What people say when something went badly by their own doing or under their eyes. To pass over it is what a
/// listener does who does not listen: such an answer has one question more than others, and takes time from other parts.
const GRAVE: [&str; 24] = [
    "mistake",
    "mistakes",
    "error",
    "wrong",
    "accident",
    "injured",
    "hurt",
    "harmed",
    "died",
    "complaint",
    "complained",
    "fired",
    "my fault",
    "our fault",
    "forgot",
    "damage",
    "damaged",
    "happened again",
    "happen again",
    "failed",
    "apologised",
    "apologized",
    "dangerous",
    "lost the",
];

/// What is known of an answer.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// All that was said to this question.
    pub answer: &'a str,
    /// What of it was said last.
    pub last: &'a str,
    /// Follow-ups it has had.
    pub follow_ups: u8,
    /// It was asked to go on already.
    pub encouraged: bool,
    /// It was ended by us, for it took too long.
    pub rambled: bool,
    /// Milliseconds the part has left.
    pub left_ms: u64,
    /// Milliseconds a follow-up takes with its answer, by how this candidate talks; where the part has less left, it
    /// goes on.
    pub needs_ms: u64,
    /// Milliseconds that no other part needs.
    pub spare_ms: u64,
    /// Minutes of the whole interview.
    pub minutes: u32,
    /// Whether a short answer is a good one, as to "how many".
    pub short_is_fine: bool,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowUp {
    /// Ask them to go on.
    Encourage,
    /// The next question.
    MoveOn(&'static str),
    /// The model chooses between a question of its own and the next one.
    Model,
    /// A question about it, whatever the model thinks.
    Probe,
}

/// Follow-ups a question may have.
fn most(minutes: u32) -> u8 {
    if minutes >= LONG_INTERVIEW { 2 } else { 1 }
}

/// Whether the next question comes whatever the answer is: what is read ahead hangs on it.
pub fn moves_on(given: &Given<'_>) -> bool {
    given.left_ms < given.needs_ms || given.follow_ups >= most(given.minutes)
}

/// What to do with an answer.
pub fn follow_up(given: &Given<'_>) -> FollowUp {
    let words = tokens(given.answer).len();
    let most = most(given.minutes);
    if given.rambled {
        return FollowUp::MoveOn("the answer had taken all the time there is for it");
    }
    let asked_little = given.follow_ups <= most && given.spare_ms >= given.needs_ms;
    if asked_little && words >= SUBSTANCE_WORDS && is_grave(given.last) {
        return FollowUp::Probe;
    }
    if given.left_ms < given.needs_ms {
        return FollowUp::MoveOn("the part has no time for a follow-up");
    }
    if words <= SHORT_WORDS && !given.encouraged && !given.short_is_fine {
        return FollowUp::Encourage;
    }
    if given.follow_ups >= most {
        return FollowUp::MoveOn("it was asked about enough");
    }
    if words < SUBSTANCE_WORDS {
        return FollowUp::MoveOn("the answer stays short");
    }
    // The first answer of some substance is always worth a question; after that it is for the model to say.
    if given.follow_ups == 0 && words < FULL_WORDS { FollowUp::Probe } else { FollowUp::Model }
}

/// Whether something went badly in it.
fn is_grave(answer: &str) -> bool {
    let text = format!(" {} ", tokens(answer).join(" "));
    GRAVE.iter().any(|phrase| text.contains(&format!(" {phrase} ")))
}

/// How an answer moves what the next question may ask.
pub fn ability_after(ability: f32, answer: &str) -> f32 {
    let words = tokens(answer);
    let reasons = ["because", "so", "therefore", "result", "first", "then", "instead", "learned"];
    let shown = words.iter().filter(|word| reasons.contains(&word.as_str())).count();
    let figures = answer.chars().any(|c| c.is_ascii_digit());
    let step = match words.len() {
        0..=11 => -0.4,
        12..=39 => 0.0,
        _ => 0.25,
    } + if shown >= 2 { 0.15 } else { 0.0 }
        + if figures { 0.1 } else { 0.0 };
    moved(ability, step)
}

/// What the next question may ask, moved within its bounds.
pub fn moved(ability: f32, step: f32) -> f32 {
    (ability + step).clamp(1.0, 5.0)
}

/// The bank's probe that fits: the one that asks least for what was said, after naming something they said.
pub fn probe(record: &Record, answer: &str, before: &[String]) -> Option<String> {
    let fresh = record.probes.iter().filter(|probe| !before.iter().any(|b| b.contains(probe.as_str())));
    let probe = fresh.min_by(|a, b| overlap(a, answer).total_cmp(&overlap(b, answer)))?;
    Some(match named(answer, &record.question) {
        Some(thing) => format!("You mentioned {thing}. {probe}"),
        None => probe.clone(),
    })
}

/// What every conversation with the model begins with, so that it is read once for all of them. The examples are what
/// makes a small model keep to the form.
const SYSTEM: &str = "You interview people for jobs. You read a question and the candidate's answer. If something in the \
answer deserves a closer look, write ASK: and one short question about it in the candidate's own words. If the answer \
is complete, write NEXT. Never advise, praise, explain or answer.\n\
Example. Question: How do you plan a week? Answer: I write a list on Monday, and my boss changes it on Tuesday.\n\
ASK: What do you do when your boss changes the list?\n\
Example. Question: What went wrong at work? Answer: The scanner in the warehouse failed, so we counted by hand.\n\
ASK: How did you know that the count by hand was right?\n\
Example. Question: Why this job? Answer: I have done it for ten years, I like the guests, and your hotel is near.\n\
NEXT";

/// What the model reads: the system's part, the question with its papers, and what was said to it so far. The last
/// message is the answer itself and nothing else, so that it can be read while it is spoken.
pub fn messages(record: Option<&Record>, dialog: &[(Role, String)], answer: &str) -> Vec<Message> {
    let say = |role, content: String| Message { role, content };
    let mut messages = vec![say(Role::System, SYSTEM.into())];
    if let Some(record) = record {
        let papers = format!(
            "A good answer: {}. You might ask: {}",
            record.criteria.join("; "),
            record.probes.join(" ")
        );
        messages.push(say(Role::User, papers));
    } else {
        messages.push(say(Role::User, "Go on.".into()));
    }
    for (role, text) in dialog {
        let content = if *role == Role::Assistant { format!("{ASK} {text}") } else { text.clone() };
        match messages.last_mut() {
            Some(last) if last.role == *role => {
                last.content.push(' ');
                last.content.push_str(&content);
            }
            _ => messages.push(say(*role, content)),
        }
    }
    let answer = answer.trim();
    let from = answer.char_indices().rev().nth(ANSWER_CHARS).map_or(0, |(at, _)| at);
    match messages.last_mut() {
        Some(last) if last.role == Role::User => {
            last.content.push(' ');
            last.content.push_str(&answer[from..]);
        }
        _ => messages.push(say(Role::User, answer[from..].to_owned())),
    }
    messages
}

/// Whether a question can be answered in a few words.
pub fn short_is_fine(question: &str) -> bool {
    let begins = tokens(question);
    let first = begins.first().map_or("", String::as_str);
    let second = begins.get(1).map_or("", String::as_str);
    (first == "how" && matches!(second, "many" | "much" | "long" | "often" | "old"))
        || first == "when"
        || first == "who"
}

// The example in the instructions and the rails' words are the same.
const _: () = assert!(NEXT.len() == 4 && ASK.len() == 4);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::knowledge::bank::Bank;

    fn given(answer: &str) -> Given<'_> {
        Given {
            answer,
            last: answer,
            follow_ups: 0,
            encouraged: false,
            rambled: false,
            left_ms: 120_000,
            needs_ms: 40_000,
            spare_ms: 120_000,
            minutes: 15,
            short_is_fine: false,
        }
    }

    #[test]
    fn each_answer_has_its_follow_up() {
        let middling =
            "I looked at both ledgers line by line until I had found the difference in the branch.";
        let full = "word ".repeat(80);
        for (given, wanted) in [
            (given("Yes, once."), FollowUp::Encourage),
            (Given { encouraged: true, ..given("Yes, once.") }, FollowUp::MoveOn("the answer stays short")),
            (
                Given { short_is_fine: true, ..given("About six.") },
                FollowUp::MoveOn("the answer stays short"),
            ),
            (given(middling), FollowUp::Probe),
            (Given { follow_ups: 1, ..given(middling) }, FollowUp::Model),
            (
                Given { follow_ups: 1, minutes: 8, ..given(middling) },
                FollowUp::MoveOn("it was asked about enough"),
            ),
            (Given { follow_ups: 2, ..given(middling) }, FollowUp::MoveOn("it was asked about enough")),
            (given(&full), FollowUp::Model),
            (
                Given { left_ms: 20_000, ..given(&full) },
                FollowUp::MoveOn("the part has no time for a follow-up"),
            ),
            (
                Given { rambled: true, ..given(&full) },
                FollowUp::MoveOn("the answer had taken all the time there is for it"),
            ),
        ] {
            assert_eq!(follow_up(&given), wanted, "{given:?}");
        }
    }

    #[test]
    fn what_went_badly_is_never_passed_over() {
        // Said in the first interview that was held, and answered with a question about something else.
        let grave = "I gave a patient the tablets of his neighbor. I noticed it five minutes later, told the doctor at \
                     once, and we watched his blood pressure for the whole night, after that I asked for colored trays, \
                     and it has not happened again.";
        let late = Given { left_ms: 5_000, minutes: 6, ..given(grave) };
        assert_eq!(follow_up(&late), FollowUp::Probe, "other parts give up a little");
        assert_eq!(follow_up(&Given { follow_ups: 1, ..late }), FollowUp::Probe, "once more than others");
        for no_more in [
            Given { follow_ups: 2, ..late },
            Given { spare_ms: 30_000, ..late },
            Given { rambled: true, ..late },
            Given { last: "The trays were my idea, but the pharmacy had to agree to it first.", ..late },
        ] {
            assert!(matches!(follow_up(&no_more), FollowUp::MoveOn(_)), "{no_more:?}");
        }
    }

    #[test]
    fn the_banks_probe_names_what_they_said() {
        let bank = Bank::general().unwrap();
        let record = bank.get("b.adaptability.learning-quickly.01").unwrap();
        let said = probe(record, "I taught myself the label printer of our warehouse.", &[]).unwrap();
        assert!(said.starts_with("You mentioned the label printer. "), "{said}");
        let again = probe(record, "I taught myself the label printer.", std::slice::from_ref(&said)).unwrap();
        assert_ne!(said.split(". ").last(), again.split(". ").last());
        assert_eq!(probe(record, "no", &[said, again]), None);
    }

    #[test]
    fn what_the_model_reads_grows_only_at_its_end() {
        let bank = Bank::general().unwrap();
        let record = bank.get("b.adaptability.learning-quickly.01").unwrap();
        let dialog = vec![(Role::Assistant, record.question.clone())];
        let (early, late) =
            (messages(Some(record), &dialog, "I taught"), messages(Some(record), &dialog, "I taught it"));
        assert_eq!(early.len(), 4);
        assert_eq!(early[..3], late[..3]);
        assert!(late[3].content.starts_with(&early[3].content) && late[3].role == Role::User);
        let mut roles = late.iter().skip(1).map(|m| m.role);
        assert!(roles.by_ref().eq([Role::User, Role::Assistant, Role::User]));
    }

    #[test]
    fn better_answers_make_harder_questions() {
        let good =
            format!("I did it because it failed, so {} as a result 12 hours were saved", "word ".repeat(40));
        assert!(ability_after(2.5, &good) > 2.7);
        assert!(ability_after(2.5, "No.") < 2.2);
        assert!((0..50).fold(2.5, |a, _| ability_after(a, &good)) <= 5.0);
    }
}
