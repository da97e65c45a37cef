//! Imports: what is taken, what is rejected, and that nothing is ever half imported.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use viva::knowledge::Knowledge;
use viva::knowledge::bank::import::{ImportError, Report, import};
use viva::knowledge::bank::{Bank, Category, Record};
use viva::knowledge::index::Index;

use crate::{Letters, published, record};

/// Knowledge of a small bank.
async fn knowledge(folder: &Path) -> Knowledge {
    let mut records = Vec::new();
    for (n, what) in ["a wound", "a burn", "a fracture", "a bite"].iter().enumerate() {
        let question = format!("How do you dress {what} on the ward at night?");
        records.push(record(&format!("t.nursing.dressings.{n:02}"), Category::Technical, &question));
        let mut other = record(
            &format!("s.conflict.quarrels.{n:02}"),
            Category::SoftSkills,
            &format!("Two colleagues quarrel over {what}. Whom would you talk to?"),
        );
        other.subcategory = "conflict".into();
        records.push(other);
    }
    let store = Index::open(folder, "letters").unwrap();
    published(&store, &records).await;
    Knowledge::of(Arc::new(store), Arc::new(Letters("letters")), folder.to_owned())
}

fn list(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path
}

async fn take(knowledge: &Knowledge, files: &[PathBuf]) -> Result<Report, ImportError> {
    import(files, "mine", knowledge, |_, _| {}).await
}

fn why(report: &Report) -> Vec<(usize, &str)> {
    report.rejected.iter().map(|rejected| (rejected.line, &rejected.why[..])).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_classified_by_its_neighbours_and_borrows_what_it_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let knowledge = knowledge(folder.path()).await;
    let text = "# Wards\n- How do you dress a blister on the ward in the morning\n  - Who helps?\n";
    let report = take(&knowledge, &[list(folder.path(), "a.md", text)]).await.unwrap();
    assert_eq!(why(&report), []);
    let taken = &report.taken[0];
    assert_eq!(taken.question, "How do you dress a blister on the ward in the morning?");
    assert_eq!((taken.category, &taken.subcategory[..]), (Category::Technical, "nursing"));
    assert!(taken.id.starts_with("t.mine.nursing."), "{}", taken.id);
    assert_eq!(taken.tags, ["wards"]);
    let from = taken.rationale.as_deref().unwrap();
    assert!(from.contains("criteria") && from.contains("t.nursing.dressings."), "{from}");
    let bank = Bank::with_imported(folder.path()).unwrap();
    assert_eq!(bank.get(&taken.id), Some(taken));
    assert!(bank.records().len() > 5_000, "beside Viva's own");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_list_says_goes_before_what_the_bank_knows() {
    let folder = tempfile::tempdir().unwrap();
    let knowledge = knowledge(folder.path()).await;
    let text = "question,category,subcategory,level,difficulty,criteria,outline,probes,minutes,industry\n\
        How do you dress a cut on the ward at noon?,behavioral,First Aid,lead,5,Says a|Says b|Says c,Step: one,Why?|When?,7,Healthcare\n";
    let report = take(&knowledge, &[list(folder.path(), "a.csv", text)]).await.unwrap();
    let Record { category, subcategory, difficulty, minutes, rationale, industry, probes, .. } =
        &report.taken[0];
    assert_eq!(
        (*category, &subcategory[..], *difficulty, *minutes),
        (Category::Behavioral, "first-aid", 5, 7)
    );
    assert_eq!((rationale, industry.as_deref()), (&None, Some("healthcare")));
    assert_eq!(*probes, ["Why?", "When?"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rejection_says_where_and_why() {
    let folder = tempfile::tempdir().unwrap();
    let knowledge = knowledge(folder.path()).await;
    let text = [
        "{\"question\": \"How do you dress a wound on the ward at night?\"}",
        "{\"question\": \"How do you dress a sting on the ward at dusk?\"}",
        "{\"question\": \"How do you dress a sting on the ward at dusk?\"}",
        "{\"question\": \"Are you married, and how do you dress?\"}",
        "{\"question\": \"How do you dress `x` on the ward?\"}",
        "{\"question\": \"Zzyzx qqq jjj vvv?\"}",
        "{\"question\": \"How do you dress a rash on the ward?\", \"category\": \"cooking\"}",
        "{\"level\": \"lead\"}",
        "{\"question\": ",
    ];
    let report = take(&knowledge, &[list(folder.path(), "a.jsonl", &text.join("\n"))]).await.unwrap();
    assert_eq!(report.taken.len(), 1);
    let why = why(&report);
    let expected = [
        (1, "says the same as t.nursing.dressings.00"),
        (3, "which is in this import"),
        (4, "protected matter (married)"),
        (5, "nobody can say '`'"),
        (6, "nothing like it"),
        (7, "no category \"cooking\""),
        (8, "no question"),
        (9, "not JSON"),
    ];
    assert_eq!(why.len(), expected.len(), "{why:#?}");
    for (n, part) in expected {
        assert!(why.iter().any(|(line, why)| *line == n && why.contains(part)), "{n} {part}: {why:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_import_adds_only_what_is_new() {
    let folder = tempfile::tempdir().unwrap();
    let knowledge = knowledge(folder.path()).await;
    let one = "{\"question\": \"How do you dress a sting on the ward at dusk?\"}\n";
    let two =
        format!("{one}{{\"question\": \"Two colleagues quarrel over a window. Whom would you ask?\"}}\n");
    assert_eq!(take(&knowledge, &[list(folder.path(), "a.jsonl", one)]).await.unwrap().taken.len(), 1);
    let report = take(&knowledge, &[list(folder.path(), "a.jsonl", &two)]).await.unwrap();
    assert_eq!((report.taken.len(), report.taken[0].category), (1, Category::SoftSkills));
    assert!(why(&report)[0].1.contains("imported already"), "{report:?}");
    assert_eq!(Bank::of_file(&folder.path().join("banks/mine.jsonl")).unwrap().records().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_leaves_everything_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let knowledge = knowledge(folder.path()).await;
    let good =
        list(folder.path(), "a.jsonl", "{\"question\": \"How do you dress a sting on the ward at dusk?\"}\n");
    let bank = folder.path().join("banks/mine.jsonl");
    for bad in ["missing.csv", "list.pdf", "no-column.csv"] {
        list(folder.path(), "list.pdf", "%PDF");
        list(folder.path(), "no-column.csv", "a,b\n1,2\n");
        let error = take(&knowledge, &[good.clone(), folder.path().join(bad)]).await.unwrap_err();
        assert!(error.to_string().contains(bad), "{error}");
        assert!(!bank.exists(), "{bad}");
    }
    // A bank that is broken is not written over.
    fs::create_dir_all(bank.parent().unwrap()).unwrap();
    fs::write(&bank, "{\"schema\": 0}\n").unwrap();
    let error = take(&knowledge, std::slice::from_ref(&good)).await.unwrap_err().to_string();
    assert!(error.contains("mine.jsonl, line 1") && error.contains("schema 0"), "{error}");
    assert_eq!(fs::read_to_string(&bank).unwrap(), "{\"schema\": 0}\n");
    fs::remove_file(&bank).unwrap();
    let lock = fs::File::create(folder.path().join("banks/.lock")).unwrap();
    lock.lock().unwrap();
    assert!(matches!(take(&knowledge, std::slice::from_ref(&good)).await, Err(ImportError::Busy(_))));
    // Closing it would not do: a program that another test starts meanwhile may have it open for a moment.
    lock.unlock().unwrap();
    assert_eq!(take(&knowledge, &[good]).await.unwrap().taken.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_index_there_is_nothing_to_compare_with() {
    let folder = tempfile::tempdir().unwrap();
    let store = Index::open(folder.path(), "letters").unwrap();
    let knowledge = Knowledge::of(Arc::new(store), Arc::new(Letters("letters")), folder.path().to_owned());
    let good = list(folder.path(), "a.jsonl", "{\"question\": \"How do you dress a sting on the ward?\"}\n");
    let error = take(&knowledge, &[good]).await.unwrap_err().to_string();
    assert!(error.contains("viva bank index"), "{error}");
}
