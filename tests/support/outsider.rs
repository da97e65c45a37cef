//! Programs of others that a test starts: clients from their registries, scripts that judge what they saw.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// Runs a program to its end, which must be a good one, and gives what it printed. It ends with whoever waits for it.
pub async fn run(mut command: Command, within: Duration) -> String {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let output = timeout(within, child.wait_with_output()).await.expect("it ends in time").unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    println!("{out}");
    out.into_owned()
}
