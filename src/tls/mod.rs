//! Mutual TLS between the nodes of a cluster, ended beside the data path.
//!
//! The cores send and receive on plain sockets. So a relay stands between them and the network: threads of its own hold
//! the TLS connections, and a core gets one end of a socket pair whose bytes are those of the connection. What it sees
//! is what it would see of TCP: half-closes come through in both directions, and a connection that breaks ends early.
//!
//! What always holds: TLS 1.3; both sides show a certificate signed by the cluster's authority; a core never sees a byte
//! of a peer whose name was not verified. A stream that ends without the peer's consent (a cut in transit) ends both directions
//! of the core's socket at once, while a peer that has finished ends just one. On the core's socket both are an end of
//! file, so messages between nodes carry their length, and an early end is a failure.
//!
//! ```text
//! let relay = Relay::start(files, &names, me, threads)?;
//! relay.listen(listener, |peer| hand_over(peer.socket, peer.name))?;
//! let socket = relay.connector().connect(address, "node-2").await?;   // from any runtime
//! ```

mod buffers;
mod identity;
mod pump;
mod reload;
mod session;
#[cfg(test)]
mod tests;
mod threads;
mod verify;

pub use identity::Files;
pub use threads::{Connector, Peer, Relay};
