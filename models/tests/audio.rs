//! Raw formats, resampling and decoding at the boundary where outside audio comes in.
#![allow(clippy::unwrap_used)]

use std::f32::consts::TAU;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use viva_models::audio::*;

fn tone(hz: f32, rate: u32, seconds: f32) -> Vec<f32> {
    let n = (rate as f32 * seconds) as usize;
    (0..n).map(|i| 0.5 * (TAU * hz * i as f32 / rate as f32).sin()).collect()
}

fn resample(input: &[f32], from: u32, to: u32, chunk: usize) -> Vec<f32> {
    let mut resampler = Resampler::new(from, to).unwrap();
    let mut out = Vec::new();
    input.chunks(chunk).for_each(|part| resampler.process(part, &mut out));
    resampler.flush(&mut out);
    out
}

/// Largest deviation, without the edges where the filter meets silence.
fn deviation(a: &[f32], b: &[f32], edge: usize) -> f32 {
    a.iter()
        .zip(b)
        .skip(edge)
        .take(a.len().min(b.len()) - 2 * edge)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

#[test]
fn resampling_keeps_length_time_and_shape() {
    for (from, to) in [
        (48_000, 16_000),
        (16_000, 48_000),
        (22_050, 24_000),
        (44_100, 16_000),
        (24_000, 48_000),
        (8_000, 16_000),
        (48_000, 24_000),
        (24_000, 8_000),
        (11_025, 16_000),
    ] {
        let out = resample(&tone(1000.0, from, 1.3), from, to, 441);
        let want = tone(1000.0, to, 1.3);
        assert!(out.len().abs_diff(want.len()) <= 1, "{from}->{to}: {} for {}", out.len(), want.len());
        let worst = deviation(&out, &want, to as usize / 20);
        assert!(worst < 0.002, "{from}->{to} deviates by {worst}");
    }
}

#[test]
fn resampling_does_not_depend_on_chunk_length() {
    let input = tone(440.0, 48_000, 0.7);
    let whole = resample(&input, 48_000, 16_000, input.len());
    for chunk in [1, 7, 479, 480, 481, 5000] {
        assert_eq!(resample(&input, 48_000, 16_000, chunk), whole, "chunks of {chunk}");
    }
}

#[test]
fn downsampling_removes_what_would_alias() {
    let out = resample(&tone(11_000.0, 48_000, 1.0), 48_000, 16_000, 480);
    let peak = out[800..out.len() - 800].iter().fold(0.0f32, |a, s| a.max(s.abs()));
    assert!(peak < 0.002, "11 kHz came through at {peak}");
}

#[test]
fn a_flushed_resampler_starts_anew_and_bad_samples_do_not_linger() {
    let input = tone(300.0, 24_000, 0.5);
    let mut resampler = Resampler::new(24_000, 48_000).unwrap();
    let (mut first, mut second) = (Vec::new(), Vec::new());
    resampler.process(&[f32::NAN; 999], &mut first);
    resampler.process(&[f32::INFINITY; 3], &mut first);
    resampler.flush(&mut first);
    assert!(first.iter().all(|s| *s == 0.0));
    resampler.process(&input, &mut second);
    resampler.flush(&mut second);
    assert_eq!(second, resample(&input, 24_000, 48_000, input.len()));
    assert!(matches!(Resampler::new(0, 48_000), Err(AudioError::Rate(0))));
    assert!(matches!(Resampler::new(16_000, 1_000_000), Err(AudioError::Rate(_))));
}

#[test]
fn resampling_allocates_nothing_in_steady_state() {
    let input = tone(300.0, 48_000, 0.02);
    let mut resampler = Resampler::new(48_000, 16_000).unwrap();
    let mut out = Vec::with_capacity(4096);
    let place = out.as_ptr();
    let started = Instant::now();
    for _ in 0..5_000 {
        out.clear();
        resampler.process(&input, &mut out);
    }
    println!("48 -> 16 kHz: {:.1} us per 20 ms", started.elapsed().as_secs_f64() * 1e6 / 5_000.0);
    assert_eq!(place, out.as_ptr(), "the output was moved");
}

#[test]
fn pcm16_survives_both_ways_and_odd_lengths_are_refused() {
    let bytes: Vec<u8> = (i16::MIN..=i16::MAX).flat_map(i16::to_le_bytes).collect();
    let (mut samples, mut back) = (Vec::new(), Vec::new());
    pcm16_decode(&bytes, &mut samples).unwrap();
    pcm16_encode(&samples, &mut back);
    assert_eq!(bytes, back);
    assert!(matches!(pcm16_decode(&bytes[..7], &mut samples), Err(AudioError::OddLength(7))));
    assert_eq!([to_i16(2.0), to_i16(-2.0), to_i16(f32::NAN), to_i16(1.0)], [32767, -32768, 0, 32767]);
}

#[test]
fn g711_knows_its_own_codes() {
    for law in [G711::MuLaw, G711::ALaw] {
        let codes: Vec<u8> = (0..=255).collect();
        let (mut samples, mut back) = (Vec::new(), Vec::new());
        g711_decode(law, &codes, &mut samples);
        g711_encode(law, &samples, &mut back);
        let (mut again, mut differ) = (Vec::new(), 0);
        g711_decode(law, &back, &mut again);
        for (a, b) in samples.iter().zip(&again) {
            differ += usize::from(a != b);
        }
        assert_eq!(differ, 0, "{law:?}");
    }
    // ITU-T G.711: silence is 0xFF in the mu-law, 0xD5 in the A-law.
    let mut silence = Vec::new();
    g711_encode(G711::MuLaw, &[0.0], &mut silence);
    g711_encode(G711::ALaw, &[0.0], &mut silence);
    assert_eq!(silence, [0xFF, 0xD5]);
}

#[test]
fn loudness_of_a_full_scale_tone_is_what_the_standard_says() {
    // EBU Tech 3341: a 1 kHz sine at -23 dBFS in both channels is -23 LUFS; in one, 3 LU less.
    let sine: Vec<f32> = tone(1000.0, 48_000, 5.0).iter().map(|s| s * 2.0).collect();
    let measured = loudness(&sine, 48_000);
    assert!((measured + 3.01).abs() < 0.1, "{measured}");
    assert_eq!(loudness(&[0.0; 48_000], 48_000), f64::NEG_INFINITY);
    assert_eq!(loudness(&[], 16_000), f64::NEG_INFINITY);
}

/// Both channels as loud as the one (plain `-ac 2` takes 3 dB).
const BOTH: &str = "pan=stereo|c0=c0|c1=c0";

/// The formats a caller may send: file name and ffmpeg's encoder arguments.
const FORMATS: [(&str, &[&str]); 9] = [
    ("a.wav", &["-c:a", "pcm_s16le"]),
    ("f.wav", &["-c:a", "pcm_f32le", "-af", BOTH]),
    ("a.mp3", &["-c:a", "libmp3lame", "-b:a", "64k"]),
    ("a.ogg", &["-c:a", "libvorbis", "-page_duration", "100000", "-af", BOTH]),
    ("a.opus", &["-c:a", "libopus", "-page_duration", "100000", "-b:a", "32k"]),
    ("a.webm", &["-c:a", "libopus", "-b:a", "32k"]),
    ("s.webm", &["-c:a", "libopus", "-b:a", "48k", "-af", BOTH]),
    ("a.m4a", &["-c:a", "aac", "-b:a", "64k"]),
    ("a.flac", &["-c:a", "flac"]),
];

/// One second and a half of a tone with a click in the middle of it, in every format, by ffmpeg.
fn samples(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let source = folder.join("source.wav");
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 48_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut wav = hound::WavWriter::create(&source, spec).unwrap();
    for (i, s) in tone(440.0, 48_000, 1.5).iter().enumerate() {
        // Silent but for a burst from 0.5 s to 1.0 s.
        wav.write_sample(if (24_000..48_000).contains(&i) { to_i16(*s) } else { 0 }).unwrap();
    }
    wav.finalize().unwrap();
    let make = |(name, arguments): &(&str, &[&str])| {
        let path = folder.join(name);
        let done = Command::new("ffmpeg")
            .args(["-v", "error", "-y", "-i"])
            .arg(&source)
            .args(*arguments)
            .arg(&path)
            .status()
            .expect("this test makes its samples with ffmpeg; install: apt-get install ffmpeg");
        assert!(done.success(), "ffmpeg could not make {name}");
        let bytes = std::fs::read(&path).unwrap();
        (path, bytes)
    };
    FORMATS.iter().map(make).collect()
}

#[test]
fn every_format_decodes_to_the_same_sound_at_the_same_time() {
    let folder = tempfile::tempdir().unwrap();
    for (path, bytes) in samples(folder.path()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let decoded = decode_file(&path, 10).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        let blind = decode(&bytes, None, 10).unwrap_or_else(|e| panic!("{name} without hint: {e}"));
        assert_eq!(decoded.samples.len(), blind.samples.len(), "{name}");
        let samples = decoded.clone().resampled(16_000).unwrap();
        let seconds = samples.len() as f32 / 16_000.0;
        let start = samples.iter().position(|s| s.abs() > 0.1).unwrap() as f32 / 16_000.0;
        let rms = (samples[9_600..14_400].iter().map(|s| s * s).sum::<f32>() / 4_800.0).sqrt();
        println!("{name}: {} Hz, {seconds:.3} s, burst at {start:.4} s, rms {rms:.3}", decoded.rate);
        assert!((seconds - 1.5).abs() < 0.06, "{name}: {seconds} s");
        assert!((start - 0.5).abs() < 0.03, "{name}: burst at {start} s");
        assert!((rms - 0.3535).abs() < 0.02, "{name}: rms {rms}");
        assert!(matches!(decode(&bytes, None, 1), Err(AudioError::TooLong(1))), "{name}");
    }
}

#[test]
fn damaged_recordings_never_panic_and_stay_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let mut seed = 0x9E37_79B9_7F4A_7C15u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for (path, bytes) in samples(folder.path()) {
        let (mut good, mut refused) = (0, 0);
        let mut look = |damaged: &[u8]| match decode(damaged, None, 4) {
            Ok(decoded) => {
                assert!(decoded.seconds() <= 4.0 && decoded.samples.iter().all(|s| s.is_finite()));
                good += 1;
            }
            Err(AudioError::Corrupt(why)) => {
                assert!(!why.contains("gave up"), "{} made the decoder panic", path.display());
                refused += 1;
            }
            Err(_) => refused += 1,
        };
        for part in 0..40 {
            look(&bytes[..bytes.len() * part / 40]);
        }
        for round in 0..80 {
            let mut damaged = bytes.clone();
            // Half the rounds hit only the header, where it hurts most.
            let reach = if round % 2 == 0 { damaged.len().min(200) } else { damaged.len() };
            for _ in 0..(1 + round / 8) {
                let at = random() as usize % reach;
                damaged[at] ^= 1 << (random() % 8);
            }
            look(&damaged);
        }
        println!("{}: {good} decoded, {refused} refused", path.file_name().unwrap().to_string_lossy());
        assert!(good > 5, "{}: hardly anything was decoded", path.display());
    }
    let noise: Vec<u8> = (0..100_000).map(|_| random() as u8).collect();
    assert!(decode(&noise, Some("audio/webm"), 4).is_err());
    assert!(decode(b"", None, 4).is_err());
    assert!(decode(b"RIFF\xff\xff\xff\xffWAVEfmt ", Some("wav"), 4).is_err());
}
