//! The seeds of the fuzz targets (fuzz/), through the functions that the targets call.

#![allow(clippy::unwrap_used)]

#[path = "../fuzz/src/entries.rs"]
mod entries;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use entries::ENTRIES;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn names(folder: PathBuf) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn every_entry_has_a_target_and_seeds() {
    let known: BTreeSet<String> = ENTRIES.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(fuzz().join("fuzz_targets")), known);
    assert_eq!(names(fuzz().join("seeds")), known);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for name in &known {
        let target = fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(target.contains(&format!("entries::{name}(data)")), "{name} calls its own entry");
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} is built");
    }
}

#[test]
fn no_seed_does_harm() {
    for (name, entry) in ENTRIES {
        let mut count = 0;
        for seed in fs::read_dir(fuzz().join("seeds").join(name)).unwrap() {
            let path = seed.unwrap().path();
            println!("{}", path.display());
            let seed = fs::read(&path).unwrap();
            entry(&seed);
            // What is cut off is a seed of its own kind.
            (0..seed.len()).step_by(seed.len() / 16 + 1).for_each(|end| entry(&seed[..end]));
            count += 1;
        }
        assert!(count >= 3, "{name} has {count} seeds");
    }
}
