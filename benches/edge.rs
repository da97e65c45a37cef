//! What the edge adds: an append of 20 ms from text to the session's lane, and a transcription over HTTP beside what the
//! engine itself takes for it.
//!
//! `cargo bench --bench edge`, or with `append` or `transcription` at its end for one of them. The second needs the
//! weights and engines of the `test` profile (`viva models pull --profile test`), and a machine without other work.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use criterion::{Criterion, Throughput};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use viva::config::{Config, ModelsSection};
use viva::edge::http::{App, serve};
use viva::edge::intake::Intake;
use viva::edge::protocol::session_object::{Format, FormatKind, Offer};
use viva::edge::protocol::{ClientEvent, parse};
use viva::engines::Chosen;
use viva_actors::lane::Lane;
use viva_actors::ports::{MIC_LANE, SessionSpec};
use viva_actors::root::{Limits, Viva};
use viva_models::audio::{G711, G711_RATE, SPEAK_RATE, decode_file, g711_encode};

/// A candidate's answer of some seconds.
const ANSWER: &str = "tests/data/answers/finance-excel.opus";

/// Seconds of the recording that is transcribed.
const RECORDING_S: usize = 60;

/// Transcriptions that are timed, after one that warms everything up.
const TIMES: usize = 5;

/// Real speech at this rate.
fn speech(rate: u32) -> Vec<f32> {
    let answer = decode_file(ANSWER.as_ref(), 30).expect("the answers lie in the repository");
    answer.resampled(rate).expect("the rates used here are all accepted")
}

fn pcm(samples: &[f32]) -> Vec<u8> {
    samples.iter().flat_map(|s| ((s * 32_767.0) as i16).to_le_bytes()).collect()
}

/// JSON, base64, format and resampling: everything between a socket's text and the session's lane.
fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("append, 20 ms");
    group.throughput(Throughput::Elements(1));
    let mut narrow = Vec::new();
    g711_encode(G711::MuLaw, &speech(G711_RATE), &mut narrow);
    let formats = [
        ("pcm", Format::PCM, pcm(&speech(SPEAK_RATE)), SPEAK_RATE as usize / 50 * 2),
        ("pcmu", Format { kind: FormatKind::Pcmu, rate: None }, narrow, G711_RATE as usize / 50),
    ];
    for (name, format, audio, bytes) in formats {
        let events: Vec<String> = audio
            .chunks_exact(bytes)
            .map(|frame| {
                let audio = STANDARD.encode(frame);
                format!(r#"{{"event_id":"event_1","type":"input_audio_buffer.append","audio":"{audio}"}}"#)
            })
            .collect();
        let mut events = events.iter().cycle();
        let mic: Lane<Box<[f32]>> = Lane::new(MIC_LANE);
        mic.attach(Box::new(|| ()));
        let mut intake = Intake::new(mic.clone());
        intake.set_format(format);
        group.bench_function(name, |b| {
            b.iter(|| {
                let Some(Ok(ClientEvent::Append(audio))) = events.next().map(|text| parse(text).event) else {
                    return;
                };
                black_box(intake.append(&audio).is_ok());
                mic.answer();
                while mic.pop().is_some() {}
            });
        });
    }
    group.finish();
}

/// A server on the engines of the `test` profile.
async fn server(metrics: &PrometheusHandle) -> anyhow::Result<SocketAddr> {
    let config = Config {
        models: ModelsSection { profile: "test".into(), ..Default::default() },
        ..Config::default()
    };
    let engines = Chosen::of(&config)?.engines();
    let viva = Viva::start(engines, Limits::default()).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (spec, voices) = (SessionSpec::default(), vec!["v".into()]);
    let offer = Offer { model: "viva".into(), voices, spec, session_s_max: 600 };
    let mut app = App::new(viva.clone(), offer, Vec::new(), true);
    app.metrics = Some(metrics.clone());
    tokio::spawn(serve(listener, Arc::new(app), std::future::pending(), Duration::ZERO));
    while !viva.readiness().ready {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(address)
}

/// Milliseconds the recogniser has computed so far, as the server's own metrics tell.
fn computed_ms(metrics: &PrometheusHandle) -> f64 {
    metrics.run_upkeep();
    let text = metrics.render();
    let sums =
        text.lines().filter(|line| line.starts_with("viva_engine_compute_ms_sum") && line.contains("asr"));
    sums.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// One transcription over HTTP; how long it took, milliseconds.
fn transcribe(address: SocketAddr, wav: &[u8]) -> anyhow::Result<f64> {
    const EDGE: &str = "viva-edge-of-parts";
    let mut body = format!(
        "--{EDGE}\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--{EDGE}\r\n\
         Content-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n"
    )
    .into_bytes();
    body.extend_from_slice(wav);
    body.extend_from_slice(format!("\r\n--{EDGE}--\r\n").as_bytes());
    let began = Instant::now();
    let mut answer = ureq::post(format!("http://{address}/v1/audio/transcriptions"))
        .header("Content-Type", format!("multipart/form-data; boundary={EDGE}"))
        .send(&body[..])?;
    let text = answer.body_mut().read_to_string()?;
    anyhow::ensure!(text.contains("\"text\""), "{text}");
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

/// 60 s of speech through HTTP, and what of that the engine computed.
fn transcription() -> anyhow::Result<()> {
    let metrics = viva::telemetry::init_metrics()?;
    let runtime = Runtime::new()?;
    let address = runtime.block_on(server(&metrics))?;
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: SPEAK_RATE,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut file = std::io::Cursor::new(Vec::new());
    let mut wav = hound::WavWriter::new(&mut file, spec)?;
    let samples = speech(SPEAK_RATE);
    for sample in samples.iter().cycle().take(RECORDING_S * SPEAK_RATE as usize) {
        wav.write_sample((sample * 32_767.0) as i16)?;
    }
    wav.finalize()?;
    let wav = file.into_inner();
    transcribe(address, &wav)?;
    for n in 1..=TIMES {
        let before = computed_ms(&metrics);
        let whole = transcribe(address, &wav)?;
        let engine = computed_ms(&metrics) - before;
        let over = (whole / engine - 1.0) * 100.0;
        println!(
            "transcription of {RECORDING_S} s, {n}: {whole:.0} ms over HTTP, {engine:.0} ms in the engine, {over:.1} % more"
        );
    }
    Ok(())
}

fn main() {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let wants = |name: &str| wanted.as_deref().is_none_or(|wanted| name.contains(wanted));
    if wants("append") {
        append(&mut Criterion::default());
    }
    if wants("transcription")
        && let Err(error) = transcription()
    {
        eprintln!("left out: the transcription: {error:#}");
    }
}
