//! Request heads that a node sends to another one.

use std::fmt::Display;

use super::response::{append, append_field};

/// A request's head.
#[derive(Clone, Debug)]
pub struct RequestHead(Vec<u8>);

impl RequestHead {
    /// A request of `method` for a target in origin form.
    pub fn new(method: &str, target: &str, host: &str) -> Self {
        let mut bytes = Vec::with_capacity(512);
        append(&mut bytes, format_args!("{method} {target} HTTP/1.1\r\n"));
        Self(bytes).header("Host", host)
    }

    /// Adds a field. Control characters of the value are left out.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Display) -> Self {
        append_field(&mut self.0, name, |bytes| append(bytes, value));
        self
    }

    /// Adds a field with any bytes for a value. Control characters are left out.
    #[must_use]
    pub fn header_bytes(mut self, name: &str, value: &[u8]) -> Self {
        append_field(&mut self.0, name, |bytes| bytes.extend_from_slice(value));
        self
    }

    /// The head as bytes.
    pub fn write(mut self) -> Vec<u8> {
        self.0.extend_from_slice(b"\r\n");
        self.0
    }
}
