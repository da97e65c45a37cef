//! Where bytes from outside come in, one function a place: the fuzz targets call them, and so do the tests that replay the
//! seeds. None of them may panic, hang, or hold more than a multiple of what it was given.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::sync::OnceLock;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use bytes::Bytes;
use rtc::peer_connection::sdp::RTCSessionDescription;
use tokio::runtime::Builder;
use tokio::time::Instant;
use viva::config::IdentitySection;
use viva::edge::call::first_object;
use viva::edge::intake::Intake;
use viva::edge::protocol::client_events::ClientEvent;
use viva::edge::protocol::parse;
use viva::edge::protocol::session_object;
use viva::edge::rest::upload::Form;
use viva::edge::webrtc::codec::{Ear, length_of};
use viva::edge::webrtc::dejitter::{Dejitter, Packet};
use viva::edge::webrtc::{offer, stun};
use viva::identity::tokens::Tokens;
use viva_actors::lane::Lane;
use viva_actors::ports::SessionSpec;
use viva_actors::types::SessionId;
use viva_models::audio::{LISTEN_RATE, Recording, decode};

/// A place, by the name of its target and of its folder of seeds.
pub type Entry = (&'static str, fn(&[u8]));

/// All of them.
pub const ENTRIES: [Entry; 7] = [
    ("event", event),
    ("sdp", sdp),
    ("stun", stun),
    ("form", form),
    ("token", token),
    ("rtp", rtp),
    ("recording", recording),
];

/// A client's event: read, and its settings or its audio applied as a session does it.
pub fn event(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let parsed = parse(text);
    let offer = session_object::Offer {
        model: "viva".into(),
        voices: vec!["hum".into()],
        spec: SessionSpec::default(),
        session_s_max: 600,
    };
    match parsed.event {
        Ok(ClientEvent::SessionUpdate(session)) => {
            let object = first_object(&SessionId(String::new()), &offer);
            drop(object.patched(*session, &offer, false));
        }
        Ok(ClientEvent::Append(audio)) => drop(Intake::new(Lane::new(8)).append(&audio)),
        Ok(_) => {}
        Err(error) => assert!(!error.message.is_empty(), "an error says what is wrong"),
    }
}

/// An offer, up to what is built for it: the look at it, and the parser it is handed to.
pub fn sdp(data: &[u8]) {
    let Ok(offer) = offer::Offer::check(data) else { return };
    let (name, password) = offer::credentials(&offer.sdp).expect("what was looked at has credentials");
    assert!(!name.is_empty() && !password.is_empty(), "they were measured");
    let advertised = offer::advertise(&offer.sdp, &[([127, 0, 0, 1], 9).into()]);
    assert!(advertised.contains("a=candidate:1 1 udp"), "we can be found");
    if let Ok(description) = RTCSessionDescription::offer(offer.sdp) {
        drop(description.unmarshal());
    }
}

/// A datagram before anybody knows whose it is. As in the server, only what is a check by its first byte is read as one:
/// the parser behind it looks at less of that byte.
pub fn stun(data: &[u8]) {
    if stun::kind(data) != stun::Kind::Stun {
        return;
    }
    if let Some(mut check) = stun::Check::read(data) {
        check.asked();
        assert!(!check.proves("a password nobody was told"), "nothing proves what nobody knows");
    }
}

/// A form with a recording, in chunks whose length its first byte says. Its boundary is `b`.
pub fn form(data: &[u8]) {
    let Some((&size, body)) = data.split_first() else { return };
    let chunks: Vec<_> = body
        .chunks(usize::from(size) + 1)
        .map(|chunk| Ok::<_, std::io::Error>(Bytes::copy_from_slice(chunk)))
        .collect();
    let request = Request::builder()
        .header("content-type", "multipart/form-data; boundary=b")
        .body(Body::from_stream(futures_util::stream::iter(chunks)))
        .expect("a request of constants");
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime of one thread");
    if let Ok(mut form) = runtime.block_on(Form::read(request)) {
        form.list("timestamp_granularities");
        let read = form.file.read_to_end(&mut Vec::new()).expect("a file of our own can be read");
        assert!(read <= data.len(), "a recording is a part of what came");
    }
}

/// A signed token. None is good: the key is nobody's.
pub fn token(data: &[u8]) {
    static TOKENS: OnceLock<Tokens> = OnceLock::new();
    let tokens = TOKENS.get_or_init(|| {
        let mut file = tempfile::NamedTempFile::new().expect("a file of our own");
        // Made up for this; the second is the example of RFC 8037.
        let keys = r#"{"keys": [
            {"kty": "oct", "alg": "HS256", "kid": "one", "k": "3q2-7wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},
            {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "two", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
        ]}"#;
        file.write_all(keys.as_bytes()).expect("a file of our own can be written");
        Tokens::open(file.path(), &IdentitySection::default()).expect("keys of the formats we take")
    });
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(principal) = tokens.read(text) {
        assert!(!principal.user.is_empty() && !principal.tenant.is_empty(), "whoever comes in has a name");
    }
}

/// A stream of packets as they come out of the encryption: two bytes of sequence number, the milliseconds since the last, the
/// length of the payload, and the payload, over and over.
pub fn rtp(data: &[u8]) {
    let (mut dejitter, mut steps, mut heard) = (Dejitter::default(), Vec::new(), Vec::new());
    let mut ear = Ear::new().expect("a decoder for one voice");
    let began = Instant::now();
    let (mut rest, mut now, mut timestamp) = (data, began, 0u32);
    while let [high, low, ms, length, more @ ..] = rest {
        let (payload, next) = more.split_at(usize::from(*length).min(more.len()));
        rest = next;
        now += Duration::from_millis(u64::from(*ms));
        timestamp = timestamp.wrapping_add(u32::from(*ms) * 48);
        let sequence = u16::from_be_bytes([*high, *low]);
        if let Some(length) = length_of(payload) {
            let payload = Bytes::copy_from_slice(payload);
            dejitter.packet(Packet { sequence, timestamp, length, payload }, now, &mut steps);
        }
        if dejitter.due(now).is_some_and(|due| due <= now + Duration::from_millis(20)) {
            dejitter.tick(now, now, &mut steps);
        }
        for step in steps.drain(..) {
            ear.hear(step, &mut heard);
        }
        assert!(heard.iter().all(|sample| sample.is_finite()), "a sample is a number");
        heard.clear();
    }
}

/// A recording of any kind, whole and piece by piece.
pub fn recording(data: &[u8]) {
    /// Seconds that are decoded at the most.
    const SECONDS: u32 = 5;
    if let Ok(decoded) = decode(data, None, SECONDS) {
        assert!(decoded.seconds() <= f64::from(SECONDS) + 1.0, "no more than was asked for");
    }
    let mut file = tempfile::tempfile().expect("a file of our own");
    file.write_all(data).and_then(|()| file.rewind()).expect("a file of our own can be written");
    pieces(file, data.len());
}

fn pieces(file: File, bytes: usize) {
    let Ok(mut recording) = Recording::open(file, None, LISTEN_RATE) else { return };
    let (mut samples, mut reads) = (Vec::new(), 0);
    while matches!(recording.read(&mut samples), Ok(true)) {
        samples.clear();
        reads += 1;
        assert!(reads <= bytes + 2, "a packet takes at least a byte");
    }
}
