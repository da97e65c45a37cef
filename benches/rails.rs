//! How much of what a language model writes may be said: every recorded answer beside the questions it could answer,
//! worded by the real weights under the real grammar, checked by the real rails.
//!
//! `cargo bench --bench rails -- PROFILE follow-up|next [OUT.jsonl]`: prints the share that passes, why the rest did
//! not, and how long they took; writes each output with its verdict. `follow-up` is a question about the answer,
//! `next` the choice of the question that comes then, in other words.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use viva::config::Config;
use viva::engines::Chosen;
use viva::interview::choice;
use viva::interview::director::sampling;
use viva::interview::find::{Finder, Plain};
use viva::interview::follow_up::messages;
use viva::interview::next::{Context as Known, SHORTLIST, Table, query, shortlist};
use viva::interview::plan::{Conduct, Plan, Section, Wanted};
use viva::interview::rails::{Against, TOKENS_MAX, Wish, accept, grammar};
use viva::knowledge::bank::Record;
use viva_models::registry::open_llm;
use viva_models::{Llm, Message, Prompt, Role, Sampling, SeqId, StepEvent, StepPlan};

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

/// An answer, the question it is taken to answer, and those there are to go on with.
struct Pair {
    role: String,
    asked: Record,
    few: Vec<Record>,
    answer: String,
}

/// One output.
#[derive(Serialize)]
struct Row<'a> {
    question: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    among: Vec<&'a str>,
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
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let [profile, what, rest @ ..] = args.as_slice() else {
        eprintln!("usage: cargo bench --bench rails -- PROFILE follow-up|next [OUT.jsonl]");
        return Ok(());
    };
    let next = match what.as_str() {
        "next" => true,
        "follow-up" => false,
        other => bail!("{other} is neither follow-up nor next"),
    };
    let mut out = rest.first().map(std::fs::File::create).transpose()?;
    let mut config = Config::default();
    config.models.profile.clone_from(profile);
    let mut llm = open_llm(&Chosen::of(&config)?.llm)?.engine;
    let pairs = pairs()?;
    ensure!(pairs.len() == PAIRS, "{} pairs", pairs.len());
    let (mut verdicts, mut letters) = (BTreeMap::<String, usize>::new(), [0_usize; SHORTLIST]);
    let mut times = Vec::new();
    for (n, pair) in pairs.iter().enumerate() {
        let written = word(&mut *llm, pair, next, n as u64)?;
        let verdict =
            if next { judge_next(&written.raw, pair, &mut letters) } else { judge(&written.raw, pair) };
        *verdicts.entry(verdict.clone()).or_default() += 1;
        times.push(written.ms);
        if let Some(out) = &mut out {
            let row = Row {
                question: &pair.asked.question,
                among: if next { pair.few.iter().map(|r| r.question.as_str()).collect() } else { Vec::new() },
                answer: &pair.answer,
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
    let of = |verdict: &str| verdicts.get(verdict).copied().unwrap_or_default();
    println!("{profile}, {what}: {} outputs", pairs.len());
    println!("accepted: {} ({} in words of its own)", of("said") + of("next") + of("bank"), of("said"));
    for (verdict, count) in &verdicts {
        println!("  {verdict}: {count}");
    }
    if next {
        println!("chosen, by place: {letters:?}");
    }
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!("from the last words to the text: median {} ms, p95 {} ms", at(50), at(95));
    Ok(())
}

/// What becomes of a question about the answer.
fn judge(raw: &str, pair: &Pair) -> String {
    let asked = &pair.asked;
    let papers = format!("{} {}", asked.criteria.join(" "), asked.probes.join(" "));
    let before = [asked.question.clone()];
    let against = Against {
        asked: &asked.question,
        papers: &papers,
        answer: &pair.answer,
        before: &before,
        rephrases: false,
    };
    match accept(raw, &against) {
        Ok(Wish::Ask(_)) => "said".to_owned(),
        Ok(Wish::Next) => "next".to_owned(),
        Err(why) => name(why),
    }
}

/// What becomes of the choice of the next question: `bank` where it is asked in the bank's own words.
fn judge_next(raw: &str, pair: &Pair, letters: &mut [usize; SHORTLIST]) -> String {
    let few: Vec<&Record> = pair.few.iter().collect();
    let before = [pair.asked.question.clone()];
    match choice::read(raw, &few, &pair.answer, &before) {
        Ok(chosen) => {
            letters[chosen.at] += 1;
            match chosen.wording {
                Ok(text) if text == few[chosen.at].question => "bank".to_owned(),
                Ok(_) => "said".to_owned(),
                Err(why) => name(why),
            }
        }
        Err(why) => format!("no choice, {}", name(why)),
    }
}

fn name(why: impl Serialize) -> String {
    serde_json::to_value(why).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Recorded answers beside questions they could be answers to.
fn pairs() -> Result<Vec<Pair>> {
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
            if let Some(asked) = found.get(i % 2).cloned() {
                let (ids, texts) = ([asked.id.clone()], [asked.question.clone()]);
                let table =
                    Table { category, ability: 2.5, plan: &plan, asked: &ids, texts: &texts, had: &[] };
                let few = shortlist(&found, &table).into_iter().cloned().collect();
                pairs.push(Pair { role: trade.clone(), asked, few, answer: answer.clone() });
            }
        }
    }
    pairs.truncate(PAIRS);
    Ok(pairs)
}

/// What the model writes, and how long that takes after the answer's last ten words: the rest was read while it was
/// spoken.
fn word(llm: &mut dyn Llm, pair: &Pair, next: bool, seed: u64) -> Result<Written> {
    const HEARD_LAST: usize = 10;
    let seq = SeqId(0);
    let words: Vec<&str> = pair.answer.split_whitespace().collect();
    let early = words[..words.len().saturating_sub(HEARD_LAST)].join(" ");
    let prompt = |words: &str| -> Vec<Message> {
        if next {
            return choice::messages(&pair.role, &pair.few.iter().collect::<Vec<_>>(), words);
        }
        messages(Some(&pair.asked), &[(Role::Assistant, pair.asked.question.clone())], words)
    };
    let form = if next {
        (choice::grammar(&pair.few.iter().collect::<Vec<_>>()), choice::TOKENS_MAX)
    } else {
        (grammar(true), TOKENS_MAX)
    };
    let ahead = Prompt { messages: prompt(&early), unfinished: true };
    llm.begin(seq, &ahead, &Sampling { max_tokens: 1, ..Sampling::default() })?;
    read(llm, seq)?;
    let began = Instant::now();
    let prompt = Prompt { messages: prompt(&pair.answer), unfinished: false };
    let begun = llm.begin(seq, &prompt, &sampling(form, seed))?;
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
