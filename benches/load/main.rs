//! Voice to voice, one caller, in real time: how long a person waits for Viva's first word, how often Viva
//! speaks before they are done, and what a turn costs.
//!
//! ```text
//! cargo bench --bench load                                  # both profiles, short and long answers, each once
//! cargo bench --bench load -- --profile test --scenario short --turns 54
//! ```
//!
//! It starts `viva serve` as anyone would, plays the answers of `tests/data/answers` and writes a folder with
//! the raw figures of every turn and a summary. The lab ([`viva::lab`]) does the measuring; here stands only
//! what a repeatable record needs: the order, the settings, the machine. Let the machine be idle.

mod machine;
mod prometheus;
mod record;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use tokio::time::Instant;
use viva::client::server::interrupted;
use viva::client::{Call, CallOptions, CallReport, Clips, Script, ServerOptions, ServerProcess};
use viva::lab::run::{CallerRun, LoadRun, Watch};
use viva::lab::scenario::Scenario;
use viva::lab::score::Score;

use machine::{Engines, Machine};
use prometheus::Metrics;

/// Where the answers lie, seen from the package, where cargo starts benchmarks.
const ANSWERS: &str = "tests/data/answers";
/// Processor time is compared at replies of at most so many tokens.
const REPLY_TOKENS: i64 = 32;
/// Rest between the end of a reply and the next answer, milliseconds: people take 0.2 s in small talk and up
/// to a second before an answer they must think about.
const REST_MS: std::ops::RangeInclusive<u64> = 400..=1_200;
/// How long the whole of one call may last, a turn: the longest answer (60 s), the longest wait (30 s) and a
/// reply, twice over.
const TURN_TIME_MAX: Duration = Duration::from_secs(240);

#[derive(Debug, Parser)]
#[command(name = "cargo bench --bench load --", about = "Measures voice to voice with one caller")]
struct Args {
    /// Weights; several are measured one after another
    #[arg(long, value_delimiter = ',', default_value = "test,default")]
    profile: Vec<String>,
    /// `short`, `long`, or a scenario's file
    #[arg(long, value_delimiter = ',', default_value = "short,long")]
    scenario: Vec<String>,
    /// Turns of each; without it every answer is given once
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    turns: Option<u32>,
    /// Turns of one call; then the caller hangs up and calls again
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100))]
    turns_per_call: u32,
    /// Turns in a call of their own before the count begins
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=100))]
    warm_up: u32,
    /// Tokens of one reply
    #[arg(long, default_value_t = REPLY_TOKENS)]
    max_tokens: i64,
    /// Settings of the server (TOML), beside the reply's length
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Seed of the order and of the rests
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A running server in place of one of our own; --profile then only names it
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// That server's process, to measure what it costs
    #[arg(long, requires = "server")]
    server_pid: Option<u32>,
    /// Folder for the record [default: benches/runs/DATE-WHAT]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// What is special about this run, for the default folder's name and the summary
    #[arg(long, default_value = "voice-to-voice")]
    what: String,
    /// Pass on the server's log
    #[arg(long)]
    server_log: bool,
    /// cargo bench says so; without it (as under cargo test) nothing is measured
    #[arg(long, hide = true)]
    bench: bool,
}

/// One profile with one scenario, measured.
#[derive(Debug, Serialize)]
struct Measured {
    profile: String,
    scenario: String,
    /// One-minute load of the machine before it began; above 0.3 or so somebody else was at work.
    load_before: f64,
    warm_up_turns: u32,
    score: Score,
    engines: Engines,
    /// What `/metrics` gained meanwhile.
    metrics: Metrics,
    run: LoadRun,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if !args.bench {
        println!("nothing measured: this takes real time; run it with cargo bench --bench load");
        return Ok(());
    }
    tokio::select! {
        done = run(&args) => done,
        () = interrupted() => anyhow::bail!("interrupted; nothing was written"),
    }
}

async fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(args.server.is_none() || args.profile.len() == 1, "with --server name its one --profile");
    let mut scenarios = Vec::new();
    for name in &args.scenario {
        let path = match name.as_str() {
            "short" | "long" => Path::new(ANSWERS).join(format!("{name}.toml")),
            _ => PathBuf::from(name),
        };
        let label = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("scenario").to_owned();
        scenarios.push((label, Scenario::load(&path)?));
    }
    let machine = Machine::describe();
    let config = config(args)?;
    let file = tempfile::NamedTempFile::new().context("no room for the server's settings")?;
    std::fs::write(file.path(), &config).context("the server's settings cannot be written")?;
    let mut all = Vec::new();
    for profile in &args.profile {
        let own = match args.server {
            Some(_) => None,
            None => Some(start(args, profile, file.path()).await?),
        };
        let url = own.as_ref().map(|own| own.url.clone()).or(args.server.clone()).unwrap_or_default();
        let pid = own.as_ref().and_then(ServerProcess::id).or(args.server_pid);
        for (label, (scenario, clips)) in &scenarios {
            eprintln!("{profile}, {label}:");
            let target = Target { args, url: &url, pid, clips };
            all.push(target.measure(profile, label, scenario).await?);
        }
        if let Some(own) = own {
            ensure!(own.stop().await, "the server did not end well");
        }
    }
    record::write(args, &machine, &config, &all)
}

/// The server's settings: those of `--config`, with the reply's length.
fn config(args: &Args) -> anyhow::Result<String> {
    let mut table = match &args.config {
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?
            .parse::<toml::Table>()
            .with_context(|| format!("{} is no TOML", path.display()))?,
        None => toml::Table::new(),
    };
    let session = table.entry("session").or_insert_with(|| toml::Table::new().into());
    let session = session.as_table_mut().context("[session] must be a table")?;
    session.insert("max_tokens".into(), args.max_tokens.into());
    toml::to_string(&table).context("the settings cannot be written as TOML")
}

async fn start(args: &Args, profile: &str, config: &Path) -> anyhow::Result<ServerProcess> {
    eprintln!("starting a server with profile {profile} ...");
    let options = ServerOptions {
        program: Some(env!("CARGO_BIN_EXE_viva").into()),
        profile: Some(profile.to_owned()),
        more: vec!["--config".into(), config.display().to_string()],
        log: args.server_log,
        ..ServerOptions::default()
    };
    Ok(ServerProcess::start(&options).await?)
}

/// The server measured.
struct Target<'a> {
    args: &'a Args,
    url: &'a str,
    pid: Option<u32>,
    clips: &'a Clips,
}

impl Target<'_> {
    async fn measure(&self, profile: &str, label: &str, scenario: &Scenario) -> anyhow::Result<Measured> {
        let load_before = machine::load();
        let mut dice = StdRng::seed_from_u64(self.args.seed);
        let turns = self.args.turns.map_or(scenario.scripts.len(), |turns| turns as usize);
        let order = order(&scenario.scripts, turns, &mut dice);
        let begin = Instant::now();
        if self.args.warm_up > 0 {
            // The last ones, so that what is counted first was not just said.
            let first: Vec<&Script> =
                order.iter().rev().copied().cycle().take(self.args.warm_up as usize).collect();
            let warm = self.call(usize::MAX, begin, &first, &mut dice, &mut |_| ()).await;
            ensure!(warm.broken.is_none(), "the first call broke: {}", warm.broken.unwrap_or_default());
        }
        let mut watching = machine::Watching::new(self.pid);
        let before = Metrics::of(self.url).await?;
        let begin = Instant::now();
        let mut run = LoadRun { callers: Vec::new(), watched: Vec::new() };
        let mut look = |calls, watched: &mut Vec<Watch>| {
            if let Some(usage) = watching.usage() {
                watched.push(Watch { at_s: begin.elapsed().as_secs_f64(), usage, calls });
            }
        };
        look(0, &mut run.watched);
        for (number, scripts) in order.chunks(self.args.turns_per_call as usize).enumerate() {
            let watched = &mut run.watched;
            let caller = self.call(number, begin, scripts, &mut dice, &mut |_| look(1, watched)).await;
            run.callers.push(caller);
            look(0, &mut run.watched);
        }
        let metrics = Metrics::of(self.url).await?.since(&before);
        let score = Score::new(&run, 0.0);
        ensure!(
            score.answered > 0,
            "no turn was answered: {}",
            run.callers.iter().find_map(|caller| caller.broken.clone()).unwrap_or_default()
        );
        Ok(Measured {
            profile: profile.to_owned(),
            scenario: label.to_owned(),
            load_before,
            warm_up_turns: self.args.warm_up,
            score,
            engines: watching.engines(),
            metrics,
            run,
        })
    }

    /// One call with these scripts, one after another. `after` is called after each with its number.
    async fn call(
        &self,
        number: usize,
        begin: Instant,
        scripts: &[&Script],
        dice: &mut StdRng,
        after: &mut dyn FnMut(usize),
    ) -> CallerRun {
        let started_s = begin.elapsed().as_secs_f64();
        let mut caller = CallerRun {
            caller: number,
            started_s,
            refused: false,
            broken: None,
            report: CallReport::default(),
        };
        let mut call = match Call::connect(self.url, self.clips.clone(), CallOptions::default()).await {
            Ok(call) => call,
            Err(error) => return CallerRun { broken: Some(error.to_string()), ..caller },
        };
        for (at, script) in scripts.iter().enumerate() {
            let rest = Duration::from_millis(dice.random_range(REST_MS));
            let turn = async {
                call.listen(rest).await?;
                call.run(script, true).await
            };
            match tokio::time::timeout(TURN_TIME_MAX, turn).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => caller.broken = Some(error.to_string()),
                Err(_) => caller.broken = Some(format!("{} did not end in time", script.name)),
            }
            tell(&script.name, &call.report());
            after(at);
            if caller.broken.is_some() {
                break;
            }
        }
        caller.report = call.report();
        call.hang_up().await;
        caller
    }
}

/// Every script in a seeded order, over and over, until there are enough; each round has each once.
fn order<'a>(scripts: &'a [Script], turns: usize, dice: &mut StdRng) -> Vec<&'a Script> {
    let mut order = Vec::with_capacity(turns + scripts.len());
    while order.len() < turns {
        let mut round: Vec<&Script> = scripts.iter().collect();
        round.shuffle(dice);
        order.append(&mut round);
    }
    order.truncate(turns);
    order
}

/// One line about the last turn, so that somebody who waits sees something happen.
fn tell(name: &str, report: &CallReport) {
    let Some(turn) = report.turns.last() else { return };
    let waited = turn.voice_to_voice_ms.map_or("no answer".into(), |ms| format!("{ms:.0} ms"));
    let cut =
        turn.cut_off.as_ref().map_or(String::new(), |cut| format!(", cut off {:.0} ms early", cut.early_ms));
    eprintln!("  {name}: {waited}{cut}  “{}” → “{}”", turn.heard.trim(), turn.said.trim());
}
