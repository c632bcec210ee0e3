use std::task::Waker;

use aws_sdk_s3::operation::get_object::GetObjectError;
use tokio::sync::mpsc;

use super::*;
use crate::archive::settings::{CredentialsFrom, Rules};

fn upload(size: u64, pieces: Vec<Result<Bytes, io::Error>>) -> (Upload, Arc<Progress>) {
    let (sender, receiver) = mpsc::channel(8);
    for piece in pieces {
        sender.try_send(piece).unwrap();
    }
    let progress = Arc::new(Progress { left: AtomicU64::new(size), broken: OnceLock::new() });
    (Upload { pieces: receiver, progress: Arc::clone(&progress) }, progress)
}

/// The bytes of a body until it ends, or why it does not.
fn drain(mut upload: Upload) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    loop {
        match Pin::new(&mut upload).poll_frame(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(Ok(frame))) => bytes.extend_from_slice(frame.data_ref().unwrap()),
            Poll::Ready(Some(Err(error))) => return Err(error.to_string()),
            Poll::Ready(None) => return Ok(bytes),
            Poll::Pending => panic!("it waits for nothing"),
        }
    }
}

fn piece(bytes: &'static [u8]) -> Bytes {
    Bytes::from_static(bytes)
}

#[test]
fn a_body_has_the_size_that_it_is_told() {
    let (body, progress) = upload(5, vec![Ok(piece(b"abc")), Ok(piece(b"")), Ok(piece(b"de"))]);
    assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(5), false));
    assert_eq!(drain(body), Ok(b"abcde".to_vec()));
    assert_eq!((progress.left.load(Ordering::Relaxed), progress.broken.get()), (0, None));
    let (empty, _) = upload(0, Vec::new());
    assert!(empty.is_end_stream());
    assert_eq!(drain(empty), Ok(Vec::new()));
}

#[test]
fn a_body_that_is_not_what_it_should_be_fails_and_says_why() {
    let unreadable = || Err(io::Error::other("the file is gone"));
    for (pieces, why) in [
        (vec![Ok(piece(b"abc"))], "ends 2 bytes early"),
        (Vec::new(), "ends 5 bytes early"),
        (vec![Ok(piece(b"abc")), Ok(piece(b"def"))], "longer than it should be"),
        (vec![Ok(piece(b"abc")), unreadable(), Ok(piece(b"de"))], "the file is gone"),
    ] {
        let (body, progress) = upload(5, pieces);
        let error = drain(body).unwrap_err();
        assert!(error.contains(why), "{error}");
        assert_eq!(progress.broken.get(), Some(&error));
        assert!(progress.left.load(Ordering::Relaxed) > 0);
    }
}

#[test]
fn the_innermost_cause_is_told() {
    let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
    let error: SdkError<GetObjectError> = SdkError::timeout_error(io::Error::other(refused));
    let failure = failure("GET s3://b/k", Asked::Object, &error);
    assert_eq!(failure.message, "GET s3://b/k: the store does not answer: connection refused");
    assert_eq!(failure.kind, Kind::Unavailable);
}

fn settings(endpoint: &str) -> Settings {
    Settings {
        bucket: "b".to_owned(),
        region: "us-east-1".to_owned(),
        endpoint: Some(endpoint.to_owned()),
        prefix: String::new(),
        path_style: true,
        credentials: CredentialsFrom::Environment(credentials()),
        rate: 0,
        requests: 0,
        uploads: 1,
        pack_below: 0,
        rules: Rules::default(),
    }
}

fn credentials() -> Credentials {
    Credentials { access_key: "id".to_owned(), secret_key: "key".to_owned(), session_token: None }
}

#[test]
fn a_store_that_is_not_there_fails_every_request_with_its_reason() {
    // A port that was just given back: nobody listens there.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let target = Target::open(&settings(&endpoint), credentials()).unwrap();
        let at: Location = "s3://b/k".parse().unwrap();
        let (_sender, body) = mpsc::channel(1);
        for (failure, what) in [
            (target.put(&at, 1, [0; 32], body).await.unwrap_err(), "PUT s3://b/k"),
            (target.stat(&at).await.unwrap_err(), "HEAD s3://b/k"),
            (target.get(&at, 0..4).await.unwrap_err(), "GET s3://b/k"),
            (target.delete(&at).await.unwrap_err(), "DELETE s3://b/k"),
            (target.list("p/", None).await.unwrap_err(), "LIST s3://b/p/"),
            (target.probe().await.unwrap_err(), "HEAD s3://b"),
        ] {
            assert_eq!(failure.kind, Kind::Unavailable, "{failure}");
            let start = format!("{what}: the store does not answer: ");
            assert!(failure.message.starts_with(&start) && failure.message.contains("refused"), "{failure}");
        }
        assert_eq!(target.get(&at, 3..3).await.unwrap(), Vec::<u8>::new(), "nothing is asked for nothing");
    });
    assert!(Target::open(&settings("ftp://a"), credentials()).is_err_and(|error| error.contains("http://")));
}

/// A store that gives these answers one after the other, each on a connection of its own; what it was asked for.
fn scripted(answers: Vec<(&'static str, &'static str)>) -> (String, std::thread::JoinHandle<Vec<String>>) {
    use std::io::{BufRead as _, BufReader, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let serving = std::thread::spawn(move || {
        let answer = |(head, body): (&str, &str)| {
            let mut link = listener.accept().unwrap().0;
            let lines: Vec<String> = BufReader::new(&link)
                .lines()
                .map(Result::unwrap)
                .take_while(|line| !line.is_empty())
                .collect();
            let head = format!("{head}\r\nContent-Length: {}\r\nConnection: close", body.len());
            write!(link, "HTTP/1.1 {head}\r\n\r\n{body}").unwrap();
            lines[0].clone()
        };
        answers.into_iter().map(answer).collect()
    });
    (endpoint, serving)
}

fn delete(endpoint: &str) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let target = Target::open(&settings(endpoint), credentials()).unwrap();
    runtime.block_on(target.delete(&"s3://b/k".parse().unwrap()))
}

const MARKED: &str = "204 No Content\r\nx-amz-delete-marker: true\r\nx-amz-version-id: 3";

#[test]
fn where_a_bucket_keeps_versions_all_of_an_object_are_deleted() {
    let (endpoint, serving) = scripted(vec![
        (MARKED, ""),
        (
            "200 OK",
            "<ListVersionsResult><IsTruncated>false</IsTruncated>\
             <DeleteMarker><Key>k</Key><VersionId>3</VersionId></DeleteMarker>\
             <Version><Key>k</Key><VersionId>1</VersionId></Version>\
             <Version><Key>kk</Key><VersionId>2</VersionId></Version></ListVersionsResult>",
        ),
        ("204 No Content", ""),
        ("204 No Content", ""),
    ]);
    delete(&endpoint).unwrap();
    let asked = serving.join().unwrap();
    assert!(asked[0].starts_with("DELETE /b/k?x-id=DeleteObject HTTP"), "{asked:?}");
    assert!(asked[1].starts_with("GET /b") && asked[1].contains("versions"), "{asked:?}");
    // What another key has stays.
    assert!(asked[2].starts_with("DELETE /b/k?") && asked[2].contains("versionId=1"), "{asked:?}");
    assert!(asked[3].starts_with("DELETE /b/k?") && asked[3].contains("versionId=3"), "{asked:?}");
}

#[test]
fn versions_that_may_not_be_deleted_stay() {
    let denied = "<Error><Code>AccessDenied</Code><Message>no</Message></Error>";
    let (endpoint, serving) = scripted(vec![(MARKED, ""), ("403 Forbidden", denied)]);
    delete(&endpoint).unwrap();
    assert_eq!(serving.join().unwrap().len(), 2);
}

#[test]
fn a_marker_goes_if_what_it_hides_cannot_be_deleted_now() {
    let (endpoint, serving) =
        scripted(vec![(MARKED, ""), ("500 Internal Server Error", ""), ("204 No Content", "")]);
    assert_eq!(delete(&endpoint).unwrap_err().kind, Kind::Unavailable);
    let asked = serving.join().unwrap();
    assert!(asked[2].starts_with("DELETE /b/k?") && asked[2].contains("versionId=3"), "{asked:?}");
}
