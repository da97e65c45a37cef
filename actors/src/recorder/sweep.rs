//! Deletes recordings whose time is over.
//!
//! *Input:* the recordings folder and the wall clock. *Output:* recordings that are gone, sound first, then the
//! sidecar, which knows the time: a sweep that is cut off leaves what the next one needs. *Bound:*
//! [`LOOKS_MAX`] files looked at and [`DELETIONS_MAX`] recordings deleted in a sweep; the next one goes on where
//! this one stopped, so that it comes by everything. *When something cannot be deleted* it is logged, counted, and tried again in the next pass.
//!
//! A recording's time stands in its sidecar. Where the server died between the two files, or in mid-sidecar,
//! there is none to read: then what lies there has as long as this server gives its recordings, from the time
//! it was last written. Everything else in the folder is not ours and stays: other names, folders, links, and a
//! sidecar that somebody rewrote as another's.
//!
//! Nothing that still runs is in danger: it is far younger than a day. Only what may be kept for no time at all
//! can lose its name while it is written, and loses its content when it ends.

use std::fs::{self, File, ReadDir};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use tokio::time::{MissedTickBehavior, interval};

use super::{DAY, HOURS_MAX};
use crate::metrics as m;
use crate::types::{Retention, SessionId};

/// How often a sweep runs. Retention counts in days, so minutes late is on time.
const EVERY: Duration = Duration::from_secs(5 * 60);

/// Files one sweep looks at: some 50 ms of work. A folder of a hundred thousand is through in two hours.
const LOOKS_MAX: usize = 4096;

/// Recordings one sweep deletes, since a file of a gigabyte may keep a disk busy for a second: 18,000 a day, more
/// than any one server makes.
const DELETIONS_MAX: usize = 64;

/// Bytes of a sidecar that are read: ours have less than one KiB.
const SIDECAR_MAX: u64 = 64 * 1024;

const _: () = assert!(HOURS_MAX * 3600 < DAY, "what still runs is younger than the shortest retention");

/// Sweeps one folder.
pub struct Sweeper {
    folder: PathBuf,
    retention: Retention,
    /// Where the next sweep goes on; none begins a new pass.
    pass: Option<ReadDir>,
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Directory entries looked at.
    pub looks: usize,
    /// Recordings deleted, each with all of its files.
    pub deleted: usize,
    /// What could not be read or deleted.
    pub failed: usize,
}

impl Sweeper {
    /// A sweeper of this folder, where what has no sidecar may lie for `retention`.
    pub fn new(folder: PathBuf, retention: Retention) -> Self {
        Self { folder, retention, pass: None }
    }

    /// Deletes what is due at `now`, within the bounds of one sweep. Blocks.
    pub fn sweep(&mut self, now: SystemTime) -> Swept {
        let now_s = unix_s(now);
        let mut swept = Swept::default();
        let mut pass = match self.pass.take().map_or_else(|| fs::read_dir(&self.folder), Ok) {
            Ok(pass) => pass,
            // Nothing was ever recorded.
            Err(error) if error.kind() == ErrorKind::NotFound => return swept,
            Err(error) => {
                self.failed(&self.folder, &error, &mut swept);
                return swept;
            }
        };
        while swept.looks < LOOKS_MAX && swept.deleted < DELETIONS_MAX {
            let name = match pass.next() {
                None => return self.done(swept),
                Some(Ok(entry)) => entry.file_name(),
                Some(Err(error)) => {
                    self.failed(&self.folder, &error, &mut swept);
                    return self.done(swept);
                }
            };
            swept.looks += 1;
            let Some(id) = name.to_str().and_then(session_of) else { continue };
            match self.delete_if_due(&id, now_s) {
                Ok(deleted) => swept.deleted += usize::from(deleted),
                Err(error) => self.failed(&self.folder.join(&name), &error, &mut swept),
            }
        }
        self.pass = Some(pass);
        self.done(swept)
    }

    /// Whether this recording was due and is gone.
    fn delete_if_due(&self, id: &SessionId, now_s: u64) -> io::Result<bool> {
        let (sound, sidecar) =
            (self.folder.join(format!("{id}.wav")), self.folder.join(format!("{id}.json")));
        let last_written = [written_s(&sound)?, written_s(&sidecar)?];
        // Both are gone with the other's entry, or one of them is no plain file.
        let Some(last_s) = last_written.iter().flatten().max() else { return Ok(false) };
        let due_s = match kept_until(&sidecar, id, last_written[1].is_some())? {
            Kept::Until(due_s) => due_s,
            Kept::Unsaid => last_s.saturating_add(u64::from(self.retention.days) * DAY),
            Kept::NotOurs => return Ok(false),
        };
        if now_s < due_s {
            return Ok(false);
        }
        let there = [(sound, last_written[0]), (sidecar, last_written[1])];
        for file in there.into_iter().filter_map(|(file, written)| written.map(|_| file)) {
            match fs::remove_file(file) {
                // Another server with the same folder was quicker.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                done => done?,
            }
        }
        Ok(true)
    }

    fn failed(&self, what: &Path, error: &io::Error, swept: &mut Swept) {
        tracing::error!(path = %what.display(), %error, "a recording whose time may be over cannot be deleted");
        swept.failed += 1;
    }

    fn done(&self, swept: Swept) -> Swept {
        metrics::counter!(m::RECORDINGS_DELETED).increment(swept.deleted as u64);
        metrics::counter!(m::RECORDING_DELETIONS_FAILED).increment(swept.failed as u64);
        if swept.deleted > 0 {
            // The deletion itself must outlive a power cut.
            if let Err(error) = File::open(&self.folder).and_then(|folder| folder.sync_all()) {
                tracing::warn!(%error, "deleted recordings may come back if the power fails now");
            }
            let (deleted, looks) = (swept.deleted, swept.looks);
            tracing::info!(deleted, looks, "recordings whose time was over were deleted");
        }
        swept
    }
}

/// Sweeps at once and then every few minutes, for as long as it is polled.
pub async fn keep_sweeping(folder: PathBuf, retention: Retention) {
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sweeper = Sweeper::new(folder.clone(), retention);
    loop {
        tick.tick().await;
        let sweep = move || {
            sweeper.sweep(SystemTime::now());
            sweeper
        };
        sweeper = match tokio::task::spawn_blocking(sweep).await {
            Ok(sweeper) => sweeper,
            Err(error) => {
                tracing::error!(%error, "a sweep of the recordings failed; the next one begins anew");
                Sweeper::new(folder.clone(), retention)
            }
        };
    }
}

/// What a sidecar says of its recording.
enum Kept {
    Until(u64),
    /// There is none, or it is no JSON: the power went while it was written.
    Unsaid,
    /// It is whole, and not what we write.
    NotOurs,
}

fn kept_until(sidecar: &Path, id: &SessionId, there: bool) -> io::Result<Kept> {
    #[derive(Deserialize)]
    struct About {
        session: SessionId,
        delete_after_unix_s: u64,
    }
    if !there {
        return Ok(Kept::Unsaid);
    }
    let mut bytes = Vec::new();
    File::open(sidecar)?.take(SIDECAR_MAX).read_to_end(&mut bytes)?;
    Ok(match serde_json::from_slice::<About>(&bytes) {
        Ok(about) if about.session == *id => Kept::Until(about.delete_after_unix_s),
        Ok(_) => Kept::NotOurs,
        Err(error) if error.is_data() || bytes.len() as u64 == SIDECAR_MAX => Kept::NotOurs,
        Err(_) => Kept::Unsaid,
    })
}

/// The session whose file this is, if it has a name as ours have (see [`SessionId::random`]).
fn session_of(name: &str) -> Option<SessionId> {
    let id = name.strip_suffix(".wav").or_else(|| name.strip_suffix(".json"))?;
    let digits = id.strip_prefix("sess_")?;
    let ours = digits.len() == 24 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    ours.then(|| SessionId(id.to_owned()))
}

/// When a plain file was last written; none where there is none. Links are not followed.
fn written_s(path: &Path) -> io::Result<Option<u64>> {
    match fs::symlink_metadata(path) {
        Ok(about) if about.is_file() => Ok(Some(unix_s(about.modified()?))),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn unix_s(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
#[path = "sweep/tests.rs"]
mod tests;
