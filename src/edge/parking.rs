//! Calls whose line was lost and may come back, by a token that only their client knows.
//!
//! A token is good once. Half of it names the call, half proves it, and only the first half is ever a key: the
//! second is compared in a time that does not depend on it. Tokens are never logged.
//!
//! *Bound:* one token a call; it goes with the call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ractor::ActorRef;
use tokio::sync::mpsc;
use viva_actors::ports::SessionMsg;

use super::sideband::Door;

/// Bytes of a token's halves: a name that is not met by chance, and 192 bits to prove it.
const NAME: usize = 8;
const PROOF: usize = 24;

/// Characters of a token: both halves in hexadecimal digits.
const DIGITS: usize = 2 * (NAME + PROOF);

/// Lines that may wait to be taken up by one call: each token is good for one, and one is out at a time.
const LINES: usize = 1;

type Name = [u8; NAME];

/// Where calls wait for their lines.
pub struct Parking<T> {
    places: Mutex<HashMap<Name, Place<T>>>,
    stay: Duration,
}

struct Place<T> {
    proof: [u8; PROOF],
    door: mpsc::Sender<T>,
    home: Option<Home>,
}

/// What a call is, whatever line it has.
#[derive(Clone)]
pub struct Home {
    /// Its session.
    pub session: ActorRef<SessionMsg>,
    /// The way in for its sidebands.
    pub door: Door,
}

/// A call's token, until it is spent or the call is over.
pub struct Ticket<T> {
    parking: Arc<Parking<T>>,
    name: Name,
    /// What the client is given.
    pub token: String,
}

impl<T> Parking<T> {
    /// Calls wait for so long. None wait where that is nothing.
    pub fn new(stay: Duration) -> Arc<Self> {
        Arc::new(Self { places: Mutex::default(), stay })
    }

    /// How long a call waits.
    pub fn stay(&self) -> Duration {
        self.stay
    }

    /// Calls that could be come back to.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A way back to this call, and its door.
    pub fn ticket(self: &Arc<Self>, home: Option<Home>) -> (Ticket<T>, mpsc::Receiver<T>) {
        let (door, coming) = mpsc::channel(LINES);
        let (name, proof): (Name, [u8; PROOF]) = (rand::random(), rand::random());
        self.lock().insert(name, Place { proof, door, home });
        let token = name.iter().chain(&proof).map(|byte| format!("{byte:02x}")).collect();
        (Ticket { parking: Arc::clone(self), name, token }, coming)
    }

    /// Whether [`Self::claim`] would find a call.
    pub fn knows(&self, token: &str) -> bool {
        read(token).is_some_and(|(name, proof)| self.lock().get(&name).is_some_and(|p| p.proves(&proof)))
    }

    /// The call that [`Self::claim`] would find.
    pub fn home(&self, token: &str) -> Option<Home> {
        let (name, proof) = read(token)?;
        self.lock().get(&name).filter(|place| place.proves(&proof))?.home.clone()
    }

    /// Spends a token. What is sent through the door becomes the call's line; none for a token that is not
    /// good (any more).
    pub fn claim(&self, token: &str) -> Option<mpsc::Sender<T>> {
        let (name, proof) = read(token)?;
        let mut places = self.lock();
        if !places.get(&name)?.proves(&proof) {
            return None;
        }
        places.remove(&name).map(|place| place.door)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, Place<T>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Place<T> {
    /// Looks at every byte, whatever the first says.
    fn proves(&self, proof: &[u8; PROOF]) -> bool {
        let difference = self.proof.iter().zip(proof).fold(0, |all, (a, b)| all | (a ^ b));
        std::hint::black_box(difference) == 0
    }
}

impl<T> Drop for Ticket<T> {
    fn drop(&mut self) {
        self.parking.lock().remove(&self.name);
    }
}

fn read(token: &str) -> Option<(Name, [u8; PROOF])> {
    let digits = token.as_bytes();
    if digits.len() != DIGITS || !token.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; NAME + PROOF];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    let (mut name, mut proof) = ([0; NAME], [0; PROOF]);
    name.copy_from_slice(&bytes[..NAME]);
    proof.copy_from_slice(&bytes[NAME..]);
    Some((name, proof))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_token_opens_its_call_once() {
        let parking = Parking::<u8>::new(Duration::from_secs(1));
        let (ticket, mut coming) = parking.ticket(None);
        assert!(parking.knows(&ticket.token));
        parking.claim(&ticket.token).unwrap().try_send(7).unwrap();
        assert_eq!(coming.try_recv().unwrap(), 7);
        assert!(!parking.knows(&ticket.token) && parking.claim(&ticket.token).is_none());
    }

    #[test]
    fn no_other_token_does_and_trying_spends_nothing() {
        let parking = Parking::<u8>::new(Duration::from_secs(1));
        let (ticket, _coming) = parking.ticket(None);
        let mut wrong = ticket.token.clone();
        let last = if wrong.pop() == Some('0') { '1' } else { '0' };
        wrong.push(last);
        for token in [wrong.as_str(), "", "0", &"z".repeat(DIGITS), &"ä".repeat(DIGITS / 2)] {
            assert!(parking.claim(token).is_none(), "{token}");
        }
        assert!(parking.knows(&ticket.token));
    }

    #[test]
    fn a_token_goes_with_its_call() {
        let parking = Parking::<u8>::new(Duration::from_secs(1));
        let (ticket, _coming) = parking.ticket(None);
        let token = ticket.token.clone();
        drop(ticket);
        assert!(parking.is_empty() && parking.claim(&token).is_none());
    }
}
