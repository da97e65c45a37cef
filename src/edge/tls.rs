//! TLS in front of everything: certificates from files, or one made at the start.
//!
//! *Bound:* [`HANDSHAKES_MAX`] handshakes at once, each within [`HANDSHAKE_WITHIN`]; whoever says nothing holds a place
//! no longer than that, and those who come meanwhile wait in the operating system's queue.
//!
//! Files that change are read again, within [`LOOK_EVERY`] or at once after SIGHUP: whoever connects then is shown the
//! new certificate, and those who are connected notice nothing. What cannot be used is said in the log, and the old
//! certificate stays: a renewal that writes one file after the other is met in its middle.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use axum::serve::Listener;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::TlsSection;

/// Handshakes at once. One takes a core a millisecond; the rest of its time it waits for the network.
const HANDSHAKES_MAX: usize = 256;

/// How long a handshake may take: three round trips of the worst line.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// Connections that are through and wait for the server to take them.
const WAITING_MAX: usize = 64;

/// Rest after an accept that failed for want of file descriptors, as axum's own listener takes it.
const REST: Duration = Duration::from_secs(1);

/// How often the files are looked at. Renewals have days; who waits for one by hand should not wait long.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds something else.
    #[error("{key} = {path:?}: {why}")]
    File {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// Certificate and key do not belong together, or cannot be used.
    #[error("tls.cert and tls.key: {0}")]
    Pair(#[from] rustls::Error),
    /// No certificate could be made.
    #[error("no certificate could be made: {0}")]
    Made(#[from] rcgen::Error),
}

/// A certificate with its key.
pub struct Certificate {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    /// Where it is from; none for one that was made.
    files: Option<Files>,
}

/// Where a certificate and its key are.
#[derive(Debug, Clone)]
struct Files {
    cert: String,
    key: String,
}

/// What tells that a file has changed.
type Stamp = Option<(SystemTime, u64)>;

impl Files {
    fn stamps(&self) -> [Stamp; 2] {
        [&self.cert, &self.key].map(|path| {
            let meta = std::fs::metadata(path).ok()?;
            Some((meta.modified().ok()?, meta.len()))
        })
    }
}

impl Certificate {
    /// As configured; none for plain HTTP. A certificate that is made is good for `localhost` and the address that is
    /// listened on.
    pub fn of(section: &TlsSection, listen: IpAddr) -> Result<Option<Self>, TlsError> {
        match section.enabled() {
            false => Ok(None),
            true if section.self_signed => Self::made(listen).map(Some),
            true => Self::read(&section.cert, &section.key).map(Some),
        }
    }

    fn read(cert: &str, key_path: &str) -> Result<Self, TlsError> {
        let wrong = |name, path: &str, why: String| TlsError::File { key: name, path: path.to_owned(), why };
        let chain: Vec<_> = CertificateDer::pem_file_iter(Path::new(cert))
            .and_then(Iterator::collect)
            .map_err(|error| wrong("tls.cert", cert, error.to_string()))?;
        if chain.is_empty() {
            return Err(wrong("tls.cert", cert, "there is no certificate in it".into()));
        }
        let key = PrivateKeyDer::from_pem_file(Path::new(key_path))
            .map_err(|error| wrong("tls.key", key_path, error.to_string()))?;
        let files = Files { cert: cert.to_owned(), key: key_path.to_owned() };
        Ok(Self { chain, key, files: Some(files) })
    }

    fn made(listen: IpAddr) -> Result<Self, TlsError> {
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        if !listen.is_loopback() && !listen.is_unspecified() {
            names.push(listen.to_string());
        }
        let made = rcgen::generate_simple_self_signed(names)?;
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        Ok(Self { chain: vec![made.cert.der().clone()], key, files: None })
    }

    /// SHA-256 of the certificate, as browsers show it.
    pub fn fingerprint(&self) -> String {
        let digest = self.chain.first().map(Sha256::digest).unwrap_or_default();
        digest.iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(":")
    }

    fn config(self) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = config.with_no_client_auth().with_single_cert(self.chain, self.key)?;
        // WebSockets begin with HTTP/1.1.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// A listener whose connections are through their handshake.
pub struct TlsListener {
    address: SocketAddr,
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
}

impl TlsListener {
    /// In front of a listener. It ends when this is dropped.
    pub fn new(listener: TcpListener, certificate: Certificate) -> Result<Self, TlsError> {
        let files = certificate.files.clone().map(|files| {
            let stamps = files.stamps();
            (files, stamps)
        });
        let config = Arc::new(ArcSwap::new(certificate.config()?));
        let address = listener.local_addr().map_err(|error| TlsError::File {
            key: "server.listen",
            path: String::new(),
            why: error.to_string(),
        })?;
        let (sender, ready) = mpsc::channel(WAITING_MAX);
        if let Some((files, stamps)) = files {
            tokio::spawn(keep_current(files, stamps, Arc::clone(&config), sender.clone()));
        }
        tokio::spawn(accept(listener, config, sender));
        Ok(Self { address, ready })
    }
}

/// Reads the files again when they have changed, until the server has ended.
async fn keep_current(
    files: Files,
    mut used: [Stamp; 2],
    config: Arc<ArcSwap<ServerConfig>>,
    server: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => Some(hangup),
        Err(error) => {
            tracing::warn!(%error, "SIGHUP cannot be heard; changed certificates are still found");
            None
        }
    };
    let mut refused = None;
    loop {
        let asked = tokio::select! {
            () = sleep(LOOK_EVERY) => false,
            () = hung_up(hangup.as_mut()) => true,
            () = server.closed() => return,
        };
        let now = files.stamps();
        if !asked && (now == used || refused == Some(now)) {
            continue;
        }
        let read = Certificate::read(&files.cert, &files.key);
        let read = read.and_then(|read| Ok((read.fingerprint(), read.config()?)));
        match read {
            Ok((fingerprint, fresh)) => {
                config.store(fresh);
                (used, refused) = (now, None);
                tracing::info!(sha256 = fingerprint, "the certificate was read again");
            }
            Err(error) => {
                refused = Some(now);
                tracing::warn!(%error, "the changed certificate cannot be used; the old one stays");
            }
        }
    }
}

async fn hung_up(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

async fn accept(
    listener: TcpListener,
    config: Arc<ArcSwap<ServerConfig>>,
    ready: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = ready.closed() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(REST).await;
                continue;
            }
        };
        let (acceptor, ready) = (TlsAcceptor::from(config.load_full()), ready.clone());
        tokio::spawn(async move {
            let shaken = timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await;
            drop(place);
            match shaken {
                Ok(Ok(stream)) => {
                    // The server has ended.
                    ready.send((stream, peer)).await.ok();
                }
                Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            }
        });
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(accepted) => accepted,
            // Only a server that ends is without its listener.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
