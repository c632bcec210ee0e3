//! A connection to a public listener: one request after the other, through whichever of the servers answers.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::header::{HOST, LOCATION};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::http::authority;
use crate::limits::{
    CLIENT_ANSWER_MAX, CLIENT_CONNECT, CLIENT_IDLE, CLIENT_PAUSE, CLIENT_PIECE, CLIENT_REDIRECTS,
    CLIENT_TRIES,
};

/// What stands in a path as it is.
pub(super) const PLAIN: AsciiSet =
    NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where a public listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server(String);

impl std::str::FromStr for Server {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        authority(url, "a server", "http://127.0.0.1:8080").map(Self)
    }
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http://{}", self.0)
    }
}

/// Why a request did not do what it should.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct Failure {
    /// What the server answered; none: there was no answer, or it was cut off.
    pub(super) status: Option<StatusCode>,
    /// Which server, and why.
    pub(super) message: String,
}

impl Failure {
    pub(super) fn broken(message: String) -> Self {
        Self { status: None, message }
    }

    /// Whether the same, asked again, may be answered.
    pub(super) fn is_temporary(&self) -> bool {
        self.status.is_none_or(|status| {
            matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::REQUEST_TIMEOUT)
        })
    }
}

/// A piece of what is sent.
pub(super) type Piece = Result<Frame<Bytes>, std::io::Error>;

/// What goes with a request: nothing, or what comes through a channel.
pub(super) struct Upload(Option<mpsc::Receiver<Piece>>);

impl Upload {
    pub(super) fn none() -> Self {
        Self(None)
    }

    pub(super) fn of(pieces: mpsc::Receiver<Piece>) -> Self {
        Self(Some(pieces))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.as_mut().map_or(Poll::Ready(None), |frames| frames.poll_recv(context))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.0.is_none() { SizeHint::with_exact(0) } else { SizeHint::default() }
    }
}

/// An open connection.
struct Open {
    sender: SendRequest<Upload>,
    /// Drives it, and ends with it.
    _driving: JoinSet<hyper::Result<()>>,
}

/// A connection that is made anew when it breaks.
pub(super) struct Link<'a> {
    servers: &'a [Server],
    /// Which of them is asked.
    at: usize,
    /// The replica that it has sent us to.
    replica: Option<Server>,
    open: Option<Open>,
}

impl<'a> Link<'a> {
    /// To one of some servers; nothing is sent yet.
    pub(super) fn new(servers: &'a [Server], at: usize) -> Self {
        Self { servers, at, replica: None, open: None }
    }

    /// Who is asked next.
    pub(super) fn server(&self) -> &Server {
        self.replica.as_ref().unwrap_or(&self.servers[self.at % self.servers.len()])
    }

    /// Leaves the connection, with whatever is on it.
    pub(super) fn close(&mut self) {
        self.open = None;
    }

    /// Asks the next server from here on.
    pub(super) fn turn(&mut self) {
        self.close();
        self.replica = None;
        self.at += 1;
    }

    fn broken(&self, why: impl std::fmt::Display) -> Failure {
        Failure::broken(format!("{} cannot be asked: {why}", self.server()))
    }

    async fn connect(&self) -> Result<Open, Failure> {
        let connecting = timeout(CLIENT_CONNECT, TcpStream::connect(&self.server().0)).await;
        let connected = connecting.map_err(|_| self.broken("it does not answer"))?;
        let stream = connected.map_err(|error| self.broken(error))?;
        stream.set_nodelay(true).map_err(|error| self.broken(error))?;
        let shaken = Builder::new().max_buf_size(CLIENT_PIECE).handshake(TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(|error| self.broken(error))?;
        let mut driving = JoinSet::new();
        driving.spawn(connection);
        Ok(Open { sender, _driving: driving })
    }

    /// Sends a request once, to who is asked now; an answer is one, whatever it says.
    pub(super) async fn send(
        &mut self,
        method: &Method,
        target: &str,
        fields: &[(&'static str, String)],
        body: Upload,
    ) -> Result<Response<Incoming>, Failure> {
        let mut open = match self.open.take() {
            Some(open) if !open.sender.is_closed() => open,
            _ => self.connect().await?,
        };
        if open.sender.ready().await.is_err() {
            open = self.connect().await?;
        }
        let mut request = Request::builder().method(method).uri(target).header(HOST, &self.server().0);
        for (name, value) in fields {
            request = request.header(*name, value);
        }
        let request = request.body(body).map_err(|error| self.broken(error))?;
        match open.sender.send_request(request).await {
            Ok(answer) => {
                self.open = Some(open);
                Ok(answer)
            }
            Err(error) => Err(self.broken(innermost(&error))),
        }
    }

    /// Reads something once, and goes to the replica that the server names; the answer is a success.
    pub(super) async fn read(
        &mut self,
        method: &Method,
        target: &str,
        fields: &[(&'static str, String)],
    ) -> Result<Response<Incoming>, Failure> {
        let mut fields = fields.to_vec();
        fields.push(("prefer", "redirect".to_owned()));
        for _ in 0..=CLIENT_REDIRECTS {
            let asked = timeout(CLIENT_IDLE, self.send(method, target, &fields, Upload::none())).await;
            let answer = asked.map_err(|_| self.broken(format!("no answer for {CLIENT_IDLE:?}")))??;
            if answer.status() != StatusCode::TEMPORARY_REDIRECT {
                return if answer.status().is_success() {
                    Ok(answer)
                } else {
                    Err(self.refused(answer).await)
                };
            }
            let to = answer.headers().get(LOCATION).and_then(|to| to.to_str().ok()).and_then(server_of);
            self.close();
            self.replica = Some(to.ok_or_else(|| self.broken("it sends us to where nobody can go"))?);
        }
        Err(self.broken("it is sent on and on"))
    }

    /// A success of JSON.
    async fn read_json(&mut self, method: &Method, target: &str) -> Result<Value, Failure> {
        let answer = self.read(method, target, &[]).await?;
        self.json_of(answer).await
    }

    /// The JSON of an answer.
    pub(super) async fn json_of(&mut self, answer: Response<Incoming>) -> Result<Value, Failure> {
        let reading = Limited::new(answer.into_body(), CLIENT_ANSWER_MAX).collect();
        let read = timeout(CLIENT_IDLE, reading).await;
        let body = read.map_err(|_| self.broken("its answer stands still"))?;
        let body = body.map_err(|error| self.broken(error))?.to_bytes();
        serde_json::from_slice(&body).map_err(|_| self.broken("it answers no JSON: it is no AmberBlob"))
    }

    /// What the server says to a request that it does not carry out.
    pub(super) async fn refused(&mut self, answer: Response<Incoming>) -> Failure {
        let status = answer.status();
        let body = self.json_of(answer).await.unwrap_or_default();
        if body.is_null() {
            self.close();
        }
        let said = body.pointer("/error/message").and_then(Value::as_str).unwrap_or_default();
        let said = if said.is_empty() { String::new() } else { format!(": {said}") };
        Failure { status: Some(status), message: format!("{} answers {status}{said}", self.server()) }
    }

    /// Reads JSON, again and from others while that may help.
    pub(super) async fn json(&mut self, target: &str) -> Result<Value, Failure> {
        let mut tries = Tries::default();
        loop {
            match self.read_json(&Method::GET, target).await {
                Ok(value) => return Ok(value),
                Err(failure) => tries.after(failure, self).await?,
            }
        }
    }

    /// Reads the head of a blob, again and from others while that may help.
    pub(super) async fn head(&mut self, target: &str) -> Result<HeaderMap, Failure> {
        let mut tries = Tries::default();
        loop {
            match self.read(&Method::HEAD, target, &[]).await {
                Ok(answer) => return Ok(answer.headers().clone()),
                Err(failure) => tries.after(failure, self).await?,
            }
        }
    }
}

/// How often something was tried in vain.
#[derive(Default)]
pub(super) struct Tries(u32);

impl Tries {
    /// Something came of it after all.
    pub(super) fn progress(&mut self) {
        self.0 = 0;
    }

    /// Waits before the next try, with the next server; gives up when that does not help.
    pub(super) async fn after(&mut self, failure: Failure, link: &mut Link<'_>) -> Result<(), Failure> {
        if !failure.is_temporary() || self.0 >= CLIENT_TRIES {
            return Err(failure);
        }
        link.turn();
        sleep(CLIENT_PAUSE * 2_u32.pow(self.0)).await;
        self.0 += 1;
        Ok(())
    }
}

/// Where a blob is, with a query.
pub(super) fn target(path: &str, query: &str) -> String {
    let mark = if query.is_empty() { "" } else { "?" };
    format!("/objects/{}{mark}{query}", utf8_percent_encode(path, &PLAIN))
}

/// The server of an absolute URL.
fn server_of(url: &str) -> Option<Server> {
    let uri: hyper::Uri = url.parse().ok()?;
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http"))?;
    let port = if authority.port().is_some() { "" } else { ":80" };
    Some(Server(format!("{authority}{port}")))
}

/// What an error was caused by in the first place.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_by_its_url() {
        assert_eq!("http://a".parse::<Server>().unwrap().to_string(), "http://a:80");
        assert!("https://a".parse::<Server>().is_err());
        assert_eq!(server_of("http://10.0.0.1:8080/objects/a?b=c").unwrap().0, "10.0.0.1:8080");
        assert_eq!(server_of("/objects/a"), None);
    }

    #[test]
    fn a_target_has_its_path_encoded() {
        assert_eq!(target("a/b c?é", "version=3"), "/objects/a/b%20c%3F%C3%A9?version=3");
        assert_eq!(target("a", ""), "/objects/a");
    }
}
