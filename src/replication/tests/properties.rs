//! What must hold in every state, whatever was lost, doubled, late, wiped or crashed.
//!
//! 1. A (path, version) is one blob on all replicas, and a blob is one version.
//! 2. Of one try there is never both a commit and as many refusals as make a commit impossible.
//! 3. What a client was told is done stands on a write quorum of disks (a disk that is being recovered is taken to have had it).
//! 4. What a client was told has not happened never happens.
//! 5. What clients of a path were told can be explained by some order of their requests: so nothing deleted comes back, and reads never go back.

use std::collections::BTreeMap;

use super::history::{Asked, Seen, Told};
use super::node::Node;
use super::world::{World, path_name};
use crate::base::ids::BlobId;
use crate::replication::put::Refusal;
use crate::wire::peer::Attempt;

/// A property that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Broken {
    TwoBlobsOfAVersion,
    TwoVersionsOfABlob,
    CommittedAndRefused,
    AcknowledgedAndLost,
    AcknowledgedWithoutBytes,
    RefusedAndStored,
    NotLinearizable,
}

/// After something was written.
pub(super) fn check_rows(world: &World) -> Option<Broken> {
    let mut versions: BTreeMap<(&str, u64), BlobId> = BTreeMap::new();
    let mut attempts: BTreeMap<BlobId, Attempt> = BTreeMap::new();
    let held = || world.nodes.iter().flat_map(|node| node.store.held.values());
    for held in held() {
        let attempt = held.row.attempt;
        if *versions.entry((&held.row.path, held.row.version)).or_insert(attempt.blob_id) != attempt.blob_id {
            return Some(Broken::TwoBlobsOfAVersion);
        }
        if *attempts.entry(attempt.blob_id).or_insert(attempt) != attempt {
            return Some(Broken::TwoVersionsOfABlob);
        }
    }
    let refusal_quorum = world.nodes.len() - world.write_quorum() + 1;
    for attempt in attempts.values() {
        let refused = |node: &&Node| !node.context.recovering && node.durable().has_refused(*attempt);
        if world.nodes.iter().map(|node| &**node).filter(refused).count() >= refusal_quorum {
            return Some(Broken::CommittedAndRefused);
        }
    }
    world.histories.iter().enumerate().find_map(|(path, history)| {
        history.all().find_map(|(asked, told)| check_durable(world, path, asked, told?))
    })
}

fn check_durable(world: &World, path: usize, asked: Asked, told: Told) -> Option<Broken> {
    let at_quorum = |has: &dyn Fn(&Node) -> bool| {
        let counts = world.nodes.iter().filter(|node| node.context.recovering || has(node));
        counts.count() >= world.write_quorum()
    };
    let has_row = |version: u64, blob: BlobId| {
        move |node: &Node| {
            let held = node.durable().held.get(&blob);
            held.is_some_and(|held| held.row.version == version)
        }
    };
    match (asked, told) {
        (_, Told::Stored { version, blob, .. }) => {
            if !at_quorum(&has_row(version, blob)) {
                return Some(Broken::AcknowledgedAndLost);
            }
            let lost = world.nodes.iter().filter(|node| node.lacks_bytes).count();
            let copies = world.nodes.iter().filter(|node| node.has_bytes(blob)).count();
            (copies + lost < world.write_quorum()).then_some(Broken::AcknowledgedWithoutBytes)
        }
        (_, Told::Read(Some(seen))) => {
            (!at_quorum(&has_row(seen.version, seen.blob))).then_some(Broken::AcknowledgedAndLost)
        }
        (_, Told::Deleted(version)) => {
            let path = path_name(path);
            let is_tombstoned = |node: &Node| node.durable().is_tombstoned(&path, version);
            (!at_quorum(&is_tombstoned)).then_some(Broken::AcknowledgedAndLost)
        }
        (Asked::Put { blob, .. }, Told::Refused(_)) => {
            let stored = world.nodes.iter().any(|node| node.store.has(blob));
            stored.then_some(Broken::RefusedAndStored)
        }
        _ => None,
    }
}

/// After a client was told something.
pub(super) fn check_told(world: &World, path: usize, operation: usize) -> Option<Broken> {
    let history = &world.histories[path];
    let told = history.told(operation)?;
    if matches!(told, Told::Unknown | Told::Nothing)
        || matches!(
            told,
            Told::Refused(
                Refusal::NoVersionLeft
                    | Refusal::DiskFull
                    | Refusal::NoQuorum
                    | Refusal::InDoubt
                    | Refusal::Contended
            )
        )
    {
        return check_rows(world);
    }
    let name = path_name(path);
    let mut there: Vec<Seen> = Vec::new();
    for held in world.nodes.iter().flat_map(|node| node.store.held.values()) {
        if held.row.path == name {
            there.push(Seen {
                version: held.row.version,
                blob: held.row.attempt.blob_id,
                content: held.row.content[0],
                deleted: false,
            });
        }
    }
    check_rows(world).or_else(|| (!history.is_explained(&there)).then_some(Broken::NotLinearizable))
}
