//! The judge of histories, judged: a history that breaks a promise is found, and one that keeps them all is not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

#[path = "support/cluster/mod.rs"]
mod cluster;
mod support;

use cluster::history::NEVER;
use cluster::problem::Listed;
use cluster::report::{Judgement, judge};
use cluster::{Ask, Blob, Condition, Op, Told, Which, invariants};

/// One line of a hand-made history: client, asked, answered, what, answer.
fn op(asked: u64, answered: u64, ask: Ask, told: Told) -> Op {
    let answered = if told == Told::Unknown { NEVER } else { answered };
    Op { path: "p".to_owned(), client: 0, node: 0, ask, asked, told, answered }
}

/// Version `version` is the blob whose length is `1000 + version`, here and below.
fn blob(version: u64) -> Blob {
    Blob { seed: version, len: 1000 + version as usize }
}

fn id(version: u64) -> String {
    format!("blob-{version}")
}

fn put_as(version: Option<u64>, condition: Condition, content: u64) -> Ask {
    Ask::Put { version, condition, blob: blob(content) }
}

fn put(content: u64) -> Ask {
    put_as(None, Condition::Always, content)
}

fn stored(version: u64) -> Told {
    Told::Stored { version, blob_id: id(version), created: true }
}

fn get() -> Ask {
    Ask::Get { version: None, head: false }
}

fn get_at(version: u64) -> Ask {
    Ask::Get { version: Some(version), head: false }
}

fn read(version: u64) -> Told {
    Told::Read { version, blob_id: id(version), size: 1000 + version, seed: Some(version) }
}

fn delete(which: Which) -> Ask {
    Ask::Delete { which, condition: Condition::Always }
}

fn deleted(version: u64) -> Told {
    Told::Deleted { version }
}

fn gone() -> Told {
    Told::Refused(404)
}

#[track_caller]
fn right(ops: &[Op]) {
    assert_eq!(judge(ops, &[]), Judgement::Right);
    assert_eq!(invariants::check(ops, &[]), [""; 0]);
}

/// The search finds it wrong; the text of its report.
#[track_caller]
fn wrong(ops: &[Op]) -> String {
    match judge(ops, &[]) {
        Judgement::Wrong(report) => report,
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_after_the_other() {
    right(&[
        op(1, 2, get(), gone()),
        op(3, 4, put(1), stored(1)),
        op(5, 6, get(), read(1)),
        op(7, 8, put_as(Some(7), Condition::Always, 7), stored(7)),
        op(9, 10, put(9), stored(9)),
        op(11, 12, put_as(Some(5), Condition::Always, 5), stored(5)),
        op(13, 14, get(), read(9)),
        op(15, 16, delete(Which::Newest), deleted(9)),
        op(17, 18, get(), gone()),
        op(19, 20, get_at(7), read(7)),
        op(21, 22, delete(Which::Newest), gone()),
        op(23, 24, put_as(Some(9), Condition::Always, 9), Told::Refused(409)),
        op(25, 26, put_as(Some(7), Condition::Always, 77), Told::Refused(409)),
        op(27, 28, put_as(Some(7), Condition::Always, 7), stored(7)),
        op(29, 30, put_as(None, Condition::Absent, 10), stored(10)),
        op(31, 32, put_as(None, Condition::Absent, 11), Told::Refused(412)),
        op(33, 34, delete(Which::All), deleted(10)),
        op(35, 36, get_at(5), gone()),
    ]);
}

#[test]
fn a_read_that_goes_back_is_found() {
    let ops = [
        op(1, 2, put(1), stored(1)),
        op(3, 9, put(2), stored(2)),
        op(4, 5, get(), read(2)),
        op(6, 7, get(), read(1)),
    ];
    let report = wrong(&ops);
    assert!(report.contains("<- not with this answer"), "{report}");
    assert!(invariants::check(&ops, &[]).iter().any(|wrong| wrong.contains("went back")));
    // The other way round is right: the PUT is still running.
    right(&[ops[0].clone(), ops[1].clone(), op(4, 5, get(), read(1)), op(6, 7, get(), read(2))]);
}

#[test]
fn a_lost_write_is_found() {
    let ops = [op(1, 2, put(1), stored(1)), op(3, 4, get(), gone())];
    wrong(&ops);
    let ops = [op(1, 2, put(1), stored(1)), op(3, 4, get_at(1), gone())];
    wrong(&ops);
    assert!(invariants::check(&ops, &[]).iter().any(|wrong| wrong.contains("nobody deleted it")));
}

#[test]
fn a_write_without_an_answer_happens_at_any_time_or_never() {
    let unknown = op(1, 0, put(2), Told::Unknown);
    right(&[unknown.clone(), op(5, 6, get(), gone()), op(7, 8, get(), gone())]);
    right(&[unknown.clone(), op(5, 6, get(), gone()), op(7, 8, get(), read(2))]);
    wrong(&[unknown.clone(), op(5, 6, get(), read(2)), op(7, 8, get(), gone())]);
    // It cannot happen before it is asked for.
    wrong(&[op(1, 2, get(), read(2)), op(3, 0, put(2), Told::Unknown)]);
    // Its number was given before any higher one was.
    wrong(&[
        unknown.clone(),
        op(2, 3, put(3), stored(3)),
        op(4, 5, get_at(2), gone()),
        op(6, 7, put(4), stored(4)),
        op(8, 9, get_at(2), gone()),
        op(10, 11, get_at(2), read(2)),
        op(12, 13, get_at(2), gone()),
    ]);
}

#[test]
fn numbers_rise_and_are_never_given_twice() {
    wrong(&[op(1, 2, put(5), stored(5)), op(3, 4, put(3), stored(3))]);
    right(&[op(1, 4, put(5), stored(5)), op(2, 3, put(3), stored(3))]);
    let twice = Told::Stored { version: 1, blob_id: "other".to_owned(), created: true };
    let ops = [op(1, 2, put(1), stored(1)), op(3, 4, put(9), twice)];
    wrong(&ops);
    let found = invariants::check(&ops, &[]).join("\n");
    assert!(found.contains("two blob_ids") && found.contains("given twice"), "{found}");
}

#[test]
fn conditions_are_atomic() {
    let if_match = |version, content| put_as(None, Condition::Match(id(version)), content);
    let first = op(1, 2, put(1), stored(1));
    // Two writes on the same tag: one of them lost an update.
    wrong(&[first.clone(), op(3, 9, if_match(1, 2), stored(2)), op(4, 8, if_match(1, 3), stored(3))]);
    right(&[first.clone(), op(3, 9, if_match(1, 2), stored(2)), op(4, 8, if_match(2, 3), stored(3))]);
    right(&[
        first.clone(),
        op(3, 9, if_match(1, 2), stored(2)),
        op(4, 8, if_match(1, 3), Told::Refused(412)),
    ]);
    wrong(&[first.clone(), op(3, 4, if_match(1, 2), Told::Refused(412))]);
    let absent = |content| put_as(None, Condition::Absent, content);
    wrong(&[op(1, 9, absent(1), stored(1)), op(2, 8, absent(2), stored(2))]);
    right(&[
        op(1, 9, absent(1), stored(1)),
        op(2, 8, absent(2), stored(2)),
        op(3, 10, delete(Which::Newest), deleted(1)),
    ]);
    // A DELETE that chose the version before it was replaced does not touch what replaced it.
    right(&[
        first.clone(),
        op(3, 10, delete(Which::Newest), deleted(1)),
        op(4, 5, if_match(1, 2), stored(2)),
        op(6, 7, get_at(1), read(1)),
        op(8, 9, get(), read(2)),
        op(11, 12, get_at(1), gone()),
    ]);
}

#[test]
fn deleted_stays_deleted() {
    let first = [op(1, 2, put(1), stored(1)), op(3, 6, delete(Which::Newest), deleted(1))];
    let with = |more: &[Op]| [&first[..], more].concat();
    right(&with(&[op(4, 5, get(), gone()), op(7, 8, get(), gone())]));
    wrong(&with(&[op(7, 8, get(), read(1))]));
    let back = with(&[op(4, 5, get_at(1), gone()), op(5, 6, get_at(1), read(1))]);
    assert!(matches!(judge(&back, &[]), Judgement::Right), "they overlap: {:?}", judge(&back, &[]));
    let back = with(&[op(4, 5, get_at(1), gone()), op(6, 7, get_at(1), read(1))]);
    wrong(&back);
    assert!(invariants::check(&back, &[]).iter().any(|wrong| wrong.contains("came back")));
    // Two at once may name the same version, one after the other may not.
    right(&with(&[op(4, 5, delete(Which::Newest), deleted(1))]));
    wrong(&with(&[op(7, 8, delete(Which::Newest), deleted(1))]));
    // What was deleted later than another DELETE was asked is not that one's to delete.
    wrong(&[
        op(1, 2, put(1), stored(1)),
        op(3, 4, put(2), stored(2)),
        op(5, 6, delete(Which::Newest), deleted(1)),
    ]);
}

#[test]
fn a_delete_without_an_answer_explains_one_version() {
    let one = op(3, 0, delete(Which::Newest), Told::Unknown);
    let first = op(1, 2, put(1), stored(1));
    right(&[first.clone(), one.clone(), op(4, 5, get(), read(1)), op(6, 7, get(), gone())]);
    // It chose version 1, and the tombstone came after version 2.
    let later = [
        first.clone(),
        one.clone(),
        op(4, 5, put(2), stored(2)),
        op(6, 7, get_at(1), read(1)),
        op(8, 9, get_at(1), gone()),
        op(10, 11, get(), read(2)),
    ];
    right(&later);
    wrong(&[&later[..], &[op(12, 13, get(), gone())]].concat());
    // By the time it was asked, version 1 was the newest no more.
    wrong(&[
        first.clone(),
        op(2, 3, put(2), stored(2)),
        op(4, 0, delete(Which::Newest), Told::Unknown),
        op(8, 9, get_at(1), gone()),
    ]);
    let named = op(3, 0, delete(Which::Version(1)), Told::Unknown);
    right(&[first.clone(), op(2, 3, put(2), stored(2)), named.clone(), op(8, 9, get_at(1), gone())]);
    wrong(&[first, op(2, 3, put(2), stored(2)), named, op(8, 9, get_at(2), gone())]);
}

#[test]
fn a_number_may_be_chosen_before_its_version_can_be_read() {
    let ops = [
        op(1, 2, put(1), stored(1)),
        op(3, 10, put(2), stored(2)),
        op(4, 5, put(3), stored(3)),
        op(6, 7, get_at(2), gone()),
        op(11, 12, get_at(2), read(2)),
    ];
    assert_eq!(judge(&ops, &[]), Judgement::RightIfLenient);
    let mut late = ops.clone();
    (late[3].asked, late[3].answered) = (13, 14);
    wrong(&late);
}

#[test]
fn what_is_listed_in_the_end_settles_what_nobody_saw() {
    let row =
        |version, tombstoned| Listed { version, blob_id: id(version), size: 1000 + version, tombstoned };
    let ops = [
        op(1, 2, put(1), stored(1)),
        op(3, 0, put(2), Told::Unknown),
        op(4, 0, delete(Which::Newest), Told::Unknown),
        op(20, 21, get_at(2), gone()),
        op(22, 23, get(), gone()),
    ];
    assert_eq!(judge(&ops, &[row(2, true), row(1, false)]), Judgement::Right);
    let wrong = invariants::check(&ops, &[row(2, true)]);
    assert!(wrong.iter().any(|wrong| wrong.contains("is lost")), "{wrong:?}");
    let ops = [op(1, 2, put(1), stored(1)), op(3, 4, delete(Which::Newest), deleted(1))];
    let wrong = invariants::check(&ops, &[row(1, false)]);
    assert!(wrong.iter().any(|wrong| wrong.contains("not tombstoned")), "{wrong:?}");
}
