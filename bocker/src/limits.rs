//! The original's two limits, `BOCKER_CPU_SHARE` and `BOCKER_MEM_LIMIT`, also as `--CPU_SHARE=N --MEM_LIMIT=N` before the verb.
//! They are numbers and nothing else: the original handed them to a shell, which evaluated whatever they said.

use std::env;
use std::ffi::OsStr;

use bocker_pipe::{Error, Kind, Result};

/// Relative weight, as the original's default.
const CPU_SHARE: u64 = 512;
/// In MB of 10^6 bytes, as the original's default.
const MEM_LIMIT: u64 = 512;

/// What the caller set; `None` where nobody set anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    cpu_share: Option<u64>,
    mem_limit: Option<u64>,
}

impl Limits {
    /// The options given before the verb, else the environment's.
    pub(crate) fn new(cpu_share: Option<u64>, mem_limit: Option<u64>) -> Result<Limits> {
        Ok(Limits {
            cpu_share: or_variable(cpu_share, "BOCKER_CPU_SHARE")?,
            mem_limit: or_variable(mem_limit, "BOCKER_MEM_LIMIT")?,
        })
    }

    /// The value of bocker-cg's `--cpu-shares`.
    pub(crate) fn cpu_shares(self) -> String {
        self.cpu_share.unwrap_or(CPU_SHARE).to_string()
    }

    /// bocker-cg's memory option and its value. A default is named as one, so that an OOM kill can say so.
    pub(crate) fn memory(self) -> (&'static str, String) {
        match self.mem_limit {
            Some(limit) => ("--memory", format!("{limit}MB")),
            None => ("--default-memory", format!("{MEM_LIMIT}MB")),
        }
    }

    /// As options before the verb: what was set by the environment becomes visible.
    pub(crate) fn as_options(self) -> Vec<String> {
        let option =
            |name: &str, value: Option<u64>| value.map(|value| format!("--{name}={value}"));
        [
            option("CPU_SHARE", self.cpu_share),
            option("MEM_LIMIT", self.mem_limit),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn or_variable(option: Option<u64>, name: &str) -> Result<Option<u64>> {
    match (option, env::var_os(name)) {
        (Some(value), _) => Ok(Some(value)),
        (None, Some(text)) => parse(&text)
            .map(Some)
            .map_err(|why| Error::new(Kind::Usage, format!("{name}={}: {why}", text.display()))),
        (None, None) => Ok(None),
    }
}

fn parse(text: &OsStr) -> Result<u64, String> {
    text.to_str()
        .ok_or_else(|| "it is not UTF-8".into())
        .and_then(number)
}

/// A whole number greater than 0, digits only.
pub(crate) fn number(text: &str) -> Result<u64, String> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err("it is not a whole number".into());
    }
    match text.parse() {
        Ok(0) | Err(_) => Err("it is out of range".into()),
        Ok(number) => Ok(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_and_never_an_expression() {
        assert_eq!(number("512"), Ok(512));
        for text in [
            "",
            "0",
            "-1",
            "+1",
            "1+1",
            "a[$(id)]",
            "1 ",
            "0x10",
            "1=2",
            "99999999999999999999",
        ] {
            assert!(number(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_default_is_named_as_one() {
        let none = Limits::default();
        assert_eq!(none.cpu_shares(), "512");
        assert_eq!(none.memory(), ("--default-memory", "512MB".into()));
        assert!(none.as_options().is_empty());
        let set = Limits {
            cpu_share: Some(7),
            mem_limit: Some(1024),
        };
        assert_eq!(set.cpu_shares(), "7");
        assert_eq!(set.memory(), ("--memory", "1024MB".into()));
        assert_eq!(set.as_options(), ["--CPU_SHARE=7", "--MEM_LIMIT=1024"]);
    }
}
