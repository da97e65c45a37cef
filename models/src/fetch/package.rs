//! Packages that carry weights: fetched by their registries' own clients, never installed, never run.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use zip::ZipArchive;

use super::http::Backoff;
use super::manifest::{Hash, Package, Registry};
use super::{FetchError, Result, hash_file};

/// Times a client is started for one package; pip itself retries each connection five times.
const ATTEMPTS_MAX: u32 = 4;
/// A client that brings no byte for so long has hung.
const STALL_MAX: Duration = Duration::from_secs(180);
/// How often a running client is looked after.
const POLL: Duration = Duration::from_millis(100);
/// The wheels of the manifest are chosen for this Python, whatever Python runs pip: the one Debian 12 has.
const PYTHON: &str = "3.11";
/// And for this platform, the only one the manifest's native library was hashed for.
const PLATFORM: &str = "manylinux_2_28_x86_64";
/// Bytes of a client's complaints that are kept: the reason stands at their end.
const SAID_MAX: usize = 16 * 1024;
/// Members one archive may have; the largest wheel of the manifest has a thousand.
const MEMBERS_MAX: usize = 100_000;

/// Fetches a package into `dir` and returns its archive. One that lies there with the right hash is taken
/// as it is. `advanced` hears of bytes as they arrive, `trouble` of attempts that failed.
pub(super) fn fetch(
    package: &Package,
    dir: &Path,
    allow_unverified: bool,
    advanced: &mut dyn FnMut(u64),
    trouble: &mut dyn FnMut(String),
) -> Result<PathBuf> {
    let home = dir.join(format!("{}-{}", package.name.replace('/', "+"), package.version));
    let from = describe(package);
    if package.sha256 == Hash::Unverified && !allow_unverified {
        return Err(FetchError::Unverified { file: from.clone(), from });
    }
    if let Some(archive) = only_archive(&home) {
        if check(package, &archive).is_ok() {
            advanced(package.size);
            return Ok(archive);
        }
        // Half a download of an earlier pull, or not what it should be.
        let _ = fs::remove_dir_all(&home);
    }
    let mut backoff = Backoff::new();
    let mut attempts = 0;
    let archive = loop {
        attempts += 1;
        match run_client(package, &home, advanced) {
            Ok(()) => {
                let gone = || FetchError::Network { from: from.clone(), why: "no archive came".to_owned() };
                break only_archive(&home).ok_or_else(gone)?;
            }
            Err(FetchError::Network { why, .. }) if attempts < ATTEMPTS_MAX => {
                trouble(format!("{from}: {why}; trying again"));
                backoff.wait();
            }
            Err(err) => return Err(err),
        }
    };
    if let Err(err) = check(package, &archive) {
        let _ = fs::remove_dir_all(&home);
        return Err(err);
    }
    Ok(archive)
}

/// The name a person would look a package up by.
pub(super) fn describe(package: &Package) -> String {
    match package.registry {
        Registry::Pip => format!("PyPI {} {}", package.name, package.version),
        Registry::Npm => format!("npm {} {}", package.name, package.version),
    }
}

fn check(package: &Package, archive: &Path) -> Result<()> {
    let Hash::Known(expected) = &package.sha256 else { return Ok(()) };
    let found = hash_file(archive)?;
    if *expected == found {
        return Ok(());
    }
    let name = archive.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Err(FetchError::WrongHash { file: name, from: describe(package), expected: expected.clone(), found })
}

fn only_archive(home: &Path) -> Option<PathBuf> {
    let mut files = fs::read_dir(home).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    files.find(|path| path.extension().is_some_and(|end| end == "whl" || end == "tgz"))
}

/// Runs pip or npm once; what it says on standard error becomes our error.
fn run_client(package: &Package, home: &Path, advanced: &mut dyn FnMut(u64)) -> Result<()> {
    let scratch = home.join("tmp");
    let disk = |err| FetchError::io(home, format!("preparing {}", home.display()), err);
    fs::create_dir_all(&scratch).map_err(disk)?;
    let exact = |joint: &str| format!("{}{joint}{}", package.name, package.version);
    let mut command = match package.registry {
        Registry::Pip => {
            let python = std::env::var_os("VIVA_PYTHON").unwrap_or_else(|| "python3".into());
            let mut command = Command::new(python);
            command.args(["-m", "pip", "download", "-q", "--no-deps", "--no-cache-dir", "--no-input"]);
            command.args(["--disable-pip-version-check", "--progress-bar", "off"]);
            command.args(["--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHON]);
            command.args(["--platform", PLATFORM, "-d"]).arg(home).arg(exact("=="));
            command
        }
        Registry::Npm => {
            let mut command = Command::new("npm");
            command.args(["pack", "--silent", "--pack-destination"]).arg(home).arg(exact("@"));
            command
        }
    };
    command.env("TMPDIR", &scratch).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let missing = |err: io::Error| {
        let (client, package) = client_of(package.registry);
        FetchError::NoClient(format!("{client} cannot be started ({err}): apt-get install {package}"))
    };
    let mut child = command.spawn().map_err(missing)?;
    let errors = child.stderr.take();
    let (status, said) = thread::scope(|scope| {
        // Read beside it: a full pipe would stop the client, and a file could not be written on a full disk.
        let said = scope.spawn(|| errors.map(read_tail).unwrap_or_default());
        let status = watch(&mut child, home, package.size, advanced);
        (status, said.join().unwrap_or_default())
    });
    let _ = fs::remove_dir_all(&scratch);
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(explain(package, home, &status.to_string(), &said)),
        Err(why) => Err(FetchError::Network { from: describe(package), why }),
    }
}

/// The end of what a client says.
fn read_tail(mut from: impl Read) -> String {
    let mut tail = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        tail.extend_from_slice(&chunk[..count]);
        let surplus = tail.len().saturating_sub(SAID_MAX);
        tail.drain(..surplus);
    }
    String::from_utf8_lossy(&tail).into_owned()
}

fn client_of(registry: Registry) -> (&'static str, &'static str) {
    match registry {
        Registry::Pip => ("python3 -m pip", "python3-pip"),
        Registry::Npm => ("npm", "npm"),
    }
}

/// Waits for a client and reports what grows in its folder; ends one that has hung.
fn watch(
    child: &mut Child,
    home: &Path,
    whole: u64,
    advanced: &mut dyn FnMut(u64),
) -> std::result::Result<ExitStatus, String> {
    let (mut reported, mut last) = (0, Instant::now());
    loop {
        let ended = child.try_wait().map_err(|err| err.to_string())?;
        // For a moment pip has both its temporary file and its copy: no more than the whole counts.
        let size = folder_size(home, 3).min(whole);
        if size > reported {
            advanced(size - reported);
            (reported, last) = (size, Instant::now());
        }
        if let Some(status) = ended {
            return Ok(status);
        }
        if last.elapsed() > STALL_MAX {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("nothing came for {} s", STALL_MAX.as_secs()));
        }
        thread::sleep(POLL);
    }
}

/// Bytes of the files in a folder, so many folders deep (pip's temporary file lies two down).
fn folder_size(dir: &Path, depth: u32) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().filter_map(|entry| entry.ok());
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() && depth > 0 => folder_size(&entry.path(), depth - 1),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}

/// Tells from what a client said who should act.
fn explain(package: &Package, home: &Path, status: &str, said: &str) -> FetchError {
    let from = describe(package);
    let mut errors = said.lines().filter(|line| line.to_lowercase().contains("err"));
    let why = errors.next_back().or(said.lines().next_back()).unwrap_or(status).trim().to_owned();
    let has = |text: &str| said.contains(text);
    if has("No module named pip") {
        return FetchError::NoClient("python3 has no pip: apt-get install python3-pip".to_owned());
    }
    if has("No space left") || has("ENOSPC") {
        return FetchError::DiskFull { dir: home.to_owned() };
    }
    // pip says "no matching distribution" of a network that fails, too; then it warned of retries before.
    let refused = has("No matching distribution") || has("E404") || has("ETARGET");
    if refused && !has("Retrying") && !has("Connection") {
        return FetchError::Vanished { from, why };
    }
    FetchError::Network { from, why }
}

/// Copies the one member of an archive that `pattern` names into `out`, a file below `dir`.
pub(super) fn copy_member(archive: &Path, pattern: &str, dir: &Path, out: &mut dyn Write) -> Result<()> {
    let from = archive.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let fail = |why: String| FetchError::Archive { from: from.clone(), why };
    let glob = glob::Pattern::new(pattern).map_err(|err| fail(format!("{pattern}: {err}")))?;
    if archive.extension().is_some_and(|end| end == "tgz") {
        return copy_tar_member(archive, &glob, dir, out, &fail);
    }
    copy_zip_member(archive, &glob, dir, out, &fail)
}

fn copy_zip_member(
    archive: &Path,
    glob: &glob::Pattern,
    dir: &Path,
    out: &mut dyn Write,
    fail: &dyn Fn(String) -> FetchError,
) -> Result<()> {
    let file = File::open(archive).map_err(|err| fail(err.to_string()))?;
    let mut zip = ZipArchive::new(io::BufReader::new(file)).map_err(|err| fail(err.to_string()))?;
    if zip.len() > MEMBERS_MAX {
        return Err(fail(format!("{} members", zip.len())));
    }
    let names: Vec<String> = zip.file_names().filter(|name| glob.matches(name)).map(str::to_owned).collect();
    let [name] = names.as_slice() else {
        return Err(fail(format!("{} members match {glob} instead of one", names.len())));
    };
    let mut member = zip.by_name(name).map_err(|err| fail(err.to_string()))?;
    copy(&mut member, dir, out, fail)
}

fn copy_tar_member(
    archive: &Path,
    glob: &glob::Pattern,
    dir: &Path,
    out: &mut dyn Write,
    fail: &dyn Fn(String) -> FetchError,
) -> Result<()> {
    let file = File::open(archive).map_err(|err| fail(err.to_string()))?;
    let mut tar = tar::Archive::new(GzDecoder::new(io::BufReader::new(file)));
    for entry in tar.entries().map_err(|err| fail(err.to_string()))?.take(MEMBERS_MAX) {
        let mut entry = entry.map_err(|err| fail(err.to_string()))?;
        if entry.path().is_ok_and(|path| glob.matches_path(&path)) {
            return copy(&mut entry, dir, out, fail);
        }
    }
    Err(fail(format!("no member matches {glob}")))
}

/// Copies and keeps apart who failed: the archive, or the disk written to.
fn copy(
    from: &mut dyn Read,
    dir: &Path,
    out: &mut dyn Write,
    fail: &dyn Fn(String) -> FetchError,
) -> Result<()> {
    let mut chunk = vec![0; 256 * 1024];
    loop {
        let count = from.read(&mut chunk).map_err(|err| fail(err.to_string()))?;
        if count == 0 {
            return Ok(());
        }
        out.write_all(&chunk[..count]).map_err(|err| FetchError::io(dir, "unpacking", err))?;
    }
}
