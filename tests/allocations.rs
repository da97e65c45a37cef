//! What runs for every session all the time takes no memory: each allocation of a hundred sessions is one that they wait
//! for together. One test, since the counter counts every thread.
#![allow(clippy::unwrap_used)]

use std::alloc::System;
use std::hint::black_box;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::time::Instant;
use viva::edge::intake::Intake;
use viva::edge::protocol::{ClientEvent, parse};
use viva_actors::gpu::load::{Meter, Part};
use viva_actors::gpu::policy::{Candidate, grant, grant_in_order};
use viva_actors::lane::Lane;
use viva_actors::playout::{COMMANDS_LANE, Command, FRAMES_LANE, PlayItem, Playout};
use viva_actors::ports::{MIC_LANE, OUT_FRAME};
use viva_actors::types::Epoch;
use viva_models::Denoiser;
use viva_models::audio::{LISTEN_RATE, Resampler, SPEAK_RATE};
use viva_models::enhance::{RnNoise16, Voice};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Rounds that are counted at a time, after as many in which buffers find their size.
const ROUNDS: usize = 200;

/// Times they are counted: the test's own threads allocate now and then, too, and the least is what a round does.
const TIMES: usize = 4;

/// Allocations of a round, on average, once everything has its size.
fn allocations(mut round: impl FnMut()) -> f64 {
    (0..ROUNDS).for_each(|_| round());
    let mut counts = (0..TIMES).map(|_| {
        let counted = Region::new(ALLOCATOR);
        (0..ROUNDS).for_each(|_| round());
        let change = counted.change();
        change.allocations + change.reallocations
    });
    let first = counts.next().unwrap();
    counts.fold(first, usize::min) as f64 / ROUNDS as f64
}

fn tone(samples: usize) -> Vec<f32> {
    (0..samples).map(|i| (i as f32 * 0.07).sin() * 0.3).collect()
}

/// Bytes of this process that nobody has given back.
fn held() -> i64 {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated as i64 - stats.bytes_deallocated as i64
}

/// An hour of a caller's audio over a WebSocket: what it has asked for after its first minute is all it ever holds.
fn an_hour_of_appends_holds_no_more_than_its_first_minute() {
    const A_MINUTE: usize = 60 * 50;
    let samples: Vec<u8> = tone(480).iter().flat_map(|s| ((s * 32_767.0) as i16).to_le_bytes()).collect();
    let audio = STANDARD.encode(&samples);
    let event = format!(r#"{{"type":"input_audio_buffer.append","event_id":"event_1","audio":"{audio}"}}"#);
    let mic: Lane<Box<[f32]>> = Lane::new(MIC_LANE);
    mic.attach(Box::new(|| ()));
    let mut intake = Intake::new(mic.clone());
    let mut minute = || {
        for _ in 0..A_MINUTE {
            let Ok(ClientEvent::Append(audio)) = parse(&event).event else { panic!("it is an append") };
            assert!(!intake.append(&audio).unwrap(), "nothing is lost");
            mic.answer();
            while mic.pop().is_some() {}
        }
    };
    minute();
    let before = held();
    (1..60).for_each(|_| minute());
    let more = held() - before;
    // The test's own threads may hold a line of output.
    assert!(more < 4_096, "{more} bytes more after an hour");
}

#[test]
fn the_hot_path_takes_no_memory() {
    assert!(allocations(|| drop(black_box(Box::new(7_u64)))) >= 1.0, "the counter counts");
    an_hour_of_appends_holds_no_more_than_its_first_minute();

    let lane: Lane<u64> = Lane::new(64);
    lane.attach(Box::new(|| ()));
    let passed_on = allocations(|| {
        lane.push(7).unwrap();
        lane.answer();
        lane.pop();
    });
    assert_eq!(passed_on, 0.0, "a lane");

    let (frame, mut out) = (tone(SPEAK_RATE as usize / 50), Vec::with_capacity(SPEAK_RATE as usize));
    let mut heard = Resampler::new(SPEAK_RATE, LISTEN_RATE).unwrap();
    let resampled = allocations(|| {
        out.clear();
        heard.process(&frame, &mut out);
    });
    assert_eq!(resampled, 0.0, "a caller's frame on its way in");

    let mut voice = Voice::new(SPEAK_RATE, 2.0);
    let voiced = allocations(|| {
        out.clear();
        voice.process(&frame, &mut out);
    });
    assert_eq!(voiced, 0.0, "our voice on its way out");

    let mut denoiser = RnNoise16::new();
    let mut noisy = tone(denoiser.frame());
    assert_eq!(allocations(|| denoiser.process(&mut noisy)), 0.0, "RNNoise");

    // Cores are taken, and work waits: this is looked at with every message.
    let work = |link| Candidate { link, deadline_us: 9, cost_us: 2, speculative: link > 3, cores: 2 };
    let mut waiting: Vec<Candidate> = (0..6).map(work).collect();
    assert_eq!(allocations(|| assert!(grant(&mut waiting, 1, 2).is_empty())), 0.0, "the policy");
    assert_eq!(
        allocations(|| assert!(grant_in_order([(3, 1), (2, 2)], true).is_none())),
        0.0,
        "the order of arrival"
    );

    let mut meter = Meter::new(2);
    let mut now = 0;
    let metered = allocations(|| {
        now += 10_000;
        meter.worked(now, 3_000, 1, Part::Tts, true);
        meter.finished(3.0);
    });
    assert_eq!(metered, 0.0, "the meter");

    let (frames, commands) = (Lane::new(FRAMES_LANE), Lane::new(COMMANDS_LANE));
    let mut playout = Playout::new(frames.clone(), commands.clone(), 0);
    let mut at = Instant::now();
    let mut tick = || {
        at += std::time::Duration::from_millis(20);
        playout.tick(at).frames.len()
    };
    assert_eq!(allocations(|| assert_eq!(tick(), 0)), 0.0, "a playout with nothing to play");
    let epoch = Epoch { turn: 1, rev: 1 };
    (0..=(1 + TIMES) * ROUNDS).for_each(|_| {
        frames.push(PlayItem::Frame(epoch, Box::new([0; OUT_FRAME]))).ok();
    });
    commands.push(Command::Commit(epoch)).unwrap();
    // A frame is copied for a line that may be lost, and handed over in a list.
    let played = allocations(|| assert_eq!(tick(), 1));
    assert!(played <= 2.0, "{played} allocations a frame played");
}
