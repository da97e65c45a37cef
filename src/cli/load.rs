//! `viva load`: many callers at once, and what they felt.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use crate::client::server::interrupted;
use crate::client::{CallOptions, CallerOptions, Clip, Clips, ServerOptions, ServerProcess, Via, signals};
use crate::edge::webrtc::impair::Impairment;
use crate::lab::html;
use crate::lab::report::{LoadReport, findings_table, latency_table};
use crate::lab::run::{Live, LoadPlan, run as run_load};
use crate::lab::scenario::Scenario;
use crate::lab::score::Score;

/// Human read speech that Debian's package pocketsphinx-testdata brings.
const PACKAGED_CLIPS: &str = "/usr/share/pocketsphinx/test/data/librivox";
/// Callers one process can play honestly; beyond it, run several.
const CALLERS_MAX: u64 = 2_000;
/// Seconds within which callers join, where nobody says otherwise: one cycle of the built-in scenario,
/// so that the callers' turns are spread evenly over it from then on.
const RAMP_UP_S: f64 = 12.0;

/// How callers reach the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    /// WebSocket
    Ws,
    /// WebRTC
    Webrtc,
}

/// What the server that is started runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Engines {
    /// Real weights
    Real,
    /// The test kit's engines with a cost model, to measure the framework itself
    Fake,
    /// Engines at next to no cost beside a real voice-activity detector, to measure what calls cost
    Stub,
}

impl Engines {
    fn name(self) -> &'static str {
        match self {
            Self::Real => "real",
            Self::Fake => "fake",
            Self::Stub => "stub",
        }
    }
}

/// Lets many callers call at once, in real time, and measures what they feel.
#[derive(Debug, clap::Args)]
pub struct LoadArgs {
    /// How many callers
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=CALLERS_MAX))]
    pub callers: u64,
    /// Seconds during which they begin turns
    #[arg(long, default_value_t = 60.0)]
    pub seconds: f64,
    /// How they call
    #[arg(long, value_enum, default_value = "ws")]
    pub transport: Transport,
    /// Make the network bad, with --transport webrtc: loss=SHARE,jitter=MS,delay=MS
    #[arg(long, value_name = "FAULTS")]
    pub impair: Option<Impairment>,
    /// Write the report here, with every turn
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write one self-contained page with plots here
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Engines of the server that is started
    #[arg(long, value_enum, default_value = "real")]
    pub engines: Engines,
    /// Weights of the server that is started
    #[arg(long, default_value = "default")]
    pub profile: String,
    /// A running server; without it one is started as a child process
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// Process id of the server named by --server, to measure its CPU and memory
    #[arg(long, requires = "server")]
    pub server_pid: Option<u32>,
    /// Key for a server that wants one
    #[arg(long, env = "VIVA_API_KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// What callers do: a scenario or a script (TOML or JSON)
    #[arg(long, conflicts_with = "clips")]
    pub scenario: Option<PathBuf>,
    /// Folder of recordings; each is an answer, one every 12 s
    #[arg(long, value_name = "DIR")]
    pub clips: Option<PathBuf>,
    /// Seconds within which callers join [default: 12, at most half of --seconds]
    #[arg(long, value_name = "SECONDS")]
    pub ramp_up: Option<f64>,
    /// Seed of who joins when and says what
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Seconds until an answer must begin
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub timeout: u64,
    /// Pass on the log of the server that is started
    #[arg(long)]
    pub server_log: bool,
}

impl LoadArgs {
    fn via(&self) -> Via {
        match self.transport {
            Transport::Ws => Via::WebSocket,
            Transport::Webrtc => Via::WebRtc(self.impair),
        }
    }
}

/// Runs the load. Fails when no caller got an answer.
pub async fn run(args: LoadArgs) -> anyhow::Result<()> {
    ensure!((1.0..=86_400.0).contains(&args.seconds), "--seconds must lie between 1 and 86400");
    let ramp_up_s = args.ramp_up.unwrap_or_else(|| RAMP_UP_S.min(args.seconds / 2.0));
    ensure!((0.0..=args.seconds).contains(&ramp_up_s), "--ramp-up must lie between 0 and --seconds");
    let (scenario, clips) = scenario(&args)?;
    let own = match &args.server {
        Some(_) => None,
        None => Some(start_server(&args).await?),
    };
    let plan = LoadPlan {
        server: own.as_ref().map(|own| own.url.clone()).or(args.server.clone()).unwrap_or_default(),
        server_pid: own.as_ref().and_then(ServerProcess::id).or(args.server_pid),
        callers: args.callers as usize,
        seconds: args.seconds,
        ramp_up_s,
        seed: args.seed,
        scenario: Arc::new(scenario),
        clips,
        call: CallOptions {
            caller: CallerOptions { key: args.key.clone(), via: args.via(), ..CallerOptions::default() },
            answer_timeout: Duration::from_secs(args.timeout),
            ..CallOptions::default()
        },
    };
    let measured = tokio::select! {
        measured = measure(&args, &plan) => measured,
        () = interrupted() => Err(anyhow::anyhow!("interrupted")),
    };
    if let Some(own) = own {
        own.stop().await;
    }
    measured
}

async fn start_server(args: &LoadArgs) -> anyhow::Result<ServerProcess> {
    let options = match args.engines {
        Engines::Real => ServerOptions { profile: Some(args.profile.clone()), ..ServerOptions::default() },
        Engines::Fake | Engines::Stub => ServerOptions {
            engines: Some(args.engines.name().into()),
            profile: Some(args.profile.clone()),
            ..ServerOptions::default()
        },
    };
    eprintln!("starting a server ({} engines) ...", args.engines.name());
    Ok(ServerProcess::start(&ServerOptions { log: args.server_log, ..options }).await?)
}

/// The scenario asked for, or the built-in one on the best clips at hand.
fn scenario(args: &LoadArgs) -> anyhow::Result<(Scenario, Clips)> {
    if let Some(path) = &args.scenario {
        return Ok(Scenario::load(path)?);
    }
    let packaged = Path::new(PACKAGED_CLIPS);
    let folder = match &args.clips {
        Some(folder) => Some(folder.as_path()),
        None => packaged.is_dir().then_some(packaged),
    };
    match folder {
        Some(folder) => {
            Ok(Scenario::of_clips(&format!("clips of {}", folder.display()), Clip::load_folder(folder)?))
        }
        None => {
            ensure!(
                args.engines != Engines::Real && args.server.is_none(),
                "no recordings to play: name a folder with --clips, a --scenario, or install \
                 pocketsphinx-testdata"
            );
            let clip = signals::speech_like(args.seed, 4.0);
            Ok(Scenario::of_clips("made speech-like sound", vec![clip]))
        }
    }
}

async fn measure(args: &LoadArgs, plan: &LoadPlan) -> anyhow::Result<()> {
    let live = Arc::new(Live::default());
    let showing = tokio::spawn(show(Arc::clone(&live), plan.callers, plan.seconds));
    let load = run_load(plan, &live).await;
    showing.abort();
    let score = Score::new(&load, plan.ramp_up_s);
    println!("{}\n{}", latency_table(&score), findings_table(&score));
    let (engines, profile) = match (&args.server, args.engines) {
        (Some(_), _) => ("unknown", "unknown"),
        (None, Engines::Real) => ("real", args.profile.as_str()),
        (None, engines) => (engines.name(), "none"),
    };
    let report = LoadReport::new(plan, engines, profile, &load, &score);
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&report).context("the report cannot be written as JSON")?;
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &args.html {
        let page = html::page(&report)?;
        std::fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let first_trouble = load.callers.iter().find_map(|caller| caller.broken.clone());
    ensure!(
        score.answered > 0,
        "no caller got an answer: {}",
        first_trouble
            .unwrap_or_else(|| "every call stood, no reply was heard; the server's log says why".into())
    );
    Ok(())
}

/// Draws the progress bar until it is aborted.
async fn show(live: Arc<Live>, callers: usize, seconds: f64) {
    let bar = ProgressBar::new(seconds.ceil() as u64);
    let style = ProgressStyle::with_template("{elapsed} {wide_bar} {msg}")
        .expect("the template is a constant that indicatif accepts");
    bar.set_style(style);
    let begin = tokio::time::Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    loop {
        ticks.tick().await;
        bar.set_position((begin.elapsed().as_secs()).min(seconds.ceil() as u64));
        let [calls, turns, lost] = [&live.calls, &live.turns, &live.lost].map(|n| n.load(Ordering::Relaxed));
        bar.set_message(format!("{calls}/{callers} calls, {turns} turns, {lost} lost"));
    }
}
