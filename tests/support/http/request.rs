//! Requests, right or wrong: they are sent as they were put together.

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

    pub fn method(&self) -> &str {
        &self.method
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
