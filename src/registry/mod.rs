//! How the nodes of a cluster find each other, and see who is there.
//!
//! `Registry` is what a backend can do: `embedded` (the addresses are in the config), `redis`, `etcd`. [`driver`] runs it
//! and keeps the [`directory`] that the rest of the node reads. No promise rests on it: what it says may be late, wrong or
//! gone, and a node then goes on with what it last knew. It may hide a node; it cannot change what a write came to.

pub mod directory;
pub mod driver;
mod embedded;
mod etcd;
mod http;
pub mod record;
mod redis;
pub mod settings;

/// The way out where a server does not take the user or the password.
const CHECK_PASSWORD: &str =
    ": check registry.username and registry.password_file or AMBERBLOB_REGISTRY__PASSWORD";

/// Why the registry did not do what it was asked, in one line. It may have done it all the same.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
struct Trouble(String);

impl Trouble {
    fn new(text: impl std::fmt::Display) -> Self {
        Self(text.to_string().split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

/// What was seen of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Sighting {
    /// Its announcement, whose lease is alive.
    Announced(String),
    /// It answered, and said whether it serves.
    Answered { serving: bool },
    /// Nothing.
    Nothing,
}

/// A place where nodes announce themselves under their names for as long as a lease is renewed.
///
/// Every call may be given up at any point: what it had under way is then dropped with its connection, and the next call
/// starts anew, with another server if there are several.
trait Registry {
    /// Writes the charter of the cluster unless there is one, and returns the one there is.
    async fn form(&mut self, charter: &str) -> Result<String, Trouble>;
    /// Announces this node unless somebody is announced under its name, who is returned.
    async fn claim(&mut self, record: &str) -> Result<Option<String>, Trouble>;
    /// Announces this node for another lease and returns what stood there.
    async fn announce(&mut self, record: &str) -> Result<Option<String>, Trouble>;
    /// Looks for all nodes, in the order of the topology.
    async fn look(&mut self) -> Result<Vec<Sighting>, Trouble>;
    /// Takes the announcement back.
    async fn withdraw(&mut self) -> Result<(), Trouble>;
}
