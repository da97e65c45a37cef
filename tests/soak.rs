//! What takes long: a thousand callers who come and go, an hour of talk in virtual time, a million damaged
//! events. Built and run only with the feature `soak` (`make soak`); everything is seeded and prints its seed.

#![allow(clippy::unwrap_used)]

#[path = "faults/child.rs"]
#[allow(dead_code)]
mod child;
#[path = "faults/churn.rs"]
mod churn;
#[path = "soak/hour.rs"]
mod hour;
#[path = "soak/parse.rs"]
mod parse;
#[path = "wire/support.rs"]
#[allow(dead_code)]
mod support;

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_short_sessions_leave_nothing() {
    churn::leaves_nothing(churn::WARM_UP, 1_000).await;
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
