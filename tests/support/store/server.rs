//! An S3 store in this process: it verifies signatures and digests, and keeps each object as a file.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpError, HttpResponse};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::support::damage::flip;
use super::support::plain_files;

pub const BUCKET: &str = "amberblob-test";
pub const ACCESS_KEY: &str = "AKIAIOSFODNN7EXAMPLE";
pub const SECRET_KEY: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

pub struct Store {
    pub address: SocketAddr,
    home: TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Starts one that has the bucket, and nothing in it.
    pub fn start() -> Self {
        let home = tempfile::Builder::new().prefix("amberblob-store-").tempdir().unwrap();
        let root = home.path().join("objects");
        fs::create_dir_all(root.join(BUCKET)).unwrap();
        let (tell, address) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                let mut builder = S3ServiceBuilder::new(FileSystem::new(&root).unwrap());
                builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
                tokio::select! {
                    () = accept(listener, builder.build(), root) => {}
                    _ = stopped => {}
                }
            });
        };
        let thread = thread::Builder::new().name("store".to_owned()).spawn(serve).unwrap();
        let address = address.recv().expect("the store listens");
        let store = Self { address, home, stop: Some(stop), thread: Some(thread) };
        store.write_credentials(SECRET_KEY);
        store
    }

    fn bucket(&self) -> PathBuf {
        self.home.path().join("objects").join(BUCKET)
    }

    /// The file that a node reads its credentials from.
    pub fn credentials(&self) -> PathBuf {
        self.home.path().join("credentials")
    }

    /// Writes it, for its owner alone.
    pub fn write_credentials(&self, secret_key: &str) {
        // Put in place whole: a node may be reading it.
        let new = self.credentials().with_extension("new");
        let _ = fs::remove_file(&new);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).unwrap();
        file.write_all(format!("{ACCESS_KEY}\n{secret_key}\n").as_bytes()).unwrap();
        fs::rename(new, self.credentials()).unwrap();
    }

    /// The objects by key, with their lengths; without what the store notes beside them.
    pub fn objects(&self) -> BTreeMap<String, u64> {
        let bucket = self.bucket();
        let key = |path: PathBuf| path.strip_prefix(&bucket).unwrap().to_string_lossy().into_owned();
        plain_files(&bucket).into_iter().map(|(path, length)| (key(path), length)).collect()
    }

    /// The key of the only object; panics unless there is one alone.
    #[track_caller]
    pub fn only_key(&self) -> String {
        let objects = self.objects();
        assert_eq!(objects.len(), 1, "{objects:?}");
        objects.into_keys().next().unwrap()
    }

    pub fn object(&self, key: &str) -> Vec<u8> {
        fs::read(self.bucket().join(key)).unwrap()
    }

    /// Flips a bit of an object, whose checksum the store still tells as it was.
    pub fn flip(&self, key: &str, offset: u64) {
        flip(&self.bucket().join(key), offset);
    }

    /// Loses an object.
    pub fn remove(&self, key: &str) {
        fs::remove_file(self.bucket().join(key)).unwrap();
    }

    /// Puts an object there that nobody asked for.
    pub fn add(&self, key: &str, bytes: &[u8]) {
        let file = self.bucket().join(key);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    }

    /// Makes an object look as if it had been stored so long ago.
    pub fn age(&self, key: &str, by: Duration) {
        let file = fs::File::options().write(true).open(self.bucket().join(key)).unwrap();
        file.set_modified(SystemTime::now() - by).unwrap();
    }

    pub fn remove_bucket(&self) {
        fs::remove_dir_all(self.bucket()).unwrap();
    }

    pub fn make_bucket(&self) {
        fs::create_dir(self.bucket()).unwrap();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A failure in it is one of the test, unless that is failing already.
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "the store failed");
        }
    }
}

async fn accept(listener: TcpListener, service: S3Service, root: PathBuf) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (service, root) = (service.clone(), root.clone());
        let answer = service_fn(move |request: Request<Incoming>| {
            let (service, is_there) = (service.clone(), has_bucket(&root, request.uri().path()));
            async move {
                if is_there {
                    service.call(request.map(Body::from)).await
                } else {
                    Ok::<HttpResponse, HttpError>(no_such_bucket())
                }
            }
        });
        tokio::spawn(async move {
            // A client that goes is no failure.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

/// The library makes a bucket that an object is put into, and says that the object is lacking where the bucket is.
fn has_bucket(root: &Path, path: &str) -> bool {
    let bucket = path.split('/').nth(1).unwrap_or_default();
    bucket.is_empty() || root.join(bucket).is_dir()
}

fn no_such_bucket() -> HttpResponse {
    let text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
        <Error><Code>NoSuchBucket</Code><Message>The specified bucket does not exist</Message></Error>";
    let answer = Response::builder().status(404).header("content-type", "application/xml");
    answer.body(Body::from(text.to_owned())).unwrap()
}
