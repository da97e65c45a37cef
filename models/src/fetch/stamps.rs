//! What was hashed when: a file whose length and time are as they were is not read again.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

/// Where the stamps lie in the models folder.
const FILE: &str = ".verified.json";

/// Paths of the manifest with what is known of the files there.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Stamps(BTreeMap<String, Stamp>);

#[derive(Debug, Serialize, Deserialize)]
struct Stamp {
    size: u64,
    mtime_ns: u64,
    /// SHA-256 of a file the manifest had no hash for, as it came.
    unverified: Option<String>,
}

impl Stamps {
    /// Reads the stamps; none when there are none or they make no sense.
    pub(super) fn read(dir: &Path) -> Self {
        let text = fs::read(dir.join(FILE)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        io::Write::write_all(&mut file, &text)?;
        file.persist(dir.join(FILE)).map(drop).map_err(|err| err.error)
    }

    /// Whether the file was good when it had this length and time.
    pub(super) fn is_good(&self, path: &str, file: &Path) -> bool {
        let stamp = self.0.get(path).filter(|stamp| stamp.unverified.is_none());
        stamp.is_some_and(|stamp| stat(file).is_some_and(|now| now == (stamp.size, stamp.mtime_ns)))
    }

    /// Whether the file is what came from a source without a hash.
    pub(super) fn is_as_pulled(&self, path: &str, file: &Path) -> bool {
        let stamp = self.0.get(path).filter(|stamp| stamp.unverified.is_some());
        stamp.is_some_and(|stamp| stat(file).is_some_and(|now| now == (stamp.size, stamp.mtime_ns)))
    }

    pub(super) fn unverified_size(&self, path: &str) -> Option<u64> {
        self.0.get(path).filter(|stamp| stamp.unverified.is_some()).map(|stamp| stamp.size)
    }

    pub(super) fn unverified_hash(&self, path: &str) -> Option<&str> {
        self.0.get(path).and_then(|stamp| stamp.unverified.as_deref())
    }

    pub(super) fn set_good(&mut self, path: &str, file: &Path) {
        self.set(path, file, None);
    }

    pub(super) fn set_unverified(&mut self, path: &str, file: &Path, sha256: String) {
        self.set(path, file, Some(sha256));
    }

    pub(super) fn forget(&mut self, path: &str) {
        self.0.remove(path);
    }

    fn set(&mut self, path: &str, file: &Path, unverified: Option<String>) {
        match stat(file) {
            Some((size, mtime_ns)) => {
                self.0.insert(path.to_owned(), Stamp { size, mtime_ns, unverified });
            }
            None => self.forget(path),
        }
    }
}

fn stat(file: &Path) -> Option<(u64, u64)> {
    let meta = fs::metadata(file).ok()?;
    let since = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((meta.len(), u64::try_from(since.as_nanos()).ok()?))
}
