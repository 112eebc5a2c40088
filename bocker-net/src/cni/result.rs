//! What plugins answer (SPEC.md, section 5): results, which are checked before anything in them is believed, and errors.
//! A result stays the JSON that it was, members that nobody here knows included; it is kept in the shape of the latest version.

use std::net::IpAddr;

use bocker_pipe::{Error, Kind, Result};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::version::Version;
use crate::member::CniDns;

/// Members that a result in a document always has.
const MEMBERS: [&str; 3] = ["interfaces", "ips", "routes"];
/// More of anything is no network of a container.
const MAX_ENTRIES: usize = 1024;
/// The longest name of a domain, and more than an interface's.
const MAX_WORD: usize = 255;
// SPEC.md, section 5: the version is not spoken; DEL need not be called, or called again.
const INCOMPATIBLE: u64 = 1;
const UNKNOWN_CONTAINER: u64 = 3;
/// How much of what a plugin says is passed on, in characters.
const MAX_TEXT: usize = 2000;

/// What a plugin says that has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) code: u64,
    pub(crate) message: String,
}

impl Refused {
    /// Whether the plugin does not know of the container at all.
    pub(crate) fn is_unknown_container(&self) -> bool {
        self.code == UNKNOWN_CONTAINER
    }

    /// Whether the plugin does not speak the version that it was called with, and so has done nothing.
    pub(crate) fn is_incompatible(&self) -> bool {
        self.code == INCOMPATIBLE
    }

    /// Takes an error's JSON; `None` where the bytes are something else.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Refused> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        let text = |name| value.get(name).and_then(Value::as_str).unwrap_or_default();
        let (message, details) = (text("msg"), text("details"));
        let message = match (message, details) {
            ("", "") => "without a word".to_owned(),
            (message, "") => message.to_owned(),
            (message, details) => format!("{message}: {details}"),
        };
        Some(Refused {
            code: value.get("code")?.as_u64()?,
            message: shortened(&message),
        })
    }
}

/// As much of a text as is passed on.
pub(crate) fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// An address and the length of its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) address: IpAddr,
    pub(crate) prefix: u8,
}

/// An address of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) address: IpAddr,
    pub(crate) prefix: u8,
    pub(crate) gateway: Option<IpAddr>,
    /// The name of its interface, where that is said.
    pub(crate) interface: Option<String>,
}

/// A route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) dst: Network,
    pub(crate) gateway: Option<IpAddr>,
}

impl Way {
    /// Whether it leads everywhere.
    pub(crate) fn is_default(&self) -> bool {
        self.dst.prefix == 0
    }
}

/// A result that has been checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    /// In the shape of the latest version.
    pub(crate) value: Value,
    pub(crate) addresses: Vec<Address>,
    pub(crate) routes: Vec<Way>,
    /// Names of interfaces in the container.
    pub(crate) inside: Vec<String>,
    pub(crate) dns: CniDns,
    pub(crate) domain: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    cni_version: String,
    interfaces: Option<Vec<Interface>>,
    ips: Option<Vec<Ip>>,
    routes: Option<Vec<Route>>,
    dns: Option<Dns>,
}

#[derive(Deserialize)]
struct Interface {
    name: String,
    sandbox: Option<String>,
}

#[derive(Deserialize)]
struct Ip {
    address: String,
    gateway: Option<String>,
    interface: Option<i64>,
}

#[derive(Deserialize)]
struct Route {
    dst: String,
    gw: Option<String>,
}

#[derive(Default, Deserialize)]
struct Dns {
    nameservers: Option<Vec<String>>,
    domain: Option<String>,
    search: Option<Vec<String>>,
    options: Option<Vec<String>>,
}

impl Outcome {
    /// Takes what a plugin wrote. Fails with [`Kind::Remote`], in words that go after "says that ...".
    pub(crate) fn parse(bytes: &[u8]) -> Result<Outcome> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(lie("nothing"));
        }
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|error| lie(&format!("what is not JSON ({error})")))?;
        Outcome::of(value)
    }

    /// The same of one that is kept.
    pub(crate) fn of(value: Value) -> Result<Outcome> {
        if !value.is_object() {
            return Err(lie("what is not a result (no JSON object)"));
        }
        let shape = Shape::deserialize(&value)
            .map_err(|error| lie(&format!("what is not a result ({error})")))?;
        if Version::parse(&shape.cni_version).is_none() {
            return Err(lie(&format!("a result of version '{}'", shape.cni_version)));
        }
        let interfaces = bounded(shape.interfaces)?;
        if let Some(interface) = interfaces.iter().find(|one| !is_word(&one.name)) {
            return Err(lie(&format!("an interface named '{}'", interface.name)));
        }
        let (mut addresses, mut routes) = (Vec::new(), Vec::new());
        for ip in bounded(shape.ips)? {
            let Network { address, prefix } = network(&ip.address)?;
            let gateway = gateway(ip.gateway.as_deref())?;
            // Plugins of old write -1 for none.
            let place = ip.interface.and_then(|place| usize::try_from(place).ok());
            if place.is_some_and(|place| place >= interfaces.len()) {
                return Err(lie(&format!(
                    "{} on an interface that is not named",
                    ip.address
                )));
            }
            let interface = place.and_then(|place| interfaces.get(place));
            addresses.push(Address {
                address,
                prefix,
                gateway,
                interface: interface.map(|interface| interface.name.clone()),
            });
        }
        for route in bounded(shape.routes)? {
            routes.push(Way {
                dst: network(&route.dst)?,
                gateway: gateway(route.gw.as_deref())?,
            });
        }
        let (dns, domain) = resolution(shape.dns.unwrap_or_default())?;
        let inside = interfaces
            .into_iter()
            .filter(|interface| {
                interface
                    .sandbox
                    .as_deref()
                    .is_some_and(|path| !path.is_empty())
            })
            .map(|interface| interface.name);
        Ok(Outcome {
            addresses,
            routes,
            inside: inside.collect(),
            dns,
            domain,
            value: in_version(&value, Version::LATEST),
        })
    }

    /// As plugins of this version read it.
    pub(crate) fn in_version(&self, version: Version) -> Value {
        in_version(&self.value, version)
    }
}

fn lie(what: &str) -> Error {
    Error::new(Kind::Remote, what)
}

fn bounded<T>(entries: Option<Vec<T>>) -> Result<Vec<T>> {
    let entries = entries.unwrap_or_default();
    match entries.len() {
        0..=MAX_ENTRIES => Ok(entries),
        many => Err(lie(&format!("a result of {many} entries"))),
    }
}

/// An address with the length of its prefix.
fn network(text: &str) -> Result<Network> {
    let parsed = text.split_once('/').and_then(|(address, prefix)| {
        let address: IpAddr = address.parse().ok()?;
        let prefix: u8 = prefix.parse().ok()?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        (prefix <= longest).then_some(Network { address, prefix })
    });
    parsed.ok_or_else(|| lie(&format!("an address '{text}', which is none")))
}

fn gateway(text: Option<&str>) -> Result<Option<IpAddr>> {
    match text {
        None | Some("") => Ok(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|_| lie(&format!("a gateway '{text}', which is no address"))),
    }
}

/// What goes into resolv.conf(5): a line that a plugin makes longer would be another line.
fn resolution(dns: Dns) -> Result<(CniDns, Option<String>)> {
    let words = |words: Option<Vec<String>>| {
        let words = bounded(words)?;
        match words.iter().find(|word| !is_word(word)) {
            Some(word) => Err(lie(&format!("'{word}' for resolv.conf"))),
            None => Ok(words),
        }
    };
    let nameservers = words(dns.nameservers)?;
    if let Some(server) = nameservers
        .iter()
        .find(|text| text.parse::<IpAddr>().is_err())
    {
        return Err(lie(&format!(
            "a name server '{server}', which is no address"
        )));
    }
    let domain = words(
        dns.domain
            .filter(|domain| !domain.is_empty())
            .map(|one| vec![one]),
    )?;
    let found = CniDns {
        nameservers,
        search: words(dns.search)?,
        options: words(dns.options)?,
    };
    Ok((found, domain.into_iter().next()))
}

fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_WORD
        && !text.chars().any(|c| c.is_whitespace() || c.is_control())
}

/// Addresses say of which IP they are, before 1.0.0 and not since.
fn in_version(value: &Value, version: Version) -> Value {
    let mut result = value.as_object().cloned().unwrap_or_default();
    result.insert("cniVersion".into(), version.as_str().into());
    for name in MEMBERS {
        let entry = result.entry(name).or_insert(Value::Null);
        if entry.is_null() {
            *entry = json!([]);
        }
    }
    let dns = result.entry("dns").or_insert(Value::Null);
    if dns.is_null() {
        *dns = Map::new().into();
    }
    let ips = result.get_mut("ips").and_then(Value::as_array_mut);
    for ip in ips.into_iter().flatten().filter_map(Value::as_object_mut) {
        ip.shift_remove("version");
        if version < Version::V1_0_0 {
            let address = ip
                .get("address")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let family = if address.contains(':') { "6" } else { "4" };
            ip.insert("version".into(), family.into());
        }
    }
    result.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn outcome(text: &str) -> Result<Outcome> {
        Outcome::parse(text.as_bytes())
    }

    /// As bridge and host-local of 0.4.0 write it.
    const RESULT: &str = r#"{"cniVersion":"0.4.0","interfaces":[{"name":"cni0","mac":"aa:bb:cc:00:00:01"},
        {"name":"veth1","mac":"aa:bb:cc:00:00:02"},{"name":"eth0","mac":"aa:bb:cc:00:00:03","sandbox":"/run/x"}],
        "ips":[{"version":"4","interface":2,"address":"10.1.0.2/16","gateway":"10.1.0.1"},
               {"version":"6","interface":2,"address":"fd00::2/64"}],
        "routes":[{"dst":"0.0.0.0/0"}],"dns":{"nameservers":["192.0.2.53"],"domain":"example","search":["a","b"]},"x":1e+400}"#;

    #[test]
    fn a_result_is_kept_in_the_latest_shape_and_given_back_in_the_one_it_came_in() {
        let found = outcome(RESULT).unwrap();
        assert_eq!(found.addresses[0].address.to_string(), "10.1.0.2");
        assert_eq!(found.inside, ["eth0"]);
        assert_eq!(found.dns.nameservers, ["192.0.2.53"]);
        assert_eq!(found.domain.as_deref(), Some("example"));
        assert_eq!(found.value["cniVersion"], "1.1.0");
        assert_eq!(found.value["ips"][0].get("version"), None);
        assert_eq!(found.value["x"].to_string(), "1e+400");
        let former = found.in_version(Version::V0_4_0);
        let text: Value = serde_json::from_str(RESULT).unwrap();
        assert_eq!(former, text);
        assert_eq!(former["ips"][1]["version"], "6");
        assert_eq!(Outcome::of(found.value.clone()).unwrap(), found);
    }

    #[test]
    fn what_is_missing_or_null_is_empty() {
        let found = outcome(r#"{"cniVersion":"1.0.0","ips":null}"#).unwrap();
        assert_eq!(
            found.value,
            json!({"cniVersion":"1.1.0","ips":[],"interfaces":[],"routes":[],"dns":{}})
        );
    }

    #[test]
    fn what_is_no_result_is_told_apart() {
        let ip = |text: &str| format!(r#"{{"cniVersion":"1.0.0","ips":[{text}]}}"#);
        let dns = |text: &str| format!(r#"{{"cniVersion":"1.0.0","dns":{text}}}"#);
        let many = vec![r#"{"dst":"0.0.0.0/0"}"#; MAX_ENTRIES + 1].join(",");
        for (text, says) in [
            (String::new(), "nothing"),
            (" \n".into(), "nothing"),
            ("ok".into(), "not JSON"),
            ("[".repeat(10_000), "not JSON"),
            ("[]".into(), "not a result"),
            ("{}".into(), "not a result"),
            (r#"{"cniVersion":"0.2.0"}"#.into(), "version '0.2.0'"),
            (ip(r#"{"address":"10.0.0.2"}"#), "an address '10.0.0.2'"),
            (ip(r#"{"address":"10.0.0.300/24"}"#), "which is none"),
            (ip(r#"{"address":"10.0.0.2/33"}"#), "which is none"),
            (ip(r#"{"address":"fd00::1/129"}"#), "which is none"),
            (
                ip(r#"{"address":"10.0.0.2/24","gateway":"x"}"#),
                "a gateway 'x'",
            ),
            (
                ip(r#"{"address":"10.0.0.2/24","interface":7}"#),
                "is not named",
            ),
            (
                dns(r#"{"nameservers":["1.1.1.1\nsearch evil"]}"#),
                "for resolv.conf",
            ),
            (dns(r#"{"nameservers":["localhost"]}"#), "no address"),
            (dns(r#"{"search":["a b"]}"#), "for resolv.conf"),
            (
                format!(r#"{{"cniVersion":"1.0.0","routes":[{many}]}}"#),
                "1025 entries",
            ),
        ] {
            let error = outcome(&text).unwrap_err();
            assert_eq!(error.kind(), &Kind::Remote);
            assert!(error.message().contains(says), "{error}");
        }
    }

    #[test]
    fn an_error_of_a_plugin_has_a_code_and_words_and_not_too_many() {
        let text = br#"{"cniVersion":"1.0.0","code":11,"msg":"busy","details":"later"}"#;
        let refused = Refused::parse(text).unwrap();
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (11, "busy: later")
        );
        let long = format!(r#"{{"code":999,"msg":"{}"}}"#, "ä".repeat(5000));
        assert_eq!(
            Refused::parse(long.as_bytes())
                .unwrap()
                .message
                .chars()
                .count(),
            MAX_TEXT + 3
        );
        for text in ["", "{}", "[]", r#"{"code":"7"}"#, r#"{"code":-1}"#, RESULT] {
            assert_eq!(Refused::parse(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_readers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (Outcome::parse(&bytes), Refused::parse(&bytes));
        }

        #[test]
        fn what_is_believed_is_the_same_when_it_is_read_again(
            addresses in proptest::collection::vec(("[0-9.:a-f/]{0,20}", proptest::option::of(-1i64..4)), 0..4),
            servers in proptest::collection::vec("[0-9.:a-f\n ]{0,12}", 0..3),
        ) {
            let ips: Vec<Value> = addresses
                .iter()
                .map(|(address, place)| json!({"address": address, "interface": place}))
                .collect();
            let value = json!({"cniVersion": "1.0.0", "ips": ips, "dns": {"nameservers": servers}});
            if let Ok(found) = Outcome::of(value) {
                for version in Version::ALL {
                    prop_assert_eq!(&Outcome::of(found.in_version(version)).unwrap(), &found);
                }
            }
        }
    }
}
