//! Calls over WebRTC that are left in any state.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use tokio::time::sleep;

use super::rtc::RtcCaller;
use viva::client::ClientError;

/// A seat is free again 22 s after its caller was last heard of.
const SEATED_WITHIN: Duration = Duration::from_secs(60);

/// How far a call has come when it is left.
#[derive(Debug, Clone, Copy)]
enum Moment {
    Connected,
    MidWord,
    MidReply,
    AfterReply,
    MidRestart,
    CameBack,
    /// Their network died with them: the server finds out by itself, after 20 s.
    Dead,
}

/// Which calls there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kinds {
    /// Those whose end the server is told of in some way.
    Told,
    /// Those who die as well, one in thirty.
    All,
}

/// Calls, and calls again when all seats are taken: those who were just gone keep theirs until they are missed.
async fn dial(url: &str) -> RtcCaller {
    let until = Instant::now() + SEATED_WITHIN;
    loop {
        match RtcCaller::dial(url, "", None).await {
            Err(ClientError::Refused { status: 503, .. }) if Instant::now() < until => {
                sleep(Duration::from_millis(500)).await;
            }
            called => return called.unwrap(),
        }
    }
}

/// One call to this server, left somewhere.
pub async fn call(url: &str, seed: u64, kinds: Kinds) {
    let mut rng = StdRng::seed_from_u64(seed);
    let moment = match rng.random_range(0..30) {
        0..6 => Moment::Connected,
        6..13 => Moment::MidWord,
        13..20 => Moment::MidReply,
        20..23 => Moment::AfterReply,
        23..26 => Moment::MidRestart,
        26..29 => Moment::CameBack,
        _ if kinds == Kinds::All => Moment::Dead,
        _ => Moment::Connected,
    };
    let mut caller = dial(url).await;
    let ms = rng.random_range(0..25) * 20;
    match moment {
        Moment::Connected => {}
        Moment::MidWord => caller.speak(ms).await,
        Moment::MidReply => {
            caller.send(json!({"type": "response.create"})).await;
            caller.until("output_audio_buffer.started").await;
            caller.say(None, ms).await;
        }
        Moment::AfterReply => drop(caller.turn(700).await),
        Moment::MidRestart => {
            let link = caller.link();
            let restarting = tokio::spawn(async move { link.restart().await.ok() });
            caller.say(None, ms / 4).await;
            restarting.abort();
        }
        Moment::CameBack => {
            caller.until("viva.resume").await;
            let query = format!("resume={}", caller.token());
            caller.link().leave().await;
            caller = RtcCaller::dial(url, &query, None).await.unwrap();
            caller.say(None, ms).await;
        }
        Moment::Dead => caller.link().set_dead(true),
    }
    match rng.random_range(0..4) {
        // A page that was closed, a program that ended.
        0 => caller.link().leave().await,
        1 => drop(caller),
        2 => {
            // Both at once.
            let link = caller.link();
            tokio::join!(link.leave(), caller.hang_up());
        }
        _ => caller.hang_up().await,
    }
    // What was spawned by a drop is done before the next caller counts.
    sleep(Duration::from_millis(20)).await;
}
