//! The program as a child process whose log, memory, threads and files can be looked at.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::WITHIN;

/// The binary under test.
pub const VIVA: &str = env!("CARGO_BIN_EXE_viva");

/// `viva` with these arguments, which ends with whoever holds it.
pub fn viva<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(VIVA);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs this command, which must fail as `viva` does; gives what it said, and how long it took.
pub async fn failure(mut command: Command, within: Duration) -> (String, Duration) {
    let began = Instant::now();
    let output = timeout(within, command.output()).await.expect("it ends by itself").unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("listening"), "{said}");
    (said, began.elapsed())
}

/// A server on the fake engines. Dropping it kills it.
pub struct Running {
    pub address: SocketAddr,
    pub pid: u32,
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

/// What a process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holdings {
    pub resident_kb: u64,
    pub threads: usize,
    pub files: usize,
}

impl Running {
    /// Starts `viva serve` on the fake engines with this configuration.
    pub async fn start(config: &str) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), config).unwrap();
        let mut command = viva(["serve", "--engines", "fake", "--listen", "127.0.0.1:0", "--config"]);
        command.arg(file.path());
        Self::of(command).await
    }

    /// Starts this command, which must become a server.
    pub async fn of(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(keep(child.stderr.take().unwrap(), Arc::clone(&log)));
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = timeout(WITHIN, lines.next_line()).await.expect("it listens in time").unwrap();
        let line = line.unwrap_or_else(|| panic!("it ended: {:?}", log.lock().unwrap()));
        let address = line.strip_prefix("listening on http://").unwrap().parse().unwrap();
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { address, pid: child.id().unwrap(), child, log }
    }

    /// Waits for a line of its log that has this in it, and gives it.
    pub async fn logged(&self, text: &str, within: Duration) -> String {
        let end = Instant::now() + within;
        loop {
            if let Some(line) = self.log.lock().unwrap().iter().find(|l| l.contains(text)) {
                return line.clone();
            }
            assert!(Instant::now() < end, "{text:?} was never logged: {:#?}", self.log.lock().unwrap());
            sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn holdings(&self) -> Holdings {
        let count = |what: &str| std::fs::read_dir(format!("/proc/{}/{what}", self.pid)).unwrap().count();
        Holdings { resident_kb: self.kb("VmRSS:"), threads: count("task"), files: count("fd") }
    }

    /// The most memory it ever had.
    pub fn peak_kb(&self) -> u64 {
        self.kb("VmHWM:")
    }

    fn kb(&self, what: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix(what)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Waits until no session runs, by its own account.
    pub async fn empty(&self) {
        let end = Instant::now() + WITHIN;
        loop {
            let (_, _, page) = super::get(self.address, "/readyz", "").await;
            if page.contains("\"sessions\":0") {
                return;
            }
            assert!(Instant::now() < end, "sessions are left: {page}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Ends it as an operator does; it must end well.
    pub async fn stop(self) {
        self.asked_to_end().await;
        self.ended().await;
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends it the signal on which it takes no new callers, lets the others end, and ends.
    pub async fn asked_to_end(&self) {
        let mut kill = Command::new("kill");
        assert!(kill.args(["-TERM", &self.pid.to_string()]).status().await.unwrap().success());
    }

    /// Waits for its end, which must be a good one.
    pub async fn ended(mut self) {
        let status = timeout(WITHIN, self.child.wait()).await.expect("it ends").unwrap();
        assert_eq!(status.code(), Some(0), "{:#?}", self.log.lock().unwrap());
        let log = self.log.lock().unwrap();
        assert!(!log.iter().any(|l| l.contains("panicked")), "{log:#?}");
    }
}

async fn keep(stderr: impl AsyncRead + Unpin, log: Arc<Mutex<Vec<String>>>) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        log.lock().unwrap().push(line);
    }
}
