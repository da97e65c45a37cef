//! How many of a language model's follow-ups may be said: every recorded answer beside the questions it could answer,
//! worded by the real weights under the real grammar, checked by the real rails.
//!
//! `cargo bench --bench rails -- PROFILE [OUT.jsonl]`: prints the share that passes, why the others did not, and how
//! long they took; writes each output with its verdict.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use viva::config::Config;
use viva::engines::Chosen;
use viva::interview::director::sampling;
use viva::interview::find::{Finder, Plain};
use viva::interview::follow_up::messages;
use viva::interview::next::{Context as Known, query};
use viva::interview::plan::{Conduct, Plan, Section, Wanted};
use viva::interview::rails::{Against, Wish, accept};
use viva::knowledge::bank::Record;
use viva_models::registry::open_llm;
use viva_models::{Llm, Prompt, Role, Sampling, SeqId, StepEvent, StepPlan};

const ANSWERS: &str = "tests/data/answers/answers.toml";

/// Questions each recorded answer is put beside: 32 answers make a hundred.
const QUESTIONS: usize = 4;

/// Pairs that are measured.
const PAIRS: usize = 100;

/// Tokens of prompt a step reads.
const CHUNK: u32 = 256;

#[derive(Deserialize)]
struct Answers {
    short: BTreeMap<String, String>,
    long: BTreeMap<String, String>,
}

/// One output.
#[derive(Serialize)]
struct Row<'a> {
    question: &'a str,
    answer: &'a str,
    raw: &'a str,
    verdict: String,
    prompt_tokens: u32,
    fresh_tokens: u32,
    ms: u64,
}

struct Written {
    raw: String,
    prompt: u32,
    fresh: u32,
    ms: u64,
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1).filter(|a| !a.starts_with("--"));
    let Some(profile) = args.next() else {
        eprintln!("usage: cargo bench --bench rails -- PROFILE [OUT.jsonl]");
        return Ok(());
    };
    let mut out = args.next().map(std::fs::File::create).transpose()?;
    let mut config = Config::default();
    config.models.profile = profile.clone();
    let mut llm = open_llm(&Chosen::of(&config)?.llm)?.engine;
    let pairs = pairs()?;
    ensure!(pairs.len() == PAIRS, "{} pairs", pairs.len());
    let (mut said, mut next, mut refused) = (0, 0, BTreeMap::<String, usize>::new());
    let mut times = Vec::new();
    for (n, (record, answer)) in pairs.iter().enumerate() {
        let written = word(&mut *llm, record, answer, n as u64)?;
        let papers = format!("{} {}", record.criteria.join(" "), record.probes.join(" "));
        let before = [record.question.clone()];
        let against =
            Against { asked: &record.question, papers: &papers, answer, before: &before, rephrases: false };
        let verdict = match accept(&written.raw, &against) {
            Ok(Wish::Ask(_)) => {
                said += 1;
                "said".to_owned()
            }
            Ok(Wish::Next) => {
                next += 1;
                "next".to_owned()
            }
            Err(why) => {
                let why = serde_json::to_value(why)?.as_str().unwrap_or_default().to_owned();
                *refused.entry(why.clone()).or_default() += 1;
                why
            }
        };
        times.push(written.ms);
        if let Some(out) = &mut out {
            let row = Row {
                question: &record.question,
                answer,
                raw: &written.raw,
                verdict,
                prompt_tokens: written.prompt,
                fresh_tokens: written.fresh,
                ms: written.ms,
            };
            writeln!(out, "{}", serde_json::to_string(&row)?)?;
        }
    }
    times.sort_unstable();
    println!("{profile}: {} outputs, {said} said as they are, {next} wanted to go on", pairs.len());
    println!("accepted: {} of {}", said + next, pairs.len());
    for (why, count) in refused {
        println!("  refused, {why}: {count}");
    }
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!("from the last words to the text: median {} ms, p95 {} ms", at(50), at(95));
    Ok(())
}

/// Recorded answers beside questions they could be answers to.
fn pairs() -> Result<Vec<(Record, String)>> {
    let text = std::fs::read_to_string(ANSWERS).context(ANSWERS)?;
    let answers: Answers = toml::from_str(&text)?;
    let plain = Plain::own();
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut pairs = Vec::new();
    for (name, answer) in answers.long.iter().chain(&answers.short) {
        let answer = answer.replace(" | ", " ");
        let trade = name.split('-').next().unwrap_or_default().to_owned();
        for (i, section) in
            [Section::Technical, Section::Behavioral, Section::SoftSkills, Section::SelfIntroduction]
                .into_iter()
                .enumerate()
                .take(QUESTIONS)
        {
            let wanted = Wanted { role: Some(trade.clone()), ..Wanted::default() };
            let mut plan = Plan::new("friendly", &Conduct::default(), wanted)?;
            plan.conduct.fields = runtime.block_on(plain.fields(&trade));
            let category = section.category().context("it has questions")?;
            let known = Known { plan: &plan, section, category, ability: 2.5, asked: &[], said: &answer };
            let found = runtime.block_on(plain.find(&query(&known)));
            if let Some(record) = found.into_iter().nth(i % 2) {
                pairs.push((record, answer.clone()));
            }
        }
    }
    pairs.truncate(PAIRS);
    Ok(pairs)
}

/// What the model writes, and how long that takes after the answer's last ten words: the rest was read while it was
/// spoken.
fn word(llm: &mut dyn Llm, record: &Record, answer: &str, seed: u64) -> Result<Written> {
    const HEARD_LAST: usize = 10;
    let seq = SeqId(0);
    let dialog = [(Role::Assistant, record.question.clone())];
    let words: Vec<&str> = answer.split_whitespace().collect();
    let early = words[..words.len().saturating_sub(HEARD_LAST)].join(" ");
    let ahead = Prompt { messages: messages(Some(record), &dialog, &early), unfinished: true };
    llm.begin(seq, &ahead, &Sampling { max_tokens: 1, ..Sampling::default() })?;
    read(llm, seq)?;
    let began = Instant::now();
    let prompt = Prompt { messages: messages(Some(record), &dialog, answer), unfinished: false };
    let begun = llm.begin(seq, &prompt, &sampling(true, seed))?;
    read(llm, seq)?;
    let mut raw = String::new();
    loop {
        for event in llm.step(&StepPlan { decode: vec![seq], ..StepPlan::default() })? {
            match event {
                StepEvent::Token { piece, .. } => raw.push_str(&piece),
                StepEvent::Done { piece, .. } => {
                    raw.push_str(&piece);
                    let fresh = begun.prompt_tokens - begun.reused_tokens;
                    let ms = began.elapsed().as_millis() as u64;
                    return Ok(Written { raw, prompt: begun.prompt_tokens, fresh, ms });
                }
                StepEvent::Failed { error, .. } => return Err(error.into()),
                _ => {}
            }
        }
    }
}

fn read(llm: &mut dyn Llm, seq: SeqId) -> Result<()> {
    loop {
        for event in llm.step(&StepPlan { prefill: vec![(seq, CHUNK)], ..StepPlan::default() })? {
            match event {
                StepEvent::Prefilled { left: 0, .. } => return Ok(()),
                StepEvent::Failed { error, .. } => return Err(error.into()),
                _ => {}
            }
        }
    }
}
