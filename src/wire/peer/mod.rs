//! What nodes say to one another: the messages of the two-phase commit (RFC 0003), as bytes.
//!
//! Encoded by `postcard`; the version of the protocol stands in a header field of every exchange, so bytes here need
//! none. Whatever a peer sends, decoding answers with a value or an error; a length is never believed before its bytes
//! are there.

pub mod archive;
pub mod cluster;
pub mod list;
pub mod sync;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::base::clock::Timestamp;
use crate::base::error::{Code, Error, Result};
use crate::base::ids::BlobId;
use crate::base::topology::NodeId;

/// One try to make a blob a version of its path. Another try of the same upload has another ballot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attempt {
    /// The blob.
    pub blob_id: BlobId,
    /// Which try.
    pub ballot: u32,
}

/// SHA-256 over a blob's size and the ids of its chunks: equal for equal bytes, whatever the blob is called.
pub type Content = [u8; 32];

/// A version as all replicas know it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Row {
    /// Its path.
    pub path: String,
    /// Its number.
    pub version: u64,
    /// The try that made it.
    pub attempt: Attempt,
    /// Bytes.
    pub size: u64,
    /// What the bytes are.
    pub content: Content,
    /// When it was proposed.
    pub created_at: Timestamp,
    /// Stored header fields, opaque here.
    pub headers: String,
}

/// A committed version as one replica has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Held {
    /// The version.
    pub row: Row,
    /// When it was deleted.
    pub tombstoned_at: Option<Timestamp>,
    /// Whether this replica lacks its chunks.
    pub hollow: bool,
}

/// The identity of a replica: that of the disk it lies on.
pub type Identity = u128;

/// A disk of a node as the others know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// How often the disk was replaced.
    pub generation: u32,
    /// The identity of the disk.
    pub identity: Identity,
}

/// The replicas of a slot, in the order of their nodes.
pub type Members = Vec<Member>;

/// What a conditional PUT was judged on: the newest version of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Basis {
    /// Its number; 0: there is none.
    pub version: u64,
    /// Whether it was deleted.
    pub tombstoned: bool,
}

/// What replicas vote about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Proposal {
    /// The version to be.
    pub row: Row,
    /// Whether the coordinator chose the number: it must then be above everything known of the path.
    pub allocated: bool,
    /// What the condition of the request was judged on, if it has one that depends on the newest version.
    pub basis: Option<Basis>,
    /// Who coordinates.
    pub coordinator: NodeId,
    /// The replicas as the coordinator knows them: all votes of a try are theirs.
    pub members: Members,
}

/// A try without an outcome, at a replica that voted yes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InDoubt {
    /// The try.
    pub attempt: Attempt,
    /// The version it wants to be.
    pub version: u64,
    /// Who coordinates it.
    pub coordinator: NodeId,
    /// What its condition was judged on, if it has one that depends on the newest version.
    pub basis: Option<Basis>,
}

impl InDoubt {
    /// Whether an answer that shows `newest` as the newest version could not be given if this try had become a version before: it was
    /// judged on something else, and would be newer.
    pub fn contradicts(&self, newest: Option<&Held>) -> bool {
        let shown = newest.map_or(Basis { version: 0, tombstoned: false }, |held| Basis {
            version: held.row.version,
            tombstoned: held.tombstoned_at.is_some(),
        });
        self.version > shown.version && self.basis.is_some_and(|basis| basis != shown)
    }
}

/// Which versions of a path are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Query {
    /// The newest.
    Newest,
    /// This one. Where it is not there, the answer has the newest: that must be known at a quorum before it is said that this one is not there.
    At(u64),
    /// Those below a number, newest first.
    Below {
        /// The number.
        version: u64,
        /// So many at most.
        limit: u32,
    },
}

/// A vote or a refusal, and whose it is.
pub type Signed = (NodeId, Identity);

/// A committed version, and what shows that it is one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Proven {
    /// The version.
    pub held: Held,
    /// Replicas that have it on disk; one whose disk was replaced since proves nothing.
    pub on: Vec<Signed>,
}

/// What a replica is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Request {
    /// To vote; a blob that makes no file comes along as its bytes.
    Prepare {
        /// What about.
        proposal: Proposal,
        /// The bytes of a small blob.
        inline: Option<Bytes>,
    },
    /// To make a decided version visible.
    Commit {
        /// The version.
        row: Row,
        /// The yes votes that decided it.
        votes: Vec<Signed>,
    },
    /// How a try stands; one that is not known is refused for good.
    Ask {
        /// Its path.
        path: String,
        /// The try.
        attempt: Attempt,
        /// Whether a coordinator that still works on it may say so instead.
        patient: bool,
    },
    /// To let go of a try that cannot be decided any more.
    Abort {
        /// Its path.
        path: String,
        /// The try.
        attempt: Attempt,
        /// Those that refused it.
        refusals: Vec<Signed>,
    },
    /// What is known of a path.
    Read {
        /// The path.
        path: String,
        /// Which versions.
        query: Query,
    },
    /// To take over versions that some replica has committed, and tombstones.
    Finish {
        /// The path.
        path: String,
        /// The versions.
        versions: Vec<Proven>,
    },
    /// About chunks in the archive (RFC 0005).
    Archive(archive::Request),
}

impl Request {
    /// The path it is about.
    pub fn path(&self) -> &str {
        match self {
            Self::Prepare { proposal, .. } => &proposal.row.path,
            Self::Commit { row, .. } => &row.path,
            Self::Ask { path, .. }
            | Self::Abort { path, .. }
            | Self::Read { path, .. }
            | Self::Finish { path, .. } => path,
            Self::Archive(request) => request.path(),
        }
    }
}

/// Why a replica does not vote yes. Only [`No::Refused`] is durable; the others are answers of the moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum No {
    /// The try was refused for good.
    Refused,
    /// The replica knows other replicas than the proposal does.
    Fenced,
    /// It is the version already.
    Committed(Box<Held>),
    /// The blob is known by another try.
    Known(InDoubt),
    /// The version exists.
    Taken(Box<Held>),
    /// A try without an outcome stands in the way.
    InDoubt(InDoubt),
    /// The number is not above everything known of the path.
    Below(u64),
    /// The path has changed since the condition was judged.
    Stale,
    /// The disk is full.
    NoSpace,
    /// The bytes are not here, or are not what they should be.
    NoData,
    /// The replica has lost its memory and does not have it back yet.
    Recovering,
}

/// How a try stands at a replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Standing {
    /// It is a version.
    Committed(Box<Held>),
    /// The replica voted yes.
    Prepared(Box<Proposal>),
    /// It was refused for good.
    Refused,
    /// The coordinator still works on it.
    Live,
    /// The replica has lost its memory.
    Unknown,
}

/// What a replica answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Reply {
    /// To [`Request::Prepare`].
    Yes,
    /// To [`Request::Prepare`].
    No(No),
    /// To [`Request::Commit`] and [`Request::Finish`]: done and on disk.
    Done {
        /// Whether it counts; that of a recovering replica does not.
        counts: bool,
        /// Conditional tries prepared on the path.
        conditional: Vec<InDoubt>,
        /// The newest version, if it is above those of the request: it may be on fewer than a write quorum.
        newer: Option<Box<Held>>,
    },
    /// To [`Request::Commit`], [`Request::Finish`] and [`Request::Abort`]: what it rests on is not what this replica knows.
    Fenced,
    /// To [`Request::Abort`].
    Aborted,
    /// To [`Request::Ask`].
    Standing(Standing),
    /// To [`Request::Read`].
    Known {
        /// Versions, newest first.
        held: Vec<Held>,
        /// Whether there are no more below them.
        complete: bool,
        /// The highest number known, of tries too.
        highest: u64,
        /// Tries for the very version that was asked for; else conditional ones.
        in_doubt: Vec<InDoubt>,
    },
    /// To [`Request::Archive`].
    Archive(archive::Reply),
    /// The replica has lost its memory.
    Recovering,
    /// The replica cannot say: its slot is out of service.
    Unavailable(String),
}

/// An answer and the replicas as the answering node had them on disk when it gave it: among them the disk that the answer stands for. Answers are
/// counted together only while none of them knows that the disk of another was replaced.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Response {
    /// The replicas.
    pub members: Members,
    /// The answer.
    pub reply: Reply,
}

/// A message as bytes.
///
/// # Errors
/// `Internal`, if it cannot be encoded, which no message of this module is.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>> {
    postcard::to_stdvec(message).map_err(|error| Error::new(Code::Internal, error.to_string()))
}

/// A message from bytes, all of them.
///
/// # Errors
/// `BadRequest`.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => {
            Err(Error::new(Code::BadRequest, format!("a peer's message has {} bytes too many", rest.len())))
        }
        Err(error) => Err(Error::new(Code::BadRequest, format!("a peer's message cannot be read: {error}"))),
    }
}
