//! The voices that come with Viva, spoken by the real engine through the exit chain.
#![allow(clippy::unwrap_used)]

use viva::presets::{VoicePreset, voices};
use viva_models::audio::{Resampler, SPEAK_RATE, loudness};
use viva_models::enhance::{LOUDNESS_TARGET, Voice};
use viva_models::fetch::models_dir;
use viva_models::registry::{PiperSpec, TtsSpec, open_tts};
use viva_models::{Cancel, Tts, TtsJob};

/// What an interviewer says: greetings, acknowledgements, questions short and long, a farewell. A voice is up to
/// 1 LU louder in one kind of sentence than in another, so a gain is measured over all kinds.
const LINES: [&str; 10] = [
    "Good morning, and welcome. I would like to hear about your last job and why you left.",
    "Thank you, that is clear. Let us turn to the next question.",
    "What did you learn from it, and what would you do differently today?",
    "I see. Could you give me an example of that?",
    "That sounds like a hard week. How large was the team, and which part of the work was yours?",
    "How would you build a service that shortens links, and where would it fail first?",
    "Describe a decision that you made with too little information, and what came of it.",
    "Tell me about a time you disagreed with a colleague. How did you settle it?",
    "Take your time.",
    "We are almost at the end. Do you have a question for me? It was a pleasure to talk with you.",
];

/// Loudness units a preset may be beside the target over all lines.
const TOLERANCE: f64 = 0.3;

/// Each round leaves about a third of what was missing: ten leave nothing that could be heard.
const ROUNDS: usize = 10;

fn speak(tts: &mut dyn Tts, voice: &VoicePreset, text: &str) -> Vec<f32> {
    let mut resampler = Resampler::new(tts.sample_rate(), SPEAK_RATE).unwrap();
    let mut out = Vec::new();
    let language = Some(voice.language.clone());
    let job = TtsJob { text: text.into(), style: voice.style.clone(), language };
    tts.speak(&job, &Cancel::new(), &mut |samples| resampler.process(samples, &mut out)).unwrap();
    resampler.flush(&mut out);
    out
}

/// The gain that would bring this to the target exactly. What the limiter takes is made good round by round.
fn exact_gain_db(raw: &[f32]) -> f64 {
    let mut gain_db = 0.0;
    for _ in 0..ROUNDS {
        let (mut voice, mut out) = (Voice::new(SPEAK_RATE, 10f64.powf(gain_db / 20.0) as f32), Vec::new());
        voice.process(raw, &mut out);
        voice.flush(&mut out);
        gain_db += LOUDNESS_TARGET - loudness(&out, SPEAK_RATE);
    }
    gain_db
}

#[test]
fn every_voice_speaks_at_the_target_loudness() {
    for preset in voices() {
        let weights = format!("tts/piper-{}/{}.onnx", preset.name, preset.weights);
        let (model, runtime) = (models_dir().join(&weights), models_dir().join("ort/libonnxruntime.so"));
        assert!(model.is_file() && runtime.is_file(), "{weights} is missing; run: viva models pull");
        let spec = PiperSpec { model, runtime, threads: 1, espeak_data: None };
        let mut tts = open_tts(&TtsSpec::Piper(spec)).unwrap().engine;
        let (mut voice, mut raw, mut all) = (Voice::new(SPEAK_RATE, preset.gain()), Vec::new(), Vec::new());
        for line in LINES {
            let speech = speak(&mut *tts, preset, line);
            let start = all.len();
            voice.process(&speech, &mut all);
            voice.flush(&mut all);
            raw.extend(speech);
            println!("{:6.2} LUFS: {line}", loudness(&all[start..], SPEAK_RATE));
        }
        let (measured, peak) = (loudness(&all, SPEAK_RATE), all.iter().fold(0.0f32, |a, s| a.max(s.abs())));
        let best = exact_gain_db(&raw);
        println!(
            "{}: {:.2} LUFS as it is; {measured:.2} LUFS at {:.2} dB, peak {peak:.3}, {:.1} s; {best:.2} dB would be exact",
            preset.name,
            loudness(&raw, SPEAK_RATE),
            preset.gain_db,
            all.len() as f32 / SPEAK_RATE as f32,
        );
        assert!((measured - LOUDNESS_TARGET).abs() <= TOLERANCE, "{}: set gain_db = {best:.1}", preset.name);
        assert!(peak <= 0.8913, "{}: {peak} is above -1 dBFS", preset.name);
    }
}
