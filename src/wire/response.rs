//! Response heads and error bodies: types to bytes.
//!
//! A head is one vector, written once. A field whose name is no token or whose value has a control character
//! is left out as a whole, so that nothing a client stored can end a head early or add a field to it. Whether
//! a status may have a `Content-Length` (1xx and 204 may not) is up to the caller, who knows the body.

use std::fmt::Display;
use std::io::Write as _;

use super::headers::{is_token, is_value_byte};
use crate::base::error::Error;

/// The interim response that asks for the body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What most heads need.
const CAPACITY: usize = 768;

/// Some fields, written once for many heads.
#[derive(Clone, Debug, Default)]
pub struct FieldLines {
    bytes: Vec<u8>,
}

impl FieldLines {
    /// Adds a field.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Display) -> Self {
        append_field(&mut self.bytes, name, |bytes| append(bytes, value));
        self
    }

    /// Adds a field whose value may have bytes that are not ASCII.
    #[must_use]
    pub fn header_bytes(mut self, name: &str, value: &[u8]) -> Self {
        append_field(&mut self.bytes, name, |bytes| bytes.extend_from_slice(value));
        self
    }

    /// Bytes of all lines.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// A head being written.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    bytes: Vec<u8>,
}

impl ResponseHead {
    /// Begins with the status line.
    pub fn new(status: u16) -> Self {
        let mut bytes = Vec::with_capacity(CAPACITY);
        bytes.extend_from_slice(b"HTTP/1.1 ");
        append(&mut bytes, status);
        bytes.push(b' ');
        bytes.extend_from_slice(reason(status).as_bytes());
        bytes.extend_from_slice(b"\r\n");
        Self { bytes }
    }

    /// Adds a field.
    #[must_use]
    pub fn header(self, name: &str, value: impl Display) -> Self {
        self.field(name, |bytes| append(bytes, value))
    }

    /// Adds a field whose value may have bytes that are not ASCII.
    #[must_use]
    pub fn header_bytes(self, name: &str, value: &[u8]) -> Self {
        self.field(name, |bytes| bytes.extend_from_slice(value))
    }

    /// Adds fields that were written before.
    #[must_use]
    pub fn fields(mut self, lines: &FieldLines) -> Self {
        self.bytes.extend_from_slice(&lines.bytes);
        self
    }

    /// Ends the head with `Date`, and with `Connection` if the client has to be told.
    pub fn write(self, date: &str, connection: Option<&'static str>) -> Vec<u8> {
        let mut head = self.header("Date", date);
        if let Some(option) = connection {
            head = head.header("Connection", option);
        }
        head.bytes.extend_from_slice(b"\r\n");
        head.bytes
    }

    fn field(mut self, name: &str, append_value: impl FnOnce(&mut Vec<u8>)) -> Self {
        append_field(&mut self.bytes, name, append_value);
        self
    }
}

/// Appends a field line, or nothing if its name or its value could be taken for something else.
pub(super) fn append_field(bytes: &mut Vec<u8>, name: &str, append_value: impl FnOnce(&mut Vec<u8>)) {
    let before = bytes.len();
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(b": ");
    let value = bytes.len();
    append_value(bytes);
    if is_token(name.as_bytes()) && bytes[value..].iter().all(|b| is_value_byte(*b)) {
        bytes.extend_from_slice(b"\r\n");
    } else {
        bytes.truncate(before);
    }
}

/// Appends a value as text.
pub(super) fn append(bytes: &mut Vec<u8>, value: impl Display) {
    // A vector takes every byte; only the value itself could fail, and then has said what it could.
    let _ = write!(bytes, "{value}");
}

/// The reason phrase of a status; empty for one that this server does not send.
fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        206 => "Partial Content",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        507 => "Insufficient Storage",
        _ => "",
    }
}

/// The JSON body of an error.
pub fn error_body(error: &Error, request_id: &str) -> String {
    let inner = serde_json::json!({
        "code": error.code.name(),
        "message": error.message,
        "request_id": request_id,
    });
    serde_json::json!({ "error": inner }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Code;
    use proptest::prelude::*;

    const DATE: &str = "Sat, 31 Jan 2026 12:00:00 GMT";

    #[test]
    fn a_head_is_written_as_it_goes_out() {
        let head = ResponseHead::new(206)
            .header("Content-Length", 12u64)
            .header("ETag", format_args!("\"{}\"", "x"))
            .header_bytes("x-amber-meta-k", b"\xe9\tz")
            .write(DATE, Some("close"));
        let expected = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 12\r\nETag: \"x\"\r\nx-amber-meta-k: \xe9\tz\r\nDate: Sat, 31 Jan 2026 12:00:00 GMT\r\nConnection: close\r\n\r\n";
        assert_eq!(head, expected);
        assert_eq!(
            ResponseHead::new(204).write(DATE, None),
            format!("HTTP/1.1 204 No Content\r\nDate: {DATE}\r\n\r\n").as_bytes()
        );
    }

    #[test]
    fn response_splitting_is_impossible() {
        for value in ["a\r\nSet-Cookie: b", "a\nb", "a\rb", "\0", "a\x7f", "\x1b[0m"] {
            let head =
                ResponseHead::new(200).header("X", value).header_bytes("Y", value.as_bytes()).header("Z", 1);
            assert_eq!(head.write("", None), b"HTTP/1.1 200 OK\r\nZ: 1\r\nDate: \r\n\r\n", "{value:?}");
        }
        for name in ["", "a b", "a:", "a\r\nb", "\u{e9}"] {
            assert_eq!(
                ResponseHead::new(200).header(name, 1).write("", None),
                b"HTTP/1.1 200 OK\r\nDate: \r\n\r\n"
            );
        }
    }

    #[test]
    fn every_status_of_an_error_has_its_phrase() {
        let codes = [
            Code::BadRequest,
            Code::InvalidPath,
            Code::DigestMismatch,
            Code::BlobNotFound,
            Code::MethodNotAllowed,
            Code::RequestTimeout,
            Code::VersionConflict,
            Code::PreconditionFailed,
            Code::TooLarge,
            Code::UriTooLong,
            Code::RangeNotSatisfiable,
            Code::ExpectationFailed,
            Code::HeadersTooLarge,
            Code::Internal,
            Code::NotImplemented,
            Code::SlotUnavailable,
            Code::OutcomeUnknown,
            Code::DiskFull,
        ];
        for status in codes.map(Code::status).into_iter().chain([100, 200, 201, 204, 206, 304, 307, 308]) {
            assert!(!reason(status).is_empty(), "{status}");
        }
        assert_eq!(CONTINUE, format!("HTTP/1.1 100 {}\r\n\r\n", reason(100)).as_bytes());
    }

    #[test]
    fn an_error_body_is_json_whatever_the_message() {
        let error = Error::new(Code::BadRequest, "a \"quote\" and a \n");
        let body = error_body(&error, "01J");
        assert_eq!(
            body,
            r#"{"error":{"code":"BadRequest","message":"a \"quote\" and a \n","request_id":"01J"}}"#
        );
    }

    proptest! {
        #[test]
        fn any_field_takes_one_line_or_none(
            name in "[a-zA-Z-]{1,9}|.*",
            value in prop_oneof![prop::collection::vec(any::<u8>(), 0..40), prop::collection::vec(b' '..0x7f, 0..40)],
        ) {
            let head = ResponseHead::new(200).header_bytes(&name, &value).write(DATE, None);
            let valid = is_token(name.as_bytes()) && value.iter().all(|b| is_value_byte(*b));
            prop_assert_eq!(head.split(|b| *b == b'\n').count() - 1, if valid { 4 } else { 3 });
            prop_assert!(head.ends_with(b"\r\n\r\n"));
            prop_assert_eq!(head.windows(4).filter(|w| w == b"\r\n\r\n").count(), 1);
        }
    }
}
