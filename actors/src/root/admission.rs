//! Who is let in: by seats, by engines that are up, by the pacer's lateness and by what one more would do to the rest.
//! Who finds no room may wait for it, behind those who came before, or is told when to come back.

use std::time::{Duration, Instant};

use ractor::{ActorRef, RpcReplyPort};

use crate::gpu::EngineStatus;
use crate::gpu::binding::Handed;
use crate::gpu::load::Verdict;
use crate::metrics as m;
use crate::ports::{SessionPorts, SessionSpec};

use super::{RootMsg, State};

/// Why a session was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// All places are taken.
    #[error("the server is full; try again in {retry_after_s} s")]
    Full {
        /// When a place is likely to be free.
        retry_after_s: u32,
    },
    /// Those who are being served are only just served in time.
    #[error("the server is too busy; try again in {retry_after_s} s")]
    Busy {
        /// When it is worth another try.
        retry_after_s: u32,
    },
    /// The server is about to end.
    #[error("the server is shutting down")]
    Draining,
    /// An engine is not there.
    #[error("the server is not ready: {0}")]
    NotReady(String),
    /// The caller agreed to a recording and none can be written now. The log says why; the caller need not
    /// know where recordings lie.
    #[error("no recording can be written now")]
    RecordingUnavailable,
}

/// Who may wait for a seat at once: those behind are told to come back, with an estimate.
pub const WAITING_MAX: usize = 64;

/// How long anybody may wait for a seat: proxies give up on a handshake after a minute.
pub const WAIT_MAX: Duration = Duration::from_secs(50);

/// How often it is looked whether one of those who wait can be let in: a session that ends is seen at once, this is for
/// a device that is less busy than it was.
pub(super) const WAITING_LOOK: Duration = Duration::from_millis(500);

/// Above this lateness of one tick in a hundred no further caller is taken: half a frame. In prototypes a
/// server beyond it collapsed within seconds (ticks of two seconds, calls that dropped and came again).
const LATE_MAX: Duration = Duration::from_millis(10);

/// When to come back to a server whose pacer is late: the lateness looks back ten seconds.
const RETRY_LATE_S: u32 = 10;

/// Somebody who waits for a seat.
pub(super) struct Waiting {
    pub(super) spec: SessionSpec,
    pub(super) until: Instant,
    pub(super) reply: RpcReplyPort<Result<SessionPorts, OpenError>>,
}

/// Tells whoever asked, and counts who is sent away.
fn answer(reply: RpcReplyPort<Result<SessionPorts, OpenError>>, opened: Result<SessionPorts, OpenError>) {
    if let Err(error) = &opened {
        let reason = match error {
            OpenError::Full { .. } => "full",
            OpenError::Busy { .. } => "busy",
            OpenError::Draining => "draining",
            OpenError::NotReady(_) => "not_ready",
            OpenError::RecordingUnavailable => "recording_unavailable",
        };
        metrics::counter!(m::SESSIONS_REFUSED, "reason" => reason).increment(1);
    }
    // An edge that is gone drops the ports, and the session ends for want of a reader.
    reply.send(opened).ok();
}

impl State {
    /// Opens a session, or lets whoever asks wait for a seat, behind those who wait already.
    pub(super) async fn ask(
        &mut self,
        me: &ActorRef<RootMsg>,
        spec: SessionSpec,
        patience: Duration,
        reply: RpcReplyPort<Result<SessionPorts, OpenError>>,
    ) {
        let first = self.waiting.is_empty();
        let refused = match self.verdict() {
            Ok(handed) if first => return answer(reply, self.open(me, spec, handed).await),
            Ok(_) => OpenError::Full { retry_after_s: self.wait_s() },
            Err(refused) => refused,
        };
        let for_want_of_room = matches!(refused, OpenError::Full { .. } | OpenError::Busy { .. });
        if !for_want_of_room || patience.is_zero() || self.waiting.len() >= WAITING_MAX {
            return answer(reply, Err(refused));
        }
        self.waiting.push_back(Waiting { spec, until: Instant::now() + patience.min(WAIT_MAX), reply });
        self.count();
        if first {
            me.send_after(WAITING_LOOK, || RootMsg::LookAtWaiting);
        }
    }

    /// Lets those in who wait, as far as there are seats, and sends those away who have waited long enough.
    pub(super) async fn let_in(&mut self, me: &ActorRef<RootMsg>) {
        let now = Instant::now();
        self.waiting.retain(|waiting| !waiting.reply.is_closed());
        while let Some(first) = self.waiting.pop_front() {
            match self.verdict() {
                Ok(handed) => {
                    let opened = self.open(me, first.spec, handed).await;
                    answer(first.reply, opened);
                }
                Err(OpenError::Full { .. } | OpenError::Busy { .. }) if first.until > now => {
                    self.waiting.push_front(first);
                    break;
                }
                Err(refused) => answer(first.reply, Err(refused)),
            }
        }
        // Behind the first there may be some with less patience.
        let over: Vec<usize> =
            (0..self.waiting.len()).rev().filter(|&i| self.waiting[i].until <= now).collect();
        for i in over {
            let refused = OpenError::Full { retry_after_s: self.wait_s() };
            if let Some(waiting) = self.waiting.remove(i) {
                answer(waiting.reply, Err(refused));
            }
        }
        self.count();
    }

    /// Whether one more session is taken, and by which engines.
    fn verdict(&self) -> Result<Handed, OpenError> {
        if self.closed {
            return Err(OpenError::Draining);
        }
        if let Some(kind) = missing(&self.args.shared.engines()) {
            return Err(OpenError::NotReady(format!("the {kind} engine is not up yet")));
        }
        if self.sessions.len() >= self.args.limits.sessions {
            return Err(OpenError::Full { retry_after_s: self.wait_s() });
        }
        // With nobody there, there is nobody to protect, and what makes us late (a model that loads) is no caller.
        if !self.sessions.is_empty() && self.args.lateness.p99() > LATE_MAX {
            return Err(OpenError::Busy { retry_after_s: RETRY_LATE_S });
        }
        match self.args.shared.verdict(self.args.limits.late_ms_max) {
            Verdict::Admit => Ok(Handed::No),
            Verdict::Smaller => Ok(Handed::Smaller),
            Verdict::Elsewhere => Ok(Handed::Elsewhere),
            Verdict::Refuse => Err(OpenError::Busy { retry_after_s: self.wait_s() }),
        }
    }

    /// When one who comes now is going to find a seat, seconds.
    pub(super) fn wait_s(&self) -> u32 {
        let ages = self.sessions.values().map(|seat| seat.since.elapsed().as_secs_f64());
        self.seats.wait_s(ages, self.waiting.len())
    }
}

/// The first kind of engine of which none is up.
pub(super) fn missing(engines: &[EngineStatus]) -> Option<&'static str> {
    engines.iter().map(|e| e.kind).find(|kind| !engines.iter().any(|e| e.kind == *kind && e.up))
}
