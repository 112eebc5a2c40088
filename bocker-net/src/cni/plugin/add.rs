//! ADD: an interface in the runtime's namespace, plugged into a bridge of ours, by the steps of `create`.

use std::fs::File;
use std::net::IpAddr;
use std::path::Path;

use bocker_pipe::step::{Engine, Mode as Shown};
use bocker_pipe::{Document, Doing, Error, Id, Kind, Result, Step, lock};
use serde_json::{Value, json};

use super::attachment::Attachment;
use super::config::{Config, Environment, Where};
use super::{Answer, Code, Failure, With, del, ipam};
use crate::cni::result::{Address, Outcome};
use crate::create::families;
use crate::host::Host;
use crate::member::{CniDns, CniRoute, Mode, Request};
use crate::netns::{self, Inside};
use crate::network::{self, Network, Range};
use crate::plug::{Asked, Leased, Plug};
use crate::ports::Ports;
use crate::resolve::{self, Reach};
use crate::steps::{self, Bridged, Container};
use crate::subnet::Subnet;

pub(super) fn run(config: &Config, environment: &Environment) -> Answer {
    let path = environment.netns.clone().unwrap_or_default();
    netns::check(&path).map_err(|error| error.with(Code::Environment))?;
    let mut inside = open(&path)?;
    if inside.route.link(&environment.ifname)?.is_some() {
        let what = format!("there is an interface {} already", environment.ifname);
        return Err(Failure::new(Code::Exists, what));
    }
    let attachment = Attachment {
        label: environment.label(&config.name),
        netns: path,
        ipam: ipam::of(config),
    };
    let id = attachment.claim()?;
    match connect(config, environment, &attachment, &id, inside) {
        Ok(result) => Ok(Some(result)),
        Err(failure) => Err(match del::remove(&id) {
            Ok(()) => failure,
            Err(second) => Failure {
                error: failure.error.and(&second),
                ..failure
            },
        }),
    }
}

fn open(path: &Path) -> Result<Inside> {
    let namespace = File::open(path).doing(|| format!("open {}", path.display()))?;
    let route = netns::route_in(path)?;
    Ok(Inside { namespace, route })
}

fn connect(
    config: &Config,
    environment: &Environment,
    attachment: &Attachment,
    id: &Id,
    inside: Inside,
) -> Result<Value, Failure> {
    let verbs = lock::verbs(id)?;
    attachment.write(id)?;
    let (network, delegated) = match (&config.place, &attachment.ipam) {
        (Where::Network(name), _) => (network::find(name)?, None),
        (Where::Bridge { name, .. }, Some(delegate)) => {
            let outcome = ipam::add(attachment, delegate)?;
            (bridge(config, name, &outcome)?, Some(outcome))
        }
        (Where::Bridge { .. }, None) => {
            return Err(Failure::new(Code::Configuration, "no ipam is named"));
        }
    };
    let mut plugs = Plug::all(id, &[asked(config, environment, &network)])?;
    if let (Some(plug), Some(outcome)) = (plugs.first_mut(), &delegated) {
        plug.leased = leased(&network, outcome);
    }
    let mut host = Host::look(std::slice::from_ref(&network), false)?;
    if delegated.is_some() && !config.masquerades {
        host.without_masquerade();
    }
    let ports = Ports::asked(config.publish.clone(), false, &Document::new())?;
    let families = families(&host.bridge(0)?.network);
    ports.refuse(&mut host.firewall, &families)?;
    let mut context = Bridged {
        container: container(id, inside, plugs, verbs),
        host,
        ports,
    };
    let steps = steps(&context, delegated.is_none());
    Engine::new(Shown::default()).set_up(&mut context, steps, &mut Vec::new())?;
    if let Some(outcome) = &delegated {
        add_routes(&mut context, outcome)?;
    }
    Ok(result(config, attachment, &context, delegated.as_ref())?)
}

/// The network that stands for a bridge of a configuration's own, with the subnets that its addresses are in.
fn bridge(config: &Config, name: &str, outcome: &Outcome) -> Result<Network> {
    let mut subnets: Vec<Range> = Vec::new();
    for Address {
        address,
        prefix,
        gateway,
        ..
    } in &outcome.addresses
    {
        let range = Range::of(Subnet::of(*address, *prefix));
        let range = Range {
            gateway: gateway.unwrap_or(range.gateway),
            ..range
        };
        range.check()?;
        subnets.push(range);
    }
    if !subnets.iter().any(|range| range.subnet.is_ipv4()) {
        let what = "the ipam plugin gives no address of IPv4";
        return Err(Error::new(Kind::Unsupported, what));
    }
    Ok(Network {
        name: config.name.clone(),
        id: name.to_owned(),
        bridge: name.to_owned(),
        subnets,
        mtu: config.mtu,
        ..Network::default_one()
    })
}

fn asked(config: &Config, environment: &Environment, network: &Network) -> Asked {
    let mut request = Request {
        mac: config.mac.clone().or_else(|| environment.mac.clone()),
        ifname: Some(environment.ifname.clone()),
        ..Request::default()
    };
    for address in environment.addresses.iter().chain(&config.addresses) {
        match address {
            IpAddr::V4(address) => request.ip = Some(*address),
            IpAddr::V6(address) => request.ip6 = Some(*address),
        }
    }
    Asked {
        network: network.name.clone(),
        request,
        earlier: Vec::new(),
    }
}

/// What an IPAM plugin has given, with the way out where it gives one.
fn leased(network: &Network, outcome: &Outcome) -> Vec<Leased> {
    let leased = |one: &Address| {
        let range = network
            .subnets
            .iter()
            .find(|range| range.subnet.contains(one.address));
        let has_way_out = outcome.routes.iter().any(|route| {
            route.is_default() && route.dst.address.is_ipv4() == one.address.is_ipv4()
        });
        Leased {
            address: one.address,
            prefix: one.prefix,
            gateway: range.map(|range| range.gateway).filter(|_| has_way_out),
        }
    };
    outcome.addresses.iter().map(leased).collect()
}

fn container(id: &Id, inside: Inside, plugs: Vec<Plug>, verbs: lock::Lock) -> Container {
    Container {
        id: id.clone(),
        mode: Mode::Bridge,
        name: None,
        hostname: None,
        asked_dns: resolve::Asked::default(),
        reach: Reach::Network { ipv6: false },
        dns: CniDns::default(),
        extra_hosts: Vec::new(),
        gateways: Vec::new(),
        joined: None,
        elsewhere: None,
        namespace: None,
        inside: Some(inside),
        plugs,
        way_out: Some(0),
        given: Vec::new(),
        verbs: Some(verbs),
    }
}

fn steps(context: &Bridged, has_leases: bool) -> Vec<Step<Bridged>> {
    let mut steps: Vec<Step<Bridged>> = context.host.steps();
    if has_leases {
        steps.push(steps::lease_step(0));
    }
    steps.extend([
        steps::veth_step(0),
        steps::address_step(0),
        steps::up_step(),
        steps::route_step(),
    ]);
    if context.host.bridge(0).is_ok_and(|bridge| !bridge.ours) {
        steps.push(steps::masquerade_step(0));
    }
    if !context.ports.is_empty() {
        steps.extend([steps::hairpin_step(), steps::ports_step()]);
    }
    steps
}

/// The routes of an IPAM plugin but the default ones.
fn add_routes(context: &mut Bridged, outcome: &Outcome) -> Result<()> {
    let Some((index, leased)) = context
        .container
        .plugs
        .first()
        .map(|plug| (plug.index, plug.leased.clone()))
    else {
        return Ok(());
    };
    let network = context.host.bridge(0)?.network.clone();
    for route in outcome.routes.iter().filter(|route| !route.is_default()) {
        let of_family = |range: &&Range| range.gateway.is_ipv4() == route.dst.address.is_ipv4();
        let gateway = network
            .subnets
            .iter()
            .find(of_family)
            .map(|range| range.gateway);
        let Some(gateway) = route.gateway.or(gateway).filter(|_| !leased.is_empty()) else {
            continue;
        };
        let to = Subnet::of(route.dst.address, route.dst.prefix);
        context
            .container
            .inside()?
            .route
            .add_route(index, Some(to), gateway)
            .map_err(|refusal| refusal.error(&format!("route {to} by {gateway}")))?;
    }
    Ok(())
}

/// What was made, after what the plugins before have made.
fn result(
    config: &Config,
    attachment: &Attachment,
    context: &Bridged,
    delegated: Option<&Outcome>,
) -> Result<Value> {
    let (plug, bridge) = context.at(0)?;
    let mut routes = context.container.routes_by(0);
    let more = delegated.into_iter().flat_map(|outcome| &outcome.routes);
    routes.extend(
        more.filter(|route| !route.is_default())
            .map(|route| CniRoute {
                dst: format!("{}/{}", route.dst.address, route.dst.prefix),
                gw: route.gateway,
            }),
    );
    let sandbox = attachment.netns.display().to_string();
    let made = plug.attachment(bridge, &sandbox, routes, CniDns::default())?;
    let mut made = json!(made.result);
    made["dns"] = match (config.input.get("dns"), delegated) {
        (Some(dns), _) if dns.as_object().is_some_and(|dns| !dns.is_empty()) => dns.clone(),
        (_, Some(outcome)) => outcome.value["dns"].clone(),
        _ => json!({}),
    };
    let made = match &config.previous {
        Some(previous) => after(&previous.value, made),
        None => made,
    };
    Ok(Outcome::of(made)?.in_version(config.version))
}

/// Lists follow each other; interfaces are counted on.
fn after(previous: &Value, mut made: Value) -> Value {
    let mut all = previous.clone();
    let count = previous["interfaces"].as_array().map_or(0, Vec::len);
    for ip in made["ips"].as_array_mut().into_iter().flatten() {
        if let Some(place) = ip["interface"].as_u64() {
            ip["interface"] = (place + count as u64).into();
        }
    }
    for member in ["interfaces", "ips", "routes"] {
        let new = made[member]
            .as_array_mut()
            .map(std::mem::take)
            .unwrap_or_default();
        if let Some(all) = all[member].as_array_mut() {
            all.extend(new);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_before_comes_first_and_interfaces_are_counted_on() {
        let previous = json!({"interfaces": [{"name": "a"}, {"name": "b"}], "ips": [], "routes": [], "dns": {"x": 1}});
        let made = json!({"interfaces": [{"name": "c"}], "ips": [{"address": "10.0.0.2/8", "interface": 0}], "routes": [], "dns": {}});
        let all = after(&previous, made);
        assert_eq!(all["interfaces"][2]["name"], "c");
        assert_eq!(all["ips"][0]["interface"], 2);
        assert_eq!(all["dns"], json!({"x": 1}));
    }
}
