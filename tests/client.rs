//! The client, as it is used: what it stores is what was read, what it fetches is what was stored, and a download that was cut off
//! goes on where it was.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

#[path = "support/cluster/mod.rs"]
mod cluster;
#[path = "support/store/mod.rs"]
mod store;
mod support;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cluster::Cluster;
use cluster::formation::{READY_DEADLINE, Shape};
use serde_json::Value;
use store::proxy::ALWAYS;
use store::{Fault, Proxy};
use support::program::{Ended, amberblob};
use support::{CHUNK, Server, bytes, slot_of, wait_until};

const DEADLINE: Duration = Duration::from_secs(120);
/// Of the progress file, before its counts.
const HEADER: usize = 8192;

/// A server, and a directory for files.
struct Setup {
    server: Server,
    dir: tempfile::TempDir,
}

impl Setup {
    fn new() -> Self {
        Self { server: Server::start(), dir: tempfile::tempdir().unwrap() }
    }

    fn url(&self) -> String {
        format!("http://{}", self.server.public())
    }

    fn run(&self, args: &[&str]) -> Ended {
        amberblob(&[args, &["--server", &self.url()]].concat())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, body: &[u8]) -> String {
        fs::write(self.file(name), body).unwrap();
        self.file(name).display().to_string()
    }
}

fn client(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_amberblob"));
    command.args(args).env_remove("AMBERBLOB_SERVER").stderr(Stdio::piped());
    command
}

#[test]
fn a_file_is_stored_found_fetched_and_deleted() {
    let setup = Setup::new();
    let body = bytes(1, CHUNK + 12_345);
    let from = setup.write("from", &body);
    let put =
        setup.run(&["put", &from, "a/b c?é", "--content-type", "text/plain", "--json"]).expect_code(0).json();
    assert_eq!(
        (&put["path"], &put["version"], &put["size"]),
        (&"a/b c?é".into(), &1.into(), &body.len().into())
    );
    setup.run(&["put", &from, "a/"]).expect_code(0);
    let small = setup.write("small", b"second");
    setup.run(&["put", &small, "a/b c?é"]).expect_code(0);

    let to = setup.file("to").display().to_string();
    let got = setup.run(&["get", "a/b c?é", &to, "--version", "1"]).expect_code(0);
    assert_eq!((got.stdout.as_str(), got.stderr.as_str()), ("", ""), "in a pipe it is silent");
    assert!(fs::read(&to).unwrap() == body);
    setup.run(&["get", "a/b c?é", &to]).expect_code(0);
    assert_eq!(fs::read(&to).unwrap(), b"second", "the newest, over what was there");
    let dir = setup.dir.path().display().to_string();
    setup.run(&["get", "a/from", &dir]).expect_code(0);
    assert_eq!(fs::read_dir(setup.dir.path()).unwrap().count(), 3, "nothing is left beside the files");

    let stat = setup.run(&["stat", "a/b c?é", "--version", "1", "--json"]).expect_code(0).json();
    assert_eq!((&stat["blob_id"], &stat["chunks"]), (&put["blob_id"], &2.into()), "{stat}");
    assert_eq!(stat["headers"]["content-type"], "text/plain");
    let listed = setup.run(&["ls", "a/", "--json"]).expect_code(0).json();
    let paths: Vec<&str> =
        listed["objects"].as_array().unwrap().iter().map(|it| it["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["a/b c?é", "a/from"]);
    let level = setup.run(&["ls", "--delimiter", "/", "--json"]).expect_code(0).json();
    assert_eq!((&level["objects"], &level["prefixes"]), (&Value::Array(vec![]), &serde_json::json!(["a/"])));
    let lines = setup.run(&["ls"]).expect_code(0).stdout;
    assert!(lines.lines().count() == 2 && lines.contains("a/from"), "{lines}");
    let versions = setup.run(&["versions", "a/b c?é", "--json"]).expect_code(0).json();
    assert_eq!(versions["versions"].as_array().unwrap().len(), 2);

    setup.run(&["rm", "a/b c?é", "a/from"]).expect_code(0);
    let gone = setup.run(&["get", "a/b c?é", "-"]).expect_code(1);
    assert!(
        gone.stderr.starts_with("amberblob: get: a/b c?é: http://") && gone.stderr.contains("404"),
        "{gone:?}"
    );
    assert!(setup.run(&["versions", "a/b c?é"]).expect_code(0).stdout.contains("(deleted)"));
    assert_eq!(setup.run(&["ls", "--json"]).expect_code(0).json()["objects"], Value::Array(vec![]));
    let refused = setup.run(&["put", &small, "a/from", "--version", "1"]).expect_code(1);
    assert!(refused.stderr.contains("409"), "{refused:?}");
}

#[test]
fn bytes_come_from_stdin_and_go_to_stdout() {
    let setup = Setup::new();
    let url = setup.url();
    for (path, body) in [("none", vec![]), ("few", bytes(2, 1000)), ("many", bytes(3, 3 * CHUNK + 7))] {
        let mut put = client(&["put", "-", path, "--server", &url])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        put.stdin.take().unwrap().write_all(&body).unwrap();
        assert!(put.wait().unwrap().success());
        for connections in ["1", "3"] {
            let got =
                client(&["get", path, "-", "--server", &url, "--connections", connections]).output().unwrap();
            assert!(
                got.status.success() && got.stdout == body,
                "{path}: {}",
                String::from_utf8_lossy(&got.stderr)
            );
        }
        let to = setup.file(path).display().to_string();
        setup.run(&["get", path, &to]).expect_code(0);
        assert!(fs::read(&to).unwrap() == body, "{path}");
    }
}

#[test]
fn a_tree_is_stored_with_its_names() {
    let setup = Setup::new();
    let tree = setup.file("tree");
    fs::create_dir_all(tree.join("x/y")).unwrap();
    for number in 0..40 {
        let name = if number % 2 == 0 { format!("x/{number}") } else { format!("x/y/{number}") };
        fs::write(tree.join(name), bytes(number, 5000 + number as usize)).unwrap();
    }
    std::os::unix::fs::symlink("x", tree.join("link")).unwrap();
    let tree = tree.display().to_string();
    let report = setup.run(&["put", "-r", &tree, "p", "--json"]).expect_code(0).json();
    assert_eq!(
        (&report["files"], &report["skipped"], &report["failures"]),
        (&40.into(), &1.into(), &0.into())
    );
    for number in 0..40 {
        let path = if number % 2 == 0 { format!("p/x/{number}") } else { format!("p/x/y/{number}") };
        let got = client(&["get", &path, "-", "--server", &setup.url()]).output().unwrap();
        assert!(got.stdout == bytes(number, 5000 + number as usize), "{path}");
    }
    // What is refused does not keep the others.
    let again = setup.run(&["put", "-r", &tree, "p", "--if-absent", "--json"]).expect_code(1);
    assert_eq!((&again.json()["files"], &again.json()["failures"]), (&0.into(), &40.into()), "{again:?}");
}

#[test]
fn wrong_use_is_told() {
    let setup = Setup::new();
    setup.run(&["get"]).expect_code(2);
    amberblob(&["ls", "--server", "https://a"]).expect_code(2);
    let missing = setup.run(&["put", "/nowhere/at/all", "a"]).expect_code(1);
    assert!(missing.stderr.contains("cannot read /nowhere/at/all"), "{missing:?}");
    let dir = setup.dir.path().display().to_string();
    assert!(setup.run(&["put", &dir, "a"]).expect_code(1).stderr.contains("-r"));
    let empty = setup.write("f", b"f");
    let path = setup.run(&["put", &empty, "a//b"]).expect_code(1);
    assert!(path.stderr.contains("400") && path.stderr.lines().count() == 1, "{path:?}");
    // Nobody listens there.
    let nobody = amberblob(&["stat", "a", "--server", "http://127.0.0.1:1"]).expect_code(1);
    assert!(nobody.stderr.contains("127.0.0.1:1 cannot be asked"), "{nobody:?}");
    let script = amberblob(&["completions", "bash"]).expect_code(0);
    assert!(script.stdout.contains("amberblob"));
    assert!(amberblob(&["man"]).expect_code(0).stdout.contains(".TH"));
}

/// How much of each chunk a progress file says to be there.
fn counts(to: &Path) -> Vec<u64> {
    let progress = fs::read(format!("{}.amberblob-progress", to.display())).unwrap_or_default();
    let counts = progress.get(HEADER..).unwrap_or_default().chunks_exact(4);
    counts.map(|count| u64::from(u32::from_le_bytes(count.try_into().unwrap()))).collect()
}

/// A download of which some bytes have come, killed.
fn killed(setup: &Setup, proxy: &Proxy, to: &Path) -> u64 {
    let mut child: Child =
        client(&["get", "big", &to.display().to_string(), "--server", &proxy.url()]).spawn().unwrap();
    wait_until(DEADLINE, "some of it to come", || counts(to).iter().sum::<u64>() > CHUNK as u64);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!to.exists(), "what is not whole has no name");
    assert!(setup.file("to.amberblob-partial").exists());
    counts(to).iter().sum()
}

#[test]
fn a_download_that_was_killed_goes_on_where_it_was() {
    let setup = Setup::new();
    let body = bytes(4, 6 * CHUNK + 99);
    setup.server.put("big", &body).expect_status(201);
    let (proxy, to) = (Proxy::start(setup.server.public()), setup.file("to"));
    let have = killed(&setup, &proxy, &to);
    assert!(have < body.len() as u64, "it was killed too late to say anything");
    let file = to.display().to_string();
    let rest = amberblob(&["get", "big", &file, "--server", &proxy.url(), "--json"]).expect_code(0).json();
    assert_eq!(rest["fetched"], body.len() as u64 - have, "no byte that was there is read again");
    assert!(fs::read(&to).unwrap() == body);

    // Another version of the path is another blob.
    fs::remove_file(&to).unwrap();
    killed(&setup, &proxy, &to);
    let other = bytes(5, 2 * CHUNK);
    setup.server.put("big", &other).expect_status(201);
    setup.run(&["get", "big", &file]).expect_code(0);
    assert!(fs::read(&to).unwrap() == other);
}

#[test]
fn what_a_disk_changed_of_a_download_is_fetched_again() {
    let setup = Setup::new();
    let body = bytes(6, 6 * CHUNK);
    setup.server.put("big", &body).expect_status(201);
    let (proxy, to) = (Proxy::start(setup.server.public()), setup.file("to"));
    killed(&setup, &proxy, &to);
    let chunk = counts(&to).iter().position(|count| *count > 0).unwrap();
    let partial = fs::OpenOptions::new().write(true).open(setup.file("to.amberblob-partial")).unwrap();
    let at = chunk * CHUNK;
    partial.write_all_at(&[body[at] ^ 1], at as u64).unwrap();
    let again = setup.run(&["get", "big", &to.display().to_string()]).expect_code(0);
    assert!(again.stderr.contains(&format!("chunk {chunk} came with other bytes")), "{again:?}");
    assert!(fs::read(&to).unwrap() == body);
}

/// A download over one connection, and something that goes wrong once its first chunk is coming.
fn troubled(setup: &Setup, proxy: &Proxy, fault: Fault, times: u64) -> Ended {
    let to = setup.file("to");
    let mut child =
        client(&["get", "big", &to.display().to_string(), "--connections", "1", "--server", &proxy.url()])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
    wait_until(DEADLINE, "the first chunk to come", || counts(&to).first().is_some_and(|count| *count > 0));
    proxy.plan("GET", fault, times);
    let mut stderr = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut stderr).unwrap();
    Ended { status: child.wait().unwrap(), stdout: String::new(), stderr }
}

#[test]
fn a_bit_that_flips_on_the_way_is_noticed_and_a_cut_answer_continued() {
    let setup = Setup::new();
    let body = bytes(7, 5 * CHUNK);
    setup.server.put("big", &body).expect_status(201);
    let proxy = Proxy::start(setup.server.public());
    for (fault, said) in [(Fault::Flip, "came with other bytes"), (Fault::Cut, ""), (Fault::Status(503), "")]
    {
        let ended = troubled(&setup, &proxy, fault, 1).expect_code(0);
        assert!(proxy.is_through() && ended.stderr.contains(said), "{fault:?}: {ended:?}");
        assert!(fs::read(setup.file("to")).unwrap() == body, "{fault:?}");
        fs::remove_file(setup.file("to")).unwrap();
    }
    let ended = troubled(&setup, &proxy, Fault::Flip, ALWAYS).expect_code(1);
    assert!(ended.stderr.contains("other bytes than its SHA-256, 3 times"), "{ended:?}");
    assert!(!setup.file("to").exists());
}

#[test]
fn what_differs_from_its_digest_on_the_way_up_is_not_stored() {
    let setup = Setup::new();
    let body = bytes(8, 100_000);
    let from = setup.write("from", &body);
    let proxy = Proxy::start(setup.server.public());
    proxy.plan("PUT", Fault::FlipUp, 1);
    let put = amberblob(&["put", &from, "a", "--server", &proxy.url()]).expect_code(1);
    assert!(put.stderr.contains("400") && put.stderr.contains("announced sha-256"), "{put:?}");
    setup.run(&["stat", "a"]).expect_code(1);
}

#[test]
fn in_a_cluster_bytes_come_from_a_replica_itself() {
    let mut cluster = Cluster::prepare(Shape::of(4));
    cluster.spawn_all();
    cluster.wait_ready(READY_DEADLINE);
    let dir = tempfile::tempdir().unwrap();
    let body = bytes(9, CHUNK + 5);
    let from = dir.path().join("from");
    fs::write(&from, &body).unwrap();
    let servers: Vec<String> = cluster.publics().iter().map(|public| format!("http://{public}")).collect();
    for (number, server) in servers.iter().enumerate() {
        let path = format!("p{number}");
        amberblob(&["put", &from.display().to_string(), &path, "--server", server]).expect_code(0);
    }
    let between = |cluster: &Cluster| {
        let pairs = (0..4).flat_map(|from| (0..4).map(move |to| (from, to))).filter(|(from, to)| from != to);
        pairs.map(|(from, to)| cluster.links().passed(from, to)).sum::<u64>()
    };
    let before = between(&cluster);
    for number in 0..16 {
        let (path, to) = (format!("p{}", number / 4), dir.path().join("to"));
        amberblob(&["get", &path, &to.display().to_string(), "--server", &servers[number % 4]])
            .expect_code(0);
        assert!(fs::read(&to).unwrap() == body, "{path}, slot {}", slot_of(&path));
    }
    let passed = between(&cluster) - before;
    assert!(
        passed < body.len() as u64,
        "{passed} bytes between nodes: a node has passed on what it does not have"
    );
    // One that is away is stepped over.
    cluster.nodes[1].kill();
    let all = servers.join(",");
    let got = Command::new(env!("CARGO_BIN_EXE_amberblob"))
        .args(["get", "p0", "-", "--connections", "4"])
        .env("AMBERBLOB_SERVER", &all)
        .output()
        .unwrap();
    assert!(got.status.success() && got.stdout == body, "{}", String::from_utf8_lossy(&got.stderr));
}
