//! A caller over WebRTC: the offering side of a call, with its own socket, encoder and ears.
//!
//! [`dial`] gives both halves: a [`Mouth`] that sends 20 ms whenever it is told to, and [`Ears`] that put what
//! comes in order and decode it. The network between can be made bad ([`Impairment`]).

use std::collections::VecDeque;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use rtc::ice::mdns::MulticastDnsMode;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use viva_models::audio::to_i16;
use webrtc::data_channel::{DataChannel, DataChannelEvent};
use webrtc::media_stream::track_local::TrackLocal;
use webrtc::media_stream::track_local::static_rtp::TrackLocalStaticRTP;
use webrtc::media_stream::track_remote::{TrackRemote, TrackRemoteEvent};
use webrtc::peer_connection::{
    PeerConnection, PeerConnectionBuilder, RTCSessionDescription, Registry, SettingEngineBuilder,
    configure_rtcp_reports,
};

use super::clip::{FRAME, RATE};
use super::error::{ClientError, Result};
use crate::edge::webrtc::codec::{Ear, SILENCE, Voice, length_of};
use crate::edge::webrtc::dejitter::{Dejitter, Packet, Step};
use crate::edge::webrtc::impair::Impairment;
use crate::edge::webrtc::offer::{advertise, credentials};
use crate::edge::webrtc::peer::{CloseOnDrop, Events, PeerEvent, opus_only, opus_track};
use crate::edge::webrtc::udp_mux::{Seat, UdpMux};

mod signalling;

use signalling::Http;

/// The channel that carries the events.
const CHANNEL: &str = "oai-events";

/// How long a call may take to stand: as long as a WebSocket's handshake may.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Between two checks of the path: what RFC 8445 recommends and browsers do; the crate's own 200 ms would be
/// most of a call's set-up.
const CHECK_EVERY: Duration = Duration::from_millis(50);

/// Checks before a path is given up: as long as a call may take to stand.
const CHECKS: u16 = 300;

/// Bits of our voice a second, as browsers send it, and the effort for it, which is ours and not the server's.
const BITRATE: i32 = 32_000;
const COMPLEXITY: i32 = 0;

/// Things the connection may tell between two looks.
const EVENTS: usize = 32;

/// Samples of RTP's clock in a frame.
const FRAME_CLOCK: u32 = 960;

/// What comes from the server.
#[derive(Debug, PartialEq)]
pub enum Heard {
    /// An event, as text.
    Event(String),
    /// Its voice at [`RATE`]; what it sends while it says nothing is left out.
    Voice(Vec<i16>),
    /// The call is over, and why.
    Over(String),
}

/// A call that stands: what both halves hold of it.
pub struct Link {
    connection: Arc<dyn PeerConnection>,
    channel: Arc<dyn DataChannel>,
    seat: Seat,
    mux: UdpMux,
    http: Http,
    /// The call's own address, as `/v1/realtime/calls/…`.
    pub location: String,
    etag: tokio::sync::Mutex<String>,
    /// When the offer was sent.
    pub asked: Instant,
    /// How long the answer took.
    pub answered: Duration,
    _closing: CloseOnDrop,
}

/// Our side's voice.
pub struct Mouth {
    link: Arc<Link>,
    track: Arc<TrackLocalStaticRTP>,
    voice: Voice,
    ssrc: u32,
    sequence: u16,
    timestamp: u32,
}

/// Our side's ears.
pub struct Ears {
    link: Arc<Link>,
    told: mpsc::Receiver<PeerEvent>,
    hearing: Option<Hearing>,
    ready: VecDeque<Heard>,
    open: bool,
    /// When the first packet of audio came.
    pub first_packet: Option<Instant>,
}

struct Hearing {
    track: Arc<dyn TrackRemote>,
    dejitter: Dejitter,
    ear: Ear,
}

/// Calls a server, however it is named. `query` is added to the address.
///
/// # Errors
/// [`ClientError::Unreachable`], [`ClientError::Refused`], [`ClientError::Late`] when no media comes through.
pub async fn dial(
    server: &str,
    query: &str,
    key: Option<&str>,
    network: Option<Impairment>,
) -> Result<(Mouth, Ears)> {
    let http = Http::new(server, query, key);
    let unreachable = |why: String| ClientError::Unreachable { url: http.calls.clone(), why };
    let failed = |error: webrtc::error::Error| ClientError::Gone(error.to_string());
    let local = local_address(&http.host).map_err(|error| unreachable(error.to_string()))?;
    let mux = UdpMux::bind(&[local], network).map_err(|error| unreachable(error.to_string()))?;
    let (seat, runtime) = mux.join();
    let (tell, mut told) = mpsc::channel(EVENTS);
    let (gathered, _) = watch::channel(false);
    let settings = SettingEngineBuilder::new()
        .with_multicast_dns_mode(MulticastDnsMode::Disabled)
        .with_ice_connection_attempts(Some(CHECK_EVERY), Some(CHECKS));
    let connection: Arc<dyn PeerConnection> = Arc::new(
        PeerConnectionBuilder::new()
            .with_media_engine(opus_only().map_err(failed)?)
            .with_interceptor_registry(configure_rtcp_reports(Registry::new()))
            .with_setting_engine(settings.build())
            .with_handler(Arc::new(Events::new(tell, gathered)))
            .with_udp_addrs(runtime.addresses())
            .with_runtime(runtime)
            .build()
            .await
            .map_err(failed)?,
    );
    let closing = CloseOnDrop::new(Arc::clone(&connection));
    let (ssrc, track) = opus_track();
    connection.add_track(Arc::clone(&track) as _).await.map_err(failed)?;
    let channel = connection.create_data_channel(CHANNEL, None).await.map_err(failed)?;
    let offer = offer(&connection, &seat, &mux).await.map_err(failed)?;
    let asked = Instant::now();
    let answer = http.clone().describe("POST", http.calls.clone(), offer, None).await?;
    let answered = asked.elapsed();
    accept(&connection, &seat, answer.sdp).await.map_err(failed)?;
    let etag = tokio::sync::Mutex::new(answer.etag);
    let link = Link {
        connection,
        channel,
        seat,
        mux,
        http,
        location: answer.location,
        etag,
        asked,
        answered,
        _closing: closing,
    };
    let link = Arc::new(link);
    let late = || ClientError::Late { what: "the call's media".into(), seconds: CONNECT_TIMEOUT.as_secs() };
    let mut early = Vec::new();
    timeout(CONNECT_TIMEOUT, connected(&mut told, &mut early)).await.map_err(|_| late())??;
    let voice = Voice::new(BITRATE, COMPLEXITY).map_err(|error| ClientError::Gone(error.to_string()))?;
    let (sequence, timestamp) = (rand::random(), rand::random());
    let mouth = Mouth { link: Arc::clone(&link), track, voice, ssrc, sequence, timestamp };
    let ready = VecDeque::new();
    let mut ears = Ears { link, told, hearing: None, ready, open: false, first_packet: None };
    for event in early {
        ears.told(event);
    }
    Ok((mouth, ears))
}

/// Waits until media can flow.
async fn connected(told: &mut mpsc::Receiver<PeerEvent>, early: &mut Vec<PeerEvent>) -> Result<()> {
    loop {
        match told.recv().await {
            Some(PeerEvent::Connected) => return Ok(()),
            Some(PeerEvent::Closed) | None => {
                return Err(ClientError::Gone("the peer connection failed".into()));
            }
            Some(other) => early.push(other),
        }
    }
}

/// Our offer, with the address we really have.
async fn offer(
    connection: &Arc<dyn PeerConnection>,
    seat: &Seat,
    mux: &UdpMux,
) -> std::result::Result<String, webrtc::error::Error> {
    let offer = connection.create_offer(None).await?;
    if let Some((name, password)) = credentials(&offer.sdp) {
        seat.answer_to(&name, &password);
    }
    let sdp = advertise(&offer.sdp, &mux.addresses());
    connection.set_local_description(offer).await?;
    Ok(sdp)
}

/// Takes the answer; the server's addresses are ours to hear from now on.
async fn accept(
    connection: &Arc<dyn PeerConnection>,
    seat: &Seat,
    answer: String,
) -> std::result::Result<(), webrtc::error::Error> {
    for line in answer.lines().filter_map(|line| line.strip_prefix("a=candidate:")) {
        let mut words = line.split(' ').skip(4);
        let ip = words.next().and_then(|ip| ip.parse().ok());
        let port = words.next().and_then(|port| port.parse().ok());
        if let Some((ip, port)) = ip.zip(port) {
            seat.know(SocketAddr::new(ip, port));
        }
    }
    connection.set_remote_description(RTCSessionDescription::answer(answer)?).await
}

/// The address we call that host from.
fn local_address(host: &str) -> std::io::Result<SocketAddr> {
    let to = host.to_socket_addrs()?.next().ok_or(std::io::ErrorKind::AddrNotAvailable)?;
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let asked = UdpSocket::bind(any)?;
    asked.connect(to)?;
    Ok(SocketAddr::new(asked.local_addr()?.ip(), 0))
}

impl Link {
    /// Begins ICE anew, as a browser does whose network changed.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the server does not know the call (any more).
    pub async fn restart(&self) -> Result<()> {
        let failed = |error: webrtc::error::Error| ClientError::Gone(error.to_string());
        self.connection.restart_ice().await.map_err(failed)?;
        let offer = offer(&self.connection, &self.seat, &self.mux).await.map_err(failed)?;
        let mut etag = self.etag.lock().await;
        let url = format!("{}{}", self.http.origin, self.location);
        let answer = self.http.clone().describe("PATCH", url, offer, Some(etag.clone())).await?;
        *etag = answer.etag;
        accept(&self.connection, &self.seat, answer.sdp).await.map_err(failed)
    }

    /// Hangs up.
    pub async fn hang_up(&self) {
        let url = format!("{}{}", self.http.origin, self.location);
        // A server that is gone need not be told.
        self.http.clone().delete(url).await.ok();
        self.connection.close().await.ok();
    }

    /// Goes without hanging up: a page that is closed.
    pub async fn leave(&self) {
        self.connection.close().await.ok();
    }

    /// From now on the network is dead, or alive again.
    pub fn set_dead(&self, dead: bool) {
        self.mux.set_dead(dead);
    }
}

impl Mouth {
    /// The call.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Says 20 ms; silence where there is nothing to say.
    pub async fn frame(&mut self, samples: Option<&[i16]>) -> Result<()> {
        let payload = match samples {
            None => SILENCE.clone(),
            Some(samples) => {
                let mut frame = [0; FRAME];
                frame[..samples.len().min(FRAME)].copy_from_slice(&samples[..samples.len().min(FRAME)]);
                self.voice.encode(&frame, COMPLEXITY).unwrap_or_else(|| SILENCE.clone())
            }
        };
        let header = rtc::rtp::Header {
            version: 2,
            // Proposed by us, and the only codec there is.
            payload_type: 111,
            sequence_number: self.sequence,
            timestamp: self.timestamp,
            ssrc: self.ssrc,
            ..Default::default()
        };
        self.sequence = self.sequence.wrapping_add(1);
        self.timestamp = self.timestamp.wrapping_add(FRAME_CLOCK);
        let sent = self.track.write_rtp(rtc::rtp::Packet { header, payload }).await;
        sent.map_err(|error| ClientError::Gone(error.to_string()))
    }

    /// Says nothing and sends nothing for 20 ms.
    pub fn skip(&mut self) {
        self.timestamp = self.timestamp.wrapping_add(FRAME_CLOCK);
    }

    /// Sends an event.
    pub async fn event(&self, text: &str) -> Result<()> {
        self.link.channel.send_text(text).await.map_err(|error| ClientError::Gone(error.to_string()))
    }
}

impl Ears {
    /// What comes next. May be dropped while it waits.
    pub async fn next(&mut self) -> Heard {
        loop {
            if let Some(heard) = self.ready.pop_front() {
                return heard;
            }
            let now = Instant::now();
            let due =
                self.hearing.as_ref().and_then(|h| h.dejitter.due(now)).unwrap_or(now + CONNECT_TIMEOUT);
            let packet = async {
                match &self.hearing {
                    Some(hearing) => hearing.track.poll().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                told = self.told.recv() => match told {
                    Some(event) => self.told(event),
                    None => return Heard::Over("the peer connection ended".into()),
                },
                message = self.link.channel.poll() => match message {
                    Some(DataChannelEvent::OnMessage(message)) => {
                        return Heard::Event(String::from_utf8_lossy(&message.data).into_owned());
                    }
                    Some(DataChannelEvent::OnOpen) => self.open = true,
                    Some(DataChannelEvent::OnClose) | None => {
                        return Heard::Over("the server hung up".into());
                    }
                    Some(_) => {}
                },
                packet = packet => match packet {
                    Some(TrackRemoteEvent::OnRtpPacket(packet)) => self.packet(&packet),
                    Some(_) => {}
                    None => self.hearing = None,
                },
                () = sleep_until(due) => self.tick(),
            }
        }
    }

    /// The call.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    fn told(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::Track(track) => {
                if let Ok(ear) = Ear::at(RATE) {
                    self.hearing = Some(Hearing { track, dejitter: Dejitter::default(), ear });
                }
            }
            PeerEvent::Closed => self.ready.push_back(Heard::Over("the peer connection was closed".into())),
            PeerEvent::Connected | PeerEvent::Channel(_) => {}
        }
    }

    fn packet(&mut self, packet: &rtc::rtp::Packet) {
        let now = Instant::now();
        self.first_packet.get_or_insert(now);
        let (Some(hearing), Some(length)) = (&mut self.hearing, length_of(&packet.payload)) else { return };
        let (sequence, timestamp) = (packet.header.sequence_number, packet.header.timestamp);
        let mut steps = Vec::new();
        let packet = Packet { sequence, timestamp, length, payload: packet.payload.clone() };
        hearing.dejitter.packet(packet, now, &mut steps);
        self.hear(steps);
    }

    fn tick(&mut self) {
        let Some(hearing) = &mut self.hearing else { return };
        let (now, mut steps) = (Instant::now(), Vec::new());
        hearing.dejitter.tick(now, now, &mut steps);
        self.hear(steps);
    }

    fn hear(&mut self, steps: Vec<Step>) {
        let Some(hearing) = &mut self.hearing else { return };
        for step in steps {
            let nothing = match &step {
                Step::Decode(payload) => *payload == *SILENCE,
                Step::Correct(_) | Step::Conceal => false,
                Step::Silence(_) | Step::Reset => true,
            };
            let mut samples = Vec::new();
            hearing.ear.hear(step, &mut samples);
            if !nothing {
                self.ready.push_back(Heard::Voice(samples.into_iter().map(to_i16).collect()));
            }
        }
    }
}
