//! The background plane: one thread with a tokio-uring runtime for the admin listener, the sweeper, the scrub and the registry.
//! Where it shares a processor with a core that serves, that core comes first.

mod admin;
mod disks;
mod health;
mod operations;
mod overview;
mod scrub;
mod sweeper;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rustix::process::setpriority_process;
use tokio::sync::oneshot;
use tokio::time::timeout;

use self::overview::Overview;
use self::scrub::Scrubber;
pub use self::scrub::Settings;
use crate::limits::{BACKGROUND_NICE, REGISTRY_TIME};
use crate::registry::driver::Member;
use crate::shard::node::Node;

/// The running background thread.
pub struct Background {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// Starts the background thread.
///
/// # Errors
/// When the thread cannot be started.
pub fn start(
    node: Arc<Node>,
    listener: TcpListener,
    name: String,
    public: SocketAddr,
    member: Option<Member>,
    scrub: Settings,
) -> io::Result<Background> {
    let (stop, stopped) = oneshot::channel();
    let run = move || {
        // Of this thread alone, and those that it starts.
        if let Err(error) = setpriority_process(None, BACKGROUND_NICE) {
            tracing::warn!(%error, "the background thread takes as much of a processor as those that serve");
        }
        tokio_uring::start(async move {
            let overview = Overview::new(Arc::clone(&node), name, public, member.as_ref());
            let scrubber = Scrubber::start(Arc::clone(&node), scrub);
            tokio_uring::spawn(admin::serve(Arc::clone(&node), listener, overview, Rc::clone(&scrubber)));
            tokio_uring::spawn(scrubber.run());
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
    Ok(Background { stop, thread })
}

impl Background {
    /// Ends it.
    pub fn stop(self) {
        let _ = self.stop.send(());
        if self.thread.join().is_err() {
            tracing::error!("the background thread ended in a panic");
        }
    }
}
