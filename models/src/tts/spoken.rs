//! Lines that were spoken before, kept by their content: voice, text and style in, audio out.
//!
//! What an interviewer says to one candidate is theirs, so a line is kept only when it is nobody's: the operator's own
//! lines ([`Spoken::expect`]), and lines that [`SEEN_MIN`] callers were told. Until then a line is known by its
//! digest only.
//!
//! *Bound:* [`DISK_BYTES_MAX`] on disk and [`MEMORY_BYTES_MAX`] in memory, the longest unused go; [`LINES_COUNTED`]
//! digests are counted. A file that is damaged is a line that was not kept.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use crate::TtsJob;

/// Callers who must have been told a line before it is nobody's.
pub const SEEN_MIN: u32 = 3;

/// On disk: an hour and a half of speech at 24 kHz.
pub const DISK_BYTES_MAX: u64 = 256 << 20;

/// In memory: ten minutes of it.
pub const MEMORY_BYTES_MAX: usize = 32 << 20;

/// Digests whose requests are counted.
pub const LINES_COUNTED: usize = 8_192;

/// Bytes of a line's text: what is longer is no line that anybody says twice.
const TEXT_MAX: usize = 300;

/// What a line is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key([u8; 32]);

/// A line's audio.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Hertz.
    pub rate: u32,
    /// Mono.
    pub samples: Arc<[i16]>,
}

/// The lines. Shared; every call takes microseconds but for the first of a line that lies on disk, which reads it.
pub struct Spoken {
    folder: PathBuf,
    voice: String,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    memory: HashMap<Key, Line>,
    order: VecDeque<Key>,
    bytes: usize,
    on_disk: HashSet<Key>,
    disk_bytes: u64,
    expected: HashSet<Key>,
    /// How many callers asked for it, and the last who did.
    seen: HashMap<Key, (u32, u64)>,
}

impl Spoken {
    /// In this folder, for this voice: its engine's name and its weights, by whatever tells them from others.
    pub fn open(folder: &Path, voice: &str) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let mut inner = Inner::default();
        let mut files: Vec<(std::time::SystemTime, PathBuf, u64)> = Vec::new();
        for entry in std::fs::read_dir(folder)?.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            files.push((meta.modified().unwrap_or(std::time::UNIX_EPOCH), entry.path(), meta.len()));
        }
        files.sort();
        let mut all: u64 = files.iter().map(|f| f.2).sum();
        for (_, path, bytes) in files {
            let key = path.file_stem().and_then(|s| s.to_str()).and_then(parse);
            match key {
                Some(key) if all <= DISK_BYTES_MAX => {
                    inner.on_disk.insert(key);
                    inner.disk_bytes += bytes;
                }
                _ => {
                    // The oldest beyond the bound, and what a write left half done.
                    std::fs::remove_file(&path).ok();
                    all -= bytes;
                }
            }
        }
        Ok(Self { folder: folder.to_owned(), voice: voice.to_owned(), inner: Mutex::new(inner) })
    }

    /// What a job's line is known by; none for one that is too long to be said twice.
    pub fn key(&self, job: &TtsJob) -> Option<Key> {
        if job.text.len() > TEXT_MAX {
            return None;
        }
        let mut hash = Sha256::new();
        let style = serde_json::to_vec(&job.style).ok()?;
        let language = job.language.clone().unwrap_or_default();
        for part in [self.voice.as_bytes(), job.text.as_bytes(), &style, language.as_bytes()] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Some(Key(hash.finalize().into()))
    }

    /// This line is the operator's own: it is kept the first time it is spoken.
    pub fn expect(&self, key: Key) {
        let mut inner = self.lock();
        if inner.expected.len() < LINES_COUNTED {
            inner.expected.insert(key);
        }
    }

    /// The line, if it was kept.
    pub fn get(&self, key: Key) -> Option<Line> {
        {
            let inner = self.lock();
            if let Some(line) = inner.memory.get(&key) {
                return Some(line.clone());
            }
            if !inner.on_disk.contains(&key) {
                return None;
            }
        }
        let line = std::fs::read(self.path(key)).ok().and_then(|bytes| decode(&bytes));
        let mut inner = self.lock();
        match line {
            Some(line) => {
                inner.remember(key, line.clone());
                Some(line)
            }
            None => {
                inner.on_disk.remove(&key);
                None
            }
        }
    }

    /// A line is asked for by this caller that is not here. Says whether it is to be kept once it is spoken.
    pub fn asked(&self, key: Key, caller: u64) -> bool {
        let mut inner = self.lock();
        if inner.expected.contains(&key) {
            return true;
        }
        if inner.seen.len() >= LINES_COUNTED && !inner.seen.contains_key(&key) {
            // Lines that are said once are most of them: begin again.
            inner.seen.clear();
        }
        let (callers, last) = inner.seen.entry(key).or_insert((0, caller.wrapping_add(1)));
        // What one caller is told again and again may still be theirs.
        if *last != caller {
            (*callers, *last) = (*callers + 1, caller);
        }
        *callers >= SEEN_MIN
    }

    /// Keeps a line. A disk that is full keeps it in memory only.
    pub fn keep(&self, key: Key, line: Line) {
        let bytes = encode(&line);
        let size = bytes.len() as u64;
        let room = self.lock().disk_bytes + size <= DISK_BYTES_MAX;
        let written = room && {
            let part = self.folder.join(format!("{}.part", name(key)));
            std::fs::write(&part, &bytes).and_then(|()| std::fs::rename(&part, self.path(key))).is_ok()
        };
        let mut inner = self.lock();
        if written && inner.on_disk.insert(key) {
            inner.disk_bytes += size;
        }
        inner.seen.remove(&key);
        inner.remember(key, line);
    }

    fn path(&self, key: Key) -> PathBuf {
        self.folder.join(format!("{}.pcm", name(key)))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn remember(&mut self, key: Key, line: Line) {
        let size = line.samples.len() * 2;
        if size > MEMORY_BYTES_MAX / 4 || self.memory.contains_key(&key) {
            return;
        }
        while self.bytes + size > MEMORY_BYTES_MAX {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some(gone) = self.memory.remove(&oldest) {
                self.bytes -= gone.samples.len() * 2;
            }
        }
        self.bytes += size;
        self.order.push_back(key);
        self.memory.insert(key, line);
    }
}

fn name(key: Key) -> String {
    key.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse(name: &str) -> Option<Key> {
    let mut key = [0; 32];
    if name.len() != 64 || !name.is_ascii() {
        return None;
    }
    for (i, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&name[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(Key(key))
}

/// Rate, samples, and a digest of both.
fn encode(line: &Line) -> Vec<u8> {
    let mut bytes = line.rate.to_le_bytes().to_vec();
    bytes.extend(line.samples.iter().flat_map(|s| s.to_le_bytes()));
    let digest = Sha256::digest(&bytes);
    bytes.extend_from_slice(&digest[..8]);
    bytes
}

fn decode(bytes: &[u8]) -> Option<Line> {
    let (content, digest) = bytes.split_at_checked(bytes.len().checked_sub(8)?)?;
    if Sha256::digest(content)[..8] != *digest {
        return None;
    }
    let (rate, samples) = content.split_at_checked(4)?;
    let rate = u32::from_le_bytes(rate.try_into().ok()?);
    let samples = samples.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect();
    Some(Line { rate, samples })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Style;

    fn job(text: &str) -> TtsJob {
        TtsJob { text: text.into(), style: Style::default(), language: Some("en".into()) }
    }

    fn line(n: i16) -> Line {
        Line { rate: 22_050, samples: vec![n; 1_000].into() }
    }

    #[test]
    fn a_line_is_kept_when_it_is_nobodys_and_found_again_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let spoken = Spoken::open(folder.path(), "joe").unwrap();
        let key = spoken.key(&job("Could you say that again?")).unwrap();
        let asked = [1, 1, 1, 1, 2, 3].map(|caller| spoken.asked(key, caller));
        assert_eq!(asked, [false, false, false, false, false, true], "by three callers");
        spoken.keep(key, line(7));
        assert_eq!(spoken.get(key), Some(line(7)));
        let again = Spoken::open(folder.path(), "joe").unwrap();
        assert_eq!(again.get(key), Some(line(7)));
        let own = again.key(&job("Welcome.")).unwrap();
        again.expect(own);
        assert!(again.asked(own, 1), "the operator's own lines are kept the first time");
    }

    #[test]
    fn another_voice_style_language_or_text_is_another_line() {
        let folder = tempfile::tempdir().unwrap();
        let joe = Spoken::open(folder.path(), "joe").unwrap();
        let amy = Spoken::open(folder.path(), "amy").unwrap();
        let quick = TtsJob { style: Style { pace: 1.2, ..Style::default() }, ..job("Yes.") };
        let german = TtsJob { language: Some("de".into()), ..job("Yes.") };
        let keys = [
            joe.key(&job("Yes.")),
            amy.key(&job("Yes.")),
            joe.key(&quick),
            joe.key(&german),
            joe.key(&job("No.")),
        ];
        let different: HashSet<_> = keys.iter().collect();
        assert_eq!(different.len(), keys.len());
        assert_eq!(joe.key(&job(&"x".repeat(TEXT_MAX + 1))), None);
    }

    #[test]
    fn a_damaged_file_is_a_line_that_was_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let spoken = Spoken::open(folder.path(), "joe").unwrap();
        let key = spoken.key(&job("Yes.")).unwrap();
        spoken.keep(key, line(3));
        let file = spoken.path(key);
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[100] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        std::fs::write(folder.path().join("half.part"), b"x").unwrap();
        let again = Spoken::open(folder.path(), "joe").unwrap();
        assert_eq!(again.get(key), None);
        assert!(!folder.path().join("half.part").exists());
    }

    #[test]
    fn memory_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let spoken = Spoken::open(folder.path(), "joe").unwrap();
        for n in 0..12 {
            let key = spoken.key(&job(&format!("line {n}"))).unwrap();
            spoken.keep(key, Line { rate: 24_000, samples: vec![n; 2 << 20].into() });
        }
        let inner = spoken.lock();
        assert!(inner.bytes <= MEMORY_BYTES_MAX && inner.memory.len() >= 7, "{}", inner.bytes);
        assert_eq!(inner.on_disk.len(), 12);
    }
}
