//! What the tests at the boundary share: a server in this process with the test kit's engines, one in a
//! process of its own ([`child`]), a caller who can also misbehave, many who come and go ([`churn`]), and programs of
//! others ([`outsider`]) with the table of what they do ([`matrix`]).
#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod calls;
pub mod child;
pub mod churn;
pub mod matrix;
pub mod outsider;
pub mod rtc;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use viva::config::WebRtcSection;
use viva::edge::http::{App, serve};
use viva::edge::parking::Parking;
use viva::edge::protocol::session_object::Offer;
use viva::edge::tls::{Certificate, TlsListener};
use viva::edge::webrtc::WebRtc;
use viva::edge::webrtc::impair::Impairment;
use viva::identity::Identity;
use viva_actors::gpu::Engines;
use viva_actors::ports::SessionSpec;
use viva_actors::root::{Limits, Viva};
use viva_actors::testkit::{Costs, engines};

/// Longer than anything here takes on a busy machine.
pub const WITHIN: Duration = Duration::from_secs(20);

pub const REPLY: &str = "Thank you for that. What did you learn from it?";

pub struct Server {
    pub address: SocketAddr,
    pub viva: Viva,
    pub app: Arc<App>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<std::io::Result<()>>,
}

/// Who may come in, and over what.
#[derive(Default)]
pub struct Gate {
    pub identity: Option<Identity>,
    pub certificate: Option<Certificate>,
}

pub fn fakes() -> Engines {
    engines(Costs { asr_ms: 20, turn_ms: 5, prefill_ms: 5, step_ms: 2, tts_ms: 20 }, REPLY, &Arc::default())
}

pub fn offer(spec: SessionSpec) -> Offer {
    Offer { model: "viva".into(), voices: vec!["hum".into()], spec, session_s_max: 600 }
}

impl Server {
    pub async fn start() -> Self {
        Self::with(fakes(), 8, SessionSpec::default()).await
    }

    pub async fn with(engines: Engines, sessions: usize, spec: SessionSpec) -> Self {
        Self::with_lines(engines, sessions, spec, WebRtcSection::default(), None).await
    }

    /// With this WebRTC edge, over a network that may be bad.
    pub async fn with_lines(
        engines: Engines,
        sessions: usize,
        spec: SessionSpec,
        webrtc: WebRtcSection,
        network: Option<Impairment>,
    ) -> Self {
        Self::with_offer(engines, sessions, offer(spec), webrtc, network).await
    }

    /// With what it offers.
    pub async fn with_offer(
        engines: Engines,
        sessions: usize,
        offer: Offer,
        webrtc: WebRtcSection,
        network: Option<Impairment>,
    ) -> Self {
        Self::with_gate(engines, sessions, offer, webrtc, network, Gate::default()).await
    }

    /// With a gate in front.
    pub async fn with_gate(
        engines: Engines,
        sessions: usize,
        offer: Offer,
        webrtc: WebRtcSection,
        network: Option<Impairment>,
        gate: Gate,
    ) -> Self {
        let viva = Viva::start(engines, Limits { sessions, ..Limits::default() }).await.unwrap();
        // On the family that the lines are on.
        let ip = webrtc.listen.first().map_or([127, 0, 0, 1].into(), SocketAddr::ip);
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut app = App::new(viva.clone(), offer, vec!["https://friend.example".into()], true);
        app.metrics = Some(metrics());
        app.webrtc = match webrtc.enabled {
            true => {
                let edge = WebRtc::start(&webrtc, address, Arc::clone(viva.lateness()), network);
                Some(Arc::new(edge.unwrap()))
            }
            false => None,
        };
        app.parking = Parking::new(Duration::from_secs(webrtc.resume_s));
        app.identity = gate.identity;
        let app = Arc::new(app);
        let (stop, stopped) = oneshot::channel();
        let stopped = async move {
            stopped.await.ok();
        };
        let (served, drain) = (Arc::clone(&app), Duration::from_secs(1));
        let serving = match gate.certificate {
            None => tokio::spawn(serve(listener, served, stopped, drain)),
            Some(certificate) => {
                let listener = TlsListener::new(listener, certificate).unwrap();
                tokio::spawn(serve(listener, served, stopped, drain))
            }
        };
        let ready = async {
            while !viva.readiness().ready {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(WITHIN, ready).await.expect("the fake engines come up");
        Self { address, viva, app, stop: Some(stop), serving }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub async fn stop(mut self) {
        self.stop.take().unwrap().send(()).ok();
        timeout(WITHIN, self.serving).await.expect("it ends").unwrap().unwrap();
    }

    /// Waits until so many sessions run.
    pub async fn sessions(&self, count: usize) {
        let reached = async {
            while self.viva.sessions() != count {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(WITHIN, reached)
            .await
            .unwrap_or_else(|_| panic!("{} sessions, not {count}", self.viva.sessions()));
    }

    /// A plain HTTP request with more headers. Returns status, head, and body.
    pub async fn get(&self, path: &str, headers: &str) -> (u16, String, String) {
        get(self.address, path, headers).await
    }
}

/// A plain HTTP request with more headers. Returns status, head, and body.
pub async fn get(host: SocketAddr, path: &str, headers: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(host).await.unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close, Upgrade\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(WITHIN, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), body.to_owned())
}

/// One recorder serves all servers of this process. It keeps every sample until it is read or told to tidy up.
pub fn metrics() -> metrics_exporter_prometheus::PrometheusHandle {
    static HANDLE: std::sync::OnceLock<metrics_exporter_prometheus::PrometheusHandle> =
        std::sync::OnceLock::new();
    HANDLE.get_or_init(|| viva::telemetry::init_metrics().unwrap()).clone()
}

pub struct Caller {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub handshake: Response,
    pub seen: Vec<Value>,
}

impl Caller {
    /// Connects and has seen `session.created`.
    pub async fn connect(address: SocketAddr, query: &str) -> Self {
        Self::connect_as(address, query, "other").await
    }

    /// The same with another subprotocol beside `realtime`, which may carry a key.
    pub async fn connect_as(address: SocketAddr, query: &str, protocol: &str) -> Self {
        let mut request = format!("ws://{address}/v1/realtime{query}").into_client_request().unwrap();
        request
            .headers_mut()
            .insert("Sec-WebSocket-Protocol", format!("realtime, {protocol}").parse().unwrap());
        let (socket, handshake) = connect_async(request).await.unwrap();
        let mut caller = Self { socket, handshake, seen: Vec::new() };
        caller.until("session.created").await;
        caller
    }

    pub async fn send(&mut self, event: Value) {
        self.socket.send(Message::text(event.to_string())).await.unwrap();
    }

    pub async fn text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// The next event, or the close frame's code and reason.
    pub async fn next(&mut self) -> Result<Value, (u16, String)> {
        self.next_within(WITHIN).await
    }

    /// The same, where it may be long in coming.
    pub async fn next_within(&mut self, within: Duration) -> Result<Value, (u16, String)> {
        loop {
            let message = timeout(within, self.socket.next()).await.expect("something comes in time");
            match message {
                Some(Ok(Message::Text(text))) => {
                    let event: Value = serde_json::from_str(&text).unwrap();
                    self.seen.push(event.clone());
                    return Ok(event);
                }
                Some(Ok(Message::Close(Some(frame)))) => {
                    return Err((frame.code.into(), frame.reason.to_string()));
                }
                Some(Ok(Message::Close(None))) | None => return Err((1005, String::new())),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err((1006, error.to_string())),
            }
        }
    }

    pub async fn until(&mut self, kind: &str) -> Value {
        let wait = async {
            loop {
                match self.next().await {
                    Ok(event) if event["type"] == kind => return event,
                    Ok(event) => assert_ne!(event["type"], "error", "while waiting for {kind}: {event}"),
                    Err(closed) => panic!("closed while waiting for {kind}: {closed:?}"),
                }
            }
        };
        timeout(WITHIN, wait).await.unwrap_or_else(|_| panic!("no {kind} in time"))
    }

    /// Sends raw text and returns the error that answers it.
    pub async fn refused(&mut self, text: &str) -> Value {
        self.text(text).await;
        loop {
            let event = self.next().await.expect("the session goes on");
            if event["type"] == "error" {
                return event["error"].clone();
            }
        }
    }

    pub async fn update(&mut self, session: Value) -> Value {
        self.send(json!({"type": "session.update", "session": session})).await;
        self.until("session.updated").await["session"].clone()
    }

    /// Speaks in real time, reading along. What comes meanwhile is in `seen`.
    pub async fn speak(&mut self, samples: &[i16]) {
        let begin = Instant::now();
        for (i, frame) in samples.chunks(480).enumerate() {
            self.send(append(frame)).await;
            let until = begin + Duration::from_millis(20 * (i as u64 + 1));
            loop {
                tokio::select! {
                    biased;
                    () = sleep_until(until) => break,
                    message = self.socket.next() => if let Some(Ok(Message::Text(text))) = message {
                        self.seen.push(serde_json::from_str(&text).unwrap());
                    },
                }
            }
        }
    }

    /// Is silent in real time until an event of this kind has come since `from`.
    pub async fn hush_until(&mut self, kind: &str, from: usize) -> Value {
        let end = Instant::now() + WITHIN;
        loop {
            if let Some(event) = self.seen[from..].iter().find(|e| e["type"] == kind) {
                return event.clone();
            }
            assert!(Instant::now() < end, "no {kind} in time; came {:?}", self.types(from));
            self.speak(&[0; 480]).await;
        }
    }

    /// Speaks, and waits for the end of the answer; the response as it ended.
    pub async fn turn(&mut self, speech_ms: usize) -> Value {
        let from = self.seen.len();
        self.speak(&speech(speech_ms)).await;
        self.hush_until("response.done", from).await["response"].clone()
    }

    /// A turn that must be answered; its voice-to-voice time. For callers with `events=extended`.
    pub async fn answered_after_ms(&mut self) -> u64 {
        let from = self.seen.len();
        let response = self.turn(900).await;
        assert_eq!(response["status"], "completed", "{response}");
        self.hush_until("metrics.turn", from).await["voice_to_voice_ms"].as_u64().unwrap()
    }

    pub fn types(&self, from: usize) -> Vec<String> {
        let types = self.seen[from..].iter().map(|e| e["type"].as_str().unwrap_or_default().to_owned());
        let mut types: Vec<String> = types.collect();
        types.dedup();
        types
    }
}

/// The event that carries these samples.
pub fn append(samples: &[i16]) -> Value {
    let bytes: Vec<u8> = samples.iter().flat_map(|s| s.to_le_bytes()).collect();
    json!({"type": "input_audio_buffer.append", "audio": STANDARD.encode(bytes)})
}

/// What the fake recogniser takes for speech, a word in every 300 ms.
pub fn speech(ms: usize) -> Vec<i16> {
    viva_actors::testkit::tone(220.0, ms * 24, 24_000).iter().map(|s| (s * 32_767.0) as i16).collect()
}

/// The cache folder that `make test` installs the tests' tools in.
fn cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    base.unwrap_or_default().join("viva")
}

/// The Python that `make test` prepares: in `VIVA_VENV`, else in the user's cache folder.
pub fn python() -> PathBuf {
    let venv = std::env::var_os("VIVA_VENV").map(PathBuf::from);
    let python = venv.unwrap_or_else(|| cache().join("venv")).join("bin/python");
    assert!(python.is_file(), "there is no Python for the tests at {python:?}; run: make setup-test");
    python
}

/// The Python with these packages of others, which `make test` prepares apart, or why they could not be installed.
pub fn python_with(packages: &str) -> Result<PathBuf, String> {
    if let Ok(why) = std::fs::read_to_string(cache().join(format!("{packages}.missing"))) {
        return Err(why);
    }
    let python = cache().join(packages).join("bin/python");
    assert!(python.is_file(), "there is no Python for the tests at {python:?}; run: make setup-test");
    Ok(python)
}

/// The packages for node that `make test` prepares, in the user's cache folder.
pub fn node_modules() -> PathBuf {
    let node = std::env::var_os("VIVA_NODE").map(PathBuf::from);
    let modules = node.unwrap_or_else(|| cache().join("node")).join("node_modules");
    assert!(modules.is_dir(), "there are no packages for the tests at {modules:?}; run: make setup-test");
    modules
}

/// Samples at 24 kHz as a file.
pub fn write_wav(path: &Path, samples: &[i16]) {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 24_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut wav = hound::WavWriter::create(path, spec).unwrap();
    samples.iter().for_each(|sample| wav.write_sample(*sample).unwrap());
    wav.finalize().unwrap();
}
