//! What a session's questions to its seat change, and what they do not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use viva::interview::director::{Room, Seat};
use viva::interview::event::{Act, Event, Wording, transcript};
use viva::interview::find::{Finder, Plain};
use viva::interview::next::Query;
use viva::interview::plan::{Conduct, Plan, Section, Wanted};
use viva::interview::rails::Rejection;
use viva::interview::{Interview, replay};
use viva::knowledge::bank::{Bank, Record};
use viva_actors::director::{Cue, Director, Saying};
use viva_actors::types::Epoch;

const LONG: &str = "I worked on a surgical ward for six years, and the hardest part of it was the night shift, because \
                    we were only two nurses for thirty patients, so we wrote a list of who needed what and when, and \
                    after three months nobody waited longer than ten minutes for anything at all.";

fn room() -> (Arc<Room>, Arc<Seat>) {
    room_with(Arc::new(Plain::own()))
}

fn room_with(finder: Arc<dyn Finder>) -> (Arc<Room>, Arc<Seat>) {
    let wanted = Wanted { role: Some("nurse".into()), minutes: Some(15), ..Wanted::default() };
    let mut plan = Plan::new("friendly", &Conduct::default(), wanted).unwrap();
    plan.conduct.fields = vec!["nursing".into()];
    let room = Room::new(Interview::new(plan, 1), finder, 1);
    let seat = room.sit().unwrap();
    (room, seat)
}

fn cue(turn: u32, rev: u32, words: Option<&str>, now_ms: u64) -> Cue {
    Cue {
        epoch: Epoch { turn, rev },
        words: words.map(str::to_owned),
        spoke_ms: 3_000,
        ended_ms_ago: 300,
        now_ms,
    }
}

fn log_length(room: &Room) -> usize {
    room.look(|interview| interview.log().len())
}

/// A whole turn: drafted, committed, heard.
async fn turn(seat: &Arc<Seat>, n: u32, words: Option<&str>, now_ms: u64) -> String {
    let cue = cue(n, 1, words, now_ms);
    let epoch = cue.epoch;
    let saying = Arc::clone(seat).draft(cue).await;
    seat.committed(epoch, now_ms + 100);
    let text = match saying {
        Saying::Say(text) => text,
        Saying::Word(wording) => format!("{} {}", wording.lead, seat.worded(epoch, None)),
    };
    seat.ended(epoch, &text, true, now_ms + 5_000);
    text
}

#[tokio::test]
async fn a_draft_that_is_thrown_away_leaves_no_trace() {
    let (room, seat) = room();
    turn(&seat, 1, None, 1_000).await;
    let before = (log_length(&room), room.progress());
    for rev in 1..20 {
        let cue = cue(2, rev, Some("Yes, I am"), 10_000);
        let epoch = cue.epoch;
        if let Saying::Word(_) = Arc::clone(&seat).draft(cue).await {
            seat.worded(epoch, Some("NEXT"));
        }
        seat.discarded(epoch);
    }
    let after = room.progress();
    assert_eq!(
        (log_length(&room), &after.section, &after.question),
        (before.0, &before.1.section, &before.1.question)
    );
    turn(&seat, 3, Some("Yes, I am ready."), 12_000).await;
    assert_eq!(room.look(Interview::section), Section::SelfIntroduction);
}

#[tokio::test]
async fn a_reply_into_silence_is_committed_before_it_is_known_and_counts_all_the_same() {
    let (room, seat) = room();
    let cue = cue(1, 1, None, 900);
    let epoch = cue.epoch;
    seat.committed(epoch, 900);
    let Saying::Say(text) = Arc::clone(&seat).draft(cue).await else { panic!("a greeting is our own") };
    assert!(text.contains("nurse"));
    assert!(room.look(|i| i.log().iter().any(|e| matches!(e.event, Event::Decided { act: Act::Greet, .. }))));
}

#[tokio::test]
async fn words_whose_reply_was_cut_before_it_was_found_are_kept_for_the_next_one() {
    let (room, seat) = room();
    turn(&seat, 1, None, 1_000).await;
    turn(&seat, 2, Some("Yes."), 10_000).await;
    let cue = cue(3, 1, Some(LONG), 40_000);
    let epoch = cue.epoch;
    let saying = Arc::clone(&seat).draft(cue).await;
    assert!(matches!(saying, Saying::Word(_)), "an answer of this length is asked about: {saying:?}");
    seat.committed(epoch, 40_100);
    // They go on before the model has written anything.
    seat.ended(epoch, "", false, 40_300);
    let kept = room.look(|i| transcript(i.log()).into_iter().any(|line| line.text == LONG));
    assert!(kept);
    let messages = seat.ahead("And that was all.");
    assert!(messages.last().unwrap().content.starts_with("I worked on a surgical ward"));
    assert!(messages.last().unwrap().content.ends_with("And that was all."));
}

#[tokio::test]
async fn a_question_of_which_too_little_was_heard_is_asked_again() {
    let (room, seat) = room();
    turn(&seat, 1, None, 1_000).await;
    let cue = cue(2, 1, Some("Yes, of course."), 10_000);
    let epoch = cue.epoch;
    let Saying::Word(wording) = Arc::clone(&seat).draft(cue).await else { panic!("a choice") };
    seat.committed(epoch, 10_100);
    let text = format!("{} {}", wording.lead, seat.worded(epoch, None));
    let two: Vec<&str> = text.split_whitespace().take(2).collect();
    seat.ended(epoch, &two.join(" "), false, 11_000);
    let question = room.look(|i| i.question().unwrap().to_owned());
    assert!(seat.wake().silent_ms.is_some_and(|ms| ms < 1_000), "and soon");
    assert!(!seat.wake().hang_up, "nobody hangs up before the close");
    let again = turn(&seat, 3, Some("Sorry, I wanted to say that I am a little nervous."), 15_000).await;
    assert!(again.ends_with(&question), "{again}");
    let bank = Bank::general().unwrap();
    assert_eq!(room.look(|i| replay(i.log(), |id| bank.get(id))), None);
}

#[tokio::test]
async fn what_a_model_reads_while_they_speak_begins_what_it_reads_in_the_end() {
    let (_room, seat) = room();
    turn(&seat, 1, None, 1_000).await;
    turn(&seat, 2, Some("Yes."), 10_000).await;
    let early = seat.ahead("I worked on a surgical ward");
    let saying = Arc::clone(&seat).draft(cue(3, 1, Some(LONG), 40_000)).await;
    let Saying::Word(wording) = saying else { panic!("{saying:?}") };
    assert_eq!(early[..early.len() - 1], wording.messages[..early.len() - 1]);
    assert!(wording.messages.last().unwrap().content.starts_with(&early.last().unwrap().content));
    assert!(wording.sampling.grammar.is_some() && wording.within.as_millis() <= 1_600);
}

/// Finds the same as the bank, and counts how often it was asked.
struct Counting(Plain, AtomicUsize);

#[async_trait]
impl Finder for Counting {
    async fn find(&self, query: &Query) -> Vec<Record> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.find(query).await
    }

    async fn fields(&self, role: &str) -> Vec<String> {
        self.0.fields(role).await
    }
}

#[tokio::test]
async fn those_the_model_has_read_are_those_it_chooses_from() {
    let finder = Arc::new(Counting(Plain::own(), AtomicUsize::default()));
    let (room, seat) = room_with(Arc::clone(&finder) as Arc<dyn Finder>);
    turn(&seat, 1, None, 1_000).await;
    seat.ahead("");
    tokio::task::yield_now().await;
    let before = finder.1.load(Ordering::Relaxed);
    turn(&seat, 2, Some("Yes, I am ready."), 10_000).await;
    assert_eq!(finder.1.load(Ordering::Relaxed), before, "nothing else was looked for");
    assert!(room.look(|i| i.question().is_some_and(|question| question.len() > 20)));
}

/// The last decision, with what the model wrote and why.
fn decided(room: &Room) -> (Option<String>, String, Wording, String) {
    let last = room.look(|i| {
        i.log().iter().rev().find_map(|entry| match &entry.event {
            Event::Decided { question, why, wording, text, .. } => {
                Some((question.clone(), why.clone(), *wording, text.clone()))
            }
            _ => None,
        })
    });
    last.unwrap()
}

#[tokio::test]
async fn the_model_chooses_the_next_question_and_its_words_and_has_read_all_of_it_before() {
    let (room, seat) = room();
    turn(&seat, 1, None, 1_000).await;
    // Questions are looked for while nobody has said a word yet.
    seat.ahead("");
    tokio::task::yield_now().await;
    let early = seat.ahead("Yes, I am");
    assert!(early[1].content.contains(" A: ") && early[1].content.contains(" C: "), "{early:?}");
    let cue = cue(2, 1, Some("Yes, I am ready."), 10_000);
    let epoch = cue.epoch;
    let Saying::Word(wording) = Arc::clone(&seat).draft(cue).await else { panic!("a choice") };
    assert_eq!(early[0], wording.messages[0]);
    assert!(wording.messages[1].content.starts_with(&early[1].content));
    assert!(wording.lead.ends_with('.'), "what is true of each is said meanwhile: {}", wording.lead);
    seat.committed(epoch, 10_100);
    let few = wording.messages[1].content.split_once(" B: ").unwrap().1;
    let second = few.split_once(" C: ").unwrap().0;
    let lower: String =
        second.chars().take(1).flat_map(char::to_lowercase).chain(second.chars().skip(1)).collect();
    let own = format!("To begin, {lower}");
    assert_eq!(seat.worded(epoch, Some(&format!("B: {own}"))), own);
    let (question, why, how, text) = decided(&room);
    let bank = Bank::general().unwrap();
    assert_eq!(bank.get(&question.unwrap()).unwrap().question, second);
    assert!(why.ends_with("the model chose the second of 3") && how == Wording::Model, "{why}");
    assert!(text.ends_with(&own));
    seat.ended(epoch, &text, true, 15_000);
    assert_eq!(room.look(|i| i.question().unwrap().to_owned()), own);
    assert_eq!(room.look(|i| replay(i.log(), |id| bank.get(id))), None);
    // Neither its words nor the bank's are asked again.
    let query = room.look(|i| i.wanted("", 16_000)).unwrap();
    assert!(!Plain::own().find(&query).await.iter().any(|record| record.question == second));
}

#[tokio::test]
async fn a_choice_stands_when_its_words_are_refused_and_the_first_is_asked_when_there_is_none() {
    let refused = |why| Wording::Fallback(why);
    for (raw, place, how) in [
        (Some("C: What is your favourite song?"), "third of 3", refused(Rejection::Strays)),
        (Some("B: How"), "second of 3", refused(Rejection::NoQuestion)),
        (Some("Sure, I would take B."), "", refused(Rejection::Form)),
        (None, "", refused(Rejection::Missing)),
    ] {
        let (room, seat) = room();
        turn(&seat, 1, None, 1_000).await;
        let cue = cue(2, 1, Some("Yes, I am ready."), 10_000);
        let epoch = cue.epoch;
        let Saying::Word(wording) = Arc::clone(&seat).draft(cue).await else { panic!("a choice") };
        seat.committed(epoch, 10_100);
        let said = seat.worded(epoch, raw);
        let (question, why, wording_is, _) = decided(&room);
        let bank = Bank::general().unwrap();
        assert_eq!(bank.get(&question.unwrap()).unwrap().question, said, "{raw:?}: the bank's own words");
        assert_eq!((why.ends_with(place), wording_is), (true, how), "{raw:?}: {why}");
        let letter = match place {
            "third of 3" => "C",
            "second of 3" => "B",
            _ => "A",
        };
        assert!(wording.messages[1].content.contains(&format!(" {letter}: {said}")), "{raw:?}: {said}");
    }
}
