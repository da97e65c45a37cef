//! One peer connection: built for an offer, restarted by another, closed on every way out.
//!
//! The `webrtc` crate's connection goes on running after it is dropped; only `close` ends it. So it is owned in
//! one place, [`Peer`], whose drop closes it if nobody has: a refused offer, a call that ended, a task that
//! died. Nothing else holds it: what the connection itself calls ([`Events`]) has only a queue to write to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rtc::ice::mdns::MulticastDnsMode;
use rtc::media_stream::MediaStreamTrack;
use rtc::peer_connection::transport::RTCDtlsRole;
use rtc::rtp_transceiver::rtp_sender::{
    RTCRtpCodec, RTCRtpCodecParameters, RTCRtpCodingParameters, RTCRtpEncodingParameters, RtpCodecKind,
};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::timeout;
use webrtc::data_channel::DataChannel;
use webrtc::error::Error;
use webrtc::media_stream::track_local::static_rtp::TrackLocalStaticRTP;
use webrtc::media_stream::track_remote::TrackRemote;
use webrtc::peer_connection::{
    MediaEngine, PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCIceGatheringState,
    RTCPeerConnectionState, RTCSessionDescription, Registry, SettingEngineBuilder, configure_rtcp_reports,
};
use webrtc::rtp_transceiver::RtpSender;

use super::offer::{Offer, advertise, credentials};
use super::pacer::{RtpPacer, Speaker};
use super::udp_mux::{Heard, Seat, UdpMux};

/// Opus as browsers name it.
const OPUS: &str = "audio/opus";

/// The payload type we propose; an offer's own goes before it.
const OPUS_PAYLOAD: u8 = 111;

/// Bytes of events that may be on their way to a peer: what a WebSocket's queue holds. A peer that reads slower
/// makes us wait, and in the end counts as gone.
const CHANNEL_BYTES: usize = 1024 * 1024;

/// Things a peer may tell between two looks of its call: a track, a channel, a few states.
const EVENTS: usize = 32;

/// Gathering has nothing to ask anybody: it is done at once. One that is not does no harm, as the addresses
/// in the answer are our own.
const GATHER_WITHIN: Duration = Duration::from_millis(500);

/// The states of the crate's own are behind our own watch (`super::transport`), which must decide first: it
/// tells a pause of the network from an end, and a connection that has failed cannot be restarted.
const ICE_DISCONNECTED: Duration = Duration::from_secs(10);
const ICE_FAILED: Duration = Duration::from_secs(120);

/// Checks of ours, where we are no lite agent.
const ICE_KEEPALIVE: Duration = Duration::from_secs(2);

/// What a peer tells its call.
pub enum PeerEvent {
    /// The caller's voice.
    Track(Arc<dyn TrackRemote>),
    /// The channel for events.
    Channel(Arc<dyn DataChannel>),
    /// Media can flow.
    Connected,
    /// The other side closed it, or it cannot go on.
    Closed,
}

/// What the connection calls. It must not hold the connection.
pub struct Events {
    tell: mpsc::Sender<PeerEvent>,
    gathered: watch::Sender<bool>,
}

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Events {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        self.gathered.send_replace(state == RTCIceGatheringState::Complete);
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        let event = match state {
            RTCPeerConnectionState::Connected => PeerEvent::Connected,
            RTCPeerConnectionState::Failed | RTCPeerConnectionState::Closed => PeerEvent::Closed,
            _ => return,
        };
        self.tell(event);
    }

    async fn on_data_channel(&self, channel: Arc<dyn DataChannel>) {
        self.tell(PeerEvent::Channel(channel));
    }

    async fn on_track(&self, track: Arc<dyn TrackRemote>) {
        self.tell(PeerEvent::Track(track));
    }
}

impl Events {
    /// Tells what happens, and when all our addresses are known.
    pub fn new(tell: mpsc::Sender<PeerEvent>, gathered: watch::Sender<bool>) -> Self {
        Self { tell, gathered }
    }

    /// Called on the connection's own task, which must not wait for anybody.
    fn tell(&self, event: PeerEvent) {
        if self.tell.try_send(event).is_err() {
            tracing::debug!("a peer told more than its call took in");
        }
    }
}

/// How peers are built.
#[derive(Debug, Clone)]
pub struct PeerOptions {
    /// Answer checks without making any: for a server that can be reached.
    pub ice_lite: bool,
    /// Where peers find us.
    pub advertised: Vec<SocketAddr>,
}

/// One peer connection.
pub struct Peer {
    connection: Arc<dyn PeerConnection>,
    sender: Arc<dyn RtpSender>,
    seat: Seat,
    speaker: Arc<Speaker>,
    options: PeerOptions,
    gathered: watch::Receiver<bool>,
    /// One negotiation at a time.
    negotiating: Mutex<()>,
    closed: AtomicBool,
}

impl Peer {
    /// Builds a peer for an offer. Gives the answer, and what the peer tells.
    pub async fn answer(
        mux: &UdpMux,
        pacer: &RtpPacer,
        offer: &Offer,
        options: &PeerOptions,
    ) -> Result<(Self, String, mpsc::Receiver<PeerEvent>), Error> {
        let (seat, runtime) = mux.join();
        let (tell, told) = mpsc::channel(EVENTS);
        let (gathered, watched) = watch::channel(false);
        let settings = SettingEngineBuilder::new()
            .with_lite(options.ice_lite)
            .with_multicast_dns_mode(MulticastDnsMode::Disabled)
            .with_answering_dtls_role(RTCDtlsRole::Server)
            .with_ice_timeouts(Some(ICE_DISCONNECTED), Some(ICE_FAILED), Some(ICE_KEEPALIVE));
        let addresses = runtime.addresses();
        let connection: Arc<dyn PeerConnection> = Arc::new(
            PeerConnectionBuilder::new()
                .with_media_engine(opus_only()?)
                .with_interceptor_registry(configure_rtcp_reports(Registry::new()))
                .with_setting_engine(settings.build())
                .with_handler(Arc::new(Events::new(tell, gathered)))
                .with_runtime(runtime)
                .with_udp_addrs(addresses)
                .with_data_channel_send_buffer_limit(CHANNEL_BYTES)
                .build()
                .await?,
        );
        let (ssrc, track) = opus_track();
        // From here on the connection must be closed, whatever fails.
        let closing = CloseOnDrop::new(connection);
        let connection = closing.connection();
        let sender = connection.add_track(Arc::clone(&track) as _).await?;
        let speaker = pacer.add(track, ssrc).await;
        let peer = Self {
            connection: closing.keep(),
            sender,
            seat,
            speaker,
            options: options.clone(),
            gathered: watched,
            negotiating: Mutex::new(()),
            closed: AtomicBool::new(false),
        };
        let answer = peer.negotiate(offer).await?;
        Ok((peer, answer, told))
    }

    /// Takes another offer for the same call: ICE begins anew, the rest goes on. Gives the answer.
    pub async fn restart(&self, offer: &Offer) -> Result<String, Error> {
        self.negotiate(offer).await
    }

    async fn negotiate(&self, offer: &Offer) -> Result<String, Error> {
        let _turn = self.negotiating.lock().await;
        let connection = &self.connection;
        connection.set_remote_description(RTCSessionDescription::offer(offer.sdp.clone())?).await?;
        let answer = connection.create_answer(None).await?;
        // Known before the peer can know it, so that its first check finds us.
        if let Some((name, password)) = credentials(&answer.sdp) {
            self.seat.answer_to(&name, &password);
        }
        connection.set_local_description(answer).await?;
        let mut gathered = self.gathered.clone();
        timeout(GATHER_WITHIN, gathered.wait_for(|done| *done)).await.ok();
        let answer = connection.local_description().await.ok_or(Error::ErrConnectionClosed)?;
        if let Some((name, password)) = credentials(&answer.sdp) {
            self.seat.answer_to(&name, &password);
        }
        Ok(advertise(&answer.sdp, &self.options.advertised))
    }

    /// Media can flow: our voice may be sent.
    pub async fn open_speaker(&self) {
        let negotiated = self.sender.get_parameters().await;
        let codec = negotiated.ok().and_then(|p| p.rtp_parameters.codecs.first().map(|c| c.payload_type));
        self.speaker.open(codec.unwrap_or(OPUS_PAYLOAD));
    }

    /// Our voice.
    pub fn speaker(&self) -> &Speaker {
        &self.speaker
    }

    /// When anything came from the peer last.
    pub fn heard(&self) -> &Heard {
        self.seat.heard()
    }

    /// Whether it is over.
    pub fn closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Ends the connection. A second time does nothing.
    pub async fn close(&self) {
        self.speaker.close();
        if !self.closed.swap(true, Ordering::AcqRel) {
            end(&self.connection).await;
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            drop(CloseOnDrop::new(Arc::clone(&self.connection)));
        }
    }
}

async fn end(connection: &Arc<dyn PeerConnection>) {
    if let Err(error) = connection.close().await {
        tracing::warn!(%error, "a peer connection did not close cleanly");
    }
}

/// A connection that is closed unless somebody keeps it.
pub struct CloseOnDrop(Option<Arc<dyn PeerConnection>>);

impl CloseOnDrop {
    /// Closes this connection when it is dropped.
    pub fn new(connection: Arc<dyn PeerConnection>) -> Self {
        Self(Some(connection))
    }

    fn connection(&self) -> Arc<dyn PeerConnection> {
        Arc::clone(self.0.as_ref().expect("it is taken only by keep, which ends this"))
    }

    fn keep(mut self) -> Arc<dyn PeerConnection> {
        self.0.take().expect("it is taken only here")
    }
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { end(&connection).await });
        }
    }
}

/// Opus and nothing else, so that an offer without it is refused.
pub fn opus_only() -> Result<MediaEngine, Error> {
    let mut engine = MediaEngine::default();
    let codec = RTCRtpCodecParameters { rtp_codec: opus_codec(), payload_type: OPUS_PAYLOAD };
    engine.register_codec(codec, RtpCodecKind::Audio)?;
    Ok(engine)
}

/// A track that sends Opus, and its SSRC.
pub fn opus_track() -> (u32, Arc<TrackLocalStaticRTP>) {
    let ssrc = rand::random();
    let encoding = RTCRtpEncodingParameters {
        rtp_coding_parameters: RTCRtpCodingParameters { ssrc: Some(ssrc), ..Default::default() },
        codec: opus_codec(),
        ..Default::default()
    };
    let name = |part: &str| format!("viva-{part}");
    let track = MediaStreamTrack::new(
        name("stream"),
        name("voice"),
        name("voice"),
        RtpCodecKind::Audio,
        vec![encoding],
    );
    (ssrc, Arc::new(TrackLocalStaticRTP::new(track)))
}

fn opus_codec() -> RTCRtpCodec {
    RTCRtpCodec {
        mime_type: OPUS.to_owned(),
        clock_rate: 48_000,
        channels: 2,
        sdp_fmtp_line: "minptime=10;useinbandfec=1".to_owned(),
        rtcp_feedback: Vec::new(),
    }
}
