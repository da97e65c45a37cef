//! The RAG stage: adds what helps to answer before the reply is written, or asks who decides what is said.
//!
//! *Input:* draft requests from the session. *Output:* the same requests, with what was found, into the
//! lane of the LLM stage. *Bound:* one request a draft; a full lane drops the oldest, which a newer draft
//! has voided anyway. *On a crash:* the session orders the draft again.
//!
//! Retrieval is a hook ([`Retriever`]); the default finds nothing. A session's [`Director`] may take its time: it is
//! asked beside the mailbox, and a newer draft gives up on the older one's answer.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::AbortHandle;
use viva_models::{Message, Role, Sampling};

use crate::director::{Cue, Director, Saying};
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
    /// What its director is asked, where the session has one.
    pub cue: Option<Cue>,
    /// What its director answered.
    pub saying: Option<Saying>,
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
    /// Who decides what is said, if anybody does.
    pub director: Option<Arc<dyn Director>>,
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

/// The stage's state.
pub struct State {
    args: Args,
    /// The draft whose words are being found out.
    asking: Option<AbortHandle>,
}

impl Drop for State {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl State {
    fn give_up(&mut self) {
        if let Some(asking) = self.asking.take() {
            asking.abort();
        }
    }

    /// Asks the director, and passes the draft on with the answer.
    fn ask(&mut self, director: Arc<dyn Director>, cue: Cue, mut draft: Box<DraftRequest>) {
        let drafts = self.args.drafts.clone();
        let asking = tokio::spawn(async move {
            draft.saying = Some(director.draft(cue).await);
            drafts.push_latest(*draft);
        });
        self.asking = Some(asking.abort_handle());
    }
}

impl Actor for Rag {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, _me: ActorRef<Msg>, args: Args) -> Result<State, ActorProcessingErr> {
        Ok(State { args, asking: None })
    }

    async fn handle(
        &self,
        _me: ActorRef<Msg>,
        msg: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Draft(mut draft) => {
                state.give_up();
                if let (Some(director), Some(cue)) = (&state.args.director, draft.cue.clone()) {
                    state.ask(Arc::clone(director), cue, draft);
                    return Ok(());
                }
                let args = &state.args;
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
