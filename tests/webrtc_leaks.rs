//! What calls over WebRTC leave behind: nothing. In a process of its own, since memory is measured.
#![allow(clippy::unwrap_used)]

#[path = "webrtc/http.rs"]
mod http;
mod support;

use std::alloc::System;
use std::time::Duration;

use http::{HOLLOW, ask, offer, post};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use support::calls::{self, Kinds};
use support::{Server, WITHIN, fakes};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use viva::config::WebRtcSection;
use viva_actors::ports::SessionSpec;

/// One test at a time: each measures the whole process.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Counts what is asked of the allocator and given back to it. Resident memory would not do: after eight
/// calls at a time the allocator keeps as much as they needed at worst, and that differs by 10 MB between runs.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Bytes of this process that nobody has given back.
fn held() -> i64 {
    support::metrics().run_upkeep();
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated as i64 - stats.bytes_deallocated as i64
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
    let before = (held(), files(), tasks());
    for _ in 0..100 {
        refuse(&server).await;
    }
    server.sessions(0).await;
    sleep(Duration::from_millis(500)).await;
    let after = (held(), files(), tasks());
    // They leaked 100 KB each while their connections were not closed: 10 MB.
    println!("{} bytes more", after.0 - before.0);
    assert!(after.0 < before.0 + SLACK, "{} bytes more", after.0 - before.0);
    assert!(after.1 <= before.1 + 2 && after.2 <= before.2 + 4, "{before:?} {after:?}");
    assert_eq!(server.app.webrtc.as_ref().unwrap().known(), (0, 0));
    server.stop().await;
}

/// One at a time, so that there is room for its session.
async fn refuse(server: &Server) {
    assert_eq!(post(server, HOLLOW).await.status, 400);
    server.sessions(0).await;
}

/// Calls that come and go between the two measurements.
const CALLS: usize = if cfg!(feature = "soak") { 1_000 } else { 100 };

/// Those who die without a word too; each is waited for.
const KINDS: Kinds = if cfg!(feature = "soak") { Kinds::All } else { Kinds::Told };

/// What may be held more than before: tables of the runtime, the metrics and the libraries that grow to what they
/// once needed. An ended call leaked 280 KB while a task still held its connection.
const SLACK: i64 = 200_000;

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_come_and_go_in_any_state_leave_nothing() {
    let _alone = ALONE.lock().await;
    let webrtc = WebRtcSection { resume_s: 1, ..WebRtcSection::default() };
    let server = Server::with_lines(fakes(), 128, SessionSpec::default(), webrtc, None).await;
    let mut rng = StdRng::seed_from_u64(support::churn::seed());
    churn(&server, 40, &mut rng).await;
    let before = (held(), files(), tasks());
    for done in (0..CALLS).step_by(100) {
        churn(&server, 100, &mut rng).await;
        println!(
            "{} calls: {} bytes more, {} files, {} tasks",
            done + 100,
            held() - before.0,
            files(),
            tasks()
        );
    }
    let after = (held(), files(), tasks());
    assert!(after.0 < before.0 + SLACK, "{} bytes more", after.0 - before.0);
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
        return calls::call(&server.url(), seed, KINDS).await;
    }
    let answer = post(server, &offer().await).await;
    assert_eq!(answer.status, 201);
    let location = answer.header("location").unwrap().to_owned();
    sleep(Duration::from_millis(seed % 50)).await;
    ask(server, "DELETE", &location, "", "").await;
}
