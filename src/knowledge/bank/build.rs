//! From the authored sources to records: `viva bank build`. The same sources always give the same text.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::record::{Category, Record, SCHEMA};
use super::source::{Block, Competencies, Field, Introductions, Question, Scenarios, Used};
use super::{Bank, BankError, to_lines};

/// The bank's file, beside the folders of its sources.
pub const BANK_FILE: &str = "bank.jsonl";

/// How long an answer may take unless its source says otherwise: two minutes of answer and one of follow-up.
const MINUTES: u8 = 3;

/// The same for an introduction, which bores after two.
const MINUTES_INTRODUCTION: u8 = 2;

/// Files of one category: an order of magnitude more than there are.
const FILES_MAX: usize = 1_000;

/// A source of any category.
struct Source {
    category: Category,
    subcategory: String,
    title: String,
    industry: Option<String>,
    blocks: Vec<Block>,
}

/// All records of the sources in `folder`, sorted by id.
pub fn build(folder: &Path) -> Result<Vec<Record>, BankError> {
    let mut records = Vec::new();
    for category in Category::ALL {
        for path in sources(&folder.join(category.name()))? {
            let wrong = |what| BankError::Source { path: path.clone(), what };
            let source = read(category, &path)?;
            if path.file_stem().is_none_or(|stem| stem != source.subcategory.as_str()) {
                return Err(wrong(format!(
                    "it calls itself {:?}, which is not its name",
                    source.subcategory
                )));
            }
            let mut slugs = HashSet::new();
            for block in &source.blocks {
                if !slugs.insert(&block.slug) {
                    return Err(wrong(format!("two blocks have the slug {:?}", block.slug)));
                }
                for (n, question) in block.questions.iter().enumerate() {
                    let record = record(&source, block, n + 1, question).and_then(|record| {
                        record.check()?;
                        Ok(record)
                    });
                    let told = |what| wrong(format!("{}, question {}: {what}", block.slug, n + 1));
                    records.push(record.map_err(told)?);
                }
            }
        }
    }
    records.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(records)
}

/// The text of the bank that the sources in `folder` give.
pub fn text(folder: &Path) -> Result<String, BankError> {
    let text = to_lines(&build(folder)?);
    // Read as it will be: what cannot be read again must not be written.
    let mut bank = Bank::default();
    bank.add(&folder.join(BANK_FILE).display().to_string(), &text)?;
    bank.filled(&folder.display().to_string())?;
    Ok(text)
}

fn sources(folder: &Path) -> Result<Vec<PathBuf>, BankError> {
    let failed = |error| BankError::Read { path: folder.to_owned(), error };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)?.take(FILES_MAX) {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|ending| ending == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(category: Category, path: &Path) -> Result<Source, BankError> {
    let text =
        std::fs::read_to_string(path).map_err(|error| BankError::Read { path: path.to_owned(), error })?;
    Ok(match category {
        Category::Technical => {
            let Field { field, title, industry, skill } = parse(path, &text)?;
            Source { category, subcategory: field, title, industry: Some(industry), blocks: skill }
        }
        Category::Behavioral => {
            let Competencies { group, title, competency } = parse(path, &text)?;
            Source { category, subcategory: group, title, industry: None, blocks: competency }
        }
        Category::SoftSkills => {
            let Scenarios { group, title, scenario } = parse(path, &text)?;
            Source { category, subcategory: group, title, industry: None, blocks: scenario }
        }
        Category::SelfIntroduction => {
            let Introductions { industry, title, theme } = parse(path, &text)?;
            Source { category, subcategory: industry.clone(), title, industry: Some(industry), blocks: theme }
        }
    })
}

fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, BankError> {
    let what = |error: toml::de::Error| BankError::Source { path: path.to_owned(), what: error.to_string() };
    toml::from_str(text).map_err(what)
}

fn record(source: &Source, block: &Block, number: usize, question: &Question) -> Result<Record, String> {
    let used: Vec<Used> =
        question.uses.split_whitespace().map(|reference| block.used(reference)).collect::<Result<_, _>>()?;
    let mut outline = Vec::new();
    match (source.category, &question.star) {
        (Category::Behavioral, Some(star)) => {
            let [situation, task, action, result] = block.story(star)?;
            outline.push(format!("Situation: {situation}"));
            outline.push(format!("Task: they had to {task}"));
            outline.push(format!("Action: they {action}"));
            outline.push(format!("Result: {result}"));
        }
        (Category::Behavioral, None) => return Err("it has no star".into()),
        (_, Some(_)) => return Err("it has a star, which only behavioral questions have".into()),
        (_, None) => outline.extend(in_order(&used).map(step)),
    }
    let introduction = source.category == Category::SelfIntroduction;
    Ok(Record {
        id: format!("{}.{}.{}.{number:02}", source.category.letter(), source.subcategory, block.slug),
        category: source.category,
        subcategory: source.subcategory.clone(),
        industry: source.industry.clone(),
        level: question.level,
        difficulty: question.difficulty,
        question: question.ask.clone(),
        criteria: used.iter().map(|used| criterion(source.category, *used)).collect(),
        outline,
        probes: question.probes.clone(),
        tags: vec![source.title.to_lowercase(), block.name.to_lowercase()],
        minutes: question.minutes.unwrap_or(if introduction { MINUTES_INTRODUCTION } else { MINUTES }),
        focus_area: None,
        rationale: None,
        owner: None,
        schema: SCHEMA,
    })
}

/// What an answer is judged by, as a sentence about the candidate.
fn criterion(category: Category, used: Used) -> String {
    match used {
        Used::Concept(text) => format!("Explains {text}"),
        // In an account of what was done a trap shows by not being stepped into.
        Used::Pitfall(text) if category == Category::Technical => format!("Knows the trap of {text}"),
        Used::Pitfall(text) => format!("Avoids {}", of_them(text)),
        Used::Tradeoff(text) => format!("Weighs {text}"),
        Used::Signal(text) => text.to_owned(),
        Used::Move(text) => format!("Would {}", of_them(text)),
        Used::Point(text) => observed(&of_them(text)),
    }
}

/// In the order an answer takes: what there is to say, what it is weighed against, where people go wrong, and
/// what shows mastery.
fn in_order<'a>(used: &[Used<'a>]) -> impl Iterator<Item = Used<'a>> {
    let mut used = used.to_vec();
    used.sort_by_key(|used| match used {
        Used::Concept(_) | Used::Move(_) | Used::Point(_) => 0,
        Used::Tradeoff(_) => 1,
        Used::Pitfall(_) => 2,
        Used::Signal(_) => 3,
    });
    used.into_iter()
}

/// A step of the outline, with what it is in front: what follows reads on as it stands in the source.
fn step(used: Used) -> String {
    match used {
        Used::Concept(text) => format!("Explain: {text}"),
        Used::Pitfall(text) => format!("Trap to avoid: {text}"),
        Used::Tradeoff(text) => format!("Weigh: {text}"),
        Used::Signal(text) => format!("Shows mastery: {}", lower_first(text)),
        Used::Move(text) | Used::Point(text) => format!("Step: {text}"),
    }
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_lowercase().collect::<String>());
    first.unwrap_or_default() + chars.as_str()
}

/// Words behind which "you" was the one something is done to.
const DONE_TO: [&str; 7] = ["", "to", "here", "about", "going", "in", "and"];

/// Speaks of somebody who was spoken to. It knows the sources' grammar, not English; a test reads the result.
fn of_them(text: &str) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    let told = words.iter().enumerate().map(|(i, word)| {
        let bare = word.trim_end_matches([',', ';']);
        let end = &word[bare.len()..];
        let next = if end.is_empty() { words.get(i + 1).copied().unwrap_or_default() } else { "" };
        let theirs = match bare {
            "your" => "their",
            "yours" => "theirs",
            "yourself" => "themselves",
            "you" if DONE_TO.contains(&next) || (i > 0 && words[i - 1] == "behind") => "them",
            "you" => "they",
            _ => return (*word).to_owned(),
        };
        format!("{theirs}{end}")
    });
    told.collect::<Vec<_>>().join(" ")
}

/// An imperative as what is seen when it is followed: "say what they sell" as "Says what they sell".
fn observed(imperative: &str) -> String {
    let (verb, rest) = imperative.split_once(' ').unwrap_or((imperative, ""));
    let verb = match verb {
        "be" => "is".to_owned(),
        _ if verb.ends_with(['s', 'x', 'o']) || verb.ends_with("ch") || verb.ends_with("sh") => {
            format!("{verb}es")
        }
        _ => format!("{verb}s"),
    };
    let told = format!("{verb} {rest}");
    let mut letters = told.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().collect::<String>());
    first.unwrap_or_default() + letters.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demand_becomes_what_is_seen() {
        for (demand, seen) in [
            ("say what they sell", "Says what they sell"),
            ("be open about a weakness", "Is open about a weakness"),
            ("go through their posts", "Goes through their posts"),
            ("trace training and jobs", "Traces training and jobs"),
        ] {
            assert_eq!(observed(demand), seen);
        }
    }

    #[test]
    fn what_was_said_to_you_is_said_of_them() {
        for (told, of) in [
            ("say what you sell and to whom", "say what they sell and to whom"),
            ("end with what brings you to this farm", "end with what brings them to this farm"),
            (
                "find out which meetings need you and for what",
                "find out which meetings need them and for what",
            ),
            (
                "own the part that was yours, and tell it yourself",
                "own the part that was theirs, and tell it themselves",
            ),
            ("learn what they could do without you", "learn what they could do without them"),
        ] {
            assert_eq!(of_them(told), of);
        }
    }
}
