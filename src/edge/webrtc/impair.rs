//! A bad network of our own: loses, delays and reorders datagrams, for our caller and for tests. Kernels do not
//! all have one to offer (`netem`), and loopback never fails.

use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// What happens to each datagram, by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Impairment {
    /// Share that is lost, 0 to 1.
    pub loss: f64,
    /// Each is delayed by 0 to so much, evenly: whoever is delayed less overtakes.
    pub jitter: Duration,
    /// Delay of all.
    pub delay: Duration,
    /// What its chances begin with: the same ones again for the same seed. None for others each time.
    pub seed: Option<u64>,
}

/// A network with these faults.
pub struct BadNetwork {
    faults: Impairment,
    chance: Mutex<StdRng>,
}

/// Something on its way.
pub trait Impaired: Send + 'static {
    /// It comes.
    fn arrive(self);
}

impl BadNetwork {
    /// A network that does to every datagram what its faults say.
    pub fn new(faults: Impairment) -> Self {
        let seed = faults.seed.unwrap_or_else(rand::random);
        Self { faults, chance: Mutex::new(StdRng::seed_from_u64(seed)) }
    }

    /// Sends something on its way. Within a Tokio runtime.
    pub fn pass(&self, what: impl Impaired) {
        let Impairment { loss, jitter, delay, .. } = self.faults;
        let (lost, delay) = {
            let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
            let jitter = jitter.mul_f64(chance.random_range(0.0..=1.0));
            (chance.random_bool(loss.clamp(0.0, 1.0)), delay + jitter)
        };
        if lost {
            return;
        }
        if delay.is_zero() {
            return what.arrive();
        }
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            what.arrive();
        });
    }
}

/// `loss=0.05,jitter=60,delay=20,seed=7`: a share, milliseconds, milliseconds, a number to throw the same dice again.
impl FromStr for Impairment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut network = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let wrong = || format!("{part:?} is none of loss=SHARE, jitter=MS, delay=MS, seed=NUMBER");
            let (name, value) = part.split_once('=').ok_or_else(wrong)?;
            if name.trim() == "seed" {
                network.seed = Some(value.parse().map_err(|_| wrong())?);
                continue;
            }
            let value: f64 = value.parse().map_err(|_| wrong())?;
            let ms = || {
                (0.0..=10_000.0)
                    .contains(&value)
                    .then(|| Duration::from_secs_f64(value / 1000.0))
                    .ok_or_else(wrong)
            };
            match name.trim() {
                "loss" if (0.0..=1.0).contains(&value) => network.loss = value,
                "jitter" => network.jitter = ms()?,
                "delay" => network.delay = ms()?,
                _ => return Err(wrong()),
            }
        }
        Ok(network)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_network_is_named_by_its_faults() {
        let network: Impairment = "loss=0.05,jitter=60".parse().unwrap();
        assert_eq!((network.loss, network.jitter, network.seed), (0.05, Duration::from_millis(60), None));
        assert_eq!("loss=1,seed=7".parse::<Impairment>().unwrap().seed, Some(7));
        for wrong in ["seed=-1", "loss=2", "loss", "speed=3", "jitter=-1", "jitter=NaN"] {
            assert!(wrong.parse::<Impairment>().is_err(), "{wrong}");
        }
    }
}
