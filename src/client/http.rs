//! One request over HTTP/1.1 to a node's admin listener, on a connection of its own; the answer is JSON, and bounded.

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::limits::{ADMIN_ANSWER_MAX, ADMIN_CONNECT, ANSWER_HEAD_MAX, OPERATION_TIME};

/// What a node answers.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Value,
}

/// Where `what` listens, by its URL.
///
/// # Errors
/// What is wrong with the URL, and how one looks.
pub(super) fn authority(url: &str, what: &str, example: &str) -> Result<String, String> {
    let uri: Uri = url.parse().map_err(|error| format!("'{url}' is no URL: {error}"))?;
    let plain = uri.scheme_str() == Some("http") && matches!(uri.path(), "" | "/") && uri.query().is_none();
    match uri.authority().filter(|authority| plain && !authority.as_str().contains('@')) {
        Some(authority) if authority.port().is_some() => Ok(authority.to_string()),
        Some(authority) => Ok(format!("{authority}:80")),
        None => Err(format!("'{url}' is not the URL of {what}: write it like {example}")),
    }
}

/// Asks, and waits for as long as an operation may take.
///
/// # Errors
/// Why there is no answer.
pub(super) async fn ask(method: Method, authority: &str, path: &str) -> Result<Answer, String> {
    let connecting = timeout(ADMIN_CONNECT, TcpStream::connect(authority)).await;
    let connected = connecting.map_err(|_| "it does not answer".to_owned())?;
    let stream = connected.map_err(|error| error.to_string())?;
    let asking = timeout(OPERATION_TIME, exchange(stream, method, authority, path)).await;
    asking.map_err(|_| "no answer came in time".to_owned())?
}

async fn exchange(stream: TcpStream, method: Method, authority: &str, path: &str) -> Result<Answer, String> {
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(ANSWER_HEAD_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    // Ends with this function, however that ends.
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    let question = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, authority)
        .header(header::CONTENT_LENGTH, 0)
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = sender.send_request(question).await.map_err(|error| error.to_string())?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ADMIN_ANSWER_MAX).collect().await;
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    match serde_json::from_slice(&body) {
        Ok(body) => Ok(Answer { status, body }),
        Err(_) => Err(format!("what answers there ({status}) is no admin listener of AmberBlob")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_named_by_an_http_url_without_a_path() {
        let named = |url: &str| authority(url, "an admin listener", "http://127.0.0.1:8081");
        assert_eq!(named("http://127.0.0.1:8081"), Ok("127.0.0.1:8081".to_owned()));
        assert_eq!(named("http://[::1]:8081/"), Ok("[::1]:8081".to_owned()));
        assert_eq!(named("http://node-1"), Ok("node-1:80".to_owned()));
        for wrong in ["127.0.0.1:8081", "https://a:1", "http://a/x", "http://a/?x", "http://u@a", "", "a b"] {
            assert!(named(wrong).unwrap_err().starts_with(&format!("'{wrong}' is n")), "{wrong}");
        }
    }
}
