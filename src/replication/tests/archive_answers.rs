//! What a replica answers about the archive, a request at a time, and what it holds then.

use std::collections::BTreeMap;

use super::archive_world::{blob, chunk, row};
use super::shared::Shared;
use super::store::{Store, Transaction};
use crate::base::clock::Timestamp;
use crate::base::ids::{BlobId, ChunkId};
use crate::base::topology::NodeId;
use crate::replication::participant::{self, Context, Surroundings};
use crate::wire::peer::archive::{self, ArchiveRow, Heard};
use crate::wire::peer::{Attempt, Held, Member, Reply, Request, Row};

const PATH: &str = "p";

/// A replica that holds one live version.
struct Replica {
    store: Shared<Store>,
    recovering: bool,
}

impl Replica {
    fn new() -> Self {
        let row = Row {
            path: PATH.to_owned(),
            version: 1,
            attempt: Attempt { blob_id: blob(), ballot: 0 },
            size: 1,
            content: [0; 32],
            created_at: Timestamp(0),
            headers: String::new(),
        };
        let held = Held { row, tombstoned_at: None, hollow: false };
        let store = Store { held: BTreeMap::from([(blob(), held)]), ..Store::default() };
        Self { store: Shared::new(store), recovering: false }
    }

    fn change(&mut self, change: impl FnOnce(&mut Held)) {
        self.store.change(|store| change(store.held.get_mut(&blob()).expect("the version")));
    }

    fn answer(&mut self, request: archive::Request) -> archive::Reply {
        let context = Context {
            me: NodeId(0),
            members: vec![Member { node: NodeId(0), generation: 0, identity: 0 }],
            write_quorum: 1,
            recovering: self.recovering,
        };
        let around = Surroundings { has_data: false, has_room: false, is_live: false };
        let mut rows = Transaction::new(&mut self.store);
        let Ok(response) = participant::answer(&mut rows, &context, around, &Request::Archive(request));
        assert_eq!(response.members, context.members);
        match response.reply {
            Reply::Archive(reply) => reply,
            reply => panic!("an answer to something else: {reply:?}"),
        }
    }

    fn told_on(&mut self, path: &str, rows: &[ArchiveRow]) -> Vec<Heard> {
        let request = archive::Request::Rows { path: path.to_owned(), rows: rows.to_vec() };
        match self.answer(request) {
            archive::Reply::Rows { heard, counts } => {
                assert_eq!(counts, !self.recovering);
                heard
            }
            reply @ archive::Reply::Condemned { .. } => panic!("an answer to something else: {reply:?}"),
        }
    }

    fn told(&mut self, row: &ArchiveRow) -> Heard {
        self.told_on(PATH, std::slice::from_ref(row)).pop().expect("one answer")
    }

    fn condemns(&mut self, targets: &[&str]) -> Vec<bool> {
        let targets = targets.iter().map(|target| (*target).to_owned()).collect();
        match self.answer(archive::Request::Condemn { path: PATH.to_owned(), targets }) {
            archive::Reply::Condemned { condemned, counts } => {
                assert_eq!(counts, !self.recovering);
                condemned
            }
            reply @ archive::Reply::Rows { .. } => panic!("an answer to something else: {reply:?}"),
        }
    }

    fn held(&self) -> Vec<ArchiveRow> {
        self.store.archived.values().cloned().collect()
    }

    fn leftovers(&self) -> Vec<&str> {
        self.store.leftovers.iter().map(String::as_str).collect()
    }
}

#[test]
fn a_replica_holds_the_greatest_row_it_was_told_and_what_it_replaces_is_left() {
    let mut replica = Replica::new();
    let (first, rival, later) = (row("s3://b/1", 1), row("s3://b/2", 1), row("s3://b/0", 2));
    assert_eq!(replica.told(&first), Heard::Row(first.clone()));
    assert_eq!(replica.told(&first), Heard::Row(first.clone()), "said again");
    assert!(replica.leftovers().is_empty());

    assert_eq!(replica.told(&rival), Heard::Row(rival.clone()));
    assert_eq!(replica.leftovers(), ["s3://b/1"]);
    assert_eq!(replica.told(&first), Heard::Row(rival.clone()), "a lower one is answered with what is held");
    assert_eq!(replica.held(), [rival]);

    assert_eq!(replica.told(&later), Heard::Row(later.clone()), "the generation comes before the object");
    assert_eq!(replica.held(), [later]);
    assert_eq!(replica.leftovers(), ["s3://b/1", "s3://b/2"]);
}

#[test]
fn rows_come_to_the_same_in_any_order() {
    let rows = [row("s3://b/1", 1), row("s3://b/2", 1), row("s3://b/0", 2)];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut replica = Replica::new();
        for at in order {
            replica.told(&rows[at]);
        }
        assert_eq!(replica.held(), [rows[2].clone()], "{order:?}");
    }
}

#[test]
fn a_row_is_taken_for_the_very_version_that_it_is_of() {
    let mut replica = Replica::new();
    let mine = row("s3://b/1", 1);
    let of_another_number = ArchiveRow { version: 2, ..mine.clone() };
    let of_another_blob = ArchiveRow { blob: BlobId::from_u128(2), ..mine.clone() };
    assert_eq!(replica.told(&of_another_number), Heard::Lacking);
    assert_eq!(replica.told(&of_another_blob), Heard::Lacking);
    assert_eq!(replica.told_on("q", std::slice::from_ref(&mine)), [Heard::Lacking]);
    assert!(replica.held().is_empty());

    replica.change(|held| held.hollow = true);
    assert_eq!(
        replica.told(&mine),
        Heard::Row(mine.clone()),
        "one whose chunks are not here takes it as well"
    );

    replica.change(|held| held.tombstoned_at = Some(Timestamp(1)));
    assert_eq!(replica.told(&row("s3://b/2", 2)), Heard::Gone);
    assert_eq!(replica.held(), [mine]);
}

#[test]
fn each_row_has_its_own_answer_in_order() {
    let mut replica = Replica::new();
    let (one, other) = (row("s3://b/1", 1), ArchiveRow { chunk: ChunkId([2; 32]), ..row("s3://b/2", 1) });
    let unknown = ArchiveRow { version: 7, ..row("s3://b/3", 1) };
    assert_eq!(replica.condemns(&["s3://b/4"]), [true]);
    let told = [other.clone(), unknown, row("s3://b/4", 1), one.clone()];
    let heard = [Heard::Row(other.clone()), Heard::Lacking, Heard::Condemned, Heard::Row(one.clone())];
    assert_eq!(replica.told_on(PATH, &told), heard);
    assert_eq!(replica.held(), [one, other]);
}

#[test]
fn what_a_replica_has_condemned_it_never_names() {
    let mut replica = Replica::new();
    assert_eq!(replica.condemns(&["s3://b/1"]), [true]);
    assert_eq!(replica.told(&row("s3://b/1", 1)), Heard::Condemned);
    assert_eq!(replica.told(&row("s3://b/1", 9)), Heard::Condemned, "in no generation");
    assert!(replica.held().is_empty());

    let successor = row("s3://b/2", 2);
    assert_eq!(replica.told(&successor), Heard::Row(successor.clone()));
    assert_eq!(
        replica.told(&row("s3://b/1", 1)),
        Heard::Row(successor.clone()),
        "who tells of it hears what succeeds it"
    );
    assert_eq!(replica.told(&row("s3://b/1", 3)), Heard::Condemned, "one that would take its place");
    assert_eq!(replica.held(), [successor]);
    assert_eq!(replica.condemns(&["s3://b/1"]), [true], "said again");
}

#[test]
fn an_object_is_condemned_unless_a_row_of_a_live_version_names_it() {
    let mut replica = Replica::new();
    let (one, other) = (row("s3://b/1", 1), ArchiveRow { chunk: ChunkId([2; 32]), ..row("s3://b/2", 1) });
    replica.told_on(PATH, &[one.clone(), other.clone()]);
    assert_eq!(replica.condemns(&["s3://b/1", "s3://b/3"]), [false, true]);
    assert_eq!(replica.held(), [one.clone(), other.clone()]);
    assert!(!replica.store.condemned.contains("s3://b/1"));

    replica.change(|held| held.tombstoned_at = Some(Timestamp(1)));
    assert_eq!(replica.condemns(&["s3://b/1"]), [true]);
    assert_eq!(replica.held(), [other], "its row goes, and no other one");
    assert!(replica.store.condemned.contains("s3://b/1"));
}

#[test]
fn a_recovering_replica_does_what_it_is_told_and_says_that_it_does_not_count() {
    let mut replica = Replica::new();
    replica.recovering = true;
    let mine = row("s3://b/1", 1);
    assert_eq!(replica.told(&mine), Heard::Row(mine.clone()));
    assert_eq!(replica.condemns(&["s3://b/1", "s3://b/2"]), [false, true]);
    assert_eq!(replica.store.archived.get(&(blob(), chunk())), Some(&mine));
    assert!(replica.store.condemned.contains("s3://b/2"));
}
