//! Faults and replay on real weights, in real time: an engine that is stuck in mid-utterance, a log that is
//! decided again.
#![allow(clippy::unwrap_used)]

#[path = "../models/tests/engines/mod.rs"]
mod engines;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use engines::{kill_9, plain, word_errors};
use viva::config::Config;
use viva::engines::Chosen;
use viva_actors::event::{LogEntry, Outcome, SessionEvent, replay};
use viva_actors::ports::{Out, SessionMsg, SessionPorts};
use viva_actors::root::{Limits, Viva};
use viva_models::audio::decode_file;

/// Longer than anything here takes on a busy machine: a stuck engine alone costs five seconds.
const WITHIN: Duration = Duration::from_secs(40);

/// 20 ms at 16 kHz.
const FRAME: usize = 320;

async fn start() -> (Viva, SessionPorts) {
    start_patient(1.0).await
}

/// With silences waited for so many times as long.
async fn start_patient(patience: f32) -> (Viva, SessionPorts) {
    let mut config = Config::default();
    config.models.profile = "test".into();
    config.turn.patience = patience;
    let spec = config.session_spec();
    let viva =
        Viva::start(Chosen::of(&config).unwrap().engines(), Limits { sessions: 2, ..Limits::default() })
            .await
            .unwrap();
    let began = Instant::now();
    while !viva.readiness().ready {
        assert!(began.elapsed() < WITHIN, "{:?}", viva.readiness());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let ports = viva.open(spec).await.unwrap();
    (viva, ports)
}

fn clip(name: &str) -> Vec<f32> {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    decode_file(&folder.join(name), 60).unwrap().resampled(16_000).unwrap()
}

/// A caller in real time.
struct Caller {
    ports: SessionPorts,
    seen: Vec<SessionEvent>,
    clock: tokio::time::Interval,
}

impl Caller {
    fn new(ports: SessionPorts) -> Self {
        Self { ports, seen: Vec::new(), clock: tokio::time::interval(Duration::from_millis(20)) }
    }

    async fn say(&mut self, samples: &[f32]) {
        for frame in samples.chunks(FRAME) {
            self.clock.tick().await;
            self.ports.mic.push_latest(frame.into());
            while let Ok(out) = self.ports.out.try_recv() {
                if let Out::Event(entry) = out {
                    self.seen.push(entry.event.clone());
                }
            }
        }
    }

    /// Is silent until so many such events have come.
    async fn hush_until(&mut self, what: &str, count: usize, is: impl Fn(&SessionEvent) -> bool) {
        let began = Instant::now();
        while self.seen.iter().filter(|e| is(e)).count() < count {
            assert!(began.elapsed() < WITHIN, "never: {what}; saw {:#?}", self.seen);
            self.say(&[0.0; FRAME]).await;
        }
    }

    async fn log(&self) -> Vec<LogEntry> {
        let (reply, answer) = ractor::concurrency::oneshot();
        self.ports.control.cast(SessionMsg::Log(reply.into())).unwrap();
        answer.await.unwrap().iter().map(|e| (**e).clone()).collect()
    }
}

fn ended(e: &SessionEvent) -> bool {
    matches!(e, SessionEvent::ReplyEnded { .. })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_on_real_engines_is_decided_the_same_again() {
    let (viva, ports) = start().await;
    let mut caller = Caller::new(ports);
    caller.say(&clip("interview/team.opus")).await;
    caller.hush_until("our voice", 1, |e| matches!(e, SessionEvent::ReplyAudible { .. })).await;
    // An interruption, which is a turn of its own.
    caller.say(&[0.0; 8 * FRAME]).await;
    caller.say(&clip("interview/interrupt.opus")).await;
    caller.hush_until("two replies' ends", 2, ended).await;
    let log = caller.log().await;
    let decided = log.iter().filter(|e| matches!(e.event, SessionEvent::Decided { .. })).count();
    println!("{} entries, {decided} decisions", log.len());
    assert!(decided > 20, "{decided}");
    assert_eq!(replay(&log), None, "the same log gives the same decisions");
    // As it would come back from a file.
    let text: Vec<String> = log.iter().map(|e| serde_json::to_string(e).unwrap()).collect();
    let read: Vec<LogEntry> = text.iter().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(read, log);
    assert_eq!(replay(&read), None);
    // And a log that was tampered with is told.
    let mut other = log.clone();
    let last = other.iter_mut().rev().find_map(|e| match &mut e.event {
        SessionEvent::Decided { actions, .. } if !actions.is_empty() => Some((e.seq, actions)),
        _ => None,
    });
    let (seq, actions) = last.unwrap();
    actions.clear();
    assert_eq!(replay(&other), Some(seq));
    drop(caller);
    viva.drain(Duration::from_millis(100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recogniser_that_is_stuck_in_mid_utterance_is_replaced_and_nothing_is_lost() {
    let (viva, ports) = start().await;
    let mut caller = Caller::new(ports);
    let recogniser = || viva.readiness().engines.iter().find(|e| e.kind == "asr").unwrap().pid;
    let stuck = recogniser().unwrap();
    let clip = clip("interview/team.opus");
    let (first, rest) = clip.split_at(clip.len() / 2);
    caller.say(first).await;
    assert!(Command::new("kill").args(["-STOP", &stuck.to_string()]).status().unwrap().success());
    let began = Instant::now();
    caller.say(rest).await;
    caller.hush_until("the reply's end", 1, ended).await;
    let text = caller.seen.iter().find_map(|e| match e {
        SessionEvent::TurnEnded { text, .. } => Some(text.to_lowercase()),
        _ => None,
    });
    println!("{:?} after it was stopped: {text:?}", began.elapsed());
    assert!(text.unwrap().contains("team of four"));
    assert!(
        !caller.seen.iter().any(|e| matches!(e, SessionEvent::HearingFailed { .. })),
        "{:#?}",
        caller.seen
    );
    assert_ne!(recogniser(), Some(stuck), "a new process");
    assert!(!Path::new(&format!("/proc/{stuck}")).exists(), "a stopped process stays for ever");
    drop(caller);
    viva.drain(Duration::from_millis(100)).await;
}

/// Processor time a process has used, in hundredths of a second.
fn ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    // User and system time: fields 14 and 15 of proc(5), counted from after the name.
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

/// Kills it once it has computed for 30 ms more than now, so in the middle of its work. Returns when it is done.
fn kill_at_work(pid: u32) -> std::thread::JoinHandle<()> {
    let idle = ticks(pid).unwrap();
    std::thread::spawn(move || {
        let began = Instant::now();
        while ticks(pid).is_some_and(|now| now < idle + 3) {
            assert!(began.elapsed() < WITHIN, "it never worked");
            std::thread::sleep(Duration::from_millis(2));
        }
        kill_9(pid);
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_killed_at_work_costs_time_and_nothing_else() {
    for kind in ["asr", "llm", "tts"] {
        let (viva, ports) = start().await;
        let mut caller = Caller::new(ports);
        let engine = || viva.readiness().engines.iter().find(|e| e.kind == kind).unwrap().clone();
        let killer = kill_at_work(engine().pid.unwrap());
        caller.say(&clip("interview/team.opus")).await;
        let began = Instant::now();
        caller.hush_until("the reply's end", 1, ended).await;
        killer.join().unwrap();
        let text = caller.seen.iter().find_map(|e| match e {
            SessionEvent::TurnEnded { text, .. } => Some(text.to_lowercase()),
            _ => None,
        });
        let (outcome, heard) = caller
            .seen
            .iter()
            .find_map(|e| match e {
                SessionEvent::ReplyEnded { outcome, heard, .. } => Some((outcome.clone(), heard.clone())),
                _ => None,
            })
            .unwrap();
        println!("{kind}: {:?}, {text:?}, {outcome:?} {heard:?}", began.elapsed());
        assert!(text.unwrap().contains("team of four"), "{kind}");
        assert!(!heard.is_empty() && !matches!(outcome, Outcome::Failed(_)), "{kind}: {outcome:?}");
        assert_eq!(engine().restarts, 1, "{kind} was opened again");
        drop(caller);
        viva.drain(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_answer_with_pauses_is_one_turn_and_all_of_it_is_heard() {
    let data: toml::Table =
        toml::from_str(&std::fs::read_to_string("tests/data/answers/answers.toml").unwrap()).unwrap();
    let said = data["long"]["logistics-crisis"].as_str().unwrap();
    let (viva, ports) = start_patient(2.0).await;
    let mut caller = Caller::new(ports);
    let mut seconds = 0;
    for part in 1..=6 {
        let samples = clip(&format!("answers/logistics-crisis-{part}.opus"));
        seconds += samples.len() / 16_000;
        caller.say(&samples).await;
        if part < 6 {
            // Long enough to make the words before it final (`turn.freeze_ms`).
            caller.say(&[0.0; 50 * FRAME]).await;
        }
    }
    assert!(seconds >= 25, "{seconds} s of speech");
    caller.hush_until("the reply's end", 1, ended).await;
    let turns: Vec<&String> = caller
        .seen
        .iter()
        .filter_map(|e| match e {
            SessionEvent::TurnEnded { text, .. } => Some(text),
            _ => None,
        })
        .collect();
    assert_eq!(turns.len(), 1, "{turns:#?}");
    let frozen = caller.seen.iter().filter(|e| matches!(e, SessionEvent::CallerWords { .. })).count();
    let errors = word_errors(said, turns[0]);
    let (said, heard) = (plain(said), plain(turns[0]));
    println!("{errors} word errors in {}, {frozen} pieces told: {}", said.len(), turns[0]);
    let repeated = heard.windows(6).enumerate().find(|(i, six)| heard[i + 1..].windows(6).any(|w| w == *six));
    assert_eq!(repeated, None, "nothing is said twice");
    assert!(frozen >= 4, "words are told while the caller still speaks: {frozen}");
    // Tiny weights, a synthetic voice, harbours by name and numbers written as figures: 19 of 100 were seen.
    assert!(errors * 4 <= said.len(), "{errors} of {}", said.len());
    drop(caller);
    viva.drain(Duration::from_millis(100)).await;
}
