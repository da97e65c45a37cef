//! Items that clients place or have read, checked: what cannot be one is named by its field.

use viva_actors::conversation::Item;
use viva_models::Role;

use crate::edge::protocol::items::{ItemBody, WirePart};
use crate::edge::protocol::{ErrorBody, WireItem};
use crate::edge::tools;

/// Bytes of text one item may bring: more than the context of any model we serve.
const ITEM_TEXT_MAX: usize = 64 * 1024;

/// Bytes an item's name may have: twice the protocol's own limit.
const ITEM_ID_MAX: usize = 64;

/// How a call or its result is shown, if it is one.
pub fn function_item(item: &WireItem, within: &str) -> Result<Option<ItemBody>, ErrorBody> {
    let needed = |field: &Option<String>, name: &str| {
        field.clone().ok_or_else(|| {
            let param = format!("{within}.{name}");
            let message = format!("Missing required parameter: '{param}'.");
            ErrorBody::invalid("missing_required_parameter", message, Some(&param))
        })
    };
    Ok(match item.kind.as_str() {
        "function_call" => Some(ItemBody::FunctionCall {
            // A client that begins a conversation anew may have forgotten it.
            call_id: item
                .call_id
                .clone()
                .unwrap_or_else(|| format!("call_{:020x}", rand::random::<u128>() >> 48)),
            name: needed(&item.name, "name")?,
            arguments: needed(&item.arguments, "arguments")?,
        }),
        "function_call_output" => Some(ItemBody::FunctionCallOutput {
            call_id: needed(&item.call_id, "call_id")?,
            output: needed(&item.output, "output")?,
        }),
        _ => None,
    })
}

/// An item of words. Audio has to come with its transcript: what is not recognised here cannot be read. `within` is
/// what the client calls the object.
pub fn checked_item(item: WireItem, within: &str) -> Result<Item, ErrorBody> {
    let invalid = |param: &str, what: String| {
        Err(ErrorBody::invalid("invalid_value", format!("Invalid '{param}': {what}."), Some(param)))
    };
    let field = |name: &str| format!("{within}.{name}");
    let item = words_of_functions(item);
    if item.kind != "message" {
        let message = format!("This server has no items of type '{}', only 'message'.", shown(&item.kind));
        return Err(ErrorBody::invalid("unsupported", message, Some(&field("type"))));
    }
    let Some(role) = item.role else {
        let param = field("role");
        let message = format!("Missing required parameter: '{param}'.");
        return Err(ErrorBody::invalid("missing_required_parameter", message, Some(&param)));
    };
    let id = item.id.unwrap_or_else(|| format!("item_{:020x}", rand::random::<u128>() >> 48));
    if id.is_empty() || id.len() > ITEM_ID_MAX {
        return invalid(&field("id"), format!("1 to {ITEM_ID_MAX} bytes"));
    }
    let (mut text, mut spoken) = (String::new(), false);
    for (i, part) in item.content.into_iter().enumerate() {
        let param = format!("{within}.content[{i}]");
        let (kind, words) = match (role, part.kind.as_str()) {
            (Role::User | Role::System, "input_text") | (Role::Assistant, "output_text") => {
                ("text", part.text)
            }
            (Role::User, "input_audio") | (Role::Assistant, "output_audio") => {
                spoken = true;
                ("transcript", part.transcript)
            }
            (_, kind) => {
                return invalid(&format!("{param}.type"), format!("'{}' for this role", shown(kind)));
            }
        };
        let Some(words) = words else {
            let param = format!("{param}.{kind}");
            let message = format!("Missing required parameter: '{param}'; items are made of words here.");
            return Err(ErrorBody::invalid("missing_required_parameter", message, Some(&param)));
        };
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&words);
    }
    if text.trim().is_empty() {
        return invalid(&field("content"), "it is empty".into());
    }
    if text.len() > ITEM_TEXT_MAX {
        let param = field("content");
        let message = format!("Invalid '{param}': {} bytes are more than {ITEM_TEXT_MAX}.", text.len());
        return Err(ErrorBody::invalid("string_above_max_length", message, Some(&param)));
    }
    Ok(Item { id, role, text, spoken, complete: true })
}

/// Calls and their results become words, since that is how the model reads them.
fn words_of_functions(item: WireItem) -> WireItem {
    let (role, kind, text) = match item.kind.as_str() {
        "function_call" => {
            let (name, arguments) = (item.name.as_deref(), item.arguments.as_deref());
            let call = tools::as_written(name.unwrap_or_default(), arguments.unwrap_or_default());
            (Role::Assistant, "output_text", call)
        }
        "function_call_output" => {
            (Role::User, "input_text", tools::result(item.output.as_deref().unwrap_or_default()))
        }
        _ => return item,
    };
    let part = WirePart { kind: kind.into(), text: Some(text), transcript: None };
    WireItem { kind: "message".into(), role: Some(role), content: vec![part], ..item }
}

/// As much of a client's own name as an error repeats.
pub fn shown(text: &str) -> String {
    text.chars().take(ITEM_ID_MAX).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;

    fn item(value: Value) -> Result<Item, ErrorBody> {
        checked_item(serde_json::from_value(value).unwrap(), "item")
    }

    #[test]
    fn items_are_made_of_words() {
        let typed = json!({"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "one"}, {"type": "input_audio", "transcript": "two"}]});
        let made = item(typed).unwrap();
        assert_eq!((made.text.as_str(), made.spoken), ("one two", true));
        assert!(made.id.starts_with("item_"));
    }

    #[test]
    fn what_cannot_be_an_item_is_named() {
        let cases = [
            (json!({"type": "mcp_call"}), "item.type"),
            (json!({"type": "message", "content": []}), "item.role"),
            (json!({"type": "message", "role": "user", "content": []}), "item.content"),
            (
                json!({"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": "AA"}]}),
                "item.content[0].transcript",
            ),
            (
                json!({"type": "message", "role": "user", "content": [{"type": "output_text", "text": "x"}]}),
                "item.content[0].type",
            ),
        ];
        for (value, param) in cases {
            assert_eq!(item(value.clone()).unwrap_err().param.as_deref(), Some(param), "{value}");
        }
    }

    #[test]
    fn an_item_has_so_many_bytes_and_not_one_more() {
        let of = |n: usize| {
            item(json!({"type": "message", "role": "user",
                "content": [{"type": "input_text", "text": "x".repeat(n)}]}))
        };
        assert_eq!(of(ITEM_TEXT_MAX).unwrap().text.len(), ITEM_TEXT_MAX);
        assert_eq!(of(ITEM_TEXT_MAX + 1).unwrap_err().param.as_deref(), Some("item.content"));
        let named = |n: usize| {
            item(json!({"type": "message", "role": "user", "id": "i".repeat(n),
                "content": [{"type": "input_text", "text": "x"}]}))
        };
        assert!(named(ITEM_ID_MAX).is_ok());
        assert_eq!(named(ITEM_ID_MAX + 1).unwrap_err().param.as_deref(), Some("item.id"));
    }
}
