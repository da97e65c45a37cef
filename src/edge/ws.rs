//! The WebSocket transport: events as text frames, audio in base64 inside them.
//!
//! *In:* frames of at most [`MESSAGE_MAX`]. *Out:* a queue of [`QUEUE`] frames and [`QUEUE_BYTES`] that a task
//! of its own writes. *When it is full* the call waits for [`WRITE_WITHIN`], then the client is taken for gone. A
//! client that sends nothing at all, not even a pong, for [`SILENT_MAX`] is gone too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use viva_models::audio::{G711, G711_RATE, Resampler, SPEAK_RATE, g711_encode};

use super::call::close;
use super::protocol::session_object::FormatKind;
use super::protocol::{Envelope, ErrorBody, Ids, ServerEvent};
use super::transport::{Frame, Inbound, Lost, Transport};

/// Bytes of one message: the largest append, 15 MiB, is 20 MiB in base64; a little more than that is
/// refused in the protocol's form, and only what is beyond that ends the connection.
pub const MESSAGE_MAX: usize = 22 * 1024 * 1024;

const _: () = assert!(MESSAGE_MAX > super::intake::APPEND_BYTES_MAX / 3 * 4);

/// Frames that wait to be written: five seconds of paced audio with its events.
const QUEUE: usize = 256;

/// Bytes that wait to be written. 256 frames of audio have half of it; events are not all small, a
/// `session.updated` repeats the client's instructions and tools, and a client that asks for many and reads none
/// must not cost more than one that is slow to listen. An event that is larger alone takes all the room.
const QUEUE_BYTES: u32 = 1024 * 1024;

/// A ping this often keeps proxies from closing a quiet connection, most of which wait 60 s.
const PING_EVERY: Duration = Duration::from_secs(15);

/// Three pings without any frame: the client is gone.
pub const SILENT_MAX: Duration = Duration::from_secs(45);

/// How long one frame may take to be written before the client counts as too slow to talk to.
const WRITE_WITHIN: Duration = Duration::from_secs(10);

/// How long we wait at the end for the client to read our last words and to close its side.
const GOODBYE_WITHIN: Duration = Duration::from_secs(2);

/// Bytes a close frame's reason may have: the WebSocket's own limit.
const REASON_MAX: usize = 123;

/// One client's socket.
pub struct WsTransport {
    frames: SplitStream<WebSocket>,
    queue: mpsc::Sender<(Outgoing, Room)>,
    /// Bytes that may still wait.
    room: Arc<Semaphore>,
    writer: JoinHandle<()>,
    /// Why the writer ended, when it was not asked to.
    broke: Arc<OnceLock<&'static str>>,
    cuts: Arc<AtomicU64>,
    last_frame: Instant,
    readable: bool,
    telephone: Telephone,
}

/// Why a connection ends whose client takes nothing of what is sent to it.
const DEAF: &str = "the client does not read";

enum Outgoing {
    Text(String),
    /// Audio that is void once there were more cuts than this.
    Audio(String, u64),
    Close(CloseFrame),
}

/// What a frame takes of the queue's bytes, until it is written or dropped.
type Room = OwnedSemaphorePermit;

impl Outgoing {
    fn bytes(&self) -> u32 {
        let bytes = match self {
            Self::Text(text) | Self::Audio(text, _) => text.len(),
            Self::Close(_) => 0,
        };
        u32::try_from(bytes).map_or(QUEUE_BYTES, |bytes| bytes.min(QUEUE_BYTES))
    }
}

impl WsTransport {
    /// Takes over a socket and starts its writer.
    pub fn new(socket: WebSocket) -> Self {
        let (sink, frames) = socket.split();
        let (queue, waiting) = mpsc::channel(QUEUE);
        let cuts = Arc::new(AtomicU64::new(0));
        let broke = Arc::new(OnceLock::new());
        let writer = tokio::spawn(write(sink, waiting, Arc::clone(&cuts), Arc::clone(&broke)));
        Self {
            frames,
            queue,
            room: Arc::new(Semaphore::new(QUEUE_BYTES as usize)),
            writer,
            broke,
            cuts,
            last_frame: Instant::now(),
            readable: true,
            telephone: Telephone::default(),
        }
    }

    async fn send(&self, frame: Outgoing) -> Result<(), Lost> {
        let queued = async {
            let room = tokio::select! {
                room = Arc::clone(&self.room).acquire_many_owned(frame.bytes()) => room.ok()?,
                () = self.queue.closed() => return None,
            };
            self.queue.send((frame, room)).await.ok()
        };
        match timeout(WRITE_WITHIN, queued).await {
            Ok(Some(())) => Ok(()),
            Ok(None) => Err(Lost(self.why_broke().into())),
            Err(_) => Err(Lost(DEAF.into())),
        }
    }

    fn why_broke(&self) -> &'static str {
        self.broke.get().copied().unwrap_or("the connection is lost")
    }
}

impl Transport for WsTransport {
    fn name(&self) -> &'static str {
        "websocket"
    }

    fn silent(&self) -> Duration {
        self.last_frame.elapsed()
    }

    async fn receive(&mut self) -> Inbound {
        loop {
            let left = SILENT_MAX.saturating_sub(self.last_frame.elapsed());
            let frame = tokio::select! {
                frame = self.frames.next() => frame,
                () = self.queue.closed() => return lost(self.why_broke()),
                () = sleep(left) => return lost("nothing came from the client, not even a pong"),
            };
            self.last_frame = Instant::now();
            match frame {
                Some(Ok(Message::Text(text))) => return Inbound::Event(text.as_str().to_owned()),
                Some(Ok(Message::Binary(_))) => {
                    let message = "Events are JSON in text frames; audio goes into them as base64.";
                    return Inbound::Unreadable(ErrorBody::invalid("invalid_frame", message, None));
                }
                // Pings are answered by the library.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(frame))) => return closed(frame.map(|frame| frame.code)),
                Some(Err(error)) => {
                    // After an error the stream has lost its frames; it must not be read again.
                    self.readable = false;
                    return broken(&error.to_string());
                }
                None => return lost("the client vanished"),
            }
        }
    }

    async fn event(&mut self, event: &Envelope<'_>) -> Result<(), Lost> {
        let text =
            serde_json::to_string(event).map_err(|e| Lost(format!("an event cannot be written: {e}")))?;
        self.send(Outgoing::Text(text)).await
    }

    async fn audio(&mut self, frame: Frame<'_>) -> Result<(), Lost> {
        let delta = self.telephone.encode(frame.format.kind, frame.samples);
        if delta.is_empty() {
            return Ok(());
        }
        let event = ServerEvent::AudioDelta { ids: Ids::clone(frame.ids), delta };
        let envelope = Envelope { event_id: frame.event_id, event: &event };
        let text =
            serde_json::to_string(&envelope).map_err(|e| Lost(format!("an event cannot be written: {e}")))?;
        self.send(Outgoing::Audio(text, self.cuts.load(Ordering::Acquire))).await
    }

    fn flush(&mut self) {
        self.cuts.fetch_add(1, Ordering::AcqRel);
    }

    async fn close(&mut self, code: u16, reason: &str) {
        let mut end = reason.len().min(REASON_MAX);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let frame = CloseFrame { code, reason: reason[..end].into() };
        if self.send(Outgoing::Close(frame)).await.is_err() {
            return;
        }
        let goodbye = async {
            // The writer ends when the close frame is out.
            if let Err(error) = (&mut self.writer).await {
                tracing::warn!(%error, "the writer of a connection failed");
            }
            if self.readable {
                while let Some(Ok(_)) = self.frames.next().await {}
            } else {
                // A socket closed with unread bytes resets the connection, and the client might lose our
                // last words: leave it the time to read them.
                sleep(GOODBYE_WITHIN).await;
            }
        };
        timeout(GOODBYE_WITHIN, goodbye).await.ok();
    }
}

impl Drop for WsTransport {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

/// A close is an end, unless the client says that it only goes away.
fn closed(code: Option<u16>) -> Inbound {
    match code {
        Some(close::AWAY | close::STEPPED_OUT) => lost("the client went away"),
        _ => Inbound::Gone { why: "the client hung up".into(), error: None, code: close::NORMAL },
    }
}

fn lost(why: &str) -> Inbound {
    Inbound::Lost { why: why.to_owned() }
}

fn broken(error: &str) -> Inbound {
    // axum hides the kind of the error and keeps its text, which the library has kept stable.
    if error.contains("reset") || error.starts_with("IO error") {
        return lost(error);
    }
    let (code, name, message) = if error.contains("Message too long") {
        let message = format!("A message may have {MESSAGE_MAX} bytes; send audio in smaller appends.");
        (close::TOO_BIG, "message_too_large", message)
    } else {
        (close::PROTOCOL, "invalid_frame", format!("The connection cannot be read any more: {error}."))
    };
    let last_word = ErrorBody::invalid(name, message, None);
    Inbound::Gone { why: format!("the connection broke: {error}"), error: Some(last_word), code }
}

/// Writes what is queued, and a ping now and then. Ends with the queue, with a close frame, or with a client
/// that does not read.
async fn write(
    mut sink: SplitSink<WebSocket, Message>,
    mut queue: mpsc::Receiver<(Outgoing, Room)>,
    cuts: Arc<AtomicU64>,
    broke: Arc<OnceLock<&'static str>>,
) {
    let mut ping = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // The room is given back when the frame is written.
        let (message, _room, last) = tokio::select! {
            next = queue.recv() => match next {
                Some((Outgoing::Text(text), room)) => (Message::Text(text.into()), Some(room), false),
                Some((Outgoing::Audio(_, at), _)) if at != cuts.load(Ordering::Acquire) => continue,
                Some((Outgoing::Audio(text, _), room)) => (Message::Text(text.into()), Some(room), false),
                Some((Outgoing::Close(frame), _)) => (Message::Close(Some(frame)), None, true),
                None => return,
            },
            _ = ping.tick() => (Message::Ping(Default::default()), None, false),
        };
        let why = match timeout(WRITE_WITHIN, sink.send(message)).await {
            Ok(Ok(())) if !last => continue,
            Ok(Ok(())) => return,
            Ok(Err(_)) => "the connection is lost",
            Err(_) => DEAF,
        };
        broke.set(why).ok();
        return;
    }
}

/// From our voice to base64 in the client's format.
#[derive(Default)]
struct Telephone {
    resampler: Option<Resampler>,
    voice: Vec<f32>,
    narrow: Vec<f32>,
    bytes: Vec<u8>,
}

impl Telephone {
    fn encode(&mut self, format: FormatKind, samples: &[i16]) -> String {
        self.bytes.clear();
        let law = match format {
            FormatKind::Pcm => {
                self.bytes.extend(samples.iter().flat_map(|s| s.to_le_bytes()));
                return STANDARD.encode(&self.bytes);
            }
            FormatKind::Pcmu => G711::MuLaw,
            FormatKind::Pcma => G711::ALaw,
        };
        let resampler = self.resampler.get_or_insert_with(|| {
            Resampler::new(SPEAK_RATE, G711_RATE).expect("both rates are in the resampler's range")
        });
        self.voice.clear();
        self.voice.extend(samples.iter().map(|&s| f32::from(s) / 32_768.0));
        self.narrow.clear();
        resampler.process(&self.voice, &mut self.narrow);
        g711_encode(law, &self.narrow, &mut self.bytes);
        STANDARD.encode(&self.bytes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use axum::Router;
    use axum::extract::ws::WebSocketUpgrade;
    use axum::routing::get;
    use tokio::net::TcpListener;

    use super::*;
    use crate::edge::protocol::session_object::Format;

    /// Two frames of our voice with a cut between them, before the writer has had a turn: there is one thread, and nothing
    /// here waits before the goodbye.
    async fn cut_between(socket: WebSocket) {
        let mut transport = WsTransport::new(socket);
        let ids = Ids { response_id: "r".into(), item_id: "i".into(), output_index: 0, content_index: 0 };
        let format = Format { kind: FormatKind::Pcm, rate: None };
        for id in ["before", "after"] {
            let frame = Frame { event_id: id.into(), ids: &ids, format, samples: &[0; 480] };
            transport.audio(frame).await.unwrap();
            if id == "before" {
                transport.flush();
            }
        }
        transport.close(close::NORMAL, "").await;
    }

    #[tokio::test]
    async fn voice_that_waited_when_it_was_cut_is_never_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        let routes = Router::new()
            .route("/", get(|upgrade: WebSocketUpgrade| async { upgrade.on_upgrade(cut_between) }));
        let serving = tokio::spawn(async { axum::serve(listener, routes).await });
        let (mut client, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        let mut came = Vec::new();
        while let Some(Ok(message)) = client.next().await {
            if let Ok(text) = message.into_text()
                && let Ok(event) = serde_json::from_str::<serde_json::Value>(&text)
            {
                came.push(event["event_id"].as_str().unwrap().to_owned());
            }
        }
        assert_eq!(came, ["after"]);
        serving.abort();
    }

    #[test]
    fn a_second_of_voice_is_a_second_in_every_format() {
        for (format, bytes, delay) in
            [(FormatKind::Pcm, 48_000, 0), (FormatKind::Pcmu, 8_000, 240), (FormatKind::Pcma, 8_000, 240)]
        {
            let mut telephone = Telephone::default();
            let base64: usize = (0..50).map(|_| telephone.encode(format, &[1000; 480]).len() / 4 * 3).sum();
            // Padding counts for up to two bytes a frame; the resampler keeps a block and a half.
            assert!(base64 + delay + 160 >= bytes && base64 <= bytes + 100, "{format:?}: {base64}");
        }
    }
}
