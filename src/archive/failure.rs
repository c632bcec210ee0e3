//! What went wrong at the store, and what follows from it.

use crate::limits::ARCHIVE_SAID_MAX;

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No such object.
    Missing,
    /// 401, 403, or no such bucket: nobody can use the store.
    Denied,
    /// 429, 503 or `SlowDown`: it has too much to do.
    Busy,
    /// No connection, no answer in time, an answer that was cut, another 5xx.
    Unavailable,
    /// The store has or got other bytes than it should.
    Wrong,
}

/// A request to the store that failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What follows from it.
    pub kind: Kind,
    /// The operation, the object and the cause, in one line.
    pub message: String,
}

/// What a request was about: a 404 means that this is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Object,
    Bucket,
}

impl Failure {
    pub(super) fn new(kind: Kind, what: &str, why: &str) -> Self {
        Self { kind, message: format!("{what}: {}", one_line(why)) }
    }

    /// An answer of the store that is no success.
    pub(super) fn of_answer(
        what: &str,
        asked: Asked,
        status: u16,
        code: Option<&str>,
        said: Option<&str>,
    ) -> Self {
        let code = code.unwrap_or_default();
        let mut why = format!("the store answers {status}");
        if !code.is_empty() {
            why = format!("{why} {code}");
        }
        if let Some(said) = said.filter(|said| !said.is_empty()) {
            why = format!("{why}: {said}");
        }
        Self::new(kind(asked, status, code), what, &why)
    }
}

fn kind(asked: Asked, status: u16, code: &str) -> Kind {
    match code {
        "NoSuchKey" => Kind::Missing,
        // What stands in the place of a code where a 404 has no body.
        "NotFound" if asked == Asked::Object => Kind::Missing,
        "NotFound"
        | "NoSuchBucket"
        | "InvalidBucketName"
        | "PermanentRedirect"
        | "AuthorizationHeaderMalformed"
        | "AccessDenied"
        | "AllAccessDisabled"
        | "AccountProblem"
        | "InvalidAccessKeyId"
        | "InvalidToken"
        | "ExpiredToken"
        | "SignatureDoesNotMatch"
        | "RequestTimeTooSkewed" => Kind::Denied,
        "SlowDown"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "TooManyRequests"
        | "Throttling"
        | "RequestLimitExceeded" => Kind::Busy,
        "BadDigest"
        | "InvalidDigest"
        | "XAmzContentSHA256Mismatch"
        | "XAmzContentChecksumMismatch"
        | "InvalidRange" => Kind::Wrong,
        _ => match status {
            301 | 401 | 403 => Kind::Denied,
            // A 404 with a body that no store writes comes from something before it, and says nothing of the object.
            404 if asked == Asked::Bucket => Kind::Denied,
            416 => Kind::Wrong,
            429 | 503 => Kind::Busy,
            _ => Kind::Unavailable,
        },
    }
}

/// What somebody else said, as a part of a line.
fn one_line(text: &str) -> String {
    let mut line: String = text
        .chars()
        .take(ARCHIVE_SAID_MAX)
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect();
    line.truncate(line.trim_end().len());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_in_one_line() {
        let long = "long ".repeat(1000);
        let told = |code, said| Failure::of_answer("GET s3://b/k", Asked::Object, 503, code, said).message;
        assert_eq!(
            told(Some("SlowDown"), Some("Please reduce\nyour request rate\n")),
            "GET s3://b/k: the store answers 503 SlowDown: Please reduce your request rate"
        );
        assert_eq!(told(None, None), "GET s3://b/k: the store answers 503");
        assert_eq!(told(Some(""), Some("")), "GET s3://b/k: the store answers 503");
        assert!(told(None, Some(long.as_str())).chars().count() < ARCHIVE_SAID_MAX + 20);
    }

    #[test]
    fn what_an_answer_means_depends_on_its_code_and_its_status() {
        for (status, code, object) in [
            (404, "NoSuchKey", Kind::Missing),
            (404, "NotFound", Kind::Missing),
            (404, "NoSuchBucket", Kind::Denied),
            (404, "", Kind::Unavailable),
            (401, "", Kind::Denied),
            (403, "", Kind::Denied),
            (403, "InvalidAccessKeyId", Kind::Denied),
            (403, "SignatureDoesNotMatch", Kind::Denied),
            (400, "ExpiredToken", Kind::Denied),
            (301, "PermanentRedirect", Kind::Denied),
            (429, "", Kind::Busy),
            (503, "", Kind::Busy),
            (500, "SlowDown", Kind::Busy),
            (400, "BadDigest", Kind::Wrong),
            (400, "XAmzContentSHA256Mismatch", Kind::Wrong),
            (416, "InvalidRange", Kind::Wrong),
            (416, "", Kind::Wrong),
            (400, "IncompleteBody", Kind::Unavailable),
            (500, "InternalError", Kind::Unavailable),
            (502, "", Kind::Unavailable),
            (507, "", Kind::Unavailable),
            (200, "InternalError", Kind::Unavailable),
        ] {
            assert_eq!(kind(Asked::Object, status, code), object, "{status} {code}");
        }
        for code in ["", "NotFound", "NoSuchBucket"] {
            assert_eq!(kind(Asked::Bucket, 404, code), Kind::Denied, "{code}");
        }
    }
}
