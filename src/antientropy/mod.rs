//! Anti-entropy (RFC 0004): what makes two replicas of a slot equal again, without IO.
//!
//! [`digest`] makes items of rows and digests of items; [`pieces`] cuts a stretch of rows and sums given stretches up;
//! [`reconcile`] finds out what one replica lacks of another one's rows.
//!
//! What always holds: nothing here decides anything; what comes out is what to ask for. Whatever the other side answers, the
//! number of questions and what is held in memory is bounded by the rows of both sides and by `limits`.

pub mod digest;
pub mod pieces;
pub mod reconcile;
#[cfg(test)]
mod tests;
