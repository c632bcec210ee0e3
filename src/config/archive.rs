//! `[archive]`: the store that chunks go to, and what of the rest of the config goes with it.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::archive::settings::{Credentials, CredentialsFrom, Rules, Settings};
use crate::limits::{ARCHIVE_UPLOADS_MAX, BUCKET_MAX, PACK_BYTES, PREFIX_MAX, WATERMARK_GAP};
use crate::meta::schema::Durability;

/// The section as it is written.
#[derive(Deserialize)]
#[serde(default)]
pub(super) struct Section {
    target: String,
    bucket: Option<String>,
    region: String,
    endpoint: Option<String>,
    prefix: String,
    path_style: Option<bool>,
    credentials: Option<PathBuf>,
    #[serde(deserialize_with = "super::values::bytes")]
    rate: u64,
    requests: u64,
    uploads: usize,
    #[serde(deserialize_with = "super::values::bytes")]
    pack_below: u64,
    #[serde(deserialize_with = "super::values::some_duration")]
    after: Option<Duration>,
    #[serde(deserialize_with = "super::values::some_percent")]
    high_watermark: Option<u64>,
    #[serde(deserialize_with = "super::values::some_percent")]
    low_watermark: Option<u64>,
}

impl Default for Section {
    fn default() -> Self {
        Self {
            target: "s3".to_owned(),
            bucket: None,
            region: "us-east-1".to_owned(),
            endpoint: None,
            prefix: String::new(),
            path_style: None,
            credentials: None,
            rate: 0,
            requests: 0,
            uploads: 4,
            pack_below: 4 << 20,
            after: None,
            high_watermark: None,
            low_watermark: None,
        }
    }
}

/// Credentials in the environment, by the names that other tools give them.
#[derive(Default)]
pub(super) struct Variables {
    access_key: Option<String>,
    secret_key: Option<String>,
    session_token: Option<String>,
}

impl Variables {
    pub(super) fn of(environment: &[(String, String)]) -> Self {
        let find = |wanted: &str| {
            let found = environment.iter().find(|(name, value)| name == wanted && !value.is_empty());
            found.map(|(_, value)| value.clone())
        };
        Self {
            access_key: find("AWS_ACCESS_KEY_ID"),
            secret_key: find("AWS_SECRET_ACCESS_KEY"),
            session_token: find("AWS_SESSION_TOKEN"),
        }
    }
}

impl Section {
    /// What it says, checked, also against the rest of the config.
    ///
    /// # Errors
    /// One line: which key, what is wrong with it, what to do.
    pub(super) fn check(self, variables: Variables, durability: Durability) -> Result<Settings, String> {
        if durability == Durability::Relaxed {
            return Err(
                "storage.durability is \"relaxed\": with [archive], files would go because of rows that a \
                 power cut can take: set it to \"full\", or leave [archive] out"
                    .to_owned(),
            );
        }
        if self.target != "s3" {
            return Err(format!("archive.target is '{}': it can be \"s3\"", self.target.escape_debug()));
        }
        let bucket =
            self.bucket.ok_or("archive.bucket is missing: name the bucket that chunks are to go to")?;
        check_bucket(&bucket)?;
        check_region(&self.region)?;
        let endpoint = self.endpoint.as_deref().map(parse_endpoint).transpose()?;
        if !(1..=ARCHIVE_UPLOADS_MAX).contains(&self.uploads) {
            return Err(format!(
                "archive.uploads is {}: it can be from 1 to {ARCHIVE_UPLOADS_MAX}",
                self.uploads
            ));
        }
        Ok(Settings {
            bucket,
            region: self.region,
            path_style: self.path_style.unwrap_or(endpoint.is_some()),
            endpoint,
            prefix: normal_prefix(&self.prefix)?,
            credentials: find_credentials(self.credentials, variables)?,
            rate: self.rate,
            requests: self.requests,
            uploads: self.uploads,
            pack_below: self.pack_below.min(PACK_BYTES),
            rules: check_rules(self.after, self.high_watermark, self.low_watermark)?,
        })
    }
}

fn check_rules(after: Option<Duration>, high: Option<u64>, low: Option<u64>) -> Result<Rules, String> {
    let low = match (high, low) {
        (None, Some(_)) => {
            return Err(
                "archive.low_watermark says where archiving ends that archive.high_watermark begins: set \
                        that, too, or leave it out"
                    .to_owned(),
            );
        }
        (Some(high), Some(low)) if low >= high => {
            return Err(format!(
                "archive.low_watermark is {low}%, and archive.high_watermark {high}%: it must be below that"
            ));
        }
        (Some(high), None) => Some(high.saturating_sub(WATERMARK_GAP).max(1).min(high - 1)),
        (_, low) => low,
    };
    Ok(Rules { after, high_watermark: high, low_watermark: low })
}

fn check_bucket(bucket: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let good = (3..=BUCKET_MAX).contains(&bucket.len())
        && bucket.chars().all(|c| plain(c) || c == '-' || c == '.')
        && bucket.starts_with(plain)
        && bucket.ends_with(plain);
    if good {
        return Ok(());
    }
    Err(format!(
        "archive.bucket is '{}': the name of a bucket has 3 to {BUCKET_MAX} of the characters a-z 0-9 . -, \
         with a letter or a digit at both ends",
        bucket.escape_debug()
    ))
}

fn check_region(region: &str) -> Result<(), String> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !region.is_empty() && region.len() <= BUCKET_MAX && region.chars().all(good) {
        return Ok(());
    }
    Err(format!(
        "archive.region is '{}': it is a name like \"us-east-1\"; leave it out where the store has none",
        region.escape_debug()
    ))
}

/// `http[s]://HOST[:PORT]`.
fn parse_endpoint(text: &str) -> Result<String, String> {
    if text.contains('@') {
        return Err("archive.endpoint: keys do not belong into an address: put them into a file that \
                    archive.credentials names"
            .to_owned());
    }
    let wrong = || {
        format!(
            "archive.endpoint is '{}': write it like \"https://s3.example.com\" or \"http://10.0.0.5:9000\", \
             without a path",
            text.escape_debug()
        )
    };
    let endpoint = text.strip_suffix('/').unwrap_or(text);
    let authority = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
    let authority = authority.ok_or_else(wrong)?;
    let (host, port) = match authority.rsplit_once(':') {
        // An IPv6 address without a port ends in a bracket.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let good = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    let port_good = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0));
    if host.is_empty() || !host.chars().all(good) || !port_good {
        return Err(wrong());
    }
    Ok(endpoint.to_owned())
}

/// As keys begin with it.
fn normal_prefix(text: &str) -> Result<String, String> {
    let inner = text.trim_matches('/');
    if inner.is_empty() {
        return Ok(String::new());
    }
    let prefix = format!("{inner}/");
    if prefix.len() > PREFIX_MAX {
        return Err(format!("archive.prefix has {} bytes: it can have {PREFIX_MAX}", prefix.len()));
    }
    // Much that stands before a store takes such segments out.
    if inner.chars().any(char::is_control) || inner.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(format!(
            "archive.prefix is '{}': it is what keys begin with, like \"node-1/\", without control \
             characters and without segments that are empty, \".\" or \"..\"",
            text.escape_debug()
        ));
    }
    Ok(prefix)
}

fn find_credentials(file: Option<PathBuf>, variables: Variables) -> Result<CredentialsFrom, String> {
    let credentials = match (file, variables.access_key, variables.secret_key) {
        (Some(file), _, _) => CredentialsFrom::File(file),
        (None, Some(access_key), Some(secret_key)) => CredentialsFrom::Environment(Credentials {
            access_key,
            secret_key,
            session_token: variables.session_token,
        }),
        (None, None, None) => {
            return Err(
                "archive.credentials is missing: name a file that has the access key and the secret key, a \
                 line each, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                    .to_owned(),
            );
        }
        (None, _, _) => {
            return Err(
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong together: set both, or name a file in \
                 archive.credentials"
                    .to_owned(),
            );
        }
    };
    credentials.load().map_err(|error| format!("archive.credentials: {error}"))?;
    Ok(credentials)
}
