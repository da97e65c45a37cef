//! A language model behind an OpenAI-compatible endpoint: it answers end to end, and when it goes away the
//! reply fails by name and the session goes on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use viva::config::Config;
use viva_actors::ports::SessionSpec;
use viva_models::registry::open_llm;

use super::support::{Caller, Server, fakes};

/// What it says, a word an event.
const ANSWER: &str = "That sounds like good work. Who was it for?";

/// An endpoint of the test's own. It keeps the bodies it was sent.
struct Endpoint {
    address: SocketAddr,
    bodies: mpsc::UnboundedReceiver<Value>,
    sent: mpsc::UnboundedSender<Value>,
    serving: JoinHandle<()>,
}

impl Endpoint {
    #[allow(clippy::disallowed_methods, reason = "a test holds a handful of requests")]
    async fn start() -> Self {
        let (sent, bodies) = mpsc::unbounded_channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(accept(listener, sent.clone()));
        Self { address, bodies, sent, serving }
    }

    /// Nobody listens any more.
    async fn go_away(&mut self) {
        self.serving.abort();
        (&mut self.serving).await.ok();
    }

    async fn come_back(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.serving = tokio::spawn(accept(listener, self.sent.clone()));
    }
}

async fn accept(listener: TcpListener, sent: mpsc::UnboundedSender<Value>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(answer(stream, sent.clone()));
    }
}

/// Reads one request and streams the answer. A client that hangs up meanwhile thought better of it.
async fn answer(mut stream: TcpStream, sent: mpsc::UnboundedSender<Value>) -> Option<()> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 16_384]);
    let body: Value = loop {
        let n = stream.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&buffer[..n]);
        let Some(head) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        if let Ok(body) = serde_json::from_slice(&bytes[head + 4..]) {
            assert!(bytes.starts_with(b"POST /v1/chat/completions"));
            break body;
        }
    };
    sent.send(body).ok()?;
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.ok()?;
    for word in ANSWER.split_inclusive(' ') {
        let event = serde_json::json!({"choices": [{"index": 0, "delta": {"content": word}}]});
        stream.write_all(format!("data: {event}\n\n").as_bytes()).await.ok()?;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let end = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    stream.write_all(end.as_bytes()).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_answers_and_its_loss_fails_replies_not_sessions() {
    let mut endpoint = Endpoint::start().await;
    let config = format!(
        "[engines.llm]\nengine = 'openai'\nbase_url = 'http://{}/v1'\nmodel = 'far-away'\ntimeout_ms = 3000\n",
        endpoint.address
    );
    let spec = toml::from_str::<Config>(&config).unwrap().engines.llm.unwrap();
    let mut engines = fakes();
    engines.llm = Arc::new(move || open_llm(&spec));
    let server = Server::with(engines, 8, SessionSpec::default()).await;
    let mut caller = Caller::connect(server.address, "").await;

    let response = caller.turn(900).await;
    assert_eq!(response["status"], "completed", "{response}");
    assert_eq!(response["output"][0]["content"][0]["transcript"], ANSWER, "{response}");
    let body = endpoint.bodies.recv().await.unwrap();
    assert_eq!((body["model"].as_str(), body["stream"].as_bool()), (Some("far-away"), Some(true)), "{body}");
    let (system, user) = (&body["messages"][0], &body["messages"][1]);
    assert_eq!(system["role"], "system");
    assert!(user["role"] == "user" && user["content"].as_str().unwrap().starts_with("word1"), "{body}");

    endpoint.go_away().await;
    let began = std::time::Instant::now();
    let response = caller.turn(900).await;
    println!("without it, after {:?}: {}", began.elapsed(), response["status_details"]);
    assert_eq!(response["status"], "failed", "{response}");
    let why = response["status_details"].to_string();
    assert!(why.contains(&endpoint.address.to_string()) || why.contains("unavailable"), "{why}");

    endpoint.come_back().await;
    let response = caller.turn(900).await;
    assert_eq!(response["status"], "completed", "the session goes on: {response}");
    assert_eq!(server.viva.sessions(), 1);
    drop(caller);
    server.sessions(0).await;
    server.stop().await;
}
