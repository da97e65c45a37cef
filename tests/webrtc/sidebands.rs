//! Further lines of control to a call.

use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use viva::client::webrtc::dial;
use viva::config::{IdentitySection, TiersSection, WebRtcSection};
use viva::identity::{Identity, keys};
use viva_actors::ports::SessionSpec;
use viva_actors::types::{Principal, Tier};

use super::http::ask;
use super::support::rtc::RtcCaller;
use super::support::{Caller, Gate, Server, fakes, offer};

/// The name of a call, by its address.
fn query(caller: &RtcCaller) -> String {
    format!("?call_id={}", caller.link().location.rsplit('/').next().unwrap())
}

/// The status of a handshake.
async fn handshake(server: &Server, query: &str, key: &str) -> u16 {
    let mut request = format!("ws://{}/v1/realtime{query}", server.address).into_client_request().unwrap();
    request.headers_mut().insert("Authorization", format!("Bearer {key}").parse().unwrap());
    match connect_async(request).await {
        Ok((_, response)) => response.status().as_u16(),
        Err(Error::Http(response)) => response.status().as_u16(),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sideband_hears_and_steers_a_call_and_neither_end_harms_the_other() {
    let server = Server::start().await;
    let mut caller = RtcCaller::connect(&server, "").await;
    let mut side = Caller::connect(server.address, &query(&caller)).await;
    assert_eq!(side.seen[0]["session"]["id"], caller.seen[0]["session"]["id"], "it is the same session");
    assert_eq!(server.viva.sessions(), 1);
    // What it changes, both are told.
    let from = caller.seen.len();
    side.update(json!({"type": "realtime", "instructions": "Be brief."})).await;
    let told = caller.until_from("session.updated", from).await;
    assert_eq!(told["session"]["instructions"], "Be brief.");
    // It hears what is said, and has no audio.
    let from = caller.seen.len();
    let response = caller.turn(900).await;
    let heard = side.until("response.done").await["response"].clone();
    assert_eq!((&heard["id"], &heard["status"]), (&response["id"], &json!("completed")));
    let kinds = side.types(0);
    assert!(!kinds.iter().any(|kind| kind == "response.output_audio.delta"), "{kinds:?}");
    let names = |seen: &[Value]| -> Vec<Value> {
        seen.iter().filter(|e| e["type"] != "rate_limits.updated").map(|e| e["event_id"].clone()).collect()
    };
    let (theirs, ours) = (names(&caller.seen[from..]), names(&side.seen));
    assert!(
        theirs.iter().filter(|name| ours.contains(name)).count() > 10,
        "the same events: {theirs:?} {ours:?}"
    );
    let error =
        side.refused(&json!({"type": "input_audio_buffer.append", "audio": "AAAA"}).to_string()).await;
    assert_eq!(error["code"], "unsupported", "{error}");
    // What it asks for itself, the caller's client is not told.
    let from = caller.seen.len();
    side.send(json!({"type": "response.create", "response":
        {"conversation": "none", "output_modalities": ["text"], "metadata": {"for": "us"}}}))
        .await;
    let own = side.until("response.done").await["response"].clone();
    assert_eq!((&own["conversation_id"], &own["metadata"]["for"]), (&Value::Null, &json!("us")));
    let error = side
        .refused(&json!({"type": "response.create", "response": {"conversation": "none"}}).to_string())
        .await;
    assert_eq!(error["param"], "response.output_modalities", "a voice would need the call's track: {error}");
    caller.say(None, 400).await;
    let told = caller.types(from);
    assert!(!told.iter().any(|kind| kind.starts_with("response.") || kind == "error"), "{told:?}");
    // It asks for a reply, which the caller hears.
    side.send(json!({"type": "response.create"})).await;
    caller.until_from("output_audio_buffer.started", from).await;
    assert_eq!(side.until("response.done").await["response"]["status"], "completed");
    // It vanishes, and the call goes on; another comes, and goes with the call.
    drop(side);
    assert_eq!(caller.turn(900).await["status"], "completed");
    let mut side = Caller::connect(server.address, &query(&caller)).await;
    let name = query(&caller);
    caller.hang_up().await;
    while side.next().await.is_ok() {}
    server.sessions(0).await;
    assert_eq!(handshake(&server, &name, "none").await, 404, "the call is over");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_has_so_many_sidebands_and_not_one_more() {
    let server = Server::start().await;
    let caller = RtcCaller::connect(&server, "").await;
    let mut sides = Vec::new();
    for _ in 0..4 {
        sides.push(Caller::connect(server.address, &query(&caller)).await);
    }
    assert_eq!(handshake(&server, &query(&caller), "none").await, 429);
    drop(sides.pop());
    let free = async {
        while handshake(&server, &query(&caller), "none").await != 101 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(super::support::WITHIN, free).await.expect("its place is free again");
    assert_eq!(handshake(&server, "?call_id=rtc_0", "none").await, 404);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sideband_needs_a_key_of_the_calls_tenant_and_then_nothing_is_kept_from_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.toml");
    let key = |tenant: &str, user: &str| {
        let whose = Principal { tenant: tenant.into(), user: user.into(), tier: Tier::Free };
        keys::add(&file, user, &whose).unwrap().1
    };
    let (ann, bob, eve) = (key("acme", "ann"), key("acme", "bob"), key("rival", "eve"));
    let section = IdentitySection { keys: file.display().to_string(), ..IdentitySection::default() };
    let identity = Identity::of(&section, &TiersSection::default()).unwrap();
    let gate = Gate { identity, ..Gate::default() };
    let server =
        Server::with_gate(fakes(), 8, offer(SessionSpec::default()), WebRtcSection::default(), None, gate)
            .await;
    let wanted = json!({"session": {"type": "realtime", "instructions": "Ask about the secret."}});
    let headers = format!("Authorization: Bearer {ann}\r\nContent-Type: application/json\r\n");
    let minted = ask(&server, "POST", "/v1/realtime/client_secrets", &headers, &wanted.to_string()).await;
    let minted: Value = serde_json::from_str(&minted.body).unwrap();
    let secret = minted["value"].as_str().unwrap();
    let (mouth, ears) = dial(&server.url(), "", Some(secret), None).await.unwrap();
    let name = format!("?call_id={}", mouth.link().location.rsplit('/').next().unwrap());
    assert_eq!(handshake(&server, &name, &eve).await, 404, "another tenant's key");
    assert_eq!(handshake(&server, &name, "sk-viva-0000").await, 401);
    assert_eq!(handshake(&server, &name, &bob).await, 101, "a colleague's key");
    let shown = |session: &Value| session["instructions"].clone();
    let protocol = format!("openai-insecure-api-key.{secret}");
    let mut bound = Caller::connect_as(server.address, &name, &protocol).await;
    assert_eq!(shown(&bound.seen[0]["session"]), "", "its holder may not read what the secret locks");
    // The way back to a call is no way to another line.
    let mut own = Caller::connect_as(server.address, "?events=extended", &protocol).await;
    let token = own.until("viva.resume").await["token"].as_str().unwrap().to_owned();
    assert_eq!(handshake(&server, &format!("{name}&resume={token}"), "none").await, 401);
    drop(own);
    let mut free = Caller::connect_as(server.address, &name, &format!("openai-insecure-api-key.{ann}")).await;
    assert_eq!(shown(&free.seen[0]["session"]), "Ask about the secret.");
    let change = json!({"type": "realtime", "instructions": "Ask about the weather."});
    assert_eq!(shown(&free.update(change.clone()).await), "Ask about the weather.");
    assert_eq!(shown(&bound.until("session.updated").await["session"]), "");
    let rude = json!({"type": "realtime", "instructions": "Be rude."});
    assert_eq!(shown(&bound.update(rude).await), "");
    assert_eq!(shown(&free.until("session.updated").await["session"]), "Ask about the weather.");
    drop(ears);
    server.stop().await;
}
