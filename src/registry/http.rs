//! One question over HTTP/1.1 to a server of the registry or to another node, on a connection of its own.
//!
//! The answer is bounded. Who gives up the question closes the connection with it.

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::Trouble;
use crate::limits::ANSWER_HEAD_MAX;

/// Asks, and reads an answer of at most `limit` bytes.
pub(super) async fn ask(
    authority: &str,
    question: Request<Full<Bytes>>,
    limit: usize,
) -> Result<(StatusCode, Bytes), Trouble> {
    let stream = TcpStream::connect(authority).await.map_err(Trouble::new)?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(ANSWER_HEAD_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(Trouble::new)?;
    // Ends with this function, however that ends.
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    let answer = sender.send_request(question).await.map_err(Trouble::new)?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), limit).collect().await.map_err(Trouble::new)?;
    Ok((status, body.to_bytes()))
}

/// A question without a body (GET) or with JSON (POST).
pub(super) fn question(
    authority: &str,
    path: &str,
    json: Option<String>,
    token: Option<&str>,
) -> Result<Request<Full<Bytes>>, Trouble> {
    let mut question = Request::builder().uri(path).header(header::HOST, authority);
    if json.is_some() {
        question = question.method("POST").header(header::CONTENT_TYPE, "application/json");
    }
    if let Some(token) = token {
        question = question.header(header::AUTHORIZATION, token);
    }
    question.body(Full::from(json.unwrap_or_default())).map_err(Trouble::new)
}
