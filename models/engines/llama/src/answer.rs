//! One answer in the making: its sampler, and the text that is already certain.

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use viva_models::{EngineError, Result, Sampling, SeqId, StepEvent, StopReason};

/// Tokens the repeat penalty looks back, as the contract says.
const PENALTY_TOKENS: i32 = 64;

/// Stop texts of one answer, and bytes of one: enough for every speaker's name in a transcript.
const STOPS_MAX: usize = 16;
const STOP_BYTES_MAX: usize = 256;

/// An answer in the making.
pub(crate) struct Answer {
    pub(crate) sampler: LlamaSampler,
    text: Text,
    tokens: u32,
    tokens_max: u32,
    /// The token chosen last. It is in nobody's cache yet.
    pub(crate) chosen: Option<LlamaToken>,
    /// Whether its text has been handed out.
    pub(crate) shown: bool,
}

impl Answer {
    /// Checks the wishes and builds the sampler. llama.cpp ends the process over some values, so none of
    /// those may pass.
    pub(crate) fn new(model: &LlamaModel, sampling: &Sampling) -> Result<Self> {
        check(sampling)?;
        let mut chain = Vec::new();
        if let Some(grammar) = &sampling.grammar {
            let sampler = LlamaSampler::grammar(model, grammar, "root")
                .map_err(|e| EngineError::Invalid(format!("the grammar does not parse: {e}")))?;
            chain.push(sampler);
        }
        if sampling.repeat_penalty != 1.0 {
            chain.push(LlamaSampler::penalties(
                model.vocab().n_tokens(),
                PENALTY_TOKENS,
                sampling.repeat_penalty,
                0.0,
                0.0,
            ));
        }
        if sampling.temperature > 0.0 {
            if sampling.top_p < 1.0 {
                chain.push(LlamaSampler::top_p(sampling.top_p, 1));
            }
            if sampling.min_p > 0.0 {
                chain.push(LlamaSampler::min_p(sampling.min_p, 1));
            }
            chain.push(LlamaSampler::temp(sampling.temperature));
            chain.push(LlamaSampler::dist(sampling.seed));
        } else {
            chain.push(LlamaSampler::greedy());
        }
        Ok(Self {
            sampler: LlamaSampler::chain(chain, true),
            text: Text::new(&sampling.stop),
            tokens: 0,
            tokens_max: sampling.max_tokens,
            chosen: None,
            shown: true,
        })
    }

    /// Hands out the text of the token chosen last.
    pub(crate) fn show(&mut self, model: &LlamaModel, seq: SeqId) -> StepEvent {
        self.shown = true;
        let vocab = model.vocab();
        let Some(token) = self.chosen else {
            return self.end(seq, String::new(), StopReason::Stop);
        };
        if vocab.is_eog(token) {
            return self.end(seq, String::new(), StopReason::Stop);
        }
        self.tokens += 1;
        let (piece, stopped) = self.text.push(&vocab.token_to_piece(token, false, None));
        if stopped {
            return StepEvent::Done { seq, piece, reason: StopReason::Stop, tokens: self.tokens };
        }
        if self.tokens >= self.tokens_max {
            return self.end(seq, piece, StopReason::Length);
        }
        StepEvent::Token { seq, piece }
    }

    /// Ends the answer with whatever was held back.
    pub(crate) fn end(&mut self, seq: SeqId, mut piece: String, reason: StopReason) -> StepEvent {
        piece.push_str(&self.text.rest());
        StepEvent::Done { seq, piece, reason, tokens: self.tokens }
    }
}

fn check(sampling: &Sampling) -> Result<()> {
    let invalid = |what: String| Err(EngineError::Invalid(what));
    if sampling.max_tokens == 0 {
        return invalid("max_tokens must be at least 1".into());
    }
    for (name, value, low, high) in [
        ("temperature", sampling.temperature, 0.0, 5.0),
        ("top_p", sampling.top_p, 0.0, 1.0),
        ("min_p", sampling.min_p, 0.0, 1.0),
        ("repeat_penalty", sampling.repeat_penalty, 0.1, 10.0),
    ] {
        if !(low..=high).contains(&value) {
            return invalid(format!("{name} is {value}; {low} to {high} is allowed"));
        }
    }
    if sampling.stop.len() > STOPS_MAX {
        return invalid(format!("{} stop texts; at most {STOPS_MAX} are allowed", sampling.stop.len()));
    }
    if sampling.stop.iter().any(|s| s.is_empty() || s.len() > STOP_BYTES_MAX) {
        return invalid(format!("a stop text must have 1 to {STOP_BYTES_MAX} bytes"));
    }
    Ok(())
}

/// Text that may still turn out to be half a character or the start of a stop text is held back.
#[derive(Debug, Default)]
struct Text {
    stops: Vec<String>,
    bytes: Vec<u8>,
    held: String,
}

impl Text {
    fn new(stops: &[String]) -> Self {
        Self { stops: stops.to_vec(), ..Self::default() }
    }

    /// Takes a token's bytes; returns what is now certain and whether a stop text came.
    fn push(&mut self, bytes: &[u8]) -> (String, bool) {
        self.bytes.extend_from_slice(bytes);
        self.take_characters();
        let found = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(at) = found {
            let piece = self.held[..at].to_owned();
            self.held.clear();
            self.bytes.clear();
            return (piece, true);
        }
        let doubtful = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - doubtful);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// Moves whole characters from `bytes` to `held`; bytes that are no text become U+FFFD.
    fn take_characters(&mut self) {
        loop {
            match std::str::from_utf8(&self.bytes) {
                Ok(text) => {
                    self.held.push_str(text);
                    self.bytes.clear();
                    return;
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    self.held.push_str(&String::from_utf8_lossy(&self.bytes[..valid]));
                    let Some(bad) = error.error_len() else {
                        self.bytes.drain(..valid);
                        return;
                    };
                    self.held.push(char::REPLACEMENT_CHARACTER);
                    self.bytes.drain(..valid + bad);
                }
            }
        }
    }

    fn rest(&mut self) -> String {
        self.bytes.clear();
        std::mem::take(&mut self.held)
    }
}

/// Bytes at the end of `text` that `stop` begins with.
fn overlap(text: &str, stop: &str) -> usize {
    let most = text.len().min(stop.len() - 1);
    (1..=most).rev().find(|&n| stop.is_char_boundary(n) && text.ends_with(&stop[..n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(stops: &[&str], tokens: &[&[u8]], pieces: &[&str], rest: &str) {
        let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
        let mut text = Text::new(&stops);
        let found: Vec<String> = tokens.iter().map(|t| text.push(t).0).collect();
        assert_eq!(found, pieces);
        assert_eq!(text.rest(), rest);
    }

    #[test]
    fn half_a_character_waits_for_its_other_half() {
        check_text(&[], &[b"caf", b"\xC3", b"\xA9 \xF0\x9F", b"\x99\x82"], &["caf", "", "é ", "🙂"], "");
        check_text(&[], &[b"a\xFFb", b"\xC3"], &["a\u{FFFD}b", ""], "");
    }

    #[test]
    fn the_start_of_a_stop_text_is_held_and_given_back() {
        check_text(&["\nUser:"], &[b"Hi", b"\nUs", b"ual"], &["Hi", "", "\nUsual"], "");
        check_text(&["\nUser:"], &[b"Hi", b"\nUser"], &["Hi", ""], "\nUser");
    }

    #[test]
    fn nothing_of_a_stop_text_is_heard() {
        let mut text = Text::new(&["\nUser:".to_owned(), "##".to_owned()]);
        assert_eq!(text.push(b"Yes.\nUs"), ("Yes.".to_owned(), false));
        assert_eq!(text.push(b"er: and"), (String::new(), true));
        assert_eq!(text.rest(), "");
    }
}
