//! What a plugin gets: its environment and its configuration (SPEC.md, sections 1 and 2), checked as a whole before anything
//! is done.

use std::net::IpAddr;
use std::path::PathBuf;

use bocker_pipe::{Error, Kind};
use serde::Deserialize;
use serde_json::Value;

use super::attachment::Label;
use super::{Code, Failure, With};
use crate::cni::is_name;
use crate::cni::result::Outcome;
use crate::cni::version::Version;
use crate::plug::checked_ifname;
use crate::publish::Wanted;

/// The network that is meant when none is named.
const NETWORK: &str = crate::network::DEFAULT;

/// What the variables say about the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Environment {
    pub(super) container: String,
    pub(super) ifname: String,
    /// Absent when it is gone.
    pub(super) netns: Option<PathBuf>,
    /// Of `CNI_ARGS`, by which podman says what the capabilities `ips` and `mac` are for.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) mac: Option<String>,
}

impl Environment {
    /// Reads the variables.
    pub(super) fn of_container(needs_netns: bool) -> Result<Environment, Failure> {
        Environment::of(|name| std::env::var(name).ok(), needs_netns)
    }

    fn of(
        variable: impl Fn(&str) -> Option<String>,
        needs_netns: bool,
    ) -> Result<Environment, Failure> {
        let get = |name: &str| variable(name).filter(|value| !value.is_empty());
        let need = |name: &str| {
            get(name).ok_or_else(|| Failure::new(Code::Environment, format!("{name} is not set")))
        };
        let container = need("CNI_CONTAINERID")?;
        if !is_name(&container) {
            let what = format!(
                "CNI_CONTAINERID '{container}' is no id: letters, digits, '_', '.' and '-'"
            );
            return Err(Failure::new(Code::Environment, what));
        }
        let ifname = need("CNI_IFNAME")?;
        checked_ifname(&ifname).map_err(|error| error.with(Code::Environment))?;
        let netns = match needs_netns {
            true => Some(need("CNI_NETNS")?),
            false => get("CNI_NETNS"),
        };
        let mut environment = Environment {
            container,
            ifname,
            netns: netns.map(PathBuf::from),
            addresses: Vec::new(),
            mac: None,
        };
        environment.take_arguments(&get("CNI_ARGS").unwrap_or_default())?;
        Ok(environment)
    }

    /// By what the runtime knows the attachment to a network of this name.
    pub(super) fn label(&self, network: &str) -> Label {
        Label {
            network: network.to_owned(),
            container: self.container.clone(),
            ifname: self.ifname.clone(),
        }
    }

    /// `KEY=VALUE;KEY=VALUE`, in which what nobody here knows is an error unless it is said that it is none.
    fn take_arguments(&mut self, text: &str) -> Result<(), Failure> {
        let refuse = |what: String| Failure::new(Code::Environment, what);
        let mut unknown = None;
        let mut is_tolerant = false;
        for argument in text.split(';').filter(|argument| !argument.is_empty()) {
            match argument.split_once('=') {
                Some(("IgnoreUnknown", value)) => {
                    is_tolerant = matches!(value, "1" | "true" | "True")
                }
                Some(("IP", value)) => {
                    let value = value.split_once('/').map_or(value, |(address, _)| address);
                    let wrong = |_| refuse(format!("'{value}' in CNI_ARGS is no address"));
                    self.addresses.push(value.parse().map_err(wrong)?);
                }
                Some(("MAC", value)) => self.mac = Some(value.to_owned()),
                _ => unknown = unknown.or(Some(argument)),
            }
        }
        match unknown.filter(|_| !is_tolerant) {
            Some(argument) => Err(refuse(format!("'{argument}' in CNI_ARGS is not known"))),
            None => Ok(()),
        }
    }
}

/// Where the interface is plugged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Where {
    /// A network of bocker's, with its own addresses.
    Network(String),
    /// A bridge of this configuration's own, with addresses of an IPAM plugin.
    Bridge { name: String, ipam: String },
}

/// The configuration.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Config {
    pub(super) version: Version,
    pub(super) name: String,
    pub(super) place: Where,
    pub(super) masquerades: bool,
    pub(super) mtu: Option<u32>,
    pub(super) publish: Vec<Wanted>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) mac: Option<String>,
    /// What the plugins before have made; for CHECK and DEL, what all have.
    pub(super) previous: Option<Outcome>,
    /// For GC: containers and interfaces that are in use.
    pub(super) valid: Vec<(String, String)>,
    /// As it came.
    pub(super) input: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    name: String,
    network: Option<String>,
    bridge: Option<String>,
    is_gateway: Option<bool>,
    is_default_gateway: Option<bool>,
    ip_masq: Option<bool>,
    mtu: Option<u32>,
    ipam: Option<Ipam>,
    runtime_config: Option<RuntimeConfig>,
    prev_result: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid: Option<Vec<Valid>>,
}

#[derive(Deserialize)]
struct Ipam {
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RuntimeConfig {
    port_mappings: Option<Vec<PortMapping>>,
    ips: Option<Vec<String>>,
    mac: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PortMapping {
    host_port: u16,
    container_port: u16,
    protocol: Option<String>,
    #[serde(rename = "hostIP")]
    host_ip: Option<String>,
}

#[derive(Deserialize)]
struct Valid {
    #[serde(rename = "containerID")]
    container: String,
    ifname: String,
}

impl Config {
    /// Takes a configuration. `version` becomes its version as soon as that is known, for what is answered.
    pub(super) fn parse(input: Value, version: &mut Version) -> Result<Config, Failure> {
        let text = input.get("cniVersion").and_then(Value::as_str);
        // Without one, 0.2.0 is meant (SPEC.md, section 1).
        let text = text.unwrap_or("0.2.0");
        *version = Version::parse(text).ok_or_else(|| {
            let what = format!("version '{text}' is not spoken");
            let error = Error::new(Kind::Version, what);
            error
                .hint(format!("spoken are {}", Version::list()))
                .with(Code::Incompatible)
        })?;
        let shape = Shape::deserialize(&input)
            .map_err(|error| Failure::new(Code::Decode, format!("the configuration: {error}")))?;
        if !is_name(&shape.name) {
            let what = format!("'{}' is no name of a network", shape.name);
            return Err(Failure::new(Code::Configuration, what));
        }
        let place = shape.place()?;
        let runtime = shape.runtime_config.unwrap_or_default();
        let addresses: Result<_, Failure> = runtime
            .ips
            .iter()
            .flatten()
            .map(|text| address(text))
            .collect();
        let ports = runtime.port_mappings.into_iter().flatten();
        // CONVENTIONS.md: without a port of the host nothing is asked for.
        let ports = ports.filter(|port| port.host_port != 0);
        let publish: Result<_, Failure> = ports.map(|port| port.publish()).collect();
        let valid = shape.valid.into_iter().flatten();
        let previous = shape.prev_result.map(|result| {
            Outcome::of(result).map_err(|error| {
                let what = format!("prevResult holds {}", error.message());
                Failure::new(Code::Decode, what)
            })
        });
        Ok(Config {
            version: *version,
            name: shape.name,
            masquerades: shape.ip_masq.unwrap_or(false),
            place,
            mtu: shape.mtu.filter(|mtu| *mtu != 0),
            publish: publish?,
            addresses: addresses?,
            mac: runtime.mac.filter(|mac| !mac.is_empty()),
            previous: previous.transpose()?,
            valid: valid.map(|one| (one.container, one.ifname)).collect(),
            input,
        })
    }
}

impl Shape {
    fn place(&self) -> Result<Where, Failure> {
        let refuse = |what: &str, hint: &str| {
            Err(Error::new(Kind::Invalid, what)
                .hint(hint)
                .with(Code::Configuration))
        };
        let ipam = self.ipam.as_ref().and_then(|ipam| ipam.kind.clone());
        match ipam.filter(|kind| !kind.is_empty()) {
            None => {
                let network = self.network.clone().or_else(|| self.bridge.clone());
                // A network of ours has both; what says otherwise means something else.
                for (name, value) in [("isGateway", self.is_gateway), ("ipMasq", self.ip_masq)] {
                    if value == Some(false) {
                        let what = format!(
                            "{name} is what a network of bocker-net has, or has not, by itself"
                        );
                        return refuse(&what, "leave it out, or name an ipam plugin");
                    }
                }
                if self.mtu.is_some_and(|mtu| mtu != 0) {
                    let what = "mtu is what a network of bocker-net has by itself";
                    return refuse(
                        what,
                        "leave it out, or make a network with 'bocker network create --mtu'",
                    );
                }
                Ok(Where::Network(
                    network.unwrap_or_else(|| NETWORK.to_owned()),
                ))
            }
            Some(kind) if !is_name(&kind) => refuse(
                &format!("'{kind}' is no name of a plugin"),
                "name one of CNI_PATH",
            ),
            Some(_) if self.network.is_some() => refuse(
                "a network of bocker-net has addresses of its own",
                "leave ipam out, or name a bridge instead",
            ),
            Some(_) if self.is_gateway == Some(false) && self.is_default_gateway != Some(true) => {
                refuse(
                    "a bridge that is no gateway is not made",
                    "leave isGateway out",
                )
            }
            Some(ipam) => {
                let Some(name) = self.bridge.clone() else {
                    return refuse("no bridge is named", "give it a name, such as cni0");
                };
                checked_ifname(&name).map_err(|error| error.with(Code::Configuration))?;
                Ok(Where::Bridge { name, ipam })
            }
        }
    }
}

impl PortMapping {
    fn publish(&self) -> Result<Wanted, Failure> {
        let ip = match self.host_ip.as_deref() {
            None | Some("") => String::new(),
            Some(ip) if ip.contains(':') => format!("[{ip}]:"),
            Some(ip) => format!("{ip}:"),
        };
        let protocol = self
            .protocol
            .as_deref()
            .unwrap_or("tcp")
            .to_ascii_lowercase();
        let text = format!("{ip}{}:{}/{protocol}", self.host_port, self.container_port);
        Ok(text.parse::<Wanted>()?)
    }
}

/// With the length of its prefix or without.
fn address(text: &str) -> Result<IpAddr, Failure> {
    let address = text.split_once('/').map_or(text, |(address, _)| address);
    address.parse().map_err(|_| {
        let what = format!("'{text}' in runtimeConfig.ips is no address");
        Failure::new(Code::Configuration, what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn parse(input: Value) -> Result<Config, Failure> {
        Config::parse(input, &mut Version::LATEST.clone())
    }

    #[test]
    fn what_runtimes_ask_for_is_understood() {
        let config = parse(json!({
            "cniVersion": "0.4.0", "name": "lab", "type": "bocker-net", "unknown": [],
            "bridge": "cni0", "isGateway": true, "ipMasq": true, "mtu": 1400,
            "ipam": {"type": "host-local", "ranges": []},
            "runtimeConfig": {"portMappings": [
                {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""},
                {"hostPort": 0, "containerPort": 81},
                {"hostPort": 53, "containerPort": 53, "protocol": "UDP", "hostIP": "127.0.0.1"}],
                "ips": ["10.1.0.5/16", "fd00::5"], "mac": "02:42:0a:01:00:05"},
        }))
        .unwrap();
        assert_eq!(config.version, Version::V0_4_0);
        let place = Where::Bridge {
            name: "cni0".into(),
            ipam: "host-local".into(),
        };
        assert_eq!(
            (config.place, config.mtu, config.masquerades),
            (place, Some(1400), true)
        );
        let publish: Vec<String> = config.publish.iter().map(ToString::to_string).collect();
        assert_eq!(publish, ["8080:80/tcp", "127.0.0.1:53:53/udp"]);
        let addresses: Vec<String> = config.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.1.0.5", "fd00::5"]);
        let config = parse(json!({"cniVersion": "1.1.0", "name": "lab", "ipam": {}})).unwrap();
        assert_eq!(config.place, Where::Network("bridge".into()));
    }

    #[test]
    fn each_mistake_has_the_protocols_code() {
        let with = |members: Value| {
            let mut input = json!({"cniVersion": "1.0.0", "name": "lab"});
            for (name, value) in members.as_object().unwrap() {
                input[name] = value.clone();
            }
            parse(input).unwrap_err().code
        };
        assert_eq!(parse(json!({"name": "lab"})).unwrap_err().code, 1);
        assert_eq!(with(json!({"cniVersion": "2.0.0"})), 1);
        assert_eq!(with(json!({"bridge": 7})), 6);
        assert_eq!(with(json!({"prevResult": {}})), 6);
        for wrong in [
            json!({"name": "a/b"}),
            json!({"isGateway": false}),
            json!({"ipMasq": false}),
            json!({"mtu": 1400}),
            json!({"ipam": {"type": "../x"}, "bridge": "cni0"}),
            json!({"ipam": {"type": "host-local"}}),
            json!({"ipam": {"type": "host-local"}, "network": "web"}),
            json!({"ipam": {"type": "host-local"}, "bridge": "a b"}),
            json!({"runtimeConfig": {"ips": ["x"]}}),
            json!({"runtimeConfig": {"portMappings": [{"hostPort": 1, "containerPort": 0}]}}),
        ] {
            assert_eq!(with(wrong.clone()), 7, "{wrong}");
        }
    }

    #[test]
    fn a_variable_that_is_missing_or_malformed_is_named() {
        let with = |name: &str, value: &str| {
            let variable = |asked: &str| {
                let usual = match asked {
                    "CNI_CONTAINERID" => "abc",
                    "CNI_IFNAME" => "eth0",
                    "CNI_ARGS" => {
                        "K8S_POD_NAME=web;IP=10.0.0.7/16;MAC=02:42:00:00:00:07;IgnoreUnknown=1"
                    }
                    _ => "/run/netns/x",
                };
                Some(if asked == name { value } else { usual }.to_owned())
            };
            Environment::of(variable, true)
        };
        let good = with("", "").unwrap();
        assert_eq!(good.addresses, [IpAddr::from([10, 0, 0, 7])]);
        assert_eq!(good.mac.as_deref(), Some("02:42:00:00:00:07"));
        for (name, value) in [
            ("CNI_CONTAINERID", ""),
            ("CNI_CONTAINERID", "../x"),
            ("CNI_IFNAME", ""),
            ("CNI_IFNAME", "a/b"),
            ("CNI_IFNAME", "sixteencharacter"),
            ("CNI_NETNS", ""),
            ("CNI_ARGS", "K8S_POD_NAME=web"),
            ("CNI_ARGS", "IP=x"),
        ] {
            assert_eq!(with(name, value).unwrap_err().code, 4, "{name}={value}");
        }
    }

    proptest! {
        #[test]
        fn no_configuration_makes_the_reader_panic(
            name in "\\PC{0,6}", bridge in "\\PC{0,6}", port: u16, ip in "[0-9.:]{0,8}", ips in proptest::collection::vec("[0-9a-f.:/]{0,9}", 0..3),
        ) {
            let ports = json!([{"hostPort": port, "containerPort": port, "hostIP": ip}]);
            let _ = parse(json!({"cniVersion": "1.0.0", "name": name, "bridge": bridge,
                "runtimeConfig": {"portMappings": ports, "ips": ips}}));
        }
    }
}
