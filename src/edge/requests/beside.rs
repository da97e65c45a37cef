//! What a client asks for beside the conversation: responses that read what they are given and leave no trace.

use viva_actors::conversation::{Conversation, Item, Place};
use viva_actors::ports::SessionMsg;
use viva_actors::types::Epoch;
use viva_models::Prompt;

use super::items::{checked_item, shown};
use super::{Answer, checked_response};
use crate::edge::call::{Call, view};
use crate::edge::mapper::reply::{Names, Place as Stand, Reply};
use crate::edge::out_of_band::Order;
use crate::edge::protocol::client_events::ResponseParams;
use crate::edge::protocol::{ErrorBody, WireItem};
use crate::edge::sideband::Asker;
use crate::edge::transport::Transport;

/// Items one response may bring: a prompt has room for fewer, and each is looked up or checked.
const INPUT_MAX: usize = 128;

/// Tokens of a written response where nobody says how many: a page, as over HTTP. The session's own limit is one of
/// spoken words.
const TOKENS: u32 = 1_024;

/// Bytes of metadata: the protocol's sixteen pairs of 64 and 512 characters, with room for their escapes.
const METADATA_MAX: usize = 16 * 1024;

impl<T: Transport + 'static> Call<T> {
    /// Begins a response outside the conversation. What becomes of it is told to the line that asked.
    pub(super) async fn respond_beside(&mut self, asker: Asker, mut params: ResponseParams) -> Answer {
        if self.directed && self.bound(asker) {
            let message = "What is said in this session is its server's to decide.";
            return Err(ErrorBody::invalid("unsupported", message, Some("response.conversation")));
        }
        let bytes = params.metadata.as_ref().map_or(0, |metadata| metadata.to_string().len());
        if bytes > METADATA_MAX {
            let message = format!("Invalid 'response.metadata': {bytes} bytes are more than {METADATA_MAX}.");
            return Err(ErrorBody::invalid("invalid_value", message, Some("response.metadata")));
        }
        let input = params.input.take();
        let chars_max = self.offer.spec.prompt_chars_max;
        let (options, own) = checked_response(params, &self.object, chars_max)?;
        let settings = self.object.settings(&self.offer);
        let spoken = options.spoken.unwrap_or(settings.voice.spoken);
        if spoken && (asker != Asker::Caller || self.transport.carries_audio()) {
            let message = "Outside the conversation this line can only be answered in writing: its one track of \
                           audio carries the conversation. Set 'output_modalities' to [\"text\"].";
            return Err(ErrorBody::invalid("unsupported", message, Some("response.output_modalities")));
        }
        let items = match input {
            None => self.ask(SessionMsg::GetItems).await?,
            Some(input) => self.items_of(input).await?,
        };
        let mut conversation = Conversation::default();
        for item in items {
            conversation.insert(item, Place::Last).map_err(|error| {
                ErrorBody::invalid("item_exists", error.to_string(), Some("response.input"))
            })?;
        }
        let instructions = options.instructions.as_ref().unwrap_or(&settings.voice.instructions);
        let prompt =
            Prompt { messages: conversation.messages(instructions, None, chars_max), unfinished: false };
        let mut sampling = settings.voice.sampling.clone();
        if let Some(grammar) = options.grammar {
            sampling.grammar = grammar;
        }
        let usual = if spoken { sampling.max_tokens } else { sampling.max_tokens.max(TOKENS) };
        sampling.max_tokens = options.max_tokens.unwrap_or(usual);
        let view = view(&self.object);
        let calls = own.calls.unwrap_or(view.tools);
        let id = rand::random::<u128>() >> 48;
        let names = Names {
            epoch: Epoch::default(),
            response: format!("resp_{id:020x}"),
            item: format!("item_{id:020x}"),
        };
        let reply = Reply::new(names, Stand::default(), own, &view);
        let spoken = spoken.then_some((settings.voice, settings.language));
        self.beside.begin(asker, reply, view, Order { prompt, sampling, calls, spoken })?;
        Ok(Vec::new())
    }

    /// What a response is given to read: items of its own, and items of the conversation by their names.
    async fn items_of(&self, input: Vec<WireItem>) -> Result<Vec<Item>, ErrorBody> {
        if input.len() > INPUT_MAX {
            let message =
                format!("Invalid 'response.input': {} items are more than {INPUT_MAX}.", input.len());
            return Err(ErrorBody::invalid("invalid_value", message, Some("response.input")));
        }
        let mut items = Vec::with_capacity(input.len());
        for (i, item) in input.into_iter().enumerate() {
            let within = format!("response.input[{i}]");
            items.push(match item.kind.as_str() {
                "item_reference" => self.referenced(item, &within).await?,
                _ => checked_item(item, &within)?,
            });
        }
        Ok(items)
    }

    async fn referenced(&self, item: WireItem, within: &str) -> Result<Item, ErrorBody> {
        let param = format!("{within}.id");
        let Some(id) = item.id else {
            let message = format!("Missing required parameter: '{param}'.");
            return Err(ErrorBody::invalid("missing_required_parameter", message, Some(&param)));
        };
        let found = self.ask(|port| SessionMsg::GetItem(id.clone(), port)).await?;
        found.ok_or_else(|| {
            let message = format!("There is no item '{}' in this conversation.", shown(&id));
            ErrorBody::invalid("item_not_found", message, Some(&param))
        })
    }
}
