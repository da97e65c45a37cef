//! Cutting a line into what one inference may say.
//!
//! espeak drops punctuation and glues clauses, and Piper's voices need the marks for their melody: so the
//! text is cut at its marks, each clause is phonemised alone and its mark put back behind it.

/// Letters of one inference: 300 letters are about 20 s of speech at the slowest voice. Longer text is cut
/// at a clause, then at a space, then anywhere.
pub(crate) const LETTERS_MAX: usize = 300;

/// A stretch of text without marks, and the mark that ended it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Clause {
    pub(crate) text: String,
    pub(crate) mark: char,
}

impl Clause {
    /// Whether the voice drops and rests after it.
    fn ends_sentence(&self) -> bool {
        matches!(self.mark, '.' | '!' | '?')
    }
}

/// The clauses of each inference, in order: whole sentences, unless one is longer than [`LETTERS_MAX`].
/// Clauses without a letter or digit are left out.
pub(crate) fn sentences(text: &str) -> Vec<Vec<Clause>> {
    let mut out: Vec<Vec<Clause>> = Vec::new();
    let mut current: Vec<Clause> = Vec::new();
    let mut letters = 0;
    for clause in clauses(text) {
        let n = clause.text.chars().count();
        if letters + n > LETTERS_MAX && !current.is_empty() {
            out.push(std::mem::take(&mut current));
            letters = 0;
        }
        letters += n;
        let ends = clause.ends_sentence();
        current.push(clause);
        if ends {
            out.push(std::mem::take(&mut current));
            letters = 0;
        }
    }
    if !current.is_empty() {
        out.push(current);
    }
    out
}

fn clauses(text: &str) -> Vec<Clause> {
    let chars: Vec<char> = text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect();
    let mut out = Vec::new();
    let mut from = 0;
    for (i, &c) in chars.iter().enumerate() {
        let before = i.checked_sub(1).map(|b| chars[b]);
        let Some(mark) = mark_of(c, before, chars.get(i + 1).copied()) else { continue };
        push(&mut out, &chars[from..i], mark);
        from = i + 1;
    }
    // A text that just stops is spoken as a finished sentence.
    push(&mut out, &chars[from..], '.');
    out
}

/// The mark Piper's voices know for a character that ends a clause here. Marks inside a number or a word
/// ("3.5", "10:30", "example.com") end nothing.
fn mark_of(c: char, before: Option<char>, after: Option<char>) -> Option<char> {
    let inside = before.is_some_and(char::is_alphanumeric) && after.is_some_and(char::is_alphanumeric);
    match c {
        '\n' | '…' | '。' => Some('.'),
        '—' | '–' if !(inside && before.is_some_and(char::is_numeric)) => Some(','),
        '？' => Some('?'),
        '！' => Some('!'),
        '.' | ',' | ';' | ':' | '!' | '?' if !inside => Some(c),
        _ => None,
    }
}

fn push(out: &mut Vec<Clause>, chars: &[char], mark: char) {
    if !chars.iter().any(|c| c.is_alphanumeric()) {
        // "?!" and "...": the stronger mark wins over a comma, and nothing is said twice.
        if let Some(last) = out.last_mut()
            && matches!(last.mark, ',' | ';' | ':')
            && matches!(mark, '.' | '!' | '?')
            && chars.iter().all(|c| c.is_whitespace())
        {
            last.mark = mark;
        }
        return;
    }
    let mut rest = chars;
    while rest.len() > LETTERS_MAX {
        let cut =
            rest[..LETTERS_MAX].iter().rposition(|c| c.is_whitespace()).map_or(LETTERS_MAX, |at| at + 1);
        let text: String = rest[..cut].iter().collect();
        out.push(Clause { text: text.trim().to_owned(), mark: ',' });
        rest = &rest[cut..];
    }
    let text: String = rest.iter().collect();
    out.push(Clause { text: text.trim().to_owned(), mark });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &[&[(&str, char)]]) {
        let found = sentences(text);
        let found: Vec<Vec<(&str, char)>> =
            found.iter().map(|s| s.iter().map(|c| (c.text.as_str(), c.mark)).collect()).collect();
        assert_eq!(found, expect, "{text:?}");
    }

    #[test]
    fn clauses_keep_their_marks_and_sentences_stand_alone() {
        check("Well, that helps. Why?", &[&[("Well", ','), ("that helps", '.')], &[("Why", '?')]]);
        check("One — two\nthree", &[&[("One", ','), ("two", '.')], &[("three", '.')]]);
        check("Really?! Yes...", &[&[("Really", '?')], &[("Yes", '.')]]);
    }

    #[test]
    fn numbers_times_and_addresses_are_not_cut() {
        check("At 10:30 version 3.5 of example.com", &[&[("At 10:30 version 3.5 of example.com", '.')]]);
        check("1,000 people, 2019–2021", &[&[("1,000 people", ','), ("2019–2021", '.')]]);
    }

    #[test]
    fn nothing_to_say_is_no_sentence() {
        for text in ["", "   ", "...", "?!", "\n\n", "— —", "\0\u{7}"] {
            check(text, &[]);
        }
    }

    #[test]
    fn no_inference_is_longer_than_the_limit() {
        for text in ["word ".repeat(500), "x".repeat(2_000), "one two three, ".repeat(100)] {
            let letters: usize = text.chars().filter(|c| c.is_alphabetic()).count();
            let parts = sentences(&text);
            let mut kept = 0;
            for part in &parts {
                let n: usize = part.iter().map(|c| c.text.chars().count()).sum();
                assert!(n <= LETTERS_MAX, "{n} letters");
                kept += part.iter().flat_map(|c| c.text.chars()).filter(|c| c.is_alphabetic()).count();
            }
            assert_eq!(kept, letters);
        }
    }
}
