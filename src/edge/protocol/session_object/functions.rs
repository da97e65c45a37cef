//! A session's functions: read from what its client sends, told to the model, held by a grammar.

use serde_json::Value;
use viva_actors::ports::ReplyConfig;

use super::apply::out_of_range;
use super::{ErrorBody, SessionObject};
use crate::edge::tools::{self, Choice, Tool, ToolError};

/// Tokens of a reply that may be a call, where the client sets no limit: the session's usual one is for spoken words,
/// and a call that is cut off is none.
const CALL_TOKENS: u32 = 256;

/// Functions a reply may call.
#[derive(Debug, PartialEq)]
pub struct Functions {
    tools: Vec<Tool>,
    choice: Choice,
}

impl Functions {
    /// Checks functions and choice; `within` is the object they stand in.
    pub fn read(tools: &[Value], choice: Option<&Value>, within: &str) -> Result<Self, ErrorBody> {
        let wrong = |field: &str, error: ToolError| {
            let param = format!("{within}.{field}{}", error.place);
            out_of_range(&param, error.why)
        };
        let tools = tools::read(tools).map_err(|error| wrong("tools", error))?;
        let choice = tools::read_choice(choice, &tools).map_err(|error| wrong("tool_choice", error))?;
        Ok(Self { tools, choice })
    }

    /// Whether a reply may be a call.
    pub fn callable(&self) -> bool {
        !self.tools.is_empty() && self.choice != Choice::None
    }

    /// Fails where the model's context could not hold them.
    pub fn fit(&self, instructions: &str, bytes_max: usize, param: &str) -> Result<(), ErrorBody> {
        let bytes = self.instructions(instructions).len();
        if bytes <= bytes_max {
            return Ok(());
        }
        let message =
            format!("Invalid '{param}': with the instructions {bytes} bytes; the model holds {bytes_max}.");
        Err(ErrorBody::invalid("string_above_max_length", message, Some(param)))
    }

    /// What the model is told to be, with what it may call.
    pub fn instructions(&self, instructions: &str) -> String {
        if !self.callable() {
            return instructions.to_owned();
        }
        format!("{instructions}\n\n{}", tools::instructions(&self.tools))
    }

    /// What a reply must be; none where it may be any text.
    pub fn grammar(&self) -> Option<String> {
        // Each function's schema was made a grammar when it was read.
        tools::grammar(&self.tools, &self.choice).ok().flatten()
    }

    /// Has replies told of them, and held to them.
    pub fn apply(&self, voice: &mut ReplyConfig) {
        if self.callable() {
            voice.instructions = self.instructions(&voice.instructions);
            voice.sampling.grammar = self.grammar();
            voice.sampling.max_tokens = voice.sampling.max_tokens.max(CALL_TOKENS);
        }
    }
}

impl SessionObject {
    /// Whether its replies may be calls.
    pub fn calls_functions(&self) -> bool {
        Functions::read(&self.tools, Some(&self.tool_choice), "session")
            .is_ok_and(|functions| functions.callable())
    }
}
