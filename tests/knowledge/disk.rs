//! The index on disk: what every store must do, and what must not befall this one.

use std::fs;
use std::path::{Path, PathBuf};

use viva::knowledge::bank::{Bank, BankError, Category, Record, SCHEMA, to_lines};
use viva::knowledge::index::Index;
use viva::knowledge::publish::{publish, vectors};
use viva::knowledge::store::{StoreError, VectorStore};

use crate::{Letters, bank, contract, ids, published, record, search};

fn ward() -> Vec<Record> {
    vec![record("t.a.x.01", Category::Technical, "How do you dress a wound?")]
}

fn boiler() -> Vec<Record> {
    vec![record("t.a.x.02", Category::Technical, "Which valve do you close first?")]
}

/// The folder of the edition in use.
fn current(knowledge: &Path) -> PathBuf {
    let folder = knowledge.join("index/letters");
    folder.join(fs::read_to_string(folder.join("current")).unwrap())
}

/// Puts another file in a file's place, as a broken copy or a mended disk would. Whoever has the old one open keeps
/// it; one that is cut off under a reader is beyond what a program can mend.
fn damage(path: &Path, with: &str) {
    fs::remove_file(path).unwrap();
    fs::write(path, with).unwrap();
}

fn editions(knowledge: &Path) -> usize {
    let entries = fs::read_dir(knowledge.join("index/letters")).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_does_what_every_store_must() {
    let folder = tempfile::tempdir().unwrap();
    contract::check(&Index::open(folder.path(), "letters").unwrap()).await;
}

#[tokio::test]
async fn a_question_leans_towards_those_of_its_block_and_no_others() {
    let one = record("t.a.x.01", Category::Technical, "How do you dress a wound?");
    let beside = record("t.a.x.02", Category::Technical, "Which bandage sticks to wet skin?");
    let vector = async |others: [&Record; 2]| {
        let records = [others[0].clone(), one.clone(), others[1].clone()];
        vectors(&records, &Letters("letters"), |_| {}).await.unwrap().swap_remove(1)
    };
    let boiler = record("t.b.y.01", Category::Technical, "Which valve do you close first?");
    let till = record("t.c.z.01", Category::Technical, "What do you do when the till is short?");
    let with = vector([&boiler, &beside]).await;
    assert_eq!(with, vector([&till, &beside]).await, "another block is nothing to it");
    assert_ne!(with, vector([&boiler, &till]).await, "its own is");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_opens_it_again_finds_the_same() {
    let folder = tempfile::tempdir().unwrap();
    published(&Index::open(folder.path(), "letters").unwrap(), &ward()).await;
    let again = Index::open(folder.path(), "letters").unwrap();
    assert_eq!(ids(&again, search("wound")).await, ["t.a.x.01"]);
    assert_eq!(again.edition().await.unwrap().unwrap().rows, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_searches_keeps_the_old_edition_while_a_new_one_comes() {
    let folder = tempfile::tempdir().unwrap();
    let reader = Index::open(folder.path(), "letters").unwrap();
    published(&reader, &ward()).await;
    let other = Index::open(folder.path(), "letters").unwrap();
    for _ in 0..4 {
        published(&reader, &boiler()).await;
        published(&reader, &ward()).await;
    }
    // Its folder is long gone; what it has open it keeps.
    assert_eq!(ids(&other, search("wound")).await, ["t.a.x.01"]);
    assert_eq!(editions(folder.path()), 2, "the edition in use and the one before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_edition_is_passed_over_for_the_one_before() {
    for file in ["vectors", "rows.sqlite"] {
        let folder = tempfile::tempdir().unwrap();
        let index = Index::open(folder.path(), "letters").unwrap();
        published(&index, &ward()).await;
        published(&index, &boiler()).await;
        damage(&current(folder.path()).join(file), "no longer what it was");
        let again = Index::open(folder.path(), "letters").unwrap();
        assert_eq!(ids(&again, search("wound")).await, ["t.a.x.01"], "{file}");
        drop(again);
        // And a new one is made beside it.
        let again = Index::open(folder.path(), "letters").unwrap();
        published(&again, &boiler()).await;
        let last = Index::open(folder.path(), "letters").unwrap();
        assert_eq!(ids(&last, search("valve")).await, ["t.a.x.02"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_with_no_good_edition_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let index = Index::open(folder.path(), "letters").unwrap();
    published(&index, &ward()).await;
    damage(&current(folder.path()).join("vectors"), "");
    let error = Index::open(folder.path(), "letters").err().unwrap();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("viva bank index --rebuild"), "{error}");
    // What is in use already stays so.
    assert_eq!(ids(&index, search("wound")).await, ["t.a.x.01"]);
    let blank = Index::blank(folder.path(), "letters");
    published(&blank, &ward()).await;
    assert_eq!(ids(&Index::open(folder.path(), "letters").unwrap(), search("wound")).await, ["t.a.x.01"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_another_embedder_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    published(&Index::open(folder.path(), "letters").unwrap(), &ward()).await;
    let edition = current(folder.path());
    let other = folder.path().join("index/syllables");
    fs::create_dir(&other).unwrap();
    fs::rename(edition, other.join("moved")).unwrap();
    let error = Index::open(folder.path(), "syllables").err().unwrap();
    let told = error.to_string();
    assert!(matches!(error, StoreError::OtherEmbedder { .. }), "{told}");
    assert!(
        told.contains("letters") && told.contains("syllables") && told.contains("viva bank index"),
        "{told}"
    );
    // Two embedders side by side do not disturb each other.
    let index = Index::open(folder.path(), "words").unwrap();
    assert_eq!(index.edition().await.unwrap(), None);
    let error = publish(&bank(&ward()), &Letters("letters"), &index, false, |_| {}).await.unwrap_err();
    assert!(matches!(error, StoreError::OtherEmbedder { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_published_leaves_the_last_good_index_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let index = Index::open(folder.path(), "letters").unwrap();
    published(&index, &ward()).await;
    let before = current(folder.path());

    let error = publish(&Bank::default(), &Letters("letters"), &index, false, |_| {}).await.unwrap_err();
    assert!(error.to_string().contains("no question"), "{error}");
    // Another process is at it.
    let lock = fs::File::create(folder.path().join("index/letters/.lock")).unwrap();
    lock.lock().unwrap();
    let error = publish(&bank(&boiler()), &Letters("letters"), &index, false, |_| {}).await.unwrap_err();
    assert!(matches!(error, StoreError::Busy(_)), "{error}");
    lock.unlock().unwrap();

    assert_eq!(current(folder.path()), before);
    for index in [&index, &Index::open(folder.path(), "letters").unwrap()] {
        assert_eq!(ids(index, search("wound")).await, ["t.a.x.01"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_build_left_is_swept_away() {
    let folder = tempfile::tempdir().unwrap();
    let left = folder.path().join("index/letters/.new-abc");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("vectors"), "half").unwrap();
    let index = Index::open(folder.path(), "letters").unwrap();
    assert_eq!(index.edition().await.unwrap(), None);
    published(&index, &ward()).await;
    assert!(!left.exists());
}

#[test]
fn a_name_in_current_leads_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("index/letters")).unwrap();
    for name in ["../..", "/etc", "a/b", "", "gone"] {
        fs::write(folder.path().join("index/letters/current"), name).unwrap();
        let opened = Index::open(folder.path(), "letters");
        assert!(opened.is_ok() || name == "gone" || name == "../..", "{name}");
    }
}

#[test]
fn a_broken_bank_names_the_line_and_what_to_do() {
    let good = to_lines(&ward());
    let read = |text: &str| Bank::default().add("my.jsonl", text).unwrap_err();
    for (broken, what) in [
        ("{\"id\": ", "not JSON"),
        (&good.replace("\"difficulty\":3", "\"difficulty\":9"), "1..=5"),
        (&good.replace("\"minutes\":3", "\"minutes\":0"), "minutes"),
        (&good.replace("\"technical\"", "\"cooking\""), "category"),
        (&good.replace("\"question\"", "\"qestion\""), "qestion"),
        (&good.replace("[\"Why?\",\"How?\"]", "[\"Why?\"]"), "probes"),
        (&good.replace("How do you dress a wound?", " "), "question is empty"),
        (&good.replace("How do you dress a wound?", "a\\u0000b"), "control character"),
        (&good.replace("How do you dress a wound?", &"x".repeat(500)), "500 characters"),
    ] {
        let text = format!("{good}\n{broken}").replacen("t.a.x.01", "t.a.x.00", 1);
        let error = read(&text);
        assert!(matches!(error, BankError::Line { line: 3, .. }), "{error}");
        assert!(
            error.to_string().contains(what) && error.to_string().contains("my.jsonl, line 3"),
            "{error}"
        );
    }
}

#[test]
fn a_duplicate_id_names_both_places() {
    let mut bank = Bank::default();
    bank.add("a.jsonl", &to_lines(&ward())).unwrap();
    let error = bank.add("b.jsonl", &to_lines(&ward())).unwrap_err().to_string();
    assert!(
        error.contains("a.jsonl:1") && error.contains("b.jsonl:1") && error.contains("t.a.x.01"),
        "{error}"
    );
    assert_eq!(bank.records().len(), 1);
    let twice = to_lines(&boiler()).repeat(2);
    let error = bank.add("c.jsonl", &twice).unwrap_err().to_string();
    assert!(error.contains("c.jsonl:1") && error.contains("c.jsonl:2"), "{error}");
    assert_eq!(bank.records().len(), 1, "nothing of a file with a broken line is taken");
}

#[test]
fn a_bank_of_another_schema_is_refused_before_its_fields() {
    let line = to_lines(&ward());
    for (found, text) in [
        ("0", line.replace(&format!("\"schema\":{SCHEMA}"), "\"schema\":0,\"skill\":\"x\"")),
        ("none", line.replace(&format!(",\"schema\":{SCHEMA}"), "")),
        ("\"1\"", line.replace(&format!("\"schema\":{SCHEMA}"), "\"schema\":\"1\"")),
    ] {
        let error = Bank::default().add("old.jsonl", &text).unwrap_err();
        assert!(matches!(&error, BankError::Schema { found: f, .. } if f == found), "{error}");
        assert!(error.to_string().contains("viva bank"), "{error}");
    }
}
