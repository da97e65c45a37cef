//! The default voice through the exit chain, spoken by the real engine.
#![allow(clippy::unwrap_used)]

mod real;

use real::{runtime, weights};
use viva_models::audio::{Resampler, SPEAK_RATE, loudness};
use viva_models::enhance::Voice;
use viva_models::registry::{PiperSpec, TtsSpec, open_tts};
use viva_models::{Cancel, Style, Tts, TtsJob};

/// Speaks a line and brings it to the rate Viva speaks at.
fn speak(tts: &mut dyn Tts, text: &str) -> Vec<f32> {
    let mut resampler = Resampler::new(tts.sample_rate(), SPEAK_RATE).unwrap();
    let mut out = Vec::new();
    let job = TtsJob { text: text.into(), style: Style::default(), language: Some("en".into()) };
    tts.speak(&job, &Cancel::new(), &mut |samples| resampler.process(samples, &mut out)).unwrap();
    resampler.flush(&mut out);
    out
}

#[test]
fn joe_speaks_at_the_target_loudness_whatever_he_says() {
    let spec = PiperSpec {
        model: weights("tts/piper-joe/en_US-joe-medium.onnx"),
        runtime: runtime(),
        threads: 1,
        espeak_data: None,
    };
    let mut tts = open_tts(&TtsSpec::Piper(spec)).unwrap().engine;
    // Greeting, question, remark: a voice is up to 1 LU louder in one kind of sentence than in another.
    let known: Vec<f32> = [
        "Good morning, and welcome. I would like to hear about your last job and why you left.",
        "What did you learn from it, and what would you do differently today?",
        "I see. Could you give me an example of that?",
        "How large was the team, and which part of the work was yours?",
        "Let us talk about design: how would you build a service that shortens links, and where would it fail first?",
        "Describe a decision that you made with too little information, and what came of it.",
    ]
    .iter()
    .flat_map(|line| speak(&mut *tts, line))
    .collect();
    let gain = Voice::calibrate(SPEAK_RATE, &known);
    println!("joe is at {:.1} LUFS; his gain is {:.1} dB", loudness(&known, SPEAK_RATE), 20.0 * gain.log10());
    let (mut voice, mut all) = (Voice::new(SPEAK_RATE, gain), Vec::new());
    for line in [
        "Tell me about a time you disagreed with a colleague. How did you settle it?",
        "Thank you, that is clear. Let us turn to the next question.",
        "What is the difference between a process and a thread, and when would you use the one or the other?",
        "Take your time.",
    ] {
        let speech = speak(&mut *tts, line);
        let start = all.len();
        voice.process(&speech, &mut all);
        voice.flush(&mut all);
        println!("{:.2} LUFS: {line}", loudness(&all[start..], SPEAK_RATE));
    }
    let measured = loudness(&all, SPEAK_RATE);
    let peak = all.iter().fold(0.0f32, |a, s| a.max(s.abs()));
    println!("all of it: {measured:.2} LUFS, peak {peak:.3}");
    assert!((measured + 16.0).abs() <= 1.0 && peak <= 0.8913);
}
