//! The program as its operator sees it: start, trouble, end.

use std::time::Duration;

use tokio::net::TcpListener;

use super::support::child::{Running, failure, viva};
use super::support::{Caller, WITHIN};

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_a_clear_error() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let command = viva(["serve", "--engines", "fake", "--listen", &address]);
    let (said, _) = failure(command, WITHIN).await;
    assert!(said.contains("in use") && said.contains("--listen"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_weights_are_a_clear_error() {
    let empty = tempfile::tempdir().unwrap();
    let mut command = viva(["serve", "--listen", "127.0.0.1:0"]);
    command.env("VIVA_MODELS", empty.path());
    let (said, _) = failure(command, WITHIN).await;
    assert!(said.contains("viva models pull"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misspelt_key_is_a_clear_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[server]\nlistne = 1\n").unwrap();
    let path = file.path().display().to_string();
    let (said, _) = failure(viva(["serve", "--engines", "fake", "--config", &path]), WITHIN).await;
    assert!(said.contains("listne"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_refuses_new_callers_lets_the_others_end_and_exits_with_0() {
    let mut server = Running::start("").await;
    let caller = Caller::connect(server.address, "").await;
    server.asked_to_end().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let refused = tokio_tungstenite::connect_async(format!("ws://{}/v1/realtime", server.address)).await;
    let Err(tokio_tungstenite::tungstenite::Error::Http(response)) = refused else { panic!("{refused:?}") };
    assert_eq!(response.status(), 503);
    assert!(server.runs(), "a session still runs");
    drop(caller);
    server.ended().await;
}
