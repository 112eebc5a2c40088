//! Other firewalls of the host that may drop what is forwarded to containers and from them: an accept of ours ends our own
//! table only. Their chains are read and never changed; whoever publishes a port is told once.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use bocker_pipe::{Doing, Result};

use crate::firewall::Firewall;
use crate::host;
use crate::nft::BaseChain;
use crate::ruleset::TABLE;

/// In our folder: for each bridge, of which chains people were told.
const TOLD: &str = "told";
/// Docker's chain for rules of the host's owner, which it leaves alone (docs.docker.com, "Packet filtering and firewalls").
const DOCKER_USER: &str = "DOCKER-USER";
/// firewalld's table: its chains drop by their last rules, not by a policy.
const FIREWALLD: &str = "firewalld";

/// A chain of somebody's through which all that is forwarded passes, and which may drop it.
pub(crate) struct Policy {
    family: &'static str,
    table: String,
    chain: String,
    /// Where a rule of the owner's that lets containers through is best put.
    rules_in: String,
}

/// Those of this host.
pub(crate) fn that_may_drop(firewall: &mut Firewall) -> Result<Vec<Policy>> {
    let chains = firewall.base_chains()?;
    let has_docker_user = |chain: &BaseChain| {
        let same = |other: &&BaseChain| {
            (other.family, &other.table) == (chain.family, &chain.table)
                && other.name == DOCKER_USER
        };
        chains.iter().any(|other| same(&other))
    };
    let may_drop = |chain: &&BaseChain| {
        chain.forwards && (chain.drops || chain.table == FIREWALLD) && chain.table != TABLE
    };
    let policy = |chain: &BaseChain| {
        Some(Policy {
            family: chain.family?,
            table: chain.table.clone(),
            chain: chain.name.clone(),
            rules_in: match has_docker_user(chain) {
                true => DOCKER_USER.to_owned(),
                false => chain.name.clone(),
            },
        })
    };
    Ok(chains.iter().filter(may_drop).filter_map(policy).collect())
}

impl Policy {
    /// `ip filter FORWARD`.
    pub(crate) fn name(&self) -> String {
        format!("{} {} {}", self.family, self.table, self.chain)
    }

    fn remedy(&self, bridge: &str) -> String {
        if self.table == FIREWALLD {
            return format!("firewall-cmd --zone=trusted --add-interface={bridge}");
        }
        let Policy {
            family,
            table,
            rules_in,
            ..
        } = self;
        format!(
            "nft insert rule {family} {table} {rules_in} iifname {bridge} accept; \
             nft insert rule {family} {table} {rules_in} oifname {bridge} accept"
        )
    }
}

/// Says on stderr, once for each bridge, that they may drop what goes to its containers, and what to do.
pub(crate) fn tell(policies: &[Policy], bridge: &str) -> Result<()> {
    let names: Vec<String> = policies.iter().map(Policy::name).collect();
    let names = names.join(", ");
    let folder = folder();
    let path = folder.join(bridge);
    if policies.is_empty() || fs::read_to_string(&path).is_ok_and(|told| told == names) {
        return Ok(());
    }
    let remedies: Vec<String> = policies
        .iter()
        .map(|policy| policy.remedy(bridge))
        .collect();
    let line = format!(
        "bocker-net: the host's own firewall may drop what is forwarded to containers on {bridge} and from them (chain {names}); \
         let them through: {}\n",
        remedies.join("; ")
    );
    let _ = std::io::stderr().write_all(line.as_bytes());
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(&path, names))
        .doing(|| format!("write {}", path.display()))
}

fn folder() -> PathBuf {
    host::folder().join(TOLD)
}

/// Forgets of what people were told.
pub(crate) fn forget() -> Result<()> {
    match fs::remove_dir_all(folder()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result.doing(|| format!("remove {}", folder().display())),
    }
}
