//! Downloads over HTTP that go on where they were cut.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::{FetchError, Result};

/// Attempts in a row that bring no byte before a download is given up.
const ATTEMPTS_MAX: u32 = 5;
/// Attempts altogether, for a connection that is cut again and again but brings a little every time.
const ATTEMPTS_TOTAL_MAX: u32 = 100;
/// Wait before the second attempt; it doubles up to [`BACKOFF_MAX`].
const BACKOFF: Duration = Duration::from_millis(500);
/// The longest wait between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(8);
/// A server that says nothing for so long has gone.
const STALL_MAX: Duration = Duration::from_secs(60);
/// Bytes read at a time.
const CHUNK: usize = 256 * 1024;

/// How one attempt ended, when it did not end well.
enum Cut {
    /// Trying again may help.
    Again(String),
    /// It will not.
    Final(FetchError),
}

/// Waits that grow, up to a limit.
pub(super) struct Backoff(Duration);

impl Backoff {
    pub(super) fn new() -> Self {
        Self(BACKOFF)
    }

    pub(super) fn wait(&mut self) {
        thread::sleep(self.0);
        self.0 = (self.0 * 2).min(BACKOFF_MAX);
    }
}

/// Fetches `url` into `part`, going on behind what lies there already. `advanced` hears of the bytes
/// (first of those that were there), `trouble` of every attempt that failed. `expected` is the whole
/// length, where it is known: a server that ends early without saying so is asked again.
pub(super) fn download(
    url: &str,
    part: &Path,
    expected: Option<u64>,
    advanced: &mut dyn FnMut(u64),
    trouble: &mut dyn FnMut(String),
) -> Result<()> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_resolve(Some(STALL_MAX))
        .timeout_connect(Some(STALL_MAX))
        .timeout_recv_response(Some(STALL_MAX))
        .timeout_per_read(Some(STALL_MAX))
        // Compressed on the way, a byte range would mean something else.
        .accept_encoding("identity")
        .build()
        .into();
    let mut backoff = Backoff::new();
    let mut fruitless = 0;
    let have = |part: &Path| fs::metadata(part).map_or(0, |meta| meta.len());
    if expected.is_some_and(|expected| have(part) > expected) {
        // Not a piece of that file, whatever it is.
        let _ = fs::remove_file(part);
    }
    advanced(have(part));
    for _ in 0..ATTEMPTS_TOTAL_MAX {
        let before = have(part);
        let why = match attempt(&agent, url, part, before, advanced) {
            Ok(()) if expected.is_some_and(|expected| have(part) < expected) => "it ended early".to_owned(),
            Ok(()) => return Ok(()),
            Err(Cut::Final(err)) => return Err(err),
            Err(Cut::Again(why)) => why,
        };
        fruitless = if have(part) > before { 1 } else { fruitless + 1 };
        if fruitless >= ATTEMPTS_MAX {
            return Err(FetchError::Network { from: url.to_owned(), why });
        }
        trouble(format!("{why}; trying again behind {} bytes", have(part)));
        backoff.wait();
    }
    Err(FetchError::Network { from: url.to_owned(), why: "the connection was cut too often".to_owned() })
}

fn attempt(
    agent: &ureq::Agent,
    url: &str,
    part: &Path,
    from: u64,
    advanced: &mut dyn FnMut(u64),
) -> std::result::Result<(), Cut> {
    let request = agent.get(url);
    let request = if from > 0 { request.header("Range", format!("bytes={from}-")) } else { request };
    let mut response = request.call().map_err(|err| Cut::Again(err.to_string()))?;
    let dir = part.parent().unwrap_or(Path::new("."));
    let disk = |err| Cut::Final(FetchError::io(dir, format!("writing {}", part.display()), err));
    let mut file = OpenOptions::new();
    file.create(true).write(true);
    match response.status().as_u16() {
        206 if starts_at(&response, from) => file.append(true),
        206 => {
            let _ = fs::remove_file(part);
            return Err(Cut::Again("the server sent another range than asked for".to_owned()));
        }
        // The whole file, whatever we asked for.
        200 => file.truncate(true),
        // Nothing lies behind what we have: either it is complete, or it is not that file. Its hash tells.
        416 if from > 0 => return Ok(()),
        404 | 410 => {
            let why = format!("HTTP {}", response.status().as_u16());
            return Err(Cut::Final(FetchError::Vanished { from: url.to_owned(), why }));
        }
        status @ (408 | 425 | 429 | 500..=599) => return Err(Cut::Again(format!("HTTP {status}"))),
        status => {
            let why = format!("HTTP {status}");
            return Err(Cut::Final(FetchError::Network { from: url.to_owned(), why }));
        }
    };
    let mut file = file.open(part).map_err(disk)?;
    let mut body = response.body_mut().as_reader();
    let mut chunk = vec![0; CHUNK];
    loop {
        match body.read(&mut chunk) {
            Ok(0) => return file.flush().map_err(disk),
            Ok(count) => {
                file.write_all(&chunk[..count]).map_err(disk)?;
                advanced(count as u64);
            }
            Err(err) => return Err(Cut::Again(err.to_string())),
        }
    }
}

/// Whether a partial answer begins where we asked it to.
fn starts_at(response: &ureq::http::Response<ureq::Body>, from: u64) -> bool {
    let range = response.headers().get("content-range").and_then(|value| value.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {from}-")))
}
