//! A caller over WebRTC whose every event is seen, and who can vanish, restart and come back.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until, timeout};
use viva::client::ClientError;
use viva::client::webrtc::{Ears, Heard, Link, Mouth, dial};
use viva::edge::webrtc::impair::Impairment;

use super::{Server, WITHIN};

/// Samples above this are heard: −50 dBFS.
const AUDIBLE: i16 = 104;

pub struct RtcCaller {
    pub mouth: Mouth,
    pub ears: Ears,
    pub seen: Vec<Value>,
    /// Every 20 ms of their voice, with when it came.
    pub voice: Vec<(Instant, Vec<i16>)>,
    pub over: Option<String>,
    next_frame: Instant,
}

impl RtcCaller {
    pub async fn connect(server: &Server, query: &str) -> Self {
        Self::over(server, query, None).await.unwrap()
    }

    pub async fn over(
        server: &Server,
        query: &str,
        network: Option<Impairment>,
    ) -> Result<Self, ClientError> {
        Self::dial(&server.url(), query, network).await
    }

    pub async fn dial(url: &str, query: &str, network: Option<Impairment>) -> Result<Self, ClientError> {
        let (mouth, ears) = dial(url, query, None, network).await?;
        let (seen, voice) = (Vec::new(), Vec::new());
        let mut caller = Self { mouth, ears, seen, voice, over: None, next_frame: Instant::now() };
        caller.until("session.created").await;
        Ok(caller)
    }

    pub fn link(&self) -> Arc<Link> {
        Arc::clone(self.mouth.link())
    }

    /// Takes what comes until `until`, or one thing.
    async fn hear(&mut self, until: Instant) -> bool {
        let heard = tokio::select! {
            biased;
            heard = self.ears.next(), if self.over.is_none() => heard,
            () = sleep_until(until) => return false,
        };
        match heard {
            Heard::Event(text) => self.seen.push(serde_json::from_str(&text).unwrap()),
            Heard::Voice(samples) => self.voice.push((Instant::now(), samples)),
            Heard::Over(why) => self.over = Some(why),
        }
        true
    }

    /// Speaks in real time (or is silent, for none), hearing what comes.
    pub async fn say(&mut self, samples: Option<&[i16]>, ms: usize) {
        self.next_frame = self.next_frame.max(Instant::now());
        for i in 0..ms / 20 {
            let frame = samples.map(|s| &s[(i * 480).min(s.len())..((i + 1) * 480).min(s.len())]);
            self.mouth.frame(frame.filter(|f| !f.is_empty())).await.ok();
            self.next_frame += Duration::from_millis(20);
            let until = self.next_frame;
            while Instant::now() < until {
                if !self.hear(until).await {
                    break;
                }
            }
        }
    }

    pub async fn speak(&mut self, ms: usize) {
        let samples = super::speech(ms);
        self.say(Some(&samples), ms).await;
    }

    /// Sends nothing at all, hearing what comes.
    pub async fn mute(&mut self, ms: u64) {
        let until = Instant::now() + Duration::from_millis(ms);
        while Instant::now() < until {
            if !self.hear(until).await {
                break;
            }
        }
    }

    pub async fn send(&self, event: Value) {
        self.mouth.event(&event.to_string()).await.unwrap();
    }

    /// Is silent until an event of this kind has come since `from`.
    pub async fn until_from(&mut self, kind: &str, from: usize) -> Value {
        let end = Instant::now() + WITHIN;
        loop {
            if let Some(event) = self.seen[from..].iter().find(|e| e["type"] == kind) {
                return event.clone();
            }
            assert!(Instant::now() < end, "no {kind} in time; came {:?}", self.types(from));
            assert!(self.over.is_none(), "{:?} while waiting for {kind}", self.over);
            self.say(None, 20).await;
        }
    }

    pub async fn until(&mut self, kind: &str) -> Value {
        self.until_from(kind, 0).await
    }

    /// Speaks, and waits for the end of the answer; the response as it ended.
    pub async fn turn(&mut self, speech_ms: usize) -> Value {
        let from = self.seen.len();
        self.speak(speech_ms).await;
        self.until_from("response.done", from).await["response"].clone()
    }

    pub async fn update(&mut self, session: Value) {
        let from = self.seen.len();
        self.send(json!({"type": "session.update", "session": session})).await;
        self.until_from("session.updated", from).await;
    }

    /// The error that answers this.
    pub async fn refused(&mut self, event: Value) -> Value {
        let from = self.seen.len();
        self.send(event).await;
        self.until_from("error", from).await["error"].clone()
    }

    pub fn types(&self, from: usize) -> Vec<String> {
        let types = self.seen[from..].iter().map(|e| e["type"].as_str().unwrap_or_default().to_owned());
        let mut types: Vec<String> = types.collect();
        types.dedup();
        types
    }

    /// Milliseconds of their voice that were loud enough to hear, since a moment.
    pub fn audible_ms(&self, since: Instant) -> usize {
        let loud = |samples: &[i16]| samples.iter().any(|s| s.saturating_abs() > AUDIBLE);
        self.voice
            .iter()
            .filter(|(at, samples)| *at >= since && loud(samples))
            .map(|(_, s)| s.len() / 24)
            .sum()
    }

    /// Milliseconds of their voice that came.
    pub fn voice_ms(&self) -> usize {
        self.voice.iter().map(|(_, samples)| samples.len() / 24).sum()
    }

    /// The token to come back with.
    pub fn token(&self) -> String {
        let token = self.seen.iter().rev().find(|e| e["type"] == "viva.resume").expect("a way back");
        token["token"].as_str().unwrap().to_owned()
    }

    pub async fn hang_up(self) {
        timeout(WITHIN, self.mouth.link().hang_up()).await.unwrap();
    }
}
