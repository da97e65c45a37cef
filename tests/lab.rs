//! `viva load` and `viva sim` as somebody runs them, on engines that need no weights.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use support::child::viva;
use tokio::time::timeout;

/// A short run with its server's start.
const WITHIN: Duration = Duration::from_secs(60);

/// Runs it; gives its standard output, and its report.
async fn run(args: &[&str], folder: &Path) -> (String, Value, String) {
    let (json, html) = (folder.join("r.json"), folder.join("r.html"));
    let mut command = viva(args);
    command.arg("--json").arg(&json).arg("--html").arg(&html);
    let output = timeout(WITHIN, command.output()).await.expect("it ends by itself").unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    let report = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let page = std::fs::read_to_string(&html).unwrap();
    assert!(page.contains("<svg") && !page.contains("http"), "the page asks nobody for anything");
    (String::from_utf8_lossy(&output.stdout).into_owned(), report, page)
}

#[tokio::test]
async fn candidates_who_stop_to_think_cough_and_interrupt_are_scored() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["load", "--engines", "fake", "--callers", "6", "--seconds", "14", "--ramp-up", "2"];
    let args = [&args[..], &["--scenario", "interruptions", "--seed", "3"]].concat();
    let (told, report, page) = run(&args, folder.path()).await;
    let score = &report["score"];
    assert_eq!((&score["sessions"], &score["broken"]), (&Value::from(6), &Value::from(0)), "{told}");
    assert!(score["coughs"].as_u64().unwrap() > 0 && score["barge_ins"].as_u64().unwrap() > 0, "{score}");
    assert_eq!(score["barge_ins_ignored"], 0);
    assert!(score["cost"]["cpu_s"].as_f64().unwrap() > 0.0);
    assert_eq!(score["callers"].as_array().unwrap().len(), 6);
    assert!(
        told.contains("voice to voice") && page.contains("One session&quot;") || page.contains("One session")
    );
}

#[tokio::test]
async fn a_network_that_is_gone_for_a_second_is_come_back_to() {
    let folder = tempfile::tempdir().unwrap();
    let scenario = folder.path().join("gone.toml");
    let steps = r#"
        cycle_s = 4.0
        scripts = [{ steps = [
          { do = "say", text = "I led a team of five." }, { do = "wait" }, { do = "drop", ms = 800 },
          { do = "say", text = "And now I am back." }, { do = "wait" },
        ] }]"#;
    std::fs::write(&scenario, steps).unwrap();
    for transport in ["ws", "webrtc"] {
        let args = ["load", "--engines", "fake", "--callers", "2", "--seconds", "3", "--ramp-up", "0"];
        let more = ["--transport", transport, "--scenario", scenario.to_str().unwrap()];
        let (told, report, _) = run(&[&args[..], &more].concat(), folder.path()).await;
        let score = &report["score"];
        assert_eq!((&score["broken"], &score["lines_lost"]), (&0.into(), &2.into()), "{transport}: {told}");
        assert_eq!((&score["turns"], &score["answered"]), (&4.into(), &4.into()), "{transport}: {told}");
    }
}

#[tokio::test]
async fn a_ramp_ends_with_a_number_and_its_points() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["load", "--engines", "fake", "--ramp", "--ramp-max", "2", "--seconds", "8", "--ramp-up", "0"];
    let (told, report, page) = run(&args, folder.path()).await;
    let capacity = &report["capacity"];
    assert_eq!((&capacity["callers"], &capacity["at_least"]), (&2.into(), &true.into()), "{told}");
    assert_eq!(capacity["points"].as_array().unwrap().len(), 2);
    assert!(told.contains("capacity: 2 callers at least") && page.contains("Capacity"));
}

#[tokio::test]
async fn a_simulation_is_the_same_each_time_and_says_what_it_assumes() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["sim", "--machine", "cpu2", "--sessions", "6", "--seconds", "60", "--scenario", "interview"];
    let (told, first, page) = run(&args, folder.path()).await;
    let (_, second, _) = run(&args, folder.path()).await;
    assert_eq!(first, second);
    assert!(told.contains("A forecast, simulated") && told.contains("cycle of 12 s"), "{told}");
    assert_eq!(first["assumed"]["cache_tokens"], first["machine"]["llm"]["cache_tokens"]);
    assert!(first["outcome"]["answered"].as_u64().unwrap() > 0 && page.contains("How busy each engine is"));
}

#[tokio::test]
async fn a_simulated_ramp_gives_a_number_for_a_machine_that_is_not_here() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["sim", "--machine", "h100-48", "--ramp", "--ramp-max", "16", "--seconds", "60"];
    let (told, report, _) = run(&args, folder.path()).await;
    assert!(report["capacity"]["callers"].as_u64().unwrap() >= 8, "{told}");
    assert!(told.contains("none was measured on it"), "{told}");
}

#[tokio::test]
async fn mistakes_are_told_with_what_there_is() {
    for (args, expected) in [
        (vec!["sim", "--machine", "cray"], "those that come with Viva are cpu2"),
        (vec!["load", "--engines", "fake", "--scenario", "nothing"], "those that come with Viva are"),
        (vec!["load", "--engines", "fake", "--callers", "300"], "a server takes at most 256 callers"),
    ] {
        let output = viva(&args).output().await.unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains(expected), "{told}");
    }
}
