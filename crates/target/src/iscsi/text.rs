//! The `key=value` text format (RFC 7143 section 6.1): pairs separated by NUL, keys of up to 63 bytes.

use thiserror::Error;

/// Longest key name (RFC 7143 section 6.1).
const MAX_KEY: usize = 63;
/// Longest value taken: 255 bytes for ordinary values, large binary ones (CHAP) need up to 1024 bytes encoded.
const MAX_VALUE: usize = 8192;
/// Pairs taken from one exchange; section 13 defines fewer than 40 keys.
const MAX_PAIRS: usize = 256;

/// What is wrong with a text.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TextError {
    /// A pair without `=`.
    #[error("text parameter without '='")]
    NoEquals,
    /// An empty or overlong key, or one with bytes the RFC does not allow.
    #[error("text parameter with a bad key name")]
    BadKey,
    /// Value that is too long or is not UTF-8.
    #[error("text parameter with a bad value")]
    BadValue,
    /// More pairs than any exchange needs.
    #[error("more than {MAX_PAIRS} text parameters")]
    TooMany,
    /// The same key twice in one exchange (RFC 7143 section 6.3: keys are negotiated once).
    #[error("text parameter {0} given twice")]
    Duplicate(String),
}

/// Splits a text into its pairs, in order.
pub fn parse(text: &[u8]) -> Result<Vec<(String, String)>, TextError> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for item in text.split(|b| *b == 0) {
        if item.is_empty() {
            continue; // the last NUL, and padding that some initiators count as data
        }
        let at = item.iter().position(|b| *b == b'=').ok_or(TextError::NoEquals)?;
        let (key, value) = (&item[..at], &item[at + 1..]);
        let fits = |b: &u8| b.is_ascii_alphanumeric() || b".-+@_/[]:".contains(b);
        if key.is_empty() || key.len() > MAX_KEY || !key.iter().all(fits) {
            return Err(TextError::BadKey);
        }
        if value.len() > MAX_VALUE {
            return Err(TextError::BadValue);
        }
        let value = std::str::from_utf8(value).map_err(|_| TextError::BadValue)?;
        let key = String::from_utf8_lossy(key).into_owned();
        if pairs.iter().any(|(k, _)| *k == key) {
            return Err(TextError::Duplicate(key));
        }
        if pairs.len() == MAX_PAIRS {
            return Err(TextError::TooMany);
        }
        pairs.push((key, value.to_owned()));
    }
    Ok(pairs)
}

/// Appends one pair with its NUL.
pub fn put(out: &mut Vec<u8>, key: &str, value: &str) {
    out.extend_from_slice(key.as_bytes());
    out.push(b'=');
    out.extend_from_slice(value.as_bytes());
    out.push(0);
}

/// A numerical value: decimal or hexadecimal constant (RFC 7143 section 6.1).
pub fn number(value: &str) -> Option<u32> {
    match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(hex) if !hex.is_empty() && !hex.starts_with('+') => u32::from_str_radix(hex, 16).ok(),
        Some(_) => None,
        None if value.starts_with('+') => None,
        None => value.parse().ok(),
    }
}

/// A boolean value: exactly `Yes` or `No`.
pub fn boolean(value: &str) -> Option<bool> {
    match value {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

/// `Yes` or `No`.
pub fn yes_no(value: bool) -> &'static str {
    if value { "Yes" } else { "No" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn pairs_round_trip(values in prop::collection::vec("[ -~]{0,40}", 0..20)) {
            let mut out = Vec::new();
            for (i, v) in values.iter().enumerate() {
                put(&mut out, &format!("X-key{i}"), v);
            }
            let got = parse(&out).unwrap();
            prop_assert_eq!(got.into_iter().map(|p| p.1).collect::<Vec<_>>(), values);
        }
    }

    #[test]
    fn errors() {
        assert_eq!(parse(b"novalue\0"), Err(TextError::NoEquals));
        assert_eq!(parse(b"=x\0"), Err(TextError::BadKey));
        assert_eq!(parse(b"a b=x\0"), Err(TextError::BadKey));
        assert_eq!(parse(b"a=\xff\0"), Err(TextError::BadValue));
        assert_eq!(parse(b"a=1\0a=2\0"), Err(TextError::Duplicate("a".into())));
        let many: Vec<u8> = (0..300).flat_map(|i| format!("k{i}=1\0").into_bytes()).collect();
        assert_eq!(parse(&many), Err(TextError::TooMany));
    }

    #[test]
    fn values() {
        assert_eq!(
            [number("12"), number("0x10"), number("0X1f"), number("+1"), number("0x"), number("")],
            [Some(12), Some(16), Some(31), None, None, None]
        );
        assert_eq!([boolean("Yes"), boolean("No"), boolean("yes")], [Some(true), Some(false), None]);
    }
}
