#![allow(clippy::unwrap_used)]
use serde_json::json;
use viva_actors::turn::Endpointing;

use super::*;

fn offer() -> Offer {
    Offer {
        model: "viva".into(),
        voices: vec!["joe".into(), "amy".into()],
        spec: SessionSpec::default(),
        session_s_max: 60,
    }
}

fn patched(session: Value) -> Result<SessionObject, ErrorBody> {
    let patch: SessionPatch = serde_json::from_value(session).unwrap();
    SessionObject::new("sess_1".into(), &offer(), 0).patched(patch, &offer(), true)
}

fn audio(input: Value) -> Value {
    json!({"type": "realtime", "audio": {"input": input}})
}

#[test]
fn turn_detection_maps_to_the_turn_machine() {
    let check = |detection: Value, expected: Endpointing, create: bool| {
        let object = patched(audio(json!({"turn_detection": detection}))).unwrap();
        let turn = object.settings(&offer()).turn;
        assert_eq!(turn.endpointing, expected);
        assert_eq!(turn.create_response, create);
    };
    check(Value::Null, Endpointing::Manual, false);
    check(json!({"type": "server_vad"}), Endpointing::Silence { silence_ms: 500 }, true);
    let server = json!({"type": "server_vad", "silence_duration_ms": 900, "create_response": false});
    check(server, Endpointing::Silence { silence_ms: 900 }, false);
    for (eagerness, patience) in [("low", 1.5), ("medium", 1.0), ("high", 0.7), ("auto", 1.0)] {
        let semantic = json!({"type": "semantic_vad", "eagerness": eagerness});
        check(semantic, Endpointing::Semantic { patience }, true);
    }
}

#[test]
fn absent_fields_stay_and_null_turns_off() {
    let object = patched(audio(json!({"transcription": {"language": "de", "keywords": ["Rust", "Tokio"]}})));
    let object = object.unwrap();
    assert!(object.audio.input.turn_detection.is_some());
    let settings = object.settings(&offer());
    assert_eq!(settings.language, "de");
    assert_eq!(settings.listening.prompt.as_deref(), Some("Rust, Tokio"));
    let patch = serde_json::from_value(audio(json!({"transcription": null}))).unwrap();
    assert_eq!(object.patched(patch, &offer(), false).unwrap().audio.input.transcription, None);
}

#[test]
fn each_mistake_names_its_field() {
    let cases = [
        (json!({"type": "transcription"}), "session.type"),
        (json!({"type": "realtime", "output_modalities": ["text", "audio"]}), "session.output_modalities"),
        (json!({"type": "realtime", "max_output_tokens": 5000}), "session.max_output_tokens"),
        (json!({"type": "realtime", "tool_choice": "required"}), "session.tool_choice"),
        (audio(json!({"format": {"type": "audio/pcm", "rate": 48000}})), "session.audio.input.format.rate"),
        (
            audio(json!({"turn_detection": {"type": "server_vad", "threshold": 2.0}})),
            "session.audio.input.turn_detection.threshold",
        ),
        (json!({"type": "realtime", "audio": {"output": {"voice": "nobody"}}}), "session.audio.output.voice"),
        (json!({"type": "realtime", "audio": {"output": {"voice": "amy"}}}), "session.audio.output.voice"),
        (json!({"type": "realtime", "audio": {"output": {"speed": 9.0}}}), "session.audio.output.speed"),
    ];
    for (session, param) in cases {
        assert_eq!(patched(session.clone()).unwrap_err().param.as_deref(), Some(param), "{session}");
    }
}

#[test]
fn what_is_too_long_is_refused_by_field_and_what_just_fits_is_taken() {
    let prompt = SessionSpec::default().prompt_chars_max;
    let instructions = |n: usize| patched(json!({"type": "realtime", "instructions": "x".repeat(n)}));
    assert!(instructions(prompt / 3 * 2).is_ok());
    let error = instructions(prompt / 3 * 2 + 1).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("session.instructions"), "{error:?}");
    let hints = |n: usize| patched(audio(json!({"transcription": {"prompt": "x".repeat(n)}})));
    assert!(hints(1024).is_ok());
    let error = hints(1025).unwrap_err();
    assert!(
        error.param.as_deref().is_some_and(|p| p.starts_with("session.audio.input.transcription")),
        "{error:?}"
    );
}

#[test]
fn a_stock_clients_voice_is_ours() {
    let object = patched(json!({"type": "realtime", "audio": {"output": {"voice": "marin"}}})).unwrap();
    assert_eq!(object.audio.output.voice, "joe");
}
