//! The pull: every file of the profiles, from the first source that has it, three at a time.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::ct2_ggml::Precision;
use super::guard::{Permits, lock, locked};
use super::manifest::{Convert, Entry, Hash, Input, Manifest, Part, Source};
use super::progress::{Event, Outcome, Progress};
use super::stamps::Stamps;
use super::{FetchError, HashingWriter, Result, ct2_ggml, hash_file, hex, http, mpnet_onnx, package};

/// Files, and downloads, at a time: enough to fill a home's line, polite to the registries.
const AT_ONCE: usize = 3;
/// How long a pull waits for another one by default: a large profile over a slow line.
const LOCK_WAIT: Duration = Duration::from_secs(3600);
/// The hub where the manifest's `hub` names live unless `HF_ENDPOINT` says otherwise.
const HUB: &str = "https://huggingface.co";
/// The folder of unfinished work in the models folder.
const WORK: &str = ".partial";

/// What to pull, where to, and how.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// What there is.
    pub manifest: Manifest,
    /// The profiles wanted; files they share come once.
    pub profiles: Vec<String>,
    /// Of these only the files of such parts; empty for all of them.
    pub parts: Vec<Part>,
    /// The models folder.
    pub dir: PathBuf,
    /// A folder or http(s) URL that holds files under the manifest's paths; asked first.
    pub mirror: Option<String>,
    /// The hub's address.
    pub hub: String,
    /// Take files the manifest knows no hash for.
    pub allow_unverified: bool,
    /// How long to wait for another pull in the same folder.
    pub lock_wait: Duration,
}

impl PullOptions {
    /// These profiles into [`super::models_dir`], heeding `VIVA_MODELS_MIRROR` and `HF_ENDPOINT`.
    pub fn from_env(profiles: Vec<String>) -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            manifest: Manifest::embedded().clone(),
            profiles,
            parts: Vec::new(),
            dir: super::models_dir(),
            mirror: set("VIVA_MODELS_MIRROR"),
            hub: set("HF_ENDPOINT").unwrap_or_else(|| HUB.to_owned()),
            allow_unverified: false,
            lock_wait: LOCK_WAIT,
        }
    }
}

/// What a pull did, in the manifest's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// Each file with how it came to be in place.
    pub files: Vec<(String, Outcome)>,
}

/// Brings every file of the profiles that is not there yet. Files are complete and checked, or absent:
/// work in progress lies in `.partial`, where the next pull goes on with it.
pub fn pull(options: &PullOptions, progress: &mut dyn Progress) -> Result<Pulled> {
    let mut files = options.manifest.files_of(&options.profiles)?;
    files.retain(|entry| options.parts.is_empty() || options.parts.contains(&entry.part));
    let disk = |err| FetchError::io(&options.dir, format!("preparing {}", options.dir.display()), err);
    fs::create_dir_all(&options.dir).map_err(disk)?;
    let _lock = lock(options, progress)?;
    let work = options.dir.join(WORK);
    fs::create_dir_all(&work).map_err(disk)?;
    let run = Run {
        options,
        work: work.clone(),
        progress: Mutex::new(progress),
        stamps: Mutex::new(Stamps::read(&options.dir)),
        permits: Permits::new(AT_ONCE),
        packages: Mutex::default(),
        queue: Mutex::new(files.iter().cloned().collect()),
        done: Mutex::default(),
    };
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| run.work_through());
        }
    });
    let mut done = run.done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut outcomes = Vec::new();
    let mut errors = Vec::new();
    for entry in &files {
        match done.remove(&entry.path) {
            Some(Ok(outcome)) => outcomes.push((entry.path.clone(), outcome)),
            Some(Err(err)) => errors.push(err),
            // Left in the queue because the disk would not take it either: the error is told already.
            None => {}
        }
    }
    match errors.len() {
        0 => {
            let _ = fs::remove_dir_all(&work);
            Ok(Pulled { files: outcomes })
        }
        1 => Err(errors.remove(0)),
        _ => Err(FetchError::Several(errors)),
    }
}

/// A package's archive once it is there; the lock makes the second who needs it wait for the first.
type Archive = Arc<Mutex<Option<PathBuf>>>;

/// One pull, as its workers share it.
struct Run<'a> {
    options: &'a PullOptions,
    work: PathBuf,
    progress: Mutex<&'a mut dyn Progress>,
    stamps: Mutex<Stamps>,
    permits: Permits,
    packages: Mutex<HashMap<String, Archive>>,
    queue: Mutex<VecDeque<Entry>>,
    done: Mutex<HashMap<String, Result<Outcome>>>,
}

/// A file that has come but is not in place yet.
struct Arrived {
    part: PathBuf,
    found: String,
    expected: Hash,
    from: String,
}

impl Run<'_> {
    fn work_through(&self) {
        loop {
            let Some(entry) = locked(&self.queue).pop_front() else { return };
            self.tell(Event::Started { file: entry.path.clone() });
            let result = self.place(&entry);
            let outcome = match &result {
                Ok(outcome) => outcome.clone(),
                Err(err) => Outcome::Failed { why: err.to_string() },
            };
            if matches!(result, Err(FetchError::DiskFull { .. } | FetchError::NotWritable { .. })) {
                locked(&self.queue).clear();
            }
            self.tell(Event::Finished { file: entry.path.clone(), outcome });
            locked(&self.done).insert(entry.path, result);
        }
    }

    fn tell(&self, event: Event) {
        locked(&self.progress).on(&event);
    }

    /// Puts one file where it belongs, unless it is there.
    fn place(&self, entry: &Entry) -> Result<Outcome> {
        let target = self.options.dir.join(&entry.path);
        if target.exists() && self.is_in_place(entry, &target)? {
            return Ok(Outcome::Present);
        }
        let arrived = self.obtain(entry)?;
        let disk = |err| FetchError::io(&self.options.dir, format!("placing {}", target.display()), err);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(disk)?;
        }
        File::open(&arrived.part).and_then(|file| file.sync_all()).map_err(disk)?;
        fs::rename(&arrived.part, &target).map_err(disk)?;
        let mut stamps = locked(&self.stamps);
        match arrived.expected {
            Hash::Known(_) => stamps.set_good(&entry.path, &target),
            Hash::Unverified => stamps.set_unverified(&entry.path, &target, arrived.found),
        }
        stamps.write(&self.options.dir).map_err(disk)?;
        Ok(Outcome::Pulled { from: arrived.from })
    }

    fn is_in_place(&self, entry: &Entry, target: &Path) -> Result<bool> {
        {
            let stamps = locked(&self.stamps);
            if stamps.is_good(&entry.path, target) || stamps.is_as_pulled(&entry.path, target) {
                return Ok(true);
            }
        }
        let Hash::Known(expected) = &entry.sha256 else {
            // Nobody knows what it should be; what a person put there is not ours to replace.
            return Ok(true);
        };
        let found = hash_file(target)?;
        if found != *expected {
            let what = format!("what lies there is damaged (hash {found}): pulling it anew");
            self.tell(Event::Trouble { file: entry.path.clone(), what });
            return Ok(false);
        }
        let mut stamps = locked(&self.stamps);
        stamps.set_good(&entry.path, target);
        // Only time would be lost with them.
        let _ = stamps.write(&self.options.dir);
        Ok(true)
    }

    /// Asks the mirror, then each source in order.
    fn obtain(&self, entry: &Entry) -> Result<Arrived> {
        let mirror = self.options.mirror.as_ref().map(|mirror| self.ask_mirror(entry, mirror));
        let sources = entry.sources.iter().map(|source| self.ask_source(entry, source));
        let mut tried = Vec::new();
        // A mirror that has the file ends this before `sources`, being lazy, asks anyone else.
        for result in mirror.into_iter().chain(sources) {
            match result {
                Err(err) if err.lets_others_try() => {
                    self.tell(Event::Trouble { file: entry.path.clone(), what: err.to_string() });
                    tried.push(err);
                }
                result => return result,
            }
        }
        if tried.len() == 1 {
            return Err(tried.remove(0));
        }
        let tried = tried.iter().map(|err| format!("\n  {err}")).collect();
        Err(FetchError::NoSource { file: entry.path.clone(), tried })
    }

    fn ask_mirror(&self, entry: &Entry, mirror: &str) -> Result<Arrived> {
        let expected = self.accept(entry, &entry.sha256, mirror)?;
        if mirror.starts_with("http://") || mirror.starts_with("https://") {
            let url = format!("{}/{}", mirror.trim_end_matches('/'), entry.path);
            return self.ask_url(entry, &url, &url, expected, entry.size);
        }
        let path = Path::new(mirror).join(&entry.path);
        let from = path.display().to_string();
        let mut source = File::open(&path)
            .map_err(|err| FetchError::Vanished { from: from.clone(), why: err.to_string() })?;
        self.doing(entry, &format!("copying {from}"), entry.size);
        let part = self.part(entry, &from);
        let (_, found) = self.write(&part, |out| {
            std::io::copy(&mut source, out).map(drop).map_err(|err| self.disk("copying from the mirror", err))
        })?;
        self.arrived(entry, Arrived { part, found, expected, from })
    }

    fn ask_source(&self, entry: &Entry, source: &Source) -> Result<Arrived> {
        let from = self.describe(source);
        let expected = self.accept(entry, source.sha256.as_ref().unwrap_or(&entry.sha256), &from)?;
        let archives = self.fetch_packages(entry, source)?;
        let part = self.part(entry, &from);
        let found = match (source.convert, source.inputs.as_slice()) {
            (None, [input]) => {
                if let Some(url) = self.hub_url(input) {
                    // A source with a hash of its own delivers a file of its own length.
                    let size = entry.size.filter(|_| source.sha256.is_none());
                    return self.ask_url(entry, &url, &from, expected, size);
                }
                self.doing(entry, "unpacking", None);
                self.unpack(input, &archives, &part)?
            }
            (convert, inputs) => {
                let staged = inputs.iter().map(|input| self.stage(entry, input, &archives));
                let staged: Vec<PathBuf> = staged.collect::<Result<_>>()?;
                self.doing(entry, "converting", None);
                let found = self.convert(entry, convert, &staged, &part);
                staged.iter().for_each(|path| drop(fs::remove_file(path)));
                found?
            }
        };
        self.arrived(entry, Arrived { part, found, expected, from })
    }

    /// The hash a source must deliver, unless it has none and that is not allowed.
    fn accept(&self, entry: &Entry, expected: &Hash, from: &str) -> Result<Hash> {
        if *expected == Hash::Unverified && !self.options.allow_unverified {
            return Err(FetchError::Unverified { file: entry.path.clone(), from: from.to_owned() });
        }
        Ok(expected.clone())
    }

    /// The gate everything passes: a wrong hash leaves nothing behind.
    fn arrived(&self, entry: &Entry, arrived: Arrived) -> Result<Arrived> {
        match &arrived.expected {
            Hash::Known(expected) if *expected != arrived.found => {
                let _ = fs::remove_file(&arrived.part);
                let (file, expected) = (entry.path.clone(), expected.clone());
                Err(FetchError::WrongHash { file, from: arrived.from, expected, found: arrived.found })
            }
            _ => Ok(arrived),
        }
    }

    fn ask_url(
        &self,
        entry: &Entry,
        url: &str,
        from: &str,
        expected: Hash,
        size: Option<u64>,
    ) -> Result<Arrived> {
        let part = self.part(entry, url);
        let resumed = part.exists();
        let found = self.download(entry, url, &part, size)?;
        let arrived =
            |found, expected| Arrived { part: part.clone(), found, expected, from: from.to_owned() };
        match self.arrived(entry, arrived(found, expected.clone())) {
            // The beginning may have been of another version of the file: once from the start, then.
            Err(FetchError::WrongHash { .. }) if resumed => {
                let found = self.download(entry, url, &part, size)?;
                self.arrived(entry, arrived(found, expected))
            }
            result => result,
        }
    }

    fn download(&self, entry: &Entry, url: &str, part: &Path, size: Option<u64>) -> Result<String> {
        let _permit = self.permits.take();
        self.doing(entry, &format!("downloading {url}"), size);
        let file = &entry.path;
        let mut advanced = |bytes| self.tell(Event::Advanced { file: file.clone(), bytes });
        let mut trouble = |what| self.tell(Event::Trouble { file: file.clone(), what });
        http::download(url, part, size, &mut advanced, &mut trouble)?;
        hash_file(part)
    }

    /// Fetches every package a source needs; the archives by name.
    fn fetch_packages(&self, entry: &Entry, source: &Source) -> Result<HashMap<String, PathBuf>> {
        let names = source.inputs.iter().flat_map(|input| &input.packages).cloned();
        let queue: Mutex<VecDeque<String>> = Mutex::new(names.collect());
        if locked(&queue).is_empty() {
            return Ok(HashMap::new());
        }
        let sizes = locked(&queue)
            .iter()
            .filter_map(|name| self.options.manifest.package(name))
            .map(|p| p.size)
            .sum();
        self.doing(entry, &format!("fetching {}", self.describe(source)), Some(sizes));
        let archives = Mutex::new(HashMap::new());
        let failed = Mutex::new(None);
        thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    loop {
                        let Some(name) = locked(&queue).pop_front() else { return };
                        match self.fetch_package(entry, &name) {
                            Ok(archive) => drop(locked(&archives).insert(name, archive)),
                            Err(err) => {
                                locked(&queue).clear();
                                locked(&failed).get_or_insert(err);
                            }
                        }
                    }
                });
            }
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(err) => Err(err),
            None => Ok(archives.into_inner().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    fn fetch_package(&self, entry: &Entry, name: &str) -> Result<PathBuf> {
        let package = self.options.manifest.package(name);
        let package = package.ok_or_else(|| FetchError::Manifest(format!("no package {name}")))?;
        let slot = locked(&self.packages).entry(name.to_owned()).or_default().clone();
        let mut slot = locked(&slot);
        let file = &entry.path;
        if let Some(archive) = slot.as_ref() {
            self.tell(Event::Advanced { file: file.clone(), bytes: package.size });
            return Ok(archive.clone());
        }
        let _permit = self.permits.take();
        let mut advanced = |bytes| self.tell(Event::Advanced { file: file.clone(), bytes });
        let mut trouble = |what| self.tell(Event::Trouble { file: file.clone(), what });
        let allow = self.options.allow_unverified;
        let archive = package::fetch(package, &self.work, allow, &mut advanced, &mut trouble)?;
        *slot = Some(archive.clone());
        Ok(archive)
    }

    /// Puts one input of a conversion into a file of its own.
    fn stage(&self, entry: &Entry, input: &Input, archives: &HashMap<String, PathBuf>) -> Result<PathBuf> {
        let path = self.part(entry, &format!("input {}", input.role));
        let (found, from) = match self.hub_url(input) {
            Some(url) => (self.download(entry, &url, &path, None)?, url),
            None => (self.unpack(input, archives, &path)?, input.packages.join(", ")),
        };
        match &input.sha256 {
            Some(Hash::Known(expected)) if *expected != found => {
                let _ = fs::remove_file(&path);
                let file = format!("{} ({})", entry.path, input.role);
                Err(FetchError::WrongHash { file, from, expected: expected.clone(), found })
            }
            _ => Ok(path),
        }
    }

    /// Joins the members of an input's packages into `part`; returns the hash of what is there then.
    fn unpack(&self, input: &Input, archives: &HashMap<String, PathBuf>, part: &Path) -> Result<String> {
        let member = input.member.as_deref().unwrap_or("*");
        let join = |out: &mut dyn Write| {
            input.packages.iter().try_for_each(|name| {
                let archive = archives.get(name).expect("every package of the source was fetched");
                package::copy_member(archive, member, &self.work, out)
            })
        };
        let Some(inner) = &input.zip_member else {
            return self.write(part, join).map(|((), found)| found);
        };
        let zip = part.with_extension("zip");
        self.write(&zip, join)?;
        let result = self.write(part, |out| package::copy_member(&zip, inner, &self.work, out));
        let _ = fs::remove_file(&zip);
        result.map(|((), found)| found)
    }

    fn convert(
        &self,
        entry: &Entry,
        convert: Option<Convert>,
        inputs: &[PathBuf],
        part: &Path,
    ) -> Result<String> {
        let fail = |err: ct2_ggml::ConvertError| match err {
            ct2_ggml::ConvertError::Io(err) => self.disk("converting", err),
            ct2_ggml::ConvertError::Bad(why) => FetchError::Convert { file: entry.path.clone(), why },
        };
        let result = self.write(part, |out| match (convert, inputs) {
            (Some(Convert::Ct2ToGgml), [model, mel, vocab]) => {
                ct2_ggml::convert(model, mel, vocab, Precision::F16, out).map_err(fail)
            }
            (Some(Convert::Ct2ToGgmlQ8), [model, mel, vocab]) => {
                ct2_ggml::convert(model, mel, vocab, Precision::Q8, out).map_err(fail)
            }
            (Some(Convert::SafetensorsToOnnx), [model]) => mpnet_onnx::convert(model, out).map_err(fail),
            _ => Err(FetchError::Manifest(format!("{}: inputs without a conversion", entry.path))),
        });
        result.map(|((), found)| found)
    }

    /// Writes a file anew through `fill`; what fails leaves no file.
    fn write<T>(&self, path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<(T, String)> {
        let what = format!("writing {}", path.display());
        let file = File::create(path).map_err(|err| self.disk(&what, err))?;
        let mut out = HashingWriter::new(BufWriter::with_capacity(1 << 20, file));
        let result = fill(&mut out).and_then(|value| {
            let (_, found, _) = out.finish().map_err(|err| self.disk(&what, err))?;
            Ok((value, found))
        });
        if result.is_err() {
            let _ = fs::remove_file(path);
        }
        result
    }

    fn disk(&self, what: &str, err: std::io::Error) -> FetchError {
        FetchError::io(&self.options.dir, what, err)
    }

    fn doing(&self, entry: &Entry, what: &str, total: Option<u64>) {
        self.tell(Event::Doing { file: entry.path.clone(), what: what.to_owned(), total });
    }

    /// Where a file grows; another source never goes on with what this one began.
    fn part(&self, entry: &Entry, from: &str) -> PathBuf {
        let tag = hex(&Sha256::digest(from))[..8].to_owned();
        self.work.join(format!("{}.{tag}.part", entry.path.replace('/', "+")))
    }

    fn hub_url(&self, input: &Input) -> Option<String> {
        let (hub, file, revision) = (input.hub.as_ref()?, input.file.as_ref()?, input.revision.as_ref()?);
        Some(format!("{}/{hub}/resolve/{revision}/{file}", self.options.hub.trim_end_matches('/')))
    }

    fn describe(&self, source: &Source) -> String {
        let manifest = &self.options.manifest;
        let packages = source.inputs.iter().flat_map(|input| &input.packages);
        let mut names: Vec<String> =
            packages.filter_map(|name| manifest.package(name)).map(package::describe).collect();
        names.extend(source.inputs.iter().filter_map(|input| self.hub_url(input)));
        names.dedup();
        match names.as_slice() {
            [first, .., _] if names.len() > 2 => format!("{first} and {} more", names.len() - 1),
            _ => names.join(" + "),
        }
    }
}
