//! An interview of an hour in three minutes: the media clock runs twenty times as fast as the wall's.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::support::child::Running;
use super::support::{Caller, append, speech};

/// Audio in one append, milliseconds, and how often one is sent.
const APPEND_MS: usize = 100;
const EVERY: Duration = Duration::from_millis(5);

/// An answer, and the silence after it. The engines are no faster than otherwise: a recognition of 250 ms
/// takes five seconds of this clock, and the silence must outlast two of them.
const SPEECH_MS: usize = 20_000;
const SILENCE_MS: usize = 20_000;
const TURNS: usize = 3_600_000 / (SPEECH_MS + SILENCE_MS);

/// What an hour may leave in a running session's memory: its log and its conversation, some 100 entries a
/// turn of about 300 bytes, and the audio of one turn.
const GROWN_KB_MAX: u64 = 16 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_of_talk_is_heard_to_its_end() {
    let server = Running::start("[log]\nlevel = 'warn'\n").await;
    let (mut sink, mut stream) = Caller::connect(server.address, "?events=extended").await.socket.split();
    let reading = tokio::spawn(async move {
        let (mut turns, mut replies, mut errors) = (0usize, 0usize, Vec::new());
        while let Some(Ok(message)) = stream.next().await {
            let Message::Text(text) = message else { continue };
            let event: Value = serde_json::from_str(&text).unwrap();
            match event["type"].as_str().unwrap_or_default() {
                "input_audio_buffer.committed" => turns += 1,
                "response.done" => replies += 1,
                "error" => errors.push(event),
                _ => {}
            }
        }
        (turns, replies, errors)
    });
    let (loud, quiet) =
        (append(&speech(APPEND_MS)).to_string(), append(&vec![0; 24 * APPEND_MS]).to_string());
    let (begin, mut sent, mut after_ten) = (Instant::now(), 0u32, 0);
    for turn in 0..TURNS {
        for ms in (0..SPEECH_MS + SILENCE_MS).step_by(APPEND_MS) {
            sent += 1;
            let frame = if ms < SPEECH_MS { &loud } else { &quiet };
            sink.send(Message::text(frame)).await.unwrap();
            sleep_until(begin + EVERY * sent).await;
        }
        if turn == 10 {
            after_ten = server.holdings().resident_kb;
        }
    }
    let grown = server.holdings().resident_kb.saturating_sub(after_ten);
    // The rest of the last reply, in real time.
    tokio::time::sleep(Duration::from_secs(10)).await;
    sink.close().await.unwrap();
    let (turns, replies, errors) = timeout(Duration::from_secs(10), reading).await.unwrap().unwrap();
    println!(
        "{TURNS} answers in {:?}: {turns} turns, {replies} replies, {} errors, {grown} KB more since the tenth",
        begin.elapsed(),
        errors.len()
    );
    assert!(errors.is_empty(), "{:?}", errors.first());
    assert!(turns.abs_diff(TURNS) <= 2, "{turns}");
    assert!(replies >= TURNS - 2, "{replies}");
    assert!(grown < GROWN_KB_MAX, "{grown} KB");
    server.empty().await;
    server.stop().await;
}
