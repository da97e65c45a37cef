//! Which of several engines of a kind serves a session: bound by kind, language and quality. Pure.

use serde::{Deserialize, Serialize};

/// How good an engine's answers are, against what they cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quality {
    /// Quick and cheap.
    Draft,
    /// What the profile brings.
    #[default]
    Standard,
    /// The best there is.
    High,
}

/// What an engine is there for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Serves {
    /// BCP-47 primary tags it is good at; none means every language.
    pub languages: Vec<String>,
    /// How good it is.
    pub quality: Quality,
    /// Only takes what the others cannot: when they are down, or too busy to be in time.
    pub spill: bool,
}

impl Quality {
    /// The next below; the lowest is its own.
    pub fn lower(self) -> Self {
        if self == Self::High { Self::Standard } else { Self::Draft }
    }
}

/// Where a session was handed when it came, because those there took all there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Handed {
    /// Nowhere: it gets what it wants.
    #[default]
    No,
    /// To engines of the next lower quality, where there are some.
    Smaller,
    /// To the engines of the second line, where there are some.
    Elsewhere,
}

/// What a session wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// BCP-47 primary tag.
    pub language: String,
    /// How good.
    pub quality: Quality,
    /// Where it was handed. It stays there for as long as it lasts, whatever else it wants.
    pub handed: Handed,
}

impl Default for Want {
    fn default() -> Self {
        Self { language: "en".into(), quality: Quality::Standard, handed: Handed::No }
    }
}

/// The engine for this session: one that knows its language before one that knows every language, then the
/// nearest quality (the better of two as near), then the first. Where none knows the language, the nearest
/// quality serves all the same: a session is better heard badly than not at all. None only where there is none.
pub fn choose(engines: &[Serves], want: &Want) -> Option<usize> {
    let elsewhere = want.handed == Handed::Elsewhere;
    pick(engines, want, elsewhere).or_else(|| pick(engines, want, !elsewhere))
}

/// The engine that takes this session's work when the others cannot.
pub fn spill(engines: &[Serves], want: &Want) -> Option<usize> {
    pick(engines, want, true)
}

fn pick(engines: &[Serves], want: &Want, spill: bool) -> Option<usize> {
    let quality = if want.handed == Handed::Smaller { want.quality.lower() } else { want.quality };
    let strangeness = |serves: &Serves| {
        let language = match serves.languages.as_slice() {
            [] => 1,
            named if named.iter().any(|tag| tag.eq_ignore_ascii_case(&want.language)) => 0,
            _ => 2,
        };
        let distance = (serves.quality as i8 - quality as i8).abs();
        (language, distance, std::cmp::Reverse(serves.quality))
    };
    engines
        .iter()
        .enumerate()
        .filter(|(_, serves)| serves.spill == spill)
        .min_by_key(|(i, serves)| (strangeness(serves), *i))
        .map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serves(languages: &[&str], quality: Quality, spill: bool) -> Serves {
        Serves { languages: languages.iter().map(|l| (*l).to_owned()).collect(), quality, spill }
    }

    fn want(language: &str, quality: Quality) -> Want {
        Want { language: language.into(), quality, ..Want::default() }
    }

    #[test]
    fn a_session_gets_the_engine_for_its_language_and_quality() {
        use Quality::{Draft, High, Standard};
        let engines = [
            serves(&["en"], Standard, false),
            serves(&["en"], High, false),
            serves(&[], Standard, false),
            serves(&["de", "fr"], Draft, false),
            serves(&[], High, true),
        ];
        let check = |language, quality, expect| {
            assert_eq!(choose(&engines, &want(language, quality)), Some(expect), "{language} {quality:?}");
        };
        check("en", Standard, 0);
        check("en", High, 1);
        // As far from each other; the better one.
        check("en", Draft, 0);
        check("DE", High, 3);
        check("es", High, 2);
        assert_eq!(spill(&engines, &want("en", Draft)), Some(4));
        assert_eq!(spill(&engines[..4], &want("en", Draft)), None);
    }

    #[test]
    fn who_was_handed_on_stays_there() {
        use Quality::{Draft, High, Standard};
        let engines = [
            serves(&[], High, false),
            serves(&[], Standard, false),
            serves(&[], Draft, false),
            serves(&[], Standard, true),
        ];
        let of = |quality, handed| choose(&engines, &Want { handed, ..want("en", quality) });
        assert_eq!((of(High, Handed::Smaller), of(Standard, Handed::Smaller)), (Some(1), Some(2)));
        assert_eq!(of(Standard, Handed::Elsewhere), Some(3));
        let own = &engines[..3];
        let handed = Want { handed: Handed::Elsewhere, ..want("en", Standard) };
        assert_eq!(choose(own, &handed), Some(1), "what has no second line is done here");
    }

    #[test]
    fn nobody_is_left_without_an_engine_while_there_is_one() {
        let only = [serves(&["en"], Quality::High, false)];
        assert_eq!(choose(&only, &want("ja", Quality::Draft)), Some(0));
        let remote = [serves(&[], Quality::Standard, true)];
        assert_eq!(choose(&remote, &Want::default()), Some(0));
        assert_eq!(choose(&[], &Want::default()), None);
    }
}
