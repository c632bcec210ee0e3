//! The cluster as one node lives in it: the peer listener's side, the way to other nodes, and the driving of coordinators.
//!
//! What is decided stands in `replication/`; here are sockets, clocks and the metadata threads. A peer that does not answer
//! is lost to whoever asked, who goes on without it if a quorum remains.

mod ask;
mod background;
pub mod cluster;
mod drive;
pub(super) mod link;
mod membership;
mod participate;
pub(super) mod receiving;
mod serve;
pub mod sync;
pub(super) mod upload;
mod uploads;

pub(super) use ask::{ask_list, ask_order};
pub(super) use background::run;
pub(super) use drive::drive;
pub(super) use link::Idle;
pub(super) use serve::handle;
