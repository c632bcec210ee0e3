//! Two replicas with random rows end up with the union; what is exchanged is bounded by the difference; rubbish ends the search.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::digest;
use super::pieces::{self, Cutter, Summer};
use super::reconcile::{Event, Found, Next, Reconcile, Rubbish};
use crate::base::clock::Timestamp;
use crate::base::ids::BlobId;
use crate::limits::{SYNC_ITEMS, SYNC_LEAF, SYNC_PIECES, SYNC_ROWS};
use crate::wire::peer::sync::{Digest, Items, Range};
use crate::wire::peer::{Attempt, Held, Row};

/// Rows of a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Replica(BTreeMap<BlobId, Held>);

fn held(id: u128, tombstone: Option<i64>) -> Held {
    let attempt = Attempt { blob_id: BlobId::from_u128(id), ballot: 0 };
    let (path, headers) = (format!("path/{id}"), "[]".to_owned());
    let row = Row { path, version: 1, attempt, size: 1, content: [1; 32], created_at: Timestamp(7), headers };
    Held { row, tombstoned_at: tombstone.map(Timestamp), hollow: false }
}

impl Replica {
    fn of(rows: impl IntoIterator<Item = (u128, Option<i64>)>) -> Self {
        let mut replica = Self::default();
        rows.into_iter().for_each(|(id, tombstone)| replica.take(&held(id, tombstone)));
        replica
    }

    /// As a replica takes rows over: the earlier tombstone counts.
    fn take(&mut self, theirs: &Held) {
        let mine = self.0.entry(theirs.row.attempt.blob_id).or_insert_with(|| theirs.clone());
        let times = [mine.tombstoned_at, theirs.tombstoned_at];
        mine.tombstoned_at = times.into_iter().flatten().min();
    }

    fn items(&self, range: Range) -> Vec<Items> {
        self.0.range(range.first..=range.last).map(|(_, held)| digest::items(held).unwrap()).collect()
    }

    fn digest(&self) -> Digest {
        let mut digest = Digest::default();
        self.items(pieces::everything()).iter().for_each(|items| digest.add_all(items));
        digest
    }
}

/// What was exchanged.
#[derive(Debug, Default)]
struct Exchanged {
    questions: usize,
    digests: usize,
    items: usize,
    rows: usize,
}

/// `mine` takes over what it lacks of `theirs`.
fn pull(mine: &mut Replica, theirs: &Replica) -> (Exchanged, Found) {
    let (mut search, mut exchanged) = (Reconcile::default(), Exchanged::default());
    if mine.digest() == theirs.digest() {
        return (exchanged, search.found());
    }
    let mut event = Event::Begin;
    loop {
        event = match search.step(event).unwrap() {
            Next::Cut(range) => {
                let mut cutter = Cutter::new(range.first);
                mine.items(range).iter().for_each(|items| cutter.push(items));
                Event::Cut(cutter.finish())
            }
            Next::Ranges(firsts, last) => {
                assert!(firsts.len() <= SYNC_PIECES);
                exchanged.questions += 1;
                exchanged.digests += firsts.len();
                let mut summer = Summer::new(firsts.clone());
                theirs.items(Range { first: firsts[0], last }).iter().for_each(|items| summer.push(items));
                Event::Ranges(summer.finish())
            }
            Next::Items(range) => {
                exchanged.questions += 1;
                let mut items = theirs.items(range);
                let next = items.get(SYNC_ITEMS).map(|items| items.blob);
                items.truncate(SYNC_ITEMS);
                exchanged.items += items.len();
                let last = next.map_or(range.last, |next| BlobId::from_u128(next.to_u128() - 1));
                Event::Items { theirs: items, next, mine: mine.items(Range { first: range.first, last }) }
            }
            Next::Rows(blobs) => {
                assert!(blobs.len() <= SYNC_ROWS && blobs.is_sorted());
                exchanged.questions += 1;
                exchanged.rows += blobs.len();
                for blob in &blobs {
                    mine.take(&theirs.0[blob]);
                }
                Event::Taken
            }
            Next::Done => return (exchanged, search.found()),
        }
    }
}

fn rows() -> impl Strategy<Value = Vec<(u128, Option<i64>)>> {
    let id = prop_oneof![0..400_u128, any::<u128>()];
    prop::collection::vec((id, prop_oneof![2 => Just(None), 1 => (0..3_i64).prop_map(Some)]), 0..600)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn two_replicas_end_up_with_the_union(one in rows(), other in rows()) {
        let (mut one, mut other) = (Replica::of(one), Replica::of(other));
        let mut union = one.clone();
        other.0.values().for_each(|held| union.take(held));
        let lacked = other.0.iter().filter(|(blob, _)| !one.0.contains_key(blob)).count();
        let (_, found) = pull(&mut one, &other);
        prop_assert_eq!(&one, &union);
        prop_assert_eq!((found.versions as usize, found.contradictions), (lacked, 0));
        pull(&mut other, &one);
        prop_assert_eq!(&other, &union);
        prop_assert_eq!(one.digest(), other.digest());
        let (exchanged, _) = pull(&mut one, &other);
        prop_assert_eq!(exchanged.questions, 0, "equal ones cost one digest");
    }

    #[test]
    fn a_digest_does_not_depend_on_the_order(rows in rows(), undone in rows()) {
        let replica = Replica::of(rows);
        let mut digest = Digest::default();
        let undone = Replica::of(undone).items(pieces::everything());
        for items in &undone {
            digest.add_all(items);
        }
        replica.items(pieces::everything()).iter().rev().for_each(|items| digest.add_all(items));
        for items in undone {
            digest.remove(items.version);
            items.tombstone.into_iter().for_each(|item| digest.remove(item));
        }
        prop_assert_eq!(digest, replica.digest());
    }

    #[test]
    fn pieces_cover_a_range_and_sum_up_to_it(rows in rows()) {
        let replica = Replica::of(rows);
        let mut cutter = Cutter::new(BlobId::from_u128(0));
        replica.items(pieces::everything()).iter().for_each(|items| cutter.push(items));
        let pieces = cutter.finish();
        prop_assert!(pieces.len() <= SYNC_PIECES);
        prop_assert_eq!(pieces[0].first, BlobId::from_u128(0));
        let firsts: Vec<BlobId> = pieces.iter().map(|piece| piece.first).collect();
        prop_assert!(firsts.windows(2).all(|pair| pair[0] < pair[1]));
        let mut summer = Summer::new(firsts.clone());
        replica.items(pieces::everything()).iter().for_each(|items| summer.push(items));
        prop_assert_eq!(summer.finish(), pieces.iter().map(|piece| piece.digest).collect::<Vec<_>>());
        let last = BlobId::from_u128(u128::MAX);
        for (range, piece) in pieces::ranges(&firsts, last).zip(&pieces) {
            prop_assert_eq!(replica.items(range).len() as u64, piece.rows);
        }
    }
}

#[test]
fn one_row_of_many_is_found_with_few_exchanges() {
    let rows = || (0..20_000_u128).map(|id| (id << 64, None));
    let mut mine = Replica::of(rows().filter(|(id, _)| *id != 12_345 << 64));
    let theirs = Replica::of(rows());
    let (exchanged, found) = pull(&mut mine, &theirs);
    assert_eq!((mine, found.versions), (theirs, 1));
    assert!(exchanged.questions <= 5, "{exchanged:?}");
    assert!(exchanged.digests <= 3 * SYNC_PIECES && exchanged.items <= SYNC_LEAF + 1, "{exchanged:?}");
    assert_eq!(exchanged.rows, 1);
}

#[test]
fn an_empty_replica_asks_for_items_at_once() {
    let mut mine = Replica::default();
    let theirs = Replica::of((0..5000).map(|id| (id, (id % 3 == 0).then_some(9))));
    let (exchanged, found) = pull(&mut mine, &theirs);
    assert_eq!((found.versions, found.tombstones), (5000, 1667));
    assert_eq!(mine, theirs);
    assert_eq!((exchanged.digests, exchanged.items, exchanged.rows), (0, 5000, 5000));
}

#[test]
fn a_later_tombstone_changes_nothing_here_and_an_earlier_one_does() {
    let (mut mine, theirs) =
        (Replica::of([(1, Some(5)), (2, Some(5))]), Replica::of([(1, Some(4)), (2, Some(6))]));
    pull(&mut mine, &theirs);
    assert_eq!(mine, Replica::of([(1, Some(4)), (2, Some(5))]));
}

#[test]
fn what_differs_under_the_same_id_is_said_and_not_asked_for() {
    let mut theirs = Replica::of([(1, None)]);
    theirs.0.values_mut().for_each(|held| held.row.size = 2);
    let mut mine = Replica::of([(1, None)]);
    let (exchanged, found) = pull(&mut mine, &theirs);
    assert_eq!((exchanged.rows, found.contradictions), (0, 1));
}

#[test]
fn answers_that_do_not_fit_are_refused() {
    let all: Vec<Items> = Replica::of((0..200).map(|id| (id, None))).items(pieces::everything());
    let asked = |mine: &[Items]| {
        let mut search = Reconcile::default();
        assert_eq!(search.step(Event::Begin), Ok(Next::Cut(pieces::everything())));
        let mut cutter = Cutter::new(BlobId::from_u128(0));
        for items in mine {
            cutter.push(items);
        }
        let next = search.step(Event::Cut(cutter.finish())).unwrap();
        (search, next)
    };
    let (mut search, next) = asked(&all);
    assert!(matches!(next, Next::Ranges(..)));
    assert_eq!(search.step(Event::Ranges(vec![Digest::default()])), Err(Rubbish), "too few digests");
    let answer = |theirs: &[Items], next: Option<u128>| {
        let (mut search, _) = asked(&[]);
        let next = next.map(BlobId::from_u128);
        search.step(Event::Items { theirs: theirs.to_vec(), next, mine: Vec::new() })
    };
    assert!(answer(&all[..2], None).is_ok());
    assert_eq!(answer(&[all[1], all[0]], None), Err(Rubbish), "out of order");
    assert_eq!(answer(&[all[1], all[1]], None), Err(Rubbish), "twice the same");
    assert_eq!(answer(&all[..2], Some(1)), Err(Rubbish), "it does not go on");
    assert_eq!(answer(&[], Some(1)), Err(Rubbish), "it goes on from nothing");
    let many: Vec<Items> =
        (0..=SYNC_ITEMS as u128).map(|id| Items { blob: BlobId::from_u128(id), ..all[0] }).collect();
    assert_eq!(answer(&many, None), Err(Rubbish), "too many");
}
