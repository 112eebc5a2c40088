//! Published ports: what `-p` asks for, `[ip:][hostPort[-last]]:containerPort[-last][/tcp|udp]`, what comes of it, and the
//! shapes of both in the document.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use bocker_pipe::{Error, Id, Kind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::nft::Family;
use crate::subnet;

/// The ports that the kernel gives to programs that name none (ip-sysctl, ip_local_port_range): where we choose, too.
pub(crate) const LOCAL_PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// As many options `-p`, and as many ports of an image, as are compared with each other.
const MOST: usize = 4096;

/// A transport protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
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

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_one(number: &u16) -> bool {
    *number == 1
}

fn one() -> u16 {
    1
}

/// What was asked for: ports of a container to be published on ports of the host that may still have to be chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wanted {
    /// The address of the host; without it, all of them.
    #[serde(rename = "hostIP", default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// The first port of the host; without it, any that is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
    /// How many ports of the host, from the first on, one is chosen from.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub host_range: u16,
    /// The container's first port.
    pub container_port: u16,
    /// How many ports of the container, from the first on.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub range: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// Published ports, in the shape of CNI's `portMappings` capability (CONVENTIONS.md of containernetworking/cni), and beyond
/// it `range`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Publish {
    /// The address of the host on which it listens; without it, all of them. 0.0.0.0 is all of IPv4, `::` all of IPv6.
    #[serde(rename = "hostIP", default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// The host's port, 1 to 65535.
    pub host_port: u16,
    /// The container's port, 1 to 65535.
    pub container_port: u16,
    /// How many ports, from these on, are published one by one.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub range: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// A span of ports is within 1 to 65535.
fn is_span(first: u16, count: u16) -> bool {
    first != 0 && count != 0 && u32::from(first) + u32::from(count) <= 1 << 16
}

/// The ports of a span, as far as there are ports.
fn span_ports(first: u16, count: u16) -> impl Iterator<Item = u16> {
    let after = u32::from(first) + u32::from(count);
    (u32::from(first)..after).map_while(|port| u16::try_from(port).ok())
}

/// `8000`, or `8000-8010`.
fn span_text(first: u16, count: u16) -> String {
    match count {
        0 | 1 => first.to_string(),
        // What does not fit is refused when it is checked; it is still to be shown.
        count => format!("{first}-{}", u32::from(first) + u32::from(count) - 1),
    }
}

/// `127.0.0.1:`, `[::1]:`, or nothing.
fn address_text(address: Option<IpAddr>) -> String {
    match address {
        None => String::new(),
        Some(IpAddr::V4(address)) => format!("{address}:"),
        Some(IpAddr::V6(address)) => format!("[{address}]:"),
    }
}

impl Publish {
    /// Whether it stands for all addresses of those families that it covers.
    pub(crate) fn is_any(&self) -> bool {
        self.host_ip.is_none_or(|ip| ip.is_unspecified())
    }

    /// Whether packets of this family are meant.
    pub(crate) fn covers(&self, family: Family) -> bool {
        self.host_ip.is_none_or(|ip| Family::of(ip) == family)
    }

    /// Its ports one by one.
    pub(crate) fn each(&self) -> impl Iterator<Item = Publish> + '_ {
        let valid = is_span(self.host_port, self.range) && is_span(self.container_port, self.range);
        let count = if valid { self.range } else { 0 };
        (0..count).map(|offset| Publish {
            host_port: self.host_port + offset,
            container_port: self.container_port + offset,
            range: 1,
            ..self.clone()
        })
    }

    /// Whether the two want the same port of the host.
    pub(crate) fn collides(&self, other: &Publish) -> bool {
        let same_address = [Family::V4, Family::V6].into_iter().any(|family| {
            let both = self.covers(family) && other.covers(family);
            both && (self.is_any() || other.is_any() || self.host_ip == other.host_ip)
        });
        let after = |one: &Publish| u32::from(one.host_port) + u32::from(one.range);
        same_address
            && self.protocol == other.protocol
            && u32::from(self.host_port) < after(other)
            && u32::from(other.host_port) < after(self)
    }

    /// The host's side: `127.0.0.1:8080/tcp`.
    pub(crate) fn host(&self) -> String {
        let (address, ports) = (
            address_text(self.host_ip),
            span_text(self.host_port, self.range),
        );
        format!("{address}{ports}/{}", self.protocol)
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, host) = (
            address_text(self.host_ip),
            span_text(self.host_port, self.range),
        );
        let container = span_text(self.container_port, self.range);
        write!(f, "{address}{host}:{container}/{}", self.protocol)
    }
}

impl Wanted {
    /// What it is where nothing has to be chosen.
    pub(crate) fn settled(&self) -> Option<Publish> {
        let host_port = self.host_port?;
        (self.host_range == 1 || self.host_range == self.range).then_some(Publish {
            host_ip: self.host_ip,
            host_port,
            container_port: self.container_port,
            range: self.range,
            protocol: self.protocol,
        })
    }

    /// Whether it can be published at all; what a document says may be anything.
    fn check(&self) -> Result<()> {
        let refuse = |kind, what: &str| {
            Err(Error::new(kind, format!("cannot publish {self}: {what}")).hint(FORM))
        };
        if !is_span(self.container_port, self.range)
            || !is_span(self.host_port.unwrap_or(1), self.host_range)
            || !is_span(self.host_port.unwrap_or(1), self.range)
        {
            return refuse(Kind::Usage, "a port is a number from 1 to 65535");
        }
        if self.host_range != 1 && self.range != 1 && self.host_range != self.range {
            return refuse(Kind::Usage, "the two ranges are of different lengths");
        }
        match self.host_ip {
            Some(IpAddr::V6(ip)) if ip.is_loopback() => refuse(
                Kind::Unsupported,
                "the kernel routes nothing from ::1, publish on 127.0.0.1",
            ),
            Some(IpAddr::V6(ip)) if ip.is_unicast_link_local() => refuse(
                Kind::Unsupported,
                "a link-local address is another on each interface",
            ),
            _ => Ok(()),
        }
    }

    /// Settles it on ports of the host for which `is_free` holds, beginning at a place that the id picks: the same container
    /// gets the same ports again unless they were taken meanwhile.
    fn settle(
        &self,
        id: &Id,
        local: (u16, u16),
        is_free: &mut impl FnMut(&Publish) -> Result<bool>,
    ) -> Result<Vec<Publish>> {
        if let Some(publish) = self.settled() {
            return Ok(vec![publish]);
        }
        let mut chosen = Vec::new();
        for container_port in span_ports(self.container_port, self.range) {
            // A range of the host's that the user named is used from its beginning, as docker does.
            let (first, count, start) = match self.host_port {
                Some(first) => (first, u32::from(self.host_range), 0),
                None => {
                    let count = u32::from(local.1.saturating_sub(local.0)) + 1;
                    let seed = format!("{id} {container_port} {}", self.protocol);
                    (local.0, count, subnet::hash(&seed) % count)
                }
            };
            let candidates = (0..count).map(|step| {
                // A span of ports ends at 65535 at the latest.
                let host_port = u32::from(first) + (start + step) % count;
                Publish {
                    host_ip: self.host_ip,
                    host_port: host_port as u16,
                    container_port,
                    range: 1,
                    protocol: self.protocol,
                }
            });
            let mut found = None;
            for candidate in candidates {
                if is_free(&candidate)? {
                    found = Some(candidate);
                    break;
                }
            }
            chosen.push(found.ok_or_else(|| {
                let last = u32::from(first) + count - 1;
                Error::new(
                    Kind::InUse,
                    format!(
                        "cannot publish {self}: all ports of the host from {first} to {last} are taken"
                    ),
                )
                .hint("name one that is free, or remove containers")
            })?);
        }
        Ok(chosen)
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = address_text(self.host_ip);
        let container = span_text(self.container_port, self.range);
        match self.host_port {
            Some(first) => {
                let host = span_text(first, self.host_range.max(self.range));
                write!(f, "{address}{host}:{container}/{}", self.protocol)
            }
            None if address.is_empty() => write!(f, "{container}/{}", self.protocol),
            None => write!(f, "{address}:{container}/{}", self.protocol),
        }
    }
}

const INSTEAD: &str = "publish the ports you want with -p instead of -P";
const FORM: &str = "give [ip:][hostPort[-last]]:containerPort[-last][/tcp|udp], such as 8080:80, 80 or 127.0.0.1:5353:53/udp";

impl FromStr for Wanted {
    type Err = Error;

    fn from_str(text: &str) -> Result<Wanted> {
        let refuse = |kind, what: &str| {
            Error::new(kind, format!("cannot publish '{text}': {what}")).hint(FORM)
        };
        let (rest, protocol) = with_protocol(text).map_err(|(kind, what)| refuse(kind, what))?;
        // The colons of an IPv6 address are in brackets.
        let (host_ip, ports) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (ip, ports) = rest
                    .split_once("]:")
                    .ok_or_else(|| refuse(Kind::Usage, "after an address in [] comes a colon"))?;
                let ip: std::net::Ipv6Addr = ip
                    .parse()
                    .map_err(|_| refuse(Kind::Usage, "what is in [] is not an IPv6 address"))?;
                if ports.matches(':').count() != 1 {
                    let what = "after an address come the host's port, which may be empty, and the container's";
                    return Err(refuse(Kind::Usage, what));
                }
                (Some(IpAddr::V6(ip).to_canonical()), ports)
            }
            None => match rest.matches(':').count() {
                0 | 1 => (None, rest),
                2 => {
                    let (ip, ports) = rest.split_once(':').unwrap_or_default();
                    let ip: std::net::Ipv4Addr = ip
                        .parse()
                        .map_err(|_| refuse(Kind::Usage, "the address is not an IPv4 address"))?;
                    (Some(IpAddr::V4(ip)), ports)
                }
                _ => {
                    let what = "there are too many colons; an IPv6 address is written in []";
                    return Err(refuse(Kind::Usage, what));
                }
            },
        };
        let span = |text| {
            span(text).ok_or_else(|| {
                refuse(
                    Kind::Usage,
                    "a port is a number from 1 to 65535, a range two of them, the smaller first",
                )
            })
        };
        let (host, container) = ports.split_once(':').unwrap_or(("", ports));
        let (container_port, range) = span(container)?;
        let (host_port, host_range) = match host {
            "" | "0" => (None, 1),
            host => span(host).map(|(first, count)| (Some(first), count))?,
        };
        if host_port.is_some() && host_range == 1 && range != 1 {
            return Err(refuse(
                Kind::Usage,
                "the two ranges are of different lengths",
            ));
        }
        let wanted = Wanted {
            host_ip,
            host_port,
            host_range,
            container_port,
            range,
            protocol,
        };
        wanted.check()?;
        Ok(wanted)
    }
}

/// Takes the protocol off a text.
fn with_protocol(text: &str) -> std::result::Result<(&str, Protocol), (Kind, &'static str)> {
    match text.split_once('/') {
        None => Ok((text, Protocol::Tcp)),
        Some((rest, "tcp")) => Ok((rest, Protocol::Tcp)),
        Some((rest, "udp")) => Ok((rest, Protocol::Udp)),
        Some((_, "sctp")) => Err((Kind::Unsupported, "sctp is not published, only tcp and udp")),
        Some(_) => Err((Kind::Usage, "the protocol is neither tcp nor udp")),
    }
}

/// A port or a range of them: the first, and how many.
fn span(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let port: u16 = text.parse().ok()?;
        (is_number && port != 0).then_some(port)
    };
    match text.split_once('-') {
        None => Some((port(text)?, 1)),
        Some((first, last)) => {
            let (first, last) = (port(first)?, port(last)?);
            Some((first, last.checked_sub(first)?.checked_add(1)?))
        }
    }
}

/// The ports that an image says it uses (image-spec config.md, ExposedPorts), but for those that are published already. Also
/// answers which of them cannot be published. An image is a stranger's: what is no port is an error.
pub(crate) fn exposed(ports: &Value, published: &[Wanted]) -> Result<(Vec<Wanted>, Vec<String>)> {
    let names: Vec<&String> = match ports {
        Value::Null => Vec::new(),
        Value::Object(members) => members.keys().collect(),
        _ => {
            let message = "the image's ExposedPorts are not an object";
            return Err(Error::new(Kind::Invalid, message).hint(INSTEAD));
        }
    };
    let (mut found, mut others) = (BTreeSet::new(), Vec::new());
    for name in names {
        let ports = match with_protocol(name) {
            Ok((ports, protocol)) => span(ports).map(|(first, count)| (first, count, protocol)),
            Err((Kind::Unsupported, _)) => {
                others.push(name.clone());
                continue;
            }
            Err(_) => None,
        };
        let (first, count, protocol) = ports.ok_or_else(|| {
            let name = name.escape_debug();
            let message = format!("the image exposes '{name}', which is no port");
            Error::new(Kind::Invalid, message).hint(INSTEAD)
        })?;
        found.extend(span_ports(first, count).map(|port| (protocol, port)));
        if found.len() > MOST {
            let message = format!("the image exposes more than {MOST} ports");
            return Err(Error::new(Kind::Invalid, message).hint(INSTEAD));
        }
    }
    for one in published {
        for port in span_ports(one.container_port, one.range) {
            found.remove(&(one.protocol, port));
        }
    }
    let anywhere = |(protocol, container_port)| Wanted {
        host_ip: None,
        host_port: None,
        host_range: 1,
        container_port,
        range: 1,
        protocol,
    };
    Ok((found.into_iter().map(anywhere).collect(), others))
}

/// Fails when one of them cannot be published, or two want the same port of the host.
pub(crate) fn check(all: &[Wanted]) -> Result<()> {
    if all.len() > MOST {
        let message = format!("more than {MOST} ports or ranges are to be published");
        return Err(
            Error::new(Kind::Usage, message).hint("publish ranges, such as 8000-8999:8000-8999")
        );
    }
    all.iter().try_for_each(Wanted::check)?;
    let settled: Vec<Publish> = all.iter().filter_map(Wanted::settled).collect();
    for (place, one) in settled.iter().enumerate() {
        if let Some(other) = settled.iter().take(place).find(|other| other.collides(one)) {
            let message = if other == one || one.range == 1 {
                format!("port {} of the host is published twice", one.host())
            } else {
                format!("{} and {} of the host overlap", other.host(), one.host())
            };
            return Err(Error::new(Kind::Usage, message).hint("leave one of them out"));
        }
    }
    Ok(())
}

/// Settles all of them. What `is_taken` already is not chosen, nor is one port twice.
pub(crate) fn settle(
    all: &[Wanted],
    id: &Id,
    local: (u16, u16),
    is_taken: impl Fn(&Publish) -> Result<bool>,
) -> Result<Vec<Publish>> {
    let mut settled: Vec<Publish> = Vec::new();
    // Those that leave no choice come first, so that nobody takes what they need.
    let fixed: Vec<Publish> = all.iter().filter_map(Wanted::settled).collect();
    let mut chosen: HashSet<(Protocol, u16)> = HashSet::new();
    for wanted in all {
        settled.extend(wanted.settle(id, local, &mut |candidate| {
            let key = (candidate.protocol, candidate.host_port);
            let free = !chosen.contains(&key)
                && !fixed.iter().any(|one| one.collides(candidate))
                && !is_taken(candidate)?;
            if free {
                chosen.insert(key);
            }
            Ok(free)
        })?);
    }
    Ok(settled)
}

/// The two numbers of [`LOCAL_PORT_RANGE`]; the kernel's own default where they cannot be read.
pub(crate) fn local_ports() -> (u16, u16) {
    const DEFAULT: (u16, u16) = (32768, 60999);
    let read = || {
        let text = std::fs::read_to_string(LOCAL_PORT_RANGE).ok()?;
        let mut numbers = text.split_ascii_whitespace().map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    read()
        .filter(|(first, last)| *first > 0 && first <= last)
        .unwrap_or(DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn wanted(text: &str) -> Wanted {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    fn parse(text: &str) -> Publish {
        wanted(text).settled().unwrap()
    }

    #[test]
    fn the_usual_forms_are_understood() {
        for (text, shown) in [
            ("8080:80", "8080:80/tcp"),
            ("8080:80/udp", "8080:80/udp"),
            ("0.0.0.0:8080:80/tcp", "0.0.0.0:8080:80/tcp"),
            ("127.0.0.1:8080:80", "127.0.0.1:8080:80/tcp"),
            ("[2001:db8::1]:8080:80", "[2001:db8::1]:8080:80/tcp"),
            ("[::]:53:53/udp", "[::]:53:53/udp"),
            ("[::ffff:192.0.2.1]:80:80", "192.0.2.1:80:80/tcp"),
            ("8000-8010:80-90", "8000-8010:80-90/tcp"),
            ("8000-8010:80", "8000-8010:80/tcp"),
            ("80", "80/tcp"),
            (":80", "80/tcp"),
            ("0:80", "80/tcp"),
            ("80-90/udp", "80-90/udp"),
            ("127.0.0.1::80", "127.0.0.1::80/tcp"),
            ("[2001:db8::1]::80", "[2001:db8::1]::80/tcp"),
            ("1-65535:1-65535", "1-65535:1-65535/tcp"),
        ] {
            assert_eq!(wanted(text).to_string(), shown, "{text}");
        }
    }

    #[test]
    fn other_forms_are_refused_and_the_error_shows_the_right_one() {
        let cases = [
            "",
            "80:",
            "80:0",
            "65536:80",
            "+80:80",
            " 80:80",
            "80:80/",
            "80:80/sctp",
            "80:80/TCP",
            "80:80/tcp/udp",
            "90-80:80-90",
            "8000-8010:80-81",
            "80:8000-8010",
            "8000-:80",
            "-80:80",
            "1-2-3:1-3",
            "65535-65536:1-2",
            "::80",
            "[::1]:80:80",
            "[fe80::1]:80:80",
            "[fe80::1%eth0]:80:80",
            "[::1]",
            "[::1]80:80",
            "[127.0.0.1]:80:80",
            "[2001:db8::1]:80",
            "2001:db8::1:80:80",
            "localhost:80:80",
            "1.2.3:80:80",
            "1.2.3.4:80:80:80",
        ];
        for text in cases {
            let error = text.parse::<Wanted>().unwrap_err();
            assert!(error.hint_text().unwrap().contains("8080:80"), "{text}");
        }
    }

    #[test]
    fn all_addresses_collide_with_each_and_ranges_with_what_is_in_them() {
        assert!(parse("80:80").collides(&parse("127.0.0.1:80:81")));
        assert!(parse("127.0.0.1:80:80").collides(&parse("80:80")));
        assert!(parse("0.0.0.0:80:80").collides(&parse("127.0.0.1:80:80")));
        assert!(parse("[::]:80:80").collides(&parse("80:80")));
        assert!(!parse("[::]:80:80").collides(&parse("0.0.0.0:80:80")));
        assert!(!parse("[2001:db8::1]:80:80").collides(&parse("127.0.0.1:80:80")));
        assert!(!parse("127.0.0.1:80:80").collides(&parse("127.0.0.2:80:80")));
        assert!(!parse("80:80/tcp").collides(&parse("80:80/udp")));
        assert!(parse("80-90:80-90").collides(&parse("90:1")));
        assert!(!parse("80-89:80-89").collides(&parse("90:1")));
        assert!(!parse("90:1").collides(&parse("80-89:80-89")));
    }

    #[test]
    fn what_is_published_twice_is_refused() {
        let check =
            |texts: &[&str]| check(&texts.iter().map(|text| wanted(text)).collect::<Vec<_>>());
        check(&["80:80", "81:80", "80:80/udp", "80", "80"]).unwrap();
        for texts in [["80:80", "80:81"], ["8000-8010:1-11", "8010:80"]] {
            assert_eq!(check(&texts).unwrap_err().kind(), &Kind::Usage);
        }
    }

    #[test]
    fn the_document_holds_the_shape_of_cni() {
        for (text, shape) in [
            (
                "127.0.0.1:5353:53/udp",
                r#"{"hostIP":"127.0.0.1","hostPort":5353,"containerPort":53,"protocol":"udp"}"#,
            ),
            (
                "8000-8010:80-90",
                r#"{"hostPort":8000,"containerPort":80,"range":11,"protocol":"tcp"}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&parse(text)).unwrap(), shape);
            // What was asked for has the same shape, so that a document of an earlier release is understood.
            let again: Wanted = serde_json::from_str(shape).unwrap();
            assert_eq!(again.settled().unwrap(), parse(text));
        }
        let wanted = wanted("80/udp");
        let text = serde_json::to_string(&wanted).unwrap();
        assert_eq!(text, r#"{"containerPort":80,"protocol":"udp"}"#);
        assert_eq!(serde_json::from_str::<Wanted>(&text).unwrap(), wanted);
    }

    #[test]
    fn what_a_document_asks_for_is_checked() {
        for shape in [
            r#"{"hostPort":0,"containerPort":80,"protocol":"tcp"}"#,
            r#"{"hostPort":80,"containerPort":0,"protocol":"tcp"}"#,
            r#"{"hostPort":65535,"containerPort":80,"range":2,"protocol":"tcp"}"#,
            r#"{"hostPort":80,"containerPort":80,"range":0,"protocol":"tcp"}"#,
            r#"{"hostPort":80,"hostRange":65535,"containerPort":80,"protocol":"tcp"}"#,
            r#"{"hostPort":80,"hostRange":3,"containerPort":80,"range":2,"protocol":"tcp"}"#,
        ] {
            let wanted: Wanted = serde_json::from_str(shape).unwrap();
            assert!(check(&[wanted]).is_err(), "{shape}");
        }
        let one = r#"{"hostPort":65535,"containerPort":80,"range":65535,"protocol":"tcp"}"#;
        let publish: Publish = serde_json::from_str(one).unwrap();
        assert_eq!(publish.each().count(), 0);
    }

    #[test]
    fn a_container_is_given_the_same_free_ports_each_time() {
        let id = Id::placeholder();
        let all = [wanted("80"), wanted("81-82/udp"), wanted("9000-9002:80")];
        let local = (40000, 40003);
        let first = settle(&all, &id, local, |_| Ok(false)).unwrap();
        assert_eq!(settle(&all, &id, local, |_| Ok(false)).unwrap(), first);
        assert_eq!(first.len(), 4);
        assert!(
            first[..3]
                .iter()
                .all(|one| (40000..=40003).contains(&one.host_port))
        );
        assert_ne!(first[1].host_port, first[2].host_port);
        assert_eq!(first[3].host_port, 9000);
        let taken =
            |one: &Publish| Ok(one.host_port == first[0].host_port || one.host_port == 9000);
        let second = settle(&all, &id, local, taken).unwrap();
        assert_ne!(second[0].host_port, first[0].host_port);
        assert_eq!(second[3].host_port, 9001);
        let last = settle(&[wanted("65534-65535")], &id, local, |_| Ok(false)).unwrap();
        assert_eq!(last[1].container_port, 65535);
        let none = settle(&all, &id, local, |_| Ok(true)).unwrap_err();
        assert_eq!(none.kind(), &Kind::InUse);
        let fixed = [wanted("40000-40003"), wanted("40000:1"), wanted("40001:1")];
        assert!(settle(&fixed[1..], &id, local, |_| Ok(false)).is_ok());
        assert!(settle(&fixed, &id, local, |_| Ok(false)).is_err());
    }

    #[test]
    fn an_image_exposes_ports_and_nothing_else() {
        let texts = |ports: Value, published: &[Wanted]| {
            exposed(&ports, published).map(|(wanted, others)| {
                let wanted: Vec<String> = wanted.iter().map(Wanted::to_string).collect();
                (wanted.join(" "), others.join(" "))
            })
        };
        let ports = json!({"443/tcp": {}, "53/udp": {}, "80": {}, "80/tcp": {}, "9/sctp": {}, "7000-7002/tcp": {}});
        let (all, others) = texts(ports.clone(), &[]).unwrap();
        assert_eq!(all, "80/tcp 443/tcp 7000/tcp 7001/tcp 7002/tcp 53/udp");
        assert_eq!(others, "9/sctp");
        let published = [wanted("8080:80"), wanted("7001:7001")];
        let (rest, _) = texts(ports, &published).unwrap();
        assert_eq!(rest, "443/tcp 7000/tcp 7002/tcp 53/udp");
        assert_eq!(texts(Value::Null, &[]).unwrap(), Default::default());
        let last = texts(json!({"65534-65535/tcp": {}}), &[wanted("65535:65535")]);
        assert_eq!(last.unwrap().0, "65534/tcp");
        for bad in [
            json!(["80/tcp"]),
            json!({"0/tcp": {}}),
            json!({"80/tcp\n": {}}),
            json!({"-1": {}}),
            json!({"1-99999": {}}),
            json!({"": {}}),
        ] {
            assert_eq!(texts(bad, &[]).unwrap_err().kind(), &Kind::Invalid);
        }
        let many: serde_json::Map<String, Value> = (1..=5000)
            .map(|port: u16| (port.to_string(), json!({})))
            .collect();
        assert!(exposed(&many.into(), &[]).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_fail_otherwise_than_by_an_error(text in "\\PC*") {
            let _ = text.parse::<Wanted>();
        }

        #[test]
        fn what_is_shown_is_understood(
            ip: Option<std::net::IpAddr>, host in 1u16..60000, container in 1u16..60000, range in 1u16..5000, udp: bool,
        ) {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let host_ip = ip.map(|ip| ip.to_canonical());
            let publish = Publish { host_ip, host_port: host, container_port: container, range, protocol };
            if let Ok(wanted) = publish.to_string().parse::<Wanted>() {
                prop_assert_eq!(wanted.settled(), Some(publish));
            } else {
                prop_assert!(matches!(host_ip, Some(IpAddr::V6(_))));
            }
        }
    }
}
