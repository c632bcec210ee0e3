//! What a handler answers with, before it is bytes.

use monoio::time::timeout;
use serde::Serialize;

use super::core::Core;
use super::forward::Relay;
use super::read_ahead::ReadAhead;
use crate::base::error::{Code, Error};
use crate::base::topology::NodeId;
use crate::io::budget::Share;
use crate::limits::{BUFFER_WAIT, ENTRY_SIZE};
use crate::wire::forward::Scope;
use crate::wire::multipart::Multipart;
use crate::wire::range::ByteRange;
use crate::wire::response::ResponseHead;

/// A response.
pub(super) struct Reply {
    pub(super) status: u16,
    /// Everything but `Date` and `Connection`.
    pub(super) head: ResponseHead,
    pub(super) body: ReplyBody,
}

/// A response's body.
pub(super) enum ReplyBody {
    Empty,
    Bytes(Vec<u8>),
    /// A listing, with its share of what listings may hold.
    Page(Vec<u8>, Share),
    /// A range that is not empty; its first bytes were read before the head goes out.
    Blob(ReadAhead),
    /// Another node's answer.
    Relay(Box<Relay>),
    /// Several ranges, of which the first is being read.
    Multipart {
        first: ReadAhead,
        ranges: Vec<ByteRange>,
        multipart: Multipart,
    },
}

impl Reply {
    /// A response without a body, and without a `Content-Length`.
    pub(super) fn empty(status: u16, head: ResponseHead) -> Self {
        Self { status, head, body: ReplyBody::Empty }
    }

    /// A JSON response.
    pub(super) fn json(status: u16, value: &impl Serialize) -> Self {
        Self::json_with(status, ResponseHead::new(status), value)
    }

    /// A listing.
    pub(super) fn page(value: &impl Serialize, share: Share) -> Self {
        // See below.
        Self::page_of("application/json", serde_json::to_vec(value).unwrap_or_default(), share)
    }

    /// A listing that is written already.
    pub(super) fn page_of(content_type: &str, body: Vec<u8>, share: Share) -> Self {
        let head =
            ResponseHead::new(200).header("Content-Type", content_type).header("Content-Length", body.len());
        Self { status: 200, head, body: ReplyBody::Page(body, share) }
    }

    /// A JSON response with more fields.
    pub(super) fn json_with(status: u16, head: ResponseHead, value: &impl Serialize) -> Self {
        // The types of this crate serialize: maps have string keys and nothing fails on its own.
        let body = serde_json::to_vec(value).unwrap_or_default();
        let head = head.header("Content-Type", "application/json").header("Content-Length", body.len());
        Self { status, head, body: ReplyBody::Bytes(body) }
    }
}

/// Waits for room for a listing of `entries`.
pub(super) async fn room_for_page(core: &Core, entries: usize) -> Result<Share, Failure> {
    match timeout(BUFFER_WAIT, core.pages.take(entries * ENTRY_SIZE)).await {
        Ok(share) => Ok(share),
        Err(_) => refuse(
            Code::SlotUnavailable,
            "too many listings are being sent on this core: try again, or ask for less",
        ),
    }
}

/// Why a request gets no reply of its own.
pub(super) enum Failure {
    /// An error goes to the client, with more header fields.
    Refused(Error, Vec<(&'static str, String)>),
    /// The client is gone; there is nobody to answer.
    Gone,
    /// Not here: one of these nodes is to be asked, the first ones first.
    Elsewhere(Vec<NodeId>, Scope),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let fields = match error.code {
            Code::QuorumUnavailable | Code::SlotUnavailable | Code::OutcomeUnknown => {
                vec![("Retry-After", "1".to_owned())]
            }
            _ => Vec::new(),
        };
        Self::Refused(error, fields)
    }
}

/// What handlers return.
pub(super) type Handled = Result<Reply, Failure>;

/// A refusal as a handler's result.
pub(super) fn refuse<T>(
    code: Code,
    message: impl Into<std::borrow::Cow<'static, str>>,
) -> Result<T, Failure> {
    Err(Error::new(code, message).into())
}
