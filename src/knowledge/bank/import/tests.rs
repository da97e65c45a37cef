#![allow(clippy::unwrap_used)]
use super::formats::read;
use super::*;

fn drafts(ending: &str, text: &str) -> Vec<formats::Read> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(format!("list.{ending}"));
    fs::write(&path, text).unwrap();
    read(&path).unwrap()
}

fn refused(ending: &str, bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(format!("list.{ending}"));
    fs::write(&path, bytes).unwrap();
    read(&path).unwrap_err().to_string()
}

#[test]
fn json_lines_are_read_under_other_peoples_names() {
    let read = drafts(
        "jsonl",
        "{\"text\": \"Why?\", \"topic\": \"x\", \"follow_ups\": [\"a\", \"b\"], \"difficulty\": 3, \"own\": {}}\n\n\
         {\"question\": 7, \"level\": null}\n[1]\nnonsense\n{\"tags\": [1]}\n{\"question\": {}}\n",
    );
    // A field of a name we do not know may hold anything, but must be of a kind we can read.
    assert!(read[0].as_ref().unwrap_err().why.contains("own"));
    assert_eq!(read[1].as_ref().unwrap().question, "7");
    let whys: Vec<(usize, &str)> =
        read[2..].iter().map(|r| r.as_ref().unwrap_err()).map(|r| (r.line, &r.why[..])).collect();
    assert!(whys[0] == (4, "it is not an object with the fields of a question"));
    assert!(whys[1].0 == 5 && whys[1].1.starts_with("it is not JSON"));
    assert!(whys[2].1.contains("tags") && whys[3].1.contains("question"));
}

#[test]
fn csv_is_read_by_its_columns_whatever_parts_them() {
    for (delimiter, list) in [(',', '|'), (';', '|'), ('\t', ';')] {
        let text = format!(
            "Question{delimiter}Seniority{delimiter}Follow ups{delimiter}Price\n\"Why, then?\"{delimiter}lead{delimiter}One?{list}Two?{delimiter}9\n"
        );
        let read = drafts("csv", &text);
        let draft = read[0].as_ref().unwrap();
        assert_eq!(
            (&draft.question[..], draft.level.as_deref(), draft.line),
            ("Why, then?", Some("lead"), 2)
        );
        assert_eq!(draft.probes, ["One?", "Two?"]);
    }
    assert!(refused("csv", b"a,b\n1,2\n").contains("column \"question\""));
    assert!(refused("csv", b"").contains("column \"question\""));
}

#[test]
fn markdown_gives_items_with_their_headings_and_probes() {
    let read = drafts(
        "md",
        "# Kitchens\nSome text.\n## Knives\n- How do you **sharpen** one?\n  - And when?\n1. Which first?\n```\n- code\n```\n# Bars\n* Last?\n",
    );
    let read: Vec<&Draft> = read.iter().map(|draft| draft.as_ref().unwrap()).collect();
    assert_eq!(read.len(), 3);
    assert_eq!(
        (&read[0].question[..], &read[0].probes[..]),
        ("How do you sharpen one?", &["And when?".to_owned()][..])
    );
    assert_eq!(read[0].tags, ["kitchens", "knives"]);
    assert_eq!((&read[1].question[..], read[1].line), ("Which first?", 6));
    assert_eq!(read[2].tags, ["bars"]);
}

#[test]
fn a_file_that_is_no_list_is_refused_as_a_whole() {
    assert!(refused("jsonl", b"{\"question\": \"caf\xe9\"}").contains("byte 17"));
    assert!(refused("pdf", b"%PDF").contains(".jsonl, .csv, .tsv and .md"));
    assert!(read(Path::new("no/such.csv")).unwrap_err().to_string().contains("no/such.csv"));
}

#[test]
fn a_question_is_put_in_one_spoken_line() {
    assert_eq!(
        spoken("  Why\n do  you \u{201c}ship\u{201d} it \u{2014} now"),
        "Why do you \"ship\" it - now?"
    );
    assert_eq!(spoken("Tell me about it"), "Tell me about it.");
    assert_eq!(spoken("Explain it."), "Explain it.");
    assert_eq!(spoken("  "), "");
}

#[test]
fn names_of_banks_lead_nowhere_else() {
    for bad in ["", "..", "a/b", "-x", "A", &"x".repeat(41)] {
        assert!(check_name(bad).is_err(), "{bad}");
    }
    check_name("my-bank-2").unwrap();
}

#[test]
fn a_field_that_cannot_be_read_rejects_the_question() {
    for (draft, what) in [
        (Draft { category: Some("cooking".into()), ..Draft::default() }, "cooking"),
        (Draft { level: Some("boss".into()), ..Draft::default() }, "boss"),
        (Draft { difficulty: Some("hard".into()), ..Draft::default() }, "hard"),
        (Draft { minutes: Some("-1".into()), ..Draft::default() }, "-1"),
        (Draft { subcategory: Some("???".into()), ..Draft::default() }, "???"),
    ] {
        let why = Told::default().read(&draft).unwrap_err();
        assert!(why.contains(what), "{why}");
    }
    let draft = Draft {
        category: Some("Soft Skills".into()),
        subcategory: Some("My Team/2".into()),
        ..Draft::default()
    };
    let mut told = Told::default();
    told.read(&draft).unwrap();
    assert_eq!((told.category, told.subcategory.as_deref()), (Some(Category::SoftSkills), Some("my-team-2")));
}
