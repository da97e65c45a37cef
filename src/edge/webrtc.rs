//! Calls over WebRTC: a peer connection a call, all of them behind one UDP port.
//!
//! [`offer`] looks at an offer before anything is built for it, [`peer`] builds the connection and owns its end,
//! [`udp_mux`] brings datagrams to their peer ([`stun`] says whose they are, [`mux_runtime`] is the peer's end, [`again`] repeats its
//! first words), [`dejitter`] puts packets in order
//! and [`codec`] decodes them, [`pacer`] keeps the outgoing clocks, [`transport`] is all of it as a call sees it.

mod again;
pub mod codec;
pub mod dejitter;
pub mod impair;
pub mod mux_runtime;
pub mod offer;
pub mod pacer;
pub mod peer;
pub mod stun;
pub mod transport;
pub mod udp_mux;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use viva_actors::lateness::Lateness;

use super::protocol::ErrorBody;
use crate::config::{IceServer, WebRtcSection, public_address};
use codec::{Effort, Voice};
use impair::Impairment;
use offer::Offer;
use pacer::RtpPacer;
use peer::{Peer, PeerOptions};
use transport::WebRtcTransport;
use udp_mux::UdpMux;

/// The edge.
pub struct WebRtc {
    mux: UdpMux,
    pacer: RtpPacer,
    peers: PeerOptions,
    bitrate: i32,
    /// What browsers are told to use.
    pub ice_servers: Vec<IceServer>,
}

impl WebRtc {
    /// Listens as the configuration says; `http` is where the server itself listens. `lateness` is what the
    /// encoders' effort goes by. `impairment` makes the network bad, for tests.
    ///
    /// # Errors
    /// When a configured address cannot be listened on. A port that is only taken over from `http` and in use
    /// is replaced by a free one.
    pub fn start(
        config: &WebRtcSection,
        http: SocketAddr,
        lateness: Arc<Lateness>,
        impairment: Option<Impairment>,
    ) -> io::Result<Self> {
        let mux = match config.listen.as_slice() {
            [] => match UdpMux::bind(&[http], impairment) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    UdpMux::bind(&[SocketAddr::new(http.ip(), 0)], impairment)?
                }
                bound => bound?,
            },
            listen => UdpMux::bind(listen, impairment)?,
        };
        let advertised = advertised(&mux.addresses(), &config.public);
        tracing::info!(listen = ?mux.addresses(), peers_find_us = ?advertised, "WebRTC");
        Ok(Self {
            mux,
            pacer: RtpPacer::start(lateness, Arc::new(Effort::new(config.complexity))),
            peers: PeerOptions { ice_lite: config.ice_lite, advertised },
            bitrate: config.bitrate,
            ice_servers: config.ice_servers.clone(),
        })
    }

    /// Answers an offer: the peer, the answer, and the transport. `registered` goes with the transport.
    ///
    /// # Errors
    /// What is wrong with the offer; then nothing of it is left.
    pub async fn answer(
        &self,
        offer: &Offer,
        registered: Box<dyn Send + Sync>,
    ) -> Result<(Arc<Peer>, String, WebRtcTransport), ErrorBody> {
        let voice = Voice::new(self.bitrate, self.pacer.effort().complexity()).map_err(|error| {
            tracing::error!(%error, "no encoder for a caller");
            ErrorBody::server("internal_error", "The call could not be set up.")
        })?;
        let (peer, answer, told) = Peer::answer(&self.mux, &self.pacer, offer, &self.peers)
            .await
            .map_err(|error| refused(&error))?;
        let (peer, effort) = (Arc::new(peer), Arc::clone(self.pacer.effort()));
        let transport = WebRtcTransport::new(Arc::clone(&peer), told, offer, voice, effort, registered);
        Ok((peer, answer, transport))
    }

    /// Peers and their addresses that are known now.
    pub fn known(&self) -> (usize, usize) {
        self.mux.known()
    }
}

/// What the crate says of an offer that looked well.
pub fn refused(error: &webrtc::error::Error) -> ErrorBody {
    let message = format!("The offer cannot be answered: {error}.");
    ErrorBody::invalid("invalid_offer", message, Some("sdp"))
}

/// Where peers find us: where we are told they do, or else where we listen.
fn advertised(listening: &[SocketAddr], public: &[String]) -> Vec<SocketAddr> {
    let port = listening.first().map_or(0, SocketAddr::port);
    let told: Vec<SocketAddr> = public.iter().filter_map(|text| public_address(text, port)).collect();
    if !told.is_empty() {
        return told;
    }
    listening
        .iter()
        .map(|address| {
            let ip =
                if address.ip().is_unspecified() { own_address(address.is_ipv4()) } else { address.ip() };
            SocketAddr::new(ip, address.port())
        })
        .collect()
}

/// The address this machine calls others from, or loopback where it can call nobody.
fn own_address(v4: bool) -> IpAddr {
    // Addresses of documentation (RFC 5737, RFC 3849): connecting a UDP socket sends nothing.
    let (from, to): (IpAddr, IpAddr) = match v4 {
        true => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
        false => (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
    };
    let asked = std::net::UdpSocket::bind((from, 0)).and_then(|socket| {
        socket.connect((to, 9))?;
        socket.local_addr()
    });
    match (asked, v4) {
        (Ok(address), _) => address.ip(),
        (Err(_), true) => Ipv4Addr::LOCALHOST.into(),
        (Err(_), false) => Ipv6Addr::LOCALHOST.into(),
    }
}
