//! An HTTP/1.1 client of a few hundred lines, strict about what it accepts and able to send anything.
//!
//! A response that breaks the grammar of RFC 9112 is an error of kind `InvalidData`; one that ends early is `UnexpectedEof`.
//! Every read and write has a timeout.

mod connection;
mod request;
mod response;

pub use connection::{Connection, Ending};
pub use request::{Request, encode_path, object};
pub use response::{Framing, Headers, Interim, Response, assert_error, error_code};
