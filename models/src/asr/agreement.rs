//! Partial transcripts that only ever grow (LocalAgreement-2, Macháček et al. 2023).
//!
//! A recogniser that hears an utterance again and again, longer each time, changes its mind about the last
//! words. A word is given out once two hypotheses in a row agree on it, and never taken back. Agreement
//! does not look at case and punctuation, and a word's closing punctuation is held until the next word is
//! certain: what looks like a sentence's end may be the middle of one.

/// Words of one hypothesis that are looked at: several times what 30 s of speech hold; a recogniser that
/// says more is caught in a loop.
const WORDS_MAX: usize = 400;

/// What has been given out of one utterance.
#[derive(Debug, Clone, Default)]
pub struct Agreement {
    /// Compared forms of the words given out.
    confirmed: Vec<String>,
    /// Words of the last hypothesis behind those.
    pending: Vec<Word>,
    text: String,
}

#[derive(Debug, Clone)]
struct Word {
    /// As compared: lower case, letters and digits only. Never empty.
    key: String,
    /// As written, without closing punctuation.
    body: String,
    /// Closing punctuation.
    tail: String,
}

impl Agreement {
    /// Nothing heard yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// All that was given out.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Takes the next hypothesis for the whole utterance so far; returns what is to be appended to the text
    /// given out, often nothing.
    pub fn push(&mut self, hypothesis: &str) -> String {
        let words = split(hypothesis);
        let start = end_of(&self.confirmed, &words);
        let agreed =
            words[start..].iter().zip(&self.pending).take_while(|(new, old)| new.key == old.key).count();
        let appended = self.append(&words, start, start + agreed);
        self.pending = words[start + agreed..].to_vec();
        appended
    }

    /// Takes the final text of the utterance and returns what is to be appended. What was given out stays,
    /// even where the final text sees it differently. Afterwards the next utterance can begin.
    pub fn finish(&mut self, final_text: &str) -> String {
        let words = split(final_text);
        let start = end_of(&self.confirmed, &words);
        let mut appended = self.append(&words, start, words.len());
        if let Some(last) = words.last() {
            appended.push_str(&last.tail);
        }
        *self = Self::default();
        appended
    }

    /// Gives out `words[from..to]`, with the punctuation that `words` has in front of them.
    fn append(&mut self, words: &[Word], from: usize, to: usize) -> String {
        let mut appended = String::new();
        for at in from..to {
            if !self.confirmed.is_empty() {
                if let Some(before) = at.checked_sub(1).and_then(|at| words.get(at)) {
                    appended.push_str(&before.tail);
                }
                appended.push(' ');
            }
            appended.push_str(&words[at].body);
            self.confirmed.push(words[at].key.clone());
        }
        self.text.push_str(&appended);
        appended
    }
}

/// Where in `words` the words given out end: the prefix with the smallest edit distance to them. Among equals
/// one that ends with the same word, then one of the same length.
fn end_of(confirmed: &[String], words: &[Word]) -> usize {
    // row[k]: edit distance between the confirmed words so far and the first k of `words`.
    let mut row: Vec<usize> = (0..=words.len()).collect();
    for (i, known) in confirmed.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (k, word) in words.iter().enumerate() {
            let substituted = diagonal + usize::from(word.key != *known);
            diagonal = row[k + 1];
            row[k + 1] = substituted.min(diagonal + 1).min(row[k] + 1);
        }
    }
    let last = confirmed.last();
    let rank = |k: usize| {
        let same_end = k.checked_sub(1).is_some_and(|at| last.is_some_and(|last| words[at].key == *last));
        (row[k], !same_end, k.abs_diff(confirmed.len()))
    };
    (0..=words.len()).min_by_key(|k| rank(*k)).unwrap_or(0)
}

/// Splits at white space; punctuation that stands alone goes to the word before it, or the first one.
fn split(text: &str) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    let mut lead = String::new();
    for part in text.split_whitespace() {
        let key: String = part.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
        if key.is_empty() {
            match words.last_mut() {
                Some(word) => {
                    word.tail.push(' ');
                    word.tail.push_str(part);
                }
                None => {
                    lead.push_str(part);
                    lead.push(' ');
                }
            }
            continue;
        }
        if words.len() == WORDS_MAX {
            break;
        }
        let body = part.trim_end_matches(|c: char| !c.is_alphanumeric());
        let tail = &part[body.len()..];
        words.push(Word { key, body: format!("{}{body}", std::mem::take(&mut lead)), tail: tail.to_owned() });
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes all but the last text, finishes with the last; returns the pieces given out.
    fn check(hypotheses: &[&str], expect: &[&str]) {
        let mut agreement = Agreement::new();
        let (last, partial) = hypotheses.split_last().expect("at least the final text");
        let mut pieces: Vec<String> = partial.iter().map(|text| agreement.push(text)).collect();
        assert_eq!(agreement.text(), pieces.concat());
        pieces.push(agreement.finish(last));
        assert_eq!(pieces, expect);
    }

    #[test]
    fn a_word_is_given_out_when_two_hypotheses_agree() {
        check(
            &["I have", "I have worked", "I have worked at", "I have worked as a nurse."],
            &["", "I have", " worked", " as a nurse."],
        );
    }

    #[test]
    fn case_and_punctuation_do_not_matter_and_the_newer_form_is_given() {
        check(&["well i think", "Well, I think. So", "Well, I think so."], &["", "Well, I think", " so."]);
    }

    #[test]
    fn closing_punctuation_waits_for_the_next_word() {
        check(
            &[
                "He was young.",
                "He was young.",
                "He was young, and",
                "He was young, and tall.",
                "He was young, and tall!",
            ],
            &["", "He was young", "", ", and", " tall!"],
        );
    }

    #[test]
    fn nothing_is_taken_back() {
        check(
            &["the amicable", "the amicable woman", "the amiable woman might", "the amiable woman might be"],
            &["", "the amicable", " woman", " might be"],
        );
        check(&["one two three", "one two three", "one"], &["", "one two three", ""]);
        check(&["one two", "one two", "zero one two three"], &["", "one two", " three"]);
    }

    #[test]
    fn a_hypothesis_that_drops_or_repeats_words_is_found_again() {
        check(
            &["a b c", "a b c d", "b c d e", "a b c d e f", "a b c d e f g"],
            &["", "a b c", " d", " e", " f g"],
        );
    }

    #[test]
    fn empty_texts_give_nothing() {
        check(&["", "", ""], &["", "", ""]);
        check(&["...", "— –", "Yes."], &["", "", "Yes."]);
        check(&["Yes", "Yes", ""], &["", "Yes", ""]);
        check(&["- Yes", "- Yes - no", "- Yes - no -"], &["", "- Yes", " - no -"]);
    }

    #[test]
    fn a_finished_agreement_starts_anew() {
        let mut agreement = Agreement::new();
        agreement.push("one two");
        agreement.push("one two");
        assert_eq!(agreement.finish("one two three"), " three");
        assert_eq!(agreement.push("one"), "");
        assert_eq!(agreement.finish("one"), "one");
    }

    /// Seeded; a failure prints the seed.
    fn random(seed: &mut u64) -> usize {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        (*seed >> 11) as usize
    }

    const WORDS: [&str; 8] = ["I", "have,", "worked", "at", "Nurse.", "the", "it's", "42"];

    fn sentence(seed: &mut u64, words: usize) -> Vec<&'static str> {
        (0..words).map(|_| WORDS[random(seed) % WORDS.len()]).collect()
    }

    #[test]
    fn growing_prefixes_come_out_as_the_final_text() {
        for case in 1..2_000u64 {
            let mut seed = case.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let length = random(&mut seed) % 30;
            let words = sentence(&mut seed, length);
            let mut agreement = Agreement::new();
            let (mut out, mut at) = (String::new(), 0);
            while at < words.len() {
                at = (at + random(&mut seed) % 4).min(words.len());
                out += &agreement.push(&words[..at].join(" "));
            }
            out += &agreement.finish(&words.join(" "));
            assert_eq!(out, words.join(" "), "seed {case}");
        }
    }

    #[test]
    fn any_hypotheses_only_ever_append_words() {
        for case in 1..2_000u64 {
            let mut seed = case.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let (mut agreement, mut out) = (Agreement::new(), String::new());
            let mut last = 0;
            for _ in 0..random(&mut seed) % 8 {
                let length = random(&mut seed) % 12;
                let piece = agreement.push(&sentence(&mut seed, length).join(" "));
                assert!(piece.split_whitespace().count() <= length, "seed {case}");
                out += &piece;
                assert_eq!(agreement.text(), out, "seed {case}");
                last = out.split_whitespace().count();
            }
            let length = random(&mut seed) % 12;
            out += &agreement.finish(&sentence(&mut seed, length).join(" "));
            let count = out.split_whitespace().count();
            assert!(count >= last && count <= last + length, "seed {case}: {out}");
        }
    }

    #[test]
    fn a_recogniser_in_a_loop_is_bounded() {
        let mut agreement = Agreement::new();
        let endless = "loop ".repeat(100_000);
        agreement.push(&endless);
        agreement.push(&endless);
        assert!(agreement.text().split_whitespace().count() <= WORDS_MAX);
    }
}
