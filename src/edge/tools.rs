//! Functions that a model may call: how it is told of them, and how its answer is read.
//!
//! No model here was trained for one format above all, and a small one keeps to none by itself. So the grammar does
//! it: an answer that begins with a brace can only become a call of a known function with arguments that fit its
//! schema; any other answer is words.

use serde::Deserialize;
use serde_json::{Value, json};

use super::grammar::{Grammar, SchemaError, literal};

/// Functions of one conversation: more than that no small prompt holds.
const TOOLS_MAX: usize = 32;

/// Characters of a function's name: the protocol's limit.
const NAME_MAX: usize = 64;

/// A function.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// What it is called.
    pub name: String,
    /// What it is good for.
    pub description: String,
    /// JSON Schema of its arguments.
    pub parameters: Value,
}

/// Whether the model may call, must call, or must call a certain function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// As it likes.
    Auto,
    /// Not at all.
    None,
    /// Some function.
    Required,
    /// This one.
    Named(String),
}

/// A call, as the model asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Which function.
    pub name: String,
    /// JSON.
    pub arguments: String,
}

/// What is wrong with a client's functions: the field, below `tools` or `tool_choice`, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolError {
    /// As in `[0].name`.
    pub place: String,
    /// A sentence without its end.
    pub why: String,
}

fn wrong(place: impl Into<String>, why: impl Into<String>) -> ToolError {
    ToolError { place: place.into(), why: why.into() }
}

#[derive(Deserialize)]
struct Described {
    #[serde(default)]
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    parameters: Option<Value>,
}

/// Reads a list of functions, as the chat protocol (`{"type": "function", "function": {…}}`) or the realtime one
/// (`{"type": "function", "name": …}`) writes them.
pub fn read(tools: &[Value]) -> Result<Vec<Tool>, ToolError> {
    if tools.len() > TOOLS_MAX {
        return Err(wrong("", format!("{} functions are more than {TOOLS_MAX}", tools.len())));
    }
    let mut read: Vec<Tool> = Vec::with_capacity(tools.len());
    for (i, tool) in tools.iter().enumerate() {
        if tool.get("type").and_then(Value::as_str) != Some("function") {
            return Err(wrong(format!("[{i}].type"), "there are functions only"));
        }
        let (described, within) = match tool.get("function") {
            Some(function) => (function, ".function"),
            None => (tool, ""),
        };
        let described: Described = serde_json::from_value(described.clone())
            .map_err(|e| wrong(format!("[{i}]{within}"), e.to_string()))?;
        let Described { name, description, parameters } = described;
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if name.is_empty() || name.len() > NAME_MAX || !plain {
            let why = format!("it is 1 to {NAME_MAX} letters, digits, '_' and '-'");
            return Err(wrong(format!("[{i}]{within}.name"), why));
        }
        if read.iter().any(|tool| tool.name == name) {
            return Err(wrong(format!("[{i}]{within}.name"), "there are two functions of that name"));
        }
        let parameters = parameters.unwrap_or_else(|| json!({"type": "object", "properties": {}}));
        if let Err(SchemaError { place, why }) = Grammar::default().schema(&parameters) {
            return Err(wrong(format!("[{i}]{within}.parameters"), format!("{place}: {why}")));
        }
        read.push(Tool { name, description: description.unwrap_or_default(), parameters });
    }
    Ok(read)
}

/// Reads what a client wants of its functions.
pub fn read_choice(choice: Option<&Value>, tools: &[Tool]) -> Result<Choice, ToolError> {
    let choice = match choice {
        None | Some(Value::Null) => return Ok(Choice::Auto),
        Some(Value::String(word)) => match word.as_str() {
            "auto" => Choice::Auto,
            "none" => Choice::None,
            "required" => Choice::Required,
            _ => return Err(wrong("", "it is auto, none, required, or a function")),
        },
        Some(named) => {
            let name = named.pointer("/function/name").or_else(|| named.get("name")).and_then(Value::as_str);
            let Some(name) = name else { return Err(wrong("", "it is auto, none, required, or a function")) };
            if !tools.iter().any(|tool| tool.name == name) {
                return Err(wrong("", "it names a function that is not among the tools"));
            }
            Choice::Named(name.to_owned())
        }
    };
    if choice == Choice::Required && tools.is_empty() {
        return Err(wrong("", "a call is required and there is no function"));
    }
    Ok(choice)
}

/// What the model is told of its functions.
pub fn instructions(tools: &[Tool]) -> String {
    let mut text = String::from(
        "You can call functions. To call one, answer with nothing but JSON such as \
         {\"name\": \"function\", \"arguments\": {}}. Otherwise answer in words.\nThe functions:",
    );
    for Tool { name, description, parameters } in tools {
        text.push_str(&format!("\n- {name}: {description} Arguments: {parameters}"));
    }
    text
}

/// What an answer must be; none where it may be any text.
pub fn grammar(tools: &[Tool], choice: &Choice) -> Result<Option<String>, SchemaError> {
    let wanted: Vec<&Tool> = match choice {
        Choice::None => return Ok(None),
        Choice::Auto | Choice::Required => tools.iter().collect(),
        Choice::Named(name) => tools.iter().filter(|tool| tool.name == *name).collect(),
    };
    if wanted.is_empty() {
        return Ok(None);
    }
    let mut grammar = Grammar::default();
    let mut calls = Vec::with_capacity(wanted.len());
    for tool in wanted {
        let arguments = grammar.schema(&tool.parameters)?;
        let head = literal(&format!("{{\"name\": {}, \"arguments\": ", Value::String(tool.name.clone())));
        calls.push(format!("{head} {arguments} \"}}\""));
    }
    let calls = calls.join(" | ");
    let words = "[^{\\x00] [^\\x00]*";
    Ok(Some(grammar.with_root(&if *choice == Choice::Auto { format!("{calls} | {words}") } else { calls })))
}

/// Whether an answer that begins like this is a call.
pub fn is_call(text: &str) -> bool {
    text.starts_with('{')
}

/// The call that a whole answer is; none where it is words, or was cut off.
pub fn call(text: &str) -> Option<Call> {
    #[derive(Deserialize)]
    struct Asked {
        name: String,
        arguments: Value,
    }
    let asked: Asked = serde_json::from_str(text.trim()).ok()?;
    Some(Call { name: asked.name, arguments: asked.arguments.to_string() })
}

/// A call as the model wrote it, for when the conversation is read to it again.
pub fn as_written(name: &str, arguments: &str) -> String {
    format!("{{\"name\": {}, \"arguments\": {arguments}}}", Value::String(name.to_owned()))
}

/// What a function gave, as the model reads it.
pub fn result(output: &str) -> String {
    format!("Result of the function: {output}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn weather() -> Value {
        json!({"type": "function", "function": {"name": "weather", "description": "Tells the weather.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}})
    }

    #[test]
    fn both_protocols_forms_are_read() {
        let chat = read(&[weather()]).unwrap();
        let mut flat = weather()["function"].clone();
        flat["type"] = "function".into();
        assert_eq!(read(&[flat]).unwrap(), chat);
    }

    #[test]
    fn what_is_wrong_with_a_function_is_named() {
        let check = |tools: &[Value], place: &str| assert_eq!(read(tools).unwrap_err().place, place);
        check(&[json!({"type": "web_search"})], "[0].type");
        check(&[json!({"type": "function", "name": "a b"})], "[0].name");
        check(&[weather(), weather()], "[1].function.name");
        let odd = json!({"type": "function", "name": "f", "parameters": {"type": "object",
            "properties": {"x": {"pattern": "a"}}}});
        check(&[odd], "[0].parameters");
    }

    #[test]
    fn a_choice_names_what_there_is() {
        let tools = read(&[weather()]).unwrap();
        let choice = |value: Value| read_choice(Some(&value), &tools);
        assert_eq!(choice(json!("required")).unwrap(), Choice::Required);
        assert_eq!(
            choice(json!({"type": "function", "function": {"name": "weather"}})).unwrap(),
            Choice::Named("weather".into())
        );
        assert!(choice(json!({"type": "function", "name": "other"})).is_err());
        assert!(read_choice(Some(&json!("required")), &[]).is_err());
    }

    #[test]
    fn a_forced_call_leaves_no_room_for_words() {
        let tools = read(&[weather()]).unwrap();
        let root = |choice| grammar(&tools, &choice).unwrap().unwrap().lines().next().unwrap().to_owned();
        assert!(root(Choice::Auto).ends_with("| [^{\\x00] [^\\x00]*"));
        assert!(!root(Choice::Required).contains("[^{"));
        assert_eq!(grammar(&tools, &Choice::None).unwrap(), None);
    }

    #[test]
    fn a_call_is_read_as_it_is_written() {
        let written = as_written("weather", "{\"city\":\"Oslo\"}");
        assert!(is_call(&written));
        let call = call(&written).unwrap();
        assert_eq!((call.name.as_str(), call.arguments.as_str()), ("weather", "{\"city\":\"Oslo\"}"));
        assert_eq!(super::call("{\"name\": \"weather\", \"argu"), None);
    }
}
