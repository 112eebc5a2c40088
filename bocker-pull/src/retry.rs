//! Which failures of a registry are worth another try, and how long to wait before it.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, SystemTime};

use bocker_pipe::Error;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use tokio::time;

/// How often a request is tried again unless the user says otherwise: about eight seconds of waiting in all.
pub(crate) const RETRIES: u32 = 5;
/// Before the first try again; doubled for each one after it.
const FIRST_DELAY: Duration = Duration::from_millis(250);
const DELAY_MAX: Duration = Duration::from_secs(8);
/// The longest time that a registry may ask us to wait. Who is asked for more is told instead.
const AFTER_MAX: Duration = Duration::from_secs(20);

/// Whether to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// The answer would be the same.
    Never,
    /// After a pause that grows from try to try.
    Soon,
    /// When the registry said.
    After(Duration),
}

/// An error, and whether what led to it is worth another try.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    pub(crate) again: Again,
}

impl Failure {
    /// One that may pass.
    pub(crate) fn passing(error: Error) -> Failure {
        Failure {
            error,
            again: Again::Soon,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure {
            error,
            again: Again::Never,
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        failure.error
    }
}

/// The tries that are left.
#[derive(Debug)]
pub(crate) struct Retries {
    limit: u32,
    used: u32,
}

impl Retries {
    /// So many after the first one.
    pub(crate) fn new(limit: u32) -> Retries {
        Retries { limit, used: 0 }
    }

    /// Whether there is to be another try.
    pub(crate) fn allow(&self, again: Again) -> bool {
        again != Again::Never && self.used < self.limit
    }

    /// Waits until it is time for the next one.
    pub(crate) async fn wait(&mut self, again: Again) {
        let pause = match again {
            Again::After(pause) => pause,
            Again::Never | Again::Soon => jittered(delay(self.used)),
        };
        self.used += 1;
        time::sleep(pause).await;
    }

    /// Something came of the last try: what fails next has nothing to do with what failed before.
    pub(crate) fn progressed(&mut self) {
        self.used = 0;
    }
}

fn delay(used: u32) -> Duration {
    FIRST_DELAY
        .saturating_mul(1_u32.checked_shl(used).unwrap_or(u32::MAX))
        .min(DELAY_MAX)
}

/// Between three quarters and five quarters of it: clients that failed together are not to come back together.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 512;
    pause * 3 / 4 + pause * random as u32 / 1024
}

/// Whether an answer is worth another try. Only a request that may be repeated without harm is, unless it was turned away
/// unheard.
pub(crate) fn of_answer(status: StatusCode, headers: &HeaderMap, repeatable: bool) -> Again {
    let turned_away = match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => true,
        StatusCode::REQUEST_TIMEOUT
        | StatusCode::INTERNAL_SERVER_ERROR
        | StatusCode::BAD_GATEWAY
        | StatusCode::GATEWAY_TIMEOUT => false,
        _ => return Again::Never,
    };
    match after(headers) {
        Some(pause) if pause > AFTER_MAX => Again::Never,
        Some(pause) if turned_away => Again::After(pause),
        _ if repeatable => Again::Soon,
        _ => Again::Never,
    }
}

/// How long an answer asks us to wait.
pub(crate) fn after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    parse_retry_after(value, SystemTime::now())
}

/// The value of `Retry-After`: seconds, or a date (<https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3>). A date that has
/// passed is no wait.
pub(crate) fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // So many that they do not fit are as good as for ever.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pauses_double_and_end_growing() {
        let millis: Vec<u128> = (0..8).map(|used| delay(used).as_millis()).collect();
        assert_eq!(millis, [250, 500, 1000, 2000, 4000, 8000, 8000, 8000]);
        assert_eq!(delay(1000), DELAY_MAX);
        for _ in 0..100 {
            let pause = jittered(Duration::from_millis(1000)).as_millis();
            assert!((750..=1250).contains(&pause), "{pause}");
        }
    }

    #[test]
    fn a_retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        for (value, expected) in [
            ("30", Some(30)),
            (" 0 ", Some(0)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:40:00 GMT", Some(0)),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            let parsed = parse_retry_after(value, now);
            assert_eq!(parsed, expected.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let of = |status: u16, after: Option<&'static str>, repeatable| {
            let mut headers = HeaderMap::new();
            if let Some(after) = after {
                headers.insert(RETRY_AFTER, after.parse().unwrap());
            }
            of_answer(StatusCode::from_u16(status).unwrap(), &headers, repeatable)
        };
        for status in [200, 206, 301, 400, 401, 403, 404, 416, 501] {
            assert_eq!(of(status, Some("1"), true), Again::Never, "{status}");
        }
        for status in [408, 429, 500, 502, 503, 504] {
            assert_eq!(of(status, None, true), Again::Soon, "{status}");
            assert_eq!(of(status, None, false), Again::Never, "{status}");
        }
        let second = Again::After(Duration::from_secs(1));
        assert_eq!(of(429, Some("1"), false), second);
        assert_eq!(of(503, Some("1"), false), second);
        assert_eq!(of(429, Some("30"), true), Again::Never);
        assert_eq!(of(500, Some("1"), false), Again::Never);
    }

    proptest! {
        #[test]
        fn no_value_makes_the_parser_panic(value in "\\PC{0,40}") {
            parse_retry_after(&value, SystemTime::now());
        }
    }
}
