//! The ledger: what of our speech was really heard.
//!
//! Each clause is entered with the samples it became; the playout (or the client) says how far it was played.
//! From that the words that were heard follow: whole clauses as they are, the clause in which playing
//! stopped by the share of it that was played, cut at a word.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::event::ItemId;
use crate::types::Epoch;

/// Replies the ledger remembers: a client may still correct what it played of a recent one.
const REPLIES_MAX: usize = 16;

/// How an entry came to know what was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Certainty {
    /// It was sent, and has had the time to be played.
    Sent,
    /// It was sent, and by our clock so much of it was played.
    Estimated,
    /// The client says so.
    Reported,
}

/// One reply.
#[derive(Debug, Clone, PartialEq)]
pub struct Spoken {
    /// Its stamp.
    pub epoch: Epoch,
    /// Its item.
    pub item: ItemId,
    clauses: Vec<(String, u64)>,
    /// Milliseconds played, and how we know; none while it is being played.
    pub heard: Option<(u64, Certainty)>,
    /// Milliseconds sent.
    pub sent_ms: u64,
}

impl Spoken {
    /// All words that became speech.
    pub fn text(&self) -> String {
        join(self.clauses.iter().map(|c| c.0.as_str()))
    }

    /// The words heard in the first `ms` milliseconds.
    pub fn text_until(&self, ms: u64) -> String {
        let mut left = ms;
        let mut heard: Vec<&str> = Vec::new();
        for (text, length) in &self.clauses {
            if left >= *length {
                heard.push(text);
                left -= length;
                continue;
            }
            if *length > 0 {
                heard.push(words_until(text, left as f64 / *length as f64));
            }
            break;
        }
        join(heard.into_iter())
    }
}

fn join<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    parts.map(str::trim).filter(|p| !p.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The words that end within the first `share` of a text. A word counts when it was heard to its end.
fn words_until(text: &str, share: f64) -> &str {
    let limit = (text.len() as f64 * share).floor() as usize;
    let mut end = 0;
    for (at, _) in text.char_indices().filter(|(_, c)| c.is_whitespace()) {
        if at <= limit {
            end = at;
        }
    }
    &text[..end]
}

/// A session's ledger.
#[derive(Debug, Default)]
pub struct Ledger {
    replies: VecDeque<Spoken>,
}

impl Ledger {
    /// A reply begins.
    pub fn open(&mut self, epoch: Epoch, item: ItemId) {
        self.replies.push_back(Spoken { epoch, item, clauses: Vec::new(), heard: None, sent_ms: 0 });
        if self.replies.len() > REPLIES_MAX {
            self.replies.pop_front();
        }
    }

    /// A clause became `ms` milliseconds of speech.
    pub fn clause(&mut self, epoch: Epoch, text: &str, ms: u64) {
        if let Some(reply) = self.get_mut(epoch) {
            reply.clauses.push((text.to_owned(), ms));
        }
    }

    /// So much was played.
    pub fn played(&mut self, epoch: Epoch, ms: u64, sent_ms: u64, certainty: Certainty) {
        if let Some(reply) = self.get_mut(epoch) {
            reply.heard = Some((ms, certainty));
            reply.sent_ms = reply.sent_ms.max(sent_ms);
        }
    }

    /// The reply with that stamp.
    pub fn get(&self, epoch: Epoch) -> Option<&Spoken> {
        self.replies.iter().find(|r| r.epoch == epoch)
    }

    fn get_mut(&mut self, epoch: Epoch) -> Option<&mut Spoken> {
        self.replies.iter_mut().find(|r| r.epoch == epoch)
    }

    /// The reply that became that item.
    pub fn of_item(&self, item: &str) -> Option<&Spoken> {
        self.replies.iter().find(|r| r.item == item)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const E: Epoch = Epoch { turn: 1, rev: 1 };

    fn ledger() -> Ledger {
        let mut l = Ledger::default();
        l.open(E, "item".into());
        l.clause(E, "That sounds like a lot of work.", 2000);
        l.clause(E, "What did you learn?", 1000);
        l
    }

    #[test]
    fn what_was_heard_ends_at_a_whole_word() {
        let l = ledger();
        let r = l.get(E).unwrap();
        assert_eq!(r.text_until(0), "");
        assert_eq!(r.text_until(1000), "That sounds");
        assert_eq!(r.text_until(2000), "That sounds like a lot of work.");
        assert_eq!(r.text_until(2500), "That sounds like a lot of work. What did");
        assert_eq!(r.text_until(9000), r.text());
    }

    #[test]
    fn it_forgets_old_replies() {
        let mut l = ledger();
        for turn in 2..40 {
            l.open(Epoch { turn, rev: 1 }, format!("i{turn}"));
        }
        assert!(l.get(E).is_none());
        assert!(l.of_item("i39").is_some());
    }
}
