//! The child as its parent sees it: started, listened to, ended, and never left as a zombie.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::contract::{EngineError, Result};

/// Bytes of one line of a child's stderr we keep; ggml prints whole tensors' names, nothing longer is of use.
const STDERR_LINE_BYTES_MAX: usize = 400;

/// Lines of stderr an error message carries: llama's own account of a failed load is about six lines.
const STDERR_LINES_KEPT: usize = 8;

/// Turns of OpenMP's waiting loop before a thread sleeps: a few microseconds, about a barrier inside a layer.
/// 100 times as many gained nothing more and cost up to a quarter more CPU.
const OMP_SPINS: &str = "1000";

/// How often a wait for a child's end looks again.
const EXIT_POLL_MS: u64 = 5;

/// What to start.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Short name for logs: "whisper".
    pub name: String,
    /// The binary.
    pub program: PathBuf,
    /// The engine's settings as JSON, its only argument.
    pub settings: String,
    /// Threads it may compute on.
    pub threads: usize,
    /// More of its environment.
    pub env: Vec<(String, String)>,
}

/// A running engine process. Dropping it ends the child and waits for it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    tail: Arc<Mutex<VecDeque<String>>>,
    listener: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts the child with one end of a socket pair as its standard input and returns the other.
    pub fn spawn(launch: &Launch) -> Result<(Self, UnixStream)> {
        let failed = |what: &str, e: std::io::Error| {
            EngineError::Unavailable(format!("{}: {what}: {e}", launch.program.display()))
        };
        let (ours, theirs) = UnixStream::pair().map_err(|e| failed("no socket pair", e))?;
        let mut child = Command::new(&launch.program)
            .arg(&launch.settings)
            // On a busy machine OpenMP's spinning barrier cost seven eighths of llama's speed. Threads that sleep
            // at once lose as much to waking: two of them wrote a token in 21 ms where one alone took 12. Spinning
            // for some microseconds first has neither fault: 9 ms (measured, see ARCHITECTURE.md).
            .env("OMP_WAIT_POLICY", "passive")
            .env("GOMP_SPINCOUNT", OMP_SPINS)
            .env("OMP_NUM_THREADS", launch.threads.max(1).to_string())
            .envs(launch.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // A group of its own: Ctrl-C at the terminal is for the server, which drains before it ends us.
            .process_group(0)
            .spawn()
            .map_err(|e| failed("cannot be started", e))?;
        let tail = Arc::new(Mutex::new(VecDeque::with_capacity(STDERR_LINES_KEPT)));
        let listener = child.stderr.take().map(|stderr| {
            let (name, tail) = (launch.name.clone(), Arc::clone(&tail));
            std::thread::spawn(move || relay(&name, stderr, &tail))
        });
        Ok((Self { name: launch.name.clone(), child, tail, listener }, ours))
    }

    /// The child's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The engine's short name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits at most `limit` for the child to end by itself. True when it has.
    pub fn wait(&mut self, limit: Duration) -> bool {
        let started = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(None) if started.elapsed() < limit => {
                    std::thread::sleep(Duration::from_millis(EXIT_POLL_MS));
                }
                Ok(None) => return false,
                Ok(Some(_)) | Err(_) => return true,
            }
        }
    }

    /// Ends the child at once and waits for it. Harmless when it has ended already.
    pub fn kill(&mut self) {
        // Both fail only for a child that is gone and waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Ends the child if it still runs and says how it ended, with its last lines.
    pub fn epitaph(&mut self) -> String {
        self.kill();
        if let Some(listener) = self.listener.take() {
            // The pipe ends with the child, so this is over in an instant.
            let _ = listener.join();
        }
        let status = self.child.wait().map_or_else(|e| e.to_string(), describe);
        let mut text = format!("{} (pid {}) {status}", self.name, self.pid());
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        for (i, line) in tail.iter().enumerate() {
            let _ = write!(text, "{}{line}", if i == 0 { "; its last words: " } else { " | " });
        }
        text
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}{}", signal_name(signal)),
        (None, None) => "ended".to_owned(),
    }
}

/// The signals that engines die of, as Linux numbers them on x86 and ARM.
fn signal_name(signal: i32) -> &'static str {
    match signal {
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        15 => " (SIGTERM)",
        _ => "",
    }
}

/// Passes a child's stderr on to tracing, line by line, and keeps the last of them.
fn relay(name: &str, stderr: impl Read, tail: &Mutex<VecDeque<String>>) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    while read_line(&mut stderr, &mut line) {
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        if text.is_empty() {
            continue;
        }
        tracing::debug!(target: "viva::engine", engine = name, "{text}");
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        if tail.len() == STDERR_LINES_KEPT {
            tail.pop_front();
        }
        tail.push_back(text.to_owned());
    }
}

/// Reads one line, dropping what exceeds [`STDERR_LINE_BYTES_MAX`]. False at the end.
fn read_line(from: &mut BufReader<impl Read>, line: &mut Vec<u8>) -> bool {
    use std::io::BufRead;
    line.clear();
    let mut any = false;
    loop {
        let chunk = match from.fill_buf() {
            Ok([]) => return any,
            Ok(chunk) => chunk,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => return any,
        };
        any = true;
        let end = chunk.iter().position(|&b| b == b'\n');
        let text = &chunk[..end.unwrap_or(chunk.len())];
        let room = STDERR_LINE_BYTES_MAX.saturating_sub(line.len());
        line.extend_from_slice(&text[..text.len().min(room)]);
        let used = end.map_or(chunk.len(), |end| end + 1);
        from.consume(used);
        if end.is_some() {
            return true;
        }
    }
}

/// Ends an engine's process at once. Its owner sees a death like any other.
pub fn kill(pid: u32) {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { return };
    if let Err(error) = rustix::process::kill_process(pid, rustix::process::Signal::KILL) {
        tracing::warn!(%error, ?pid, "an engine's process could not be killed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endless_lines_are_cut_and_the_last_lines_kept() {
        let mut text = vec![b'x'; 100_000];
        for n in 0..20 {
            text.extend_from_slice(format!("\nline {n}").as_bytes());
        }
        let tail = Mutex::new(VecDeque::new());
        relay("test", &text[..], &tail);
        let tail = tail.into_inner().unwrap_or_default();
        assert_eq!(tail.len(), STDERR_LINES_KEPT);
        assert_eq!(tail.back().map(String::as_str), Some("line 19"));

        let tail = Mutex::new(VecDeque::new());
        relay("test", &text[..50_000], &tail);
        let lengths: Vec<usize> = tail.into_inner().unwrap_or_default().iter().map(String::len).collect();
        assert_eq!(lengths, [STDERR_LINE_BYTES_MAX]);
    }
}
