//! A simulation as JSON, as tables and as a page. Each says that it is a forecast, and of what.

use serde::Serialize;

use super::machine::Machine;
use super::policy::Policy;
use super::{Outcome, Plan};
use crate::lab::html::{Page, Table};
use crate::lab::page::{capacity_curve, capacity_table};
use crate::lab::plots::{self, PlotError};
use crate::lab::ramp::Capacity;
use crate::lab::report::{right, table};

/// The whole report.
#[derive(Debug, Serialize)]
pub struct SimReport<'a> {
    /// Viva's version.
    pub version: &'static str,
    /// What was assumed.
    pub assumed: Assumed<'a>,
    /// In figures; with a ramp, of the most sessions that kept the limits.
    pub outcome: &'a Outcome,
    /// What a ramp found.
    pub capacity: Option<&'a Capacity>,
    /// What it cost, in full.
    pub machine: &'a Machine,
}

/// What a reader must know to judge a forecast.
#[derive(Debug, Serialize)]
pub struct Assumed<'a> {
    /// A simulation is a forecast, whatever its machine.
    pub forecast: bool,
    /// Some of the machine's figures are measured on it; each source says which.
    pub measured_in_part: bool,
    /// Who decides.
    pub policy: Policy,
    /// What that is.
    pub policed_by: &'static str,
    /// The scenario's name.
    pub scenario: &'a str,
    /// Seconds from one script's start to the next one's.
    pub cycle_s: f64,
    /// When recognitions happen.
    pub recognitions: &'static str,
    /// Tokens of conversation a prompt keeps.
    pub context_tokens: u32,
    /// Tokens in the language model's cache, of all sequences.
    pub cache_tokens: u64,
    /// Sequences in it.
    pub sequences: usize,
    /// Tokens of a reply.
    pub reply_tokens: (u32, u32),
    /// Simulated seconds, and those in which callers joined.
    pub seconds: (f64, f64),
    /// Seed.
    pub seed: u64,
}

/// When words are recognised: there is no cadence of partials.
const RECOGNITIONS: &str = "at each pause of 96 ms in turns below 10 s, later at a score of 0.3 or after 400 ms, and when \
                            14 s are open; none while the caller speaks on";

impl<'a> SimReport<'a> {
    /// Puts it together.
    pub fn new(plan: &'a Plan<'_>, outcome: &'a Outcome, capacity: Option<&'a Capacity>) -> Self {
        let machine: &'a Machine = plan.machine;
        let assumed = Assumed {
            forecast: true,
            measured_in_part: !machine.forecast,
            policy: plan.policy,
            policed_by: plan.policy.definition(),
            scenario: &plan.scenario.name,
            cycle_s: plan.scenario.cycle_s,
            recognitions: RECOGNITIONS,
            context_tokens: super::session::HISTORY_TOKENS,
            cache_tokens: machine.llm.cache_tokens,
            sequences: machine.llm.sequences,
            reply_tokens: machine.llm.reply_tokens,
            seconds: (plan.seconds, plan.ramp_up_s),
            seed: plan.seed,
        };
        Self { version: env!("CARGO_PKG_VERSION"), assumed, outcome, capacity, machine }
    }

    /// What it is, in sentences.
    pub fn preface(&self) -> Vec<String> {
        let Assumed {
            scenario, cycle_s, context_tokens, cache_tokens, sequences, reply_tokens, seed, ..
        } = &self.assumed;
        let machine = match self.machine.forecast {
            true => "the machine's figures are published ones or estimates, none was measured on it",
            false => {
                "of the machine's figures some were measured on it and the others are estimates, as each source says"
            }
        };
        let policy = self.assumed.policed_by;
        vec![
            format!("A forecast, simulated: {machine}. {}.", self.machine.about),
            format!(
                "Assumed: {policy}; scenario \u{201c}{scenario}\u{201d} with a cycle of {cycle_s:.0} s; replies of \
                 {} to {} tokens; prompts keep {context_tokens} tokens of conversation; a cache of {cache_tokens} \
                 tokens for {sequences} sequences; seed {seed}.",
                reply_tokens.0, reply_tokens.1
            ),
            format!("Words are recognised {RECOGNITIONS}."),
        ]
    }

    /// The latencies and what else was felt, for a terminal.
    pub fn tables(&self) -> String {
        let mut felt = table(&["", "found"]);
        for (name, value) in self.findings() {
            felt.add_row(vec![comfy_table::Cell::new(name), right(value)]);
        }
        let mut engines = table(&["engine", "calls", "batch mean", "most", "busy", "queue ms"]);
        for used in &self.outcome.engines {
            engines.add_row(vec![
                comfy_table::Cell::new(used.engine),
                right(used.calls.to_string()),
                right(format!("{:.2}", used.batch_mean)),
                right(used.batch_max.to_string()),
                right(format!("{:.0} %", used.utilisation * 100.0)),
                right(format!("{:.1}", used.queue_ms)),
            ]);
        }
        format!("{felt}\n{engines}")
    }

    fn findings(&self) -> Vec<(&'static str, String)> {
        let o = self.outcome;
        let p = &o.voice_to_voice_ms;
        vec![
            ("sessions", o.sessions.to_string()),
            ("turns answered", format!("{} of {}", o.answered, o.turns)),
            ("voice to voice p50", format!("{:.0} ms", p.p50)),
            ("\u{2026} p95", format!("{:.0} ms", p.p95)),
            ("\u{2026} p99", format!("{:.0} ms", p.p99)),
            ("cut-offs", o.cut_offs.to_string()),
            ("dead air", o.dead_air.to_string()),
            ("noises, resumed from", format!("{}, {}", o.noises, o.resumed)),
            ("missing frames", format!("{} of {}", o.missing_frames, o.frames)),
            ("drafts thrown away", o.drafts_discarded.to_string()),
            ("processor, GPU used", format!("{:.0} %, {:.0} %", o.used.0 * 100.0, o.used.1 * 100.0)),
        ]
    }

    /// As a page.
    pub fn page(&self) -> Result<Page, PlotError> {
        let values: Vec<f64> = self.outcome.waits.iter().map(|wait| wait.1).collect();
        let p = &self.outcome.voice_to_voice_ms;
        let mut figures = Vec::new();
        if let Some(capacity) = self.capacity {
            figures.push(capacity_curve(capacity)?);
        }
        figures.push(plots::distribution(
            "Voice to voice",
            "ms",
            "turns",
            &values,
            &[("p50", p.p50), ("p95", p.p95), ("p99", p.p99)],
            format!(
                "How long simulated callers would wait, {} turns of {} sessions: half at most {:.0} ms, 95 of 100 at \
                 most {:.0} ms.",
                values.len(),
                self.outcome.sessions,
                p.p50,
                p.p95
            ),
        )?);
        figures.push(plots::scatter(
            "Voice to voice over the run",
            "seconds into the run",
            "ms",
            &self.outcome.waits,
            "Each answered turn where the caller's speech ended. A cloud that climbs means work that piles up."
                .into(),
        )?);
        let engines = &self.outcome.engines;
        let busy: Vec<_> =
            engines.iter().map(|used| (used.engine.to_owned(), used.utilisation * 100.0)).collect();
        figures.push(plots::columns(
            "How busy each engine is",
            "% of the time",
            &busy,
            "Share of the time during which each engine works on something; one at 100 % is what holds the others \
             up. On a processor several share the cores, so these do not add up."
                .into(),
        )?);
        let batches: Vec<_> = engines.iter().map(|used| (used.engine.to_owned(), used.batch_mean)).collect();
        figures.push(plots::columns(
            "How much runs together",
            "jobs a call",
            &batches,
            "Jobs in a call, or sequences in a step of the language model, on average.".into(),
        )?);
        let mut tables = vec![Table {
            title: "Felt".into(),
            head: Vec::new(),
            rows: self.findings().into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect(),
        }];
        tables.extend(self.capacity.map(capacity_table));
        let m = self.machine;
        let sources = [
            ("session", &m.session.source),
            (&m.vad.engine, &m.vad.source),
            (&m.turn.engine, &m.turn.source),
            (&m.asr.engine, &m.asr.source),
            (&m.tts.engine, &m.tts.source),
            (&m.llm.engine, &m.llm.source),
        ];
        let notes = sources.map(|(name, source)| format!("{name}: {source}.")).to_vec();
        Ok(Page {
            title: format!("{}, {} sessions: a forecast", self.machine.name, self.outcome.sessions),
            lead: self.preface(),
            notes,
            answer: self.capacity.map(Capacity::sentence),
            tables,
            figures,
        })
    }
}
