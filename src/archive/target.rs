//! The store, asked over S3: the one place that knows the client.
//!
//! A request is tried once, and its time is bounded; whoever asks tries again. The client's own checksums are off: what
//! counts is the SHA-256 that a body is sent with, and what the node compares bytes with that come back.

#[cfg(test)]
mod tests;

use std::error::Error;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, Credentials as Keys, Region, RequestChecksumCalculation,
    ResponseChecksumValidation, StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumMode, Object};
use aws_smithy_http_client::Builder as HttpBuilder;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

use super::failure::{Asked, Failure, Kind};
use super::location::Location;
use super::settings::{Credentials, Settings};
use crate::limits::{
    ARCHIVE_CONNECT, ARCHIVE_HEAD_TIME, ARCHIVE_IDLE_TIME, ARCHIVE_PUT_TIME, ARCHIVE_VERSION_PAGES,
};

/// The store, from within one runtime.
#[derive(Clone)]
pub struct Target {
    client: Client,
    bucket: String,
}

/// What the store says of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its bytes.
    pub size: u64,
    /// Its SHA-256, if the store keeps it.
    pub sha256: Option<[u8; 32]>,
}

/// An object as a listing tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Its bytes.
    pub size: u64,
    /// When it was stored, by the store's clock: seconds since 1970.
    pub stored: i64,
}

/// A stretch of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Objects by key.
    pub objects: Vec<Listed>,
    /// Where it goes on; none: that was all.
    pub next: Option<String>,
}

impl Target {
    /// The store that the settings name. Nothing is asked yet.
    ///
    /// # Errors
    /// One line: what of the settings cannot be used.
    pub fn open(settings: &Settings, credentials: Credentials) -> Result<Self, String> {
        let client = match settings.endpoint.as_deref() {
            Some(plain) if plain.starts_with("http://") => HttpBuilder::new().build_http(),
            Some(other) if !other.starts_with("https://") => {
                return Err(format!("archive.endpoint is '{other}': it begins with http:// or https://"));
            }
            _ => HttpBuilder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https(),
        };
        let Credentials { access_key, secret_key, session_token } = credentials;
        let mut config = Builder::new()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .http_client(client)
            .region(Region::new(settings.region.clone()))
            .credentials_provider(Keys::new(access_key, secret_key, session_token, None, "config"))
            .force_path_style(settings.path_style)
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(ARCHIVE_CONNECT).build())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        config.set_endpoint_url(settings.endpoint.clone());
        Ok(Self { client: Client::from_conf(config.build()), bucket: settings.bucket.clone() })
    }

    /// Stores an object; the store compares the body with `sha256`. `body` yields its bytes in order. An object whose
    /// body fails or ends early is [`Kind::Wrong`], and so is one that the store took for another.
    ///
    /// # Errors
    /// What the store or the body said.
    pub async fn put(
        &self,
        to: &Location,
        size: u64,
        sha256: [u8; 32],
        body: Receiver<Result<Bytes, io::Error>>,
    ) -> Result<(), Failure> {
        let what = format!("PUT {to}");
        let wrong = |why: &str| Err(Failure::new(Kind::Wrong, &what, why));
        let hash = BASE64.encode(sha256);
        let progress = Arc::new(Progress { left: AtomicU64::new(size), broken: OnceLock::new() });
        let upload = Upload { pieces: body, progress: Arc::clone(&progress) };
        let request = self.client.put_object().bucket(&to.bucket).key(&to.key);
        let request = request.content_length(i64::try_from(size).unwrap_or(i64::MAX)).checksum_sha256(&hash);
        // The body is signed by its hash, which is signed with the other fields.
        let request = request.body(ByteStream::from_body_1_x(upload)).customize().disable_payload_signing();
        let answer = answered(&what, Asked::Bucket, ARCHIVE_PUT_TIME, Box::pin(request.send())).await;
        if let Some(why) = progress.broken.get() {
            return wrong(why);
        }
        let answer = answer?;
        if progress.left.load(Ordering::Relaxed) > 0 {
            return wrong("the store says that it has it before it has all of its bytes");
        }
        match answer.checksum_sha256() {
            Some(got) if got != hash => {
                wrong(&format!("the store has another SHA-256 than was sent: {got} instead of {hash}"))
            }
            _ => Ok(()),
        }
    }

    /// What the store says of an object.
    ///
    /// # Errors
    /// What it says else.
    pub async fn stat(&self, at: &Location) -> Result<Stat, Failure> {
        let what = format!("HEAD {at}");
        let request = self.client.head_object().bucket(&at.bucket).key(&at.key);
        let request = request.checksum_mode(ChecksumMode::Enabled);
        let answer = answered(&what, Asked::Object, ARCHIVE_HEAD_TIME, Box::pin(request.send())).await?;
        let size = answer.content_length().and_then(|size| u64::try_from(size).ok());
        let size = size.ok_or_else(|| {
            Failure::new(Kind::Unavailable, &what, "the store answers without the object's size")
        })?;
        // What is no such hash is one of hashes of parts, which nobody here has made.
        let sha256 = answer.checksum_sha256().and_then(|told| BASE64.decode(told).ok()?.try_into().ok());
        Ok(Stat { size, sha256 })
    }

    /// The bytes `range` of an object, exactly so many.
    ///
    /// # Errors
    /// What the store says else.
    pub async fn get(&self, at: &Location, range: Range<u64>) -> Result<Vec<u8>, Failure> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let (first, last) = (range.start, range.end - 1);
        let wanted = (range.end - range.start) as usize;
        let what = format!("GET {at}");
        let fails = |kind, why: &str| Err(Failure::new(kind, &what, why));
        let request = self.client.get_object().bucket(&at.bucket).key(&at.key);
        let request = request.range(format!("bytes={first}-{last}"));
        let answer = answered(&what, Asked::Object, ARCHIVE_HEAD_TIME, Box::pin(request.send())).await?;
        let mut body = answer.body;
        let mut bytes: Vec<u8> = Vec::with_capacity(wanted);
        loop {
            match timeout(ARCHIVE_IDLE_TIME, body.next()).await {
                Ok(Some(Ok(piece))) if bytes.len() + piece.len() <= wanted => bytes.extend_from_slice(&piece),
                Ok(Some(Ok(_))) => {
                    return fails(Kind::Wrong, "the store sends more bytes than it was asked for");
                }
                Ok(Some(Err(error))) => {
                    let why = format!("the answer ends after {} bytes: {}", bytes.len(), innermost(&error));
                    return fails(Kind::Unavailable, &why);
                }
                Ok(None) if bytes.len() == wanted => return Ok(bytes),
                Ok(None) => {
                    let why = format!("the store sends {} bytes instead of {wanted}", bytes.len());
                    return fails(Kind::Wrong, &why);
                }
                Err(_) => {
                    let why = format!(
                        "the answer stands still after {} bytes, for {ARCHIVE_IDLE_TIME:?}",
                        bytes.len()
                    );
                    return fails(Kind::Unavailable, &why);
                }
            }
        }
    }

    /// Deletes an object; one that is not there is deleted. A bucket with versions only hides it behind a marker: there all versions
    /// of the key are deleted, as far as the credentials may.
    ///
    /// # Errors
    /// What the store says else.
    pub async fn delete(&self, at: &Location) -> Result<(), Failure> {
        let what = format!("DELETE {at}");
        let request = self.client.delete_object().bucket(&at.bucket).key(&at.key);
        match answered(&what, Asked::Object, ARCHIVE_HEAD_TIME, Box::pin(request.send())).await {
            Ok(answer) if answer.delete_marker == Some(true) => match self.delete_versions(at).await {
                Err(failure) if may_not(&failure) => {
                    tracing::warn!(%failure, "the bucket keeps old versions of an object that was deleted");
                    Ok(())
                }
                Err(failure) => {
                    // Each try would add one.
                    if let Some(marker) = answer.version_id {
                        let _ = self.delete_version(at, marker).await;
                    }
                    Err(failure)
                }
                Ok(()) => Ok(()),
            },
            Err(failure) if failure.kind != Kind::Missing => Err(failure),
            _ => Ok(()),
        }
    }

    /// Deletes all versions of an object, and what marks it as deleted.
    async fn delete_versions(&self, at: &Location) -> Result<(), Failure> {
        let what = format!("LIST versions of {at}");
        for _ in 0..ARCHIVE_VERSION_PAGES {
            let request = self.client.list_object_versions().bucket(&at.bucket).prefix(&at.key);
            let answer = answered(&what, Asked::Object, ARCHIVE_HEAD_TIME, Box::pin(request.send())).await?;
            let versions = answer.versions.unwrap_or_default().into_iter().map(|it| (it.key, it.version_id));
            let markers = answer.delete_markers.unwrap_or_default().into_iter();
            // What marks it goes last: until then it is deleted for all others.
            for (key, version) in versions.chain(markers.map(|it| (it.key, it.version_id))) {
                if let Some(version) = version.filter(|_| key.as_ref() == Some(&at.key)) {
                    self.delete_version(at, version).await?;
                }
            }
            if answer.is_truncated != Some(true) {
                return Ok(());
            }
        }
        Err(Failure::new(Kind::Unavailable, &what, "there are more and more of them"))
    }

    async fn delete_version(&self, at: &Location, version: String) -> Result<(), Failure> {
        let what = format!("DELETE {at} version {version}");
        let request = self.client.delete_object().bucket(&at.bucket).key(&at.key).version_id(version);
        match answered(&what, Asked::Object, ARCHIVE_HEAD_TIME, Box::pin(request.send())).await {
            Err(failure) if failure.kind != Kind::Missing => Err(failure),
            _ => Ok(()),
        }
    }

    /// Objects whose keys begin with `prefix`, some at a time: the first ones, or those from `next` of the stretch before.
    ///
    /// # Errors
    /// What the store says else.
    pub async fn list(&self, prefix: &str, from: Option<&str>) -> Result<Listing, Failure> {
        let what = format!("LIST s3://{}/{prefix}", self.bucket);
        let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(prefix);
        let request = request.set_continuation_token(from.map(ToOwned::to_owned));
        let answer = answered(&what, Asked::Bucket, ARCHIVE_HEAD_TIME, Box::pin(request.send())).await?;
        let next = answer.next_continuation_token.filter(|_| answer.is_truncated == Some(true));
        if answer.is_truncated == Some(true) && (next.is_none() || next.as_deref() == from) {
            let why = "the store says that there is more, and not where it goes on";
            return Err(Failure::new(Kind::Wrong, &what, why));
        }
        let listed = |object: Object| {
            let size = object.size.and_then(|size| u64::try_from(size).ok())?;
            Some(Listed { key: object.key?, size, stored: object.last_modified.map_or(0, |at| at.secs()) })
        };
        Ok(Listing {
            objects: answer.contents.unwrap_or_default().into_iter().filter_map(listed).collect(),
            next,
        })
    }

    /// Whether the bucket can be used at all.
    ///
    /// # Errors
    /// What the store says else.
    pub async fn probe(&self) -> Result<(), Failure> {
        let what = format!("HEAD s3://{}", self.bucket);
        let request = self.client.head_bucket().bucket(&self.bucket);
        answered(&what, Asked::Bucket, ARCHIVE_HEAD_TIME, Box::pin(request.send())).await.map(|_| ())
    }
}

/// Whether a store says that these credentials never may do what was asked, or that it cannot be done: nothing comes of asking again.
fn may_not(failure: &Failure) -> bool {
    const NEVER: [&str; 4] = ["AccessDenied", "answers 400", "answers 405", "answers 501"];
    NEVER.iter().any(|said| failure.message.contains(said))
}

/// Whether the bucket of some settings can be used, asked here and now; the thread waits.
///
/// # Errors
/// One line: what the settings or the store say.
pub fn probe_now(settings: &Settings) -> Result<(), String> {
    let target = Target::open(settings, settings.credentials.load()?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("the store cannot be asked: {error}"))?;
    runtime.block_on(target.probe()).map_err(|failure| failure.message)
}

/// The answer to a request, in time.
async fn answered<T, E>(
    what: &str,
    asked: Asked,
    time: Duration,
    sending: impl Future<Output = Result<T, SdkError<E>>>,
) -> Result<T, Failure>
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let Ok(answer) = timeout(time, sending).await else {
        let why = format!("the store does not answer within {time:?}");
        return Err(Failure::new(Kind::Unavailable, what, &why));
    };
    answer.map_err(|error| failure(what, asked, &error))
}

fn failure<E>(what: &str, asked: Asked, error: &SdkError<E>) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let how = match error {
        SdkError::ServiceError(answer) => {
            let status = answer.raw().status().as_u16();
            return Failure::of_answer(what, asked, status, error.code(), error.message());
        }
        SdkError::ResponseError(_) => "the answer cannot be read",
        SdkError::ConstructionFailure(_) => "the request cannot be made",
        _ => "the store does not answer",
    };
    Failure::new(Kind::Unavailable, what, &format!("{how}: {}", innermost(error)))
}

/// What an error was caused by in the first place.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// How far an upload is.
#[derive(Debug)]
struct Progress {
    left: AtomicU64,
    /// Why the body did not become what it should.
    broken: OnceLock<String>,
}

/// The body of an upload, of a size that is known.
struct Upload {
    pieces: Receiver<Result<Bytes, io::Error>>,
    progress: Arc<Progress>,
}

impl Body for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        let left = this.progress.left.load(Ordering::Relaxed);
        if left == 0 {
            return Poll::Ready(None);
        }
        let error = match ready!(this.pieces.poll_recv(context)) {
            Some(Ok(piece)) if piece.len() as u64 <= left => {
                this.progress.left.store(left - piece.len() as u64, Ordering::Relaxed);
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            Some(Ok(_)) => io::Error::other("what is to be stored is longer than it should be"),
            Some(Err(error)) => error,
            None => io::Error::other(format!("what is to be stored ends {left} bytes early")),
        };
        // The first reason is the one that counts.
        let _ = this.progress.broken.set(error.to_string());
        Poll::Ready(Some(Err(error)))
    }

    fn is_end_stream(&self) -> bool {
        self.progress.left.load(Ordering::Relaxed) == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.progress.left.load(Ordering::Relaxed))
    }
}
