//! The machines of the archive, an answer at a time: whose answers count, and what they come to.

use super::archive_world::row;
use crate::base::ids::ChunkId;
use crate::base::topology::NodeId;
use crate::limits::ARCHIVE_SPREAD_TIME;
use crate::replication::condemn::Condemn;
use crate::replication::machine::{Event, Group, Machine, Step, Time};
use crate::replication::spread::{Spread, Told};
use crate::wire::peer::archive::{self, ArchiveRow, Heard};
use crate::wire::peer::{Member, Members, Reply, Request, Response};

const PATH: &str = "p";
const KEY: &str = "s3://b/1";

fn members() -> Members {
    (0..3).map(|node: u8| Member { node: NodeId(node), generation: 0, identity: node.into() }).collect()
}

/// As those have it who know that the last node has another disk.
fn members_with_another_disk() -> Members {
    let mut members = members();
    members[2] = Member { node: NodeId(2), generation: 1, identity: 102 };
    members
}

fn group() -> Group {
    Group { me: NodeId(0), members: members(), write_quorum: 2 }
}

fn until() -> Time {
    ARCHIVE_SPREAD_TIME.as_millis() as Time
}

fn reply(from: u8, members: Members, reply: archive::Reply) -> Event {
    let response = Response { members, reply: Reply::Archive(reply) };
    Event::Reply { from: NodeId(from), round: 1, reply: Some(response) }
}

fn heard(from: u8, heard: &[Heard]) -> Event {
    reply(from, members(), archive::Reply::Rows { heard: heard.to_vec(), counts: true })
}

fn holds(from: u8, row: &ArchiveRow) -> Event {
    heard(from, &[Heard::Row(row.clone())])
}

fn condemned(from: u8, condemned: &[bool]) -> Event {
    reply(from, members(), archive::Reply::Condemned { condemned: condemned.to_vec(), counts: true })
}

fn silent(from: u8) -> Event {
    Event::Reply { from: NodeId(from), round: 1, reply: None }
}

/// What a machine comes to that asks all three, by these answers or in the end by the time.
fn outcome<M: Machine>(mut machine: M, asks: &archive::Request, answers: Vec<Event>) -> M::Outcome {
    assert_eq!(machine.wake(), Some(0));
    let Step { sends, outcome } = machine.step(0, Event::Time);
    assert!(outcome.is_none(), "nobody has answered");
    assert_eq!(sends.iter().map(|send| send.to).collect::<Vec<_>>(), [NodeId(0), NodeId(1), NodeId(2)]);
    assert!(sends.iter().all(|send| send.round == 1 && send.request == Request::Archive(asks.clone())));
    assert_eq!(machine.wake(), Some(until()));
    for answer in answers {
        let Step { sends, outcome } = machine.step(0, answer);
        assert!(sends.is_empty(), "it asks once");
        if let Some(outcome) = outcome {
            assert_eq!(machine.wake(), None);
            let late = machine.step(until(), silent(1));
            assert!(late.sends.is_empty() && late.outcome.is_none(), "it is over");
            return outcome;
        }
    }
    assert!(
        machine.step(until() - 1, Event::Time).outcome.is_none(),
        "those that have not answered have time"
    );
    let outcome = machine.step(until(), Event::Time).outcome.expect("it ends by then");
    assert_eq!(machine.wake(), None);
    outcome
}

fn spread(rows: &[ArchiveRow], answers: Vec<Event>) -> Vec<Told> {
    let asks = archive::Request::Rows { path: PATH.to_owned(), rows: rows.to_vec() };
    outcome(Spread::new(group(), PATH, rows.to_vec()), &asks, answers)
}

/// What is known of one row then.
fn told(row: &ArchiveRow, answers: Vec<Event>) -> Told {
    let mut told = spread(std::slice::from_ref(row), answers);
    assert_eq!(told.len(), 1);
    told.pop().expect("one row")
}

fn condemn(targets: &[&str], answers: Vec<Event>) -> Vec<bool> {
    let targets: Vec<String> = targets.iter().map(|target| (*target).to_owned()).collect();
    let asks = archive::Request::Condemn { path: PATH.to_owned(), targets: targets.clone() };
    outcome(Condemn::new(group(), PATH, targets), &asks, answers)
}

#[test]
fn a_row_that_all_hold_is_spread() {
    let mine = row(KEY, 1);
    let all = Told { holders: 3, all: true, ..Told::default() };
    assert_eq!(told(&mine, vec![holds(2, &mine), holds(0, &mine), holds(1, &mine)]), all);
}

#[test]
fn who_is_away_or_knows_less_holds_nothing() {
    let (mine, lower) = (row(KEY, 2), row("s3://b/9", 1));
    let two = Told { holders: 2, ..Told::default() };
    for third in [
        Some(silent(2)),
        None,
        Some(heard(2, &[Heard::Lacking])),
        Some(holds(2, &lower)),
        Some(heard(2, &[])),
        Some(condemned(2, &[true])),
    ] {
        let mut answers = vec![holds(0, &mine), holds(1, &mine)];
        let last = format!("{third:?}");
        answers.extend(third);
        assert_eq!(told(&mine, answers), two, "{last}");
    }
}

#[test]
fn a_successor_holds_the_row_too_and_the_greatest_is_told() {
    let (mine, rival, later) = (row(KEY, 1), row("s3://b/2", 1), row("s3://b/0", 2));
    for answers in [
        vec![holds(0, &mine), holds(1, &rival), holds(2, &later)],
        vec![holds(0, &mine), holds(2, &later), holds(1, &rival)],
    ] {
        let told = told(&mine, answers);
        let successor = Some(later.clone());
        assert_eq!(told, Told { holders: 3, all: true, successor, ..Told::default() });
    }
}

#[test]
fn a_condemned_object_and_a_tombstone_are_told() {
    let mine = row(KEY, 1);
    let answers = vec![holds(0, &mine), heard(1, &[Heard::Condemned]), heard(2, &[Heard::Gone])];
    assert_eq!(told(&mine, answers), Told { holders: 1, condemned: true, gone: true, ..Told::default() });
}

#[test]
fn who_recovers_does_not_count_but_what_it_says_is_true() {
    let (mine, later) = (row(KEY, 1), row("s3://b/2", 2));
    let heard = vec![Heard::Row(later.clone())];
    let recovers = reply(2, members(), archive::Reply::Rows { heard, counts: false });
    let told = told(&mine, vec![holds(0, &mine), holds(1, &mine), recovers]);
    assert_eq!(told, Told { holders: 2, successor: Some(later), ..Told::default() });
}

#[test]
fn a_disk_that_was_replaced_meanwhile_holds_nothing() {
    let mine = row(KEY, 1);
    let knows = |from| {
        let heard = vec![Heard::Row(mine.clone())];
        reply(from, members_with_another_disk(), archive::Reply::Rows { heard, counts: true })
    };
    let two = Told { holders: 2, ..Told::default() };
    assert_eq!(told(&mine, vec![holds(2, &mine), holds(0, &mine), knows(1)]), two, "it answered before");
    assert_eq!(told(&mine, vec![knows(1), holds(0, &mine), holds(2, &mine)]), two, "it answered after");
    let all = Told { holders: 3, all: true, ..Told::default() };
    assert_eq!(told(&mine, vec![holds(0, &mine), knows(1), knows(2)]), all, "the new disk itself");
}

#[test]
fn a_replica_counts_once_and_in_the_round_that_it_was_asked_in() {
    let mine = row(KEY, 1);
    let Event::Reply { from, reply, .. } = holds(2, &mine) else { panic!("a reply") };
    let of_another_round = Event::Reply { from, round: 2, reply };
    let answers = vec![holds(0, &mine), holds(0, &mine), holds(1, &mine), holds(1, &mine), of_another_round];
    assert_eq!(told(&mine, answers), Told { holders: 2, ..Told::default() });
}

#[test]
fn rows_that_are_told_together_are_counted_apart() {
    let one = row(KEY, 1);
    let other = ArchiveRow { chunk: ChunkId([2; 32]), ..row("s3://b/2", 1) };
    let both = [Heard::Row(one.clone()), Heard::Row(other.clone())];
    let answers = vec![
        heard(0, &both),
        heard(1, &[Heard::Row(one.clone()), Heard::Condemned]),
        heard(2, &[Heard::Row(one.clone()), Heard::Lacking]),
    ];
    let all = Told { holders: 3, all: true, ..Told::default() };
    let alone = Told { holders: 1, condemned: true, ..Told::default() };
    assert_eq!(spread(&[one, other], answers), [all, alone]);
}

#[test]
fn an_object_is_condemned_by_all_and_each_by_itself() {
    let answers =
        vec![condemned(0, &[true, true]), condemned(1, &[true, false]), condemned(2, &[true, true])];
    assert_eq!(condemn(&[KEY, "s3://b/2"], answers), [true, false]);
}

#[test]
fn nothing_is_condemned_while_one_is_away_recovers_or_says_too_little() {
    let recovers = archive::Reply::Condemned { condemned: vec![true], counts: false };
    for third in [
        Some(silent(2)),
        None,
        Some(condemned(2, &[false])),
        Some(condemned(2, &[])),
        Some(reply(2, members(), recovers)),
        Some(heard(2, &[Heard::Gone])),
        Some(condemned(1, &[true])),
    ] {
        let mut answers = vec![condemned(0, &[true]), condemned(1, &[true])];
        let last = format!("{third:?}");
        answers.extend(third);
        assert_eq!(condemn(&[KEY], answers), [false], "{last}");
    }
}

#[test]
fn answers_of_a_disk_and_of_the_one_in_its_place_do_not_add_up() {
    let knows = |from| {
        let condemned = archive::Reply::Condemned { condemned: vec![true], counts: true };
        reply(from, members_with_another_disk(), condemned)
    };
    let before = || vec![condemned(2, &[true]), condemned(0, &[true])];
    let mut answers = before();
    answers.push(knows(1));
    assert_eq!(condemn(&[KEY], answers), [false], "the old disk is not the new one");
    assert_eq!(condemn(&[KEY], vec![knows(0), knows(1), condemned(2, &[true])]), [false], "nor afterwards");
    assert_eq!(condemn(&[KEY], vec![condemned(0, &[true]), knows(1), knows(2)]), [true], "all in one view");
}
