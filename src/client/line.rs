//! The line a caller has to the server, in its two halves: one speaks, one listens. A WebSocket carries both
//! voice and events; a WebRTC call carries them apart.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Response, header};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use super::clip::{Clip, FRAME, silence_message};
use super::error::{ClientError, Result};
use super::webrtc::{self, Heard};
use super::wire::{Event, realtime_url};
use crate::edge::webrtc::impair::Impairment;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// How long a handshake may take. A server that loads a voice for us needs seconds; one that needs more is
/// stuck.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the server may refuse to read before we call it gone.
pub(super) const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// How to reach the server.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Via {
    /// A WebSocket.
    #[default]
    WebSocket,
    /// WebRTC, over a network that may be bad.
    WebRtc(Option<Impairment>),
}

/// The half that speaks.
pub(super) enum Mouth {
    Ws(SplitSink<Socket, Message>),
    WebRtc(Box<webrtc::Mouth>),
}

/// The half that listens.
pub(super) enum Ears {
    Ws(SplitStream<Socket>),
    WebRtc(Box<webrtc::Ears>, Answers),
}

/// Whose voice is heard, where voice and events come apart: the reply that the events named last.
#[derive(Debug, Default)]
pub(super) struct Answers(Option<String>);

impl Answers {
    fn event(&mut self, event: &Event) {
        match event {
            Event::ResponseCreated { response } | Event::VoiceStarted { response } => {
                self.0 = Some(response.clone());
            }
            Event::VoiceCut => self.0 = None,
            _ => {}
        }
    }

    fn voice(&self, samples: Vec<i16>) -> Option<Event> {
        let response = self.0.clone()?;
        Some(Event::Audio { response, samples })
    }
}

/// What the listening half brings.
pub(super) enum News {
    /// An event, with its name where the server gave it one.
    Event(Event, Option<String>),
    /// Nothing of interest.
    Nothing,
    /// The connection ended, and why.
    Over(String),
}

/// What a call is come back to with.
#[derive(Debug, Default)]
pub(super) struct WayBack {
    /// The server's token.
    pub(super) token: String,
    /// The last event that was seen: what came after it is told again.
    pub(super) last_event: Option<String>,
}

impl WayBack {
    fn query(&self) -> String {
        let last = self.last_event.as_ref().map_or(String::new(), |last| format!("&last_event={last}"));
        format!("resume={}{last}", self.token)
    }
}

/// Calls a server, or comes back to a call.
pub(super) async fn connect(
    server: &str,
    via: Via,
    key: Option<&str>,
    back: Option<&WayBack>,
) -> Result<(Mouth, Ears)> {
    let query = back.map_or(String::new(), WayBack::query);
    match via {
        Via::WebSocket => {
            let (sink, stream) = handshake(server, key, &query).await?.split();
            Ok((Mouth::Ws(sink), Ears::Ws(stream)))
        }
        Via::WebRtc(network) => {
            let (mouth, ears) = webrtc::dial(server, &query, key, network).await?;
            Ok((Mouth::WebRtc(Box::new(mouth)), Ears::WebRtc(Box::new(ears), Answers::default())))
        }
    }
}

impl Mouth {
    /// Says the frame of a clip, or 20 ms of silence.
    pub(super) async fn frame(&mut self, frame: Option<(&Arc<Clip>, usize)>) -> Result<()> {
        match self {
            Self::Ws(sink) => {
                let message = frame.and_then(|(clip, at)| clip.messages.get(at).cloned());
                deliver(sink, Message::Text(message.unwrap_or_else(silence_message))).await
            }
            Self::WebRtc(mouth) => {
                let samples = frame.and_then(|(clip, at)| clip.samples.chunks(FRAME).nth(at));
                mouth.frame(samples).await
            }
        }
    }

    /// Sends an event.
    pub(super) async fn event(&mut self, text: &str) -> Result<()> {
        match self {
            Self::Ws(sink) => deliver(sink, Message::text(text)).await,
            Self::WebRtc(mouth) => mouth.event(text).await,
        }
    }

    /// Lets nothing through in either direction, or lets it through again. Says whether the line can do that: a
    /// connection cannot, and is given up instead.
    pub(super) fn set_dead(&self, dead: bool) -> bool {
        match self {
            Self::Ws(_) => false,
            Self::WebRtc(mouth) => {
                mouth.link().set_dead(dead);
                true
            }
        }
    }

    /// Says goodbye.
    pub(super) async fn hang_up(&mut self) -> Result<()> {
        match self {
            Self::Ws(sink) => deliver(sink, Message::Close(None)).await,
            Self::WebRtc(mouth) => {
                mouth.link().hang_up().await;
                Ok(())
            }
        }
    }
}

impl Ears {
    /// What comes next.
    pub(super) async fn next(&mut self) -> News {
        match self {
            Self::Ws(stream) => match stream.next().await {
                Some(Ok(Message::Text(text))) => {
                    let (event, name) = Event::parse_named(&text);
                    News::Event(event, name)
                }
                Some(Ok(Message::Close(frame))) => News::Over(close_reason(frame.as_ref())),
                Some(Ok(_)) => News::Nothing,
                Some(Err(error)) => News::Over(error.to_string()),
                None => News::Over("it closed the connection".into()),
            },
            Self::WebRtc(ears, answers) => match ears.next().await {
                Heard::Event(text) => {
                    let (event, name) = Event::parse_named(&text);
                    answers.event(&event);
                    News::Event(event, name)
                }
                Heard::Voice(samples) => {
                    answers.voice(samples).map_or(News::Nothing, |voice| News::Event(voice, None))
                }
                Heard::Over(why) => News::Over(why),
            },
        }
    }
}

async fn handshake(server: &str, key: Option<&str>, query: &str) -> Result<Socket> {
    let more = if query.is_empty() { String::new() } else { format!("&{query}") };
    let url = realtime_url(server) + &more;
    // A token is a secret: it is not told in errors.
    let unreachable = |why: String| ClientError::Unreachable { url: realtime_url(server), why };
    let mut request = url.as_str().into_client_request().map_err(|error| unreachable(error.to_string()))?;
    if let Some(key) = key {
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

async fn deliver(sink: &mut SplitSink<Socket, Message>, message: Message) -> Result<()> {
    match timeout(SEND_TIMEOUT, sink.send(message)).await {
        Ok(sent) => sent.map_err(|error| ClientError::Gone(error.to_string())),
        Err(_) => Err(ClientError::Gone(format!("it read nothing for {} s", SEND_TIMEOUT.as_secs()))),
    }
}

fn close_reason(frame: Option<&CloseFrame>) -> String {
    match frame {
        Some(frame) if !frame.reason.is_empty() => format!("close {}: {}", frame.code, frame.reason),
        Some(frame) => format!("close {}", frame.code),
        None => "it closed the connection".into(),
    }
}
