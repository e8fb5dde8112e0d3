//! Sizes as people write them: `10Gi`, `1.5T`, `512M`, `4096`.
//!
//! `Ki Mi Gi Ti Pi` are powers of 1024, `K M G T P` powers of 1000, an optional `B` may follow. A plain number counts
//! bytes. A size must come out as a whole number of bytes.

use std::fmt;
use std::str::FromStr;

/// A number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct ByteSize(pub(crate) u64);

/// A size that cannot be understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SizeError {
    /// No digits, or something else between them.
    #[error("'{0}' is not a size: write a number and a unit, for example 512Mi, 10Gi or 1.5T")]
    Number(String),
    /// A unit that is none of ours.
    #[error("'{unit}' in '{text}' is not a unit of size: use Ki, Mi, Gi, Ti, Pi (1024) or K, M, G, T, P (1000)")]
    Unit {
        /// All that was given.
        text: String,
        /// The part that is wrong.
        unit: String,
    },
    /// Zero, more than 64 bits, or a fraction of a byte.
    #[error("'{0}' is not a whole number of bytes between 1 and 8 EiB: give another size")]
    Range(String),
}

const UNITS: [(&str, u64); 10] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("K", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
];

fn unit_factor(unit: &str) -> Option<u64> {
    let bare = unit.strip_suffix(['B', 'b']).unwrap_or(unit);
    if bare.is_empty() {
        return Some(1);
    }
    UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(bare)).map(|(_, factor)| *factor)
}

impl FromStr for ByteSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(split);
        let unit = unit.trim_start();
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) || (number.contains('.') && fraction.is_empty()) {
            return Err(SizeError::Number(text.to_owned()));
        }
        let factor =
            unit_factor(unit).ok_or_else(|| SizeError::Unit { text: text.to_owned(), unit: unit.to_owned() })?;
        exact_bytes(whole, fraction, factor).map(Self).ok_or_else(|| SizeError::Range(text.to_owned()))
    }
}

/// `whole.fraction * factor`, only if that is a whole number from 1 to 2^63.
fn exact_bytes(whole: &str, fraction: &str, factor: u64) -> Option<u64> {
    let factor = u128::from(factor);
    let fraction = fraction.trim_end_matches('0');
    // More digits than any unit has bytes for cannot be whole; also keeps 10^n inside 128 bits.
    if fraction.len() > 20 {
        return None;
    }
    let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let part = if fraction.is_empty() { 0 } else { fraction.parse::<u128>().ok()? };
    let scaled = part.checked_mul(factor)?;
    if !scaled.is_multiple_of(scale) {
        return None;
    }
    let total = whole.parse::<u128>().ok()?.checked_mul(factor)?.checked_add(scaled / scale)?;
    let total = u64::try_from(total).ok()?;
    (1..=1 << 63).contains(&total).then_some(total)
}

impl fmt::Display for ByteSize {
    /// The largest unit of 1024 that leaves at least 1, with up to two digits: `1.50 GiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let bytes = self.0;
        if bytes < 1024 {
            return write!(f, "{bytes} B");
        }
        let power = (63 - bytes.leading_zeros()) / 10;
        let unit = 1u64 << (10 * power);
        let name = NAMES[power as usize - 1];
        if bytes.is_multiple_of(unit) {
            write!(f, "{} {name}", bytes / unit)
        } else {
            write!(f, "{:.2} {name}", bytes as f64 / unit as f64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<u64, SizeError> {
        text.parse::<ByteSize>().map(|size| size.0)
    }

    #[test]
    fn units() {
        assert_eq!(parse("4096"), Ok(4096));
        assert_eq!(parse("1Ki"), Ok(1024));
        assert_eq!(parse("10Gi"), Ok(10 << 30));
        assert_eq!(parse("10GiB"), Ok(10 << 30));
        assert_eq!(parse("10 gib"), Ok(10 << 30));
        assert_eq!(parse("2Ti"), Ok(2 << 40));
        assert_eq!(parse("1K"), Ok(1000));
        assert_eq!(parse("3M"), Ok(3_000_000));
        assert_eq!(parse("5GB"), Ok(5_000_000_000));
        assert_eq!(parse("1.5Gi"), Ok(3 << 29));
        assert_eq!(parse("0.5K"), Ok(500));
        assert_eq!(parse("7B"), Ok(7));
    }

    #[test]
    fn refused() {
        for text in ["", "Gi", "-1", "1.2.3Gi", ".5Gi", "1.Gi", "a1", "+5"] {
            assert!(matches!(parse(text), Err(SizeError::Number(_))), "{text}");
        }
        for text in ["1X", "1Gigi", "1 Gi x", "1iB", "1BB"] {
            assert!(matches!(parse(text), Err(SizeError::Unit { .. })), "{text}");
        }
        for text in ["0", "0Gi", "1.5", "0.0001K", "99999Pi", "99999999999999999999999999999999999999999999"] {
            assert!(matches!(parse(text), Err(SizeError::Range(_))), "{text}");
        }
    }

    #[test]
    fn shown() {
        assert_eq!(ByteSize(0).to_string(), "0 B");
        assert_eq!(ByteSize(1023).to_string(), "1023 B");
        assert_eq!(ByteSize(1 << 30).to_string(), "1 GiB");
        assert_eq!(ByteSize(3 << 29).to_string(), "1.50 GiB");
        assert_eq!(ByteSize(u64::MAX).to_string(), "16.00 EiB");
    }
}
