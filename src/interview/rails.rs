//! What a small language model may write, and what of it may be said.
//!
//! Twice on rails: a grammar lets it write nothing but `NEXT` or `ASK: …?` with a question's first word, and what it
//! wrote is checked before a voice has it. A text that fails is not mended: the bank's own probe is said in its place.

use serde::{Deserialize, Serialize};

use super::words::{content, same, theirs, tokens};
use crate::knowledge::bank::screen::{protected, unspeakable};

/// Words of a follow-up: shorter ones ask nothing, longer ones ask two things.
const WORDS: std::ops::RangeInclusive<usize> = 4..=24;

/// What the model writes where the answer needs no follow-up.
pub const NEXT: &str = "NEXT";

/// What stands before its question.
pub const ASK: &str = "ASK:";

/// Tokens it may write: the longest question that passes, with its mark before it.
pub const TOKENS_MAX: u32 = 40;

/// With what a question may begin.
const STARTS: [&str; 30] = [
    "What",
    "How",
    "Why",
    "Which",
    "Who",
    "When",
    "Where",
    "Whom",
    "Whose",
    "Did",
    "Do",
    "Does",
    "Was",
    "Were",
    "Is",
    "Are",
    "Have",
    "Has",
    "Had",
    "Can you",
    "Could you",
    "Would you",
    "Will you",
    "In what",
    "In which",
    "At what",
    "With whom",
    "For whom",
    "To whom",
    "And",
];

/// With what the model's may begin: ways to ask for what was done, and how it was known. Left to itself the half-billion
/// model begins every fifth question with "What do you think about" or "What is the".
const OPENINGS: [&str; 24] = [
    "What did you",
    "What was",
    "What made",
    "What would you",
    "What happened",
    "What changed",
    "What helped",
    "What else",
    "How did you",
    "How did",
    "How do you",
    "How would you",
    "How long",
    "How often",
    "Why did you",
    "Why did",
    "Why was",
    "Who",
    "When did you",
    "Where did you",
    "Which",
    "Whom did you",
    "In what way",
    "Who else",
];

/// Words by which one gives advice, an opinion or a judgement.
pub(super) const ADVICE: [&str; 22] = [
    "you should",
    "you could have",
    "you need to",
    "you must",
    "i suggest",
    "i recommend",
    "i would recommend",
    "i advise",
    "my advice",
    "try to",
    "make sure",
    "remember to",
    "don't forget",
    "consider",
    "good job",
    "well done",
    "great answer",
    "good answer",
    "in my opinion",
    "i think",
    "i believe",
    "should you",
];

/// Words by which one falls out of the role: speaks as a candidate, as a program, or about the papers on the desk.
pub(super) const OUT_OF_ROLE: [&str; 33] = [
    "as an ai",
    "language model",
    "as an assistant",
    "how can i help",
    "can i help",
    "assist you",
    "help you with",
    "the candidate",
    "candidate's",
    "the interviewer",
    "interviewer",
    "the answer",
    "your answer",
    "the question",
    "this question",
    "follow-up",
    "follow up",
    "probe",
    "criteria",
    "a good answer",
    "my experience",
    "my team",
    "my role",
    "my job",
    "i was",
    "i am",
    "i have",
    "i did",
    "i had",
    "i would",
    "we are looking",
    "our company",
    "as a candidate",
];

/// Words of questions that ask for nothing an interviewer wants to know, as the half-billion model likes to write them:
/// opinions of a thing, definitions of what was just named, names and numbers of people and papers, how a thing was made
/// that nobody made.
const HOLLOW: [&str; 8] = [
    "what do you think",
    "do you want to know",
    "is it possible",
    "what is the",
    "name",
    "number",
    // "What did you do to your grandmother?", "... to make the bottle of wine?": written, and once let through.
    "do to your",
    "do to make",
];

/// Somebody's own people. Candidates speak of them, and an interviewer does not ask: "What did your grandmother do to
/// improve her health?" is about a family and an illness, and both models wrote something like it.
const KIN: [&str; 15] = [
    "mother",
    "father",
    "grandmother",
    "grandfather",
    "grandparents",
    "wife",
    "husband",
    "son",
    "daughter",
    "brother",
    "aunt",
    "uncle",
    "cousin",
    "girlfriend",
    "boyfriend",
];

/// Why a text is not said.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    /// There is none: the model failed, or was not done in time.
    Missing,
    /// It follows no form.
    Form,
    /// It does not end as a question, or does not begin as one.
    NoQuestion,
    /// Too short or too long.
    Length,
    /// It asks more than one thing.
    Twofold,
    /// It was asked before, or nearly.
    Repeats,
    /// It advises or judges.
    Advice,
    /// It falls out of the role.
    OutOfRole,
    /// It touches what must not be asked.
    Protected,
    /// It asks for nothing that matters.
    Hollow,
    /// It names nothing that only this candidate said.
    NotTheirs,
    /// It speaks of what nobody said.
    Invented,
    /// It asks something else than the question it stands for.
    Strays,
}

/// What a text is checked against.
#[derive(Debug, Clone, Copy)]
pub struct Against<'a> {
    /// The question on the table, with its probes and criteria: words that may be used.
    pub asked: &'a str,
    /// The bank's texts around it.
    pub papers: &'a str,
    /// What the candidate said to it.
    pub answer: &'a str,
    /// Everything that was asked so far.
    pub before: &'a [String],
    /// It puts the question in other words, rather than asking for more.
    pub rephrases: bool,
}

/// What the model wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// To go on.
    Next,
    /// To ask this.
    Ask(String),
}

/// The grammar of what it may write, in GBNF. Without `may_move_on` it has to ask.
pub fn grammar(may_move_on: bool) -> String {
    let starts: Vec<String> = OPENINGS.iter().map(|start| format!("\"{start}\"")).collect();
    let next = if may_move_on { format!(" | \"{NEXT}\"") } else { String::new() };
    format!(
        "root ::= \"{ASK} \" start rest \"?\"{next}\nstart ::= {}\nrest ::= \" \" [a-z] [a-zA-Z0-9 ,'-]+\n",
        starts.join(" | ")
    )
}

/// Reads what the model wrote.
pub fn read(raw: &str) -> Result<Wish, Rejection> {
    let raw = raw.trim();
    if raw.is_empty() {
        return Err(Rejection::Missing);
    }
    if raw.starts_with(NEXT) && !raw[NEXT.len()..].starts_with(char::is_alphanumeric) {
        return Ok(Wish::Next);
    }
    let text = raw.strip_prefix(ASK).ok_or(Rejection::Form)?;
    let line = text.trim_start().lines().next().unwrap_or_default();
    // Whatever comes after its first question is not asked.
    let end = line.find('?').ok_or(Rejection::NoQuestion)?;
    Ok(Wish::Ask(line[..=end].split_whitespace().collect::<Vec<_>>().join(" ")))
}

/// Whether a question may be said.
pub fn check(text: &str, against: &Against<'_>) -> Result<(), Rejection> {
    let words = tokens(text);
    let joined = format!(" {} ", words.join(" "));
    let has = |phrase: &&str| joined.contains(&format!(" {phrase} "));
    if !text.ends_with('?') || !begins_as_a_question(text) {
        return Err(Rejection::NoQuestion);
    }
    if !WORDS.contains(&words.len()) || is_stuck(&words) {
        return Err(Rejection::Length);
    }
    if protected(text).is_some() || words.iter().any(|word| KIN.contains(&word.trim_end_matches("'s"))) {
        return Err(Rejection::Protected);
    }
    if OUT_OF_ROLE.iter().any(has) {
        return Err(Rejection::OutOfRole);
    }
    if ADVICE.iter().any(has) {
        return Err(Rejection::Advice);
    }
    if asks_twice(&words) {
        return Err(Rejection::Twofold);
    }
    // Marks nobody can speak.
    if unspeakable(text).is_some() {
        return Err(Rejection::Form);
    }
    if HOLLOW.iter().any(has) {
        return Err(Rejection::Hollow);
    }
    if against.before.iter().any(|before| same(before, text)) && !against.rephrases {
        return Err(Rejection::Repeats);
    }
    let (known, said) = (content(&format!("{} {}", against.asked, against.papers)), content(against.answer));
    let subjects = content(text);
    if against.rephrases {
        return if subjects.intersection(&known).next().is_some() {
            Ok(())
        } else {
            Err(Rejection::Invented)
        };
    }
    let strange = subjects.iter().filter(|word| !known.contains(*word) && !said.contains(*word)).count();
    // A word or two of its own make a question; more is a subject of its own.
    if strange > subjects.len().div_ceil(2) {
        return Err(Rejection::Invented);
    }
    if theirs(text, against.answer, against.asked) == 0 {
        return Err(Rejection::NotTheirs);
    }
    Ok(())
}

/// Reads and checks.
pub fn accept(raw: &str, against: &Against<'_>) -> Result<Wish, Rejection> {
    let wish = read(raw)?;
    if let Wish::Ask(text) = &wish {
        check(text, against)?;
    }
    Ok(wish)
}

fn begins_as_a_question(text: &str) -> bool {
    STARTS
        .iter()
        .any(|start| text.strip_prefix(start).is_some_and(|rest| rest.starts_with(char::is_whitespace)))
}

/// A small model that repeats itself: the same three words twice.
pub(super) fn is_stuck(words: &[String]) -> bool {
    let threes: Vec<&[String]> = words.windows(3).collect();
    threes.iter().enumerate().any(|(i, three)| threes[i + 1..].contains(three))
}

/// Whether a second question hangs on the first.
pub(super) fn asks_twice(words: &[String]) -> bool {
    const ASKING: [&str; 9] = ["what", "how", "why", "which", "who", "when", "where", "did", "do"];
    words.windows(2).any(|pair| {
        matches!(pair[0].as_str(), "and" | "or" | "but" | "so") && ASKING.contains(&pair[1].as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: &str = "When did a piece of your work last go wrong, and what did you do?";
    const PAPERS: &str = "Names the cause. Says what they changed. How did you find it? Who noticed first?";
    const ANSWER: &str = "It was a race condition. Two workers took the same job from the queue, and customers were \
                          charged twice. I added a lock and wrote a test for it.";

    fn verdict(raw: &str) -> Result<Wish, Rejection> {
        let before = [ASKED.to_owned(), "How did you find the race condition?".to_owned()];
        accept(
            raw,
            &Against { asked: ASKED, papers: PAPERS, answer: ANSWER, before: &before, rephrases: false },
        )
    }

    #[test]
    fn what_a_careful_interviewer_would_ask_is_said() {
        for good in [
            "ASK: How did the customers who were charged twice hear of it?",
            "ASK: Why did two workers take the same job? And then",
            "ASK: What does the test for the lock check?",
            "ASK: Who noticed that customers were charged twice?",
        ] {
            let wish = verdict(good);
            assert!(
                matches!(&wish, Ok(Wish::Ask(text)) if text.ends_with('?') && !text.contains("And then")),
                "{wish:?}"
            );
        }
        assert_eq!(verdict("NEXT"), Ok(Wish::Next));
        assert_eq!(verdict(" NEXT\n"), Ok(Wish::Next));
    }

    #[test]
    fn everything_else_is_not() {
        use Rejection::*;
        for (bad, why) in [
            ("", Missing),
            ("NEXTLY", Form),
            ("What about the queue?", Form),
            ("ASK: You mentioned the queue.", NoQuestion),
            ("ASK: The queue was full?", NoQuestion),
            ("ASK: What about the queue that", NoQuestion),
            ("ASK: What queue?", Length),
            (
                "ASK: What was the queue and the lock that the workers who took the job from the queue of the customers of \
                 the other customers used at that time?",
                Length,
            ),
            ("ASK: What was the lock and the lock and the lock and?", Length),
            ("ASK: How did the customers feel and what did they say?", Twofold),
            ("ASK: How did you find this race condition?", Repeats),
            ("ASK: Have you considered that you should use a database lock?", Advice),
            ("ASK: What do I recommend for the queue? I think", Advice),
            ("ASK: What lock would the candidate add to the queue?", OutOfRole),
            ("ASK: How can I help you with the queue?", OutOfRole),
            ("ASK: Did your wife notice the customers of the queue?", Protected),
            ("ASK: How old are you and your customers?", Protected),
            ("ASK: What did your grandmother do to the queue?", Protected),
            ("ASK: What is your favourite holiday destination in Europe?", Invented),
            ("ASK: What did you change afterwards, and who noticed first?", Twofold),
            ("ASK: Who noticed the cause first?", NotTheirs),
            ("ASK: What about the lock (or queue)?", Form),
        ] {
            assert_eq!(verdict(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn a_rephrasing_stays_with_its_question() {
        let before = [ASKED.to_owned()];
        let against = Against {
            asked: ASKED,
            papers: PAPERS,
            answer: "What do you mean?",
            before: &before,
            rephrases: true,
        };
        assert!(accept("ASK: Which work of yours went wrong?", &against).is_ok());
        assert_eq!(accept("ASK: What is your favourite holiday place?", &against), Err(Rejection::Invented));
    }
}
