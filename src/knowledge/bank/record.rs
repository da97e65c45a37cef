//! One question with all that an interviewer needs to ask it and to judge the answer.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Version of the record's form. A file of another version is refused.
pub const SCHEMA: u32 = 1;

/// Characters of a question: forty words, which a voice speaks in a quarter of a minute.
pub const QUESTION_CHARS_MAX: usize = 400;

/// Characters of any other text of a record.
const TEXT_CHARS_MAX: usize = 500;

/// Characters of an id, a subcategory or another name.
const NAME_CHARS_MAX: usize = 120;

/// Steps of an outline, and tags.
const LIST_MAX: usize = 12;

/// Minutes an answer may be given.
const MINUTES_MAX: u8 = 30;

/// The four kinds of questions. Each has a collection of its own in the index.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Category {
    Technical,
    Behavioral,
    SoftSkills,
    SelfIntroduction,
}

impl Category {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Technical, Self::Behavioral, Self::SoftSkills, Self::SelfIntroduction];

    /// Its name in records, queries and folders.
    pub fn name(self) -> &'static str {
        match self {
            Self::Technical => "technical",
            Self::Behavioral => "behavioral",
            Self::SoftSkills => "soft_skills",
            Self::SelfIntroduction => "self_introduction",
        }
    }

    /// The first letter of its records' ids.
    pub fn letter(self) -> &'static str {
        match self {
            Self::Technical => "t",
            Self::Behavioral => "b",
            Self::SoftSkills => "s",
            Self::SelfIntroduction => "i",
        }
    }

    /// The collection of its questions that belong to nobody.
    pub fn collection(self) -> &'static str {
        match self {
            Self::Technical => "general_technical_questions",
            Self::Behavioral => "general_behavioral_questions",
            Self::SoftSkills => "general_soft_skills_questions",
            Self::SelfIntroduction => "general_self_introduction_questions",
        }
    }
}

/// Whom a question is for.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Level {
    Junior,
    Mid,
    Senior,
    Lead,
}

impl Level {
    /// All of them, upwards.
    pub const ALL: [Self; 4] = [Self::Junior, Self::Mid, Self::Senior, Self::Lead];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Junior => "junior",
            Self::Mid => "mid",
            Self::Senior => "senior",
            Self::Lead => "lead",
        }
    }
}

/// A name that is none of those there are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no {kind} {found:?}; there are {known}")]
pub struct UnknownName {
    kind: &'static str,
    found: String,
    known: &'static str,
}

impl FromStr for Category {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        Self::ALL.into_iter().find(|category| category.name() == name).ok_or_else(|| UnknownName {
            kind: "category",
            found: shown(name),
            known: "technical, behavioral, soft_skills and self_introduction",
        })
    }
}

impl FromStr for Level {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        Self::ALL.into_iter().find(|level| level.name() == name).ok_or_else(|| UnknownName {
            kind: "level",
            found: shown(name),
            known: "junior, mid, senior and lead",
        })
    }
}

/// As much of a name as fits a message.
fn shown(name: &str) -> String {
    name.chars().take(60).collect()
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A question of a bank. The order of the fields is the order in its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Unique over all banks: `<letter>.<file>.<block>.<number>`.
    pub id: String,
    /// Which kind of question.
    pub category: Category,
    /// The field of a technical question, the group of another; an industry for introductions.
    pub subcategory: String,
    /// Where it matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub industry: Option<String>,
    /// Whom it is for.
    pub level: Level,
    /// 1 to 5.
    pub difficulty: u8,
    /// What is asked, as it is said aloud.
    pub question: String,
    /// What an answer is judged by: 3 to 5 sentences without a full stop, each observable in an answer.
    pub criteria: Vec<String>,
    /// A good answer in steps; of a behavioural one Situation, Task, Action and Result.
    pub outline: Vec<String>,
    /// What may be asked after the answer.
    pub probes: [String; 2],
    /// Words to find it by, in lower case: its field and its topic.
    pub tags: Vec<String>,
    /// How long an answer may take.
    pub minutes: u8,
    /// Of a bank made for one person: what of them it aims at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub focus_area: Option<String>,
    /// Why it is in the bank, where that is not plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rationale: Option<String>,
    /// Whose it is; nobody's are everybody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Version of this form.
    pub schema: u32,
}

impl Record {
    /// Whether every field is within its bounds; else which is not.
    pub fn check(&self) -> Result<(), String> {
        within("id", &self.id, NAME_CHARS_MAX)?;
        within("subcategory", &self.subcategory, NAME_CHARS_MAX)?;
        within("question", &self.question, QUESTION_CHARS_MAX)?;
        if !(1..=5).contains(&self.difficulty) {
            return Err(format!("difficulty is {}; it must be in 1..=5", self.difficulty));
        }
        if !(3..=5).contains(&self.criteria.len()) {
            return Err(format!("it has {} criteria; there must be 3 to 5", self.criteria.len()));
        }
        if !(1..=LIST_MAX).contains(&self.outline.len()) {
            return Err(format!(
                "its outline has {} steps; there must be 1 to {LIST_MAX}",
                self.outline.len()
            ));
        }
        if self.tags.len() > LIST_MAX {
            return Err(format!("it has {} tags; there may be {LIST_MAX}", self.tags.len()));
        }
        if !(1..=MINUTES_MAX).contains(&self.minutes) {
            return Err(format!("minutes is {}; it must be in 1..={MINUTES_MAX}", self.minutes));
        }
        let lists: [(&str, &[String]); 4] = [
            ("criteria", &self.criteria),
            ("outline", &self.outline),
            ("probes", &self.probes),
            ("tags", &self.tags),
        ];
        for (name, list) in lists {
            list.iter().try_for_each(|text| within(name, text, TEXT_CHARS_MAX))?;
        }
        let optional = [
            ("industry", &self.industry, NAME_CHARS_MAX),
            ("owner", &self.owner, NAME_CHARS_MAX),
            ("focus_area", &self.focus_area, TEXT_CHARS_MAX),
            ("rationale", &self.rationale, TEXT_CHARS_MAX),
        ];
        for (name, text, max) in optional {
            text.as_deref().map_or(Ok(()), |text| within(name, text, max))?;
        }
        Ok(())
    }
}

fn within(name: &str, text: &str, max: usize) -> Result<(), String> {
    match text.chars().count() {
        _ if text.trim().is_empty() => Err(format!("{name} is empty")),
        _ if text.chars().any(char::is_control) => Err(format!("{name} has a control character in it")),
        n if n > max => Err(format!("{name} has {n} characters; there may be {max}")),
        _ => Ok(()),
    }
}
