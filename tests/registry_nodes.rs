//! Nodes find each other by a real Redis, a real etcd, and by the config alone; who goes is missed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

#[path = "support/registry/mod.rs"]
mod registry;
mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use registry::nodes::SOON;
use registry::store::free_port;
use registry::{BOTH, Cluster, Kind, Store, alive, node_of, nodes, wait_alive, wait_all_alive, wait_ready};
use support::{Server, bytes, poll_until, process, slot_dir, slot_of, wait_until};

/// What `server` says of the replica of a slot on a node.
fn replica(server: &Server, slot: u64, node: &str) -> serde_json::Value {
    let page = server.admin_get(&format!("/slots/{slot}")).expect_status(200).json();
    let replicas = page["replicas"].as_array().unwrap().clone();
    replicas.into_iter().find(|replica| replica["node"] == node).unwrap()
}

/// Where a replica is and how it is; when it was compared with another one, only the node that did that knows.
fn place(replica: &serde_json::Value) -> [&serde_json::Value; 3] {
    ["node", "disk", "state"].map(|key| &replica[key])
}

#[test]
fn nodes_announce_themselves_and_find_all_others() {
    for kind in BOTH {
        let store = Store::start(kind);
        let cluster = Cluster::by(&store, "2s");
        let servers = [
            cluster.node("node-1").start(),
            cluster.node("node-2").disks(2).start(),
            cluster.node("node-3").start(),
        ];
        wait_all_alive(&servers, &cluster.names);
        wait_ready(&servers);
        for server in &servers {
            for (name, other) in cluster.names.iter().zip(&servers) {
                let node = node_of(server, name);
                let line = other.serving_line();
                assert!(line.contains(&format!("node={name} ")), "{line}");
                assert_eq!(node["public"], other.public().to_string());
                assert_eq!(node["admin"], other.admin().to_string());
                assert!(line.contains(&format!("peer={} ", node["peer"].as_str().unwrap())), "{line} {node}");
                assert_eq!(node["me"], std::ptr::eq(server, other));
                assert_eq!(node["disks"].as_array().unwrap().len(), other.disks().len());
                assert_eq!(node["health"]["healthy"], 2048, "{node}");
                assert_eq!(node["protocol"], 5);
            }
            let all = nodes(server);
            assert_eq!(
                (&all["cluster"], &all["replicas"], &all["write_quorum"]),
                (&"edge".into(), &3.into(), &2.into())
            );
            assert_eq!(
                (&all["registry"]["backend"], &all["registry"]["reachable"]),
                (&kind.name().into(), &true.into())
            );
            let slots = server.admin_get("/slots").expect_status(200).json();
            assert_eq!(slots["slots"].as_array().unwrap().len(), 2048);
            // Every node places every replica where it is.
            for slot in [0, 7, 2047] {
                for (name, other) in cluster.names.iter().zip(&servers) {
                    let own = replica(other, slot, name);
                    assert_eq!(place(&replica(server, slot, name)), place(&own), "slot {slot}");
                    assert_eq!(own["state"], "healthy");
                }
            }
            assert!(server.admin_get("/metrics").text().contains("amberblob_nodes_alive 3\n"));
            assert_eq!(server.admin_get("/readyz").status, 200);
        }
        let disks: Vec<_> =
            (0..2048).map(|slot| replica(&servers[0], slot, "node-2")["disk"].clone()).collect();
        assert!(disks.contains(&0.into()) && disks.contains(&1.into()));
        // What stands there can be read by people and their tools.
        let charter: serde_json::Value =
            serde_json::from_str(&store.get("amberblob/edge/charter").unwrap()).unwrap();
        assert_eq!(charter["nodes"], serde_json::json!(cluster.names));
        assert_eq!((&charter["write_quorum"], &charter["slots"]), (&2.into(), &2048.into()));
        let record: serde_json::Value =
            serde_json::from_str(&store.get("amberblob/edge/nodes/node-1").unwrap()).unwrap();
        assert_eq!(record["public"], servers[0].public().to_string());
        assert_eq!(record["disks"][0]["slots"], "0-2047");
    }
}

#[test]
fn a_killed_node_is_missed_when_its_lease_ends_and_found_where_it_comes_back() {
    for kind in BOTH {
        let store = Store::start(kind);
        let cluster = Cluster::by(&store, "3s");
        let mut servers = cluster.start();
        let before = node_of(&servers[0], "node-3");
        servers[2].kill9();
        let killed = Instant::now();
        wait_alive(&servers[0], "node-3", Some(false));
        // Renewed at most a second before it was killed.
        assert!(killed.elapsed() > Duration::from_millis(1500), "{:?}", killed.elapsed());
        let after = node_of(&servers[0], "node-3");
        assert_eq!(after["public"], before["public"], "the last known address stays");
        assert_ne!(after["since"], before["since"]);
        assert_eq!(replica(&servers[0], 5, "node-3")["state"], "unreachable");
        assert_eq!(alive(&servers[0], "node-2"), Some(true));
        assert_eq!(servers[0].admin_get("/readyz").status, 200);
        servers[2].start_again();
        wait_all_alive(&servers, &cluster.names);
        // It was alive before it was found again, at another address.
        wait_until(SOON, "the new address", || {
            let node = node_of(&servers[0], "node-3");
            node["public"] == servers[2].public().to_string() && node["run"] != before["run"]
        });
        assert_eq!(node_of(&servers[0], "node-3")["disks"], before["disks"]);
    }
}

#[test]
fn a_node_that_stops_in_order_takes_its_announcement_back() {
    for kind in BOTH {
        let store = Store::start(kind);
        // Far longer than the test.
        let cluster = Cluster::by(&store, "5m");
        let mut servers = cluster.start();
        assert!(store.get("amberblob/edge/nodes/node-2").is_some());
        assert!(servers[1].terminate().success());
        assert_eq!(store.get("amberblob/edge/nodes/node-2"), None);
        assert!(store.get("amberblob/edge/nodes/node-1").is_some());
    }
}

#[test]
fn a_node_that_stands_still_is_missed_until_it_goes_on() {
    for kind in BOTH {
        let store = Store::start(kind);
        let cluster = Cluster::by(&store, "2s");
        let servers = cluster.start();
        process::signal(servers[1].pid(), libc::SIGSTOP);
        wait_alive(&servers[0], "node-2", Some(false));
        process::signal(servers[1].pid(), libc::SIGCONT);
        wait_all_alive(&servers, &cluster.names);
        assert!(!servers[1].stderr().contains("ERROR"), "{}", servers[1].stderr());
    }
}

#[test]
fn a_slot_out_of_service_is_known_to_all() {
    for kind in BOTH {
        let store = Store::start(kind);
        let cluster = Cluster::by(&store, "2s");
        let mut servers = cluster.start();
        servers[1].put("hurt", &bytes(1, 1000)).expect_status(201);
        let slot = slot_of("hurt");
        wait_until(SOON, "a database of the slot", || {
            slot_dir(servers[1].data(), "hurt").join("meta.sqlite3").exists()
        });
        let file = slot_dir(servers[1].data(), "hurt").join("meta.sqlite3");
        servers[1].kill9();
        // A database that is damaged would be replaced; one of another release is not.
        let changed = Command::new("sqlite3").arg(&file).arg("PRAGMA user_version = 999").status();
        assert!(changed.expect("sqlite3").success());
        servers[1].start_again();
        wait_until(SOON, "node-1 to know of the failed slot", || {
            replica(&servers[0], slot, "node-2")["state"] == "failed"
        });
        wait_until(SOON, "the other slots to be in order", || {
            let health = &node_of(&servers[0], "node-2")["health"];
            (&health["failed"], &health["healthy"]) == (&1.into(), &2047.into())
        });
        assert_eq!(node_of(&servers[0], "node-2")["health"]["failed_slots"], slot.to_string());
        assert_eq!(replica(&servers[0], (slot + 1) % 2048, "node-2")["state"], "healthy");
        assert_eq!(replica(&servers[1], slot, "node-1")["state"], "healthy");
    }
}

#[test]
fn a_replica_that_recovers_is_known_to_all() {
    let store = Store::start(Kind::Redis);
    let cluster = Cluster::by(&store, "2s");
    let mut servers = cluster.start();
    servers[0].put("kept", &bytes(1, 1000)).expect_status(201);
    let slot = slot_of("kept");
    // A new disk counts only once every other node knows of it, and one of them is away.
    servers[2].kill9();
    servers[1].kill9();
    std::fs::remove_dir_all(servers[1].data()).unwrap();
    servers[1].start_again();
    wait_until(SOON, "node-1 to know that node-2 recovers", || {
        replica(&servers[0], slot, "node-2")["state"] == "recovering"
    });
    assert_eq!(replica(&servers[1], slot, "node-2")["state"], "recovering");
    servers[2].start_again();
    for server in &servers {
        wait_until(SOON, "node-2 to have recovered", || {
            replica(server, slot, "node-2")["state"] == "healthy"
        });
    }
    assert!(servers[1].get("kept").expect_status(200).body == bytes(1, 1000));
}

#[test]
fn without_a_registry_the_nodes_ask_each_other() {
    let names = ["a", "b", "c"];
    let home = tempfile::tempdir().unwrap();
    let mut config =
        "[storage]\ncache = \"64MiB\"\n[registry]\nlease = \"2s\"\n[cluster]\nname = \"edge\"\n".to_owned();
    for name in names {
        let disks =
            format!("[{:?}, {:?}]", home.path().join(name).join("1"), home.path().join(name).join("2"));
        config.push_str(&format!(
            "[[cluster.nodes]]\nname = \"{name}\"\npublic = \"{}\"\npeer = \"{}\"\nadmin = \"{}\"\ndisks = {disks}\n",
            free_port(),
            free_port(),
            free_port()
        ));
        std::fs::create_dir(home.path().join(name)).unwrap();
    }
    let builder = |name: &str| {
        Server::builder().cores(1).config(&config).arg("--node").arg(name).by_config().wait_ready(false)
    };
    let mut servers: Vec<Server> = names.iter().map(|name| builder(name).start()).collect();
    wait_all_alive(&servers, &names);
    wait_ready(&servers);
    for (name, server) in names.iter().zip(&servers) {
        assert!(home.path().join(name).join("2/slots").is_dir(), "the node took the disks of its entry");
        assert_eq!(node_of(&servers[0], name)["public"], server.public().to_string());
    }
    for slot in [0, 100, 2047] {
        let own = replica(&servers[1], slot, "b");
        assert_eq!(place(&replica(&servers[0], slot, "b")), place(&own), "the disk follows from the config");
    }
    servers[1].kill9();
    wait_alive(&servers[0], "b", Some(false));
    assert_eq!(replica(&servers[0], 3, "b")["state"], "unreachable");
    assert_eq!(alive(&servers[0], "c"), Some(true));
    servers[1].start_again();
    wait_all_alive(&servers, &names);
    let heard = |server: &Server| node_of(server, "c")["heard"].as_str().unwrap().to_owned();
    let first = heard(&servers[0]);
    poll_until(SOON, "c to be heard of again", || (heard(&servers[0]) != first).then_some(()));
}
