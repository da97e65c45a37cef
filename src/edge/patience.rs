//! How long a connection may take to say what it wants, and how many there may be.
//!
//! *Bound:* [`CONNECTIONS_MAX`] connections, and no more than leave [`FILES_KEPT`] of the files this process may open; more wait in the operating system's queue. Whoever has not sent the whole
//! head of their first request within [`HEAD_WITHIN`] is cut off, however slowly they go on: a crowd that says nothing is
//! gone after that, and others are served again. A connection that was answered and on which nothing has moved for
//! [`IDLE_MAX`] is cut off as well; what else comes after the first head is the handlers' business.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// Connections at once: many times the sessions of the largest machine. One that says nothing costs 22 KiB (measured with a
/// crowd of them), so that all together hold 180 MiB until they are cut off.
pub const CONNECTIONS_MAX: usize = 8_192;

/// Files that are not for connections: those of the program itself, the engines' sockets, and two of each recorded session
/// where sixty are held. A server that has none left could not even say so.
const FILES_KEPT: usize = 192;

/// How long the head of a first request may take: a kilobyte on the worst line takes a second.
pub const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// How long a connection may rest after an answer. While a handler works nothing was written last, so a slow one is never
/// cut off, nor an answer that is being sent: the slowest of those pauses for two minutes at the most. A WebSocket is
/// pinged every quarter of a minute.
pub const IDLE_MAX: Duration = Duration::from_secs(150);

/// What ends the head of a request.
const HEAD_END: &[u8; 4] = b"\r\n\r\n";

/// A listener with an end to its patience.
pub struct Patient<L> {
    listener: L,
    places: Arc<Semaphore>,
}

impl<L> Patient<L> {
    /// In front of a listener.
    pub fn new(listener: L) -> Self {
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let places = places(&limits);
        if places < CONNECTIONS_MAX {
            tracing::info!(places, "connections at once, by this process's limit of open files (ulimit -n)");
        }
        Self { listener, places: Arc::new(Semaphore::new(places)) }
    }
}

/// Connections that may be open at once, by what `/proc/self/limits` says; at least a few, however little it allows.
fn places(limits: &str) -> usize {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    soft.map_or(CONNECTIONS_MAX, |soft| {
        soft.saturating_sub(FILES_KEPT).clamp(FILES_KEPT / 4, CONNECTIONS_MAX)
    })
}

impl<L: Listener<Addr = SocketAddr>> Listener for Patient<L> {
    type Io = Awaited<L::Io>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let (io, peer) = self.listener.accept().await;
        (Awaited::new(io, place, HEAD_WITHIN), peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection whose first words are awaited.
pub struct Awaited<I> {
    io: I,
    /// When patience ends; none once the head is there.
    until: Option<Pin<Box<Sleep>>>,
    /// Bytes of [`HEAD_END`] seen so far.
    matched: usize,
    /// When an answered connection has rested too long; none while the other side is the last who spoke.
    rest: Option<Pin<Box<Sleep>>>,
    idle_max: Duration,
    _place: Option<OwnedSemaphorePermit>,
}

impl<I> Awaited<I> {
    fn new(io: I, place: Option<OwnedSemaphorePermit>, within: Duration) -> Self {
        let until = Some(Box::pin(sleep(within)));
        Self { io, until, matched: 0, rest: None, idle_max: IDLE_MAX, _place: place }
    }

    /// Something was written: from now on it may rest for so long.
    fn wrote(&mut self, written: &Poll<io::Result<usize>>) {
        if !matches!(written, Poll::Ready(Ok(n)) if *n > 0) {
            return;
        }
        let until = Instant::now() + self.idle_max;
        match &mut self.rest {
            Some(rest) => rest.as_mut().reset(until),
            None => self.rest = Some(Box::pin(sleep_until(until))),
        }
    }

    /// Looks for the end of the head in what came.
    fn look(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == HEAD_END[self.matched] {
                self.matched += 1;
            } else {
                self.matched = usize::from(byte == HEAD_END[0]);
            }
            if self.matched == HEAD_END.len() {
                self.until = None;
                return;
            }
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Awaited<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = &mut *self;
        if let Some(until) = &mut me.until
            && until.as_mut().poll(cx).is_ready()
        {
            let why = "the head of a request did not arrive in time";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut me.io).poll_read(cx, buf);
        if read.is_pending() {
            if let Some(rest) = &mut me.rest
                && rest.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the connection has rested too long",
                )));
            }
            return read;
        }
        me.rest = None;
        if me.until.is_some() {
            me.look(&buf.filled()[before..]);
        }
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Awaited<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.wrote(&written);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::timeout;

    use super::*;

    #[test]
    fn there_are_places_for_as_many_as_there_are_files_for() {
        let limits =
            |soft| format!("Limit  Soft Limit  Hard Limit  Units\nMax open files  {soft}  524288  files\n");
        assert_eq!(places(&limits("1024")), 832);
        assert_eq!(places(&limits("64")), 48);
        for enough in ["1048576", "unlimited"] {
            assert_eq!(places(&limits(enough)), CONNECTIONS_MAX);
        }
        assert_eq!(places(""), CONNECTIONS_MAX);
    }

    #[tokio::test]
    async fn whoever_sends_a_byte_now_and_then_is_cut_off() {
        let (mut client, server) = duplex(64);
        let mut server = Awaited::new(server, None, Duration::from_millis(100));
        tokio::spawn(async move {
            while client.write_all(b"x").await.is_ok() {
                sleep(Duration::from_millis(20)).await;
            }
        });
        let error = server.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn an_answered_connection_may_rest_so_long_and_one_that_works_for_ever() {
        let (mut client, server) = duplex(64);
        let mut server = Awaited::new(server, None, HEAD_WITHIN);
        server.idle_max = Duration::from_millis(300);
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut bytes = [0; 64];
        assert_eq!(server.read(&mut bytes).await.unwrap(), 18);
        // The handler takes its time.
        assert!(timeout(3 * server.idle_max, server.read(&mut bytes)).await.is_err(), "nobody is cut off");
        server.write_all(b"an answer").await.unwrap();
        // Another request, and its answer.
        client.write_all(b"GET").await.unwrap();
        assert_eq!(server.read(&mut bytes).await.unwrap(), 3);
        assert!(timeout(3 * server.idle_max, server.read(&mut bytes)).await.is_err(), "nor now");
        server.write_all(b"another").await.unwrap();
        let began = Instant::now();
        let error = server.read(&mut bytes).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= server.idle_max - Duration::from_millis(5), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn whoever_has_said_what_they_want_may_be_silent() {
        let (mut client, server) = duplex(64);
        let mut server = Awaited::new(server, None, Duration::from_millis(500));
        tokio::spawn(async move {
            // The end comes in two pieces, behind a false one.
            client.write_all(b"GET / HTTP/1.1\r\nA: b\r\n\r").await.unwrap();
            client.write_all(b"\n").await.unwrap();
            sleep(Duration::from_millis(700)).await;
            client.write_all(b"more").await.unwrap();
        });
        let mut all = Vec::new();
        server.read_to_end(&mut all).await.unwrap();
        assert!(all.ends_with(b"\r\n\r\nmore"));
    }
}
