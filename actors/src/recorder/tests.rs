#![allow(clippy::unwrap_used)]
use super::*;
use crate::testkit::tone;
use crate::types::{Consent, Retention};

/// Samples of the file in a millisecond.
const MS: usize = SPEAK_RATE as usize / 1000;

/// Plays a call of so many windows; `ours` says what is sent after each. Gives both sides.
fn record(
    windows: u64,
    loud: std::ops::Range<u64>,
    mut ours: impl FnMut(u64) -> Vec<(MediaTime, Vec<i16>)>,
) -> (Vec<i16>, Vec<i16>) {
    let mut timeline = Timeline::new().unwrap();
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let mut take = |timeline: &mut Timeline, behind| {
        while let Some((l, r)) = timeline.take(behind) {
            left.push(l);
            right.push(r);
        }
    };
    for window in 0..windows {
        let level = if loud.contains(&window) { 0.5 } else { 0.0 };
        timeline.caller(&[level; VAD_WINDOW]);
        for (at, frame) in ours(window) {
            timeline.ours(at, &frame);
        }
        take(&mut timeline, BEHIND);
    }
    timeline.end();
    take(&mut timeline, 0);
    (left, right)
}

fn clock(windows: u64) -> MediaTime {
    MediaTime(windows * VAD_WINDOW as u64)
}

fn frame() -> Vec<i16> {
    vec![9000; OUT_FRAME]
}

/// First and last sample that sounds, in milliseconds.
fn sounding(side: &[i16]) -> (usize, usize) {
    let loud = |s: &i16| s.unsigned_abs() > 4000;
    let first = side.iter().position(loud).expect("it sounds");
    let last = side.iter().rposition(loud).expect("it sounds");
    (first / MS, last / MS)
}

fn silent_samples(side: &[i16]) -> usize {
    let first = side.iter().position(|s| *s != 0).unwrap();
    let last = side.iter().rposition(|s| *s != 0).unwrap();
    side[first..=last].iter().filter(|s| **s == 0).count()
}

#[test]
fn both_sides_stand_where_they_were_on_the_media_clock() {
    // The caller speaks from 320 to 1280 ms; we answer at 1600 ms with ten frames.
    let (left, right) =
        record(
            100,
            10..40,
            |window| {
                if (50..60).contains(&window) { vec![(clock(window), frame())] } else { vec![] }
            },
        );
    assert_eq!(left.len(), 100 * VAD_WINDOW * 3 / 2, "as long as what the caller sent");
    assert_eq!(left.len(), right.len());
    let (from, to) = sounding(&left);
    assert!(from.abs_diff(320) <= 1 && to.abs_diff(1280) <= 1, "{from}..{to}");
    assert_eq!(sounding(&right).0, 1600);
}

#[test]
fn our_voice_is_not_torn_by_a_clock_that_moves_in_steps_and_late() {
    // 50 frames in real time from 2 s on; the clock stands still for 200 ms in the middle and then jumps.
    let mut sent = 0;
    let (_, right) = record(200, 0..0, |window| {
        let now_ms = window * 32;
        let late = if (2300..2500).contains(&now_ms) { clock(2300 / 32) } else { clock(window) };
        let mut due = Vec::new();
        while sent < 50 && 2000 + sent * 20 <= now_ms {
            due.push((late, frame()));
            sent += 1;
        }
        due
    });
    assert_eq!(silent_samples(&right), 0);
    let (from, to) = sounding(&right);
    assert!(from.abs_diff(2000) <= 32 && to - from == 999, "{from}..{to}");
}

#[test]
fn a_pause_in_our_voice_is_a_pause_in_the_file() {
    let (_, right) = record(200, 0..0, |window| {
        if (50..60).contains(&window) || (90..100).contains(&window) {
            vec![(clock(window), frame())]
        } else {
            vec![]
        }
    });
    let second = right.iter().skip(2500 * MS).position(|s| *s != 0).unwrap() / MS + 2500;
    assert!(second.abs_diff(90 * 32) <= 1, "{second}");
}

#[test]
fn a_caller_who_sends_nothing_neither_stops_the_file_nor_fills_the_memory() {
    let mut timeline = Timeline::new().unwrap();
    let mut taken = 0;
    timeline.caller(&[0.5; VAD_WINDOW]);
    for _ in 0..50 * 60 {
        timeline.ours(clock(1), &frame());
        assert!(timeline.right.len() <= 2 * STALL);
        while timeline.take(BEHIND).is_some() {
            taken += 1;
        }
    }
    // One minute, less what waits.
    assert!(taken + STALL + BEHIND >= 60 * SPEAK_RATE as usize, "{taken}");
    // Now the caller goes on, and we answer a second later.
    for _ in 0..31 {
        timeline.caller(&[0.5; VAD_WINDOW]);
    }
    let ends = timeline.taken + timeline.left.len() as u64;
    timeline.ours(clock(32), &frame());
    let place = timeline.taken + (timeline.right.len() - OUT_FRAME) as u64;
    assert!(place.abs_diff(ends) <= STALL as u64 + 24 * 32, "ours at {place}, theirs until {ends}");
}

#[test]
fn what_the_lane_lost_of_the_caller_is_silence() {
    let mut timeline = Timeline::new().unwrap();
    for _ in 0..50 {
        timeline.caller(&[0.5; VAD_WINDOW]);
    }
    // Fifty windows never came.
    timeline.ours(clock(100), &frame());
    let place = timeline.taken as usize + timeline.right.len() - OUT_FRAME;
    assert_eq!(place, 100 * VAD_WINDOW * 3 / 2);
    assert!(timeline.left.len() + 3 * VAD_WINDOW * 3 / 2 >= place, "the caller's side has come as far");
}

pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("viva-recorder-{:016x}", rand::random::<u64>()));
        Self(path)
    }

    pub(super) fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

pub(super) fn spec(days: u32) -> SessionSpec {
    SessionSpec {
        consent: Consent { recording: true },
        retention: Retention { days },
        ..SessionSpec::default()
    }
}

/// Gives the writer some seconds of the caller, and ends it.
fn short_recording(folder: &Folder, days: u32) {
    let pieces = Lane::new(LANE);
    let mut writer =
        Writer::create(&folder.0, &SessionId("sess_1".into()), &spec(days), pieces.clone()).unwrap();
    for window in tone(300.0, 100 * VAD_WINDOW, LISTEN_RATE).chunks_exact(VAD_WINDOW) {
        pieces.push_latest(Piece::Caller(Box::new(window.try_into().unwrap())));
    }
    writer.drain();
    if days > 0 {
        let so_far = hound::WavReader::open(&writer.path).unwrap().duration();
        assert!(so_far >= SPEAK_RATE, "a crash now would leave {so_far} samples");
    }
    writer.finish();
}

#[test]
fn a_recording_is_private_and_says_whose_it_is() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    short_recording(&folder, 30);
    assert_eq!(folder.files(), ["sess_1.json", "sess_1.wav"]);
    for file in folder.files() {
        let mode = fs::metadata(folder.0.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let about: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.0.join("sess_1.json")).unwrap()).unwrap();
    assert_eq!(about["principal"]["tenant"], "local");
    assert_eq!(about["consent"]["recording"], true);
    let kept = about["delete_after_unix_s"].as_u64().unwrap() - about["began_unix_s"].as_u64().unwrap();
    assert_eq!(kept, 30 * 24 * 3600);
    let wav = hound::WavReader::open(folder.0.join("sess_1.wav")).unwrap();
    assert_eq!(wav.duration() as usize, 100 * VAD_WINDOW * 3 / 2);
}

#[test]
fn nothing_is_left_where_nothing_may_be_kept() {
    let folder = Folder::new();
    short_recording(&folder, 0);
    assert!(folder.files().is_empty());
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let folder = Folder::new();
    check_folder(&folder.0).unwrap();
    assert!(folder.files().is_empty(), "the probe is gone");
    let file = folder.0.join("a file");
    fs::write(&file, "").unwrap();
    let below = file.join("below");
    for error in [
        check_folder(&below).unwrap_err(),
        Recorder::start(&below, &SessionId::random(), &spec(30)).err().unwrap(),
    ] {
        assert!(error.to_string().contains(&below.display().to_string()), "{error}");
    }
}

#[test]
fn a_recording_ends_at_its_longest_and_what_there_is_can_be_played() {
    let folder = Folder::new();
    let pieces = Lane::new(LANE);
    let mut writer =
        Writer::create(&folder.0, &SessionId("sess_1".into()), &spec(30), pieces.clone()).unwrap();
    // As if it had run for all but a second of the time it may.
    writer.timeline.taken = (HOURS_MAX * 3600 - 1) * u64::from(SPEAK_RATE);
    for _ in 0..5 {
        for _ in 0..32 {
            pieces.push_latest(Piece::Caller(Box::new([0.5; VAD_WINDOW])));
        }
        writer.drain();
    }
    assert!(writer.file.is_none(), "it ended");
    let written = hound::WavReader::open(&writer.path).unwrap().duration() as usize;
    assert!(written.abs_diff(SPEAK_RATE as usize) < SPEAK_RATE as usize + BEHIND, "{written} samples");
    writer.finish();
    assert_eq!(folder.files(), ["sess_1.json", "sess_1.wav"]);
}
