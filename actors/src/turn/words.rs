//! What the caller's words say about their turn.

/// Whether the words cannot be the end of what the caller means to say.
pub(super) fn hang(text: &str) -> bool {
    /// Nobody's sentence ends with these.
    const OPEN: [&str; 13] =
        ["and", "but", "or", "because", "um", "uh", "er", "erm", "the", "a", "an", "my", "of"];
    /// A sentence may end with these, if the recogniser heard one end.
    const OPEN_WITHOUT_A_STOP: [&str; 14] =
        ["so", "to", "in", "with", "which", "that", "if", "when", "for", "i", "we", "is", "was", "like"];
    let text = text.trim_end();
    if text.ends_with("...") || text.ends_with('…') || text.ends_with(',') || text.ends_with('-') {
        return true;
    }
    let last: String = text
        .rsplit(char::is_whitespace)
        .next()
        .unwrap_or_default()
        .chars()
        .filter(|c| c.is_alphanumeric())
        .collect();
    let last = last.to_lowercase();
    let stopped = text.ends_with(['.', '!', '?']);
    OPEN.contains(&last.as_str()) || (!stopped && OPEN_WITHOUT_A_STOP.contains(&last.as_str()))
}

/// Whether the words only say "I am listening".
pub fn is_backchannel(text: &str) -> bool {
    const WORDS: [&str; 22] = [
        "uhhuh", "uh", "huh", "um", "ah", "aha", "oh", "yeah", "yep", "yes", "right", "alright", "ok",
        "okay", "sure", "exactly", "cool", "i", "see", "wow", "great", "nice",
    ];
    // A hum is written in as many letters as the recogniser pleases: "mm", "Mmhm", "MMMM".
    let hum = |word: &str| word.len() >= 2 && word.chars().all(|c| matches!(c, 'm' | 'h'));
    let words: Vec<String> = text
        .split_whitespace()
        .map(|w| w.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase())
        .filter(|w| !w.is_empty())
        .collect();
    words.len() <= 3 && words.iter().all(|w| hum(w) || WORDS.contains(&w.as_str()))
}
