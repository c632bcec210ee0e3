//! The errors a client can see: one list of codes, each with its status, and a message that names the thing,
//! the cause and the way out.

use std::borrow::Cow;

/// What went wrong, as the client reads it in `error.code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// 400: a malformed request.
    BadRequest,
    /// 400: a path no blob can have.
    InvalidPath,
    /// 400: the body does not have the digest that the client announced.
    DigestMismatch,
    /// 404: no such blob, or its newest version is a tombstone.
    BlobNotFound,
    /// 405: a known method that this resource does not have.
    MethodNotAllowed,
    /// 408: the client was too slow.
    RequestTimeout,
    /// 409: the version exists with other bytes, or is tombstoned.
    VersionConflict,
    /// 412: a condition of the request does not hold.
    PreconditionFailed,
    /// 413: larger than any blob may be.
    TooLarge,
    /// 414: the request line is too long.
    UriTooLong,
    /// 416: no byte of the range exists.
    RangeNotSatisfiable,
    /// 417: an expectation other than `100-continue`.
    ExpectationFailed,
    /// 431: the header section is too large.
    HeadersTooLarge,
    /// 500: the server's own failure.
    Internal,
    /// 501: an unknown method or transfer coding, or a reserved feature.
    NotImplemented,
    /// 503: less than a quorum of the slot's replicas can be asked.
    QuorumUnavailable,
    /// 503: this slot is out of service for now.
    SlotUnavailable,
    /// 503: the write may or may not have happened; ask again.
    OutcomeUnknown,
    /// 507: the disk is full.
    DiskFull,
}

impl Code {
    /// The HTTP status code.
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest | Self::InvalidPath | Self::DigestMismatch => 400,
            Self::BlobNotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::VersionConflict => 409,
            Self::PreconditionFailed => 412,
            Self::TooLarge => 413,
            Self::UriTooLong => 414,
            Self::RangeNotSatisfiable => 416,
            Self::ExpectationFailed => 417,
            Self::HeadersTooLarge => 431,
            Self::Internal => 500,
            Self::NotImplemented => 501,
            Self::QuorumUnavailable | Self::SlotUnavailable | Self::OutcomeUnknown => 503,
            Self::DiskFull => 507,
        }
    }

    /// The name in the error body.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "BadRequest",
            Self::InvalidPath => "InvalidPath",
            Self::DigestMismatch => "DigestMismatch",
            Self::BlobNotFound => "BlobNotFound",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::RequestTimeout => "RequestTimeout",
            Self::VersionConflict => "VersionConflict",
            Self::PreconditionFailed => "PreconditionFailed",
            Self::TooLarge => "TooLarge",
            Self::UriTooLong => "UriTooLong",
            Self::RangeNotSatisfiable => "RangeNotSatisfiable",
            Self::ExpectationFailed => "ExpectationFailed",
            Self::HeadersTooLarge => "HeadersTooLarge",
            Self::Internal => "Internal",
            Self::NotImplemented => "NotImplemented",
            Self::QuorumUnavailable => "QuorumUnavailable",
            Self::SlotUnavailable => "SlotUnavailable",
            Self::OutcomeUnknown => "OutcomeUnknown",
            Self::DiskFull => "DiskFull",
        }
    }
}

/// An error on its way to the client.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {message}", .code.name())]
pub struct Error {
    /// Which error.
    pub code: Code,
    /// One line for a person: the thing, the cause, the way out.
    pub message: Cow<'static, str>,
}

impl Error {
    /// An error with a message.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into() }
    }
}

/// `Result` with the client-visible [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
