//! The URL template: which server to load, and which path a request has.
//!
//! `{n}` in the path becomes the object's number, `{conn}` the connection's. Only `http://` is spoken. The host is resolved once, before
//! the run, so that no name service is measured.

use std::io::Write as _;
use std::net::{SocketAddr, ToSocketAddrs as _};

/// A URL, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    /// `host:port` as written, for the Host field.
    authority: String,
    port: u16,
    host: String,
    path: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Object,
    Connection,
}

impl Url {
    /// Takes `http://host[:port]/path` apart.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let rest = text
            .strip_prefix("http://")
            .ok_or_else(|| format!("{text:?} is no URL that can be loaded: it must begin with http://"))?;
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let bad_host = || format!("{text:?} has no usable host: write http://host:port/path");
        if authority.contains(['@', ' ', '{', '}']) {
            return Err(bad_host());
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().map_err(|_| bad_host())?),
            _ => (authority, 80),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err(bad_host());
        }
        if let Some(bad) = path.chars().find(|c| !c.is_ascii_graphic() || *c == '#') {
            return Err(format!("{text:?} has {bad:?} in its path: percent-encode it"));
        }
        Ok(Self { authority: authority.to_owned(), port, host: host.to_owned(), path: pieces(path)? })
    }

    /// The address to connect to: the first the host resolves to.
    pub(crate) fn resolve(&self) -> Result<SocketAddr, String> {
        let failed = |why: &str| format!("cannot resolve {:?}: {why}", self.host);
        let mut addresses =
            (self.host.as_str(), self.port).to_socket_addrs().map_err(|error| failed(&error.to_string()))?;
        addresses.next().ok_or_else(|| failed("no address"))
    }

    /// The value of the Host field.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// Whether different objects have different paths.
    pub(crate) fn names_objects(&self) -> bool {
        self.path.contains(&Piece::Object)
    }

    /// Whether different connections have different paths.
    pub(crate) fn names_connections(&self) -> bool {
        self.path.contains(&Piece::Connection)
    }

    /// Appends the path of `object` as connection `connection` asks for it.
    pub(crate) fn write_path(&self, object: u64, connection: usize, out: &mut Vec<u8>) {
        for piece in &self.path {
            match piece {
                Piece::Literal(text) => out.extend_from_slice(text.as_bytes()),
                // Writing to a Vec cannot fail.
                Piece::Object => drop(write!(out, "{object}")),
                Piece::Connection => drop(write!(out, "{connection}")),
            }
        }
    }
}

fn pieces(path: &str) -> Result<Vec<Piece>, String> {
    let mut found = Vec::new();
    let mut rest = path;
    while let Some(open) = rest.find(['{', '}']) {
        let (literal, tail) = rest.split_at(open);
        if !literal.is_empty() {
            found.push(Piece::Literal(literal.to_owned()));
        }
        rest = if let Some(tail) = tail.strip_prefix("{n}") {
            found.push(Piece::Object);
            tail
        } else if let Some(tail) = tail.strip_prefix("{conn}") {
            found.push(Piece::Connection);
            tail
        } else {
            return Err(format!("{path:?} has a brace that is neither {{n}} nor {{conn}}"));
        };
    }
    if !rest.is_empty() {
        found.push(Piece::Literal(rest.to_owned()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(url: &str, object: u64, connection: usize) -> String {
        let mut out = Vec::new();
        Url::parse(url).unwrap().write_path(object, connection, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn names_are_filled_in() {
        assert_eq!(path("http://h/objects/a-{n}/{conn}.bin?x={n}", 7, 3), "/objects/a-7/3.bin?x=7");
        assert_eq!(path("http://h", 7, 3), "/");
        assert!(Url::parse("http://h/{n}").unwrap().names_objects());
        assert!(!Url::parse("http://h/{conn}").unwrap().names_objects());
    }

    #[test]
    fn hosts_and_ports_are_found() {
        let url = Url::parse("http://127.0.0.1:8080/x").unwrap();
        assert_eq!(url.resolve().unwrap(), "127.0.0.1:8080".parse().unwrap());
        assert_eq!(url.authority(), "127.0.0.1:8080");
        assert_eq!(Url::parse("http://[::1]/x").unwrap().resolve().unwrap(), "[::1]:80".parse().unwrap());
        assert_eq!(Url::parse("http://[::1]:81/x").unwrap().resolve().unwrap(), "[::1]:81".parse().unwrap());
    }

    #[test]
    fn what_cannot_be_loaded_is_refused() {
        for text in [
            "https://h/x",
            "h/x",
            "http://",
            "http:///x",
            "http://h:port/",
            "http://u@h/",
            "http://h/a b",
            "http://h/{m}",
            "http://h/}",
            "http://h/\r\n",
        ] {
            assert!(Url::parse(text).is_err(), "{text:?} was taken");
        }
    }
}
