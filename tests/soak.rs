//! What takes long: a thousand callers who come and go, an hour of talk in virtual time, a million damaged
//! events, damaged input of every other kind. Built and run only with the feature `soak` (`make soak`); everything is seeded and prints its seed.

#![allow(clippy::unwrap_used)]

#[path = "soak/corpora.rs"]
mod corpora;
#[path = "../fuzz/src/entries.rs"]
mod entries;
#[path = "soak/hour.rs"]
mod hour;
#[path = "soak/parse.rs"]
mod parse;
mod support;

use support::churn;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_short_sessions_leave_nothing() {
    churn::leaves_nothing(churn::WARM_UP, 1_000).await;
}
