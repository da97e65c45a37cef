//! What calls over WebRTC leave behind: nothing. In a process of its own, since memory is measured.
#![allow(clippy::unwrap_used)]

#[path = "webrtc/http.rs"]
mod http;
mod support;

use std::time::Duration;

use http::{HOLLOW, ask, offer, post};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::calls::{self, Kinds};
use support::{Server, WITHIN, fakes};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use viva::config::WebRtcSection;
use viva_actors::ports::SessionSpec;

/// One test at a time: each measures the whole process.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Open files of this process.
fn files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_offers_leave_nothing() {
    let _alone = ALONE.lock().await;
    let server = Server::start().await;
    for _ in 0..20 {
        refuse(&server).await;
    }
    server.sessions(0).await;
    sleep(Duration::from_millis(500)).await;
    let before = (resident(), files(), tasks());
    for _ in 0..300 {
        refuse(&server).await;
    }
    server.sessions(0).await;
    sleep(Duration::from_millis(500)).await;
    let after = (resident(), files(), tasks());
    // They leaked 100 KB each while their connections were not closed: 30 MB.
    assert!(after.0 < before.0 + 10_000_000, "{} bytes more", after.0 - before.0);
    assert!(after.1 <= before.1 + 2 && after.2 <= before.2 + 4, "{before:?} {after:?}");
    assert_eq!(server.app.webrtc.as_ref().unwrap().known(), (0, 0));
    server.stop().await;
}

/// One at a time, so that there is room for its session.
async fn refuse(server: &Server) {
    assert_eq!(post(server, HOLLOW).await.status, 400);
    server.sessions(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_come_and_go_in_any_state_leave_nothing() {
    let _alone = ALONE.lock().await;
    let webrtc = WebRtcSection { resume_s: 1, ..WebRtcSection::default() };
    let server = Server::with_lines(fakes(), 128, SessionSpec::default(), webrtc, None).await;
    let mut rng = StdRng::seed_from_u64(support::churn::seed());
    churn(&server, 40, &mut rng).await;
    let before = (resident(), files(), tasks());
    churn(&server, 200, &mut rng).await;
    let after = (resident(), files(), tasks());
    // An ended call leaked 280 KB while a task still held its connection: 56 MB.
    assert!(after.0 < before.0 + 16_000_000, "{} bytes more", after.0 - before.0);
    assert!(after.1 <= before.1 + 2 && after.2 <= before.2 + 4, "{before:?} {after:?}");
    assert_eq!(server.app.webrtc.as_ref().unwrap().known(), (0, 0));
    assert!(server.app.webrtc_calls.is_empty() && server.app.parking.is_empty());
    server.stop().await;
}

/// So many calls, eight at a time, each left in another way.
async fn churn(server: &Server, calls: usize, rng: &mut StdRng) {
    for _ in 0..calls / 8 {
        let calls = (0..8).map(|_| come_and_go(server, rng.random()));
        futures_util::future::join_all(calls).await;
    }
    // A program that ended without a word is missed after 20 s, and its client a second later.
    let missed = async {
        while server.viva.sessions() > 0 {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(2 * WITHIN, missed).await.expect("everybody is missed in the end");
    sleep(Duration::from_secs(1)).await;
}

/// A call, or an answer that is given up before any media came.
async fn come_and_go(server: &Server, seed: u64) {
    if !seed.is_multiple_of(5) {
        return calls::call(&server.url(), seed, Kinds::Told).await;
    }
    let answer = post(server, &offer().await).await;
    assert_eq!(answer.status, 201);
    let location = answer.header("location").unwrap().to_owned();
    sleep(Duration::from_millis(seed % 50)).await;
    ask(server, "DELETE", &location, "", "").await;
}
