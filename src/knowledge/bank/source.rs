//! The authored sources of the bank: `presets/questions/<category>/<file>.toml`.
//!
//! A file is a field of work, a group or an industry. Its blocks (skills, competencies, scenarios, themes) say
//! in lists what a good answer holds and where people go wrong; each question names by `uses` which of these it
//! is judged by: `c1` is the first concept, `p` a pitfall, `t` a trade-off, `s` a signal of mastery, `m` a move,
//! `o` a point.

use serde::Deserialize;

use super::record::Level;

/// `technical/<field>.toml`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// The file's name.
    pub field: String,
    /// For people.
    pub title: String,
    /// The industry it belongs to.
    pub industry: String,
    /// Its blocks.
    pub skill: Vec<Block>,
}

/// `behavioral/<group>.toml`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Competencies {
    /// The file's name.
    pub group: String,
    /// For people.
    pub title: String,
    /// Its blocks.
    pub competency: Vec<Block>,
}

/// `soft_skills/<group>.toml`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenarios {
    /// The file's name.
    pub group: String,
    /// For people.
    pub title: String,
    /// Its blocks.
    pub scenario: Vec<Block>,
}

/// `self_introduction/<industry>.toml`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Introductions {
    /// The file's name.
    pub industry: String,
    /// For people.
    pub title: String,
    /// Its blocks.
    pub theme: Vec<Block>,
}

/// Questions around one matter, and what their answers are judged by. Which lists there are depends on the
/// category.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// As a heading.
    pub name: String,
    /// Unique within the file.
    pub slug: String,
    /// What can be explained: "how ...", "why ...".
    #[serde(default)]
    pub concepts: Vec<String>,
    /// Where people go wrong, as gerunds.
    #[serde(default)]
    pub pitfalls: Vec<String>,
    /// "A against B".
    #[serde(default)]
    pub tradeoffs: Vec<String>,
    /// What an answer of somebody who knows shows, as sentences in the third person.
    #[serde(default)]
    pub signals: Vec<String>,
    /// What a good answer does, as imperatives in their order.
    #[serde(default)]
    pub moves: Vec<String>,
    /// What a good introduction covers, as imperatives in their order.
    #[serde(default)]
    pub points: Vec<String>,
    /// What a good story is set in.
    #[serde(default)]
    pub situations: Vec<String>,
    /// What had to be done: follows "They had to".
    #[serde(default)]
    pub tasks: Vec<String>,
    /// What was done: follows "They".
    #[serde(default)]
    pub actions: Vec<String>,
    /// What came of it, as clauses.
    #[serde(default)]
    pub results: Vec<String>,
    /// The questions.
    pub questions: Vec<Question>,
}

/// A question of a block.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// As it is said.
    pub ask: String,
    /// Whom it is for.
    pub level: Level,
    /// 1 to 5.
    pub difficulty: u8,
    /// What it is judged by.
    pub uses: String,
    /// The situation, task, action and result of a good story, by number.
    pub star: Option<String>,
    /// What may be asked after the answer.
    pub probes: [String; 2],
    /// How long an answer may take, where not the usual time.
    pub minutes: Option<u8>,
}

/// What a question is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Used<'a> {
    /// Something to explain.
    Concept(&'a str),
    /// Where people go wrong.
    Pitfall(&'a str),
    /// Two things to weigh.
    Tradeoff(&'a str),
    /// A sign of mastery.
    Signal(&'a str),
    /// A step of a good answer.
    Move(&'a str),
    /// A part of a good introduction.
    Point(&'a str),
}

impl Block {
    /// What a reference such as `c1` names.
    pub fn used(&self, reference: &str) -> Result<Used<'_>, String> {
        let (letter, number) = reference.split_at_checked(1).unwrap_or((reference, ""));
        type Wrap = for<'a> fn(&'a str) -> Used<'a>;
        let (list, wrap): (&[String], Wrap) = match letter {
            "c" => (&self.concepts, |text| Used::Concept(text)),
            "p" => (&self.pitfalls, |text| Used::Pitfall(text)),
            "t" => (&self.tradeoffs, |text| Used::Tradeoff(text)),
            "s" => (&self.signals, |text| Used::Signal(text)),
            "m" => (&self.moves, |text| Used::Move(text)),
            "o" => (&self.points, |text| Used::Point(text)),
            _ => return Err(format!("{reference:?} names no list; it must begin with c, p, t, s, m or o")),
        };
        nth(list, number).map(wrap).ok_or_else(|| {
            format!(
                "{reference:?} names nothing: the list {letter} of {} has {} entries",
                self.slug,
                list.len()
            )
        })
    }

    /// The story that `star` names: situation, task, action, result.
    pub fn story(&self, star: &str) -> Result<[&str; 4], String> {
        let numbers: Vec<&str> = star.split_whitespace().collect();
        let lists = [&self.situations, &self.tasks, &self.actions, &self.results];
        let numbers: [&str; 4] =
            numbers.try_into().map_err(|_| format!("star is {star:?}; it must be four numbers"))?;
        let mut story = [""; 4];
        for ((part, list), number) in story.iter_mut().zip(lists).zip(numbers) {
            *part = nth(list, number).ok_or_else(|| {
                format!("star is {star:?}: {number} names nothing, {} entries are there", list.len())
            })?;
        }
        Ok(story)
    }
}

/// An entry by its number as text, from 1.
fn nth<'a>(list: &'a [String], number: &str) -> Option<&'a str> {
    let at = number.parse::<usize>().ok()?.checked_sub(1)?;
    list.get(at).map(String::as_str)
}
