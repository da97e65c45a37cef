//! Lines that are lost, and what comes back.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};
use viva::client::ClientError;
use viva::config::WebRtcSection;
use viva_actors::ports::SessionSpec;

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
    caller.speak(1200).await;
    let started = caller.until("output_audio_buffer.started").await;
    caller.say(None, 200).await;
    let token = caller.token();
    caller.link().leave().await;
    drop(caller);
    let query = format!("?events=extended&resume={token}");
    let mut socket = Caller::connect(server.address, &query).await;
    let resumed = socket.until("viva.resumed").await;
    assert!(resumed["away_ms"].is_u64());
    let done = socket.hush_until("response.done", 0).await;
    assert_eq!(done["response"]["id"], started["response_id"], "the reply went on");
    assert_eq!(done["response"]["status"], "completed");
    assert!(socket.types(0).contains(&"response.output_audio.delta".to_owned()));
    let token = socket.seen.iter().rev().find(|e| e["type"] == "viva.resume").unwrap()["token"].clone();
    // Not even closed: whoever comes with the token has the call.
    let query = format!("resume={}", token.as_str().unwrap());
    let mut back = RtcCaller::over(&server, &query, None).await.unwrap();
    assert_eq!(back.turn(900).await["status"], "completed");
    assert!(!back.types(0).contains(&"response.output_audio.delta".to_owned()));
    assert_eq!(server.viva.sessions(), 1);
    drop(socket);
    back.hang_up().await;
    server.sessions(0).await;
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
