//! Calls as HTTP sees them: offers that are refused, and what is asked of a call.

use std::time::Duration;

use serde_json::Value;
use viva::client::ClientError;
use viva::config::{IceServer, WebRtcSection};
use viva_actors::ports::SessionSpec;

use super::http::{HOLLOW, ask, offer, post};
use super::support::rtc::RtcCaller;
use super::support::{Server, fakes};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_offer_is_refused_by_name() {
    let server = Server::start().await;
    for (body, named) in [("", "empty"), ("hello", "v=0"), ("v=0\r\n", "m=audio"), (HOLLOW, "answered")] {
        let answer = post(&server, body).await;
        assert_eq!(
            (answer.status, answer.error()["code"].as_str().unwrap()),
            (400, "invalid_offer"),
            "{named}"
        );
        assert!(answer.error()["message"].as_str().unwrap().contains(named), "{}", answer.body);
        assert_eq!(answer.error()["type"], "invalid_request_error");
    }
    assert_eq!(post(&server, &"v".repeat(70_000)).await.status, 413);
    let plain = ask(&server, "POST", "/v1/realtime/calls", "Content-Type: text/plain\r\n", "v=0").await;
    assert_eq!(plain.status, 415);
    for (method, path) in [
        ("PATCH", "/v1/realtime/calls/rtc_0"),
        ("DELETE", "/v1/realtime/calls/rtc_0"),
        ("POST", "/v1/realtime/calls/rtc_0/hangup"),
    ] {
        assert_eq!(ask(&server, method, path, "", "").await.status, 404, "{method}");
    }
    let query = "/v1/realtime/calls?resume=00";
    let unknown = ask(&server, "POST", query, "Content-Type: application/sdp\r\n", &offer().await).await;
    assert_eq!((unknown.status, unknown.error()["code"].as_str()), (404, Some("resume_expired")));
    let socket = server.get("/v1/realtime?resume=00", "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n").await;
    assert_eq!(socket.0, 404);
    assert!(socket.2.contains("resume_expired"));
    server.sessions(0).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_has_an_address_and_a_version_and_an_end() {
    let server = Server::start().await;
    let answer = post(&server, &offer().await).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    assert_eq!(answer.header("content-type"), Some("application/sdp"));
    let location = answer.header("location").unwrap().to_owned();
    assert!(location.starts_with("/v1/realtime/calls/rtc_"), "{location}");
    let etag = answer.header("etag").unwrap().to_owned();
    assert!(etag.starts_with('"') && etag.ends_with('"'));
    assert!(answer.body.contains("a=candidate:") && answer.body.contains("a=end-of-candidates"));
    assert!(!answer.body.contains("\r\n\r\n"));
    let again = offer().await.replace("EsAw", "EsAx");
    let patch = |headers: String| {
        let (server, location, again) = (&server, location.clone(), again.clone());
        async move { ask(server, "PATCH", &location, &headers, &again).await }
    };
    let stale = patch("If-Match: \"0\"\r\nContent-Type: application/sdp\r\n".into()).await;
    assert_eq!(stale.status, 412);
    let restarted = patch(format!("If-Match: {etag}\r\nContent-Type: application/sdp\r\n")).await;
    assert_eq!(restarted.status, 200, "{}", restarted.body);
    assert_ne!(restarted.header("etag"), Some(etag.as_str()));
    let ufrag = |sdp: &str| sdp.lines().find(|l| l.starts_with("a=ice-ufrag")).unwrap().to_owned();
    assert_ne!(ufrag(&restarted.body), ufrag(&answer.body), "ICE begins anew");
    let old = patch(format!("If-Match: {etag}\r\nContent-Type: application/sdp\r\n")).await;
    assert_eq!(old.status, 412);
    assert_eq!(server.viva.sessions(), 1);
    assert_eq!(ask(&server, "DELETE", &location, "", "").await.status, 200);
    assert_eq!(ask(&server, "DELETE", &location, "", "").await.status, 404);
    server.sessions(0).await;
    let second = post(&server, &offer().await).await;
    let location = second.header("location").unwrap();
    assert_eq!(ask(&server, "POST", &format!("{location}/hangup"), "", "").await.status, 200);
    server.sessions(0).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_may_come_with_the_offer() {
    let server = Server::start().await;
    let form = |session: &str, offer: &str| {
        format!(
            "--b\r\nContent-Disposition: form-data; name=\"sdp\"\r\n\r\n{offer}\r\n--b\r\n\
             Content-Disposition: form-data; name=\"session\"\r\n\r\n{session}\r\n--b--\r\n"
        )
    };
    let kind = "Content-Type: multipart/form-data; boundary=b\r\n";
    let offer = offer().await;
    let wrong = form(r#"{"type":"realtime","output_modalities":["smell"]}"#, &offer);
    let answer = ask(&server, "POST", "/v1/realtime/calls", kind, &wrong).await;
    assert_eq!((answer.status, answer.error()["param"].as_str()), (400, Some("session.output_modalities")));
    let right = form(r#"{"type":"realtime","instructions":"Be brief."}"#, &offer);
    assert_eq!(ask(&server, "POST", "/v1/realtime/calls", kind, &right).await.status, 201);
    let none = ask(&server, "POST", "/v1/realtime/calls", kind, "--b--\r\n").await;
    assert_eq!(none.status, 400);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_are_told_what_they_need_to_reach_us() {
    let ice_servers = vec![IceServer {
        urls: vec!["turn:turn.example.org".into()],
        username: "viva".into(),
        credential: "secret".into(),
    }];
    let webrtc = WebRtcSection { ice_servers, ..WebRtcSection::default() };
    let server = Server::with_lines(fakes(), 8, SessionSpec::default(), webrtc, None).await;
    let told: Value = serde_json::from_str(&server.get("/v1/realtime/ice", "").await.2).unwrap();
    assert_eq!(told["webrtc"], true);
    assert_eq!(told["ice_servers"][0]["urls"][0], "turn:turn.example.org");
    assert_eq!(told["ice_servers"][0]["credential"], "secret");
    server.stop().await;
    let webrtc = WebRtcSection { enabled: false, ..WebRtcSection::default() };
    let server = Server::with_lines(fakes(), 8, SessionSpec::default(), webrtc, None).await;
    let told: Value = serde_json::from_str(&server.get("/v1/realtime/ice", "").await.2).unwrap();
    assert_eq!((told["webrtc"].as_bool(), told["ice_servers"].as_array().unwrap().len()), (Some(false), 0));
    assert_eq!(post(&server, &offer().await).await.status, 404);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_or_late_server_refuses_before_anything_is_built() {
    let server = Server::with(fakes(), 2, SessionSpec::default()).await;
    let caller = RtcCaller::connect(&server, "").await;
    for _ in 0..500 {
        server.viva.lateness().record(Duration::from_millis(30));
    }
    let busy = post(&server, &offer().await).await;
    assert_eq!((busy.status, busy.error()["code"].as_str().unwrap()), (503, "server_busy"));
    assert!(busy.header("retry-after").is_some());
    for _ in 0..500 {
        server.viva.lateness().record(Duration::ZERO);
    }
    let second = RtcCaller::connect(&server, "").await;
    let full = RtcCaller::over(&server, "", None).await;
    assert!(matches!(full, Err(ClientError::Refused { status: 503, retry_after_s: Some(_), .. })));
    assert_eq!(server.app.webrtc.as_ref().unwrap().known().0, 2);
    // Whoever is willing to wait gets the next seat.
    let (patient, freed) = tokio::join!(RtcCaller::over(&server, "wait=15", None), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let known = server.app.webrtc.as_ref().unwrap().known().0;
        caller.link().hang_up().await;
        known
    });
    assert_eq!(freed, 2, "nothing is built for one who waits");
    assert!(patient.is_ok(), "{:?}", patient.err());
    drop((patient, second, caller));
    server.stop().await;
}
