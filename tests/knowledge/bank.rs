//! The bank itself: what the sources give, how much there is, and how it reads.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use viva::knowledge::bank::build::{BANK_FILE, text};
use viva::knowledge::bank::{Bank, Category, Level, screen};

/// Questions one sentence frame may stand behind, over the whole bank.
const FRAME_MAX: usize = 12;

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("presets/questions")
}

#[test]
fn the_committed_bank_is_what_the_sources_give() {
    let committed = std::fs::read_to_string(sources().join(BANK_FILE)).unwrap();
    let built = text(&sources()).unwrap();
    let differs = committed.lines().zip(built.lines()).find(|(committed, built)| committed != built);
    assert_eq!(differs, None, "run: viva bank build");
    assert_eq!(committed.len(), built.len(), "run: viva bank build");
}

#[test]
fn the_bank_is_as_large_and_as_wide_as_it_should_be() {
    let bank = Bank::general().unwrap();
    assert!(bank.records().len() >= 5_000, "{}", bank.records().len());
    let mut blocks: BTreeMap<Category, BTreeSet<&str>> = BTreeMap::new();
    let mut groups: BTreeMap<Category, BTreeSet<&str>> = BTreeMap::new();
    for record in bank.records() {
        blocks.entry(record.category).or_default().insert(record.id.rsplit_once('.').unwrap().0);
        groups.entry(record.category).or_default().insert(&record.subcategory);
    }
    let count = |of: &BTreeMap<Category, BTreeSet<&str>>, category| of[&category].len();
    assert!(count(&blocks, Category::Technical) >= 300 && count(&groups, Category::Technical) >= 25);
    assert!(count(&blocks, Category::Behavioral) >= 60);
    assert!(count(&blocks, Category::SoftSkills) >= 150);
    assert!(count(&groups, Category::SelfIntroduction) >= 30);
    for category in Category::ALL {
        for level in Level::ALL {
            let there = bank.records().iter().any(|r| r.category == category && r.level == level);
            assert!(there, "no {category} question for {level}");
        }
    }
}

#[test]
fn every_record_is_complete_and_named_after_its_place() {
    for record in Bank::general().unwrap().records() {
        record.check().unwrap();
        assert_eq!(record.owner, None);
        let parts: Vec<&str> = record.id.split('.').collect();
        let [letter, file, _, number] = parts[..] else { panic!("{}", record.id) };
        assert_eq!((letter, file), (record.category.letter(), &record.subcategory[..]));
        assert!(number.len() == 2 && number.chars().all(|c| c.is_ascii_digit()), "{}", record.id);
        let star = ["Situation: ", "Task: ", "Action: ", "Result: "];
        if record.category == Category::Behavioral {
            assert!(
                record.outline.iter().zip(star).all(|(step, name)| step.starts_with(name)),
                "{}",
                record.id
            );
            assert_eq!(record.outline.len(), 4);
        }
        let mut criteria = record.criteria.clone();
        criteria.sort();
        criteria.dedup();
        assert_eq!(criteria.len(), record.criteria.len(), "{}: a criterion stands twice", record.id);
    }
}

#[test]
fn every_question_can_be_said_aloud_and_touches_nothing_protected() {
    for record in Bank::general().unwrap().records() {
        assert_eq!(screen::unspeakable(&record.question), None, "{}", record.question);
        assert!(record.question.is_ascii(), "{}", record.question);
        for text in [&record.question, &record.probes[0], &record.probes[1]] {
            assert_eq!(screen::protected(text), None, "{text}");
        }
        for probe in &record.probes {
            let words = probe.split_whitespace().count();
            assert!((2..=25).contains(&words) && probe.ends_with(['?', '.']), "{probe}");
        }
    }
}

#[test]
fn criteria_speak_of_the_candidate() {
    for record in Bank::general().unwrap().records() {
        for criterion in &record.criteria {
            let first = criterion.chars().next().unwrap();
            assert!(first.is_uppercase() && !criterion.ends_with('.'), "{}: {criterion}", record.id);
            let first = criterion.split(' ').next().unwrap();
            let verb = first.ends_with('s') || ["Can", "Would"].contains(&first) || first.ends_with("ed");
            let told = [
                "Kept", "Told", "Got", "Chose", "Took", "Went", "Knew", "Said", "Had", "Found", "Brought",
                "Taught", "Gave",
            ];
            assert!(verb || told.contains(&first), "{}: {criterion}", record.id);
        }
    }
}

/// Words that hold a sentence together. What is left of a question without the others is its frame.
const GLUE: &str = "a an the of to in on at for with and or is are was were be been do does did you your i me my we us \
    our they them their it its this that these those what which who whom how when where why would could should can \
    will may might have has had about from by as if not no than then so there here into over after before up out \
    off one two tell walk describe give say";

#[test]
fn no_sentence_frame_stands_behind_more_than_twelve_questions() {
    let bank = Bank::general().unwrap();
    let glue: BTreeSet<&str> = GLUE.split_whitespace().collect();
    let mut frames: HashMap<String, Vec<&str>> = HashMap::new();
    for record in bank.records() {
        let question = record.question.to_lowercase();
        let words: Vec<&str> = question
            .split_whitespace()
            .map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()))
            .filter(|word| !word.is_empty())
            .collect();
        let masked: Vec<&str> =
            words.iter().map(|word| if glue.contains(word) { word } else { "#" }).collect();
        // A content word may be one word or three: "the # of" whatever its length.
        let mut short = masked.clone();
        short.dedup_by(|a, b| *a == "#" && *b == "#");
        let begins = words[..words.len().min(4)].join(" ");
        let ends = words[words.len().saturating_sub(3)..].join(" ");
        for frame in [format!("{begins} ..."), format!("... {ends}"), masked.join(" "), short.join(" ") + "."]
        {
            frames.entry(frame).or_default().push(&record.question);
        }
    }
    let worn: Vec<_> = frames.iter().filter(|(_, questions)| questions.len() > FRAME_MAX).collect();
    assert!(worn.is_empty(), "{worn:#?}");
}
