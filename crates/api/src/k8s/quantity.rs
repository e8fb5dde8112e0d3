//! Sizes as Kubernetes writes them ("1Gi", "500M", "1.5e9"), and as cStor's columns show them ("1.58M", "9.94G").

/// A size that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a size: write a number and a unit, for example 512Mi, 10Gi or 20G")]
pub struct QuantityError(String);

/// Units of a quantity (Kubernetes' resource.Quantity): powers of 1024, powers of 1000, thousandths.
const UNITS: [(&str, u64); 12] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("Ei", 1 << 60),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000),
];

/// Bytes of a quantity, rounded up.
pub fn parse_bytes(text: &str) -> Result<u64, QuantityError> {
    let error = || QuantityError(text.to_owned());
    let trimmed = text.trim();
    let unit = UNITS.iter().find_map(|(unit, factor)| Some((trimmed.strip_suffix(unit)?, *factor, 0)));
    let (number, factor, exponent) = match unit {
        Some(found) => found,
        None => match trimmed.strip_suffix('m') {
            // Kubernetes writes fractions of a byte this way after arithmetic.
            Some(number) => (number, 1, -3),
            None => match trimmed.split_once(['e', 'E']) {
                Some((number, exponent)) => (number, 1, exponent.parse::<i32>().map_err(|_| error())?),
                None => (trimmed, 1, 0),
            },
        },
    };
    if !(-18..=18).contains(&exponent) {
        return Err(error());
    }
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) || fraction.len() > 18 {
        return Err(error());
    }
    // Exact in 128 bits: value = digits * factor * 10^(exponent - places).
    let mantissa: u128 = format!("{whole}{fraction}").parse().map_err(|_| error())?;
    let scaled = mantissa.checked_mul(u128::from(factor)).ok_or_else(error)?;
    let power = exponent - i32::try_from(fraction.len()).map_err(|_| error())?;
    let ten = 10u128.checked_pow(power.unsigned_abs()).ok_or_else(error)?;
    let bytes = if power >= 0 { scaled.checked_mul(ten).ok_or_else(error)? } else { scaled.div_ceil(ten) };
    u64::try_from(bytes).map_err(|_| error())
}

/// Bytes with three digits and one letter, in powers of 1024, as zfs and so cStor's columns show them.
pub fn short(bytes: u64) -> String {
    const LETTERS: [&str; 6] = ["K", "M", "G", "T", "P", "E"];
    if bytes < 1024 {
        return bytes.to_string();
    }
    let mut value = bytes as f64 / 1024.0;
    let mut letter = 0;
    while value >= 999.5 && letter + 1 < LETTERS.len() {
        value /= 1024.0;
        letter += 1;
    }
    let places = match value {
        value if value >= 99.95 => 0,
        value if value >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{value:.places$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", LETTERS[letter])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_of_kubernetes() {
        for (text, bytes) in [
            ("0", 0),
            ("1Gi", 1 << 30),
            ("1.5Gi", 3 << 29),
            ("20G", 20_000_000_000),
            ("512Mi", 512 << 20),
            ("10737418240", 10_737_418_240),
            ("1e9", 1_000_000_000),
            ("1.5e3", 1500),
            ("1500m", 2),
            ("100k", 100_000),
            (".5Ki", 512),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "Gi", "-1Gi", "1 Gi", "1GB", "x", "1e99", "99999Ei", "1..2", "1.2.3", "0x10"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn columns_look_like_those_of_cstor() {
        for (bytes, text) in [
            (0, "0"),
            (512, "512"),
            (1 << 10, "1K"),
            (1_656_750, "1.58M"),
            (10_672_000_000, "9.94G"),
            (10 << 30, "10G"),
            (100 << 30, "100G"),
            (1023 << 20, "1G"),
            (u64::MAX, "16E"),
        ] {
            assert_eq!(short(bytes), text);
        }
    }
}
