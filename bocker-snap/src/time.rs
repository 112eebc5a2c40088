//! Points in time as image configurations write them.

use std::time::{Duration, UNIX_EPOCH};

/// The last second that RFC 3339 can write, of the year 9999.
const LAST: u64 = 253_402_300_799;

/// RFC 3339, in UTC, from seconds since 1970. A clock past the year 9999 stays at its end, which `humantime` would not write.
pub(crate) fn rfc3339(seconds: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(seconds.min(LAST));
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn times_are_those_of_date() {
        // date -u -d @N +%FT%TZ
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_795_228_709), "2026-11-21T02:38:29Z");
        assert_eq!(rfc3339(4_107_542_399), "2100-02-28T23:59:59Z");
    }

    #[test]
    fn a_clock_gone_wrong_is_no_failure() {
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
