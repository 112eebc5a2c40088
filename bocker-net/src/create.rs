//! `create`: what was asked for, checked before anything is made; the steps; and what they put into the document.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use bocker_pipe::document::Mount;
use bocker_pipe::{Arg, Call, Document, Error, Id, Kind, Result, Step, containers, lock};

use crate::extra::ExtraHost;
use crate::host::Host;
use crate::member::{Attachment, Mode, Net, Netns};
use crate::netns::{self, Unpinned};
use crate::network::{self, Network};
use crate::nft::Family;
use crate::plug::{self, Asked, Plug};
use crate::policy;
use crate::ports::Ports;
use crate::publish::Wanted;
use crate::resolve::{self, Reach};
use crate::steps::{self, Bridged, Container, Joined};
use crate::{MEMBER, cni, files, told};

/// What `--network` begins with when it names another container, or somebody's namespace.
const CONTAINER: &str = "container:";
const NS: &str = "ns:";
/// The same for a network of CNI.
const CNI: &str = "cni:";

/// What was asked for, by options or by the document of a container that is started again.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wish {
    connection: Connection,
    hostname: Option<String>,
    publish: Vec<Wanted>,
    publish_all: bool,
    dns: resolve::Asked,
    extra_hosts: Vec<ExtraHost>,
}

/// How a container is to be connected.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Connection {
    Networks(Vec<Asked>),
    None,
    Host,
    /// As the container of this id or name.
    Container(String),
    /// By the namespace that is pinned here.
    Ns(PathBuf),
    /// By plugins, which have options of their own.
    Cni,
}

impl Connection {
    fn mode(&self) -> Mode {
        match self {
            Connection::Networks(_) => Mode::Bridge,
            Connection::None => Mode::None,
            Connection::Host => Mode::Host,
            Connection::Container(_) => Mode::Container,
            Connection::Ns(_) => Mode::Ns,
            Connection::Cni => Mode::Cni,
        }
    }

    /// Takes what `--network` says, every time that it is given.
    fn parse(words: &[String]) -> Result<Connection> {
        if let [word] = words
            && let Some(connection) = Connection::alone(word)?
        {
            return Ok(connection);
        }
        let mut networks = Vec::new();
        for word in words {
            if Connection::alone(word)?.is_some() {
                let what = format!("'{word}' is a network that goes with no other");
                return Err(Error::new(Kind::Usage, what).hint("give --network once"));
            }
            networks.push(word.parse()?);
        }
        Ok(Connection::Networks(networks))
    }

    /// What is no network to be connected to.
    fn alone(word: &str) -> Result<Option<Connection>> {
        let prefixed = |prefix: &str| word.strip_prefix(prefix);
        Ok(match word {
            "none" => Some(Connection::None),
            "host" => Some(Connection::Host),
            _ => match (prefixed(CONTAINER), prefixed(NS)) {
                (Some(""), _) | (_, Some("")) => {
                    let what = format!("'{word}' says whose network, but nobody's name");
                    return Err(Error::new(Kind::Usage, what)
                        .hint("give container:NAME, or ns:/run/netns/NAME"));
                }
                (Some(name), _) => Some(Connection::Container(name.to_owned())),
                (_, Some(path)) => {
                    let path = std::path::absolute(path);
                    let path = path.map_err(|error| Error::new(Kind::Usage, error.to_string()))?;
                    Some(Connection::Ns(path))
                }
                _ => None,
            },
        })
    }

    /// What an earlier create recorded.
    fn recorded(net: &mut Net) -> Connection {
        let path = net.netns.as_ref().map(|netns| PathBuf::from(&netns.path));
        match net.mode {
            Mode::None => Connection::None,
            Mode::Host => Connection::Host,
            Mode::Container => {
                let id = net.container.as_ref().map(Id::to_string);
                Connection::Container(id.unwrap_or_default())
            }
            Mode::Ns => Connection::Ns(path.unwrap_or_default()),
            Mode::Cni => Connection::Cni,
            Mode::Bridge => {
                let attachments = std::mem::take(&mut net.attachments).into_iter();
                let asked: Vec<Asked> = attachments.map(Asked::from).collect();
                Connection::Networks(match asked.is_empty() {
                    true => plug::default_network(),
                    false => asked,
                })
            }
        }
    }
}

/// What the options say; absent where none was given.
#[derive(Default)]
struct Options {
    networks: Vec<String>,
    /// What is asked for of the only or first network: key and value, as in `--network name=NAME,KEY=VALUE`.
    of_first: Vec<(&'static str, String)>,
    hostname: Option<String>,
    publish: Vec<Wanted>,
    publish_all: bool,
    dns: resolve::Asked,
    extra_hosts: Vec<ExtraHost>,
    cni: cni::create::Options,
}

impl Options {
    fn parse(call: &mut Call) -> Result<Options> {
        let mut options = Options::default();
        while let Some(arg) = call.arg()? {
            let Arg::Option(option) = arg else {
                let Arg::Value(word) = arg else { continue };
                return Err(call.unexpected(&word));
            };
            match option.as_str() {
                "--network" => {
                    let name = call.text()?;
                    match name.strip_prefix(CNI) {
                        Some(name) => options.cni.networks.push(name.to_owned()),
                        None => options.networks.push(name),
                    }
                }
                "--cni" => options.cni.networks.push(call.text()?),
                "--cni-capability" => options.cni.capability(&call.text()?)?,
                "--cni-timeout" => options.cni.timeout = Some(call.number()?),
                "--ip" => options.of_first.push(("ip", call.text()?)),
                "--ip6" => options.of_first.push(("ip6", call.text()?)),
                "--mac-address" => options.of_first.push(("mac", call.text()?)),
                "--network-alias" => options.of_first.push(("alias", call.text()?)),
                "--hostname" => options.hostname = Some(files::checked_hostname(&call.text()?)?),
                "-p" | "--publish" => options.publish.push(call.text()?.parse()?),
                "-P" | "--publish-all" => options.publish_all = true,
                "--add-host" => options.extra_hosts.push(call.text()?.parse()?),
                "--dns" => options.dns.servers.push(resolve::server(&call.text()?)?),
                "--dns-search" => options.dns.search.push(call.text()?),
                // docker's two spellings.
                "--dns-option" | "--dns-opt" => options.dns.options.push(call.text()?),
                _ => return Err(call.unknown(&option)),
            }
        }
        Ok(options)
    }

    /// What `--network` says, if it was given.
    fn connection(&self) -> Result<Option<Connection>> {
        match (self.networks.is_empty(), self.cni.networks.is_empty()) {
            (true, true) => Ok(None),
            (true, false) => Ok(Some(Connection::Cni)),
            (false, true) => Connection::parse(&self.networks).map(Some),
            (false, false) => {
                let message = "networks of CNI do not go together with others";
                Err(Error::new(Kind::Usage, message).hint("give --network or --cni"))
            }
        }
    }

    /// Options come before what the document remembers of an earlier create.
    fn over(self, connection: Option<Connection>, earlier: Option<Net>) -> Result<Wish> {
        let earlier = earlier.map(|mut net| {
            let (mut publish, mut publish_all) = (Vec::new(), false);
            for attachment in &mut net.attachments {
                publish.append(&mut attachment.request.publish);
                publish_all |= std::mem::take(&mut attachment.request.publish_all);
            }
            Wish {
                publish,
                publish_all,
                hostname: Some(std::mem::take(&mut net.hostname)).filter(|name| !name.is_empty()),
                dns: resolve::Asked {
                    servers: std::mem::take(&mut net.dns),
                    search: std::mem::take(&mut net.dns_search),
                    options: std::mem::take(&mut net.dns_options),
                },
                extra_hosts: std::mem::take(&mut net.extra_hosts),
                connection: Connection::recorded(&mut net),
            }
        });
        let mut wish = earlier.unwrap_or(Wish {
            connection: Connection::Networks(plug::default_network()),
            hostname: None,
            publish: Vec::new(),
            publish_all: false,
            dns: resolve::Asked::default(),
            extra_hosts: Vec::new(),
        });
        if let Some(connection) = connection {
            // Only bridges have ports, and the host's name is for its own network alone.
            if connection.mode() != wish.connection.mode() {
                wish.publish.clear();
                wish.publish_all = false;
                wish.hostname = None;
            }
            wish.connection = connection;
        }
        match &mut wish.connection {
            Connection::Networks(networks) => {
                if let Some(first) = networks.first_mut() {
                    for (key, value) in &self.of_first {
                        first.set(key, value)?;
                    }
                }
            }
            // For plugins they are capabilities.
            Connection::Cni => {}
            _ if !self.of_first.is_empty() => {
                let what = "an address or alias is of an interface on a network, and there is none";
                return Err(Error::new(Kind::Usage, what).hint("give --network NAME with it"));
            }
            _ => {}
        }
        wish.hostname = self.hostname.or(wish.hostname);
        // Both say which ports: whoever says it anew says all of it.
        if self.publish_all || !self.publish.is_empty() {
            wish.publish = self.publish;
            wish.publish_all = self.publish_all;
        }
        wish.dns = resolve::Asked {
            servers: or(self.dns.servers, wish.dns.servers),
            search: or(self.dns.search, wish.dns.search),
            options: or(self.dns.options, wish.dns.options),
        };
        wish.extra_hosts = or(self.extra_hosts, wish.extra_hosts);
        Ok(wish)
    }
}

/// The first, or if it is empty, the other.
fn or<T>(asked: Vec<T>, earlier: Vec<T>) -> Vec<T> {
    if asked.is_empty() { earlier } else { asked }
}

impl Wish {
    fn check(&self) -> Result<()> {
        // An earlier one comes from a document, which anybody may have written; the host's own is as it is.
        let mode = self.connection.mode();
        if let Some(hostname) = self.hostname.as_ref().filter(|_| mode != Mode::Host) {
            files::checked_hostname(hostname)?;
        }
        self.dns.check()?;
        let publishes = self.publish_all || !self.publish.is_empty();
        if !matches!(mode, Mode::Bridge | Mode::Cni) && publishes {
            return Err(Error::new(
                Kind::Usage,
                "ports are published on bridge networks and those of CNI only",
            )
            .hint("leave -p out"));
        }
        if let Connection::Networks(networks) = &self.connection {
            networks.iter().try_for_each(Asked::check)?;
        }
        Ok(())
    }
}

/// The verb.
pub(crate) fn run(call: &mut Call) -> Result<()> {
    let mut options = Options::parse(call)?;
    let connection = options.connection()?;
    // Half a millisecond, which passes while the stage before is still at work.
    let namespace = match connection.as_ref().map(Connection::mode) {
        Some(Mode::Host | Mode::Container | Mode::Ns) => None,
        _ if call.dry_run() => None,
        _ => Some(Unpinned::make()?),
    };
    let document = call.document()?;
    let earlier: Option<Net> = match cni::is_in(document) {
        true => options.cni.earlier(document)?,
        false => document.member(MEMBER)?,
    };
    let name: Option<String> = document.member("name")?;
    let id = match document.value("/bocker/id") {
        None => None,
        Some(_) => Some(document.id()?),
    };
    let mut of_cni = std::mem::take(&mut options.cni);
    let of_first = options.of_first.clone();
    let wish = options.over(connection, earlier)?;
    wish.check()?;
    let (publish, publish_all) = match wish.connection {
        Connection::Cni if wish.publish.is_empty() && !wish.publish_all => of_cni.published(),
        _ => (wish.publish, wish.publish_all),
    };
    let ports = Ports::asked(publish, publish_all, document)?;
    let dry_run = call.dry_run();
    let verbs = match &id {
        Some(id) => refuse_existing(id, dry_run)?,
        None => None,
    };
    let is_new = id.is_none();
    let reach = match wish.connection {
        Connection::Host => Reach::Host,
        _ => Reach::Network { ipv6: false },
    };
    let mut container = Container {
        id: id.unwrap_or_else(Id::placeholder),
        name,
        mode: wish.connection.mode(),
        hostname: wish.hostname,
        dns: resolve::resolution(&wish.dns, reach)?,
        asked_dns: wish.dns,
        reach,
        extra_hosts: wish.extra_hosts,
        gateways: Vec::new(),
        joined: None,
        elsewhere: None,
        namespace,
        inside: None,
        plugs: Vec::new(),
        way_out: None,
        given: Vec::new(),
        verbs,
    };
    let mut steps = Vec::new();
    match wish.connection {
        Connection::Networks(asked) => {
            return on_networks(call, container, &asked, ports, is_new);
        }
        Connection::None => steps.extend([
            steps::netns_step(),
            steps::loopback_step(),
            steps::files_step(),
        ]),
        Connection::Host => {
            container.hostname = match container.hostname {
                None => Some(host_name()?),
                hostname => hostname,
            };
            container.gateways = vec![Ipv4Addr::LOCALHOST.into()];
            steps.push(steps::files_step());
        }
        Connection::Cni => {
            of_cni.of_first(&of_first)?;
            return cni::create::run(call, container, is_new, ports, of_cni);
        }
        Connection::Container(name) => join(&mut container, &name, dry_run)?,
        Connection::Ns(path) => {
            netns::check(&path)?;
            container.elsewhere = Some(path);
            steps.push(steps::files_step());
        }
    }
    container.extra_hosts()?;
    if is_new {
        steps.insert(0, steps::claim_step());
    }
    call.create(container, steps, |document, container| {
        finish(document, container, Vec::new());
        Ok(())
    })
}

/// A container with an interface on each of these networks.
fn on_networks(
    call: &mut Call,
    mut container: Container,
    asked: &[Asked],
    mut ports: Ports,
    is_new: bool,
) -> Result<()> {
    let networks = asked
        .iter()
        .map(|asked| network::find(&asked.network))
        .collect::<Result<Vec<Network>>>()?;
    container.plugs = Plug::all(&container.id, asked)?;
    container.way_out = networks.iter().position(|network| !network.internal);
    if container.way_out.is_none() && !ports.is_empty() {
        let what = "ports are published on a network that is not internal, and there is none";
        return Err(Error::new(Kind::Usage, what).hint("leave -p out, or add a --network"));
    }
    let mut host = Host::look(&networks, call.dry_run())?;
    refuse_foreign(&host, asked)?;
    container.gateways = gateways(&host, &container)?;
    if networks
        .iter()
        .any(|network| network.ipv6().is_some() && !network.internal)
    {
        container.reach = Reach::Network { ipv6: true };
        container.dns = resolve::resolution(&container.asked_dns.clone(), container.reach)?;
    }
    container.extra_hosts()?;
    let families = match container.way_out {
        Some(at) => families(&host.bridge(at)?.network),
        None => Vec::new(),
    };
    ports.refuse(&mut host.firewall, &families)?;
    if call.dry_run() {
        ports.choose(&mut host.firewall, &families, &container.id)?;
    }
    // A container that sends only is told of it by the first use of its network.
    let is_told = call.dry_run() || ports.is_empty() && host.is_complete();
    if let Some(at) = container.way_out.filter(|_| !is_told) {
        let policies = policy::that_may_drop(&mut host.firewall)?;
        policy::tell(&policies, &host.bridge(at)?.network.bridge)?;
    }
    let mut context = Bridged {
        container,
        host,
        ports,
    };
    if call.dry_run() {
        context.plan()?;
    }
    let mut steps: Vec<Step<Bridged>> = Vec::new();
    if is_new {
        steps.push(steps::claim_step());
    }
    // In the order in which networking is taught: namespace, bridge, cable, address, route, NAT, ports.
    steps.push(steps::netns_step());
    steps.extend(context.host.bridge_steps());
    let plugs = 0..context.container.plugs.len();
    steps.extend(plugs.clone().map(steps::lease_step));
    for at in plugs.clone() {
        steps.extend([steps::veth_step(at), steps::address_step(at)]);
    }
    steps.push(steps::up_step());
    if context.container.way_out.is_some() {
        steps.push(steps::route_step());
    }
    steps.extend(context.host.nat_steps());
    for at in plugs {
        if !context.host.bridge(at)?.ours {
            steps.push(steps::masquerade_step(at));
        }
    }
    if !context.ports.is_empty() {
        steps.extend([steps::hairpin_step(), steps::ports_step()]);
    }
    steps.push(steps::files_step());
    if networks.iter().any(|network| !network.is_default()) {
        steps.push(steps::names_step());
    }
    told::tells(call);
    call.create(context, steps, |document, context| {
        finish(document, &context.container, context.attachments()?);
        Ok(())
    })
}

/// The families in which a container on this network has an address.
pub(crate) fn families(network: &Network) -> Vec<Family> {
    let ranges = network.subnets.iter();
    ranges
        .map(|range| Family::of(range.subnet.network()))
        .collect()
}

/// The host's addresses as the container reaches it, by the network that leads out or else the first.
fn gateways(host: &Host, container: &Container) -> Result<Vec<IpAddr>> {
    let network = &host.bridge(container.way_out.unwrap_or(0))?.network;
    Ok(network.subnets.iter().map(|range| range.gateway).collect())
}

/// Refuses addresses that the networks do not have, before anything is made.
fn refuse_foreign(host: &Host, asked: &[Asked]) -> Result<()> {
    for (at, asked) in asked.iter().enumerate() {
        let network = &host.bridge(at)?.network;
        let request = &asked.request;
        let wanted = [
            request.ip.map(|ip| (IpAddr::from(ip), network.ipv4())),
            request.ip6.map(|ip| (IpAddr::from(ip), network.ipv6())),
        ];
        for (address, range) in wanted.into_iter().flatten() {
            let Some(range) = range else {
                let what = format!("the network '{}' has no IPv6", network.name);
                return Err(Error::new(Kind::Invalid, what)
                    .hint("make one with 'bocker network create --ipv6 NAME'"));
            };
            if !range.subnet.contains(address) {
                let what = format!(
                    "{address} is not in {}, the subnet of '{}'",
                    range.subnet, network.name
                );
                return Err(Error::new(Kind::Invalid, what).hint(format!(
                    "'bocker network inspect {}' shows it",
                    network.name
                )));
            }
        }
    }
    Ok(())
}

/// Shares the network and the names of another container, which has to live.
fn join(container: &mut Container, name: &str, dry_run: bool) -> Result<()> {
    let id = containers::resolve(name)?;
    let cannot = |kind, why: &str, hint: String| {
        Err(Error::new(kind, format!("cannot join the network of {id}: {why}")).hint(hint))
    };
    if id == container.id {
        return cannot(Kind::Invalid, "it is this container", "name another".into());
    }
    if !lock::is_alive(&id) && !dry_run {
        let hint = format!("start it first with 'bocker start {id}'");
        return cannot(Kind::InUse, "it is not running", hint);
    }
    let net: Option<Net> = containers::load(&id)?.member(MEMBER)?;
    let Some(net) = net else {
        let hint = "its network was made by another program".into();
        return cannot(Kind::Unsupported, "it has none of ours", hint);
    };
    // As docker: one that has joined itself shares the names of whom it has joined.
    let names = net.container.unwrap_or_else(|| id.clone());
    if let Some(netns) = net.netns.as_ref().filter(|_| !dry_run) {
        netns::check(netns.path.as_ref())?;
    }
    container.hostname = Some(net.hostname);
    container.joined = Some(Joined {
        id: names,
        netns: net.netns.map(|netns| netns.path),
    });
    Ok(())
}

/// Orders this verb after others on the same container. Fails with [`Kind::Exists`] when it has a network already.
fn refuse_existing(id: &Id, dry_run: bool) -> Result<Option<lock::Lock>> {
    if dry_run {
        return Ok(None);
    }
    let verbs = lock::verbs(id).map_err(|error| match error.kind() {
        Kind::NotFound => error.hint("begin with 'bocker-snap create', or give --new"),
        _ => error,
    })?;
    if netns::is_pinned(&netns::path(id)) || cni::Kept::is_there(id) {
        return Err(
            Error::new(Kind::Exists, format!("{id} has a network already"))
                .hint("remove it with 'bocker-net delete'"),
        );
    }
    Ok(Some(verbs))
}

/// The host's own name, which a container in its network namespace shares.
fn host_name() -> Result<String> {
    let name =
        nix::sys::utsname::uname().map_err(|errno| Error::system("ask the host's name", errno))?;
    Ok(name.nodename().to_string_lossy().into_owned())
}

impl Bridged {
    fn attachments(&self) -> Result<Vec<Attachment>> {
        let sandbox = netns::path(&self.container.id).display().to_string();
        let mut attachments = Vec::new();
        for at in 0..self.container.plugs.len() {
            let (plug, bridge) = self.at(at)?;
            let routes = self.container.routes_by(at);
            let dns = self.container.dns.clone();
            let mut attachment = plug.attachment(bridge, &sandbox, routes, dns)?;
            if self.container.way_out == Some(at) {
                (attachment.request.publish, attachment.request.publish_all) = self.ports.request();
                attachment.published = self.ports.published().to_vec();
            }
            attachments.push(attachment);
        }
        Ok(attachments)
    }
}

/// Puts into the document what was made.
pub(crate) fn finish(document: &mut Document, container: &Container, attachments: Vec<Attachment>) {
    let id = &container.id;
    document.set("/bocker/id", id);
    let hostname = container.hostname();
    let made = |path: String| Netns { path, made: true };
    let found = |path: String| Netns { path, made: false };
    let netns = match container.mode {
        Mode::Host => None,
        Mode::Bridge | Mode::None | Mode::Cni => Some(made(netns::path(id).display().to_string())),
        Mode::Container => {
            let joined = container.joined.as_ref();
            joined.and_then(|joined| joined.netns.clone()).map(found)
        }
        Mode::Ns => {
            let path = container.elsewhere.as_ref();
            path.map(|path| found(path.display().to_string()))
        }
    };
    match &netns {
        Some(netns) => document.set_namespace("network", Some(&netns.path)),
        None => document.remove_namespace("network"),
    }
    document.set("/hostname", &hostname);
    let files_of = container.joined.as_ref().map_or(id, |joined| &joined.id);
    document.remove_mounts(|destination, source| files::is_mount(id, destination, source));
    for mount in files::mounts(files_of) {
        // Who mounts a file of their own there wants that one.
        let asked: Vec<Mount> = document.get("/mounts").ok().flatten().unwrap_or_default();
        if !asked
            .iter()
            .any(|other| other.destination == mount.destination)
        {
            document.add_mount(&mount);
        }
    }
    let net = Net {
        mode: container.mode,
        container: container.joined.as_ref().map(|joined| joined.id.clone()),
        netns,
        hostname,
        dns: container.asked_dns.servers.clone(),
        dns_search: container.asked_dns.search.clone(),
        dns_options: container.asked_dns.options.clone(),
        extra_hosts: container.extra_hosts.clone(),
        attachments,
    };
    document.set_member(MEMBER, &net);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn earlier() -> Net {
        let text = r#"{"hostname":"web","dns":["192.0.2.53"],"dnsSearch":["example.org"],"extraHosts":["db:192.0.2.7"],"attachments":[{"network":"web","bridge":"net_abc123","ifname":"eth0",
            "request":{"publish":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}],"ip":"10.1.0.7"},
            "result":{"cniVersion":"1.1.0","interfaces":[],"ips":[{"address":"10.1.0.7/24","gateway":"10.1.0.1","interface":2}],
            "routes":[],"dns":{}}}]}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_was_asked_for_earlier_holds_where_no_option_says_otherwise() {
        let again = Options::default().over(None, Some(earlier())).unwrap();
        let Connection::Networks(networks) = &again.connection else {
            panic!("{again:?}");
        };
        assert_eq!(networks[0].network, "web");
        assert_eq!(networks[0].request.ip, Some(Ipv4Addr::new(10, 1, 0, 7)));
        assert_eq!(networks[0].earlier, [IpAddr::from([10, 1, 0, 7])]);
        assert_eq!(again.hostname.as_deref(), Some("web"));
        assert_eq!(again.dns.servers[0].to_string(), "192.0.2.53");
        assert_eq!(again.dns.search, ["example.org"]);
        assert_eq!(again.extra_hosts[0].to_string(), "db:192.0.2.7");
        assert_eq!(again.publish[0].to_string(), "8080:80/tcp");

        let options = Options {
            hostname: Some("other".into()),
            publish: vec!["9090:90".parse().unwrap()],
            ..Options::default()
        };
        let options = Options {
            dns: resolve::Asked {
                servers: vec![Ipv4Addr::LOCALHOST.into()],
                ..resolve::Asked::default()
            },
            ..options
        };
        let changed = options.over(None, Some(earlier())).unwrap();
        assert_eq!(changed.dns.servers.len(), 1);
        assert_eq!(changed.dns.search, ["example.org"]);
        assert_eq!(changed.hostname.as_deref(), Some("other"));
        assert_eq!(changed.publish.len(), 1);
        assert_eq!(changed.publish[0].host_port, Some(9090));
    }

    #[test]
    fn another_network_takes_no_ports_along() {
        let options = Options::default();
        let wish = options
            .over(Some(Connection::None), Some(earlier()))
            .unwrap();
        assert!(wish.publish.is_empty());
        wish.check().unwrap();
    }

    #[test]
    fn names_of_a_document_are_checked_as_those_of_an_option() {
        let net = Net {
            hostname: "web\n192.0.2.1 bank.example".into(),
            ..earlier()
        };
        let wish = Options::default().over(None, Some(net)).unwrap();
        assert_eq!(wish.check().unwrap_err().kind(), &Kind::Invalid);
        let net = Net {
            dns_search: vec!["a\nnameserver 192.0.2.1".into()],
            ..earlier()
        };
        let wish = Options::default().over(None, Some(net)).unwrap();
        assert_eq!(wish.check().unwrap_err().kind(), &Kind::Invalid);
    }

    #[test]
    fn what_goes_with_no_other_network_is_refused_beside_one() {
        let parse = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            Connection::parse(&words)
        };
        assert_eq!(parse(&["none"]).unwrap(), Connection::None);
        assert_eq!(
            parse(&["container:web"]).unwrap(),
            Connection::Container("web".into())
        );
        assert_eq!(
            parse(&["ns:/run/netns/x"]).unwrap(),
            Connection::Ns("/run/netns/x".into())
        );
        assert_eq!(parse(&["web", "bridge"]).unwrap().mode(), Mode::Bridge);
        for words in [
            &["web", "none"][..],
            &["host", "host"],
            &["container:a", "web"],
            &["ns:"],
            &["container:"],
        ] {
            assert_eq!(parse(words).unwrap_err().kind(), &Kind::Usage, "{words:?}");
        }
    }

    #[test]
    fn an_address_is_of_the_first_network_and_needs_one() {
        let options = || Options {
            of_first: vec![("ip", "10.1.0.9".into()), ("alias", "db".into())],
            ..Options::default()
        };
        let wish = options().over(None, Some(earlier())).unwrap();
        let Connection::Networks(networks) = wish.connection else {
            panic!("no network");
        };
        assert_eq!(networks[0].request.ip, Some(Ipv4Addr::new(10, 1, 0, 9)));
        assert_eq!(networks[0].request.aliases, ["db"]);
        assert!(options().over(Some(Connection::Host), None).is_err());
    }
}
