//! The command line.

use std::process::{Command, Output};

fn viva(folder: &std::path::Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_viva"))
        .arg("bank")
        .args(args)
        .env("VIVA_KNOWLEDGE_DIR", folder)
        .output()
        .unwrap()
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn stats_and_export_need_neither_index_nor_weights() {
    let folder = tempfile::tempdir().unwrap();
    let stats = viva(folder.path(), &["stats"]);
    assert!(stats.status.success() && told(&stats).contains("5598 questions"), "{}", told(&stats));
    let export = viva(folder.path(), &["export"]);
    assert_eq!(export.stdout, std::fs::read("presets/questions/bank.jsonl").unwrap());
}

#[test]
fn mistakes_are_told_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    for (args, part) in [
        (&["query", "wounds"][..], "run: viva bank index"),
        (
            &["query", "wounds", "--category", "cooking"],
            "technical, behavioral, soft_skills and self_introduction",
        ),
        (&["query", "wounds", "--level", "boss"], "junior, mid, senior and lead"),
        (&["import", "list.csv", "--into", "../x"], "is no name for a bank"),
        (&["build", "--sources", "no/such/folder"], "no/such/folder"),
    ] {
        let output = viva(folder.path(), args);
        assert!(!output.status.success() && told(&output).contains(part), "{args:?}: {}", told(&output));
    }
}

#[test]
fn a_source_that_cannot_be_expanded_is_named_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    for category in ["technical", "behavioral", "soft_skills", "self_introduction"] {
        std::fs::create_dir(folder.path().join(category)).unwrap();
    }
    let source = folder.path().join("soft_skills/quarrels.toml");
    let good = "group = 'quarrels'\ntitle = 'Quarrels'\n[[scenario]]\nname = 'A'\nslug = 'a'\nmoves = ['ask']\n\
        pitfalls = ['shouting']\nsignals = ['Listens']\nquestions = [{ ask = 'A colleague shouts. What now?', \
        level = 'mid', difficulty = 2, uses = 'm1 p1 s1', probes = ['Why?', 'And then?'] }]\n";
    for (bad, part) in [
        ("m1 p1 s2", "\"s2\" names nothing"),
        ("m1 p1 x1", "\"x1\" names no list"),
        ("m1 p1", "2 criteria"),
        ("m1 p1 s1 s", "\"s\" names nothing"),
    ] {
        std::fs::write(&source, good.replace("m1 p1 s1", bad)).unwrap();
        let output = viva(folder.path(), &["build", "--sources", folder.path().to_str().unwrap()]);
        let told = told(&output);
        assert!(!output.status.success() && told.contains(part) && told.contains("quarrels.toml"), "{told}");
        assert!(!folder.path().join("bank.jsonl").exists());
    }
    for (bad, part) in
        [("slug = 'a'", "slug"), ("group = 'quarrels'", "its name"), ("level = 'mid'", "level")]
    {
        std::fs::write(
            &source,
            good.replace(
                bad,
                &bad.replace("quarrels", "peace").replace("slug", "slag").replace("'mid'", "'boss'"),
            ),
        )
        .unwrap();
        let output = viva(folder.path(), &["build", "--sources", folder.path().to_str().unwrap()]);
        assert!(!output.status.success() && told(&output).contains(part), "{}", told(&output));
    }
    std::fs::write(&source, good).unwrap();
    let output = viva(folder.path(), &["build", "--sources", folder.path().to_str().unwrap()]);
    assert!(output.status.success(), "{}", told(&output));
    let bank = std::fs::read_to_string(folder.path().join("bank.jsonl")).unwrap();
    assert!(
        bank.contains("s.quarrels.a.01") && bank.contains("Would ask") && bank.contains("Avoids shouting"),
        "{bank}"
    );
}
