//! Names that earlier releases used.

pub use crate::base::error::Code as ErrorCode;
pub use crate::base::parts::ChunkRef as ChunkInfo;
pub use crate::meta::types::BlobMeta as ObjectMeta;

/// Earlier name of [`ErrorCode::BlobNotFound`].
#[expect(non_upper_case_globals, reason = "it was an enum variant")]
pub const ObjectNotFound: ErrorCode = ErrorCode::BlobNotFound;
