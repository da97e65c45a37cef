//! Which question comes next: what is looked for, and which of those found is asked.

use std::ops::RangeInclusive;

use crate::knowledge::bank::{Category, Level, Record};
use crate::knowledge::store::Filter;

use super::plan::{Plan, Section};
use super::words::{overlap, same};

/// Candidates that are looked for: enough that some are left when those asked and their neighbours are gone.
pub const CANDIDATES: usize = 24;

/// Characters of the candidate's words in a query: its first third decides a vector, and an embedder reads no more
/// than some hundred words.
const WORDS_CHARS: usize = 320;

/// How far a question's difficulty may be from what the answers ask for.
const SPAN: f32 = 1.5;

/// Places a candidate loses for a step of difficulty it is off, and for being of a topic that was had.
const OFF_COSTS: f32 = 4.0;
const HAD_COSTS: f32 = 8.0;

/// A question that shares so much of its subject with one asked before is its neighbour.
const NEIGHBOUR: f32 = 0.6;

/// What is looked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// For which part.
    pub section: Section,
    /// In words.
    pub text: String,
    /// Among these.
    pub filter: Filter,
    /// The same with less asked of it, where nothing is found.
    pub wider: Filter,
}

/// What is known when a question is looked for.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The part.
    pub section: Section,
    /// Of which questions.
    pub category: Category,
    /// What the answers ask for, 1..5.
    pub ability: f32,
    /// Ids of what was asked.
    pub asked: &'a [String],
    /// What the candidate said last.
    pub said: &'a str,
}

/// What to look for.
pub fn query(context: &Context<'_>) -> Query {
    let conduct = &context.plan.conduct;
    let words = clipped(context.said);
    let text = match context.category {
        Category::SelfIntroduction => format!("{} introducing yourself", conduct.role),
        Category::Technical => format!("{} {words}", conduct.role),
        Category::Behavioral | Category::SoftSkills => match words {
            "" => format!("{} at work with others", conduct.role),
            words => format!("{words} {}", conduct.role),
        },
    };
    let filter = Filter {
        category: Some(context.category),
        // The n-th technical question is of the n-th field, so that a role with two of them gets both.
        subcategory: (context.category == Category::Technical && !conduct.fields.is_empty())
            .then(|| conduct.fields[context.asked.len() % conduct.fields.len()].clone()),
        industry: (context.category == Category::SelfIntroduction)
            .then(|| conduct.industry.clone())
            .flatten(),
        levels: levels(conduct.level),
        difficulty: difficulty(context.ability),
        exclude: context.asked.to_vec(),
        ..Filter::default()
    };
    let wider = Filter {
        category: Some(context.category),
        exclude: context.asked.to_vec(),
        subcategory: filter.subcategory.clone(),
        ..Filter::default()
    };
    Query { section: context.section, text, filter, wider }
}

/// As many of the words as count, from their end, where the news is.
fn clipped(said: &str) -> &str {
    let said = said.trim();
    let Some((from, _)) = said.char_indices().rev().nth(WORDS_CHARS) else { return said };
    said[from..].split_once(char::is_whitespace).map_or(&said[from..], |(_, rest)| rest)
}

/// A level with the one below it, which is never wrong to ask.
fn levels(level: Level) -> Vec<Level> {
    let at = Level::ALL.iter().position(|l| *l == level).unwrap_or_default();
    Level::ALL[at.saturating_sub(1)..=at].to_vec()
}

fn difficulty(ability: f32) -> RangeInclusive<u8> {
    let low = (ability - SPAN).ceil().clamp(1.0, 5.0) as u8;
    let high = (ability + SPAN).floor().clamp(1.0, 5.0) as u8;
    low..=high.max(low)
}

/// How difficult an interview begins.
pub fn first_ability(level: Level) -> f32 {
    match level {
        Level::Junior => 2.0,
        Level::Mid => 2.5,
        Level::Senior => 3.5,
        Level::Lead => 4.0,
    }
}

/// The topic a record is of: its id without the number.
pub fn topic(id: &str) -> &str {
    id.rsplit_once('.').map_or(id, |(topic, _)| topic)
}

/// The one to ask: the best that is neither asked nor a neighbour of what was asked.
pub fn choose<'a>(
    found: &'a [Record],
    category: Category,
    ability: f32,
    asked: &[String],
    texts: &[String],
    had: &[String],
) -> Option<&'a Record> {
    let fresh = |record: &&Record| {
        record.category == category
            && !asked.contains(&record.id)
            && !asked.iter().any(|id| topic(id) == topic(&record.id))
            && !texts
                .iter()
                .any(|text| same(text, &record.question) || overlap(text, &record.question) > NEIGHBOUR)
    };
    let cost = |rank: usize, record: &Record| {
        let off = (f32::from(record.difficulty) - ability).abs();
        let again = category != Category::Technical && had.contains(&record.subcategory);
        rank as f32 + off * OFF_COSTS + if again { HAD_COSTS } else { 0.0 }
    };
    found
        .iter()
        .filter(fresh)
        .enumerate()
        .min_by(|(i, a), (j, b)| cost(*i, a).total_cmp(&cost(*j, b)))
        .map(|(_, record)| record)
}

/// Fields a role is asked about at most.
pub const FIELDS_MAX: usize = 2;

/// The fields a role is asked about: those most of the questions found for it are of.
pub fn fields(found: &[Record]) -> Vec<String> {
    // A second field has to have at least a third of them: one stray hit makes no trade.
    let least = found.len().div_ceil(3).max(2);
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for record in found {
        match counts.iter_mut().find(|(field, _)| *field == record.subcategory) {
            Some((_, count)) => *count += 1,
            None => counts.push((&record.subcategory, 1)),
        }
    }
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let enough = counts.iter().enumerate().filter(|(i, (_, count))| *i == 0 || *count >= least);
    enough.take(FIELDS_MAX).map(|(_, (field, _))| (*field).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::interview::plan::{Conduct, Wanted};
    use crate::knowledge::bank::Bank;

    #[test]
    fn what_was_asked_and_its_neighbours_are_never_chosen() {
        let bank = Bank::general().unwrap();
        let records: Vec<Record> =
            bank.records().iter().filter(|r| r.subcategory == "nursing").cloned().collect();
        let (mut asked, mut texts) = (Vec::new(), Vec::<String>::new());
        while let Some(record) = choose(&records, Category::Technical, 3.0, &asked, &texts, &[]) {
            assert!(!asked.iter().any(|id: &String| topic(id) == topic(&record.id)), "{}", record.id);
            assert!(!texts.iter().any(|text| same(text, &record.question)), "{}", record.question);
            asked.push(record.id.clone());
            texts.push(record.question.clone());
        }
        assert!(asked.len() >= 8, "a field lasts for an hour: {asked:?}");
    }

    #[test]
    fn difficulty_follows_what_is_asked_for() {
        let bank = Bank::general().unwrap();
        let records: Vec<Record> =
            bank.records().iter().filter(|r| r.subcategory == "teaching").cloned().collect();
        let chosen =
            |ability| choose(&records, Category::Technical, ability, &[], &[], &[]).unwrap().difficulty;
        assert!(chosen(1.0) < chosen(5.0));
        assert_eq!((difficulty(1.0), difficulty(2.5), difficulty(5.0)), (1..=2, 1..=4, 4..=5));
    }

    #[test]
    fn a_query_holds_what_was_said_last_and_no_more_than_counts() {
        let wanted = Wanted { role: Some("nurse".into()), ..Wanted::default() };
        let plan = Plan::new("friendly", &Conduct::default(), wanted).unwrap();
        let said = format!("{} the drip stopped", "word ".repeat(1_000));
        let context = Context {
            plan: &plan,
            section: Section::Technical,
            category: Category::Technical,
            ability: 2.5,
            asked: &["t.nursing.infection-prevention.02".into()],
            said: &said,
        };
        let query = query(&context);
        assert!(query.text.starts_with("nurse ") && query.text.ends_with("the drip stopped"));
        assert!(query.text.len() < 400, "{}", query.text.len());
        assert_eq!(query.filter.levels, [Level::Junior, Level::Mid]);
        assert_eq!(query.filter.exclude.len(), 1);
    }
}
