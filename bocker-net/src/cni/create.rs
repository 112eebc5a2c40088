//! `create --cni`: a namespace of ours, wired by plugins.

use std::net::IpAddr;

use bocker_pipe::step::quote;
use bocker_pipe::{Call, Document, Error, Kind, Result, Step, claim, paths};
use serde_json::{Map, Value, json};

use super::invoke::folders;
use super::list::{List, Source};
use super::record::{Attached, Kept, Turn};
use super::result::Outcome;
use super::{CNI, Chain};
use crate::MEMBER;
use crate::create::finish;
use crate::firewall::Firewall;
use crate::member::{CniDns, Net, Request};
use crate::nft::Family;
use crate::plug;
use crate::ports::Ports;
use crate::publish::{Publish, Wanted};
use crate::resolve::{self, Asked, Reach};
use crate::steps::{self, Container};
use crate::told;

/// Of which a plugin of the list has to ask for what is asked for here; the name of one is what a list says `true` to.
const PORTS: &str = "portMappings";
const DNS: &str = "dns";
const IPS: &str = "ips";
const MAC: &str = "mac";
const ALIASES: &str = "aliases";
/// How long a plugin may take unless told otherwise, in seconds: some wait for a machine elsewhere (dhcp).
const TIMEOUT: u64 = 60;
const ATTACHMENTS: &str = "/bocker/net/attachments";

/// What options say about networks of CNI.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Options {
    /// Names or paths, as typed.
    pub(crate) networks: Vec<String>,
    /// By name.
    pub(crate) capabilities: Map<String, Value>,
    pub(crate) timeout: Option<u64>,
    /// What was published earlier.
    publish: Vec<Wanted>,
    publish_all: bool,
}

impl Options {
    /// `--cni-capability NAME=JSON`.
    pub(crate) fn capability(&mut self, text: &str) -> Result<()> {
        let parsed = text.split_once('=').and_then(|(name, value)| {
            let value: Value = serde_json::from_str(value).ok()?;
            super::is_name(name).then_some((name, value))
        });
        let Some((name, value)) = parsed else {
            let message = format!("'{text}' is not the name of a capability, '=', and JSON");
            let hint = r#"such as --cni-capability 'bandwidth={"egressRate":1000000,"egressBurst":1000000}'"#;
            return Err(Error::new(Kind::Usage, message).hint(hint));
        };
        self.capabilities.insert(name.to_owned(), value);
        Ok(())
    }
}

/// Whether a document's network is one of CNI.
pub(crate) fn is_in(document: &Document) -> bool {
    document.value("/bocker/net/mode").and_then(Value::as_str) == Some(CNI)
}

impl Options {
    /// What a document remembers of an earlier create: taken over here where no option says otherwise, and given as far as it
    /// is that of every network.
    pub(crate) fn earlier(&mut self, document: &Document) -> Result<Option<Net>> {
        let request = |member: &str| format!("{ATTACHMENTS}/0/request/{member}");
        if self.networks.is_empty() {
            let all = document.value(ATTACHMENTS).and_then(Value::as_array);
            let all = all.into_iter().flatten();
            let names = all.filter_map(|one| one.pointer("/request/cni")?.as_str());
            self.networks = names.map(str::to_owned).collect();
        }
        if self.capabilities.is_empty() {
            self.capabilities = document.get(&request("capabilities"))?.unwrap_or_default();
        }
        self.publish = document.get(&request("publish"))?.unwrap_or_default();
        self.publish_all = document.get(&request("publishAll"))?.unwrap_or_default();
        // Results of plugins are not all of the shape of ours.
        let mut rest = document.clone();
        rest.remove(ATTACHMENTS);
        rest.member(MEMBER)
    }

    /// What was published earlier, and whether all that the image exposes was.
    pub(crate) fn published(&mut self) -> (Vec<Wanted>, bool) {
        (std::mem::take(&mut self.publish), self.publish_all)
    }

    /// What is asked for of the first network: key and value, as in `--network name=NAME,KEY=VALUE`.
    pub(crate) fn of_first(&mut self, pairs: &[(&'static str, String)]) -> Result<()> {
        let mut asked = plug::Asked::default();
        pairs
            .iter()
            .try_for_each(|(key, value)| asked.set(key, value))?;
        let Request {
            ip,
            ip6,
            mac,
            aliases,
            ..
        } = asked.request;
        let ips: Vec<IpAddr> = ip
            .map(IpAddr::from)
            .into_iter()
            .chain(ip6.map(IpAddr::from))
            .collect();
        for (name, value, is_asked) in [
            (IPS, json!(ips), !ips.is_empty()),
            (MAC, json!(mac), mac.is_some()),
            (ALIASES, json!(aliases), !aliases.is_empty()),
        ] {
            if is_asked {
                self.capabilities.insert(name.to_owned(), value);
            }
        }
        Ok(())
    }

    fn all_capabilities(&self, publish: &[Publish], dns: &Asked) -> Map<String, Value> {
        let mut all = self.capabilities.clone();
        if !publish.is_empty() {
            // Plugins know no ranges.
            let each: Vec<Publish> = publish.iter().flat_map(Publish::each).collect();
            all.insert(PORTS.into(), json!(each));
        }
        if !dns.is_empty() {
            let words =
                json!({"servers": dns.servers, "searches": dns.search, "options": dns.options});
            all.insert(DNS.into(), words);
        }
        all
    }
}

/// What the steps work on.
struct Wired {
    container: Container,
    chains: Vec<Chain>,
    /// While plugins are at work for this container.
    turn: Option<Turn>,
    /// Whether one of them could not take back what it had done.
    remains: bool,
}

impl AsRef<Container> for Wired {
    fn as_ref(&self) -> &Container {
        &self.container
    }
}

impl AsMut<Container> for Wired {
    fn as_mut(&mut self) -> &mut Container {
        &mut self.container
    }
}

/// The part of `create` that comes after its options and the document are read.
pub(crate) fn run(
    call: &mut Call,
    container: Container,
    is_new: bool,
    mut ports: Ports,
    options: Options,
) -> Result<()> {
    // Validated as a whole before anything is made.
    if !ports.is_empty() {
        // Which addresses a container will have, its plugins decide.
        let families = [Family::V4, Family::V6];
        let mut firewall = Firewall::open()?;
        ports.refuse(&mut firewall, &families)?;
        ports.choose(&mut firewall, &families, &container.id)?;
    }
    let dry_run = call.dry_run();
    let capabilities = options.all_capabilities(ports.published(), &container.asked_dns);
    let mut chains = chains(call.document()?, &options, &capabilities, dry_run)?;
    let boot_id = claim::boot_id()?;
    for chain in &mut chains {
        chain.attached.boot_id.clone_from(&boot_id);
        chain.belongs_to(&container.id);
    }
    let mut steps: Vec<Step<Wired>> = Vec::new();
    if is_new {
        steps.push(steps::claim_step());
    }
    steps.extend([steps::netns_step(), steps::loopback_step(), record_step()]);
    steps.extend((0..chains.len()).map(add_step));
    steps.push(steps::files_step());
    let requests = requests(&options, &ports.request(), &chains);
    let context = Wired {
        container,
        chains,
        turn: None,
        remains: false,
    };
    told::tells(call);
    call.create(context, steps, move |document, wired| {
        finish(document, &wired.container, Vec::new());
        let attachments = wired.chains.iter().zip(&requests);
        let mut attachments: Vec<Value> = attachments.map(attachment).collect();
        if let Some(first) = attachments.first_mut().filter(|_| !ports.is_empty()) {
            first["published"] = json!(ports.published());
        }
        document.set(ATTACHMENTS, &attachments);
        Ok(())
    })
}

/// Reads the lists, finds their plugins, and refuses what they cannot do.
fn chains(
    document: &Document,
    options: &Options,
    capabilities: &Map<String, Value>,
    dry_run: bool,
) -> Result<Vec<Chain>> {
    let mut chains = Vec::new();
    for (place, text) in options.networks.iter().enumerate() {
        let source = Source::parse(text)?;
        let list = match (&source, earlier(document, place, text)?) {
            // By a name that was asked for earlier the list of now is meant, as by one that is typed.
            (Source::File(_), Some(list)) => list,
            _ => source.load()?,
        };
        let attached = Attached {
            ifname: format!("eth{place}"),
            boot_id: String::new(),
            version: String::new(),
            path: folders(),
            timeout: options.timeout.unwrap_or(TIMEOUT),
            // Ports and the rest are those of the first.
            capabilities: if place == 0 {
                capabilities.clone()
            } else {
                Map::new()
            },
            list: list.source.clone(),
            result: None,
        };
        chains.push(Chain::plan(list, attached, dry_run)?);
    }
    let mut names: Vec<&str> = chains.iter().map(Chain::network).collect();
    names.sort_unstable();
    if let Some([name, _]) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        let message = format!("the CNI network '{name}' is asked for twice");
        return Err(Error::new(Kind::Usage, message));
    }
    if let Some(first) = chains.first() {
        // A resolver is told by resolv.conf too; nothing else is done by anybody but plugins.
        let refused = capabilities
            .keys()
            .find(|name| *name != DNS && !first.takes(name));
        if let Some(name) = refused {
            let message = format!(
                "no plugin of the CNI network '{}' has the capability {name}",
                first.network()
            );
            let hint = match name.as_str() {
                PORTS => "leave -p out, or add the plugin 'portmap' to its list".to_owned(),
                _ => {
                    format!(r#"a plugin of its list has to say "capabilities": {{"{name}": true}}"#)
                }
            };
            return Err(Error::new(Kind::Unsupported, message).hint(hint));
        }
    }
    Ok(chains)
}

/// The list of a file that the container was started with earlier, as it was: no path of a document is read, and only what
/// bocker-spawn has stored is believed.
fn earlier(document: &Document, place: usize, text: &str) -> Result<Option<List>> {
    let asked = document.value(&format!("{ATTACHMENTS}/{place}/request/cni"));
    if !is_in(document) || asked.and_then(Value::as_str) != Some(text) {
        return Ok(None);
    }
    let stored = Kept::stored(&document.id()?)?;
    stored
        .attachments
        .into_iter()
        .nth(place)
        .map(|attached| List::parse(attached.list))
        .transpose()
}

/// What is kept beside each result, so that a later start can ask for it again.
fn requests(options: &Options, ports: &(Vec<Wanted>, bool), chains: &[Chain]) -> Vec<Value> {
    let texts = options.networks.iter().take(chains.len()).enumerate();
    texts
        .map(|(place, text)| match place {
            0 => {
                let mut first = json!({"cni": text, "capabilities": options.capabilities});
                first["publish"] = json!(ports.0);
                if ports.1 {
                    first["publishAll"] = json!(true);
                }
                first
            }
            _ => json!({"cni": text}),
        })
        .collect()
}

fn attachment((chain, request): (&Chain, &Value)) -> Value {
    let kept = Attached {
        result: None,
        ..chain.attached.clone()
    };
    json!({
        "network": chain.network(),
        "ifname": chain.attached.ifname,
        "request": request,
        "result": chain.attached.result,
        CNI: kept,
    })
}

fn record_step() -> Step<Wired> {
    Step::new(
        "net.record",
        "what the plugins need to take back what they do is written down before they begin",
    )
    .command(|wired: &Wired| {
        let text = serde_json::to_string(&kept(wired)).unwrap_or_default();
        let path = Kept::path(&wired.container.id);
        vec![format!("printf '%s' {} > {}", quote(&text), path.display())]
    })
    .look(|wired| format!("cat {}", Kept::path(&wired.container.id).display()))
    .apply(|wired: &mut Wired| {
        let id = &wired.container.id;
        for chain in &mut wired.chains {
            chain.belongs_to(id);
        }
        wired.turn = Turn::wait(id)?;
        kept(wired).write(&wired.container.id)
    })
    .undo(|wired: &mut Wired| {
        wired.turn = None;
        match wired.remains {
            true => Ok(()),
            false => Kept::remove(&wired.container.id),
        }
    })
}

fn kept(wired: &Wired) -> Kept {
    Kept {
        attachments: wired
            .chains
            .iter()
            .map(|chain| chain.attached.clone())
            .collect(),
    }
}

fn add_step(place: usize) -> Step<Wired> {
    Step::new(
        "net.cni",
        "the plugins of the list, each with what the ones before it have made, wire the namespace",
    )
    .command(move |wired: &Wired| {
        wired
            .chains
            .get(place)
            .map(Chain::add_commands)
            .unwrap_or_default()
    })
    .look(|wired| {
        let path = paths::claim(&wired.container.id).join("netns");
        format!("nsenter --net={} ip address", path.display())
    })
    .apply(move |wired: &mut Wired| add(wired, place))
    .undo(move |wired| take_back(wired, place))
}

fn add(wired: &mut Wired, place: usize) -> Result<()> {
    let Some(chain) = wired.chains.get_mut(place) else {
        return Ok(());
    };
    let Err(error) = chain.add().and_then(|()| settle(wired, place)) else {
        return Ok(());
    };
    match take_back(wired, place) {
        Ok(()) => Err(error),
        Err(second) => Err(error.and(&second)),
    }
}

fn take_back(wired: &mut Wired, place: usize) -> Result<()> {
    let Some(chain) = wired.chains.get(place) else {
        return Ok(());
    };
    let deleted = chain.delete();
    wired.remains |= deleted.is_err();
    deleted
}

/// Looks whether it is true what the plugins say, and keeps it.
fn settle(wired: &mut Wired, place: usize) -> Result<()> {
    let Wired {
        container, chains, ..
    } = wired;
    let Some((chain, outcome)) = chains
        .get(place)
        .and_then(|chain| Some((chain, chain.outcome()?)))
    else {
        return Ok(());
    };
    for name in &outcome.inside {
        if container.inside()?.route.link(name)?.is_none() {
            let message = format!(
                "the plugins of the CNI network '{}' say that they have made the interface {name}, and there is none",
                chain.network()
            );
            return Err(Error::new(Kind::Remote, message));
        }
    }
    let addresses = outcome.addresses.iter().map(|one| one.address);
    container.given.extend(addresses);
    let gateways = outcome.addresses.iter().filter_map(|one| one.gateway);
    container.gateways.extend(gateways);
    if place == 0 {
        let ipv6 = container.given.iter().any(IpAddr::is_ipv6);
        container.reach = Reach::Network { ipv6 };
        container.dns = resolve::resolution(&container.asked_dns, container.reach)?;
        merge(&mut container.dns, &container.asked_dns, outcome);
    }
    kept(wired).write(&wired.container.id)
}

/// What the network says comes before what the host says, and what was asked for before both.
fn merge(dns: &mut CniDns, asked: &Asked, outcome: &Outcome) {
    let put = |to: &mut Vec<String>, asked: bool, from: &[String]| {
        if !asked && !from.is_empty() {
            from.clone_into(to);
        }
    };
    let given = &outcome.dns;
    put(
        &mut dns.nameservers,
        !asked.servers.is_empty(),
        &given.nameservers,
    );
    // Short names are looked for in the domain where nothing else is said (resolv.conf(5)).
    let search = match &given.search[..] {
        [] => outcome.domain.as_slice(),
        search => search,
    };
    put(&mut dns.search, !asked.search.is_empty(), search);
    put(&mut dns.options, !asked.options.is_empty(), &given.options);
}
