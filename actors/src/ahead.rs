//! Lines that are said to everybody, spoken ahead: at the start, behind all other work, one at a time.
//!
//! *Input:* lines, with the store that keeps them. *Output:* the store knows them. *Bound:* [`LINES_MAX`] lines; none
//! is begun while sessions take more than [`BUSY`] of the device. *On a crash* of the scheduler the rest is left to
//! whoever says it first: the store keeps it then.

use std::sync::Arc;
use std::time::Duration;

use viva_models::tts::spoken::Spoken;
use viva_models::{Style, TtsJob};

use crate::gpu::within;
use crate::gpu::work::{Job, Stake};
use crate::llm::ClauseSplitter;
use crate::root::Viva;

/// Lines that are spoken ahead at most: some minutes of one core at the worst.
pub const LINES_MAX: usize = 128;

/// Share of the device's cores that sessions may take while a line is begun: a line cannot be stopped, and where
/// this little is in use nobody is likely to come in its 80 ms.
const BUSY: f64 = 0.3;

/// How often it is looked whether there is slack.
const LOOK: Duration = Duration::from_millis(500);

/// When a line is due: nobody waits for it.
const DUE_MS: u64 = 60_000;

/// The clauses that these lines are spoken in, each once.
pub fn clauses(lines: &[String], style: &Style, language: &str) -> Vec<TtsJob> {
    let mut texts: Vec<String> = Vec::new();
    for line in lines {
        let mut splitter = ClauseSplitter::default();
        let mut clauses = splitter.push(&format!("{line} "));
        clauses.extend(splitter.finish(false));
        texts.extend(clauses.into_iter().filter(|clause| !texts.contains(clause)).collect::<Vec<_>>());
    }
    texts.truncate(LINES_MAX);
    let job = |text| TtsJob { text, style: style.clone(), language: Some(language.to_owned()) };
    texts.into_iter().map(job).collect()
}

/// Has them spoken that are not known yet. Gives how many were.
pub async fn speak_ahead(viva: &Viva, spoken: &Arc<Spoken>, jobs: Vec<TtsJob>) -> usize {
    let mut made = 0;
    for job in jobs {
        let Some(key) = spoken.key(&job) else { continue };
        spoken.expect(key);
        if spoken.get(key).is_some() {
            continue;
        }
        let busy = || {
            let load = viva.load();
            load.certain > BUSY * load.cores || !viva.readiness().ready
        };
        while busy() {
            tokio::time::sleep(LOOK).await;
        }
        let Some(submitter) = viva.submitter().await else { return made };
        let (reply, answer) = tokio::sync::oneshot::channel();
        let reply = Box::new(move |result: Result<_, viva_models::EngineError>| {
            reply.send(result.map(|_| ())).ok();
        });
        let work = Job::Tts { job, sink: Box::new(|_, _| ()), delivered: 0, reply };
        submitter.submit(work, within(DUE_MS), Stake::Ahead);
        match answer.await {
            Ok(Ok(())) => made += 1,
            Ok(Err(error)) => tracing::warn!(%error, "a line was not spoken ahead"),
            // The scheduler is gone.
            Err(_) => return made,
        }
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_kept_as_the_clauses_they_are_spoken_in() {
        let lines = ["Thank you. Take your time.".to_owned(), "Take your time.".to_owned()];
        let texts: Vec<String> =
            clauses(&lines, &Style::default(), "en").into_iter().map(|job| job.text).collect();
        assert_eq!(texts, ["Thank you.", "Take your time."]);
    }
}
