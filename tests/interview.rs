//! Interviews: whole ones in virtual time, and what a session, a client and an operator see of them.

#![allow(clippy::unwrap_used)]

#[path = "interview/api.rs"]
mod api;
#[path = "interview/recorded.rs"]
mod recorded;
#[path = "interview/script.rs"]
mod script;
#[path = "interview/seats.rs"]
mod seats;
#[path = "interview/simulated.rs"]
mod simulated;
mod support;
