//! What a media edge must offer: one caller's connection, without a word about how it gets there.
//!
//! The WebSocket implements it in [`super::ws`], a WebRTC peer in [`super::webrtc`]: events come and go as
//! text, our voice goes out as frames that [`super::call`] has already given a place in a response. [`AnyTransport`] is
//! whichever of them a caller has now: a call can go on over another one.

use std::future::Future;
use std::time::Duration;

use viva_actors::ports::OUT_FRAME;

use super::protocol::session_object::Format;
use super::protocol::{Envelope, ErrorBody, Ids};
use super::webrtc::transport::WebRtcTransport;
use super::ws::WsTransport;

/// What a caller did.
#[derive(Debug)]
pub enum Inbound {
    /// Sent an event.
    Event(String),
    /// Spoke: samples at 16 kHz, from transports that carry audio beside the events.
    Audio(Box<[f32]>),
    /// Sent what cannot be read. The error goes back to them, and the call goes on.
    Unreadable(ErrorBody),
    /// Has not been heard of for so long, which is more than chance: their line seems dead for now.
    Away {
        /// How long.
        silent: Duration,
    },
    /// Is heard of again.
    Back,
    /// Cannot be reached over this transport any more, without having hung up. Says why.
    Lost {
        /// For the log.
        why: String,
    },
    /// Left, or must be taken for gone. Says why; `error` is a last word they may still be able to read.
    Gone {
        /// For the log.
        why: String,
        /// For the caller.
        error: Option<ErrorBody>,
        /// For transports that close with one.
        code: u16,
    },
}

/// The connection cannot take any more.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Lost(pub String);

/// 20 ms of our voice at 24 kHz, to be heard now.
pub struct Frame<'a> {
    /// Names the event that carries it, where an event does.
    pub event_id: String,
    /// Where it belongs.
    pub ids: &'a Ids,
    /// In which format the client wants it, where the transport lets it choose.
    pub format: Format,
    /// The samples.
    pub samples: &'a [i16; OUT_FRAME],
}

/// One caller's connection.
///
/// Every method is bounded in time by the transport itself. `receive` may be dropped while it waits and
/// called again without loss.
pub trait Transport: Send {
    /// For the log.
    fn name(&self) -> &'static str;

    /// Whether audio travels beside the events, in both directions.
    fn carries_audio(&self) -> bool {
        false
    }

    /// How much of our voice it wants ahead of its time, where the configuration says so much.
    fn lead_ms(&self, configured: u32) -> u32 {
        configured
    }

    /// Bytes one event may have.
    fn event_max(&self) -> usize {
        usize::MAX
    }

    /// How long nothing has come from the caller, of any kind.
    fn silent(&self) -> Duration;

    /// Waits for what the caller does next.
    fn receive(&mut self) -> impl Future<Output = Inbound> + Send;

    /// Tells them something.
    fn event(&mut self, event: &Envelope<'_>) -> impl Future<Output = Result<(), Lost>> + Send;

    /// Lets them hear something.
    fn audio(&mut self, frame: Frame<'_>) -> impl Future<Output = Result<(), Lost>> + Send;

    /// Throws away what was taken by [`Transport::audio`] and has not been sent: the reply was cut.
    fn flush(&mut self);

    /// Says goodbye. What was sent before still arrives.
    fn close(&mut self, code: u16, reason: &str) -> impl Future<Output = ()> + Send;
}

/// The transport a caller has now.
pub enum AnyTransport {
    /// A WebSocket.
    Ws(Box<WsTransport>),
    /// A WebRTC peer.
    WebRtc(Box<WebRtcTransport>),
}

/// Asks whichever transport it is.
macro_rules! whichever {
    ($line:expr, $transport:ident => $answer:expr) => {
        match $line {
            AnyTransport::Ws($transport) => $answer,
            AnyTransport::WebRtc($transport) => $answer,
        }
    };
}

impl Transport for AnyTransport {
    fn name(&self) -> &'static str {
        whichever!(self, t => t.name())
    }

    fn carries_audio(&self) -> bool {
        whichever!(self, t => t.carries_audio())
    }

    fn lead_ms(&self, configured: u32) -> u32 {
        whichever!(self, t => t.lead_ms(configured))
    }

    fn event_max(&self) -> usize {
        whichever!(self, t => t.event_max())
    }

    fn silent(&self) -> Duration {
        whichever!(self, t => t.silent())
    }

    async fn receive(&mut self) -> Inbound {
        whichever!(self, t => t.receive().await)
    }

    async fn event(&mut self, event: &Envelope<'_>) -> Result<(), Lost> {
        whichever!(self, t => t.event(event).await)
    }

    async fn audio(&mut self, frame: Frame<'_>) -> Result<(), Lost> {
        whichever!(self, t => t.audio(frame).await)
    }

    fn flush(&mut self) {
        whichever!(self, t => t.flush());
    }

    async fn close(&mut self, code: u16, reason: &str) {
        whichever!(self, t => t.close(code, reason).await);
    }
}
