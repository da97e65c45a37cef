//! Every registered engine, with real weights, must keep its contract.
#![allow(clippy::unwrap_used)]

mod engines;
mod openai_server;
#[path = "conformance/served.rs"]
mod served;

use engines::*;
use viva_models::audio::Resampler;
use viva_models::enhance::{RnNoise, RnNoise16};
use viva_models::registry::*;
use viva_models::*;

/// Nothing, for so many seconds.
fn silence(seconds: usize) -> Vec<f32> {
    vec![0.0; seconds * 16_000]
}

fn check_asr(opened: Opened<dyn Asr>, errors_max: f64) {
    let Opened { mut engine, pid } = opened;
    let name = engine.name().to_owned();
    assert!(!name.is_empty());
    let cancel = Cancel::new();
    let (mut errors, mut words) = (0, 0);
    for (samples, said) in readings() {
        let seconds = samples.len() as f64 / 16_000.0;
        let length_ms = (samples.len() / 16) as u32;
        let job = AsrJob { samples, language: Some("en".into()), words: true, ..AsrJob::default() };
        let found =
            timed(&format!("{name}, {seconds:.1} s"), pid, || engine.transcribe(&job, &cancel)).unwrap();
        println!("  said:  {said}\n  heard: {}", found.text);
        assert_eq!(found.language, "en");
        assert!(found.confidence > 0.3 && found.confidence <= 1.0, "{}", found.confidence);
        let joined = found.words.iter().map(|w| w.text.as_str()).collect::<Vec<_>>().join(" ");
        assert_eq!(joined, found.text);
        for pair in found.words.windows(2) {
            assert!(pair[0].start_ms <= pair[1].start_ms, "{pair:?}");
        }
        for word in &found.words {
            assert!(word.start_ms <= word.end_ms && word.end_ms <= length_ms.max(1_000), "{word:?}");
            assert!((0.0..=1.0).contains(&word.confidence), "{word:?}");
        }
        errors += word_errors(said, &found.text);
        words += plain(said).len();

        let job = AsrJob { words: false, ..job };
        let plain_text = engine.transcribe(&job, &cancel).unwrap();
        assert!(plain_text.words.is_empty());
    }
    println!("{name}: {errors} word errors in {words}");
    assert!(errors as f64 <= errors_max * words as f64, "{errors} errors in {words} words");

    for samples in [Vec::new(), vec![0.1; 1_000], silence(3)] {
        let n = samples.len();
        let found = engine.transcribe(&AsrJob { samples, ..AsrJob::default() }, &cancel).unwrap();
        assert_eq!(found.text, "", "{n} samples");
    }
    let nonsense = vec![f32::NAN; 20_000];
    engine.transcribe(&AsrJob { samples: nonsense, ..AsrJob::default() }, &cancel).unwrap();
    let long = AsrJob { samples: silence(31), ..AsrJob::default() };
    assert!(matches!(engine.transcribe(&long, &cancel), Err(EngineError::Invalid(_))));
    cancel.cancel();
    let job = AsrJob { samples: silence(3), ..AsrJob::default() };
    assert_eq!(engine.transcribe(&job, &cancel), Err(EngineError::Cancelled));
}

fn speak(engine: &mut dyn Tts, text: &str, style: Style) -> Result<Vec<f32>> {
    let mut samples = Vec::new();
    let job = TtsJob { text: text.into(), style, language: Some("en".into()) };
    engine.speak(&job, &Cancel::new(), &mut |chunk| samples.extend_from_slice(chunk))?;
    Ok(samples)
}

fn check_tts(opened: Opened<dyn Tts>) {
    let Opened { mut engine, pid } = opened;
    let name = engine.name().to_owned();
    let rate = engine.sample_rate() as f64;
    assert!((8_000.0..=48_000.0).contains(&rate));
    let styles = engine.styles();
    assert!(!styles.voices.is_empty());
    let text = "Thank you, that helps. What did you learn from it?";
    let spoken =
        timed(&format!("{name}, {text:?}"), pid, || speak(&mut *engine, text, Style::default())).unwrap();
    let seconds = spoken.len() as f64 / rate;
    println!("  {seconds:.2} s of speech");
    assert!((1.5..8.0).contains(&seconds), "{seconds} s");
    assert!(spoken.iter().all(|s| s.is_finite() && s.abs() <= 1.5));
    let lead = spoken.iter().position(|s| s.abs() > 0.01).unwrap() as f64 / rate;
    assert!(lead < 0.06, "{lead} s of silence first");

    if styles.pace {
        let quick = speak(&mut *engine, text, Style { pace: 1.5, ..Style::default() }).unwrap();
        let ratio = spoken.len() as f64 / quick.len() as f64;
        assert!((1.2..1.9).contains(&ratio), "1.5 times the pace was {ratio:.2} times");
    }
    let named = Style { voice: styles.voices[0].clone(), ..Style::default() };
    assert!(!speak(&mut *engine, "Yes.", named).unwrap().is_empty());
    for nothing in ["", "  ", "...", "?!", "\n\n"] {
        assert_eq!(speak(&mut *engine, nothing, Style::default()).unwrap(), Vec::<f32>::new(), "{nothing:?}");
    }
    let odd = "Zoë's 3.5% — “naïve” \u{1F642} 10:30\u{0}\u{7} e.g. C++; ok";
    assert!(!speak(&mut *engine, odd, Style::default()).unwrap().is_empty());
    let long = "x".repeat(TTS_TEXT_MAX + 1);
    assert!(matches!(speak(&mut *engine, &long, Style::default()), Err(EngineError::Invalid(_))));
    let stranger = Style { voice: "nobody".into(), ..Style::default() };
    assert!(matches!(speak(&mut *engine, "Hi.", stranger), Err(EngineError::Invalid(_))));
}

fn check_vad(opened: Opened<dyn Vad>) {
    let mut engine = opened.engine;
    let (speech, _) = readings().swap_remove(0);
    let mut probabilities = Vec::new();
    let mut states = [VadState::default(), VadState::default()];
    let (mut voiced, mut windows) = (0, 0);
    for window in speech.chunks_exact(VAD_WINDOW) {
        let loud: [f32; VAD_WINDOW] = window.try_into().unwrap();
        let mut batch = [loud, [0.0; VAD_WINDOW]]
            .map(Box::new)
            .into_iter()
            .zip(states.clone())
            .map(|(window, state)| VadJob { state, window })
            .collect::<Vec<_>>();
        engine.detect(&mut batch, &mut probabilities).unwrap();
        assert_eq!(probabilities.len(), 2);
        assert!(probabilities[1] < 0.3, "silence beside speech is {}", probabilities[1]);
        voiced += usize::from(probabilities[0] > 0.5);
        windows += 1;
        states = [batch[0].state.clone(), batch[1].state.clone()];
    }
    println!("{}: {voiced} of {windows} windows of a reading are speech", engine.name());
    assert!(voiced * 10 > windows * 6);
    engine.detect(&mut [], &mut probabilities).unwrap();
    assert!(probabilities.is_empty());
}

fn check_turn(opened: Opened<dyn TurnDetector>) {
    let mut engine = opened.engine;
    let name = engine.name().to_owned();
    let turns: Vec<std::sync::Arc<[f32]>> = readings().into_iter().map(|(s, _)| s.into()).collect();
    let scores = timed(&format!("{name}, {} turns", turns.len()), None, || engine.score(&turns)).unwrap();
    println!("  {scores:?}");
    assert_eq!(scores.len(), turns.len());
    assert!(scores.iter().all(|s| (0.0..=1.0).contains(s)));
    assert!(engine.score(&[]).unwrap().is_empty());
}

fn check_embedder(opened: Opened<dyn Embedder>) {
    let mut engine = opened.engine;
    let texts = ["I led a team of five.", "I managed five people.", "The cat sat on the mat.", ""];
    let texts: Vec<String> = texts.iter().map(|t| (*t).to_owned()).collect();
    let name = engine.name().to_owned();
    let vectors = timed(&format!("{name}, {} texts", texts.len()), None, || engine.embed(&texts)).unwrap();
    assert_eq!(vectors.len(), texts.len());
    for vector in &vectors {
        assert_eq!(vector.len(), engine.dimensions());
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!((length - 1.0).abs() < 1e-3, "{length}");
    }
    let dot = |a: usize, b: usize| vectors[a].iter().zip(&vectors[b]).map(|(x, y)| x * y).sum::<f32>();
    assert!(dot(0, 1) > dot(0, 2) + 0.2, "{} against {}", dot(0, 1), dot(0, 2));
}

/// What one sequence did in one step: its text, and its end where it came to one.
fn of_seq(events: &[StepEvent], seq: SeqId) -> (String, Option<StopReason>) {
    let (mut text, mut end) = (String::new(), None);
    for event in events {
        match event {
            StepEvent::Token { seq: s, piece } if *s == seq => text += piece,
            StepEvent::Done { seq: s, piece, reason, tokens } if *s == seq => {
                assert!(*tokens > 0);
                text += piece;
                end = Some(*reason);
            }
            StepEvent::Failed { seq: s, error } if *s == seq => panic!("{error}"),
            _ => {}
        }
    }
    (text, end)
}

/// Reads the prompt and writes the whole answer.
fn write(llm: &mut dyn Llm, seq: SeqId, prompt: &Prompt, sampling: &Sampling) -> (String, StopReason) {
    let begun = llm.begin(seq, prompt, sampling).unwrap();
    assert!(begun.reused_tokens <= begun.prompt_tokens);
    let mut left = begun.prompt_tokens - begun.reused_tokens;
    while left > 0 {
        let before = left;
        let plan = StepPlan { prefill: vec![(seq, 32)], decode: vec![] };
        for event in llm.step(&plan).unwrap() {
            if let StepEvent::Prefilled { left: still, .. } = event {
                left = still;
            }
        }
        assert!(left < before, "a prompt goes on at every step");
    }
    let mut text = String::new();
    for _ in 0..2_000 {
        let plan = StepPlan { prefill: vec![], decode: vec![seq] };
        let (piece, end) = of_seq(&llm.step(&plan).unwrap(), seq);
        text += &piece;
        if let Some(reason) = end {
            return (text, reason);
        }
    }
    panic!("it never ends: {text}");
}

fn asked(question: &str) -> Prompt {
    let message = |role, content: &str| Message { role, content: content.into() };
    Prompt {
        messages: vec![message(Role::System, "You are brief."), message(Role::User, question)],
        unfinished: false,
    }
}

fn check_llm(opened: Opened<dyn Llm>) {
    let Opened { mut engine, pid } = opened;
    let info = engine.info();
    assert!(!info.model.is_empty() && info.context >= 512 && info.sequences >= 2, "{info:?}");
    let greedy = Sampling { max_tokens: 24, ..Sampling::default() };
    let name = info.model.clone();
    let colour = asked("What colour is the sky on a clear day? One word.");
    let (first, reason) =
        timed(&format!("{name}, an answer"), pid, || write(&mut *engine, SeqId(0), &colour, &greedy));
    println!("  {first:?}, {reason:?}");
    assert!(!first.trim().is_empty());
    let (again, _) = write(&mut *engine, SeqId(1), &colour, &greedy);
    assert_eq!(first, again, "greedy is the same in every sequence");
    let short = Sampling { max_tokens: 3, ..Sampling::default() };
    let (_, reason) = write(&mut *engine, SeqId(0), &asked("Count from one to fifty."), &short);
    assert_eq!(reason, StopReason::Length);
    let stop = Sampling { max_tokens: 60, stop: vec!["3".into(), "three".into()], ..Sampling::default() };
    let count = asked("Count: 1, 2, 3, 4, 5. Now you, from 1 to 9, in digits.");
    let (text, _) = write(&mut *engine, SeqId(0), &count, &stop);
    assert!(!text.contains('3') && !text.contains("three"), "a stop text is no part of the answer: {text:?}");
    // Two at once are each their own.
    let pair = [(SeqId(0), colour.clone()), (SeqId(1), asked("Name one animal."))];
    let mut left = pair.clone().map(|(seq, prompt)| {
        let begun = engine.begin(seq, &prompt, &greedy).unwrap();
        (seq, begun.prompt_tokens - begun.reused_tokens)
    });
    let (mut texts, mut ended) = ([String::new(), String::new()], [false; 2]);
    for _ in 0..500 {
        let mut plan = StepPlan::default();
        for (i, (seq, left)) in left.iter().enumerate().filter(|(i, _)| !ended[*i]) {
            let _ = i;
            if *left > 0 { plan.prefill.push((*seq, 16)) } else { plan.decode.push(*seq) }
        }
        if plan == StepPlan::default() {
            break;
        }
        let events = engine.step(&plan).unwrap();
        for event in &events {
            if let StepEvent::Prefilled { seq, left: still } = event {
                left[seq.0 as usize].1 = *still;
            }
        }
        for (i, (seq, _)) in pair.iter().enumerate() {
            let (piece, end) = of_seq(&events, *seq);
            texts[i] += &piece;
            ended[i] |= end.is_some();
        }
    }
    assert_eq!(ended, [true; 2]);
    assert_eq!(texts[0], first, "a neighbour changes nothing");
    assert_ne!(texts[0], texts[1]);
    assert!(engine.step(&StepPlan::default()).unwrap().is_empty());
    engine.begin(SeqId(0), &colour, &greedy).unwrap();
    engine.stop(SeqId(0)).unwrap();
    engine.close(SeqId(0)).unwrap();
    engine.close(SeqId(1)).unwrap();
    let (fresh, _) = write(&mut *engine, SeqId(0), &colour, &greedy);
    assert_eq!(fresh, first, "a freed place is as new");
}

fn check_denoiser(denoiser: &mut dyn Denoiser) {
    let rate = denoiser.sample_rate();
    let frame = denoiser.frame();
    assert!((8_000..=48_000).contains(&rate));
    assert!((5..=40).contains(&(frame * 1000 / rate as usize)), "a frame of {frame} at {rate} Hz");
    let power = |x: &[f32]| x.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>() / x.len() as f64;
    let (mut seed, mut before, mut after) = (7u32, 0.0, 0.0);
    for n in 0..300 {
        let mut part: Vec<f32> = (0..frame)
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                0.02 * ((seed >> 8) as f32 / 8_388_608.0 - 1.0)
            })
            .collect();
        let loud = power(&part);
        denoiser.process(&mut part);
        assert!(part.iter().all(|s| s.is_finite()));
        // It needs a moment to know what the noise is.
        if n >= 150 {
            (before, after) = (before + loud, after + power(&part));
        }
    }
    let db = 10.0 * (before / after.max(1e-12)).log10();
    println!("steady noise goes down by {db:.1} dB");
    assert!(db > 2.0, "{db} dB");
    for level in [0.0, 1.0, -1.0, 4.0, f32::MIN_POSITIVE] {
        let mut part = vec![level; frame];
        denoiser.process(&mut part);
        assert!(part.iter().all(|s| s.is_finite()), "at {level}");
    }
}

#[test]
fn rnnoise_keeps_the_contract() {
    check_denoiser(&mut RnNoise::new());
    check_denoiser(&mut RnNoise16::new());
}

#[test]
fn smollm_keeps_the_contract() {
    check_llm(open_llm(&smollm(2)).unwrap());
}

#[test]
fn qwen_keeps_the_contract() {
    let spec = LlmSpec::Llama(llama("llm/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf", 2));
    check_llm(open_llm(&spec).unwrap());
}

#[test]
fn mpnet_keeps_the_contract() {
    check_embedder(open_embed(&embedder("mpnet")).unwrap());
}

#[test]
fn whisper_base_keeps_the_contract() {
    check_asr(open_asr(&whisper("asr/ggml-base-q8_0.bin", 2)).unwrap(), 0.12);
}

#[test]
fn remote_engines_keep_the_contracts_of_those_they_stand_in_for() {
    let server = served::engines();
    let remote = |timeout_ms| RemoteSpec {
        base_url: server.base_url.clone(),
        api_key_env: None,
        model: "served".into(),
        timeout_ms,
    };
    check_asr(open_asr(&AsrSpec::Openai(remote(30_000))).unwrap(), 0.12);
    check_tts(open_tts(&TtsSpec::Openai(remote(30_000))).unwrap());
    check_llm(open_llm(&LlmSpec::Openai(remote(30_000))).unwrap());
}

#[test]
fn whisper_tiny_keeps_the_contract() {
    check_asr(open_asr(&whisper("asr/ggml-tiny.en-q8_0.bin", 1)).unwrap(), 0.12);
}

#[test]
fn piper_keeps_the_contract() {
    check_tts(open_tts(&joe(1)).unwrap());
}

#[test]
fn silero_keeps_the_contract() {
    check_vad(open_vad(&silero()).unwrap());
}

#[test]
fn smart_turn_keeps_the_contract() {
    check_turn(open_turn(&smart_turn()).unwrap());
}

#[test]
fn minilm_keeps_the_contract() {
    check_embedder(open_embed(&embedder("minilm-int8")).unwrap());
}

#[test]
fn what_piper_says_whisper_hears() {
    let mut tts = open_tts(&joe(1)).unwrap().engine;
    let mut asr = open_asr(&whisper("asr/ggml-tiny.en-q8_0.bin", 1)).unwrap().engine;
    let (mut errors, mut words) = (0, 0);
    for said in [
        "Thank you, that helps. What did you learn from it?",
        "Please tell me about a project that made you proud; take your time.",
        "How did you find the reason — and what would you do differently today?",
        "Describe a decision that was hard for your team, and how it was made.",
        "Which part of this work would you like to learn more about?",
    ] {
        let spoken = speak(&mut *tts, said, Style::default()).unwrap();
        let mut resampler = Resampler::new(tts.sample_rate(), 16_000).unwrap();
        let mut samples = Vec::new();
        resampler.process(&spoken, &mut samples);
        resampler.flush(&mut samples);
        let heard = asr.transcribe(&AsrJob { samples, ..AsrJob::default() }, &Cancel::new()).unwrap();
        println!("{:.2}: {}", heard.confidence, heard.text);
        errors += word_errors(said, &heard.text);
        words += plain(said).len();
    }
    // The voice draws new noise each time, so a word may be missed now and then; a broken phoneme, rate or
    // clause costs far more than this.
    assert!(errors * 10 <= words, "{errors} errors in {words} words");
}

#[test]
fn missing_weights_say_what_to_run() {
    let AsrSpec::Whisper(spec) = whisper("asr/ggml-tiny.en-q8_0.bin", 1) else { unreachable!() };
    let gone = AsrSpec::Whisper(WhisperSpec { model: "no/such.bin".into(), ..spec.clone() });
    let error = open_asr(&gone).err().unwrap().to_string();
    assert!(error.contains("no/such.bin") && error.contains("viva models pull"), "{error}");
}

#[test]
fn corrupt_weights_are_refused_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("bad.bin");
    std::fs::write(&bad, vec![7u8; 4096]).unwrap();
    let asr = AsrSpec::Whisper(WhisperSpec { model: bad.clone(), threads: 1, language: None, gpu: false });
    let llm = LlmSpec::Llama(LlamaSpec { model: bad, ..llama("llm/SmolLM2-135M-Instruct.Q4_1.gguf", 1) });
    for error in [open_asr(&asr).err().unwrap(), open_llm(&llm).err().unwrap()] {
        println!("{error}");
        assert!(error.to_string().contains("bad.bin"), "{error}");
    }
}
