//! Each engine opened and timed with one thread, two, four and so on, alone on the machine. What is heard is what our
//! own voice says, so that nothing but the weights is needed.

use std::time::Instant;

use anyhow::{Context, ensure};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};
use viva_models::audio::{LISTEN_RATE, Resampler};
use viva_models::registry::{self, AsrSpec, CACHE_TOKENS_DEFAULT_MAX, LlmSpec, Opened, TtsSpec};
use viva_models::{
    Asr, AsrJob, Cancel, Llm, Message, Prompt, Role, Sampling, SeqId, StepEvent, StepPlan, Style, Tts,
    TtsJob, VAD_WINDOW, VadJob, VadState,
};

use super::{Calibration, Threads, Tried, choose, hardware};
use crate::config::Config;
use crate::engines::Chosen;
use crate::lab::sim::machine::{Jobs, Line, Llm as LlmCost, Machine, Session, Unit};

/// Repeats of a measure; the median counts.
const REPEATS: usize = 5;

/// What the voice says: a short line, a clause, a long one.
const LINES: [&str; 3] = [
    "Yes, so.",
    "What did you learn from that one?",
    "Thank you for telling me that, and now I would like to hear how your team decided what to do first.",
];

/// Prompt tokens of a measured step, about.
const PROMPT_WORDS: usize = 110;

/// Tokens made while a step's cost is measured.
const TOKENS: u32 = 24;

/// Sequences that are moved together.
const TOGETHER: [u32; 3] = [1, 4, 8];

/// Measures everything. `told` is called with what comes next, so many times: [`steps`].
pub fn measure(config: &Config, told: &mut dyn FnMut(&str)) -> anyhow::Result<Calibration> {
    let chosen = Chosen::of(config)?;
    let cores = chosen.cores.total.max(1);
    let options: Vec<u32> =
        std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|n| *n <= cores).collect();
    let mut tried = Vec::new();

    let mut clips = Vec::new();
    let tts = of_each(&options, "tts", &mut tried, told, |threads| {
        let spec = tts_with(&chosen.tts, threads);
        voice(registry::open_tts(&spec)?, &mut clips)
    })?;
    let heard: Vec<f32> = clips.concat();
    ensure!(heard.len() > 3 * LISTEN_RATE as usize, "the voice said next to nothing");
    let asr = of_each(&options, "asr", &mut tried, told, |threads| {
        recogniser(registry::open_asr(&asr_with(&chosen.asr, threads))?, &heard)
    })?;
    let llm = of_each(&options, "llm", &mut tried, told, |threads| {
        writer(registry::open_llm(&llm_with(&chosen.llm, threads, threads))?)
    })?;
    let decode: Vec<Tried> = llm
        .iter()
        .map(|(threads, w)| Tried { what: "llm_decode".into(), threads: *threads, ..w.decode[0].clone() })
        .collect();
    tried.extend(decode.iter().cloned());
    let threads_of =
        |what: &str| choose(&tried.iter().filter(|t| t.what == what).cloned().collect::<Vec<_>>());
    let threads = Threads {
        asr: threads_of("asr"),
        llm: threads_of("llm"),
        llm_decode: threads_of("llm_decode"),
        tts: threads_of("tts"),
    };
    told("the detectors");
    let (vad, turn) = detectors(&chosen, &heard)?;
    let about = format!("{}, profile {}", hardware(), config.models.profile);
    let pick = |n: u32| move |(t, _): &&(u32, _)| *t == n;
    let at = |n: u32, all: &[(u32, Measured)]| all.iter().find(|(t, _)| *t == n).map(|(_, m)| m.clone());
    let asr_at = at(threads.asr, &asr).context("the recogniser was measured with these threads")?;
    let tts_at = at(threads.tts, &tts).context("the voice was measured with these threads")?;
    let llm_at = llm.iter().find(pick(threads.llm)).map(|(_, m)| m).context("the model was measured so")?;
    let source = || "viva calibrate, median of 5, the machine otherwise idle".to_owned();
    let jobs = |engine: &str, tokens: u32, batch_max: usize, measured: &Measured| Jobs {
        engine: engine.to_owned(),
        on: Unit::Cpu,
        tokens,
        width: measured.width().clamp(0.1, f64::from(cores)),
        processes: 1,
        batch_max,
        call_ms: Line::default(),
        job_ms: measured.line(),
        source: source(),
    };
    let machine = Machine {
        name: "this".into(),
        about: about.clone(),
        forecast: false,
        cpu_cores: f64::from(cores),
        tokens: cores,
        // What this machine's own sessions cost is measured by `viva load`; this is what two cores of a server took.
        session: Session {
            cpu: 0.035,
            vad_tail_ms: 64.0,
            line_ms: 10.0,
            source: "as presets/machines/cpu2.toml; viva load measures it".into(),
        },
        vad: Jobs { call_ms: vad.line(), job_ms: Line::default(), ..jobs("Silero", 0, 64, &vad) },
        turn: jobs("smart-turn", 0, 64, &turn),
        asr: jobs(&asr_at.name, threads.asr, 1, &asr_at),
        tts: jobs(&tts_at.name, threads.tts, 1, &tts_at),
        llm: LlmCost {
            engine: llm_at.name.clone(),
            on: Unit::Cpu,
            tokens: threads.llm,
            decode_tokens: threads.llm_decode,
            width: llm_at.prefill.width(),
            decode_width: (llm_at.decode[0].cpu_ms / llm_at.decode[0].wall_ms).clamp(0.1, f64::from(cores)),
            sequences: 252,
            cache_tokens: u64::from(CACHE_TOKENS_DEFAULT_MAX),
            decode_ms: llm_at.decode_line(),
            prefill_ms: llm_at.prefill.line(),
            context_us: 300.0,
            reply_tokens: (8, 24),
            source: source(),
        },
    };
    Ok(Calibration { about, threads, tried, machine })
}

/// How often `told` is called on a machine with so many cores.
pub fn steps(cores: u32) -> u64 {
    u64::from(3 * (cores.max(1).ilog2() + 1) + 1)
}

/// What was measured of an engine: by size of the work, and its name.
#[derive(Debug, Clone, Default)]
struct Measured {
    name: String,
    /// Size, wall milliseconds, processor milliseconds.
    points: Vec<(f64, f64, f64)>,
}

impl Measured {
    fn line(&self) -> Line {
        let mut line: Vec<(f64, f64)> = Vec::new();
        for (size, wall, _) in &self.points {
            // Noise may make the larger piece the quicker one; a line rises.
            let least = line.last().map_or(0.0, |last| last.1);
            line.push((*size, wall.max(least)));
        }
        Line(line)
    }

    /// Cores it keeps busy.
    fn width(&self) -> f64 {
        let (wall, cpu) = self.points.iter().fold((0.0, 0.0), |(w, c), p| (w + p.1, c + p.2));
        if wall > 0.0 { (cpu / wall).max(0.1) } else { 1.0 }
    }

    /// The piece that the choice of threads goes by: the middle one.
    fn typical(&self) -> (f64, f64) {
        self.points.get(self.points.len() / 2).map_or((0.0, 0.0), |p| (p.1, p.2))
    }
}

/// What can be said of how long its work takes.
trait Timed {
    fn typical(&self) -> (f64, f64);
}

impl Timed for Measured {
    fn typical(&self) -> (f64, f64) {
        Measured::typical(self)
    }
}

impl Timed for Written {
    fn typical(&self) -> (f64, f64) {
        self.prefill.typical()
    }
}

/// Measures with each number of threads.
fn of_each<M: Timed>(
    options: &[u32],
    what: &str,
    tried: &mut Vec<Tried>,
    told: &mut dyn FnMut(&str),
    mut one: impl FnMut(u32) -> anyhow::Result<M>,
) -> anyhow::Result<Vec<(u32, M)>> {
    let mut all = Vec::new();
    for &threads in options {
        told(&format!("{what} on {threads} thread{}", if threads == 1 { "" } else { "s" }));
        let measured = one(threads).with_context(|| format!("{what} could not be measured"))?;
        let (wall_ms, cpu_ms) = measured.typical();
        tried.push(Tried { what: what.to_owned(), threads, wall_ms, cpu_ms });
        all.push((threads, measured));
    }
    Ok(all)
}

/// Median wall time and the processor time of the engine's process (ours where it has none), milliseconds.
fn timed(pid: Option<u32>, mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<(f64, f64)> {
    // What the first call sets up is no part of the others.
    work()?;
    let before = cpu_ms(pid);
    let mut walls = Vec::with_capacity(REPEATS);
    for _ in 0..REPEATS {
        let began = Instant::now();
        work()?;
        walls.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let cpu = (cpu_ms(pid) - before) / REPEATS as f64;
    walls.sort_by(f64::total_cmp);
    Ok((walls[REPEATS / 2], cpu))
}

fn cpu_ms(pid: Option<u32>) -> f64 {
    let pid = Pid::from_u32(pid.unwrap_or_else(std::process::id));
    let mut system = System::new();
    let kind = ProcessRefreshKind::nothing().with_cpu().without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, kind);
    system.process(pid).map_or(0.0, |process| process.accumulated_cpu_time() as f64)
}

fn voice(opened: Opened<dyn Tts>, clips: &mut Vec<Vec<f32>>) -> anyhow::Result<Measured> {
    let Opened { mut engine, pid } = opened;
    let mut measured = Measured { name: engine.name().to_owned(), ..Measured::default() };
    clips.clear();
    for line in LINES {
        let mut samples = Vec::new();
        let (wall, cpu) = timed(pid, || {
            samples.clear();
            let job = TtsJob { text: line.into(), style: Style::default(), language: None };
            engine.speak(&job, &Cancel::new(), &mut |part| samples.extend_from_slice(part))?;
            Ok(())
        })?;
        let (mut resampler, mut heard) = (Resampler::new(engine.sample_rate(), LISTEN_RATE)?, Vec::new());
        resampler.process(&samples, &mut heard);
        resampler.flush(&mut heard);
        clips.push(heard);
        measured.points.push((line.len() as f64, wall, cpu));
    }
    Ok(measured)
}

fn recogniser(opened: Opened<dyn Asr>, heard: &[f32]) -> anyhow::Result<Measured> {
    let Opened { mut engine, pid } = opened;
    let mut measured = Measured { name: engine.name().to_owned(), ..Measured::default() };
    // A short answer, a pause's worth and a long stretch: recognition costs by its window.
    for seconds in [3, 8, 16] {
        let samples: Vec<f32> = heard.iter().copied().cycle().take(seconds * LISTEN_RATE as usize).collect();
        let job = AsrJob { samples, language: Some("en".into()), ..AsrJob::default() };
        let (wall, cpu) = timed(pid, || {
            engine.transcribe(&job, &Cancel::new())?;
            Ok(())
        })?;
        measured.points.push((seconds as f64, wall, cpu));
    }
    Ok(measured)
}

/// What was measured of a language model.
struct Written {
    name: String,
    prefill: Measured,
    /// By the number of sequences in [`TOGETHER`].
    decode: Vec<Tried>,
}

impl Written {
    fn decode_line(&self) -> Line {
        let points = TOGETHER.iter().zip(&self.decode).map(|(n, t)| (f64::from(*n), t.wall_ms, t.cpu_ms));
        Measured { name: String::new(), points: points.collect() }.line()
    }
}

fn writer(opened: Opened<dyn Llm>) -> anyhow::Result<Written> {
    let Opened { mut engine, pid } = opened;
    let mut prefill = Measured::default();
    let mut round = 0;
    // Never the same words twice: what is in the cache costs nothing.
    let mut prompt = || {
        round += 1;
        let words =
            (0..PROMPT_WORDS).map(|i| format!("{} ", (i * 7 + round * 131) % 997)).collect::<String>();
        let message = |role, content: String| Message { role, content };
        Prompt {
            messages: vec![message(Role::User, format!("Round {round}: {words}. Tell me a story."))],
            unfinished: false,
        }
    };
    let sampling = Sampling { max_tokens: 4 * TOKENS, ..Sampling::default() };
    for tokens in [32u32, 128] {
        let mut walls = Vec::new();
        let before = cpu_ms(pid);
        for _ in 0..REPEATS {
            engine.begin(SeqId(0), &prompt(), &sampling)?;
            let began = Instant::now();
            engine.step(&StepPlan { prefill: vec![(SeqId(0), tokens)], decode: vec![] })?;
            walls.push(began.elapsed().as_secs_f64() * 1e3);
        }
        walls.sort_by(f64::total_cmp);
        let cpu = (cpu_ms(pid) - before) / REPEATS as f64;
        prefill.points.push((f64::from(tokens), walls[REPEATS / 2], cpu));
    }
    let mut decode = Vec::new();
    for together in TOGETHER {
        let seqs: Vec<SeqId> = (0..together.min(engine.info().sequences)).map(SeqId).collect();
        for &seq in &seqs {
            let begun = engine.begin(seq, &prompt(), &sampling)?;
            let left = begun.prompt_tokens - begun.reused_tokens;
            engine.step(&StepPlan { prefill: vec![(seq, left)], decode: vec![] })?;
        }
        let mut walls = Vec::new();
        let mut going = seqs.clone();
        let before = cpu_ms(pid);
        for _ in 0..TOKENS {
            if going.len() < seqs.len() {
                break;
            }
            let began = Instant::now();
            let events = engine.step(&StepPlan { prefill: vec![], decode: going.clone() })?;
            walls.push(began.elapsed().as_secs_f64() * 1e3);
            for event in events {
                if let StepEvent::Done { seq, .. } | StepEvent::Failed { seq, .. } = event {
                    going.retain(|s| *s != seq);
                }
            }
        }
        let cpu = (cpu_ms(pid) - before) / walls.len().max(1) as f64;
        walls.sort_by(f64::total_cmp);
        let wall_ms = walls.get(walls.len() / 2).copied().unwrap_or_default();
        decode.push(Tried { what: "llm_decode".into(), threads: 0, wall_ms, cpu_ms: cpu });
        for seq in seqs {
            engine.close(seq)?;
        }
    }
    Ok(Written { name: engine.info().model, prefill, decode })
}

fn detectors(chosen: &Chosen, heard: &[f32]) -> anyhow::Result<(Measured, Measured)> {
    let mut vad = registry::open_vad(&chosen.vad)?.engine;
    let mut windows = Measured { name: vad.name().to_owned(), ..Measured::default() };
    let samples: Box<[f32; VAD_WINDOW]> = heard[..VAD_WINDOW]
        .to_vec()
        .into_boxed_slice()
        .try_into()
        .ok()
        .context("a window has as many samples as it has")?;
    for size in [1usize, 8, 64] {
        let mut batch: Vec<VadJob> =
            (0..size).map(|_| VadJob { state: VadState::default(), window: samples.clone() }).collect();
        let mut probabilities = Vec::new();
        let (wall, cpu) = timed(None, || {
            // Processor time is counted in hundredths of a second: one window is far less.
            for _ in 0..20 {
                vad.detect(&mut batch, &mut probabilities)?;
            }
            Ok(())
        })?;
        windows.points.push((size as f64, wall / 20.0, cpu / 20.0));
    }
    let mut turn = registry::open_turn(&chosen.turn)?.engine;
    let last: std::sync::Arc<[f32]> = heard.iter().copied().take(8 * LISTEN_RATE as usize).collect();
    let (wall, cpu) = timed(None, || {
        turn.score(std::slice::from_ref(&last))?;
        Ok(())
    })?;
    let decisions = Measured { name: turn.name().to_owned(), points: vec![(1.0, wall, cpu)] };
    Ok((windows, decisions))
}

fn asr_with(spec: &AsrSpec, threads: u32) -> AsrSpec {
    let mut spec = spec.clone();
    if let AsrSpec::Whisper(whisper) = &mut spec {
        whisper.threads = threads as usize;
    }
    spec
}

fn tts_with(spec: &TtsSpec, threads: u32) -> TtsSpec {
    let mut spec = spec.clone();
    if let TtsSpec::Piper(piper) = &mut spec {
        piper.threads = threads as usize;
    }
    spec
}

fn llm_with(spec: &LlmSpec, threads: u32, decode: u32) -> LlmSpec {
    let mut spec = spec.clone();
    if let LlmSpec::Llama(llama) = &mut spec {
        (llama.threads, llama.decode_threads) = (threads as usize, decode as usize);
    }
    spec
}

/// Whether an engine of this configuration is somebody else's computer: it is not measured here.
pub fn is_remote(config: &Config) -> bool {
    let engines = &config.engines;
    matches!(engines.asr, Some(AsrSpec::Openai(_)))
        || matches!(engines.llm, Some(LlmSpec::Openai(_)))
        || matches!(engines.tts, Some(TtsSpec::Openai(_)))
}
