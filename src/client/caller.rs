//! One caller on one WebSocket: a pacer that sends 20 ms of sound every 20 ms as long as the call
//! lasts, and a reader that notes when each event came.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Response, header};
use tokio_tungstenite::tungstenite::{Error as WsError, Message, Utf8Bytes};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use super::clip::{Clip, FRAME, RATE, silence_message};
use super::error::{ClientError, Result};
use super::wire::{Event, Wishes, realtime_url};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// How long a handshake, and the session's settings after it, may take. A server that loads a voice for
/// us needs seconds; one that needs more is stuck.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the server may refuse to read before we call it gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long we wait for the server's goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Events that may wait for the caller: 10 s of the busiest reply (a delta and a transcript piece every
/// 20 ms). Beyond it the reader stops reading.
const EVENTS_MAX: usize = 1_000;
/// Things that may wait to be sent; a script sends one at a time.
const COMMANDS_MAX: usize = 16;
/// A frame that leaves later than this after its time is counted: half a frame.
const LATE_SEND: Duration = Duration::from_millis(10);
/// One frame.
const FRAME_TIME: Duration = Duration::from_millis(20);

/// How to call.
#[derive(Debug, Clone, Default)]
pub struct CallerOptions {
    /// What is asked of the session.
    pub wishes: Wishes,
    /// An API key or an `ek_` secret.
    pub key: Option<String>,
}

/// An event and when it came.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Samples of the caller's media clock.
    pub at: u64,
    /// What came.
    pub event: Event,
}

/// The caller's own punctuality: a machine too busy to send in time measures itself, not the server.
#[derive(Debug, Default)]
struct Sending {
    frames: AtomicU64,
    late: AtomicU64,
    late_us_max: AtomicU64,
}

/// What was sent so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Sent {
    /// Frames of 20 ms.
    pub frames: u64,
    /// Of these, sent more than 10 ms after their time.
    pub late: u64,
    /// The latest of them.
    pub late_ms_max: f64,
}

/// The caller's media clock: samples at [`RATE`] since the call began. Sample `p` is spoken at `p`, and
/// leaves with the frame it is in, when that frame is complete.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Samples since the call began.
    pub fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    /// The instant as samples since the call began.
    fn at(&self, instant: Instant) -> u64 {
        (instant.saturating_duration_since(self.start).as_secs_f64() * f64::from(RATE)) as u64
    }

    /// When sample `at` is spoken.
    pub fn instant(&self, at: u64) -> Instant {
        self.start + Duration::from_secs_f64(at as f64 / f64::from(RATE))
    }
}

/// When sample `at` of the media clock is sent: at the end of its frame.
pub fn sent_at(at: u64) -> u64 {
    at.div_ceil(FRAME as u64) * FRAME as u64
}

enum Command {
    /// Say the clip from this frame on.
    Play {
        clip: Arc<Clip>,
        from: u64,
    },
    Event(Utf8Bytes),
    HangUp,
}

/// A call that stands.
pub struct Caller {
    clock: Clock,
    commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<Arrival>,
    sending: Arc<Sending>,
    /// Where the queue of clips ends on the media clock.
    queued_until: u64,
    pacer: tokio::task::JoinHandle<Result<()>>,
    reader: tokio::task::JoinHandle<String>,
}

impl Caller {
    /// Calls a server, however it is named (see [`realtime_url`]), and settles the session. From then on
    /// silence is sent until something is played.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], [`ClientError::Refused`] (503: full), [`ClientError::Rejected`]
    /// when a wish is not granted, [`ClientError::Late`], [`ClientError::Gone`].
    pub async fn connect(server: &str, options: &CallerOptions) -> Result<Self> {
        let mut socket = handshake(server, options).await?;
        timeout(CONNECT_TIMEOUT, settle(&mut socket, &options.wishes)).await.map_err(|_| {
            ClientError::Late { what: "session.updated".into(), seconds: CONNECT_TIMEOUT.as_secs() }
        })??;
        let (sink, stream) = socket.split();
        let clock = Clock { start: Instant::now() };
        let (commands, todo) = mpsc::channel(COMMANDS_MAX);
        let (arrived, events) = mpsc::channel(EVENTS_MAX);
        let sending = Arc::new(Sending::default());
        let pacer = tokio::spawn(pace(sink, clock, todo, Arc::clone(&sending)));
        let reader = tokio::spawn(read(stream, clock, arrived));
        Ok(Self { clock, commands, events, sending, queued_until: 0, pacer, reader })
    }

    /// The media clock.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Says a clip after what is being said already. Returns where on the media clock it starts.
    pub async fn play(&mut self, clip: &Arc<Clip>) -> Result<u64> {
        // The frame being filled now is not sent yet; the one after it surely is free.
        let next_frame = (self.clock.now() / FRAME as u64 + 1) * FRAME as u64;
        let start = self.queued_until.max(next_frame);
        self.queued_until = start + (clip.messages.len() * FRAME) as u64;
        self.command(Command::Play { clip: Arc::clone(clip), from: start / FRAME as u64 }).await?;
        Ok(start)
    }

    /// Sends an event of the protocol.
    pub async fn send(&self, event: &Value) -> Result<()> {
        self.command(Command::Event(event.to_string().into())).await
    }

    /// The next event; none when the call is over (see [`Self::farewell`]).
    pub async fn next(&mut self) -> Option<Arrival> {
        self.events.recv().await
    }

    /// What was sent so far.
    pub fn sent(&self) -> Sent {
        Sent {
            frames: self.sending.frames.load(Ordering::Relaxed),
            late: self.sending.late.load(Ordering::Relaxed),
            late_ms_max: self.sending.late_us_max.load(Ordering::Relaxed) as f64 / 1000.0,
        }
    }

    /// Why the call is over, once [`Self::next`] gave none.
    pub async fn farewell(&mut self) -> String {
        match timeout(CLOSE_TIMEOUT, &mut self.reader).await {
            Ok(Ok(why)) => why,
            Ok(Err(error)) => format!("our reader ended: {error}"),
            Err(_) => "no word from the connection".into(),
        }
    }

    /// Hangs up and waits a moment for the server to do the same.
    pub async fn hang_up(mut self) -> Sent {
        let sent = self.sent();
        if self.commands.send(Command::HangUp).await.is_ok() {
            let drained = async { while self.events.recv().await.is_some() {} };
            // A server that does not say goodbye is left without one: dropping ends both tasks.
            let _ = timeout(CLOSE_TIMEOUT, drained).await;
        }
        sent
    }

    async fn command(&self, command: Command) -> Result<()> {
        let gone = || ClientError::Gone("the connection is closed".into());
        timeout(SEND_TIMEOUT, self.commands.send(command)).await.map_err(|_| gone())?.map_err(|_| gone())
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.pacer.abort();
        self.reader.abort();
    }
}

async fn handshake(server: &str, options: &CallerOptions) -> Result<Socket> {
    let url = realtime_url(server);
    let unreachable = |why: String| ClientError::Unreachable { url: url.clone(), why };
    let mut request = url.as_str().into_client_request().map_err(|error| unreachable(error.to_string()))?;
    if let Some(key) = &options.key {
        let value = HeaderValue::from_str(&format!("Bearer {key}"))
            .map_err(|_| ClientError::Rejected("the key holds characters no header may have".into()))?;
        request.headers_mut().insert(header::AUTHORIZATION, value);
    }
    // Without Nagle: a frame every 20 ms must leave every 20 ms.
    let connecting = connect_async_with_config(request, None, true);
    match timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(WsError::Http(response))) => Err(refusal(&response)),
        Ok(Err(error)) => Err(unreachable(error.to_string())),
        Err(_) => Err(ClientError::Late { what: "the handshake".into(), seconds: CONNECT_TIMEOUT.as_secs() }),
    }
}

fn refusal(response: &Response<Option<Vec<u8>>>) -> ClientError {
    let retry_after = response.headers().get(header::RETRY_AFTER);
    let body = response.body().as_deref().unwrap_or_default();
    let message = serde_json::from_slice::<Value>(body)
        .ok()
        .and_then(|body| body.pointer("/error/message").and_then(Value::as_str).map(str::to_owned))
        .unwrap_or_else(|| response.status().canonical_reason().unwrap_or("no reason given").to_owned());
    ClientError::Refused {
        status: response.status().as_u16(),
        retry_after_s: retry_after.and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok()),
        message,
    }
}

/// Waits for the session, asks for what we wish, waits for the answer.
async fn settle(socket: &mut Socket, wishes: &Wishes) -> Result<()> {
    while let Some(message) = socket.next().await {
        let message = message.map_err(|error| ClientError::Gone(error.to_string()))?;
        match message {
            Message::Text(text) => match Event::parse(&text) {
                Event::SessionCreated => {
                    let update = Message::text(wishes.session_update().to_string());
                    socket.send(update).await.map_err(|error| ClientError::Gone(error.to_string()))?;
                }
                Event::SessionUpdated => return Ok(()),
                Event::Error(why) => return Err(ClientError::Rejected(why)),
                _ => {}
            },
            Message::Close(frame) => return Err(ClientError::Gone(close_reason(frame.as_ref()))),
            _ => {}
        }
    }
    Err(ClientError::Gone("it closed the connection before the session stood".into()))
}

/// Sends a frame at the end of every 20 ms of the media clock; after a delay it catches up at once, so
/// that the schedule never drifts.
async fn pace(
    mut sink: SplitSink<Socket, Message>,
    clock: Clock,
    mut todo: mpsc::Receiver<Command>,
    sending: Arc<Sending>,
) -> Result<()> {
    let mut queue: VecDeque<Saying> = VecDeque::new();
    let mut frame = 0_u64;
    loop {
        let due = clock.start + FRAME_TIME * u32::try_from(frame + 1).unwrap_or(u32::MAX);
        tokio::select! {
            biased;
            () = sleep_until(due) => {
                let late = due.elapsed();
                sending.frames.fetch_add(1, Ordering::Relaxed);
                if late > LATE_SEND {
                    sending.late.fetch_add(1, Ordering::Relaxed);
                }
                sending.late_us_max.fetch_max(late.as_micros() as u64, Ordering::Relaxed);
                deliver(&mut sink, Message::Text(next_frame(&mut queue, frame))).await?;
                frame += 1;
            }
            command = todo.recv() => match command {
                Some(Command::Play { clip, from }) => queue.push_back(Saying { clip, from, at: 0 }),
                Some(Command::Event(event)) => deliver(&mut sink, Message::Text(event)).await?,
                Some(Command::HangUp) | None => {
                    return deliver(&mut sink, Message::Close(None)).await;
                }
            },
        }
    }
}

/// A clip being said.
struct Saying {
    clip: Arc<Clip>,
    /// The frame of the media clock it begins with.
    from: u64,
    /// Its message that comes next.
    at: usize,
}

fn next_frame(queue: &mut VecDeque<Saying>, frame: u64) -> Utf8Bytes {
    while let Some(saying) = queue.front_mut() {
        if frame < saying.from {
            break;
        }
        if let Some(message) = saying.clip.messages.get(saying.at) {
            saying.at += 1;
            return message.clone();
        }
        queue.pop_front();
    }
    silence_message()
}

async fn deliver(sink: &mut SplitSink<Socket, Message>, message: Message) -> Result<()> {
    match timeout(SEND_TIMEOUT, sink.send(message)).await {
        Ok(sent) => sent.map_err(|error| ClientError::Gone(error.to_string())),
        Err(_) => Err(ClientError::Gone(format!("it read nothing for {} s", SEND_TIMEOUT.as_secs()))),
    }
}

/// Hands on every event with its time of arrival; returns why the connection ended.
async fn read(mut stream: SplitStream<Socket>, clock: Clock, arrived: mpsc::Sender<Arrival>) -> String {
    loop {
        let message = stream.next().await;
        let at = clock.now();
        match message {
            Some(Ok(Message::Text(text))) => {
                if arrived.send(Arrival { at, event: Event::parse(&text) }).await.is_err() {
                    return "we hung up".into();
                }
            }
            Some(Ok(Message::Close(frame))) => return close_reason(frame.as_ref()),
            Some(Ok(_)) => {}
            Some(Err(error)) => return error.to_string(),
            None => return "it closed the connection".into(),
        }
    }
}

fn close_reason(frame: Option<&tokio_tungstenite::tungstenite::protocol::CloseFrame>) -> String {
    match frame {
        Some(frame) if !frame.reason.is_empty() => format!("close {}: {}", frame.code, frame.reason),
        Some(frame) => format!("close {}", frame.code),
        None => "it closed the connection".into(),
    }
}
