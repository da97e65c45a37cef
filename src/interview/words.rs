//! Words of what is said: which carry meaning, how much two texts share, what of an answer can be named.

use std::collections::HashSet;
use std::sync::LazyLock;

/// Words that carry no subject: whoever shares only these shares nothing.
const EMPTY: &str = "a about above actually after again against ago all almost alone along already also although \
always am among an and another any anybody anyone anything are around as ask at away back basically be became \
because become been before began behind being believe below between both but by call called came can cannot come \
comes could course did different do does doing don done down during each either else end enough especially even \
ever every everybody everyone everything far few find first for found from gave get getting give given go goes \
going gone good got great had happen happened happens has have having he her here hers herself him himself his how \
however i if in instead into is it its itself just keep kept kind knew know known last later least less let like \
likely little ll long look lot lots made make makes making many may maybe me mean means might mine more most much \
must my myself need needed never new next no nobody none nor not nothing now of off often okay on once one only or \
other others our ours ourselves out over own part people perhaps person please put quite rather re really right \
said same saw say see seem seemed seen several shall she should show since so some somebody someone something \
sometimes soon sort started still such sure take taken talk tell than thank thanks that the their theirs them \
themselves then there these they thing things think this those though thought three through thus time times to \
together told too took toward towards tried try turn two under until up upon us use used using usually ve very want \
wanted was way we well went were what whatever when whenever where whether which while who whole whom whose why \
will with within without word words work worked working works would year years yes yet you your yours yourself um \
uh hmm er well yeah example time situation describe tell question answer";

/// Words before which a noun phrase ends.
const AFTER_NOUN: &str = "a about after all also although an and are as at because before but by came can could did \
do does during every for from had has have he i if in into is it just my no of on or our over she since so than \
that the then there they this to until was we went were when where which while who will with without would you";

/// Words with which a noun phrase begins.
const BEFORE_NOUN: [&str; 8] = ["the", "a", "an", "my", "our", "this", "that", "those"];

/// Words a named phrase must not have: they point at something that is not in it, or are about the person.
const UNNAMED: &str = "one ones thing things same other others first second third last next way lot bit kind sort \
part time times day days moment beginning end case point fact person people somebody someone boy girl man woman \
men women wife husband mother father grandmother grandfather parents children child son daughter family health \
illness religion church old young own whole rest half couple few end most best worst side number";

/// Letters a word has at least that is named alone: shorter ones are seldom of the trade. Each word before it makes
/// up for one.
const NAMED_MIN: usize = 4;

/// A text's words in lower case, without marks.
pub fn tokens(text: &str) -> Vec<String> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '\'' || c == '-'))
        .map(|word| word.trim_matches(['\'', '-']).to_lowercase())
        .filter(|word| !word.is_empty())
        .collect()
}

type Words = LazyLock<HashSet<&'static str>>;

static EMPTIES: Words = LazyLock::new(|| EMPTY.split_whitespace().collect());
static AFTER_NOUNS: Words = LazyLock::new(|| AFTER_NOUN.split_whitespace().collect());
static UNNAMEDS: Words = LazyLock::new(|| UNNAMED.split_whitespace().collect());

/// A word without the endings that change nothing of its subject.
fn stem(word: &str) -> String {
    let word = word.split('\'').next().unwrap_or(word);
    for ending in ["ings", "ing", "edly", "ed", "ies", "es", "s", "ly"] {
        if let Some(stem) = word.strip_suffix(ending)
            && stem.len() >= 4
        {
            return stem.trim_end_matches('e').to_owned();
        }
    }
    word.trim_end_matches('e').to_owned()
}

/// The words that carry its subject, as stems.
pub fn content(text: &str) -> HashSet<String> {
    tokens(text)
        .iter()
        .filter(|word| word.len() > 2 && !EMPTIES.contains(word.as_str()))
        .map(|word| stem(word))
        .collect()
}

/// How much of the shorter text's subject the other shares, 0..1.
pub fn overlap(a: &str, b: &str) -> f32 {
    let (a, b) = (content(a), content(b));
    let least = a.len().min(b.len());
    if least == 0 {
        return 0.0;
    }
    a.intersection(&b).count() as f32 / least as f32
}

/// Whether one text is the other in all but small words.
pub fn same(a: &str, b: &str) -> bool {
    let (a, b) = (content(a), content(b));
    let all = a.union(&b).count();
    all > 0 && a.intersection(&b).count() * 10 >= all * 7
}

/// Subjects a text shares with an answer that were not in what was asked.
pub fn theirs(text: &str, answer: &str, asked: &str) -> usize {
    let (text, answer, asked) = (content(text), content(answer), content(asked));
    text.intersection(&answer).filter(|word| !asked.contains(*word)).count()
}

/// Something that only this candidate said, as it can be named to them: "the night shift", "your billing
/// system". None where nothing can be named without guessing.
pub fn named(answer: &str, asked: &str) -> Option<String> {
    let asked = content(asked);
    let mut best: Option<(usize, String)> = None;
    // A phrase does not reach over a mark.
    for part in answer.split(['.', ',', ';', ':', '?', '!', '…', '—', '|']) {
        let words = tokens(part);
        for (at, word) in words.iter().enumerate().filter(|(_, w)| BEFORE_NOUN.contains(&w.as_str())) {
            let rest = &words[at + 1..];
            let length =
                rest.iter().take(4).position(|w| AFTER_NOUNS.contains(w.as_str())).unwrap_or(rest.len());
            if !(1..=3).contains(&length) {
                continue;
            }
            let phrase = &rest[..length];
            let usable = phrase.iter().all(|w| {
                !UNNAMEDS.contains(w.as_str()) && !EMPTIES.contains(w.as_str()) && !w.contains('\'')
            }) && phrase
                .last()
                .is_some_and(|w| w.len() + phrase.len() > NAMED_MIN && !looks_like_a_verb(w))
                && phrase.iter().any(|w| !asked.contains(&stem(w)));
            if !usable {
                continue;
            }
            let whose = match word.as_str() {
                "my" | "our" => "your",
                "those" => "those",
                _ => "the",
            };
            let letters = phrase.iter().map(String::len).sum::<usize>();
            // The longer a phrase the more of their own it says.
            if best.as_ref().is_none_or(|(most, _)| letters > *most) {
                best = Some((letters, format!("{whose} {}", phrase.join(" "))));
            }
        }
    }
    best.map(|(_, phrase)| phrase)
}

/// Whether a word more likely says what was done than what it was done with.
fn looks_like_a_verb(word: &str) -> bool {
    (word.ends_with("ed") && word.len() > 4) || word.ends_with("ing") || word.ends_with("ly")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_named_is_a_phrase_of_their_own() {
        let asked = "Tell me about a time when something went wrong at work.";
        for (answer, phrase) in [
            (
                "It was a race condition. Two workers took the same job from the queue.",
                Some("the race condition"),
            ),
            ("The second one, the museum app, is the one I'm proud of.", Some("the museum app")),
            (
                "I closed the monthly ledger with our regional branches, and it took two days.",
                Some("your regional branches"),
            ),
            ("Well, it was my grandmother, she was ill.", None),
            ("I just did it, you know.", None),
            ("", None),
        ] {
            assert_eq!(named(answer, asked).as_deref(), phrase, "{answer}");
        }
    }

    #[test]
    fn what_was_in_the_question_is_not_theirs() {
        assert_eq!(named("I like the night shift.", "How do you like the night shift?"), None);
        assert_eq!(theirs("How did the queue fail?", "the queue was full", "Tell me about the queue."), 0);
        assert_eq!(theirs("How did the queue fail?", "the queue was full", "Tell me about a bug."), 1);
    }

    #[test]
    fn the_same_in_other_small_words_is_the_same() {
        assert!(same(
            "What did you learn from the migration?",
            "And what have you learned from that migration?"
        ));
        assert!(!same("What did you learn from the migration?", "Who paid for the migration of the ledger?"));
        assert!(overlap("How do you handle the night shift?", "the night shifts were hard") > 0.6);
        assert_eq!(overlap("", "the night shift"), 0.0);
    }
}
