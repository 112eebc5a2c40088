//! CHECK: whether what ADD has made is still there.

use super::config::{Config, Environment};
use super::{Answer, Code, Failure, ipam};
use crate::cni::invoke::Verb;
use crate::cni::version::Version;
use crate::firewall::{self, Firewall};
use crate::nft::Family;
use crate::observe;
use crate::publish::{Publish, Wanted};

pub(super) fn run(config: &Config, environment: &Environment) -> Answer {
    let Environment {
        container,
        ifname,
        netns,
        ..
    } = environment;
    if config.version < Version::V0_4_0 {
        let what = format!("there is no CHECK in {}", config.version);
        return Err(Failure::new(Code::Incompatible, what));
    }
    let Some(previous) = &config.previous else {
        return Err(Failure::new(
            Code::Configuration,
            "there is no prevResult to check",
        ));
    };
    let differs = |what: String| Err(Failure::new(Code::Differs, what));
    let Some(id) = environment.label(&config.name).find() else {
        return differs(format!("nothing is known of {container} and {ifname}"));
    };
    let inside = observe::inside(netns.as_deref().unwrap_or(std::path::Path::new("")))?;
    let Some(interface) = inside
        .interfaces
        .iter()
        .find(|one| one.link.name == *ifname)
    else {
        return differs(format!("there is no interface {ifname}"));
    };
    if !interface.link.up {
        return differs(format!("the interface {ifname} is down"));
    }
    let ours = previous
        .addresses
        .iter()
        .filter(|one| one.interface.as_deref() == Some(ifname.as_str()));
    for one in ours {
        let text = format!("{}/{}", one.address, one.prefix);
        if !interface.addresses.contains(&text) {
            return differs(format!("{ifname} has not the address {text}"));
        }
    }
    let ours = previous.addresses.iter().map(|one| Family::of(one.address));
    let mut families: Vec<Family> = ours.collect();
    families.dedup();
    let published: Vec<Publish> = config.publish.iter().filter_map(Wanted::settled).collect();
    let mut found = match published.is_empty() {
        true => Vec::new(),
        false => Firewall::open()?.ports()?,
    };
    found.retain(|(_, of)| *of == id);
    for publish in firewall::as_read(&published, &families) {
        if !found.iter().any(|(port, _)| *port == publish) {
            return differs(format!("the port {} is not published", publish.host()));
        }
    }
    if let Some(delegate) = ipam::of(config) {
        ipam::call(Verb::Check, &delegate, container, ifname, netns.as_deref())?;
    }
    Ok(None)
}
