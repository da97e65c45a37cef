//! The load lab: many callers at once, scored by what a person would feel.
//!
//! A [`Scenario`](scenario::Scenario) says what callers do, [`voice`] says its lines, [`run`](run::run) lets them do
//! it and watches the server's processes, [`Score`](score::Score) sums up, [`ramp`] searches for the capacity, and
//! [`report`] and [`page`] show it. [`sim`] lets the same candidates call in virtual time, on machines that are not
//! here.

pub mod html;
pub mod page;
pub mod plots;
pub mod processes;
pub mod ramp;
pub mod report;
pub mod run;
pub mod scenario;
pub mod score;
pub mod sim;
pub mod voice;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::run::{Live, LoadPlan, run};
    use super::scenario::Scenario;
    use super::score::Score;
    use super::{page, report};
    use crate::client::tests::{Manner, clips, server};
    use crate::client::{CallOptions, Script};

    fn plan(server: String) -> LoadPlan {
        let scripts = vec![Script::of_files(&["hello".into()])];
        LoadPlan {
            server,
            server_pid: Some(std::process::id()),
            callers: 4,
            seconds: 4.0,
            ramp_up_s: 1.0,
            seed: 7,
            scenario: Arc::new(Scenario::new("<one & all>", 3.5, scripts)),
            clips: clips(),
            call: CallOptions::default(),
        }
    }

    #[tokio::test]
    async fn four_callers_are_scored_and_shown() {
        let plan = plan(server(Manner::Normal).await);
        let load = run(&plan, &Arc::new(Live::default())).await;
        let score = Score::new(&load, plan.ramp_up_s);
        assert_eq!((score.sessions, score.broken, score.refused), (4, 0, 0));
        assert!(score.answered >= 4 && score.answered == score.turns, "{score:?}");
        assert!((250.0..1500.0).contains(&score.voice_to_voice_ms.p50), "{:?}", score.voice_to_voice_ms);
        assert_eq!(score.cut_offs, 0);
        assert!(score.frames >= 4 * 75 && score.cost.is_some());
        let report = report::LoadReport::new(&plan, "fake", "none", &load, &score, None);
        let json = serde_json::to_value(&report).expect("a report is plain data");
        assert_eq!(json["run"]["callers"].as_array().map(Vec::len), Some(4));
        assert!(json["run"]["callers"][0]["report"]["turns"][0]["voice_to_voice_ms"].is_number());
        let page = page::page(&report).expect("the plots are drawable").render();
        assert!(page.matches("<svg").count() == 6 && page.contains("&lt;one &amp; all&gt;"));
        assert!(!page.contains("http") && !page.contains("<script"), "self-contained");
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_counted_not_fatal() {
        let load = run(&plan("127.0.0.1:9".into()), &Arc::new(Live::default())).await;
        let score = Score::new(&load, 1.0);
        assert_eq!((score.sessions, score.broken, score.turns), (0, 4, 0));
    }

    #[tokio::test]
    async fn the_same_seed_calls_at_the_same_times() {
        let offsets = |load: super::run::LoadRun| {
            load.callers.iter().map(|c| (c.started_s * 20.0) as u64).collect::<Vec<_>>()
        };
        let live = Arc::new(Live::default());
        let first = offsets(run(&plan("127.0.0.1:9".into()), &live).await);
        let second = offsets(run(&plan("127.0.0.1:9".into()), &live).await);
        let far: u64 = first.iter().zip(&second).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(u64::MAX);
        assert!(far <= 2, "{first:?} {second:?}");
    }
}
