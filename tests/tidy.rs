//! Rules of the house that no compiler knows.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// Every source of the product: no tests beside it, no benches.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["src", "actors/src", "models/src", "models/engines"].map(|f| root.join(f)).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
                let name = path.strip_prefix(root).unwrap().display().to_string();
                let text = fs::read_to_string(&path).unwrap();
                // Tests stand at the end of a file.
                let product = text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
                found.push((name, product));
            }
        }
    }
    assert!(found.len() > 100, "{} sources", found.len());
    found
}

/// Fails with every line of a source that `bad` says something of.
fn check(rule: &str, applies: impl Fn(&str) -> bool, bad: impl Fn(&str) -> bool) {
    let mut broken = Vec::new();
    for (name, text) in sources().iter().filter(|(name, _)| applies(name)) {
        for (n, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap();
            if bad(code) {
                broken.push(format!("{name}:{}: {}", n + 1, line.trim()));
            }
        }
    }
    assert!(broken.is_empty(), "{rule}\n{}", broken.join("\n"));
}

#[test]
fn imports_run_one_way() {
    let uses = |words: &'static [&str]| move |line: &str| words.iter().any(|w| line.contains(w));
    check(
        "models knows no session",
        |f| f.starts_with("models/"),
        uses(&["viva_actors", "ractor::", "use viva::"]),
    );
    check(
        "actors knows no transport, no engine's name and no interview",
        |f| f.starts_with("actors/"),
        uses(&[
            "axum",
            "webrtc::",
            "clap",
            "anyhow",
            "tungstenite",
            "whisper",
            "llama",
            "piper",
            "use viva::",
        ]),
    );
}

#[test]
fn decisions_ask_no_clock() {
    let pure = [
        "actors/src/turn.rs",
        "actors/src/turn/",
        "actors/src/gpu/policy",
        "actors/src/gpu/binding",
        "actors/src/gpu/load",
        "src/lab/sim/",
        "actors/src/conversation.rs",
        "actors/src/ledger.rs",
        "src/edge/mapper.rs",
        "src/edge/webrtc/dejitter.rs",
        "src/interview.rs",
        "src/interview/decide.rs",
        "src/interview/desk.rs",
        "src/interview/follow_up.rs",
        "src/interview/next.rs",
        "src/interview/plan.rs",
        "src/interview/rails.rs",
        "src/interview/talk.rs",
        "models/src/asr/agreement.rs",
    ];
    check(
        "time comes in as an argument",
        |f| pure.iter().any(|p| f.starts_with(p)),
        |line| ["Instant::now", "SystemTime::now", ".elapsed()"].iter().any(|w| line.contains(w)),
    );
}

#[test]
fn nothing_sleeps_on_a_thread_but_those_whose_job_it_is() {
    // Device threads between attempts, downloads between tries, a process that is given time to end, and fakes.
    let allowed = [
        "actors/src/gpu/device.rs",
        "actors/src/testkit",
        "models/src/fetch/",
        "models/src/host/process.rs",
        "src/lab/processes.rs",
    ];
    check(
        "a thread that sleeps holds what it holds",
        |f| !allowed.iter().any(|p| f.starts_with(p)),
        |line| line.contains("thread::sleep"),
    );
}

#[test]
fn unsafe_code_stands_in_ffi_files_and_says_why_it_is_sound() {
    check(
        "unsafe stands in ffi.rs",
        |f| !f.ends_with("ffi.rs"),
        |line| {
            // An engine's own file may call what its ffi.rs declares unsafe, with the reason beside it.
            line.contains("unsafe ") && !line.contains("unsafe { ffi::")
        },
    );
    for (name, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (n, _) in lines.iter().enumerate().filter(|(_, l)| l.contains("unsafe {")) {
            let said = lines[n.saturating_sub(6)..n].iter().any(|l| l.contains("// SAFETY:"));
            assert!(said, "{name}:{}: no SAFETY comment above it", n + 1);
        }
    }
}

#[test]
fn metrics_are_named_in_one_place() {
    check(
        "a metric is a constant of actors/src/metrics.rs",
        |f| f != "actors/src/metrics.rs",
        |line| ["counter!(\"", "gauge!(\"", "histogram!(\""].iter().any(|w| line.contains(w)),
    );
}

#[test]
fn nothing_is_dead_or_waiting_to_be_done() {
    check(
        "work that is left belongs into an issue",
        |_| true,
        |line| ["todo!(", "unimplemented!(", "dbg!("].iter().any(|w| line.contains(w)),
    );
    for (name, text) in sources() {
        for word in ["TODO", "FIXME", "XXX"] {
            assert!(!text.contains(word), "{name} has a {word}");
        }
    }
}

#[test]
fn no_source_knows_where_it_was_written() {
    for (name, text) in sources() {
        for word in ["/root/", "/home/", "/work/"] {
            assert!(!text.contains(word), "{name} names {word}");
        }
    }
}
