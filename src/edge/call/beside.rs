//! What goes on beside a call's own line: sidebands that come, ask and go, and responses outside the conversation.

use super::{Call, event_name};
use crate::edge::out_of_band::{Step, Told};
use crate::edge::protocol::{Envelope, ServerEvent};
use crate::edge::sideband::{Asker, Side};
use crate::edge::transport::{Frame, Lost, Transport};

impl<T: Transport + 'static> Call<T> {
    /// A sideband comes, asks or goes.
    pub(super) async fn side(&mut self, side: Side) -> Result<(), Lost> {
        match side {
            Side::Joins(line) => {
                tracing::info!(session = %self.id, "a sideband joins");
                self.events += 1;
                let shown = ServerEvent::SessionCreated { session: self.shown() };
                let event_id = event_name(&self.id, self.events);
                self.sidebands.join(line, event_id, self.object.clone(), shown);
            }
            Side::Asks(id, text) => {
                self.request(Asker::Sideband(id), &text).await?;
                self.keep_in_step().await;
            }
            Side::Leaves(id) => {
                tracing::info!(session = %self.id, "a sideband leaves");
                self.sidebands.leave(id);
                self.beside.forget(Asker::Sideband(id));
            }
        }
        Ok(())
    }

    /// Something happened to a response outside the conversation.
    pub(super) async fn step(&mut self, step: Step) -> Result<(), Lost> {
        let Some(Told { asker, events, frame }) = self.beside.tell(step) else { return Ok(()) };
        let mut told = Ok(());
        for event in events {
            let said = self.say_to(asker, event).await;
            told = told.and(said);
        }
        told?;
        // On a track it would be mixed with the conversation.
        let Some((ids, samples)) = frame.filter(|_| !self.transport.carries_audio()) else { return Ok(()) };
        self.events += 1;
        let event_id = event_name(&self.id, self.events);
        let format = self.object.audio.output.format;
        self.transport.audio(Frame { event_id, ids: &ids, format, samples: &samples }).await
    }

    /// Tells one line what is its own business.
    pub(in crate::edge) async fn say_to(&mut self, asker: Asker, event: ServerEvent) -> Result<(), Lost> {
        match asker {
            Asker::Caller => {
                let event_id = self.keep(&event);
                self.transport.event(&Envelope { event_id, event: &event }).await
            }
            Asker::Sideband(id) => {
                self.events += 1;
                let event_id = event_name(&self.id, self.events);
                self.sidebands.tell_one(id, &event_id, &event);
                Ok(())
            }
        }
    }

    /// Whether the settings that a client secret locks are locked to this line.
    pub(in crate::edge) fn bound(&self, asker: Asker) -> bool {
        match asker {
            Asker::Caller => self.locked.is_some() || self.directed,
            Asker::Sideband(id) => self.sidebands.bound(id),
        }
    }
}
