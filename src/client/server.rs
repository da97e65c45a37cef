//! A server of our own to call: this very executable as a child process, so that its CPU and memory can
//! be told from ours.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, Signal, System};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::error::{ClientError, Result};

/// How long a start may take: the `default` profile loads in some 10 s from a warm disk, a `quality` one
/// from a cold disk in a minute.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// How long the server may take to end its sessions after it was asked to.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// Lines of its output kept to explain a failure.
const LINES_KEPT: usize = 20;
/// What it prints on standard output when it can be called.
const READY_LINE: &str = "listening on ";

/// How to start a server.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// The executable; our own when left out.
    pub program: Option<PathBuf>,
    /// `--profile`.
    pub profile: Option<String>,
    /// `--engines`.
    pub engines: Option<String>,
    /// More arguments.
    pub more: Vec<String>,
    /// Settings by the names of their variables, such as `VIVA_SERVER_SESSIONS_MAX`.
    pub settings: Vec<(String, String)>,
    /// Pass its log on to our standard error.
    pub log: bool,
}

/// A server that listens on a loopback port of its own. Dropping it kills it.
pub struct ServerProcess {
    child: Child,
    /// Where it listens, as `http://…`.
    pub url: String,
}

impl ServerProcess {
    /// Starts it and waits until it listens.
    pub async fn start(options: &ServerOptions) -> Result<Self> {
        let failed = |why: String| ClientError::Server { why };
        let program = match &options.program {
            Some(program) => program.clone(),
            None => std::env::current_exe().map_err(|error| failed(error.to_string()))?,
        };
        let mut command = Command::new(&program);
        command.args(["serve", "--listen", "127.0.0.1:0"]);
        if let Some(profile) = &options.profile {
            command.args(["--profile", profile]);
        }
        if let Some(engines) = &options.engines {
            command.args(["--engines", engines]);
        }
        command.envs(options.settings.iter().map(|(name, value)| (name, value)));
        command.args(&options.more).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(format!("{}: {error}", program.display())))?;
        let last_lines = Arc::new(Mutex::new(VecDeque::new()));
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(drain(stderr, Arc::clone(&last_lines), options.log));
        }
        let stdout = child.stdout.take().ok_or_else(|| failed("it has no standard output".into()))?;
        let mut lines = BufReader::new(stdout).lines();
        let ready = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some((_, url)) = line.split_once(READY_LINE) {
                    return Some(url.trim().to_owned());
                }
                keep(&last_lines, line);
            }
            None
        };
        let url = match timeout(START_TIMEOUT, ready).await {
            Ok(Some(url)) => url,
            Ok(None) => return Err(failed(ended(&mut child, &last_lines).await)),
            Err(_) => {
                let seconds = START_TIMEOUT.as_secs();
                return Err(failed(format!("not ready after {seconds} s{}", told(&last_lines))));
            }
        };
        // Whatever else it prints must not fill the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { child, url })
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Asks it to end, waits a while, then ends it. Returns whether it ended by itself with success.
    pub async fn stop(mut self) -> bool {
        if let Some(id) = self.child.id() {
            terminate(id);
        }
        match timeout(STOP_TIMEOUT, self.child.wait()).await {
            Ok(status) => status.is_ok_and(|status| status.success()),
            Err(_) => {
                // It had its time; kill() fails only when it is gone already.
                let _ = self.child.kill().await;
                false
            }
        }
    }
}

/// Returns when somebody wants us to end (interrupt or terminate), so that the server we started can be
/// ended, too.
pub async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            },
            // Without a handler the signal ends us in the ordinary way.
            Err(_) => std::future::pending().await,
        }
    }
    #[cfg(not(unix))]
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}

fn terminate(id: u32) {
    let pid = Pid::from_u32(id);
    let mut system = System::new();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, ProcessRefreshKind::nothing());
    if let Some(process) = system.process(pid) {
        process.kill_with(Signal::Term);
    }
}

async fn ended(child: &mut Child, last_lines: &Mutex<VecDeque<String>>) -> String {
    let status = match timeout(Duration::from_secs(2), child.wait()).await {
        Ok(Ok(status)) => status.to_string(),
        _ => "its standard output is closed".into(),
    };
    // Its last words travel through another pipe and another task.
    tokio::time::sleep(Duration::from_millis(100)).await;
    format!("{status}{}", told(last_lines))
}

async fn drain(stderr: impl AsyncRead + Unpin, last_lines: Arc<Mutex<VecDeque<String>>>, log: bool) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if log {
            eprintln!("{line}");
        }
        keep(&last_lines, line);
    }
}

fn keep(last_lines: &Mutex<VecDeque<String>>, line: String) {
    let mut kept = last_lines.lock().expect("no holder of this lock can panic");
    if kept.len() == LINES_KEPT {
        kept.pop_front();
    }
    kept.push_back(line);
}

fn told(last_lines: &Mutex<VecDeque<String>>) -> String {
    let kept = last_lines.lock().expect("no holder of this lock can panic");
    match kept.is_empty() {
        true => String::new(),
        false => format!("; its last words:\n  {}", kept.iter().cloned().collect::<Vec<_>>().join("\n  ")),
    }
}
