//! CTranslate2 to ggml: the bytes of a known file, and no panic on a damaged one.

use std::io::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use viva_models::audio::{LISTEN_RATE, decode_file};
use viva_models::fetch::ct2_ggml::{self, Precision};
use viva_models::fetch::{Lines, Manifest, PullOptions, pull};
use viva_models::registry::{AsrSpec, Opened, WhisperSpec, open_asr};
use viva_models::{Asr, AsrJob, Cancel};

use crate::engines;

/// Unpacks the real model and its vocabulary once, into the build folder.
fn real_package() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("whisper-tiny-en-ct2");
    let manifest = Manifest::parse(include_str!("ct2.toml")).unwrap();
    let mut options = PullOptions::from_env(vec!["tiny".into()]);
    (options.manifest, options.dir, options.mirror) = (manifest, dir.clone(), None);
    pull(&options, &mut Lines).unwrap();
    dir
}

/// Converts what [`real_package`] brought.
fn convert_real(precision: Precision, out: &mut dyn Write) {
    let dir = real_package();
    let [model, mel, vocab] = ["model.bin", "mel_filters.npz", "gpt2.tiktoken"].map(|name| dir.join(name));
    ct2_ggml::convert(&model, &mel, &vocab, precision, out).unwrap();
}

#[test]
fn the_real_package_becomes_the_known_ggml_files() {
    let cases = [
        (Precision::F16, "5cca2e9b6791dff29da5435eb6df415228cd7997359e8863ff55b2de147f4baf"),
        // Made by Python's gguf package from the same model; the manifest promises it.
        (Precision::Q8, "61e9a0e72b4561f999906d79ed8f98e1e724c86130bb429a4f9fd9cb562d0b78"),
    ];
    for (precision, expect) in cases {
        let mut hasher = Sha256::new();
        convert_real(precision, &mut hasher);
        let found: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, expect, "{precision:?}");
    }
}

/// How much worse eight bits may hear, in points of the word error rate.
const WORSE_MAX: f64 = 2.0;

/// A set of recordings with what is said in them.
type Clips = Vec<(Vec<f32>, String)>;

/// The benchmark's short answers, about interviews' own words and numbers.
fn answers() -> Clips {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/answers");
    let said: toml::Table = std::fs::read_to_string(dir.join("answers.toml")).unwrap().parse().unwrap();
    let clip = |(name, text): (&String, &toml::Value)| {
        let decoded = decode_file(&dir.join(format!("{name}.opus")), 30).unwrap();
        (decoded.resampled(LISTEN_RATE).unwrap(), text.as_str().unwrap().to_owned())
    };
    said["short"].as_table().unwrap().iter().map(clip).collect()
}

/// What `engine` hears of each clip.
fn heard(engine: &mut dyn Asr, clips: &Clips) -> Vec<String> {
    let hear = |(samples, _): &(Vec<f32>, String)| {
        let job = AsrJob { samples: samples.clone(), language: Some("en".into()), ..AsrJob::default() };
        engine.transcribe(&job, &Cancel::new()).unwrap().text
    };
    clips.iter().map(hear).collect()
}

#[test]
fn eight_bits_hear_as_well_as_half_precision() {
    let dir = TempDir::new().unwrap();
    let human: Clips = engines::readings().into_iter().map(|(clip, said)| (clip, said.to_owned())).collect();
    let sets = [("people reading", human), ("answers spoken by Piper", answers())];
    let [f16, q8] = [Precision::F16, Precision::Q8].map(|precision| {
        let model = dir.path().join(format!("{precision:?}.bin"));
        convert_real(precision, &mut std::fs::File::create(&model).unwrap());
        let spec = AsrSpec::Whisper(WhisperSpec { model, threads: 1, language: None, gpu: false });
        let Opened { mut engine, pid } = open_asr(&spec).unwrap();
        engines::timed(&format!("{precision:?}, every clip"), pid, || {
            sets.each_ref().map(|(_, clips)| heard(&mut *engine, clips))
        })
    });
    for (((name, clips), f16), q8) in sets.iter().zip(f16).zip(q8) {
        for (((_, said), f16), q8) in clips.iter().zip(&f16).zip(&q8).filter(|((_, f16), q8)| f16 != q8) {
            println!("said: {said}\n  f16: {f16}\n  q8:  {q8}");
        }
        let words: usize = clips.iter().map(|(_, said)| engines::plain(said).len()).sum();
        let rate = |heard: &[String]| {
            let errors: usize =
                clips.iter().zip(heard).map(|((_, said), text)| engines::word_errors(said, text)).sum();
            100.0 * errors as f64 / words as f64
        };
        let (f16, q8) = (rate(&f16), rate(&q8));
        println!("{name}: of {words} words {f16:.1} % wrong at half precision, {q8:.1} % at eight bits");
        assert!(q8 <= f16 + WORSE_MAX, "{name}: {q8:.1} % against {f16:.1} %");
    }
}

/// The smallest thing with a Whisper's variables: width 2, one layer a side, 4 tokens, 2 mel bands.
struct Small {
    dir: TempDir,
    model: Vec<u8>,
}

impl Small {
    fn new() -> Self {
        let mut vars: Vec<(String, Vec<u32>)> = Vec::new();
        let mut add = |name: &str, shape: &[u32]| vars.push((name.to_owned(), shape.to_vec()));
        add("encoder/position_encodings/encodings", &[3, 2]);
        for (conv, mels) in [("encoder/conv1", 2), ("encoder/conv2", 2)] {
            add(&format!("{conv}/weight"), &[2, mels, 3]);
            add(&format!("{conv}/bias"), &[2]);
        }
        add("decoder/position_encodings/encodings", &[3, 2]);
        add("decoder/embeddings/weight", &[4, 2]);
        for side in ["encoder", "decoder"] {
            let mut linears = vec![("self_attention/linear_0", 6), ("self_attention/linear_1", 2)];
            linears.extend([("ffn/linear_0", 2), ("ffn/linear_1", 2)]);
            let mut norms = vec!["self_attention/layer_norm", "ffn/layer_norm"];
            if side == "decoder" {
                linears.extend([
                    ("attention/linear_0", 2),
                    ("attention/linear_1", 4),
                    ("attention/linear_2", 2),
                ]);
                norms.push("attention/layer_norm");
            }
            for (name, rows) in linears {
                add(&format!("{side}/layer_0/{name}/weight"), &[rows, 2]);
                add(&format!("{side}/layer_0/{name}/bias"), &[rows]);
            }
            for name in norms {
                add(&format!("{side}/layer_0/{name}/gamma"), &[2]);
                add(&format!("{side}/layer_0/{name}/beta"), &[2]);
            }
            add(&format!("{side}/layer_norm/gamma"), &[2]);
            add(&format!("{side}/layer_norm/beta"), &[2]);
        }
        let mut model = Vec::new();
        model.extend(6_u32.to_le_bytes());
        text(&mut model, "WhisperSpec");
        model.extend(3_u32.to_le_bytes());
        model.extend(u32::try_from(vars.len()).unwrap().to_le_bytes());
        for (name, shape) in &vars {
            text(&mut model, name);
            model.push(u8::try_from(shape.len()).unwrap());
            shape.iter().for_each(|dimension| model.extend(dimension.to_le_bytes()));
            model.push(4);
            let bytes = shape.iter().product::<u32>() * 2;
            model.extend(bytes.to_le_bytes());
            model.extend(vec![0; bytes as usize]);
        }
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("vocab"), "IQ== 0\nIg== 1\n= 2\n").unwrap();
        write_mel(&dir.path().join("mel.npz"));
        Self { dir, model }
    }

    fn convert(&self, model: &[u8]) -> Result<Vec<u8>, ct2_ggml::ConvertError> {
        self.convert_to(model, Precision::F16)
    }

    fn convert_to(&self, model: &[u8], precision: Precision) -> Result<Vec<u8>, ct2_ggml::ConvertError> {
        let path = self.dir.path().join("model.bin");
        std::fs::write(&path, model).unwrap();
        let (mel, vocab) = (self.dir.path().join("mel.npz"), self.dir.path().join("vocab"));
        let mut out = Vec::new();
        ct2_ggml::convert(&path, &mel, &vocab, precision, &mut out)?;
        Ok(out)
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend(u16::try_from(text.len() + 1).unwrap().to_le_bytes());
    out.extend(text.as_bytes());
    out.push(0);
}

/// NumPy's archive with one array of 2 × 3 zeros, as `mel_2`.
fn write_mel(path: &Path) {
    let mut zip = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    zip.start_file("mel_2.npy", zip::write::SimpleFileOptions::default()).unwrap();
    let mut header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }".to_owned();
    while !(10 + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    zip.write_all(b"\x93NUMPY\x01\x00").unwrap();
    zip.write_all(&u16::try_from(header.len()).unwrap().to_le_bytes()).unwrap();
    zip.write_all(header.as_bytes()).unwrap();
    zip.write_all(&[0; 24]).unwrap();
    zip.finish().unwrap();
}

#[test]
fn a_model_cut_anywhere_is_an_error() {
    let small = Small::new();
    let whole = small.convert(&small.model).unwrap();
    assert_eq!(&whole[..4], b"lmgg");
    for length in 0..small.model.len() {
        assert!(small.convert(&small.model[..length]).is_err(), "cut at {length}");
    }
}

#[test]
fn a_model_with_any_byte_changed_never_panics_or_swells() {
    let small = Small::new();
    let whole = small.convert(&small.model).unwrap().len();
    for at in 0..small.model.len() {
        for value in [0x00, 0x01, 0x7f, 0xff] {
            let mut model = small.model.clone();
            model[at] = value;
            // Some bytes are weights: then it converts, to a file of the same size.
            if let Ok(out) = small.convert(&model) {
                assert!(out.len() <= whole + 64, "byte {at} = {value:#x}: {} bytes", out.len());
            }
        }
    }
}

#[test]
fn lengths_beyond_the_file_are_refused_before_anything_is_allocated() {
    let small = Small::new();
    let position = |text: &str| {
        small.model.windows(text.len()).position(|window| window == text.as_bytes()).unwrap() + text.len() + 1
    };
    let weight = position("decoder/embeddings/weight");
    let cases: [(usize, &[u8], &str); 4] = [
        // 4 giga-rows of 4 giga-columns in the shape.
        (weight + 1, &[0xff; 8], "does not fit its shape"),
        // The shape and the length agree, and both lie: 2 GB in a file of 3 kB.
        (weight + 1, &[0, 0, 0, 0x20, 2, 0, 0, 0, 4, 0, 0, 0, 0x80], "beyond the end"),
        (weight, &[200], "200 dimensions"),
        // So many variables.
        (4 + 2 + 12 + 4, &[0xff; 4], "more than a Whisper has"),
    ];
    for (at, bytes, expect) in cases {
        let mut model = small.model.clone();
        model[at..at + bytes.len()].copy_from_slice(bytes);
        let message = small.convert(&model).unwrap_err().to_string();
        assert!(message.contains(expect), "{message}");
    }
}

#[test]
fn keys_with_a_bias_would_lose_something_and_are_refused() {
    let small = Small::new();
    let name = "encoder/layer_0/self_attention/linear_0/bias";
    let at = small.model.windows(name.len()).position(|window| window == name.as_bytes()).unwrap();
    let data = at + name.len() + 1 + 1 + 4 + 1 + 4;
    let mut model = small.model.clone();
    // The bias holds query, key and value, two numbers each.
    model[data + 4] = 1;
    let message = small.convert(&model).unwrap_err().to_string();
    assert!(message.contains("key.bias is not zero"), "{message}");
}

#[test]
fn rows_that_are_no_whole_blocks_are_refused_in_eight_bits() {
    let small = Small::new();
    let message = small.convert_to(&small.model, Precision::Q8).unwrap_err().to_string();
    assert!(message.contains("encoder.blocks.0.attn.query.weight has 2 columns"), "{message}");
}
