//! A caller who says nothing after a reply: where the client wishes it, their silence becomes a turn, and is answered.

use viva_actors::conversation::{Item, Place};
use viva_actors::ports::{ResponseOptions, SessionMsg};
use viva_models::Role;

use super::Call;
use crate::edge::protocol::{ItemObject, Part, ServerEvent};
use crate::edge::transport::{Lost, Transport};

impl<T: Transport + 'static> Call<T> {
    /// Tells of the silence, keeps it as a turn without words, and asks for a reply.
    pub(super) async fn silent_too_long(&mut self) -> Result<(), Lost> {
        let Some((_, since_ms)) = self.idle.take() else { return Ok(()) };
        let detection = self.object.audio.input.turn_detection.as_ref();
        let Some(idle_ms) = detection.and_then(|detection| detection.idle_timeout_ms) else { return Ok(()) };
        let id = format!("item_{:020x}", rand::random::<u128>() >> 48);
        let (role, text) = (Role::User, String::new());
        let item = Item { id: id.clone(), role, text, spoken: true, complete: true };
        // A session that does not answer has ended, and its queue ends the call.
        let placed = self.ask(|port| SessionMsg::AddItem(item, Place::Last, port)).await;
        let Ok(Ok(previous_item_id)) = placed else { return Ok(()) };
        let audio_end_ms = since_ms + u64::from(idle_ms);
        let content = vec![Part::InputAudio { transcript: None }];
        let item = ItemObject::message(id.clone(), Role::User, "completed", content);
        let previous = previous_item_id;
        self.say_all(vec![
            ServerEvent::TimeoutTriggered { audio_start_ms: since_ms, audio_end_ms, item_id: id.clone() },
            ServerEvent::Committed { previous_item_id: previous.clone(), item_id: id },
            ServerEvent::ItemAdded { previous_item_id: previous.clone(), item: item.clone() },
            ServerEvent::ItemDone { previous_item_id: previous, item },
        ])
        .await?;
        self.reply_asked();
        self.tell(SessionMsg::Respond(Box::<ResponseOptions>::default()));
        Ok(())
    }
}
