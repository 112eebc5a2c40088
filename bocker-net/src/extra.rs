//! `--add-host NAME:ADDRESS`: lines of hosts(5) that the user asks for, as docker writes them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use bocker_pipe::{Error, Kind, Result};
use serde::{Deserialize, Serialize};

use crate::files;

/// Stands for the host, as the container reaches it (docker's word).
const GATEWAY: &str = "host-gateway";

/// A name and what it stands for, as `NAME:ADDRESS`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExtraHost {
    name: String,
    target: Target,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Address(IpAddr),
    Gateway,
}

impl ExtraHost {
    /// Its lines of hosts(5); `gateways` are the host's addresses as the container reaches it.
    /// Fails with [`Kind::Usage`] when it has none and this asks for one.
    pub(crate) fn lines(&self, gateways: &[IpAddr]) -> Result<String> {
        let line = |address: &IpAddr| format!("{address}\t{}\n", self.name);
        match &self.target {
            Target::Address(address) => Ok(line(address)),
            Target::Gateway if gateways.is_empty() => {
                let what = format!("'{self}': the container has no network with the host in it");
                Err(Error::new(Kind::Usage, what).hint("name an address, or another --network"))
            }
            Target::Gateway => Ok(gateways.iter().map(line).collect()),
        }
    }
}

impl FromStr for ExtraHost {
    type Err = Error;

    fn from_str(text: &str) -> Result<ExtraHost> {
        let refuse = |what: &str| {
            let text = text.escape_debug();
            Error::new(Kind::Usage, format!("cannot add the host '{text}': {what}"))
                .hint("give NAME:ADDRESS, such as db:192.0.2.7, db:2001:db8::7 or db:host-gateway")
        };
        // A name has neither; which comes first divides it from an IPv6 address.
        let (name, target) = text
            .split_once([':', '='])
            .ok_or_else(|| refuse("the address is missing"))?;
        if !files::is_domain(name) {
            return Err(refuse("that is not a host name"));
        }
        let bare = target
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let target = match bare.unwrap_or(target).parse() {
            Ok(address) => Target::Address(address),
            Err(_) if target == GATEWAY => Target::Gateway,
            Err(_) => return Err(refuse("that is not an address")),
        };
        Ok(ExtraHost {
            name: name.to_owned(),
            target,
        })
    }
}

impl fmt::Display for ExtraHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Address(address) => write!(f, "{}:{address}", self.name),
            Target::Gateway => write!(f, "{}:{GATEWAY}", self.name),
        }
    }
}

impl TryFrom<String> for ExtraHost {
    type Error = Error;

    fn try_from(text: String) -> Result<ExtraHost> {
        text.parse()
    }
}

impl From<ExtraHost> for String {
    fn from(host: ExtraHost) -> String {
        host.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GATEWAYS: [IpAddr; 2] = [
        IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)),
        IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
    ];

    fn lines(text: &str) -> String {
        let host: ExtraHost = text.parse().unwrap();
        host.lines(&GATEWAYS).unwrap()
    }

    #[test]
    fn every_form_of_docker_is_understood() {
        assert_eq!(lines("db:192.0.2.7"), "192.0.2.7\tdb\n");
        assert_eq!(lines("db=192.0.2.7"), "192.0.2.7\tdb\n");
        assert_eq!(
            lines("db.example.org:2001:db8::7"),
            "2001:db8::7\tdb.example.org\n"
        );
        assert_eq!(lines("db=[2001:db8::7]"), "2001:db8::7\tdb\n");
        assert_eq!(lines("host:host-gateway"), "10.0.0.1\thost\n::1\thost\n");
    }

    #[test]
    fn others_are_refused_and_the_error_shows_the_right_ones() {
        for text in [
            "",
            "db",
            "db:",
            ":192.0.2.7",
            "a b:192.0.2.7",
            "a\n:192.0.2.7",
            "db:192.0.2",
            "db:192.0.2.7 x",
            "db:[::1",
            "#:::1",
            "db:gateway",
            "ä:::1",
            "-a:::1",
        ] {
            let error = text.parse::<ExtraHost>().unwrap_err();
            assert!(
                error.hint_text().unwrap().contains("db:192.0.2.7"),
                "{text}"
            );
        }
        let alone: ExtraHost = "db:host-gateway".parse().unwrap();
        assert_eq!(alone.lines(&[]).unwrap_err().kind(), &Kind::Usage);
    }

    #[test]
    fn a_document_holds_it_as_it_is_typed_and_is_believed_no_more() {
        let host: ExtraHost = "db:192.0.2.7".parse().unwrap();
        let text = serde_json::to_string(&host).unwrap();
        assert_eq!(text, "\"db:192.0.2.7\"");
        assert_eq!(serde_json::from_str::<ExtraHost>(&text).unwrap(), host);
        assert!(serde_json::from_str::<ExtraHost>(r#""db:192.0.2.7\n192.0.2.8 bank""#).is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_understood_makes_one_line_of_two_words(text in "\\PC{0,8}[:=]\\PC{0,20}|[a-z.]{1,9}:[0-9a-f.:]{1,12}") {
            if let Ok(host) = text.parse::<ExtraHost>() {
                let lines = host.lines(&GATEWAYS[..1]).unwrap();
                prop_assert_eq!(lines.lines().count(), 1);
                prop_assert_eq!(lines.split_whitespace().count(), 2);
                prop_assert_eq!(host.to_string().parse::<ExtraHost>().unwrap(), host);
            }
        }
    }
}
