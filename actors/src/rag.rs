//! The RAG stage: adds what helps to answer before the reply is written.
//!
//! *Input:* draft requests from the session. *Output:* the same requests, with what was found, into the
//! lane of the LLM stage. *Bound:* one request a draft; a full lane drops the oldest, which a newer draft
//! has voided anyway. *On a crash:* the session orders the draft again.
//!
//! Retrieval is a hook ([`Retriever`]); the default finds nothing.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use viva_models::{Message, Role, Sampling};

use crate::gpu::work::Stake;
use crate::lane::Lane;
use crate::types::Epoch;

/// A reply to be written.
#[derive(Debug, Clone)]
pub struct DraftRequest {
    /// Its stamp.
    pub epoch: Epoch,
    /// The caller's pause in which it is drafted; none where they said nothing.
    pub pause: Option<u32>,
    /// The conversation.
    pub messages: Vec<Message>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// What hangs on it.
    pub stake: Stake,
}

/// Finds what helps to answer. Must answer at once from memory; slow lookups belong behind the scheduler.
pub trait Retriever: Send + Sync {
    /// Text to add to the instructions for this conversation, if any.
    fn retrieve(&self, messages: &[Message]) -> Option<String>;
}

/// Finds nothing.
pub struct NoRetriever;

impl Retriever for NoRetriever {
    fn retrieve(&self, _messages: &[Message]) -> Option<String> {
        None
    }
}

/// What the stage is started with.
pub struct Args {
    /// To the LLM stage.
    pub drafts: Lane<DraftRequest>,
    /// The hook.
    pub retriever: Arc<dyn Retriever>,
}

/// What the stage is told.
pub enum Msg {
    /// Pass this on with what helps.
    Draft(Box<DraftRequest>),
    /// Fail, to see the restart table at work.
    #[cfg(any(test, feature = "testkit"))]
    Panic,
}

/// The stage.
pub struct Rag;

impl Actor for Rag {
    type Msg = Msg;
    type State = Args;
    type Arguments = Args;

    async fn pre_start(&self, _me: ActorRef<Msg>, args: Args) -> Result<Args, ActorProcessingErr> {
        Ok(args)
    }

    async fn handle(&self, _me: ActorRef<Msg>, msg: Msg, args: &mut Args) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Draft(mut draft) => {
                if let Some(found) = args.retriever.retrieve(&draft.messages) {
                    // After the shared instructions, so that their cached prefix stays shared.
                    match draft.messages.first_mut().filter(|m| m.role == Role::System) {
                        Some(system) => system.content = format!("{}\n\n{found}", system.content),
                        None => draft.messages.insert(0, Message { role: Role::System, content: found }),
                    }
                }
                args.drafts.push_latest(*draft);
            }
            #[cfg(any(test, feature = "testkit"))]
            Msg::Panic => panic!("asked to"),
        }
        Ok(())
    }
}
