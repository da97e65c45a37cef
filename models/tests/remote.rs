//! The remote engines against a server of the test's own, well-behaved and not.
#![allow(clippy::unwrap_used)]

mod openai_server;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use openai_server::*;
use viva_models::asr::openai::OpenAiAsr;
use viva_models::llm::openai::OpenAiLlm;
use viva_models::remote::Remote;
use viva_models::tts::openai::OpenAiTts;
use viva_models::*;

fn prompt(text: &str) -> Prompt {
    let message = |role, content: &str| Message { role, content: content.into() };
    Prompt {
        messages: vec![message(Role::System, "Be brief."), message(Role::User, text)],
        unfinished: false,
    }
}

/// Steps until the sequence is over; returns the text and the last event.
fn run(llm: &mut OpenAiLlm, seq: SeqId) -> (String, StepEvent) {
    let (mut text, started) = (String::new(), Instant::now());
    loop {
        assert!(started.elapsed() < Duration::from_secs(20), "the stream never ended");
        for event in llm.step(&StepPlan { prefill: vec![], decode: vec![seq] }).unwrap() {
            match event {
                StepEvent::Token { piece, .. } => text += &piece,
                other => return (text, other),
            }
        }
    }
}

fn llm_error(answer: impl Fn(&mut TcpStream) + Send + Sync + 'static, timeout_ms: u64) -> EngineError {
    let server = Server::start(answer);
    let mut llm = OpenAiLlm::new(server.remote(timeout_ms));
    llm.begin(SeqId(0), &prompt("Hi"), &Sampling::default()).unwrap();
    match run(&mut llm, SeqId(0)).1 {
        StepEvent::Failed { error, .. } => {
            assert!(!error.to_string().contains(KEY), "the key is in the error: {error}");
            error
        }
        other => panic!("no error but {other:?}"),
    }
}

fn asr_job() -> AsrJob {
    AsrJob {
        samples: vec![0.25; 1_600],
        language: Some("en".into()),
        prompt: Some("Viva".into()),
        words: true,
    }
}

fn asr_error(answer: impl Fn(&mut TcpStream) + Send + Sync + 'static, timeout_ms: u64) -> EngineError {
    let server = Server::start(answer);
    let error = OpenAiAsr::new(server.remote(timeout_ms)).transcribe(&asr_job(), &Cancel::new()).unwrap_err();
    assert!(!error.to_string().contains(KEY), "the key is in the error: {error}");
    error
}

#[test]
fn tokens_arrive_as_they_are_made() {
    let server = Server::start(|stream| {
        begin_stream(stream, "text/event-stream");
        chunk(stream, b": a comment\n\ndata: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n");
        for text in ["Hel", "lo \"", "wörld\n"] {
            let event = token(text);
            // Cut in the middle of an event, and of a character.
            let (a, b) = event.as_bytes().split_at(event.len() - 40);
            chunk(stream, a);
            std::thread::sleep(Duration::from_millis(40));
            chunk(stream, b);
        }
        chunk(stream, b"data: {\"choices\":[],\"usage\":{\"completion_tokens\":3}}\n\n");
        chunk(stream, FINISH.as_bytes());
    });
    let mut llm = OpenAiLlm::new(server.remote(2_000));
    let sampling = Sampling { stop: vec!["\n\n".into()], temperature: 0.5, ..Sampling::default() };
    let begun = llm.begin(SeqId(3), &prompt("Hi"), &sampling).unwrap();
    assert_eq!(begun.prompt_tokens, begun.reused_tokens);
    let plan = StepPlan { prefill: vec![(SeqId(3), 64)], decode: vec![] };
    assert_eq!(llm.step(&plan).unwrap(), [StepEvent::Prefilled { seq: SeqId(3), left: 0 }]);
    let started = Instant::now();
    llm.step(&StepPlan { prefill: vec![], decode: vec![SeqId(3)] }).unwrap();
    assert!(started.elapsed() < Duration::from_millis(120), "a step waits for a token at most 20 ms");
    let (text, last) = run(&mut llm, SeqId(3));
    assert!(text == "Hello \"wörld\n" || text == "lo \"wörld\n", "{text}");
    assert_eq!(
        last,
        StepEvent::Done { seq: SeqId(3), piece: String::new(), reason: StopReason::Stop, tokens: 3 }
    );
    let request = server.request();
    assert!(request.starts_with("POST /v1/chat/completions"));
    assert!(request.to_lowercase().contains(&format!("authorization: bearer {KEY}")));
    for part in [
        "\"role\":\"system\"",
        "\"stream\":true",
        "\"stop\":[\"\\n\\n\"]",
        "\"max_tokens\":128",
        "test-model",
    ] {
        assert!(request.contains(part), "{part} in {request}");
    }
    assert!(!request.contains("grammar") && !request.contains("min_p"));
}

#[test]
fn sequences_run_side_by_side_and_stop_when_told() {
    let server = Server::start(|stream| {
        begin_stream(stream, "text/event-stream");
        for i in 0..2_000 {
            std::thread::sleep(Duration::from_millis(2));
            if !chunk(stream, token(&format!("{i} ")).as_bytes()) {
                return;
            }
        }
    });
    let mut llm = OpenAiLlm::new(server.remote(2_000));
    for seq in 0..4 {
        llm.begin(SeqId(seq), &prompt("count"), &Sampling::default()).unwrap();
    }
    let all: Vec<SeqId> = (0..4).map(SeqId).collect();
    let mut counts = [0; 4];
    while counts.iter().any(|n| *n < 10) {
        for event in llm.step(&StepPlan { prefill: vec![], decode: all.clone() }).unwrap() {
            let StepEvent::Token { seq, .. } = event else { panic!("{event:?}") };
            counts[seq.0 as usize] += 1;
        }
    }
    llm.stop(SeqId(0)).unwrap();
    llm.close(SeqId(1)).unwrap();
    // A new prompt replaces the old answer.
    llm.begin(SeqId(2), &prompt("again"), &Sampling::default()).unwrap();
    loop {
        let events = llm.step(&StepPlan { prefill: vec![], decode: vec![SeqId(2)] }).unwrap();
        if let Some(StepEvent::Token { piece, .. }) = events.first() {
            assert_eq!(piece, "0 ");
            break;
        }
    }
    let unfinished = Prompt { unfinished: true, ..prompt("so far") };
    llm.begin(SeqId(3), &unfinished, &Sampling::default()).unwrap();
    assert_eq!(server.requests.lock().unwrap().len(), 5, "an unfinished prompt is not sent");
    let far = llm.begin(SeqId(9_999), &prompt(""), &Sampling::default()).unwrap_err();
    assert!(matches!(far, EngineError::Invalid(_)));
}

#[test]
fn a_stream_that_is_cut_is_the_endpoints_fault() {
    let error = llm_error(
        |stream| {
            begin_stream(stream, "text/event-stream");
            chunk(stream, token("Once upon").as_bytes());
        },
        2_000,
    );
    assert!(matches!(error, EngineError::Unavailable(_)), "{error}");
    // Properly ended by HTTP, but without the protocol's end.
    let error =
        llm_error(|stream| respond(stream, "200 OK", "text/event-stream", token("Once").as_bytes()), 2_000);
    assert!(matches!(&error, EngineError::Unavailable(why) if why.contains("broke off")), "{error}");
}

#[test]
fn statuses_say_who_should_act() {
    let body =
        |text: &str| format!("{{\"error\":{{\"message\":\"{text} {KEY}\",\"type\":\"x\"}}}}").into_bytes();
    for (status, kind) in [
        ("500 Internal Server Error", "unavailable"),
        ("503 Service Unavailable", "unavailable"),
        ("429 Too Many Requests", "unavailable"),
        ("400 Bad Request", "invalid"),
        ("404 Not Found", "invalid"),
        ("401 Unauthorized", "failed"),
    ] {
        for error in [
            llm_error(move |stream| respond(stream, status, "application/json", &body("no luck")), 2_000),
            asr_error(move |stream| respond(stream, status, "application/json", &body("no luck")), 2_000),
        ] {
            let got = match &error {
                EngineError::Unavailable(_) => "unavailable",
                EngineError::Invalid(_) => "invalid",
                _ => "failed",
            };
            assert_eq!(got, kind, "{status}: {error}");
            assert!(error.to_string().contains("no luck"), "{error}");
        }
    }
    let remote =
        Remote { base_url: "http://x".into(), api_key: Some(KEY.into()), model: "m".into(), timeout_ms: 1 };
    assert!(!format!("{remote:?}").contains(KEY));
}

#[test]
fn slow_and_silent_servers_end_in_time() {
    let hang = |stream: &mut TcpStream| {
        std::thread::sleep(Duration::from_secs(5));
        drop(stream.shutdown(std::net::Shutdown::Both));
    };
    let started = Instant::now();
    assert!(matches!(llm_error(hang, 200), EngineError::Unavailable(_)));
    assert!(matches!(asr_error(hang, 200), EngineError::Unavailable(_)));
    // Headers at once, then nothing.
    let stall = |stream: &mut TcpStream| {
        begin_stream(stream, "text/event-stream");
        chunk(stream, token("One").as_bytes());
        std::thread::sleep(Duration::from_secs(5));
    };
    assert!(matches!(llm_error(stall, 200), EngineError::Unavailable(_)));
    // A byte now and then keeps the wait alive, but not for ever: ten times as long.
    let drip = |stream: &mut TcpStream| {
        begin_stream(stream, "text/event-stream");
        while chunk(stream, b":") {
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    assert!(matches!(llm_error(drip, 100), EngineError::Unavailable(_)));
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    // Nobody listens.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let remote = Remote {
        base_url: format!("http://127.0.0.1:{port}/v1"),
        api_key: None,
        model: "m".into(),
        timeout_ms: 300,
    };
    let error = OpenAiAsr::new(remote.clone()).transcribe(&asr_job(), &Cancel::new()).unwrap_err();
    assert!(matches!(error, EngineError::Unavailable(_)), "{error}");
    let nonsense = Remote { base_url: "not a url".into(), ..remote };
    let error = OpenAiAsr::new(nonsense).transcribe(&asr_job(), &Cancel::new()).unwrap_err();
    assert!(matches!(error, EngineError::Invalid(_)), "{error}");
}

#[test]
fn garbage_is_an_error_and_no_panic() {
    for garbage in [
        "data: {\"choices\":[{\"delta\":\n\n",
        "data: 7\n\n",
        "data: \u{0}\n\n",
        "{\"error\":\"not streaming\"}\n",
        "data: {\"error\":{\"message\":\"out of memory\"}}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":5}}]}\n\n",
    ] {
        let error = llm_error(move |s| respond(s, "200 OK", "text/event-stream", garbage.as_bytes()), 2_000);
        assert!(matches!(error, EngineError::Failed(_)), "{garbage}: {error}");
    }
    let endless = |stream: &mut TcpStream| {
        begin_stream(stream, "text/event-stream");
        while chunk(stream, &[b'x'; 8_192]) {}
    };
    assert!(matches!(llm_error(endless, 2_000), EngineError::Failed(_)));
    for garbage in ["", "[]", "{}", "<html>", "{\"text\":5}", "{\"error\":{\"message\":\"busy\"}}"] {
        let error = asr_error(move |s| respond(s, "200 OK", "application/json", garbage.as_bytes()), 2_000);
        assert!(matches!(error, EngineError::Failed(_)), "{garbage}: {error}");
    }
    let error = asr_error(|s| drop(s.write_all(b"\x00\x01garbage\r\n\r\n")), 2_000);
    assert!(matches!(error, EngineError::Unavailable(_)), "{error}");
}

#[test]
fn a_transcription_comes_with_words() {
    let server = Server::start(|stream| {
        let body = serde_json::json!({
            "task": "transcribe", "language": "english", "duration": 1.2, "text": " Hello, world. ",
            "segments": [{"id": 0, "start": 0.0, "end": 1.2, "avg_logprob": -0.105_360_5}],
            "words": [{"word": " Hello", "start": 0.1, "end": 0.5}, {"word": "world", "start": 0.6, "end": 1.1}],
        });
        respond(stream, "200 OK", "application/json", body.to_string().as_bytes());
    });
    let mut asr = OpenAiAsr::new(server.remote(2_000));
    let heard = asr.transcribe(&asr_job(), &Cancel::new()).unwrap();
    assert_eq!((heard.text.as_str(), heard.language.as_str()), ("Hello, world.", "en"));
    assert!((heard.confidence - 0.9).abs() < 1e-3);
    assert_eq!(
        (heard.words[1].text.as_str(), heard.words[1].start_ms, heard.words[1].end_ms),
        ("world", 600, 1_100)
    );
    let request = server.request();
    for part in [
        "name=\"model\"\r\n\r\ntest-model",
        "verbose_json",
        "name=\"language\"\r\n\r\nen",
        "filename=\"speech.wav\"",
        "RIFF",
    ] {
        assert!(request.contains(part), "{part}");
    }
    // The upload is a WAV our own decoder reads: 0.1 s at 16 kHz.
    let bytes = server.requests.lock().unwrap()[0].clone();
    let start = bytes.windows(4).position(|w| w == b"RIFF").unwrap();
    let wav = viva_models::audio::decode(&bytes[start..], Some("wav"), 5).unwrap();
    assert_eq!((wav.rate, wav.samples[1_000]), (16_000, 0.25));

    let silent = asr.transcribe(&AsrJob::default(), &Cancel::new()).unwrap();
    assert_eq!((silent.text.as_str(), server.requests.lock().unwrap().len()), ("", 1), "nothing is not sent");
    let long = AsrJob { samples: vec![0.0; 16_000 * 31], ..AsrJob::default() };
    assert!(matches!(asr.transcribe(&long, &Cancel::new()), Err(EngineError::Invalid(_))));
}

#[test]
fn cancelling_does_not_wait_for_the_server() {
    let server = Server::start(|_| std::thread::sleep(Duration::from_secs(5)));
    let cancel = Cancel::new();
    let raise = cancel.clone();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        raise.cancel();
    });
    let started = Instant::now();
    let error = OpenAiAsr::new(server.remote(3_000)).transcribe(&asr_job(), &cancel).unwrap_err();
    assert_eq!(error, EngineError::Cancelled);
    assert!(started.elapsed() < Duration::from_millis(600));
}

#[test]
fn speech_is_heard_while_it_is_made() {
    let server = Server::start(|stream| {
        begin_stream(stream, "audio/pcm");
        let pcm: Vec<u8> = (0..9_600i16).flat_map(i16::to_le_bytes).collect();
        // Pieces of odd length, the first of one byte.
        chunk(stream, &pcm[..1]);
        for piece in pcm[1..].chunks(4_801) {
            chunk(stream, piece);
            std::thread::sleep(Duration::from_millis(30));
        }
        chunk(stream, b"");
    });
    let mut tts = OpenAiTts::new(server.remote(2_000)).with_voices(vec!["vera".into(), "max".into()]);
    assert_eq!((tts.sample_rate(), tts.styles().voices.len()), (24_000, 2));
    let (mut samples, mut first) = (Vec::new(), None);
    let started = Instant::now();
    let job =
        TtsJob { text: "Hello.".into(), style: Style { pace: 1.25, ..Style::default() }, language: None };
    tts.speak(&job, &Cancel::new(), &mut |part| {
        first.get_or_insert_with(|| started.elapsed());
        samples.extend_from_slice(part);
    })
    .unwrap();
    assert_eq!(samples.len(), 9_600);
    assert!(samples.iter().enumerate().all(|(i, s)| (s * 32_768.0) as usize == i));
    assert!(first.unwrap() * 2 < started.elapsed(), "the first samples came before the last were made");
    let request = server.request();
    for part in [
        "POST /v1/audio/speech",
        "\"response_format\":\"pcm\"",
        "\"voice\":\"vera\"",
        "\"speed\":1.25",
        "\"input\":\"Hello.\"",
    ] {
        assert!(request.contains(part), "{part} in {request}");
    }
    let long = TtsJob { text: "a".repeat(TTS_TEXT_MAX + 1), ..TtsJob::default() };
    assert!(matches!(tts.speak(&long, &Cancel::new(), &mut |_| {}), Err(EngineError::Invalid(_))));
}

#[test]
fn what_is_no_pcm_is_not_played() {
    for body in
        [&b"RIFF\x00\x00\x00\x00WAVE"[..], b"{\"error\":{\"message\":\"no such voice\"}}", b"", b"\x01"]
    {
        let server = Server::start(move |stream| respond(stream, "200 OK", "audio/pcm", body));
        let mut heard = 0;
        let job = TtsJob { text: "Hello.".into(), ..TtsJob::default() };
        let result =
            OpenAiTts::new(server.remote(2_000)).speak(&job, &Cancel::new(), &mut |part| heard += part.len());
        assert!(matches!(result, Err(EngineError::Failed(_))), "{result:?}");
        assert_eq!(heard, 0);
    }
}

#[test]
fn an_endpoint_that_hangs_cannot_pile_up_threads() {
    let server = Server::start(|_| std::thread::sleep(Duration::from_secs(5)));
    let mut llm = OpenAiLlm::new(server.remote(3_000));
    let mut refused = None;
    for round in 0..200 {
        if let Err(error) = llm.begin(SeqId(round % 8), &prompt("Hi"), &Sampling::default()) {
            refused = Some((round, error));
            break;
        }
    }
    let (round, error) = refused.unwrap();
    assert!(round == 64 && matches!(error, EngineError::Unavailable(_)), "{round}: {error}");
}
