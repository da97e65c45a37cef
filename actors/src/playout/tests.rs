#![allow(clippy::unwrap_used)]
use super::*;

const E1: Epoch = Epoch { turn: 1, rev: 1 };
const E2: Epoch = Epoch { turn: 2, rev: 1 };

struct Bench {
    lanes: PlayoutLanes,
    playout: Playout,
    start: Instant,
}

impl Bench {
    fn new(lead_ms: u32) -> Self {
        let lanes = PlayoutLanes::default();
        let playout = Playout::new(lanes.frames.clone(), lanes.commands.clone(), lead_ms);
        Self { lanes, playout, start: Instant::now() }
    }

    fn frames(&self, epoch: Epoch, n: i16) {
        for i in 0..n {
            self.lanes.frames.push(PlayItem::Frame(epoch, Box::new([i; OUT_FRAME]))).ok().unwrap();
        }
    }

    fn end(&self, epoch: Epoch) {
        self.lanes.frames.push(PlayItem::End(epoch)).ok().unwrap();
    }

    fn order(&self, command: Command) {
        self.lanes.commands.push(command).unwrap();
    }

    fn at(&mut self, ms: u64) -> Ticked {
        self.playout.tick(self.start + Duration::from_millis(ms))
    }
}

fn numbers(t: &Ticked) -> Vec<i16> {
    t.frames.iter().map(|f| f.1[0]).collect()
}

#[test]
fn a_draft_is_silent_until_it_is_committed_and_then_paced() {
    let mut b = Bench::new(40);
    b.frames(E1, 10);
    b.end(E1);
    assert!(b.at(0).frames.is_empty());
    b.order(Command::Commit(E1));
    let first = b.at(20);
    assert_eq!(numbers(&first), [0, 1, 2], "one due, two of lead");
    assert_eq!(first.reports, [PlayoutReport::Started(E1)]);
    assert_eq!(numbers(&b.at(40)), [3]);
    assert_eq!(numbers(&b.at(100)), [4, 5, 6]);
    assert_eq!(numbers(&b.at(160)), [7, 8, 9]);
    assert!(b.at(200).reports.is_empty(), "the last frame is still being played");
    assert_eq!(b.at(220).reports, [PlayoutReport::Drained { epoch: E1, played_ms: 200 }]);
}

#[test]
fn a_hold_drops_nothing_and_resumes_at_the_next_sample() {
    let mut b = Bench::new(0);
    b.frames(E1, 5);
    b.order(Command::Commit(E1));
    assert_eq!(numbers(&b.at(0)), [0]);
    assert_eq!(numbers(&b.at(20)), [1]);
    b.order(Command::Hold);
    for t in 2..50 {
        assert!(b.at(t * 20).frames.is_empty());
    }
    b.order(Command::Resume);
    assert_eq!(numbers(&b.at(1000)), [2]);
    assert_eq!(numbers(&b.at(1020)), [3]);
}

#[test]
fn a_cut_says_what_was_played_and_voids_the_rest() {
    let mut b = Bench::new(40);
    b.frames(E1, 50);
    b.order(Command::Commit(E1));
    b.at(0);
    b.at(20);
    b.order(Command::Cut(E1));
    let cut = b.at(30);
    assert_eq!(cut.flush, Some(E1));
    assert_eq!(cut.reports, [PlayoutReport::WasCut { epoch: E1, played_ms: 30, sent_ms: 80 }]);
    b.frames(E2, 2);
    b.order(Command::Commit(E2));
    let next = b.at(40);
    assert_eq!(next.frames.len(), 2);
    assert!(next.frames.iter().all(|f| f.0 == E2), "nothing of the cut reply is heard");
}

#[test]
fn what_was_sent_before_a_hold_counts_as_played_after_it() {
    let mut b = Bench::new(40);
    b.frames(E1, 50);
    b.order(Command::Commit(E1));
    b.at(0);
    b.order(Command::Hold);
    b.at(10);
    b.order(Command::Cut(E1));
    assert_eq!(b.at(500).reports, [PlayoutReport::WasCut { epoch: E1, played_ms: 60, sent_ms: 60 }]);
}

#[test]
fn a_voice_that_is_late_makes_a_gap_not_a_burst() {
    let mut b = Bench::new(0);
    b.frames(E1, 1);
    b.order(Command::Commit(E1));
    b.at(0);
    assert_eq!(b.at(100).gaps, 4);
    b.frames(E1, 5);
    assert_eq!(numbers(&b.at(120)), [0, 1], "the frame due at 100 and the one due at 120");
    assert_eq!(numbers(&b.at(140)), [2]);
}

#[test]
fn a_discarded_draft_is_never_heard() {
    let mut b = Bench::new(0);
    b.frames(E1, 3);
    b.order(Command::Cut(E1));
    b.at(0);
    let second = Epoch { turn: 1, rev: 2 };
    b.frames(second, 1);
    b.order(Command::Commit(second));
    let t = b.at(20);
    assert_eq!(t.frames.len(), 1);
    assert_eq!(t.frames[0].0, second);
}
