//! `[registry]`: how the nodes of a cluster find each other.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::limits::{LEASE, LEASE_MAX, LEASE_MIN};
use crate::registry::settings::{Backend, Endpoint, Secret, Settings};

/// The section as it is written.
#[derive(Deserialize)]
#[serde(default)]
pub(super) struct Section {
    backend: String,
    endpoints: Option<Vec<String>>,
    #[serde(deserialize_with = "super::values::duration")]
    lease: Duration,
    username: Option<String>,
    password: Option<String>,
    password_file: Option<PathBuf>,
}

impl Default for Section {
    fn default() -> Self {
        Self {
            backend: "embedded".to_owned(),
            endpoints: None,
            lease: LEASE,
            username: None,
            password: None,
            password_file: None,
        }
    }
}

impl Section {
    /// What it says, checked.
    ///
    /// # Errors
    /// One line: which key, what is wrong with it.
    pub(super) fn check(self) -> Result<Settings, String> {
        let backend = match self.backend.as_str() {
            "embedded" => Backend::Embedded,
            "redis" => Backend::Redis,
            "etcd" => Backend::Etcd,
            other => {
                return Err(format!(
                    "registry.backend is '{other}': it can be \"embedded\", \"redis\" or \"etcd\""
                ));
            }
        };
        if !(LEASE_MIN..=LEASE_MAX).contains(&self.lease) {
            return Err(format!("registry.lease can be from {LEASE_MIN:?} to {LEASE_MAX:?}"));
        }
        let endpoints = match (backend.default_endpoint(), self.endpoints) {
            // The nodes ask each other; endpoints that are there for another backend do no harm.
            (None, _) => Vec::new(),
            (Some(default), None) => vec![Endpoint::parse(backend, default)?],
            (Some(_), Some(endpoints)) if endpoints.is_empty() => {
                return Err("registry.endpoints is empty: name at least one, or leave it out".to_owned());
            }
            (Some(_), Some(endpoints)) => {
                endpoints.iter().map(|text| Endpoint::parse(backend, text)).collect::<Result<_, _>>()?
            }
        };
        let password = match (self.password, self.password_file) {
            (Some(_), Some(_)) => {
                return Err("registry.password_file and AMBERBLOB_REGISTRY__PASSWORD are both there: leave \
                            one of them out"
                    .to_owned());
            }
            (Some(password), None) => Some(password),
            (None, Some(file)) => {
                let text = std::fs::read_to_string(&file).map_err(|error| {
                    format!("registry.password_file: cannot read {}: {error}", file.display())
                })?;
                Some(text.trim_end_matches(['\r', '\n']).to_owned())
            }
            (None, None) => None,
        };
        if backend == Backend::Etcd && self.username.is_some() != password.is_some() {
            return Err("etcd knows users by name and password: set registry.username and a password, or \
                        neither"
                .to_owned());
        }
        Ok(Settings {
            backend,
            endpoints,
            lease: self.lease,
            username: self.username,
            password: password.map(Secret::new),
        })
    }
}
