//! From whisper's tokens to words.

use viva_models::Word;

/// One text token. Its bytes need not be whole characters.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub(crate) bytes: Vec<u8>,
    pub(crate) probability: f32,
    /// Centiseconds from the start; only meaningful when timings were asked for.
    pub(crate) start_cs: i64,
    pub(crate) end_cs: i64,
}

/// The words of a decode of `samples` at 16 kHz: a token that begins with a space begins a word. What stands
/// in brackets ("[BLANK_AUDIO]", "(music)", "*sighs*") describes sounds and was not said; it is left out.
/// Times never run backwards and never past the audio.
pub(crate) fn words_of(pieces: &[Piece], samples: usize) -> Vec<Word> {
    let end_ms = i64::try_from(samples / 16).unwrap_or(i64::MAX);
    let mut words = Vec::new();
    let mut closing = None;
    let mut at = 0;
    for group in pieces.chunk_by(|_, next| !next.bytes.starts_with(b" ")) {
        let bytes: Vec<u8> = group.iter().flat_map(|p| p.bytes.iter().copied()).collect();
        let text = unbracketed(String::from_utf8_lossy(&bytes).trim(), &mut closing);
        let start = (group.first().map_or(0, |p| p.start_cs) * 10).clamp(at, end_ms.max(at));
        let end = (group.last().map_or(0, |p| p.end_cs) * 10).clamp(start, end_ms.max(start));
        at = start;
        if text.is_empty() {
            continue;
        }
        // The geometric mean: one doubtful syllable makes a doubtful word, whatever its length.
        let log: f32 = group.iter().map(|p| p.probability.max(1e-6).ln()).sum();
        words.push(Word {
            text,
            start_ms: u32::try_from(start).unwrap_or(0),
            end_ms: u32::try_from(end).unwrap_or(0),
            confidence: (log / group.len() as f32).exp().clamp(0.0, 1.0),
        });
    }
    if words.iter().any(|w| w.text.chars().any(char::is_alphanumeric)) { words } else { Vec::new() }
}

/// `text` without what stands in brackets; `closing` is the bracket still open from the word before.
fn unbracketed(text: &str, closing: &mut Option<char>) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match (*closing, c) {
            (Some(end), c) if c == end => *closing = None,
            (Some(_), _) | (None, '♪' | '♫' | '\u{FFFD}') => {}
            (None, '[') => *closing = Some(']'),
            (None, '(') => *closing = Some(')'),
            (None, '*') => *closing = Some('*'),
            (None, c) => out.push(c),
        }
    }
    out
}

/// Longest phrase looked for in a loop, words: a long sentence.
const PHRASE_WORDS_MAX: usize = 24;

/// Whether the text says one phrase over and over: whisper's way of failing. Nobody says a word six times,
/// a phrase of three words four times, or six words and more twice running, and where somebody does, a second
/// decode at full context costs time but no words.
pub(crate) fn repeats_itself(words: &[Word]) -> bool {
    let plain: Vec<String> = words
        .iter()
        .map(|w| w.text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect())
        .collect();
    (1..=PHRASE_WORDS_MAX).any(|n| {
        let allowed = match n {
            ..3 => 6,
            3..6 => 4,
            _ => 2,
        };
        let mut same = 0;
        plain.iter().zip(plain.iter().skip(n)).any(|(a, b)| {
            same = if a == b { same + 1 } else { 0 };
            same >= n * (allowed - 1)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(texts: &[&str]) -> Vec<Piece> {
        let piece = |(i, t): (usize, &&str)| Piece {
            bytes: t.as_bytes().to_vec(),
            probability: 0.5,
            start_cs: 10 * i as i64,
            end_cs: 10 * i as i64 + 10,
        };
        texts.iter().enumerate().map(piece).collect()
    }

    fn said(texts: &[&str]) -> String {
        let words = words_of(&pieces(texts), 16_000);
        words.iter().map(|w| w.text.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn tokens_join_into_words_with_their_times() {
        let words = words_of(&pieces(&[" inter", "view", ",", " yes"]), 16_000);
        let found: Vec<_> = words.iter().map(|w| (w.text.as_str(), w.start_ms, w.end_ms)).collect();
        assert_eq!(found, [("interview,", 0, 300), ("yes", 300, 400)]);
        assert!((words[0].confidence - 0.5).abs() < 1e-3);
    }

    #[test]
    fn times_stay_inside_the_audio() {
        let words = words_of(&pieces(&[" one", " two", " three"]), 16 * 150);
        assert!(words.iter().all(|w| w.start_ms <= w.end_ms && w.end_ms <= 150), "{words:?}");
    }

    #[test]
    fn descriptions_of_sounds_are_not_words() {
        for texts in
            [&[" [", "BLANK", "_", "AUDIO", "]"][..], &[" (soft", " music)"], &[" ♪"], &[" ..."], &[]]
        {
            assert_eq!(said(texts), "", "{texts:?}");
        }
        assert_eq!(said(&[" Yes", " (laughs", " softly)", " I", " did", "."]), "Yes I did.");
    }

    #[test]
    fn a_character_split_over_tokens_is_whole() {
        let mut split = pieces(&[" caf", "", "."]);
        split[0].bytes.push(0xC3);
        split[1].bytes = vec![0xA9];
        assert_eq!(words_of(&split, 16_000)[0].text, "café.");
    }

    #[test]
    fn loops_are_seen_and_emphasis_is_not() {
        let check = |text: &str, expect: bool| {
            let parts: Vec<String> = text.split(' ').map(|w| format!(" {w}")).collect();
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            assert_eq!(repeats_itself(&words_of(&pieces(&parts), 160_000)), expect, "{text}");
        };
        check("no no no no, that is not it", false);
        check("I was I was I was in the team", false);
        check("the the the the the the the", true);
        check("and then I went home and then I went home. and then I went home and then I went home", true);
        check("once a year we practice it. Once a year we practice it, although people complain", true);
        check("we had to wait, we had to wait for the parts", false);
        check("and then we went there and then we came back and then we", false);
    }
}
