//! The background plane: one thread with a tokio-uring runtime for the admin listener and the sweeper.

mod admin;
mod sweeper;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;

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
) -> io::Result<Background> {
    let (stop, stopped) = oneshot::channel();
    let run = move || {
        tokio_uring::start(async move {
            tokio_uring::spawn(admin::serve(Arc::clone(&node), listener, name, public));
            tokio_uring::spawn(sweeper::watch_space(Arc::clone(&node)));
            tokio_uring::spawn(sweeper::run(node));
            // A sender that is gone is a stop, too.
            let _ = stopped.await;
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
