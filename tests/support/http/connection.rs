//! One connection: bytes out as they are, responses in by the letter of RFC 9112.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::request::Request;
use super::response::{Framing, Headers, Interim, Response};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const IO_TIMEOUT: Duration = Duration::from_secs(20);
const MAX_HEAD: usize = 64 << 10;

/// What ended a wait for the server to close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// An orderly end of the stream.
    Closed,
    Reset,
    /// Still open when the time was up.
    Open,
}

/// One connection, and what it received beyond the responses read so far.
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
        let answer = self.read_response(request.method());
        match (sent, answer) {
            (_, Ok(response)) => Ok(response),
            (Err(error), Err(second)) => {
                Err(io::Error::new(error.kind(), format!("sending: {error}; then reading: {second}")))
            }
            (Ok(()), Err(error)) => Err(error),
        }
    }

    /// Sends `raw` and reads the one response to it. The server may stop reading before all is sent: what counts is its answer.
    #[track_caller]
    pub fn answer_to(&mut self, raw: &[u8]) -> Response {
        let shown = String::from_utf8_lossy(&raw[..raw.len().min(120)]).into_owned();
        let sent = self.send_raw(raw);
        self.read_response("GET").unwrap_or_else(|error| panic!("{shown:?}: {error}; sent: {sent:?}"))
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
