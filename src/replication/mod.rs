//! The two-phase commit of RFC 0003, without sockets, clocks or randomness: time is an argument, storage is a trait.
//!
//! A participant is a set of functions over what a replica stores, each run in one transaction of the slot's writer; its
//! answer leaves when the transaction is on disk. A coordinator is a machine: `step(now, event)` gives requests to send, and once
//! an outcome. The server, a simulator and a model checker drive the same ones.

pub mod archive;
pub mod attempt;
pub mod condemn;
pub mod delete;
mod everyone;
pub mod get;
pub mod machine;
#[cfg(test)]
mod mistake;
pub mod participant;
pub mod put;
pub mod read;
pub mod roster;
pub mod settle;
pub mod spread;
#[cfg(test)]
mod tests;
