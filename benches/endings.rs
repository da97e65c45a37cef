//! What tells a pause for thought from the end of a turn: for every pause of the recorded answers, what the
//! recogniser hears up to it, how finished the caller sounds to smart-turn as the silence grows, and how likely
//! each language model thinks it that a sentence ends there.
//!
//! `cargo bench --bench endings -- OUT.json`: one row a pause, for `turn/endpointing.rs` to be set by.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use viva::config::Config;
use viva::engines::Chosen;
use viva_models::audio::{LISTEN_RATE, decode_file};
use viva_models::registry::{open_asr, open_llm, open_turn};
use viva_models::{
    Asr, AsrJob, Cancel, Llm, Message, Prompt, Role, Sampling, SeqId, StepEvent, StepPlan, TurnDetector,
};

const ANSWERS: &str = "tests/data/answers";
/// Silences at which smart-turn is asked.
const SILENCES_MS: [usize; 4] = [160, 300, 500, 800];
/// What smart-turn hears at most.
const SCORED: usize = 8 * LISTEN_RATE as usize;
/// Audio kept for the recogniser, as the ASR stage keeps it.
const HEARD: usize = 14 * LISTEN_RATE as usize;
const PROFILES: [&str; 2] = ["test", "default"];

#[derive(Deserialize)]
struct Scenario {
    scripts: Vec<Script>,
}

#[derive(Deserialize)]
struct Script {
    name: String,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Step {
    Play { file: PathBuf },
    Pause { ms: u32 },
    Wait,
}

/// One pause.
#[derive(Serialize)]
struct Row {
    answer: String,
    part: usize,
    /// Length of the pause; none at the end of the answer.
    pause_ms: Option<u32>,
    turn_ms: usize,
    heard: String,
    /// By silence.
    scores: Vec<f32>,
    /// By profile.
    ends: Vec<Option<f32>>,
}

fn main() -> Result<()> {
    let Some(out) = std::env::args().skip(1).find(|a| !a.starts_with("--")) else {
        eprintln!("usage: cargo bench --bench endings -- OUT.json");
        return Ok(());
    };
    let chosen = PROFILES.map(|profile| {
        let mut config = Config::default();
        config.models.profile = profile.into();
        Chosen::of(&config)
    });
    let chosen = chosen.into_iter().collect::<Result<Vec<_>, _>>()?;
    let mut asr = open_asr(&chosen[0].asr)?.engine;
    let mut turn = open_turn(&chosen[0].turn)?.engine;
    let mut llms = chosen.iter().map(|c| Ok(open_llm(&c.llm)?.engine)).collect::<Result<Vec<_>>>()?;
    let mut rows = Vec::new();
    for scenario in ["short.toml", "long.toml"] {
        let path = Path::new(ANSWERS).join(scenario);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        for script in toml::from_str::<Scenario>(&text)?.scripts {
            rows.extend(rows_of(&script, asr.as_mut(), turn.as_mut(), &mut llms)?);
        }
    }
    for row in &rows {
        println!(
            "{:24} {} {:>6} scores {:?} ends {:?} {}",
            row.answer,
            row.part,
            row.pause_ms.map_or("end".into(), |ms| ms.to_string()),
            row.scores,
            row.ends,
            &row.heard[row.heard.len().saturating_sub(60)..]
        );
    }
    std::fs::write(&out, serde_json::to_string_pretty(&rows)?)?;
    println!("{} rows in {out}", rows.len());
    Ok(())
}

fn rows_of(
    script: &Script,
    asr: &mut dyn Asr,
    turn: &mut dyn TurnDetector,
    llms: &mut [Box<dyn Llm>],
) -> Result<Vec<Row>> {
    let (mut audio, mut rows, mut frozen, mut from) = (Vec::new(), Vec::new(), String::new(), 0);
    for (i, step) in script.steps.iter().enumerate() {
        let Step::Play { file } = step else { continue };
        let clip = decode_file(&Path::new(ANSWERS).join(file), 60)?.resampled(LISTEN_RATE)?;
        audio.extend_from_slice(&clip);
        let pause_ms = match script.steps.get(i + 1) {
            Some(Step::Pause { ms, .. }) => Some(*ms),
            _ => None,
        };
        let mut scores = Vec::new();
        for ms in SILENCES_MS {
            let mut recent = audio[audio.len().saturating_sub(SCORED)..].to_vec();
            recent.extend(std::iter::repeat_n(0.0, ms * LISTEN_RATE as usize / 1000));
            scores.push(turn.score(&[recent.into()])?[0]);
        }
        ensure!(audio.len() - from <= HEARD * 2, "{}: a part is too long to recognise at once", script.name);
        let mut samples = audio[from..].to_vec();
        samples.extend(std::iter::repeat_n(0.0, LISTEN_RATE as usize / 5));
        let job = AsrJob { samples, language: Some("en".into()), prompt: None, words: false };
        let text = asr.transcribe(&job, &Cancel::default())?.text;
        let heard = format!("{frozen} {text}").trim().to_owned();
        let ends = llms.iter_mut().map(|llm| ends(llm.as_mut(), &heard)).collect::<Result<Vec<_>>>()?;
        rows.push(Row {
            answer: script.name.clone(),
            part: rows.len(),
            pause_ms,
            turn_ms: audio.len() * 1000 / LISTEN_RATE as usize,
            heard: heard.clone(),
            scores,
            ends,
        });
        if let Some(ms) = pause_ms {
            audio.extend(std::iter::repeat_n(0.0, ms as usize * LISTEN_RATE as usize / 1000));
            if ms >= 700 {
                (frozen, from) = (heard, audio.len());
            }
        }
    }
    Ok(rows)
}

/// The model's opinion of words that a caller has said.
fn ends(llm: &mut dyn Llm, words: &str) -> Result<Option<f32>> {
    let say = |role, content: &str| Message { role, content: content.into() };
    let messages = vec![say(Role::System, viva_actors::ports::DEFAULT_INSTRUCTIONS), say(Role::User, words)];
    let seq = SeqId(0);
    llm.begin(seq, &Prompt { messages, unfinished: true }, &Sampling::default())?;
    let mut ends = None;
    loop {
        for event in llm.step(&StepPlan { prefill: vec![(seq, 128)], decode: vec![] })? {
            match event {
                StepEvent::Ends { probability, .. } => ends = Some(probability),
                StepEvent::Prefilled { left: 0, .. } => return Ok(ends),
                StepEvent::Failed { error, .. } => return Err(error.into()),
                _ => {}
            }
        }
    }
}
