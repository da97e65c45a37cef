//! What may be asked at all, and what a voice can say.

/// Words of a question: fewer say nothing, more nobody keeps in mind while listening.
const WORDS: std::ops::RangeInclusive<usize> = 3..=45;

/// Characters nobody can speak. Quotes and dashes within a sentence are fine.
const UNSPEAKABLE: &[char] = &[
    '(', ')', '/', '\\', '[', ']', '{', '}', '`', '<', '>', '*', '_', '=', '|', '#', '@', '~', '^', '+', '•',
];

/// What a candidate must not be asked about, as words in lower case. `*` stands for any ending.
const PROTECTED: &[&str] = &[
    "how old are you",
    "how old were you",
    "your age",
    "your date of birth",
    "year were you born",
    "when do you retire",
    "you plan to retire",
    "retirement plans",
    "married",
    "marital",
    "single or",
    "spouse",
    "husband",
    "wife",
    "boyfriend",
    "girlfriend",
    "fiance*",
    "divorce*",
    "children of your own",
    "your children",
    "your kids",
    "your family",
    "have children",
    "have kids",
    "start a family",
    "starting a family",
    "pregnan*",
    "maternity",
    "paternity",
    "childcare",
    "child care",
    "your parents",
    "religio*",
    "church",
    "mosque",
    "synagogue",
    "pray",
    "your faith",
    "sabbath",
    "nationality",
    "citizenship",
    "citizen of",
    "native language",
    "mother tongue",
    "native speaker",
    "your accent",
    "where are you from",
    "your origin*",
    "your race",
    "ethnic*",
    "skin colo*",
    "country were you born",
    "where were you born",
    "gender",
    "transgender",
    "sexual*",
    "your pronouns",
    "gay",
    "lesbian",
    "disability",
    "disabilities",
    "are you disabled",
    "you are disabled",
    "your health",
    "illness of yours",
    "are you ill",
    "chronic illness",
    "sick days did you",
    "medication do you",
    "medicine do you take",
    "do you smoke",
    "do you drink",
    "your weight",
    "how tall",
    "mental health history",
    "vote for",
    "political part*",
    "politically",
    "your politics",
    "union member*",
    "trade union",
    "labor union",
    "labour union",
    "salary history",
    "much did you earn",
    "earn in your last",
    "earn at your last",
    "current salary",
    "last salary",
    "previous salary",
    "arrested",
    "criminal record",
    "convicted",
    "been in prison",
    "military discharge",
    "bankruptcy have you",
    "own your home",
    "credit rating of yours",
];

/// Why a question cannot be asked aloud, if it cannot.
pub fn unspeakable(question: &str) -> Option<String> {
    let words = question.split_whitespace().count();
    if !WORDS.contains(&words) {
        return Some(format!(
            "it has {words} words; a question that is spoken has {} to {}",
            WORDS.start(),
            WORDS.end()
        ));
    }
    if let Some(sign) = question.chars().find(|c| UNSPEAKABLE.contains(c)) {
        return Some(format!("nobody can say {sign:?}"));
    }
    let marks = question.matches('?').count();
    if marks > 1 || (marks == 1 && !question.ends_with('?')) {
        return Some("it asks more than one thing: a question mark stands before its end".into());
    }
    if !question.ends_with(['?', '.']) {
        return Some("it ends neither as a question nor as a request".into());
    }
    None
}

/// The protected matter a question touches, if it names one.
pub fn protected(question: &str) -> Option<&'static str> {
    let words: Vec<String> = question
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    PROTECTED.iter().copied().find(|phrase| {
        let phrase: Vec<&str> = phrase.split(' ').collect();
        words
            .windows(phrase.len())
            .any(|part| part.iter().zip(&phrase).all(|(word, wanted)| fits(word, wanted)))
    })
}

fn fits(word: &str, wanted: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(beginning) => word.starts_with(beginning),
        None => word == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_voice_cannot_say_is_refused() {
        for bad in [
            "Why?",
            "Explain TCP/IP to me please.",
            "What is it? And why is it so?",
            "What does `main` do in this program?",
            "Name three things that matter here",
        ] {
            assert!(unspeakable(bad).is_some(), "{bad}");
        }
        assert!(unspeakable(&"word ".repeat(60)).is_some());
        assert_eq!(unspeakable("You said \"no\" twice - what happened then?"), None);
    }

    #[test]
    fn protected_matters_are_found_in_any_dress() {
        for bad in [
            "So, how old are you?",
            "Are you married?",
            "Do you plan to start a family soon?",
            "Which church do you go to?",
            "What is your nationality?",
            "Is English your mother tongue?",
            "Do you have any disability we should know of?",
            "Whom did you vote for?",
            "Are you a union member?",
            "What did you earn in your last job?",
            "Have you ever been arrested?",
        ] {
            assert!(protected(bad).is_some(), "{bad}");
        }
        assert_eq!(protected("How do you raise a patient's fluid intake?"), None);
        assert_eq!(protected("When would you retire an old interface?"), None);
    }
}
