//! Lines that are lost, and what comes back.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use viva::client::ClientError;
use viva::config::WebRtcSection;
use viva_actors::ports::SessionSpec;
use viva_actors::testkit::{Costs, engines};

use super::http::{ask, offer, post};
use super::support::rtc::RtcCaller;
use super::support::{Caller, Server, WITHIN, fakes};

async fn waiting(resume_s: u64) -> Server {
    let webrtc = WebRtcSection { resume_s, ..WebRtcSection::default() };
    Server::with_lines(fakes(), 8, SessionSpec::default(), webrtc, None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ice_begins_anew_in_mid_call_and_nothing_else_does() {
    let server = Server::start().await;
    let mut caller = RtcCaller::connect(&server, "").await;
    assert_eq!(caller.turn(900).await["status"], "completed");
    let link = caller.link();
    let restarted = tokio::spawn(async move { link.restart().await });
    caller.say(None, 600).await;
    restarted.await.unwrap().unwrap();
    assert_eq!(caller.turn(900).await["status"], "completed");
    assert_eq!(caller.seen.iter().filter(|e| e["type"] == "session.created").count(), 1);
    assert_eq!(server.viva.sessions(), 1);
    caller.hang_up().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_pauses_our_voice_and_it_goes_on_where_it_was_last_heard() {
    let server = Server::start().await;
    let mut caller = RtcCaller::connect(&server, "").await;
    assert_eq!(caller.turn(1200).await["status"], "completed");
    let whole = caller.voice_ms();
    caller.voice.clear();
    let from = caller.seen.len();
    caller.speak(1200).await;
    caller.until_from("output_audio_buffer.started", from).await;
    caller.say(None, 200).await;
    let link = caller.link();
    link.set_dead(true);
    caller.say(None, 5_000).await;
    link.set_dead(false);
    let done = caller.until_from("response.done", from).await;
    assert_eq!(done["response"]["status"], "completed", "what was missed is no silence, and no turn");
    let heard = caller.voice_ms();
    assert!(heard >= whole && heard <= whole + 200, "{heard} ms were heard of {whole}: nothing is missing");
    assert_eq!(caller.turn(1200).await["status"], "completed");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_seconds_without_a_network_and_a_restart_of_ice_are_survived() {
    let server = Server::start().await;
    let mut caller = RtcCaller::connect(&server, "").await;
    assert_eq!(caller.turn(1200).await["status"], "completed");
    let link = caller.link();
    link.set_dead(true);
    caller.say(None, 10_000).await;
    link.set_dead(false);
    let restarted = tokio::spawn(async move { link.restart().await });
    caller.say(None, 1_000).await;
    restarted.await.unwrap().unwrap();
    assert_eq!(caller.turn(1200).await["status"], "completed");
    assert_eq!(caller.seen.iter().filter(|e| e["type"] == "session.created").count(), 1);
    assert_eq!(server.viva.sessions(), 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_goes_on_over_a_new_one() {
    let server = waiting(20).await;
    let mut caller = RtcCaller::connect(&server, "").await;
    let session = caller.until("session.created").await["session"]["id"].clone();
    assert_eq!(caller.turn(900).await["status"], "completed");
    let token = caller.token();
    caller.link().leave().await;
    drop(caller);
    let mut again = RtcCaller::over(&server, &format!("resume={token}"), None).await.unwrap();
    let resumed = again.until("viva.resumed").await;
    assert_eq!(resumed["session_id"], session);
    assert_eq!(again.until("session.created").await["session"]["id"], session);
    assert_ne!(again.token(), token, "a fresh way back");
    assert_eq!(again.turn(900).await["status"], "completed");
    assert_eq!(server.viva.sessions(), 1);
    let spent = RtcCaller::over(&server, &format!("resume={token}"), None).await;
    assert!(matches!(spent, Err(ClientError::Refused { status: 404, .. })), "a token is good once");
    again.hang_up().await;
    server.sessions(0).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_goes_on_over_a_websocket_in_mid_reply_and_back() {
    let server = waiting(20).await;
    let mut caller = RtcCaller::connect(&server, "").await;
    assert_eq!(caller.turn(1200).await["status"], "completed");
    let whole = caller.voice_ms();
    caller.voice.clear();
    let from = caller.seen.len();
    caller.speak(1200).await;
    let started = caller.until_from("output_audio_buffer.started", from).await;
    caller.say(None, 200).await;
    let token = caller.token();
    let before = caller.voice_ms();
    caller.link().leave().await;
    drop(caller);
    let query = format!("?events=extended&resume={token}");
    let mut socket = Caller::connect(server.address, &query).await;
    let resumed = socket.until("viva.resumed").await;
    assert!(resumed["away_ms"].is_u64());
    let done = socket.hush_until("response.done", 0).await;
    assert_eq!(done["response"]["id"], started["response_id"], "the reply went on");
    assert_eq!(done["response"]["status"], "completed");
    let deltas = socket.seen.iter().filter(|e| e["type"] == "response.output_audio.delta");
    let after: usize = deltas.map(|e| e["delta"].as_str().unwrap().len() * 3 / 4 / 48).sum();
    assert!(
        before > 0 && before + after >= whole,
        "of {whole} ms {before} were heard, then {after}: nothing is missing"
    );
    let of_a_track = |kind: &String| kind.starts_with("output_audio_buffer.");
    assert!(!socket.types(0).iter().any(of_a_track), "its voice has no track now: {:?}", socket.types(0));
    let token = socket.seen.iter().rev().find(|e| e["type"] == "viva.resume").unwrap()["token"].clone();
    // Not even closed: whoever comes with the token has the call.
    let query = format!("resume={}", token.as_str().unwrap());
    let mut back = RtcCaller::over(&server, &query, None).await.unwrap();
    assert_eq!(back.turn(900).await["status"], "completed");
    assert!(back.types(0).iter().any(of_a_track), "and now it has one");
    assert!(!back.types(0).contains(&"response.output_audio.delta".to_owned()));
    assert_eq!(server.viva.sessions(), 1);
    drop(socket);
    back.hang_up().await;
    server.sessions(0).await;
    server.stop().await;
}

/// A call over either transport.
enum Either {
    Rtc(Box<RtcCaller>),
    Ws(Box<Caller>),
}

impl Either {
    async fn connect(server: &Server, rtc: bool, query: &str) -> Self {
        match rtc {
            true => Self::Rtc(Box::new(RtcCaller::connect(server, query).await)),
            false => Self::Ws(Box::new(
                Caller::connect(server.address, &format!("?events=extended&{query}")).await,
            )),
        }
    }

    /// Speaks, hears the answer, and then whatever comes for half a second.
    async fn turn(&mut self) {
        match self {
            Self::Rtc(caller) => {
                assert_eq!(caller.turn(900).await["status"], "completed");
                caller.say(None, 600).await;
            }
            Self::Ws(caller) => {
                assert_eq!(caller.turn(900).await["status"], "completed");
                caller.speak(&[0; 480 * 30]).await;
            }
        }
    }

    /// Everything that came, half a second later.
    async fn seen(&mut self) -> Vec<Value> {
        match self {
            Self::Rtc(caller) => {
                caller.say(None, 500).await;
                caller.seen.clone()
            }
            Self::Ws(caller) => {
                caller.speak(&[0; 480 * 25]).await;
                caller.seen.clone()
            }
        }
    }

    /// Goes, as a browser does that crashed.
    async fn leave(self) {
        match self {
            Self::Rtc(caller) => caller.link().leave().await,
            Self::Ws(caller) => drop(caller),
        }
    }
}

fn token(seen: &[Value]) -> &str {
    seen.iter().rev().find(|e| e["type"] == "viva.resume").unwrap()["token"].as_str().unwrap()
}

/// The names of events that are told on any line, with their kinds.
fn names(seen: &[Value], to_rtc: bool) -> Vec<(String, String)> {
    let of_a_line = ["session.created", "viva.resume", "viva.resumed", "response.output_audio.delta"];
    let kind = |e: &Value| e["type"].as_str().unwrap().to_owned();
    let told = seen.iter().filter(|e| !of_a_line.contains(&kind(e).as_str()));
    let told = told.filter(|e| to_rtc || !kind(e).starts_with("output_audio_buffer."));
    told.map(|e| (kind(e), e["event_id"].as_str().unwrap().to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_did_not_see_is_told_again_on_its_next_line() {
    let server = waiting(20).await;
    for (from, to) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut first = Either::connect(&server, from, "").await;
        first.turn().await;
        let seen = first.seen().await;
        first.leave().await;
        let last = seen.iter().position(|e| e["type"] == "response.created").unwrap();
        let query =
            format!("resume={}&last_event={}", token(&seen), seen[last]["event_id"].as_str().unwrap());
        let mut second = Either::connect(&server, to, &query).await;
        let again = second.seen().await;
        let expected = names(&seen[last + 1..], to);
        assert!(expected.len() > 5, "{expected:?}");
        assert_eq!(names(&again, to)[..expected.len()], expected, "from {from} to {to}");
        let resumed = again.iter().find(|e| e["type"] == "viva.resumed").unwrap();
        assert_eq!((&resumed["replayed"], &resumed["complete"]), (&expected.len().into(), &true.into()));
        // Whoever does not say what they saw last is told nothing twice.
        let query = format!("resume={}", token(&again));
        second.leave().await;
        let mut third = Either::connect(&server, to, &query).await;
        assert_eq!(names(&third.seen().await, to), []);
        // Nor one who names an event of another call.
        let query = format!("resume={}&last_event=event_somebody00000001", token(&third.seen().await));
        third.leave().await;
        let mut fourth = Either::connect(&server, to, &query).await;
        assert_eq!(names(&fourth.seen().await, to), []);
        fourth.leave().await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_ended_while_the_line_was_dead_is_not_missed() {
    for to_rtc in [true, false] {
        // Its voice ends before anybody can know that the line is dead.
        let brief = engines(Costs::FREE, "I see.", &Arc::default());
        let webrtc = WebRtcSection::default();
        let server = Server::with_lines(brief, 8, SessionSpec::default(), webrtc, None).await;
        let mut caller = RtcCaller::connect(&server, "").await;
        caller.send(json!({"type": "response.create"})).await;
        caller.until("output_audio_buffer.started").await;
        caller.link().set_dead(true);
        caller.mute(900).await;
        assert!(!caller.types(0).contains(&"response.done".to_owned()), "{:?}", caller.types(0));
        let last = caller.seen.last().unwrap()["event_id"].as_str().unwrap();
        let query = format!("resume={}&last_event={last}", caller.token());
        let mut again = Either::connect(&server, to_rtc, &query).await;
        let seen = again.seen().await;
        assert_eq!(seen.iter().filter(|e| e["type"] == "response.done").count(), 1, "{seen:?}");
        again.leave().await;
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_not_spent_by_a_call_that_never_stands() {
    let server = waiting(20).await;
    let mut caller = Either::connect(&server, true, "").await;
    let query = format!("resume={}", token(&caller.seen().await));
    caller.leave().await;
    // Where no UDP comes through, HTTP does: the answer is all this caller ever sees.
    let path = format!("/v1/realtime/calls?{query}");
    let answer = ask(&server, "POST", &path, "Content-Type: application/sdp\r\n", &offer().await).await;
    assert_eq!(answer.status, 201);
    let again = Either::connect(&server, false, &query).await;
    assert_eq!(server.viva.sessions(), 1);
    again.leave().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_is_answered_and_never_comes_is_gone_in_bounded_time() {
    let server = waiting(1).await;
    assert_eq!(post(&server, &offer().await).await.status, 201);
    assert_eq!(server.viva.sessions(), 1);
    let asked = Instant::now();
    server.sessions(0).await;
    assert!(asked.elapsed() > Duration::from_secs(10), "a bad network may take so long");
    assert_eq!(server.app.webrtc.as_ref().unwrap().known(), (0, 0));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_that_breaks_is_waited_for_and_one_that_closes_is_not() {
    let server = waiting(2).await;
    let caller = Caller::connect(server.address, "?events=extended").await;
    drop(caller);
    sleep(Duration::from_millis(500)).await;
    assert_eq!(server.viva.sessions(), 1, "it broke off: the call waits");
    server.sessions(0).await;
    let mut caller = Caller::connect(server.address, "?events=extended").await;
    caller.socket.close(None).await.unwrap();
    timeout(Duration::from_secs(1), server.sessions(0)).await.expect("hung up is hung up");
    for (query, code, waits) in [
        ("?events=extended", 1001, true),
        ("?events=extended", 4001, true),
        ("?events=extended", 1000, false),
        ("", 1001, false),
    ] {
        let mut caller = Caller::connect(server.address, query).await;
        let frame = CloseFrame { code: code.into(), reason: "".into() };
        caller.socket.close(Some(frame)).await.unwrap();
        sleep(Duration::from_millis(800)).await;
        assert_eq!(
            server.viva.sessions() == 1,
            waits,
            "{query} {code}: going away is no end for who may come back"
        );
        server.sessions(0).await;
    }
    let plain = Caller::connect(server.address, "").await;
    assert!(plain.seen.iter().all(|e: &Value| e["type"] != "viva.resume"));
    drop(plain);
    timeout(Duration::from_secs(1), server.sessions(0))
        .await
        .expect("one that knows no way back is not waited for");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_vanishes_is_gone_in_bounded_time_with_everything_of_theirs() {
    let server = waiting(1).await;
    let caller = RtcCaller::connect(&server, "").await;
    let vanished = Instant::now();
    // A machine that lost its power.
    caller.link().set_dead(true);
    let gone = async {
        while server.viva.sessions() > 0 {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(30), gone).await.expect("20 s for the line and 1 s for its client");
    assert!(vanished.elapsed() > Duration::from_secs(15), "an outage that long is survived");
    assert_eq!(server.app.webrtc.as_ref().unwrap().known(), (0, 0));
    assert!(server.app.webrtc_calls.is_empty() && server.app.parking.is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_can_be_hung_up() {
    let server = waiting(60).await;
    let caller = RtcCaller::connect(&server, "").await;
    let link = caller.link();
    link.leave().await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(server.viva.sessions(), 1);
    link.hang_up().await;
    timeout(WITHIN, server.sessions(0)).await.unwrap();
    server.stop().await;
}
