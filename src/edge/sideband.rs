//! Sidebands: further lines of control to a call, over a WebSocket that names it (`?call_id=rtc_…`).
//!
//! A sideband is told what the call's own client is told, but for what concerns only that one's line or was asked for
//! by another; and it may ask for what that one may, but for audio. Who holds a key sees and changes also the settings
//! that a client secret keeps from its holder: that is what a company's server is there for.
//!
//! *Bound:* [`PLACES`] a call. [`EVENTS`] wait for one; who does not read them is cut off, and the call goes on.
//! [`REQUESTS`] of all of a call's wait for it, and then their sockets are not read.

use std::future::pending;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use viva_actors::types::Principal;

use super::call::close;
use super::protocol::{Envelope, ServerEvent, SessionObject};
use super::secrets::Grant;
use super::transport::{Inbound, Transport};

/// Sidebands of one call: a server that leads it, one that watches it, and each once more while it is restarted.
const PLACES: usize = 4;

/// Events that wait for a sideband, beside the megabyte its socket keeps: a reply of a hundred words.
const EVENTS: usize = 128;

/// What sidebands ask that waits for the call. An event has at most half a megabyte.
const REQUESTS: usize = 8;

/// Bytes of one message from a sideband: a little more than an event may have, so that a larger one is refused in the
/// protocol's form.
pub const MESSAGE_MAX: usize = 1024 * 1024;

const _: () = assert!(MESSAGE_MAX > super::protocol::client_events::EVENT_BYTES_MAX);

/// Which line of a call asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// The caller's own.
    Caller,
    /// A sideband.
    Sideband(u64),
}

/// What a sideband sees.
#[derive(Debug, Clone, Copy)]
pub struct Sight {
    /// It holds a key: nothing is kept from it.
    pub trusted: bool,
    /// It asked for our own events.
    pub extended: bool,
}

/// What comes from sidebands.
pub enum Side {
    /// One is there.
    Joins(Line),
    /// One asks for something.
    Asks(u64, String),
    /// One is gone.
    Leaves(u64),
}

/// A sideband, as its call knows it.
pub struct Line {
    id: u64,
    sight: Sight,
    events: mpsc::Sender<(String, ServerEvent)>,
}

/// The way in to a call.
#[derive(Clone)]
pub struct Door {
    owner: Principal,
    /// The interview the call is held for.
    interview: Option<String>,
    places: Arc<Semaphore>,
    way: mpsc::Sender<Side>,
}

impl Door {
    /// Whether somebody may come in: a key of the same tenant, or a client secret like the one that opened the call.
    pub fn opens_to(&self, principal: &Principal, grant: Option<&Grant>) -> bool {
        if principal.tenant != self.owner.tenant {
            return false;
        }
        grant.is_none_or(|grant| principal.user == self.owner.user && grant.interview == self.interview)
    }

    /// A place; none where all are taken.
    pub fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// Serves a sideband until either side ends.
    pub async fn serve<T: Transport>(self, mut transport: T, sight: Sight, place: OwnedSemaphorePermit) {
        let id = rand::random();
        let (sender, mut events) = mpsc::channel(EVENTS);
        if self.way.send(Side::Joins(Line { id, sight, events: sender })).await.is_err() {
            return transport.close(close::NORMAL, "the call is over").await;
        }
        let (code, why) = loop {
            tokio::select! {
                heard = transport.receive() => match heard {
                    Inbound::Event(text) => {
                        if self.way.send(Side::Asks(id, text)).await.is_err() {
                            break (close::NORMAL, "the call is over");
                        }
                    }
                    Inbound::Unreadable(error) => {
                        let event = ServerEvent::Error { error };
                        let event_id = format!("event_{:016x}", rand::random::<u64>());
                        if transport.event(&Envelope { event_id, event: &event }).await.is_err() {
                            break (close::NORMAL, "");
                        }
                    }
                    Inbound::Audio(_) | Inbound::Away { .. } | Inbound::Back => {}
                    Inbound::Lost { .. } => break (close::NORMAL, ""),
                    Inbound::Gone { code, .. } => break (code, ""),
                },
                event = events.recv() => match event {
                    Some((event_id, event)) => {
                        if transport.event(&Envelope { event_id, event: &event }).await.is_err() {
                            break (close::NORMAL, "");
                        }
                    }
                    None => break (close::NORMAL, "the call is over, or too little was read"),
                },
            }
        };
        drop(events);
        // A call that is over has forgotten it.
        self.way.send(Side::Leaves(id)).await.ok();
        drop(place);
        transport.close(code, why).await;
    }
}

/// A call's sidebands.
pub struct Sidebands {
    door: Door,
    coming: mpsc::Receiver<Side>,
    lines: Vec<Line>,
}

impl Sidebands {
    /// None yet; those of `owner` may come. With `interview`, holders of its secrets too.
    pub fn of(owner: Principal, interview: Option<String>) -> Self {
        let (way, coming) = mpsc::channel(REQUESTS);
        let places = Arc::new(Semaphore::new(PLACES));
        Self { door: Door { owner, interview, places, way }, coming, lines: Vec::new() }
    }

    /// The way in.
    pub fn door(&self) -> Door {
        self.door.clone()
    }

    /// What comes from them.
    pub async fn next(&mut self) -> Side {
        match self.coming.recv().await {
            Some(side) => side,
            // We hold a door ourselves.
            None => pending().await,
        }
    }

    /// Takes one in. Its greeting comes first.
    pub fn join(&mut self, line: Line, event_id: String, object: SessionObject, shown: ServerEvent) {
        let session = object.shown();
        let greeting = if line.sight.trusted { ServerEvent::SessionCreated { session } } else { shown };
        // It has just been made: there is room.
        line.events.try_send((event_id, greeting)).ok();
        self.lines.push(line);
    }

    /// One is gone.
    pub fn leave(&mut self, id: u64) {
        self.lines.retain(|line| line.id != id);
    }

    /// Whether this one holds no key.
    pub fn bound(&self, id: u64) -> bool {
        self.lines.iter().find(|line| line.id == id).is_none_or(|line| !line.sight.trusted)
    }

    /// Tells all of them what the caller's client is told. Who has not read what waits is given up.
    pub fn tell(&mut self, event_id: &str, event: &ServerEvent, object: &SessionObject) {
        let own = matches!(
            event,
            ServerEvent::SessionCreated { .. } | ServerEvent::WayBack { .. } | ServerEvent::CameBack { .. }
        );
        if own || self.lines.is_empty() {
            return;
        }
        self.lines.retain(|line| {
            if event.is_extended() && !line.sight.extended {
                return true;
            }
            let event = match event {
                ServerEvent::SessionUpdated { .. } if line.sight.trusted => {
                    ServerEvent::SessionUpdated { session: object.clone().shown() }
                }
                other => other.clone(),
            };
            line.events.try_send((event_id.to_owned(), event)).is_ok()
        });
    }

    /// Tells one of them something of its own.
    pub fn tell_one(&mut self, id: u64, event_id: &str, event: &ServerEvent) {
        self.lines.retain(|line| {
            line.id != id || line.events.try_send((event_id.to_owned(), event.clone())).is_ok()
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn principal(tenant: &str, user: &str) -> Principal {
        Principal { tenant: tenant.into(), user: user.into(), ..Principal::default() }
    }

    #[test]
    fn a_door_opens_to_its_tenants_keys_and_to_the_secret_of_its_own_interview() {
        let door = Sidebands::of(principal("acme", "ann"), Some("int_a".into())).door();
        let grant = |user: &str, interview: &str| Grant {
            principal: principal("acme", user),
            interview: Some(interview.into()),
            session: None,
        };
        assert!(door.opens_to(&principal("acme", "bob"), None));
        assert!(!door.opens_to(&principal("other", "ann"), None));
        assert!(door.opens_to(&principal("acme", "ann"), Some(&grant("ann", "int_a"))));
        assert!(!door.opens_to(&principal("acme", "ann"), Some(&grant("ann", "int_b"))));
        assert!(!door.opens_to(&principal("acme", "bob"), Some(&grant("bob", "int_a"))));
    }

    #[test]
    fn who_does_not_read_is_given_up_and_the_others_are_told() {
        let mut sidebands = Sidebands::of(principal("acme", "ann"), None);
        let offer = super::super::protocol::session_object::Offer {
            model: "m".into(),
            voices: vec!["v".into()],
            spec: viva_actors::ports::SessionSpec::default(),
            session_s_max: 60,
        };
        let object = SessionObject::new("sess_1".into(), &offer, 0);
        let sight = Sight { trusted: true, extended: false };
        let mut ends = Vec::new();
        for id in 0..2 {
            let (events, end) = mpsc::channel(EVENTS);
            sidebands.lines.push(Line { id, sight, events });
            ends.push(end);
        }
        let mut heard = 0;
        for n in 0..=EVENTS {
            sidebands.tell(&format!("event_{n}"), &ServerEvent::Cleared {}, &object);
            sidebands.tell("x", &ServerEvent::State { state: "ours".into() }, &object);
            heard += usize::from(ends[1].try_recv().is_ok());
        }
        assert_eq!((sidebands.lines.len(), heard), (1, EVENTS + 1), "and our own events went to neither");
        assert_eq!(sidebands.lines[0].id, 1);
    }
}
