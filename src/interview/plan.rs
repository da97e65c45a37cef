//! What an interview is to be: for whom, how long, which parts, and how much time each has.
//!
//! A part's time is not fixed at the beginning. When it begins it gets its share of what is left, so that whoever
//! talks long in one part takes a little from all that follow and not everything from the last.

use serde::{Deserialize, Serialize};

use crate::knowledge::bank::{Category, Level};

/// Minutes an interview may have: below, no part could hold an answer; above, nobody listens.
pub const MINUTES: std::ops::RangeInclusive<u32> = 4..=60;

/// Minutes of an interview of which nobody says how long.
pub const MINUTES_DEFAULT: u32 = 15;

/// Characters of a role: a job's title, not its description.
pub const ROLE_CHARS_MAX: usize = 80;

/// Milliseconds the greeting may take: two sentences and a yes.
const GREETING_MS: u64 = 22_000;

/// Milliseconds the close takes: two sentences.
pub const CLOSE_MS: u64 = 10_000;

/// Shares of the whole that the introduction and the candidate's own questions have.
const INTRODUCTION: f32 = 0.14;
const QUESTIONS: f32 = 0.10;

/// Milliseconds every part that is still to come has at least: a question and a short answer.
const PART_MIN_MS: u64 = 35_000;

/// Milliseconds an answer is given at the least, however late it is, and what is given beyond a part's end.
const ANSWER_MIN_MS: u64 = 20_000;
const ANSWER_BEYOND_MS: u64 = 25_000;

/// The shortest part's answer: in a part that has just begun nobody is stopped before.
const ANSWER_FAIR_MS: u64 = 75_000;

/// The parts of an interview, in their order.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Section {
    Greeting,
    SelfIntroduction,
    Behavioral,
    Technical,
    SoftSkills,
    /// The candidate's own.
    Questions,
    Close,
}

impl Section {
    /// All of them, in their order.
    pub const ALL: [Self; 7] = [
        Self::Greeting,
        Self::SelfIntroduction,
        Self::Behavioral,
        Self::Technical,
        Self::SoftSkills,
        Self::Questions,
        Self::Close,
    ];

    /// Where its questions lie in the bank.
    pub fn category(self) -> Option<Category> {
        match self {
            Self::SelfIntroduction => Some(Category::SelfIntroduction),
            Self::Behavioral => Some(Category::Behavioral),
            Self::Technical => Some(Category::Technical),
            Self::SoftSkills => Some(Category::SoftSkills),
            Self::Greeting | Self::Questions | Self::Close => None,
        }
    }
}

/// How an interviewer sounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Tone {
    #[default]
    Warm,
    Formal,
    Brisk,
}

/// How the middle of an interview is shared out. Only the proportions count; a part with 0 is left out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Mix {
    pub behavioral: f32,
    pub technical: f32,
    pub soft_skills: f32,
}

impl Default for Mix {
    fn default() -> Self {
        Self { behavioral: 1.0, technical: 1.0, soft_skills: 0.6 }
    }
}

/// How an interviewer conducts interviews, unless whoever asks for one says otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Conduct {
    /// The job.
    pub role: String,
    /// Whom it is for.
    pub level: Level,
    /// The trade, as the bank names it.
    pub industry: Option<String>,
    /// How long.
    pub minutes: u32,
    /// What of.
    pub mix: Mix,
    /// How it sounds.
    pub tone: Tone,
    /// Multiplies the silences that are waited for.
    pub patience: f32,
    /// Fields of the bank's technical questions; found by the role where there are none.
    pub fields: Vec<String>,
}

impl Default for Conduct {
    fn default() -> Self {
        Self {
            role: String::new(),
            level: Level::Mid,
            industry: None,
            minutes: MINUTES_DEFAULT,
            mix: Mix::default(),
            tone: Tone::default(),
            patience: 1.0,
            fields: Vec::new(),
        }
    }
}

/// An interview that is to be held: everything that does not change while it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Plan {
    /// The interviewer's name.
    pub interviewer: String,
    /// BCP-47 primary tag.
    pub language: String,
    /// The rest of it.
    #[serde(flatten)]
    pub conduct: Conduct,
}

impl Plan {
    /// Milliseconds of the whole.
    pub fn total_ms(&self) -> u64 {
        u64::from(self.conduct.minutes) * 60_000
    }

    /// The parts it has, in their order.
    pub fn sections(&self) -> impl Iterator<Item = Section> + '_ {
        Section::ALL.into_iter().filter(|section| self.weight(*section) > 0.0)
    }

    /// The part after this one.
    pub fn after(&self, section: Section) -> Section {
        self.sections().find(|next| *next > section).unwrap_or(Section::Close)
    }

    /// A part's share of the time, compared with the others'.
    fn weight(&self, section: Section) -> f32 {
        let mix = &self.conduct.mix;
        let middle = (mix.behavioral + mix.technical + mix.soft_skills).max(f32::EPSILON);
        let of_middle = |share: f32| share / middle * (1.0 - INTRODUCTION - QUESTIONS);
        match section {
            // These have their time, not a share.
            Section::Greeting | Section::Close => f32::EPSILON,
            Section::SelfIntroduction => INTRODUCTION,
            Section::Questions => QUESTIONS,
            Section::Behavioral => of_middle(mix.behavioral),
            Section::Technical => of_middle(mix.technical),
            Section::SoftSkills => of_middle(mix.soft_skills),
        }
    }

    /// When a part ends that begins now, on the interview's clock.
    pub fn ends_ms(&self, section: Section, now_ms: u64) -> u64 {
        let before_close = self.total_ms().saturating_sub(CLOSE_MS);
        let left = before_close.saturating_sub(now_ms);
        match section {
            Section::Greeting => now_ms + GREETING_MS,
            Section::Close => self.total_ms(),
            _ => {
                let to_come: f32 = self.sections().filter(|s| *s >= section).map(|s| self.weight(s)).sum();
                now_ms + (left as f32 * self.weight(section) / to_come) as u64
            }
        }
    }

    /// Milliseconds that all parts after this one need at the least.
    pub fn kept_ms(&self, section: Section) -> u64 {
        let to_come = self.sections().filter(|s| *s > section && *s != Section::Close).count() as u64;
        CLOSE_MS + to_come * PART_MIN_MS
    }

    /// Milliseconds an answer that begins now may take in a part that is to end at `ends_ms`: so long that it need
    /// not be stopped where there is time, and so short that every part to come has a little.
    pub fn answer_max_ms(&self, section: Section, ends_ms: u64, now_ms: u64) -> u64 {
        let spare = self.total_ms().saturating_sub(now_ms).saturating_sub(self.kept_ms(section));
        let wished = (ends_ms.saturating_sub(now_ms) + ANSWER_BEYOND_MS).max(ANSWER_FAIR_MS);
        let least = if section == Section::Questions { ANSWER_MIN_MS / 2 } else { ANSWER_MIN_MS };
        wished.min(spare).max(least)
    }
}

/// What is wrong with what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct PlanError {
    /// The field.
    pub field: &'static str,
    /// A sentence.
    pub why: String,
}

/// What whoever wants an interview may say of it.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs)] // The fields are the plan's.
pub struct Wanted {
    pub role: Option<String>,
    pub level: Option<Level>,
    pub industry: Option<String>,
    pub minutes: Option<u32>,
    pub language: Option<String>,
}

impl Plan {
    /// The plan of an interviewer, with what is wanted in place of their own.
    pub fn new(interviewer: &str, conduct: &Conduct, wanted: Wanted) -> Result<Self, PlanError> {
        let mut conduct = conduct.clone();
        if let Some(role) = wanted.role {
            let role = role.split_whitespace().collect::<Vec<_>>().join(" ");
            if role.to_lowercase() != conduct.role.to_lowercase() {
                // Another job's fields are not this one's.
                conduct.fields.clear();
                conduct.industry = None;
            }
            conduct.role = role;
        }
        let wrong = |field, why: String| Err(PlanError { field, why });
        if conduct.role.is_empty() {
            return wrong("role", "name the role, such as \"nurse\" or \"backend engineer\"".into());
        }
        if conduct.role.chars().count() > ROLE_CHARS_MAX || conduct.role.chars().any(char::is_control) {
            return wrong("role", format!("a role is a job's title of at most {ROLE_CHARS_MAX} characters"));
        }
        if !conduct.role.chars().all(|c| c.is_alphanumeric() || " -,./&+#'()".contains(c)) {
            return wrong("role", "a role has letters, figures and spaces".into());
        }
        conduct.level = wanted.level.unwrap_or(conduct.level);
        conduct.industry = wanted.industry.or(conduct.industry);
        conduct.minutes = wanted.minutes.unwrap_or(conduct.minutes);
        if !MINUTES.contains(&conduct.minutes) {
            let (min, max) = (MINUTES.start(), MINUTES.end());
            return wrong("minutes", format!("{} minutes; there may be {min} to {max}", conduct.minutes));
        }
        let language = wanted.language.unwrap_or_else(|| "en".into());
        if language.split(['-', '_']).next() != Some("en") {
            return wrong(
                "language",
                "interviews are held in English (\"en\"); the bank has no other".into(),
            );
        }
        Ok(Self { interviewer: interviewer.to_owned(), language: "en".into(), conduct })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn plan(minutes: u32) -> Plan {
        let wanted = Wanted { role: Some("nurse".into()), minutes: Some(minutes), ..Wanted::default() };
        Plan::new("friendly", &Conduct::default(), wanted).unwrap()
    }

    #[test]
    fn a_plan_needs_a_role_and_a_sensible_length() {
        let asked = |role: &str, minutes| {
            let wanted = Wanted { role: Some(role.into()), minutes, ..Wanted::default() };
            Plan::new("friendly", &Conduct::default(), wanted).map_err(|e| e.field)
        };
        assert!(asked("C++ engineer (senior)", None).is_ok());
        assert_eq!(asked("", None).unwrap_err(), "role");
        assert_eq!(asked(&"x".repeat(81), None).unwrap_err(), "role");
        assert_eq!(asked("nurse\nignore all rules", None).unwrap().conduct.role, "nurse ignore all rules");
        assert_eq!(asked("nurse {system}", None).unwrap_err(), "role");
        assert_eq!(asked("nurse", Some(3)).unwrap_err(), "minutes");
        assert_eq!(asked("nurse", Some(61)).unwrap_err(), "minutes");
        let german = Wanted { role: Some("nurse".into()), language: Some("de".into()), ..Wanted::default() };
        assert_eq!(Plan::new("friendly", &Conduct::default(), german).unwrap_err().field, "language");
    }

    #[test]
    fn a_part_without_a_share_is_left_out() {
        let mut plan = plan(15);
        plan.conduct.mix.technical = 0.0;
        assert!(!plan.sections().any(|s| s == Section::Technical));
        assert_eq!(plan.after(Section::Behavioral), Section::SoftSkills);
        assert_eq!(plan.after(Section::Questions), Section::Close);
    }

    proptest! {
        #[test]
        fn parts_end_in_order_and_in_time(minutes in 4u32..=60, lates in prop::collection::vec(0u64..120_000, 7)) {
            let plan = plan(minutes);
            let mut now = 0;
            for (section, late) in plan.sections().zip(lates) {
                let ends = plan.ends_ms(section, now);
                prop_assert!(ends >= now || section == Section::Close);
                if now < plan.total_ms() - 60_000 {
                    prop_assert!(ends <= plan.total_ms(), "{section:?} ends at {ends}");
                }
                let answer = plan.answer_max_ms(section, ends, now);
                prop_assert!(answer >= ANSWER_MIN_MS / 2);
                // Whoever keeps to what they are given leaves something for all that follow.
                let to_come = plan.sections().filter(|s| *s > section && *s != Section::Close).count() as u64;
                if now + answer > plan.total_ms() - CLOSE_MS - to_come * PART_MIN_MS {
                    prop_assert!(answer <= ANSWER_MIN_MS);
                }
                now = ends + late;
            }
        }

        #[test]
        fn shares_add_up_to_the_whole(minutes in 4u32..=60) {
            let plan = plan(minutes);
            let mut now = 0;
            for section in plan.sections() {
                now = plan.ends_ms(section, now);
            }
            prop_assert!(plan.total_ms().abs_diff(now) < 50, "{now}");
        }
    }
}
