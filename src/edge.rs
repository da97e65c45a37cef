//! The media edges: where callers come in. Nothing beyond this module knows a wire format.
//!
//! [`protocol`] holds the only types a client ever sees, [`mapper`] folds a session's log into them,
//! [`call`] runs one caller's conversation over any [`transport`], [`ws`] is the WebSocket transport, [`webrtc`]
//! the other one, [`parking`] where calls wait whose line was lost, [`secrets`] what pages hold in place of keys,
//! [`rest`] what is asked for without a call, [`gate`] who may ask, [`tls`] over what, [`http`] the router around all of it.

pub mod assets;
pub mod call;
pub mod calls;
pub mod events_schema;
pub mod gate;
pub mod grammar;
pub mod http;
pub mod intake;
pub mod interviews;
mod json;
pub mod mapper;
pub mod openapi;
pub mod origin;
pub mod out_of_band;
pub mod parking;
pub mod patience;
pub mod protocol;
pub mod questions;
pub mod recall;
pub mod requests;
pub mod rest;
pub mod secrets;
pub mod sideband;
pub mod tls;
pub mod tools;
pub mod transport;
pub mod webrtc;
pub mod ws;
