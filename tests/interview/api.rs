//! Interviews and the bank over HTTP, and calls that a client secret opens.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use viva::edge::http::{App, serve};
use viva::knowledge::Knowledge;
use viva::knowledge::bank::{Bank, to_lines};
use viva::knowledge::embedding::{Embedding, Haste};
use viva::knowledge::index::Index;
use viva::knowledge::publish::publish;
use viva_actors::ports::SessionSpec;
use viva_actors::root::{Limits, Viva};
use viva_models::EngineError;

use crate::support::{Caller, Server, WITHIN, fakes, offer};

/// Any HTTP request with a body. Returns status and what the JSON says.
async fn ask(host: SocketAddr, method: &str, path: &str, body: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(host).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(WITHIN, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_else(|_| panic!("{method} {path}: {answer}")))
}

async fn made(host: SocketAddr) -> (String, String) {
    let (status, made) =
        ask(host, "POST", "/interview/voice/sessions", r#"{"role": "nurse", "minutes": 8}"#).await;
    assert_eq!(status, 201, "{made}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&made["id"]), text(&made["client_secret"]["value"]))
}

/// Calls as a browser does, which has no headers of its own.
async fn call(host: SocketAddr, secret: &str) -> Result<Caller, u16> {
    call_with(host, secret, "").await
}

async fn call_with(host: SocketAddr, secret: &str, more: &str) -> Result<Caller, u16> {
    let url = format!("ws://{host}/v1/realtime?events=extended{more}");
    let mut request = url.into_client_request().unwrap();
    let protocols = format!("realtime, openai-insecure-api-key.{secret}");
    request.headers_mut().insert("Sec-WebSocket-Protocol", protocols.parse().unwrap());
    match connect_async(request).await {
        Ok((socket, handshake)) => {
            let mut caller = Caller { socket, handshake, seen: Vec::new() };
            caller.until("session.created").await;
            Ok(caller)
        }
        Err(tokio_tungstenite::tungstenite::Error::Http(refused)) => Err(refused.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

fn said(caller: &Caller) -> String {
    let deltas = caller.seen.iter().filter(|e| e["type"] == "response.output_audio_transcript.delta");
    deltas.map(|e| e["delta"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_opens_its_interview_which_greets_asks_and_is_kept() {
    let server = Server::start().await;
    let (id, secret) = made(server.address).await;
    let path = format!("/interview/voice/sessions/{id}");
    let (_, before) = ask(server.address, "GET", &path, "").await;
    assert_eq!(
        (&before["progress"]["state"], &before["progress"]["section"]),
        (&json!("waiting"), &json!("greeting"))
    );
    let mut caller = call(server.address, &secret).await.unwrap();
    assert_eq!(caller.handshake.headers()["sec-websocket-protocol"], "realtime");
    assert_eq!(call(server.address, &secret).await.err(), Some(409), "one candidate at a time");
    // Nobody has said a word: the interviewer begins.
    caller.hush_until("response.done", 0).await;
    assert!(
        said(&caller).contains("nurse") && said(&caller).ends_with("Shall we begin?"),
        "{}",
        said(&caller)
    );
    let from = caller.seen.len();
    caller.turn(900).await;
    caller.hush_until("viva.interview", from).await;
    let (_, during) = ask(server.address, "GET", &path, "").await;
    assert_eq!(during["progress"]["section"], "self_introduction");
    let question = during["progress"]["question"].as_str().unwrap();
    assert!(said(&caller).ends_with(question), "{question} in {}", said(&caller));
    let speakers: Vec<&str> =
        during["transcript"].as_array().unwrap().iter().map(|l| l["speaker"].as_str().unwrap()).collect();
    assert_eq!(speakers[..2], ["interviewer", "candidate"]);
    let decided = during["decisions"].as_array().unwrap().iter().filter(|e| e["event"] == "decided");
    assert!(decided.clone().count() >= 2 && decided.clone().all(|e| e["why"].is_string()));
    // Who leaves may come back and is asked the same again.
    caller.socket.close(None).await.unwrap();
    drop(caller);
    server.sessions(0).await;
    let mut again = call(server.address, &secret).await.unwrap();
    again.hush_until("response.done", 0).await;
    assert!(said(&again).ends_with(question) && !said(&again).contains("Shall we begin"), "{}", said(&again));
    // Deleted means gone: the call ends, nothing of it can be had, the secret opens nothing.
    let (status, gone) = ask(server.address, "DELETE", &path, "").await;
    assert_eq!((status, &gone["deleted"]), (200, &json!(true)));
    server.sessions(0).await;
    let (status, error) = ask(server.address, "GET", &path, "").await;
    assert_eq!((status, &error["error"]["code"]), (404, &json!("interview_not_found")));
    assert_eq!(ask(server.address, "DELETE", &path, "").await.0, 404);
    assert_eq!(call(server.address, &secret).await.err(), Some(401));
    assert_eq!(call(server.address, "ek_nobody").await.err(), Some(401));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interview_that_is_deleted_takes_its_recordings_along_and_nobody_elses() {
    let folder = tempfile::tempdir().unwrap();
    let spec = SessionSpec { recordings: Some(folder.path().into()), ..SessionSpec::default() };
    let server = Server::with(fakes(), 8, spec).await;
    let files = || std::fs::read_dir(folder.path()).unwrap().count();
    let (id, secret) = made(server.address).await;
    // A session that ended, and one that still runs.
    let mut first = call_with(server.address, &secret, "&record=true").await.unwrap();
    first.turn(900).await;
    first.socket.close(None).await.unwrap();
    server.sessions(0).await;
    let second = call_with(server.address, &secret, "&record=true").await.unwrap();
    let (_, others) = made(server.address).await;
    let other = call_with(server.address, &others, "&record=true").await.unwrap();
    assert_eq!(files(), 6, "a recording and what was agreed, three times");
    let (status, gone) = ask(server.address, "DELETE", &format!("/interview/voice/sessions/{id}"), "").await;
    assert_eq!(status, 200, "{gone}");
    server.sessions(1).await;
    assert_eq!(files(), 2, "the other interview's");
    drop((second, other));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_for_is_refused_with_its_field() {
    let server = Server::start().await;
    let sessions = "/interview/voice/sessions";
    for (method, path, body, status, param) in [
        ("POST", sessions, "{}", 400, "role"),
        ("POST", sessions, r#"{"role": "   "}"#, 400, "role"),
        ("POST", sessions, r#"{"role": 7}"#, 400, "role"),
        ("POST", sessions, r#"{"role": "x\u0000{}"}"#, 400, "role"),
        ("POST", sessions, r#"{"role": "nurse", "minutes": 3}"#, 400, "minutes"),
        ("POST", sessions, r#"{"role": "nurse", "minutes": -3}"#, 400, "minutes"),
        ("POST", sessions, r#"{"role": "nurse", "level": "king"}"#, 400, "level"),
        ("POST", sessions, r#"{"role": "nurse", "language": "de"}"#, 400, "language"),
        ("POST", sessions, r#"{"role": "nurse", "interviewer": "god"}"#, 400, "interviewer"),
        ("POST", sessions, r#"{"roll": "nurse"}"#, 400, "roll"),
        ("POST", "/rag/general/next", r#"{"role": "nurse", "category": "cooking"}"#, 400, "category"),
        ("POST", "/rag/general/next", r#"{"category": "technical"}"#, 400, ""),
    ] {
        let (got, error) = ask(server.address, method, path, body).await;
        assert_eq!(got, status, "{body}: {error}");
        let error = &error["error"];
        assert_eq!(error["type"], "invalid_request_error");
        assert!(param.is_empty() || error["param"] == param, "{body}: {error}");
        assert!(error["message"].as_str().unwrap().len() > 20, "{error}");
    }
    let long = format!(r#"{{"role": "nurse", "category": "technical", "said": "{}"}}"#, "x".repeat(10_000));
    assert_eq!(ask(server.address, "POST", "/rag/general/next", &long).await.1["error"]["param"], "said");
    let huge = format!(r#"{{"role": "{}"}}"#, "x".repeat(200_000));
    assert_eq!(ask(server.address, "POST", sessions, &huge).await.0, 413);
    for path in ["/rag/general/query", "/embedding/embed"] {
        let (status, error) = ask(server.address, "POST", path, r#"{"text": "x", "texts": []}"#).await;
        assert!(status == 503 || status == 400, "{path}: {error}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_describes_every_address() {
    let server = Server::start().await;
    let (status, document) = ask(server.address, "GET", "/openapi.json", "").await;
    assert_eq!(status, 200);
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    for (path, methods) in [
        ("/interview/voice/interviewers", &["get"][..]),
        ("/interview/voice/sessions", &["post"]),
        ("/interview/voice/sessions/{id}", &["get", "delete"]),
        ("/rag/general/questions", &["get"]),
        ("/rag/general/query", &["post"]),
        ("/rag/general/next", &["post"]),
        ("/embedding/embed", &["post"]),
    ] {
        for method in methods {
            assert!(document["paths"][path][method]["responses"].is_object(), "{method} {path}");
        }
    }
    // Whatever is referred to is there.
    let text = document.to_string();
    for (at, _) in text.match_indices("\"$ref\":\"#/components/schemas/") {
        let name = text[at + 29..].split('"').next().unwrap();
        assert!(document["components"]["schemas"][name].is_object(), "{name}");
    }
    let (_, interviewers) = ask(server.address, "GET", "/interview/voice/interviewers", "").await;
    assert!(interviewers.as_array().unwrap().len() >= 5);
    server.stop().await;
}

/// Vectors by letters.
struct Letters;

#[async_trait]
impl Embedding for Letters {
    fn name(&self) -> &str {
        "letters"
    }

    async fn embed(&self, texts: Vec<String>, _: Haste) -> Result<Vec<Vec<f32>>, EngineError> {
        let vector = |text: &String| {
            let mut vector = vec![0.001f32; 64];
            for pair in text.to_lowercase().as_bytes().windows(2) {
                vector[(usize::from(pair[0]) * 31 + usize::from(pair[1])) % 64] += 1.0;
            }
            let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
            vector.iter().map(|v| v / length).collect()
        };
        Ok(texts.iter().map(vector).collect())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bank_is_browsed_searched_and_asked_for_the_next_question() {
    let folder = tempfile::tempdir().unwrap();
    let general = Bank::general().unwrap();
    let nursing: Vec<_> = general.records().iter().filter(|r| r.subcategory == "nursing").cloned().collect();
    let mut bank = Bank::default();
    bank.add("test", &to_lines(&nursing)).unwrap();
    let store = Arc::new(Index::open(folder.path(), "letters").unwrap());
    publish(&bank, &Letters, &*store, false, |_| {}).await.unwrap();
    let viva = Viva::start(fakes(), Limits::default()).await.unwrap();
    let mut app = App::new(viva, offer(SessionSpec::default()), Vec::new(), true);
    app.knowledge = Some(Knowledge::of(store, Arc::new(Letters), folder.path().to_owned()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, Arc::new(app), std::future::pending(), Duration::ZERO));

    let (status, page) =
        ask(host, "GET", "/rag/general/questions?category=technical&limit=3&skip=2", "").await;
    assert_eq!(status, 200, "{page}");
    assert_eq!(
        (page["total"].as_u64(), page["data"].as_array().unwrap().len()),
        (Some(nursing.len() as u64), 3)
    );
    for bad in ["category=cooking", "limit=101", "difficulty_min=4&difficulty_max=2", "sql=1", "skip=-1"] {
        let (status, error) = ask(host, "GET", &format!("/rag/general/questions?{bad}"), "").await;
        assert_eq!(status, 400, "{bad}: {error}");
    }
    let drop_table = "subcategory=x%27%3B%20DROP%20TABLE%20questions%3B--";
    let (status, none) = ask(host, "GET", &format!("/rag/general/questions?{drop_table}"), "").await;
    assert!(status == 400 || none["total"] == 0, "{none}");

    let question = &nursing[7].question;
    let asked = json!({"text": question, "n_results": 3, "filters": {"difficulty": [1, 5]}}).to_string();
    let (status, hits) = ask(host, "POST", "/rag/general/query", &asked).await;
    assert_eq!(status, 200, "{hits}");
    assert_eq!(hits["data"][0]["question"]["question"], *question);
    assert!(hits["data"][0]["distance"].as_f64().unwrap() <= hits["data"][2]["distance"].as_f64().unwrap());
    for bad in
        [json!({"text": "x".repeat(10_000)}), json!({"text": " "}), json!({"text": "x", "n_results": 0})]
    {
        assert_eq!(ask(host, "POST", "/rag/general/query", &bad.to_string()).await.0, 400);
    }

    let mut asked: Vec<String> = Vec::new();
    for _ in 0..5 {
        let body =
            json!({"role": "nurse", "category": "technical", "asked": asked, "said": "the drip stopped"});
        let (status, next) = ask(host, "POST", "/rag/general/next", &body.to_string()).await;
        assert_eq!(status, 200, "{next}");
        let id = next["question"]["id"].as_str().unwrap().to_owned();
        assert!(id.starts_with("t.nursing.") && !asked.contains(&id), "{id}");
        asked.push(id);
    }

    let (_, vectors) = ask(host, "POST", "/embedding/embed", r#"{"texts": ["one", "two"]}"#).await;
    assert_eq!((&vectors["model"], &vectors["dimensions"]), (&json!("letters"), &json!(64)));
    assert_eq!(vectors["embeddings"].as_array().unwrap().len(), 2);
    for bad in [json!({"texts": []}), json!({"texts": vec!["x"; 65]}), json!({"texts": [" "]})] {
        assert_eq!(ask(host, "POST", "/embedding/embed", &bad.to_string()).await.0, 400);
    }
}
