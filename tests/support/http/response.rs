//! What came back: head, body, and the errors of the contract.

/// Field lines in the order they came, names compared without case.
#[derive(Clone, Default, PartialEq, Eq)]
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

#[derive(Clone)]
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

impl std::fmt::Debug for Headers {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_map()
            .entries(self.0.iter().map(|(name, value)| (name, String::from_utf8_lossy(value))))
            .finish()
    }
}

/// As a failed assertion shows it: in words, and not all of a large body.
impl std::fmt::Debug for Response {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown: String = self.text().chars().take(400).collect();
        write!(out, "{} {} {:?} ", self.status, self.reason, self.headers)?;
        write!(out, "{:?} of {} bytes: {shown:?}", self.framing, self.body.len())
    }
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
        assert_eq!(self.status, status, "{self:?}");
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
