//! Responses beside the conversation (`response.create` with `conversation: "none"`): they read what they are given,
//! nothing remembers them, and the conversation goes on meanwhile.
//!
//! Nobody waits for one to be heard, so its work is ordered like that of any request of no session ([`super::rest`]):
//! behind everything that callers hear. Only the line that asked for one is told of it.
//!
//! *Bound:* [`AT_ONCE`] of a call's run at once; [`STEPS`] of what they made wait for the call, and then they wait.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use viva_actors::event::{Outcome, Usage};
use viva_actors::playout::FRAME_MS;
use viva_actors::ports::{OUT_FRAME, ReplyConfig};
use viva_actors::root::Viva;
use viva_actors::turn::CutReason;
use viva_models::{Prompt, Sampling};

use super::mapper::View;
use super::mapper::reply::Reply;
use super::protocol::{ErrorBody, Ids, ServerEvent};
use super::rest::Refusal;
use super::rest::desk::{Desk, Kind};
use super::rest::speech::Speaking;
use super::rest::writing::{Finish, Writing};
use super::sideband::Asker;
use super::tools::Call;

/// Responses of one call at once: a server that judges an answer, sums up and looks for a topic has three.
const AT_ONCE: usize = 4;

/// Pieces that wait for the call: it takes them at once, unless its client is slow to read.
const STEPS: usize = 64;

/// Whoever orders what responses are made of.
#[derive(Clone)]
pub struct Writer {
    /// Where requests of no session are let in.
    pub desk: Arc<Desk>,
    /// Whose scheduler does them.
    pub viva: Viva,
}

/// What a response is to be made of.
pub struct Order {
    /// What the model reads.
    pub prompt: Prompt,
    /// How it chooses.
    pub sampling: Sampling,
    /// It may call a function.
    pub calls: bool,
    /// How it is spoken, and in which language; none for one that is written.
    pub spoken: Option<(ReplyConfig, String)>,
}

/// Something happened to one of them.
pub struct Step {
    response: String,
    what: What,
}

enum What {
    Begun { calls: bool },
    Piece(String),
    Frame(Box<[i16; OUT_FRAME]>),
    End { outcome: Outcome, call: Option<Call>, usage: Usage },
}

/// What its line is to be told.
pub struct Told {
    /// Which line.
    pub asker: Asker,
    /// In order.
    pub events: Vec<ServerEvent>,
    /// 20 ms of a voice, and where they belong.
    pub frame: Option<(Ids, Box<[i16; OUT_FRAME]>)>,
}

struct Running {
    asker: Asker,
    reply: Reply,
    view: View,
    written: String,
    cancelled: Arc<Notify>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        // What it had ordered is taken back with it.
        self.task.abort();
    }
}

/// A call's responses beside its conversation.
pub struct OutOfBand {
    writer: Writer,
    running: Vec<Running>,
    sender: mpsc::Sender<Step>,
    steps: mpsc::Receiver<Step>,
}

impl OutOfBand {
    /// None yet.
    pub fn new(writer: Writer) -> Self {
        let (sender, steps) = mpsc::channel(STEPS);
        Self { writer, running: Vec::new(), sender, steps }
    }

    /// Begins one. What becomes of it comes out of [`Self::next`].
    ///
    /// # Errors
    /// When as many as may be are running.
    pub fn begin(&mut self, asker: Asker, reply: Reply, view: View, order: Order) -> Result<(), ErrorBody> {
        if self.running.len() >= AT_ONCE {
            let message = format!(
                "{AT_ONCE} responses outside the conversation are in progress; wait for one, or cancel it."
            );
            return Err(ErrorBody::invalid("too_many_responses", message, None));
        }
        let cancelled = Arc::new(Notify::new());
        let making = Making {
            writer: self.writer.clone(),
            response: reply.names.response.clone(),
            steps: self.sender.clone(),
        };
        let task = tokio::spawn(making.run(order, Arc::clone(&cancelled))).abort_handle();
        self.running.push(Running { asker, reply, view, written: String::new(), cancelled, task });
        Ok(())
    }

    /// Ends one of this line's; whether there was such a one.
    pub fn cancel(&self, asker: Asker, response: &str) -> bool {
        let named = |running: &&Running| running.asker == asker && running.reply.names.response == response;
        let found = self.running.iter().find(named);
        if let Some(running) = found {
            running.cancelled.notify_one();
        }
        found.is_some()
    }

    /// Ends those of a line that is gone; nobody is told.
    pub fn forget(&mut self, asker: Asker) {
        self.running.retain(|running| running.asker != asker);
    }

    /// What happens next to any of them.
    pub async fn next(&mut self) -> Step {
        match self.steps.recv().await {
            Some(step) => step,
            // We hold a sender ourselves.
            None => pending().await,
        }
    }

    /// What there is to be told of it; nothing of one that was forgotten.
    pub fn tell(&mut self, step: Step) -> Option<Told> {
        let at = self.running.iter().position(|running| running.reply.names.response == step.response)?;
        let running = &mut self.running[at];
        let (asker, mut events, mut frame) = (running.asker, Vec::new(), None);
        match step.what {
            What::Begun { calls } => running.reply.begin(&running.view, calls, &mut events),
            What::Piece(piece) => {
                running.written.push_str(&piece);
                running.reply.text(&piece, &mut events);
            }
            What::Frame(samples) => frame = Some((running.reply.ids.clone(), samples)),
            What::End { outcome, call, usage } => {
                running.reply.call = call;
                running.reply.end(&outcome, &running.written, usage, &running.view, &mut events);
                self.running.swap_remove(at);
            }
        }
        Some(Told { asker, events, frame })
    }
}

/// One in the making.
struct Making {
    writer: Writer,
    response: String,
    steps: mpsc::Sender<Step>,
}

impl Making {
    async fn run(self, order: Order, cancelled: Arc<Notify>) {
        self.step(What::Begun { calls: order.calls }).await;
        let mut usage = Usage::default();
        let made = tokio::select! {
            biased;
            () = cancelled.notified() => Ok((Outcome::Cut(CutReason::Client), None)),
            made = self.make(order, &mut usage) => made,
        };
        let (outcome, call) =
            made.unwrap_or_else(|refusal: Refusal| (Outcome::Failed(refusal.body().message.clone()), None));
        self.step(What::End { outcome, call, usage }).await;
    }

    async fn step(&self, what: What) {
        // A call that is over is told nothing.
        self.steps.send(Step { response: self.response.clone(), what }).await.ok();
    }

    async fn make(&self, order: Order, usage: &mut Usage) -> Result<(Outcome, Option<Call>), Refusal> {
        let Order { prompt, sampling, calls, spoken } = order;
        let Writer { desk, viva } = &self.writer;
        let ticket = desk.enter(Kind::Write, viva).await?;
        let mut writing = Writing::begin(ticket, prompt, sampling, calls);
        while let Some(piece) = writing.next().await? {
            *usage = writing.usage();
            self.step(What::Piece(piece)).await;
        }
        *usage = writing.usage();
        let outcome = match writing.finish() {
            Some(Finish::Call(call)) => return Ok((Outcome::Completed, Some(call.clone()))),
            Some(Finish::Length) => Outcome::Incomplete,
            _ => Outcome::Completed,
        };
        if let Some((voice, language)) = spoken {
            let text = writing.written().to_owned();
            // Its place is free for others while this is spoken.
            drop(writing);
            let ticket = desk.enter(Kind::Speak, viva).await?;
            self.speak(Speaking::samples(ticket, &text, &voice, &language)?).await?;
        }
        Ok((outcome, None))
    }

    /// Sends a voice as it is to be heard: every frame in its time, none in a burst.
    async fn speak(&self, mut speaking: Speaking) -> Result<(), Refusal> {
        let mut bytes = Vec::new();
        let mut due = Instant::now();
        loop {
            let more = speaking.next().await?;
            let last = more.is_none();
            bytes.extend_from_slice(&more.unwrap_or_default());
            if last {
                bytes.resize(bytes.len().next_multiple_of(2 * OUT_FRAME), 0);
            }
            let frames = bytes.chunks_exact(2 * OUT_FRAME);
            let rest = frames.remainder().to_vec();
            for frame in frames {
                due = due.max(Instant::now());
                sleep_until(due).await;
                due += Duration::from_millis(FRAME_MS);
                let mut samples = Box::new([0; OUT_FRAME]);
                for (sample, pair) in samples.iter_mut().zip(frame.chunks_exact(2)) {
                    *sample = i16::from_le_bytes([pair[0], pair[1]]);
                }
                self.step(What::Frame(samples)).await;
            }
            if last {
                return Ok(());
            }
            bytes = rest;
        }
    }
}
