//! The doctor, as it is asked: what it says of a machine, of a config, and of what that names.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

#[path = "support/store/mod.rs"]
mod store;
mod support;

use std::fs;
use std::net::TcpListener;

use serde_json::Value;
use store::{BUCKET, Store};
use support::Server;
use support::program::{Ended, amberblob};

/// What is found under a name.
fn of<'a>(report: &'a Value, name: &str) -> &'a Value {
    let all = report["findings"].as_array().unwrap();
    all.iter().find(|it| it["name"] == name).unwrap_or_else(|| panic!("nothing of {name} in {report}"))
}

/// The doctor about a config.
fn examined(dir: &tempfile::TempDir, toml: &str) -> Ended {
    let file = dir.path().join("node.toml");
    let data = dir.path().join("data");
    let sections = format!("{toml}\n[storage]\ndisks = [{:?}]\n", data.display().to_string());
    fs::write(&file, sections).unwrap();
    amberblob(&["doctor", "--json", "--config", &file.display().to_string()])
}

#[test]
fn this_machine_is_examined_and_left_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("a/b");
    let ended = amberblob(&["doctor", "--json", "--data", &data.display().to_string()]);
    let report: Value = ended.json();
    assert_eq!(ended.status.success(), report["good"] == true, "{ended:?}");
    assert_eq!(of(&report, "io-uring")["level"], "ok", "the tests run here");
    for finding in report["findings"].as_array().unwrap() {
        let is_ok = finding["level"] == "ok";
        assert_eq!(is_ok, finding["better"] == "", "{finding}");
        assert!(is_ok || finding["command"] != "", "a way out: {finding}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is made");
    let text = amberblob(&["doctor", "--data", &data.display().to_string()]).stdout;
    assert!(text.lines().any(|line| line.starts_with("ok       sqlite")), "{text}");
    assert!(text.trim_end().lines().last().unwrap().starts_with("doctor: "), "{text}");
    let quiet = amberblob(&["doctor", "-q", "--data", &data.display().to_string()]).stdout;
    assert!(!quiet.contains("\nok ") && !quiet.starts_with("ok "), "{quiet}");
}

#[test]
fn a_config_that_cannot_be_read_is_a_problem() {
    let dir = tempfile::tempdir().unwrap();
    let ended = examined(&dir, "[sync]\nintervall = \"1m\"").expect_code(1);
    let report = ended.json();
    let saw = of(&report, "config")["saw"].as_str().unwrap().to_owned();
    assert!(saw.contains("did you mean 'sync.interval'"), "{saw}");
    assert!(ended.stderr.starts_with("amberblob: doctor: "), "{ended:?}");
}

#[test]
fn what_a_config_names_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (server, store) = (Server::start(), Store::start());
    // Ports that were just given back: nobody listens there.
    let [public, peer] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let archive = |credentials: &str, bucket: &str| {
        format!(
            "current_node = \"n1\"\n[cluster]\nname = \"c\"\nreplicas = 3\n\
             [[cluster.nodes]]\nname = \"n1\"\npublic = \"127.0.0.1:1\"\npeer = \"127.0.0.1:2\"\n\
             [[cluster.nodes]]\nname = \"n2\"\npublic = \"{0}\"\npeer = \"{2}\"\n\
             [[cluster.nodes]]\nname = \"n3\"\npublic = \"{public}\"\npeer = \"{peer}\"\n\
             [registry]\nbackend = \"etcd\"\nendpoints = [\"http://{0}\"]\n\
             [archive]\nbucket = \"{bucket}\"\nendpoint = \"http://{1}\"\ncredentials = \"{credentials}\"\n",
            server.public(),
            store.address,
            server.admin(),
        )
    };
    let good = store.credentials().display().to_string();
    let report = examined(&dir, &archive(&good, BUCKET)).expect_code(1).json();
    assert_eq!(of(&report, "archive store")["level"], "ok", "{report}");
    assert_eq!(of(&report, "clock n2")["level"], "ok", "{report}");
    assert_eq!(of(&report, "peer n2")["level"], "ok", "{report}");
    assert_eq!(of(&report, "peer n3")["level"], "advice", "{report}");
    assert_eq!(of(&report, "registry")["level"], "problem", "a node is no etcd: {report}");
    let report = examined(&dir, &archive(&good, "another")).json();
    assert_eq!(of(&report, "archive store")["level"], "problem", "{report}");
    let wrong = dir.path().join("wrong");
    fs::write(&wrong, "AKIDEXAMPLE\nwrong\n").unwrap();
    fs::set_permissions(&wrong, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let report = examined(&dir, &archive(&wrong.display().to_string(), BUCKET)).json();
    let store = of(&report, "archive store");
    assert!(store["level"] == "problem" && store["saw"].as_str().unwrap().contains("403"), "{store}");
}
