//! Who is served first and by whom: deadlines, what gives way, engines of several processes, the order of arrival; and
//! who is let in: seats that are waited for, a crowd of twice what there is room for; lines spoken ahead.
#![allow(clippy::unwrap_used)]

mod room;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ractor::concurrency::oneshot;
use room::*;
use viva_actors::ahead::{clauses, speak_ahead};
use viva_actors::event::Outcome;
use viva_actors::gpu::binding::{Quality, Serves};
use viva_actors::gpu::device::Opener;
use viva_actors::gpu::load::Verdict;
use viva_actors::gpu::policy::Discipline;
use viva_actors::gpu::work::{Job, Pause, Stake};
use viva_actors::gpu::{Cores, Engines, More, Order, Share, within};
use viva_actors::ports::SessionSpec;
use viva_actors::root::{OpenError, WAITING_MAX};
use viva_actors::testkit::{Costs, Faults, engines, heard_words};
use viva_models::registry::Opened;
use viva_models::{Asr, AsrJob, Cancel, EngineError, Style, Transcription, Tts, TtsJob, Vad, VadJob};

fn fakes(faults: &Arc<Faults>) -> Engines {
    engines(Costs { asr_ms: 20, turn_ms: 2, prefill_ms: 2, step_ms: 1, tts_ms: 10 }, REPLY, faults)
}

/// Counts how many calls run at once.
#[derive(Default)]
struct AtOnce {
    now: AtomicU32,
    most: AtomicU32,
    calls: AtomicU32,
}

impl AtOnce {
    /// A call that takes so long.
    fn call(&self, ms: u64) {
        self.calls.fetch_add(1, Ordering::AcqRel);
        let now = self.now.fetch_add(1, Ordering::AcqRel) + 1;
        self.most.fetch_max(now, Ordering::AcqRel);
        std::thread::sleep(Duration::from_millis(ms));
        self.now.fetch_sub(1, Ordering::AcqRel);
    }

    fn most(&self) -> u32 {
        self.most.load(Ordering::Acquire)
    }
}

/// A recogniser and a voice that are counted together or apart.
struct Counted(Arc<AtOnce>, u64);

impl Asr for Counted {
    fn name(&self) -> &str {
        "counted"
    }

    fn transcribe(&mut self, job: &AsrJob, _: &Cancel) -> viva_models::Result<Transcription> {
        self.0.call(self.1);
        Ok(Transcription { text: heard_words(&job.samples), confidence: 0.9, ..Transcription::default() })
    }
}

impl Tts for Counted {
    fn name(&self) -> &str {
        "counted"
    }

    fn sample_rate(&self) -> u32 {
        24_000
    }

    fn styles(&self) -> viva_models::StyleSupport {
        viva_models::StyleSupport::default()
    }

    fn speak(&mut self, job: &TtsJob, _: &Cancel, sink: &mut dyn FnMut(&[f32])) -> viva_models::Result<()> {
        self.0.call(self.1);
        sink(&vec![0.1; job.text.len() * 600]);
        Ok(())
    }
}

fn counted_asr(count: &Arc<AtOnce>, ms: u64) -> Opener<dyn Asr> {
    let count = Arc::clone(count);
    Arc::new(move || {
        Ok(Opened { engine: Box::new(Counted(Arc::clone(&count), ms)) as Box<dyn Asr>, pid: None })
    })
}

fn counted_tts(count: &Arc<AtOnce>, ms: u64) -> Opener<dyn Tts> {
    let count = Arc::clone(count);
    Arc::new(move || {
        Ok(Opened { engine: Box::new(Counted(Arc::clone(&count), ms)) as Box<dyn Tts>, pid: None })
    })
}

/// Forgets how late the pacer was: what else runs on the machine is no part of these tests.
fn on_time(room: &Room) {
    (0..500).for_each(|_| room.viva.lateness().record(Duration::ZERO));
}

/// So many callers say the same at once and are answered.
async fn talk_at_once(room: &Room, callers: usize) {
    let mut talking = Vec::new();
    for _ in 0..callers {
        on_time(room);
        let mut caller = room.caller().await;
        talking.push(tokio::spawn(async move {
            caller.speak(900).await;
            caller.ended().await
        }));
    }
    for talk in talking {
        assert_eq!(talk.await.unwrap(), (Outcome::Completed, REPLY.to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_has_as_many_pieces_under_way_as_processes() {
    for processes in [1, 3] {
        let (heard, spoken) = (Arc::new(AtOnce::default()), Arc::new(AtOnce::default()));
        let faults = Arc::new(Faults::default());
        let order = Order { asr_processes: processes, tts_processes: processes, ..Order::default() };
        let (asr, tts) = (counted_asr(&heard, 150), counted_tts(&spoken, 150));
        let room = Room::with(Engines { asr, tts, order, ..fakes(&faults) }, faults, 8).await;
        let engines = room.viva.readiness().engines;
        let of = |kind| engines.iter().filter(|e| e.kind == kind).count() as u32;
        assert_eq!((of("asr"), of("tts"), of("vad")), (processes, processes, 1));
        talk_at_once(&room, 4).await;
        assert_eq!((heard.most(), spoken.most()), (processes, processes));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_never_take_more_cores_than_there_are() {
    let both = Arc::new(AtOnce::default());
    let faults = Arc::new(Faults::default());
    let order = Order { asr_processes: 4, tts_processes: 4, ..Order::default() };
    let cores = Cores { total: 2, asr: 1, llm: 2, tts: 1, ..Cores::default() };
    let (asr, tts) = (counted_asr(&both, 60), counted_tts(&both, 60));
    let room = Room::with(Engines { asr, tts, order, cores, ..fakes(&faults) }, faults, 8).await;
    talk_at_once(&room, 5).await;
    assert_eq!(both.most(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_that_dies_is_opened_again_while_the_others_go_on() {
    let faults = Arc::new(Faults::default());
    let order = Order { tts_processes: 2, ..Order::default() };
    let room = Room::with(Engines { order, ..fakes(&faults) }, Arc::clone(&faults), 8).await;
    faults.tts_deaths.store(1, Ordering::Release);
    talk_at_once(&room, 4).await;
    let restarts: Vec<u64> =
        room.viva.readiness().engines.iter().filter(|e| e.kind == "tts").map(|e| e.restarts).collect();
    assert_eq!(restarts.iter().sum::<u64>(), 1, "{restarts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_order_of_arrival_one_call_runs_at_a_time_and_nothing_is_left_undone() {
    let mut calls = Vec::new();
    for discipline in [Discipline::Arrival, Discipline::Slack] {
        let both = Arc::new(AtOnce::default());
        let faults = Arc::new(Faults::default());
        let order = Order { discipline, tts_processes: 2, ..Order::default() };
        let (asr, tts) = (counted_asr(&both, 300), counted_tts(&both, 40));
        let room = Room::with(Engines { asr, tts, order, ..fakes(&faults) }, faults, 8).await;
        let mut talking = Vec::new();
        for _ in 0..4 {
            on_time(&room);
            let mut caller = room.caller().await;
            talking.push(tokio::spawn(async move {
                // Whoever goes on after a pause leaves words behind that nobody waits for.
                for _ in 0..3 {
                    caller.speak(400).await;
                    caller.send(false, 120).await;
                }
                caller.speak(400).await;
                caller.ended().await
            }));
        }
        for talk in talking {
            assert_eq!(talk.await.unwrap().0, Outcome::Completed);
        }
        let most = both.most();
        assert!(
            if discipline == Discipline::Arrival { most == 1 } else { most > 1 },
            "{discipline:?}: {most}"
        );
        calls.push(both.calls.load(Ordering::Acquire));
    }
    assert!(calls[0] > calls[1], "the scheduler leaves undone what nobody waits for: {calls:?}");
}

/// Notes what it is asked to say, and says nothing; the first takes a while, so that the others wait for it.
struct Noting(Arc<Mutex<Vec<String>>>);

impl Tts for Noting {
    fn name(&self) -> &str {
        "noting"
    }

    fn sample_rate(&self) -> u32 {
        24_000
    }

    fn styles(&self) -> viva_models::StyleSupport {
        viva_models::StyleSupport::default()
    }

    fn speak(&mut self, job: &TtsJob, _: &Cancel, _: &mut dyn FnMut(&[f32])) -> viva_models::Result<()> {
        self.0.lock().unwrap().push(job.text.clone());
        std::thread::sleep(Duration::from_millis(if job.text == "first" { 150 } else { 1 }));
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_done_by_its_deadline_then_what_is_on_suspicion_and_never_what_is_void() {
    let said = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&said);
    let tts: Opener<dyn Tts> = Arc::new(move || {
        Ok(Opened { engine: Box::new(Noting(Arc::clone(&noted))) as Box<dyn Tts>, pid: None })
    });
    let faults = Arc::new(Faults::default());
    let room = Room::with(Engines { tts, ..fakes(&faults) }, faults, 4).await;
    let submitter = room.viva.submitter().await.unwrap();
    let (done, all) = std::sync::mpsc::sync_channel(8);
    let say = |text: &str, ms, stake| {
        let job = TtsJob { text: text.into(), style: viva_models::Style::default(), language: None };
        let done = done.clone();
        let reply = Box::new(move |_| done.send(()).unwrap());
        submitter.submit(Job::Tts { job, sink: Box::new(|_, _| ()), delivered: 0, reply }, within(ms), stake)
    };
    say("first", 50, Stake::Wanted);
    tokio::time::sleep(Duration::from_millis(50)).await;
    say("ahead", 100, Stake::Ahead);
    say("late", 900, Stake::Wanted);
    say("void", 200, Stake::Wanted).cancel();
    say("soon", 300, Stake::Wanted);
    let wait = tokio::task::spawn_blocking(move || (0..5).for_each(|_| all.recv_timeout(LIMIT).unwrap()));
    wait.await.unwrap();
    assert_eq!(*said.lock().unwrap(), ["first", "soon", "late", "ahead"]);
}

/// Works until it is stopped, on the first second of sound; on less it is done at once.
struct Endless;

impl Asr for Endless {
    fn name(&self) -> &str {
        "endless"
    }

    fn transcribe(&mut self, job: &AsrJob, cancel: &Cancel) -> viva_models::Result<Transcription> {
        let began = Instant::now();
        while job.samples.len() >= 16_000 {
            if cancel.is_cancelled() {
                return Err(EngineError::Cancelled);
            }
            assert!(began.elapsed() < LIMIT, "nobody stopped it");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Transcription::default())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn words_that_are_only_to_be_shown_give_way_to_what_somebody_waits_for() {
    let asr: Opener<dyn Asr> =
        Arc::new(|| Ok(Opened { engine: Box::new(Endless) as Box<dyn Asr>, pid: None }));
    let faults = Arc::new(Faults::default());
    let room = Room::with(Engines { asr, ..fakes(&faults) }, faults, 4).await;
    let submitter = room.viva.submitter().await.unwrap();
    let hear = |samples: usize, stake| {
        let (reply, answer) = oneshot();
        let job = AsrJob { samples: vec![0.1; samples], ..AsrJob::default() };
        let reply = Box::new(move |result: Result<_, EngineError>| {
            reply.send(result.map(|_| ())).ok();
        });
        submitter.submit(Job::Asr { job, reply }, within(100), stake);
        answer
    };
    let pause = Pause::default();
    let shown = hear(16_000, Stake::Words(pause.clone(), within(60_000)));
    tokio::time::sleep(Duration::from_millis(50)).await;
    let wanted = hear(100, Stake::Wanted);
    tokio::time::sleep(Duration::from_millis(50)).await;
    // It may still be the end of a turn: it goes on. Then the caller does, and the next look stops it.
    pause.over();
    let next = hear(100, Stake::Wanted);
    let heard = tokio::time::timeout(LIMIT, async { (shown.await, wanted.await, next.await) }).await.unwrap();
    assert_eq!(heard.0.unwrap(), Err(EngineError::Cancelled));
    assert_eq!((heard.1.unwrap(), heard.2.unwrap()), (Ok(()), Ok(())));
}

/// Counts windows, and the calls in which they are judged.
struct Batches(Arc<[AtomicU32; 2]>);

impl Vad for Batches {
    fn name(&self) -> &str {
        "batches"
    }

    fn detect(&mut self, batch: &mut [VadJob], probabilities: &mut Vec<f32>) -> viva_models::Result<()> {
        self.0[0].fetch_add(batch.len() as u32, Ordering::AcqRel);
        self.0[1].fetch_add(1, Ordering::AcqRel);
        probabilities.clear();
        probabilities.extend(batch.iter().map(|_| 0.0));
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_of_many_callers_are_judged_together_and_who_is_alone_waits_for_nobody() {
    for (callers, together) in [(1, false), (24, true)] {
        let counts = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
        let noted = Arc::clone(&counts);
        let vad: Opener<dyn Vad> = Arc::new(move || {
            Ok(Opened { engine: Box::new(Batches(Arc::clone(&noted))) as Box<dyn Vad>, pid: None })
        });
        let faults = Arc::new(Faults::default());
        let room = Room::with(Engines { vad, ..fakes(&faults) }, faults, 32).await;
        let mut silent = Vec::new();
        for _ in 0..callers {
            on_time(&room);
            let mut caller = room.caller().await;
            silent.push(tokio::spawn(async move { caller.send(false, 1_000).await }));
        }
        for caller in silent {
            caller.await.unwrap();
        }
        let [windows, calls] = counts.each_ref().map(|count| count.load(Ordering::Acquire));
        // Of 24 callers 750 windows come in a second, six in the time for which one waits.
        assert_eq!(windows >= 3 * calls, together, "{windows} in {calls} of {callers}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_willing_to_waits_for_a_seat_in_the_order_of_coming() {
    let faults = Arc::new(Faults::default());
    let room = Room::with(fakes(&faults), faults, 1).await;
    let first = room.caller().await;
    let wait = |seconds| {
        let viva = room.viva.clone();
        tokio::spawn(
            async move { viva.open_within(SessionSpec::default(), Duration::from_secs(seconds)).await },
        )
    };
    let refused = room.viva.open(SessionSpec::default()).await.err();
    assert!(
        matches!(refused, Some(OpenError::Full { retry_after_s }) if retry_after_s >= 5),
        "nobody has to wait: {refused:?}"
    );
    let second = wait(20);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let gone = wait(20);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let third = wait(20);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let impatient = wait(1);
    assert!(matches!(impatient.await.unwrap(), Err(OpenError::Full { .. })), "their time was over");
    gone.abort();
    assert!(!second.is_finished() && !third.is_finished());
    drop(first);
    let second = tokio::time::timeout(LIMIT, second).await.unwrap().unwrap().unwrap();
    assert!(!third.is_finished(), "there is one seat");
    drop(second);
    // Whoever hung up while they waited is passed over.
    let third = tokio::time::timeout(LIMIT, third).await.unwrap().unwrap();
    assert!(third.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_wait_and_no_more_and_all_are_told_when_the_server_ends() {
    let faults = Arc::new(Faults::default());
    let room = Room::with(fakes(&faults), faults, 1).await;
    let _first = room.caller().await;
    let mut waiting = Vec::new();
    for _ in 0..=WAITING_MAX {
        let viva = room.viva.clone();
        waiting.push(tokio::spawn(async move {
            viva.open_within(SessionSpec::default(), Duration::from_secs(20)).await.err()
        }));
        tokio::task::yield_now().await;
    }
    let refused = async {
        loop {
            let done = waiting.iter().filter(|w| w.is_finished()).count();
            if done > 0 {
                return done;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert_eq!(tokio::time::timeout(LIMIT, refused).await.unwrap(), 1);
    room.viva.drain(Duration::from_millis(100)).await;
    let mut told = Vec::new();
    for wait in waiting {
        told.push(tokio::time::timeout(LIMIT, wait).await.unwrap().unwrap().unwrap());
    }
    assert_eq!(told.iter().filter(|t| **t == OpenError::Draining).count(), WAITING_MAX);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_twice_the_capacity_those_who_are_let_in_are_answered_in_time() {
    let faults = Arc::new(Faults::default());
    // A recognition of 100 ms on one of two cores; a turn of a few seconds costs about 0.2 cores, as was measured
    // before.
    let costs = Costs { asr_ms: 100, turn_ms: 2, prefill_ms: 2, step_ms: 1, tts_ms: 10 };
    let cores = Cores { total: 2, asr: 1, llm: 1, tts: 1, ..Cores::default() };
    let order = Order { session_cores: 0.2, ..Order::default() };
    let all = Engines { cores, order, ..engines(costs, REPLY, &faults) };
    let room = Room::with(all, faults, 64).await;
    assert_eq!(room.viva.verdict(), Verdict::Admit, "with nobody there, there is nobody to protect");
    let (mut callers, mut refused) = (Vec::new(), 0);
    for _ in 0..16 {
        on_time(&room);
        match room.viva.open(SessionSpec::default()).await {
            Ok(ports) => callers.push(Caller { ports, seen: Vec::new(), voice: 0 }),
            Err(OpenError::Busy { retry_after_s }) if retry_after_s >= 5 => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!((callers.len(), refused), (8, 8), "eight take 1.6 of two cores");
    let talks = callers.into_iter().map(|mut caller| {
        tokio::spawn(async move {
            for _ in 0..2 {
                caller.speak(900).await;
                let end = caller.ended().await;
                caller.seen.clear();
                assert_eq!(end, (Outcome::Completed, REPLY.to_owned()));
            }
        })
    });
    for talk in talks.collect::<Vec<_>>() {
        talk.await.unwrap();
    }
    let load = room.viva.load();
    println!("{load:?}");
    assert!(load.late_ms < 1_000.0, "{load:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_no_room_is_handed_to_the_smaller_model_where_there_is_one() {
    let (usual, small) = (Arc::new(AtOnce::default()), Arc::new(AtOnce::default()));
    let faults = Arc::new(Faults::default());
    let cores = Cores { total: 1, asr: 1, llm: 1, tts: 1, ..Cores::default() };
    let order = Order { session_cores: 0.45, ..Order::default() };
    let draft = Serves { quality: Quality::Draft, ..Serves::default() };
    let all = Engines {
        asr: counted_asr(&usual, 200),
        more: vec![(draft, More::Asr(counted_asr(&small, 5), Share::of(1)))],
        cores,
        order,
        ..fakes(&faults)
    };
    let room = Room::with(all, faults, 8).await;
    let mut first = room.caller().await;
    // What the recogniser takes of the work is measured.
    first.speak(900).await;
    assert_eq!(first.ended().await.0, Outcome::Completed);
    first.send(false, 1_500).await;
    assert_eq!(small.calls.load(Ordering::Acquire), 0);
    assert_eq!(room.viva.verdict(), Verdict::Smaller, "{:?}", room.viva.load());
    on_time(&room);
    let mut second = room.caller().await;
    let before = usual.calls.load(Ordering::Acquire);
    second.speak(900).await;
    assert_eq!(second.ended().await.0, Outcome::Completed);
    assert!(small.calls.load(Ordering::Acquire) > 0);
    assert_eq!(usual.calls.load(Ordering::Acquire), before, "nothing of theirs went to the usual one");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_to_everybody_is_spoken_before_anybody_is_told_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = || Arc::new(viva_models::tts::spoken::Spoken::open(folder.path(), "hum").unwrap());
    let spoken = store();
    let faults = Arc::new(Faults::default());
    let all = Engines { spoken: Some(Arc::clone(&spoken)), ..fakes(&faults) };
    let room = Room::with(all, Arc::clone(&faults), 8).await;
    let jobs = clauses(&[REPLY.to_owned()], &Style::default(), "en");
    assert_eq!(speak_ahead(&room.viva, &spoken, jobs.clone()).await, 2, "{jobs:?}");
    let letters = faults.tts_letters.load(Ordering::Acquire);
    talk_at_once(&room, 1).await;
    assert_eq!(
        faults.tts_letters.load(Ordering::Acquire),
        letters,
        "the first who is told it waits for no voice"
    );
    assert_eq!(speak_ahead(&room.viva, &store(), jobs).await, 0, "the next start finds them");
}
