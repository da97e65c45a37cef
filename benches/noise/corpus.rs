//! The clips, what is said in them, and how a transcript is held against it.

use std::path::Path;

use anyhow::{Context, Result};
use viva_models::audio::{LISTEN_RATE, decode_file, pcm16_decode};

/// Where Debian's `pocketsphinx-testdata` puts its clips.
const SPHINX: &str = "/usr/share/pocketsphinx/test/data";

/// Readings that lie in the repository too.
const READINGS: [(&str, &str); 5] = [
    (
        "0870",
        "And Mister John Dashwood had then leisure to consider how much there might be prudently in his power to \
         do for them.",
    ),
    ("0880", "He was not an ill-disposed young man,"),
    ("0890", "unless to be rather cold-hearted and rather selfish is to be ill-disposed."),
    (
        "0920",
        "Had he married a more amiable woman, he might have been made still more respectable than he was:",
    ),
    ("0930", "he might even have been made amiable himself;"),
];

/// Other people with other microphones: cards and commands.
const COMMANDS: [(&str, &str); 7] = [
    ("cards/001.wav", "ten of clubs"),
    ("cards/002.wav", "four queen of clubs"),
    ("cards/003.wav", "seven of clubs"),
    ("cards/004.wav", "five five"),
    ("cards/005.wav", "eight of spades four of clubs seven of hearts"),
    ("goforward.raw", "go forward ten meters"),
    ("something.raw", "go somewhere and do something"),
];

/// Lines of the interview and where their texts stand.
const INTERVIEW: &str = "tests/data/interview";
/// The benchmark's short answers and where their texts stand.
const ANSWERS: &str = "tests/data/answers";

/// Something said.
pub struct Clip {
    pub name: String,
    pub text: String,
    /// Read by a person.
    pub human: bool,
    /// At 16 kHz.
    pub samples: Vec<f32>,
}

impl Clip {
    fn read(name: &str, path: &Path, text: &str, human: bool) -> Result<Self> {
        let samples = if path.extension().is_some_and(|e| e == "raw") {
            let mut samples = Vec::new();
            pcm16_decode(&std::fs::read(path).with_context(|| path.display().to_string())?, &mut samples)?;
            samples
        } else {
            decode_file(path, 30)?.resampled(LISTEN_RATE)?
        };
        Ok(Self { name: name.into(), text: text.into(), human, samples })
    }
}

/// The first `most` clips. Without `pocketsphinx-testdata` the commands are left out with a word.
pub fn clips(most: usize) -> Result<Vec<Clip>> {
    let mut clips = Vec::new();
    for (name, text) in READINGS {
        let path = crate::packaged(&format!("models/tests/data/austen-{name}.opus"));
        clips.push(Clip::read(&format!("austen-{name}"), &path, text, true)?);
    }
    if Path::new(SPHINX).is_dir() {
        for (name, text) in COMMANDS {
            clips.push(Clip::read(name, &Path::new(SPHINX).join(name), text, true)?);
        }
    } else {
        eprintln!("left out: the cards and commands; install pocketsphinx-testdata");
    }
    let readme = std::fs::read_to_string(crate::packaged(&format!("{INTERVIEW}/README.md")))?;
    for row in readme.lines().filter_map(|line| line.strip_prefix("| ")).skip(1) {
        let Some((name, text)) = row.trim_end_matches('|').split_once(" | ") else { continue };
        // The human one is austen-0930.
        if name != "human" {
            let path = crate::packaged(&format!("{INTERVIEW}/{name}.opus"));
            clips.push(Clip::read(name, &path, text.trim(), false)?);
        }
    }
    let answers = std::fs::read_to_string(crate::packaged(&format!("{ANSWERS}/answers.toml")))?;
    let answers: toml::Table = toml::from_str(&answers)?;
    for (name, text) in answers["short"].as_table().context("answers.toml has a table of short ones")? {
        let path = crate::packaged(&format!("{ANSWERS}/{name}.opus"));
        clips.push(Clip::read(name, &path, text.as_str().unwrap_or_default(), false)?);
    }
    clips.truncate(most);
    Ok(clips)
}

/// Words wrong (put in, left out, exchanged), and words said.
pub fn word_errors(said: &str, heard: &str) -> (usize, usize) {
    let (said, heard) = (words(said), words(heard));
    let mut row: Vec<usize> = (0..=heard.len()).collect();
    for (i, word) in said.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in heard.iter().enumerate() {
            let exchanged = diagonal + usize::from(word != other);
            diagonal = row[j + 1];
            row[j + 1] = exchanged.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    (row[heard.len()], said.len())
}

/// What counts: words, not how they are written.
fn words(text: &str) -> Vec<String> {
    const NUMBERS: [&str; 14] = [
        "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
        "twelve", "thirteen",
    ];
    // "112 %", "2009" and "50,000" stand like this in the texts.
    const WRITTEN: [(&str, &str); 7] = [
        ("112%", "a hundred and twelve percent"),
        ("2009", "two thousand and nine"),
        ("50,000", "fifty thousand"),
        ("30", "thirty"),
        ("1st", "first"),
        ("5'5", "five five"),
        ("&", "and"),
    ];
    let mut text = text.to_lowercase().replace('’', "'");
    for (figures, words) in WRITTEN {
        text = text.replace(figures, words);
    }
    text.replace('\'', "")
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(|word| match word {
            "mr" => "mister".into(),
            "metres" => "meters".into(),
            "licence" => "license".into(),
            "apologised" => "apologized".into(),
            _ => word.parse().ok().and_then(|n: usize| NUMBERS.get(n)).map_or(word, |n| n).to_owned(),
        })
        // Whisper leaves fillers out, and nobody wants them.
        .filter(|word: &String| !matches!(word.as_str(), "um" | "uh" | "hmm" | "mm"))
        .collect()
}
