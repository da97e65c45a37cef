//! A client of others with a stack of its own.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::support::{outsider, python, speech, write_wav};

/// Five networks, two turns each, over SCTP that waits for seconds where much is lost.
const WITHIN: Duration = Duration::from_secs(300);

/// An address that aioice takes, on the loopback of a network of the test's own.
const ADDRESS: &str = "10.99.0.1";

async fn succeeds(program: &Path, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().await.is_ok_and(|status| status.success())
}

#[tokio::test(flavor = "multi_thread")]
async fn aiortc_has_conversations_over_networks_of_every_kind() {
    let python = python();
    let aiortc = succeeds(&python, &["-c", "import aiortc"]).await;
    assert!(aiortc, "{} has no aiortc; run: make setup-test", python.display());
    // aioice leaves 127.0.0.1 out, so the loopback needs another address, which only a network of our own may get.
    let setup = format!("ip link set lo up && ip address add {ADDRESS}/24 dev lo");
    if !succeeds(Path::new("unshare"), &["--net", "sh", "-c", &setup]).await {
        eprintln!("skipped: this user may not make a network namespace with an address (unshare --net, ip)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let recording = folder.path().join("answer.wav");
    write_wav(&recording, &speech(1_200));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/aiortc_client.py");
    let run = format!("{setup} && exec \"$0\" \"$@\"");
    let mut client = Command::new("unshare");
    client.args(["--net", "sh", "-c", &run]).arg(&python).args([script, env!("CARGO_BIN_EXE_viva")]);
    client.arg(&recording).arg(ADDRESS);
    outsider::run(client, WITHIN).await;
}
