//! Playout: our voice leaves the server in real time, on every transport.
//!
//! [`Playout`] is pure: a queue of frames, a clock that comes in as an argument, and the rule which frames are
//! due. The [`Pacer`] is the one task that ticks all sessions' playouts every 20 ms. Because the server
//! paces, a *hold* is silence within a frame and the lead, and the ledger knows what was sent.
//!
//! *Input:* frames from the enhancer through a bounded lane, commands from the session through another.
//! *Output:* frames and flushes to the edge, in the session's one ordered stream; reports to the session.
//! *When the edge does not keep up* frames are dropped and counted: real time does not wait.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use crate::lane::Lane;
use crate::metrics as m;
use crate::ports::{OUT_FRAME, Out};
use crate::recorder::Piece;
use crate::types::{Epoch, MediaTime};

/// One frame's length.
pub const FRAME_MS: u64 = 20;

/// Frames of speech that may wait to be played: 60 s, more than the longest reply we let be written
/// ahead; the voice pauses before that (see the TTS stage).
pub const FRAMES_LANE: usize = 3000;

/// Commands that may wait between two ticks.
pub const COMMANDS_LANE: usize = 32;

/// Audio sent ahead of real time is never more than this: it is what a *hold* cannot take back.
pub const LEAD_MS_MAX: u32 = 120;

/// What the enhancer hands over.
pub enum PlayItem {
    /// 20 ms at 24 kHz.
    Frame(Epoch, Box<[i16; OUT_FRAME]>),
    /// Nothing more comes of this reply.
    End(Epoch),
}

impl PlayItem {
    fn epoch(&self) -> Epoch {
        match self {
            PlayItem::Frame(e, _) | PlayItem::End(e) => *e,
        }
    }
}

/// What the session orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// This reply may be heard.
    Commit(Epoch),
    /// Pause, drop nothing.
    Hold,
    /// Go on at the very sample.
    Resume,
    /// This reply ends here; also voids a draft.
    Cut(Epoch),
}

/// What the session is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlayoutReport {
    /// The first frame was sent.
    Started(Epoch),
    /// Nobody reads what is sent any more.
    EdgeGone,
    /// Everything was sent and has had the time to be played.
    Drained {
        /// Which reply.
        epoch: Epoch,
        /// Milliseconds played.
        played_ms: u64,
    },
    /// The reply ended where it was cut.
    WasCut {
        /// Which reply.
        epoch: Epoch,
        /// Milliseconds that were played by then, at the most what was sent.
        played_ms: u64,
        /// Milliseconds that were sent.
        sent_ms: u64,
    },
}

/// One reply on its way out.
#[derive(Debug)]
struct Playing {
    epoch: Epoch,
    /// When the first frame was sent, moved forward by every pause and gap.
    started: Option<Instant>,
    sent: u64,
    held_since: Option<Instant>,
    ended: bool,
}

/// What a tick gives back.
#[derive(Debug, Default)]
pub struct Ticked {
    /// To send, in order.
    pub frames: Vec<(Epoch, Box<[i16; OUT_FRAME]>)>,
    /// What was sent of this reply and not played is void.
    pub flush: Option<Epoch>,
    /// To tell the session.
    pub reports: Vec<PlayoutReport>,
    /// Frames that were due and not there.
    pub gaps: u64,
}

/// A session's playout.
pub struct Playout {
    frames: Lane<PlayItem>,
    commands: Lane<Command>,
    /// Read from the lane, not due yet.
    head: VecDeque<PlayItem>,
    playing: Option<Playing>,
    /// Everything up to here is void.
    void: Option<Epoch>,
    lead: Duration,
    recording: Option<(Lane<Piece>, Arc<AtomicU64>)>,
}

impl Playout {
    /// Nothing plays.
    pub fn new(frames: Lane<PlayItem>, commands: Lane<Command>, lead_ms: u32) -> Self {
        let lead = Duration::from_millis(u64::from(lead_ms.min(LEAD_MS_MAX)));
        Self { frames, commands, head: VecDeque::new(), playing: None, void: None, lead, recording: None }
    }

    /// Also hands every frame sent to a recorder, with the media clock's time.
    pub fn recorded(mut self, lane: Option<Lane<Piece>>, clock: Arc<AtomicU64>) -> Self {
        self.recording = lane.map(|l| (l, clock));
        self
    }

    /// What is due now.
    pub fn tick(&mut self, now: Instant) -> Ticked {
        let mut out = Ticked::default();
        while let Some(command) = self.commands.pop() {
            self.command(command, now, &mut out);
        }
        self.send_due(now, &mut out);
        self.finish(now, &mut out);
        out
    }

    /// Whether a tick would do nothing but look.
    pub fn idle(&self) -> bool {
        self.playing.is_none() && self.commands.is_empty()
    }

    fn command(&mut self, command: Command, now: Instant, out: &mut Ticked) {
        match command {
            Command::Commit(epoch) => {
                self.void = Some(Epoch { turn: epoch.turn, rev: epoch.rev.saturating_sub(1) });
                self.playing =
                    Some(Playing { epoch, started: None, sent: 0, held_since: None, ended: false });
            }
            Command::Hold => {
                if let Some(p) = &mut self.playing {
                    p.held_since.get_or_insert(now);
                }
            }
            Command::Resume => {
                if let Some(p) = &mut self.playing
                    && let Some(since) = p.held_since.take()
                    && let Some(started) = &mut p.started
                {
                    *started += now.saturating_duration_since(since);
                }
            }
            Command::Cut(epoch) => {
                self.void = self.void.max(Some(epoch));
                if self.playing.as_ref().is_some_and(|p| p.epoch == epoch) {
                    let p = self.playing.take().expect("checked above");
                    let (played_ms, sent_ms) = (p.played_ms(now), p.sent * FRAME_MS);
                    out.flush = Some(epoch);
                    out.reports.push(PlayoutReport::WasCut { epoch, played_ms, sent_ms });
                }
            }
        }
    }

    /// The oldest item that is not void.
    fn next(&mut self) -> Option<&PlayItem> {
        loop {
            if self.head.is_empty() {
                self.head.push_back(self.frames.pop()?);
            }
            if self.void.is_some_and(|v| self.head[0].epoch() <= v) {
                self.head.pop_front();
            } else {
                return self.head.front();
            }
        }
    }

    fn send_due(&mut self, now: Instant, out: &mut Ticked) {
        let Some(mut p) = self.playing.take() else {
            // Void drafts must not fill the lane while nothing plays.
            self.next();
            return;
        };
        while p.held_since.is_none() && !p.ended {
            let due =
                p.started.is_none_or(|s| now + self.lead >= s + Duration::from_millis(p.sent * FRAME_MS));
            if !due {
                break;
            }
            match self.next() {
                Some(item) if item.epoch() == p.epoch => {}
                // A later draft lies behind: ours came to no end of its own.
                Some(_) => {
                    p.ended = true;
                    break;
                }
                None => {
                    if let Some(started) = &mut p.started {
                        // Nothing there: real time goes on, so the reply moves back by what is missing.
                        let behind = (now + self.lead)
                            .saturating_duration_since(*started + Duration::from_millis(p.sent * FRAME_MS));
                        if behind >= Duration::from_millis(FRAME_MS) {
                            out.gaps += behind.as_millis() as u64 / FRAME_MS;
                            *started += behind;
                        }
                    }
                    break;
                }
            }
            match self.head.pop_front() {
                Some(PlayItem::Frame(epoch, frame)) => {
                    if p.started.is_none() {
                        p.started = Some(now);
                        out.reports.push(PlayoutReport::Started(epoch));
                    }
                    p.sent += 1;
                    if let Some((lane, clock)) = &self.recording {
                        let at = MediaTime(clock.load(Ordering::Acquire));
                        lane.push_latest(Piece::Ours(at, frame.clone()));
                    }
                    out.frames.push((epoch, frame));
                }
                _ => p.ended = true,
            }
        }
        self.playing = Some(p);
    }

    fn finish(&mut self, now: Instant, out: &mut Ticked) {
        let Some(p) = &self.playing else { return };
        let all_played = p.started.is_none_or(|s| now >= s + Duration::from_millis(p.sent * FRAME_MS));
        if p.ended && all_played && p.held_since.is_none() {
            let (epoch, played_ms) = (p.epoch, p.sent * FRAME_MS);
            out.reports.push(PlayoutReport::Drained { epoch, played_ms });
            self.void = self.void.max(Some(epoch));
            self.playing = None;
        }
    }
}

impl Playing {
    fn played_ms(&self, now: Instant) -> u64 {
        let until = self.held_since.unwrap_or(now);
        let elapsed = self.started.map_or(0, |s| until.saturating_duration_since(s).as_millis() as u64);
        // What was sent when we began to hold has been played by now.
        let held_ms = self.held_since.map_or(0, |h| now.saturating_duration_since(h).as_millis() as u64);
        (elapsed + held_ms).min(self.sent * FRAME_MS)
    }
}

/// Tells a session what its playout did. Must not block.
pub type Tell = Box<dyn Fn(PlayoutReport) + Send>;

struct Seat {
    playout: Playout,
    /// Weak: the stream ends with the session, not with the pacer.
    out: mpsc::WeakSender<Out>,
    tell: Tell,
}

/// Sessions that may wait to be taken in between two ticks.
const JOINING: usize = 256;

/// The one task that paces all sessions.
#[derive(Clone)]
pub struct Pacer {
    join: mpsc::Sender<Seat>,
}

impl Pacer {
    /// Starts the task; it ends with the last clone.
    pub fn start() -> Self {
        let (join, joining) = mpsc::channel(JOINING);
        tokio::spawn(pace(joining));
        Self { join }
    }

    /// Paces a session until it ends or its edge lets go of the stream.
    pub async fn add(&self, playout: Playout, out: mpsc::WeakSender<Out>, tell: Tell) {
        // The task ends only with the server.
        self.join.send(Seat { playout, out, tell }).await.ok();
    }
}

async fn pace(mut joining: mpsc::Receiver<Seat>) {
    let mut seats: Vec<Seat> = Vec::new();
    let mut clock = tokio::time::interval(Duration::from_millis(FRAME_MS));
    clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            due = clock.tick() => {
                let now = Instant::now();
                metrics::histogram!(m::PACER_LATE_MS).record(m::ms(now.saturating_duration_since(due)));
                seats.retain_mut(|seat| tick(seat, now));
            }
            seat = joining.recv() => match seat {
                Some(seat) => seats.push(seat),
                None => return,
            },
        }
    }
}

/// Ticks one session; says whether it is still there.
fn tick(seat: &mut Seat, now: Instant) -> bool {
    let Some(out) = seat.out.upgrade() else { return false };
    if out.is_closed() {
        (seat.tell)(PlayoutReport::EdgeGone);
        return false;
    }
    let ticked = seat.playout.tick(now);
    if let Some(epoch) = ticked.flush {
        send(&out, Out::Flush { epoch });
    }
    // Told first: the wire's events of a reply's start stand before its audio.
    let (started, rest): (Vec<_>, Vec<_>) =
        ticked.reports.into_iter().partition(|r| matches!(r, PlayoutReport::Started(_)));
    started.into_iter().for_each(|r| (seat.tell)(r));
    for (epoch, frame) in ticked.frames {
        send(&out, Out::Audio { epoch, frame });
    }
    if ticked.gaps > 0 {
        metrics::counter!(m::PLAYOUT_GAPS).increment(ticked.gaps);
    }
    rest.into_iter().for_each(|r| (seat.tell)(r));
    true
}

fn send(out: &mpsc::Sender<Out>, what: Out) {
    if out.try_send(what).is_err() {
        metrics::counter!(m::DROPS, "stage" => "playout", "reason" => "edge_slow").increment(1);
    }
}

/// The lanes into a playout.
#[derive(Clone)]
pub struct PlayoutLanes {
    /// Frames.
    pub frames: Lane<PlayItem>,
    /// Commands.
    pub commands: Lane<Command>,
}

impl Default for PlayoutLanes {
    fn default() -> Self {
        Self { frames: Lane::new(FRAMES_LANE), commands: Lane::new(COMMANDS_LANE) }
    }
}

#[cfg(test)]
#[path = "playout/tests.rs"]
mod tests;
