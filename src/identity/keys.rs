//! API keys in a file: made, shown once, listed and revoked by `viva keys`, read by the server.
//!
//! A key is 192 random bits, so its SHA-256 tells nothing of it, and needs neither salt nor work. The server looks at
//! the file at most once a second and reads it again when it has changed: a revoked key is worthless by then.

use std::fs::{self, File, Metadata};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use viva_actors::types::{Principal, Tier};

/// What every API key begins with.
pub const PREFIX: &str = "sk-viva-";

/// Keys of one file. All of them are compared with what is presented, at some nanoseconds each.
pub const KEYS_MAX: usize = 10_000;

/// Bytes of a name, a tenant or a user.
pub const NAME_MAX: usize = 128;

/// How often the server looks whether the file has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is known of a key. Not the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    /// What it is called when it is revoked.
    pub id: String,
    /// What its owner calls it.
    pub name: String,
    /// The customer.
    pub tenant: String,
    /// Their name for whoever holds it.
    pub user: String,
    /// What they may have.
    pub tier: Tier,
    /// When it was made, seconds since 1970.
    pub created: u64,
    /// SHA-256 of the key, hexadecimal.
    pub sha256: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    #[serde(default)]
    key: Vec<KeyEntry>,
}

/// What is wrong with the file, or with what should go into it.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It cannot be read or written.
    #[error("the keys in {path}: {error}", path = path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is damaged.
    #[error("{path} is not a file of keys: {why}", path = path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        why: String,
    },
    /// There are too many.
    #[error("there are {KEYS_MAX} keys already; revoke some with viva keys revoke")]
    Full,
    /// A name that is empty or too long.
    #[error("a name has 1 to {NAME_MAX} bytes")]
    Name,
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

/// All keys of a file; none where there is no file yet.
pub fn list(path: &Path) -> Result<Vec<KeyEntry>, KeyError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(KeyError::Io { path: path.to_owned(), error }),
    };
    let damaged = |why: String| KeyError::Damaged { path: path.to_owned(), why };
    let content: Content = toml::from_str(&text).map_err(|error| damaged(error.message().to_owned()))?;
    if let Some(bad) = content.key.iter().find(|entry| unhex(&entry.sha256).is_none()) {
        return Err(damaged(format!("the key {} has no SHA-256", bad.id)));
    }
    Ok(content.key)
}

/// Makes a key. It is returned beside its entry, and never again.
pub fn add(path: &Path, name: &str, principal: &Principal) -> Result<(KeyEntry, String), KeyError> {
    let names = [name, &principal.tenant, &principal.user];
    if names.iter().any(|name| name.trim().is_empty() || name.len() > NAME_MAX) {
        return Err(KeyError::Name);
    }
    let _lock = lock(path)?;
    let mut keys = list(path)?;
    if keys.len() >= KEYS_MAX {
        return Err(KeyError::Full);
    }
    let key = format!("{PREFIX}{:032x}{:016x}", rand::random::<u128>(), rand::random::<u64>());
    let entry = KeyEntry {
        id: format!("key_{:012x}", rand::random::<u64>() >> 16),
        name: name.to_owned(),
        tenant: principal.tenant.clone(),
        user: principal.user.clone(),
        tier: principal.tier,
        created: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        sha256: hex(&digest(&key)),
    };
    keys.push(entry.clone());
    write(path, keys)?;
    Ok((entry, key))
}

/// Makes a key worthless. False where there is none of that name.
pub fn revoke(path: &Path, id: &str) -> Result<bool, KeyError> {
    let _lock = lock(path)?;
    let mut keys = list(path)?;
    let before = keys.len();
    keys.retain(|entry| entry.id != id);
    let found = keys.len() < before;
    if found {
        write(path, keys)?;
    }
    Ok(found)
}

/// Two who change the file do it one after the other.
fn lock(path: &Path) -> Result<File, KeyError> {
    let io = |error| KeyError::Io { path: path.to_owned(), error };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(io)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock = File::create(name).map_err(io)?;
    lock.lock().map_err(io)?;
    Ok(lock)
}

/// Puts another file in the old one's place, which only its owner may read.
fn write(path: &Path, key: Vec<KeyEntry>) -> Result<(), KeyError> {
    let io = |error| KeyError::Io { path: path.to_owned(), error };
    let text = toml::to_string(&Content { key })
        .map_err(|error| KeyError::Damaged { path: path.to_owned(), why: error.to_string() })?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut fresh = tempfile::NamedTempFile::new_in(folder).map_err(io)?;
    fresh.write_all(text.as_bytes()).map_err(io)?;
    fresh.as_file().set_permissions(fs::Permissions::from_mode(0o600)).map_err(io)?;
    fresh.as_file().sync_all().map_err(io)?;
    fresh.persist(path).map_err(|error| io(error.error))?;
    Ok(())
}

/// The keys, as the server knows them.
pub struct KeyFile {
    path: PathBuf,
    known: Mutex<Known>,
}

struct Known {
    keys: Vec<([u8; 32], Principal)>,
    stamp: Option<(SystemTime, u64)>,
    looked: Instant,
}

/// When it was written and how long it is; none where it is not there.
fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let of = |meta: Metadata| Some((meta.modified().ok()?, meta.len()));
    fs::metadata(path).ok().and_then(of)
}

fn principals(path: &Path) -> Result<Vec<([u8; 32], Principal)>, KeyError> {
    let whose = |entry: KeyEntry| {
        let principal = Principal { tenant: entry.tenant, user: entry.user, tier: entry.tier };
        Some((unhex(&entry.sha256)?, principal))
    };
    Ok(list(path)?.into_iter().filter_map(whose).collect())
}

impl KeyFile {
    /// Reads it. One that is not there yet has no keys.
    pub fn open(path: PathBuf) -> Result<Self, KeyError> {
        let stamp = stamp(&path);
        let keys = principals(&path)?;
        Ok(Self { path, known: Mutex::new(Known { keys, stamp, looked: Instant::now() }) })
    }

    /// Whose key this is. Takes as long whichever it is, and whether it is one.
    pub fn find(&self, key: &str) -> Option<Principal> {
        let digest = digest(key);
        let known = self.known();
        let mut found = None;
        for (kept, principal) in &known.keys {
            if bool::from(kept.ct_eq(&digest)) {
                found = Some(principal);
            }
        }
        found.cloned()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.known().keys.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is in the file, at most a second ago. A file that is damaged meanwhile keeps those who were in.
    fn known(&self) -> MutexGuard<'_, Known> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.looked.elapsed() < LOOK_EVERY {
            return known;
        }
        known.looked = Instant::now();
        let stamp = stamp(&self.path);
        if stamp != known.stamp {
            match principals(&self.path) {
                Ok(keys) => {
                    tracing::info!(keys = keys.len(), "the keys were read again");
                    (known.keys, known.stamp) = (keys, stamp);
                }
                Err(error) => {
                    tracing::error!(%error, "the keys were changed and cannot be read; the old ones stay")
                }
            }
        }
        known
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn principal(user: &str) -> Principal {
        Principal { tenant: "acme".into(), user: user.into(), tier: Tier::Pro }
    }

    #[test]
    fn a_key_is_good_until_it_is_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/keys.toml");
        let (entry, key) = add(&path, "site", &principal("ann")).unwrap();
        let (_, other) = add(&path, "test", &principal("bob")).unwrap();
        assert!(key.starts_with(PREFIX) && key.len() == PREFIX.len() + 48 && key != other);
        let file = KeyFile::open(path.clone()).unwrap();
        assert_eq!(file.find(&key), Some(principal("ann")));
        assert_eq!(file.find(&other), Some(principal("bob")));
        assert_eq!(file.find(&key[..key.len() - 1]), None);
        assert!(revoke(&path, &entry.id).unwrap());
        assert!(!revoke(&path, &entry.id).unwrap());
        file.known.lock().unwrap().looked -= LOOK_EVERY;
        assert_eq!((file.find(&key), file.len()), (None, 1));
    }

    #[test]
    fn the_file_holds_no_key_and_is_its_owners() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        let (_, key) = add(&path, "site", &principal("ann")).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&key[PREFIX.len()..]), "{text}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_is_refused_at_the_start_and_survived_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        let (_, key) = add(&path, "site", &principal("ann")).unwrap();
        let file = KeyFile::open(path.clone()).unwrap();
        fs::write(&path, "key = 3").unwrap();
        assert!(matches!(KeyFile::open(path), Err(KeyError::Damaged { .. })));
        file.known.lock().unwrap().looked -= LOOK_EVERY;
        assert_eq!(file.find(&key), Some(principal("ann")));
    }

    #[test]
    fn names_have_their_length() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        for name in ["", " ", &"x".repeat(NAME_MAX + 1)] {
            assert!(matches!(add(&path, name, &principal("a")), Err(KeyError::Name)));
            assert!(matches!(add(&path, "n", &principal(name)), Err(KeyError::Name)));
        }
        assert!(add(&path, &"x".repeat(NAME_MAX), &principal("a")).is_ok());
    }
}
