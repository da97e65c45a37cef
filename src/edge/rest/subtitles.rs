//! Recognised words as segments, and segments as subtitles. Pure.

use std::fmt::Write as _;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use serde_json::{Value, json};
use viva_models::{Transcription, Word};

/// Longest segment, milliseconds: what subtitles usually stay.
const SEGMENT_MS_MAX: u64 = 7_000;

/// Longest segment, characters: two lines of subtitles.
const SEGMENT_CHARS_MAX: usize = 84;

/// A pause between words that ends a segment, milliseconds: a breath.
const GAP_MS: u64 = 700;

/// A word in the recording's own time.
#[derive(Debug, Clone, PartialEq)]
pub struct TimedWord {
    /// As written.
    pub text: String,
    /// Milliseconds from the recording's start.
    pub start_ms: u64,
    /// The same.
    pub end_ms: u64,
    /// 0..1.
    pub confidence: f32,
}

impl TimedWord {
    /// A word of a window that begins at `window_ms`.
    pub fn of(word: Word, window_ms: u64) -> Self {
        let start_ms = window_ms + u64::from(word.start_ms);
        let end_ms = (window_ms + u64::from(word.end_ms)).max(start_ms);
        Self { text: word.text, start_ms, end_ms, confidence: word.confidence }
    }

    /// As the protocol shows it.
    pub fn json(&self) -> Value {
        json!({"word": self.text, "start": seconds(self.start_ms), "end": seconds(self.end_ms)})
    }
}

/// Words that belong together.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// What is said.
    pub text: String,
    /// Milliseconds from the recording's start.
    pub start_ms: u64,
    /// The same.
    pub end_ms: u64,
    /// Mean of the words' own, 0..1.
    pub confidence: f32,
}

impl Segment {
    fn of(words: &[TimedWord]) -> Option<Self> {
        let text = words.iter().map(|w| w.text.as_str()).collect::<Vec<_>>().join(" ");
        let confidence = words.iter().map(|w| w.confidence).sum::<f32>() / words.len() as f32;
        Some(Self { text, start_ms: words.first()?.start_ms, end_ms: words.last()?.end_ms, confidence })
    }

    /// As the protocol shows it. The recogniser tells neither tokens nor how likely there was no speech; windows
    /// without any are not recognised at all.
    pub fn json(&self, id: usize) -> Value {
        json!({
            "id": id,
            "seek": self.start_ms / 10,
            "start": seconds(self.start_ms),
            "end": seconds(self.end_ms),
            "text": self.text,
            "tokens": [],
            "temperature": 0.0,
            "avg_logprob": f64::from(self.confidence.max(f32::MIN_POSITIVE)).ln(),
            "compression_ratio": compression_ratio(&self.text),
            "no_speech_prob": 0.0,
        })
    }
}

/// The words of one window as segments. Where the recogniser tells no words, the window is one segment.
pub fn segments(
    heard: &Transcription,
    words: &[TimedWord],
    window_ms: u64,
    window_end_ms: u64,
) -> Vec<Segment> {
    if words.is_empty() && !heard.text.is_empty() {
        let text = heard.text.clone();
        let (start_ms, end_ms) = (window_ms, window_end_ms);
        return vec![Segment { text, start_ms, end_ms, confidence: heard.confidence }];
    }
    let (mut segments, mut from) = (Vec::new(), 0);
    let mut chars = 0;
    for (i, word) in words.iter().enumerate() {
        chars += word.text.chars().count() + 1;
        let sentence_ends = word.text.ends_with(['.', '!', '?', '…', '。', '！', '？']);
        let ends = words.get(i + 1).is_none_or(|next| {
            sentence_ends
                || next.start_ms.saturating_sub(word.end_ms) > GAP_MS
                || next.end_ms.saturating_sub(words[from].start_ms) > SEGMENT_MS_MAX
                || chars + next.text.chars().count() > SEGMENT_CHARS_MAX
        });
        if ends {
            segments.extend(Segment::of(&words[from..=i]));
            (from, chars) = (i + 1, 0);
        }
    }
    segments
}

/// Seconds, to the millisecond.
pub fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

/// How well the text packs: one that repeats itself does so far better than speech (about 1 to 1.7).
fn compression_ratio(text: &str) -> f64 {
    let mut packer = ZlibEncoder::new(Vec::new(), Compression::default());
    let packed = packer.write_all(text.as_bytes()).and_then(|()| packer.finish());
    packed.map_or(1.0, |packed| text.len() as f64 / packed.len().max(1) as f64)
}

fn clock(ms: u64, point: char) -> String {
    let (s, m, h) = (ms / 1_000, ms / 60_000, ms / 3_600_000);
    format!("{h:02}:{:02}:{:02}{point}{:03}", m % 60, s % 60, ms % 1_000)
}

/// SubRip.
pub fn srt(segments: &[Segment]) -> String {
    let mut out = String::new();
    for (i, s) in segments.iter().enumerate() {
        let (from, to) = (clock(s.start_ms, ','), clock(s.end_ms, ','));
        // Writing to a string does not fail.
        write!(out, "{}\n{from} --> {to}\n{}\n\n", i + 1, s.text).ok();
    }
    out
}

/// WebVTT. An arrow within the text would end a cue.
pub fn vtt(segments: &[Segment]) -> String {
    let mut out = String::from("WEBVTT\n\n");
    for s in segments {
        let (from, to) = (clock(s.start_ms, '.'), clock(s.end_ms, '.'));
        let text = s.text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        write!(out, "{from} --> {to}\n{text}\n\n").ok();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(texts: &[(&str, u64, u64)]) -> Vec<TimedWord> {
        let word = |&(text, start_ms, end_ms): &(&str, u64, u64)| TimedWord {
            text: text.into(),
            start_ms,
            end_ms,
            confidence: 0.5,
        };
        texts.iter().map(word).collect()
    }

    fn check(texts: &[(&str, u64, u64)], expect: &[&str]) -> Vec<Segment> {
        let cut = segments(&Transcription::default(), &words(texts), 0, 0);
        assert_eq!(cut.iter().map(|s| s.text.as_str()).collect::<Vec<_>>(), expect);
        cut
    }

    #[test]
    fn segments_end_with_sentences_breaths_and_two_lines() {
        check(&[("One", 0, 200), ("two.", 200, 400), ("Three", 450, 700)], &["One two.", "Three"]);
        check(&[("One", 0, 200), ("two", 1_000, 1_200)], &["One", "two"]);
        check(&[("a", 0, 3_000), ("b", 3_100, 6_000), ("c", 6_100, 9_000)], &["a b", "c"]);
        let long = "x".repeat(50);
        check(&[(&long, 0, 1), (&long, 2, 3)], &[&long, &long]);
        check(&[], &[]);
    }

    #[test]
    fn subtitles_have_their_formats() {
        let cut = check(&[("Is", 3_599_990, 3_600_000), ("1<2?", 3_600_100, 3_661_007)], &["Is", "1<2?"]);
        let (srt, vtt) = (srt(&cut[1..]), vtt(&cut[1..]));
        assert_eq!(srt, "1\n01:00:00,100 --> 01:01:01,007\n1<2?\n\n");
        assert_eq!(vtt, "WEBVTT\n\n01:00:00.100 --> 01:01:01.007\n1&lt;2?\n\n");
    }

    #[test]
    fn a_recogniser_without_words_gives_a_segment_a_window() {
        let heard = Transcription { text: "all of it".into(), ..Transcription::default() };
        let cut = segments(&heard, &[], 500, 900);
        assert_eq!((cut.len(), cut[0].start_ms, cut[0].end_ms), (1, 500, 900));
    }
}
