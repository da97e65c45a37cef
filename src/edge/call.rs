//! One caller's conversation over any transport: the log goes out as events, events come in as control.
//!
//! Bounds: what waits to go out is the session's own queue and the transport's; nothing is kept here. A
//! transport that is lost ends the session, a session that ended closes the transport.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ractor::ActorRef;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use viva_actors::event::{LogEntry, SessionEvent};
use viva_actors::ports::{Out, ResponseOptions, SessionMsg, SessionPorts};
use viva_actors::types::SessionId;

use super::intake::Intake;
use super::mapper::{Mapper, View};
use super::protocol::session_object::{Offer, SessionObject, TokenLimit};
use super::protocol::{Envelope, ErrorBody, ServerEvent};
use super::transport::{Frame, Inbound, Lost, Transport};

/// A reply that was asked for counts as under way for so long before the session says that it began.
const ASKED_FOR: Duration = Duration::from_secs(2);

/// WebSocket close codes, which other transports translate to their own.
pub mod close {
    /// Done.
    pub const NORMAL: u16 = 1000;
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
    pub(super) mapper: Mapper,
    pub(super) intake: Intake,
    pub(super) control: Control,
    pub(super) spoken_yet: bool,
    pub(super) commit_open: bool,
    pub(super) queued_reply: Option<Box<ResponseOptions>>,
    asked: Option<Instant>,
    events: u64,
    ended: Option<String>,
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
    Caller { why: String, error: Option<ErrorBody>, code: u16 },
    Session,
    Expired,
    Lost(Lost),
}

impl From<Lost> for End {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

/// Serves one caller until either side ends. `extended`: they asked for our own events too.
pub async fn run<T: Transport>(transport: T, ports: SessionPorts, offer: Arc<Offer>, extended: bool) {
    let SessionPorts { id, mic, control, out } = ports;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let object = SessionObject::new(id.0.clone(), &offer, now.as_secs() + offer.session_s_max);
    let conversation = id.0.replacen("sess_", "conv_", 1);
    let call = Call {
        mapper: Mapper::new(conversation, extended, view(&object)),
        intake: Intake::new(mic),
        control: Control(control),
        id,
        transport,
        offer,
        object,
        spoken_yet: false,
        commit_open: false,
        queued_reply: None,
        asked: None,
        events: 0,
        ended: None,
    };
    call.run(out).await;
}

/// What of the settings shows in responses.
pub(super) fn view(object: &SessionObject) -> View {
    View {
        spoken: object.spoken(),
        transcription: object.audio.input.transcription.is_some(),
        format: object.audio.output.format,
        voice: object.audio.output.voice.clone(),
        max_output_tokens: match object.max_output_tokens {
            TokenLimit::Tokens(n) => n.into(),
            TokenLimit::Unlimited(_) => "inf".into(),
        },
    }
}

impl<T: Transport> Call<T> {
    async fn run(mut self, mut out: mpsc::Receiver<Out>) {
        let transport = self.transport.name();
        tracing::info!(session = %self.id, transport, "call began");
        let began = Instant::now();
        let end = match self.serve(&mut out).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        let why = self.finish(end).await;
        tracing::info!(session = %self.id, seconds = began.elapsed().as_secs(), why, "call ended");
    }

    async fn serve(&mut self, out: &mut mpsc::Receiver<Out>) -> Result<std::convert::Infallible, End> {
        self.say(ServerEvent::SessionCreated { session: Box::new(self.object.clone()) }).await?;
        let expiry = sleep_until(Instant::now() + Duration::from_secs(self.offer.session_s_max));
        tokio::pin!(expiry);
        loop {
            tokio::select! {
                heard = self.transport.receive() => self.inbound(heard).await?,
                item = out.recv() => match item {
                    Some(item) => self.outbound(item).await?,
                    None => return Err(End::Session),
                },
                () = &mut expiry => return Err(End::Expired),
            }
        }
    }

    async fn inbound(&mut self, heard: Inbound) -> Result<(), End> {
        match heard {
            Inbound::Event(text) => self.request(&text).await?,
            Inbound::Audio(samples) => {
                self.intake.push(&samples);
            }
            Inbound::Unreadable(error) => self.say(ServerEvent::Error { error }).await?,
            Inbound::Gone { why, error, code } => return Err(End::Caller { why, error, code }),
        }
        Ok(())
    }

    async fn outbound(&mut self, item: Out) -> Result<(), Lost> {
        match item {
            Out::Event(entry) => {
                self.note(&entry);
                for event in self.mapper.event(&entry) {
                    self.say(event).await?;
                }
                if matches!(
                    entry.event,
                    SessionEvent::TurnEnded { .. }
                        | SessionEvent::Dismissed { .. }
                        | SessionEvent::HearingFailed { .. }
                ) {
                    self.commit_settled();
                }
                Ok(())
            }
            Out::Audio { epoch, frame } => {
                let Some((before, _)) = self.mapper.audio(epoch) else { return Ok(()) };
                for event in before {
                    self.say(event).await?;
                }
                self.spoken_yet = true;
                self.events += 1;
                let event_id = event_name(&self.id, self.events);
                let Some((_, ids)) = self.mapper.audio(epoch) else { return Ok(()) };
                let format = self.object.audio.output.format;
                self.transport.audio(Frame { event_id, ids, format, samples: &frame }).await
            }
            Out::Flush { epoch } => {
                self.transport.flush();
                for event in self.mapper.flush(epoch) {
                    self.say(event).await?;
                }
                Ok(())
            }
        }
    }

    /// What the call itself learns from the log.
    fn note(&mut self, entry: &LogEntry) {
        match &entry.event {
            SessionEvent::ReplyStarted { .. } | SessionEvent::Trouble { .. } => self.asked = None,
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
        self.control.0.cast(message).ok();
    }

    /// Tells the caller.
    pub(super) async fn say(&mut self, event: ServerEvent) -> Result<(), Lost> {
        self.events += 1;
        let event_id = event_name(&self.id, self.events);
        self.transport.event(&Envelope { event_id, event: &event }).await
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
            End::Lost(lost) => (lost.0, None, close::NORMAL),
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

/// Unique within the session, and across sessions by its name.
fn event_name(id: &SessionId, n: u64) -> String {
    let tail = id.0.get(id.0.len().saturating_sub(8)..).unwrap_or_default();
    format!("event_{tail}{n:08x}")
}
