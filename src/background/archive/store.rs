//! The store as orders, reads and the clean-up use it: with bounded tries, counted, and with new credentials once the old ones
//! are refused.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, sleep_until};

use super::budget::Pace;
use crate::archive::failure::{Failure, Kind};
use crate::archive::settings::{Credentials, CredentialsFrom, Settings};
use crate::archive::target::Target;
use crate::limits::{ARCHIVE_CREDENTIALS_PAUSE, ARCHIVE_RETRY_PAUSE};
use crate::metrics::ArchiveLabels;
use crate::shard::archive::desk::Desk;
use crate::shard::node::Node;

/// The store.
pub(super) struct Store {
    node: Arc<Node>,
    desk: Arc<Desk>,
    settings: Settings,
    /// Which credentials these are, counted, and who has them.
    target: RefCell<(u64, Target)>,
    /// The credentials.
    known: RefCell<Credentials>,
    /// When they were read again last.
    renewed: Mutex<Option<Instant>>,
    /// How many requests a second the background may make.
    pace: Option<Pace>,
}

impl Store {
    /// To be made inside of the runtime.
    ///
    /// # Errors
    /// Those of [`Target::open`].
    pub(super) fn open(
        node: Arc<Node>,
        desk: Arc<Desk>,
        settings: Settings,
        credentials: Credentials,
    ) -> Result<Self, String> {
        let target = RefCell::new((0, Target::open(&settings, credentials.clone())?));
        let known = RefCell::new(credentials);
        let pace = (settings.requests > 0).then(|| Pace::new(settings.requests, Instant::now()));
        Ok(Self { node, desk, settings, target, known, renewed: Mutex::default(), pace })
    }

    /// Waits until the background may ask once more. What clients read waits for nothing.
    pub(super) async fn pace(&self) {
        if let Some(pace) = &self.pace {
            sleep_until(pace.reserve(1, Instant::now()).into()).await;
        }
    }

    /// Who asks, and by which credentials.
    pub(super) fn target(&self) -> (u64, Target) {
        self.target.borrow().clone()
    }

    /// Asks about something in `bucket`, several times if that may help.
    ///
    /// # Errors
    /// That of the last try.
    pub(super) async fn ask<T>(
        &self,
        operation: &'static str,
        bucket: &str,
        tries: u32,
        step: impl AsyncFn(Target) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut failed = 0;
        loop {
            let (credentials, target) = self.target();
            let outcome = step(target).await;
            self.note(operation, bucket, &outcome);
            let failure = match outcome {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            failed += 1;
            if !self.is_worth_a_try(&failure, credentials).await || failed >= tries {
                return Err(failure);
            }
            sleep(pause(failed)).await;
        }
    }

    /// Counts what became of a request. Another bucket than the one of the config says nothing about the store.
    pub(super) fn note<T>(&self, operation: &'static str, bucket: &str, outcome: &Result<T, Failure>) {
        let name = match outcome {
            Ok(_) => "ok",
            Err(failure) => name_of(failure.kind),
        };
        let labels = ArchiveLabels { operation, outcome: name };
        self.node.metrics.archive.requests.get_or_create(&labels).inc();
        if bucket == self.settings.bucket {
            self.desk.health.note(outcome.as_ref().map(|_| ()), Instant::now());
        }
        if let Err(failure) = outcome {
            tracing::debug!(operation, %failure, "a request to the archive failed");
        }
    }

    /// Whether a failure may be gone with the next try; `credentials` are those that it was met with.
    pub(super) async fn is_worth_a_try(&self, failure: &Failure, credentials: u64) -> bool {
        match failure.kind {
            Kind::Missing => false,
            Kind::Denied => self.renew(credentials).await,
            Kind::Busy | Kind::Unavailable | Kind::Wrong => true,
        }
    }

    /// Reads the credentials again, if that was not done just now; whether there are others than those that were refused.
    async fn renew(&self, refused: u64) -> bool {
        if matches!(self.settings.credentials, CredentialsFrom::Environment(_)) {
            return false;
        }
        let mut renewed = self.renewed.lock().await;
        if self.target().0 != refused {
            return true;
        }
        if renewed.is_some_and(|at| at.elapsed() < ARCHIVE_CREDENTIALS_PAUSE) {
            return false;
        }
        *renewed = Some(Instant::now());
        let from = self.settings.credentials.clone();
        let loaded = spawn_blocking(move || from.load()).await.map_err(|error| error.to_string());
        let opened = loaded.flatten().and_then(|credentials| {
            if *self.known.borrow() == credentials {
                return Ok(None);
            }
            let target = Target::open(&self.settings, credentials.clone())?;
            Ok(Some((credentials, target)))
        });
        match opened {
            Ok(Some((credentials, target))) => {
                *self.known.borrow_mut() = credentials;
                *self.target.borrow_mut() = (refused + 1, target);
                true
            }
            Ok(None) => false,
            Err(error) => {
                tracing::warn!(%error, "the archive refuses the credentials, and there are no others");
                false
            }
        }
    }
}

/// How long to wait after so many tries.
pub(super) fn pause(tried: u32) -> Duration {
    ARCHIVE_RETRY_PAUSE * 2_u32.saturating_pow(tried.saturating_sub(1).min(8))
}

const fn name_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Missing => "missing",
        Kind::Denied => "denied",
        Kind::Busy => "busy",
        Kind::Unavailable => "unavailable",
        Kind::Wrong => "wrong",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_from_try_to_try_and_stays_bounded() {
        assert_eq!(pause(1), ARCHIVE_RETRY_PAUSE);
        assert_eq!(pause(2), ARCHIVE_RETRY_PAUSE * 2);
        assert_eq!(pause(u32::MAX), ARCHIVE_RETRY_PAUSE * 256);
    }
}
