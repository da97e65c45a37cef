//! What a peer connection runs on: Tokio, but for its sockets, which are its queue in the mux and the shared
//! socket.

use std::fmt::{self, Debug};
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use webrtc::runtime::{
    AsyncInterval, AsyncTcpListener, AsyncTcpStream, AsyncUdpSocket, JoinHandle, RecvMeta, Runtime,
    TokioRuntime, Transmit,
};

use super::again::Beginning;
use super::impair::Impaired;
use super::udp_mux::{Network, dropped};

/// Datagrams for a peer, with their senders.
type Queue = mpsc::Receiver<(SocketAddr, Bytes)>;

/// The runtime of one peer: Tokio's, but for its sockets.
pub struct MuxRuntime {
    inner: TokioRuntime,
    /// IPv4 and IPv6; each is taken once, a peer binds no second time.
    queues: Mutex<(Option<Queue>, Option<Queue>)>,
    sockets: (Option<Arc<UdpSocket>>, Option<Arc<UdpSocket>>),
    network: Network,
}

impl Debug for MuxRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MuxRuntime").finish_non_exhaustive()
    }
}

impl MuxRuntime {
    /// With these queues and ways out, for IPv4 and IPv6.
    pub(super) fn new(
        queues: (Queue, Queue),
        sockets: (Option<Arc<UdpSocket>>, Option<Arc<UdpSocket>>),
        network: Network,
    ) -> Self {
        let queues = Mutex::new((Some(queues.0), Some(queues.1)));
        Self { inner: TokioRuntime, queues, sockets, network }
    }

    /// The addresses a peer must be told to bind, one for each family we listen on. They are never used.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let v4 = self.sockets.0.as_ref().map(|_| SocketAddr::from(([127, 0, 0, 1], 0)));
        let v6 = self.sockets.1.as_ref().map(|_| SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 0));
        v4.into_iter().chain(v6).collect()
    }
}

impl Runtime for MuxRuntime {
    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) -> Box<dyn JoinHandle> {
        self.inner.spawn(future)
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        // The socket itself is dropped: only its address is wanted, as the peer's name for this way out.
        let local = socket.local_addr()?;
        let gone = || io::Error::new(io::ErrorKind::AddrInUse, "this peer has its socket already");
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let (queue, socket) = match local.is_ipv4() {
            true => (queues.0.take(), self.sockets.0.clone()),
            false => (queues.1.take(), self.sockets.1.clone()),
        };
        let (queue, socket) = queue.zip(socket).ok_or_else(gone)?;
        let (queue, network) = (Mutex::new(queue), self.network.clone());
        Ok(Arc::new(MuxSocket { local, queue, socket, network, beginning: Beginning::default() }))
    }

    fn wrap_tcp_listener(&self, listener: std::net::TcpListener) -> io::Result<Arc<dyn AsyncTcpListener>> {
        self.inner.wrap_tcp_listener(listener)
    }

    fn connect_tcp<'a>(
        &'a self,
        remote: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = io::Result<Arc<dyn AsyncTcpStream>>> + Send + 'a>> {
        self.inner.connect_tcp(remote)
    }

    fn resolve_host<'a>(
        &'a self,
        host: &'a str,
    ) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>> {
        self.inner.resolve_host(host)
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>> {
        self.inner.sleep(duration)
    }

    fn interval(&self, period: Duration) -> Box<dyn AsyncInterval> {
        self.inner.interval(period)
    }

    fn block_on(&self, future: Pin<Box<dyn Future<Output = ()> + '_>>) {
        self.inner.block_on(future);
    }

    fn name(&self) -> &'static str {
        "mux"
    }
}

/// One peer's way to the shared socket.
struct MuxSocket {
    local: SocketAddr,
    queue: Mutex<Queue>,
    socket: Arc<UdpSocket>,
    network: Network,
    beginning: Beginning,
}

impl Debug for MuxSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MuxSocket").field("local", &self.local).finish_non_exhaustive()
    }
}

/// A datagram on its way out.
#[derive(Clone)]
struct Departure {
    socket: Arc<UdpSocket>,
    to: SocketAddr,
    datagram: Bytes,
}

impl Impaired for Departure {
    fn arrive(self) {
        send(&self.socket, &self.datagram, self.to);
    }
}

/// A socket that takes no more now keeps one waker only, which cannot be every peer's: the datagram is lost,
/// as it would be in a full queue anywhere else.
fn send(socket: &UdpSocket, datagram: &[u8], to: SocketAddr) {
    if let Err(error) = socket.try_send_to(datagram, to) {
        tracing::trace!(%to, %error, "a datagram was not sent");
        dropped("not_sent");
    }
}

impl AsyncUdpSocket for MuxSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn poll_send(&self, _: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        let departure = Departure {
            socket: Arc::clone(&self.socket),
            to: transmit.destination,
            datagram: Bytes::copy_from_slice(transmit.contents),
        };
        let (network, again) = (self.network.clone(), departure.clone());
        self.beginning.sent(transmit.contents, move || network.pass(again.clone()));
        self.network.pass(departure);
        Poll::Ready(Ok(transmit.contents.len()))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((from, datagram)) = std::task::ready!(queue.poll_recv(cx)) else {
            // The peer lost its seat: nothing will come any more.
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let (Some(buffer), Some(meta)) = (buffers.first_mut(), meta.first_mut()) else {
            return Poll::Ready(Ok(0));
        };
        self.beginning.received(&datagram);
        let length = datagram.len().min(buffer.len());
        buffer[..length].copy_from_slice(&datagram[..length]);
        *meta = RecvMeta::default();
        (meta.addr, meta.len, meta.stride) = (from, length, length.max(1));
        Poll::Ready(Ok(1))
    }
}
