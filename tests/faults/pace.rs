//! Clients who are too fast and clients who do not read: nobody else notices.

use std::time::Duration;

use futures_util::SinkExt;
use serde_json::json;
use tokio::net::TcpSocket;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, client_async};

use super::support::child::Running;
use super::support::{Caller, Server, append, speech};

#[tokio::test(flavor = "multi_thread")]
async fn audio_twenty_times_too_fast_harms_nobody() {
    let server = Server::start().await;
    let mut good = Caller::connect(server.address, "?events=extended").await;
    let mut fast = Caller::connect(server.address, "").await;
    let alone = good.answered_after_ms().await;
    let flood = tokio::spawn(async move {
        let (loud, quiet) = (append(&speech(20)).to_string(), append(&[0; 480]).to_string());
        let begin = Instant::now();
        // Two minutes of audio in six seconds: answers and thoughts of half a second each.
        for i in 0..6_000u64 {
            let frame = if i / 25 % 2 == 0 { &loud } else { &quiet };
            fast.socket.send(Message::text(frame)).await.unwrap();
            if i % 20 == 19 {
                sleep_until(begin + Duration::from_millis(i + 1)).await;
            }
        }
        (fast, begin.elapsed())
    });
    let beside = good.answered_after_ms().await;
    let (mut fast, took) = flood.await.unwrap();
    println!(
        "two minutes of audio in {took:?}; another caller's answer {alone} ms alone, {beside} ms beside it"
    );
    assert!(beside < alone + 1_000, "{beside} ms beside a flood, {alone} ms alone");
    // The flood itself is still served: it may ask, and hears about what was lost if anything was.
    fast.send(json!({"type": "session.update", "session": {"type": "realtime"}})).await;
    let updated = async {
        loop {
            let event = fast.next().await.expect("the session goes on");
            match event["type"].as_str() {
                Some("session.updated") => return,
                Some("error") => assert_eq!(event["error"]["code"], "input_audio_overflow", "{event}"),
                _ => {}
            }
        }
    };
    timeout(Duration::from_secs(10), updated).await.expect("it is answered in time");
    drop(fast);
    // A line that just broke would be waited for: this client says goodbye.
    good.socket.close(None).await.unwrap();
    server.sessions(0).await;
    server.stop().await;
}

/// What one client that reads nothing may cost: the bytes that wait for it (1 MiB), 32 updates its session has not read
/// yet with their 60 KB of instructions (`AHEAD_MAX`, 2 MB), both once more while they are made, and what the allocator
/// keeps of that in an arena a thread: 8 to 9 MB. Without a limit on bytes the queue alone would have 15 MiB more.
const HELD_KB_MAX: u64 = 12 * 1024;

/// A caller whose window is as small as a window can be.
async fn narrow(server: &Running) -> Caller {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(server.address).await.unwrap();
    let request = format!("ws://{}/v1/realtime", server.address).into_client_request().unwrap();
    let (socket, handshake) = client_async(request, MaybeTlsStream::Plain(stream)).await.unwrap();
    Caller { socket, handshake, seen: Vec::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_is_ended_and_the_others_go_on() {
    let server = Running::start("").await;
    let mut good = Caller::connect(server.address, "?events=extended").await;
    let alone = good.answered_after_ms().await;
    let before = server.peak_kb();
    let mut deaf = narrow(&server).await;
    let talker = tokio::spawn(async move {
        // Every one of these is answered with as much; none of it is read.
        let instructions = "x".repeat(60_000);
        let update =
            json!({"type": "session.update", "session": {"type": "realtime", "instructions": instructions}});
        let (update, frame) = (update.to_string(), append(&speech(20)).to_string());
        while deaf.socket.send(Message::text(&update)).await.is_ok() {
            if deaf.socket.send(Message::text(&frame)).await.is_err() {
                break;
            }
        }
        deaf
    });
    let beside = good.answered_after_ms().await;
    let began = Instant::now();
    let line = server.logged("does not read", Duration::from_secs(30)).await;
    // At the end it has let go of everything already.
    let most = server.peak_kb().saturating_sub(before);
    println!(
        "ended {:?} after the other's turn ({alone} ms, then {beside} ms), holding {most} KB: {line}",
        began.elapsed()
    );
    assert!(line.contains("call ended"), "{line}");
    assert!(most < HELD_KB_MAX, "{most} KB were held for it");
    assert!(beside < alone + 1_000, "{beside} ms beside it, {alone} ms alone");
    good.answered_after_ms().await;
    talker.abort();
    good.socket.close(None).await.unwrap();
    server.empty().await;
    server.stop().await;
}
