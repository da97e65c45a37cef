//! `viva load`: many callers at once, and what they felt.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use super::serve::PolicyChoice;
use crate::client::server::interrupted;
use crate::client::{CallOptions, CallerOptions, Clip, Clips, ServerOptions, ServerProcess, Via};
use crate::edge::webrtc::impair::Impairment;
use crate::lab::page::page;
use crate::lab::ramp::{Capacity, LATE_SHARE, Limits, Point, Search};
use crate::lab::report::{LoadReport, capacity_table, findings_table, latency_table};
use crate::lab::run::{Live, LoadPlan, LoadRun, run as run_load};
use crate::lab::scenario::Scenario;
use crate::lab::score::Score;
use crate::lab::voice::Voice;

/// Callers one process can play honestly; beyond it, run several.
const CALLERS_MAX: u64 = 2_000;
/// Sessions a server can be told to take (see `server.sessions_max`).
const SESSIONS_MAX: u64 = 256;
/// Seconds within which callers join, where nobody says otherwise: one cycle of the built-in scenario,
/// so that the callers' turns are spread evenly over it from then on.
const RAMP_UP_S: f64 = 12.0;
/// Milliseconds p95 may last, where nobody says otherwise: beyond two seconds of silence people ask whether they
/// were heard.
const TARGET_MS: f64 = 2_000.0;
/// The most callers a ramp tries by itself: real engines on this side of a rack, or what a server takes.
const RAMP_MAX_REAL: u64 = 64;

const AFTER_HELP: &str = "\
Examples:
  viva load --engines fake                        what the framework itself does, no weights needed
  viva load --callers 8 --seconds 120 --html r.html
  viva load --scenario interview --transport webrtc --impair loss=0.05,jitter=60
  viva load --ramp --target-ms 2000 --seconds 60  how many callers this machine carries
  viva load --ramp --engines stub --target-ratio 1.5
  viva load --server http://host:8790 --server-pid 4711

Scenarios that come along: short (24 short answers), long (eight with pauses for thought), interview (a bit of
everything people do), interruptions (coughs, \"yeah\", interruptions), bad-network. One of your own is a TOML file:

  name = \"mine\"
  cycle_s = 12.0              # from one script's start to the next one's, ...
  think_ms = [500, 2000]      # ... and at least so long after the answer's end
  [[scripts]]
  steps = [
    { do = \"say\", text = \"I led a team of five, and\" },         # or play, with a file
    { do = \"pause\", ms = 600, ms_max = 1500 },
    { do = \"say\", text = \"um, it went well.\" },
    { do = \"backchannel\", text = \"yeah\", after_ms = 900, chance = 0.5 },
    { do = \"wait\" },                                            # also: cough, barge_in, drop
  ]

Who joins when, says what and pauses for how long follows from --seed alone.";

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

/// Whose voice the candidates' lines of words have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Lines {
    /// Our own voice, kept on disk for the next run
    Piper,
    /// Sound with the rhythm of speech, without words
    Made,
}

/// Lets many callers call at once, in real time, and measures what they feel.
///
/// Each candidate does what a scenario says, over a real connection, in real time. What a person would feel is
/// scored: voice to voice, cut-offs, ignored and false interruptions, dead air, late frames and gaps, errors; and
/// what it cost the server's processes.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct LoadArgs {
    /// How many callers
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=CALLERS_MAX))]
    pub callers: u64,
    /// Seconds during which they begin turns; with --ramp, for each number of callers
    #[arg(long, default_value_t = 60.0)]
    pub seconds: f64,
    /// How they call
    #[arg(long, value_enum, default_value = "ws")]
    pub transport: Transport,
    /// Make the network bad, with --transport webrtc: loss=SHARE,jitter=MS,delay=MS [default: the scenario's]
    #[arg(long, value_name = "FAULTS")]
    pub impair: Option<Impairment>,
    /// What callers do: the name of a scenario that comes along, or a file (TOML or JSON)
    #[arg(long, value_name = "NAME|FILE", default_value = "short", conflicts_with = "clips")]
    pub scenario: PathBuf,
    /// Folder of recordings in place of a scenario; each is an answer, one every 12 s
    #[arg(long, value_name = "DIR")]
    pub clips: Option<PathBuf>,
    /// Whose voice a scenario's lines have [default: piper where the recogniser is real, else made]
    #[arg(long, value_enum)]
    pub lines: Option<Lines>,
    /// Seed of everything that is left to chance
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Seconds within which callers join [default: 12, at most half of --seconds]
    #[arg(long, value_name = "SECONDS")]
    pub ramp_up: Option<f64>,
    /// Find how many callers are carried: doubling their number, then halving the gap
    #[arg(long)]
    pub ramp: bool,
    /// With --ramp: the most p95 of voice to voice may last, milliseconds [default: 2000]
    #[arg(long, value_name = "MS", requires = "ramp", conflicts_with = "target_ratio")]
    pub target_ms: Option<f64>,
    /// With --ramp: p95 may last so many times that of one caller
    #[arg(long, value_name = "TIMES", requires = "ramp")]
    pub target_ratio: Option<f64>,
    /// With --ramp: try no more callers [default: 64 with real engines, else 256]
    #[arg(long, value_name = "CALLERS", requires = "ramp", value_parser = clap::value_parser!(u64).range(1..=CALLERS_MAX))]
    pub ramp_max: Option<u64>,
    /// Engines of the server that is started
    #[arg(long, value_enum, default_value = "real")]
    pub engines: Engines,
    /// In which order the server that is started does its work: the scheduler's, or that of arrival (a baseline)
    #[arg(long, hide = true, value_enum, default_value = "viva")]
    pub policy: PolicyChoice,
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
    /// Seconds until an answer must begin
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub timeout: u64,
    /// Seconds of silence after a caller's last word that count as dead air
    #[arg(long, default_value_t = 3.0)]
    pub dead_air: f64,
    /// Write the report here, with every turn
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write one self-contained page with plots here
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Pass on the log of the server that is started
    #[arg(long)]
    pub server_log: bool,
}

impl LoadArgs {
    fn via(&self, scenario: &Scenario) -> anyhow::Result<Via> {
        let network = match self.impair {
            Some(impair) => Some(impair),
            None => scenario.network().map_err(anyhow::Error::msg)?,
        };
        if self.transport == Transport::Ws && network.is_some() {
            eprintln!("note: a network that loses and delays packets needs --transport webrtc; left out");
        }
        Ok(match self.transport {
            Transport::Ws => Via::WebSocket,
            Transport::Webrtc => Via::WebRtc(network),
        })
    }

    /// The most callers there will be at once.
    fn most(&self) -> u64 {
        let real = self.engines == Engines::Real && self.server.is_none();
        match self.ramp {
            true => self.ramp_max.unwrap_or(if real { RAMP_MAX_REAL } else { SESSIONS_MAX }),
            false => self.callers,
        }
    }

    fn check(&self, ramp_up_s: f64) -> anyhow::Result<()> {
        ensure!((1.0..=86_400.0).contains(&self.seconds), "--seconds must lie between 1 and 86400");
        ensure!((0.0..=self.seconds).contains(&ramp_up_s), "--ramp-up must lie between 0 and --seconds");
        ensure!((0.1..=600.0).contains(&self.dead_air), "--dead-air must lie between 0.1 and 600");
        ensure!(
            self.target_ms.is_none_or(|ms| (1.0..=600_000.0).contains(&ms)),
            "--target-ms must lie between 1 and 600000"
        );
        ensure!(
            self.target_ratio.is_none_or(|times| (1.0..=100.0).contains(&times)),
            "--target-ratio must lie between 1 and 100"
        );
        let own = self.server.is_none();
        ensure!(!own || self.most() <= SESSIONS_MAX, "a server takes at most {SESSIONS_MAX} callers");
        Ok(())
    }

    /// The server's engines and weights, as far as we know.
    fn of_server(&self) -> (String, &str) {
        let order = match self.policy {
            PolicyChoice::Viva => "",
            PolicyChoice::Arrival => ", in the order of arrival",
        };
        match (&self.server, self.engines) {
            (Some(_), _) => ("unknown".into(), "unknown"),
            (None, Engines::Real) => (format!("real{order}"), &self.profile),
            (None, engines) => (format!("{}{order}", engines.name()), "none"),
        }
    }
}

/// Runs the load. Fails when no caller got an answer.
pub async fn run(args: LoadArgs) -> anyhow::Result<()> {
    let ramp_up_s = args.ramp_up.unwrap_or_else(|| RAMP_UP_S.min(args.seconds / 2.0));
    args.check(ramp_up_s)?;
    let (scenario, clips) = scenario(&args).await?;
    let via = args.via(&scenario)?;
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
            caller: CallerOptions { key: args.key.clone(), via, ..CallerOptions::default() },
            answer_timeout: Duration::from_secs(args.timeout),
            dead_air_ms: args.dead_air * 1000.0,
            ..CallOptions::default()
        },
    };
    let measured = tokio::select! {
        measured = measure(&args, plan) => measured,
        () = interrupted() => Err(anyhow::anyhow!("interrupted")),
    };
    if let Some(own) = own {
        own.stop().await;
    }
    measured
}

async fn start_server(args: &LoadArgs) -> anyhow::Result<ServerProcess> {
    let engines = (args.engines != Engines::Real).then(|| args.engines.name().to_owned());
    eprintln!("starting a server ({} engines) ...", args.engines.name());
    const SESSIONS: &str = "VIVA_SERVER_SESSIONS_MAX";
    // Whoever sets it wants to see callers refused.
    let settings = match std::env::var_os(SESSIONS) {
        Some(_) => Vec::new(),
        // A server that refused callers would hide how it carries them.
        None => vec![
            (SESSIONS.to_owned(), args.most().to_string()),
            ("VIVA_SERVER_LATE_MS_MAX".to_owned(), "0".to_owned()),
        ],
    };
    let options = ServerOptions {
        engines,
        profile: Some(args.profile.clone()),
        more: match args.policy {
            PolicyChoice::Viva => Vec::new(),
            PolicyChoice::Arrival => vec!["--policy".to_owned(), "arrival".to_owned()],
        },
        settings,
        log: args.server_log,
        ..ServerOptions::default()
    };
    Ok(ServerProcess::start(&options).await?)
}

/// What callers do, with its lines spoken.
async fn scenario(args: &LoadArgs) -> anyhow::Result<(Scenario, Clips)> {
    if let Some(folder) = &args.clips {
        let clips = Clip::load_folder(folder)?;
        return Ok(Scenario::of_clips(&format!("clips of {}", folder.display()), clips));
    }
    let (scenario, mut clips) = Scenario::load(&args.scenario)?;
    let real = args.engines == Engines::Real || args.server.is_some();
    let lines = args.lines.unwrap_or(if real { Lines::Piper } else { Lines::Made });
    let profile = args.profile.clone();
    // An engine speaks in its own time, which is not the runtime's.
    let speaking = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        let texts = scenario.texts();
        let mut voice = match lines {
            Lines::Made => Voice::Made,
            Lines::Piper if texts.is_empty() => Voice::Made,
            Lines::Piper => Voice::piper(&viva_models::fetch::models_dir(), &profile)?,
        };
        let bar = ProgressBar::new(texts.len() as u64);
        bar.set_style(style("{wide_bar} {pos} of {len} lines"));
        voice.say(&texts, &mut clips, &mut |_| bar.inc(1))?;
        bar.finish_and_clear();
        Ok((scenario, clips))
    });
    speaking.await.context("the candidates' voice ended")?
}

/// A run with its score.
struct Step {
    plan: LoadPlan,
    load: LoadRun,
    score: Score,
}

async fn step(mut plan: LoadPlan, callers: u64) -> Step {
    plan.callers = callers as usize;
    let live = Arc::new(Live::default());
    let showing = tokio::spawn(show(Arc::clone(&live), plan.callers, plan.seconds));
    let load = run_load(&plan, &live).await;
    showing.abort();
    let score = Score::new(&load, plan.ramp_up_s);
    Step { plan, load, score }
}

async fn measure(args: &LoadArgs, plan: LoadPlan) -> anyhow::Result<()> {
    let (step, capacity) = match args.ramp {
        false => (step(plan, args.callers).await, None),
        true => {
            let (step, capacity) = ramp(args, &plan).await?;
            (step, Some(capacity))
        }
    };
    let Step { plan, load, score } = &step;
    println!("{}\n{}", latency_table(score), findings_table(score));
    if let Some(capacity) = &capacity {
        println!("{}\n{}", capacity_table(capacity), capacity.sentence());
    }
    let (engines, profile) = args.of_server();
    let report = LoadReport::new(plan, &engines, profile, load, score, capacity.as_ref());
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&report).context("the report cannot be written as JSON")?;
        write(path, &json)?;
    }
    if let Some(path) = &args.html {
        write(path, &page(&report)?.render())?;
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

/// Searches for the capacity. Gives the run of the most callers that kept the limits, or of one.
async fn ramp(args: &LoadArgs, plan: &LoadPlan) -> anyhow::Result<(Step, Capacity)> {
    let mut limits = Limits { p95_ms: args.target_ms.unwrap_or(TARGET_MS), late_share: LATE_SHARE };
    let mut search = Search::new(args.most());
    let mut points: Vec<Point> = Vec::new();
    let mut best: Option<Step> = None;
    while let Some(callers) = search.next() {
        let tried = step(plan.clone(), callers).await;
        if let (Some(times), true) = (args.target_ratio, points.is_empty()) {
            let alone = tried.score.voice_to_voice_ms.p95;
            ensure!(alone > 0.0, "one caller got no answer, so there is nothing to compare with");
            limits.p95_ms = alone * times;
        }
        let point = tried.score.point(callers, limits);
        let why = point.why.clone().unwrap_or_else(|| "kept".into());
        eprintln!("{callers} callers: p95 {:.0} ms, {why}", point.voice_to_voice_ms.p95);
        search.took(callers, point.passed);
        if best.is_none()
            || (point.passed && best.as_ref().is_some_and(|b| b.plan.callers < tried.plan.callers))
        {
            best = Some(tried);
        }
        points.push(point);
    }
    let best = best.context("a ramp tries at least one caller")?;
    Ok((best, Capacity::new(&search, limits, points)))
}

/// Writes a report.
pub(super) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are constants that indicatif accepts")
}

/// Draws the progress bar until it is aborted.
async fn show(live: Arc<Live>, callers: usize, seconds: f64) {
    let bar = ProgressBar::new(seconds.ceil() as u64);
    bar.set_style(style("{elapsed} {wide_bar} {msg}"));
    let begin = tokio::time::Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    loop {
        ticks.tick().await;
        bar.set_position((begin.elapsed().as_secs()).min(seconds.ceil() as u64));
        let [calls, turns, lost] = [&live.calls, &live.turns, &live.lost].map(|n| n.load(Ordering::Relaxed));
        bar.set_message(format!("{calls}/{callers} calls, {turns} turns, {lost} lost"));
    }
}
