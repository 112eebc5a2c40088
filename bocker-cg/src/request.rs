//! What was asked for: the options of `create`, kept in the document so that a later start can make the same groups.

use bocker_pipe::{Error, Kind, Result};
use serde::{Deserialize, Serialize};

use crate::{cpu, memory, pids};

/// The limits of a container. A member that is absent was not asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Request {
    /// The weight of the container's CPU time against that of others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_shares: Option<u64>,
    /// How many CPUs' time it may use, as decimal text: `0.5`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cpus: Option<String>,
    /// How much memory, swap included, it may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<Memory>,
    /// How many processes and threads it may have; -1 is any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pids: Option<i64>,
    /// Which device nodes it may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) devices: Option<Devices>,
}

/// A limit of memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// In bytes.
    pub(crate) limit: u64,
    /// Nobody asked for it; the front end limits what nobody limited.
    #[serde(default)]
    pub(crate) default: bool,
}

/// A choice of device nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Devices {
    /// Those of Docker's list.
    #[default]
    Default,
    /// All.
    All,
}

impl Devices {
    /// Parses the value of `--devices`.
    pub(crate) fn parse(text: &str) -> Result<Devices> {
        match text {
            "default" => Ok(Devices::Default),
            "all" => Ok(Devices::All),
            _ => Err(Error::new(
                Kind::Usage,
                format!("--devices takes default or all, not '{text}'"),
            )),
        }
    }
}

impl Request {
    /// Checks all values; a document may hold any.
    pub(crate) fn validate(&self) -> Result<()> {
        self.cpu_shares.map_or(Ok(()), cpu::check_shares)?;
        if let Some(cpus) = &self.cpus {
            cpu::quota(cpus)?;
        }
        if let Some(memory) = &self.memory {
            memory::check(memory.limit)?;
        }
        self.pids.map_or(Ok(()), pids::check)
    }

    /// These limits where they say something, those of `earlier` elsewhere. A default never replaces what was asked for.
    pub(crate) fn over(self, earlier: Request) -> Request {
        let memory = match (self.memory, earlier.memory) {
            (Some(new), Some(old)) if new.default && !old.default => Some(old),
            (new, old) => new.or(old),
        };
        Request {
            cpu_shares: self.cpu_shares.or(earlier.cpu_shares),
            cpus: self.cpus.or(earlier.cpus),
            memory,
            pids: self.pids.or(earlier.pids),
            devices: self.devices.or(earlier.devices),
        }
    }
}

/// The error for a value out of its range.
pub(crate) fn out_of_range(option: &str, value: &str, range: &str) -> Error {
    Error::new(Kind::Invalid, format!("{option} {value} is out of range"))
        .hint(format!("it takes {range}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(limit: u64, default: bool) -> Option<Memory> {
        Some(Memory { limit, default })
    }

    #[test]
    fn a_new_option_replaces_an_earlier_one_and_leaves_the_others() {
        let earlier = Request {
            cpu_shares: Some(512),
            pids: Some(10),
            ..Request::default()
        };
        let new = Request {
            pids: Some(20),
            ..Request::default()
        };
        let both = new.over(earlier);
        assert_eq!((both.cpu_shares, both.pids), (Some(512), Some(20)));
    }

    #[test]
    fn a_default_never_replaces_what_was_asked_for() {
        let request = |limit, default| Request {
            memory: memory(limit, default),
            ..Request::default()
        };
        let limit = |request: Request| request.memory.map(|m| m.limit);
        assert_eq!(limit(request(1, true).over(request(2, false))), Some(2));
        assert_eq!(limit(request(1, true).over(request(2, true))), Some(1));
        assert_eq!(limit(request(1, false).over(request(2, false))), Some(1));
    }

    #[test]
    fn a_document_with_absurd_values_is_refused() {
        for text in [
            r#"{"cpuShares":1}"#,
            r#"{"cpus":"1+1"}"#,
            r#"{"memory":{"limit":1}}"#,
            r#"{"pids":0}"#,
        ] {
            let request: Request = serde_json::from_str(text).unwrap();
            assert_eq!(
                request.validate().unwrap_err().kind(),
                &Kind::Invalid,
                "{text}"
            );
        }
    }
}
