//! Metadata: one SQLite database per slot, and one derived listing index per disk.
//!
//! What always holds: only a slot's writer changes its database; nothing is answered before its commit is on disk;
//! a slot whose database is damaged is out of service, and no other slot is. SQLite runs on threads of its own, never
//! on a ring's thread.

mod absent;
mod apply;
pub mod archives;
mod aside;
mod batch;
mod birth;
pub mod births;
mod commit;
mod databases;
mod digests;
pub mod index;
mod index_db;
pub mod journal;
mod newborn;
mod op;
mod page;
mod pending;
#[cfg(test)]
mod power_cut;
mod query;
mod queue;
pub mod reader;
mod record;
pub mod replica;
pub mod schema;
mod settle;
pub mod slots;
pub mod types;
pub mod whole;
pub mod writer;
