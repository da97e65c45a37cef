//! What the small parts cost that run for every session all the time: sound, VAD, turn decision, scheduling,
//! lanes.
//!
//! `cargo bench --bench engine_room`, or with a name's part at its end for some of it. Weights are found as Viva
//! finds them; where one is missing its measure is left out with a word. The large engines run as in a server, in
//! processes of their own; `viva calibrate` measures them by threads.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use viva::config::{Config, ModelsSection};
use viva::engines::Chosen;
use viva_actors::gpu::load::{Meter, Part};
use viva_actors::gpu::policy::{Candidate, PrefillBudget, SeqView, grant, plan_step};
use viva_actors::lane::Lane;
use viva_actors::turn::{Input, TurnConfig, TurnMachine};
use viva_actors::types::MediaTime;
use viva_models::audio::{LISTEN_RATE, Resampler, SPEAK_RATE, decode_file};
use viva_models::enhance::{Limiter, RnNoise, RnNoise16, Voice};
use viva_models::fetch::models_dir;
use viva_models::registry::{Opened, open_asr, open_llm, open_tts};
use viva_models::turn::SmartTurn;
use viva_models::vad::Silero;
use viva_models::{
    AsrJob, Cancel, Denoiser, Llm, Message, Prompt, Role, Sampling, SeqId, StepEvent, StepPlan, Style,
    TtsJob, TurnDetector, VAD_WINDOW, Vad, VadJob, VadState,
};

/// Five seconds of a candidate, seen from the package, where cargo starts benchmarks.
const ANSWER: &str = "tests/data/answers/finance-excel.opus";
/// Sessions that want a step of the language model at once: the largest batch the scheduler is meant for.
const SEQUENCES: u32 = 64;

/// Real speech at this rate: what silence costs would flatter every measure.
fn speech(rate: u32) -> Vec<f32> {
    let answer = decode_file(ANSWER.as_ref(), 30).expect("the answers lie in the repository");
    answer.resampled(rate).expect("the rates used here are all accepted")
}

/// Hands out one chunk of `samples` after another, forever.
fn chunks(samples: &[f32], length: usize) -> impl Iterator<Item = &[f32]> {
    samples.chunks_exact(length).cycle()
}

fn weights(file: &str) -> Option<PathBuf> {
    let path = models_dir().join(file);
    if !path.is_file() {
        eprintln!("left out: {file} is missing; run: viva models pull");
        return None;
    }
    Some(path)
}

fn resampler(c: &mut Criterion) {
    let mut group = c.benchmark_group("resampler, 20 ms");
    // Browser to ears, WebSocket to ears, Piper to the exit chain.
    for (from, to) in [(48_000, LISTEN_RATE), (SPEAK_RATE, LISTEN_RATE), (22_050, SPEAK_RATE)] {
        let samples = speech(from);
        let mut chunks = chunks(&samples, from as usize / 50);
        let mut resampler = Resampler::new(from, to).expect("these rates are accepted");
        let mut out = Vec::with_capacity(to as usize);
        group.bench_function(format!("{from} to {to}"), |b| {
            b.iter(|| {
                out.clear();
                resampler.process(chunks.next().unwrap_or_default(), &mut out);
                black_box(out.len())
            });
        });
    }
}

fn exit_chain(c: &mut Criterion) {
    let mut group = c.benchmark_group("exit, 20 ms");
    let samples = speech(SPEAK_RATE);
    let mut out = Vec::with_capacity(SPEAK_RATE as usize);
    let mut pieces = chunks(&samples, SPEAK_RATE as usize / 50);
    // Turned up by 12 dB, so that the limiter has work.
    let mut voice = Voice::new(SPEAK_RATE, 4.0);
    group.bench_function("voice chain", |b| {
        b.iter(|| {
            out.clear();
            voice.process(pieces.next().unwrap_or_default(), &mut out);
            black_box(out.len())
        });
    });
    let mut limiter = Limiter::new(SPEAK_RATE, 0.25);
    group.bench_function("limiter alone", |b| {
        b.iter(|| {
            let piece = pieces.next().unwrap_or_default();
            black_box(piece.iter().filter_map(|&sample| limiter.process(sample)).sum::<f32>())
        });
    });
}

fn denoiser(c: &mut Criterion) {
    let mut group = c.benchmark_group("RNNoise, 10 ms");
    let engines: [(&str, Box<dyn Denoiser>); 2] =
        [("at 48 kHz", Box::new(RnNoise::new())), ("at 16 kHz, resampled", Box::new(RnNoise16::new()))];
    for (name, mut engine) in engines {
        let samples = speech(engine.sample_rate());
        let mut frames = chunks(&samples, engine.frame());
        let mut frame = vec![0.0; engine.frame()];
        group.bench_function(name, |b| {
            b.iter(|| {
                frame.copy_from_slice(frames.next().unwrap_or_default());
                engine.process(&mut frame);
                black_box(frame[0])
            });
        });
    }
}

fn vad(c: &mut Criterion) {
    let (Some(model), Some(runtime)) = (weights("vad/silero_vad.onnx"), weights("ort/libonnxruntime.so"))
    else {
        return;
    };
    let mut silero = Silero::open(&model, &runtime).expect("weights that lie there open");
    let samples = speech(LISTEN_RATE);
    let windows: Vec<[f32; VAD_WINDOW]> =
        samples.chunks_exact(VAD_WINDOW).filter_map(|w| w.try_into().ok()).collect();
    let mut group = c.benchmark_group("Silero, one window (32 ms) of each");
    for sessions in [1, 8, 64] {
        let job =
            |i: usize| VadJob { state: VadState::default(), window: Box::new(windows[i % windows.len()]) };
        let mut batch: Vec<VadJob> = (0..sessions).map(job).collect();
        let mut probabilities = Vec::with_capacity(sessions);
        group.throughput(Throughput::Elements(sessions as u64));
        group.bench_function(BenchmarkId::from_parameter(sessions), |b| {
            b.iter(|| silero.detect(&mut batch, &mut probabilities).expect("Silero takes any window"));
        });
    }
}

fn turn(c: &mut Criterion) {
    let mut group = c.benchmark_group("end of turn");
    // From speech to a committed reply: two pauses, the first of them a thought.
    let ms = MediaTime::from_ms;
    let script = [
        (100, Input::SpeechStarted { at: ms(50) }),
        (2_160, Input::SpeechPaused { at: ms(2_000) }),
        (2_250, Input::Scored { pause: 1, probability: Some(0.2) }),
        (2_400, Input::Heard { pause: 1, text: "I think the hardest part was".into(), confidence: 0.9 }),
        (2_900, Input::SpeechStarted { at: ms(2_850) }),
        (5_160, Input::SpeechPaused { at: ms(5_000) }),
        (5_250, Input::Scored { pause: 2, probability: Some(0.95) }),
        (5_400, Input::Heard { pause: 2, text: "keeping both copies in sync.".into(), confidence: 0.9 }),
        (5_700, Input::Tick),
    ];
    group.bench_function("turn machine, a turn of nine inputs", |b| {
        b.iter_batched_ref(
            || TurnMachine::new(TurnConfig::default()),
            |machine| script.iter().map(|(at, input)| machine.handle(input, ms(*at)).len()).sum::<usize>(),
            BatchSize::SmallInput,
        );
    });
    let (Some(model), Some(runtime)) =
        (weights("turn/smart-turn-v3.2-cpu.onnx"), weights("ort/libonnxruntime.so"))
    else {
        return;
    };
    let mut detector = SmartTurn::open(&model, &runtime, 1).expect("weights that lie there open");
    let heard: Arc<[f32]> = speech(LISTEN_RATE).into();
    group.sample_size(10); // 0.1 s each
    for callers in [1, 4] {
        let all = vec![Arc::clone(&heard); callers];
        group.throughput(Throughput::Elements(callers as u64));
        group.bench_function(BenchmarkId::new("smart-turn, one thread", callers), |b| {
            b.iter(|| detector.score(&all).expect("smart-turn takes any speech"));
        });
    }
}

/// What more at once costs the engines that are processes: only the language model gains.
fn large_engines(c: &mut Criterion) {
    let config = Config {
        models: ModelsSection { profile: "test".into(), ..Default::default() },
        ..Config::default()
    };
    let Ok(chosen) = Chosen::of(&config) else {
        eprintln!("left out: the weights of profile test; run: viva models pull --profile test");
        return;
    };
    let mut group = c.benchmark_group("profile test");
    group.sample_size(10);
    let job = AsrJob { samples: speech(LISTEN_RATE), language: Some("en".into()), ..AsrJob::default() };
    match open_asr(&chosen.asr) {
        Ok(Opened { mut engine, .. }) => {
            group.bench_function("whisper, an answer", |b| {
                b.iter(|| engine.transcribe(&job, &Cancel::new()).expect("it hears any speech"));
            });
        }
        Err(error) => return eprintln!("left out: {error}; VIVA_ENGINES names the engines' folder"),
    }
    if let Ok(Opened { mut engine, .. }) = open_tts(&chosen.tts) {
        for text in ["Thank you.", "What did you learn from that one?"] {
            let job = TtsJob { text: text.into(), style: Style::default(), language: None };
            group.bench_function(BenchmarkId::new("piper, letters", text.len()), |b| {
                b.iter(|| engine.speak(&job, &Cancel::new(), &mut |_| ()).expect("it speaks any text"));
            });
        }
    }
    if let Ok(Opened { mut engine, .. }) = open_llm(&chosen.llm) {
        for together in [1, 4, 8] {
            group.throughput(Throughput::Elements(u64::from(together)));
            group.bench_function(BenchmarkId::new("llama, a token of each", together), |b| {
                b.iter_custom(|rounds| tokens(engine.as_mut(), together, rounds));
            });
        }
    }
}

/// How long so many steps take in which each of these sequences gets a token. They begin anew where one has ended.
fn tokens(engine: &mut dyn Llm, together: u32, rounds: u64) -> Duration {
    let (mut spent, mut done) = (Duration::ZERO, 0);
    let seqs: Vec<SeqId> = (0..together).map(SeqId).collect();
    while done < rounds {
        for &seq in &seqs {
            let content = format!("Tell me a long story about number {done} and {}.", seq.0);
            let prompt = Prompt { messages: vec![Message { role: Role::User, content }], unfinished: false };
            let begun = engine.begin(seq, &prompt, &Sampling::default()).expect("the prompt is short");
            let left = begun.prompt_tokens - begun.reused_tokens;
            engine.step(&StepPlan { prefill: vec![(seq, left)], decode: vec![] }).expect("it reads");
        }
        for _ in 0..16 {
            let began = std::time::Instant::now();
            let plan = StepPlan { prefill: vec![], decode: seqs.clone() };
            let events = engine.step(&plan).expect("it writes");
            spent += began.elapsed();
            done += 1;
            let ended =
                |event: &StepEvent| matches!(event, StepEvent::Done { .. } | StepEvent::Failed { .. });
            if done >= rounds || events.iter().any(ended) {
                break;
            }
        }
        for &seq in &seqs {
            engine.close(seq).expect("it is open");
        }
    }
    spent
}

fn policy(c: &mut Criterion) {
    let mut group = c.benchmark_group("scheduler");
    let links = [2, 2, 1, 1, 0, 1];
    let candidates = links.iter().enumerate().map(|(link, &cores)| Candidate {
        link,
        deadline_us: (link as u64 * 7_919) % 6_000,
        cost_us: 1_000 * link as u64,
        speculative: link % 3 == 2,
        cores,
    });
    let candidates: Vec<Candidate> = candidates.collect();
    group.bench_function("grant, nothing fits", |b| {
        let mut all = candidates.clone();
        all.retain(|c| c.cores > 0);
        b.iter(|| black_box(grant(&mut all, 0, 2).len()));
    });
    let mut meter = Meter::new(2);
    let mut now = 0;
    group.bench_function("meter, a call's end", |b| {
        b.iter(|| {
            now += 1_000;
            meter.worked(now, 900, 1, Part::Tts, true);
            meter.finished(black_box(3.0));
        });
    });
    group.bench_function("grant, 6 engines with work", |b| {
        b.iter_batched_ref(|| candidates.clone(), |all| grant(all, 2, 2), BatchSize::SmallInput);
    });
    // Every fourth brings a prompt, every fifth may be for nothing.
    let view = |seq: u32| SeqView {
        seq: SeqId(seq),
        left: if seq.is_multiple_of(4) { 150 } else { 0 },
        deadline_us: (u64::from(seq) * 7_919) % 50_000,
        speculative: seq.is_multiple_of(5),
        suspect: false,
    };
    let budget = PrefillBudget::by_cost(4_000);
    let sequences: Vec<SeqView> = (0..SEQUENCES).map(view).collect();
    group.bench_function("plan_step, 64 sequences", |b| {
        b.iter_batched_ref(|| sequences.clone(), |all| plan_step(all, budget), BatchSize::SmallInput);
    });
}

fn lane(c: &mut Criterion) {
    let mut group = c.benchmark_group("lane");
    let lane: Lane<u64> = Lane::new(64);
    lane.attach(Box::new(|| ()));
    group.bench_function("push, answer, pop", |b| {
        b.iter(|| {
            lane.push(black_box(7)).expect("it was emptied in the round before");
            lane.answer();
            black_box(lane.pop())
        });
    });
    let full: Lane<u64> = Lane::new(64);
    group.bench_function("push into a full one, dropping the oldest", |b| {
        b.iter(|| full.push_latest(black_box(7)));
    });
}

/// Two seconds each are plenty for parts that take microseconds; the whole then takes under a minute.
fn brief() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2))
}

criterion_group! {
    name = engine_room;
    config = brief();
    targets = resampler, exit_chain, denoiser, vad, turn, policy, lane, large_engines
}
criterion_main!(engine_room);
