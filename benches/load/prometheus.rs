//! What the server's own `/metrics` says, as the difference of two readings.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use viva_actors::metrics as m;

/// The page is some kilobytes on the same machine.
const WITHIN: Duration = Duration::from_secs(5);

/// Every sample but the histograms' buckets, by its name with its labels, as it stands on the page.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub struct Metrics(BTreeMap<String, f64>);

/// One stage's engine over the run.
pub struct Stage {
    pub name: String,
    pub calls: f64,
    pub queue_ms_mean: f64,
    pub compute_ms_mean: f64,
    pub compute_s: f64,
}

impl Metrics {
    /// The server's, now.
    pub async fn of(server: &str) -> anyhow::Result<Self> {
        let url = format!("{}/metrics", server.trim_end_matches('/'));
        let page = tokio::task::spawn_blocking(move || {
            let agent: ureq::Agent =
                ureq::Agent::config_builder().timeout_global(Some(WITHIN)).build().into();
            agent
                .get(&url)
                .call()
                .and_then(|mut response| response.body_mut().read_to_string())
                .with_context(|| format!("cannot read {url}"))
        })
        .await??;
        Ok(Self::parse(&page))
    }

    fn parse(page: &str) -> Self {
        let sample = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            let counts = !line.starts_with('#') && !name.contains("_bucket{");
            counts.then_some((name.to_owned(), value.parse().ok()?))
        };
        Self(page.lines().filter_map(sample).collect())
    }

    /// What was gained since `before`; what did not change is left out.
    pub fn since(&self, before: &Self) -> Self {
        let gained = |(name, now): (&String, &f64)| {
            let gain = now - before.0.get(name).unwrap_or(&0.0);
            (gain != 0.0).then(|| (name.clone(), gain))
        };
        Self(self.0.iter().filter_map(gained).collect())
    }

    /// One sample without labels; 0 where it is not there.
    pub fn value(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or(0.0)
    }

    /// Every sample of a name with its label's value, where there is one label.
    pub fn by_label(&self, name: &str) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().filter_map(move |(sample, value)| {
            let label = sample.strip_prefix(name)?.strip_prefix('{')?.strip_suffix("\"}")?;
            Some((label.split_once("=\"")?.1, *value))
        })
    }

    /// Every engine that worked.
    pub fn stages(&self) -> Vec<Stage> {
        let of = |name: &str, part: &str, stage: &str| {
            let found = self.by_label(&format!("{name}_{part}")).find(|(label, _)| *label == stage);
            found.map_or(0.0, |(_, value)| value)
        };
        let mean = |name: &str, stage: &str| of(name, "sum", stage) / of(name, "count", stage).max(1.0);
        self.by_label(&format!("{}_count", m::COMPUTE_MS))
            .map(|(stage, calls)| Stage {
                name: stage.to_owned(),
                calls,
                queue_ms_mean: mean(m::QUEUE_MS, stage),
                compute_ms_mean: mean(m::COMPUTE_MS, stage),
                compute_s: of(m::COMPUTE_MS, "sum", stage) / 1000.0,
            })
            .collect()
    }
}
