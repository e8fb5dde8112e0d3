//! Times as objects carry them.

use jiff::Timestamp;

/// Now, RFC 3339, to the second.
pub fn now() -> String {
    format!("{:.0}", Timestamp::now())
}

/// Now, to the minute: for times that are written again and again.
pub fn this_minute() -> String {
    let seconds = Timestamp::now().as_second();
    let minute = Timestamp::from_second(seconds - seconds.rem_euclid(60)).unwrap_or_default();
    format!("{minute:.0}")
}
