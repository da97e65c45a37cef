//! Writes a run down: `README.md` for people, one JSON a measurement with every turn, the server's settings.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use viva::lab::report::findings;
use viva_actors::metrics as m;

use crate::machine::Machine;
use crate::prometheus::Metrics;
use crate::{Args, Measured};

/// Folders of one name a day before we refuse to invent another.
const SAME_NAME_MAX: usize = 100;

/// What is asked of a profile on two cores: p50 and p95 in milliseconds.
fn asked(profile: &str) -> Option<(f64, f64)> {
    match profile {
        "test" => Some((850.0, 1_500.0)),
        "default" => Some((1_300.0, 2_000.0)),
        _ => None,
    }
}
/// Cut-offs, percent of the turns.
const CUT_OFFS_ASKED: f64 = 10.0;
/// CPU seconds a turn.
const CPU_S_ASKED: f64 = 2.8;
/// Percent of them thrown away.
const THROWN_AWAY_ASKED: f64 = 20.0;

#[derive(Serialize)]
struct Raw<'a> {
    command: &'a str,
    machine: &'a Machine,
    measured: &'a Measured,
}

/// Writes everything and prints the summary.
pub fn write(args: &Args, machine: &Machine, config: &str, all: &[Measured]) -> anyhow::Result<()> {
    let folder = match &args.out {
        Some(folder) => folder.clone(),
        None => fresh(&Path::new("benches/runs").join(format!("{}-{}", machine.date, slug(&args.what))))?,
    };
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let save = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    let command = command();
    for measured in all {
        let raw = serde_json::to_string_pretty(&Raw { command: &command, machine, measured })
            .context("the figures cannot be written as JSON")?;
        save(&format!("{}-{}.json", measured.profile, measured.scenario), &raw)?;
    }
    save("server.toml", config)?;
    let summary = summary(args, machine, &command, all)?;
    save("README.md", &summary)?;
    println!("{summary}\nwritten to {}", folder.display());
    Ok(())
}

/// Words as a folder's name.
fn slug(words: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' };
    words.chars().map(safe).collect()
}

/// A folder that is not there yet: a record is never written over.
fn fresh(folder: &Path) -> anyhow::Result<PathBuf> {
    let numbered = |n: usize| match n {
        1 => folder.to_path_buf(),
        n => PathBuf::from(format!("{}-{n}", folder.display())),
    };
    (1..=SAME_NAME_MAX)
        .map(numbered)
        .find(|folder| !folder.exists())
        .with_context(|| format!("{} and its like are all there; name one with --out", folder.display()))
}

/// How to run it again. Where the record goes is nobody else's business.
fn command() -> String {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let mut command = "cargo bench --bench load --".to_owned();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--out" => drop(args.next()),
            _ if arg.starts_with("--out=") => {}
            _ => {
                command.push(' ');
                let bare = arg.chars().all(|c| c.is_ascii_alphanumeric() || "-_=./,:".contains(c));
                command.push_str(&if bare { arg } else { format!("{arg:?}") });
            }
        }
    }
    command
}

fn summary(args: &Args, machine: &Machine, command: &str, all: &[Measured]) -> anyhow::Result<String> {
    let mut text = format!("# {}, {}\n\n", args.what, machine.date);
    let Machine { cores, cpu, memory_mib, os, kernel, rustc, commit, version, .. } = machine;
    writeln!(text, "`{command}`, settings in `server.toml`.\n")?;
    writeln!(
        text,
        "viva {version} ({commit}), {rustc}; {cores} cores of {cpu}, {memory_mib} MiB, {os}, {kernel}.\n"
    )?;
    writeln!(
        text,
        "One caller, WebSocket on the same machine, real time. Voice to voice: last speech sample sent to first \
         audible sample of the reply received. Cut off: Viva spoke, or decided to, before the caller was done. \
         CPU: the server and its engines, replies of at most {} tokens, the listening between turns included. \
         Thrown away: the share of drafts discarded, times what llama and piper used; an upper estimate, since \
         most discarded drafts are stopped half made.\n",
        args.max_tokens
    )?;
    text.push_str(
        "| profile | answers | turns | v2v p50 | p95 | max | cut-offs | CPU-s a turn | thrown away |\n",
    );
    text.push_str("|---|---|---|---|---|---|---|---|---|\n");
    for measured in all {
        row(&mut text, measured)?;
    }
    for measured in all {
        details(&mut text, measured)?;
    }
    Ok(text)
}

fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / (whole as f64).max(1.0)
}

/// A figure with what was asked of it, where it falls short.
fn against(figure: f64, asked: Option<f64>, digits: usize) -> String {
    match asked {
        Some(asked) if figure > asked => format!("**{figure:.digits$}** (asked {asked})"),
        _ => format!("{figure:.digits$}"),
    }
}

fn row(text: &mut String, measured: &Measured) -> std::fmt::Result {
    let score = &measured.score;
    let (v2v, asked) = (&score.voice_to_voice_ms, asked(&measured.profile));
    let cut_offs = percent(score.cut_offs, score.turns);
    let cost = score
        .cost
        .as_ref()
        .map_or("not seen".into(), |cost| against(cost.cpu_s_per_turn, Some(CPU_S_ASKED), 2));
    let thrown =
        thrown_away(measured).map_or("not seen".into(), |p| against(p, Some(THROWN_AWAY_ASKED), 1) + " %");
    writeln!(
        text,
        "| {} | {} | {} of {} | {} | {} | {:.0} | {} of {} ({} %) | {cost} | {thrown} |",
        measured.profile,
        measured.scenario,
        score.answered,
        score.turns,
        against(v2v.p50, asked.map(|a| a.0), 0),
        against(v2v.p95, asked.map(|a| a.1), 0),
        v2v.max,
        score.cut_offs,
        score.turns,
        against(cut_offs, Some(CUT_OFFS_ASKED), 1),
    )
}

/// Percent of the CPU time that went into drafts nobody heard.
fn thrown_away(measured: &Measured) -> Option<f64> {
    let cpu_s = measured.score.cost.as_ref()?.cpu_s;
    let discarded = measured.metrics.value(m::DRAFTS_DISCARDED);
    let share = discarded / (discarded + measured.score.answered as f64).max(1.0);
    let speaking = |name: &str| name.contains("llama") || name.contains("piper");
    let spent: f64 = measured.engines.iter().filter(|(name, _)| speaking(name)).map(|(_, cpu_s)| cpu_s).sum();
    Some((100.0 * share * spent / cpu_s.max(0.01)).max(0.0))
}

fn details(text: &mut String, measured: &Measured) -> std::fmt::Result {
    let Measured { profile, scenario, score, metrics, .. } = measured;
    writeln!(text, "\n## {profile}, {scenario}\n")?;
    text.push_str(
        "After the caller's last speech sample:\n\n| ms | n | p50 | p95 | max |\n|---|---|---|---|---|\n",
    );
    let stages = score.stages_ms.iter().map(|(name, p)| (name.split_once(' ').map_or(*name, |(_, n)| n), p));
    for (name, p) in
        stages.chain([("first audio received", &score.voice_to_voice_ms), ("… played", &score.played_ms)])
    {
        writeln!(text, "| {name} | {} | {:.0} | {:.0} | {:.0} |", p.n, p.p50, p.p95, p.max)?;
    }
    let turns = (score.answered as f64).max(1.0);
    text.push_str("\n| engine | calls a turn | queue ms (mean) | compute ms (mean) | compute s a turn |\n|---|---|---|---|---|\n");
    for stage in metrics.stages() {
        let (calls, compute_s) = (stage.calls / turns, stage.compute_s / turns);
        let (name, queue, compute) = (&stage.name, stage.queue_ms_mean, stage.compute_ms_mean);
        writeln!(text, "| {name} | {calls:.1} | {queue:.1} | {compute:.1} | {compute_s:.2} |")?;
    }
    text.push_str("\n| process | CPU-s a turn |\n|---|---|\n");
    for (name, cpu_s) in &measured.engines {
        writeln!(text, "| {name} | {:.2} |", cpu_s / turns)?;
    }
    text.push_str("\n| | |\n|---|---|\n");
    writeln!(text, "| load of the machine before | {:.2} |", measured.load_before)?;
    writeln!(text, "| warm-up turns, not counted | {} |", measured.warm_up_turns)?;
    let drafts = metrics.value(m::DRAFTS_DISCARDED);
    writeln!(text, "| drafts discarded | {drafts:.0} ({:.2} a turn) |", drafts / turns)?;
    for (kind, tokens) in metrics.by_label(m::LLM_TOKENS) {
        writeln!(text, "| {kind} tokens a turn | {:.1} |", tokens / turns)?;
    }
    for (name, value) in findings(score) {
        writeln!(text, "| {name} | {value} |")?;
    }
    trouble(text, metrics)
}

/// Engines and stages that had to be started again: a run with any is suspect.
fn trouble(text: &mut String, metrics: &Metrics) -> std::fmt::Result {
    for (name, what) in [(m::ENGINE_RESTARTS, "engine restarts"), (m::STAGE_RESTARTS, "stage restarts")] {
        for (stage, count) in metrics.by_label(name) {
            writeln!(text, "| **{what}: {stage}** | {count:.0} |")?;
        }
    }
    Ok(())
}
