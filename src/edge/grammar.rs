//! JSON Schema as a grammar (GBNF) that a language model cannot leave. Pure.
//!
//! Held are types, properties with what is required of them, items with their number, `enum`, `const`, `anyOf`,
//! `oneOf` and references within the schema. Not held, and ignored, are bounds of numbers, lengths and formats of
//! strings. What would change the meaning if it were ignored is refused. An object has its properties in the schema's
//! order and no others, as in the protocol's strict mode.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde_json::{Map, Value};

/// Rules of one grammar. Each is looked at for every token; the largest schemas of form fillers have some hundred.
const RULES_MAX: usize = 1_000;

/// Items that a schema may ask for by number: each becomes an alternative of its own in the engine.
const ITEMS_MAX: u64 = 64;

/// Keywords that would let wrong answers pass if they were ignored.
const REFUSED: [&str; 7] =
    ["pattern", "patternProperties", "not", "if", "uniqueItems", "dependentSchemas", "prefixItems"];

/// The rules every grammar may use: JSON itself, with at most one space where any number is allowed, since small
/// models fill pages with them.
const JSON: &str = r#"space ::= " "?
value ::= object | array | string | number | boolean | null
object ::= "{" space (string ":" space value ("," space string ":" space value)*)? "}"
array ::= "[" space (value ("," space value)*)? "]"
string ::= "\"" char* "\""
char ::= [^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F])
integer ::= "-"? ("0" | [1-9] [0-9]{0,15})
number ::= integer ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,3})?
boolean ::= "true" | "false"
null ::= "null"
"#;

/// A schema that cannot be made a grammar: where and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {why}")]
pub struct SchemaError {
    /// A path into the schema.
    pub place: String,
    /// What is wrong there.
    pub why: String,
}

/// A grammar in the making.
#[derive(Debug, Default)]
pub struct Grammar {
    rules: Vec<(String, String)>,
    /// References that have a rule already, or are about to.
    referred: HashMap<String, String>,
}

/// What a text must be to be one JSON object.
pub fn any_object() -> String {
    format!("root ::= object\n{JSON}")
}

/// What a text must be to be an instance of the schema.
pub fn of_schema(schema: &Value) -> Result<String, SchemaError> {
    let mut grammar = Grammar::default();
    let root = grammar.schema(schema)?;
    Ok(grammar.with_root(&root))
}

impl Grammar {
    /// The whole text, beginning with this expression.
    pub fn with_root(self, root: &str) -> String {
        let mut text = format!("root ::= {root}\n");
        for (name, body) in self.rules {
            // Writing to a string does not fail.
            writeln!(text, "{name} ::= {body}").ok();
        }
        text.push_str(JSON);
        text
    }

    /// An expression for instances of a schema of its own.
    pub fn schema(&mut self, schema: &Value) -> Result<String, SchemaError> {
        self.referred.clear();
        self.expression(schema, schema, "schema")
    }

    /// Gives an expression a name.
    fn rule(&mut self, body: String, place: &str) -> Result<String, SchemaError> {
        if self.rules.len() >= RULES_MAX {
            return Err(wrong(place, format!("the schema needs more than {RULES_MAX} rules")));
        }
        let name = format!("r{}", self.rules.len());
        self.rules.push((name.clone(), body));
        Ok(name)
    }

    fn expression(&mut self, schema: &Value, whole: &Value, place: &str) -> Result<String, SchemaError> {
        let schema = match schema {
            Value::Bool(true) => return Ok("value".into()),
            Value::Object(schema) => schema,
            _ => return Err(wrong(place, "a schema is an object")),
        };
        if let Some(keyword) = REFUSED.iter().find(|keyword| schema.contains_key(**keyword)) {
            return Err(wrong(place, format!("'{keyword}' is not supported")));
        }
        if let Some(reference) = schema.get("$ref") {
            return self.reference(reference, whole, place);
        }
        if let Some(value) = schema.get("const") {
            return Ok(literal(&value.to_string()));
        }
        if let Some(values) = schema.get("enum") {
            let values = values.as_array().filter(|values| !values.is_empty());
            let values = values.ok_or_else(|| wrong(place, "'enum' is a list of values"))?;
            let values: Vec<String> = values.iter().map(|value| literal(&value.to_string())).collect();
            return Ok(format!("({})", values.join(" | ")));
        }
        for keyword in ["anyOf", "oneOf", "allOf"] {
            let Some(choices) = schema.get(keyword) else { continue };
            let choices = choices.as_array().filter(|choices| !choices.is_empty());
            let choices = choices.ok_or_else(|| wrong(place, format!("'{keyword}' is a list of schemas")))?;
            if keyword == "allOf" && choices.len() > 1 {
                return Err(wrong(place, "'allOf' of several schemas is not supported"));
            }
            return self.alternatives(choices, whole, &format!("{place}.{keyword}"));
        }
        match schema.get("type") {
            Some(Value::String(kind)) => self.typed(kind, schema, whole, place),
            Some(Value::Array(kinds)) => {
                let mut choices = Vec::new();
                for kind in kinds {
                    let kind = kind.as_str().ok_or_else(|| wrong(place, "'type' names types"))?;
                    choices.push(self.typed(kind, schema, whole, place)?);
                }
                Ok(format!("({})", choices.join(" | ")))
            }
            Some(_) => Err(wrong(place, "'type' is a name or a list of names")),
            None if schema.contains_key("properties") => self.typed("object", schema, whole, place),
            None if schema.contains_key("items") => self.typed("array", schema, whole, place),
            None => Ok("value".into()),
        }
    }

    fn alternatives(&mut self, choices: &[Value], whole: &Value, place: &str) -> Result<String, SchemaError> {
        let mut expressions = Vec::with_capacity(choices.len());
        for (i, choice) in choices.iter().enumerate() {
            expressions.push(self.expression(choice, whole, &format!("{place}[{i}]"))?);
        }
        Ok(format!("({})", expressions.join(" | ")))
    }

    /// A reference gets a rule of its own, so that a schema may contain itself.
    fn reference(&mut self, reference: &Value, whole: &Value, place: &str) -> Result<String, SchemaError> {
        let pointer = reference.as_str().and_then(|r| r.strip_prefix('#'));
        let pointer = pointer.ok_or_else(|| wrong(place, "'$ref' points into the schema, with '#/…'"))?;
        if let Some(name) = self.referred.get(pointer) {
            return Ok(name.clone());
        }
        let target = whole.pointer(pointer).ok_or_else(|| wrong(place, "'$ref' points to nothing"))?;
        let name = self.rule(String::new(), place)?;
        let slot = self.rules.len() - 1;
        self.referred.insert(pointer.to_owned(), name.clone());
        self.rules[slot].1 = self.expression(target, whole, &format!("#{pointer}"))?;
        Ok(name)
    }

    fn typed(
        &mut self,
        kind: &str,
        schema: &Map<String, Value>,
        whole: &Value,
        place: &str,
    ) -> Result<String, SchemaError> {
        match kind {
            "string" | "number" | "integer" | "boolean" | "null" => Ok(kind.to_owned()),
            "array" => self.array(schema, whole, place),
            "object" => self.object(schema, whole, place),
            _ => {
                Err(wrong(place, format!("there is no type '{}'", kind.chars().take(40).collect::<String>())))
            }
        }
    }

    fn array(
        &mut self,
        schema: &Map<String, Value>,
        whole: &Value,
        place: &str,
    ) -> Result<String, SchemaError> {
        let item = match schema.get("items") {
            Some(items) => self.expression(items, whole, &format!("{place}.items"))?,
            None => "value".into(),
        };
        let count = |keyword: &str| match schema.get(keyword) {
            None => Ok(None),
            Some(n) => match n.as_u64().filter(|n| *n <= ITEMS_MAX) {
                Some(n) => Ok(Some(n)),
                None => Err(wrong(place, format!("'{keyword}' is a number up to {ITEMS_MAX}"))),
            },
        };
        let (min, max) = (count("minItems")?.unwrap_or(0), count("maxItems")?);
        if max.is_some_and(|max| max < min) {
            return Err(wrong(place, "'maxItems' is below 'minItems'"));
        }
        let item = self.rule(item, place)?;
        let more = match max {
            Some(0) => return Ok("\"[]\"".into()),
            Some(max) => format!("{{{},{}}}", min.saturating_sub(1), max - 1),
            None if min > 1 => format!("{{{},}}", min - 1),
            None => "*".into(),
        };
        let items = format!("{item} (\",\" space {item}){more}");
        let items = if min == 0 { format!("({items})?") } else { items };
        self.rule(format!("\"[\" space {items} \"]\""), place)
    }

    fn object(
        &mut self,
        schema: &Map<String, Value>,
        whole: &Value,
        place: &str,
    ) -> Result<String, SchemaError> {
        let nothing = Map::new();
        let properties = match schema.get("properties") {
            None => &nothing,
            Some(properties) => {
                properties.as_object().ok_or_else(|| wrong(place, "'properties' is an object"))?
            }
        };
        if properties.is_empty() {
            let closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
            return Ok(if closed { "\"{}\"".into() } else { "object".into() });
        }
        let required: Vec<&str> = match schema.get("required") {
            None => Vec::new(),
            Some(names) => names.as_array().into_iter().flatten().filter_map(Value::as_str).collect(),
        };
        if let Some(unknown) = required.iter().find(|name| !properties.contains_key(**name)) {
            return Err(wrong(place, format!("'{unknown}' is required and not described")));
        }
        // From the last property to the first: what may follow when nothing has been written yet, and when
        // something has.
        let (mut fresh, mut going) = (String::from("\"\""), String::from("\"\""));
        for (name, property) in properties.iter().rev() {
            let value = self.expression(property, whole, &format!("{place}.properties.{name}"))?;
            let key = literal(&format!("{}:", Value::String(name.clone())));
            let member = self.rule(format!("{key} space {value}"), place)?;
            let (first, next) = (format!("{member} {going}"), format!("\",\" space {member} {going}"));
            (fresh, going) = if required.contains(&name.as_str()) {
                (self.rule(first, place)?, self.rule(next, place)?)
            } else {
                let fresh = self.rule(format!("{first} | {fresh}"), place)?;
                (fresh, self.rule(format!("{next} | {going}"), place)?)
            };
        }
        self.rule(format!("\"{{\" space {fresh} \"}}\""), place)
    }
}

fn wrong(place: &str, why: impl Into<String>) -> SchemaError {
    SchemaError { place: place.to_owned(), why: why.into() }
}

/// A text as it stands in a grammar.
pub fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    /// The rules of a schema, without JSON's own.
    fn rules(schema: Value) -> String {
        of_schema(&schema).unwrap().strip_suffix(JSON).unwrap().to_owned()
    }

    #[test]
    fn simple_types_need_no_rule_of_their_own() {
        assert_eq!(rules(json!({"type": "integer"})), "root ::= integer\n");
        assert_eq!(rules(json!({"enum": ["a\"b", 3]})), "root ::= (\"\\\"a\\\\\\\"b\\\"\" | \"3\")\n");
        assert_eq!(rules(json!({"type": ["string", "null"]})), "root ::= (string | null)\n");
    }

    #[test]
    fn an_object_has_what_is_required_and_may_have_the_rest() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}},
            "required": ["b"]});
        assert_eq!(
            rules(schema),
            "root ::= r6\nr0 ::= \"\\\"b\\\":\" space string\nr1 ::= r0 \"\"\nr2 ::= \",\" space r0 \"\"\n\
             r3 ::= \"\\\"a\\\":\" space integer\nr4 ::= r3 r2 | r1\nr5 ::= \",\" space r3 r2 | r2\n\
             r6 ::= \"{\" space r4 \"}\"\n"
        );
    }

    #[test]
    fn a_schema_may_contain_itself() {
        let schema = json!({"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "object",
            "properties": {"left": {"$ref": "#/$defs/tree"}}}}});
        let rules = rules(schema);
        assert!(rules.starts_with("root ::= r0\n"), "{rules}");
        assert!(rules.contains("\"\\\"left\\\":\" space r0"), "{rules}");
    }

    #[test]
    fn what_cannot_be_held_is_refused_by_place() {
        let check = |schema: Value, place: &str| {
            assert_eq!(of_schema(&schema).unwrap_err().place, place, "{schema}");
        };
        check(json!({"type": "string", "pattern": "a*"}), "schema");
        check(json!({"type": "object", "properties": {"x": {"type": "date"}}}), "schema.properties.x");
        check(json!({"type": "array", "items": {"not": {}}}), "schema.items");
        check(json!({"$ref": "https://elsewhere.example"}), "schema");
        check(json!({"type": "array", "minItems": 1_000_000}), "schema");
        let many: Map<String, Value> = (0..400).map(|i| (format!("p{i}"), json!({"type": "null"}))).collect();
        check(json!({"type": "object", "properties": many}), "schema");
    }
}
