//! Recordings of any length as windows that a recogniser takes: decoded piece by piece, cut where it is quiet.
//!
//! *Bound:* one window waits while one is recognised, so an hour takes no more memory than a minute.

use std::fs::File;

use tokio::sync::mpsc;
use viva_actors::root::Viva;
use viva_models::audio::{AudioError, LISTEN_RATE, Recording};

/// Longest recording, seconds: a working day's half. What an upload can hold at the lowest bit rates is far longer.
pub const RECORDING_S_MAX: u64 = 4 * 3_600;

/// Samples of a window while nobody talks to us: just below the 30 s that a recogniser takes at once.
const WINDOW_ALONE: usize = ms(28_000);

/// Samples of a window beside conversations, whose words wait while it is recognised. Whisper's cost falls with the
/// length down to 10 s and no further.
const WINDOW_BESIDE: usize = ms(10_000);

/// A window is cut in its quietest stretch of this length: shorter than a breath, longer than the gap in a plosive.
const QUIET: usize = ms(160);

/// Loudness is looked at in steps of this length.
const STEP: usize = ms(20);

/// Below this (−56 dBFS) nobody speaks into a microphone that anybody would send us.
const SILENCE: f32 = 0.0016;

/// Silence kept around speech: a soft beginning is quieter than the threshold.
const MARGIN: usize = ms(200);

const fn ms(ms: usize) -> usize {
    ms * LISTEN_RATE as usize / 1_000
}

/// A stretch of the recording with speech in it.
#[derive(Debug, PartialEq)]
pub struct Window {
    /// Where it begins, milliseconds.
    pub start_ms: u64,
    /// Mono at 16 kHz, at most 28 s.
    pub samples: Vec<f32>,
}

/// What comes of a recording, in order.
#[derive(Debug)]
pub enum Piece {
    /// To be recognised.
    Window(Window),
    /// There is no more; it lasted so many milliseconds.
    End(u64),
}

/// Decodes and cuts on a thread of its own, which ends when the receiver is dropped.
pub fn windows(file: File, hint: Option<String>, viva: Viva) -> mpsc::Receiver<Result<Piece, AudioError>> {
    let (pieces, receiver) = mpsc::channel(1);
    tokio::task::spawn_blocking(move || {
        let limit = || if viva.sessions() > 0 { WINDOW_BESIDE } else { WINDOW_ALONE };
        let end = cut(file, hint.as_deref(), limit, &pieces);
        // Whoever went away does not want to know.
        if let Some(end) = end.transpose() {
            pieces.blocking_send(end.map(Piece::End)).ok();
        }
    });
    receiver
}

/// Sends windows until the end, whose time it gives; none when nobody listens any more.
fn cut(
    file: File,
    hint: Option<&str>,
    limit: impl Fn() -> usize,
    pieces: &mpsc::Sender<Result<Piece, AudioError>>,
) -> Result<Option<u64>, AudioError> {
    let mut recording = Recording::open(file, hint, LISTEN_RATE)?;
    let (mut cutter, mut samples) = (Cutter::default(), Vec::new());
    loop {
        samples.clear();
        let more = recording.read(&mut samples)?;
        // A packet is short, but nothing says how short.
        for part in samples.chunks(QUIET) {
            cutter.push(part);
            if let Some(window) = cutter.window(limit())
                && pieces.blocking_send(Ok(Piece::Window(window))).is_err()
            {
                return Ok(None);
            }
        }
        if cutter.ms() > RECORDING_S_MAX * 1_000 {
            return Err(AudioError::TooLong(RECORDING_S_MAX as u32));
        }
        if pieces.is_closed() {
            return Ok(None);
        }
        if !more {
            break;
        }
    }
    let ms = cutter.ms();
    let last = cutter.rest().map(|last| pieces.blocking_send(Ok(Piece::Window(last))));
    Ok(if matches!(last, Some(Err(_))) { None } else { Some(ms) })
}

/// Cuts a stream of samples into windows.
#[derive(Debug, Default)]
struct Cutter {
    waiting: Vec<f32>,
    /// Samples before those that wait.
    before: u64,
}

impl Cutter {
    fn push(&mut self, samples: &[f32]) {
        self.waiting.extend_from_slice(samples);
    }

    /// How long the stream has been so far.
    fn ms(&self) -> u64 {
        (self.before + self.waiting.len() as u64) * 1_000 / u64::from(LISTEN_RATE)
    }

    /// The next window, once as many samples wait as it may have.
    fn window(&mut self, limit: usize) -> Option<Window> {
        // Silence at the start need not wait for a full window, and must not fill one.
        let silent = self.waiting.chunks_exact(STEP).take_while(|step| !loud(step)).count() * STEP;
        if silent > 2 * MARGIN {
            self.drop_first(silent - MARGIN);
        }
        if self.waiting.len() < limit {
            return None;
        }
        let zone = &self.waiting[limit / 2..limit];
        let starts = (0..=zone.len() - QUIET).step_by(QUIET / 4);
        let quietest =
            starts.min_by(|a, b| energy(&zone[*a..*a + QUIET]).total_cmp(&energy(&zone[*b..*b + QUIET])));
        let at = limit / 2 + quietest.unwrap_or(0) + QUIET / 2;
        self.take(at)
    }

    /// What is left at the end of the stream.
    fn rest(mut self) -> Option<Window> {
        self.take(self.waiting.len())
    }

    fn drop_first(&mut self, samples: usize) {
        self.waiting.drain(..samples);
        self.before += samples as u64;
    }

    /// The first samples as a window, without the silence around them; none where there is nothing else.
    fn take(&mut self, samples: usize) -> Option<Window> {
        let window = &self.waiting[..samples];
        let first = window.chunks(STEP).position(loud);
        let last = window.chunks(STEP).rposition(loud);
        let cut = first.zip(last).map(|(first, last)| {
            let from = (first * STEP).saturating_sub(MARGIN);
            let to = ((last + 1) * STEP + MARGIN).min(samples);
            let start_ms = (self.before + from as u64) * 1_000 / u64::from(LISTEN_RATE);
            Window { start_ms, samples: window[from..to].to_vec() }
        });
        self.drop_first(samples);
        cut
    }
}

fn energy(samples: &[f32]) -> f32 {
    samples.iter().map(|s| s * s).sum()
}

fn loud(samples: &[f32]) -> bool {
    energy(samples) > SILENCE * SILENCE * samples.len() as f32
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use viva_actors::testkit::tone;

    use super::*;

    /// All windows of a stream that comes in pieces of 100 ms.
    fn windows_of(stream: &[f32], limit: usize) -> (Vec<Window>, u64) {
        let (mut cutter, mut windows) = (Cutter::default(), Vec::new());
        for piece in stream.chunks(1_600) {
            cutter.push(piece);
            windows.extend(cutter.window(limit));
            assert!(cutter.waiting.len() <= limit + 1_600, "{} samples wait", cutter.waiting.len());
        }
        let ms = cutter.ms();
        windows.extend(cutter.rest());
        (windows, ms)
    }

    fn speech(seconds: f32) -> Vec<f32> {
        tone(220.0, (seconds * 16_000.0) as usize, 16_000)
    }

    #[test]
    fn a_window_is_cut_where_it_is_quiet() {
        let stream = [speech(8.0), vec![0.0; 4_800], speech(5.0)].concat();
        let (windows, ms) = windows_of(&stream, ms(10_000));
        assert_eq!((windows.len(), ms), (2, 13_300));
        let ends = windows[0].start_ms + windows[0].samples.len() as u64 / 16;
        assert!((8_000..8_300).contains(&ends), "it ends at {ends}");
        assert!((7_900..8_300).contains(&windows[1].start_ms), "{}", windows[1].start_ms);
    }

    #[test]
    fn speech_without_a_pause_loses_nothing() {
        let (windows, ms) = windows_of(&speech(70.0), WINDOW_ALONE);
        assert_eq!(ms, 70_000);
        assert!(windows.iter().all(|w| w.samples.len() <= WINDOW_ALONE));
        assert_eq!(windows.iter().map(|w| w.samples.len()).sum::<usize>(), 70 * 16_000);
    }

    #[test]
    fn silence_is_no_window_and_keeps_its_time() {
        let (windows, ms) = windows_of(&vec![0.0; 16_000 * 60], WINDOW_ALONE);
        assert_eq!((windows.len(), ms), (0, 60_000));
        let stream = [vec![0.0; 16_000 * 40], speech(2.0), vec![0.0; 16_000 * 40]].concat();
        let (windows, ms) = windows_of(&stream, WINDOW_ALONE);
        assert_eq!((windows.len(), ms), (1, 82_000));
        assert!((39_700..40_000).contains(&windows[0].start_ms), "{}", windows[0].start_ms);
        assert!(windows[0].samples.len() < 16_000 * 3);
    }
}
