//! `[archive]`: what is good, and what is said about what is not.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::{THREE, as_node, load};
use crate::archive::settings::{CredentialsFrom, Rules, Settings};

const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "geheim")];

/// The section with these lines beside its bucket.
fn archive(lines: &str) -> Result<Settings, String> {
    let config = load(&format!("[archive]\nbucket = \"chunks\"\n{lines}"), &KEYS)?;
    config.archive.ok_or_else(|| "there is none".to_owned())
}

fn credentials_file(text: &str, mode: u32) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    file
}

#[test]
fn a_bucket_and_credentials_make_an_archive() {
    assert!(load("", &KEYS).unwrap().archive.is_none());
    let settings = archive("").unwrap();
    assert_eq!((settings.bucket.as_str(), settings.region.as_str()), ("chunks", "us-east-1"));
    assert_eq!((settings.endpoint, settings.prefix.as_str(), settings.path_style), (None, "", false));
    assert_eq!((settings.rate, settings.uploads), (0, 4));
    let settings = archive(
        "target = \"s3\"\nregion = \"garage\"\nendpoint = \"http://127.0.0.1:9000/\"\nprefix = \"/node-1\"\n\
         rate = \"10MiB\"\nuploads = 8",
    )
    .unwrap();
    assert_eq!(settings.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
    assert_eq!((settings.region.as_str(), settings.prefix.as_str()), ("garage", "node-1/"));
    assert!(settings.path_style, "as most stores of one's own have it");
    assert_eq!((settings.rate, settings.uploads), (10 << 20, 8));
    let settings = archive("endpoint = \"https://[::1]\"\npath_style = false").unwrap();
    assert_eq!((settings.endpoint.as_deref(), settings.path_style), (Some("https://[::1]"), false));
    let variables =
        [KEYS[0], KEYS[1], ("AMBERBLOB_ARCHIVE__BUCKET", "1234"), ("AMBERBLOB_ARCHIVE__UPLOADS", "2")];
    let settings = load("", &variables).unwrap().archive.unwrap();
    assert_eq!(
        (settings.bucket.as_str(), settings.uploads),
        ("1234", 2),
        "a name, though it looks like a number"
    );
}

#[test]
fn prefixes_are_brought_into_one_form() {
    for (written, told) in
        [("", ""), ("/", ""), ("a", "a/"), ("/a/", "a/"), ("a/b", "a/b/"), ("//a b/ö//", "a b/ö/")]
    {
        assert_eq!(archive(&format!("prefix = \"{written}\"")).unwrap().prefix, told);
    }
}

#[test]
fn mistakes_in_the_archive_are_named() {
    for (lines, part) in [
        ("target = \"gcs\"", "it can be \"s3\""),
        ("region = \"\"", "like \"us-east-1\""),
        ("region = \"a b\"", "archive.region is 'a b'"),
        ("endpoint = \"127.0.0.1:9000\"", "write it like"),
        ("endpoint = \"ftp://a\"", "write it like"),
        ("endpoint = \"http://\"", "write it like"),
        ("endpoint = \"http://a:0\"", "write it like"),
        ("endpoint = \"http://a:70000\"", "write it like"),
        ("endpoint = \"https://a/path\"", "without a path"),
        ("endpoint = \"https://a?x\"", "without a path"),
        ("endpoint = \"https://id:geheim@a\"", "archive.credentials names"),
        ("prefix = \"a/../b\"", "without segments that"),
        ("prefix = \"..\"", "without segments that"),
        ("prefix = \"a//b\"", "without segments that"),
        ("prefix = \"a\\u0007\"", "without control characters"),
        ("uploads = 0", "from 1 to 64"),
        ("uploads = 65", "from 1 to 64"),
        ("rate = \"25%\"", "'25%' is no size"),
        ("path_style = 1", "path_style"),
        ("after = \"soon\"", "'soon' is no duration"),
        ("after = \"0s\"", "leave it empty"),
        ("high_watermark = \"85\"", "'85' is no mark of a disk: write it like \"85%\""),
        ("high_watermark = \"100%\"", "from 1% to 99%"),
        ("low_watermark = \"75%\"", "set that, too"),
        ("high_watermark = \"80%\"\nlow_watermark = \"80%\"", "it must be below that"),
        ("credential = \"x\"", "did you mean 'archive.credentials'"),
        ("credentials = \"/no/such\"", "archive.credentials: cannot read /no/such"),
    ] {
        let error = archive(lines).unwrap_err();
        assert!(
            error.contains(part) && !error.contains('\n') && !error.contains("geheim"),
            "{lines}: {error}"
        );
    }
    let error = archive(&format!("prefix = \"{}\"", "p".repeat(256))).unwrap_err();
    assert!(error.contains("has 257 bytes: it can have 256"), "{error}");
}

#[test]
fn names_that_no_bucket_has_are_refused() {
    assert!(load("[archive]", &KEYS).unwrap_err().contains("archive.bucket is missing"));
    let (longest, longer) = ("a".repeat(63), "a".repeat(64));
    for name in ["", "ab", "Chunks", "a_b", "a b", "-ab", "ab-", ".ab", "a/b", longer.as_str()] {
        let error = load(&format!("[archive]\nbucket = \"{name}\""), &KEYS).unwrap_err();
        assert!(error.contains("3 to 63 of the characters"), "{name}: {error}");
    }
    for name in ["abc", "my.bucket-1", "1ab", longest.as_str()] {
        assert!(load(&format!("[archive]\nbucket = \"{name}\""), &KEYS).is_ok(), "{name}");
    }
}

#[test]
fn credentials_come_from_a_file_or_from_the_environment() {
    let text = "[archive]\nbucket = \"chunks\"";
    let error = load(text, &[]).unwrap_err();
    assert!(
        error.contains("archive.credentials is missing") && error.contains("AWS_ACCESS_KEY_ID"),
        "{error}"
    );
    for half in KEYS {
        assert!(load(text, &[half]).unwrap_err().contains("belong together"));
        assert!(load(text, &[half, ("AWS_SECRET_ACCESS_KEY", "")]).is_err(), "what is empty is not there");
    }
    let with_token = [KEYS[0], KEYS[1], ("AWS_SESSION_TOKEN", "token")];
    let config = load(text, &with_token).unwrap();
    assert!(!format!("{config:?}").contains("geheim") && !format!("{config:?}").contains("token\""));
    let credentials = config.archive.unwrap().credentials.load().unwrap();
    assert_eq!((credentials.access_key.as_str(), credentials.secret_key.as_str()), ("id", "geheim"));
    assert_eq!(credentials.session_token.as_deref(), Some("token"));

    let file = credentials_file("other\nsecret\n", 0o600);
    let settings = archive(&format!("credentials = {:?}", file.path())).unwrap();
    assert!(matches!(&settings.credentials, CredentialsFrom::File(path) if path == file.path()));
    assert_eq!(settings.credentials.load().unwrap().access_key, "other", "the file is the nearer one");
    std::fs::write(file.path(), "newer\nsecret\n").unwrap();
    assert_eq!(settings.credentials.load().unwrap().access_key, "newer", "it is read again");
    let open = credentials_file("other\ngeheim\n", 0o644);
    let error = archive(&format!("credentials = {:?}", open.path())).unwrap_err();
    assert!(error.contains("chmod 600") && !error.contains("geheim"), "{error}");
    let profile =
        credentials_file("[default]\naws_access_key_id = a\naws_secret_access_key = geheim\n", 0o600);
    let error = archive(&format!("credentials = {:?}", profile.path())).unwrap_err();
    assert!(error.contains("a line each") && !error.contains("geheim"), "{error}");
}

#[test]
fn what_would_break_a_promise_of_the_archive_is_refused() {
    let error =
        load("[storage]\ndurability = \"relaxed\"\n[archive]\nbucket = \"chunks\"", &KEYS).unwrap_err();
    assert!(error.contains("power cut") && error.contains("leave [archive] out"), "{error}");
}

#[test]
fn what_goes_by_itself_is_said_by_age_and_by_watermark() {
    let rules = |lines: &str| archive(lines).unwrap().rules;
    assert_eq!(rules(""), Rules::default());
    assert_eq!(rules("after = \"\"\nhigh_watermark = \"\"\nlow_watermark = \"\""), Rules::default());
    let documented = rules("after = \"30d\"\nhigh_watermark = \"85%\"");
    let after = Some(Duration::from_hours(30 * 24));
    assert_eq!(documented, Rules { after, high_watermark: Some(85), low_watermark: Some(75) });
    assert_eq!(rules("high_watermark = \"5%\"").low_watermark, Some(1));
    assert_eq!(rules("high_watermark = \"90%\"\nlow_watermark = \"50%\"").low_watermark, Some(50));
    let config = as_node(&format!("{THREE}[archive]\nbucket = \"chunks\""), "a");
    assert!(
        config.is_err_and(|error| error.contains("archive.credentials is missing")),
        "a cluster has one, too"
    );
}
