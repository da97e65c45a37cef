//! Callers who come and go in every state, and what is left of them: nothing.

use std::net::SocketAddr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::child::{Holdings, Running};
use super::{Caller, append, speech};

/// Callers at once.
const AT_ONCE: usize = 16;

/// The server's limit: room for callers whose sessions are about to end. Sixteen at once come some thirty times a
/// second, and half of them leave their place to be kept for these two seconds.
pub const CONFIG: &str =
    "[server]\nsessions_max = 96\nlate_ms_max = 0\n[log]\nlevel = 'warn'\n[webrtc]\nresume_s = 2\n";

/// Memory may grow so much over the churn after a warm-up: the allocator keeps pages in an arena for each
/// thread, and where sessions end in another order other pages stay (measured: 2 MB in the second hundred
/// visits, 1 MB in the next four hundred, 1 MB in three hundred with a single arena). A leak of a session's
/// graph (300 KB) or of a second of its audio (64 KB) in each of 200 sessions is far beyond it.
pub const SLACK_KB: u64 = 6 * 1024;

/// How a caller is when the call ends.
#[derive(Debug, Clone, Copy)]
enum Moment {
    BeforeSpeaking,
    MidWord,
    MidReply,
    AfterReply,
}

/// The seed of this run: `VIVA_SEED`, or another one each time.
pub fn seed() -> u64 {
    let seed = std::env::var("VIVA_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("VIVA_SEED={seed}");
    seed
}

async fn visit(address: SocketAddr, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let moment = match rng.random_range(0..8) {
        0 | 1 => Moment::BeforeSpeaking,
        2..5 => Moment::MidWord,
        5..7 => Moment::MidReply,
        _ => Moment::AfterReply,
    };
    let mut caller = Caller::connect(address, "").await;
    if rng.random_bool(0.5) {
        caller.speak(&vec![0; 480 * rng.random_range(1..20)]).await;
    }
    match moment {
        Moment::BeforeSpeaking => {}
        Moment::MidWord => caller.speak(&speech(rng.random_range(60..900))).await,
        Moment::MidReply => {
            caller.speak(&speech(700)).await;
            caller.hush_until("response.output_audio.delta", 0).await;
            caller.speak(&vec![0; 480 * rng.random_range(1..25)]).await;
        }
        Moment::AfterReply => {
            caller.speak(&speech(700)).await;
            caller.hush_until("response.done", 0).await;
        }
    }
    if rng.random_bool(0.2) {
        caller.send(append(&speech(400))).await;
    }
    // Some say goodbye, some are just gone.
    if rng.random_bool(0.5) {
        caller.socket.close(None).await.ok();
    }
}

/// So many visits, several at a time.
pub async fn churn(server: &Running, visits: usize, rng: &mut StdRng) {
    let mut running = JoinSet::new();
    for _ in 0..visits {
        if running.len() == AT_ONCE {
            running.join_next().await.unwrap().unwrap();
        }
        let (address, seed) = (server.address, rng.random());
        running.spawn(visit(address, seed));
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
    server.empty().await;
}

/// What the server holds once it has come to rest with so many threads and files.
pub async fn at_rest(server: &Running, like: Option<Holdings>) -> Holdings {
    // Idle threads of the runtime's blocking pool end after ten seconds.
    let end = Instant::now() + Duration::from_secs(15);
    loop {
        sleep(Duration::from_millis(500)).await;
        let now = server.holdings();
        let same = like.is_none_or(|like| (now.threads, now.files) == (like.threads, like.files));
        if same || Instant::now() > end {
            return now;
        }
    }
}

/// Visits between two looks at what the server holds.
const BLOCK: usize = 100;

/// The whole check: warm up, measure, churn, measure again.
pub async fn leaves_nothing(warm_up: usize, visits: usize) {
    let mut rng = StdRng::seed_from_u64(seed());
    let server = Running::start(CONFIG).await;
    let fresh = at_rest(&server, None).await;
    churn(&server, warm_up, &mut rng).await;
    let before = at_rest(&server, Some(fresh)).await;
    println!("fresh {fresh:?}\nafter {warm_up} visits {before:?}");
    let (mut after, mut done) = (before, 0);
    while done < visits {
        let block = BLOCK.min(visits - done);
        let began = Instant::now();
        churn(&server, block, &mut rng).await;
        done += block;
        after = at_rest(&server, Some(fresh)).await;
        println!("{done} more visits, the last {block} in {:?}: {after:?}", began.elapsed());
    }
    assert_eq!((after.threads, after.files), (before.threads, before.files), "threads and files");
    let grown = after.resident_kb.saturating_sub(before.resident_kb);
    assert!(grown <= SLACK_KB, "{grown} KB more after {visits} visits");
    server.stop().await;
}

/// After so many visits the arenas have seen the most that so many callers at once can ask of them.
pub const WARM_UP: usize = 120;
