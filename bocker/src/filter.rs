//! `ps --filter`: which containers are meant. As with docker, one of several values of a key has to hold, and all labels; and what is
//! asked of several keys, all of it.

use bocker_pipe::layout::{Digest, Layout, chain_ids};
use bocker_pipe::reference::Reference;
use bocker_pipe::{Error, Kind, Result, containers};
use regex_lite::Regex;
use serde_json::Value;

use crate::container::{Container, SHOWN, restart_policy};
use crate::{image, ports};

/// One of the conditions.
#[derive(Debug, Clone)]
enum Condition {
    Ancestor(String),
    Before(String),
    Exited(u8),
    Expose(Port),
    Health(&'static str),
    Id(String),
    Label(String, Option<String>),
    Name(Regex),
    Network(String),
    Publish(Port),
    RestartPolicy(&'static str),
    Since(String),
    Status(&'static str),
    Volume(String),
}

/// The layers that a container stands on, by their chain ids.
const LAYERS: &str = "/bocker/snap/layers";
const KEYS: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "label",
    "name",
    "network",
    "publish",
    "restart-policy",
    "since",
    "status",
    "volume",
];
const POLICIES: &[&str] = &["no", "on-failure", "always", "unless-stopped"];
const HEALTH: &[&str] = &["starting", "healthy", "unhealthy", "none"];
const STATUS: &[&str] = &[
    "created",
    "running",
    "paused",
    "restarting",
    "exited",
    "dead",
    "removing",
    "orphaned",
];

/// Ports of a container, the last one included, perhaps of one protocol only.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Port {
    first: u16,
    last: u16,
    protocol: Option<String>,
}

/// One `KEY=VALUE`.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    key: &'static str,
    condition: Condition,
}

impl Filter {
    /// Whether it asks for a restart policy.
    pub(crate) fn is_of_policy(&self) -> bool {
        matches!(self.condition, Condition::RestartPolicy(_))
    }

    /// Reads it, for clap.
    pub(crate) fn parse(text: &str) -> Result<Filter, String> {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| "it is not KEY=VALUE".to_owned())?;
        let key = KEYS
            .iter()
            .find(|known| **known == key)
            .ok_or_else(|| format!("there is no filter '{key}'; there are {}", KEYS.join(", ")))?;
        let text = || value.to_owned();
        let condition = match *key {
            "ancestor" => Condition::Ancestor(text()),
            "before" => Condition::Before(text()),
            "exited" => Condition::Exited(
                value
                    .parse()
                    .map_err(|_| format!("'{value}' is no exit code"))?,
            ),
            "expose" => Condition::Expose(Port::parse(value)?),
            "health" => Condition::Health(one_of(HEALTH, value)?),
            "id" => Condition::Id(text()),
            "label" => match value.split_once('=') {
                Some((name, value)) => Condition::Label(name.into(), Some(value.into())),
                None => Condition::Label(text(), None),
            },
            // Docker's names begin with a slash, and people write it.
            "name" => Condition::Name(
                Regex::new(&value.replacen("^/", "^", 1))
                    .map_err(|error| format!("'{value}' is no regular expression: {error}"))?,
            ),
            "network" => Condition::Network(text()),
            "publish" => Condition::Publish(Port::parse(value)?),
            "restart-policy" => Condition::RestartPolicy(one_of(POLICIES, value)?),
            "since" => Condition::Since(text()),
            "status" => Condition::Status(one_of(STATUS, value)?),
            _ => Condition::Volume(text()),
        };
        Ok(Filter { key, condition })
    }
}

fn one_of(known: &[&'static str], value: &str) -> Result<&'static str, String> {
    let found = known.iter().find(|one| **one == value);
    found
        .copied()
        .ok_or_else(|| format!("'{value}' is none of {}", known.join(", ")))
}

impl Port {
    /// Takes `80`, `80/udp`, `8000-8010/tcp`.
    fn parse(text: &str) -> Result<Port, String> {
        let (ports, protocol) = match text.split_once('/') {
            Some((ports, protocol)) => (ports, Some(protocol.to_owned())),
            None => (text, None),
        };
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if first <= last => Ok(Port {
                first,
                last,
                protocol,
            }),
            _ => Err(format!("'{text}' is no port: give PORT[-PORT][/PROTOCOL]")),
        }
    }

    fn has(&self, port: u16, protocol: &str) -> bool {
        (self.first..=self.last).contains(&port)
            && self.protocol.as_deref().is_none_or(|own| own == protocol)
    }
}

/// The topmost layer of an image, if the store holds the image and it has layers.
fn top_layer(name: &str) -> Result<Option<Digest>> {
    let Some(image) = image::find(name)? else {
        return Ok(None);
    };
    let layout = Layout::open();
    let (config, _) = layout.config(&layout.manifest(&image)?)?;
    Ok(chain_ids(&config.rootfs.diff_ids).pop())
}

/// What is asked of documents for lists that these filters choose from.
pub(crate) fn shown(filters: &[Filter]) -> impl Iterator<Item = &'static str> {
    let by_ancestor = |filter: &Filter| filter.key == "ancestor";
    let layers = filters.iter().any(by_ancestor).then_some(LAYERS);
    SHOWN.iter().copied().chain(layers)
}

/// Keeps those that are meant. Fails with [`Kind::NotFound`] when one that is to be compared with is not there.
pub(crate) fn keep(containers: &mut Vec<Container>, filters: &[Filter]) -> Result<()> {
    let mut kept = vec![true; containers.len()];
    for key in KEYS {
        let of_key = filters.iter().filter(|filter| filter.key == *key);
        let conditions: Vec<&Condition> = of_key.map(|filter| &filter.condition).collect();
        if conditions.is_empty() {
            continue;
        }
        let holds = conditions
            .iter()
            .map(|condition| condition.of(containers))
            .collect::<Result<Vec<Vec<bool>>>>()?;
        for (index, kept) in kept.iter_mut().enumerate() {
            let mut each = holds.iter().map(|holds| holds[index]);
            *kept &= match *key {
                "label" => each.all(|holds| holds),
                _ => each.any(|holds| holds),
            };
        }
    }
    let mut kept = kept.into_iter();
    containers.retain(|_| kept.next().unwrap_or_default());
    Ok(())
}

impl Condition {
    /// Of which of them it holds.
    fn of(&self, containers: &[Container]) -> Result<Vec<bool>> {
        let each = |holds: &dyn Fn(&Container) -> bool| Ok(containers.iter().map(holds).collect());
        match self {
            Condition::Before(name) => {
                let then = created(containers, name)?;
                each(&|one| one.created < then)
            }
            Condition::Since(name) => {
                let then = created(containers, name)?;
                each(&|one| one.created > then)
            }
            Condition::Ancestor(name) => {
                let (wanted, top) = (Reference::parse(name).ok(), top_layer(name)?);
                each(&|one| is_made_of(one, name, wanted.as_ref()) || stands_on(one, top.as_ref()))
            }
            condition => each(&|one| condition.holds(one)),
        }
    }

    fn holds(&self, one: &Container) -> bool {
        match self {
            Condition::Exited(code) => one.exit_code() == Some(*code),
            Condition::Expose(port) => {
                let exposed = one.document.value("/bocker/image/config/ExposedPorts");
                let exposed = exposed.and_then(Value::as_object).into_iter().flatten();
                let exposed = exposed.filter_map(|(port, _)| Port::parse(port).ok());
                let protocol = |of: &Port| of.protocol.clone().unwrap_or_else(|| "tcp".into());
                publishes(one, port)
                    || exposed
                        .into_iter()
                        .any(|of| (of.first..=of.last).any(|each| port.has(each, &protocol(&of))))
            }
            Condition::Health(health) => one.health().unwrap_or("none") == *health,
            Condition::Id(id) => one.id.as_str().starts_with(id.as_str()),
            Condition::Label(name, value) => {
                let found = one.labels().and_then(|labels| labels.get(name));
                found.is_some_and(|found| value.is_none() || found.as_str() == value.as_deref())
            }
            Condition::Name(name) => name.is_match(one.name()),
            Condition::Network(name) => one.networks().contains(&name.as_str()),
            Condition::Publish(port) => publishes(one, port),
            Condition::RestartPolicy(policy) => restart_policy(&one.document) == *policy,
            Condition::Status(status) => one.state == *status,
            Condition::Volume(name) => one
                .volumes()
                .any(|volume| volume.source == name || volume.destination == name),
            Condition::Ancestor(_) | Condition::Before(_) | Condition::Since(_) => false,
        }
    }
}

/// Whether it was asked for that this port of the container be published, be it running or not.
fn publishes(one: &Container, port: &Port) -> bool {
    ports::of(&one.document).iter().any(|published| {
        published
            .inner()
            .any(|(inner, protocol)| port.has(inner, protocol))
    })
}

/// By the image's name, with or without what is usual in one, its id, or its digest.
fn is_made_of(one: &Container, name: &str, wanted: Option<&Reference>) -> bool {
    let says = |member: &str| one.text(&format!("/bocker/image/{member}"));
    let reference = says("reference");
    let parsed = reference.and_then(|reference| Reference::parse(reference).ok());
    let hex = |digest: &str| digest.trim_start_matches("sha256:").starts_with(name);
    !name.is_empty()
        && (reference == Some(name)
            || (parsed.is_some() && parsed.as_ref() == wanted)
            || says("id").is_some_and(|id| id == name)
            || says("digest").is_some_and(|digest| digest == name || hex(digest)))
}

/// Whether a layer is one of its image's. A chain id is that of all layers below, too.
fn stands_on(one: &Container, layer: Option<&Digest>) -> bool {
    let layers = one.document.value(LAYERS).and_then(Value::as_array);
    let mut layers = layers.into_iter().flatten().filter_map(Value::as_str);
    layer.is_some_and(|layer| layers.any(|one| one == layer.as_str()))
}

fn created(all: &[Container], name: &str) -> Result<Option<String>> {
    let id = containers::resolve(name)?;
    let one = all.iter().find(|one| one.id == id);
    one.map(|one| one.created.clone()).ok_or_else(|| {
        Error::new(
            Kind::NotFound,
            format!("Container '{name}' has not been started"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_filter_is_refused_and_those_that_exist_are_named() {
        for (text, says) in [
            ("frob=1", "there are ancestor, before"),
            ("name", "KEY=VALUE"),
            ("status=up", "none of created, running"),
            ("health=good", "none of starting"),
            ("exited=x", "no exit code"),
            ("exited=256", "no exit code"),
            ("name=(", "no regular expression"),
            ("publish=a", "no port"),
            ("publish=9-8", "no port"),
        ] {
            let error = Filter::parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_port_may_be_a_range_and_of_one_protocol() {
        let port = Port::parse("80-82/udp").unwrap();
        assert!(port.has(81, "udp") && !port.has(81, "tcp") && !port.has(83, "udp"));
        assert!(Port::parse("80").unwrap().has(80, "sctp"));
    }
}
