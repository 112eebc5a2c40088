//! Moments: as the tools write them, and as people give them to `--since` and `--until`.

use std::fmt::Display;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::{Error, Kind, Result};

const MINUTE: u64 = 60;
/// What stands after a date alone.
const MIDNIGHT: &str = "T00:00:00";
/// The length of `2026-11-21`.
const DATE: usize = 10;

/// The last second that RFC 3339 can write: 9999-12-31T23:59:59Z. The first that humantime can write is of 1970.
const LAST_SECOND: Duration = Duration::from_secs(253_402_300_799);

/// The time now in UTC, to the nanosecond, as RFC 3339 writes it.
pub fn now() -> impl Display {
    text(SystemTime::now())
}

/// A moment as [`now`] writes it, always of one length, so that texts are ordered as the moments are. What cannot be written so
/// becomes the first or the last moment that can.
pub fn text(moment: SystemTime) -> impl Display {
    humantime::format_rfc3339_nanos(moment.clamp(UNIX_EPOCH, UNIX_EPOCH + LAST_SECOND))
}

/// The moment that people mean: RFC 3339, also without its zone (then the caller's) or its time of day; seconds since 1970; or
/// how long ago it was, as `10m` or `1h30m`. Fails with [`Kind::Usage`].
pub fn parse(given: &str) -> Result<SystemTime> {
    seconds(given)
        .or_else(|| ago(given))
        .or_else(|| date(given))
        .ok_or_else(|| {
            Error::new(Kind::Usage, format!("'{given}' is not a time")).hint(
                "write it as 2026-11-21T14:30:00Z, as seconds since 1970, or as how long ago: 10m, 1h30m",
            )
        })
}

fn seconds(given: &str) -> Option<SystemTime> {
    let (whole, fraction) = given.split_once('.').unwrap_or((given, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    UNIX_EPOCH.checked_add(Duration::new(whole.parse().ok()?, nanos))
}

fn ago(given: &str) -> Option<SystemTime> {
    let duration = humantime::parse_duration(given).ok()?;
    SystemTime::now().checked_sub(duration)
}

fn date(given: &str) -> Option<SystemTime> {
    let (day, rest) = given.split_at_checked(DATE)?;
    let zone_at = rest.find(['Z', 'z', '+', '-']).unwrap_or(rest.len());
    let (time, zone) = rest.split_at(zone_at);
    let time = if time.is_empty() { MIDNIGHT } else { time };
    let there = humantime::parse_rfc3339_weak(&format!("{day}{time}")).ok()?;
    let (sign, offset) = match zone {
        "" => return in_callers_zone(there),
        "Z" | "z" => return Some(there),
        zone => zone.split_at(1),
    };
    let (hours, minutes) = offset.split_once(':')?;
    let part = |text: &str, most: u64| {
        let number: u64 = text.parse().ok()?;
        (text.len() == 2 && number <= most).then_some(number)
    };
    let offset = Duration::from_secs((part(hours, 23)? * MINUTE + part(minutes, 59)?) * MINUTE);
    match sign {
        "+" => there.checked_sub(offset),
        _ => there.checked_add(offset),
    }
}

/// The moment at which the caller's clocks (tzset(3)) show what those of UTC show at this one.
fn in_callers_zone(shown: SystemTime) -> Option<SystemTime> {
    let shown = shown.duration_since(UNIX_EPOCH).ok()?;
    let seconds = shown.as_secs().try_into().ok()?;
    let moment = UNIX_EPOCH.checked_add(Duration::from_secs(mktime(seconds)?))?;
    moment.checked_add(Duration::from_nanos(shown.subsec_nanos().into()))
}

/// mktime(3) of the fields of a time; `None` for what is before 1970.
fn mktime(seconds: libc::time_t) -> Option<u64> {
    // SAFETY: it is made of numbers, and of a pointer that may be null.
    let mut fields: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both references are valid for the call, and neither is kept.
    if unsafe { libc::gmtime_r(&raw const seconds, &raw mut fields) }.is_null() {
        return None;
    }
    // Whether it is summer is the zone's to say.
    fields.tm_isdst = -1;
    // SAFETY: the reference is valid for the call and not kept; TZ is not changed by any thread of ours.
    let moment = unsafe { libc::mktime(&raw mut fields) };
    moment.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(given: &str) -> String {
        text(parse(given).unwrap()).to_string()
    }

    #[test]
    fn a_moment_is_given_in_dockers_ways() {
        for given in [
            "2026-11-21T14:30:00Z",
            "2026-11-21 14:30:00Z",
            "2026-11-21T16:00:00+01:30",
            "2026-11-21T09:30:00.000-05:00",
            "1795271400",
            "1795271400.0",
        ] {
            assert_eq!(parsed(given), "2026-11-21T14:30:00.000000000Z", "{given}");
        }
        assert_eq!(parsed("2026-11-21Z"), "2026-11-21T00:00:00.000000000Z");
        assert_eq!(parsed("0.5"), "1970-01-01T00:00:00.500000000Z");
        let then = parse("1h30m").unwrap();
        let ago = SystemTime::now().duration_since(then).unwrap();
        assert!(ago.as_secs() >= 5400, "{ago:?}");
    }

    #[test]
    fn a_moment_that_cannot_be_written_is_the_nearest_that_can() {
        assert_eq!(parsed("200y"), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(parsed("253402300800"), "9999-12-31T23:59:59.000000000Z");
        assert_eq!(
            parsed("9999-12-31T23:59:59-23:59"),
            "9999-12-31T23:59:59.000000000Z"
        );
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for given in [
            "",
            "now",
            "-1",
            "1.",
            "2026-13-01",
            "2026-11-21T14:30:00+1:00",
            "2026-11-21T14:30:00+01:60",
            "2026-11-21T14:30:00-24:00",
            "2026-11-21T1",
            "10q",
        ] {
            assert_eq!(parse(given).unwrap_err().kind(), &Kind::Usage, "{given}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(given in "\\PC{0,40}|[0-9]{1,30}[smhdwy.]?|[0-9]{4}-[0-9]{2}-[0-9]{2}[T0-9:.+Z-]{0,24}") {
            if let Ok(moment) = parse(&given) {
                prop_assert_eq!(text(moment).to_string().len(), "2026-11-21T14:30:00.000000000Z".len());
            }
        }
    }
}
