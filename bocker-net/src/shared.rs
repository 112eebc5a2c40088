//! `setup`, `reset` and `info`: what all containers share, made beforehand, removed, and shown.

use bocker_pipe::{Call, Error, Kind, Result, Step, id, paths};
use nix::fcntl::FlockArg;
use serde::Serialize;

use crate::bridge::{self, Bridge};
use crate::firewall::Firewall;
use crate::host::{self, Host};
use crate::names::Names;
use crate::network::{self, Network};
use crate::policy::{self, Policy};
use crate::route::Route;
use crate::sysctl::{self, TurnedOn};
use crate::{BRIDGE, lease, ruleset};

/// What `info` prints.
#[derive(Serialize)]
struct Info {
    /// That of the default network.
    bridge: Option<BridgeInfo>,
    /// Those of networks that somebody made, of any root.
    bridges: Vec<Made>,
    table: Option<String>,
    /// Chains of other firewalls that may drop what is forwarded to containers and from them.
    may_drop: Vec<String>,
    sysctls: Vec<TurnedOn>,
    leases: usize,
}

/// A bridge of a network that somebody made.
#[derive(Serialize)]
struct Made {
    name: String,
    /// Absent where it is of another root.
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<String>,
}

#[derive(Serialize)]
struct BridgeInfo {
    name: &'static str,
    address: String,
    /// Whether we made it; otherwise it is the user's and used as it is.
    made: bool,
}

impl BridgeInfo {
    /// `None` when there is no bridge yet.
    fn of(bridge: &Bridge) -> Option<BridgeInfo> {
        let range = bridge.network.ipv4().filter(|_| bridge.index != 0)?;
        Some(BridgeInfo {
            name: BRIDGE,
            address: format!("{}/{}", range.gateway, range.subnet.prefix()),
            made: bridge.ours,
        })
    }
}

/// The bridge of the default network, found or planned.
fn default_bridge(route: &mut Route) -> Result<Bridge> {
    Bridge::look(route, Network::default_one())
}

/// The bridges on this machine that we have made.
fn our_bridges(route: &mut Route) -> Result<Vec<String>> {
    let ours = route.links()?.into_iter().filter(bridge::is_ours);
    Ok(ours.map(|link| link.name).collect())
}

/// `info`: the shared objects, as JSON.
pub(crate) fn info(call: &mut Call) -> Result<()> {
    call.no_more_args()?;
    let mut route = Route::open()?;
    let bridge = match route.link(BRIDGE)? {
        Some(_) => BridgeInfo::of(&default_bridge(&mut route)?),
        None => None,
    };
    let mut firewall = Firewall::open()?;
    let has_table = firewall.exists()?;
    let policies = policy::that_may_drop(&mut firewall)?;
    let mut leases = 0;
    for bridge in host::bridges_with_leases()? {
        leases += lease::list(&lease::folder(&bridge))?.len();
    }
    let (networks, _) = network::list()?;
    let mut bridges = our_bridges(&mut route)?;
    bridges.retain(|name| name != BRIDGE);
    let bridges = bridges.into_iter().map(|name| Made {
        network: networks
            .iter()
            .find(|network| network.bridge == name)
            .map(|network| network.name.clone()),
        name,
    });
    let bridges = bridges.collect();
    call.line(&Info {
        bridge,
        bridges,
        table: has_table.then(|| format!("inet {}", ruleset::TABLE)),
        may_drop: policies.iter().map(Policy::name).collect(),
        sysctls: sysctl::turned_on()?,
        leases,
    })
}

/// `setup`: makes the shared objects, so that the first container finds them.
pub(crate) fn setup(call: &mut Call) -> Result<()> {
    call.no_more_args()?;
    let mut host = Host::look(&[Network::default_one()], call.dry_run())?;
    let steps = host.steps();
    call.engine().set_up(&mut host, steps, &mut Vec::new())
}

/// `reset`: removes the shared objects, exactly those that we made.
pub(crate) fn reset(call: &mut Call) -> Result<()> {
    call.no_more_args()?;
    if !host::folder().exists() && call.dry_run() {
        return Ok(());
    }
    let guard = if call.dry_run() {
        None
    } else {
        Some(host::lock(FlockArg::LockExclusive)?)
    };
    let mut shared = (Route::open()?, Firewall::open()?);
    let users = host::users(&mut shared.1)?;
    if !users.is_empty() {
        let users = id::named(&users);
        let message = format!("the network is in use by {users}");
        return Err(Error::new(Kind::InUse, message).hint(
            "'bocker rm' removes containers, 'bocker-net delete' networks made alone, the runtime that made them those of CNI, and \
             'bocker-net gc' what is left over",
        ));
    }
    let steps = reset_steps(&mut shared)?;
    call.engine().tear_down(&mut shared, steps)?;
    drop(guard);
    Ok(())
}

type Shared = (Route, Firewall);

fn reset_steps(shared: &mut Shared) -> Result<Vec<Step<Shared>>> {
    let mut steps: Vec<Step<Shared>> = Vec::new();
    if shared.1.exists()? || Firewall::has_former()? {
        steps.push(
            Step::new("net.table", "our table goes, and with it all that it did")
                .command(|_| vec![format!("nft delete table inet {}", ruleset::TABLE)])
                .look(|_| "nft list tables".into())
                .apply(|shared: &mut Shared| shared.1.remove()),
        );
    }
    let mut bridges = our_bridges(&mut shared.0)?;
    // Those whose making was killed before they were marked.
    let (networks, _) = network::list()?;
    for network in std::iter::once(Network::default_one()).chain(networks) {
        let name = network.bridge.clone();
        let is_half_made = |bridge: Bridge| bridge.index != 0 && bridge.ours;
        let found = Bridge::look(&mut shared.0, network);
        if !bridges.contains(&name) && found.is_ok_and(is_half_made) {
            bridges.push(name);
        }
    }
    for name in bridges {
        let command = format!("ip link delete {name}");
        steps.push(
            Step::new("net.bridge", "the bridge goes, which we made")
                .command(move |_| vec![command.clone()])
                .look(|_| "ip link show type bridge".into())
                .apply(move |shared: &mut Shared| shared.0.delete_link(&name)),
        );
    }
    for switch in sysctl::turned_on()? {
        let command = format!("sysctl -w {}={}", switch.name, switch.former);
        steps.push(
            Step::new(
                "net.sysctl",
                "a switch of the kernel that we turned on gets its former value",
            )
            .command(move |_| vec![command.clone()])
            .apply(move |_| sysctl::restore(&switch)),
        );
    }
    steps.push(
        Step::new("net.folder", "nothing is left to remember")
            .command(|_| vec![format!("rm -r {}", host::folder().display())])
            .look(|_| format!("ls {}", paths::run().display()))
            .apply(|_| {
                for bridge in host::bridges_with_leases()? {
                    lease::remove_folder(&lease::folder(&bridge))?;
                }
                Names::of_machine().remove_all()?;
                policy::forget()?;
                host::remove_empty(&sysctl::folder())?;
                host::remove_empty(&host::folder())
            })
            .last(),
    );
    Ok(steps)
}
