//! What is archived of a slot, asked of writers and readers as everybody asks them, and of its database.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread::{self, JoinHandle};

use futures_channel::oneshot;

use super::*;
use crate::base::parts::{Part, Parts};
use crate::base::slot::Slot;
use crate::base::slot_set::SlotSet;
use crate::io::ballast::Ballast;
use crate::limits::{CHUNK_SIZE, PART_SIZE};
use crate::meta::births::Births;
use crate::meta::index::Indexes;
use crate::meta::journal::{Journals, Started};
use crate::meta::op::Op;
use crate::meta::power_cut::copy;
use crate::meta::reader::Readers;
use crate::meta::schema::Durability;
use crate::meta::slots::{Slots, State};
use crate::meta::types::{BlobMeta, NewBlob, Which};
use crate::meta::writer::{Rules, Writers};
use crate::meta::{apply, birth, query};
use crate::wire::condition::Conditions;

mod answers;
mod formats;

/// Bytes of the last chunk of every blob.
const LAST: u64 = 70_000;

/// Waits on this thread, while the metadata threads work.
fn wait<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut context) {
            return done;
        }
        thread::yield_now();
    }
}

fn id(byte: u8) -> ChunkId {
    ChunkId([byte; 32])
}

fn blob(path: &str, chunks: &[u8]) -> NewBlob {
    let size = (chunks.len() as u64 - 1) * CHUNK_SIZE + LAST;
    let chunks: Vec<ChunkId> = chunks.iter().copied().map(id).collect();
    let part = |number: u64| Part { chunk: chunks[(number / PARTS_PER_CHUNK) as usize], sums: vec![7] };
    NewBlob {
        path: path.to_owned(),
        version: None,
        blob_id: BlobId::generate(),
        size,
        parts: Parts { parts: (0..size.div_ceil(PART_SIZE)).map(part).collect(), ..Parts::default() },
        chunks,
        staged: None,
        headers: "[]".to_owned(),
        conditions: Conditions::default(),
    }
}

fn place(byte: u8, target: &str) -> Place {
    Place { chunk: id(byte), length: CHUNK_SIZE, target: target.to_owned(), range: 0..CHUNK_SIZE }
}

fn row_of(byte: u8, target: &str, dropped: bool) -> Archived {
    let Place { chunk, length, target, range } = place(byte, target);
    Archived { chunk, length, target, range, dropped, generation: 1, spread: false }
}

/// The row that took another one's place.
fn second(byte: u8, target: &str, dropped: bool) -> Archived {
    Archived { generation: 2, ..row_of(byte, target, dropped) }
}

fn targets(left: Vec<Leftover>) -> Vec<String> {
    left.into_iter().map(|left| left.target).collect()
}

fn dir_of(root: &Path, slot: Slot) -> PathBuf {
    root.join("slots").join(slot.to_string())
}

/// A node's metadata on one disk, with its threads.
struct Node {
    slots: Arc<Slots>,
    indexes: Indexes,
    journals: Journals,
    writers: Writers,
    readers: Readers,
    asked: Vec<JoinHandle<()>>,
    indexing: Vec<JoinHandle<()>>,
    recyclers: Vec<JoinHandle<bool>>,
}

impl Node {
    fn start(root: &Path) -> Self {
        let roots = [root.to_owned()];
        let state = |slot| match schema::find(&dir_of(root, slot)).unwrap() {
            schema::Found::Database => State::Unchecked,
            _ => State::Unborn,
        };
        let slots = Arc::new(Slots::new(Slot::all().map(|slot| (0, dir_of(root, slot), state(slot)))));
        let ballast = Arc::new(vec![Ballast::new(root, 0)]);
        let rules = Rules {
            durability: Durability::Full,
            sync_logs: true,
            keep_versions: 0,
            ballast: Arc::clone(&ballast),
            open_databases: 9,
            births: Arc::new(Births::new([(root.to_owned(), SlotSet::default())])),
            roster: None,
        };
        let (indexes, indexing) = Indexes::start(&roots, &slots, &ballast).unwrap();
        let Started { journals, recovered, recyclers } = Journals::start(&roots, true, 1).unwrap();
        let (writers, mut asked) = Writers::start(&slots, &indexes, &rules, &journals, recovered, 1).unwrap();
        let (readers, reading) = Readers::start(&slots, &writers, &ballast, 9, None, 1).unwrap();
        asked.extend(reading);
        while Slot::all().any(|slot| slots.state(slot) == State::Unchecked) {
            thread::yield_now();
        }
        Self { slots, indexes, journals, writers, readers, asked, indexing, recyclers }
    }

    fn stop(self) {
        self.readers.close();
        self.writers.close();
        self.asked.into_iter().for_each(|thread| thread.join().unwrap());
        self.indexes.close();
        self.journals.close();
        self.indexing.into_iter().for_each(|thread| thread.join().unwrap());
        for recycler in self.recyclers {
            recycler.join().unwrap();
        }
    }

    fn put(&self, path: &str, chunks: &[u8]) -> BlobMeta {
        wait(self.writers.put(Slot::of(path), blob(path, chunks))).unwrap().record
    }

    fn delete(&self, path: &str) {
        wait(self.writers.delete(Slot::of(path), path, Which::Newest, Conditions::default())).unwrap();
    }

    fn begin(&self, slot: Slot, target: &str) {
        wait(self.writers.begin_object(slot, target.to_owned(), "p".to_owned())).unwrap();
    }

    fn archive(&self, slot: Slot, row: Row, place: Place, expected: Option<&str>) -> bool {
        wait(self.writers.archive(slot, row, place, expected.map(str::to_owned))).unwrap()
    }

    fn drop_chunk(&self, slot: Slot, row: Row, byte: u8, target: &str) -> bool {
        wait(self.writers.drop_chunk(slot, row, id(byte), target.to_owned())).unwrap()
    }

    fn bring_back(&self, slot: Slot, row: Row, byte: u8) {
        wait(self.writers.brought_back(slot, row, id(byte))).unwrap();
    }

    fn archived(&self, slot: Slot, row: Row) -> Vec<Archived> {
        wait(self.readers.archived(slot, row)).unwrap()
    }

    fn chunk(&self, slot: Slot, row: Row, number: u64) -> Option<Archived> {
        wait(self.readers.archived_chunk(slot, row, number)).unwrap()
    }

    fn leftovers(&self, slot: Slot) -> Vec<String> {
        let left = wait(self.readers.leftovers(slot, String::new(), 99)).unwrap();
        assert!(left.iter().all(|left| left.path.is_some()), "{left:?}");
        targets(left)
    }

    fn chunks_of(&self, slot: Slot, blob: BlobId) -> Vec<ChunkId> {
        wait(self.readers.chunks_of(slot, blob)).unwrap().unwrap()
    }
}

#[test]
fn a_chunk_goes_to_the_archive_and_comes_back() {
    let home = tempfile::tempdir().unwrap();
    let node = Node::start(home.path());
    let slot = Slot::of("p");
    assert_eq!(node.leftovers(slot), [""; 0], "unborn");
    assert_eq!(node.archived(slot, Row(1)), []);
    // Two chunks are equal: they have one file and one row.
    let BlobMeta { row, blob_id, .. } = node.put("p", &[1, 1, 2, 3]);
    assert_eq!((node.archived(slot, row), node.chunk(slot, row, 0)), (Vec::new(), None));
    node.begin(slot, "s3://b/1");
    assert_eq!(node.leftovers(slot), ["s3://b/1"], "nothing names it yet");
    assert!(node.archive(slot, row, place(1, "s3://b/1"), None));
    assert_eq!(node.leftovers(slot), [""; 0]);
    assert_eq!(node.archived(slot, row), [row_of(1, "s3://b/1", false)]);
    assert_eq!(node.chunks_of(slot, blob_id), [1, 1, 2, 3].map(id));
    assert!(node.drop_chunk(slot, row, 1, "s3://b/1"));
    assert_eq!(node.archived(slot, row), [row_of(1, "s3://b/1", true)]);
    assert_eq!(node.chunk(slot, row, 0), node.chunk(slot, row, 1));
    assert_eq!(node.chunk(slot, row, 1), Some(row_of(1, "s3://b/1", true)));
    assert_eq!(node.chunk(slot, row, 2), None);
    assert_eq!(node.chunks_of(slot, blob_id), [2, 3].map(id), "they have no file here");
    node.bring_back(slot, row, 1);
    node.bring_back(slot, row, 2);
    assert_eq!(node.archived(slot, row), [row_of(1, "s3://b/1", false)]);
    assert_eq!(node.chunks_of(slot, blob_id), [1, 1, 2, 3].map(id));
    assert!(node.drop_chunk(slot, row, 1, "s3://b/1"), "once more");
    assert_eq!(node.chunks_of(slot, blob_id), [2, 3].map(id));
    node.stop();
    let node = Node::start(home.path());
    assert_eq!(node.archived(slot, row), [row_of(1, "s3://b/1", true)], "after a start");
    node.stop();
}

#[test]
fn a_row_is_replaced_only_where_it_is_the_expected_one() {
    let home = tempfile::tempdir().unwrap();
    let node = Node::start(home.path());
    let slot = Slot::of("p");
    let row = node.put("p", &[1, 2]).row;
    for target in ["s3://b/1", "s3://b/2", "s3://b/3"] {
        node.begin(slot, target);
    }
    assert!(!node.archive(slot, row, place(1, "s3://b/1"), Some("s3://b/2")), "there is no row");
    assert!(node.archive(slot, row, place(1, "s3://b/1"), None));
    assert!(!node.archive(slot, row, place(1, "s3://b/2"), None), "there is one");
    assert!(!node.archive(slot, row, place(1, "s3://b/2"), Some("s3://b/3")));
    assert!(!node.drop_chunk(slot, row, 1, "s3://b/2"), "another object");
    assert!(!node.drop_chunk(slot, row, 2, "s3://b/1"), "another chunk");
    assert!(node.drop_chunk(slot, row, 1, "s3://b/1"));
    assert_eq!(node.leftovers(slot), ["s3://b/2", "s3://b/3"]);
    assert!(node.archive(slot, row, place(1, "s3://b/2"), Some("s3://b/1")));
    assert_eq!(node.archived(slot, row), [second(1, "s3://b/2", true)], "a file does not come by that");
    assert_eq!(node.leftovers(slot), ["s3://b/1", "s3://b/3"]);
    // The same object again is in use.
    assert!(node.archive(slot, row, place(1, "s3://b/2"), Some("s3://b/2")));
    assert_eq!(node.leftovers(slot), ["s3://b/1", "s3://b/3"]);
    node.stop();
}

#[test]
fn only_chunks_of_live_versions_are_archived() {
    let home = tempfile::tempdir().unwrap();
    let node = Node::start(home.path());
    let slot = Slot::of("p");
    let row = node.put("p", &[1, 2]).row;
    node.begin(slot, "s3://b/1");
    assert!(!node.archive(slot, Row(row.0 + 1), place(1, "s3://b/1"), None), "no version");
    assert!(!node.archive(slot, row, place(3, "s3://b/1"), None), "no chunk of it");
    assert!(!node.archive(slot, row, place(2, "s3://b/1"), None), "a shorter one");
    assert!(node.archive(slot, row, place(1, "s3://b/1"), None));
    node.delete("p");
    assert!(!node.archive(slot, row, place(1, "s3://b/2"), Some("s3://b/1")));
    assert!(!node.drop_chunk(slot, row, 1, "s3://b/1"));
    assert_eq!(node.archived(slot, row), []);
    assert_eq!(node.chunk(slot, row, 0), Some(row_of(1, "s3://b/1", false)), "its chunks are still there");
    assert_eq!(node.leftovers(slot), [""; 0]);
    node.stop();
}

#[test]
fn what_the_archive_has_of_a_version_whose_chunks_go_is_left_over_but_for_what_another_one_names() {
    let home = tempfile::tempdir().unwrap();
    let node = Node::start(home.path());
    let slot = Slot::of("p");
    let beside = (0..99_999).map(|number| format!("q/{number}")).find(|path| Slot::of(path) == slot).unwrap();
    let (row, other) = (node.put("p", &[1, 2, 3]).row, node.put(&beside, &[1, 3]).row);
    assert!(node.archive(slot, row, place(1, "s3://b/shared"), None));
    assert!(node.archive(slot, row, place(2, "s3://b/own"), None));
    assert!(node.archive(slot, other, place(1, "s3://b/shared"), None));
    assert!(node.drop_chunk(slot, row, 1, "s3://b/shared"));
    assert!(node.drop_chunk(slot, other, 1, "s3://b/shared"));
    node.delete("p");
    assert_eq!(node.leftovers(slot), [""; 0], "its chunks are still there");
    wait(node.writers.dropped(slot, vec![row])).unwrap();
    assert_eq!(node.leftovers(slot), ["s3://b/own"]);
    assert_eq!(node.chunk(slot, row, 0), None);
    assert_eq!(node.archived(slot, other), [row_of(1, "s3://b/shared", true)]);
    let db = schema::open_reader(&dir_of(home.path(), slot)).unwrap();
    let count = |sql| db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count("SELECT count(*) FROM blob_chunk_archives"), 1);
    assert_eq!(count("SELECT count(*) FROM archive_states"), 1);
    node.delete(&beside);
    wait(node.writers.dropped(slot, vec![other])).unwrap();
    assert_eq!(node.leftovers(slot), ["s3://b/own", "s3://b/shared"]);
    assert_eq!(count("SELECT count(*) FROM archive_states"), 0);
    node.stop();
}

#[test]
fn leftovers_are_told_in_order_until_they_are_forgotten() {
    let home = tempfile::tempdir().unwrap();
    let node = Node::start(home.path());
    let slot = Slot::of("p");
    for target in ["s3://b/2", "s3://b/1", "s3://b/3", "s3://b/2"] {
        node.begin(slot, target);
    }
    let page =
        |after: &str, limit| targets(wait(node.readers.leftovers(slot, after.to_owned(), limit)).unwrap());
    assert_eq!(page("", 2), ["s3://b/1", "s3://b/2"]);
    assert_eq!(page("s3://b/2", 2), ["s3://b/3"]);
    for target in ["s3://b/2", "s3://b/none"] {
        wait(node.writers.forget_object(slot, target.to_owned())).unwrap();
    }
    assert_eq!(node.leftovers(slot), ["s3://b/1", "s3://b/3"]);
    node.stop();
}

#[test]
fn a_database_that_is_put_back_by_its_older_copy_is_recognised() {
    let steps: [fn(&Node, Slot, Row); 4] = [
        |node, slot, row| assert!(node.archive(slot, row, place(1, "s3://b/1"), None)),
        |node, slot, row| assert!(node.drop_chunk(slot, row, 1, "s3://b/1")),
        |node, slot, row| assert!(node.archive(slot, row, place(1, "s3://b/2"), Some("s3://b/1"))),
        |node, slot, row| node.bring_back(slot, row, 1),
    ];
    let home = tempfile::tempdir().unwrap();
    let (root, older, newer) =
        (home.path().join("disk"), home.path().join("older"), home.path().join("newer"));
    std::fs::create_dir_all(&root).unwrap();
    let slot = Slot::of("p");
    let dir = dir_of(&root, slot);
    let node = Node::start(&root);
    let row = node.put("p", &[1, 2]).row;
    node.stop();
    for (number, step) in steps.into_iter().enumerate() {
        copy(&dir, &older);
        let node = Node::start(&root);
        step(&node, slot, row);
        node.stop();
        copy(&dir, &newer);
        copy(&older, &dir);
        let node = Node::start(&root);
        assert!(node.slots.is_lost(slot), "step {number}: {:?}", node.slots.state(slot));
        node.stop();
        copy(&newer, &dir);
    }
    let node = Node::start(&root);
    assert_eq!(node.archived(slot, row), [second(1, "s3://b/2", false)]);
    node.stop();
}

#[test]
fn what_leads_to_space_may_use_the_ballast_and_bringing_back_may_not() {
    let target = || "s3://b/1".to_owned();
    let frees = [
        Op::BeginObject { target: target(), path: "p".to_owned(), reply: oneshot::channel().0 },
        Op::Archive { row: Row(1), place: place(1, "s3://b/1"), expected: None, reply: oneshot::channel().0 },
        Op::DropChunk { row: Row(1), chunk: id(1), target: target(), reply: oneshot::channel().0 },
        Op::ForgetObject(target(), oneshot::channel().0),
        Op::MarkSpread(Vec::new(), oneshot::channel().0),
        Op::SetArchivedWhole(Row(1), oneshot::channel().0),
    ];
    assert!(frees.iter().all(Op::may_use_ballast));
    assert!(!Op::BroughtBack(Row(1), id(1), oneshot::channel().0).may_use_ballast());
    assert!(!Op::NoteReads(Vec::new(), oneshot::channel().0).may_use_ballast());
}

/// A slot of the oldest format, with one version.
struct Before {
    dir: PathBuf,
    db: Connection,
    record: BlobMeta,
    _home: tempfile::TempDir,
}

fn moment(seq: u64) -> Moment {
    Moment { seq, now: Timestamp(1), keep_versions: 0 }
}

impl Before {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("7");
        assert!(birth::bear(&[&dir]).iter().all(std::result::Result::is_ok));
        let db = Connection::open(dir.join(schema::FILE)).unwrap();
        let record = apply::put(&db, &blob("p", &[1, 2]), moment(1)).unwrap().record;
        db.execute_batch(
            "DROP TABLE archive_states; DROP TABLE archive_leftovers; DROP TABLE condemned; DROP TABLE reads;
             DROP TABLE archived_whole; DROP INDEX idx_blob_chunk_archives_target_path; PRAGMA user_version = 2; VACUUM",
        )
        .unwrap();
        Self { dir, db, record, _home: home }
    }
}

#[test]
fn a_version_that_lacks_its_chunks_has_none_to_archive() {
    let Before { db, record, _home, .. } = Before::new();
    schema::upgrade(&db).unwrap();
    assert!(archive(&db, record.row, &place(1, "x"), None, moment(2)).unwrap().is_some());
    leave_all(&db, record.row, Timestamp(1)).unwrap();
    assert_eq!(of(&db, record.row).unwrap().len(), 1, "it is live, and keeps what it has");
    db.execute("UPDATE blobs SET hollow = 1", []).unwrap();
    assert_eq!(archive(&db, record.row, &place(1, "y"), Some("x"), moment(3)).unwrap(), None);
    assert_eq!(drop_chunk(&db, record.row, id(1), "x", moment(3)).unwrap(), None);
}

/// The row of a chunk as another replica tells it.
fn told(record: &BlobMeta, byte: u8, target: &str, generation: u64) -> ArchiveRow {
    Archived { generation, ..row_of(byte, target, false) }.row(record.version, record.blob_id)
}

#[test]
fn a_row_of_another_replica_takes_the_place_of_the_one_here() {
    let Before { db, record, _home, .. } = Before::new();
    let row = record.row;
    // Also where there are no such tables yet.
    take(&db, "p", &told(&record, 1, "s3://b/1", 1), moment(2)).unwrap();
    assert_eq!(of(&db, row).unwrap(), [row_of(1, "s3://b/1", false)]);
    assert_eq!(row_of_chunk(&db, record.blob_id, id(1)).unwrap(), Some(told(&record, 1, "s3://b/1", 1)));
    assert!(drop_chunk(&db, row, id(1), "s3://b/1", moment(3)).unwrap().is_some());
    mark_spread(&db, &[told(&record, 1, "s3://b/1", 1)]).unwrap();
    assert!(of(&db, row).unwrap()[0].spread && unspread(&db, 0, 9).unwrap().is_empty());
    take(&db, "p", &told(&record, 1, "s3://b/2", 4), moment(4)).unwrap();
    let expected = Archived { generation: 4, ..row_of(1, "s3://b/2", true) };
    assert_eq!(of(&db, row).unwrap(), [expected], "that there is no file is as it was");
    assert_eq!(targets(leftovers(&db, "", 9).unwrap()), ["s3://b/1"]);
    assert_eq!(unspread(&db, 0, 9).unwrap()[0].2, told(&record, 1, "s3://b/2", 4));
    mark_spread(&db, &[told(&record, 1, "s3://b/1", 1)]).unwrap();
    assert_eq!(unspread(&db, 0, 9).unwrap().len(), 1, "that was the row before");
    assert_eq!(query::last_seq(&db).unwrap(), 4);
    assert!(archive(&db, row, &place(1, "s3://b/3"), Some("s3://b/2"), moment(5)).unwrap().is_some());
    assert_eq!(of(&db, row).unwrap()[0].generation, 5, "one above the one that it replaces");
}

#[test]
fn of_a_pack_it_is_known_what_of_it_is_needed() {
    let Before { db, record, _home, .. } = Before::new();
    schema::upgrade(&db).unwrap();
    let other = apply::put(&db, &blob("q", &[3, 1]), moment(2)).unwrap().record;
    let within = |byte, from: u64| Place { range: from..from + CHUNK_SIZE, ..place(byte, "s3://b/pack") };
    assert!(archive(&db, record.row, &within(1, 0), None, moment(3)).unwrap().is_some());
    assert!(archive(&db, other.row, &within(3, CHUNK_SIZE), None, moment(4)).unwrap().is_some());
    assert_eq!(sparse(&db, "", 9).unwrap(), [""; 0], "all of it is needed");
    let needed: Vec<(Row, u64)> =
        members(&db, "s3://b/pack").unwrap().iter().map(|member| (member.row, member.number)).collect();
    assert_eq!(needed, [(record.row, 0), (other.row, 0)]);
    apply::delete(&db, "p", Which::Newest, &Conditions::default(), moment(5)).unwrap();
    apply::dropped(&db, &[record.row], moment(6)).unwrap();
    assert_eq!(targets(leftovers(&db, "", 9).unwrap()), [""; 0], "a row names it");
    assert_eq!(sparse(&db, "", 9).unwrap(), ["s3://b/pack"]);
    let left = members(&db, "s3://b/pack").unwrap();
    assert_eq!((left.len(), left[0].row, left[0].archived.range.start), (1, other.row, CHUNK_SIZE));
    assert!(
        archive(&db, other.row, &place(3, "s3://b/new"), Some("s3://b/pack"), moment(7)).unwrap().is_some()
    );
    assert_eq!(sparse(&db, "", 9).unwrap(), [""; 0]);
    assert_eq!(targets(leftovers(&db, "", 9).unwrap()), ["s3://b/pack"]);
}

#[test]
fn rows_are_handed_over_in_pages() {
    let Before { db, record, _home, .. } = Before::new();
    take(&db, "p", &told(&record, 1, "s3://b/1", 1), moment(2)).unwrap();
    take(&db, "p", &told(&record, 2, "s3://b/2", 1), moment(2)).unwrap();
    let (first, next) = page(&db, 0, 1).unwrap();
    assert_eq!(first, [("p".to_owned(), told(&record, 1, "s3://b/1", 1))]);
    let (second, next) = page(&db, next.unwrap(), 1).unwrap();
    assert_eq!(second, [("p".to_owned(), told(&record, 2, "s3://b/2", 1))]);
    assert_eq!(page(&db, next.unwrap(), 1).unwrap(), (Vec::new(), None));
    apply::delete(&db, "p", Which::Newest, &Conditions::default(), moment(3)).unwrap();
    assert_eq!(page(&db, 0, 9).unwrap(), (Vec::new(), None), "its version is deleted");
    assert_eq!(unspread(&db, 0, 9).unwrap(), []);
    let (all, _) = named(&db, 0, 9).unwrap();
    assert_eq!(all.iter().map(|named| named.target.as_str()).collect::<Vec<_>>(), ["s3://b/1", "s3://b/2"]);
    assert_eq!(knows(&db, "s3://b/1").unwrap(), Some(true));
    leave_all(&db, record.row, Timestamp(1)).unwrap();
    assert_eq!((knows(&db, "s3://b/1").unwrap(), knows(&db, "s3://b/9").unwrap()), (Some(false), None));
}

#[test]
fn a_condemned_object_is_named_by_nothing_any_more() {
    let Before { db, record, _home, .. } = Before::new();
    assert!(!is_condemned(&db, "s3://b/1").unwrap());
    take(&db, "p", &told(&record, 1, "s3://b/1", 1), moment(2)).unwrap();
    assert_eq!(naming(&db, "s3://b/1").unwrap(), [record.blob_id]);
    unname(&db, record.blob_id, "s3://b/1", Timestamp(1)).unwrap();
    condemn(&db, "s3://b/1").unwrap();
    assert!(is_condemned(&db, "s3://b/1").unwrap() && naming(&db, "s3://b/1").unwrap().is_empty());
    assert_eq!((of(&db, record.row).unwrap(), unspread(&db, 0, 9).unwrap()), (Vec::new(), Vec::new()));
    assert_eq!(archive(&db, record.row, &place(1, "s3://b/1"), None, moment(3)).unwrap(), None);
    assert!(archive(&db, record.row, &place(1, "s3://b/2"), None, moment(3)).unwrap().is_some());
}

#[test]
fn versions_are_candidates_until_nothing_more_of_them_can_go() {
    let Before { db, record, _home, .. } = Before::new();
    assert_eq!(candidates(&db, 0, 9).unwrap(), [], "before there are the tables");
    schema::upgrade(&db).unwrap();
    let made = Timestamp(1);
    let expected = Candidate {
        row: record.row,
        path: "p".to_owned(),
        version: 1,
        blob: record.blob_id,
        size: record.size,
        read: made,
        archived: false,
    };
    assert_eq!(candidates(&db, 0, 9).unwrap(), std::slice::from_ref(&expected));
    assert_eq!(candidates(&db, record.row.0, 9).unwrap(), []);
    assert_eq!(last_row(&db).unwrap(), record.row.0);
    note_reads(&db, &[(record.row, 70), (Row(99), 70)]).unwrap();
    note_reads(&db, &[(record.row, 60)]).unwrap();
    assert!(archive(&db, record.row, &place(1, "x"), None, moment(2)).unwrap().is_some());
    let read = Candidate { read: Timestamp(70_000), archived: true, ..expected };
    assert_eq!(candidates(&db, 0, 9).unwrap(), std::slice::from_ref(&read));
    assert!(drop_chunk(&db, record.row, id(1), "x", moment(3)).unwrap().is_some());
    set_whole(&db, record.row).unwrap();
    assert_eq!(candidates(&db, 0, 9).unwrap(), []);
    assert!(brought_back(&db, record.row, id(1), moment(4)).unwrap().is_some());
    assert_eq!(candidates(&db, 0, 9).unwrap(), [read], "it has a file again");
    db.execute("UPDATE blobs SET hollow = 1", []).unwrap();
    assert_eq!(candidates(&db, 0, 9).unwrap(), []);
    db.execute("UPDATE blobs SET hollow = 0", []).unwrap();
    set_whole(&db, record.row).unwrap();
    apply::delete(&db, "p", Which::Newest, &Conditions::default(), moment(5)).unwrap();
    apply::dropped(&db, &[record.row], moment(6)).unwrap();
    let count = |table: &str| {
        db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!((count("reads"), count("archived_whole")), (0, 0));
}

#[test]
fn what_a_node_notes_for_itself_is_no_change_of_a_version() {
    let Before { db, record, _home, .. } = Before::new();
    schema::upgrade(&db).unwrap();
    assert!(archive(&db, record.row, &place(1, "x"), None, moment(2)).unwrap().is_some());
    let changes = db.total_changes();
    mark_spread(&db, &[told(&record, 1, "x", 1)]).unwrap();
    note_reads(&db, &[(record.row, 70)]).unwrap();
    set_whole(&db, record.row).unwrap();
    assert_eq!(db.total_changes() - changes, 3);
    assert_eq!(query::last_seq(&db).unwrap(), 2);
}

#[test]
fn what_is_spread_and_when_a_version_was_read_is_known_after_a_start() {
    let home = tempfile::tempdir().unwrap();
    let node = Node::start(home.path());
    let slot = Slot::of("p");
    let candidates = |node: &Node| wait(node.readers.candidates(slot, 0, 9)).unwrap();
    let unspread = |node: &Node| wait(node.readers.unspread(slot, 0, 9)).unwrap();
    assert_eq!((candidates(&node), unspread(&node)), (Vec::new(), Vec::new()), "unborn");
    assert_eq!(wait(node.readers.last_row(slot)).unwrap(), 0);
    let record = node.put("p", &[1, 2]);
    let row = told(&record, 1, "s3://b/1", 1);
    assert!(node.archive(slot, record.row, place(1, "s3://b/1"), None));
    assert_eq!(unspread(&node).len(), 1);
    wait(node.writers.mark_spread(slot, vec![row.clone()])).unwrap();
    wait(node.writers.note_reads(slot, vec![(record.row, 9_999_999_999)])).unwrap();
    node.stop();
    let node = Node::start(home.path());
    assert_eq!(unspread(&node), []);
    assert_eq!(wait(node.readers.archive_page(slot, 0, 9)).unwrap(), (vec![("p".to_owned(), row)], None));
    let found = candidates(&node);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].row, found[0].read), (record.row, Timestamp(9_999_999_999_000)));
    assert_eq!(wait(node.readers.last_row(slot)).unwrap(), record.row.0);
    wait(node.writers.set_archived_whole(slot, record.row)).unwrap();
    assert_eq!(candidates(&node), []);
    node.stop();
}
