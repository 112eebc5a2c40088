//! Times as people read them.

use std::time::SystemTime;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const WEEK: u64 = 7 * DAY;
const MONTH: u64 = 30 * DAY;
const YEAR: u64 = 365 * DAY;

/// How long ago a time in RFC 3339 (UTC) was, in docker's words: `4 hours`. `None` for what is no such time, or before 1970.
pub(crate) fn since(text: &str) -> Option<String> {
    let then = humantime::parse_rfc3339(text).ok()?;
    let ago = SystemTime::now().duration_since(then).unwrap_or_default();
    Some(words(ago.as_secs()))
}

/// In the steps of docker's go-units: the unit changes where two of the larger one are reached.
fn words(seconds: u64) -> String {
    match seconds {
        0 => "Less than a second".into(),
        1 => "1 second".into(),
        2..MINUTE => format!("{seconds} seconds"),
        MINUTE..120 => "About a minute".into(),
        120..HOUR => format!("{} minutes", seconds / MINUTE),
        HOUR..7200 => "About an hour".into(),
        _ if seconds < 2 * DAY => format!("{} hours", seconds / HOUR),
        _ if seconds < 2 * WEEK => format!("{} days", seconds / DAY),
        _ if seconds < 2 * MONTH => format!("{} weeks", seconds / WEEK),
        _ if seconds < 2 * YEAR => format!("{} months", seconds / MONTH),
        _ => format!("{} years", seconds / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_time_is_read_however_precise_it_is() {
        for text in ["2006-01-02T15:04:05Z", "2006-01-02T15:04:05.123456789Z"] {
            assert!(since(text).unwrap().ends_with(" years"), "{text}");
        }
        let ahead = "9999-01-01T00:00:00Z";
        assert_eq!(since(ahead).unwrap(), "Less than a second");
        for text in ["", "now", "2026-11-21", "0001-01-01T00:00:00Z"] {
            assert_eq!(since(text), None, "{text}");
        }
    }

    #[test]
    fn a_while_is_said_in_dockers_words() {
        for (seconds, expected) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (7199, "About an hour"),
            (4 * HOUR, "4 hours"),
            (3 * DAY, "3 days"),
            (15 * DAY, "2 weeks"),
            (90 * DAY, "3 months"),
            (800 * DAY, "2 years"),
        ] {
            assert_eq!(words(seconds), expected);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC{0,40}|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.0-9Z+:]{0,16}") {
            let _ = since(&text);
        }
    }
}
