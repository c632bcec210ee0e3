//! The node as a service: what it tells its manager, and the unit and the configuration that it prints.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

mod support;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use support::Server;
use support::program::amberblob;

#[test]
fn the_manager_is_told_when_it_serves_and_when_it_stops() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let told = || {
        let mut bytes = [0; 4096];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let mut server = Server::builder().env("NOTIFY_SOCKET", &path.display().to_string()).start();
    assert!(told().lines().any(|line| line == "READY=1"));
    assert!(server.terminate().success());
    assert!(told().lines().any(|line| line == "STOPPING=1"));
    // One that is gone does not keep it from serving.
    drop(socket);
    server.start_again();
}

#[test]
fn a_unit_is_printed_for_a_config() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("node.toml");
    fs::write(&config, "[storage]\ndisks = [\"/srv/d0\", \"/srv/d1\"]\n").unwrap();
    let file = config.display().to_string();
    let unit = amberblob(&["unit", "--config", &file, "--user", "blob"]).expect_code(0).stdout;
    assert!(unit.contains("ReadWritePaths=\"/srv/d0\" \"/srv/d1\"\n"), "{unit}");
    assert!(unit.contains(&format!("serve --config \"{file}\"\n")) && unit.contains("User=blob\n"), "{unit}");
    assert!(amberblob(&["unit", "--config", "/nowhere"]).expect_code(1).stderr.contains("/nowhere"));
}

#[test]
fn the_configuration_is_printed_with_its_sources() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("node.toml");
    fs::write(&config, "[sync]\nrate = \"1MiB\"\n").unwrap();
    let file = config.display().to_string();
    let text = amberblob(&["config", "--config", &file]).expect_code(0).stdout;
    let of = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
    assert!(of("sync.rate = \"1MiB\"").ends_with(&format!("# {file}")), "{text}");
    assert!(of("sync.interval = \"1m\"").ends_with("# default"), "{text}");
    let report = amberblob(&["config", "--json"]).expect_code(0).json();
    assert!(
        report["settings"]
            .as_array()
            .unwrap()
            .iter()
            .any(|it| it["key"] == "storage.cache" && it["value"] == "\"25%\"")
    );
    fs::write(&config, "[sync]\nrates = 1\n").unwrap();
    assert!(
        amberblob(&["config", "--config", &file]).expect_code(1).stderr.contains("did you mean 'sync.rate'")
    );
}
