//! The words of a query that are worth looking for.

use std::collections::HashSet;

/// Words looked for at most: each is a list of rows to go through, and a long query says what it is about
/// early.
const WORDS_MAX: usize = 40;

/// Letters of a word that are looked at.
const LETTERS_MAX: usize = 40;

/// Words that stand in every third question, and those that only hold a sentence together. Looking for them
/// costs the most and finds nothing.
const STOP: &str = "a about after again all also always am an and another any anything are as ask asked at away \
    back be because been before began begin being between both but by call came can cannot come could did do does \
    doing done down during each either else enough even ever every everybody everyone everything few find first \
    for from gave get gets getting give given gives go goes going gone good got had has have having he her here \
    hers him his how i if in into is it its just keep kept kind know last least less let lets like little look \
    made make makes many may me might mine more most much must my need neither never new next no nobody none nor \
    not nothing now of off often on once one only onto or other others our ours out over own per please put \
    rather really said same saw say says see shall she should since so some somebody someone something sometimes \
    somewhere still such take tell than that the their theirs them then there these they thing things think this \
    those though three through time to together told too took toward two under until up upon us use used very \
    walk want wanted was way we well went were what when where whether which while who whole whom whose why will \
    with within without would yes yet you your yours yourself";

/// The words of a text in lower case, in order, each once.
pub fn worth_finding(text: &str) -> Vec<String> {
    let stop: HashSet<&str> = STOP.split_whitespace().collect();
    let mut seen = HashSet::new();
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| word.chars().count() > 1)
        .map(|word| word.chars().take(LETTERS_MAX).flat_map(char::to_lowercase).collect::<String>())
        .filter(|word| !stop.contains(word.as_str()) && seen.insert(word.clone()))
        .take(WORDS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_question_is_about_is_left() {
        assert_eq!(
            worth_finding("How do you keep a Python service, or two, alive?"),
            ["python", "service", "alive"]
        );
        assert_eq!(worth_finding("service SERVICE Service"), ["service"]);
        assert!(worth_finding("What would you do?").is_empty());
    }

    #[test]
    fn nothing_of_a_query_language_is_left() {
        assert_eq!(worth_finding("\"a\" OR NEAR(b*) -- '; DROP"), ["near", "drop"]);
    }

    #[test]
    fn words_and_letters_have_a_limit() {
        let long: String = (0..10_000).map(|i| format!("word{i} ")).collect();
        assert_eq!(worth_finding(&long).len(), WORDS_MAX);
        assert_eq!(worth_finding(&"x".repeat(9_000))[0].len(), LETTERS_MAX);
    }
}
