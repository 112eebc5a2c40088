//! Published ports: `-p [ip:]hostPort:containerPort[/tcp|/udp]`, and their shape in the document.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use bocker_pipe::{Error, Kind, Result};
use serde::{Deserialize, Serialize};

/// A transport protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

impl Protocol {
    /// The number in the IP header (IANA protocol numbers).
    pub(crate) fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Protocol> {
        [Protocol::Tcp, Protocol::Udp]
            .into_iter()
            .find(|protocol| protocol.number() == number)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

/// One published port, in the shape of CNI's `portMappings` capability (CONVENTIONS.md of containernetworking/cni).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Publish {
    /// The address of the host on which it listens; without it, all of them.
    #[serde(rename = "hostIP", default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<Ipv4Addr>,
    /// The host's port, 1 to 65535.
    pub host_port: u16,
    /// The container's port, 1 to 65535.
    pub container_port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

impl Publish {
    /// Whether the two want the same port of the host.
    pub(crate) fn collides(&self, other: &Publish) -> bool {
        let same_address = match (self.host_ip, other.host_ip) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        same_address && (self.host_port, self.protocol) == (other.host_port, other.protocol)
    }

    /// The host's side: `127.0.0.1:8080/tcp`.
    pub(crate) fn host(&self) -> String {
        match self.host_ip {
            Some(ip) => format!("{ip}:{}/{}", self.host_port, self.protocol),
            None => format!("{}/{}", self.host_port, self.protocol),
        }
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(ip) = self.host_ip {
            write!(f, "{ip}:")?;
        }
        write!(
            f,
            "{}:{}/{}",
            self.host_port, self.container_port, self.protocol
        )
    }
}

impl FromStr for Publish {
    type Err = Error;

    fn from_str(text: &str) -> Result<Publish> {
        let refuse = |kind, what: &str| {
            Error::new(kind, format!("cannot publish '{text}': {what}"))
                .hint("give [ip:]hostPort:containerPort[/tcp|/udp], such as 8080:80 or 127.0.0.1:5353:53/udp")
        };
        let (ports, protocol) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.strip_suffix("/tcp").unwrap_or(text), Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some((_, "sctp")) => {
                return Err(refuse(
                    Kind::Unsupported,
                    "sctp is not published, only tcp and udp",
                ));
            }
            Some(_) => return Err(refuse(Kind::Usage, "the protocol is neither tcp nor udp")),
        };
        if ports.contains('[') {
            return Err(refuse(Kind::Unsupported, "only IPv4 is published"));
        }
        let port = |text: &str| match text.parse::<u16>() {
            Ok(port) if port != 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
            _ if text.contains('-') => Err(refuse(
                Kind::Unsupported,
                "ranges are not published; repeat -p",
            )),
            _ if text.is_empty() => {
                Err(refuse(Kind::Unsupported, "the host's port has to be named"))
            }
            _ => Err(refuse(Kind::Usage, "a port is a number from 1 to 65535")),
        };
        let words: Vec<&str> = ports.split(':').collect();
        let (host_ip, host_port, container_port) = match words[..] {
            [_] => return Err(refuse(Kind::Unsupported, "the host's port has to be named")),
            [host, container] => (None, port(host)?, port(container)?),
            [ip, host, container] => {
                let ip: Ipv4Addr = ip
                    .parse()
                    .map_err(|_| refuse(Kind::Usage, "the address is not an IPv4 address"))?;
                // 0.0.0.0 is how everybody writes "all addresses".
                (
                    Some(ip).filter(|ip| !ip.is_unspecified()),
                    port(host)?,
                    port(container)?,
                )
            }
            _ => return Err(refuse(Kind::Usage, "there are too many colons")),
        };
        Ok(Publish {
            host_ip,
            host_port,
            container_port,
            protocol,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Publish {
        text.parse().unwrap()
    }

    #[test]
    fn the_usual_forms_are_understood() {
        assert_eq!(parse("8080:80").to_string(), "8080:80/tcp");
        assert_eq!(parse("8080:80/udp").to_string(), "8080:80/udp");
        assert_eq!(parse("0.0.0.0:8080:80/tcp").to_string(), "8080:80/tcp");
        assert_eq!(
            parse("127.0.0.1:8080:80").to_string(),
            "127.0.0.1:8080:80/tcp"
        );
    }

    #[test]
    fn other_forms_are_refused_and_the_error_shows_the_right_one() {
        let cases = [
            "",
            "80",
            ":80",
            "80:",
            "0:80",
            "80:0",
            "65536:80",
            "+80:80",
            " 80:80",
            "80:80/",
            "80:80/sctp",
            "80:80/tcp/udp",
            "8000-8010:80",
            "::80",
            "[::1]:80:80",
            "localhost:80:80",
            "1.2.3:80:80",
            "1.2.3.4:80:80:80",
            "127.0.0.1::80",
        ];
        for text in cases {
            let error = text.parse::<Publish>().unwrap_err();
            assert!(error.hint_text().unwrap().contains("8080:80"), "{text}");
        }
    }

    #[test]
    fn all_addresses_collide_with_each() {
        assert!(parse("80:80").collides(&parse("127.0.0.1:80:81")));
        assert!(parse("127.0.0.1:80:80").collides(&parse("80:80")));
        assert!(!parse("127.0.0.1:80:80").collides(&parse("127.0.0.2:80:80")));
        assert!(!parse("80:80/tcp").collides(&parse("80:80/udp")));
    }

    #[test]
    fn the_document_holds_the_shape_of_cni() {
        let text = serde_json::to_string(&parse("127.0.0.1:5353:53/udp")).unwrap();
        assert_eq!(
            text,
            r#"{"hostIP":"127.0.0.1","hostPort":5353,"containerPort":53,"protocol":"udp"}"#
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_fail_otherwise_than_by_an_error(text in "\\PC*") {
            let _ = text.parse::<Publish>();
        }

        #[test]
        fn what_is_shown_is_understood(ip: Option<u32>, host in 1u16.., container in 1u16.., udp: bool) {
            let host_ip = ip.filter(|ip| *ip != 0).map(Ipv4Addr::from_bits);
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let publish = Publish { host_ip, host_port: host, container_port: container, protocol };
            prop_assert_eq!(parse(&publish.to_string()), publish);
        }
    }
}
