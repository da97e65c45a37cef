//! Which question comes next: what is looked for, and which of those found is asked.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::LazyLock;

use crate::knowledge::bank::{Category, Level, Record};
use crate::knowledge::store::Filter;

use super::find::own_records;
use super::plan::{Plan, Section};
use super::words::{overlap, same, tokens};

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

/// Questions there are to choose from: a small model that reads more of them in the second it has chooses by place.
pub const SHORTLIST: usize = 3;

/// Places by which the worst of them may be behind the best: whoever chooses gives up no more than two steps of
/// difficulty, or a topic that was had.
const BEHIND: f32 = 8.0;

/// Those whom some trades work with or for, and others never meet: in the singular, as [`meets`] looks for both.
const WHOM: [&str; 16] = [
    "customer",
    "client",
    "guest",
    "patient",
    "pupil",
    "student",
    "passenger",
    "buyer",
    "supplier",
    "tenant",
    "visitor",
    "shopper",
    "borrower",
    "shopkeeper",
    "resident",
    "parent",
];

/// Where somebody has been who has not worked yet. Questions for beginners offer it beside a job.
const BEFORE_WORK: [&str; 4] = ["school", "club", "class", "classmate"];

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
            .then(|| industry(context.plan).map(str::to_owned))
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

/// What decides which of the questions found may be asked.
#[derive(Debug, Clone, Copy)]
pub struct Table<'a> {
    /// Of which questions.
    pub category: Category,
    /// What the answers ask for, 1..5.
    pub ability: f32,
    /// The plan.
    pub plan: &'a Plan,
    /// Ids of what was asked.
    pub asked: &'a [String],
    /// Its words.
    pub texts: &'a [String],
    /// Its topics.
    pub had: &'a [String],
}

/// Those worth asking, best first: neither asked nor a neighbour of what was asked, about people this trade meets, of
/// a difficulty the answers ask for.
pub fn shortlist<'a>(found: &'a [Record], table: &Table<'_>) -> Vec<&'a Record> {
    let fresh = |record: &&Record| {
        record.category == table.category
            && !table.asked.contains(&record.id)
            && !table.asked.iter().any(|id| topic(id) == topic(&record.id))
            && !table
                .texts
                .iter()
                .any(|text| same(text, &record.question) || overlap(text, &record.question) > NEIGHBOUR)
            && fits(record, table.plan)
    };
    let cost = |rank: usize, record: &Record| {
        let off = (f32::from(record.difficulty) - table.ability).abs();
        let again = table.category != Category::Technical && table.had.contains(&record.subcategory);
        rank as f32 + off * OFF_COSTS + if again { HAD_COSTS } else { 0.0 }
    };
    let mut ranked: Vec<(f32, &Record)> =
        found.iter().filter(fresh).enumerate().map(|(rank, record)| (cost(rank, record), record)).collect();
    // Stable, so that of equals the nearer one comes first.
    ranked.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let most = ranked.first().map_or(0.0, |(best, _)| best + BEHIND);
    let mut chosen: Vec<&Record> = Vec::new();
    for (_, record) in ranked.into_iter().filter(|(cost, _)| *cost <= most) {
        // Two of one block are no choice.
        if chosen.len() < SHORTLIST && !chosen.iter().any(|other| topic(&other.id) == topic(&record.id)) {
            chosen.push(record);
        }
    }
    chosen
}

/// The industry of each field, as the bank names both: of whom only the role is known, the introduction is about that
/// role's industry. Without it a nurse was asked to introduce herself as a machinist would.
const INDUSTRIES: [(&str, &str); 31] = [
    ("accounting-and-audit", "accounting"),
    ("agriculture-and-environment", "agriculture"),
    ("backend-engineering", "software"),
    ("banking-and-insurance", "finance"),
    ("civil-engineering", "construction"),
    ("cloud-operations", "software"),
    ("data-engineering", "data"),
    ("electrical-trades-and-energy", "energy"),
    ("embedded-electronics", "electronics"),
    ("finance", "finance"),
    ("frontend-engineering", "software"),
    ("hospitality-and-culinary", "hospitality"),
    ("human-resources", "human-resources"),
    ("law-and-compliance", "law"),
    ("logistics", "logistics"),
    ("machine-learning", "data"),
    ("manufacturing-and-quality", "manufacturing"),
    ("marketing", "marketing"),
    ("mechanical-engineering", "mechanical-engineering"),
    ("mobile-engineering", "software"),
    ("networks-and-support", "telecom"),
    ("nursing", "healthcare"),
    ("pharmacy-and-laboratory", "pharma"),
    ("product-management", "software"),
    ("quality-assurance", "software"),
    ("retail-and-customer-service", "retail"),
    ("sales", "sales"),
    ("security-engineering", "cybersecurity"),
    ("social-and-public-services", "public-sector"),
    ("teaching", "education"),
    ("ux-design", "design"),
];

/// The industry of a plan: the one it names, else that of its first field.
pub fn industry(plan: &Plan) -> Option<&str> {
    let of =
        |field: &String| INDUSTRIES.iter().find(|(name, _)| name == field).map(|(_, industry)| *industry);
    plan.conduct.industry.as_deref().or_else(|| plan.conduct.fields.first().and_then(of))
}

/// Whether a question that is not about a trade speaks of nobody whom this one never meets, and of no school to who
/// has left it.
fn fits(record: &Record, plan: &Plan) -> bool {
    if record.category == Category::Technical {
        return true;
    }
    let conduct = &plan.conduct;
    if record.category == Category::SelfIntroduction
        && record.industry.is_some()
        && record.industry.as_deref() != industry(plan)
    {
        return false;
    }
    let words = tokens(&record.question);
    let speaks_of = |list: &[&'static str]| {
        list.iter().copied().filter(|one| words.iter().any(|word| is_of(word, one))).collect::<Vec<_>>()
    };
    let strangers = speaks_of(&WHOM).into_iter().any(|one| !meets(&conduct.fields, one));
    let too_young = conduct.level > Level::Junior
        && speaks_of(&BEFORE_WORK).into_iter().any(|one| !meets(&conduct.fields, one));
    !strangers && !too_young
}

/// Whether a word is this one or its plural.
fn is_of(word: &str, one: &str) -> bool {
    word.split('\'')
        .next()
        .unwrap_or(word)
        .strip_prefix(one)
        .is_some_and(|rest| matches!(rest, "" | "s" | "es"))
}

/// Of each field of Viva's own bank, whom its technical questions speak of. Who wrote a trade's questions wrote whom
/// it is about.
static MET: LazyLock<HashMap<String, HashSet<&'static str>>> = LazyLock::new(|| {
    let mut met: HashMap<String, HashSet<&'static str>> = HashMap::new();
    for record in own_records().filter(|record| record.category == Category::Technical) {
        let all = met.entry(record.subcategory.clone()).or_default();
        let words = tokens(&record.question);
        let spoken = WHOM.iter().chain(&BEFORE_WORK).filter(|one| words.iter().any(|word| is_of(word, one)));
        all.extend(spoken);
    }
    met
});

/// Whether somebody of these fields has to do with them. A field the bank does not know may have to do with anybody.
fn meets(fields: &[String], whom: &str) -> bool {
    let mut known = fields.iter().filter_map(|field| MET.get(field)).peekable();
    known.peek().is_none() || known.any(|met| met.contains(whom))
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

    fn plan(role: &str, level: Level, field: &str) -> Plan {
        let wanted = Wanted { role: Some(role.into()), level: Some(level), ..Wanted::default() };
        let mut plan = Plan::new("friendly", &Conduct::default(), wanted).unwrap();
        plan.conduct.fields = vec![field.into()];
        plan
    }

    fn table<'a>(
        plan: &'a Plan,
        category: Category,
        ability: f32,
        asked: &'a [String],
        texts: &'a [String],
    ) -> Table<'a> {
        Table { category, ability, plan, asked, texts, had: &[] }
    }

    fn first<'a>(found: &'a [Record], table: &Table<'_>) -> Option<&'a Record> {
        shortlist(found, table).first().copied()
    }

    #[test]
    fn nobody_is_asked_about_people_their_trade_never_meets_or_about_a_school_they_left() {
        let bank = Bank::general().unwrap();
        let asked = |question: &str, role: &str, level, field: &str| {
            let record = bank.records().iter().find(|record| record.question == question).unwrap();
            let plan = plan(role, level, field);
            let ability = f32::from(record.difficulty);
            !shortlist(std::slice::from_ref(record), &table(&plan, record.category, ability, &[], &[]))
                .is_empty()
        };
        // Both were said in the first interview that was held.
        let customers = "How did you let customers know that their suggestion had been taken up?";
        assert!(!asked(customers, "nurse", Level::Mid, "nursing"));
        assert!(asked(customers, "sales representative", Level::Mid, "sales"));
        assert!(asked(customers, "beekeeper", Level::Mid, "beekeeping"), "of which the bank knows nothing");
        let school =
            "Something went badly wrong on your shift or at your school or club. What did you do first?";
        assert!(!asked(school, "nurse", Level::Mid, "nursing"));
        assert!(asked(school, "nurse", Level::Junior, "nursing"));
    }

    #[test]
    fn an_introduction_is_about_the_industry_of_the_role_or_about_none() {
        let bank = Bank::general().unwrap();
        let introductions: Vec<Record> =
            bank.records().iter().filter(|r| r.category == Category::SelfIntroduction).cloned().collect();
        let of = |plan: &Plan| {
            let few = shortlist(&introductions, &table(plan, Category::SelfIntroduction, 2.5, &[], &[]));
            few.into_iter().filter_map(|record| record.industry.clone()).collect::<Vec<_>>()
        };
        let nurse = plan("nurse", Level::Mid, "nursing");
        assert!(!of(&nurse).is_empty() && of(&nurse).iter().all(|industry| industry == "healthcare"));
        assert!(
            of(&plan("beekeeper", Level::Mid, "beekeeping")).is_empty(),
            "the interviewer has lines of its own"
        );
        // Every field of the bank has one, and every one of them is there.
        let fields: HashSet<&str> = bank
            .records()
            .iter()
            .filter(|r| r.category == Category::Technical)
            .map(|r| r.subcategory.as_str())
            .collect();
        assert_eq!(fields, INDUSTRIES.iter().map(|(field, _)| *field).collect::<HashSet<_>>());
        for (field, industry) in INDUSTRIES {
            assert!(
                introductions.iter().any(|r| r.industry.as_deref() == Some(industry)),
                "{field}: {industry}"
            );
        }
    }

    #[test]
    fn those_to_choose_from_are_few_near_in_rank_and_of_different_topics() {
        let bank = Bank::general().unwrap();
        let plan = plan("nurse", Level::Mid, "nursing");
        // A few of each topic, as they are found.
        let nursing = bank.records().iter().filter(|r| r.subcategory == "nursing");
        let records: Vec<Record> = nursing.clone().step_by(5).cloned().collect();
        let asked = table(&plan, Category::Technical, 2.5, &[], &[]);
        let few = shortlist(&records, &asked);
        assert_eq!(few.len(), SHORTLIST);
        let topics: HashSet<&str> = few.iter().map(|record| topic(&record.id)).collect();
        assert_eq!(topics.len(), SHORTLIST);
        // One that is far too hard is no choice.
        let easy = nursing.clone().find(|r| r.difficulty == 2).unwrap();
        let hard = nursing.clone().find(|r| r.difficulty == 5 && topic(&r.id) != topic(&easy.id)).unwrap();
        let two = [easy.clone(), hard.clone()];
        assert_eq!(shortlist(&two, &Table { ability: 2.0, ..asked }).len(), 1);
    }

    #[test]
    fn what_was_asked_and_its_neighbours_are_never_chosen() {
        let bank = Bank::general().unwrap();
        let plan = plan("nurse", Level::Mid, "nursing");
        let records: Vec<Record> =
            bank.records().iter().filter(|r| r.subcategory == "nursing").cloned().collect();
        let (mut asked, mut texts) = (Vec::new(), Vec::<String>::new());
        while let Some(record) = first(&records, &table(&plan, Category::Technical, 3.0, &asked, &texts)) {
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
        let plan = plan("teacher", Level::Mid, "teaching");
        let chosen = |ability| {
            first(&records, &table(&plan, Category::Technical, ability, &[], &[])).unwrap().difficulty
        };
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
