//! A simulated candidate in the session's time: speaks, waits, interrupts, and notes what it felt.

use std::collections::VecDeque;
use std::sync::Arc;

use rand::rngs::StdRng;

use super::candidate::{Act, Gap, MS, Stretch, acts};
use super::orders::{Io, Wake};
use crate::client::Clips;
use crate::lab::scenario::Scenario;

/// Dead air, microseconds (`client::report::DEAD_AIR_MS`).
const DEAD_AIR_US: u64 = 3_000 * MS;

/// One turn as the candidate felt it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Felt {
    /// When its last sample was said, microseconds.
    pub end_us: u64,
    /// Until the answer's first frame, microseconds; none when it did not come in time.
    pub waited_us: Option<u64>,
    /// The server decided, or spoke, before the end.
    pub cut_off: bool,
}

impl Felt {
    /// Whether a person takes the wait for a fault.
    pub fn dead_air(&self) -> bool {
        self.waited_us.is_none_or(|waited| waited > DEAD_AIR_US)
    }
}

/// What the candidate is doing.
#[derive(Debug, Clone, PartialEq)]
enum Doing {
    /// Nothing until then: speaking, or resting.
    Until(u64),
    /// Waiting for so much of the reply, to do this then.
    Listening(u64, Box<Act>),
    /// Waiting for the answer's end; it must begin before then.
    Waiting(u64),
    /// Thinking before the next script.
    Thinking(u64),
}

#[derive(Debug, Clone)]
struct Said {
    from: u64,
    until: u64,
    gap: Arc<Gap>,
}

/// The candidate.
pub struct Caller {
    scenario: Arc<Scenario>,
    clips: Arc<Clips>,
    dice: StdRng,
    acts: VecDeque<Act>,
    doing: Doing,
    wakes: u64,
    script_began: u64,
    /// What is said, by its place in time; what is long past is forgotten.
    said: VecDeque<Said>,
    /// The end of the utterance under way or last said.
    end: u64,
    /// The turn was answered.
    answered: Option<u64>,
    cut_off: bool,
    open: bool,
    /// When the reply being heard began; none while none is heard.
    hearing: Option<u64>,
    stops_at: u64,
    /// Every turn that waited for an answer.
    pub felt: Vec<Felt>,
    /// Noises made, and those that went on to be resumed from.
    pub noises: u64,
    /// See [`Self::noises`].
    pub resumed: u64,
}

impl Caller {
    /// Begins at `now`; starts no script after `stops_at`.
    pub fn new(
        scenario: Arc<Scenario>,
        clips: Arc<Clips>,
        dice: StdRng,
        now: u64,
        stops_at: u64,
        io: &mut Io,
    ) -> Self {
        let mut caller = Self {
            scenario,
            clips,
            dice,
            acts: VecDeque::new(),
            doing: Doing::Thinking(now),
            wakes: 0,
            script_began: now,
            said: VecDeque::new(),
            end: 0,
            answered: None,
            cut_off: false,
            open: false,
            hearing: None,
            stops_at,
            felt: Vec::new(),
            noises: 0,
            resumed: 0,
        };
        caller.wake_at(now, io);
        caller
    }

    fn wake_at(&mut self, at: u64, io: &mut Io) {
        self.wakes += 1;
        io.wake(at, Wake::Caller(self.wakes));
    }

    /// Whether the detector hears voice then.
    pub fn voice_at(&mut self, at: u64, tail_us: u64) -> bool {
        // The last one stays: its gap is what a pause tells.
        while self.said.len() > 1 && self.said[1].from + 2 * tail_us < at && self.said[0].until + tail_us < at
        {
            self.said.pop_front();
        }
        self.said.iter().any(|said| said.from <= at && at < said.until + tail_us)
    }

    /// What the silence at that time tells.
    pub fn gap_before(&self, at: u64) -> Arc<Gap> {
        let before = self.said.iter().rfind(|said| said.from <= at).or(self.said.front());
        before
            .map(|said| Arc::clone(&said.gap))
            .unwrap_or_else(|| Arc::new(Gap { scores: [0.5; 3], ends: 0.1, words: String::new() }))
    }

    /// It is time to act.
    pub fn wake(&mut self, n: u64, io: &mut Io) {
        if n != self.wakes {
            return;
        }
        match &self.doing {
            Doing::Until(until) if *until <= io.now => self.next(io),
            Doing::Listening(after, _) => {
                let after = *after;
                match self.hearing {
                    Some(began) if io.now >= began + after => self.speak_up(io),
                    Some(began) => self.wake_at(began + after, io),
                    // No reply came: what was to be said into it is not said.
                    None => self.next(io),
                }
            }
            Doing::Waiting(limit) if *limit <= io.now && self.answered.is_none() => self.close(io),
            Doing::Thinking(until) if *until <= io.now => self.next_script(io),
            _ => {}
        }
    }

    fn next_script(&mut self, io: &mut Io) {
        if io.now >= self.stops_at {
            return;
        }
        self.script_began = io.now;
        let script = self.scenario.draw(&mut self.dice);
        self.acts = acts(&script, &self.clips, &mut self.dice);
        self.next(io);
    }

    fn next(&mut self, io: &mut Io) {
        match self.acts.pop_front() {
            None => self.think(io),
            Some(Act::Rest(us)) => self.until(io.now + us, io),
            Some(Act::Wait(us)) => {
                if !self.open {
                    return self.next(io);
                }
                match self.answered {
                    Some(_) if self.hearing.is_none() => self.close(io),
                    _ => {
                        self.doing = Doing::Waiting(self.end + us);
                        self.wake_at(self.end + us, io);
                    }
                }
            }
            Some(Act::Utter { stretches, interrupts: None }) => self.utter(stretches, io),
            Some(Act::Noise { stretch, after_us: None }) => self.noise(stretch, io),
            Some(act @ Act::Utter { interrupts: Some(after), .. })
            | Some(act @ Act::Noise { after_us: Some(after), .. }) => {
                // The answer may come as late as any.
                let patience = io.now + 30_000 * MS;
                let at = self.hearing.map_or(patience, |began| began + after);
                self.doing = Doing::Listening(after, Box::new(act));
                self.wake_at(at, io);
            }
        }
    }

    fn until(&mut self, at: u64, io: &mut Io) {
        self.doing = Doing::Until(at);
        self.wake_at(at, io);
    }

    fn speak_up(&mut self, io: &mut Io) {
        let Doing::Listening(_, act) = std::mem::replace(&mut self.doing, Doing::Until(io.now)) else {
            return;
        };
        match *act {
            Act::Utter { stretches, .. } => {
                // The turn before was answered by what is interrupted now.
                self.note();
                self.utter(stretches, io);
            }
            Act::Noise { stretch, .. } => self.noise(stretch, io),
            Act::Rest(_) | Act::Wait(_) => self.next(io),
        }
    }

    fn say(&mut self, at: u64, stretch: Stretch) -> u64 {
        let until = at + stretch.voice_us;
        self.said.push_back(Said { from: at, until, gap: Arc::new(stretch.gap) });
        until + stretch.rest_us
    }

    fn utter(&mut self, stretches: Vec<Stretch>, io: &mut Io) {
        let mut at = io.now;
        for stretch in stretches {
            at = self.say(at, stretch);
        }
        self.end = at;
        (self.open, self.answered, self.cut_off) = (true, None, false);
        self.until(at, io);
    }

    fn noise(&mut self, stretch: Stretch, io: &mut Io) {
        self.noises += 1;
        let at = self.say(io.now, stretch);
        self.until(at, io);
    }

    /// The server went on after a noise.
    pub fn resumed(&mut self) {
        self.resumed += 1;
    }

    /// The server decided that the turn is over.
    pub fn decided(&mut self, now: u64) {
        self.cut_off |= self.open && now < self.end;
    }

    /// A reply's first frame arrives.
    pub fn reply_heard(&mut self, at: u64, io: &mut Io) {
        self.hearing = Some(at);
        if self.open && self.answered.is_none() && at >= self.end {
            self.answered = Some(at);
        }
        if let Doing::Listening(after, _) = self.doing {
            self.wake_at(at + after, io);
        }
    }

    /// The reply is over, or cut.
    pub fn reply_over(&mut self, io: &mut Io) {
        self.hearing = None;
        match self.doing {
            Doing::Waiting(_) if self.answered.is_some() => self.close(io),
            Doing::Listening(..) if self.answered.is_some() => self.next(io),
            _ => {}
        }
    }

    /// The turn is over for the candidate.
    fn close(&mut self, io: &mut Io) {
        self.note();
        self.next(io);
    }

    fn note(&mut self) {
        if std::mem::replace(&mut self.open, false) {
            let waited_us = self.answered.map(|at| at - self.end);
            self.felt.push(Felt { end_us: self.end, waited_us, cut_off: self.cut_off });
        }
    }

    fn think(&mut self, io: &mut Io) {
        let cycle = (self.scenario.cycle_s * 1e6) as u64;
        let thought = u64::from(self.scenario.think_ms(&mut self.dice)) * MS;
        let at = (self.script_began + cycle).max(io.now + thought);
        self.doing = Doing::Thinking(at);
        self.wake_at(at, io);
    }
}
