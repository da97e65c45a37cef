//! Sessions whose words a director decides: what is said, what is told of it, and when it speaks by itself.
#![allow(clippy::unwrap_used)]

mod room;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use room::{Caller, LIMIT, Room, audible};
use serde_json::{Value, json};
use viva_actors::conversation::{Item, Place};
use viva_actors::director::{Cue, Director, Found, Manner, Saying, Wake, Wording};
use viva_actors::event::{Outcome, SessionEvent, replay};
use viva_actors::ports::{SessionMsg, SessionSpec};
use viva_actors::turn::{CutReason, Endpointing};
use viva_actors::types::{Epoch, Stage};
use viva_models::{Message, Role, Sampling};

/// What it was told and asked, in order.
#[derive(Debug, Clone, PartialEq)]
enum Told {
    Asked(Option<String>),
    Discarded,
    Committed,
    Worded(Option<String>),
    Ended(String, bool),
}

/// Says its lines one after the other.
#[derive(Debug)]
struct Script {
    lines: Mutex<VecDeque<Saying>>,
    told: Mutex<Vec<Told>>,
    wake: Mutex<Wake>,
    over: bool,
    worded: &'static str,
}

impl Script {
    fn new(lines: impl IntoIterator<Item = Saying>) -> Arc<Self> {
        Arc::new(Self {
            lines: Mutex::new(lines.into_iter().collect()),
            told: Mutex::default(),
            wake: Mutex::default(),
            over: false,
            worded: "",
        })
    }

    fn note(&self, told: Told) {
        self.told.lock().unwrap().push(told);
    }

    fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }
}

impl Director for Script {
    fn ahead(&self, words: &str) -> Vec<Message> {
        vec![Message { role: Role::User, content: words.to_owned() }]
    }

    fn draft(self: Arc<Self>, cue: Cue) -> Found<Saying> {
        Box::pin(async move {
            self.note(Told::Asked(cue.words));
            let mut lines = self.lines.lock().unwrap();
            if lines.len() > 1 { lines.pop_front().unwrap() } else { lines.front().cloned().unwrap() }
        })
    }

    fn worded(&self, _: Epoch, raw: Option<&str>) -> String {
        self.note(Told::Worded(raw.map(str::to_owned)));
        self.worded.to_owned()
    }

    fn discarded(&self, _: Epoch) {
        self.note(Told::Discarded);
    }

    fn committed(&self, _: Epoch, _: u64) {
        // One wake is enough.
        *self.wake.lock().unwrap() = Wake::default();
        self.note(Told::Committed);
    }

    fn ended(&self, _: Epoch, heard: &str, whole: bool, _: u64) {
        self.note(Told::Ended(heard.to_owned(), whole));
    }

    fn manner(&self) -> Manner {
        Manner { patience: 1.5, turn_ms_max: 4_000 }
    }

    fn wake(&self) -> Wake {
        *self.wake.lock().unwrap()
    }

    fn over(&self) -> bool {
        self.over
    }

    fn news(&self, _: u64) -> Option<Value> {
        Some(json!({"told": self.told().len()}))
    }
}

fn say(text: &str) -> Saying {
    Saying::Say(text.into())
}

fn word(lead: &str, within: Duration) -> Saying {
    let messages = vec![Message { role: Role::User, content: "hello".into() }];
    let sampling = Sampling { max_tokens: 64, ..Sampling::default() };
    Saying::Word(Box::new(Wording { lead: lead.into(), messages, sampling, within }))
}

async fn call(room: &Room, script: &Arc<Script>) -> Caller {
    let director: Arc<dyn Director> = Arc::clone(script) as Arc<dyn Director>;
    let spec = SessionSpec { director: Some(director), ..SessionSpec::default() };
    Caller { ports: room.viva.open(spec).await.unwrap(), seen: Vec::new(), voice: 0 }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directors_line_is_said_as_it_is_and_it_learns_what_was_heard() {
    let room = Room::open("The model is not asked.").await;
    let script = Script::new([say("Good. What did you do next?")]);
    let mut caller = call(&room, &script).await;
    caller.speak(1500).await;
    let (outcome, heard) = caller.ended().await;
    assert_eq!((outcome, heard.as_str()), (Outcome::Completed, "Good. What did you do next?"));
    let told = script.told();
    assert!(matches!(&told[0], Told::Asked(Some(words)) if words.starts_with("word1")), "{told:?}");
    assert_eq!(told.iter().filter(|t| **t == Told::Committed).count(), 1);
    assert_eq!(told.last(), Some(&Told::Ended("Good. What did you do next?".into(), true)));
    let patient = caller.count(|e| {
        matches!(e, SessionEvent::Configured { turn } if turn.turn_ms_max == 4_000
            && turn.endpointing == Endpointing::Semantic { patience: 1.5 })
    });
    assert_eq!(patient, 1, "its manner is the session's");
    assert!(caller.count(|e| matches!(e, SessionEvent::Directed { .. })) > 0);
    assert_eq!(replay(&caller.log().await), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_model_words_is_looked_at_before_anybody_hears_it() {
    let room = Room::open("You should quit your job.").await;
    let script = Arc::new(Script {
        worded: "How did you notice it?",
        ..Arc::into_inner(Script::new([word("I see.", LIMIT)])).unwrap()
    });
    let mut caller = call(&room, &script).await;
    caller.speak(1500).await;
    let (outcome, heard) = caller.ended().await;
    assert_eq!((outcome, heard.as_str()), (Outcome::Completed, "I see. How did you notice it?"));
    assert!(script.told().contains(&Told::Worded(Some("You should quit your job.".into()))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_late_or_dead_is_not_waited_for() {
    let room = Room::open("You should quit your job.").await;
    for (within, deaths) in [(Duration::from_millis(1), 0), (LIMIT, 9)] {
        room.faults.llm_deaths.store(deaths, std::sync::atomic::Ordering::Release);
        let script = Arc::new(Script {
            worded: "How did you notice it?",
            ..Arc::into_inner(Script::new([word("I see.", within)])).unwrap()
        });
        let mut caller = call(&room, &script).await;
        caller.speak(1500).await;
        let (_, heard) = caller.ended().await;
        assert_eq!(heard, "I see. How did you notice it?", "{:?}", script.told());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_caller_is_spoken_to_and_nothing_is_taken_for_their_words() {
    let room = Room::open("").await;
    let script = Script::new([say("Take your time.")]);
    *script.wake.lock().unwrap() = Wake { silent_ms: Some(500), ..Wake::default() };
    let mut caller = call(&room, &script).await;
    caller.wait("our voice", audible).await;
    let (outcome, heard) = caller.ended().await;
    assert_eq!((outcome, heard.as_str()), (Outcome::Completed, "Take your time."));
    assert_eq!(script.told().iter().find(|t| matches!(t, Told::Asked(_))), Some(&Told::Asked(None)));
    assert_eq!(caller.count(|e| matches!(e, SessionEvent::TurnEnded { .. })), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_stalls_is_not_silent_and_a_hang_up_is_one() {
    let room = Room::open("").await;
    let script = Script::new([say("Hello?")]);
    *script.wake.lock().unwrap() = Wake { silent_ms: Some(400), ..Wake::default() };
    let mut caller = call(&room, &script).await;
    caller.send(false, 100).await;
    // Nothing comes from them: their clock stands.
    tokio::time::sleep(Duration::from_millis(900)).await;
    caller.note();
    assert_eq!(script.told(), []);
    *script.wake.lock().unwrap() = Wake { silent_ms: Some(600), at_ms: None, hang_up: true };
    caller.send(false, 1_500).await;
    assert!(caller.closed().await, "it ends without a word");
    assert_eq!(script.told(), []);
}

/// Waits without sending a sound.
async fn mute(caller: &mut Caller, until: impl Fn(&Caller) -> bool) {
    for _ in 0..LIMIT.as_millis() / 20 {
        caller.note();
        if until(caller) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never; saw {:#?}", caller.seen);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_writes_is_answered_and_spoken_to_when_they_write_no_more() {
    let room = Room::open("").await;
    let script = Script::new([say("And then?"), say("Take your time.")]);
    let mut caller = call(&room, &script).await;
    let (reply, placed) = ractor::concurrency::oneshot();
    let item = Item {
        id: "written".into(),
        role: Role::User,
        text: "I closed the ledger.".into(),
        spoken: false,
        complete: true,
    };
    caller.ports.control.cast(SessionMsg::AddItem(item, Place::Last, reply.into())).unwrap();
    assert!(placed.await.unwrap().is_ok());
    caller.ports.control.cast(SessionMsg::Respond(Box::default())).unwrap();
    let ended =
        |n| move |caller: &Caller| caller.count(|e| matches!(e, SessionEvent::ReplyEnded { .. })) == n;
    mute(&mut caller, ended(1)).await;
    // Their media clock has not moved, and will not.
    *script.wake.lock().unwrap() = Wake { silent_ms: Some(200), ..Wake::default() };
    caller.ports.control.cast(SessionMsg::ClearAudio).unwrap();
    mute(&mut caller, ended(2)).await;
    let told = script.told();
    let asked: Vec<&Told> = told.iter().filter(|t| matches!(t, Told::Asked(_))).collect();
    assert_eq!(asked, [&Told::Asked(Some("I closed the ledger.".into())), &Told::Asked(None)], "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_line_ends_the_session() {
    let room = Room::open("").await;
    let script = Arc::new(Script { over: true, ..Arc::into_inner(Script::new([say("Goodbye.")])).unwrap() });
    let mut caller = call(&room, &script).await;
    caller.speak(1500).await;
    let (_, heard) = caller.ended().await;
    assert_eq!(heard, "Goodbye.");
    assert!(caller.closed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_line_is_told_with_what_was_heard_of_it_and_a_draft_that_is_thrown_away_counts_for_nothing()
 {
    let room = Room::open("").await;
    let long =
        "Thank you very much for telling me about all that. What would you do otherwise today, if you could?";
    let script = Script::new([say(long)]);
    let mut caller = call(&room, &script).await;
    caller.speak(1500).await;
    caller.wait("our voice", audible).await;
    caller.send(false, 600).await;
    caller.speak(1500).await;
    let (outcome, heard) = caller.ended().await;
    assert_eq!(outcome, Outcome::Cut(CutReason::BargeIn));
    let told = script.told();
    assert!(told.contains(&Told::Ended(heard.clone(), false)) && long.starts_with(&heard), "{told:?}");
    let (asked, committed, discarded) = (
        told.iter().filter(|t| matches!(t, Told::Asked(_))).count(),
        told.iter().filter(|t| **t == Told::Committed).count(),
        told.iter().filter(|t| **t == Told::Discarded).count(),
    );
    assert!(asked <= committed + discarded + 1, "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stages_may_die_and_the_directors_line_is_said() {
    let room = Room::open("x").await;
    let script = Script::new([say("Good. What did you do next?")]);
    let mut caller = call(&room, &script).await;
    caller.send(true, 700).await;
    for stage in [Stage::Rag, Stage::Llm] {
        caller.ports.control.cast(SessionMsg::Panic(stage)).unwrap();
    }
    caller.speak(900).await;
    let (outcome, heard) = caller.ended().await;
    assert_eq!((outcome, heard.as_str()), (Outcome::Completed, "Good. What did you do next?"));
}
