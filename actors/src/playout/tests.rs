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
    assert_eq!(cut.flush, Some((E1, 80)));
    let certainty = Certainty::Estimated;
    assert_eq!(cut.reports, [PlayoutReport::WasCut { epoch: E1, played_ms: 30, sent_ms: 80, certainty }]);
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
    let certainty = Certainty::Estimated;
    let cut = PlayoutReport::WasCut { epoch: E1, played_ms: 60, sent_ms: 60, certainty };
    assert_eq!(b.at(500).reports, [cut]);
}

#[test]
fn a_voice_that_is_late_makes_a_gap_not_a_burst() {
    let mut b = Bench::new(0);
    b.frames(E1, 1);
    b.order(Command::Commit(E1));
    b.at(0);
    assert_eq!(b.at(100).gaps, 4);
    b.frames(E1, 5);
    assert_eq!(numbers(&b.at(120)), [0]);
    assert_eq!(numbers(&b.at(140)), [1]);
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

#[test]
fn where_nothing_is_sent_ahead_every_tick_has_one_frame_though_it_comes_early_or_late() {
    let mut b = Bench::new(10);
    b.frames(E1, 50);
    b.order(Command::Commit(E1));
    for (i, t) in [0, 26, 38, 61, 84, 97, 120, 140].into_iter().enumerate() {
        assert_eq!(numbers(&b.at(t)), [i as i16], "at {t} ms");
    }
}

#[test]
fn where_nothing_is_sent_ahead_what_was_sent_is_what_was_heard() {
    let mut b = Bench::new(10);
    b.frames(E1, 50);
    b.order(Command::Commit(E1));
    b.at(0);
    b.at(20);
    b.order(Command::Cut(E1));
    let certainty = Certainty::Sent;
    let cut = PlayoutReport::WasCut { epoch: E1, played_ms: 40, sent_ms: 40, certainty };
    assert_eq!(b.at(23).reports, [cut]);
}

#[test]
fn a_lost_line_pauses_and_says_again_what_nobody_heard() {
    let mut b = Bench::new(10);
    b.frames(E1, 20);
    b.order(Command::Commit(E1));
    for t in 0..8 {
        b.at(t * 20);
    }
    b.order(Command::Away { unheard_ms: 60 });
    for t in 8..500 {
        assert!(b.at(t * 20).frames.is_empty());
    }
    b.order(Command::Here { lead_ms: 10 });
    for i in 5..10 {
        assert_eq!(numbers(&b.at(10_000 + 20 * (i - 5))), [i as i16]);
    }
}

#[test]
fn a_reply_that_was_sent_to_its_end_when_the_line_was_lost_ends_after_what_nobody_heard() {
    let mut b = Bench::new(40);
    b.frames(E1, 4);
    b.end(E1);
    b.order(Command::Commit(E1));
    b.at(0);
    b.at(20);
    b.order(Command::Away { unheard_ms: 40 });
    assert_eq!(b.at(40).reports, [], "nothing drains while nobody hears it");
    assert_eq!(b.at(5000).reports, []);
    b.order(Command::Here { lead_ms: 40 });
    assert_eq!(numbers(&b.at(5020)), [2]);
    assert_eq!(numbers(&b.at(5040)), [3]);
    assert_eq!(b.at(5100).reports, [PlayoutReport::Drained { epoch: E1, played_ms: 80 }]);
}

#[test]
fn a_line_that_comes_back_does_not_end_a_hold_nor_a_resume_a_lost_line() {
    let mut b = Bench::new(10);
    b.frames(E1, 9);
    b.order(Command::Commit(E1));
    b.at(0);
    b.order(Command::Hold);
    b.order(Command::Away { unheard_ms: 0 });
    b.order(Command::Here { lead_ms: 10 });
    assert!(b.at(20).frames.is_empty(), "the caller may still be interrupting");
    b.order(Command::Away { unheard_ms: 0 });
    b.order(Command::Resume);
    assert!(b.at(40).frames.is_empty(), "nobody is there");
    b.order(Command::Here { lead_ms: 10 });
    assert_eq!(numbers(&b.at(60)), [1]);
}

#[test]
fn a_reply_committed_while_the_line_is_lost_waits_for_it() {
    let mut b = Bench::new(40);
    b.frames(E1, 9);
    b.order(Command::Away { unheard_ms: 500 });
    b.order(Command::Commit(E1));
    assert!(b.at(0).frames.is_empty());
    b.order(Command::Here { lead_ms: 10 });
    assert_eq!(numbers(&b.at(900)), [0], "and with the lead of the transport that came");
}
