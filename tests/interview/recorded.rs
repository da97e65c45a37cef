//! What real models wrote (`benches/rails.rs`), each with the verdict that a person has read: a change of the rails
//! that lets one of the bad ones through, or refuses a good one, shows here.

use serde::Deserialize;
use viva::interview::choice;
use viva::interview::rails::{Against, Wish, accept};
use viva::knowledge::bank::Bank;

#[derive(Deserialize)]
struct Row {
    question: String,
    answer: String,
    raw: String,
    verdict: String,
}

#[derive(Deserialize)]
struct Chosen {
    question: String,
    among: Vec<String>,
    answer: String,
    raw: String,
    verdict: String,
}

#[test]
fn what_models_chose_and_how_they_said_it_is_judged_as_a_person_has_read_it() {
    let bank = Bank::general().unwrap();
    let text = std::fs::read_to_string("tests/data/interview/choices.jsonl").unwrap();
    let mut refused = 0;
    for line in text.lines() {
        let row: Chosen = serde_json::from_str(line).unwrap();
        let of = |question: &String| bank.records().iter().find(|record| record.question == *question);
        // A question that was reworded since has nobody to be compared with.
        let few: Vec<_> = row.among.iter().filter_map(of).collect();
        if few.len() != row.among.len() {
            continue;
        }
        let chosen = choice::read(&row.raw, &few, &row.answer, std::slice::from_ref(&row.question)).unwrap();
        let verdict = match &chosen.wording {
            Ok(text) if *text == few[chosen.at].question => "bank".to_owned(),
            Ok(_) => "said".to_owned(),
            Err(why) => serde_json::to_value(why).unwrap().as_str().unwrap().to_owned(),
        };
        assert_eq!(verdict, row.verdict, "{} after {:?}", row.raw, row.answer);
        refused += usize::from(!matches!(verdict.as_str(), "said" | "bank"));
    }
    assert!(refused >= 20, "{refused} bad ones");
}

#[test]
fn what_models_wrote_is_judged_as_a_person_has_read_it() {
    let bank = Bank::general().unwrap();
    let text = std::fs::read_to_string("tests/data/interview/outputs.jsonl").unwrap();
    let mut refused = 0;
    for line in text.lines() {
        let row: Row = serde_json::from_str(line).unwrap();
        let record = bank.records().iter().find(|record| record.question == row.question);
        let papers = record.map_or(String::new(), |record| {
            format!("{} {}", record.criteria.join(" "), record.probes.join(" "))
        });
        let before = [row.question.clone()];
        let against = Against {
            asked: &row.question,
            papers: &papers,
            answer: &row.answer,
            before: &before,
            rephrases: false,
        };
        let verdict = match accept(&row.raw, &against) {
            Ok(Wish::Ask(_)) => "said".to_owned(),
            Ok(Wish::Next) => "next".to_owned(),
            Err(why) => serde_json::to_value(why).unwrap().as_str().unwrap().to_owned(),
        };
        assert_eq!(verdict, row.verdict, "{} after {:?}", row.raw, row.answer);
        refused += usize::from(!matches!(verdict.as_str(), "said" | "next"));
    }
    assert!(refused >= 10, "{refused} bad ones");
}
