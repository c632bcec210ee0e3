//! A digest that is kept up is the one that a look at all rows makes, whatever was done and whenever it was begun.

use proptest::prelude::*;

use super::*;
use crate::base::clock::Timestamp;
use crate::base::ids::BlobId;
use crate::meta::apply::Moment;
use crate::meta::replica::{Replica, Uploaded};
use crate::meta::{birth, schema};
use crate::replication::participant::Rows as _;
use crate::wire::peer;

/// What is done to a slot, to one of a few blobs.
#[derive(Clone, Debug)]
enum Act {
    Commit(u8),
    Bury(u8, i64),
    Fill(u8),
    /// The next so many rows.
    Scan(usize),
    /// A transaction that came to nothing.
    Undone(u8),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => any::<u8>().prop_map(Act::Commit),
        // A time that no calendar has is stored as another.
        3 => (any::<u8>(), prop_oneof![0..9_i64, Just(i64::MAX)]).prop_map(|(blob, at)| Act::Bury(blob, at)),
        2 => any::<u8>().prop_map(Act::Fill),
        2 => (1..4_usize).prop_map(Act::Scan),
        1 => any::<u8>().prop_map(Act::Undone),
    ]
}

fn row(number: u8) -> peer::Row {
    let number = number % 16;
    peer::Row {
        path: format!("path/{}", number % 5),
        version: u64::from(number) + 1,
        attempt: peer::Attempt { blob_id: BlobId::from_u128(u128::from(number) << 70), ballot: 3 },
        size: 0,
        content: crate::base::parts::content(0, &[]),
        created_at: Timestamp(i64::from(number) * 1001),
        headers: "[]".to_owned(),
    }
}

fn fresh(db: &Connection) -> Digest {
    let mut digest = Digest::default();
    for (_, held) in replica::rows_after(db, 0, 1000).unwrap() {
        digest.add_all(&digest::items(&held).unwrap());
    }
    digest
}

struct Slotted {
    db: Connection,
    digests: Digests,
    hollow: i64,
    _dir: tempfile::TempDir,
}

const SLOT: u16 = 7;

impl Slotted {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("7");
        assert!(birth::bear(&[&place]).iter().all(std::result::Result::is_ok));
        let db = schema::open_writer(&place, schema::Durability::Relaxed).unwrap();
        Self { db, digests: Digests::default(), hollow: 0, _dir: dir }
    }

    fn transaction(&mut self, comes_to_pass: bool, act: impl FnOnce(&mut Replica<'_>)) {
        let moment = Moment { seq: 1, now: Timestamp(1), keep_versions: 0 };
        self.db.execute_batch("BEGIN IMMEDIATE").unwrap();
        let mut rows = Replica::new(&self.db, moment, None);
        act(&mut rows);
        let changes = rows.changes;
        self.db.execute_batch(if comes_to_pass { "COMMIT" } else { "ROLLBACK" }).unwrap();
        if comes_to_pass {
            self.digests.change(Slot::new(SLOT).unwrap(), &changes.digest);
            self.hollow += changes.hollow;
        }
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Commit(number) => self.transaction(true, |rows| commit(rows, number)),
            Act::Undone(number) => self.transaction(false, |rows| commit(rows, number)),
            Act::Bury(number, at) => {
                self.transaction(true, |rows| rows.tombstone(&row(number), Timestamp(at)).unwrap());
            }
            Act::Fill(number) => {
                let blob_id = row(number).attempt.blob_id;
                let parts = crate::base::parts::Parts::default();
                let data = Uploaded { blob_id, size: 0, chunks: Vec::new(), parts };
                self.hollow -= i64::from(replica::fill(&self.db, &data, 2).unwrap());
            }
            Act::Scan(most) => {
                self.digests.scan(Slot::new(SLOT).unwrap(), &self.db, most).unwrap();
            }
        }
    }
}

fn commit(rows: &mut Replica<'_>, number: u8) {
    if rows.committed(row(number).attempt.blob_id).unwrap().is_none() {
        rows.commit_hollow(&row(number)).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn what_is_kept_up_is_what_a_look_finds(acts in prop::collection::vec(act(), 1..60)) {
        let mut slotted = Slotted::new();
        let slot = Slot::new(SLOT).unwrap();
        for act in &acts {
            slotted.act(act);
            if let Some(kept) = slotted.digests.get(slot) {
                prop_assert_eq!(kept, fresh(&slotted.db));
            }
        }
        while !slotted.digests.scan(slot, &slotted.db, 3).unwrap() {}
        prop_assert_eq!(slotted.digests.get(slot), Some(fresh(&slotted.db)));
        prop_assert_eq!(u64::try_from(slotted.hollow).unwrap(), replica::count_hollow(&slotted.db).unwrap());
    }
}

#[test]
fn a_digest_is_known_only_when_it_is_whole() {
    let mut slotted = Slotted::new();
    let slot = Slot::new(SLOT).unwrap();
    (0..5).for_each(|number| slotted.act(&Act::Commit(number)));
    assert_eq!(slotted.digests.get(slot), None, "nobody has looked");
    assert!(!slotted.digests.scan(slot, &slotted.db, 3).unwrap());
    assert_eq!(slotted.digests.get(slot), None, "two rows are left");
    assert!(slotted.digests.scan(slot, &slotted.db, 3).unwrap());
    assert_eq!(slotted.digests.get(slot).unwrap().count, 5);
    slotted.digests.forget(slot);
    assert_eq!(slotted.digests.get(slot), None);
    slotted.digests.begin(slot);
    assert_eq!(slotted.digests.get(slot), Some(Digest::default()), "a new database has no rows");
}
