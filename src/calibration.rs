//! What the engines cost on this machine, measured: how many threads each is worth, and a machine file for
//! `viva sim`. Kept beside the weights' folder, one file a hardware and weights; `viva calibrate` writes it, `viva serve`
//! reads it.

mod measure;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sysinfo::{CpuRefreshKind, RefreshKind, System};
use viva_models::host::WIRE_VERSION;

use crate::config::Config;
use crate::lab::sim::machine::{Jobs, Machine};

pub use measure::{is_remote, measure, steps};

/// What was measured on one machine with one set of weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// What was measured on what, for people.
    pub about: String,
    /// How many threads each engine is worth.
    pub threads: Threads,
    /// How each number of threads did: what the choice stands on.
    pub tried: Vec<Tried>,
    /// The same machine for `viva sim --machine FILE`.
    pub machine: Machine,
}

/// How many threads each engine is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Threads {
    /// A recognition.
    pub asr: u32,
    /// A step of the language model over a prompt, or over many sequences.
    pub llm: u32,
    /// A step of the language model that makes one token.
    pub llm_decode: u32,
    /// A clause.
    pub tts: u32,
}

/// One number of threads, tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tried {
    /// `asr`, `llm`, `llm_decode`, `tts`.
    pub what: String,
    /// Threads.
    pub threads: u32,
    /// Median time of one piece of work, milliseconds.
    pub wall_ms: f64,
    /// Processor time of it, milliseconds.
    pub cpu_ms: f64,
}

/// How much quicker twice the threads must be to be worth their cores: a core that gains little here is a core that
/// serves nobody else. At 1.25, decoding took both cores of two for a fifth less time, and six callers waited 2.2 s
/// in place of 0.8 (`benches/runs/2026-11-24-calibration`).
const WORTH: f64 = 1.5;

/// The fewest threads of which more would not be worth it. The tries come in rising numbers of threads.
pub fn choose(tried: &[Tried]) -> u32 {
    let mut chosen = match tried.first() {
        Some(first) => first,
        None => return 1,
    };
    for next in &tried[1..] {
        if chosen.wall_ms / next.wall_ms < WORTH {
            break;
        }
        chosen = next;
    }
    chosen.threads
}

/// Seconds from one turn to the next in an interview.
const CYCLE_S: f64 = 12.0;

/// Milliseconds of a window of the speech detector.
const WINDOW_MS: f64 = 32.0;

/// What an ordinary turn asks of the engines.
struct Turn {
    recognitions: f64,
    seconds: f64,
    decisions: f64,
    clauses: f64,
    letters: f64,
    prompt: f64,
    tokens: f64,
}

/// As in the simulator with the scenario `short` (benches/runs/2026-11-24-sim: 270 recognitions, 398 decisions and 213
/// clauses in some 120 turns), and 45 tokens of prompt to 16 of a reply.
const TURN: Turn = Turn {
    recognitions: 2.2,
    seconds: 5.0,
    decisions: 3.3,
    clauses: 1.8,
    letters: 35.0,
    prompt: 45.0,
    tokens: 16.0,
};

impl Calibration {
    /// Cores that a session is going to take of the scheduler, before any was served: what an ordinary turn asks of
    /// these engines, every [`CYCLE_S`].
    pub fn session_cores(&self) -> f64 {
        let Machine { vad, turn, asr, tts, llm, .. } = &self.machine;
        let job = |jobs: &Jobs, size: f64| {
            (jobs.call_ms.at(1.0) + jobs.job_ms.at(size)) * f64::from(jobs.tokens.max(1))
        };
        let written = llm.decode_ms.at(1.0) * f64::from(llm.decode_tokens.max(1)) * TURN.tokens;
        let read = llm.prefill_ms.at(TURN.prompt) * f64::from(llm.tokens);
        let turn_ms = TURN.recognitions * job(asr, TURN.seconds)
            + TURN.decisions * job(turn, 1.0)
            + TURN.clauses * job(tts, TURN.letters)
            + written
            + read;
        turn_ms / (CYCLE_S * 1e3) + job(vad, 1.0) / WINDOW_MS
    }

    /// The file for this machine and configuration.
    pub fn path(config: &Config) -> PathBuf {
        let folder = config.models_dir();
        let folder = folder.parent().map_or_else(|| folder.clone(), Path::to_path_buf).join("calibration");
        folder.join(format!("{}.toml", key(config)))
    }

    /// What was measured here before; nothing where nothing was, or the hardware, the weights or the engines have
    /// changed since.
    pub fn known(config: &Config) -> Option<Self> {
        let path = Self::path(config);
        let text = std::fs::read_to_string(&path).ok()?;
        match toml::from_str(&text) {
            Ok(calibration) => Some(calibration),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a calibration cannot be read; run: viva calibrate");
                None
            }
        }
    }

    /// Writes it where [`known`](Self::known) finds it: whole or not at all.
    pub fn keep(&self, config: &Config) -> anyhow::Result<PathBuf> {
        use anyhow::Context as _;
        let path = Self::path(config);
        let folder = path.parent().context("the file has a folder")?;
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let text = toml::to_string(self).context("a calibration is always a table")?;
        let new = path.with_extension(format!("{}.part", std::process::id()));
        std::fs::write(&new, text).with_context(|| format!("cannot write {}", new.display()))?;
        std::fs::rename(&new, &path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

/// The processor's own name, and how many cores of it are ours.
pub fn hardware() -> String {
    let system = System::new_with_specifics(RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()));
    let brand = system.cpus().first().map_or("a processor", |cpu| cpu.brand()).trim().to_owned();
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    format!("{cores} × {brand}")
}

/// Names hardware, weights and engines: what a measurement holds for.
fn key(config: &Config) -> String {
    let mut hash = Sha256::new();
    hash.update(hardware());
    hash.update(WIRE_VERSION.to_le_bytes());
    hash.update(&config.models.profile);
    hash.update(toml::to_string(&config.engines).unwrap_or_default());
    hash.update(config.machine.cores.to_le_bytes());
    hash.update(WORTH.to_le_bytes());
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tries(walls: &[(u32, f64)]) -> Vec<Tried> {
        let one =
            |&(threads, wall_ms): &(u32, f64)| Tried { what: "asr".into(), threads, wall_ms, cpu_ms: 1.0 };
        walls.iter().map(one).collect()
    }

    #[test]
    fn more_threads_are_taken_while_they_are_worth_their_cores() {
        assert_eq!(choose(&tries(&[(1, 200.0), (2, 110.0), (4, 60.0), (8, 55.0)])), 4);
        assert_eq!(
            choose(&tries(&[(1, 84.0), (2, 80.0), (4, 20.0)])),
            1,
            "what gains nothing is not gone past"
        );
        assert_eq!(
            choose(&tries(&[(1, 7.2), (2, 5.7)])),
            1,
            "a fifth less time is not worth twice the cores"
        );
        assert_eq!(choose(&tries(&[(1, 12.0), (2, 21.0)])), 1);
        assert_eq!(choose(&[]), 1);
    }

    #[test]
    fn a_session_is_known_to_cost_something_before_one_was_served() {
        let machine = Machine::load(Path::new("cpu2")).expect("it comes with Viva");
        let threads = Threads { asr: 2, llm: 2, llm_decode: 1, tts: 1 };
        let known = Calibration { about: String::new(), threads, tried: Vec::new(), machine };
        let cores = known.session_cores();
        // Two cores carried twelve such sessions in the simulator, with 85 in a hundred of them in use.
        assert!((0.09..0.2).contains(&cores), "{cores}");
    }

    #[test]
    fn another_machine_or_other_weights_are_measured_anew() {
        let mut config = Config::default();
        let here = Calibration::path(&config);
        assert_eq!(here, Calibration::path(&config));
        config.models.profile = "test".into();
        assert_ne!(here, Calibration::path(&config));
        config.models.profile = Config::default().models.profile;
        config.machine.cores = 7;
        assert_ne!(here, Calibration::path(&config));
    }
}
