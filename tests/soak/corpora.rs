//! Damaged seeds of the fuzz targets through the functions those call: what fuzzing is without a fuzzer, on every machine.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::entries::ENTRIES;
use super::support::churn::seed;

/// How long each is tried, unless `VIVA_FUZZ_S` says otherwise.
const EACH: Duration = Duration::from_secs(60);

/// Bytes a seed may grow to.
const BYTES_MAX: usize = 64 * 1024;

/// Numbers that parsers stumble over, as bytes.
const EDGES: [&[u8]; 8] =
    [&[0], &[0xFF], &[0x7F], &[0x80], &[0xFF; 4], &[0, 0, 0, 0x80], &[0xFF, 0xFF, 0xFF, 0x7F], &[0; 8]];

fn damaged(seeds: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = seeds.choose(rng).unwrap().clone();
    for _ in 0..rng.random_range(1..8) {
        let at = rng.random_range(0..=bytes.len());
        let end = (at + rng.random_range(0..16)).min(bytes.len());
        match rng.random_range(0..6) {
            0 => drop(bytes.drain(at..end)),
            1 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << rng.random_range(0..8)),
            2 => drop(bytes.splice(at..end, EDGES.choose(rng).unwrap().iter().copied())),
            3 => bytes.truncate(at),
            4 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(
                    at..at,
                    again.iter().copied().cycle().take(again.len() * rng.random_range(1..64)),
                );
            }
            _ => {
                let other = seeds.choose(rng).unwrap();
                let from = rng.random_range(0..=other.len());
                bytes.splice(at..end, other[from..].iter().copied().take(rng.random_range(1..200)));
            }
        }
    }
    bytes.truncate(BYTES_MAX);
    bytes
}

/// Tries one for so long, and tells how it went.
fn tried(name: &str, entry: fn(&[u8]), each: Duration, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let seeds: Vec<Vec<u8>> =
        fs::read_dir(folder).unwrap().map(|seed| fs::read(seed.unwrap().path()).unwrap()).collect();
    let (began, mut runs, mut slowest) = (Instant::now(), 0u64, Duration::ZERO);
    while began.elapsed() < each {
        let (bytes, before) = (damaged(&seeds, &mut rng), Instant::now());
        let harm = std::panic::catch_unwind(|| entry(&bytes)).is_err();
        assert!(!harm, "{name}: {:?}", String::from_utf8_lossy(&bytes));
        slowest = slowest.max(before.elapsed());
        runs += 1;
    }
    println!("{name}: {runs} runs in {:?}, the slowest {slowest:?}", began.elapsed());
}

#[test]
fn no_damaged_seed_does_harm() {
    let seed = seed();
    let each =
        std::env::var("VIVA_FUZZ_S").ok().and_then(|s| s.parse().ok()).map_or(EACH, Duration::from_secs);
    let cores = std::thread::available_parallelism().unwrap().get();
    for some in ENTRIES.chunks(cores) {
        std::thread::scope(|scope| {
            for (name, entry) in some {
                scope.spawn(move || tried(name, *entry, each, seed));
            }
        });
    }
}
