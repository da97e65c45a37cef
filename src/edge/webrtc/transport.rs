//! A peer as the transport of a call: events on its data channel, audio on its tracks.
//!
//! *In:* packets through the de-jitterer and the decoder, at 16 kHz; messages of at most what the channel
//! negotiated. *Out:* our voice, encoded and sent at once; events, of which [`PENDING_BYTES`] may wait for the
//! channel to open. *When the channel is full* the call waits for [`WRITE_WITHIN`], then the peer is taken for
//! gone.
//!
//! *Life and death* are told by what comes from the peer, of any kind: silence on the line for a moment is told
//! to the call, which holds our voice until the line is alive again (a restart of ICE brings it back); after
//! [`LOST_AFTER`] the line is lost.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use viva_actors::metrics as m;
use webrtc::data_channel::{DataChannel, DataChannelEvent};
use webrtc::media_stream::track_remote::{TrackRemote, TrackRemoteEvent};

use super::codec::{Ear, Effort, Voice, length_of};
use super::dejitter::{Dejitter, Packet, Step};
use super::peer::{Peer, PeerEvent};
use crate::edge::call::close;
use crate::edge::protocol::{Envelope, ErrorBody, ServerEvent};
use crate::edge::transport::{Frame, Inbound, Lost, Transport};

/// The channel that carries the events; the protocol's own name for it.
const CHANNEL: &str = "oai-events";

/// Nothing is sent ahead of its time: what is sent at once cannot be taken back. Half a frame, so that one tick
/// may come a little early or late and has its one frame all the same.
pub const LEAD_MS: u32 = 10;

/// Bytes of events that may wait for the channel to open.
const PENDING_BYTES: usize = 1024 * 1024;

/// How long one event may take to find room in the channel: as on a WebSocket.
const WRITE_WITHIN: Duration = Duration::from_secs(10);

/// How long a peer may take to come after it was answered. A browser needs 0.2 s, on a bad network 4 s.
const CONNECT_WITHIN: Duration = Duration::from_secs(15);

/// A peer that was sending audio and from whom nothing comes for so long is away: fifty packets in a row are
/// not lost by chance.
const AWAY_AFTER: Duration = Duration::from_secs(1);

/// A peer that sends no audio is heard of when it checks the path, every 2.5 s in browsers (RFC 7675 allows
/// 5 s): twice that and a second.
const AWAY_AFTER_QUIET: Duration = Duration::from_secs(6);

/// Audio this long before the last sign of life means that audio was being sent.
const SENDING: Duration = Duration::from_millis(500);

/// After this without a sign of life the line is lost. An outage of ten seconds with the restart after it must
/// fit.
const LOST_AFTER: Duration = Duration::from_secs(20);

/// How long we wait at the end for our last words to arrive.
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);

/// How often that is looked at.
const GOODBYE_LOOK: Duration = Duration::from_millis(20);

/// One peer.
pub struct WebRtcTransport {
    peer: Arc<Peer>,
    told: mpsc::Receiver<PeerEvent>,
    effort: Arc<Effort>,
    voice: Voice,
    caller: Option<Caller>,
    channel: Option<Arc<dyn DataChannel>>,
    pending: VecDeque<String>,
    pending_bytes: usize,
    event_max: usize,
    /// There will be a channel.
    expects_channel: bool,
    began: Instant,
    connected: bool,
    away: bool,
    /// What came with the first word of a caller who was away.
    ready: Option<Inbound>,
    /// Goes with the transport: what the registry of calls knows of it.
    _registered: Box<dyn Send + Sync>,
}

/// The caller's stream.
struct Caller {
    track: Arc<dyn TrackRemote>,
    dejitter: Dejitter,
    ear: Ear,
    steps: Vec<Step>,
    last: Option<Instant>,
    counted: (u64, u64, u64),
}

/// What a look at everything that can happen brought.
enum Happened {
    Told(Option<PeerEvent>),
    Message(Option<DataChannelEvent>),
    Packet(Option<TrackRemoteEvent>),
    Time,
}

impl WebRtcTransport {
    /// A transport for a peer that was answered. `registered` is dropped with it.
    pub fn new(
        peer: Arc<Peer>,
        told: mpsc::Receiver<PeerEvent>,
        offer: &super::offer::Offer,
        voice: Voice,
        effort: Arc<Effort>,
        registered: Box<dyn Send + Sync>,
    ) -> Self {
        Self {
            peer,
            told,
            effort,
            voice,
            caller: None,
            channel: None,
            pending: VecDeque::new(),
            pending_bytes: 0,
            event_max: offer.event_max,
            expects_channel: offer.channel,
            began: Instant::now(),
            connected: false,
            away: false,
            ready: None,
            _registered: registered,
        }
    }

    /// Waits until media can flow, for as long as a peer may take for that. Says whether it can.
    pub async fn opened(&mut self) -> bool {
        let opened = async {
            while !self.connected {
                let Some(event) = self.told.recv().await else { return false };
                if self.told(event).await.is_some() {
                    return false;
                }
            }
            true
        };
        timeout(CONNECT_WITHIN, opened).await.unwrap_or(false)
    }

    fn heard(&self) -> Instant {
        self.peer.heard().last().unwrap_or(self.began)
    }

    /// How long the peer may be silent before it is away.
    fn patience(&self) -> Duration {
        let sending = self.caller.as_ref().and_then(|c| c.last).is_some_and(|at| at + SENDING > self.heard());
        if sending { AWAY_AFTER } else { AWAY_AFTER_QUIET }
    }

    /// When to look at the clock again.
    fn due(&self, now: Instant) -> Instant {
        let audio = self.caller.as_ref().and_then(|c| c.dejitter.due(now));
        let watch = match (self.connected, self.away) {
            (false, _) => self.began + CONNECT_WITHIN,
            // It may come back at any time.
            (true, true) => now + GOODBYE_LOOK,
            (true, false) => self.heard() + self.patience(),
        };
        audio.map_or(watch, |audio| audio.min(watch))
    }

    /// What the clock says about the line.
    fn watch(&mut self, now: Instant) -> Option<Inbound> {
        if !self.connected {
            return (now >= self.began + CONNECT_WITHIN).then(|| Inbound::Gone {
                why: "the caller's media never came".into(),
                error: None,
                code: close::NORMAL,
            });
        }
        let silent = now.saturating_duration_since(self.heard());
        if silent >= LOST_AFTER {
            return Some(Inbound::Lost { why: format!("nothing came for {} s", LOST_AFTER.as_secs()) });
        }
        if !self.away && silent >= self.patience() {
            self.away = true;
            return Some(Inbound::Away { silent });
        }
        if self.away && silent < AWAY_AFTER {
            self.away = false;
            return Some(Inbound::Back);
        }
        None
    }

    async fn told(&mut self, event: PeerEvent) -> Option<Inbound> {
        match event {
            PeerEvent::Connected => {
                if !std::mem::replace(&mut self.connected, true) {
                    self.peer.open_speaker().await;
                }
            }
            PeerEvent::Track(track) => match Ear::new() {
                Ok(ear) => {
                    let (dejitter, steps) = (Dejitter::default(), Vec::new());
                    self.caller =
                        Some(Caller { track, dejitter, ear, steps, last: None, counted: (0, 0, 0) });
                }
                Err(error) => tracing::error!(%error, "no decoder for a caller"),
            },
            PeerEvent::Channel(channel) => {
                if self.channel.is_some() || channel.label().await.ok().as_deref() != Some(CHANNEL) {
                    channel.close().await.ok();
                    return None;
                }
                self.channel = Some(channel);
                self.pending_bytes = 0;
                for event in std::mem::take(&mut self.pending) {
                    if let Err(Lost(why)) = self.send(&event).await {
                        return Some(Inbound::Lost { why });
                    }
                }
            }
            PeerEvent::Closed => return Some(Inbound::Lost { why: "the peer connection was closed".into() }),
        }
        None
    }

    fn message(&mut self, event: Option<DataChannelEvent>) -> Option<Inbound> {
        match event {
            Some(DataChannelEvent::OnMessage(message)) if message.is_string => {
                match String::from_utf8(message.data.to_vec()) {
                    Ok(text) => Some(Inbound::Event(text)),
                    Err(_) => Some(Inbound::Unreadable(ErrorBody::invalid(
                        "invalid_frame",
                        "Events are JSON in UTF-8.",
                        None,
                    ))),
                }
            }
            Some(DataChannelEvent::OnMessage(_)) => {
                let message = "Events are JSON in text messages; audio is sent on the track.";
                Some(Inbound::Unreadable(ErrorBody::invalid("invalid_frame", message, None)))
            }
            Some(DataChannelEvent::OnClose) | None => {
                self.channel = None;
                Some(Inbound::Lost { why: "the channel of events was closed".into() })
            }
            Some(_) => None,
        }
    }

    /// Sends text as one message; waits for room.
    async fn send(&self, text: &str) -> Result<(), Lost> {
        let Some(channel) = &self.channel else { return Ok(()) };
        match timeout(WRITE_WITHIN, channel.send_text(text)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Lost(format!("the channel of events is gone: {error}"))),
            Err(_) => Err(Lost("the client does not read".into())),
        }
    }
}

impl Caller {
    fn packet(&mut self, event: TrackRemoteEvent, now: Instant) -> Option<Inbound> {
        let TrackRemoteEvent::OnRtpPacket(packet) = event else { return None };
        let Some(length) = length_of(&packet.payload) else {
            // Padding to probe the network has no audio; everything else without any is no Opus.
            return None;
        };
        self.last = Some(now);
        let (sequence, timestamp) = (packet.header.sequence_number, packet.header.timestamp);
        let packet = Packet { sequence, timestamp, length, payload: packet.payload };
        self.dejitter.packet(packet, now, &mut self.steps);
        self.hear()
    }

    fn tick(&mut self, now: Instant, heard: Instant) -> Option<Inbound> {
        self.dejitter.tick(now, heard, &mut self.steps);
        self.hear()
    }

    fn hear(&mut self) -> Option<Inbound> {
        let mut audio = Vec::new();
        for step in self.steps.drain(..) {
            self.ear.hear(step, &mut audio);
        }
        self.count();
        (!audio.is_empty()).then(|| Inbound::Audio(audio.into()))
    }

    fn count(&mut self) {
        let counts = self.dejitter.counts();
        let now = (counts.lost, counts.late, self.ear.made_up());
        if now == self.counted {
            return;
        }
        let before = std::mem::replace(&mut self.counted, now);
        for (what, more) in
            [("lost", now.0 - before.0), ("late", now.1 - before.1), ("made_up", now.2 - before.2)]
        {
            metrics::counter!(m::RTP_PACKETS, "what" => what).increment(more);
        }
    }
}

async fn next_message(channel: Option<&Arc<dyn DataChannel>>) -> Option<DataChannelEvent> {
    match channel {
        Some(channel) => channel.poll().await,
        None => std::future::pending().await,
    }
}

async fn next_packet(caller: Option<&Caller>) -> Option<TrackRemoteEvent> {
    match caller {
        Some(caller) => caller.track.poll().await,
        None => std::future::pending().await,
    }
}

impl Transport for WebRtcTransport {
    fn name(&self) -> &'static str {
        "webrtc"
    }

    fn carries_audio(&self) -> bool {
        true
    }

    fn lead_ms(&self, _: u32) -> u32 {
        LEAD_MS
    }

    fn event_max(&self) -> usize {
        self.event_max
    }

    fn silent(&self) -> Duration {
        self.heard().elapsed()
    }

    async fn receive(&mut self) -> Inbound {
        if let Some(ready) = self.ready.take() {
            return ready;
        }
        loop {
            let due = self.due(Instant::now());
            let happened = tokio::select! {
                told = self.told.recv() => Happened::Told(told),
                message = next_message(self.channel.as_ref()) => Happened::Message(message),
                packet = next_packet(self.caller.as_ref()) => Happened::Packet(packet),
                () = sleep_until(due) => Happened::Time,
            };
            let now = Instant::now();
            let heard = self.heard();
            let inbound = match happened {
                Happened::Told(Some(event)) => self.told(event).await,
                Happened::Told(None) => Some(Inbound::Lost { why: "the peer connection ended".into() }),
                Happened::Message(event) => self.message(event),
                Happened::Packet(Some(event)) => self.caller.as_mut().and_then(|c| c.packet(event, now)),
                Happened::Packet(None) => {
                    self.caller = None;
                    None
                }
                Happened::Time => match self.caller.as_mut().and_then(|c| c.tick(now, heard)) {
                    Some(audio) => Some(audio),
                    None => self.watch(now),
                },
            };
            // Whoever was away is back with the first word, whatever it was.
            if self.away
                && !matches!(inbound, Some(Inbound::Lost { .. }))
                && let Some(line) = self.watch(now)
            {
                self.ready = inbound;
                return line;
            }
            if let Some(inbound) = inbound {
                return inbound;
            }
        }
    }

    async fn event(&mut self, event: &Envelope<'_>) -> Result<(), Lost> {
        let written = |e: &Envelope<'_>| {
            serde_json::to_string(e).map_err(|e| Lost(format!("an event cannot be written: {e}")))
        };
        let mut text = written(event)?;
        if text.len() > self.event_max {
            let message = format!(
                "An event '{}' of {} bytes does not fit the data channel, whose messages have {}; on a WebSocket it would.",
                event.event.name(),
                text.len(),
                self.event_max
            );
            let error = ServerEvent::Error { error: ErrorBody::server("event_too_large", message) };
            text = written(&Envelope { event_id: event.event_id.clone(), event: &error })?;
        }
        if self.channel.is_some() {
            return self.send(&text).await;
        }
        if self.expects_channel {
            self.pending_bytes += text.len();
            if self.pending_bytes > PENDING_BYTES {
                return Err(Lost("the channel of events never opened".into()));
            }
            self.pending.push_back(text);
        }
        Ok(())
    }

    async fn audio(&mut self, frame: Frame<'_>) -> Result<(), Lost> {
        if let Some(payload) = self.voice.encode(frame.samples, self.effort.complexity()) {
            self.peer.speaker().speak(payload);
        }
        Ok(())
    }

    /// Nothing waits here: a frame is sent when it comes.
    fn flush(&mut self) {}

    async fn close(&mut self, _: u16, _: &str) {
        if let Some(channel) = self.channel.take() {
            let arrived = async {
                while channel.outstanding_bytes().await.is_ok_and(|bytes| bytes > 0) {
                    sleep(GOODBYE_LOOK).await;
                }
            };
            // Whoever is away already does not hear it.
            if !self.away && !self.peer.closed() {
                timeout(GOODBYE_WITHIN, arrived).await.ok();
            }
        }
        self.peer.close().await;
    }
}
