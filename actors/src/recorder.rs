//! Recordings of both sides, on request and with consent: stereo WAV, the caller left, our voice right.
//!
//! *Input:* the caller's windows and our frames through one bounded lane. *Output:* a file at 24 kHz in the
//! recordings folder, half a second behind the call, with a sidecar that says whose it is; both are readable
//! only to the server's own user. *Bound:* [`HOURS_MAX`]; a lane that overflows loses its oldest and counts it,
//! and what the caller loses there is silence in the file. *When the disk is full* the recording ends with a
//! logged error and the session goes on; what was written until then can be played. *On a crash* of the whole
//! server the last second at most is lost. *In the end* [`sweep`] deletes it, when its time is over.
//!
//! The file's time is the media clock: our voice stands where the caller had been heard to when it was sent.
//! Of a reply that was cut, up to the playout's lead may stand here that nobody heard.

pub mod sweep;

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{SystemTime, UNIX_EPOCH};

use hound::{SampleFormat, WavSpec, WavWriter};
use viva_models::VAD_WINDOW;
use viva_models::audio::{AudioError, LISTEN_RATE, Resampler, SPEAK_RATE, to_i16};

use crate::lane::Lane;
use crate::metrics as m;
use crate::ports::{OUT_FRAME, SessionSpec};
use crate::types::{MediaTime, SessionId};

/// The longest recording: a session is an interview, not a day. Its file has 1.4 GB, and a WAV may have 4.
pub const HOURS_MAX: u64 = 4;

/// Seconds of a day, in which retention counts.
const DAY: u64 = 24 * 3600;

/// Pieces that may wait for the disk: about ten seconds of both sides.
const LANE: usize = 1024;

/// Samples a side is written behind the call: half a second, in which our voice can still be put in its place.
const BEHIND: usize = SPEAK_RATE as usize / 2;

/// A frame of ours follows the one before it unless the clock says that more than so much lay between them.
/// The clock moves a window at a time, and late on a busy machine: to follow each of its steps would tear our
/// voice. When our voice is held for less than this, what follows stands a little early.
const APART: usize = SPEAK_RATE as usize / 4;
const _: () = assert!(APART < BEHIND);

/// When our voice is so far ahead, the caller sends nothing and the clock stands still: the caller is silent.
const STALL: usize = 2 * SPEAK_RATE as usize;

/// Samples after which the file's header says what is there: a second.
const HEADER_EVERY: u64 = SPEAK_RATE as u64;

/// Something to record.
pub enum Piece {
    /// 32 ms of the caller at 16 kHz; these follow each other without gaps.
    Caller(Box<[f32; VAD_WINDOW]>),
    /// 20 ms of our voice at 24 kHz, sent when the caller's audio had come so far.
    Ours(MediaTime, Box<[i16; OUT_FRAME]>),
}

/// Why nothing can be recorded. It names the folder: for logs and operators, not for callers.
#[derive(Debug, thiserror::Error)]
#[error("no recording can be written to {}: {cause}", folder.display())]
pub struct Unwritable {
    folder: PathBuf,
    cause: io::Error,
}

impl Unwritable {
    fn new(folder: &Path, cause: io::Error) -> Self {
        Self { folder: folder.to_owned(), cause }
    }
}

/// A running recording; dropping it completes the file, a moment later and in the background.
pub struct Recorder {
    lane: Lane<Piece>,
    path: PathBuf,
    /// Wakes the writer; its drop ends it.
    _wake: SyncSender<()>,
}

impl Recorder {
    /// Starts a file named after the session, with a sidecar that says whose it is, what the caller agreed to,
    /// and until when it may be kept.
    pub fn start(folder: &Path, id: &SessionId, spec: &SessionSpec) -> Result<Self, Unwritable> {
        Self::try_start(folder, id, spec).map_err(|cause| Unwritable::new(folder, cause))
    }

    fn try_start(folder: &Path, id: &SessionId, spec: &SessionSpec) -> io::Result<Self> {
        let lane = Lane::new(LANE);
        let writer = Writer::create(folder, id, spec, lane.clone())?;
        let path = writer.path.clone();
        let (wake, woken) = sync_channel::<()>(1);
        let bell = wake.clone();
        std::thread::Builder::new().name("viva-recorder".into()).spawn(move || {
            let mut writer = writer;
            while woken.recv().is_ok() {
                writer.drain();
            }
            writer.drain();
            writer.finish();
        })?;
        // A wake that is waiting already is enough.
        lane.attach(Box::new(move || {
            bell.try_send(()).ok();
        }));
        Ok(Self { lane, path, _wake: wake })
    }

    /// Where pieces go in.
    pub fn lane(&self) -> Lane<Piece> {
        self.lane.clone()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // Lets go of the bell's sender, so that the writer ends with this one.
        self.lane.attach(Box::new(|| {}));
    }
}

/// Deletes what was recorded of a session, which may still run: what it writes from here on goes with its file. Says
/// whether there was a recording.
///
/// # Errors
/// What keeps a file from being deleted.
pub fn forget(folder: &Path, id: &SessionId) -> io::Result<bool> {
    let mut found = false;
    for kind in ["wav", "json"] {
        match fs::remove_file(folder.join(format!("{id}.{kind}"))) {
            Ok(()) => found = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    if found {
        metrics::counter!(m::RECORDINGS_DELETED).increment(1);
    }
    Ok(found)
}

/// Whether recordings can be written there; makes the folder. For a server's start: better then than with the
/// first caller.
pub fn check_folder(folder: &Path) -> Result<(), Unwritable> {
    let probe = folder.join(format!(".viva-{:016x}", rand::random::<u64>()));
    let tried = fs::create_dir_all(folder)
        .and_then(|()| private(&probe))
        .and_then(|mut file| file.write_all(b"may we write here?"));
    fs::remove_file(&probe).ok();
    tried.map_err(|cause| Unwritable::new(folder, cause))
}

/// A new file that only our own user may read: what people say in interviews is theirs.
fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Both sides on one timeline. Pure.
struct Timeline {
    up: Resampler,
    fresh: Vec<f32>,
    /// Both from the sample `taken` of the file on.
    left: VecDeque<i16>,
    right: VecDeque<i16>,
    /// Samples of the file that were taken from here.
    taken: u64,
    /// Samples of the caller that came, or were known to be lost: the media clock.
    heard: u64,
    /// Samples of the file in which the media clock stood still.
    still: u64,
}

impl Timeline {
    fn new() -> Result<Self, AudioError> {
        Ok(Self {
            up: Resampler::new(LISTEN_RATE, SPEAK_RATE)?,
            fresh: Vec::new(),
            left: VecDeque::new(),
            right: VecDeque::new(),
            taken: 0,
            heard: 0,
            still: 0,
        })
    }

    fn caller(&mut self, samples: &[f32]) {
        self.heard += samples.len() as u64;
        self.fresh.clear();
        self.up.process(samples, &mut self.fresh);
        self.left.extend(self.fresh.iter().map(|&s| to_i16(s)));
    }

    fn ours(&mut self, at: MediaTime, frame: &[i16]) {
        // The clock is moved before its window is handed over, so one window may be on its way. What else is
        // missing was lost in the lane.
        while at.0 > self.heard + 2 * VAD_WINDOW as u64 {
            self.caller(&[0.0; VAD_WINDOW]);
        }
        let place = at.0 * u64::from(SPEAK_RATE) / u64::from(LISTEN_RATE) + self.still;
        let gap = (place.saturating_sub(self.taken) as usize).saturating_sub(self.right.len());
        if gap > APART || self.right.is_empty() {
            self.right.extend(std::iter::repeat_n(0, gap));
        }
        self.right.extend(frame);
        let ahead = self.right.len().saturating_sub(self.left.len());
        if ahead > STALL {
            self.left.extend(std::iter::repeat_n(0, ahead - STALL));
            self.still += (ahead - STALL) as u64;
        }
    }

    /// The next sample of both sides, if the caller's is `behind` samples back or more.
    fn take(&mut self, behind: usize) -> Option<(i16, i16)> {
        if self.left.len() <= behind {
            return None;
        }
        self.taken += 1;
        Some((self.left.pop_front()?, self.right.pop_front().unwrap_or(0)))
    }

    /// Nothing more comes: what is here can all be taken.
    fn end(&mut self) {
        self.fresh.clear();
        self.up.flush(&mut self.fresh);
        self.left.extend(self.fresh.iter().map(|&s| to_i16(s)));
        let rest = self.right.len().saturating_sub(self.left.len());
        self.left.extend(std::iter::repeat_n(0, rest));
    }
}

struct Writer {
    id: SessionId,
    path: PathBuf,
    sidecar: PathBuf,
    /// Nothing may outlive the session.
    fleeting: bool,
    pieces: Lane<Piece>,
    /// Pieces the lane has lost, as far as they are counted.
    lost: u64,
    timeline: Timeline,
    /// None once the recording has ended.
    file: Option<WavWriter<BufWriter<File>>>,
    /// Where the header was brought up to date.
    headed: u64,
}

impl Writer {
    fn create(folder: &Path, id: &SessionId, spec: &SessionSpec, pieces: Lane<Piece>) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let (path, sidecar) = (folder.join(format!("{id}.wav")), folder.join(format!("{id}.json")));
        let format = WavSpec {
            channels: 2,
            sample_rate: SPEAK_RATE,
            bits_per_sample: 16,
            sample_format: SampleFormat::Int,
        };
        let file = WavWriter::new(BufWriter::new(private(&path)?), format).map_err(io::Error::other)?;
        let about = serde_json::to_vec_pretty(&about(id, spec)).map_err(io::Error::other)?;
        let written = private(&sidecar).and_then(|mut file| file.write_all(&about));
        if let Err(error) = written {
            // Nothing lies here of which nobody can say whose it is.
            fs::remove_file(&path).ok();
            fs::remove_file(&sidecar).ok();
            return Err(error);
        }
        Ok(Self {
            id: id.clone(),
            path,
            sidecar,
            fleeting: spec.retention.days == 0,
            pieces,
            lost: 0,
            timeline: Timeline::new().map_err(io::Error::other)?,
            file: Some(file),
            headed: 0,
        })
    }

    fn drain(&mut self) {
        self.pieces.answer();
        while let Some(piece) = self.pieces.pop() {
            if self.file.is_none() {
                continue;
            }
            match piece {
                Piece::Caller(samples) => self.timeline.caller(&samples[..]),
                Piece::Ours(at, frame) => self.timeline.ours(at, &frame[..]),
            }
            self.write(BEHIND);
        }
        let lost = self.pieces.dropped();
        if lost > self.lost {
            metrics::counter!(m::DROPS, "stage" => "recorder", "reason" => "lane_full")
                .increment(lost - self.lost);
            self.lost = lost;
        }
    }

    /// Writes what is `behind` samples back or more.
    fn write(&mut self, behind: usize) {
        if let Err(error) = self.try_write(behind) {
            let session = &self.id;
            tracing::error!(%session, %error, "the recording ends here: is the disk full?");
            metrics::counter!(m::DROPS, "stage" => "recorder", "reason" => "disk").increment(1);
            self.file = None;
        } else if self.timeline.taken > HOURS_MAX * 3600 * u64::from(SPEAK_RATE) {
            let session = &self.id;
            tracing::warn!(%session, hours = HOURS_MAX, "a recording reached its longest length and ends");
            self.close();
        }
    }

    fn try_write(&mut self, behind: usize) -> hound::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        while let Some((left, right)) = self.timeline.take(behind) {
            file.write_sample(left)?;
            file.write_sample(right)?;
        }
        if self.timeline.taken >= self.headed + HEADER_EVERY {
            file.flush()?;
            self.headed = self.timeline.taken;
        }
        Ok(())
    }

    fn finish(&mut self) {
        self.timeline.end();
        self.write(0);
        self.close();
        if self.fleeting {
            fs::remove_file(&self.path).ok();
            fs::remove_file(&self.sidecar).ok();
        }
    }

    fn close(&mut self) {
        if let Some(file) = self.file.take()
            && let Err(error) = file.finalize()
        {
            let session = &self.id;
            tracing::error!(%session, %error, "a recording could not be completed");
        }
    }
}

/// The sidecar.
fn about(id: &SessionId, spec: &SessionSpec) -> serde_json::Value {
    let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    serde_json::json!({
        "session": id,
        "channels": ["caller", "viva"],
        "principal": spec.principal,
        "language": spec.language,
        "consent": spec.consent,
        "retention": spec.retention,
        "began_unix_s": began,
        "delete_after_unix_s": began + u64::from(spec.retention.days) * DAY,
    })
}

#[cfg(test)]
#[path = "recorder/tests.rs"]
mod tests;
