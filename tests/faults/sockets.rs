//! Sockets that mean no good: crowds that say nothing, frames that are none, bodies that never end or that are bombs. Each
//! ends with a clear word or code, holds little while it lasts, and the caller beside it notices nothing.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use viva::edge::patience::{CONNECTIONS_MAX, HEAD_WITHIN};

use super::support::child::{Running, VIVA};
use super::support::{Caller, WITHIN};

/// Connections of the crowd: more than the server takes at once, so that some wait in front of it.
const CROWD: usize = 10_000;

/// Callers of the crowd who send a byte now and then.
const DRIPPING: usize = 100;

/// Files this process needs beside the crowd's.
const FILES: usize = 500;

/// What a connection that says nothing may cost the server: measured were 22 KB, most of it buffers of hyper's.
const SILENT_KB_MAX: u64 = 32;

/// What one hostile request or frame may cost: a chunk or two of it, and what the allocator keeps of that in its arenas.
const HELD_KB_MAX: u64 = 16 * 1024;

/// How many connections this process may open, from its limit of open files.
fn affordable() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let soft = line.split_whitespace().nth(3).unwrap().parse().unwrap_or(usize::MAX);
    CROWD.min(soft.saturating_sub(FILES))
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_who_say_nothing_are_gone_after_a_while_and_the_caller_notices_nothing() {
    let crowd = affordable();
    if crowd < CROWD {
        println!("a crowd of {crowd}: this process may open no more files (ulimit -n)");
    }
    let server = Running::start("").await;
    let mut good = Caller::connect(server.address, "?events=extended").await;
    let alone = good.answered_after_ms().await;
    let (before, files) = (server.peak_kb(), server.holdings().files);
    let began = Instant::now();
    let mut connecting = JoinSet::new();
    for _ in 0..crowd {
        let address = server.address;
        // Those who find the system's queue full are turned away by it, or wait there.
        connecting.spawn(async move { timeout(HEAD_WITHIN / 2, TcpStream::connect(address)).await });
    }
    let mut silent: Vec<TcpStream> = Vec::new();
    while let Some(connected) = connecting.join_next().await {
        silent.extend(connected.unwrap().into_iter().flatten());
    }
    for (n, stream) in silent.iter_mut().enumerate().take(DRIPPING) {
        stream.write_all(&b"GET / HTTP/1.1\r\n"[..1 + n % 16]).await.ok();
    }
    let beside = good.answered_after_ms().await;
    let (held, open) = (server.peak_kb().saturating_sub(before), server.holdings().files);
    println!("{} of {crowd} connected in {:?}; {open} files, {held} KB", silent.len(), began.elapsed());
    println!("the caller is answered after {beside} ms, {alone} ms alone");
    assert!(silent.len() > crowd / 2, "{} came through", silent.len());
    assert!(open <= files + CONNECTIONS_MAX + 16, "{open} files");
    assert!(held < SILENT_KB_MAX * CONNECTIONS_MAX as u64, "{held} KB for them");
    assert!(beside < alone + 1_000, "{beside} ms beside them, {alone} ms alone");
    // Whoever comes then is served, and nothing is left of the crowd, though it never hung up.
    let gone = async {
        while server.holdings().files > files + FILES {
            sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(3 * HEAD_WITHIN, gone).await.expect("the crowd is cut off");
    let mut late = Caller::connect(server.address, "").await;
    late.socket.close(None).await.unwrap();
    good.answered_after_ms().await;
    good.socket.close(None).await.unwrap();
    server.empty().await;
    drop(silent);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_does_not_take_the_last_file() {
    /// What a shell of Debian's allows is 1,024; this is less, so that the crowd can be small.
    const FILES: usize = 512;
    let config = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -n {FILES} && exec \"$0\" \"$@\""), VIVA]);
    command.args(["serve", "--engines", "fake", "--listen", "127.0.0.1:0", "--config"]).arg(config.path());
    let server = Running::of(command).await;
    let mut good = Caller::connect(server.address, "?events=extended").await;
    let mut silent = Vec::new();
    // Those whom the system's queue has no room for are left outside.
    while let Ok(stream) = timeout(Duration::from_millis(500), TcpStream::connect(server.address)).await {
        silent.push(stream.unwrap());
        if silent.len() == FILES {
            break;
        }
    }
    assert!(silent.len() > FILES / 2, "{} came through", silent.len());
    good.answered_after_ms().await;
    let open = server.holdings().files;
    assert!(open + 64 < FILES, "{open} files are open");
    // Patience ends, and whoever waited is served.
    let served = async {
        loop {
            // A handshake that the system left without an answer is tried again.
            let tried = timeout(Duration::from_secs(2), Caller::connect(server.address, "")).await;
            if let Ok(caller) = tried {
                break caller;
            }
        }
    };
    let mut late = timeout(3 * HEAD_WITHIN, served).await.expect("there is a place again");
    late.socket.close(None).await.unwrap();
    good.socket.close(None).await.unwrap();
    server.empty().await;
    server.stop().await;
}

/// A handshake by hand, with more headers; the answer's head in lower case.
async fn shaken(address: SocketAddr, headers: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /v1/realtime HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(WITHIN, stream.read_u8()).await.unwrap().unwrap());
    }
    (stream, String::from_utf8(head).unwrap().to_lowercase())
}

/// What comes until the server closes: the events, and the close frame's code.
async fn ending(stream: &mut TcpStream) -> (Vec<Value>, Option<u16>) {
    let mut events = Vec::new();
    let all = async {
        loop {
            let Ok(first) = stream.read_u8().await else { return None };
            let length = match stream.read_u8().await {
                Ok(126) => usize::from(stream.read_u16().await.unwrap()),
                Ok(length) => usize::from(length),
                Err(_) => return None,
            };
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload).await.unwrap();
            match first & 0x0F {
                0x1 => events.push(serde_json::from_slice(&payload).unwrap()),
                0x8 => return Some(u16::from_be_bytes([payload[0], payload[1]])),
                _ => {}
            }
        }
    };
    let code = timeout(WITHIN, all).await.expect("it is closed");
    (events, code)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_frame_is_closed_with_a_code_that_says_so() {
    let server = Running::start("").await;
    let mut good = Caller::connect(server.address, "?events=extended").await;
    let before = server.peak_kb();
    let huge = [&[0x81, 0xFF][..], &u64::MAX.to_be_bytes(), &[0; 4]].concat();
    let large = [&[0x81, 0xFF][..], &(1u64 << 40).to_be_bytes(), &[0; 4]].concat();
    let long_ping = [&[0x89, 0xFE, 0x01, 0x00][..], &[0; 260]].concat();
    // `{}` as a text frame that says it is compressed, though nothing of the kind was agreed on.
    let compressed = [&[0xC1, 0x82, 0, 0, 0, 0][..], b"{}"].concat();
    let cases: [(&str, &[u8], u16); 7] = [
        ("a length of 2^64 - 1", &huge, 1009),
        ("a terabyte", &large, 1009),
        ("a ping of 256 bytes", &long_ping, 1002),
        ("a compressed frame", &compressed, 1002),
        ("no mask", &[0x81, 0x02, b'{', b'}'], 1002),
        ("no opcode of the standard", &[0x83, 0x80, 0, 0, 0, 0], 1002),
        ("the end of a message that never began", &[0x80, 0x80, 0, 0, 0, 0], 1002),
    ];
    for (what, bytes, expected) in cases {
        let (mut stream, head) = shaken(server.address, "").await;
        assert!(head.starts_with("http/1.1 101"), "{head}");
        stream.write_all(bytes).await.unwrap();
        let (events, code) = ending(&mut stream).await;
        assert_eq!(code, Some(expected), "{what}: {events:?}");
        let error = events.iter().find(|event| event["type"] == "error").unwrap_or_else(|| panic!("{what}"));
        let name = if expected == 1009 { "message_too_large" } else { "invalid_frame" };
        assert_eq!(error["error"]["code"], name, "{what}: {error}");
    }
    let held = server.peak_kb().saturating_sub(before);
    assert!(held < HELD_KB_MAX, "{held} KB were held for them");
    good.answered_after_ms().await;
    good.socket.close(None).await.unwrap();
    server.empty().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compression_is_not_agreed_to_so_that_nothing_swells() {
    let server = Running::start("").await;
    let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
    let (mut stream, head) = shaken(server.address, offer).await;
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(!head.contains("sec-websocket-extensions"), "{head}");
    // A goodbye, so that no place is kept.
    stream.write_all(&[0x88, 0x80, 0, 0, 0, 0]).await.unwrap();
    // A gigabyte of spaces in a megabyte.
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    (0..1024).for_each(|_| bomb.write_all(&vec![b' '; 1 << 20]).unwrap());
    let bomb = bomb.finish().unwrap();
    let before = server.peak_kb();
    for (path, kind) in [
        ("/v1/chat/completions", "application/json"),
        ("/v1/audio/transcriptions", "multipart/form-data; boundary=b"),
        ("/v1/realtime/calls", "application/sdp"),
        ("/rag/general/query", "application/json"),
    ] {
        let headers = format!("Content-Type: {kind}\r\nContent-Encoding: gzip\r\n");
        let (status, body) = post(server.address, path, &headers, &bomb).await;
        assert_eq!((status, code(&body)), (415, "unsupported_content_encoding".into()), "{path}: {body}");
    }
    let (status, _) =
        post(server.address, "/v1/realtime/calls", "Content-Encoding: identity\r\n", b"x").await;
    assert_eq!(status, 415, "it has no type, but its encoding is none");
    let held = server.peak_kb().saturating_sub(before);
    assert!(held < HELD_KB_MAX, "{held} KB were held for them");
    server.stop().await;
}

fn code(body: &str) -> String {
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    body["error"]["code"].as_str().unwrap_or_default().to_owned()
}

/// Sends a body, as much of it as is taken; status and body of the answer.
async fn post(address: SocketAddr, path: &str, headers: &str, body: &[u8]) -> (u16, String) {
    let mut stream = begun(address, path, headers, body.len()).await;
    stream.write_all(body).await.ok();
    answer(stream).await
}

async fn begun(address: SocketAddr, path: &str, headers: &str, length: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

async fn answer(mut stream: TcpStream) -> (u16, String) {
    let mut answer = Vec::new();
    // A server that refuses a body may reset the connection once its answer is out.
    timeout(WITHIN, stream.read_to_end(&mut answer)).await.expect("it is answered").ok();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer.as_str(), ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, body.to_owned())
}

const FORM: &str = "Content-Type: multipart/form-data; boundary=b\r\n";

/// Bytes of a body that would not end: far more than may be held, sent only as far as they are taken.
const ENDLESS: usize = 400 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_form_whose_parts_never_begin_is_refused_before_it_takes_memory() {
    let server = Running::start("").await;
    let mut good = Caller::connect(server.address, "?events=extended").await;
    let before = server.peak_kb();
    for begin in ["--b\r\nContent-Disposition: form-data; name=\"file\"\r\n", "--b ", "--b\r\nX-Long: "] {
        let mut stream = begun(server.address, "/v1/audio/transcriptions", FORM, ENDLESS).await;
        stream.write_all(begin.as_bytes()).await.unwrap();
        let line = if begin.starts_with("--b ") { " ".repeat(65_536) } else { "X-A: b\r\n".repeat(8192) };
        let mut sent = 0;
        while sent < ENDLESS / 4 {
            match timeout(Duration::from_secs(2), stream.write(line.as_bytes())).await {
                Ok(Ok(n)) => sent += n,
                _ => break,
            }
        }
        let (status, body) = answer(stream).await;
        let held = server.peak_kb().saturating_sub(before);
        println!("{begin:?}: {sent} bytes sent, {held} KB held; {status} {body}");
        assert_eq!((status, code(&body)), (400, "invalid_body".into()), "{begin:?}");
        assert!(held < HELD_KB_MAX, "{begin:?}: {held} KB were held");
    }
    good.answered_after_ms().await;
    good.socket.close(None).await.unwrap();
    server.empty().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_of_thousands_of_parts_is_refused() {
    let server = Running::start("").await;
    let part = |name: &str| format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\nx\r\n");
    for (path, name, status, name_of_error) in [
        ("/v1/audio/transcriptions", "language", 400, "invalid_body"),
        ("/v1/audio/transcriptions", "file", 400, "invalid_value"),
        ("/v1/realtime/calls", "session", 413, "offer_too_large"),
    ] {
        let body = part(name).repeat(5_000) + "--b--\r\n";
        let answered = post(server.address, path, FORM, body.as_bytes()).await;
        assert_eq!(
            (answered.0, code(&answered.1)),
            (status, name_of_error.into()),
            "{path} {name}: {answered:?}"
        );
    }
    server.stop().await;
}
