//! Calls over WebRTC: whole ones with our own client, and everything that can go wrong with their lines.

#![allow(clippy::unwrap_used)]

#[path = "webrtc/http.rs"]
mod http;
#[path = "webrtc/lines.rs"]
mod lines;
#[path = "webrtc/offers.rs"]
mod offers;
#[path = "webrtc/outsiders.rs"]
mod outsiders;
#[path = "webrtc/sidebands.rs"]
mod sidebands;
mod support;

use std::time::Duration;

use serde_json::json;
use support::rtc::RtcCaller;
use support::{Server, fakes};
use tokio::time::Instant;
use viva::config::WebRtcSection;
use viva::edge::webrtc::impair::Impairment;
use viva_actors::ports::SessionSpec;

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_answered_and_heard_and_measured() {
    let server = Server::start().await;
    let mut caller = RtcCaller::connect(&server, "").await;
    caller.update(json!({"type": "realtime", "audio": {"input": {"transcription": {}}}})).await;
    let before = Instant::now();
    let done = caller.turn(1200).await;
    assert_eq!(done["status"], "completed");
    let heard = caller.seen.iter().find(|e| e["type"].as_str().unwrap().ends_with("transcription.completed"));
    assert_eq!(heard.unwrap()["transcript"], "word1 word2 word3", "the caller's voice came through");
    caller.until("output_audio_buffer.stopped").await;
    let types = caller.types(0);
    let place =
        |kind: &str| types.iter().position(|t| t == kind).unwrap_or_else(|| panic!("{kind}: {types:?}"));
    assert!(place("response.created") < place("output_audio_buffer.started"));
    assert!(place("response.done") < place("output_audio_buffer.stopped"));
    assert!(!types.contains(&"response.output_audio.delta".to_owned()), "audio is on the track");
    let started = caller.until("output_audio_buffer.started").await;
    assert_eq!(started["response_id"], done["id"]);
    let audible = caller.audible_ms(before);
    assert!(audible > 1_000, "{audible} ms of the answer were heard");
    let metrics = caller.until("metrics.turn").await;
    assert!(metrics["voice_to_voice_ms"].is_u64(), "{metrics}");
    caller.hang_up().await;
    server.sessions(0).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cough_holds_our_voice_within_a_frame_and_it_goes_on() {
    let server = Server::start().await;
    let mut caller = RtcCaller::connect(&server, "").await;
    caller.speak(1200).await;
    caller.until("output_audio_buffer.started").await;
    caller.say(None, 100).await;
    caller.speak(200).await;
    // Two windows of the detector, a tick of the playout, a frame under way: then nothing, until the verdict.
    let held = Instant::now();
    caller.say(None, 60).await;
    assert!(caller.audible_ms(held) <= 20, "{} ms were heard while it was held", caller.audible_ms(held));
    let done = caller.until("response.done").await;
    assert_eq!(done["response"]["status"], "completed");
    assert!(caller.audible_ms(held) > 300, "it went on");
    assert!(!caller.types(0).contains(&"output_audio_buffer.cleared".to_owned()));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interruption_cuts_our_voice_and_says_where() {
    let server = Server::start().await;
    let mut caller = RtcCaller::connect(&server, "").await;
    caller.speak(1200).await;
    caller.until("output_audio_buffer.started").await;
    caller.say(None, 200).await;
    caller.speak(1000).await;
    let cleared = caller.until("output_audio_buffer.cleared").await;
    let done = caller.until("response.done").await;
    assert_eq!(done["response"]["status"], "cancelled");
    assert_eq!(cleared["response_id"], done["response"]["id"]);
    let heard_ms: usize = caller.voice.iter().map(|(_, samples)| samples.len() / 24).sum();
    let said_ms = cleared["audio_end_ms"].as_u64().unwrap() as usize;
    assert!(heard_ms.abs_diff(said_ms) <= 40, "{said_ms} ms were sent, {heard_ms} were heard");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_can_cut_our_voice_and_is_told_what_is_not_for_it() {
    let server = Server::start().await;
    let mut caller = RtcCaller::connect(&server, "").await;
    let append = json!({"type": "input_audio_buffer.append", "event_id": "mine", "audio": "AAAA"});
    let error = caller.refused(append).await;
    assert_eq!((error["code"].as_str(), error["event_id"].as_str()), (Some("unsupported"), Some("mine")));
    let from = caller.seen.len();
    caller.send(json!({"type": "output_audio_buffer.clear"})).await;
    caller.send(json!({"type": "response.create"})).await;
    caller.until("output_audio_buffer.started").await;
    caller.say(None, 300).await;
    caller.send(json!({"type": "output_audio_buffer.clear"})).await;
    let cleared = caller.until("output_audio_buffer.cleared").await;
    let done = caller.until("response.done").await;
    assert_eq!(done["response"]["id"], cleared["response_id"]);
    assert_eq!(done["response"]["status"], "cancelled");
    assert!(!caller.types(from).contains(&"error".to_owned()), "with nothing to clear it is no mistake");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_too_long_for_the_channel_are_refused_by_name() {
    // The model has room for more than the channel.
    let spec = SessionSpec { prompt_chars_max: 200_000, ..SessionSpec::default() };
    let server = Server::with(fakes(), 8, spec).await;
    let mut caller = RtcCaller::connect(&server, "").await;
    // It fits a message on its way in, and not with everything else that is repeated on the way out.
    let long = "Be kind. ".repeat(7_190);
    let update = json!({"type": "session.update", "session": {"type": "realtime", "instructions": long}});
    let error = caller.refused(update).await;
    assert_eq!(error["param"], "session.instructions", "{error}");
    assert!(error["message"].as_str().unwrap().contains("data channel"), "{error}");
    caller.update(json!({"type": "realtime", "instructions": "Be kind. ".repeat(1_000)})).await;
    assert_eq!(caller.turn(900).await["status"], "completed");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_over_a_bad_network_is_understood() {
    let network = "loss=0.05,jitter=40".parse().unwrap();
    let server = Server::start().await;
    let mut caller = RtcCaller::over(&server, "", Some(network)).await.unwrap();
    caller.update(json!({"type": "realtime", "audio": {"input": {"transcription": {}}}})).await;
    for _ in 0..3 {
        assert_eq!(caller.turn(1200).await["status"], "completed");
    }
    let (_, _, metrics) = server.get("/metrics", "").await;
    assert!(metrics.contains(r#"viva_rtp_packets_total{what="made_up"}"#), "losses were made up");
    caller.hang_up().await;
    server.stop().await;
}

/// How long a call may take to stand where every twelfth datagram is lost each way: the stack's own timers are a
/// second and a second, and three of them in a row have been lost by then. It waited for good before datagrams of
/// the handshake were said again: one call in ten.
const BAD_SET_UP: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn calls_stand_in_bounded_time_where_datagrams_of_their_handshakes_are_lost() {
    let seed = support::churn::seed();
    let server =
        Server::with_lines(fakes(), 64, SessionSpec::default(), WebRtcSection::default(), None).await;
    let mut took = Vec::new();
    for round in 0..5 {
        let calls = (0..8).map(async |n| {
            let seed = Some(seed.wrapping_add(round * 8 + n));
            let network =
                Impairment { loss: 0.08, jitter: Duration::from_millis(40), seed, ..Default::default() };
            let asked = Instant::now();
            // With its first event.
            let caller = RtcCaller::over(&server, "", Some(network)).await.unwrap();
            (asked.elapsed(), caller)
        });
        for (each, caller) in futures_util::future::join_all(calls).await {
            took.push(each);
            caller.hang_up().await;
        }
    }
    took.sort();
    println!("{took:?}");
    assert!(took[took.len() - 1] < BAD_SET_UP, "{took:?}");
    assert!(took[took.len() / 2] < Duration::from_secs(1), "nothing was waited for in most: {took:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_stands_over_ipv6_and_with_a_server_that_makes_checks_of_its_own() {
    for (listen, ice_lite) in [("[::1]:0", true), ("127.0.0.1:0", false)] {
        let listen = vec![listen.parse().unwrap()];
        let webrtc = WebRtcSection { listen, ice_lite, ..WebRtcSection::default() };
        let server = Server::with_lines(fakes(), 8, SessionSpec::default(), webrtc, None).await;
        let mut caller = RtcCaller::connect(&server, "").await;
        assert_eq!(caller.turn(900).await["status"], "completed");
        caller.hang_up().await;
        server.sessions(0).await;
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_closes_its_line() {
    let server = Server::start().await;
    let mut caller = RtcCaller::connect(&server, "").await;
    assert_eq!(server.app.webrtc.as_ref().unwrap().known().0, 1);
    server.viva.drain(Duration::ZERO).await;
    caller.mute(3_000).await;
    assert!(caller.over.is_some(), "the caller sees it");
    assert_eq!(server.app.webrtc.as_ref().unwrap().known(), (0, 0));
    assert!(server.app.webrtc_calls.is_empty());
}
