//! Tests of a writer and its journal: what a power cut at any moment leaves, and what the next start makes of it.
//!
//! A power cut takes what was not synced. Here the slots' databases are put back to what they were at their last sync,
//! and the journal stays as it is, or loses its end.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use futures_channel::oneshot;

use super::births::Births;
use super::commit::{Writer, into_groups};
use super::index::{Indexes, Listing, Seek};
use super::journal::{Journals, Started};
use super::op::Op;
use super::record::tests::record;
use super::schema::{self, Durability};
use super::slots::{Slots, State};
use super::types::Stored;
use super::writer::Rules;
use super::{index, query};
use crate::base::error::{Code, Result};
use crate::base::slot::Slot;
use crate::base::slot_set::SlotSet;
use crate::io::ballast::Ballast;

/// A node's metadata with one writer on one disk, driven by hand.
struct Rig {
    root: PathBuf,
    slots: Arc<Slots>,
    indexes: Indexes,
    journals: Journals,
    threads: (Vec<JoinHandle<()>>, Vec<JoinHandle<bool>>),
    writer: Writer,
}

impl Rig {
    fn start(root: &Path) -> Self {
        let roots = [root.to_owned()];
        let dir = |slot: Slot| root.join("slots").join(slot.to_string());
        let state = |slot| match schema::find(&dir(slot)).unwrap() {
            schema::Found::Database => State::Unchecked,
            _ => State::Unborn,
        };
        let slots = Arc::new(Slots::new(Slot::all().map(|slot| (0, dir(slot), state(slot)))));
        let ballast = Arc::new(vec![Ballast::new(root, 0)]);
        let rules = Rules {
            durability: Durability::Full,
            sync_logs: true,
            keep_versions: 0,
            ballast: Arc::clone(&ballast),
            open_databases: 300,
            births: Arc::new(Births::new([(root.to_owned(), SlotSet::default())])),
            roster: None,
        };
        let (indexes, indexing) = Indexes::start(&roots, &slots, &ballast).unwrap();
        let Started { journals, recovered, recyclers } = Journals::start(&roots, true, 1).unwrap();
        let mut by_slot = std::collections::HashMap::<_, Vec<_>>::new();
        for found in recovered {
            by_slot.entry(found.record.slot).or_default().push(found);
        }
        let mut writer = Writer::new(&slots, &indexes, &rules, &journals, by_slot);
        Slot::all().for_each(|slot| writer.check(slot));
        Self { root: root.to_owned(), slots, indexes, journals, threads: (indexing, recyclers), writer }
    }

    /// Ends as a kill does, but for threads that must not outlive the test. True if the journal is empty.
    fn end(self) -> bool {
        drop(self.writer);
        self.indexes.close();
        self.journals.close();
        self.threads.0.into_iter().for_each(|thread| thread.join().unwrap());
        self.threads.1.into_iter().all(|thread| thread.join().unwrap())
    }

    fn stop(mut self) -> bool {
        self.writer.settle_all();
        self.end()
    }

    /// PUTs to all paths in one batch through the journal.
    fn put(&mut self, paths: &[String]) -> Vec<Result<Stored>> {
        let (mut batch, mut answers) = (Vec::new(), Vec::new());
        for path in paths {
            let (reply, answer) = oneshot::channel();
            batch.push((Slot::of(path), Op::Put(record(path, 0, path.as_bytes()).blob, reply)));
            answers.push(answer);
        }
        batch.sort_by_key(|(slot, _)| *slot);
        let rest = self.writer.journal(into_groups(batch));
        assert!(rest.is_empty(), "the journal takes all of them");
        answers.into_iter().map(|mut answer| answer.try_recv().unwrap().expect("an answer")).collect()
    }

    fn versions(&mut self, path: &str) -> Vec<u64> {
        let slot = Slot::of(path);
        self.writer.settle(slot).unwrap();
        let db = schema::open_reader(self.slots.dir(slot)).unwrap();
        query::versions(&db, path, u64::MAX >> 1, 99).unwrap().iter().map(|meta| meta.version).collect()
    }

    /// Newest versions as a listing has them.
    fn listed(&self) -> BTreeMap<String, u64> {
        let listing = Listing {
            prefix: String::new(),
            delimiter: None,
            from: Seek::default(),
            limit: 9999,
            include_tombstoned: false,
            merged: false,
            bytes: usize::MAX,
        };
        let page = index::list_now(&self.indexes, 0, listing);
        let entry = |line| {
            let json: serde_json::Value = serde_json::from_slice(page.json(line)).unwrap();
            (json["path"].as_str().unwrap().to_owned(), json["version"].as_u64().unwrap())
        };
        (0..page.len()).map(entry).collect()
    }
}

fn paths(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("p/{number}")).collect()
}

pub(super) fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).into_iter().flatten() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn segments(root: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(root.join("journal")).into_iter().flatten().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "journal")).collect()
}

#[test]
fn what_was_answered_survives_a_power_cut_before_and_after_it_reached_the_databases() {
    let home = tempfile::tempdir().unwrap();
    let (root, synced) = (home.path().join("disk"), home.path().join("synced"));
    fs::create_dir_all(&root).unwrap();
    let paths = paths(200);
    let mut expected = Vec::new();
    for round in 1..=3u64 {
        let mut rig = Rig::start(&root);
        copy(&root.join("slots"), &synced);
        for answer in rig.put(&paths) {
            assert_eq!(answer.unwrap().record.version, round);
        }
        expected.insert(0, round);
        // In their databases: none of it, half, all; and once more beyond that.
        for path in paths.iter().take(100 * (round as usize - 1)) {
            rig.writer.settle(Slot::of(path)).unwrap();
        }
        assert!(!rig.end() || round == 3, "what is not in a database stays in the journal");
        if round == 3 {
            // All of it was settled and synced: then the journal is empty, and the databases are what counts.
            assert!(segments(&root).is_empty());
        } else {
            let _ = fs::remove_dir_all(root.join("slots"));
            copy(&synced, &root.join("slots"));
        }
        let mut rig = Rig::start(&root);
        assert_eq!(rig.listed(), paths.iter().map(|path| (path.clone(), round)).collect());
        for path in &paths {
            assert_eq!(rig.versions(path), expected, "{path} in round {round}");
        }
        assert!(rig.stop(), "after a stop in good order nothing is left in the journal");
        assert!(segments(&root).is_empty());
    }
}

#[test]
fn a_torn_frame_ends_the_journal_and_takes_nothing_before_it() {
    let home = tempfile::tempdir().unwrap();
    let (root, whole) = (home.path().join("disk"), home.path().join("whole"));
    fs::create_dir_all(&root).unwrap();
    let paths = paths(50);
    let mut rig = Rig::start(&root);
    let ends: Vec<u64> = (0..3)
        .map(|_| {
            rig.put(&paths).into_iter().for_each(|answer| drop(answer.unwrap()));
            rig.writer.journals[0].position()
        })
        .collect();
    rig.end();
    // The rest of the segment is zeros.
    fs::File::options().write(true).open(&segments(&root)[0]).unwrap().set_len(ends[2]).unwrap();
    copy(&root, &whole);
    let damages = (0..3usize).flat_map(|frame| {
        let (begin, end) = (if frame == 0 { 0 } else { ends[frame - 1] }, ends[frame]);
        [begin + 1, begin + 9, begin + 13, begin + 18, begin + 21, begin + 25, begin + 40, end - 4096 - 1]
            .map(|at| (frame, at))
    });
    for (frame, at) in damages {
        copy(&whole, &root);
        let segment = segments(&root).pop().unwrap();
        let mut bytes = fs::read(&segment).unwrap();
        bytes[at as usize] ^= 1;
        fs::write(&segment, bytes).unwrap();
        // Nobody was told of what the frame says, the index neither.
        Indexes::discard(std::slice::from_ref(&root));
        let mut rig = Rig::start(&root);
        let expected: Vec<u64> = (1..=frame as u64).rev().collect();
        for path in paths.iter().step_by(7) {
            if frame == 0 {
                assert_eq!(rig.slots.state(Slot::of(path)), State::Unborn);
            } else {
                assert_eq!(rig.versions(path), expected, "with a wrong byte at {at}");
            }
        }
        rig.stop();
    }
}

#[test]
fn what_the_index_has_seen_and_neither_journal_nor_database_has_is_lost() {
    let home = tempfile::tempdir().unwrap();
    let root = home.path();
    let paths = paths(50);
    let mut rig = Rig::start(root);
    let frame = |rig: &mut Rig| rig.put(&paths).into_iter().for_each(|answer| drop(answer.unwrap()));
    frame(&mut rig);
    let end = rig.writer.journals[0].position();
    frame(&mut rig);
    rig.end();
    // The second frame has rotted: of every slot the last transaction is gone.
    let segment = segments(root).pop().unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    bytes[end as usize + 40] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let rig = Rig::start(root);
    for path in &paths {
        assert!(rig.slots.is_lost(Slot::of(path)), "{path}: {:?}", rig.slots.state(Slot::of(path)));
        assert!(rig.slots.reason(Slot::of(path)).contains("the listing index has seen"));
    }
    assert!(!rig.stop(), "the journal stays");
}

#[test]
fn an_earlier_use_of_a_segment_is_not_believed() {
    let home = tempfile::tempdir().unwrap();
    let root = home.path();
    let paths = paths(50);
    let mut rig = Rig::start(root);
    for _ in 0..2 {
        rig.put(&paths).into_iter().for_each(|answer| drop(answer.unwrap()));
    }
    rig.end();
    // As if the segment had been recycled and nothing was written since, to a disk that the index knows nothing of.
    Indexes::discard(&[root.to_owned()]);
    let segment = segments(root).pop().unwrap();
    fs::rename(&segment, root.join("journal").join("00000000000000ff.journal")).unwrap();
    let rig = Rig::start(root);
    assert_eq!(rig.slots.state(Slot::of(&paths[0])), State::Unborn);
    assert!(rig.stop());
}

#[test]
fn a_slot_that_lost_what_the_journal_builds_on_is_out_of_service_and_its_records_are_kept() {
    let home = tempfile::tempdir().unwrap();
    let root = home.path();
    let paths = paths(50);
    let mut rig = Rig::start(root);
    rig.put(&paths).into_iter().for_each(|answer| drop(answer.unwrap()));
    assert!(rig.stop());
    let mut rig = Rig::start(root);
    rig.put(&paths).into_iter().for_each(|answer| drop(answer.unwrap()));
    rig.end();
    let lost = Slot::of(&paths[0]);
    let dir = root.join("slots").join(lost.to_string());
    let saved = root.join("saved");
    copy(&dir, &saved);
    fs::remove_dir_all(&dir).unwrap();
    let mut rig = Rig::start(root);
    assert_eq!(rig.slots.state(lost), State::Failed, "{}", rig.slots.reason(lost));
    let other = paths.iter().find(|path| Slot::of(path) != lost).unwrap();
    assert_eq!(rig.versions(other), [2, 1]);
    assert!(!rig.stop(), "the journal still has what the slot lacks");
    // An operator puts the database back.
    copy(&saved, &dir);
    let mut rig = Rig::start(root);
    assert_eq!(rig.versions(&paths[0]), [2, 1]);
    assert!(rig.stop());
}

#[test]
fn a_slot_that_is_damaged_under_way_keeps_its_records_for_the_next_start() {
    let home = tempfile::tempdir().unwrap();
    let root = home.path();
    let paths = paths(50);
    let mut rig = Rig::start(root);
    rig.put(&paths).into_iter().for_each(|answer| drop(answer.unwrap()));
    assert!(rig.stop());
    let damaged = Slot::of(&paths[0]);
    let database = root.join("slots").join(damaged.to_string()).join("meta.sqlite3");
    let mut rig = Rig::start(root);
    rig.put(&paths).into_iter().for_each(|answer| drop(answer.unwrap()));
    let good = fs::read(&database).unwrap();
    rig.writer.close(damaged);
    fs::write(&database, vec![7; good.len()]).unwrap();
    let error = rig.writer.settle(damaged).unwrap_err();
    assert_eq!((error.code, rig.slots.state(damaged)), (Code::SlotUnavailable, State::Failed));
    assert!(!rig.stop());
    fs::write(&database, good).unwrap();
    let mut rig = Rig::start(root);
    assert_eq!(rig.versions(&paths[0]), [2, 1]);
    assert!(rig.stop());
}

#[test]
fn a_path_that_came_back_from_the_journal_is_not_taken_for_new() {
    let home = tempfile::tempdir().unwrap();
    let paths = paths(9);
    let old = &paths[0];
    let mut candidates = (0..99_999).map(|number| format!("q/{number}"));
    let beside = candidates.find(|path| Slot::of(path) == Slot::of(old)).unwrap();
    let mut rig = Rig::start(home.path());
    rig.put(&paths).into_iter().for_each(|answer| drop(answer.unwrap()));
    rig.end();
    let mut rig = Rig::start(home.path());
    // What the slot's database has is looked up for this one, while the other path is in the journal alone.
    let mut others = paths[1..].to_vec();
    others.push(beside);
    rig.put(&others).into_iter().for_each(|answer| drop(answer.unwrap()));
    rig.writer.settle(Slot::of(old)).unwrap();
    assert_eq!(rig.put(&paths)[0].as_ref().unwrap().record.version, 2);
    assert_eq!(rig.versions(old), [2, 1]);
    rig.stop();
}

#[test]
fn a_read_that_misses_the_journal_is_not_remembered() {
    let home = tempfile::tempdir().unwrap();
    let paths = paths(9);
    let mut rig = Rig::start(home.path());
    let slot = Slot::of(&paths[0]);
    let before = rig.slots.generation(slot);
    assert!(!rig.slots.is_pending(slot));
    rig.put(&paths).into_iter().for_each(|answer| drop(answer.unwrap()));
    assert!(rig.slots.is_pending(slot) && rig.slots.generation(slot) > before);
    rig.writer.settle(slot).unwrap();
    assert!(!rig.slots.is_pending(slot));
    assert!(rig.root.join("slots").join(slot.to_string()).join("meta.sqlite3").exists());
    rig.stop();
}
