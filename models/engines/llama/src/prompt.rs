//! From a conversation to tokens.
//!
//! The template is rendered over placeholders, and what people said is tokenised apart, as plain text:
//! nobody can speak or type a control token, and the tokens of a conversation stay a prefix of the tokens
//! of its continuation.

use llama_cpp_2::model::{LlamaChatMessage, LlamaChatTemplate, LlamaModel};
use llama_cpp_2::token::LlamaToken;
use viva_models::{EngineError, Message, Prompt, Result, Role};

/// Stand before and after a placeholder's number: private characters that no template contains.
const OPEN: char = '\u{F0001}';
const CLOSE: char = '\u{F0002}';

/// A conversation in tokens.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(crate) all: Vec<LlamaToken>,
    /// How many of them are the instructions every conversation of the same kind begins with.
    pub(crate) system: usize,
    /// How many of them it takes to the last word of the user's message at the end, if there is one. Marks
    /// behind that word do not count: a recogniser puts them there whether the sentence is over or not.
    pub(crate) words: Option<usize>,
}

/// The template of the model, or ChatML where it has none that llama.cpp can render.
pub(crate) fn template_of(model: &LlamaModel) -> Result<LlamaChatTemplate> {
    let probe = [Message { role: Role::User, content: String::new() }];
    if let Ok(template) = model.chat_template(None)
        && render(model, &template, &probe, true).is_ok()
    {
        return Ok(template);
    }
    eprintln!("the model brings no chat template that llama.cpp knows; ChatML is used");
    LlamaChatTemplate::new("chatml").map_err(|e| EngineError::Failed(e.to_string()))
}

/// Renders and tokenises. An unfinished prompt ends right after the last word of its last message.
pub(crate) fn tokenise(model: &LlamaModel, template: &LlamaChatTemplate, prompt: &Prompt) -> Result<Tokens> {
    let Some(last) = prompt.messages.last() else {
        return Err(EngineError::Invalid("a prompt needs a message".into()));
    };
    if prompt.unfinished && last.role != Role::User {
        return Err(EngineError::Invalid("only a user's message can be unfinished".into()));
    }
    let rendered = render(model, template, &prompt.messages, !prompt.unfinished)?;
    let segments = split(&rendered, &prompt.messages);
    let with_system = prompt.messages[0].role == Role::System;
    let mut tokens = Tokens { all: Vec::new(), system: 0, words: None };
    let plain = |text: &str| model.vocab().tokenize(text.as_bytes(), false, false);
    for (i, segment) in segments.iter().enumerate() {
        match segment {
            Segment::Template(_) if prompt.unfinished && i + 1 == segments.len() => {}
            Segment::Template(text) => {
                let first = tokens.all.is_empty();
                tokens.all.extend(model.vocab().tokenize(text.as_bytes(), first, true));
            }
            Segment::Said { message, text } => {
                let before = tokens.all.len();
                let said = plain(text);
                if *message + 1 == prompt.messages.len() && last.role == Role::User {
                    let words = plain(text.trim_end_matches(|c: char| !c.is_alphanumeric()));
                    let same = said.iter().zip(&words).take_while(|(a, b)| a == b).count();
                    tokens.words = (same > 0).then_some(before + same);
                }
                tokens.all.extend(said);
                if *message == 0 && with_system {
                    tokens.system = tokens.all.len();
                }
            }
        }
    }
    if prompt.unfinished {
        tokens.all.truncate(tokens.words.unwrap_or(tokens.all.len()));
    }
    if tokens.all.is_empty() && !prompt.unfinished {
        return Err(EngineError::Invalid("the prompt has no tokens".into()));
    }
    Ok(tokens)
}

fn render(
    model: &LlamaModel,
    template: &LlamaChatTemplate,
    messages: &[Message],
    answer: bool,
) -> Result<String> {
    let broken = |e: &dyn std::fmt::Display| EngineError::Failed(format!("the chat template fails: {e}"));
    let chat = messages
        .iter()
        .enumerate()
        .map(|(i, message)| {
            let role = match message.role {
                Role::System => "system",
                Role::User => "user",
                Role::Assistant => "assistant",
            };
            LlamaChatMessage::new(role.to_owned(), format!("{OPEN}{i}{CLOSE}"))
        })
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|e| broken(&e))?;
    model.apply_chat_template(template, &chat, answer).map_err(|e| broken(&e))
}

#[derive(Debug, PartialEq, Eq)]
enum Segment<'a> {
    Template(&'a str),
    Said { message: usize, text: &'a str },
}

/// Cuts a rendering at its placeholders and puts what was said in their place.
fn split<'a>(rendered: &'a str, messages: &'a [Message]) -> Vec<Segment<'a>> {
    let mut segments = Vec::new();
    let mut rest = rendered;
    while let Some((before, after)) = rest.split_once(OPEN) {
        let Some((number, after)) = after.split_once(CLOSE) else { break };
        if !before.is_empty() {
            segments.push(Segment::Template(before));
        }
        if let Some((i, message)) = number.parse().ok().and_then(|i: usize| Some((i, messages.get(i)?))) {
            segments.push(Segment::Said { message: i, text: message.content.trim() });
        }
        rest = after;
    }
    if !rest.is_empty() {
        segments.push(Segment::Template(rest));
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_replaces_its_placeholder_and_nothing_else() {
        let say = |role, content: &str| Message { role, content: content.into() };
        let messages = [say(Role::System, "Be kind."), say(Role::User, " user \u{F0001}0\u{F0002} ")];
        let rendered = "<s>system\n\u{F0001}0\u{F0002}</s><s>user\n\u{F0001}1\u{F0002}</s><s>assistant\n";
        let expect = [
            Segment::Template("<s>system\n"),
            Segment::Said { message: 0, text: "Be kind." },
            Segment::Template("</s><s>user\n"),
            Segment::Said { message: 1, text: "user \u{F0001}0\u{F0002}" },
            Segment::Template("</s><s>assistant\n"),
        ];
        assert_eq!(split(rendered, &messages), expect);
    }
}
