//! Who may come in: keys, client secrets, quotas, origins, over plain HTTP and over TLS.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use support::{Caller, Gate, Server, WITHIN, fakes, matrix, offer, outsider};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use viva::config::{IdentitySection, TierSection, TiersSection, TlsSection, WebRtcSection};
use viva::edge::tls::{Certificate, LOOK_EVERY};
use viva::identity::{Identity, keys};
use viva_actors::ports::SessionSpec;
use viva_actors::types::{Principal, Tier};

struct Guarded {
    server: Server,
    key: String,
    id: String,
    file: PathBuf,
    _folder: tempfile::TempDir,
}

/// A server that asks for keys, and one for it.
async fn guarded(tiers: TiersSection, tls: &TlsSection) -> Guarded {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.toml");
    let ann = Principal { tenant: "acme".into(), user: "ann".into(), tier: Tier::Free };
    let (entry, key) = keys::add(&file, "test", &ann).unwrap();
    let section = IdentitySection { keys: file.display().to_string(), ..IdentitySection::default() };
    let identity = Identity::of(&section, &tiers).unwrap();
    let certificate = Certificate::of(tls, [127, 0, 0, 1].into()).unwrap();
    let gate = Gate { identity, certificate };
    let offer = offer(SessionSpec::default());
    let server = Server::with_gate(fakes(), 8, offer, WebRtcSection::default(), None, gate).await;
    Guarded { server, key, id: entry.id, file, _folder: folder }
}

async fn plain() -> Guarded {
    guarded(TiersSection::default(), &TlsSection::default()).await
}

/// A request with more headers; status, head in lower case, and body.
async fn ask(server: &Server, method: &str, path: &str, headers: &str, body: &str) -> (u16, String, Value) {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close, Upgrade\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n{headers}\r\n{body}",
        server.address,
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(WITHIN, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), serde_json::from_str(body).unwrap_or(Value::Null))
}

fn bearer(key: &str) -> String {
    format!("Authorization: Bearer {key}\r\n")
}

/// The status of a handshake with this key in this header.
async fn handshake(server: &Server, header: &'static str, value: &str) -> u16 {
    let mut request = format!("ws://{}/v1/realtime", server.address).into_client_request().unwrap();
    request.headers_mut().insert(header, value.parse().unwrap());
    match connect_async(request).await {
        Ok((_, response)) => response.status().as_u16(),
        Err(Error::Http(response)) => response.status().as_u16(),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_key_is_told_so_everywhere() {
    let Guarded { server, key, .. } = plain().await;
    for (method, path) in [
        ("GET", "/v1/models"),
        ("GET", "/v1/voices"),
        ("GET", "/v1/realtime"),
        ("GET", "/v1/realtime/ice"),
        ("POST", "/v1/realtime/calls"),
        ("POST", "/v1/realtime/client_secrets"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/audio/transcriptions"),
    ] {
        for headers in
            ["".into(), bearer("sk-viva-0000"), bearer("ek_0000"), bearer("a.b.c"), bearer(&key[..20])]
        {
            let (status, head, body) = ask(&server, method, path, &headers, "").await;
            assert_eq!(
                (status, body["error"]["code"].as_str()),
                (401, Some("invalid_api_key")),
                "{path} {headers}"
            );
            assert!(head.contains("www-authenticate: bearer"), "{head}");
            assert!(!body.to_string().contains(&key[..20]), "what was presented is not repeated: {body}");
        }
    }
    assert_eq!(ask(&server, "GET", "/v1/models", &bearer(&key), "").await.0, 200);
    // How the server is, and the page itself, are for everybody.
    for path in ["/healthz", "/readyz", "/metrics", "/"] {
        assert_eq!(ask(&server, "GET", path, "", "").await.0, 200, "{path}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_opens_a_call_by_header_or_subprotocol_until_it_is_revoked() {
    let Guarded { server, key, id, file, _folder } = plain().await;
    assert_eq!(handshake(&server, "Authorization", &format!("Bearer {key}")).await, 101);
    let offered = format!("realtime, openai-insecure-api-key.{key}");
    assert_eq!(handshake(&server, "Sec-WebSocket-Protocol", &offered).await, 101);
    assert_eq!(handshake(&server, "Sec-WebSocket-Protocol", "realtime").await, 401);
    assert!(keys::revoke(&file, &id).unwrap());
    let refused = async {
        while handshake(&server, "Authorization", &format!("Bearer {key}")).await != 401 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(WITHIN, refused).await.expect("it is worthless soon");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_secret_opens_calls_with_settings_that_its_holder_cannot_change() {
    let Guarded { server, key, .. } = plain().await;
    let secrets = "/v1/realtime/client_secrets";
    let wanted = json!({"expires_after": {"anchor": "created_at", "seconds": 60},
        "session": {"type": "realtime", "instructions": "Be formal.", "output_modalities": ["text"]}});
    let (status, _, minted) = ask(&server, "POST", secrets, &bearer(&key), &wanted.to_string()).await;
    assert_eq!((status, &minted["session"]["instructions"]), (200, &json!("Be formal.")), "{minted}");
    let secret = minted["value"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("ek_") && minted["expires_at"].is_u64(), "{minted}");
    // It opens calls and nothing else, not even more of its kind.
    assert_eq!(ask(&server, "GET", "/v1/models", &bearer(&secret), "").await.0, 401);
    assert_eq!(ask(&server, "POST", secrets, &bearer(&secret), "{}").await.0, 401);
    let header = format!("openai-insecure-api-key.{secret}");
    for _ in 0..2 {
        let mut caller = Caller::connect_as(server.address, "", &header).await;
        let created = &caller.seen[0]["session"];
        assert_eq!((&created["instructions"], &created["output_modalities"]), (&json!(""), &json!(["text"])));
        let update = json!({"type": "realtime", "instructions": "Be rude.", "output_modalities": ["audio"],
            "max_output_tokens": 33});
        let updated = caller.update(update).await;
        assert_eq!(
            (&updated["output_modalities"], &updated["max_output_tokens"]),
            (&json!(["text"]), &json!(33))
        );
        assert_eq!(updated["instructions"], "");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_secret_that_cannot_be_is_refused_by_field() {
    let Guarded { server, key, .. } = plain().await;
    for (body, param) in [
        (json!({"expires_after": {"seconds": 9}}), "expires_after.seconds"),
        (json!({"expires_after": {"seconds": 7201}}), "expires_after.seconds"),
        (json!({"expires_after": {"anchor": "used_at"}}), "expires_after.anchor"),
        (json!({"session": {"type": "dance"}}), "session.type"),
        (
            json!({"session": {"type": "realtime", "audio": {"output": {"voice": "bob"}}}}),
            "session.audio.output.voice",
        ),
    ] {
        let (status, _, answer) =
            ask(&server, "POST", "/v1/realtime/client_secrets", &bearer(&key), &body.to_string()).await;
        assert_eq!((status, answer["error"]["param"].as_str()), (400, Some(param)), "{answer}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_has_so_many_sessions_at_once() {
    let free = TierSection { sessions_max: 1, requests_per_minute: 0 };
    let tiers = TiersSection { free, ..TiersSection::default() };
    let Guarded { server, key, _folder, .. } = guarded(tiers, &TlsSection::default()).await;
    let caller = Caller::connect_as(server.address, "", &format!("openai-insecure-api-key.{key}")).await;
    let (status, head, body) = ask(&server, "GET", "/v1/realtime", &upgrade(&key), "").await;
    assert_eq!((status, body["error"]["code"].as_str()), (429, Some("session_limit_exceeded")), "{body}");
    assert!(head.contains("retry-after: 15"), "{head}");
    drop(caller);
    let again = async {
        while handshake(&server, "Authorization", &format!("Bearer {key}")).await != 101 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(WITHIN, again).await.expect("a session that ended is free again");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_has_so_many_requests_a_minute() {
    let free = TierSection { sessions_max: 0, requests_per_minute: 2 };
    let tiers = TiersSection { free, ..TiersSection::default() };
    let Guarded { server, key, _folder, .. } = guarded(tiers, &TlsSection::default()).await;
    for _ in 0..2 {
        assert_eq!(ask(&server, "GET", "/v1/models", &bearer(&key), "").await.0, 200);
    }
    let (status, head, body) = ask(&server, "GET", "/v1/models", &bearer(&key), "").await;
    assert_eq!((status, body["error"]["type"].as_str()), (429, Some("rate_limit_error")), "{body}");
    assert!(head.contains("retry-after: "), "{head}");
    server.stop().await;
}

/// The headers of a handshake.
fn upgrade(key: &str) -> String {
    format!(
        "{}Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        bearer(key)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_listed_origins_may_read_our_answers() {
    let Guarded { server, key, .. } = plain().await;
    let preflight = "Origin: https://friend.example\r\nAccess-Control-Request-Method: POST\r\n\
                     Access-Control-Request-Headers: authorization, x-stainless-lang\r\n";
    let (status, head, _) = ask(&server, "OPTIONS", "/v1/chat/completions", preflight, "").await;
    assert_eq!(status, 200, "{head}");
    assert!(head.contains("access-control-allow-origin: https://friend.example"), "{head}");
    assert!(head.contains("access-control-allow-headers: authorization, x-stainless-lang"), "{head}");
    let from = |origin: &str| format!("Origin: {origin}\r\n{}", bearer(&key));
    let (status, head, _) = ask(&server, "GET", "/v1/models", &from("https://friend.example"), "").await;
    assert!(status == 200 && head.contains("access-control-allow-origin: https://friend.example"), "{head}");
    let (status, head, _) = ask(&server, "GET", "/v1/models", &from("https://other.example"), "").await;
    assert!(status == 403 && !head.contains("access-control-allow-origin"), "{head}");
    server.stop().await;
}

/// A conversation, with the start of node or Python.
const CLIENT_WITHIN: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn the_official_node_client_talks_over_tls_with_a_key() {
    let tls = TlsSection { self_signed: true, ..TlsSection::default() };
    let Guarded { server, key, _folder, .. } = guarded(TiersSection::default(), &tls).await;
    let events = _folder.path().join("events.jsonl");
    let mut node = Command::new("node");
    node.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node/realtime_client.mjs"));
    node.args([&format!("https://{}", server.address), &key]).arg(&events);
    node.env("VIVA_NODE_MODULES", support::node_modules());
    let said = outsider::run(node, CLIENT_WITHIN).await;
    let mut validate = Command::new(support::python());
    validate.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/validate_events.py")).arg(&events);
    outsider::run(validate, CLIENT_WITHIN).await;
    matrix::proved(matrix::OPENAI_NODE, &said);
    matrix::prove(matrix::OPENAI_NODE, matrix::VALID);
    server.sessions(0).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_never_shakes_hands_is_in_nobodys_way() {
    let tls = TlsSection { self_signed: true, ..TlsSection::default() };
    let Guarded { server, .. } = guarded(TiersSection::default(), &tls).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    // Plain HTTP on a TLS port ends at once, and does not wait for the silent ones.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await.expect("it is answered").ok();
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_quota_is_told_in_headers_and_in_the_session() {
    let free = TierSection { sessions_max: 2, requests_per_minute: 3 };
    let tiers = TiersSection { free, ..TiersSection::default() };
    let Guarded { server, key, .. } = guarded(tiers, &TlsSection::default()).await;
    let (_, head, _) = ask(&server, "GET", "/v1/models", &bearer(&key), "").await;
    for line in
        ["x-ratelimit-limit-requests: 3", "x-ratelimit-remaining-requests: 2", "x-ratelimit-reset-requests: "]
    {
        assert!(head.contains(line), "{head}");
    }
    let mut caller = Caller::connect_as(server.address, "", &format!("openai-insecure-api-key.{key}")).await;
    caller.send(json!({"type": "response.create", "response": {"output_modalities": ["text"]}})).await;
    let told = caller.until("rate_limits.updated").await["rate_limits"].clone();
    let limit = &told[0];
    assert_eq!(
        (&limit["name"], &limit["limit"], told.as_array().unwrap().len()),
        (&json!("requests"), &json!(3), 1)
    );
    assert_eq!(limit["remaining"], 1, "the call was one, the list before it another: {told}");
    // Two requests come back in 40 s.
    let reset = limit["reset_seconds"].as_f64().unwrap();
    assert!(reset > 0.0 && reset <= 40.0, "{told}");
    assert_eq!(ask(&server, "GET", "/v1/models", &bearer(&key), "").await.0, 200);
    let (status, head, body) = ask(&server, "GET", "/v1/models", &bearer(&key), "").await;
    assert_eq!((status, &body["error"]["code"]), (429, &json!("rate_limit_exceeded")));
    assert!(head.contains("retry-after: ") && head.contains("x-ratelimit-remaining-requests: 0"), "{head}");
    server.stop().await;
}

/// A fresh certificate with its key.
fn certified() -> (CertificateDer<'static>, String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    (made.cert.der().clone(), made.cert.pem(), made.signing_key.serialize_pem())
}

/// A connection whose end shows one of these.
async fn shaken(server: &Server, known: &[CertificateDer<'static>]) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in known {
        roots.add(certificate.clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(server.address).await.unwrap();
    let name = "localhost".try_into().unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_shown_without_a_restart_and_half_of_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (old, old_cert, old_key) = certified();
    let (new, new_cert, new_key) = certified();
    std::fs::write(path("cert.pem"), old_cert).unwrap();
    std::fs::write(path("key.pem"), old_key).unwrap();
    let tls = TlsSection { cert: path("cert.pem"), key: path("key.pem"), ..TlsSection::default() };
    let Guarded { server, .. } = guarded(TiersSection::default(), &tls).await;
    let known = [old.clone(), new.clone()];
    let mut connected = shaken(&server, &known).await;
    assert_eq!(shown(&connected), old);
    std::fs::write(path("cert.pem"), new_cert).unwrap();
    tokio::time::sleep(LOOK_EVERY + Duration::from_millis(500)).await;
    assert_eq!(shown(&shaken(&server, &known).await), old, "its key is not there yet");
    std::fs::write(path("key.pem"), new_key).unwrap();
    let renewed = async {
        while shown(&shaken(&server, &known).await) != new {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(WITHIN, renewed).await.expect("it is read again");
    // Who was connected still is.
    connected
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    timeout(WITHIN, connected.read_to_end(&mut answer)).await.unwrap().ok();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
    server.stop().await;
}
