//! What a line over WebRTC adds: in delay, in set-up, and in what calls leave behind.
//!
//! `cargo bench --bench lines -- --out FOLDER`: an echo through the whole edge, calls set up one after another, a
//! thousand calls that come and go in every state. Each measurement is a JSON file. What calls cost in processor
//! and memory is `viva load --transport webrtc --engines stub`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use viva::client::webrtc::{Heard, dial};
use viva::client::{RATE, signals};
use viva::config::WebRtcSection;
use viva::edge::http::{App, serve};
use viva::edge::protocol::Ids;
use viva::edge::protocol::session_object::{Format, Offer as SessionOffer};
use viva::edge::transport::{Frame, Inbound, Transport};
use viva::edge::webrtc::WebRtc;
use viva::edge::webrtc::impair::Impairment;
use viva::edge::webrtc::offer::Offer;
use viva_actors::lateness::Lateness;
use viva_actors::ports::{OUT_FRAME, SessionSpec};
use viva_actors::root::{Limits, Viva};
use viva_actors::testkit::{Costs, engines};
use viva_models::audio::to_i16;

/// Samples of a frame at the client's rate.
const FRAME: usize = RATE as usize / 50;

#[derive(Debug, Parser)]
struct Args {
    /// Folder for the figures
    #[arg(long)]
    out: Option<PathBuf>,
    /// Seconds of echo
    #[arg(long, default_value_t = 20)]
    echo_s: u64,
    /// Only echo, on this address, for a browser (tests/browser/echo.mjs)
    #[arg(long)]
    serve_echo: Option<SocketAddr>,
    /// Calls set up one after another
    #[arg(long, default_value_t = 50)]
    set_ups: usize,
    /// The network they are set up through, as in `viva talk --impair`
    #[arg(long)]
    network: Option<Impairment>,
    /// How many of them at once
    #[arg(long, default_value_t = 1)]
    at_once: usize,
    /// Calls that come and go
    #[arg(long, default_value_t = 1_000)]
    churn: usize,
    /// Cargo says this to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    viva::telemetry::init_log(&viva::config::LogSection { level: "warn".into(), ..Default::default() }).ok();
    if let Some(address) = args.serve_echo {
        let (address, serving) = echoing(address).await?;
        println!("echo at http://{address}/");
        return Ok(serving.await??);
    }
    if args.echo_s > 0 {
        args.keep("echo", &echo(args.echo_s).await?)?;
    }
    args.keep("set-up", &set_up(args.set_ups, args.at_once, args.network).await?)?;
    if args.churn > 0 {
        args.keep("churn", &churn(args.churn).await?)?;
    }
    Ok(())
}

impl Args {
    fn keep(&self, name: &str, figures: &Value) -> anyhow::Result<()> {
        println!("{name}: {}", figures["summary"]);
        let Some(folder) = &self.out else { return Ok(()) };
        std::fs::create_dir_all(folder)?;
        let text = serde_json::to_string_pretty(figures).context("figures are JSON")?;
        std::fs::write(folder.join(format!("{name}.json")), text + "\n").context("figures cannot be written")
    }
}

/// An echo behind the whole edge: what is decoded is encoded again and sent.
async fn echo(seconds: u64) -> anyhow::Result<Value> {
    let (address, serving) = echoing("127.0.0.1:0".parse()?).await?;
    let (mut mouth, mut ears) = dial(&format!("http://{address}"), "", None, None).await?;
    let said = signals::speech_like(1, seconds as f64);
    // The middle of a second of silence is when the line has settled.
    sleep(Duration::from_secs(1)).await;
    let begin = Instant::now();
    let mut sent = Vec::new();
    let mut heard: Vec<(f64, Vec<i16>)> = Vec::new();
    for (i, frame) in said.samples.chunks(FRAME).enumerate() {
        // A frame leaves when its last sample was said.
        let due = begin + Duration::from_millis(20 * (i as u64 + 1));
        loop {
            tokio::select! {
                biased;
                () = sleep_until(due) => break,
                news = ears.next() => if let Heard::Voice(samples) = news {
                    heard.push((begin.elapsed().as_secs_f64() * 1e3, samples));
                },
            }
        }
        sent.push(begin.elapsed().as_secs_f64() * 1e3);
        mouth.frame(Some(frame)).await?;
    }
    serving.abort();
    Ok(delays(&said.samples, &sent, &heard))
}

/// A page with nothing but a voice, and who answers its calls.
async fn echoing(
    address: SocketAddr,
) -> anyhow::Result<(SocketAddr, tokio::task::JoinHandle<std::io::Result<()>>)> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let edge = WebRtc::start(&WebRtcSection::default(), address, Arc::<Lateness>::default(), None)?;
    let page = axum::response::Html("<!doctype html><title>echo</title><audio id=voice autoplay></audio>");
    let router = axum::Router::new()
        .route("/", axum::routing::get(async move || page))
        .route("/v1/realtime/calls", axum::routing::post(answer))
        .with_state(Arc::new(edge));
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });
    Ok((address, serving))
}

async fn answer(
    axum::extract::State(edge): axum::extract::State<Arc<WebRtc>>,
    body: axum::body::Bytes,
) -> Result<(axum::http::StatusCode, String), String> {
    let offer = Offer::check(&body).map_err(|error| error.message)?;
    let (_, answer, transport) = edge.answer(&offer, Box::new(())).await.map_err(|error| error.message)?;
    tokio::spawn(reflect(transport));
    Ok((axum::http::StatusCode::CREATED, answer))
}

async fn reflect(mut transport: impl Transport) {
    let ids = Ids { response_id: String::new(), item_id: String::new(), output_index: 0, content_index: 0 };
    let mut frame = [0; OUT_FRAME];
    loop {
        match transport.receive().await {
            Inbound::Audio(samples) => {
                // Two samples become three, without a filter: its delay would be taken for the edge's.
                for frame20 in samples.chunks_exact(OUT_FRAME * 2 / 3) {
                    for (three, two) in frame.chunks_exact_mut(3).zip(frame20.chunks_exact(2)) {
                        let between = (two[0] + two[1]) / 2.0;
                        three.copy_from_slice(&[two[0], between, two[1]].map(to_i16));
                    }
                    let frame =
                        Frame { event_id: String::new(), ids: &ids, format: Format::PCM, samples: &frame };
                    transport.audio(frame).await.ok();
                }
            }
            Inbound::Lost { .. } | Inbound::Gone { .. } => return transport.close(1000, "").await,
            _ => {}
        }
    }
}

/// What lies between a sample's leaving the mouth and its coming to the ear: the way of a packet, and how far
/// the sound moved inside the packets (codecs and resampler look ahead).
fn delays(said: &[i16], sent: &[f64], heard: &[(f64, Vec<i16>)]) -> Value {
    let echo: Vec<i16> = heard.iter().flat_map(|(_, samples)| samples.iter().copied()).collect();
    let length = said.len().min(echo.len()).saturating_sub(RATE as usize);
    let correlation = |shift: usize| -> f64 {
        let pairs = said.iter().take(length).zip(&echo[shift.min(echo.len())..]);
        pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let shift = (0..FRAME * 3).max_by(|a, b| correlation(*a).total_cmp(&correlation(*b))).unwrap_or_default();
    let moved_ms = shift as f64 * 1e3 / f64::from(RATE);
    let mut ways: Vec<f64> = heard.iter().zip(sent).map(|((came, _), left)| came - left).collect();
    ways.sort_by(f64::total_cmp);
    let at = |share: f64| ways.get((ways.len().saturating_sub(1) as f64 * share) as usize).copied();
    let (p50, p95) = (at(0.5).unwrap_or_default(), at(0.95).unwrap_or_default());
    json!({
        "summary": format!("packet there and back p50 {p50:.1} ms, p95 {p95:.1}; sound moved {moved_ms:.1} ms inside; \
            in all p50 {:.1} ms, p95 {:.1}", p50 + moved_ms, p95 + moved_ms),
        "frames_sent": sent.len(), "frames_heard": heard.len(),
        "way_ms": {"p50": p50, "p95": p95, "max": at(1.0)}, "moved_ms": moved_ms, "ways_ms": ways,
    })
}

struct Server {
    address: SocketAddr,
    app: Arc<App>,
    viva: Viva,
}

async fn server(sessions: usize) -> anyhow::Result<Server> {
    let costs = Costs { asr_ms: 5, turn_ms: 1, prefill_ms: 1, step_ms: 1, tts_ms: 5 };
    let viva = Viva::start(
        engines(costs, "Thank you. What was hard about it?", &Arc::default()),
        Limits { sessions, ..Limits::default() },
    )
    .await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let offer = SessionOffer {
        model: "viva".into(),
        voices: vec!["hum".into()],
        spec: SessionSpec::default(),
        session_s_max: 600,
    };
    let mut app = App::new(viva.clone(), offer, Vec::new(), true);
    let edge = WebRtc::start(&WebRtcSection::default(), address, Arc::clone(viva.lateness()), None)?;
    app.webrtc = Some(Arc::new(edge));
    app.parking = viva::edge::parking::Parking::new(Duration::ZERO);
    let app = Arc::new(app);
    tokio::spawn(serve(listener, Arc::clone(&app), std::future::pending(), Duration::ZERO));
    while !viva.readiness().ready {
        sleep(Duration::from_millis(10)).await;
    }
    Ok(Server { address, app, viva })
}

/// One call set up: POST to answer, to the first packet, to the first event, in milliseconds.
async fn set_up_once(url: &str, network: Option<Impairment>) -> anyhow::Result<[f64; 3]> {
    let (mouth, mut ears) = dial(url, "", None, network).await?;
    let asked = mouth.link().asked;
    // Silence comes at once and is no voice: it is only noted.
    let mut event = None;
    let heard = async {
        while ears.first_packet.is_none() || event.is_none() {
            match timeout(Duration::from_millis(5), ears.next()).await {
                Ok(Heard::Event(_)) => event = event.or(Some(Instant::now())),
                Ok(Heard::Over(why)) => return Err(anyhow::anyhow!(why)),
                _ => {}
            }
        }
        Ok(())
    };
    timeout(Duration::from_secs(20), heard).await??;
    let since = |at: Option<Instant>| at.map_or(0.0, |at| (at - asked).as_secs_f64() * 1e3);
    let times = [mouth.link().answered.as_secs_f64() * 1e3, since(ears.first_packet), since(event)];
    mouth.link().hang_up().await;
    Ok(times)
}

async fn set_up(calls: usize, at_once: usize, network: Option<Impairment>) -> anyhow::Result<Value> {
    let server = server(2 * at_once + 8).await?;
    let url = format!("http://{}", server.address);
    let mut failed = Vec::new();
    let mut times: [Vec<f64>; 3] = Default::default();
    let each = futures_util::stream::iter(0..calls).map(|n| {
        let network = network.map(|bad| Impairment { seed: bad.seed.map(|seed| seed + n as u64), ..bad });
        set_up_once(&url, network)
    });
    let mut each = each.buffer_unordered(at_once.max(1));
    while let Some(done) = each.next().await {
        match done {
            Ok(done) => times.iter_mut().zip(done).for_each(|(all, time)| all.push(time)),
            Err(error) => failed.push(error.to_string()),
        }
    }
    times.iter_mut().for_each(|all| all.sort_by(f64::total_cmp));
    let at = |all: &[f64], share: usize| {
        all.get(all.len() * share / 100).or(all.last()).copied().unwrap_or_default()
    };
    let told = |all: &[f64]| {
        format!("p50 {:.0} ms, p95 {:.0}, at most {:.0}", at(all, 50), at(all, 95), at(all, 100))
    };
    let [answered, first, event] = &times;
    Ok(json!({
        "summary": format!("{} of {calls} failed; POST to answer {}; to the first packet {}; to the first event {}",
            failed.len(), told(answered), told(first), told(event)),
        "answered_ms": answered, "first_packet_ms": first, "first_event_ms": event, "failed": failed,
    }))
}

/// What this process holds: bytes, files, tasks.
fn holds() -> (u64, usize, usize) {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    (pages * 4096, files, tokio::runtime::Handle::current().metrics().num_alive_tasks())
}

async fn churn(calls: usize) -> anyhow::Result<Value> {
    let server = server(32).await?;
    let url = Arc::new(format!("http://{}", server.address));
    let mut rounds = Vec::new();
    // The first round fills what is filled once.
    for round in 0..=calls / 100 {
        let began = Instant::now();
        for batch in 0..10 {
            let many = (0..10).map(|n| come_and_go(Arc::clone(&url), batch * 10 + n));
            futures_util::future::join_all(many).await;
        }
        while server.viva.sessions() > 0 {
            sleep(Duration::from_millis(20)).await;
        }
        sleep(Duration::from_secs(1)).await;
        let (bytes, files, tasks) = holds();
        let (peers, addresses) = server.app.webrtc.as_ref().map_or((0, 0), |edge| edge.known());
        rounds.push(json!({"calls": (round + 1) * 100, "seconds": began.elapsed().as_secs_f64(), "bytes": bytes,
            "files": files, "tasks": tasks, "peers": peers, "addresses": addresses, "calls_known": server.app.webrtc_calls.len()}));
    }
    let (first, last) = (&rounds[0], &rounds[rounds.len() - 1]);
    let more =
        |what: &str| last[what].as_i64().unwrap_or_default() - first[what].as_i64().unwrap_or_default();
    Ok(json!({
        "summary": format!("after the first 100, {} calls left {} KiB, {} files, {} tasks, {} peers", calls,
            more("bytes") / 1024, more("files"), more("tasks"), last["peers"]),
        "rounds": rounds,
    }))
}

/// A call, left in one of the states it may be in.
async fn come_and_go(url: Arc<String>, n: usize) {
    let Ok((mut mouth, mut ears)) = dial(&url, "", None, None).await else { return };
    match n % 5 {
        0 => {}
        1 => sleep(Duration::from_millis(50)).await,
        2 => drop(mouth.event(r#"{"type":"response.create"}"#).await),
        _ => {
            for _ in 0..15 {
                timeout(Duration::from_millis(20), ears.next()).await.ok();
                mouth.frame(Some(&[3000; FRAME])).await.ok();
            }
        }
    }
    match n % 2 {
        0 => mouth.link().hang_up().await,
        // A page that is closed.
        _ => mouth.link().leave().await,
    }
}
