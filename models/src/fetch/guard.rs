//! What pulls hold: the folder, against each other, and the right to download, among their workers.

use std::fs::{File, TryLockError};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::progress::{Event, Progress};
use super::pull::PullOptions;
use super::{FetchError, Result};

/// How often a pull that waits looks whether the other one is done.
const LOCK_POLL: Duration = Duration::from_millis(200);

/// Takes the folder's lock, which ends with the process if it must.
pub(super) fn lock(options: &PullOptions, progress: &mut dyn Progress) -> Result<File> {
    let path = options.dir.join(".lock");
    let disk = |err| FetchError::io(&options.dir, format!("locking {}", path.display()), err);
    let file = File::options().create(true).append(true).open(&path).map_err(disk)?;
    let began = Instant::now();
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(err)) => return Err(disk(err)),
            Err(TryLockError::WouldBlock) if began.elapsed() >= options.lock_wait => {
                let waited_s = began.elapsed().as_secs();
                return Err(FetchError::Locked { dir: options.dir.clone(), waited_s });
            }
            Err(TryLockError::WouldBlock) => {
                if !told {
                    progress.on(&Event::WaitingForLock);
                    told = true;
                }
                thread::sleep(LOCK_POLL);
            }
        }
    }
}

/// A mutex's content, also after another worker panicked: each of them leaves it whole.
pub(super) fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many downloads may start now.
pub(super) struct Permits {
    free: Mutex<usize>,
    returned: Condvar,
}

pub(super) struct Permit<'a>(&'a Permits);

impl Permits {
    pub(super) fn new(count: usize) -> Self {
        Self { free: Mutex::new(count), returned: Condvar::new() }
    }

    pub(super) fn take(&self) -> Permit<'_> {
        let free = locked(&self.free);
        let mut free =
            self.returned.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Permit(self)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *locked(&self.0.free) += 1;
        self.0.returned.notify_one();
    }
}
