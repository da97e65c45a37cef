//! Faults from outside the protocol: damaged weights, clients too fast or too slow, sockets that mean no good, disks and
//! folders that cannot be written, an endpoint that goes away, callers who come and go by the hundred.

#![allow(clippy::unwrap_used)]

#[path = "faults/disk.rs"]
mod disk;
#[path = "faults/pace.rs"]
mod pace;
#[path = "faults/remote.rs"]
mod remote;
#[path = "faults/sockets.rs"]
mod sockets;
#[path = "faults/start.rs"]
mod start;
mod support;

use support::churn;

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_short_sessions_leave_nothing() {
    churn::leaves_nothing(churn::WARM_UP, 200).await;
}
