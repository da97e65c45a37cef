//! Embedders: geometry, batches, long and odd texts.
#![allow(clippy::unwrap_used)]

mod real;

use real::{cpu_ms, runtime, weights};
use viva_models::Embedder;
use viva_models::embed::OnnxEmbedder;

fn open(folder: &str) -> OnnxEmbedder {
    let file = |name: &str| weights(&format!("embed/{folder}/{name}"));
    OnnxEmbedder::open(&file("model.onnx"), &file("tokenizer.json"), &runtime(), 1).unwrap()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Pairs that mean the same; across pairs they do not.
const PARAPHRASES: [[&str; 2]; 4] = [
    ["How do you handle conflict in a team?", "Tell me about a time you disagreed with a colleague."],
    ["Explain the difference between a process and a thread.", "What distinguishes threads from processes?"],
    ["Why do you want to work here?", "What attracts you to our company?"],
    ["The cat sat on the mat.", "A cat was sitting on a rug."],
];

fn check(folder: &str, dimensions: usize, tolerance: f32) {
    let mut embedder = open(folder);
    assert_eq!((embedder.dimensions(), embedder.name()), (dimensions, folder));
    let texts: Vec<String> = PARAPHRASES.iter().flatten().map(|t| t.to_string()).collect();
    let vectors = embedder.embed(&texts).unwrap();
    assert!(vectors.iter().all(|v| v.len() == dimensions && (dot(v, v) - 1.0).abs() < 1e-4));
    for (i, text) in texts.iter().enumerate() {
        let pair = dot(&vectors[i], &vectors[i ^ 1]);
        let other = (0..texts.len())
            .filter(|j| j / 2 != i / 2)
            .map(|j| dot(&vectors[i], &vectors[j]))
            .fold(-1.0, f32::max);
        println!("{folder}: {pair:.2} with its own, {other:.2} with the nearest other: {text}");
        assert!(pair > other, "{text}");
    }
    let mut worst = 0.0f32;
    for (text, vector) in texts.iter().zip(&vectors) {
        let alone = embedder.embed(std::slice::from_ref(text)).unwrap().remove(0);
        worst = alone.iter().zip(vector).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
    }
    println!("{folder}: alone and in a batch differ by at most {worst:.6}");
    assert!(worst < tolerance, "{worst}");

    let odd = ["".into(), "\u{0}\u{FFFD}🦀".into(), "word ".repeat(100_000), "ä".repeat(20_000)];
    let vectors = embedder.embed(&odd).unwrap();
    assert!(vectors.iter().all(|v| (dot(v, v) - 1.0).abs() < 1e-4));
    assert!(embedder.embed(&[]).unwrap().is_empty());

    let question =
        ["Tell me about a project you are proud of, and what you would do differently today.".to_owned()];
    let alone = cpu_ms(40, || drop(embedder.embed(&question).unwrap()));
    let many = vec![question[0].clone(); 16];
    let batch = cpu_ms(5, || drop(embedder.embed(&many).unwrap()));
    println!("{folder}: {alone:.1} CPU ms alone, {:.1} in a batch of 16", batch / 16.0);
}

#[test]
fn minilm_places_questions_by_meaning() {
    check("minilm-int8", 384, 1e-3);
}

#[test]
fn mpnet_places_questions_by_meaning() {
    check("mpnet", 768, 1e-3);
}

#[test]
fn long_texts_count_up_to_the_limit() {
    let mut embedder = open("minilm-int8");
    let start = "alpha beta gamma delta ".repeat(100);
    let vectors =
        embedder.embed(&[format!("{start} apples"), format!("{start} submarines and rockets")]).unwrap();
    assert!(dot(&vectors[0], &vectors[1]) > 0.9999);
}

#[test]
fn a_missing_tokenizer_is_named() {
    let error = OnnxEmbedder::open(
        &weights("embed/minilm-int8/model.onnx"),
        "no/tokenizer.json".as_ref(),
        &runtime(),
        1,
    )
    .err()
    .unwrap();
    assert!(error.to_string().contains("no/tokenizer.json"), "{error}");
}
