//! From what a client appends to what a session listens to.
//!
//! Input: base64 in one of the protocol's formats. Output: chunks at 16 kHz in the session's mic lane.
//! Bound: one append is at most [`APPEND_BYTES_MAX`]; when the lane is full the oldest chunk goes, counted.

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use viva_actors::lane::Lane;
use viva_actors::metrics as m;
use viva_actors::ports::MIC_CHUNK_MAX;
use viva_models::audio::{
    AudioError, G711, G711_RATE, LISTEN_RATE, Resampler, SPEAK_RATE, g711_decode, pcm16_decode,
};

use super::protocol::ErrorBody;
use super::protocol::session_object::{Format, FormatKind};

/// Bytes of audio one append may carry: the protocol's own limit, five minutes of PCM.
pub const APPEND_BYTES_MAX: usize = 15 * 1024 * 1024;

/// Samples of one chunk: 20 ms, the frame of every media edge.
const CHUNK: usize = LISTEN_RATE as usize / 50;

/// The least a commit must find: the protocol's own 100 ms.
const COMMIT_SAMPLES_MIN: u64 = LISTEN_RATE as u64 / 10;

/// Base64 with or without its padding: some clients leave it out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// One session's way in.
pub struct Intake {
    mic: Lane<Box<[f32]>>,
    format: FormatKind,
    resampler: Resampler,
    bytes: Vec<u8>,
    decoded: Vec<f32>,
    pending: Vec<f32>,
    uncommitted: u64,
}

impl Intake {
    /// Into this lane, from the protocol's default format.
    pub fn new(mic: Lane<Box<[f32]>>) -> Self {
        Self {
            mic,
            format: FormatKind::Pcm,
            resampler: resampler(FormatKind::Pcm),
            bytes: Vec::new(),
            decoded: Vec::new(),
            pending: Vec::new(),
            uncommitted: 0,
        }
    }

    /// From now on in this format. What is inside of another format is let out first.
    pub fn set_format(&mut self, format: Format) {
        if format.kind != self.format {
            self.flush();
            self.format = format.kind;
            self.resampler = resampler(format.kind);
        }
    }

    /// Takes one append. Nothing of it is used when it is refused. Returns whether older audio was lost.
    pub fn append(&mut self, base64: &str) -> Result<bool, ErrorBody> {
        // Four characters carry three bytes.
        if base64.len() / 4 * 3 > APPEND_BYTES_MAX {
            let message = format!("Invalid 'audio': one append may carry {APPEND_BYTES_MAX} bytes of audio.");
            return Err(ErrorBody::invalid("audio_too_large", message, Some("audio")));
        }
        self.bytes.clear();
        BASE64.decode_vec(base64, &mut self.bytes).map_err(|error| {
            let message = format!("Invalid 'audio': it is not base64: {error}.");
            ErrorBody::invalid("invalid_base64", message, Some("audio"))
        })?;
        self.decoded.clear();
        match self.format {
            FormatKind::Pcm => pcm16_decode(&self.bytes, &mut self.decoded).map_err(odd_length)?,
            FormatKind::Pcmu => g711_decode(G711::MuLaw, &self.bytes, &mut self.decoded),
            FormatKind::Pcma => g711_decode(G711::ALaw, &self.bytes, &mut self.decoded),
        }
        let before = self.pending.len();
        self.resampler.process(&self.decoded, &mut self.pending);
        self.uncommitted += (self.pending.len() - before) as u64;
        let lost = self.send_whole_chunks();
        // One huge append must not keep its buffers for the rest of the session.
        self.bytes.shrink_to(64 * 1024);
        self.decoded.shrink_to(64 * 1024);
        self.pending.shrink_to(64 * 1024);
        Ok(lost)
    }

    /// Takes samples at 16 kHz from a transport that carries audio beside its events.
    pub fn push(&mut self, samples: &[f32]) -> bool {
        self.pending.extend_from_slice(samples);
        self.uncommitted += samples.len() as u64;
        self.send_whole_chunks()
    }

    /// Lets out what is inside, at the end of what a client commits. Refused when it is too little to hold
    /// a word.
    pub fn commit(&mut self) -> Result<(), ErrorBody> {
        if self.uncommitted < COMMIT_SAMPLES_MIN {
            let ms = self.uncommitted as f64 * 1000.0 / f64::from(LISTEN_RATE);
            let message = format!(
                "Error committing input audio buffer: buffer too small. Expected at least 100ms of audio, \
                 but buffer only has {ms:.2}ms of audio."
            );
            return Err(ErrorBody::invalid("input_audio_buffer_commit_empty", message, None));
        }
        self.flush();
        self.uncommitted = 0;
        Ok(())
    }

    /// Forgets what was not listened to yet.
    pub fn clear(&mut self) {
        self.pending.clear();
        self.resampler.reset();
        self.mic.clear();
        self.uncommitted = 0;
    }

    /// The session ended a turn by itself: what came before is no longer there to commit.
    pub fn turn_ended(&mut self) {
        self.uncommitted = 0;
    }

    fn flush(&mut self) {
        self.resampler.flush(&mut self.pending);
        self.send_whole_chunks();
        if !self.pending.is_empty() {
            self.mic.push_latest(self.pending.as_slice().into());
            self.pending.clear();
        }
    }

    /// What came in a burst goes on in the longest chunks, so that more of it has room in the lane.
    fn send_whole_chunks(&mut self) -> bool {
        let (mut at, mut lost) = (0, false);
        while self.pending.len() - at >= CHUNK {
            let n = ((self.pending.len() - at) / CHUNK * CHUNK).min(MIC_CHUNK_MAX);
            if self.mic.push_latest(self.pending[at..at + n].into()) {
                lost = true;
                metrics::counter!(m::DROPS, "stage" => "edge", "reason" => "mic_full").increment(1);
            }
            at += n;
        }
        self.pending.drain(..at);
        lost
    }
}

fn resampler(format: FormatKind) -> Resampler {
    let rate = if format == FormatKind::Pcm { SPEAK_RATE } else { G711_RATE };
    Resampler::new(rate, LISTEN_RATE).expect("both rates are in the resampler's range")
}

fn odd_length(error: AudioError) -> ErrorBody {
    ErrorBody::invalid("invalid_audio", format!("Invalid 'audio': {error}."), Some("audio"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use base64::engine::general_purpose::STANDARD;
    use viva_actors::ports::MIC_LANE;

    use super::*;

    fn intake() -> (Intake, Lane<Box<[f32]>>) {
        let mic = Lane::new(MIC_LANE);
        (Intake::new(mic.clone()), mic)
    }

    fn taken(mic: &Lane<Box<[f32]>>) -> Vec<usize> {
        std::iter::from_fn(|| mic.pop()).map(|chunk| chunk.len()).collect()
    }

    #[test]
    fn twenty_ms_at_24_khz_become_twenty_ms_at_16_khz() {
        let (mut intake, mic) = intake();
        let frame = STANDARD.encode(vec![0u8; 960]);
        for _ in 0..50 {
            assert!(!intake.append(&frame).unwrap());
        }
        intake.commit().unwrap();
        let lengths = taken(&mic);
        assert_eq!(lengths.iter().sum::<usize>(), 16_000);
        assert!(lengths.iter().all(|n| *n <= MIC_CHUNK_MAX));
    }

    #[test]
    fn telephone_audio_is_heard() {
        let (mut intake, mic) = intake();
        intake.set_format(Format { kind: FormatKind::Pcmu, rate: None });
        intake.append(&STANDARD.encode(vec![0xFFu8; 8000])).unwrap();
        intake.commit().unwrap();
        assert_eq!(taken(&mic).iter().sum::<usize>(), 16_000);
    }

    #[test]
    fn bad_audio_is_refused_by_name_and_leaves_nothing() {
        let (mut intake, mic) = intake();
        let code = |r: Result<bool, ErrorBody>| r.unwrap_err().code.unwrap();
        assert_eq!(code(intake.append("!!!")), "invalid_base64");
        assert_eq!(code(intake.append(&STANDARD.encode([1, 2, 3]))), "invalid_audio");
        let big = "A".repeat(APPEND_BYTES_MAX / 3 * 4 + 8);
        assert_eq!(code(intake.append(&big)), "audio_too_large");
        assert!(taken(&mic).is_empty());
        let empty = intake.commit().unwrap_err();
        assert_eq!(empty.code.as_deref(), Some("input_audio_buffer_commit_empty"));
    }

    #[test]
    fn a_burst_goes_in_long_chunks_and_its_oldest_part_is_lost_when_it_does_not_fit() {
        let (mut intake, mic) = intake();
        let burst = |seconds: usize| STANDARD.encode(vec![0u8; 48_000 * seconds]);
        assert!(!intake.append(&burst(51)).unwrap());
        assert!(mic.len() <= MIC_LANE);
        assert!(intake.append(&burst(10)).unwrap());
        assert_eq!((mic.len(), mic.dropped() > 0), (MIC_LANE, true));
    }
}
