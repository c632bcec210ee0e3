//! What a registry has against a start, and what a start does without one.
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

use std::time::{Duration, Instant};

use registry::nodes::SOON;
use registry::store::free_port;
use registry::{BOTH, Cluster, Kind, Store, alive, node_of, nodes, wait_all_alive, wait_ready};
use support::server::Refused;
use support::{Server, wait_until};

/// Panics unless the start was refused with exit status 1 and one line that contains all of `parts`. Warnings may come before.
#[track_caller]
fn assert_refused(outcome: Result<Server, Refused>, parts: &[&str]) {
    let Err(refused) = outcome else { panic!("it started, which it must not ({parts:?})") };
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let last = refused.stderr.trim_end().lines().last().unwrap();
    assert!(last.starts_with("amberblob: "), "{}", refused.stderr);
    assert!(parts.iter().all(|part| last.contains(part)), "{parts:?} are not named: {}", refused.stderr);
    assert_eq!(refused.stdout, "");
}

#[test]
fn a_second_process_of_the_same_name_is_refused_while_the_first_lives() {
    for kind in BOTH {
        let store = Store::start(kind);
        let cluster = Cluster::by(&store, "6s");
        let mut first = cluster.node("node-1").start();
        let public = first.public().to_string();
        assert_refused(
            cluster.node("node-1").try_start(),
            &["another process lives as 'node-1'", "'edge'", &public],
        );
        assert_eq!(node_of(&first, "node-1")["public"], public, "the first is as it was");
        first.assert_alive();
        // On the same disks it is the same node: nothing to wait for.
        first.kill9();
        let started = Instant::now();
        first.start_again();
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        // With other disks it waits for what is left of the lease.
        first.kill9();
        let replaced = cluster.node("node-1").start();
        assert!(replaced.stderr().contains("waiting for its lease"), "{}", replaced.stderr());
        assert_eq!(alive(&replaced, "node-1"), Some(true));
    }
}

#[test]
fn a_config_that_contradicts_the_charter_is_refused_with_the_difference() {
    for kind in BOTH {
        let store = Store::start(kind);
        let cluster = Cluster::by(&store, "2s");
        let first = cluster.node("node-1").start();
        let with = |change: &dyn Fn(&mut Cluster)| {
            let mut other = cluster.clone();
            change(&mut other);
            other.node("node-2").try_start()
        };
        let quorum = with(&|other| other.cluster = "write_quorum = 3\n".to_owned());
        assert_refused(
            quorum,
            &["'edge' otherwise", "its write_quorum is 2, here it is 3", "amberblob/edge/charter"],
        );
        let replicas = with(&|other| other.cluster = "replicas = 2\n".to_owned());
        assert_refused(replicas, &["its replicas is 3, here it is 2"]);
        let names = with(&|other| other.names.push("node-4"));
        assert_refused(names, &["its nodes are node-1, node-2, node-3, the config names", "node-4"]);
        let second = cluster.node("node-2").start();
        wait_all_alive(&[first, second], &["node-1", "node-2"]);
    }
}

/// Two nodes whose addresses are all in the config: the registry has nothing to add.
fn known(registry: &str) -> [Server; 2] {
    let mut config =
        format!("[storage]\ncache = \"64MiB\"\n[registry]\n{registry}[cluster]\nname = \"edge\"\n");
    let names = ["node-1", "node-2"];
    for name in names {
        let [public, peer, admin] = [(); 3].map(|()| free_port());
        config.push_str(&format!(
            "[[cluster.nodes]]\nname = \"{name}\"\npublic = \"{public}\"\npeer = \"{peer}\"\nadmin = \"{admin}\"\n"
        ));
    }
    names.map(|name| {
        let builder = Server::builder().cores(1).config(&config).arg("--node").arg(name).by_config();
        builder.wait_ready(false).start()
    })
}

#[test]
fn a_registry_that_is_not_there_keeps_nobody_from_starting() {
    let strangers = [Store::start(Kind::Etcd), Store::start(Kind::Redis)];
    let nobody = free_port();
    for (kind, stranger) in BOTH.into_iter().zip(&strangers) {
        // Nobody listens there; or somebody else does.
        for url in [kind.url(nobody), kind.url(stranger.address)] {
            let registry =
                format!("backend = \"{}\"\nendpoints = [\"{url}\"]\nlease = \"2s\"\n", kind.name());
            let mut servers = known(&registry);
            wait_ready(&servers);
            servers[0].put("without", b"x").expect_status(201);
            assert_eq!(servers[1].get("without").expect_status(200).body, b"x");
            for (server, other) in servers.iter().zip(["node-2", "node-1"]) {
                assert!(server.stderr().contains("going on with the addresses known"), "{}", server.stderr());
                let page = nodes(server);
                assert_eq!(page["registry"]["reachable"], false);
                assert!(page["registry"]["trouble"].as_str().unwrap().contains(kind.name()), "{page}");
                assert_eq!(alive(server, other), None);
            }
            servers.iter_mut().for_each(|server| assert!(server.terminate().success()));

            // Without addresses the node serves its own, and says what is missing.
            let cluster = Cluster::by_url(kind.name(), &url, "2s");
            let server = cluster.node("node-1").start();
            let ready = server.admin_get("/readyz");
            let reason = ready.text();
            assert_eq!(ready.status, 503);
            assert!(
                reason.contains("the addresses of node-2, node-3 are not known: ")
                    && reason.contains(kind.name()),
                "{reason}"
            );
            wait_until(SOON, "the failures to be counted", || {
                let metrics = server.admin_get("/metrics").text();
                let count =
                    metrics.lines().find_map(|line| line.strip_prefix("amberblob_registry_failures_total "));
                count.unwrap().parse::<u64>().unwrap() >= 3
            });
            // Said once, not at every attempt.
            let said = server.stderr().matches("addresses are missing").count();
            assert!((1..=2).contains(&said), "{said} times: {}", server.stderr());
        }
    }
}

#[test]
fn nodes_that_came_before_their_registry_find_each_other_once_it_is_there() {
    for kind in BOTH {
        let mut store = Store::start(kind);
        let cluster = Cluster::by(&store, "2s");
        store.kill();
        let servers: Vec<Server> = cluster.names.iter().map(|name| cluster.node(name).start()).collect();
        assert_eq!(servers[0].admin_get("/readyz").status, 503);
        store.start_empty();
        wait_all_alive(&servers, &cluster.names);
        wait_ready(&servers);
    }
}

#[test]
fn the_second_of_two_endpoints_is_asked_when_the_first_is_gone() {
    for kind in BOTH {
        let store = Store::start(kind);
        let mut cluster = Cluster::by(&store, "2s");
        let two = format!("endpoints = [\"{}\", \"{}\"]", kind.url(free_port()), store.url());
        cluster.registry = cluster.registry.replace(&format!("endpoints = [\"{}\"]", store.url()), &two);
        assert!(cluster.registry.contains(&two));
        cluster.start();
    }
}

#[test]
fn a_password_comes_from_a_file_or_the_environment_and_is_never_shown() {
    const PASSWORD: &str = "geheim-7391";
    for kind in BOTH {
        let store = Store::start_with_password(kind, PASSWORD);
        let mut cluster = Cluster::by(&store, "2s");
        if kind == Kind::Etcd {
            cluster.registry.push_str("username = \"root\"\n");
        }
        let with =
            |name: &str, password: &str| cluster.node(name).env("AMBERBLOB_REGISTRY__PASSWORD", password);
        let wrong = with("node-1", "wrong-4711").start();
        let reason = wrong.admin_get("/readyz").text();
        assert!(reason.contains("check registry.username and registry.password_file"), "{reason}");
        assert!(!(reason + &wrong.stderr()).contains("wrong-4711"));
        if kind == Kind::Redis {
            let none = cluster.node("node-1").start();
            let reason = none.admin_get("/readyz").text();
            assert!(reason.contains("check registry.username and registry.password_file"), "{reason}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{PASSWORD}\n")).unwrap();
        let mut by_file = cluster.clone();
        by_file.registry.push_str(&format!("password_file = {:?}\n", file.path()));
        let servers = [
            with("node-1", PASSWORD).start(),
            with("node-2", PASSWORD).env("AMBERBLOB_LOG", "trace").start(),
            by_file.node("node-3").start(),
        ];
        wait_all_alive(&servers, &cluster.names);
        for server in &servers {
            let page = server.admin_get("/nodes").text();
            assert!(!(server.stderr() + &page).contains(PASSWORD), "{}", server.stderr());
        }
    }
}

#[test]
fn nodes_of_other_clusters_do_not_meet() {
    for kind in BOTH {
        let store = Store::start(kind);
        let edge = Cluster::by(&store, "2s");
        let config = edge.config().replace("name = \"edge\"", "name = \"other\"");
        let here = [edge.node("node-1").start(), edge.node("node-2").start()];
        let other = Server::builder().cores(1).config(&config).arg("--node").arg("node-3");
        let other = other.env("AMBERBLOB_LISTEN__PEER", "127.0.0.1:0").wait_ready(false).start();
        wait_all_alive(&here, &["node-1", "node-2"]);
        assert_eq!(alive(&here[0], "node-3"), Some(false));
        assert_eq!(alive(&other, "node-1"), Some(false));
    }
}
