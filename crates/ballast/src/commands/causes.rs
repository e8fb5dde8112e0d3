//! The whole story of an error whose own text leaves its causes out.

use std::error::Error;

/// The error's text, and those of its causes as far as they are not in it already.
pub(super) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let own = error.to_string();
        if !text.contains(&own) {
            text = format!("{text}: {own}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: io::Error,
    }

    #[test]
    fn causes_are_told_once() {
        let error = |text| Layer { text, source: io::Error::other("connection refused") };
        assert_eq!(with_causes(&error("cannot connect")), "cannot connect: connection refused");
        assert_eq!(with_causes(&error("no: connection refused")), "no: connection refused");
    }
}
