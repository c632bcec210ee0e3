//! How the registry is told to work.

use std::fmt;
use std::time::Duration;

/// Where nodes find each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// In the config; they ask each other whether they are there.
    Embedded,
    /// In a Redis.
    Redis,
    /// In an etcd.
    Etcd,
}

impl Backend {
    /// Its server, where none is named.
    pub fn default_endpoint(self) -> Option<&'static str> {
        match self {
            Self::Embedded => None,
            Self::Redis => Some("redis://127.0.0.1:6379"),
            Self::Etcd => Some("http://127.0.0.1:2379"),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Embedded => "embedded",
            Self::Redis => "redis",
            Self::Etcd => "etcd",
        })
    }
}

/// What the config says of the registry.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which kind.
    pub backend: Backend,
    /// Its servers; one that does not answer is left for the next. None for `embedded`.
    pub endpoints: Vec<Endpoint>,
    /// How long an announcement is good for; it is renewed three times within.
    pub lease: Duration,
    /// User name for the servers.
    pub username: Option<String>,
    /// Password for the servers.
    pub password: Option<Secret>,
}

impl Settings {
    /// How long one question to a server may take.
    pub fn patience(&self) -> Duration {
        crate::limits::REGISTRY_TIME.min(self.lease / 3)
    }
}

/// A server of the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Number of the database (Redis).
    pub database: i64,
}

impl Endpoint {
    /// Reads `redis://HOST[:PORT][/DATABASE]` or `http://HOST[:PORT]`.
    ///
    /// # Errors
    /// One line, without what could be a password.
    pub fn parse(backend: Backend, text: &str) -> Result<Self, String> {
        let (scheme, example, port) = match backend {
            Backend::Redis => ("redis://", "redis://10.0.0.5:6379", 6379),
            Backend::Embedded | Backend::Etcd => ("http://", "http://10.0.0.5:2379", 2379),
        };
        if text.contains('@') {
            return Err("registry.endpoints: a user or a password does not belong into an address: use \
                        registry.username and registry.password_file or AMBERBLOB_REGISTRY__PASSWORD"
                .to_owned());
        }
        let wrong = || {
            format!("registry.endpoints: '{text}' is no address of {backend}: write it like \"{example}\"")
        };
        let rest = text.strip_prefix(scheme).ok_or_else(wrong)?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let database = match path {
            "" => 0,
            number if backend == Backend::Redis => {
                number.parse().ok().filter(|n| *n >= 0).ok_or_else(wrong)?
            }
            _ => return Err(wrong()),
        };
        let (host, port) = match authority.rsplit_once(':') {
            // An IPv6 address without a port ends in a bracket.
            Some((host, number)) if !number.ends_with(']') => (host, number.parse().map_err(|_| wrong())?),
            _ => (authority, port),
        };
        let good = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
        if host.is_empty() || port == 0 || !host.chars().all(good) {
            return Err(wrong());
        }
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { host, port, database })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A password: it is not shown by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes it.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Shows it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(a password)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_and_mistakes_named() {
        let redis = |text| Endpoint::parse(Backend::Redis, text);
        let told = |host: &str, port, database| Ok(Endpoint { host: host.to_owned(), port, database });
        assert_eq!(redis("redis://10.0.0.5:7000/3"), told("10.0.0.5", 7000, 3));
        assert_eq!(redis("redis://cache.example"), told("cache.example", 6379, 0));
        assert_eq!(redis("redis://[::1]:7000"), told("::1", 7000, 0));
        assert_eq!(redis("redis://[::1]"), told("::1", 6379, 0));
        assert_eq!(redis("redis://[::1]").unwrap().to_string(), "[::1]:6379");
        assert_eq!(Endpoint::parse(Backend::Etcd, "http://a:1/"), told("a", 1, 0));
        for text in
            ["", "redis://", "10.0.0.5:6379", "rediss://a", "redis://a:0", "redis://a:x", "redis://a/x"]
        {
            assert!(redis(text).unwrap_err().contains("like \"redis://"), "{text}");
        }
        assert!(Endpoint::parse(Backend::Etcd, "https://a").unwrap_err().contains("like \"http://"));
        let error = redis("redis://:geheim@a").unwrap_err();
        assert!(error.contains("password_file") && !error.contains("geheim"), "{error}");
        assert!(!format!("{:?}", Secret::new("geheim".to_owned())).contains("geheim"));
    }
}
