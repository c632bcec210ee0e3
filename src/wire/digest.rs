//! `Repr-Digest` and `Content-Digest` (RFC 9530): the SHA-256 of a dictionary of digests (RFC 9651).
//!
//! Other algorithms are skipped whatever their values are. A digest that a client announced and that cannot
//! be read is a `BadRequest`: it asked for a check, and storing without one would look like a check that
//! passed.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::headers::trim;
use crate::base::error::{Code, Error, Result};

const ALGORITHM: &[u8] = b"sha-256";

/// Standard base64 that is lenient about padding, as RFC 9651 section 4.2.7 asks of readers.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The sha-256 member of a dictionary, if it has one; several lines of the field are to be joined with
/// commas. Should the member be repeated, the last one counts (RFC 9651 section 3.2).
///
/// # Errors
/// `BadRequest` if a sha-256 member is not 32 bytes in base64 between colons, or a string does not end.
pub fn parse_sha256(value: &[u8]) -> Result<Option<[u8; 32]>> {
    let mut digest = None;
    let mut rest = value;
    while !rest.is_empty() {
        let (member, behind) = split_member(rest)?;
        rest = behind;
        let key_len =
            member.iter().position(|b| matches!(b, b'=' | b';' | b' ' | b'\t')).unwrap_or(member.len());
        let (key, value) = member.split_at(key_len);
        // Keys are lower case; one that is not was meant all the same.
        if key.eq_ignore_ascii_case(ALGORITHM) {
            let bytes =
                value.strip_prefix(b"=").and_then(byte_sequence).and_then(|bytes| bytes.try_into().ok());
            let why = "the sha-256 digest is not the base64 of 32 bytes between colons";
            digest = Some(bytes.ok_or_else(|| Error::new(Code::BadRequest, why))?);
        }
    }
    Ok(digest)
}

/// The dictionary with this digest alone: `sha-256=:...:`.
pub fn format_sha256(digest: &[u8; 32]) -> String {
    format!("sha-256=:{}:", BASE64.encode(digest))
}

/// Splits at the first comma that is in no string.
fn split_member(dictionary: &[u8]) -> Result<(&[u8], &[u8])> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in dictionary.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return Ok((trim(&dictionary[..at]), &dictionary[at + 1..])),
            _ => {}
        }
    }
    if quoted {
        return Err(Error::new(Code::BadRequest, "a string in the digest field does not end"));
    }
    Ok((trim(dictionary), b""))
}

/// Reads `:base64:`, with parameters behind it or not.
fn byte_sequence(value: &[u8]) -> Option<Vec<u8>> {
    let value = value.strip_prefix(b":")?;
    let (encoded, behind) = value.split_at(value.iter().position(|b| *b == b':')?);
    if !matches!(behind, [b':'] | [b':', b';', ..]) {
        return None;
    }
    BASE64.decode(encoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// SHA-256 of `{"hello": "world"}\n`, from RFC 9530 appendix B.1.
    const HELLO: &str = "RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=";

    fn parse(value: &str) -> std::result::Result<Option<[u8; 32]>, Code> {
        parse_sha256(value.as_bytes()).map_err(|e| e.code)
    }

    #[test]
    fn the_sha256_member_is_found_among_others() {
        let digest: [u8; 32] = BASE64.decode(HELLO).unwrap().try_into().unwrap();
        assert_eq!(digest[..4], [0x44, 0xaf, 0xf4, 0xab]);
        let member = format!("sha-256=:{HELLO}:");
        assert_eq!(format_sha256(&digest), member);
        for value in [
            member.clone(),
            format!("  {member}\t"),
            format!("md5=:AAAA:, {member}"),
            format!("{member},md5=:AAAA:"),
            format!("{member};a=1;b=\"x,y\""),
            format!("x=\"sha-256=1, \\\", y\" ,\t{member}"),
            format!("x=(1 2 \"a,b\");p, y;q, z=?1, w=-3.5, unixsum=30637, sha-512=garbage:::, {member}"),
            format!(", {member},,"),
            format!("sha-256=:{}:, {member}", "A".repeat(43)),
            member.replace('=', "~").replacen('~', "=", 1).replace('~', ""),
            member.replace("sha", "SHA"),
        ] {
            assert_eq!(parse(&value), Ok(Some(digest)), "{value}");
        }
    }

    #[test]
    fn other_algorithms_are_ignored() {
        for value in [
            "",
            " ",
            ",",
            "sha-512=:AAAA:",
            "md5=x",
            "xsha-256=1",
            "sha-2567=1",
            "sha-256x=:",
            "a=\"sha-256=1\"",
            "\u{e9}=\0",
            "=",
            ";",
        ] {
            assert_eq!(parse(value), Ok(None), "{value}");
        }
    }

    #[test]
    fn an_announced_digest_that_cannot_be_read_is_refused() {
        for value in [
            "sha-256".to_owned(),
            "sha-256=".to_owned(),
            "sha-256=?1".to_owned(),
            "sha-256=::".to_owned(),
            "sha-256=:AAAA:".to_owned(),
            "sha-256;a=1".to_owned(),
            format!("sha-256={HELLO}"),
            format!("sha-256=\"{HELLO}\""),
            format!("sha-256=:{HELLO}"),
            format!("sha-256=:{HELLO}:x"),
            format!("sha-256= :{HELLO}:"),
            format!("sha-256 =:{HELLO}:"),
            format!("sha-256=:{HELLO}A:"),
            format!("sha-256=:A{HELLO}:"),
            format!("sha-256=:{}:", HELLO.replace('/', "_")),
            format!("sha-256=:{}:", HELLO.replace('/', " ")),
            format!("sha-256=:{HELLO}:, sha-256=1"),
            format!("SHA-256={HELLO}"),
            format!("md5=\"x, sha-256=:{HELLO}:"),
        ] {
            assert_eq!(parse(&value), Err(Code::BadRequest), "{value}");
        }
    }

    proptest! {
        #[test]
        fn a_digest_is_read_as_written(digest in any::<[u8; 32]>(), other in "[a-z0-9:=;]{0,20}") {
            let value = format!("x-{other}, {}", format_sha256(&digest));
            prop_assert_eq!(parse(&value), Ok(Some(digest)));
        }

        #[test]
        fn any_value_is_read_or_refused(value in "(sha-256)?[=:a\",;\\\\ ]{0,30}") {
            let _ = parse(&value);
        }
    }
}
