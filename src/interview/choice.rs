//! Which of a few questions comes next, and in which words: the language model's choice, within bounds.
//!
//! Search and rules leave at most three questions that may be asked ([`super::next::shortlist`]). The model reads them
//! with what the candidate said, writes the letter of one and asks it in words that follow from the answer. The letter
//! counts as it is, since each of the three may be asked. The words count only where they ask what the bank's ask:
//! whoever judges the answer has the bank's criteria before them. Words that fail are not mended; the bank's own are
//! said.

use viva_models::{Message, Role};

use crate::knowledge::bank::Record;
use crate::knowledge::bank::screen::{protected, unspeakable};

use super::rails::{ADVICE, OUT_OF_ROLE, Rejection, asks_twice, is_stuck};
use super::words::{content, same, tokens};

/// Tokens it may write: the letter and the longest of the bank's questions. A small model that rambles is so stopped
/// before it is late.
pub const TOKENS_MAX: u32 = 44;

/// Characters of the answer the model reads: what is said in two minutes. It reads the end of a longer one.
const ANSWER_CHARS: usize = 2_000;

/// Words of a question: the bank's longest has 24, and a few may lead to it.
const WORDS: std::ops::RangeInclusive<usize> = 5..=34;

/// Words by which another wording may be longer than the bank's: a clause that says what it follows from.
const LONGER: usize = 10;

/// Share of the bank's subjects that another wording keeps at least, and of its own subjects that may be from neither
/// the bank nor the answer. Read off what both models wrote to a hundred answers (`benches/runs/2026-11-24-rails`): with
/// less the sense was lost in most, with more only the bank's own words passed.
const KEPT: f32 = 0.66;
const NEW: f32 = 0.2;

/// Words that turn a sense round: a wording has as many of them as the bank's.
const TURNS: [&str; 12] = [
    "not", "no", "never", "nobody", "nothing", "none", "without", "neither", "nor", "cannot", "instead",
    "except",
];

/// Numbers in words: a wording has the bank's and no other.
const NUMBERS: [&str; 22] = [
    "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "fifteen",
    "twenty", "thirty", "forty", "fifty", "sixty", "ninety", "hundred", "thousand", "million", "half",
];

/// What is asked for: a wording has the bank's.
const ASKING: [&str; 9] = ["when", "who", "how", "what", "which", "why", "where", "whom", "whose"];

/// Who speaks of themselves.
const OURS: [&str; 8] = ["i", "i'm", "i've", "my", "me", "we", "our", "us"];

/// What the model reads before every choice. The examples are what makes a small model keep to the form.
const SYSTEM: &str = "You interview people for jobs. You read three questions, then what the candidate said. Choose the \
question that goes best with what they said. Write its letter and ask it, in nearly the same words, so that it follows \
from what they said. Keep its meaning. Ask one thing. Never advise, praise or answer.\n\
Example. A: How do you check a figure that looks too good? B: When did you last miss a deadline, and why? C: Whom do you \
ask when a rule is unclear? Said: I make the monthly report alone, and the bank reads it.\n\
A: When you make that report alone, how do you check a figure that looks too good?\n\
Example. A: Which tool would you never lend to a colleague? B: How do you learn a new machine? C: What do you do first \
when a belt stops? Said: I came to the mill as a driver, and they put me at the saw.\n\
B: When they put you at the saw, how did you learn a new machine?";

/// What the model reads: the questions, and the answer at the end, so that it can be read while it is spoken.
pub fn messages(role: &str, few: &[&Record], answer: &str) -> Vec<Message> {
    let mut text = format!("The job: {role}.");
    for (letter, record) in letters().zip(few) {
        text.push_str(&format!(" {letter}: {}", record.question));
    }
    let answer = answer.trim();
    let from = answer.char_indices().rev().nth(ANSWER_CHARS).map_or(0, |(at, _)| at);
    text.push_str(" Said: ");
    text.push_str(&answer[from..]);
    vec![
        Message { role: Role::System, content: SYSTEM.into() },
        Message { role: Role::User, content: text.trim_end().to_owned() },
    ]
}

/// The grammar of what it may write about these, in GBNF: of each as many sentences as it has, and no word after the
/// last of them. A small model that may go on goes on.
pub fn grammar(few: &[&Record]) -> String {
    let forms: Vec<String> = letters()
        .zip(few)
        .map(|(letter, record)| {
            let question = record.question.trim_end();
            let asks = question.ends_with('?');
            let before = question.matches(". ").count();
            let said = " said".repeat(before);
            format!("\"{letter}: \"{said} words \"{}\"", if asks { "?" } else { "." })
        })
        .collect();
    format!("root ::= {}\nsaid ::= words \". \"\nwords ::= [A-Z] [a-zA-Z0-9 ,'-]+\n", forms.join(" | "))
}

fn letters() -> impl Iterator<Item = char> {
    'A'..='Z'
}

/// What the model wrote, as far as it may be heeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Which of the few.
    pub at: usize,
    /// Its words, or why they are not said.
    pub wording: Result<String, Rejection>,
}

/// Reads and checks a choice among these. `before` is everything that was asked.
pub fn read(raw: &str, few: &[&Record], answer: &str, before: &[String]) -> Result<Chosen, Rejection> {
    let raw = raw.trim();
    let mut chars = raw.chars();
    let first = chars.next().ok_or(Rejection::Missing)?;
    let at =
        letters().position(|letter| letter == first).filter(|at| *at < few.len()).ok_or(Rejection::Form)?;
    let text = chars.as_str().strip_prefix(':').ok_or(Rejection::Form)?;
    let line = text.trim().lines().next().unwrap_or_default();
    // Whatever comes after its first question is not asked.
    let end = line.find('?').map_or(line.len(), |mark| mark + 1);
    let text = line[..end].split_whitespace().collect::<Vec<_>>().join(" ");
    let wording = check(&text, few[at], answer, before).map(|()| text);
    Ok(Chosen { at, wording })
}

/// Whether a wording may be said for the bank's.
pub fn check(text: &str, record: &Record, answer: &str, before: &[String]) -> Result<(), Rejection> {
    let bank = record.question.as_str();
    let (words, banks) = (tokens(text), tokens(bank));
    let as_the_bank_does = text.ends_with('.') && bank.ends_with('.');
    if !(text.ends_with('?') || as_the_bank_does) {
        return Err(Rejection::NoQuestion);
    }
    if !WORDS.contains(&words.len()) || words.len() > banks.len() + LONGER || is_stuck(&words) {
        return Err(Rejection::Length);
    }
    if protected(text).is_some() {
        return Err(Rejection::Protected);
    }
    // What the bank says itself may be said.
    let adds = |list: &[&str]| {
        let (text, bank) = (format!(" {} ", words.join(" ")), format!(" {} ", banks.join(" ")));
        list.iter().any(|phrase| {
            let phrase = format!(" {phrase} ");
            text.contains(&phrase) && !bank.contains(&phrase)
        })
    };
    if adds(&OUT_OF_ROLE) || adds(&OURS) {
        return Err(Rejection::OutOfRole);
    }
    if adds(&ADVICE) {
        return Err(Rejection::Advice);
    }
    if asks_twice(&words) && !asks_twice(&banks) {
        return Err(Rejection::Twofold);
    }
    if unspeakable(text).is_some() {
        return Err(Rejection::Form);
    }
    if before.iter().any(|before| same(before, text)) {
        return Err(Rejection::Repeats);
    }
    asks_the_same(text, record, answer)
}

/// Whether a wording asks what the bank's asks: it keeps its subjects, its numbers and its sense, and brings in hardly
/// anything but what the candidate said.
fn asks_the_same(text: &str, record: &Record, answer: &str) -> Result<(), Rejection> {
    let bank = record.question.as_str();
    let (words, banks) = (tokens(text), tokens(bank));
    let of = |words: &[String], list: &[&str]| {
        let mut found: Vec<String> =
            words.iter().filter(|word| list.contains(&word.as_str())).cloned().collect();
        found.sort();
        found
    };
    let figures = |words: &[String]| {
        let mut found: Vec<String> =
            words.iter().filter(|word| word.starts_with(|c: char| c.is_ascii_digit())).cloned().collect();
        found.sort();
        found
    };
    let turned = |words: &[String]| {
        of(words, &TURNS).len() + words.iter().filter(|word| word.ends_with("n't")).count()
    };
    if of(&words, &NUMBERS) != of(&banks, &NUMBERS) || figures(&words) != figures(&banks) {
        return Err(Rejection::Strays);
    }
    // Who asks when does not ask whether.
    let asked = of(&words, &ASKING);
    if of(&banks, &ASKING).iter().any(|word| !asked.contains(word)) {
        return Err(Rejection::Strays);
    }
    let to_them = |words: &[String]| words.iter().any(|word| word.starts_with("you"));
    if turned(&words) != turned(&banks) || (to_them(&banks) && !to_them(&words)) {
        return Err(Rejection::Strays);
    }
    let (subjects, wanted, said) = (content(text), content(bank), content(answer));
    let kept = subjects.intersection(&wanted).count() as f32;
    if kept < KEPT * wanted.len() as f32 {
        return Err(Rejection::Strays);
    }
    let strange =
        subjects.iter().filter(|word| !wanted.contains(*word) && !said.contains(*word)).count() as f32;
    // One word of its own leads over.
    if strange > (NEW * subjects.len() as f32).max(1.0) {
        return Err(Rejection::Invented);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::interview::find::own_records;

    const ANSWER: &str = "I found the difference by comparing both ledgers line by line. It took two days.";

    fn bank(question: &str) -> &'static Record {
        own_records().find(|record| record.question == question).unwrap()
    }

    fn few() -> [&'static Record; 2] {
        [
            bank("When did you last have to report that a goal would not be reached?"),
            bank("Who in your working life has changed your thinking most?"),
        ]
    }

    #[test]
    fn the_letter_counts_and_the_words_where_they_ask_the_same() {
        for (raw, at, text) in [
            (
                "A: When did you last have to report that a goal would not be reached? B: Who",
                0,
                "When did you last have to report that a goal would not be reached?",
            ),
            (
                "B: When you compared both ledgers, who in your working life had changed your thinking most?",
                1,
                "When you compared both ledgers, who in your working life had changed your thinking most?",
            ),
        ] {
            let chosen = read(raw, &few(), ANSWER, &[]).unwrap();
            assert_eq!(chosen, Chosen { at, wording: Ok(text.to_owned()) }, "{raw}");
        }
        assert_eq!(read("", &few(), ANSWER, &[]), Err(Rejection::Missing));
        assert_eq!(read("C: Who has changed your thinking?", &few(), ANSWER, &[]), Err(Rejection::Form));
        assert_eq!(read("I think B is best.", &few(), ANSWER, &[]), Err(Rejection::Form));
    }

    #[test]
    fn words_that_ask_something_else_are_not_said_and_the_choice_stands() {
        use Rejection::*;
        for (raw, why) in [
            ("A: When did you last have to report that a goal would not be", NoQuestion),
            ("A: When did you last have to report that a goal would be reached?", Strays),
            ("A: When did two goals that you had to report last not get reached?", Strays),
            ("A: When did the team last have to report that a goal would not be reached?", Strays),
            ("A: What was the most difficult ledger, and how did you not compare it?", Twofold),
            ("A: How did you not compare the ledgers?", Strays),
            (
                "A: When did you last have to report that a goal would not be reached because my manager was away?",
                OutOfRole,
            ),
            (
                "A: You should have said so, but when did you last have to report that a goal would not be reached?",
                Advice,
            ),
            ("A: When did you last have to report to your wife that a goal would not be reached?", Protected),
            (
                "A: With tigers and elephants, when did you last report that a goal would not be reached?",
                Invented,
            ),
            ("A: You did not reach a goal?", Strays),
            ("A: Not a goal?", Length),
        ] {
            let chosen = read(raw, &few(), ANSWER, &[]).unwrap();
            assert_eq!((chosen.at, chosen.wording), (0, Err(why)), "{raw}");
        }
        let before = ["When did you last report a goal that would not be reached?".to_owned()];
        let again = read(
            "A: When did you last have to report that a goal would not be reached?",
            &few(),
            ANSWER,
            &before,
        );
        assert_eq!(again.unwrap().wording, Err(Repeats));
    }

    #[test]
    fn what_the_bank_asks_may_be_said_as_it_is() {
        // The rails must not refuse the bank's own words, whichever of its questions is chosen.
        let refused: Vec<(&str, Rejection)> = own_records()
            .filter_map(|record| {
                let end = record.question.find('?').map_or(record.question.len(), |mark| mark + 1);
                let text = &record.question[..end];
                check(text, record, "", &[]).err().map(|why| (record.question.as_str(), why))
            })
            .collect();
        assert!(
            refused.len() * 100 < own_records().count() * 8,
            "{} refused: {:?}",
            refused.len(),
            &refused[..9]
        );
    }

    #[test]
    fn what_the_model_reads_ends_with_the_answer() {
        let early = messages("nurse", &few(), "I compared");
        let late = messages("nurse", &few(), "I compared both ledgers");
        assert_eq!(early[0], late[0]);
        assert!(late[1].content.starts_with(&early[1].content) && late[1].content.ends_with("both ledgers"));
        let long = messages("nurse", &few(), &"word ".repeat(1_000));
        assert!(long[1].content.len() < ANSWER_CHARS + 400);
        let introduce = bank("Introduce yourself as if you were the subject of a one-minute radio portrait.");
        let apologised =
            bank("You apologised and the colleague stays cold. How do you carry on working with them?");
        let form = grammar(&[introduce, apologised]);
        assert!(form.starts_with("root ::= \"A: \" words \".\" | \"B: \" said words \"?\"\n"), "{form}");
    }
}
