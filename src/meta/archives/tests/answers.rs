//! What a replica answers about the archive by its database, and what is in that then.

use super::*;
use crate::base::topology::NodeId;
use crate::meta::replica::Replica;
use crate::replication::participant::{self, Surroundings};
use crate::wire::peer::archive::{Heard, Reply, Request};
use crate::wire::peer::{self, Member};

const AROUND: Surroundings = Surroundings { has_data: false, has_room: false, is_live: false };

/// An answer, and the paths whose versions it changed.
fn answer(db: &Connection, seq: u64, recovering: bool, request: Request) -> (Reply, Vec<String>) {
    let context = participant::Context {
        me: NodeId(0),
        members: vec![Member { node: NodeId(0), generation: 0, identity: 0 }],
        write_quorum: 1,
        recovering,
    };
    let mut rows = Replica::new(db, moment(seq), None);
    let request = peer::Request::Archive(request);
    let response = participant::answer(&mut rows, &context, AROUND, &request).unwrap();
    match response.reply {
        peer::Reply::Archive(reply) => (reply, rows.changes.paths),
        reply => panic!("an answer to something else: {reply:?}"),
    }
}

fn hear(db: &Connection, seq: u64, path: &str, row: &ArchiveRow) -> (Heard, Vec<String>) {
    let request = Request::Rows { path: path.to_owned(), rows: vec![row.clone()] };
    match answer(db, seq, false, request) {
        (Reply::Rows { mut heard, counts: true }, paths) => (heard.pop().unwrap(), paths),
        other => panic!("an answer to something else: {other:?}"),
    }
}

fn condemns(db: &Connection, seq: u64, target: &str) -> bool {
    let request = Request::Condemn { path: "p".to_owned(), targets: vec![target.to_owned()] };
    match answer(db, seq, false, request) {
        (Reply::Condemned { condemned, counts: true }, paths) => {
            assert_eq!(paths, [""; 0], "no version is another one by that");
            condemned == [true]
        }
        other => panic!("an answer to something else: {other:?}"),
    }
}

fn left(target: &str) -> Leftover {
    Leftover { target: target.to_owned(), path: Some("p".to_owned()) }
}

#[test]
fn a_row_that_is_taken_over_is_a_change_of_its_version_and_one_that_is_not_is_none() {
    // Of the oldest format, as a full disk leaves it.
    let Before { db, record, _home, .. } = Before::new();
    let (first, rival) = (told(&record, 1, "s3://b/1", 1), told(&record, 1, "s3://b/2", 1));
    let changed = || vec!["p".to_owned()];
    assert_eq!(hear(&db, 2, "p", &first), (Heard::Row(first.clone()), changed()));
    assert_eq!(query::last_seq(&db).unwrap(), 2);
    assert_eq!(hear(&db, 3, "p", &first), (Heard::Row(first.clone()), Vec::new()), "said again");
    assert_eq!((query::last_seq(&db).unwrap(), leftovers(&db, "", 9).unwrap()), (2, Vec::new()));
    assert_eq!(hear(&db, 4, "p", &rival), (Heard::Row(rival.clone()), changed()));
    assert_eq!(hear(&db, 5, "p", &first), (Heard::Row(rival.clone()), Vec::new()), "the one before");
    assert_eq!((query::last_seq(&db).unwrap(), leftovers(&db, "", 9).unwrap()), (4, vec![left("s3://b/1")]));
    assert_eq!(row_of_chunk(&db, record.blob_id, id(1)).unwrap(), Some(rival));
}

#[test]
fn rows_are_taken_over_of_live_versions_whether_their_chunks_are_here_or_not() {
    let Before { db, record, _home, .. } = Before::new();
    let row = told(&record, 1, "s3://b/1", 1);
    assert_eq!(hear(&db, 2, "q", &row), (Heard::Lacking, Vec::new()), "another path");
    let other = ArchiveRow { version: record.version + 1, ..row.clone() };
    assert_eq!(hear(&db, 2, "p", &other), (Heard::Lacking, Vec::new()), "another version");
    let other = ArchiveRow { blob: BlobId::generate(), ..row.clone() };
    assert_eq!(hear(&db, 2, "p", &other), (Heard::Lacking, Vec::new()), "another blob");
    db.execute("UPDATE blobs SET hollow = 1", []).unwrap();
    assert_eq!(hear(&db, 2, "p", &row).0, Heard::Row(row.clone()));
    apply::delete(&db, "p", Which::Newest, &Conditions::default(), moment(3)).unwrap();
    let later = told(&record, 1, "s3://b/2", 2);
    assert_eq!(hear(&db, 4, "p", &later), (Heard::Gone, Vec::new()));
    assert_eq!(row_of_chunk(&db, record.blob_id, id(1)).unwrap(), Some(row), "it has what it had");
    assert_eq!(query::last_seq(&db).unwrap(), 3);
}

#[test]
fn what_a_replica_condemns_it_never_names_again_unless_it_holds_a_successor() {
    let Before { db, record, _home, .. } = Before::new();
    assert!(condemns(&db, 2, "s3://b/0"), "nothing names it");
    let refused = told(&record, 1, "s3://b/0", 1);
    assert_eq!(hear(&db, 2, "p", &refused), (Heard::Condemned, Vec::new()));
    let held = told(&record, 1, "s3://b/1", 2);
    assert_eq!(hear(&db, 2, "p", &held).0, Heard::Row(held.clone()));
    assert_eq!(hear(&db, 3, "p", &refused), (Heard::Row(held.clone()), Vec::new()));
    assert!(!condemns(&db, 3, "s3://b/1"), "a live version names it");
    assert_eq!(row_of_chunk(&db, record.blob_id, id(1)).unwrap(), Some(held));
    assert!(condemns(&db, 3, "s3://b/0"), "said again");
}

#[test]
fn an_object_that_a_deleted_version_named_is_left_over_once_it_is_condemned() {
    let Before { db, record, _home, .. } = Before::new();
    for (byte, target) in [(1, "s3://b/1"), (2, "s3://b/2")] {
        hear(&db, 2, "p", &told(&record, byte, target, 1));
    }
    apply::delete(&db, "p", Which::Newest, &Conditions::default(), moment(3)).unwrap();
    assert!(condemns(&db, 4, "s3://b/1"));
    assert_eq!(leftovers(&db, "", 9).unwrap(), [left("s3://b/1")]);
    assert_eq!((knows(&db, "s3://b/1").unwrap(), knows(&db, "s3://b/2").unwrap()), (Some(false), Some(true)));
    let states: i64 = db.query_row("SELECT count(*) FROM archive_states", [], |row| row.get(0)).unwrap();
    assert_eq!(states, 1, "that of the other chunk");
    // When its chunks go, and when it is not in the store any more.
    apply::dropped(&db, &[record.row], moment(5)).unwrap();
    assert_eq!(leftovers(&db, "", 9).unwrap(), [left("s3://b/1"), left("s3://b/2")]);
    forget(&db, "s3://b/1").unwrap();
    assert_eq!(knows(&db, "s3://b/1").unwrap(), None);
    assert!(is_condemned(&db, "s3://b/1").unwrap());
}

#[test]
fn a_replica_that_recovers_does_what_it_is_told_and_does_not_count() {
    let Before { db, record, _home, .. } = Before::new();
    let row = told(&record, 1, "s3://b/1", 1);
    let rows = Request::Rows { path: "p".to_owned(), rows: vec![row.clone()] };
    let expected = Reply::Rows { heard: vec![Heard::Row(row.clone())], counts: false };
    assert_eq!(answer(&db, 2, true, rows), (expected, vec!["p".to_owned()]));
    assert_eq!(row_of_chunk(&db, record.blob_id, id(1)).unwrap(), Some(row));
    let condemn = Request::Condemn { path: "p".to_owned(), targets: vec!["s3://b/0".to_owned()] };
    let expected = Reply::Condemned { condemned: vec![true], counts: false };
    assert_eq!(answer(&db, 3, true, condemn), (expected, Vec::new()));
    assert!(is_condemned(&db, "s3://b/0").unwrap());
}

#[test]
fn requests_about_the_archive_may_use_the_ballast_and_bury_nothing() {
    let requests = [
        Request::Rows { path: "p".to_owned(), rows: Vec::new() },
        Request::Condemn { path: "p".to_owned(), targets: Vec::new() },
    ];
    for request in requests {
        let request = Box::new(peer::Request::Archive(request));
        let op = Op::Peer { request, data: None, around: AROUND, reply: oneshot::channel().0 };
        assert!(op.may_use_ballast() && !op.buries());
        assert_eq!(op.path(), Some("p"));
    }
}
