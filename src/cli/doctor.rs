//! `viva doctor`: would `viva serve` work here, and if not, what to do.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::Instant;

use clap::Args;
use comfy_table::{Table, presets};
use serde::Serialize;
use sysinfo::System;
use viva_models::audio::{LISTEN_RATE, Resampler, SPEAK_RATE};
use viva_models::enhance::Limiter;
use viva_models::registry::{self, OnnxSpec, VadSpec, find_binary};
use viva_models::{AsrJob, Cancel, EngineError, Style, TtsJob, VAD_WINDOW, VadJob, VadState};

use super::serve::ServeArgs;
use crate::config::Config;
use crate::engines::Chosen;

/// Memory the default profile takes with a few sessions: about 1.1 GB were seen, and the page cache wants
/// the weights once more.
const MEMORY_GB_MIN: f64 = 2.0;

/// Cores below which a caller waits for us.
const CORES_MIN: usize = 2;

/// Check this machine for `viva serve`.
#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    serve: ServeArgs,
    /// Print one JSON object a finding
    #[arg(long)]
    json: bool,
}

/// How good a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// Serve starts, but callers may notice.
    Warn,
    /// Serve would not start.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    found: String,
    /// What to do about it; empty when nothing is to be done.
    advice: String,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: found.into(), advice: String::new() }
    }

    fn warn(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warn, found: found.into(), advice: advice.into() }
    }

    fn fail(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Fail, found: found.into(), advice: advice.into() }
    }
}

/// Looks at everything, prints it, and says whether serve would start.
pub fn run(args: DoctorArgs) -> anyhow::Result<bool> {
    let findings = match args.serve.load() {
        Ok(config) => examine(&config),
        Err(error) => {
            vec![Finding::fail("configuration", error.to_string(), "correct it and run doctor again")]
        }
    };
    if args.json {
        for finding in &findings {
            println!("{}", serde_json::to_string(finding)?);
        }
    } else {
        print_table(&findings);
    }
    Ok(findings.iter().all(|f| f.verdict != Verdict::Fail))
}

fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = vec![Finding::ok("configuration", "read and checked")];
    match Chosen::of(config) {
        Ok(chosen) => {
            let found = format!("profile {} in {}", config.models.profile, config.models_dir().display());
            findings.push(Finding::ok("weights", found));
            findings.extend(chosen.programs().into_iter().map(program));
            findings.push(onnx_runtime(&chosen.vad));
            findings.extend(started(&chosen));
            findings.push(processes(&chosen));
        }
        Err(error) => {
            let profile = &config.models.profile;
            let advice = format!("run: viva models pull --profile {profile}");
            findings.push(Finding::fail("weights", error.to_string(), advice));
            findings.extend(["whisper", "llama", "piper"].map(program));
        }
    }
    findings.push(port(config));
    findings.push(audio_path());
    findings.push(cores());
    findings.push(memory());
    findings
}

/// How many processes the engines have that work on one piece at a time, and whether there are cores for them.
fn processes(chosen: &Chosen) -> Finding {
    const CHECK: &str = "processes";
    let (order, cores) = (chosen.order, chosen.cores);
    let found = format!("{} of the recogniser, {} of the voice", order.asr_processes, order.tts_processes);
    let wanted = (order.asr_processes * cores.asr).max(order.tts_processes * cores.tts);
    if wanted <= cores.total || order == viva_actors::gpu::Order::default() {
        return Finding::ok(CHECK, found);
    }
    let advice = format!(
        "they want {wanted} cores at once, and there are {}: some only hold memory; lower machine.asr_processes or \
         machine.tts_processes",
        cores.total
    );
    Finding::warn(CHECK, found, advice)
}

fn program(name: &'static str) -> Finding {
    match find_binary(name) {
        Ok(path) => Finding::ok("engine", path.display().to_string()),
        Err(error) => Finding::fail(
            "engine",
            error.to_string(),
            format!("run: cargo build --release -p viva-engine-{name}, or name its folder in VIVA_ENGINES"),
        ),
    }
}

/// Opens every engine as `serve` would, one after the other, and gives it the least it can do.
fn started(chosen: &Chosen) -> Vec<Finding> {
    let work = Cancel::new();
    let hears = || {
        let mut asr = registry::open_asr(&chosen.asr)?.engine;
        let second = vec![0.0; LISTEN_RATE as usize];
        asr.transcribe(&AsrJob { samples: second, ..AsrJob::default() }, &work)?;
        Ok(asr.name().to_owned())
    };
    let scores = || {
        let mut turn = registry::open_turn(&chosen.turn)?.engine;
        turn.score(&[vec![0.0; LISTEN_RATE as usize].into()])?;
        Ok(turn.name().to_owned())
    };
    let writes = || Ok(registry::open_llm(&chosen.llm)?.engine.info().model);
    let speaks = || {
        let mut tts = registry::open_tts(&chosen.tts)?.engine;
        let mut samples = 0;
        let job = TtsJob { text: "Yes.".into(), style: Style::default(), language: None };
        tts.speak(&job, &work, &mut |chunk| samples += chunk.len())?;
        match samples {
            0 => Err(EngineError::Failed("it says nothing".into())),
            _ => Ok(tts.name().to_owned()),
        }
    };
    vec![
        opened("turn detector", scores),
        opened("recogniser", hears),
        opened("language model", writes),
        opened("voice", speaks),
    ]
}

fn opened(check: &'static str, open: impl FnOnce() -> Result<String, EngineError>) -> Finding {
    let began = Instant::now();
    match open() {
        Ok(name) => Finding::ok(check, format!("{name} works, {:.1} s", began.elapsed().as_secs_f64())),
        Err(error) => Finding::fail(
            check,
            error.to_string(),
            "run: viva models verify; if all is well there, build the engines again with: make engines",
        ),
    }
}

/// Opens the smallest engine that runs on it and lets it hear a window of silence.
fn onnx_runtime(vad: &VadSpec) -> Finding {
    const CHECK: &str = "onnx runtime";
    let VadSpec::Silero(OnnxSpec { runtime, .. }) = vad;
    let heard = registry::open_vad(vad).and_then(|mut opened| {
        let window = Box::new([0.0; VAD_WINDOW]);
        let mut probabilities = Vec::new();
        opened.engine.detect(&mut [VadJob { state: VadState::default(), window }], &mut probabilities)?;
        Ok(probabilities)
    });
    match heard {
        Ok(p) if p.first().is_some_and(|p| *p < 0.5) => {
            Finding::ok(CHECK, format!("{} runs Silero", runtime.display()))
        }
        Ok(p) => Finding::fail(
            CHECK,
            format!("Silero takes silence for speech ({p:?})"),
            "the library or the weights are damaged; run: viva models verify",
        ),
        Err(error) => {
            Finding::fail(CHECK, error.to_string(), "run: viva models verify, then viva models pull")
        }
    }
}

fn port(config: &Config) -> Finding {
    let address = config.server.listen;
    match TcpListener::bind(address) {
        Ok(_) if address.ip().is_loopback() => Finding::ok("port", format!("{address} is free")),
        Ok(_) => Finding::warn(
            "port",
            format!("{address} is free, and reachable from other machines"),
            "browsers give the microphone only to https pages: put a proxy with TLS in front",
        ),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Finding::fail(
            "port",
            format!("{address} is in use"),
            format!("end what uses it, or start with --listen {}:0", address.ip()),
        ),
        Err(error) => Finding::fail("port", format!("{address}: {error}"), "choose another with --listen"),
    }
}

/// A tone goes in at the caller's rate, is heard at ours, comes back and passes the limiter: it must be as
/// loud as it was, and what is too loud must not be.
fn audio_path() -> Finding {
    const CHECK: &str = "audio path";
    match audio_round_trip() {
        Ok(deviation_db) => {
            Finding::ok(CHECK, format!("24 → 16 → 24 kHz within {deviation_db:.2} dB, limiter holds"))
        }
        Err(what) => Finding::fail(CHECK, what, "this build is broken; build it again with make"),
    }
}

fn audio_round_trip() -> Result<f64, String> {
    const TONE_HZ: f64 = 440.0;
    const LEVEL: f64 = 0.5;
    const CEILING: f32 = 0.89;
    let second: Vec<f32> = (0..SPEAK_RATE)
        .map(|i| {
            let phase = std::f64::consts::TAU * TONE_HZ * f64::from(i) / f64::from(SPEAK_RATE);
            (LEVEL * phase.sin()) as f32
        })
        .collect();
    let convert = |samples: &[f32], from: u32, to: u32| -> Result<Vec<f32>, String> {
        let mut out = Vec::new();
        let mut resampler = Resampler::new(from, to).map_err(|e| e.to_string())?;
        resampler.process(samples, &mut out);
        resampler.flush(&mut out);
        Ok(out)
    };
    let back = convert(&convert(&second, SPEAK_RATE, LISTEN_RATE)?, LISTEN_RATE, SPEAK_RATE)?;
    // The middle half, away from the edges of the stream.
    let middle = back.get(back.len() / 4..back.len() * 3 / 4).filter(|m| !m.is_empty());
    let middle = middle.ok_or("the resampler lost the tone")?;
    let power = middle.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>() / middle.len() as f64;
    let deviation_db = (10.0 * (power / (LEVEL * LEVEL / 2.0)).log10()).abs();
    if deviation_db.is_nan() || deviation_db > 0.5 {
        return Err(format!("the resampler changes the level by {deviation_db:.2} dB"));
    }
    let mut limiter = Limiter::new(SPEAK_RATE, CEILING);
    let loudest = second.iter().filter_map(|s| limiter.process(s * 4.0)).fold(0.0f32, |m, s| m.max(s.abs()));
    if loudest > CEILING + 1e-3 {
        return Err(format!("the limiter lets {loudest:.3} through at a ceiling of {CEILING}"));
    }
    Ok(deviation_db)
}

fn cores() -> Finding {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    if cores >= CORES_MIN {
        return Finding::ok("cores", format!("{cores}"));
    }
    Finding::warn("cores", format!("{cores}"), "answers will be late; two cores are the least for one caller")
}

fn memory() -> Finding {
    let mut system = System::new();
    system.refresh_memory();
    let free = system.cgroup_limits().map_or(system.available_memory(), |limits| {
        system.available_memory().min(limits.total_memory.saturating_sub(limits.rss))
    });
    let gb = free as f64 / 1e9;
    if gb >= MEMORY_GB_MIN {
        return Finding::ok("memory", format!("{gb:.1} GB available"));
    }
    Finding::warn(
        "memory",
        format!("{gb:.1} GB available"),
        format!("the default profile wants {MEMORY_GB_MIN} GB; free some, or start with --profile test"),
    )
}

fn print_table(findings: &[Finding]) {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(["", "check", "found", "what to do"]);
    table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
    for f in findings {
        let mark = match f.verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        table.add_row([mark, f.check, &f.found, &f.advice]);
    }
    println!("{table}");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_audio_path_of_a_good_build_is_good() {
        assert!(audio_round_trip().unwrap() < 0.1);
    }

    #[test]
    fn a_port_in_use_and_missing_weights_stop_serve_and_say_what_to_do() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.server.listen = taken.local_addr().unwrap();
        config.models.dir = folder.path().display().to_string();
        let findings = examine(&config);
        for (check, advice) in [("port", "--listen"), ("weights", "viva models pull")] {
            let finding = findings.iter().find(|f| f.check == check).unwrap();
            assert_eq!(finding.verdict, Verdict::Fail);
            assert!(finding.advice.contains(advice), "{finding:?}");
        }
    }
}
