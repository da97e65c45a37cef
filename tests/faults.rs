//! Faults from outside the protocol: damaged weights, clients too fast or too slow, disks and
//! folders that cannot be written, an endpoint that goes away, callers who come and go by the hundred.

#![allow(clippy::unwrap_used)]

#[path = "faults/child.rs"]
mod child;
#[path = "faults/churn.rs"]
mod churn;
#[path = "faults/disk.rs"]
mod disk;
#[path = "faults/pace.rs"]
mod pace;
#[path = "faults/remote.rs"]
mod remote;
#[path = "faults/start.rs"]
mod start;
#[path = "wire/support.rs"]
#[allow(dead_code)]
mod support;

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_short_sessions_leave_nothing() {
    churn::leaves_nothing(churn::WARM_UP, 200).await;
}

/// A page by plain HTTP, head and all.
async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}
