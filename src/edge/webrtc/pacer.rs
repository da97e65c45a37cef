//! The RTP clock of all peers.
//!
//! When our voice leaves is decided once, by the sessions' own pacer (`viva_actors::playout`): a frame that
//! comes from there is encoded and sent at once, so that no second clock of 20 ms is waited for. What is left to
//! do here is to keep every peer's RTP clock going: it counts ticks of 20 ms since the peer began, whatever was
//! sent, and where our voice is silent (or held, or late) a frame of silence takes its place.
//!
//! *One task for all peers,* drift-free: a tick's number comes from the clock, not from counting. *Bound:* two
//! packets a peer and tick. *When a peer's task does not take them* they are dropped and counted.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use viva_actors::lateness::Lateness;
use viva_actors::metrics as m;
use webrtc::media_stream::track_local::TrackLocal;
use webrtc::media_stream::track_local::static_rtp::TrackLocalStaticRTP;

use super::codec::{Effort, SILENCE};

/// A tick.
const TICK: Duration = Duration::from_millis(20);

/// RTP's clock moves by so much in a tick: 48 kHz.
const TICK_SAMPLES: u32 = 960;

/// Peers that may wait to be taken in between two ticks.
const JOINING: usize = 256;

/// Ticks between two looks at how late we are: a second.
const LOOK_EVERY: u64 = 50;

/// A peer's ticks, by number. Pure.
#[derive(Debug)]
struct Slots {
    /// The first that has nothing in it yet.
    next: u64,
    /// Our voice was in the one before it.
    speaking: bool,
}

impl Slots {
    /// The place of a frame of our voice, and whether it is the first after silence.
    fn speak(&mut self, now: u64) -> (u64, bool) {
        let first = !self.speaking;
        let slot = if first { self.next.max(now) } else { self.next };
        (self.next, self.speaking) = (slot + 1, true);
        (slot, first)
    }

    /// The places that silence must take at tick `now`. A frame of our voice comes somewhere between two ticks
    /// and may be late by a whole one before anything is put in its place.
    fn keep(&mut self, now: u64) -> Range<u64> {
        let grace = u64::from(self.speaking);
        if self.next + grace > now {
            return 0..0;
        }
        // More than two at once help nobody: after a stall the clock jumps.
        let from = self.next.max(now.saturating_sub(1));
        (self.next, self.speaking) = (now + 1, false);
        from..now + 1
    }
}

/// One peer's outgoing stream.
pub struct Speaker {
    track: Arc<TrackLocalStaticRTP>,
    ssrc: u32,
    clock: Clock,
    /// Set while packets can be sent.
    open: AtomicBool,
    stream: Mutex<Stream>,
}

struct Stream {
    slots: Slots,
    sequence: u16,
    payload_type: u8,
    /// Where the RTP clock stood at tick 0.
    origin: u32,
}

/// Numbers ticks. The same for all peers.
#[derive(Debug, Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn tick(self, now: Instant) -> u64 {
        (now.saturating_duration_since(self.0).as_micros() / TICK.as_micros()) as u64
    }
}

impl Speaker {
    /// Packets can be sent from now on, as this payload type.
    pub fn open(&self, payload_type: u8) {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        stream.payload_type = payload_type;
        stream.slots = Slots { next: self.clock.tick(Instant::now()), speaking: false };
        drop(stream);
        self.open.store(true, Ordering::Release);
    }

    /// Nothing can be sent any more.
    pub fn close(&self) {
        self.open.store(false, Ordering::Release);
    }

    /// Sends 20 ms of our voice.
    pub fn speak(&self, payload: Bytes) {
        if !self.open.load(Ordering::Acquire) {
            return;
        }
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let (slot, first) = stream.slots.speak(self.clock.tick(Instant::now()));
        self.send(&mut stream, slot, first, payload);
    }

    fn keep(&self, tick: u64) {
        if !self.open.load(Ordering::Acquire) {
            return;
        }
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        for slot in stream.slots.keep(tick) {
            self.send(&mut stream, slot, false, SILENCE.clone());
        }
    }

    fn send(&self, stream: &mut Stream, slot: u64, marker: bool, payload: Bytes) {
        let header = rtc::rtp::Header {
            version: 2,
            marker,
            payload_type: stream.payload_type,
            sequence_number: stream.sequence,
            timestamp: stream.origin.wrapping_add((slot as u32).wrapping_mul(TICK_SAMPLES)),
            ssrc: self.ssrc,
            ..Default::default()
        };
        stream.sequence = stream.sequence.wrapping_add(1);
        // Queued for the peer's task or not, but never waited for: one peer must not hold up the others.
        let sent = self.track.write_rtp(rtc::rtp::Packet { header, payload }).now_or_never();
        if !matches!(sent, Some(Ok(()))) {
            metrics::counter!(m::DROPS, "stage" => "rtp", "reason" => "peer_busy").increment(1);
        }
    }
}

/// The one task.
#[derive(Clone)]
pub struct RtpPacer {
    join: mpsc::Sender<Weak<Speaker>>,
    clock: Clock,
    effort: Arc<Effort>,
}

impl RtpPacer {
    /// Starts the task; it ends with the last clone. `lateness` is what the encoders' effort goes by.
    pub fn start(lateness: Arc<Lateness>, effort: Arc<Effort>) -> Self {
        let (join, joining) = mpsc::channel(JOINING);
        let clock = Clock(Instant::now());
        tokio::spawn(pace(joining, clock, lateness, Arc::clone(&effort)));
        Self { join, clock, effort }
    }

    /// How hard encoders may work.
    pub fn effort(&self) -> &Arc<Effort> {
        &self.effort
    }

    /// Takes a peer's stream in until it is dropped.
    pub async fn add(&self, track: Arc<TrackLocalStaticRTP>, ssrc: u32) -> Arc<Speaker> {
        let stream = Stream {
            slots: Slots { next: 0, speaking: false },
            sequence: rand::random(),
            payload_type: 0,
            origin: rand::random(),
        };
        let (open, stream) = (AtomicBool::new(false), Mutex::new(stream));
        let speaker = Arc::new(Speaker { track, ssrc, clock: self.clock, open, stream });
        // The task ends only with the server.
        self.join.send(Arc::downgrade(&speaker)).await.ok();
        speaker
    }
}

async fn pace(
    mut joining: mpsc::Receiver<Weak<Speaker>>,
    clock: Clock,
    lateness: Arc<Lateness>,
    effort: Arc<Effort>,
) {
    let mut speakers: Vec<Weak<Speaker>> = Vec::new();
    let mut ticks = interval_at(clock.0 + TICK, TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut look = LOOK_EVERY;
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let tick = clock.tick(Instant::now());
                speakers.retain(|speaker| speaker.upgrade().inspect(|s| s.keep(tick)).is_some());
                if tick >= look {
                    look = tick + LOOK_EVERY;
                    effort.adapt(lateness.p99());
                }
            }
            speaker = joining.recv() => match speaker {
                Some(speaker) => speakers.push(speaker),
                None => return,
            },
        }
    }
}

#[cfg(test)]
#[path = "pacer/tests.rs"]
mod tests;
