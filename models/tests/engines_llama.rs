//! Many conversations in one cache: what each says must not depend on who else talks.
#![allow(clippy::unwrap_used)]

mod engines;

use std::collections::BTreeMap;

use engines::{llama, smollm, timed};
use viva_models::registry::{LlamaSpec, LlmSpec, Opened, open_llm};
use viva_models::*;

const MODEL: &str = "llm/SmolLM2-135M-Instruct.Q4_1.gguf";

const SYSTEM: &str = "You are Viva, a kind interviewer for software engineers. You ask one short question at a \
                      time, you listen, and you never answer your own question. Speak plainly.";

fn say(role: Role, content: &str) -> Message {
    Message { role, content: content.into() }
}

fn asked(question: &str) -> Prompt {
    Prompt { messages: vec![say(Role::System, SYSTEM), say(Role::User, question)], unfinished: false }
}

fn greedy(max_tokens: u32) -> Sampling {
    Sampling { max_tokens, ..Sampling::default() }
}

/// What came of a sequence.
#[derive(Debug, Default, Clone, PartialEq)]
struct Said {
    text: String,
    ends: Vec<f32>,
    done: Option<(StopReason, u32)>,
    failed: Option<EngineError>,
}

/// Prompt tokens of all sequences in one step. ggml takes other kernels from 64 on, and then the same text
/// is not promised, see the engine.
const PREFILL: u32 = 60;

/// Steps until every sequence named is done: prompts in chunks, then tokens.
fn run(llm: &mut dyn Llm, seqs: &[u32]) -> BTreeMap<u32, Said> {
    let mut said: BTreeMap<u32, Said> = seqs.iter().map(|s| (*s, Said::default())).collect();
    let mut left: BTreeMap<u32, u32> = seqs.iter().map(|s| (*s, u32::MAX)).collect();
    for _ in 0..2_000 {
        let open = |s: &u32| said[s].done.is_none() && said[s].failed.is_none();
        let (ready, waiting): (Vec<u32>, Vec<u32>) =
            seqs.iter().filter(|s| open(s)).partition(|s| left[s] == 0);
        let plan = StepPlan {
            prefill: waiting.iter().map(|s| (SeqId(*s), PREFILL / waiting.len() as u32)).collect(),
            decode: ready.into_iter().map(SeqId).collect(),
        };
        if plan == StepPlan::default() {
            return said;
        }
        for event in llm.step(&plan).unwrap() {
            match event {
                StepEvent::Prefilled { seq, left: n } => *left.get_mut(&seq.0).unwrap() = n,
                StepEvent::Ends { seq, probability } => said.get_mut(&seq.0).unwrap().ends.push(probability),
                StepEvent::Token { seq, piece } => said.get_mut(&seq.0).unwrap().text += &piece,
                StepEvent::Done { seq, piece, reason, tokens } => {
                    let said = said.get_mut(&seq.0).unwrap();
                    said.text += &piece;
                    said.done = Some((reason, tokens));
                }
                StepEvent::Failed { seq, error } => said.get_mut(&seq.0).unwrap().failed = Some(error),
            }
        }
    }
    panic!("no end after 2000 steps: {said:?}");
}

fn answer(llm: &mut dyn Llm, seq: u32, prompt: &Prompt, sampling: &Sampling) -> (Begun, Said) {
    let begun = llm.begin(SeqId(seq), prompt, sampling).unwrap();
    (begun, run(llm, &[seq]).remove(&seq).unwrap())
}

fn open() -> Opened<dyn Llm> {
    open_llm(&smollm(1)).unwrap()
}

#[test]
fn a_conversation_says_the_same_alone_and_among_four() {
    let Opened { engine: mut llm, pid } = open();
    let questions = [
        "I led a team of five engineers.",
        "I am afraid of deadlines.",
        "What do you ask?",
        "Tell me a fact.",
    ];
    let alone: Vec<Said> = questions
        .iter()
        .map(|q| {
            let said = answer(&mut *llm, 0, &asked(q), &greedy(32)).1;
            llm.close(SeqId(0)).unwrap();
            said
        })
        .collect();
    for (i, q) in questions.iter().enumerate() {
        llm.begin(SeqId(i as u32), &asked(q), &greedy(32)).unwrap();
    }
    let together = timed("four answers of 32 tokens", pid, || run(&mut *llm, &[0, 1, 2, 3]));
    for (i, said) in alone.iter().enumerate() {
        println!("{}", said.text.replace('\n', " "));
        assert_eq!(said, &together[&(i as u32)]);
        assert!(!said.text.is_empty());
    }
}

#[test]
fn a_changed_last_message_leaves_no_trace() {
    let mut llm = open().engine;
    let (_, fresh) = answer(&mut *llm, 1, &asked("I wrote a compiler in Rust."), &greedy(24));
    answer(&mut *llm, 0, &asked("I wrote a poem about the sea and then"), &greedy(24));
    let (begun, changed) = answer(&mut *llm, 0, &asked("I wrote a compiler in Rust."), &greedy(24));
    assert_eq!(fresh, changed);
    assert!(begun.reused_tokens > 30 && begun.reused_tokens < begun.prompt_tokens, "{begun:?}");
}

/// What the model thinks of words that a caller has said; read ahead, or as a prompt to answer.
fn ends(llm: &mut dyn Llm, words: &str, unfinished: bool) -> f32 {
    let prompt = Prompt { unfinished, ..asked(words) };
    llm.begin(SeqId(0), &prompt, &greedy(1)).unwrap();
    let plan = StepPlan { prefill: vec![(SeqId(0), PREFILL)], decode: vec![] };
    let mut all = Vec::new();
    for _ in 0..100 {
        for event in llm.step(&plan).unwrap() {
            match event {
                StepEvent::Ends { probability, .. } => all.push(probability),
                StepEvent::Prefilled { left: 0, .. } => {
                    assert_eq!(all.len(), 1, "once a prompt: {all:?} for {words:?}");
                    return all[0];
                }
                _ => {}
            }
        }
    }
    panic!("the prompt of {words:?} has no end");
}

#[test]
fn words_that_hang_are_told_from_whole_ones_whatever_mark_stands_behind_them() {
    let mut llm = open().engine;
    for words in [
        "I think the hardest part was.",
        "His pulse was fast, and his blood pressure was.",
        "We were a team of four, and I.",
        "They leave because.",
        "I've led teams of different sizes from three people to.",
    ] {
        let p = ends(&mut *llm, words, true);
        println!("{p:.4} {words}");
        assert!(p < 0.02, "{p} for {words:?}");
    }
    for words in [
        "We were a team of four, and I led the design",
        "I call the parents early, before a small problem becomes a big one",
        "Yes, I did.",
        "I like small reviews. Nobody reads a thousand lines carefully!",
    ] {
        let p = ends(&mut *llm, words, true);
        println!("{p:.4} {words}");
        assert!(p > 0.04, "{p} for {words:?}");
        // The words lie in the cache now, and the prompt to answer is judged all the same.
        let again = ends(&mut *llm, words, false);
        assert!((again - p).abs() < 0.05 * p + 0.01, "{p} read ahead, {again} asked");
    }
}

#[test]
fn a_system_prompt_is_computed_once_and_outlives_its_conversations() {
    let mut llm = open().engine;
    let (first, _) = answer(&mut *llm, 0, &asked("Hello."), &greedy(4));
    assert_eq!(first.reused_tokens, 0);
    llm.close(SeqId(0)).unwrap();
    let (second, said) = answer(&mut *llm, 3, &asked("Good morning to you."), &greedy(16));
    println!("{second:?}");
    assert!(second.reused_tokens > 35, "{second:?}");
    let (_, fresh) = answer(&mut *open().engine, 0, &asked("Good morning to you."), &greedy(16));
    assert_eq!(said, fresh);
}

#[test]
fn words_prefilled_while_they_are_spoken_are_not_computed_again() {
    let mut llm = open().engine;
    let words = "I have been working for three years as a backend engineer at a small company in Berlin";
    let mut prompt = asked(words);
    prompt.unfinished = true;
    llm.begin(SeqId(0), &prompt, &Sampling::default()).unwrap();
    loop {
        let plan = StepPlan { prefill: vec![(SeqId(0), PREFILL)], decode: vec![] };
        let events = llm.step(&plan).unwrap();
        if events == [StepEvent::Prefilled { seq: SeqId(0), left: 0 }] {
            break;
        }
    }
    let finished = asked(&format!("{words}, mostly on payments."));
    let (begun, said) = answer(&mut *llm, 0, &finished, &greedy(16));
    println!("{begun:?}");
    assert!(begun.prompt_tokens - begun.reused_tokens < 20, "{begun:?}");
    let (_, fresh) = answer(&mut *open().engine, 0, &finished, &greedy(16));
    assert_eq!(said, fresh);
}

#[test]
fn an_answer_becomes_part_of_the_next_prompt_for_nothing() {
    let mut llm = open().engine;
    let mut prompt = asked("I like teaching.");
    let (_, said) = answer(&mut *llm, 0, &prompt, &greedy(40));
    assert!(said.done.unwrap().1 > 10, "{said:?}");
    prompt.messages.push(say(Role::Assistant, &said.text));
    prompt.messages.push(say(Role::User, "Why do you ask?"));
    let begun = llm.begin(SeqId(0), &prompt, &greedy(8)).unwrap();
    println!("{begun:?}");
    assert!(begun.prompt_tokens - begun.reused_tokens < 25, "{begun:?}");
}

#[test]
fn limits_stops_and_grammars_are_kept() {
    let mut llm = open().engine;
    let (_, whole) = answer(&mut *llm, 0, &asked("Say hello."), &greedy(40));
    let (_, short) = answer(&mut *llm, 0, &asked("Say hello."), &greedy(5));
    assert_eq!(short.done, Some((StopReason::Length, 5)));
    assert!(whole.text.starts_with(&short.text) && short.text.len() < whole.text.len());

    let word = whole.text.split_whitespace().nth(3).unwrap().to_owned();
    let stop = Sampling { stop: vec![word.clone()], ..greedy(40) };
    let (_, stopped) = answer(&mut *llm, 0, &asked("Say hello."), &stop);
    assert_eq!(stopped.done.unwrap().0, StopReason::Stop);
    assert_eq!(stopped.text, whole.text[..whole.text.find(&word).unwrap()]);

    let grammar = Some("root ::= (\"yes\" | \"no\") \".\"".to_owned());
    let (_, yes_no) = answer(&mut *llm, 0, &asked("Is water wet?"), &Sampling { grammar, ..greedy(20) });
    assert!(["yes.", "no."].contains(&yes_no.text.as_str()), "{yes_no:?}");

    let warm =
        Sampling { temperature: 0.9, top_p: 0.9, min_p: 0.05, repeat_penalty: 1.1, seed: 7, ..greedy(20) };
    let (_, one) = answer(&mut *llm, 0, &asked("Say hello."), &warm);
    let (_, two) = answer(&mut *llm, 1, &asked("Say hello."), &warm);
    assert_eq!(one, two, "the same seed");
}

#[test]
fn nobody_can_speak_a_control_token() {
    let mut llm = open().engine;
    let honest = llm.begin(SeqId(0), &asked("im_end im_start"), &greedy(1)).unwrap();
    let sly = llm.begin(SeqId(1), &asked("<|im_end|> <|im_start|>"), &greedy(1)).unwrap();
    assert!(sly.prompt_tokens > honest.prompt_tokens + 4, "{sly:?} {honest:?}");
}

#[test]
fn what_cannot_be_done_is_said_and_harms_nobody() {
    let mut llm = open().engine;
    let invalid = |result: Result<Begun>| match result {
        Err(EngineError::Invalid(why)) => println!("{why}"),
        other => panic!("{other:?}"),
    };
    llm.begin(SeqId(0), &asked("Say hello."), &greedy(8)).unwrap();
    invalid(llm.begin(SeqId(8), &asked("Hi"), &greedy(8)));
    invalid(llm.begin(SeqId(1), &Prompt::default(), &greedy(8)));
    invalid(llm.begin(SeqId(1), &asked(&"word ".repeat(2_000)), &greedy(8)));
    let unfinished = Prompt { messages: vec![say(Role::Assistant, "Hi")], unfinished: true };
    invalid(llm.begin(SeqId(1), &unfinished, &greedy(8)));
    for bad in [
        Sampling { max_tokens: 0, ..Sampling::default() },
        Sampling { temperature: f32::NAN, ..Sampling::default() },
        Sampling { grammar: Some("root ::= (".into()), ..Sampling::default() },
        Sampling { grammar: Some(String::new()), ..Sampling::default() },
        Sampling { stop: vec![String::new()], ..Sampling::default() },
    ] {
        invalid(llm.begin(SeqId(1), &asked("Hi"), &bad));
    }
    let plan = StepPlan { prefill: vec![(SeqId(0), 1024)], decode: vec![SeqId(5), SeqId(99)] };
    let events = llm.step(&plan).unwrap();
    let failed = |s| events.iter().any(|e| matches!(e, StepEvent::Failed { seq, .. } if seq.0 == s));
    assert!(failed(5) && failed(99) && !failed(0), "{events:?}");
    assert!(run(&mut *llm, &[0])[&0].done.is_some());
}

#[test]
fn a_full_cache_takes_from_the_idle_and_then_fails_only_the_last() {
    let spec = LlamaSpec { context: 300, sequences: 4, cache_tokens: Some(512), ..llama(MODEL, 1) };
    let mut llm = open_llm(&LlmSpec::Llama(spec)).unwrap().engine;
    // Nothing in common, so nothing is shared.
    let long = |n: usize| {
        let words = ["red", "green", "blue", "black"][n];
        Prompt { messages: vec![say(Role::User, &format!("{words} ").repeat(200))], unfinished: false }
    };
    for n in 0..3 {
        let (_, said) = answer(&mut *llm, n, &long(n as usize), &greedy(4));
        assert_eq!(said.failed, None, "idle conversations give up their cache");
    }
    let endless = Sampling { grammar: Some("root ::= [a-z ] root".into()), ..greedy(20) };
    for n in 0..3 {
        llm.begin(SeqId(n), &long(n as usize), &endless).unwrap();
    }
    let said = run(&mut *llm, &[0, 1, 2]);
    let failed: Vec<u32> = said.iter().filter(|(_, s)| s.failed.is_some()).map(|(n, _)| *n).collect();
    println!("{failed:?} {said:?}");
    assert_eq!(failed, [2], "{said:?}");
    let (_, again) = answer(&mut *llm, failed[0], &long(0), &greedy(4));
    assert_eq!(again.failed, None, "the one that failed can begin again");
}

#[test]
fn a_context_that_fills_up_ends_the_answer_by_length() {
    let spec = LlamaSpec { context: 120, sequences: 2, ..llama(MODEL, 1) };
    let mut llm = open_llm(&LlmSpec::Llama(spec)).unwrap().engine;
    let counting = Prompt {
        messages: vec![say(Role::User, "Count from one to one hundred, in words. Do not stop.")],
        unfinished: false,
    };
    let (begun, said) = answer(&mut *llm, 0, &counting, &greedy(1_000));
    let (reason, tokens) = said.done.unwrap();
    assert_eq!(reason, StopReason::Length);
    assert!((118..=121).contains(&(begun.prompt_tokens + tokens)), "{begun:?} {tokens}");
}
