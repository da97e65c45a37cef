//! Lists of questions as other people write them: JSON lines, CSV, Markdown.

use std::path::Path;

use serde_json::Value;

use super::{Draft, ImportError, Rejected};

/// Bytes of one file: a hundred thousand questions with all that belongs to them.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// What one line of a file gave.
pub type Read = Result<Draft, Rejected>;

/// Names a field goes by in other people's lists. The first is ours.
const NAMES: [(&str, &[&str]); 13] = [
    ("question", &["text", "ask", "prompt", "title"]),
    ("category", &["type", "kind"]),
    ("subcategory", &["topic", "field", "subject", "area"]),
    ("industry", &["sector"]),
    ("level", &["seniority"]),
    ("difficulty", &[]),
    ("criteria", &["evaluation_criteria", "rubric"]),
    ("outline", &["sample_answer", "answer"]),
    ("probes", &["follow_ups", "followups", "follow_up"]),
    ("tags", &["keywords", "labels"]),
    ("minutes", &["duration", "expected_minutes"]),
    ("focus_area", &["focus"]),
    ("rationale", &["why"]),
];

/// All questions of a file, by its ending.
pub fn read(path: &Path) -> Result<Vec<Read>, ImportError> {
    let failed = |error| ImportError::Read { path: path.to_owned(), error };
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > FILE_BYTES_MAX {
        return Err(ImportError::TooLarge { path: path.to_owned(), most: FILE_BYTES_MAX });
    }
    let bytes = std::fs::read(path).map_err(failed)?;
    let text = String::from_utf8(bytes).map_err(|error| ImportError::NotText {
        path: path.to_owned(),
        at: error.utf8_error().valid_up_to(),
    })?;
    let text = text.trim_start_matches('\u{feff}');
    let origin = path.display().to_string();
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    match ending.as_str() {
        "jsonl" | "ndjson" => Ok(json_lines(&origin, text)),
        "csv" | "tsv" => csv(path, text),
        "md" | "markdown" => Ok(markdown(&origin, text)),
        _ => Err(ImportError::UnknownForm(path.to_owned())),
    }
}

fn json_lines(origin: &str, text: &str) -> Vec<Read> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(n, line)| json_line(origin, n + 1, line)).collect()
}

fn json_line(origin: &str, line: usize, text: &str) -> Read {
    let rejected = |why: String| Rejected { origin: origin.to_owned(), line, question: String::new(), why };
    let value: Value =
        serde_json::from_str(text).map_err(|error| rejected(format!("it is not JSON: {error}")))?;
    let Value::Object(fields) = value else {
        return Err(rejected("it is not an object with the fields of a question".into()));
    };
    let mut draft = Draft { origin: origin.to_owned(), line, ..Draft::default() };
    for (name, value) in fields {
        let texts = match value {
            Value::Null => continue,
            Value::String(text) => vec![text],
            Value::Number(number) => vec![number.to_string()],
            Value::Array(list) => list
                .into_iter()
                .map(|entry| match entry {
                    Value::String(text) => Ok(text),
                    other => Err(rejected(format!("{name} has the entry {other}, which is no text"))),
                })
                .collect::<Result<_, _>>()?,
            other => {
                return Err(rejected(format!(
                    "{name} is {other}, which is neither a text nor a list of texts"
                )));
            }
        };
        set(&mut draft, &name, texts);
    }
    Ok(draft)
}

fn csv(path: &Path, text: &str) -> Result<Vec<Read>, ImportError> {
    let origin = path.display().to_string();
    let head = text.lines().next().unwrap_or_default();
    let delimiter = [b',', b';', b'\t'].into_iter().max_by_key(|d| head.bytes().filter(|b| b == d).count());
    let mut reader = ::csv::ReaderBuilder::new()
        .delimiter(delimiter.unwrap_or(b','))
        .flexible(true)
        .trim(::csv::Trim::All)
        .from_reader(text.as_bytes());
    let columns: Vec<String> = match reader.headers() {
        Ok(columns) => columns.iter().map(str::to_owned).collect(),
        Err(_) => Vec::new(),
    };
    if !columns.iter().any(|column| ours(column) == Some("question")) {
        return Err(ImportError::NoColumn(path.to_owned()));
    }
    let mut read = Vec::new();
    for row in reader.records() {
        match row {
            Err(error) => {
                let line = error.position().map_or(0, |position| position.line() as usize);
                let why = format!("it is no row of CSV: {error}");
                read.push(Err(Rejected { origin: origin.clone(), line, question: String::new(), why }));
            }
            Ok(row) => {
                let line = row.position().map_or(0, |position| position.line() as usize);
                let mut draft = Draft { origin: origin.clone(), line, ..Draft::default() };
                for (column, cell) in columns.iter().zip(&row).filter(|(_, cell)| !cell.is_empty()) {
                    let texts = match ours(column) {
                        Some("criteria" | "outline" | "probes" | "tags") => {
                            cell.split(['|', ';', '\n']).map(|part| part.trim().to_owned()).collect()
                        }
                        _ => vec![cell.to_owned()],
                    };
                    set(&mut draft, column, texts);
                }
                read.push(Ok(draft));
            }
        }
    }
    Ok(read)
}

/// Items of lists are questions; the headings above them are tags, and items below an item are its probes.
fn markdown(origin: &str, text: &str) -> Vec<Read> {
    let mut headings: Vec<(usize, String)> = Vec::new();
    let mut drafts: Vec<Draft> = Vec::new();
    let mut fenced = false;
    for (n, line) in text.lines().enumerate() {
        let body = line.trim();
        if body.starts_with("```") || body.starts_with("~~~") {
            fenced = !fenced;
        }
        if fenced || body.is_empty() {
            continue;
        }
        if let Some(depth) = heading(body) {
            headings.retain(|(other, _)| *other < depth);
            headings.push((depth, plain(body.trim_start_matches('#'))));
            continue;
        }
        let Some(item) = item(body) else { continue };
        let indented = line.starts_with([' ', '\t']);
        match drafts.last_mut().filter(|_| indented) {
            Some(above) => above.probes.push(plain(item)),
            None => drafts.push(Draft {
                question: plain(item),
                tags: headings.iter().map(|(_, heading)| heading.to_lowercase()).collect(),
                origin: origin.to_owned(),
                line: n + 1,
                ..Draft::default()
            }),
        }
    }
    drafts.into_iter().map(Ok).collect()
}

fn heading(line: &str) -> Option<usize> {
    let depth = line.chars().take_while(|c| *c == '#').count();
    ((1..=6).contains(&depth) && line[depth..].starts_with(' ')).then_some(depth)
}

/// The text of a list's item: behind `-`, `*`, `+`, `1.` or `1)`.
fn item(line: &str) -> Option<&str> {
    if let Some(rest) = line.strip_prefix(['-', '*', '+']).filter(|rest| rest.starts_with(' ')) {
        return Some(rest.trim_start().trim_start_matches("[ ] ").trim_start_matches("[x] "));
    }
    let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
    if rest.len() == line.len() {
        return None;
    }
    rest.strip_prefix(['.', ')']).filter(|rest| rest.starts_with(' ')).map(str::trim_start)
}

/// A text without the marks of Markdown around it.
fn plain(text: &str) -> String {
    text.trim().replace("**", "").replace("__", "").trim_matches(['*', '_', '`']).trim().to_owned()
}

/// Our name of a field.
fn ours(name: &str) -> Option<&'static str> {
    let name = name.trim().to_lowercase().replace([' ', '-'], "_");
    NAMES
        .iter()
        .find(|(ours, others)| *ours == name || others.contains(&name.as_str()))
        .map(|(ours, _)| *ours)
}

/// Gives a draft one of its fields. Fields we do not know are other people's business.
fn set(draft: &mut Draft, name: &str, texts: Vec<String>) {
    let mut texts: Vec<String> =
        texts.into_iter().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).collect();
    let Some(name) = ours(name).filter(|_| !texts.is_empty()) else { return };
    let one = || texts.join(" ");
    match name {
        "question" => draft.question = one(),
        "category" => draft.category = Some(one()),
        "subcategory" => draft.subcategory = Some(one()),
        "industry" => draft.industry = Some(one()),
        "level" => draft.level = Some(one()),
        "difficulty" => draft.difficulty = Some(one()),
        "minutes" => draft.minutes = Some(one()),
        "focus_area" => draft.focus_area = Some(one()),
        "rationale" => draft.rationale = Some(one()),
        "criteria" => draft.criteria.append(&mut texts),
        "outline" => draft.outline.append(&mut texts),
        "probes" => draft.probes.append(&mut texts),
        "tags" => draft.tags.append(&mut texts),
        _ => {}
    }
}
