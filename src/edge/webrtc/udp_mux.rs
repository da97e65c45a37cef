//! One UDP port for all peers.
//!
//! The `webrtc` crate binds sockets of its own for every peer. Here each peer gets a [`Runtime`] whose sockets
//! are queues: the mux reads the one real socket (or two, for IPv4 and IPv6) and hands every datagram to the
//! peer it belongs to. A connectivity check says whom it is for by name; its sender's address is learned only
//! when the check proves that the sender knows that peer's secret. Everything else goes by that address.
//!
//! *Bound:* [`QUEUE`] datagrams a peer, [`ADDRESSES_MAX`] addresses and [`NAMES_MAX`] names a peer; all of them
//! go with the peer, an address also after [`ADDRESS_EXPIRES`] without use. *When a queue is full* the newest
//! datagram goes: the peer's task is late then, and what it gets must be in order. *When the socket does not
//! take more* a datagram is lost like any other on the way.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle as TokioJoinHandle;
use tokio::time::Instant;
use viva_actors::metrics as m;

use super::impair::{BadNetwork, Impaired, Impairment};
use super::mux_runtime::MuxRuntime;
use super::stun::{self, Check, Kind};

/// Datagrams that wait for a peer's task: over two seconds of audio.
const QUEUE: usize = 128;

/// Addresses one peer is known by: a browser on a machine with two networks, both families, that roams once.
const ADDRESSES_MAX: usize = 8;

/// Names one peer answers to: before and after a restart of ICE, whose checks may cross on the way.
const NAMES_MAX: usize = 2;

/// An address unused for so long is forgotten: four times the interval of a browser's checks, and more than
/// the longest outage a call survives.
const ADDRESS_EXPIRES: Duration = Duration::from_secs(60);

/// Bytes of a datagram: an Ethernet frame holds 1,500, nothing a peer may send is longer.
const DATAGRAM_MAX: usize = 2048;

/// Datagrams read at once before other tasks get their turn.
const BURST: usize = 64;

/// Bytes the kernel may keep for us: 100 ms of 200 callers (50 datagrams a second of some 100 bytes, which a
/// kernel counts as ten times that).
const RECEIVE_BUFFER: usize = 1024 * 1024;

/// Names a peer in the mux.
pub type PeerId = u64;

/// The port.
pub struct UdpMux {
    sockets: Vec<Arc<UdpSocket>>,
    tables: Arc<Tables>,
    readers: Vec<TokioJoinHandle<()>>,
    network: Network,
}

/// What lies between us and everybody else.
#[derive(Clone, Default)]
pub(super) struct Network {
    bad: Option<Arc<BadNetwork>>,
    /// Nothing comes through, in either direction.
    dead: Arc<AtomicBool>,
}

impl Network {
    pub(super) fn pass(&self, what: impl Impaired) {
        if self.dead.load(Ordering::Relaxed) {
            return;
        }
        match &self.bad {
            Some(bad) => bad.pass(what),
            None => what.arrive(),
        }
    }
}

/// Who is where.
#[derive(Default)]
struct Tables {
    peers: Mutex<Peers>,
    next: AtomicU64,
}

#[derive(Default)]
struct Peers {
    by_id: HashMap<PeerId, Entry>,
    by_name: HashMap<String, PeerId>,
    by_address: HashMap<SocketAddr, PeerId>,
}

struct Entry {
    /// Names with their passwords, newest last.
    names: Vec<(String, String)>,
    /// Addresses with their last use.
    addresses: Vec<(SocketAddr, Instant)>,
    inbox: mpsc::Sender<(SocketAddr, Bytes)>,
    inbox6: mpsc::Sender<(SocketAddr, Bytes)>,
    heard: Arc<Heard>,
}

/// When a peer was heard of last.
#[derive(Debug)]
pub struct Heard {
    began: Instant,
    /// Microseconds since then, plus one; zero before anything came.
    at: AtomicU64,
}

impl Default for Heard {
    fn default() -> Self {
        Self { began: Instant::now(), at: AtomicU64::new(0) }
    }
}

impl Heard {
    /// When anything came last; none before that.
    pub fn last(&self) -> Option<Instant> {
        let at = self.at.load(Ordering::Acquire).checked_sub(1)?;
        Some(self.began + Duration::from_micros(at))
    }

    fn now(&self, now: Instant) {
        let at = now.saturating_duration_since(self.began).as_micros() as u64 + 1;
        self.at.store(at, Ordering::Release);
    }
}

impl Tables {
    fn lock(&self) -> MutexGuard<'_, Peers> {
        // Nothing in here is left by halves: every change is one insert or remove after another.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peers {
    /// Whom a datagram is for. Learns the sender's address from a check that proves itself.
    fn of(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) -> Result<PeerId, &'static str> {
        let known = self.by_address.get(&from).copied();
        match stun::kind(datagram) {
            Kind::Other => return Err("no_protocol"),
            Kind::Media => return known.ok_or("unknown_address"),
            Kind::Stun => {}
        }
        // An answer to a check of ours has no name: it comes from whom we know.
        let Some(mut check) = Check::read(datagram) else { return known.ok_or("unknown_address") };
        let name = check.asked().ok_or("no_name")?;
        let id = *self.by_name.get(&name).ok_or("unknown_name")?;
        if known != Some(id) {
            let entry = self.by_id.get(&id).ok_or("unknown_name")?;
            let password = entry.names.iter().find(|(n, _)| *n == name).map(|(_, p)| p.as_str());
            if !check.proves(password.unwrap_or_default()) {
                return Err("unproved");
            }
            self.learn(id, from, now);
        }
        Ok(id)
    }

    fn learn(&mut self, id: PeerId, address: SocketAddr, now: Instant) {
        if let Some(before) = self.by_address.insert(address, id)
            && let Some(entry) = self.by_id.get_mut(&before)
        {
            entry.addresses.retain(|(a, _)| *a != address);
        }
        let Some(entry) = self.by_id.get_mut(&id) else { return };
        let stale = |at: Instant| now.saturating_duration_since(at) > ADDRESS_EXPIRES;
        let mut gone: Vec<SocketAddr> =
            entry.addresses.extract_if(.., |(_, at)| stale(*at)).map(|(a, _)| a).collect();
        if entry.addresses.len() >= ADDRESSES_MAX
            && let Some(oldest) = entry.addresses.iter().enumerate().min_by_key(|(_, (_, at))| *at)
        {
            gone.push(entry.addresses.remove(oldest.0).0);
        }
        entry.addresses.push((address, now));
        gone.iter().for_each(|address| {
            self.by_address.remove(address);
        });
    }

    fn deliver(&mut self, id: PeerId, from: SocketAddr, datagram: &[u8], now: Instant) -> Option<Delivery> {
        let entry = self.by_id.get_mut(&id)?;
        entry.heard.now(now);
        if let Some(used) = entry.addresses.iter_mut().find(|(a, _)| *a == from) {
            used.1 = now;
        }
        let inbox = if from.is_ipv4() { &entry.inbox } else { &entry.inbox6 };
        Some(Delivery { inbox: inbox.clone(), from, datagram: Bytes::copy_from_slice(datagram) })
    }

    fn remove(&mut self, id: PeerId) {
        let Some(entry) = self.by_id.remove(&id) else { return };
        for (name, _) in entry.names {
            self.by_name.remove(&name);
        }
        for (address, _) in entry.addresses {
            self.by_address.remove(&address);
        }
    }
}

/// A datagram on its way to its peer.
struct Delivery {
    inbox: mpsc::Sender<(SocketAddr, Bytes)>,
    from: SocketAddr,
    datagram: Bytes,
}

impl Impaired for Delivery {
    fn arrive(self) {
        if self.inbox.try_send((self.from, self.datagram)).is_err() {
            dropped("peer_busy");
        }
    }
}

pub(super) fn dropped(reason: &'static str) {
    metrics::counter!(m::DROPS, "stage" => "udp", "reason" => reason).increment(1);
}

impl UdpMux {
    /// Listens on these addresses, at most one of each family. Called within a Tokio runtime.
    pub fn bind(addresses: &[SocketAddr], impairment: Option<Impairment>) -> io::Result<Self> {
        let mut sockets = Vec::with_capacity(addresses.len());
        for address in addresses {
            sockets.push(Arc::new(open(*address)?));
        }
        let tables = Arc::<Tables>::default();
        let bad = impairment.map(|faults| Arc::new(BadNetwork::new(faults)));
        let network = Network { bad, ..Network::default() };
        let readers = sockets
            .iter()
            .map(|socket| tokio::spawn(read(Arc::clone(socket), Arc::clone(&tables), network.clone())))
            .collect();
        Ok(Self { sockets, tables, readers, network })
    }

    /// From now on nothing comes through in either direction, or everything again: an outage, for tests.
    pub fn set_dead(&self, dead: bool) {
        self.network.dead.store(dead, Ordering::Relaxed);
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }

    /// Peers and addresses known now.
    pub fn known(&self) -> (usize, usize) {
        let peers = self.tables.lock();
        (peers.by_id.len(), peers.by_address.len())
    }

    /// A place for one more peer, and the runtime to build it with.
    pub fn join(&self) -> (Seat, Arc<MuxRuntime>) {
        let id = self.tables.next.fetch_add(1, Ordering::Relaxed);
        let (inbox, queue) = mpsc::channel(QUEUE);
        let (inbox6, queue6) = mpsc::channel(QUEUE);
        let heard = Arc::<Heard>::default();
        let entry =
            Entry { names: Vec::new(), addresses: Vec::new(), inbox, inbox6, heard: Arc::clone(&heard) };
        self.tables.lock().by_id.insert(id, entry);
        let of =
            |v4: bool| self.sockets.iter().find(|s| s.local_addr().is_ok_and(|a| a.is_ipv4() == v4)).cloned();
        let runtime = MuxRuntime::new((queue, queue6), (of(true), of(false)), self.network.clone());
        (Seat { id, tables: Arc::clone(&self.tables), heard }, Arc::new(runtime))
    }
}

/// A socket for one family only, so that the other can have its own on the same port.
fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // As much of it as the system allows.
    socket.set_recv_buffer_size(RECEIVE_BUFFER).ok();
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

impl Drop for UdpMux {
    fn drop(&mut self) {
        self.readers.iter().for_each(TokioJoinHandle::abort);
    }
}

/// One peer's place in the mux; what the mux knows of it goes with it.
pub struct Seat {
    id: PeerId,
    tables: Arc<Tables>,
    heard: Arc<Heard>,
}

impl Seat {
    /// The peer answers to this name from now on, to those who know the password. The last two names hold.
    pub fn answer_to(&self, name: &str, password: &str) {
        let mut peers = self.tables.lock();
        let Some(entry) = peers.by_id.get_mut(&self.id) else { return };
        if entry.names.iter().any(|(n, _)| n == name) {
            return;
        }
        let gone = (entry.names.len() >= NAMES_MAX).then(|| entry.names.remove(0));
        entry.names.push((name.to_owned(), password.to_owned()));
        if let Some((gone, _)) = gone {
            peers.by_name.remove(&gone);
        }
        peers.by_name.insert(name.to_owned(), self.id);
    }

    /// Datagrams from this address are for the peer, without any proof: it is one we called ourselves.
    pub fn know(&self, address: SocketAddr) {
        self.tables.lock().learn(self.id, address, Instant::now());
    }

    /// When the peer was heard of last.
    pub fn heard(&self) -> &Arc<Heard> {
        &self.heard
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.tables.lock().remove(self.id);
    }
}

/// Reads a socket for all peers.
async fn read(socket: Arc<UdpSocket>, tables: Arc<Tables>, network: Network) {
    let mut buffer = [0; DATAGRAM_MAX];
    loop {
        if socket.readable().await.is_err() {
            return;
        }
        let now = Instant::now();
        for _ in 0..BURST {
            let (length, from) = match socket.try_recv_from(&mut buffer) {
                Ok(received) => received,
                // What an earlier datagram met on its way (a closed port) is told here; it is no end of ours.
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => continue,
                Err(_) => break,
            };
            let from = SocketAddr::new(from.ip().to_canonical(), from.port());
            let delivery = {
                let mut peers = tables.lock();
                match peers.of(from, &buffer[..length], now) {
                    Ok(id) => peers.deliver(id, from, &buffer[..length], now),
                    Err(reason) => {
                        drop(peers);
                        dropped(reason);
                        None
                    }
                }
            };
            if let Some(delivery) = delivery {
                network.pass(delivery);
            }
        }
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
#[path = "udp_mux/tests.rs"]
mod tests;
