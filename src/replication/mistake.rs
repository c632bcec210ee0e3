//! Mistakes that tests plant in the protocol, to show that the checkers would notice them. Not part of the server.

use std::cell::Cell;

/// A rule that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mistake {
    /// Every "no" counts as a refusal, durable or not.
    NoCountsAsRefusal,
    /// Another version is tried although the last try may still be decided.
    NextVersionWithoutRefusals,
    /// The sweep deletes files without a refusal on record.
    SweepWithoutRefusal,
    /// Reads do not ask for tombstones.
    TombstonesLeftOutOfReads,
    /// A read is answered from what is not on disk yet.
    ReadsAboveTheSynced,
    /// The client is answered before a write quorum has the commit.
    CommitBelowQuorum,
    /// A yes leaves before it is on disk.
    VoteBeforeSync,
    /// Rows are handed over while commits that were judged before the new disk was recorded are not on disk yet.
    HandOverWithoutBarrier,
    /// A replaced disk goes on as if it were the old one.
    WipedDiskVotes,
    /// An object of the archive is deleted once a write quorum has condemned it.
    CondemnedByQuorum,
    /// A row is taken that names a condemned object.
    CondemnedKeyNamedAgain,
    /// A file goes although fewer than a write quorum know where its chunk is.
    DroppedOnOwnRow,
    /// A disk is handed the versions alone, without the rows of the archive.
    HandOverWithoutArchive,
    /// What the disk that was there before has answered counts for the one that is there now.
    AnswersOfTwoViewsAdded,
}

thread_local! {
    static PLANTED: Cell<Option<Mistake>> = const { Cell::new(None) };
}

/// Whether a mistake is planted for the step that runs now.
pub(crate) fn is_planted(mistake: Mistake) -> bool {
    PLANTED.get() == Some(mistake)
}

/// Runs a step with a mistake planted.
pub(crate) fn with<T>(mistake: Option<Mistake>, step: impl FnOnce() -> T) -> T {
    let before = PLANTED.replace(mistake);
    let result = step();
    PLANTED.set(before);
    result
}
