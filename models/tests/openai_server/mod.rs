//! An OpenAI-compatible server on loopback, as plain as can be: what it answers is the test's.
#![allow(dead_code, clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use viva_models::remote::Remote;

pub const KEY: &str = "sk-very-secret-0123456789";

/// What the server does with each connection, after it has read the request.
type Answer = dyn Fn(&[u8], &mut TcpStream) + Send + Sync;

/// A server on loopback; its thread ends with the test's process. Keeps the requests it got.
pub struct Server {
    pub base_url: String,
    pub requests: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Server {
    pub fn start(answer: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> Self {
        Self::reading(move |_, stream| answer(stream))
    }

    /// One whose answer depends on what was asked.
    pub fn reading(answer: impl Fn(&[u8], &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (kept, answer) = (requests.clone(), Arc::new(answer) as Arc<Answer>);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, kept, answer) = (stream.unwrap(), kept.clone(), answer.clone());
                std::thread::spawn(move || {
                    let Some(request) = read_request(&mut stream) else { return };
                    kept.lock().unwrap().push(request.clone());
                    answer(&request, &mut stream);
                });
            }
        });
        Self { base_url, requests }
    }

    pub fn remote(&self, timeout_ms: u64) -> Remote {
        Remote {
            base_url: self.base_url.clone(),
            api_key: Some(KEY.into()),
            model: "test-model".into(),
            timeout_ms,
        }
    }

    pub fn request(&self) -> String {
        String::from_utf8_lossy(&self.requests.lock().unwrap()[0]).into_owned()
    }
}

/// Head and body by its `Content-Length`.
pub fn read_request(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 65_536]);
    loop {
        let n = stream.read(&mut buffer).ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&buffer[..n]);
        let Some(head) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
        let length = text
            .lines()
            .find_map(|l| l.strip_prefix("content-length:"))
            .map_or(0, |l| l.trim().parse().unwrap());
        if bytes.len() >= head + 4 + length {
            return Some(bytes);
        }
    }
}

pub fn respond(stream: &mut TcpStream, status: &str, kind: &str, body: &[u8]) {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok();
    stream.write_all(body).ok();
}

pub fn begin_stream(stream: &mut TcpStream, kind: &str) {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).ok();
}

/// One chunk; false when the client is gone.
pub fn chunk(stream: &mut TcpStream, bytes: &[u8]) -> bool {
    let mut all = format!("{:x}\r\n", bytes.len()).into_bytes();
    all.extend_from_slice(bytes);
    all.extend_from_slice(b"\r\n");
    stream.write_all(&all).is_ok()
}

pub fn token(text: &str) -> String {
    format!(
        "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":{}}},\"finish_reason\":null}}]}}\n\n",
        serde_json::json!(text)
    )
}

pub const FINISH: &str =
    "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
