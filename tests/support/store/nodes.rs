//! A cluster with an archive, its store, and what stands between them.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "each test crate uses its own part of this module, and a failure in it is a failed test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use rusqlite::{Connection as Database, OpenFlags};
use serde_json::Value;

use crate::cluster::formation::READY_DEADLINE;
use crate::cluster::{Cluster, Shape};
use crate::store::node::{DEADLINE, PREFIX, ask};
use crate::store::proxy::Proxy;
use crate::store::server::{BUCKET, Store};
use crate::support::program::metric;
use crate::support::{Request, Response, chunk_files, encode_path, object, slot_dir, wait_until};

/// What a replica knows of an archived chunk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    pub chunk: String,
    pub target: String,
    pub generation: u64,
    pub dropped: bool,
    pub spread: bool,
}

// They end in this order.
pub struct Nodes {
    pub cluster: Cluster,
    pub proxy: Proxy,
    pub store: Store,
}

impl Nodes {
    pub fn start(nodes: usize) -> Self {
        Self::start_with(nodes, "", "")
    }

    /// With further lines of `[storage]` and of `[archive]`.
    pub fn start_with(nodes: usize, storage: &str, archive: &str) -> Self {
        Self::start_on(nodes, storage, archive, None)
    }

    /// The same, on disks of the caller's.
    pub fn start_on(nodes: usize, storage: &str, archive: &str, disks: Option<&[Vec<PathBuf>]>) -> Self {
        let store = Store::start();
        let proxy = Proxy::start(store.address);
        let sections = format!(
            "[archive]\nbucket = \"{BUCKET}\"\nendpoint = \"{}\"\nprefix = \"{PREFIX}\"\ncredentials = \"{}\"\n{archive}\n",
            proxy.url(),
            store.credentials().display(),
        );
        let storage = format!("cache = \"64MiB\"\n{storage}");
        let mut cluster = Cluster::prepare_on(Shape { storage, sections, ..Shape::of(nodes) }, disks);
        cluster.spawn_all();
        cluster.wait_ready(READY_DEADLINE);
        Self { cluster, proxy, store }
    }

    /// Takes a node's `[archive]` out of its configuration, and has it start again.
    pub fn without_archive(&mut self, node: usize) {
        let node = &mut self.cluster.nodes[node];
        node.terminate();
        let (before, section) = node.config.split_once("[archive]").unwrap();
        let after = section.find("\n[").map_or("", |next| &section[next..]);
        node.config = format!("{before}{after}");
        node.spawn();
        self.cluster.wait_ready(READY_DEADLINE);
    }

    /// Holds all nodes that run still for a moment, and looks at all disks and the bucket: where a replica has no file of a path's only
    /// chunk, a quorum must hold rows that name an object with its bytes.
    #[track_caller]
    pub fn audit(&mut self, blobs: &[(&str, &[u8])]) {
        self.cluster.nodes.iter_mut().for_each(|node| node.pause());
        let objects = self.store.objects();
        for (path, body) in blobs {
            let is_good = |bytes: Vec<u8>| bytes == *body;
            let has_file = |node: usize| {
                self.files(node, path).iter().any(|(_, file)| std::fs::read(file).is_ok_and(is_good))
            };
            let stored: BTreeSet<String> = objects
                .keys()
                .filter(|key| is_good(self.store.object(key)))
                .map(|key| format!("s3://{BUCKET}/{key}"))
                .collect();
            let knows = |node: usize| self.rows(node, path).iter().any(|row| stored.contains(&row.target));
            let count =
                |holds: &dyn Fn(usize) -> bool| (0..self.cluster.len()).filter(|at| holds(*at)).count();
            let (files, known) = (count(&has_file), count(&knows));
            assert!(
                files == self.cluster.len() || known * 2 > self.cluster.len(),
                "{path}: {files} files, and {known} know of an object"
            );
        }
        self.cluster.nodes.iter_mut().for_each(|node| node.resume());
    }

    #[track_caller]
    pub fn put(&self, node: usize, path: &str, body: &[u8]) {
        self.cluster.send(node, &Request::new("PUT", &object(path)).body(body)).expect_status(201);
    }

    pub fn get(&self, node: usize, path: &str, query: &str) -> Response {
        self.cluster.send(node, &Request::new("GET", &format!("{}{query}", object(path))))
    }

    /// What an order at a node comes to.
    #[track_caller]
    pub fn order(&self, node: usize, what: &str, path: &str) -> Value {
        let target = format!("/{what}/{}", encode_path(path));
        ask(self.cluster.nodes[node].admin, "POST", &target).unwrap().json()
    }

    /// One that must be carried out by all.
    #[track_caller]
    pub fn done(&self, node: usize, what: &str, path: &str) -> Value {
        let report = self.order(node, what, path);
        assert_eq!(report["good"], true, "{what} {path} at {node}: {report}");
        report
    }

    /// Reads a blob at a node, from its own replica alone, whole and in a range; it must be right.
    #[track_caller]
    pub fn read(&self, node: usize, path: &str, body: &[u8]) {
        let answer = self.get(node, path, "?consistency=local").expect_status(200);
        assert!(answer.body == body, "{path} at {node}: other bytes");
        self.read_range(node, path, body);
    }

    /// Reads a range of a blob through a node, whether that is one of its replicas or not; it must be right.
    #[track_caller]
    pub fn read_range(&self, node: usize, path: &str, body: &[u8]) {
        let (from, to) = (body.len() / 3, body.len() / 3 + body.len() / 4);
        let range = format!("bytes={from}-{}", to - 1);
        let request = Request::new("GET", &object(path)).header("Range", &range);
        let answer = self.cluster.send(node, &request).expect_status(206);
        assert!(answer.body == body[from..to], "{path} at {node}, {range}: other bytes");
    }

    /// The files of the chunks of all blobs in the slot of a path.
    pub fn files(&self, node: usize, path: &str) -> Vec<(String, PathBuf)> {
        chunk_files(&slot_dir(&self.cluster.nodes[node].disks[0], path))
    }

    /// Waits until all nodes have the chunks of a path as so many files.
    #[track_caller]
    pub fn wait_files(&self, path: &str, count: usize) {
        for node in 0..self.cluster.len() {
            wait_until(DEADLINE, "a replica to have the files", || self.files(node, path).len() == count);
        }
    }

    /// The rows in a node's database of a path's slot, by chunk.
    pub fn rows(&self, node: usize, path: &str) -> Vec<Row> {
        let file = slot_dir(&self.cluster.nodes[node].disks[0], path).join("meta.sqlite3");
        let database = Database::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        let mut rows = database
            .prepare(
                "SELECT chunk_id, target_path, generation, dropped, spread
                 FROM blob_chunk_archives JOIN archive_states USING (pk) ORDER BY chunk_id",
            )
            .unwrap();
        let row = |row: &rusqlite::Row<'_>| {
            Ok(Row {
                chunk: row.get(0)?,
                target: row.get(1)?,
                generation: row.get(2)?,
                dropped: row.get(3)?,
                spread: row.get(4)?,
            })
        };
        rows.query_map([], row).unwrap().map(Result::unwrap).collect()
    }

    /// Waits until all nodes hold the same rows of a path, and know it.
    #[track_caller]
    pub fn wait_spread(&self, path: &str, count: usize) -> Vec<Row> {
        let known = |node: usize| {
            let rows = self.rows(node, path).into_iter();
            rows.map(|row| Row { dropped: false, ..row }).collect::<Vec<_>>()
        };
        wait_until(DEADLINE, "all replicas to hold the same rows", || {
            let rows = known(0);
            rows.len() == count
                && rows.iter().all(|row| row.spread)
                && (1..self.cluster.len()).all(|node| known(node) == rows)
        });
        known(0)
    }

    /// Waits until the bucket holds just what the rows of these paths name at any node.
    #[track_caller]
    pub fn wait_tidy(&self, paths: &[&str]) {
        wait_until(DEADLINE, "the bucket to hold what rows name alone", || {
            let mut named = BTreeSet::new();
            for path in paths {
                for node in 0..self.cluster.len() {
                    named.extend(self.rows(node, path).into_iter().map(|row| row.target));
                }
            }
            let objects: BTreeMap<String, u64> = self.store.objects();
            objects.into_keys().map(|key| format!("s3://{BUCKET}/{key}")).collect::<BTreeSet<_>>() == named
        });
    }

    pub fn metric(&self, node: usize, name: &str) -> u64 {
        metric(&self.cluster.nodes[node].admin_page("/metrics").unwrap().1, name)
    }
}
