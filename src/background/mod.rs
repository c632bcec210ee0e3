//! The background plane: a thread with a tokio-uring runtime for the admin listener, the sweeper and the registry, another one for
//! the scrub, and one that talks to the archive, if there is one.

mod admin;
mod archive;
mod disks;
mod health;
mod operations;
mod overview;
mod scrub;
mod sweeper;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;
use tokio::time::timeout;

use self::overview::Overview;
pub use self::scrub::Settings;
use crate::limits::REGISTRY_TIME;
use crate::registry::driver::Member;
use crate::shard::node::Node;

/// The running background threads.
pub struct Background {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
    /// Ends when the other one has, which asks it.
    scrub: JoinHandle<()>,
    /// Ends when the first one has, too.
    archive: Option<JoinHandle<()>>,
}

/// Starts the background threads.
///
/// # Errors
/// When a thread cannot be started, or there is nothing that the archive could be asked with.
pub fn start(
    node: Arc<Node>,
    listener: TcpListener,
    name: String,
    public: SocketAddr,
    member: Option<Member>,
    scrub: Settings,
    archive: Option<crate::archive::settings::Settings>,
) -> io::Result<Background> {
    let (stop, stopped) = oneshot::channel();
    let (ask_scrub, scrub) = scrub::start(Arc::clone(&node), scrub)?;
    let archive = archive.map(|settings| archive::start(Arc::clone(&node), settings)).transpose()?;
    let (ask_archive, archive) = archive.unzip();
    let run = move || {
        tokio_uring::start(async move {
            let overview = Overview::new(Arc::clone(&node), name, public, member.as_ref());
            tokio_uring::spawn(admin::serve(Arc::clone(&node), listener, overview, ask_scrub, ask_archive));
            disks::watch(&node);
            tokio_uring::spawn(sweeper::run(Arc::clone(&node)));
            let (leave, leaving) = oneshot::channel();
            let membership = member.map(|member| {
                let topology = Arc::clone(member.directory().topology());
                let health = Box::new(move || health::of(&node, &topology));
                tokio_uring::spawn(member.run(health, leaving))
            });
            // A sender that is gone is a stop, too.
            let _ = stopped.await;
            drop(leave);
            if let Some(membership) = membership {
                // What is not taken back in time ends with its lease.
                let _ = timeout(REGISTRY_TIME, membership).await;
            }
        });
    };
    let thread = thread::Builder::new().name("background".to_owned()).spawn(run)?;
    Ok(Background { stop, thread, scrub, archive })
}

impl Background {
    /// Ends it.
    pub fn stop(self) {
        let _ = self.stop.send(());
        for thread in [self.thread, self.scrub].into_iter().chain(self.archive) {
            if thread.join().is_err() {
                tracing::error!("a background thread ended in a panic");
            }
        }
    }
}
