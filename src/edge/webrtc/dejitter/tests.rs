#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

/// A stream in virtual time: packet `n` says its number in its payload and is due at 20 ms × n.
struct Bench {
    dejitter: Dejitter,
    start: Instant,
    first: u16,
}

impl Bench {
    fn new(first: u16) -> Self {
        Self { dejitter: Dejitter::default(), start: Instant::now(), first }
    }

    fn packet(&self, n: u32) -> Packet {
        let payload = Bytes::copy_from_slice(&[n as u8; 20]);
        let sequence = self.first.wrapping_add(n as u16);
        Packet { sequence, timestamp: 4_294_900_000_u32.wrapping_add(n * 960), length: 960, payload }
    }

    fn at(&mut self, n: u32, ms: u64) -> Vec<Step> {
        let packet = self.packet(n);
        self.put(packet, ms)
    }

    fn put(&mut self, packet: Packet, ms: u64) -> Vec<Step> {
        let mut out = Vec::new();
        self.dejitter.packet(packet, self.start + MS * ms as u32, &mut out);
        out.retain(|step| *step != Step::Reset || ms > 0);
        out
    }

    fn tick(&mut self, ms: u64, heard: u64) -> Vec<Step> {
        let mut out = Vec::new();
        self.dejitter.tick(self.start + MS * ms as u32, self.start + MS * heard as u32, &mut out);
        out
    }
}

fn decode(n: u32) -> Step {
    Step::Decode(Bytes::copy_from_slice(&[n as u8; 20]))
}

fn correct(n: u32) -> Step {
    Step::Correct(Bytes::copy_from_slice(&[n as u8; 20]))
}

fn silence(steps: &[Step]) -> Duration {
    steps.iter().map(|step| if let Step::Silence(length) = step { *length } else { Duration::ZERO }).sum()
}

#[test]
fn what_is_in_order_passes_at_once_also_where_both_counters_wrap() {
    let mut b = Bench::new(65_500);
    for n in 0..200 {
        assert_eq!(b.at(n, u64::from(n) * 20), [decode(n)]);
    }
    assert_eq!(b.dejitter.counts(), Counts::default());
}

#[test]
fn packets_that_overtook_each_other_are_put_in_order() {
    let mut b = Bench::new(7);
    b.at(0, 0);
    assert_eq!(b.at(2, 41), []);
    assert_eq!(b.at(3, 61), []);
    assert_eq!(b.at(1, 63), [decode(1), decode(2), decode(3)]);
    assert_eq!(b.dejitter.counts(), Counts { reordered: 1, ..Counts::default() });
}

#[test]
fn a_hole_is_waited_for_and_then_made_up_from_the_packet_behind_it() {
    let mut b = Bench::new(0);
    b.at(0, 0);
    assert_eq!(b.at(3, 60), []);
    assert_eq!(b.tick(119, 119), []);
    assert_eq!(b.tick(120, 120), [Step::Conceal, correct(3), decode(3)]);
    assert_eq!(b.at(1, 125), [], "too late");
    assert_eq!(b.at(4, 130), [decode(4)]);
    assert_eq!(b.dejitter.counts(), Counts { lost: 2, late: 1, reordered: 0 });
}

#[test]
fn a_long_hole_is_no_audio_at_all() {
    let mut b = Bench::new(0);
    b.at(0, 0);
    b.at(50, 1000);
    assert_eq!(b.tick(1060, 1060), [Step::Reset, decode(50)]);
    assert_eq!(b.at(51, 1080), [decode(51)]);
}

#[test]
fn an_outage_of_minutes_begins_anew_without_any_silence() {
    let mut b = Bench::new(0);
    b.at(0, 0);
    assert_eq!(b.tick(60_000, 0), []);
    assert_eq!(b.at(3000, 60_000), [Step::Reset, decode(3000)]);
    assert_eq!(b.at(3001, 60_020), [decode(3001)]);
}

#[test]
fn a_clock_that_jumps_between_two_packets_in_a_row_is_a_silence() {
    let mut b = Bench::new(0);
    b.at(0, 0);
    let mut later = b.packet(1);
    later.timestamp = later.timestamp.wrapping_add(48_000);
    assert_eq!(b.put(later, 30), [Step::Silence(Duration::from_secs(1)), decode(1)]);
}

#[test]
fn announced_silence_is_made_as_it_passes_and_only_once() {
    let mut b = Bench::new(0);
    let mut dtx = b.packet(0);
    dtx.payload = Bytes::from_static(&[8]);
    b.put(dtx, 0);
    let mut made = Duration::ZERO;
    for ms in (100..400).step_by(20) {
        made += silence(&b.tick(ms, 0));
    }
    assert_eq!(made, MS * 360, "from the end of the last packet until now");
    // The next update of the silence: 400 ms after the one before, by the sender's clock.
    let mut update = b.packet(1);
    update.timestamp = b.packet(20).timestamp;
    let steps = b.put(update, 401);
    assert_eq!(silence(&steps), MS * 20, "what was missing of 380 ms");
}

#[test]
fn a_dead_network_is_no_silence_and_a_live_one_without_audio_is() {
    let mut b = Bench::new(0);
    b.at(0, 0);
    for ms in (20..5_000).step_by(20) {
        assert_eq!(b.tick(ms, 0), [], "nothing at all comes");
    }
    let mut made = Duration::ZERO;
    for ms in (5_000..7_000).step_by(20) {
        made += silence(&b.tick(ms, 5_000));
    }
    assert_eq!(made, MS * 1980, "a check of the path came at 5 s: time goes on from there, not from before");
    for ms in (8_000..20_000).step_by(20) {
        b.tick(ms, 5_000);
    }
    assert_eq!(silence(&b.tick(20_000, 5_000)), Duration::ZERO, "and it is not believed for ever");
}

#[test]
fn there_is_always_a_next_look_and_it_is_not_at_once() {
    let mut b = Bench::new(0);
    assert_eq!(b.dejitter.due(b.start), None);
    b.at(0, 0);
    assert_eq!(b.dejitter.due(b.start), Some(b.start + STALL));
    b.at(2, 40);
    assert_eq!(b.dejitter.due(b.start + MS * 40), Some(b.start + STALL));
    assert_eq!(b.dejitter.due(b.start + MS * 90), Some(b.start + MS * 100), "the hole is 60 ms old then");
}

/// A packet's fate: lost, or delayed by so many milliseconds.
fn fates() -> impl Strategy<Value = Vec<Option<u64>>> {
    prop::collection::vec(prop_oneof![1 => Just(None), 6 => (0_u64..150).prop_map(Some)], 1..400)
}

proptest! {
    /// Whatever the network does: no packet is heard twice or out of order, every one that came within the wait
    /// is heard, and what comes out is never longer than what was said.
    #[test]
    fn order_and_time_are_kept_over_any_network(fates in fates(), first: u16) {
        let mut b = Bench::new(first);
        let mut arrivals: Vec<(u64, u32)> = fates.iter().enumerate()
            .filter_map(|(n, fate)| fate.map(|delay| (n as u64 * 20 + delay, n as u32))).collect();
        arrivals.sort_unstable();
        let mut heard: Vec<Step> = Vec::new();
        let end = fates.len() as u64 * 20 + 400;
        for ms in 0..end {
            for (_, n) in arrivals.iter().filter(|(at, _)| *at == ms) {
                heard.extend(b.at(*n, ms));
            }
            heard.extend(b.tick(ms, ms));
        }
        let numbers: Vec<u8> = heard.iter().filter_map(|step| match step {
            Step::Decode(payload) => Some(payload[0]),
            _ => None,
        }).collect();
        let in_order = numbers.windows(2).all(|w| (1..128).contains(&w[1].wrapping_sub(w[0])));
        prop_assert!(in_order, "{numbers:?}");
        let frames = heard.iter().filter(|s| matches!(s, Step::Decode(_) | Step::Correct(_) | Step::Conceal)).count();
        prop_assert!(frames <= fates.len(), "{frames} frames of {}", fates.len());
        prop_assert!(b.dejitter.waiting.is_empty(), "nothing waits for ever");
    }

    /// Packets that no sender would send: no panic, and a bounded wait.
    #[test]
    fn nonsense_does_no_harm(packets in prop::collection::vec((any::<u16>(), any::<u32>(), 1_u32..5760, 0_u64..300), 0..300)) {
        let mut b = Bench::new(0);
        let mut ms = 0;
        for (sequence, timestamp, length, later) in packets {
            ms += later;
            let payload = Bytes::from_static(b"x");
            b.put(Packet { sequence, timestamp, length, payload }, ms);
            let steps = b.tick(ms, ms / 2);
            prop_assert!(silence(&steps) < Duration::from_secs(3));
            prop_assert!(b.dejitter.waiting.len() <= WAITING_MAX + 1);
        }
    }
}
