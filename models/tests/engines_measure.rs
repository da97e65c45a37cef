//! What the engines cost here. Not a check: run with
//! `cargo test --release -p viva-models --test engines_measure -- --ignored --nocapture --test-threads 1`
//! on an idle machine.
#![allow(clippy::unwrap_used)]

mod engines;

use engines::*;
use viva_models::registry::*;
use viva_models::*;

#[test]
#[ignore = "measures"]
fn whisper_by_length_and_threads() {
    let speech: Vec<f32> = readings().into_iter().flat_map(|(s, _)| s).collect();
    for threads in [1, 2] {
        let Opened { mut engine, pid } = open_asr(&whisper("asr/ggml-tiny.en-q8_0.bin", threads)).unwrap();
        for seconds in [3, 5, 7, 15] {
            for words in [false, true] {
                let samples = speech[..seconds * 16_000].to_vec();
                let job = AsrJob { samples, words, ..AsrJob::default() };
                engine.transcribe(&job, &Cancel::new()).unwrap();
                timed(
                    &format!("tiny.en, {threads} threads, {seconds} s, words {words}, three times"),
                    pid,
                    || {
                        for _ in 0..3 {
                            engine.transcribe(&job, &Cancel::new()).unwrap();
                        }
                    },
                );
            }
        }
    }
}

#[test]
#[ignore = "measures"]
fn llama_by_threads_and_sequences() {
    for threads in [1, 2] {
        let Opened { engine: mut llm, pid } = open_llm(&smollm(threads)).unwrap();
        let prompt = |n: usize| Prompt {
            messages: vec![Message { role: Role::User, content: format!("{n} ") + &"word ".repeat(500) }],
            unfinished: false,
        };
        let sampling = Sampling { grammar: Some("root ::= [a-z ] root".into()), ..Sampling::default() };
        let prefill = |llm: &mut dyn Llm, seq: usize, chunk: u32| {
            let tokens = llm.begin(SeqId(seq as u32), &prompt(seq), &sampling).unwrap().prompt_tokens;
            timed(&format!("{threads} threads, prefill of {tokens} tokens by {chunk}"), pid, || {
                let plan = StepPlan { prefill: vec![(SeqId(seq as u32), chunk)], decode: vec![] };
                while !matches!(llm.step(&plan).unwrap()[..], [StepEvent::Prefilled { left: 0, .. }]) {}
            });
            llm.close(SeqId(seq as u32)).unwrap();
        };
        for (seq, chunk) in [(0, 32), (1, 64), (2, 128), (3, 512)] {
            prefill(&mut *llm, seq, chunk);
        }
        for n in [1, 2, 4, 8] {
            for seq in 0..n {
                let content = format!("{seq} is my number. Tell me a long story about it.");
                let messages = vec![Message { role: Role::User, content }];
                let sampling = Sampling { max_tokens: 200, ..Sampling::default() };
                llm.begin(SeqId(seq), &Prompt { messages, unfinished: false }, &sampling).unwrap();
                llm.step(&StepPlan { prefill: vec![(SeqId(seq), 512)], decode: vec![] }).unwrap();
            }
            let mut tokens = 0;
            timed(&format!("{threads} threads, {n} sequences, 33 steps"), pid, || {
                for _ in 0..33 {
                    let plan = StepPlan { prefill: vec![], decode: (0..n).map(SeqId).collect() };
                    tokens += llm
                        .step(&plan)
                        .unwrap()
                        .iter()
                        .filter(|e| matches!(e, StepEvent::Token { .. }))
                        .count();
                }
            });
            println!("  {tokens} tokens (the first of each is free)");
        }
    }
}

#[test]
#[ignore = "measures"]
fn piper_first_sentence_by_threads() {
    for threads in [1, 2] {
        let Opened { mut engine, pid } = open_tts(&joe(threads)).unwrap();
        for text in ["Thank you.", "That is a good example, and I would like to hear more about it."] {
            let job = TtsJob { text: text.into(), ..TtsJob::default() };
            let mut samples = 0;
            timed(&format!("piper, {threads} threads, {text:?}, five times"), pid, || {
                for _ in 0..5 {
                    engine.speak(&job, &Cancel::new(), &mut |s| samples += s.len()).unwrap();
                }
            });
            println!("  {:.2} s of speech each", samples as f64 / 5.0 / f64::from(engine.sample_rate()));
        }
    }
}
