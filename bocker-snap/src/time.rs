//! Points in time as image configurations write them, and the one that stands for now where images are to be reproducible.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bocker_pipe::{Error, Kind, Result};

/// The last second that RFC 3339 can write, of the year 9999.
const LAST: u64 = 253_402_300_799;

/// Names the time of what an image is made of, in seconds since 1970 (reproducible-builds.org/specs/source-date-epoch).
const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";

/// The time that `SOURCE_DATE_EPOCH` says, if it is set. Fails with [`Kind::Invalid`] when that is no time.
pub(crate) fn source_date() -> Result<Option<u64>> {
    match std::env::var_os(SOURCE_DATE_EPOCH) {
        None => Ok(None),
        Some(value) => seconds(&value.to_string_lossy()).map(Some),
    }
}

fn seconds(text: &str) -> Result<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = text.parse().ok().filter(|_| is_number);
    seconds.filter(|seconds| *seconds <= LAST).ok_or_else(|| {
        let what = format!("{SOURCE_DATE_EPOCH} is '{text}', which is no time");
        Error::new(Kind::Invalid, what).hint("give seconds since 1970, digits only, or unset it")
    })
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// RFC 3339, in UTC, from seconds since 1970. A clock past the year 9999 stays at its end, which `humantime` would not write.
pub(crate) fn rfc3339(seconds: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(seconds.min(LAST));
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_date() {
        // date -u -d @N +%FT%TZ
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_795_228_709), "2026-11-21T02:38:29Z");
        assert_eq!(rfc3339(4_107_542_399), "2100-02-28T23:59:59Z");
    }

    #[test]
    fn a_source_date_is_seconds_and_nothing_else() {
        assert_eq!(seconds("0").unwrap(), 0);
        assert_eq!(seconds("1795228709").unwrap(), 1_795_228_709);
        for text in [
            "",
            " 1",
            "+1",
            "-1",
            "1.5",
            "0x10",
            "1e9",
            "now",
            "253402300800",
            "99999999999999999999",
        ] {
            let error = seconds(text).unwrap_err();
            assert_eq!(error.kind(), &Kind::Invalid, "{text:?}");
        }
    }

    #[test]
    fn a_clock_gone_wrong_is_no_failure() {
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
