//! Opus on the server: our voice from 24 kHz, the caller's to 16 kHz, both without a resampler.
//!
//! Both run where they are called: a frame of 20 ms costs 20 to 300 microseconds, less than handing it to
//! another thread would add in delay on a busy machine.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use opus::{Application, Bitrate, Channels, Decoder, Encoder, Signal};
use viva_actors::ports::OUT_FRAME;
use viva_models::audio::{LISTEN_RATE, SPEAK_RATE};

use super::dejitter::Step;

/// Bytes of one packet: Opus's own limit for a frame.
const PACKET_MAX: usize = 1275;

/// Milliseconds of the longest packet Opus allows.
const LONGEST_MS: usize = 120;

/// Losses our packets are made for: with none expected they carry no correction. A bad wireless network.
const LOSS_PERCENT: i32 = 10;

/// A frame of silence, encoded once. Continuous silence costs a peer 50 packets of some 60 bytes a second;
/// saying nothing (DTX) would spare most of that, but then a browser's jitter buffer forgets what it knows of
/// the network just before the next reply begins, and the first word is late or broken.
pub static SILENCE: LazyLock<Bytes> = LazyLock::new(|| {
    // The third is what an encoder says that has settled.
    let frames = Voice::new(32_000, 0).map(|mut voice| [0; 3].map(|_| voice.encode(&[0; OUT_FRAME], 0)));
    frames.ok().and_then(|frames| frames.into_iter().flatten().last()).unwrap_or_default()
});

/// How hard the encoders of all peers may work, by how late the server is.
#[derive(Debug)]
pub struct Effort {
    most: i32,
    now: AtomicI32,
}

/// Above this lateness of one tick in a hundred encoders work less: half of what refuses new callers, so that
/// something is done before anybody has to be refused.
const LESS_ABOVE: Duration = Duration::from_millis(5);

/// Below this they work more again.
const MORE_BELOW: Duration = Duration::from_millis(2);

impl Effort {
    /// Up to this complexity, 0 to 10.
    pub fn new(most: i32) -> Self {
        Self { most, now: AtomicI32::new(most) }
    }

    /// The complexity to encode with now.
    pub fn complexity(&self) -> i32 {
        self.now.load(Ordering::Relaxed)
    }

    /// Once a second: less by two steps while the server is late, as the cost halves over four steps; more by
    /// one while it is not.
    pub fn adapt(&self, lateness: Duration) {
        let now = self.complexity();
        let next = match lateness {
            late if late > LESS_ABOVE => now - 2,
            late if late < MORE_BELOW => now + 1,
            _ => now,
        };
        self.now.store(next.clamp(0, self.most), Ordering::Relaxed);
    }
}

/// Something that only its owner touches, and that therefore may lie in what several threads can see.
struct Alone<T>(Mutex<T>);

impl<T> Alone<T> {
    fn new(it: T) -> Self {
        Self(Mutex::new(it))
    }

    fn it(&mut self) -> &mut T {
        // Nothing ever locks it.
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Our voice.
pub struct Voice {
    encoder: Alone<Encoder>,
    complexity: i32,
    packet: Box<[u8; PACKET_MAX]>,
}

impl Voice {
    /// With so many bits a second.
    pub fn new(bitrate: i32, complexity: i32) -> opus::Result<Self> {
        let mut encoder = Encoder::new(SPEAK_RATE, Channels::Mono, Application::Voip)?;
        encoder.set_bitrate(Bitrate::Bits(bitrate))?;
        encoder.set_signal(Signal::Voice)?;
        encoder.set_inband_fec(true)?;
        encoder.set_packet_loss_perc(LOSS_PERCENT)?;
        encoder.set_complexity(complexity)?;
        Ok(Self { encoder: Alone::new(encoder), complexity, packet: Box::new([0; PACKET_MAX]) })
    }

    /// A frame; none when the encoder refuses it, which it has no reason to.
    pub fn encode(&mut self, frame: &[i16; OUT_FRAME], complexity: i32) -> Option<Bytes> {
        let encoder = self.encoder.it();
        if complexity != self.complexity && encoder.set_complexity(complexity).is_ok() {
            self.complexity = complexity;
        }
        match encoder.encode(frame, &mut *self.packet) {
            Ok(length) => Some(Bytes::copy_from_slice(&self.packet[..length])),
            Err(error) => {
                tracing::warn!(%error, "a frame could not be encoded");
                None
            }
        }
    }
}

/// The caller's voice.
pub struct Ear {
    decoder: Alone<Decoder>,
    rate: u32,
    samples: Vec<f32>,
    made_up: u64,
}

impl Ear {
    /// Heard nothing yet; hears at 16 kHz.
    pub fn new() -> opus::Result<Self> {
        Self::at(LISTEN_RATE)
    }

    /// The same at another of Opus's rates.
    pub fn at(rate: u32) -> opus::Result<Self> {
        let decoder = Decoder::new(rate, Channels::Mono)?;
        let samples = vec![0.0; rate as usize * LONGEST_MS / 1000];
        Ok(Self { decoder: Alone::new(decoder), rate, samples, made_up: 0 })
    }

    /// What a step sounds like, added to `out`. A packet that is no Opus is concealed.
    pub fn hear(&mut self, step: Step, out: &mut Vec<f32>) {
        let frame = self.rate as usize / 50;
        let decoder = self.decoder.it();
        let decoded = match step {
            Step::Decode(packet) => decoder
                .decode_float(&packet, &mut self.samples, false)
                .or_else(|_| decoder.decode_float(&[], &mut self.samples[..frame], false)),
            Step::Correct(next) => {
                self.made_up += 1;
                decoder.decode_float(&next, &mut self.samples[..frame], true)
            }
            Step::Conceal => {
                self.made_up += 1;
                decoder.decode_float(&[], &mut self.samples[..frame], false)
            }
            Step::Silence(length) => {
                let samples = length.as_micros() as usize * (self.rate as usize / 1000) / 1000;
                out.resize(out.len() + samples, 0.0);
                return;
            }
            Step::Reset => {
                decoder.reset_state().ok();
                return;
            }
        };
        if let Ok(samples) = decoded {
            out.extend_from_slice(&self.samples[..samples.min(self.samples.len())]);
        }
    }

    /// Frames that had to be made up.
    pub fn made_up(&self) -> u64 {
        self.made_up
    }
}

/// Samples at 48 kHz in a packet; none when it is no Opus.
pub fn length_of(packet: &[u8]) -> Option<u32> {
    let samples = opus::packet::get_nb_samples(packet, 48_000).ok()?;
    u32::try_from(samples).ok().filter(|samples| *samples > 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tone() -> Box<[i16; OUT_FRAME]> {
        let mut frame = Box::new([0; OUT_FRAME]);
        frame.iter_mut().enumerate().for_each(|(i, s)| *s = ((i as f32 * 0.08).sin() * 8000.0) as i16);
        frame
    }

    fn level(samples: &[f32]) -> f32 {
        (samples.iter().map(|s| s * s).sum::<f32>() / samples.len() as f32).sqrt()
    }

    #[test]
    fn a_second_of_voice_is_heard_as_a_second_of_voice() {
        let (mut voice, mut ear) = (Voice::new(32_000, 5).unwrap(), Ear::new().unwrap());
        let mut heard = Vec::new();
        for _ in 0..50 {
            let packet = voice.encode(&tone(), 5).unwrap();
            assert_eq!(length_of(&packet), Some(960));
            ear.hear(Step::Decode(packet), &mut heard);
        }
        assert_eq!(heard.len(), 16_000);
        assert!((level(&heard[8_000..]) - 0.173).abs() < 0.03, "{}", level(&heard[8_000..]));
    }

    #[test]
    fn silence_is_small_and_silent() {
        assert!((1..=8).contains(&SILENCE.len()), "{} bytes", SILENCE.len());
        let mut heard = Vec::new();
        Ear::new().unwrap().hear(Step::Decode(SILENCE.clone()), &mut heard);
        assert!(heard.len() == 320 && level(&heard) < 1e-4);
    }

    #[test]
    fn a_lost_frame_is_made_up_from_the_next() {
        let (mut voice, mut ear) = (Voice::new(32_000, 5).unwrap(), Ear::new().unwrap());
        let packets: Vec<Bytes> = (0..20).map(|_| voice.encode(&tone(), 5).unwrap()).collect();
        let mut heard = Vec::new();
        packets[..18].iter().for_each(|p| ear.hear(Step::Decode(p.clone()), &mut heard));
        let before = heard.len();
        ear.hear(Step::Correct(packets[19].clone()), &mut heard);
        assert_eq!(heard.len() - before, 320);
        assert!(level(&heard[before..]) > 0.1, "{}", level(&heard[before..]));
    }

    #[test]
    fn encoders_work_less_while_the_server_is_late_and_recover() {
        let effort = Effort::new(5);
        let late = Duration::from_millis(8);
        effort.adapt(late);
        assert_eq!(effort.complexity(), 3);
        (0..9).for_each(|_| effort.adapt(late));
        assert_eq!(effort.complexity(), 0);
        effort.adapt(Duration::from_millis(3));
        assert_eq!(effort.complexity(), 0, "neither late nor at ease");
        (0..9).for_each(|_| effort.adapt(Duration::ZERO));
        assert_eq!(effort.complexity(), 5);
    }
}
