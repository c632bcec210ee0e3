//! An HTTP/1.1 client of a few hundred lines, strict about what it accepts and able to send anything.
//!
//! A response that breaks the grammar of RFC 9112 is an error of kind `InvalidData`; one that ends early is `UnexpectedEof`.
//! Every read and write has a timeout.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const IO_TIMEOUT: Duration = Duration::from_secs(20);
const MAX_HEAD: usize = 64 << 10;

/// `/objects/{path}` with everything escaped that is not unreserved; `/` stays.
pub fn object(path: &str) -> String {
    format!("/objects/{}", encode_path(path))
}

/// Percent-encodes all but RFC 3986's unreserved characters and `/`. Good for a query value as well.
pub fn encode_path(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for &byte in path.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Field lines in the order they came, names compared without case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, Vec<u8>)>);

impl Headers {
    /// The only value of `name`, as text; panics if it came twice or is not UTF-8.
    pub fn get(&self, name: &str) -> Option<&str> {
        let value = self.get_bytes(name)?;
        Some(std::str::from_utf8(value).unwrap_or_else(|_| panic!("{name} is not UTF-8: {value:?}")))
    }

    /// The only value of `name`, as bytes; panics if it came twice.
    pub fn get_bytes(&self, name: &str) -> Option<&[u8]> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} came {} times", all.len());
        all.first().copied()
    }

    pub fn all(&self, name: &str) -> Vec<&[u8]> {
        let same = |line: &&(String, Vec<u8>)| line.0.eq_ignore_ascii_case(name);
        self.0.iter().filter(same).map(|line| line.1.as_slice()).collect()
    }

    /// Whether the comma-separated list `name` has the member `token`.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.all(name).iter().any(|value| {
            String::from_utf8_lossy(value).split(',').any(|member| member.trim().eq_ignore_ascii_case(token))
        })
    }
}

/// How the end of a response's body was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// The status or the method says there is no body.
    None,
    Length,
    Chunked,
    Close,
}

/// The head of an interim (1xx) response.
#[derive(Debug, Clone)]
pub struct Interim {
    pub status: u16,
    pub headers: Headers,
}

#[derive(Debug, Clone)]
pub struct Response {
    /// `HTTP/1.1` or `HTTP/1.0`.
    pub version: String,
    pub status: u16,
    pub reason: String,
    pub headers: Headers,
    pub body: Vec<u8>,
    pub framing: Framing,
    pub trailers: Headers,
    /// The 1xx responses that came before this one.
    pub interim: Vec<Interim>,
}

impl Response {
    /// The only value of the header `name`, as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    /// The body as text, broken UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON, which its Content-Type must say as well.
    pub fn json(&self) -> serde_json::Value {
        let media_type = self.header("content-type").unwrap_or_default();
        assert!(media_type.starts_with("application/json"), "not JSON but {media_type:?}: {self:?}");
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }

    /// The string at the key `name` of the JSON body.
    pub fn json_str(&self, name: &str) -> String {
        let json = self.json();
        json[name].as_str().unwrap_or_else(|| panic!("no string {name} in {json}")).to_owned()
    }

    /// The number at the key `name` of the JSON body.
    pub fn json_u64(&self, name: &str) -> u64 {
        let json = self.json();
        json[name].as_u64().unwrap_or_else(|| panic!("no number {name} in {json}"))
    }

    /// Panics with the whole answer unless the status is `status`.
    #[track_caller]
    pub fn expect_status(self, status: u16) -> Self {
        let head = (&self.reason, &self.headers, self.text().chars().take(400).collect::<String>());
        assert_eq!(self.status, status, "unexpected answer: {head:?}");
        self
    }

    /// Whether the server said that it will close the connection after this.
    pub fn says_close(&self) -> bool {
        self.headers.has_token("connection", "close")
    }
}

/// The code of an error answer, whose JSON must be complete: `{"error":{"code","message","request_id"}}`.
#[track_caller]
pub fn error_code(response: &Response) -> String {
    assert!(response.status >= 400, "not an error: {response:?}");
    let json = response.json();
    for key in ["code", "message", "request_id"] {
        let value = json["error"][key].as_str().unwrap_or_else(|| panic!("no error.{key} in {json}"));
        assert!(!value.is_empty(), "error.{key} is empty in {json}");
    }
    json["error"]["code"].as_str().unwrap_or_default().to_owned()
}

/// Panics unless `response` is the error `code` with status `status`.
#[track_caller]
pub fn assert_error(response: &Response, status: u16, code: &str) {
    assert_eq!((response.status, error_code(response).as_str()), (status, code), "{}", response.text());
}

/// A request to be encoded byte for byte as it was put together.
///
/// `Host` and, for a body, `Content-Length` are added unless they are given.
#[derive(Debug, Clone)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
    has_body: bool,
    chunked: bool,
    bare: bool,
}

impl Request {
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            has_body: false,
            chunked: false,
            bare: false,
        }
    }

    pub fn header(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let mut this = self;
        this.headers.push((name.as_bytes().to_vec(), value.as_ref().to_vec()));
        this
    }

    pub fn headers(self, headers: &[(&str, &str)]) -> Self {
        headers.iter().fold(self, |request, (name, value)| request.header(name, value))
    }

    /// A body framed by Content-Length.
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self.has_body = true;
        self
    }

    /// A body in the chunked coding, one chunk for each piece that is not empty, with `trailers` after it.
    pub fn chunked(mut self, pieces: &[&[u8]], trailers: &[(&str, &str)]) -> Self {
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            self.body.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            self.body.extend_from_slice(piece);
            self.body.extend_from_slice(b"\r\n");
        }
        self.body.extend_from_slice(b"0\r\n");
        for (name, value) in trailers {
            self.body.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        self.body.extend_from_slice(b"\r\n");
        self.chunked = true;
        self
    }

    /// A body sent as it is under `Transfer-Encoding: chunked`: for codings that are broken on purpose.
    pub fn chunked_raw(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self.chunked = true;
        self
    }

    /// Adds no header of its own.
    pub fn bare(mut self) -> Self {
        self.bare = true;
        self
    }

    fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|line| line.0.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// Request line and header section, with the empty line that ends it.
    pub fn encode_head(&self) -> Vec<u8> {
        let mut out = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        if !self.bare && !self.has("host") {
            out.extend_from_slice(b"Host: localhost\r\n");
        }
        for (name, value) in &self.headers {
            out.extend_from_slice(name);
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
        if !self.bare && self.chunked && !self.has("transfer-encoding") {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        if !self.bare && self.has_body && !self.has("content-length") {
            out.extend_from_slice(format!("Content-Length: {}\r\n", self.body.len()).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out
    }

    /// The body in its coding.
    pub fn encode_body(&self) -> &[u8] {
        &self.body
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.encode_head();
        out.extend_from_slice(&self.body);
        out
    }
}

/// What ended a wait for the server to close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// An orderly end of the stream.
    Closed,
    Reset,
    /// Still open when the time was up.
    Open,
}

pub struct Connection {
    stream: TcpStream,
    /// Received and not yet consumed: `buffer[at..]`.
    buffer: Vec<u8>,
    at: usize,
}

fn broken(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

impl Connection {
    pub fn open(addr: SocketAddr) -> Self {
        Self::try_open(addr).unwrap_or_else(|error| panic!("connect to {addr}: {error}"))
    }

    pub fn try_open(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, CONNECT_TIMEOUT)?;
        stream.set_read_timeout(Some(IO_TIMEOUT))?;
        stream.set_write_timeout(Some(IO_TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new(), at: 0 })
    }

    /// The socket, for what this client has no word for.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub fn set_read_timeout(&self, timeout: Duration) {
        self.stream.set_read_timeout(Some(timeout)).expect("set a read timeout");
    }

    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub fn send(&mut self, request: &Request) -> io::Result<()> {
        self.send_raw(&request.encode())
    }

    /// Ends our side of the stream: the server reads end-of-file, its answer can still be read.
    pub fn finish_sending(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// Sends `request` and reads its answer. An answer that came although sending failed counts.
    pub fn exchange(&mut self, request: &Request) -> io::Result<Response> {
        let sent = self.send(request);
        let answer = self.read_response(&request.method);
        match (sent, answer) {
            (_, Ok(response)) => Ok(response),
            (Err(error), Err(second)) => {
                Err(io::Error::new(error.kind(), format!("sending: {error}; then reading: {second}")))
            }
            (Ok(()), Err(error)) => Err(error),
        }
    }

    /// Bytes that were received and that no response claimed yet.
    pub fn unread(&self) -> &[u8] {
        &self.buffer[self.at..]
    }

    /// Receives once; 0 is the end of the stream.
    fn receive(&mut self) -> io::Result<usize> {
        if self.at == self.buffer.len() {
            self.buffer.clear();
            self.at = 0;
        }
        let filled = self.buffer.len();
        self.buffer.resize(filled + (256 << 10), 0);
        let outcome = loop {
            match self.stream.read(&mut self.buffer[filled..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.buffer.truncate(filled + outcome.as_ref().map_or(0, |&got| got));
        outcome
    }

    fn need(&mut self) -> io::Result<()> {
        match self.receive()? {
            0 => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the server closed in the middle of a response",
            )),
            _ => Ok(()),
        }
    }

    /// One line without its CRLF.
    fn read_line(&mut self) -> io::Result<Vec<u8>> {
        let mut seen = 0;
        loop {
            if let Some(found) = self.unread()[seen..].iter().position(|&byte| byte == b'\n') {
                let end = seen + found;
                let line = &self.unread()[..end];
                let Some(line) = line.strip_suffix(b"\r") else {
                    return Err(broken(format!(
                        "a line that ends with a bare LF: {:?}",
                        String::from_utf8_lossy(line)
                    )));
                };
                let line = line.to_vec();
                self.at += end + 1;
                return Ok(line);
            }
            seen = self.unread().len();
            if seen > MAX_HEAD {
                return Err(broken("a line that never ends"));
            }
            self.need()?;
        }
    }

    fn read_fields(&mut self) -> io::Result<Headers> {
        let mut fields = Vec::new();
        loop {
            let line = self.read_line()?;
            if line.is_empty() {
                return Ok(Headers(fields));
            }
            let shown = || String::from_utf8_lossy(&line).into_owned();
            let colon = line
                .iter()
                .position(|&byte| byte == b':')
                .ok_or_else(|| broken(format!("no colon: {}", shown())))?;
            let (name, value) = (&line[..colon], &line[colon + 1..]);
            let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
            if name.is_empty() || !name.iter().all(token) {
                return Err(broken(format!("not a field name: {}", shown())));
            }
            if value.iter().any(|&byte| (byte < 0x20 && byte != b'\t') || byte == 0x7f) {
                return Err(broken(format!("a control character in: {}", shown())));
            }
            let name = String::from_utf8(name.to_vec()).map_err(|_| broken("a name that is not ASCII"))?;
            fields.push((name, value.trim_ascii().to_vec()));
        }
    }

    /// Status line and fields of the next response, interim ones included.
    fn read_one_head(&mut self) -> io::Result<(String, u16, String, Headers)> {
        let line = self.read_line()?;
        let line = String::from_utf8(line).map_err(|_| broken("a status line that is not UTF-8"))?;
        let mut parts = line.splitn(3, ' ');
        let version = parts.next().unwrap_or_default();
        let status =
            parts.next().filter(|status| status.len() == 3).and_then(|status| status.parse::<u16>().ok());
        let (Some(status), Some(reason)) = (status, parts.next()) else {
            return Err(broken(format!("not a status line: {line}")));
        };
        if !["HTTP/1.1", "HTTP/1.0"].contains(&version) || !(100..600).contains(&status) {
            return Err(broken(format!("not a status line: {line}")));
        }
        let fields = self.read_fields()?;
        Ok((version.to_owned(), status, reason.to_owned(), fields))
    }

    /// The next 1xx response alone, for a client that waits for `100 Continue`; a final response is an error that shows it.
    pub fn read_interim(&mut self) -> io::Result<Interim> {
        let (_, status, reason, headers) = self.read_one_head()?;
        if status >= 200 {
            return Err(broken(format!("a final response {status} {reason}, not an interim one")));
        }
        Ok(Interim { status, headers })
    }

    /// The next final response to a `method` request, with the interim ones before it.
    pub fn read_response(&mut self, method: &str) -> io::Result<Response> {
        let mut body = Vec::new();
        let mut response = self.read_response_with(method, |piece| body.extend_from_slice(piece))?;
        response.body = body;
        Ok(response)
    }

    /// As [`Self::read_response`], the body going to `sink` piece by piece instead of into memory.
    pub fn read_response_with(&mut self, method: &str, mut sink: impl FnMut(&[u8])) -> io::Result<Response> {
        let mut response = self.read_head(method)?;
        match response.framing {
            Framing::None => {}
            Framing::Length => {
                let length = response.header("content-length").and_then(|length| length.parse().ok());
                self.read_exactly(
                    length.ok_or_else(|| broken("Content-Length is not a number"))?,
                    &mut sink,
                )?;
            }
            Framing::Chunked => response.trailers = self.read_chunked(&mut sink)?,
            Framing::Close => loop {
                sink(self.unread());
                self.at = self.buffer.len();
                if self.receive()? == 0 {
                    break;
                }
            },
        }
        Ok(response)
    }

    /// The head of the next final response; its body, framed as said, is still to be read.
    pub fn read_head(&mut self, method: &str) -> io::Result<Response> {
        let mut interim = Vec::new();
        let (version, status, reason, headers) = loop {
            let (version, status, reason, headers) = self.read_one_head()?;
            if status >= 200 {
                break (version, status, reason, headers);
            }
            if !headers.all("content-length").is_empty() || !headers.all("transfer-encoding").is_empty() {
                return Err(broken("an interim response with a body"));
            }
            interim.push(Interim { status, headers });
        };
        let framing = framing(method, status, &headers)?;
        Ok(Response {
            version,
            status,
            reason,
            headers,
            body: Vec::new(),
            framing,
            trailers: Headers::default(),
            interim,
        })
    }

    /// The next `length` bytes of the stream.
    pub fn read_exactly(&mut self, length: u64, sink: &mut impl FnMut(&[u8])) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            if self.unread().is_empty() {
                self.need()?;
            }
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(self.unread().len());
            sink(&self.unread()[..take]);
            self.at += take;
            left -= take as u64;
        }
        Ok(())
    }

    fn read_chunked(&mut self, sink: &mut impl FnMut(&[u8])) -> io::Result<Headers> {
        loop {
            let line = self.read_line()?;
            let digits = line.split(|&byte| byte == b';').next().unwrap_or_default();
            let digits = std::str::from_utf8(digits).map_err(|_| broken("a chunk size that is not ASCII"))?;
            let size =
                u64::from_str_radix(digits, 16).map_err(|_| broken(format!("not a chunk size: {digits}")))?;
            if size == 0 {
                return self.read_fields();
            }
            self.read_exactly(size, sink)?;
            if !self.read_line()?.is_empty() {
                return Err(broken("a chunk longer than its size"));
            }
        }
    }

    /// Waits for the server to close, discarding what it still sends.
    pub fn wait_closed(&mut self, within: Duration) -> Ending {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ending::Open;
            }
            self.set_read_timeout(left);
            self.at = self.buffer.len();
            match self.receive() {
                Ok(0) => return Ending::Closed,
                Ok(_) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ending::Open;
                }
                Err(_) => return Ending::Reset,
            }
        }
    }
}

fn framing(method: &str, status: u16, headers: &Headers) -> io::Result<Framing> {
    let lengths = headers.all("content-length");
    let codings = headers.all("transfer-encoding");
    if lengths.len() > 1 || codings.len() > 1 || (!lengths.is_empty() && !codings.is_empty()) {
        return Err(broken("a response with two framings"));
    }
    if status == 204 && !(lengths.is_empty() && codings.is_empty()) {
        return Err(broken("a 204 with a Content-Length or Transfer-Encoding"));
    }
    if method == "HEAD" || status == 204 || status == 304 {
        return Ok(Framing::None);
    }
    match (lengths.first(), codings.first()) {
        (Some(length), _) if !length.is_empty() && length.iter().all(u8::is_ascii_digit) => {
            Ok(Framing::Length)
        }
        (Some(_), _) => Err(broken("a Content-Length that is not a number")),
        (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        (None, Some(_)) => Err(broken("a transfer coding that nobody asked for")),
        (None, None) => Ok(Framing::Close),
    }
}
