//! How the archive is told to work, and by what it is let in.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::limits::{ARCHIVE_CREDENTIALS_MAX, READS_STEP_MAX, READS_STEP_MIN};

/// What the config says of the archive.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where new objects go.
    pub bucket: String,
    /// Its region; stores of one's own mostly take any.
    pub region: String,
    /// Address of the store, where it is not that of AWS.
    pub endpoint: Option<String>,
    /// What the keys of new objects begin with: empty, or with a slash at its end.
    pub prefix: String,
    /// Whether the bucket stands in the path of a request instead of its host name.
    pub path_style: bool,
    /// Where the credentials are.
    pub credentials: CredentialsFrom,
    /// Bytes that go up in a second; 0: any.
    pub rate: u64,
    /// Requests a second that are made without a client that waits; 0: any.
    pub requests: u64,
    /// Chunks that go up at once.
    pub uploads: usize,
    /// Chunks of fewer bytes go several to an object, where several go at once.
    pub pack_below: u64,
    /// What goes by itself.
    pub rules: Rules,
}

/// What goes to the archive by itself, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Versions that were not read for so long; none: none do.
    pub after: Option<Duration>,
    /// Percent of a disk above which what was read longest ago goes; none: however full it is.
    pub high_watermark: Option<u64>,
    /// Percent of a disk at which that ends.
    pub low_watermark: Option<u64>,
}

impl Rules {
    /// How exactly times of reading are kept, and how often they are written down.
    pub fn step(&self) -> Duration {
        self.after.map_or(READS_STEP_MAX, |after| (after / 8).clamp(READS_STEP_MIN, READS_STEP_MAX))
    }
}

/// Where the credentials are.
#[derive(Clone, Debug)]
pub enum CredentialsFrom {
    /// In a file: access key, secret key and, if there is one, session token, a line each.
    File(PathBuf),
    /// They were in the environment.
    Environment(Credentials),
}

/// With what the store lets a node in: they are not shown by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Names who asks.
    pub access_key: String,
    /// Proves it.
    pub secret_key: String,
    /// Goes with keys that are good for some time only.
    pub session_token: Option<String>,
}

impl CredentialsFrom {
    /// The credentials as they are now: a file may have new ones.
    ///
    /// # Errors
    /// One line, which shows nothing of them.
    pub fn load(&self) -> Result<Credentials, String> {
        match self {
            Self::File(file) => read(file),
            Self::Environment(credentials) => Ok(credentials.clone()),
        }
    }
}

fn read(file: &Path) -> Result<Credentials, String> {
    let unreadable = |error: std::io::Error| format!("cannot read {}: {error}", file.display());
    let opened = File::open(file).map_err(unreadable)?;
    let mode = opened.metadata().map_err(unreadable)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "{} can be used by others than its owner (mode {mode:03o}): chmod 600 it",
            file.display()
        ));
    }
    let mut text = String::new();
    opened.take(ARCHIVE_CREDENTIALS_MAX).read_to_string(&mut text).map_err(unreadable)?;
    parse(&text).ok_or_else(|| {
        format!(
            "{} is no file of credentials: it has the access key, the secret key and, if there is one, the \
             session token, a line each",
            file.display()
        )
    })
}

fn parse(text: &str) -> Option<Credentials> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let (access_key, secret_key) = (lines.next()?, lines.next()?);
    let session_token = lines.next();
    let good = |line: &str| line.bytes().all(|byte| byte.is_ascii_graphic());
    // A profile, as other tools have them, begins with its name or a key.
    let profile = access_key.contains(['[', '=', ',']);
    let all = [Some(access_key), Some(secret_key), session_token];
    if lines.next().is_some() || profile || !all.into_iter().flatten().all(good) {
        return None;
    }
    Some(Credentials {
        access_key: access_key.to_owned(),
        secret_key: secret_key.to_owned(),
        session_token: session_token.map(str::to_owned),
    })
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(credentials)")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn load(text: &str, mode: u32) -> Result<Credentials, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        CredentialsFrom::File(file.path().to_owned()).load()
    }

    #[test]
    fn a_file_of_credentials_has_a_line_for_each() {
        let told = Credentials {
            access_key: "id".to_owned(),
            secret_key: "geheim/+=".to_owned(),
            session_token: None,
        };
        assert_eq!(load("id\ngeheim/+=\n", 0o600), Ok(told.clone()));
        assert_eq!(load(" id\r\n\ngeheim/+=", 0o400), Ok(told.clone()));
        let with_token = Credentials { session_token: Some("t".to_owned()), ..told };
        assert_eq!(load("id\ngeheim/+=\nt\n", 0o600), Ok(with_token));
    }

    #[test]
    fn what_is_no_file_of_credentials_is_refused_without_showing_it() {
        for text in [
            "",
            "geheim",
            "[default]\naws = geheim\nb = geheim",
            "a=geheim\nb",
            "a\nb\nc\ngeheim",
            "a\nge heim",
        ] {
            let error = load(text, 0o600).unwrap_err();
            assert!(error.contains("a line each") && !error.contains("geheim"), "{text}: {error}");
        }
        let error = CredentialsFrom::File("/no/such".into()).load().unwrap_err();
        assert!(error.contains("cannot read /no/such"), "{error}");
    }

    #[test]
    fn a_file_that_others_can_use_is_refused() {
        for mode in [0o640, 0o604, 0o620, 0o602] {
            let error = load("id\ngeheim", mode).unwrap_err();
            assert!(error.contains("chmod 600") && !error.contains("geheim"), "{error}");
        }
    }

    #[test]
    fn credentials_are_not_shown() {
        let credentials = load("id\ngeheim\ntoken", 0o600).unwrap();
        let shown = format!("{:?}", CredentialsFrom::Environment(credentials));
        assert!(!shown.contains("geheim") && !shown.contains("token"), "{shown}");
    }
}
