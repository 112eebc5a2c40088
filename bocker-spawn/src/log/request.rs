//! `--log-driver` and `--log-opt`: what was asked of the log, under docker's names.

use bocker_pipe::{Call, Error, Kind, Result, size};
use serde::{Deserialize, Serialize};

/// What podman calls a log of records as the CRI has them.
const OURS: &str = "k8s-file";
/// No log.
const NONE: &str = "none";

/// `bocker.spawn.request.log`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct Request {
    #[serde(skip_serializing_if = "Option::is_none")]
    driver: Option<String>,
    /// A file with so many bytes is full.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_size: Option<String>,
    /// How many files there may be, the current one among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_file: Option<String>,
}

impl Request {
    /// Takes one of these options; answers `false` for any other.
    pub(crate) fn option(&mut self, call: &mut Call, name: &str) -> Result<bool> {
        match name {
            "--log-driver" => self.driver = Some(driver(call.text()?)?),
            "--log-opt" => self.set(&call.text()?)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn set(&mut self, text: &str) -> Result<()> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        let wrong = |what: &str| {
            let what = format!("the log option '{text}' {what}");
            Error::new(Kind::Usage, what).hint("write it as max-size=10m or max-file=3")
        };
        match key {
            "max-size" => {
                size::parse(value)
                    .ok()
                    .filter(|size| *size > 0)
                    .ok_or_else(|| wrong("is no size"))?;
                self.max_size = Some(value.to_owned());
            }
            "max-file" => {
                files(value).ok_or_else(|| wrong("is no number from 1 on"))?;
                self.max_file = Some(value.to_owned());
            }
            _ => return Err(wrong("is not known here")),
        }
        Ok(())
    }

    /// What was not asked for now was perhaps asked for before.
    pub(crate) fn or(self, before: Request) -> Request {
        Request {
            driver: self.driver.or(before.driver),
            max_size: self.max_size.or(before.max_size),
            max_file: self.max_file.or(before.max_file),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Request::default()
    }

    /// As the options say.
    #[cfg(test)]
    pub(super) fn asked(options: &[&str]) -> Result<Request> {
        let mut request = Request::default();
        options.iter().try_for_each(|option| request.set(option))?;
        Ok(request)
    }

    /// Whether there is to be a log.
    pub(crate) fn is_kept(&self) -> bool {
        self.driver.as_deref() != Some(NONE)
    }

    /// How many bytes a file may have; without a limit there is one file of any size, as docker has it.
    pub(super) fn most(&self) -> Option<u64> {
        let text = self.max_size.as_deref()?;
        size::parse(text).ok().filter(|size| *size > 0)
    }

    /// How many old files are kept.
    pub(super) fn old(&self) -> usize {
        let text = self.max_file.as_deref();
        text.and_then(files).map_or(0, |files| files - 1)
    }
}

fn driver(name: String) -> Result<String> {
    match name.as_str() {
        OURS | NONE => Ok(name),
        _ => Err(Error::new(
            Kind::Unsupported,
            format!("there is no log driver '{name}' here"),
        )
        .hint("use k8s-file, a file of records as the CRI writes them, or none")),
    }
}

fn files(text: &str) -> Option<usize> {
    let number: u16 = text.parse().ok()?;
    (number > 0).then_some(number.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(options: &[&str]) -> Result<Request> {
        Request::asked(options)
    }

    #[test]
    fn limits_are_those_of_docker() {
        let request = asked(&["max-size=10k", "max-file=3"]).unwrap();
        assert_eq!((request.most(), request.old()), (Some(10240), 2));
        let request = asked(&["max-size=1m"]).unwrap();
        assert_eq!((request.most(), request.old()), (Some(1 << 20), 0));
        assert_eq!(asked(&[]).unwrap().most(), None);
        for wrong in [
            "max-size=0",
            "max-size=-1",
            "max-size",
            "max-file=0",
            "max-file=x",
            "compress=true",
            "",
        ] {
            assert_eq!(asked(&[wrong]).unwrap_err().kind(), &Kind::Usage, "{wrong}");
        }
    }

    #[test]
    fn a_driver_that_is_not_ours_is_refused_by_name() {
        assert!(driver("none".into()).is_ok() && driver("k8s-file".into()).is_ok());
        let error = driver("journald".into()).unwrap_err();
        assert!(error.message().contains("'journald'"), "{error}");
    }
}
