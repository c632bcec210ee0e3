//! A node with an archive, its store, and what stands between them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection as Database, OpenFlags};
use serde_json::Value;

use super::proxy::Proxy;
use super::server::{BUCKET, Store};
use super::support::program::{Ended, amberblob, metric};
use super::support::server::Server;
use super::support::{Connection, Request, Response, chunk_files, encode_path, slot_dir, wait_until};

/// What goes on behind a node's answers has come about within this, however busy the machine is.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// What the keys of all objects begin with.
pub const PREFIX: &str = "kept/";

// They end in this order.
pub struct Node {
    pub server: Server,
    pub proxy: Proxy,
    pub store: Store,
}

impl Node {
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// With further lines of `[storage]`.
    pub fn start_with(storage: &str) -> Self {
        Self::start_at(storage, None)
    }

    /// The same, with its data in a directory of the caller's.
    pub fn start_at(storage: &str, data: Option<&Path>) -> Self {
        Self::start_on(storage, "", data)
    }

    /// The same, with further lines of `[archive]`.
    pub fn start_on(storage: &str, archive: &str, data: Option<&Path>) -> Self {
        let store = Store::start();
        let proxy = Proxy::start(store.address);
        let config = format!(
            "[storage]\ncache = \"64MiB\"\n{storage}\n[archive]\nbucket = \"{BUCKET}\"\nendpoint = \"{}\"\n\
             prefix = \"{PREFIX}\"\ncredentials = \"{}\"\n{archive}\n",
            proxy.url(),
            store.credentials().display(),
        );
        let builder = Server::builder().config(&config);
        let builder = data.into_iter().fold(builder, |builder, data| builder.data_dir(data));
        Self { server: builder.start(), proxy, store }
    }

    /// A request to the admin listener, whose answer takes as long as it takes.
    #[track_caller]
    pub fn ask(&self, method: &str, target: &str) -> Response {
        ask(self.server.admin(), method, target).unwrap_or_else(|error| panic!("{method} {target}: {error}"))
    }

    /// Archives or restores a path or a version, which must succeed; what the node reports of it.
    #[track_caller]
    pub fn done(&self, what: &str, path: &str, query: &str) -> Value {
        let query = if query.is_empty() { String::new() } else { format!("?{query}") };
        let report = self.ask("POST", &format!("/{what}/{}{query}", encode_path(path)));
        let report = report.expect_status(200).json();
        assert_eq!(report["good"], true, "{what} {path}: {report}");
        assert!(report.get("why").is_none_or(Value::is_null), "{what} {path}: {report}");
        report
    }

    /// Archives the newest version of a path.
    #[track_caller]
    pub fn archive(&self, path: &str) -> Value {
        self.done("archive", path, "")
    }

    /// Restores the newest version of a path.
    #[track_caller]
    pub fn restore(&self, path: &str) -> Value {
        self.done("restore", path, "")
    }

    /// Writes and archives a blob.
    #[track_caller]
    pub fn put_archived(&self, path: &str, body: &[u8]) {
        self.server.put(path, body).expect_status(201);
        self.archive(path);
        assert!(self.files(path).is_empty(), "{path} is in the archive alone");
    }

    /// The program, as an operator of this node runs it.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Ended {
        let admin = format!("http://{}", self.server.admin());
        let mut all = args.to_vec();
        all.extend(["--admin", admin.as_str()]);
        amberblob(&all)
    }

    /// Runs `archive` or `restore` in JSON, which must fail; the reason, as the report or the refusal has it.
    #[track_caller]
    pub fn failed(&self, what: &str, path: &str) -> String {
        let ended = self.run(&[what, path, "--json"]).expect_code(1);
        assert!(ended.stderr.starts_with("amberblob: "), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        if ended.stdout.is_empty() {
            return ended.stderr;
        }
        let report = ended.json();
        assert_eq!(report["good"], false, "{report}");
        let why = report["why"].as_str().unwrap_or_else(|| panic!("no reason in {report}")).to_owned();
        assert!(!why.is_empty(), "{report}");
        why
    }

    /// Where each chunk of the newest version is, as the node tells.
    #[track_caller]
    pub fn places(&self, path: &str) -> Vec<String> {
        self.places_at(path, "")
    }

    #[track_caller]
    pub fn places_at(&self, path: &str, query: &str) -> Vec<String> {
        self.chunks(path, query).into_iter().map(|(_, place)| place).collect()
    }

    /// The chunks of a version, in order: name and place.
    #[track_caller]
    pub fn chunks(&self, path: &str, query: &str) -> Vec<(String, String)> {
        let query = if query.is_empty() { "chunks".to_owned() } else { format!("chunks&{query}") };
        let json = self.server.get_query(path, &query).expect_status(200).json();
        let text =
            |chunk: &Value, key: &str| chunk[key].as_str().unwrap_or_else(|| panic!("{json}")).to_owned();
        let chunks = json["chunks"].as_array().unwrap_or_else(|| panic!("{json}"));
        chunks.iter().map(|chunk| (text(chunk, "id"), text(chunk, "location"))).collect()
    }

    /// The chunk files of all versions of a path: those of its slot.
    pub fn files(&self, path: &str) -> Vec<(String, PathBuf)> {
        chunk_files(&slot_dir(self.server.data(), path))
    }

    /// The only one.
    #[track_caller]
    pub fn file(&self, path: &str) -> PathBuf {
        let files = self.files(path);
        assert_eq!(files.len(), 1, "{path}: {files:?}");
        files[0].1.clone()
    }

    /// The keys that the rows of all databases name, each with how many rows do.
    pub fn named(&self) -> BTreeMap<String, u64> {
        let mut named = BTreeMap::new();
        for slot in std::fs::read_dir(self.server.data().join("slots")).unwrap() {
            let database = slot.unwrap().path().join("meta.sqlite3");
            if !database.exists() {
                continue;
            }
            let database = Database::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
            let mut rows = database.prepare("SELECT target_path FROM blob_chunk_archives").unwrap();
            let targets = rows.query_map([], |row| row.get::<_, String>(0)).unwrap();
            for target in targets.map(Result::unwrap) {
                let key = target.strip_prefix(&format!("s3://{BUCKET}/"));
                let key = key.unwrap_or_else(|| panic!("a target elsewhere: {target}")).to_owned();
                *named.entry(key).or_default() += 1;
            }
        }
        named
    }

    /// Waits until the bucket holds what rows name, and nothing else. Panics at once if it lacks something.
    #[track_caller]
    pub fn wait_tidy(&self) {
        wait_until(DEADLINE, "the bucket to hold what rows name alone", || {
            // The rows before and after: objects of rows that came or went meanwhile are not judged.
            let before: BTreeSet<String> = self.named().into_keys().collect();
            let objects: BTreeSet<String> = self.store.objects().into_keys().collect();
            let after: BTreeSet<String> = self.named().into_keys().collect();
            let lacking: Vec<_> = before.intersection(&after).filter(|key| !objects.contains(*key)).collect();
            assert!(lacking.is_empty(), "rows name what the bucket lacks: {lacking:?}");
            before == after && before == objects
        });
    }

    pub fn metric(&self, name: &str) -> u64 {
        metric(&self.server.admin_get("/metrics").expect_status(200).text(), name)
    }

    /// What `/readyz` says beside being ready, as text.
    #[track_caller]
    pub fn notices(&self) -> String {
        let ready = self.server.admin_get("/readyz").expect_status(200).json();
        assert_eq!(ready["ready"], true, "{ready}");
        ready.get("notices").map(Value::to_string).unwrap_or_default()
    }
}

/// A request to an admin listener, whose answer takes as long as it takes.
pub fn ask(admin: std::net::SocketAddr, method: &str, target: &str) -> std::io::Result<Response> {
    let mut link = Connection::try_open(admin)?;
    link.set_read_timeout(DEADLINE);
    link.exchange(&Request::new(method, target))
}
