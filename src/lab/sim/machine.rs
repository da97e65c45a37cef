//! What a machine's engines cost, as a file: the one place that defines the format. `viva sim` reads it, and whoever
//! measures a machine writes it.
//!
//! Times are milliseconds of a call that has the machine to itself, by what the call works on, as points of a
//! line; beyond the last point the line goes on. A call holds `tokens` while it works, which is what the scheduler
//! hands out, and keeps `width` of the processor's cores (or of the GPU, which is 1 wide) busy. When more is kept
//! busy than there is, everybody slows down by the same factor.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::presets;

/// The folder of the machines inside the binary.
const PRESETS: &str = "machines";
/// Points a line may have.
const POINTS_MAX: usize = 64;
/// Processes an engine may have, as in the server.
const PROCESSES_MAX: usize = viva_actors::gpu::PROCESSES_MAX as usize;

/// A machine with its engines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// For reports.
    pub name: String,
    /// What it is, in a line.
    pub about: String,
    /// Nothing here was measured on such a machine.
    pub forecast: bool,
    /// Cores of its processor.
    pub cpu_cores: f64,
    /// Tokens the scheduler hands out.
    pub tokens: u32,
    /// What a session costs beside the engines.
    pub session: Session,
    /// Finds speech. Its work is a window.
    pub vad: Jobs,
    /// Judges whether a caller is done. Its work is a decision.
    pub turn: Jobs,
    /// Recognises. Its work is seconds of audio.
    pub asr: Jobs,
    /// Speaks. Its work is characters.
    pub tts: Jobs,
    /// Writes.
    pub llm: Llm,
}

/// What a session costs all the time, and the delays that no engine makes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// Cores a session takes all the time, without its engines. Where callers run on the same machine, with
    /// theirs.
    pub cpu: f64,
    /// Milliseconds for which the speech detector still hears speech after its last sample.
    pub vad_tail_ms: f64,
    /// Milliseconds between a frame's time and its arrival at the caller.
    pub line_ms: f64,
    /// Where the figures come from.
    pub source: String,
}

/// What computes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// The processor.
    #[default]
    Cpu,
    /// The GPU.
    Gpu,
}

/// An engine that takes jobs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jobs {
    /// Its name and weights.
    pub engine: String,
    /// What it runs on.
    #[serde(default)]
    pub on: Unit,
    /// Tokens it holds while it works.
    pub tokens: u32,
    /// Cores, or share of the GPU, that it keeps busy.
    pub width: f64,
    /// Processes that work side by side, each on a call of its own.
    #[serde(default = "one")]
    pub processes: usize,
    /// Most jobs in one call. An engine that cannot work on several at once has 1, whatever the hardware.
    pub batch_max: usize,
    /// Milliseconds a call takes by its number of jobs.
    #[serde(default)]
    pub call_ms: Line,
    /// Milliseconds each job adds by its size.
    #[serde(default)]
    pub job_ms: Line,
    /// Where the figures come from.
    pub source: String,
}

/// The language model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Llm {
    /// Its name and weights.
    pub engine: String,
    /// What it runs on.
    #[serde(default)]
    pub on: Unit,
    /// Tokens it holds while it works.
    pub tokens: u32,
    /// The same for a step that makes a single token; 0 for as many.
    #[serde(default)]
    pub decode_tokens: u32,
    /// Cores, or share of the GPU, that a step keeps busy.
    pub width: f64,
    /// The same for a step that makes a single token.
    pub decode_width: f64,
    /// Sequences in the cache.
    pub sequences: usize,
    /// Tokens in the cache, of all sequences.
    pub cache_tokens: u64,
    /// Milliseconds of a step by the sequences that get a token.
    pub decode_ms: Line,
    /// Milliseconds a step takes longer for this many tokens of prompt.
    pub prefill_ms: Line,
    /// Microseconds a step takes longer for each thousand tokens that its sequences attend to.
    pub context_us: f64,
    /// Tokens of a reply, least and most.
    pub reply_tokens: (u32, u32),
    /// Where the figures come from.
    pub source: String,
}

fn one() -> usize {
    1
}

/// A line through points, (of what, milliseconds).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Line(pub Vec<(f64, f64)>);

impl Line {
    /// Its value there. Flat before the first point, straight on beyond the last; 0 without points.
    pub fn at(&self, x: f64) -> f64 {
        let points = &self.0;
        let Some(&(first, least)) = points.first() else { return 0.0 };
        if x <= first || points.len() == 1 {
            return least;
        }
        let next = points.iter().position(|point| point.0 >= x).unwrap_or(points.len() - 1);
        let ((x0, y0), (x1, y1)) = (points[next - 1], points[next]);
        y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    }

    fn check(&self) -> Result<(), String> {
        if self.0.len() > POINTS_MAX {
            return Err(format!("more than {POINTS_MAX} points"));
        }
        if self.0.iter().any(|(x, y)| !x.is_finite() || !y.is_finite() || *x < 0.0 || *y < 0.0) {
            return Err("a point that is not above zero".into());
        }
        if self.0.windows(2).any(|pair| pair[1].0 <= pair[0].0 || pair[1].1 < pair[0].1) {
            return Err("points that do not rise".into());
        }
        Ok(())
    }
}

impl Machine {
    /// A machine that comes with Viva, by its name, or a file.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn load(path: &Path) -> Result<Self, String> {
        let text = match path.to_str().and_then(|name| presets::text(PRESETS, name)) {
            Some(text) => text,
            None => std::fs::read_to_string(path).map_err(|error| {
                let known = Self::names().join(", ");
                format!("cannot read {}: {error}; those that come with Viva are {known}", path.display())
            })?,
        };
        Self::parse(&text).map_err(|why| format!("cannot use the machine {}: {why}", path.display()))
    }

    /// The machines that come with Viva.
    pub fn names() -> Vec<String> {
        presets::names(PRESETS)
    }

    /// Reads one.
    pub fn parse(text: &str) -> Result<Self, String> {
        let machine: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        machine.check()?;
        Ok(machine)
    }

    fn check(&self) -> Result<(), String> {
        let positive = |what: &str, value: f64| match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => Err(format!("{what} must be above 0")),
        };
        positive("cpu_cores", self.cpu_cores)?;
        if self.tokens == 0 || self.llm.sequences == 0 || self.llm.cache_tokens == 0 {
            return Err("tokens, llm.sequences and llm.cache_tokens must be above 0".into());
        }
        if !(0.0..=self.cpu_cores).contains(&self.session.cpu) {
            return Err("session.cpu must lie between 0 and cpu_cores".into());
        }
        for (name, jobs) in [("vad", &self.vad), ("turn", &self.turn), ("asr", &self.asr), ("tts", &self.tts)]
        {
            let named = |why| format!("{name}: {why}");
            positive("width", jobs.width).map_err(named)?;
            if jobs.batch_max == 0 || !(1..=PROCESSES_MAX).contains(&jobs.processes) {
                let why = format!("batch_max must be above 0, processes in 1..={PROCESSES_MAX}");
                return Err(named(why));
            }
            jobs.call_ms.check().and_then(|()| jobs.job_ms.check()).map_err(named)?;
        }
        let named = |why| format!("llm: {why}");
        positive("width", self.llm.width.min(self.llm.decode_width)).map_err(named)?;
        self.llm.decode_ms.check().and_then(|()| self.llm.prefill_ms.check()).map_err(named)?;
        let (least, most) = self.llm.reply_tokens;
        if least == 0 || least > most {
            return Err("llm: reply_tokens must be [least, most], above 0".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_machine_that_comes_along_says_where_its_figures_come_from() {
        assert!(Machine::names().len() >= 3, "{:?}", Machine::names());
        for name in Machine::names() {
            let machine = Machine::load(Path::new(&name)).unwrap();
            assert_eq!(machine.name, name);
            for source in [&machine.session.source, &machine.asr.source, &machine.llm.source] {
                assert!(source.len() > 30, "{name}: {source}");
            }
            assert!(machine.asr.batch_max == 1, "whisper.cpp does not batch, whatever the hardware");
            let back = Machine::parse(&toml::to_string(&machine).unwrap()).unwrap();
            assert_eq!(back, machine, "what is written is read again");
        }
    }

    #[test]
    fn a_line_is_flat_before_and_straight_on_after_its_points() {
        let line = Line(vec![(1.0, 10.0), (2.0, 12.0), (4.0, 20.0)]);
        let at: Vec<f64> = [0.0, 1.0, 1.5, 3.0, 4.0, 6.0].iter().map(|&x| line.at(x)).collect();
        assert_eq!(at, [10.0, 10.0, 11.0, 16.0, 20.0, 28.0]);
        assert_eq!((Line::default().at(3.0), Line(vec![(1.0, 5.0)]).at(9.0)), (0.0, 5.0));
        assert!(Line(vec![(1.0, 5.0), (1.0, 6.0)]).check().is_err());
    }
}
