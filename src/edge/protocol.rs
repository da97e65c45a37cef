//! The only client-visible types: the GA events of the OpenAI Realtime protocol, and our own few.
//!
//! What comes in is parsed leniently (unknown fields are ignored, a field of the wrong shape is an error
//! that names it); what goes out has exactly the fields the public clients' type definitions ask for.

pub mod client_events;
pub mod items;
pub mod server_events;
pub mod session_object;

pub use client_events::{ClientEvent, Parsed, parse};
pub use items::{ItemObject, Part, WireItem};
pub use server_events::{Envelope, ErrorBody, Ids, ServerEvent};
pub use session_object::{SessionObject, SessionPatch};
