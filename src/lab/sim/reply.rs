//! A simulated reply: written token by token, spoken clause by clause, played in real time.

use std::collections::VecDeque;

use rand::Rng;
use rand::rngs::StdRng;
use viva_actors::types::Epoch;

use super::orders::{Io, Wake};
use super::session::{CHARS_PER_TOKEN, FRAME_US};
use crate::lab::voice::CHARS_PER_S;

/// Tokens of a first clause, least and most: it is cut at a comma from 18 characters on or before a phrase from 22
/// on (`llm.rs`).
const FIRST_CLAUSE: (u32, u32) = (5, 10);
/// Tokens of a sentence after it, least and most.
const CLAUSE: (u32, u32) = (8, 16);

/// A text under way.
#[derive(Debug)]
pub struct Writing {
    /// Which draft; none where words are only read.
    pub epoch: Option<Epoch>,
    /// Whose words tell whether a sentence ends.
    pub pause: Option<u32>,
    /// What its answers carry.
    pub ticket: u64,
    tokens: u32,
    written: u32,
    /// Tokens of each clause.
    clauses: VecDeque<u32>,
    /// Tokens of the clause being written.
    open: u32,
}

impl Writing {
    /// A text of so many tokens.
    pub fn new(
        epoch: Option<Epoch>,
        pause: Option<u32>,
        tokens: u32,
        ticket: u64,
        dice: &mut StdRng,
    ) -> Self {
        let (mut clauses, mut left) = (VecDeque::new(), tokens);
        while left > 0 {
            let (least, most) = if clauses.is_empty() { FIRST_CLAUSE } else { CLAUSE };
            let mut clause = dice.random_range(least..=most).min(left);
            // What is left over is said with what goes before.
            if left - clause < least {
                clause = left;
            }
            clauses.push_back(clause);
            left -= clause;
        }
        Self { epoch, pause, ticket, tokens, written: 0, clauses, open: 0 }
    }

    /// One more token; gives the characters of clauses that are complete, and whether it was the last. A clause is
    /// known to be complete by the token behind it.
    pub fn token(&mut self) -> (Vec<f64>, bool) {
        let mut complete = Vec::new();
        if self.clauses.front().is_some_and(|clause| self.open >= *clause) {
            let clause = self.clauses.pop_front().unwrap_or_default();
            complete.push(f64::from(clause) * CHARS_PER_TOKEN);
            self.open = 0;
        }
        self.written += 1;
        self.open += 1;
        let done = self.written >= self.tokens;
        if done && self.open > 0 {
            complete.push(f64::from(self.open) * CHARS_PER_TOKEN);
        }
        (complete, done)
    }
}

/// A reply.
#[derive(Debug)]
pub struct Reply {
    /// Which.
    pub epoch: Epoch,
    /// Its turn is over: it may be heard.
    pub committed: bool,
    /// All of its text is there.
    pub written: bool,
    /// Characters of clauses that wait for the voice.
    pub clauses: VecDeque<f64>,
    /// Microseconds of sound made, and characters.
    made_us: u64,
    chars: f64,
    /// Where what is made ends on the world's clock, once it plays.
    ends: Option<u64>,
    /// When it was held, if it is.
    held: Option<u64>,
    missing: u64,
}

impl Reply {
    /// Nothing of it is there.
    pub fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            committed: false,
            written: false,
            clauses: VecDeque::new(),
            made_us: 0,
            chars: 0.0,
            ends: None,
            held: None,
            missing: 0,
        }
    }

    /// Names it in wakes.
    pub fn stamp(&self) -> u64 {
        self.epoch.to_bits()
    }

    /// Whether some of it is made.
    pub fn has_sound(&self) -> bool {
        self.made_us > 0
    }

    /// Whether it is being heard, or held.
    pub fn playing(&self) -> bool {
        self.ends.is_some()
    }

    /// Characters spoken.
    pub fn chars(&self) -> f64 {
        self.chars
    }

    /// 20 ms frames made.
    pub fn frames(&self) -> u64 {
        self.made_us / FRAME_US
    }

    /// 20 ms slots that had nothing to play since it was last asked.
    pub fn take_missing(&mut self) -> u64 {
        std::mem::take(&mut self.missing)
    }

    /// A clause is made. Says whether it is the first.
    pub fn made(&mut self, chars: f64, io: &Io) -> bool {
        let first = !self.has_sound();
        let length = (chars / CHARS_PER_S * 1e6) as u64;
        self.made_us += length;
        self.chars += chars;
        if let Some(ends) = &mut self.ends {
            // A held reply does not run dry.
            if self.held.is_none() && io.now > *ends {
                self.missing += (io.now - *ends).div_ceil(FRAME_US);
                *ends = io.now;
            }
            *ends += length;
        }
        first
    }

    /// Microseconds of sound that wait to be played.
    pub fn ahead(&self, now: u64) -> u64 {
        match (self.ends, self.held) {
            (None, _) => self.made_us,
            (Some(ends), Some(held)) => ends.saturating_sub(held),
            (Some(ends), None) => ends.saturating_sub(now),
        }
    }

    /// The first frame leaves.
    pub fn start(&mut self, io: &Io) {
        self.ends = Some(io.now + self.made_us);
    }

    /// Falls silent.
    pub fn hold(&mut self, now: u64) {
        self.held.get_or_insert(now);
    }

    /// Goes on.
    pub fn resume(&mut self, io: &mut Io) {
        if let (Some(held), Some(ends)) = (self.held.take(), &mut self.ends) {
            *ends += io.now - held;
        }
        self.drain(io);
    }

    /// Ends with what is made, if that is all.
    pub fn drain(&mut self, io: &mut Io) {
        if let (Some(ends), true, true, None) = (self.ends, self.written, self.clauses.is_empty(), self.held)
        {
            io.wake(ends, Wake::PlayEnd(self.stamp()));
        }
    }

    /// Whether a wake at its end still holds.
    pub fn over(&self, stamp: u64, now: u64) -> bool {
        self.stamp() == stamp
            && self.held.is_none()
            && self.written
            && self.clauses.is_empty()
            && self.ends.is_some_and(|ends| ends <= now)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn every_token_is_spoken_once_and_the_first_clause_comes_early() {
        for tokens in 1..60 {
            let mut dice = StdRng::seed_from_u64(u64::from(tokens));
            let mut writing = Writing::new(Some(Epoch::default()), None, tokens, 1, &mut dice);
            let (mut chars, mut first_at) = (0.0, None);
            for n in 1..=tokens {
                let (clauses, done) = writing.token();
                if !clauses.is_empty() {
                    first_at.get_or_insert(n);
                }
                chars += clauses.iter().sum::<f64>();
                assert_eq!(done, n == tokens);
            }
            assert!((chars - f64::from(tokens) * CHARS_PER_TOKEN).abs() < 1e-6, "{tokens}: {chars}");
            assert!(first_at.is_some_and(|n| n <= FIRST_CLAUSE.1 + 5), "{tokens}: {first_at:?}");
        }
    }

    #[test]
    fn a_clause_that_comes_late_is_a_gap_and_a_hold_is_none() {
        let mut io = Io::default();
        let mut reply = Reply::new(Epoch::default());
        reply.committed = true;
        assert!(reply.made(17.5, &io));
        reply.start(&io);
        io.now = 1_200_000;
        assert!(!reply.made(17.5, &io));
        assert_eq!(reply.take_missing(), 10, "the second clause came 200 ms after the first one's end");
        reply.hold(io.now);
        io.now = 9_000_000;
        assert_eq!(reply.ahead(io.now), 1_000_000);
        reply.resume(&mut io);
        assert_eq!((reply.ahead(io.now), reply.take_missing()), (1_000_000, 0));
        reply.written = true;
        io.wakes.clear();
        reply.drain(&mut io);
        assert_eq!(io.wakes, [(10_000_000, Wake::PlayEnd(reply.stamp()))]);
    }
}
