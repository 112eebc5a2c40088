//! Published ports as the document of a container shows them, and as docker writes them.

use std::fmt;

use bocker_pipe::Document;
use serde::Deserialize;
use serde_json::{Value, json};

const ANY: &str = "0.0.0.0";
const ANY6: &str = "::";

fn one() -> u16 {
    1
}

/// What came of one of the ports that were asked for, or a range of them.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Port {
    #[serde(rename = "hostIP", default)]
    host_ip: Option<String>,
    #[serde(default)]
    host_port: u16,
    container_port: u16,
    #[serde(default = "one")]
    range: u16,
    #[serde(default = "Port::tcp")]
    protocol: String,
}

#[derive(Deserialize)]
struct Attachment {
    #[serde(default)]
    published: Vec<Port>,
    #[serde(default)]
    result: Value,
}

impl Attachment {
    /// What is on all addresses is there once for each family in which this interface has one.
    fn ports(self) -> Vec<Port> {
        let ips = self.result["ips"].as_array();
        let mut addresses = ips
            .into_iter()
            .flatten()
            .filter_map(|ip| ip["address"].as_str());
        let has_ipv6 = addresses.any(|address| address.contains(':'));
        let any: &[&str] = if has_ipv6 { &[ANY, ANY6] } else { &[ANY] };
        let each = |port: Port| {
            let ips: Vec<String> = match &port.host_ip {
                Some(ip) => vec![ip.clone()],
                None => any.iter().map(ToString::to_string).collect(),
            };
            let with = move |ip| Port {
                host_ip: Some(ip),
                ..port.clone()
            };
            ips.into_iter().map(with)
        };
        self.published.into_iter().flat_map(each).collect()
    }
}

/// All that a container has published, in the order in which it was asked for.
pub(crate) fn of(document: &Document) -> Vec<Port> {
    let attachments: Option<Vec<Attachment>> =
        document.get("/bocker/net/attachments").ok().flatten();
    let attachments = attachments.into_iter().flatten();
    attachments.flat_map(Attachment::ports).collect()
}

/// What was asked to be published on one network.
pub(crate) fn requested(attachment: &Value) -> Vec<Port> {
    let publish = Vec::<Port>::deserialize(&attachment["request"]["publish"]);
    publish.unwrap_or_default()
}

impl Port {
    fn tcp() -> String {
        "tcp".into()
    }

    /// `0.0.0.0`, `[::]`.
    fn address(&self) -> String {
        match self.host_ip.as_deref() {
            Some(ip) if ip.contains(':') => format!("[{ip}]"),
            Some(ip) => ip.to_owned(),
            None => ANY.to_owned(),
        }
    }

    /// Each port of the container's alone, and its protocol.
    pub(crate) fn inner(&self) -> impl Iterator<Item = (u16, &str)> {
        self.each().map(|(inner, _)| (inner.number, inner.protocol))
    }

    /// Each port alone: `80/tcp`, and the host's as docker's `inspect` has it.
    pub(crate) fn each_as_docker(&self) -> impl Iterator<Item = (String, Value)> {
        (0..self.range).map(|offset| self.as_docker_at(offset))
    }

    fn as_docker_at(&self, offset: u16) -> (String, Value) {
        let inner = self.container_port.wrapping_add(offset);
        let outer = match self.host_port {
            // Any port is asked for.
            0 => String::new(),
            port => port.wrapping_add(offset).to_string(),
        };
        let host = self.host_ip.as_deref().unwrap_or_default();
        (
            format!("{inner}/{}", self.protocol),
            json!({"HostIp": host, "HostPort": outer}),
        )
    }

    /// Each port alone: the container's, and the host's, as `0.0.0.0:8080`.
    pub(crate) fn each(&self) -> impl Iterator<Item = (Inner<'_>, String)> {
        (0..self.range).map(|offset| {
            // A document may say anything.
            let number = self.container_port.wrapping_add(offset);
            let outer = self.host_port.wrapping_add(offset);
            let inner = Inner {
                number,
                protocol: &self.protocol,
            };
            (inner, format!("{}:{outer}", self.address()))
        })
    }
}

/// A port of a container: `80/tcp`.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Inner<'a> {
    number: u16,
    protocol: &'a str,
}

impl fmt::Display for Inner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)
    }
}

/// As docker's list of containers has it: `0.0.0.0:8080->80/tcp`.
impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = |first: u16| match self.range {
            1 => first.to_string(),
            count => format!("{first}-{}", first.wrapping_add(count.wrapping_sub(1))),
        };
        let (outer, inner) = (span(self.host_port), span(self.container_port));
        write!(f, "{}:{outer}->{inner}/{}", self.address(), self.protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(attachment: Value) -> String {
        let document = json!({"bocker": {"net": {"attachments": [attachment]}}});
        let document = Document::parse(document.to_string().as_bytes()).unwrap();
        let ports: Vec<String> = of(&document).iter().map(Port::to_string).collect();
        ports.join(", ")
    }

    #[test]
    fn ports_are_shown_as_docker_does() {
        let published = json!([
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostIP": "127.0.0.1", "hostPort": 53, "containerPort": 53, "protocol": "udp"},
            {"hostIP": "2001:db8::1", "hostPort": 1000, "containerPort": 2000, "range": 10, "protocol": "tcp"},
        ]);
        assert_eq!(
            shown(json!({"published": published})),
            "0.0.0.0:8080->80/tcp, 127.0.0.1:53->53/udp, [2001:db8::1]:1000-1009->2000-2009/tcp"
        );
        let result = json!({"ips": [{"address": "10.9.0.2/24"}, {"address": "fd00::2/64"}]});
        assert_eq!(
            shown(json!({"published": [published[0]], "result": result})),
            "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"
        );
        for strange in [
            json!({}),
            json!({"published": [{}]}),
            json!({"published": 1}),
            json!(7),
        ] {
            assert_eq!(shown(strange), "");
        }
    }
}
