//! The conversation as both sides know it: the items a client sees and the messages the model reads.
//!
//! The model reads only what was heard: a reply that was cut stands here with the words that were played.

use serde::{Deserialize, Serialize};
use viva_models::{Message, Role};

use crate::event::ItemId;

/// Items a conversation keeps. At about two a turn this is an interview of several hours; older ones
/// are forgotten first.
pub const ITEMS_MAX: usize = 512;

/// Bytes of words a conversation keeps: an hour of talk is about 60 KB, and a prompt has room for a hundredth of
/// this. What a client types or places may be longer than what is said; the oldest is forgotten first.
pub const BYTES_MAX: usize = 1024 * 1024;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Its name.
    pub id: ItemId,
    /// Who says it.
    pub role: Role,
    /// What is (or was heard to be) said.
    pub text: String,
    /// It was spoken, not typed.
    pub spoken: bool,
    /// It is complete; an unfinished reply is not.
    pub complete: bool,
}

/// All items, in order.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    items: Vec<Item>,
}

/// Why an item could not be placed or found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ItemError {
    /// Nobody has that name.
    #[error("there is no item '{0}' in this conversation")]
    Unknown(ItemId),
    /// Somebody has it already.
    #[error("an item '{0}' exists already")]
    Duplicate(ItemId),
}

/// Where a new item goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// After all others.
    Last,
    /// Before all others.
    First,
    /// Right after this one.
    After(ItemId),
}

impl Conversation {
    /// All items, in order.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// The item of that name.
    pub fn get(&self, id: &str) -> Option<&Item> {
        self.items.iter().find(|i| i.id == id)
    }

    /// The item of that name, to change.
    pub fn get_mut(&mut self, id: &str) -> Option<&mut Item> {
        self.items.iter_mut().find(|i| i.id == id)
    }

    /// Places an item. Returns the name of the one before it.
    pub fn insert(&mut self, item: Item, place: Place) -> Result<Option<ItemId>, ItemError> {
        if self.get(&item.id).is_some() {
            return Err(ItemError::Duplicate(item.id));
        }
        let at = match place {
            Place::Last => self.items.len(),
            Place::First => 0,
            Place::After(id) => self.items.iter().position(|i| i.id == id).ok_or(ItemError::Unknown(id))? + 1,
        };
        let previous = at.checked_sub(1).map(|p| self.items[p].id.clone());
        self.items.insert(at, item);
        let mut bytes: usize = self.items.iter().map(|i| i.text.len()).sum();
        // The new item stays, wherever it was placed.
        let mut kept = at;
        while self.items.len() > 1 && (self.items.len() > ITEMS_MAX || bytes > BYTES_MAX) {
            let oldest = usize::from(kept == 0);
            bytes -= self.items.remove(oldest).text.len();
            kept = kept.saturating_sub(1);
        }
        Ok(previous)
    }

    /// Removes an item.
    pub fn remove(&mut self, id: &str) -> Result<Item, ItemError> {
        let at =
            self.items.iter().position(|i| i.id == id).ok_or_else(|| ItemError::Unknown(id.to_owned()))?;
        Ok(self.items.remove(at))
    }

    /// What the model reads: `instructions`, then as many of the latest items as fit `chars_max`
    /// bytes, then the caller's `words` that are not an item yet. What was said last is always there: where it is
    /// too long, its end is. Neighbours of one role are one message, since chat templates expect the roles to
    /// take turns.
    pub fn messages(&self, instructions: &str, words: Option<&str>, chars_max: usize) -> Vec<Message> {
        let mut room = chars_max.saturating_sub(instructions.len());
        let step = room / 2;
        let last_max = room.max(LAST_MIN);
        let words = words.map(|words| tail(words.trim(), last_max)).filter(|words| !words.is_empty());
        room = room.saturating_sub(words.map_or(0, str::len));
        let first = self.first_within(room, step);
        let mut messages: Vec<Message> = Vec::with_capacity(self.items.len() - first + 2);
        let mut say = |role: Role, text: &str| {
            let text = text.trim();
            if text.is_empty() {
                return;
            }
            match messages.last_mut() {
                Some(m) if m.role == role => {
                    m.content.push(' ');
                    m.content.push_str(text);
                }
                _ => messages.push(Message { role, content: text.to_owned() }),
            }
        };
        say(Role::System, instructions);
        if let (None, true, Some(last)) = (words, first == self.items.len(), self.items.last()) {
            say(last.role, tail(&last.text, last_max));
        }
        for item in &self.items[first..] {
            say(item.role, &item.text);
        }
        if let Some(words) = words {
            say(Role::User, words);
        }
        messages
    }

    /// The first item of those that fit into so many bytes. What no longer fits goes half a prompt at a time:
    /// the engine keeps what it has read up to where a prompt differs from the last one, and if the oldest item
    /// went at every turn it would read the whole conversation again at every turn.
    fn first_within(&self, room: usize, step: usize) -> usize {
        let size = |item: &Item| item.text.len() + AROUND;
        let mut left = self.items.iter().map(size).sum::<usize>();
        let step = step.max(1);
        let keep = left.saturating_sub(left.saturating_sub(room).div_ceil(step) * step);
        for (i, item) in self.items.iter().enumerate() {
            // A long item goes only when it has to.
            if left <= keep || (left <= room && size(item) > step) {
                return i;
            }
            left -= size(item);
        }
        self.items.len()
    }
}

/// Bytes a message has around its text in a prompt: the template's markers.
const AROUND: usize = 16;

/// Bytes that what was said last has in a prompt, however long the instructions are: a paragraph.
const LAST_MIN: usize = 500;

/// The end of a text, from a word's start on, in at most so many bytes.
fn tail(text: &str, bytes_max: usize) -> &str {
    if text.len() <= bytes_max {
        return text;
    }
    let from = text.len() - bytes_max;
    let from = (from..text.len()).find(|&i| text.is_char_boundary(i)).unwrap_or(text.len());
    text[from..].split_once(char::is_whitespace).map_or(&text[from..], |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn item(id: &str, role: Role, text: &str) -> Item {
        Item { id: id.into(), role, text: text.into(), spoken: true, complete: true }
    }

    #[test]
    fn items_are_placed_by_name() {
        let mut c = Conversation::default();
        assert_eq!(c.insert(item("a", Role::User, "1"), Place::Last), Ok(None));
        assert_eq!(c.insert(item("b", Role::User, "2"), Place::Last), Ok(Some("a".into())));
        assert_eq!(c.insert(item("c", Role::User, "3"), Place::After("a".into())), Ok(Some("a".into())));
        assert_eq!(c.insert(item("d", Role::User, "4"), Place::First), Ok(None));
        assert_eq!(c.items().iter().map(|i| i.id.as_str()).collect::<Vec<_>>(), ["d", "a", "c", "b"]);
        assert_eq!(c.insert(item("a", Role::User, ""), Place::Last), Err(ItemError::Duplicate("a".into())));
        assert_eq!(
            c.insert(item("x", Role::User, ""), Place::After("no".into())),
            Err(ItemError::Unknown("no".into()))
        );
    }

    #[test]
    fn the_model_reads_alternating_roles_and_the_latest_first() {
        let mut c = Conversation::default();
        for (i, role) in [Role::User, Role::User, Role::Assistant].into_iter().enumerate() {
            c.insert(item(&i.to_string(), role, "some words"), Place::Last).unwrap();
        }
        let m = c.messages("be kind", Some("and now"), 10_000);
        assert_eq!(m.len(), 4);
        assert_eq!(m[1].content, "some words some words");
        assert_eq!(m[3].content, "and now");
        let short = c.messages("be kind", None, 50);
        assert_eq!(short.len(), 2, "only the last item fits");
        assert_eq!(short[1].role, Role::Assistant);
    }

    #[test]
    fn what_was_said_last_is_read_however_long_it_is() {
        let mut c = Conversation::default();
        c.insert(item("a", Role::User, "earlier words"), Place::Last).unwrap();
        let long = "word ".repeat(1_000);
        let m = c.messages("be kind", Some(&long), 2_000);
        let bytes: usize = m.iter().map(|m| m.content.len()).sum();
        assert!(m.len() == 2 && bytes <= 2_000 && m[1].content.len() > 1_900, "{bytes}");
        assert!(m[1].content.starts_with("word"));
        c.insert(item("b", Role::User, &long), Place::Last).unwrap();
        let m = c.messages("be kind", None, 2_000);
        assert_eq!(m.len(), 2, "an item that does not fit whole is there with its end");
        let m = c.messages(&"x".repeat(5_000), Some("I did."), 2_000);
        assert_eq!(m[1].content, "I did.", "whatever the instructions");
        assert_eq!(tail("äöü", 3), "ü", "never half a letter");
    }

    #[test]
    fn a_long_conversation_loses_its_beginning_seldom_and_much_at_a_time() {
        let mut c = Conversation::default();
        let (mut beginnings, mut last) = (Vec::new(), String::new());
        for i in 0..200 {
            let role = if i % 2 == 0 { Role::User } else { Role::Assistant };
            c.insert(item(&i.to_string(), role, &format!("item {i} {}", "word ".repeat(20))), Place::Last)
                .unwrap();
            let m = c.messages("be kind", Some("and now"), 4_000);
            let bytes: usize = m.iter().map(|m| m.content.len()).sum();
            assert!(bytes <= 4_000 && (i < 40 || bytes > 1_500), "{bytes} bytes at {i}");
            assert!(
                m.iter().any(|m| m.content.contains(&format!("item {i} "))),
                "the latest is always there"
            );
            if m[1].content != last {
                last.clone_from(&m[1].content);
                beginnings.push(i);
            }
        }
        // 200 items of 125 bytes pass a window of 4,000 that moves by 2,000: sixteen a move.
        assert!((8..=14).contains(&beginnings.len()), "{beginnings:?}");
    }

    #[test]
    fn words_are_bounded_and_an_item_that_was_just_placed_stays() {
        let mut c = Conversation::default();
        for i in 0..ITEMS_MAX {
            c.insert(item(&i.to_string(), Role::User, "x"), Place::Last).unwrap();
        }
        c.insert(item("root", Role::System, "first"), Place::First).unwrap();
        assert_eq!(
            (c.items().len(), c.items()[0].id.as_str(), c.items()[1].id.as_str()),
            (ITEMS_MAX, "root", "1")
        );
        for i in 0..20 {
            c.insert(item(&format!("big{i}"), Role::User, &"y".repeat(BYTES_MAX / 10)), Place::Last).unwrap();
        }
        assert!(c.items().iter().map(|i| i.text.len()).sum::<usize>() <= BYTES_MAX);
        assert_eq!(c.items().last().unwrap().id, "big19");
    }

    #[test]
    fn it_forgets_the_oldest() {
        let mut c = Conversation::default();
        for i in 0..=ITEMS_MAX {
            c.insert(item(&i.to_string(), Role::User, "x"), Place::Last).unwrap();
        }
        assert_eq!(c.items().len(), ITEMS_MAX);
        assert_eq!(c.items()[0].id, "1");
    }
}
