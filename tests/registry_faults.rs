//! A registry that stands still, dies, forgets, is slow or cut off costs no node its service, and what it knew comes back.
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

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use registry::nodes::SOON;
use registry::{BOTH, Cluster, Proxy, Store, alive, node_of, nodes, wait_alive, wait_all_alive, wait_ready};
use support::{Server, bytes, poll, wait_until};

/// Panics unless the node serves reads and writes and holds itself for ready.
#[track_caller]
fn assert_serves(server: &Server, path: &str) {
    let data = bytes(9, 10_000);
    server.put(path, &data).expect_status(201);
    assert!(server.get(path).expect_status(200).body == data);
    assert_eq!(server.admin_get("/readyz").status, 200, "{}", server.admin_get("/readyz").text());
}

/// The public addresses that a node knows of all nodes.
fn addresses(server: &Server, names: &[&str]) -> Vec<String> {
    names.iter().map(|name| node_of(server, name)["public"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_registry_that_stands_still_is_done_without() {
    for kind in BOTH {
        let store = Store::start(kind);
        let cluster = Cluster::by(&store, "2s");
        let mut servers = cluster.start();
        let before = addresses(&servers[0], &cluster.names);
        store.freeze();
        // Nobody can tell any more who is there.
        wait_alive(&servers[0], "node-2", None);
        assert_eq!(addresses(&servers[0], &cluster.names), before);
        for server in &servers {
            assert_serves(server, "while-it-stands");
            assert_eq!(nodes(server)["registry"]["reachable"], false);
        }
        // Stopping does not wait for it either.
        let stopping = Instant::now();
        assert!(servers[2].terminate().success());
        assert!(stopping.elapsed() < Duration::from_secs(15), "{:?}", stopping.elapsed());
        store.thaw();
        servers[2].start_again();
        wait_all_alive(&servers, &cluster.names);
        wait_ready(&servers);
        assert_eq!(addresses(&servers[0], &cluster.names)[..2], before[..2]);
        for server in &servers {
            assert_eq!(nodes(server)["registry"]["reachable"], true);
        }
    }
}

#[test]
fn a_registry_that_forgot_everything_is_told_again() {
    for kind in BOTH {
        let mut store = Store::start(kind);
        let cluster = Cluster::by(&store, "2s");
        let servers = cluster.start();
        let before = addresses(&servers[0], &cluster.names);
        let charter = store.get("amberblob/edge/charter").unwrap();
        for _ in 0..2 {
            store.kill();
            wait_until(SOON, "the loss to be noticed", || {
                nodes(&servers[0])["registry"]["reachable"] == false
            });
            assert_serves(&servers[0], "meanwhile");
            store.start_empty();
            for name in &cluster.names {
                wait_until(SOON, "the announcements to come back", || {
                    store.get(&format!("amberblob/edge/nodes/{name}")).is_some()
                });
            }
            wait_until(SOON, "the charter to come back", || {
                store.get("amberblob/edge/charter").as_ref() == Some(&charter)
            });
            wait_all_alive(&servers, &cluster.names);
            assert_eq!(addresses(&servers[0], &cluster.names), before);
        }
        for server in &servers {
            assert!(!server.stderr().contains("ERROR"), "{}", server.stderr());
        }
    }
}

#[test]
fn a_slow_registry_is_waited_for_and_one_that_is_too_slow_is_not() {
    for kind in BOTH {
        let store = Store::start(kind);
        let proxy = Proxy::start(store.address);
        proxy.slow_down(Duration::from_millis(60));
        let cluster = Cluster::by_url(kind.name(), &kind.url(proxy.address), "6s");
        let servers = cluster.start();
        // Longer than a lease, which is renewed in time.
        poll(Duration::from_secs(8), || {
            for name in &cluster.names {
                assert_eq!(alive(&servers[0], name), Some(true), "{name}: {}", nodes(&servers[0]));
            }
            None::<()>
        });
        proxy.slow_down(Duration::from_secs(4));
        wait_alive(&servers[0], "node-2", None);
        assert_serves(&servers[0], "while-it-is-slow");
        proxy.slow_down(Duration::ZERO);
        wait_all_alive(&servers, &cluster.names);
    }
}

#[test]
fn a_node_that_is_cut_off_from_the_registry_is_missed_and_goes_on() {
    for kind in BOTH {
        let store = Store::start(kind);
        let proxy = Proxy::start(store.address);
        let cluster = Cluster::by(&store, "2s");
        let apart = Cluster::by_url(kind.name(), &kind.url(proxy.address), "2s");
        let servers =
            [cluster.node("node-1").start(), cluster.node("node-2").start(), apart.node("node-3").start()];
        wait_all_alive(&servers, &cluster.names);
        wait_ready(&servers);
        for _ in 0..2 {
            proxy.cut();
            wait_alive(&servers[0], "node-3", Some(false));
            wait_alive(&servers[2], "node-1", None);
            assert_eq!(alive(&servers[2], "node-3"), Some(true), "it is there itself");
            assert_eq!(alive(&servers[0], "node-2"), Some(true));
            servers.iter().for_each(|server| assert_serves(server, "cut-off"));
            proxy.heal();
            wait_all_alive(&servers, &cluster.names);
        }
    }
}

#[test]
fn two_processes_that_share_a_name_all_the_same_say_so() {
    for kind in BOTH {
        let store = Store::start(kind);
        let proxy = Proxy::start(store.address);
        let apart = Cluster::by_url(kind.name(), &kind.url(proxy.address), "2s");
        let first = apart.node("node-1").start();
        proxy.cut();
        wait_until(SOON, "its lease to end", || store.get("amberblob/edge/nodes/node-1").is_none());
        // The registry cannot know better; the disks are others.
        let cluster = Cluster::by(&store, "2s");
        let second = cluster.node("node-1").start();
        proxy.heal();
        for (server, other) in [(&first, &second), (&second, &first)] {
            wait_until(SOON, "the other to be noticed", || {
                let ready = server.admin_get("/readyz");
                let reason = ready.text();
                ready.status == 503
                    && reason.contains("another process lives as 'node-1'")
                    && reason.contains(&other.public().to_string())
            });
            assert!(server.stderr().contains("another process lives as 'node-1'"), "{}", server.stderr());
            server.assert_alive();
        }
        drop(second);
        wait_until(SOON, "the first to be alone again", || {
            !first.admin_get("/readyz").text().contains("another process")
        });
    }
}

#[test]
fn answers_that_make_no_sense_are_survived() {
    let nonsense: [&[u8]; 22] = [
        b"",
        b"\0\0\0\0",
        b"HTTP/1.1 500 No\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull",
        b"HTTP/1.1 200 OK\r\nContent-Length: 31\r\n\r\n{\"responses\":[{}],\"kvs\":[{},1]}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        b"-ERR unknown command\r\n-ERR unknown command\r\n-ERR unknown command\r\n-ERR unknown command\r\n",
        b"-LOADING\r\n-LOADING\r\n-READONLY x\r\n-MOVED 1 127.0.0.1:1\r\n-ASK\r\n",
        b"+OK\r\n+OK\r\n+OK\r\n+OK\r\n+OK\r\n",
        b"$-1\r\n$-1\r\n$-1\r\n$-1\r\n",
        b"$-7\r\n",
        b"$9223372036854775807\r\nx",
        b"*-1\r\n*-1\r\n*-9\r\n",
        b"*9223372036854775807\r\n",
        b"*100000000\r\n:1\r\n",
        b":99999999999999999999999999\r\n",
        b"%1\r\n+a\r\n~2\r\n",
        b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n",
        b"(349999999999999999999999\r\n,inf\r\n#t\r\n=5\r\ntxt:a\r\n",
        b"$12\r\n{\"format\":1}\r\n$12\r\n{\"format\":1}\r\n$1\r\n\xff\r\n",
    ];
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answered = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&answered);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let number = count.load(Ordering::SeqCst);
            let count = Arc::clone(&count);
            std::thread::spawn(move || {
                let mut stream = stream;
                let mut question = [0; 4096];
                for _ in 0..8 {
                    let asked = stream.read(&mut question).is_ok_and(|length| length > 0);
                    if !asked || stream.write_all(nonsense[number % nonsense.len()]).is_err() {
                        break;
                    }
                }
            });
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    for kind in BOTH {
        let cluster = Cluster::by_url(kind.name(), &kind.url(address), "1s");
        let server = cluster.node("node-1").start();
        let before = answered.load(Ordering::SeqCst);
        wait_until(3 * SOON, "every answer to be given", || {
            server.assert_alive();
            answered.load(Ordering::SeqCst) >= before + nonsense.len() + 2
        });
        assert_eq!(server.admin_get("/readyz").status, 503);
        assert!(support::process::peak_rss_bytes(server.pid()) < 1 << 30);
    }
}
