//! The load lab: many callers at once, scored by what a person would feel.
//!
//! A [`Scenario`](scenario::Scenario) says what callers do, [`run`](run::run) lets them do it and watches
//! the server's processes, [`Score`](score::Score) sums up, and [`report`] and [`html`] show it.

pub mod html;
pub mod processes;
pub mod report;
pub mod run;
pub mod scenario;
pub mod score;
