//! What a media edge must offer: one caller's connection, without a word about how it gets there.
//!
//! The WebSocket implements it in [`super::ws`], a WebRTC peer will as well: events come and go as text,
//! our voice goes out as frames that [`super::call`] has already given a place in a response.

use std::future::Future;

use viva_actors::ports::OUT_FRAME;

use super::protocol::session_object::Format;
use super::protocol::{Envelope, ErrorBody, Ids};

/// What a caller did.
#[derive(Debug)]
pub enum Inbound {
    /// Sent an event.
    Event(String),
    /// Spoke: samples at 16 kHz, from transports that carry audio beside the events.
    Audio(Box<[f32]>),
    /// Sent what cannot be read. The error goes back to them, and the call goes on.
    Unreadable(ErrorBody),
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
