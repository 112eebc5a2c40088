//! What answers say beside what was asked: how much more may be pulled, and warnings.

use std::fmt;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, WARNING};

/// <https://docs.docker.com/docker-hub/usage/pulls/>, after draft-ietf-httpapi-ratelimit-headers: `100;w=21600`.
const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
/// Up to which part of the limit the remainder is worth a word: a tenth.
const LOW: u64 = 10;
/// The code of a warning that is meant for people (RFC 7234 5.5.7; distribution-spec, "Warnings").
const MISCELLANEOUS: &str = "299 ";

/// How much may be pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limit {
    remaining: u64,
    limit: u64,
    window: Option<Duration>,
}

impl Limit {
    /// Whether little remains.
    pub(crate) fn is_low(&self) -> bool {
        self.remaining <= self.limit / LOW
    }
}

/// `24 of 100 pulls in 6 h are left`.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} pulls", self.remaining, self.limit)?;
        match self.window.map(|window| window.as_secs()) {
            Some(seconds) if seconds > 0 && seconds % 3600 == 0 => {
                write!(f, " in {} h", seconds / 3600)?;
            }
            Some(seconds) => write!(f, " in {seconds} s")?,
            None => {}
        }
        f.write_str(" are left")
    }
}

/// What an answer says about the limit.
pub(crate) fn of(headers: &HeaderMap) -> Option<Limit> {
    let text = |name: &HeaderName| headers.get(name)?.to_str().ok();
    parse_limit(text(&LIMIT)?, text(&REMAINING)?)
}

/// The values of `ratelimit-limit` and `ratelimit-remaining`.
pub(crate) fn parse_limit(limit: &str, remaining: &str) -> Option<Limit> {
    let (limit, window) = quota(limit)?;
    let (remaining, _) = quota(remaining)?;
    Some(Limit {
        remaining,
        limit,
        window,
    })
}

/// A number and its parameters, of which only the window counts.
fn quota(text: &str) -> Option<(u64, Option<Duration>)> {
    let mut parts = text.split(';').map(str::trim);
    let number = parts.next()?.parse().ok()?;
    let window = parts.find_map(|part| part.strip_prefix("w=")?.parse().ok());
    Some((number, window.map(Duration::from_secs)))
}

/// The warnings in an answer.
pub(crate) fn warnings(headers: &HeaderMap) -> impl Iterator<Item = String> {
    let values = headers.get_all(WARNING).into_iter();
    values.filter_map(|value| parse_warning(value.to_str().ok()?))
}

/// The text of a `Warning: 299 - "text"`.
pub(crate) fn parse_warning(value: &str) -> Option<String> {
    let rest = value.trim().strip_prefix(MISCELLANEOUS)?;
    let (_agent, quoted) = rest.trim_start().split_once(' ')?;
    let mut text = String::new();
    let mut chars = quoted.trim_start().strip_prefix('"')?.chars();
    loop {
        match chars.next()? {
            '"' => return Some(text).filter(|text| !text.is_empty()),
            '\\' => text.push(chars.next()?),
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_limit_is_told_in_words() {
        for (limit, remaining, shown, low) in [
            (
                "100;w=21600",
                "76;w=21600",
                "76 of 100 pulls in 6 h are left",
                false,
            ),
            (
                "100;w=21600",
                "10;w=21600",
                "10 of 100 pulls in 6 h are left",
                true,
            ),
            ("10;w=90", "1", "1 of 10 pulls in 90 s are left", true),
            ("5", " 0 ; x=1", "0 of 5 pulls are left", true),
        ] {
            let limit = parse_limit(limit, remaining).unwrap();
            assert_eq!((limit.to_string().as_str(), limit.is_low()), (shown, low));
        }
        for (limit, remaining) in [
            ("", "1"),
            ("1", "x"),
            ("-1", "1"),
            ("1.5", "1"),
            (";w=1", "1"),
        ] {
            assert_eq!(parse_limit(limit, remaining), None);
        }
    }

    #[test]
    fn a_warning_is_the_text_of_299() {
        for (value, text) in [
            (r#"299 - "this tag goes away""#, Some("this tag goes away")),
            (
                r#"299 r.example "say \"hi\"" "Sun, 06 Nov 1994 08:49:37 GMT""#,
                Some(r#"say "hi""#),
            ),
            (r#"299 - """#, None),
            (r#"299 - "never ends"#, None),
            (r#"110 - "stale""#, None),
            ("299", None),
            ("", None),
        ] {
            assert_eq!(parse_warning(value).as_deref(), text, "{value}");
        }
    }

    proptest! {
        #[test]
        fn no_value_makes_a_parser_panic(one in "\\PC{0,40}", two in r#"299 - "[ -~]{0,20}"#) {
            parse_limit(&one, &two);
            parse_warning(&one);
            parse_warning(&two);
        }
    }
}
