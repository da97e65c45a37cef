//! The scheduler under faults and crowds: engines that die, hang, come late or answer nonsense; sessions that flood and
//! vanish. Every test prints its seed.
#![allow(clippy::unwrap_used)]

mod room;

use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use room::*;
use viva_actors::event::{Outcome, SessionEvent};
use viva_actors::gpu::binding::{Quality, Serves};
use viva_actors::gpu::device::Opener;
use viva_actors::gpu::{Engines, More, Share};
use viva_actors::ports::{SessionMsg, SessionSpec};
use viva_actors::testkit::{Costs, Faults, engines, heard_words};
use viva_actors::types::Stage;
use viva_models::registry::Opened;
use viva_models::{Asr, AsrJob, Cancel, EngineError, Transcription, Tts, TtsJob, Vad, VadJob};

/// The seed of this run: `VIVA_SEED`, or drawn.
fn seed(test: &str) -> StdRng {
    let seed =
        std::env::var("VIVA_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random::<u64>);
    println!("{test}: VIVA_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// A recogniser of the test's own.
struct Odd<F>(F);

impl<F: FnMut(&AsrJob) -> Result<String, EngineError> + Send> Asr for Odd<F> {
    fn name(&self) -> &str {
        "odd"
    }

    fn transcribe(&mut self, job: &AsrJob, _cancel: &Cancel) -> viva_models::Result<Transcription> {
        (self.0)(job).map(|text| Transcription { text, confidence: 0.9, ..Transcription::default() })
    }
}

fn odd_asr<F>(make: impl Fn() -> (F, Option<u32>) + Send + Sync + 'static) -> Opener<dyn Asr>
where
    F: FnMut(&AsrJob) -> Result<String, EngineError> + Send + 'static,
{
    Arc::new(move || {
        let (hears, pid) = make();
        Ok(Opened { engine: Box::new(Odd(hears)) as Box<dyn Asr>, pid })
    })
}

fn fakes(faults: &Arc<Faults>) -> Engines {
    engines(Costs { asr_ms: 20, turn_ms: 2, prefill_ms: 2, step_ms: 1, tts_ms: 10 }, REPLY, faults)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_engine_dies_under_eight_callers_and_all_are_answered() {
    let mut random = seed("every_engine_dies_under_eight_callers");
    let faults = Arc::new(Faults::default());
    let room = Room::with(fakes(&faults), Arc::clone(&faults), 16).await;
    let mut callers = Vec::new();
    for _ in 0..7 {
        callers.push((room.caller().await, random.random_range(600..1_600)));
    }
    let mut last = room.caller().await;
    let deaths = tokio::spawn({
        let (faults, first) = (Arc::clone(&faults), random.random_range(200..1_500));
        async move {
            tokio::time::sleep(Duration::from_millis(first)).await;
            for deaths in [&faults.asr_deaths, &faults.llm_deaths, &faults.tts_deaths] {
                deaths.store(1, Ordering::Release);
                tokio::time::sleep(Duration::from_millis(150)).await;
            }
        }
    });
    let talks = callers.into_iter().map(|(mut caller, ms)| async move {
        caller.speak(ms).await;
        caller.ended().await
    });
    let mut talking: Vec<_> = talks.map(tokio::spawn).collect();
    // However early the others are done, somebody needs every engine after its death was ordered.
    talking.push(tokio::spawn(async move {
        last.speak(600).await;
        while !deaths.is_finished() {
            last.speak(20).await;
        }
        last.ended().await
    }));
    for talk in talking {
        assert_eq!(talk.await.unwrap(), (Outcome::Completed, REPLY.to_owned()));
    }
    let restarts: u64 = room.viva.readiness().engines.iter().map(|e| e.restarts).sum();
    assert_eq!(restarts, 3);
}

/// A process to hang on.
fn sleeper() -> Child {
    Command::new("sleep").arg("600").spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_hangs_is_killed_and_its_work_is_done_by_the_next() {
    let opened = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&opened);
    let asr = odd_asr(move || {
        let first = count.fetch_add(1, Ordering::AcqRel) == 0;
        let mut process = first.then(sleeper);
        let pid = process.as_ref().map(Child::id);
        let hears = move |job: &AsrJob| {
            if let Some(mut hung) = process.take() {
                // It computes for ever; only the death of its process ends that.
                hung.wait().unwrap();
                return Err(EngineError::Unavailable("its process ended".into()));
            }
            Ok(heard_words(&job.samples))
        };
        (hears, pid)
    });
    let faults = Arc::new(Faults::default());
    let room = Room::with(Engines { asr, ..fakes(&faults) }, faults, 4).await;
    let mut caller = room.caller().await;
    let began = Instant::now();
    caller.speak(900).await;
    let heard = loop {
        // Longer than the watchdog waits.
        assert!(began.elapsed() < Duration::from_secs(60), "{:#?}", caller.seen);
        caller.send(false, 200).await;
        let ended = caller.seen.iter().find_map(|e| match &e.event {
            SessionEvent::TurnEnded { text, .. } => Some(text.clone()),
            _ => None,
        });
        if let Some(text) = ended {
            break text;
        }
    };
    println!("{heard:?} after {:?}", began.elapsed());
    assert!(heard.starts_with("word1 word2"), "the utterance is not lost: {heard:?}");
    assert_eq!(opened.load(Ordering::Acquire), 2);
}

/// Answers fewer windows than it is asked, or no probabilities, every so often.
struct OddVad(u32);

impl Vad for OddVad {
    fn name(&self) -> &str {
        "odd"
    }

    fn detect(&mut self, batch: &mut [VadJob], probabilities: &mut Vec<f32>) -> viva_models::Result<()> {
        self.0 += 1;
        probabilities.clear();
        match self.0 % 40 {
            7 => {}
            17 => probabilities.extend(batch.iter().map(|_| f32::NAN)),
            27 => probabilities.extend(batch.iter().map(|_| 17.0)),
            _ => probabilities.extend(batch.iter().map(|job| {
                let loud = job.window.iter().any(|s| s.abs() > 0.05);
                if loud { 0.95 } else { 0.02 }
            })),
        }
        Ok(())
    }
}

struct OddVoice;

impl Tts for OddVoice {
    fn name(&self) -> &str {
        "odd"
    }

    fn sample_rate(&self) -> u32 {
        24_000
    }

    fn styles(&self) -> viva_models::StyleSupport {
        viva_models::StyleSupport::default()
    }

    fn speak(&mut self, job: &TtsJob, _: &Cancel, sink: &mut dyn FnMut(&[f32])) -> viva_models::Result<()> {
        let samples = job.text.len() * 1_440;
        let odd = [f32::NAN, f32::INFINITY, 1e30, -1e30, 0.3];
        sink(&(0..samples).map(|i| odd[i % odd.len()]).collect::<Vec<_>>());
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn engines_that_answer_nonsense_harm_nobody_and_stay() {
    let asr = odd_asr(|| {
        let mut n = 0;
        let hears = move |_: &AsrJob| {
            n += 1;
            Ok(if n % 2 == 0 { String::new() } else { "\u{0}ü".repeat(200_000) })
        };
        (hears, None)
    });
    let faults = Arc::new(Faults::default());
    let vad: Opener<dyn Vad> =
        Arc::new(|| Ok(Opened { engine: Box::new(OddVad(0)) as Box<dyn Vad>, pid: None }));
    let tts: Opener<dyn Tts> =
        Arc::new(|| Ok(Opened { engine: Box::new(OddVoice) as Box<dyn Tts>, pid: None }));
    let room = Room::with(Engines { asr, vad, tts, ..fakes(&faults) }, faults, 4).await;
    let mut caller = room.caller().await;
    for _ in 0..3 {
        caller.speak(1_200).await;
        caller.send(false, 2_600).await;
    }
    let longest = caller
        .seen
        .iter()
        .filter_map(|e| match &e.event {
            SessionEvent::TurnEnded { text, .. } => Some(text.len()),
            _ => None,
        })
        .max();
    assert!(longest.is_some_and(|bytes| bytes <= 8_192), "{longest:?}");
    assert!(caller.voice > 0);
    assert_eq!(caller.count(|e| matches!(e, SessionEvent::Ended { .. })), 0);
    let engines = room.viva.readiness().engines;
    assert!(engines.iter().all(|e| e.up && e.restarts == 0), "{engines:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn work_goes_to_the_engine_for_its_language_and_to_the_second_line_when_the_first_is_late() {
    let named = |name: &'static str, ms: u64| {
        odd_asr(move || {
            let hears = move |_: &AsrJob| {
                std::thread::sleep(Duration::from_millis(ms));
                Ok(name.to_owned())
            };
            (hears, None)
        })
    };
    let german = Serves { languages: vec!["de".into()], ..Serves::default() };
    let high = Serves { quality: Quality::High, ..Serves::default() };
    let spill = Serves { spill: true, ..Serves::default() };
    let faults = Arc::new(Faults::default());
    let all = Engines {
        asr: named("first", 700),
        more: vec![
            (german, More::Asr(named("german", 5), Share::of(1))),
            (high, More::Asr(named("high", 5), Share::of(1))),
            (spill, More::Asr(named("spill", 5), Share::of(0))),
        ],
        ..fakes(&faults)
    };
    let room = Room::with(all, faults, 16).await;
    let turn = async |language: &str, quality| {
        let spec = SessionSpec { language: language.into(), quality, ..SessionSpec::default() };
        let mut caller = Caller { ports: room.viva.open(spec).await.unwrap(), seen: Vec::new(), voice: 0 };
        caller.speak(900).await;
        caller.turn().await
    };
    assert_eq!(turn("de", Quality::Standard).await, "german");
    assert_eq!(turn("en", Quality::High).await, "high");
    assert_eq!(turn("en", Quality::Standard).await, "first");
    // Three at once, of whom the first line serves one in time.
    let (a, b, c) = tokio::join!(
        turn("en", Quality::Standard),
        turn("en", Quality::Standard),
        turn("en", Quality::Standard)
    );
    let heard = [a, b, c];
    assert!(heard.iter().any(|h| h == "spill"), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_language_is_changed_in_mid_session() {
    let named = |name: &'static str| odd_asr(move || (move |_: &AsrJob| Ok(name.to_owned()), None));
    let german = Serves { languages: vec!["de".into()], ..Serves::default() };
    let faults = Arc::new(Faults::default());
    let all = Engines {
        asr: named("first"),
        more: vec![(german, More::Asr(named("german"), Share::of(1)))],
        ..fakes(&faults)
    };
    let room = Room::with(all, faults, 4).await;
    let mut caller = room.caller().await;
    let spec = SessionSpec::default();
    let settings = viva_actors::ports::SessionSettings {
        turn: spec.turn,
        voice: spec.voice,
        listening: spec.listening,
        language: "de".into(),
        quality: spec.quality,
    };
    caller.ports.control.cast(SessionMsg::Configure(Box::new(settings))).unwrap();
    caller.speak(900).await;
    assert_eq!(caller.turn().await, "german");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_opened_and_dropped_in_any_state_leave_nothing() {
    let mut random = seed("sessions_opened_and_dropped_in_any_state");
    let faults = Arc::new(Faults::default());
    let room = Room::with(fakes(&faults), Arc::clone(&faults), 64).await;
    // In fifties, so that many are in every state at once.
    for _ in 0..10 {
        let mut going = Vec::new();
        for _ in 0..50 {
            let mut caller = room.caller().await;
            let (speak, quiet, end) =
                (random.random_range(0..1_200), random.random_range(0..1_500), random.random_range(0..4));
            going.push(tokio::spawn(async move {
                caller.speak(speak).await;
                caller.send(false, quiet).await;
                match end {
                    0 => drop(caller),
                    1 => {
                        caller.ports.control.cast(SessionMsg::Hangup("done".into())).ok();
                        caller.closed().await;
                    }
                    2 => caller.ports.control.kill(),
                    _ => {
                        caller.ports.control.cast(SessionMsg::Panic(Stage::Llm)).ok();
                    }
                }
            }));
        }
        if random.random_range(0..3) == 0 {
            faults.llm_deaths.store(1, Ordering::Release);
        }
        for caller in going {
            caller.await.unwrap();
        }
    }
    let began = Instant::now();
    while room.viva.sessions() > 0 {
        assert!(began.elapsed() < LIMIT, "{} are left", room.viva.sessions());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Whoever comes then is served as the first was, and no place in the cache is taken.
    let mut caller = room.caller().await;
    caller.speak(900).await;
    assert_eq!(caller.ended().await, (Outcome::Completed, REPLY.to_owned()));
    let counts = room.viva.scheduler_counts().await.unwrap();
    assert_eq!((counts.clients, counts.queued), (1, 0), "{counts:?}");
    assert!(counts.places <= 1, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_floods_makes_no_other_late() {
    let faults = Arc::new(Faults::default());
    let room = Room::with(fakes(&faults), faults, 16).await;
    let flood = room.caller().await;
    let flooding = tokio::spawn(async move {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(4) {
            for _ in 0..50 {
                flood.ports.mic.push_latest(viva_actors::testkit::tone(200.0, 1_600, 16_000).into());
                flood.ports.control.cast(SessionMsg::CommitAudio).ok();
                flood.ports.control.cast(SessionMsg::Respond(Box::default())).ok();
                flood.ports.control.cast(SessionMsg::Cancel).ok();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(flood);
    });
    let mut caller = room.caller().await;
    caller.speak(900).await;
    let silent = Instant::now();
    caller.wait("our voice", audible).await;
    println!("answered {:?} after the last word", silent.elapsed());
    assert_eq!(caller.ended().await, (Outcome::Completed, REPLY.to_owned()));
    flooding.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_nobodys_is_spoken_by_the_engine_so_often_and_then_never_again() {
    let folder = tempfile::tempdir().unwrap();
    let spoken = Arc::new(viva_models::tts::spoken::Spoken::open(folder.path(), "hum").unwrap());
    let faults = Arc::new(Faults::default());
    let all = Engines { spoken: Some(spoken), ..fakes(&faults) };
    let room = Room::with(all, Arc::clone(&faults), 8).await;
    let (mut letters, mut frames) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let mut caller = room.caller().await;
        caller.speak(900).await;
        assert_eq!(caller.ended().await, (Outcome::Completed, REPLY.to_owned()));
        letters.push(faults.tts_letters.load(Ordering::Acquire));
        frames.push(caller.voice);
    }
    assert!(letters[0] > 0 && letters[1] > letters[0] && letters[2] > letters[1], "{letters:?}");
    assert_eq!((letters[3], letters[4]), (letters[2], letters[2]), "from the fourth time on it is known");
    assert!(frames.iter().all(|f| f.abs_diff(frames[0]) <= 2), "and sounds as long: {frames:?}");
}
