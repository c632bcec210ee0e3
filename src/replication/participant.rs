//! A replica's part: what it answers, and what it must have durably written before the answer leaves.
//!
//! What always holds: of one try a replica says at most one of yes and refused, for ever; of one (path, version) it holds at
//! most one try prepared, and commits at most one blob. A refusal is durable; every other "no" is an answer of the moment.

use super::archive;
#[cfg(test)]
use super::mistake::{Mistake, is_planted};
use crate::base::clock::Timestamp;
use crate::base::ids::{BlobId, ChunkId};
use crate::base::topology::NodeId;
use crate::wire::peer::archive::ArchiveRow;
use crate::wire::peer::{
    Attempt, Held, Identity, InDoubt, Members, No, Proposal, Proven, Query, Reply, Request, Response, Row,
    Signed, Standing,
};

/// The ballot of a refusal that holds for every try of a blob.
pub const EVERY_BALLOT: u32 = u32::MAX;

/// What a replica stores of a slot, inside of one transaction.
pub trait Rows {
    /// What can go wrong with the storage; the transaction is then given up.
    type Error;

    /// Committed versions of a path, newest first.
    fn versions(&mut self, path: &str, query: Query) -> Result<Vec<Held>, Self::Error>;
    /// The committed version that a blob is.
    fn committed(&mut self, blob: BlobId) -> Result<Option<Held>, Self::Error>;
    /// The try that is prepared of a blob.
    fn prepared(&mut self, blob: BlobId) -> Result<Option<Proposal>, Self::Error>;
    /// All tries prepared on a path.
    fn prepared_on(&mut self, path: &str) -> Result<Vec<Proposal>, Self::Error>;
    /// Whether a try was refused, by itself or with all of its blob's.
    fn is_refused(&mut self, attempt: Attempt) -> Result<bool, Self::Error>;

    /// Writes a yes.
    fn prepare(&mut self, proposal: &Proposal) -> Result<(), Self::Error>;
    /// Takes a yes back.
    fn forget(&mut self, attempt: Attempt) -> Result<(), Self::Error>;
    /// Writes a refusal.
    fn refuse(&mut self, attempt: Attempt) -> Result<(), Self::Error>;
    /// Makes a prepared try a version.
    fn commit(&mut self, attempt: Attempt) -> Result<(), Self::Error>;
    /// Writes a version whose chunks are not here.
    fn commit_hollow(&mut self, row: &Row) -> Result<(), Self::Error>;
    /// Marks a committed version as deleted; of several times the earliest counts.
    fn tombstone(&mut self, row: &Row, at: Timestamp) -> Result<(), Self::Error>;

    /// The archive row of a chunk of a blob.
    fn archived(&mut self, blob: BlobId, chunk: ChunkId) -> Result<Option<ArchiveRow>, Self::Error>;
    /// Writes an archive row of a committed version in the place of the one before it, whose object is then to be deleted.
    fn archive(&mut self, path: &str, row: &ArchiveRow) -> Result<(), Self::Error>;
    /// Blobs with rows that name an object.
    fn naming(&mut self, target: &str) -> Result<Vec<BlobId>, Self::Error>;
    /// Removes the rows of a blob that name an object, which is then to be deleted.
    fn unname(&mut self, blob: BlobId, target: &str) -> Result<(), Self::Error>;
    /// Whether rows that name an object are refused for good.
    fn is_condemned(&mut self, target: &str) -> Result<bool, Self::Error>;
    /// Refuses them from now on.
    fn condemn(&mut self, target: &str) -> Result<(), Self::Error>;
}

/// What a replica knows beside its rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Context {
    /// This node.
    pub me: NodeId,
    /// The slot's replicas, as this node has them on disk.
    pub members: Members,
    /// So many yes votes decide.
    pub write_quorum: usize,
    /// Whether this replica has lost its memory and does not have it back yet.
    pub recovering: bool,
}

impl Context {
    /// Refusals that make a decision impossible.
    pub fn refusal_quorum(&self) -> usize {
        self.members.len() - self.write_quorum + 1
    }

    fn identity_of(&self, node: NodeId) -> Option<Identity> {
        self.members.iter().find(|member| member.node == node).map(|member| member.identity)
    }

    /// How many of these still are what they were when they signed.
    fn current(&self, signed: &[Signed]) -> usize {
        let mut current: Vec<NodeId> = signed
            .iter()
            .filter(|(node, identity)| self.identity_of(*node) == Some(*identity))
            .map(|(node, _)| *node)
            .collect();
        current.sort_unstable();
        current.dedup();
        current.len()
    }
}

/// What the machine around a replica knows of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Surroundings {
    /// Whether every chunk of a proposed blob is here, verified and synced.
    pub has_data: bool,
    /// Whether there is space for the commit and a later tombstone.
    pub has_room: bool,
    /// Whether this node coordinates the try and still works on it.
    pub is_live: bool,
}

/// Answers a request; the answer may leave when what was written is on disk.
///
/// # Errors
/// Those of the storage.
pub fn answer<R: Rows>(
    rows: &mut R,
    context: &Context,
    around: Surroundings,
    request: &Request,
) -> Result<Response, R::Error> {
    let reply = reply(rows, context, around, request)?;
    Ok(Response { members: context.members.clone(), reply })
}

fn reply<R: Rows>(
    rows: &mut R,
    context: &Context,
    around: Surroundings,
    request: &Request,
) -> Result<Reply, R::Error> {
    match request {
        Request::Prepare { proposal, .. } => prepare(rows, context, around, proposal),
        Request::Commit { row, votes } => commit(rows, context, row, votes),
        Request::Ask { attempt, patient, .. } => ask(rows, context, *attempt, *patient && around.is_live),
        Request::Abort { attempt, refusals, .. } => abort(rows, context, *attempt, refusals),
        Request::Read { path, query } => read(rows, context, path, *query),
        Request::Finish { path, versions } => finish(rows, context, path, versions),
        Request::Archive(request) => Ok(Reply::Archive(archive::answer(rows, context, request)?)),
    }
}

/// Whether a replica's files of a blob may go: nothing names it, and from now on nothing will.
///
/// # Errors
/// Those of the storage.
pub fn sweep<R: Rows>(rows: &mut R, blob: BlobId) -> Result<bool, R::Error> {
    if rows.committed(blob)?.is_some() || rows.prepared(blob)?.is_some() {
        return Ok(false);
    }
    #[cfg(test)]
    if is_planted(Mistake::SweepWithoutRefusal) {
        return Ok(true);
    }
    rows.refuse(Attempt { blob_id: blob, ballot: EVERY_BALLOT })?;
    Ok(true)
}

fn in_doubt(proposal: &Proposal) -> InDoubt {
    InDoubt {
        attempt: proposal.row.attempt,
        version: proposal.row.version,
        coordinator: proposal.coordinator,
        basis: proposal.basis,
    }
}

/// The newest version of a path, if it is above `version`.
fn newer<R: Rows>(rows: &mut R, path: &str, version: u64) -> Result<Option<Box<Held>>, R::Error> {
    let newest = rows.versions(path, Query::Newest)?.pop();
    Ok(newest.filter(|newest| newest.row.version > version).map(Box::new))
}

/// Conditional tries on a path.
fn conditional<R: Rows>(rows: &mut R, path: &str) -> Result<Vec<InDoubt>, R::Error> {
    let prepared = rows.prepared_on(path)?;
    Ok(prepared.iter().filter(|proposal| proposal.basis.is_some()).map(in_doubt).collect())
}

fn prepare<R: Rows>(
    rows: &mut R,
    context: &Context,
    around: Surroundings,
    proposal: &Proposal,
) -> Result<Reply, R::Error> {
    let row = &proposal.row;
    let no = |no| Ok(Reply::No(no));
    if context.recovering {
        return no(No::Recovering);
    }
    if let Some(held) = rows.committed(row.attempt.blob_id)?
        && held.row.attempt == row.attempt
    {
        return no(No::Committed(Box::new(held)));
    }
    if rows.is_refused(row.attempt)? {
        return no(No::Refused);
    }
    match rows.prepared(row.attempt.blob_id)? {
        Some(mine) if mine.row.attempt == row.attempt => {
            // Said again: the first answer again. The row lies on the disk that gave it.
            return Ok(Reply::Yes);
        }
        Some(mine) => return no(No::Known(in_doubt(&mine))),
        None => {}
    }
    if let Some(held) = rows.committed(row.attempt.blob_id)? {
        return no(No::Taken(Box::new(held)));
    }
    if proposal.members != context.members {
        return no(No::Fenced);
    }
    if let Some(obstacle) = obstacle(rows, proposal)? {
        return no(obstacle);
    }
    if !around.has_room {
        return no(No::NoSpace);
    }
    if !around.has_data {
        return no(No::NoData);
    }
    rows.prepare(proposal)?;
    Ok(Reply::Yes)
}

/// What is known of the path that stands against a proposal.
fn obstacle<R: Rows>(rows: &mut R, proposal: &Proposal) -> Result<Option<No>, R::Error> {
    let row = &proposal.row;
    if let Some(held) = rows.versions(&row.path, Query::At(row.version))?.pop() {
        return Ok(Some(No::Taken(Box::new(held))));
    }
    let prepared = rows.prepared_on(&row.path)?;
    if let Some(other) = prepared.iter().find(|other| other.row.version == row.version) {
        return Ok(Some(No::InDoubt(in_doubt(other))));
    }
    let committed = rows.versions(&row.path, Query::Newest)?.pop();
    if let Some(basis) = proposal.basis {
        // A try above the basis may become the newest version: its outcome comes first.
        if let Some(other) = prepared.iter().find(|other| other.row.version > basis.version) {
            return Ok(Some(No::InDoubt(in_doubt(other))));
        }
        if committed.as_ref().is_some_and(|newest| newest.row.version > basis.version) {
            return Ok(Some(No::Stale));
        }
        let based_on = rows.versions(&row.path, Query::At(basis.version))?.pop();
        if !basis.tombstoned && based_on.is_some_and(|held| held.tombstoned_at.is_some()) {
            return Ok(Some(No::Stale));
        }
    }
    if proposal.allocated {
        let highest = prepared.iter().map(|other| other.row.version).max();
        let highest = highest.max(committed.map(|newest| newest.row.version)).unwrap_or(0);
        if highest >= row.version {
            return Ok(Some(No::Below(highest)));
        }
    } else {
        // A version between a condition's basis and its try would have changed the judgement.
        let judged_on = |other: &Proposal| {
            other.basis.is_some_and(|basis| basis.version < row.version) && row.version < other.row.version
        };
        if let Some(other) = prepared.iter().find(|other| judged_on(other)) {
            return Ok(Some(No::InDoubt(in_doubt(other))));
        }
    }
    Ok(None)
}

fn commit<R: Rows>(rows: &mut R, context: &Context, row: &Row, votes: &[Signed]) -> Result<Reply, R::Error> {
    let known = rows.committed(row.attempt.blob_id)?.is_some();
    if !known && context.current(votes) < context.write_quorum {
        return Ok(Reply::Fenced);
    }
    take_over(rows, row)?;
    done(rows, context, &row.path, row.version)
}

fn finish<R: Rows>(
    rows: &mut R,
    context: &Context,
    path: &str,
    versions: &[Proven],
) -> Result<Reply, R::Error> {
    for Proven { held, on } in versions {
        // A commit that only a lost disk had may have been aborted since, by those that could not know of it.
        if context.current(on) == 0 && rows.committed(held.row.attempt.blob_id)?.is_none() {
            return Ok(Reply::Fenced);
        }
    }
    for Proven { held, .. } in versions {
        take_over(rows, &held.row)?;
        if let Some(at) = held.tombstoned_at {
            rows.tombstone(&held.row, at)?;
        }
    }
    let highest = versions.iter().map(|version| version.held.row.version).max();
    done(rows, context, path, highest.unwrap_or(0))
}

/// Commits what is known to be decided.
fn take_over<R: Rows>(rows: &mut R, row: &Row) -> Result<(), R::Error> {
    if rows.committed(row.attempt.blob_id)?.is_some() {
        return Ok(());
    }
    match rows.prepared(row.attempt.blob_id)? {
        Some(mine) if mine.row.attempt == row.attempt => rows.commit(row.attempt),
        _ => rows.commit_hollow(row),
    }
}

fn done<R: Rows>(rows: &mut R, context: &Context, path: &str, version: u64) -> Result<Reply, R::Error> {
    Ok(Reply::Done {
        counts: !context.recovering,
        conditional: conditional(rows, path)?,
        newer: newer(rows, path, version)?,
    })
}

fn ask<R: Rows>(rows: &mut R, context: &Context, attempt: Attempt, live: bool) -> Result<Reply, R::Error> {
    let standing = |standing| Ok(Reply::Standing(standing));
    if let Some(held) = rows.committed(attempt.blob_id)?
        && held.row.attempt == attempt
    {
        return standing(Standing::Committed(Box::new(held)));
    }
    if live {
        return standing(Standing::Live);
    }
    if let Some(mine) = rows.prepared(attempt.blob_id)?
        && mine.row.attempt == attempt
    {
        return standing(Standing::Prepared(Box::new(mine)));
    }
    if context.recovering {
        return standing(Standing::Unknown);
    }
    if !rows.is_refused(attempt)? {
        rows.refuse(attempt)?;
    }
    standing(Standing::Refused)
}

fn abort<R: Rows>(
    rows: &mut R,
    context: &Context,
    attempt: Attempt,
    refusals: &[Signed],
) -> Result<Reply, R::Error> {
    if context.current(refusals) < context.refusal_quorum() {
        return Ok(Reply::Fenced);
    }
    if rows.committed(attempt.blob_id)?.is_none_or(|held| held.row.attempt != attempt) {
        if !rows.is_refused(attempt)? {
            rows.refuse(attempt)?;
        }
        rows.forget(attempt)?;
    }
    Ok(Reply::Aborted)
}

fn read<R: Rows>(rows: &mut R, context: &Context, path: &str, query: Query) -> Result<Reply, R::Error> {
    if context.recovering {
        return Ok(Reply::Recovering);
    }
    let mut held = rows.versions(path, query)?;
    if held.is_empty() && matches!(query, Query::At(_)) {
        held = rows.versions(path, Query::Newest)?;
    }
    let prepared = rows.prepared_on(path)?;
    let newest = match (query, held.first()) {
        (Query::Newest, newest) => newest.map(|held| held.row.version),
        _ => rows.versions(path, Query::Newest)?.pop().map(|held| held.row.version),
    };
    let highest = prepared.iter().map(|proposal| proposal.row.version).max().max(newest).unwrap_or(0);
    let hinges = |proposal: &&Proposal| match query {
        Query::At(version) => version == proposal.row.version,
        Query::Newest => proposal.basis.is_some(),
        Query::Below { version, .. } => proposal.basis.is_some() && proposal.row.version < version,
    };
    let complete = match query {
        Query::Below { limit, .. } => held.len() < limit as usize,
        Query::Newest | Query::At(_) => true,
    };
    let in_doubt = prepared.iter().filter(hinges).map(in_doubt).collect();
    Ok(Reply::Known { held, complete, highest, in_doubt })
}
