//! Faults and replay on real weights, in real time: an engine that is stuck in mid-utterance, a log that is
//! decided again.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use viva::config::Config;
use viva::engines::Chosen;
use viva_actors::event::{LogEntry, SessionEvent, replay};
use viva_actors::ports::{Out, SessionMsg, SessionPorts};
use viva_actors::root::{Limits, Viva};
use viva_models::audio::decode_file;

/// Longer than anything here takes on a busy machine: a stuck engine alone costs five seconds.
const WITHIN: Duration = Duration::from_secs(40);

/// 20 ms at 16 kHz.
const FRAME: usize = 320;

async fn start() -> (Viva, SessionPorts) {
    let mut config = Config::default();
    config.models.profile = "test".into();
    let spec = config.session_spec();
    let viva = Viva::start(Chosen::of(&config).unwrap().engines(), Limits { sessions: 2 }).await.unwrap();
    let began = Instant::now();
    while !viva.readiness().ready {
        assert!(began.elapsed() < WITHIN, "{:?}", viva.readiness());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let ports = viva.open(spec).await.unwrap();
    (viva, ports)
}

fn clip(name: &str) -> Vec<f32> {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/interview");
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
    caller.say(&clip("team.opus")).await;
    caller.hush_until("our voice", 1, |e| matches!(e, SessionEvent::ReplyAudible { .. })).await;
    // An interruption, which is a turn of its own.
    caller.say(&[0.0; 8 * FRAME]).await;
    caller.say(&clip("interrupt.opus")).await;
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
    let clip = clip("team.opus");
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
