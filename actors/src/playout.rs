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

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior};

use crate::lane::Lane;
use crate::lateness::Lateness;
use crate::ledger::Certainty;
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

/// Frames kept of what was sent, to be sent again when it turns out that nobody was there to hear it: two
/// seconds, twice what an edge takes to notice that its caller has gone silent.
const REWIND_FRAMES: usize = 100;

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
    /// Nobody is there to hear us: pause until they are, and what was sent in the last so many milliseconds
    /// was not heard either.
    Away {
        /// How much, at most two seconds.
        unheard_ms: u32,
    },
    /// Somebody is there (again), over a transport that wants so much sent ahead.
    Here {
        /// Milliseconds.
        lead_ms: u32,
    },
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
        /// How we know what was played.
        certainty: Certainty,
    },
}

/// One reply on its way out.
#[derive(Debug)]
struct Playing {
    epoch: Epoch,
    /// When the first frame was sent, moved forward by every pause and gap.
    started: Option<Instant>,
    sent: u64,
    /// The caller may be interrupting.
    held: bool,
    /// Since when nothing is sent, for whatever reason.
    held_since: Option<Instant>,
    ended: bool,
}

/// What a tick gives back.
#[derive(Debug, Default)]
pub struct Ticked {
    /// To send, in order.
    pub frames: Vec<(Epoch, Box<[i16; OUT_FRAME]>)>,
    /// What was sent of this reply and not played is void; so many milliseconds of it were sent.
    pub flush: Option<(Epoch, u64)>,
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
    /// Nobody is there to hear us.
    away: bool,
    /// The last frames sent of what plays, oldest first.
    tail: VecDeque<Box<[i16; OUT_FRAME]>>,
    recording: Option<(Lane<Piece>, Arc<AtomicU64>)>,
}

impl Playout {
    /// Nothing plays.
    pub fn new(frames: Lane<PlayItem>, commands: Lane<Command>, lead_ms: u32) -> Self {
        Self {
            frames,
            commands,
            head: VecDeque::new(),
            playing: None,
            void: None,
            lead: lead(lead_ms),
            away: false,
            tail: VecDeque::new(),
            recording: None,
        }
    }

    /// Also hands every frame sent to a recorder, with the media clock's time.
    pub fn recorded(mut self, lane: Option<Lane<Piece>>, clock: Arc<AtomicU64>) -> Self {
        self.recording = lane.map(|l| (l, clock));
        self
    }

    /// What is due now.
    pub fn tick(&mut self, now: Instant) -> Ticked {
        let mut out = self.obey(now);
        self.send_due(now, &mut out);
        self.finish(now, &mut out);
        out
    }

    /// What follows at once from what was ordered: a hold must not wait for a tick. What is due to be sent does.
    pub fn obey(&mut self, now: Instant) -> Ticked {
        let mut out = Ticked::default();
        self.commands.answer();
        while let Some(command) = self.commands.pop() {
            self.command(command, now, &mut out);
        }
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
                self.tail.clear();
                let held_since = self.away.then_some(now);
                self.playing =
                    Some(Playing { epoch, started: None, sent: 0, held: false, held_since, ended: false });
            }
            Command::Hold => self.hold(now, |p| p.held = true),
            Command::Resume => {
                if let Some(p) = &mut self.playing {
                    p.held = false;
                }
                self.go_on(now);
            }
            Command::Away { unheard_ms } => {
                if !std::mem::replace(&mut self.away, true) {
                    self.rewind(unheard_ms);
                    self.hold(now, |_| {});
                }
            }
            Command::Here { lead_ms } => {
                self.lead = lead(lead_ms);
                self.away = false;
                self.go_on(now);
            }
            Command::Cut(epoch) => {
                self.void = self.void.max(Some(epoch));
                if self.playing.as_ref().is_some_and(|p| p.epoch == epoch) {
                    let p = self.playing.take().expect("checked above");
                    let sent_ms = p.sent * FRAME_MS;
                    let (played_ms, certainty) = match self.ahead() {
                        true => (p.played_ms(now), Certainty::Estimated),
                        false => (sent_ms, Certainty::Sent),
                    };
                    out.flush = Some((epoch, sent_ms));
                    out.reports.push(PlayoutReport::WasCut { epoch, played_ms, sent_ms, certainty });
                }
            }
        }
    }

    /// Whether frames are sent before they are to be played. Where they are not, what was sent is what is
    /// heard: nothing waits anywhere that a cut could still take back.
    fn ahead(&self) -> bool {
        self.lead >= Duration::from_millis(FRAME_MS)
    }

    fn hold(&mut self, now: Instant, why: impl FnOnce(&mut Playing)) {
        if let Some(p) = &mut self.playing {
            why(p);
            p.held_since.get_or_insert(now);
        }
    }

    fn go_on(&mut self, now: Instant) {
        if let Some(p) = &mut self.playing
            && !(p.held || self.away)
            && let Some(since) = p.held_since.take()
            && let Some(started) = &mut p.started
        {
            *started += now.saturating_duration_since(since);
        }
    }

    /// What was sent last was not heard: it is sent again. Of a reply that was sent to its end and has had
    /// the time to be played nothing comes again.
    fn rewind(&mut self, unheard_ms: u32) {
        let Some(p) = &mut self.playing else { return };
        let frames = (u64::from(unheard_ms).div_ceil(FRAME_MS) as usize).min(self.tail.len());
        if frames == 0 {
            return;
        }
        p.sent -= frames as u64;
        if let Some(started) = &mut p.started {
            *started += Duration::from_millis(FRAME_MS) * frames as u32;
        }
        if std::mem::replace(&mut p.ended, false) {
            self.head.push_front(PlayItem::End(p.epoch));
        }
        for frame in self.tail.drain(self.tail.len() - frames..).rev() {
            self.head.push_front(PlayItem::Frame(p.epoch, frame));
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
                        let frame = Duration::from_millis(FRAME_MS);
                        if behind >= frame {
                            out.gaps += behind.as_millis() as u64 / FRAME_MS;
                            // Where nothing is sent ahead, this tick is over: the next frame is the next tick's.
                            *started += behind + frame.saturating_sub(self.lead);
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
                    if self.tail.len() == REWIND_FRAMES {
                        self.tail.pop_front();
                    }
                    self.tail.push_back(frame.clone());
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
            self.tail = VecDeque::new();
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

fn lead(ms: u32) -> Duration {
    Duration::from_millis(u64::from(ms.min(LEAD_MS_MAX)))
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
    /// Rung when a session has ordered something of its playout.
    ordered: Arc<Notify>,
}

impl Pacer {
    /// Starts the task; it ends with the last clone. How late it ticks goes to `lateness`.
    pub fn start(lateness: Arc<Lateness>) -> Self {
        let (join, joining) = mpsc::channel(JOINING);
        let ordered = Arc::new(Notify::new());
        tokio::spawn(pace(joining, lateness, Arc::clone(&ordered)));
        Self { join, ordered }
    }

    /// Paces a session until it ends or its edge lets go of the stream.
    pub async fn add(&self, playout: Playout, out: mpsc::WeakSender<Out>, tell: Tell) {
        let ordered = Arc::clone(&self.ordered);
        playout.commands.attach(Box::new(move || ordered.notify_one()));
        // The task ends only with the server.
        self.join.send(Seat { playout, out, tell }).await.ok();
    }
}

async fn pace(mut joining: mpsc::Receiver<Seat>, lateness: Arc<Lateness>, ordered: Arc<Notify>) {
    let mut seats: Vec<Seat> = Vec::new();
    let mut clock = tokio::time::interval(Duration::from_millis(FRAME_MS));
    clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            due = clock.tick() => {
                let now = Instant::now();
                let late = now.saturating_duration_since(due);
                metrics::histogram!(m::PACER_LATE_MS).record(m::ms(late));
                lateness.record(late);
                seats.retain_mut(|seat| run(seat, |playout| playout.tick(now)));
            }
            () = ordered.notified() => {
                let now = Instant::now();
                let waiting = |seat: &Seat| !seat.playout.commands.is_empty();
                seats.retain_mut(|seat| !waiting(seat) || run(seat, |playout| playout.obey(now)));
            }
            seat = joining.recv() => match seat {
                Some(seat) => seats.push(seat),
                None => return,
            },
        }
    }
}

/// Has one session's playout go on, and passes on what comes of it; says whether it is still there.
fn run(seat: &mut Seat, go_on: impl FnOnce(&mut Playout) -> Ticked) -> bool {
    let Some(out) = seat.out.upgrade() else { return false };
    if out.is_closed() {
        (seat.tell)(PlayoutReport::EdgeGone);
        return false;
    }
    let ticked = go_on(&mut seat.playout);
    if let Some((epoch, sent_ms)) = ticked.flush {
        send(&out, Out::Flush { epoch, sent_ms });
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
