//! Frames and messages. A frame is a length (u32, little endian) and that many bytes of postcard.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::contract::{
    AsrJob, Begun, EngineError, LlmInfo, Prompt, Sampling, SeqId, StepEvent, StepPlan, StyleSupport,
    Transcription, TtsJob,
};

/// Raised with every change of [`Request`], [`Reply`] or of what they carry: postcard has no field names,
/// so both sides must be of the same build.
pub const WIRE_VERSION: u32 = 2;

/// Bytes one frame may have. The largest honest one is 30 s of speech (1.9 MB of f32); anything far above
/// it is a broken peer, not a job.
pub const FRAME_BYTES_MAX: usize = 8 << 20;

/// Samples in one frame of speech: about half a second at 22 kHz, small enough to be sent while the next
/// is made, large enough that frames cost nothing.
pub(super) const CHUNK_SAMPLES_MAX: usize = 12_000;

/// What the parent asks.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Recognise.
    Transcribe { job: u64, body: AsrJob },
    /// Speak.
    Speak { job: u64, body: TtsJob },
    /// Begin an answer in a sequence.
    Begin { job: u64, seq: SeqId, prompt: Prompt, sampling: Sampling },
    /// Run one step.
    Step { job: u64, plan: StepPlan },
    /// Stop generating in a sequence.
    Stop { job: u64, seq: SeqId },
    /// Free a sequence.
    Close { job: u64, seq: SeqId },
    /// The answer to this job no longer matters.
    Cancel { job: u64 },
    /// Are you there? Answered beside the computation.
    Ping(u64),
    /// End yourself when the running job is over.
    Shutdown,
}

impl Request {
    /// The job's number, for those that are work.
    pub(super) fn job(&self) -> Option<u64> {
        match self {
            Self::Transcribe { job, .. }
            | Self::Speak { job, .. }
            | Self::Begin { job, .. }
            | Self::Step { job, .. }
            | Self::Stop { job, .. }
            | Self::Close { job, .. } => Some(*job),
            Self::Cancel { .. } | Self::Ping(_) | Self::Shutdown => None,
        }
    }
}

/// Which engine lives in the child.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum EngineInfo {
    /// Recognition.
    Asr {
        /// Name and version.
        name: String,
    },
    /// Speech.
    Tts {
        /// Name and version.
        name: String,
        /// Hertz.
        sample_rate: u32,
        /// What of a style it honours.
        styles: StyleSupport,
    },
    /// Language.
    Llm(LlmInfo),
}

/// What the child answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// First frame of a child that is ready. The version stands first, so that it can be read even where
    /// the rest has changed.
    Hello { version: u32, info: EngineInfo },
    /// First and only frame of a child whose engine would not open.
    Refused(EngineError),
    /// Answer to [`Request::Ping`].
    Pong(u64),
    /// Some of a job's speech.
    Chunk { job: u64, samples: Vec<f32> },
    /// The end of a job.
    Finished { job: u64, outcome: Result<Outcome, EngineError> },
}

/// What a job came to.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Outcome {
    /// Of [`Request::Transcribe`].
    Transcription(Transcription),
    /// Of [`Request::Begin`].
    Begun(Begun),
    /// Of [`Request::Step`].
    Stepped(Vec<StepEvent>),
    /// Of the rest.
    Nothing,
}

/// Writes one message as one frame. Fails with `InvalidData` above [`FRAME_BYTES_MAX`], before a byte of it
/// is written.
pub(super) fn write_frame<T: Serialize>(to: &mut impl Write, message: &T) -> io::Result<()> {
    let mut frame = postcard::to_extend(message, vec![0u8; 4]).map_err(invalid)?;
    let length = frame.len() - 4;
    if length > FRAME_BYTES_MAX {
        return Err(invalid(format!("a message of {length} bytes is above the limit of {FRAME_BYTES_MAX}")));
    }
    let length = u32::try_from(length).map_err(invalid)?;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    to.write_all(&frame)?;
    to.flush()
}

/// Collects frames from a stream whose reads may time out in the middle of one.
#[derive(Debug, Default)]
pub(super) struct FrameReader {
    buffer: Vec<u8>,
    filled: usize,
}

impl FrameReader {
    /// The next message; none when the stream's read timeout passed first. An ended stream is
    /// `UnexpectedEof`, a frame that is too long or does not parse is `InvalidData`.
    pub(super) fn poll<T: DeserializeOwned>(&mut self, from: &mut impl Read) -> io::Result<Option<T>> {
        loop {
            let wanted = self.wanted()?;
            if self.filled == wanted && wanted > 4 {
                let message = postcard::from_bytes(&self.buffer[4..wanted]).map_err(invalid);
                self.filled = 0;
                return message.map(Some);
            }
            if self.buffer.len() < wanted {
                self.buffer.resize(wanted, 0);
            }
            match from.read(&mut self.buffer[self.filled..wanted]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Bytes the frame being read has, its length included; 4 while the length itself is incomplete.
    fn wanted(&self) -> io::Result<usize> {
        if self.filled < 4 {
            return Ok(4);
        }
        let mut length = [0u8; 4];
        length.copy_from_slice(&self.buffer[..4]);
        let length = u32::from_le_bytes(length) as usize;
        if length == 0 || length > FRAME_BYTES_MAX {
            return Err(invalid(format!("a frame of {length} bytes; 1 to {FRAME_BYTES_MAX} are allowed")));
        }
        Ok(4 + length)
    }
}

fn invalid(error: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Hands out one byte a read and a timeout between every two.
    struct Drip<'a>(&'a [u8], bool);

    impl Read for Drip<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let Some((first, rest)) = self.0.split_first() else { return Ok(0) };
            to[0] = *first;
            self.0 = rest;
            Ok(1)
        }
    }

    #[test]
    fn frames_survive_timeouts_at_every_byte() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &Request::Ping(7)).unwrap();
        write_frame(&mut bytes, &Request::Cancel { job: 300 }).unwrap();
        let mut drip = Drip(&bytes, false);
        let mut reader = FrameReader::default();
        let mut seen = Vec::new();
        loop {
            match reader.poll::<Request>(&mut drip) {
                Ok(Some(message)) => seen.push(format!("{message:?}")),
                Ok(None) => {}
                Err(e) => {
                    assert_eq!(e.kind(), io::ErrorKind::UnexpectedEof);
                    break;
                }
            }
        }
        assert_eq!(seen, ["Ping(7)", "Cancel { job: 300 }"]);
    }

    #[test]
    fn too_long_a_frame_is_refused_by_its_length_alone() {
        let bytes = u32::MAX.to_le_bytes();
        let error = FrameReader::default().poll::<Request>(&mut &bytes[..]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains("are allowed"), "{error}");
    }

    #[test]
    fn a_message_above_the_limit_writes_nothing() {
        let body = AsrJob { samples: vec![0.0; FRAME_BYTES_MAX / 4 + 1], ..AsrJob::default() };
        let mut bytes = Vec::new();
        assert!(write_frame(&mut bytes, &Request::Transcribe { job: 1, body }).is_err());
        assert!(bytes.is_empty());
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        for _ in 0..2_000 {
            let mut bytes = vec![24, 0, 0, 0];
            for _ in 0..24 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                bytes.push(state as u8);
            }
            let _ = FrameReader::default().poll::<Reply>(&mut &bytes[..]);
            let _ = FrameReader::default().poll::<Request>(&mut &bytes[..]);
        }
    }
}
