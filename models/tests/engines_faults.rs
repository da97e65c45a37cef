//! Engine processes that die, are killed, or are told to stop.
#![allow(clippy::unwrap_used)]

mod engines;

use std::time::{Duration, Instant};

use engines::*;
use viva_models::host::{AsrProxy, Launch};
use viva_models::registry::*;
use viva_models::*;

/// Runs `after` in a moment, beside what follows.
fn soon(ms: u64, after: impl FnOnce() + Send + 'static) {
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(ms));
        after();
    });
}

fn check_unavailable<T: std::fmt::Debug>(result: Result<T>, since: Instant, killed_after_ms: u64) {
    let took = since.elapsed();
    match result {
        Err(EngineError::Unavailable(why)) => {
            println!("{why}, after {took:?}");
            assert!(why.contains("SIGKILL"), "{why}");
        }
        other => panic!("{other:?} after {took:?}"),
    }
    assert!(took < Duration::from_millis(killed_after_ms + 1_000), "{took:?}");
}

fn long_speech() -> AsrJob {
    let samples: Vec<f32> = readings().into_iter().flat_map(|(s, _)| s).take(29 * 16_000).collect();
    AsrJob { samples, words: true, ..AsrJob::default() }
}

fn long_text() -> TtsJob {
    TtsJob { text: "We measured it twice, and then we changed the plan. ".repeat(40), ..TtsJob::default() }
}

#[test]
fn a_killed_recogniser_is_unavailable_and_a_new_one_works() {
    let spec = whisper("asr/ggml-tiny.en-q8_0.bin", 1);
    let Opened { mut engine, pid } = open_asr(&spec).unwrap();
    let (pid, started) = (pid.unwrap(), Instant::now());
    soon(150, move || kill_9(pid));
    check_unavailable(engine.transcribe(&long_speech(), &Cancel::new()), started, 150);
    let again = engine.transcribe(&long_speech(), &Cancel::new());
    assert!(matches!(again, Err(EngineError::Unavailable(_))), "it stays so: {again:?}");
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "no zombie");
    let (samples, said) = readings().swap_remove(4);
    let job = AsrJob { samples, ..AsrJob::default() };
    let heard = open_asr(&spec).unwrap().engine.transcribe(&job, &Cancel::new()).unwrap();
    assert!(word_errors(said, &heard.text) <= 1, "{}", heard.text);
}

#[test]
fn a_killed_voice_is_unavailable_and_a_new_one_works() {
    let Opened { mut engine, pid } = open_tts(&joe(1)).unwrap();
    let (pid, started) = (pid.unwrap(), Instant::now());
    soon(150, move || kill_9(pid));
    check_unavailable(engine.speak(&long_text(), &Cancel::new(), &mut |_| {}), started, 150);
    let mut spoken = 0;
    let job = TtsJob { text: "Hello.".into(), ..TtsJob::default() };
    open_tts(&joe(1)).unwrap().engine.speak(&job, &Cancel::new(), &mut |s| spoken += s.len()).unwrap();
    assert!(spoken > 4_000);
}

#[test]
fn a_killed_language_model_is_unavailable_and_a_new_one_works() {
    let prompt = Prompt {
        messages: vec![Message { role: Role::User, content: "word ".repeat(900) }],
        unfinished: false,
    };
    let plan = StepPlan { prefill: vec![(SeqId(0), 512)], decode: vec![] };
    let Opened { engine: mut llm, pid } = open_llm(&smollm(1)).unwrap();
    llm.begin(SeqId(0), &prompt, &Sampling::default()).unwrap();
    let (pid, started) = (pid.unwrap(), Instant::now());
    soon(150, move || kill_9(pid));
    check_unavailable(llm.step(&plan), started, 150);
    let mut llm = open_llm(&smollm(1)).unwrap().engine;
    let begun = llm.begin(SeqId(0), &prompt, &Sampling::default()).unwrap();
    assert_eq!(begun.reused_tokens, 0, "a new process has nothing cached");
    assert_eq!(llm.step(&plan).unwrap().len(), 1);
}

#[test]
fn a_cancelled_recognition_ends_at_once_and_the_next_one_is_whole() {
    let mut engine = open_asr(&whisper("asr/ggml-tiny.en-q8_0.bin", 1)).unwrap().engine;
    let job = |n| AsrJob { samples: readings().swap_remove(n).0, words: true, ..AsrJob::default() };
    let (cancel, started) = (Cancel::new(), Instant::now());
    let flag = cancel.clone();
    soon(100, move || flag.cancel());
    assert_eq!(engine.transcribe(&job(0), &cancel), Err(EngineError::Cancelled));
    println!("cancelled after {:?}", started.elapsed());
    // whisper.cpp cannot leave its encoder half-way; a busy machine doubles its half second.
    assert!(started.elapsed() < Duration::from_millis(1_200), "{:?}", started.elapsed());
    let (samples, said) = readings().swap_remove(4);
    let heard = engine.transcribe(&AsrJob { samples, ..AsrJob::default() }, &Cancel::new()).unwrap();
    assert!(word_errors(said, &heard.text) <= 1, "{}", heard.text);
}

#[test]
fn a_cancelled_voice_falls_silent_within_a_sentence() {
    let mut engine = open_tts(&joe(1)).unwrap().engine;
    let (cancel, started, mut spoken) = (Cancel::new(), Instant::now(), 0);
    let result = engine.speak(&long_text(), &cancel, &mut |samples| {
        spoken += samples.len();
        cancel.cancel();
    });
    assert_eq!(result, Err(EngineError::Cancelled));
    println!("cancelled after {:?}, {spoken} samples", started.elapsed());
    assert!(spoken <= 12_000, "not a sample more than the chunk that made us stop: {spoken}");
    assert!(started.elapsed() < Duration::from_secs(3));
    let mut again = 0;
    let job = TtsJob { text: "Hello.".into(), ..TtsJob::default() };
    engine.speak(&job, &Cancel::new(), &mut |s| again += s.len()).unwrap();
    assert!(again > 4_000 && again < 40_000, "nothing is left of the cancelled job: {again}");
}

#[test]
fn speech_comes_while_the_rest_is_still_being_made() {
    let mut engine = open_tts(&joe(1)).unwrap().engine;
    let (started, mut first) = (Instant::now(), None);
    let job = TtsJob { text: "Thank you. ".repeat(12), ..TtsJob::default() };
    engine.speak(&job, &Cancel::new(), &mut |_| first = first.or(Some(started.elapsed()))).unwrap();
    let (first, all) = (first.unwrap(), started.elapsed());
    println!("first speech after {first:?} of {all:?}");
    assert!(first * 4 < all);
}

#[test]
fn a_program_that_is_no_engine_is_refused_with_its_last_words() {
    let launch = Launch {
        name: "odd".into(),
        program: "/bin/sh".into(),
        settings: "--no-such-option".into(),
        threads: 1,
        env: Vec::new(),
    };
    let error = AsrProxy::open(&launch).err().unwrap();
    println!("{error}");
    assert!(matches!(&error, EngineError::Unavailable(why) if why.contains("status 2")), "{error}");
    let missing = Launch { program: "/no/such/engine".into(), ..launch };
    assert!(AsrProxy::open(&missing).err().unwrap().to_string().contains("/no/such/engine"));
}

#[test]
fn an_engine_ends_with_its_owner() {
    let opened = open_asr(&whisper("asr/ggml-tiny.en-q8_0.bin", 1)).unwrap();
    let proc = format!("/proc/{}", opened.pid.unwrap());
    assert!(std::path::Path::new(&proc).exists());
    drop(opened);
    assert!(!std::path::Path::new(&proc).exists());
}
