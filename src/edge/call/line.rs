//! A call whose line is lost: it waits, and goes on over the one its client comes back with.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use viva_actors::event::{LogEntry, SessionEvent};
use viva_actors::metrics as m;
use viva_actors::playout::FRAME_MS;
use viva_actors::ports::{Line, OUT_QUEUE, Out, SessionMsg};

use super::{Call, End, close, event_name, event_number, millis};
use crate::edge::parking::Home;
use crate::edge::protocol::{Envelope, ServerEvent};
use crate::edge::transport::{Lost, Transport};

/// A transport that a client comes back with.
pub struct Return<T> {
    /// It.
    pub transport: T,
    /// The last event the client saw, by its name.
    pub last_event: Option<String>,
}

impl<T: Transport + 'static> Call<T> {
    /// A fresh token for the client, in place of the one that was spent.
    pub(super) async fn say_way_back(&mut self) -> Result<(), Lost> {
        let Some(parking) = &self.parking else { return Ok(()) };
        let expires_in_s = parking.stay().as_secs();
        let home = Home { session: self.control.0.clone(), door: self.sidebands.door() };
        let (ticket, door) = parking.ticket(Some(home));
        let token = ticket.token.clone();
        (self.ticket, self.door) = (Some(ticket), Some(door));
        self.say(ServerEvent::WayBack { token, expires_in_s }).await
    }

    /// The line is lost: waits for the client to come back with another one.
    pub(super) async fn wait(&mut self, out: &mut mpsc::Receiver<Out>, why: String) -> Result<(), End> {
        let Some(stay) = self.parking.as_ref().map(|parking| parking.stay()) else {
            return Err(End::Lost(Lost(why)));
        };
        let silent = self.transport.silent();
        // And the frame that is on its way here while the playout is told.
        let unheard_ms = millis(silent).saturating_add(FRAME_MS as u32);
        self.tell(SessionMsg::Line(Line::Lost { unheard_ms }));
        tracing::info!(session = %self.id, why, "the line is lost; the call waits");
        let lost = Instant::now();
        self.transport.close(close::NORMAL, &why).await;
        let until = sleep_until((lost + stay).min(self.expires));
        tokio::pin!(until);
        loop {
            tokio::select! {
                back = coming(self.door.as_mut()) => {
                    metrics::counter!(m::LINES_LOST, "end" => "resumed").increment(1);
                    self.take_up(back, silent + lost.elapsed()).await.ok();
                    return Ok(());
                }
                // What nobody is there to be told is kept; a sideband is there.
                step = self.beside.next() => drop(self.step(step).await),
                item = out.recv() => match item {
                    Some(Out::Event(entry)) if self.ends(&entry) => {}
                    // The playout sends it again.
                    Some(Out::Audio { .. }) => {}
                    Some(item) if self.kept.len() < OUT_QUEUE => self.kept.push_back(item),
                    Some(_) => return Err(End::Lost(Lost("too much happened while nobody was there".into()))),
                    None => return Err(End::Session),
                },
                () = &mut until => {
                    metrics::counter!(m::LINES_LOST, "end" => "given_up").increment(1);
                    return Err(End::Lost(Lost(why)));
                }
            }
        }
    }

    /// Notes the session's last word, which nobody is there to be told.
    fn ends(&mut self, entry: &LogEntry) -> bool {
        self.note(entry);
        matches!(entry.event, SessionEvent::Ended { .. })
    }

    /// Goes on over the transport the client came back with.
    pub(super) async fn take_up(&mut self, back: Return<T>, away: Duration) -> Result<(), Lost> {
        let Return { transport, last_event } = back;
        let mut old = std::mem::replace(&mut self.transport, transport);
        tokio::spawn(async move { old.close(close::NORMAL, "the call goes on over another line").await });
        let name = self.transport.name();
        tracing::info!(session = %self.id, transport = name, away_ms = millis(away), "the call goes on");
        self.mapper.set_audio_apart(self.transport.carries_audio());
        self.say(ServerEvent::SessionCreated { session: self.shown() }).await?;
        let (session_id, away_ms) = (self.id.0.clone(), away.as_millis() as u64);
        let last = last_event.and_then(|name| event_number(&self.id, &name)).filter(|n| *n <= self.events);
        let (mut missed, complete) = last.map_or((Vec::new(), false), |last| self.told.after(last));
        let apart = self.transport.carries_audio();
        // Where our voice comes in events, they need not say where it is.
        missed.retain(|(_, event)| apart || !event.is_of_a_track());
        let replayed = missed.len();
        self.say(ServerEvent::CameBack { session_id, away_ms, replayed, complete }).await?;
        self.say_way_back().await?;
        for (number, event) in missed {
            let event_id = event_name(&self.id, number);
            self.transport.event(&Envelope { event_id, event: &event }).await?;
        }
        self.line_back();
        Ok(())
    }

    pub(super) fn line_back(&self) {
        let lead_ms = self.transport.lead_ms(self.offer.spec.lead_ms);
        self.tell(SessionMsg::Line(Line::Back { lead_ms }));
    }
}

/// The next transport a client comes back with.
pub(super) async fn coming<T>(door: Option<&mut mpsc::Receiver<Return<T>>>) -> Return<T> {
    if let Some(door) = door
        && let Some(back) = door.recv().await
    {
        return back;
    }
    // Its token is spent and went with whoever spent it: nobody comes this way any more.
    std::future::pending().await
}
