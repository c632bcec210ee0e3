//! The certificate in use, replaced when its files are.
//!
//! The files are looked at with each handshake: three stats beside a signature. Connections that are open keep what they began
//! with. Files that cannot be used (half of them is replaced, say) change nothing but the log, once for each change.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::identity::{Files, Identity};
use super::verify::Names;

/// What tells a replaced file: inode, size, time of the last change in seconds and nanoseconds.
type Stamp = Option<(u64, u64, i64, i64)>;

pub(super) struct Identities {
    files: Files,
    me: String,
    pub(super) names: Arc<Names>,
    current: Mutex<([Stamp; 3], Arc<Identity>)>,
}

impl Identities {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// One line: what cannot be used, and the way out.
    pub(super) fn new(files: Files, names: &[String], me: &str) -> Result<Self, String> {
        let names = Arc::new(Names::new(names)?);
        let stamps = stamps(&files);
        let identity = Arc::new(files.load(&names, me)?);
        Ok(Self { files, me: me.to_owned(), names, current: Mutex::new((stamps, identity)) })
    }

    /// What is to be used now.
    pub(super) fn current(&self) -> Arc<Identity> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the files are read: what is written meanwhile is seen the next time.
        let stamps = stamps(&self.files);
        if stamps != current.0 {
            current.0 = stamps;
            match self.files.load(&self.names, &self.me) {
                Ok(identity) => {
                    tracing::info!(certificate = %self.files.certificate.display(), "certificate replaced");
                    current.1 = Arc::new(identity);
                }
                Err(error) => {
                    tracing::warn!(%error, "the files of TLS changed; the old certificate stays in use");
                }
            }
        }
        Arc::clone(&current.1)
    }
}

fn stamps(files: &Files) -> [Stamp; 3] {
    let stamp = |path: &Path| {
        fs::metadata(path).ok().map(|meta| (meta.ino(), meta.size(), meta.ctime(), meta.ctime_nsec()))
    };
    [stamp(&files.certificate), stamp(&files.key), stamp(&files.authority)]
}
