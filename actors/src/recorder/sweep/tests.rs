#![allow(clippy::unwrap_used)]
use std::os::unix::fs::symlink;

use super::super::Writer;
use super::super::tests::{Folder, spec};
use super::*;
use crate::lane::Lane;

/// Records nothing for a caller whose retention is so many days, and completes it.
fn record(folder: &Folder, days: u32) -> SessionId {
    let id = SessionId::random();
    let mut writer = Writer::create(&folder.0, &id, &spec(days), Lane::new(1)).unwrap();
    writer.finish();
    id
}

/// A server's process dies while it records.
fn killed(folder: &Folder, days: u32) -> SessionId {
    let id = SessionId::random();
    drop(Writer::create(&folder.0, &id, &spec(days), Lane::new(1)).unwrap());
    id
}

fn file(folder: &Folder, id: &SessionId, ending: &str) -> PathBuf {
    folder.0.join(format!("{id}.{ending}"))
}

fn in_days(days: u64) -> SystemTime {
    SystemTime::now() + Duration::from_secs(days * DAY)
}

/// A sweep of the folder by a server that gives recordings thirty days.
fn sweep(folder: &Folder, now: SystemTime) -> Swept {
    Sweeper::new(folder.0.clone(), Retention { days: 30 }).sweep(now)
}

fn names(ids: &[&SessionId]) -> Vec<String> {
    let mut names: Vec<String> =
        ids.iter().flat_map(|id| [format!("{id}.json"), format!("{id}.wav")]).collect();
    names.sort();
    names
}

#[test]
fn a_recording_lives_to_its_last_second_and_no_longer() {
    let folder = Folder::new();
    let (short, long) = (record(&folder, 1), record(&folder, 7));
    let about: serde_json::Value =
        serde_json::from_slice(&fs::read(file(&folder, &short, "json")).unwrap()).unwrap();
    let due = UNIX_EPOCH + Duration::from_secs(about["delete_after_unix_s"].as_u64().unwrap());
    assert_eq!(sweep(&folder, due - Duration::from_secs(1)).deleted, 0);
    assert_eq!(folder.files(), names(&[&short, &long]));
    assert_eq!(sweep(&folder, due), Swept { looks: 4, deleted: 1, failed: 0 });
    assert_eq!(folder.files(), names(&[&long]));
    sweep(&folder, in_days(8));
    assert!(folder.files().is_empty());
    assert_eq!(sweep(&folder, in_days(9)), Swept::default());
}

#[test]
fn what_a_dead_server_left_goes_too() {
    let folder = Folder::new();
    // One may be kept for a week; of the next only the sound came to be, of the next only half of the sidecar
    // or a block of zeros; of the last the sound is gone already.
    let [week, bare, torn, zeros, rest] = std::array::from_fn(|_| killed(&folder, 7));
    // This one may not be kept at all, and nobody was there to see to it.
    let none = killed(&folder, 0);
    fs::remove_file(file(&folder, &bare, "json")).unwrap();
    let about = fs::read(file(&folder, &torn, "json")).unwrap();
    fs::write(file(&folder, &torn, "json"), &about[..about.len() / 2]).unwrap();
    fs::write(file(&folder, &zeros, "json"), [0; 512]).unwrap();
    fs::remove_file(file(&folder, &rest, "wav")).unwrap();
    assert_eq!(sweep(&folder, SystemTime::now()).deleted, 1);
    assert!(!file(&folder, &none, "wav").exists());
    assert_eq!(sweep(&folder, in_days(8)).deleted, 2);
    let mut left = names(&[&bare, &torn, &zeros]);
    left.retain(|name| *name != format!("{bare}.json"));
    assert_eq!(folder.files(), left, "{week} and {rest} were over");
    // What has no time of its own has this server's thirty days from its last sample.
    let old = File::options().write(true).open(file(&folder, &bare, "wav")).unwrap();
    old.set_modified(SystemTime::now() - Duration::from_secs(20 * DAY)).unwrap();
    assert_eq!(sweep(&folder, in_days(11)).deleted, 1);
    assert!(!file(&folder, &bare, "wav").exists());
    assert_eq!(sweep(&folder, in_days(31)).deleted, 2);
    assert!(folder.files().is_empty());
}

#[test]
fn what_is_not_ours_stays() {
    let (folder, elsewhere) = (Folder::new(), Folder::new());
    fs::create_dir_all(&folder.0).unwrap();
    let target = record(&elsewhere, 1);
    let [linked, rewritten, other, dir] = std::array::from_fn(|_| SessionId::random());
    // Links to a recording that is over: to both of its files by their own names, and to the sound by another.
    for (ending, name) in [("wav", &target), ("json", &target), ("wav", &linked)] {
        symlink(file(&elsewhere, &target, ending), file(&folder, name, ending)).unwrap();
    }
    // Sidecars that are whole and not what we write.
    let about = fs::read(file(&elsewhere, &target, "json")).unwrap();
    fs::write(file(&folder, &rewritten, "json"), about).unwrap();
    fs::write(file(&folder, &rewritten, "wav"), "").unwrap();
    fs::write(file(&folder, &other, "json"), "[]").unwrap();
    fs::create_dir(file(&folder, &dir, "wav")).unwrap();
    for name in ["sess_1.wav", "notes.json", "sess_0123456789abcdef0123456G.wav", ".viva-0"] {
        fs::write(folder.0.join(name), "").unwrap();
    }
    let before = folder.files();
    assert_eq!(sweep(&folder, in_days(10_000)), Swept { looks: before.len(), deleted: 0, failed: 0 });
    assert_eq!(folder.files(), before);
    assert_eq!(elsewhere.files(), names(&[&target]));
}

#[test]
fn a_sweep_is_bounded_and_the_next_goes_on() {
    let folder = Folder::new();
    let kept = record(&folder, 30);
    for _ in 0..DELETIONS_MAX + 10 {
        record(&folder, 1);
    }
    let mut sweeper = Sweeper::new(folder.0.clone(), Retention { days: 30 });
    assert_eq!(sweeper.sweep(in_days(2)).deleted, DELETIONS_MAX);
    assert_eq!(folder.files().len(), 2 * 11);
    assert_eq!(sweeper.sweep(in_days(2)).deleted, 10);
    assert_eq!(folder.files(), names(&[&kept]));
    // Files that stay, as many as a sweep looks at, hide nothing from the one after it.
    for _ in 0..LOOKS_MAX {
        fs::write(folder.0.join(SessionId::random().0), "").unwrap();
    }
    let (first, second) = (sweeper.sweep(in_days(31)), sweeper.sweep(in_days(31)));
    // Of the one that is gone, the second file's entry may or may not come up.
    assert!(first.looks == LOOKS_MAX && second.looks <= 2, "{first:?}, then {second:?}");
    assert_eq!((first.deleted + second.deleted, second.failed), (1, 0));
}

#[test]
fn what_cannot_be_deleted_is_counted_and_tried_again() {
    let folder = Folder::new();
    fs::write(&folder.0, "no folder").unwrap();
    assert_eq!(sweep(&folder, in_days(1)), Swept { looks: 0, deleted: 0, failed: 1 });
    fs::remove_file(&folder.0).unwrap();
    assert_eq!(sweep(&folder, in_days(1)), Swept::default(), "nothing was ever recorded");
}
