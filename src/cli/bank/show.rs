//! What `viva bank` prints.

use std::collections::BTreeMap;
use std::io::Write;

use comfy_table::{Table, presets};
use serde_json::json;

use crate::knowledge::bank::import::Report;
use crate::knowledge::bank::{Category, Record};
use crate::knowledge::eval::{Row, Scores};
use crate::knowledge::store::Hit;

/// Prints a line. A reader who has seen enough (`| head`) is no reason to fail.
macro_rules! say {
    ($($arg:tt)*) => {{ let _ = writeln!(std::io::stdout(), $($arg)*); }};
}

fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY).set_header(head);
    table
}

/// Questions by category and subcategory, with their levels.
pub fn stats(records: &[Record], as_json: bool) {
    type Counts = [usize; 4];
    let mut groups: BTreeMap<(Category, &str), (Counts, Vec<&str>)> = BTreeMap::new();
    for record in records {
        let (counts, topics) = groups.entry((record.category, &record.subcategory)).or_default();
        counts[record.level as usize] += 1;
        // Without the number: what is left names the block.
        topics.push(record.id.rsplit_once('.').map_or(&record.id[..], |(block, _)| block));
    }
    let mut shown =
        table(&["category", "subcategory", "questions", "topics", "junior", "mid", "senior", "lead"]);
    for ((category, subcategory), (counts, mut topics)) in groups {
        topics.sort_unstable();
        topics.dedup();
        let [junior, mid, senior, lead] = counts;
        let all: usize = counts.iter().sum();
        if as_json {
            say!(
                "{}",
                json!({
                    "category": category, "subcategory": subcategory, "questions": all, "topics": topics.len(),
                    "junior": junior, "mid": mid, "senior": senior, "lead": lead,
                })
            );
        } else {
            let numbers = [all, topics.len(), junior, mid, senior, lead].map(|n| n.to_string());
            shown.add_row([vec![category.to_string(), subcategory.to_owned()], numbers.to_vec()].concat());
        }
    }
    if !as_json {
        say!("{shown}\n{} questions", records.len());
    }
}

/// What was found.
pub fn hits(hits: &[Hit], as_json: bool) {
    for (n, hit) in hits.iter().enumerate() {
        let Hit { record, score, distance, dense_rank, text_rank } = hit;
        if as_json {
            let ranks = json!({"dense": dense_rank, "text": text_rank});
            say!("{}", json!({"distance": distance, "score": score, "ranks": ranks, "record": record}));
        } else {
            let Record { id, category, level, difficulty, .. } = record;
            say!("{}. {}", n + 1, record.question);
            say!("   {category}, {level}, difficulty {difficulty}, distance {distance:.2}, {id}");
        }
    }
    if hits.is_empty() && !as_json {
        say!("nothing was found");
    }
}

/// What became of an import.
pub fn report(report: &Report, into: &str, as_json: bool) {
    if as_json {
        say!("{}", json!({"into": into, "taken": report.taken, "rejected": report.rejected}));
        return;
    }
    for rejected in &report.rejected {
        say!("{}:{}: {}", rejected.origin, rejected.line, rejected.why);
        if !rejected.question.is_empty() {
            say!("    {}", rejected.question);
        }
    }
    say!("{} questions taken into {into:?}, {} rejected", report.taken.len(), report.rejected.len());
    if !report.taken.is_empty() {
        say!("they can be found after: viva bank index");
    }
}

/// How well questions are found.
pub fn scores(rows: &[Row], as_json: bool) {
    if as_json {
        say!("{}", json!(rows));
        return;
    }
    let mut shown = table(&["within", "half", "class", "category", "queries", "dense", "text", "fused"]);
    for row in rows {
        let name = |value: serde_json::Value| value.as_str().unwrap_or("all").to_owned();
        let cell = |s: &Scores| format!("{:.3} {:.3} {:.3}", s.hit_1, s.hit_5, s.ndcg_10);
        shown.add_row([
            name(json!(row.scope)),
            name(json!(row.half)),
            name(json!(row.class)),
            name(json!(row.category)),
            row.fused.queries.to_string(),
            cell(&row.dense),
            cell(&row.text),
            cell(&row.fused),
        ]);
    }
    say!("{shown}\neach: hit@1, hit@5, nDCG@10");
}
