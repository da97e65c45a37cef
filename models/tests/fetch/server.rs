//! A file server that can be told to misbehave.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

#[derive(Default)]
struct Shared {
    files: HashMap<String, Vec<u8>>,
    requests: Vec<(String, Option<u64>)>,
    cuts_left: usize,
    refuse_after: usize,
    delay: Duration,
}

/// Listens on loopback until the test process ends.
pub struct Server {
    pub url: String,
    shared: Arc<Mutex<Shared>>,
}

impl Server {
    pub fn start<const N: usize>(files: [(&str, Vec<u8>); N]) -> Self {
        let files = files.into_iter().map(|(path, body)| (path.to_owned(), body)).collect();
        let shared = Arc::new(Mutex::new(Shared { files, refuse_after: usize::MAX, ..Shared::default() }));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let served = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A caller who is gone is the test's business, not the server's.
                let _ = answer(stream, &served);
            }
        });
        Self { url, shared }
    }

    /// The next answers end in the middle of what they promised.
    pub fn cut_next(&self, answers: usize) {
        self.shared.lock().unwrap().cuts_left = answers;
    }

    /// After so many requests the connection is closed without a word.
    pub fn refuse_after(&self, requests: usize) {
        self.shared.lock().unwrap().refuse_after = requests;
    }

    pub fn delay(&self, delay: Duration) {
        self.shared.lock().unwrap().delay = delay;
    }

    pub fn replace(&self, path: &str, body: Vec<u8>) {
        self.shared.lock().unwrap().files.insert(path.to_owned(), body);
    }

    /// Every request so far: its path, and from which byte on.
    pub fn requests(&self) -> Vec<(String, Option<u64>)> {
        self.shared.lock().unwrap().requests.clone()
    }
}

fn answer(mut stream: TcpStream, shared: &Mutex<Shared>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut from = None;
    for line in lines {
        let line = line?.to_lowercase();
        if let Some(range) = line.strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse().ok();
        }
        if line.is_empty() {
            break;
        }
    }
    let (body, cut, delay) = {
        let mut shared = shared.lock().unwrap();
        let refused = shared.requests.len() >= shared.refuse_after;
        shared.requests.push((path.clone(), from));
        if refused {
            return Ok(());
        }
        let cut = shared.cuts_left > 0;
        shared.cuts_left = shared.cuts_left.saturating_sub(1);
        (shared.files.get(&path).cloned(), cut, shared.delay)
    };
    thread::sleep(delay);
    let Some(body) = body else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    };
    let start = usize::try_from(from.unwrap_or(0)).unwrap().min(body.len());
    let rest = &body[start..];
    let head = match from {
        Some(_) => {
            let range = format!("bytes {start}-{}/{}", body.len() - 1, body.len());
            format!("HTTP/1.1 206 Partial Content\r\ncontent-range: {range}\r\n")
        }
        None => "HTTP/1.1 200 OK\r\n".to_owned(),
    };
    stream
        .write_all(format!("{head}content-length: {}\r\nconnection: close\r\n\r\n", rest.len()).as_bytes())?;
    stream.write_all(if cut { &rest[..rest.len() / 2] } else { rest })
}
