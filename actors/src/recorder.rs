//! Recordings of both sides, on request and with consent: stereo WAV, the caller left, our voice right.
//!
//! *Input:* the caller's windows and our frames through one bounded lane. *Output:* a file at 24 kHz in the
//! recordings folder, written as it comes. *Bound:* [`HOURS_MAX`]; a lane that overflows loses its oldest and
//! counts it. *When the disk is full* the recording ends with a logged error, the session goes on.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};

use hound::{SampleFormat, WavSpec, WavWriter};
use viva_models::VAD_WINDOW;
use viva_models::audio::{LISTEN_RATE, Resampler, SPEAK_RATE, to_i16};

use crate::lane::Lane;
use crate::metrics as m;
use crate::ports::{OUT_FRAME, SessionSpec};
use crate::types::{MediaTime, SessionId};

/// The longest recording: a session is an interview, not a day.
pub const HOURS_MAX: u64 = 4;

/// Pieces that may wait for the disk: about ten seconds of both sides.
const LANE: usize = 1024;

/// Something to record.
pub enum Piece {
    /// 32 ms of the caller at 16 kHz; these follow each other without gaps.
    Caller(Box<[f32; VAD_WINDOW]>),
    /// 20 ms of our voice at 24 kHz, sent when the caller's audio had come so far.
    Ours(MediaTime, Box<[i16; OUT_FRAME]>),
}

/// A running recording; dropping it completes the file.
pub struct Recorder {
    lane: Lane<Piece>,
    path: PathBuf,
    /// Wakes the writer; its drop ends it.
    _wake: SyncSender<()>,
}

impl Recorder {
    /// Starts a file named after the session, with a sidecar that says whose it is and until when it may
    /// be kept.
    pub fn start(folder: &Path, id: &SessionId, spec: &SessionSpec) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let path = folder.join(format!("{id}.wav"));
        let about = serde_json::json!({
            "session": id,
            "principal": spec.principal,
            "language": spec.language,
            "consent": spec.consent,
            "retention": spec.retention,
        });
        fs::write(folder.join(format!("{id}.json")), about.to_string())?;
        let format = WavSpec {
            channels: 2,
            sample_rate: SPEAK_RATE,
            bits_per_sample: 16,
            sample_format: SampleFormat::Int,
        };
        let file = WavWriter::create(&path, format).map_err(io::Error::other)?;
        let up = Resampler::new(LISTEN_RATE, SPEAK_RATE).map_err(io::Error::other)?;
        let lane = Lane::new(LANE);
        let (wake, woken) = sync_channel(1);
        let bell = wake.clone();
        let mut writer =
            Writer { file: Some(file), up, left: Vec::new(), right: VecDeque::new(), written: 0 };
        let pieces = lane.clone();
        std::thread::Builder::new().name("viva-recorder".into()).spawn(move || {
            while woken.recv().is_ok() {
                writer.drain(&pieces);
            }
            writer.drain(&pieces);
            writer.finish();
        })?;
        let weak = WakeOnRing(bell);
        lane.attach(Box::new(move || weak.ring()));
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

struct WakeOnRing(SyncSender<()>);

impl WakeOnRing {
    fn ring(&self) {
        // A wake that is waiting already is enough.
        self.0.try_send(()).ok();
    }
}

struct Writer {
    file: Option<WavWriter<BufWriter<File>>>,
    up: Resampler,
    left: Vec<f32>,
    /// Our voice from the sample `written` on.
    right: VecDeque<i16>,
    /// Stereo samples written.
    written: u64,
}

impl Writer {
    fn drain(&mut self, pieces: &Lane<Piece>) {
        pieces.answer();
        while let Some(piece) = pieces.pop() {
            match piece {
                Piece::Caller(samples) => self.caller(&samples[..]),
                Piece::Ours(at, frame) => self.ours(at, &frame[..]),
            }
        }
    }

    fn ours(&mut self, at: MediaTime, frame: &[i16]) {
        let place = (at.0 * u64::from(SPEAK_RATE) / u64::from(LISTEN_RATE)).saturating_sub(self.written);
        let silence = (place as usize).min(SPEAK_RATE as usize).saturating_sub(self.right.len());
        self.right.extend(std::iter::repeat_n(0, silence));
        self.right.extend(frame);
    }

    fn caller(&mut self, samples: &[f32]) {
        self.left.clear();
        self.up.process(samples, &mut self.left);
        let Some(file) = &mut self.file else { return };
        for &left in &self.left {
            let right = self.right.pop_front().unwrap_or(0);
            let wrote = file.write_sample(to_i16(left)).and_then(|()| file.write_sample(right));
            if let Err(error) = wrote {
                tracing::error!(%error, "the recording ends here: is the disk full?");
                metrics::counter!(m::DROPS, "stage" => "recorder", "reason" => "disk").increment(1);
                self.file = None;
                return;
            }
            self.written += 1;
        }
        if self.written > HOURS_MAX * 3600 * u64::from(SPEAK_RATE) {
            tracing::warn!(hours = HOURS_MAX, "a recording reached its longest length and ends");
            self.finish();
        }
    }

    fn finish(&mut self) {
        if let Some(file) = self.file.take()
            && let Err(error) = file.finalize()
        {
            tracing::error!(%error, "a recording could not be completed");
        }
    }
}
