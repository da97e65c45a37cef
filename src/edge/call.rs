//! One caller's conversation over any transport: the log goes out as events, events come in as control.
//!
//! Bounds: what waits to go out is the session's own queue and the transport's; nothing is kept here. A
//! client that hangs up ends the session, a session that ended closes the transport. A transport that is only
//! lost is waited for: the call keeps what comes out of the session meanwhile ([`viva_actors::ports::OUT_QUEUE`] things at most, or it
//! ends), and goes on over the transport that its client comes back with, beginning with what was told to the old
//! one and did not arrive.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ractor::ActorRef;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use viva_actors::event::{LogEntry, SessionEvent};
use viva_actors::metrics as m;
use viva_actors::ports::{Line, Out, ResponseOptions, SessionMsg, SessionPorts};
use viva_actors::types::SessionId;

use super::intake::Intake;
use super::mapper::{Mapper, View};
use super::out_of_band::{OutOfBand, Writer};
use super::parking::{Parking, Ticket};
use super::protocol::session_object::{
    Offer, SessionObject, SessionPatch, ShownSession, TRANSCRIPTION, TokenLimit,
};
use super::protocol::{Envelope, ErrorBody, ServerEvent};
use super::recall::Recall;
use super::sideband::{Asker, Sidebands};
use super::transport::{Frame, Inbound, Lost, Transport};
use crate::identity::quota::Meter;

mod beside;
mod line;
mod silence;

pub use line::Return;
use line::coming;

/// A reply that was asked for counts as under way for so long before the session says that it began.
const ASKED_FOR: Duration = Duration::from_secs(2);

/// What a session may be told before we look whether it keeps up: far more than a conversation needs at once, and
/// few enough that their events fit the way out.
const AHEAD_MAX: u32 = 32;

/// WebSocket close codes, which other transports translate to their own.
pub mod close {
    /// Done.
    pub const NORMAL: u16 = 1000;
    /// A client's page is left or loaded again: whoever sends this may come back.
    pub const AWAY: u16 = 1001;
    /// The same, where a page says it itself: browsers let it send 1000 and codes from 3000 on.
    pub const STEPPED_OUT: u16 = 4001;
    /// We cannot go on.
    pub const INTERNAL: u16 = 1011;
    /// The message does not fit.
    pub const TOO_BIG: u16 = 1009;
    /// The peer broke the protocol of the transport.
    pub const PROTOCOL: u16 = 1002;
}

/// One call.
pub struct Call<T> {
    pub(super) id: SessionId,
    pub(super) transport: T,
    pub(super) offer: Arc<Offer>,
    pub(super) object: SessionObject,
    pub(super) locked: Option<SessionPatch>,
    pub(super) mapper: Mapper,
    pub(super) intake: Intake,
    pub(super) control: Control,
    pub(super) spoken_yet: bool,
    pub(super) commit_open: bool,
    pub(super) queued_reply: Option<Box<ResponseOptions>>,
    asked: Option<Instant>,
    events: u64,
    /// What the session was told since it was last seen to keep up.
    ahead: AtomicU32,
    told: Recall,
    ended: Option<String>,
    /// When the caller's silence has lasted too long, and since when in their own audio; none while it does not count.
    idle: Option<(Instant, u64)>,
    expires: Instant,
    /// Where its client may come back to; none for one that would not know how.
    parking: Option<Arc<Parking<Return<T>>>>,
    ticket: Option<Ticket<Return<T>>>,
    door: Option<mpsc::Receiver<Return<T>>>,
    /// What came out of the session while nobody was there.
    kept: VecDeque<Out>,
    sidebands: Sidebands,
    /// Responses outside the conversation.
    pub(super) beside: OutOfBand,
    /// Somebody else decides what is said.
    pub(super) directed: bool,
    /// What of the owner's quota is left; none where there is no quota.
    meter: Option<Meter>,
}

/// The way to the session. Its drop hangs up, however the call ends.
pub(super) struct Control(pub(super) ActorRef<SessionMsg>);

impl Drop for Control {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.0.cast(SessionMsg::Hangup("the caller's connection ended".into())).ok();
    }
}

/// Why a call was over.
enum End {
    /// The line was lost; its client may come back.
    Vanished(String),
    Caller {
        why: String,
        error: Option<ErrorBody>,
        code: u16,
    },
    Session,
    Expired,
    Lost(Lost),
}

impl From<Lost> for End {
    fn from(Lost(why): Lost) -> Self {
        Self::Vanished(why)
    }
}

/// How a call begins.
pub struct Beginning<T> {
    /// What the server offers.
    pub offer: Arc<Offer>,
    /// They asked for our own events too.
    pub extended: bool,
    /// Settings they sent along, already checked.
    pub object: Option<SessionObject>,
    /// Settings that whoever let them in has chosen, already checked: they can neither change nor read them.
    pub locked: Option<SessionPatch>,
    /// Where they may come back to.
    pub parking: Arc<Parking<Return<T>>>,
    /// Further lines of control.
    pub sidebands: Sidebands,
    /// Whoever orders responses beside the conversation.
    pub writer: Writer,
    /// Somebody else decides what is said.
    pub directed: bool,
    /// What of the owner's quota is left; none where there is no quota.
    pub meter: Option<Meter>,
}

/// A session's first settings, as the wire shows them.
pub fn first_object(id: &SessionId, offer: &Offer) -> SessionObject {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    SessionObject::new(id.0.clone(), offer, now.as_secs() + offer.session_s_max)
}

/// Serves one caller until either side ends.
pub async fn run<T: Transport + 'static>(transport: T, ports: SessionPorts, beginning: Beginning<T>) {
    let Beginning { offer, extended, object, locked, parking, sidebands, writer, directed, meter } =
        beginning;
    let SessionPorts { id, mic, control, out } = ports;
    let asked_for = object.is_some() || locked.is_some();
    let mut object = object.unwrap_or_else(|| first_object(&id, &offer));
    if let Some(patch) = &locked {
        if patch.kind == TRANSCRIPTION {
            object = object.into_transcription();
        }
        // What they sent along may have changed a voice that was heard yet as little as this one.
        object = object.patched(patch.clone(), &offer, false).unwrap_or(object);
    }
    let conversation = id.0.replacen("sess_", "conv_", 1);
    let mut mapper = Mapper::new(conversation, extended, view(&object));
    mapper.set_audio_apart(transport.carries_audio());
    let mut call = Call {
        mapper,
        intake: Intake::new(mic),
        control: Control(control),
        id,
        transport,
        object,
        locked,
        spoken_yet: false,
        commit_open: false,
        queued_reply: None,
        asked: None,
        events: 0,
        ahead: AtomicU32::new(0),
        told: Recall::default(),
        ended: None,
        idle: None,
        expires: Instant::now() + Duration::from_secs(offer.session_s_max),
        // Only a client of ours knows what to do with a token.
        parking: Some(parking).filter(|parking| extended && !parking.stay().is_zero()),
        ticket: None,
        door: None,
        kept: VecDeque::new(),
        sidebands,
        beside: OutOfBand::new(writer),
        directed,
        meter,
        offer,
    };
    if asked_for {
        call.intake.set_format(call.object.audio.input.format);
        call.tell(SessionMsg::Configure(Box::new(call.object.settings(&call.offer))));
    }
    call.run(out).await;
}

/// What of the settings shows in responses.
pub(super) fn view(object: &SessionObject) -> View {
    View {
        spoken: object.spoken(),
        transcription: object.audio.input.transcription.is_some(),
        tools: object.calls_functions(),
        format: object.audio.output.format,
        voice: object.audio.output.voice.clone(),
        max_output_tokens: match object.max_output_tokens {
            TokenLimit::Tokens(n) => n.into(),
            TokenLimit::Unlimited(_) => "inf".into(),
        },
    }
}

impl<T: Transport + 'static> Call<T> {
    async fn run(mut self, mut out: mpsc::Receiver<Out>) {
        let transport = self.transport.name();
        tracing::info!(session = %self.id, transport, "call began");
        let began = Instant::now();
        let end = loop {
            let end = match self.serve(&mut out).await {
                Ok(never) => match never {},
                Err(end) => end,
            };
            match end {
                End::Vanished(why) if self.ticket.is_some() => {
                    if let Err(end) = self.wait(&mut out, why).await {
                        break end;
                    }
                }
                end => break end,
            }
        };
        let why = self.finish(end).await;
        tracing::info!(session = %self.id, seconds = began.elapsed().as_secs(), why, "call ended");
    }

    async fn serve(&mut self, out: &mut mpsc::Receiver<Out>) -> Result<std::convert::Infallible, End> {
        // Whoever comes back is greeted already.
        if self.events == 0 {
            self.say(ServerEvent::SessionCreated { session: self.shown() }).await?;
            self.say_way_back().await?;
        }
        while let Some(item) = self.kept.pop_front() {
            self.outbound(item).await?;
        }
        let expiry = sleep_until(self.expires);
        tokio::pin!(expiry);
        loop {
            tokio::select! {
                heard = self.transport.receive() => self.inbound(heard).await?,
                item = out.recv() => match item {
                    Some(item) => self.outbound(item).await?,
                    None => return Err(End::Session),
                },
                back = coming(self.door.as_mut()) => {
                    // Their client gave the old line up before we did.
                    let silent = self.transport.silent();
                    self.tell(SessionMsg::Line(Line::Lost { unheard_ms: millis(silent) }));
                    self.take_up(back, silent).await?;
                }
                () = &mut expiry => return Err(End::Expired),
                side = self.sidebands.next() => self.side(side).await?,
                step = self.beside.next() => self.step(step).await?,
                () = until(self.idle) => self.silent_too_long().await?,
            }
        }
    }

    async fn inbound(&mut self, heard: Inbound) -> Result<(), End> {
        match heard {
            Inbound::Event(text) => {
                self.request(Asker::Caller, &text).await?;
                self.keep_in_step().await;
            }
            Inbound::Audio(samples) => {
                self.intake.push(&samples);
            }
            Inbound::Unreadable(error) => self.say(ServerEvent::Error { error }).await?,
            Inbound::Away { silent } => {
                tracing::info!(session = %self.id, silent_ms = millis(silent), "nothing comes from the caller");
                self.tell(SessionMsg::Line(Line::Lost { unheard_ms: millis(silent) }));
            }
            Inbound::Back => {
                tracing::info!(session = %self.id, "the caller is back");
                metrics::counter!(m::LINES_LOST, "end" => "back").increment(1);
                self.line_back();
            }
            Inbound::Lost { why } => return Err(End::Vanished(why)),
            Inbound::Gone { why, error, code } => return Err(End::Caller { why, error, code }),
        }
        Ok(())
    }

    async fn outbound(&mut self, item: Out) -> Result<(), Lost> {
        match item {
            Out::Event(entry) => {
                self.note(&entry);
                let events = self.mapper.event(&entry);
                let told = self.say_all(events).await;
                if matches!(
                    entry.event,
                    SessionEvent::TurnEnded { .. }
                        | SessionEvent::Dismissed { .. }
                        | SessionEvent::HearingFailed { .. }
                ) {
                    self.commit_settled();
                }
                told
            }
            Out::Audio { epoch, frame } => {
                let Some((before, _)) = self.mapper.audio(epoch) else { return Ok(()) };
                self.say_all(before).await?;
                self.spoken_yet = true;
                self.events += 1;
                let event_id = event_name(&self.id, self.events);
                let Some((_, ids)) = self.mapper.audio(epoch) else { return Ok(()) };
                let format = self.object.audio.output.format;
                self.transport.audio(Frame { event_id, ids, format, samples: &frame }).await
            }
            Out::Flush { epoch, sent_ms } => {
                self.transport.flush();
                let events = self.mapper.flush(epoch, sent_ms);
                self.say_all(events).await
            }
        }
    }

    /// The settings as the client may see them.
    pub(super) fn shown(&self) -> ShownSession {
        let object = self.object.clone();
        match &self.locked {
            Some(locked) => object.without_secrets(locked).shown(),
            None => object.shown(),
        }
    }

    /// What the call itself learns from the log.
    fn note(&mut self, entry: &LogEntry) {
        match &entry.event {
            SessionEvent::ReplyEnded { .. } | SessionEvent::Dismissed { .. } => {
                let detection = self.object.audio.input.turn_detection.as_ref();
                let idle = detection.and_then(|detection| detection.idle_timeout_ms).map(u64::from);
                self.idle = idle.map(|ms| (Instant::now() + Duration::from_millis(ms), entry.media.ms()));
            }
            SessionEvent::SpeechStarted { .. } | SessionEvent::TurnEnded { .. } => self.idle = None,
            SessionEvent::ReplyStarted { .. } => (self.asked, self.idle) = (None, None),
            SessionEvent::Trouble { .. } => self.asked = None,
            SessionEvent::Ended { reason } => self.ended = Some(reason.clone()),
            _ => {}
        }
    }

    /// What was committed has become a turn, or nothing. A reply that was asked for meanwhile can be made:
    /// it reads the words.
    fn commit_settled(&mut self) {
        self.intake.turn_ended();
        self.commit_open = false;
        if let Some(options) = self.queued_reply.take() {
            self.tell(SessionMsg::Respond(options));
        }
    }

    /// Whether a reply is under way or about to be.
    pub(super) fn replying(&self) -> bool {
        self.mapper.active().is_some()
            || self.queued_reply.is_some()
            || self.asked.is_some_and(|at| at.elapsed() < ASKED_FOR)
    }

    /// A reply was asked for.
    pub(super) fn reply_asked(&mut self) {
        self.asked = Some(Instant::now());
    }

    /// A reply is no longer wanted.
    pub(super) fn reply_unasked(&mut self) {
        self.asked = None;
        self.queued_reply = None;
        self.mapper.unexpect();
    }

    /// Tells the session. One that has ended closes its queue, and that ends the call.
    pub(super) fn tell(&self, message: SessionMsg) {
        self.ahead.fetch_add(1, Ordering::Relaxed);
        self.control.0.cast(message).ok();
    }

    /// Waits for the session to have done what it was told, once that is much. A mailbox has no bound of its own, so
    /// a client that asks faster than a session can answer is read no further until it has caught up.
    async fn keep_in_step(&mut self) {
        if *self.ahead.get_mut() < AHEAD_MAX {
            return;
        }
        *self.ahead.get_mut() = 0;
        // A session that does not answer has ended, and its queue ends the call.
        self.ask(SessionMsg::Settled).await.ok();
    }

    /// Tells the caller, and whoever listens beside them.
    pub(super) async fn say(&mut self, mut event: ServerEvent) -> Result<(), Lost> {
        if let (ServerEvent::RateLimits { rate_limits }, Some(meter)) = (&mut event, &self.meter) {
            rate_limits.extend(meter.left().map(Into::into));
        }
        let event_id = self.keep(&event);
        self.sidebands.tell(&event_id, &event, &self.object);
        self.transport.event(&Envelope { event_id, event: &event }).await
    }

    /// Tells the caller several things. What their line does not take any more is kept for their next one.
    async fn say_all(&mut self, events: Vec<ServerEvent>) -> Result<(), Lost> {
        let mut told = Ok(());
        for event in events {
            match told {
                Ok(()) => told = self.say(event).await,
                Err(_) => {
                    let event_id = self.keep(&event);
                    self.sidebands.tell(&event_id, &event, &self.object);
                }
            }
        }
        told
    }

    /// Gives an event its name; and keeps it, for a client that could come back.
    fn keep(&mut self, event: &ServerEvent) -> String {
        self.events += 1;
        if self.parking.is_some() {
            self.told.keep(self.events, event);
        }
        event_name(&self.id, self.events)
    }

    async fn finish(&mut self, end: End) -> String {
        let (why, error, code) = match end {
            End::Caller { why, error, code } => (why, error, code),
            End::Session => {
                let code = if self.ended.is_none() { close::INTERNAL } else { close::NORMAL };
                (self.ended.take().unwrap_or_else(|| "the session failed".into()), None, code)
            }
            End::Expired => {
                let minutes = self.offer.session_s_max.div_ceil(60);
                let message = format!("Your session hit the maximum duration of {minutes} minutes.");
                let error = ErrorBody::invalid("session_expired", message, None);
                ("it lasted as long as a session may".into(), Some(error), close::NORMAL)
            }
            End::Lost(Lost(why)) | End::Vanished(why) => (why, None, close::NORMAL),
        };
        self.tell(SessionMsg::Hangup(why.clone()));
        if let Some(error) = error {
            // They may be gone already.
            self.say(ServerEvent::Error { error }).await.ok();
        }
        self.transport.close(code, &why).await;
        why
    }
}

/// Waits until then; for ever where there is no such time.
async fn until(idle: Option<(Instant, u64)>) {
    match idle {
        Some((at, _)) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// Unique within the session, and across sessions by its name.
fn event_name(id: &SessionId, n: u64) -> String {
    format!("event_{}{n:08x}", tail(id))
}

/// Which of the session's events has this name.
fn event_number(id: &SessionId, name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_prefix("event_")?.strip_prefix(tail(id))?, 16).ok()
}

fn tail(id: &SessionId) -> &str {
    id.0.get(id.0.len().saturating_sub(8)..).unwrap_or_default()
}
