//! Engine processes that are stopped, not dead: the heartbeat notices, and a new one takes over.
#![allow(clippy::unwrap_used)]

mod engines;

use std::process::Command;
use std::time::{Duration, Instant};

use engines::*;
use viva_models::registry::*;
use viva_models::*;

/// Five seconds of silence, then the child is ended; the rest is room for a busy machine.
const NOTICED_WITHIN: Duration = Duration::from_millis(7_500);

fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

/// Stops the process in a moment, while the job that follows runs.
fn stop_soon(pid: u32) {
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        signal(pid, "-STOP");
    });
}

/// The job must end with the engine given up, within its time, and leave no process behind.
fn given_up<T: std::fmt::Debug>(result: Result<T>, since: Instant, pid: u32) {
    let took = since.elapsed();
    let Err(EngineError::Unavailable(why)) = result else { panic!("{result:?} after {took:?}") };
    println!("after {took:?}: {why}");
    assert!(why.contains("no sign of life"), "{why}");
    assert!(took < NOTICED_WITHIN, "{took:?}");
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "a stopped process stays for ever");
}

fn long_text() -> TtsJob {
    TtsJob { text: "We measured it twice, and then we changed the plan. ".repeat(40), ..TtsJob::default() }
}

#[test]
fn a_recogniser_that_is_stopped_in_mid_job_is_given_up() {
    let spec = whisper("asr/ggml-tiny.en-q8_0.bin", 1);
    let Opened { mut engine, pid } = open_asr(&spec).unwrap();
    let (pid, samples) = (pid.unwrap(), readings().into_iter().flat_map(|(s, _)| s).take(29 * 16_000));
    let job = AsrJob { samples: samples.collect(), words: true, ..AsrJob::default() };
    let started = Instant::now();
    stop_soon(pid);
    given_up(engine.transcribe(&job, &Cancel::new()), started, pid);
    let (samples, said) = readings().swap_remove(4);
    let job = AsrJob { samples, ..AsrJob::default() };
    let heard = open_asr(&spec).unwrap().engine.transcribe(&job, &Cancel::new()).unwrap();
    assert!(word_errors(said, &heard.text) <= 1, "{}", heard.text);
}

#[test]
fn a_voice_that_is_stopped_in_mid_sentence_is_given_up() {
    let Opened { mut engine, pid } = open_tts(&joe(1)).unwrap();
    let (pid, started) = (pid.unwrap(), Instant::now());
    stop_soon(pid);
    given_up(engine.speak(&long_text(), &Cancel::new(), &mut |_| {}), started, pid);
}

#[test]
fn a_language_model_that_is_stopped_while_idle_is_given_up_by_the_next_job() {
    let Opened { engine: mut llm, pid } = open_llm(&smollm(1)).unwrap();
    let pid = pid.unwrap();
    signal(pid, "-STOP");
    let started = Instant::now();
    let prompt =
        Prompt { messages: vec![Message { role: Role::User, content: "Hello.".into() }], unfinished: false };
    given_up(llm.begin(SeqId(0), &prompt, &Sampling::default()), started, pid);
}

#[test]
fn an_engine_that_was_stopped_for_a_moment_goes_on() {
    let Opened { mut engine, pid } = open_tts(&joe(1)).unwrap();
    let pid = pid.unwrap();
    signal(pid, "-STOP");
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(1_500));
        signal(pid, "-CONT");
    });
    let mut spoken = 0;
    let job = TtsJob { text: "Hello.".into(), ..TtsJob::default() };
    engine.speak(&job, &Cancel::new(), &mut |s| spoken += s.len()).unwrap();
    assert!(spoken > 4_000);
}
