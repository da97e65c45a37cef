//! The machine that was measured on, and what each of the server's processes used.

use std::collections::BTreeMap;
use std::process::Command;

use serde::Serialize;
use sysinfo::{MemoryRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate, System, UpdateKind};
use viva::lab::processes::{ProcessTree, Usage};

/// What a reader must know to compare figures.
#[derive(Debug, Serialize)]
pub struct Machine {
    pub date: String,
    pub cores: usize,
    pub cpu: String,
    pub memory_mib: u64,
    pub os: String,
    pub kernel: String,
    pub rustc: String,
    /// The commit checked out, with "and changes" if files differed from it.
    pub commit: String,
    pub version: &'static str,
}

impl Machine {
    /// This one.
    pub fn describe() -> Self {
        let mut system = System::new();
        system.refresh_cpu_all();
        system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        let unknown = || "unknown".to_owned();
        let changed = said("git", &["status", "--porcelain", "--untracked-files=no"]).is_some();
        let commit = said("git", &["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(unknown);
        Self {
            date: time::OffsetDateTime::now_utc().date().to_string(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: system.cpus().first().map_or_else(unknown, |cpu| cpu.brand().trim().to_owned()),
            memory_mib: system.total_memory() / (1024 * 1024),
            os: System::long_os_version().unwrap_or_else(unknown),
            kernel: System::kernel_version().unwrap_or_else(unknown),
            rustc: said("rustc", &["--version"]).unwrap_or_else(unknown),
            commit: if changed { format!("{commit} and changes") } else { commit },
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// What a program prints, if it succeeds and prints anything.
fn said(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// The one-minute load average.
pub fn load() -> f64 {
    System::load_average().one
}

/// CPU seconds of the server's processes by their names, while we watched.
pub type Engines = BTreeMap<String, f64>;

/// Watches the server's tree as a whole and each of its processes. An engine that was restarted counts only
/// from its last start on; the whole counts everything.
pub struct Watching {
    whole: Option<ProcessTree>,
    parts: Vec<Part>,
}

struct Part {
    name: String,
    pid: Pid,
    cpu_s_before: f64,
}

impl Watching {
    /// Of this process and its children; none when the server's process is not ours to see.
    pub fn new(pid: Option<u32>) -> Self {
        let whole = pid.map(ProcessTree::new);
        let parts = pid.map(|pid| family(Pid::from_u32(pid))).unwrap_or_default();
        Self { whole, parts }
    }

    /// All of it now.
    pub fn usage(&mut self) -> Option<Usage> {
        self.whole.as_mut().map(ProcessTree::usage)
    }

    /// What each has used since [`Watching::new`].
    pub fn engines(&self) -> Engines {
        let now = processes();
        let used = |part: &Part| {
            let cpu_s = now.process(part.pid).map_or(0.0, cpu_s) - part.cpu_s_before;
            (part.name.clone(), cpu_s.max(0.0))
        };
        self.parts.iter().map(used).collect()
    }
}

fn processes() -> System {
    let mut system = System::new();
    let kind = ProcessRefreshKind::nothing().with_cpu().with_exe(UpdateKind::Always).without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::All, true, kind);
    system
}

fn cpu_s(process: &sysinfo::Process) -> f64 {
    process.accumulated_cpu_time() as f64 / 1000.0
}

/// The program's name; the kernel's own is cut at 15 bytes, in the middle of "viva-engine-llama".
fn name(process: &sysinfo::Process) -> String {
    let program = process.exe().and_then(|exe| exe.file_name()).unwrap_or(process.name());
    program.to_string_lossy().trim_end_matches(" (deleted)").to_owned()
}

/// The server and its engines, which are its direct children.
fn family(root: Pid) -> Vec<Part> {
    let system = processes();
    let of_it = |process: &&sysinfo::Process| process.pid() == root || process.parent() == Some(root);
    let part = |process: &sysinfo::Process| Part {
        name: name(process),
        pid: process.pid(),
        cpu_s_before: cpu_s(process),
    };
    system.processes().values().filter(of_it).map(part).collect()
}
