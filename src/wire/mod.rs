//! HTTP/1.1 on the wire (RFC 9110, 9112, 9530): bytes to types and back, without sockets and without a clock.
//!
//! Whatever a client sends, a function here answers with a value or with an
//! [`Error`](crate::base::error::Error) for that client; none panics on input, and none keeps more than
//! `limits.rs` allows.

pub mod answer;
pub mod chunked;
pub mod condition;
pub mod digest;
mod entity_tag;
pub mod forward;
mod framing;
pub mod head;
mod headers;
pub mod multipart;
pub mod peer;
pub mod query;
pub mod range;
pub mod request;
pub mod response;
mod scan;
#[cfg(test)]
mod smuggling;
mod target;
