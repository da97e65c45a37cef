//! The program as its operator sees it: start, trouble, end.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::support::{Caller, WITHIN};

fn viva(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_viva"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn failure(args: &[&str], models: Option<&std::path::Path>) -> String {
    let mut command = viva(args);
    if let Some(models) = models {
        command.env("VIVA_MODELS", models);
    }
    let output = timeout(WITHIN, command.output()).await.expect("it ends by itself").unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_a_clear_error() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = failure(&["serve", "--engines", "fake", "--listen", &address], None).await;
    assert!(said.contains("in use") && said.contains("--listen"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_weights_are_a_clear_error() {
    let empty = tempfile::tempdir().unwrap();
    let said = failure(&["serve", "--listen", "127.0.0.1:0"], Some(empty.path())).await;
    assert!(said.contains("viva models pull"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misspelt_key_is_a_clear_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[server]\nlistne = 1\n").unwrap();
    let path = file.path().display().to_string();
    let said = failure(&["serve", "--engines", "fake", "--config", &path], None).await;
    assert!(said.contains("listne"), "{said}");
}

async fn listening(child: &mut Child) -> std::net::SocketAddr {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = timeout(WITHIN, lines.next_line()).await.expect("it listens in time").unwrap().unwrap();
    line.strip_prefix("listening on http://").unwrap_or_else(|| panic!("{line}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_refuses_new_callers_lets_the_others_end_and_exits_with_0() {
    let mut child = viva(&["serve", "--engines", "fake", "--listen", "127.0.0.1:0"]).spawn().unwrap();
    let address = listening(&mut child).await;
    let caller = Caller::connect(address, "").await;
    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let refused = tokio_tungstenite::connect_async(format!("ws://{address}/v1/realtime")).await;
    let Err(tokio_tungstenite::tungstenite::Error::Http(response)) = refused else { panic!("{refused:?}") };
    assert_eq!(response.status(), 503);
    assert!(child.try_wait().unwrap().is_none(), "a session still runs");
    drop(caller);
    let status = timeout(WITHIN, child.wait()).await.expect("it ends").unwrap();
    assert_eq!(status.code(), Some(0));
}
