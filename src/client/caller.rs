//! One caller on one line: a pacer that sends 20 ms of sound every 20 ms as long as the call
//! lasts, and a reader that notes when each event came.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::clip::{Clip, FRAME, RATE};
use super::error::{ClientError, Result};
use super::line::{CONNECT_TIMEOUT, Ears, Mouth, News, SEND_TIMEOUT, Via, WayBack, connect};
use super::wire::{Event, Wishes};

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
    /// How to reach the server.
    pub via: Via,
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
    Event(String),
    /// The network is gone: what is said from here on is lost. A line that cannot be quiet is given up.
    Lost,
    /// There is a network again, with another line where the old one was given up.
    Back(Option<Box<Mouth>>),
    HangUp,
}

/// With what the call can be come back to, as the reader has last heard.
type Notes = Arc<Mutex<WayBack>>;

/// A call that stands.
pub struct Caller {
    server: String,
    options: CallerOptions,
    way_back: Notes,
    /// Events of a line that is gone, still to be handed on.
    kept: VecDeque<Arrival>,
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
        let (mut mouth, mut ears) = connect(server, options.via, options.key.as_deref(), None).await?;
        let way_back = Notes::default();
        let settling = settle(&mut mouth, &mut ears, &options.wishes, &way_back);
        timeout(CONNECT_TIMEOUT, settling).await.map_err(|_| ClientError::Late {
            what: "session.updated".into(),
            seconds: CONNECT_TIMEOUT.as_secs(),
        })??;
        let clock = Clock { start: Instant::now() };
        let (commands, todo) = mpsc::channel(COMMANDS_MAX);
        let (arrived, events) = mpsc::channel(EVENTS_MAX);
        let sending = Arc::new(Sending::default());
        let pacer = tokio::spawn(pace(mouth, clock, todo, Arc::clone(&sending)));
        let reader = tokio::spawn(read(ears, clock, arrived, Arc::clone(&way_back)));
        Ok(Self {
            server: server.to_owned(),
            options: options.clone(),
            way_back,
            kept: VecDeque::new(),
            clock,
            commands,
            events,
            sending,
            queued_until: 0,
            pacer,
            reader,
        })
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
        self.command(Command::Event(event.to_string())).await
    }

    /// The next event; none when the call is over (see [`Self::farewell`]).
    pub async fn next(&mut self) -> Option<Arrival> {
        match self.kept.pop_front() {
            Some(arrival) => Some(arrival),
            None => self.events.recv().await,
        }
    }

    /// Loses the network for so long, and comes back. Nothing is heard and all we say is lost meanwhile. Over
    /// WebRTC the line stays; a WebSocket is cut without a word, and another one takes the call up with the
    /// server's token and is told what this one missed.
    ///
    /// # Errors
    /// [`ClientError::Gone`] when the server gave no token, or has given the call up; as [`Self::connect`].
    pub async fn lose_line(&mut self, away: Duration) -> Result<()> {
        self.command(Command::Lost).await?;
        if let Via::WebRtc(_) = self.options.via {
            sleep(away).await;
            return self.command(Command::Back(None)).await;
        }
        self.reader.abort();
        while let Ok(arrival) = self.events.try_recv() {
            self.kept.push_back(arrival);
        }
        sleep(away).await;
        let back = std::mem::take(&mut *self.way_back.lock().unwrap_or_else(PoisonError::into_inner));
        if back.token.is_empty() {
            return Err(ClientError::Gone("and it gave no token to come back with".into()));
        }
        let key = self.options.key.as_deref();
        let (mouth, ears) = connect(&self.server, self.options.via, key, Some(&back)).await?;
        let (arrived, events) = mpsc::channel(EVENTS_MAX);
        self.events = events;
        self.reader = tokio::spawn(read(ears, self.clock, arrived, Arc::clone(&self.way_back)));
        self.command(Command::Back(Some(Box::new(mouth)))).await
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

/// Waits for the session, asks for what we wish, waits for the answer.
async fn settle(mouth: &mut Mouth, ears: &mut Ears, wishes: &Wishes, way_back: &Notes) -> Result<()> {
    loop {
        let event = match ears.next().await {
            News::Event(event, name) => {
                note(way_back, &event, name);
                event
            }
            News::Nothing => continue,
            News::Over(why) => return Err(ClientError::Gone(why)),
        };
        match event {
            Event::SessionCreated => mouth.event(&wishes.session_update().to_string()).await?,
            Event::SessionUpdated => return Ok(()),
            Event::Error(why) => return Err(ClientError::Rejected(why)),
            _ => {}
        }
    }
}

fn note(way_back: &Notes, event: &Event, name: Option<String>) {
    let mut way_back = way_back.lock().unwrap_or_else(PoisonError::into_inner);
    if let Event::WayBack { token } = event {
        way_back.token.clone_from(token);
    }
    way_back.last_event = name.or(way_back.last_event.take());
}

/// Sends a frame at the end of every 20 ms of the media clock; after a delay it catches up at once, so
/// that the schedule never drifts.
async fn pace(
    mouth: Mouth,
    clock: Clock,
    mut todo: mpsc::Receiver<Command>,
    sending: Arc<Sending>,
) -> Result<()> {
    let mut queue: VecDeque<Saying> = VecDeque::new();
    let mut frame = 0_u64;
    // None while there is no line: what is said then is said to nobody.
    let mut mouth = Some(mouth);
    loop {
        let due = clock.start + FRAME_TIME * u32::try_from(frame + 1).unwrap_or(u32::MAX);
        tokio::select! {
            biased;
            () = sleep_until(due) => {
                let said = next_frame(&mut queue, frame);
                frame += 1;
                if let Some(mouth) = &mut mouth {
                    sending.count(due.elapsed());
                    mouth.frame(said).await?;
                }
            }
            command = todo.recv() => match command {
                Some(Command::Play { clip, from }) => queue.push_back(Saying { clip, from, at: 0 }),
                Some(Command::Event(event)) => if let Some(mouth) = &mut mouth {
                    mouth.event(&event).await?;
                },
                Some(Command::Lost) => mouth = mouth.take().filter(|mouth| mouth.set_dead(true)),
                Some(Command::Back(Some(line))) => mouth = Some(*line),
                Some(Command::Back(None)) => if let Some(mouth) = &mouth {
                    mouth.set_dead(false);
                },
                Some(Command::HangUp) | None => return match &mut mouth {
                    Some(mouth) => mouth.hang_up().await,
                    None => Ok(()),
                },
            },
        }
    }
}

impl Sending {
    fn count(&self, late: Duration) {
        self.frames.fetch_add(1, Ordering::Relaxed);
        if late > LATE_SEND {
            self.late.fetch_add(1, Ordering::Relaxed);
        }
        self.late_us_max.fetch_max(late.as_micros() as u64, Ordering::Relaxed);
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

/// What is said in this frame: which clip, and which frame of it.
fn next_frame(queue: &mut VecDeque<Saying>, frame: u64) -> Option<(&Arc<Clip>, usize)> {
    while queue.front().is_some_and(|saying| frame >= saying.from && saying.at >= saying.clip.messages.len())
    {
        queue.pop_front();
    }
    let saying = queue.front_mut().filter(|saying| frame >= saying.from)?;
    saying.at += 1;
    Some((&saying.clip, saying.at - 1))
}

/// Hands on every event with its time of arrival; returns why the connection ended.
async fn read(mut ears: Ears, clock: Clock, arrived: mpsc::Sender<Arrival>, way_back: Notes) -> String {
    loop {
        let news = ears.next().await;
        let at = clock.now();
        match news {
            News::Event(event, name) => {
                let Ok(place) = arrived.reserve().await else { return "we hung up".into() };
                // In one go: what is noted as seen is handed on, whenever the line is given up.
                note(&way_back, &event, name);
                place.send(Arrival { at, event });
            }
            News::Nothing => {}
            News::Over(why) => return why,
        }
    }
}
