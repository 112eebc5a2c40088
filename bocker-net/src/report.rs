//! What stands outside the pipeline: `list`, `gc`, `info`, and the shared objects' `setup` and `reset`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use bocker_pipe::state::State;
use bocker_pipe::{
    Arg, Call, Doing, Error, Id, Kind, Result, Step, claim, containers, lock, paths,
};
use nix::fcntl::FlockArg;
use serde::Serialize;

use crate::delete::Remains;
use crate::firewall::{self, Firewall};
use crate::host::{self, Host};
use crate::publish::Publish;
use crate::route::Route;
use crate::sysctl::{self, TurnedOn};
use crate::{BRIDGE, files, host_end, id_of_host_end, lease, netns};

/// All that is on this machine of one container's network, found by its id.
#[derive(Debug, Default, Serialize)]
struct Found {
    #[serde(skip_serializing_if = "Option::is_none")]
    netns: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    leases: Vec<Ipv4Addr>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<Ipv4Addr>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    publish: Vec<Publish>,
    /// Names by which the container knows others; without a namespace they are all there is.
    #[serde(skip)]
    files: bool,
}

/// A line of `list` and of `gc`.
#[derive(Serialize)]
struct Line<'a> {
    id: &'a Id,
    #[serde(flatten)]
    found: &'a Found,
    /// The BOCKER_ROOT of the claim; absent without a claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    removed: Option<bool>,
}

/// Looks everywhere where an id can be: claims, interfaces, leases, elements of our table.
fn find() -> Result<BTreeMap<Id, Found>> {
    let mut all: BTreeMap<Id, Found> = BTreeMap::new();
    for claim in claim::list()? {
        let pin = netns::path(&claim.id);
        let files = files::any(&claim.id);
        if pin.exists() || files {
            let found = all.entry(claim.id).or_default();
            found.files = files;
            found.netns = pin.exists().then_some(pin);
        }
    }
    for link in Route::open()?.links()? {
        if let Some(id) = id_of_host_end(&link.name) {
            all.entry(id).or_default().link = Some(link.name);
        }
    }
    for (address, id) in lease::list(&lease::folder(BRIDGE))? {
        all.entry(id).or_default().leases.push(address);
    }
    let mut firewall = Firewall::open()?;
    if firewall.exists()? {
        for (address, id) in firewall.addresses()? {
            all.entry(id).or_default().addresses.push(address);
        }
        for (publish, id) in firewall.ports()? {
            all.entry(id).or_default().publish.push(publish);
        }
    }
    Ok(all)
}

/// `list`.
pub(crate) fn list(call: &mut Call) -> Result<()> {
    call.no_more_args()?;
    for (id, found) in find()? {
        let root = claim::read(&id).map(|record| record.root);
        call.line(&Line {
            id: &id,
            found: &found,
            root,
            removed: None,
        })?;
    }
    Ok(())
}

/// `gc`: removes what containers of our root have left that are no more, and prints it.
pub(crate) fn gc(call: &mut Call) -> Result<()> {
    let (mut grace, mut orphans, mut force) = (claim::DEFAULT_GRACE, false, false);
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) if option == "--grace" => {
                grace = Duration::from_secs(call.number()?)
            }
            Arg::Option(option) if option == "--orphans" => orphans = true,
            Arg::Option(option) if option == "--force" => force = true,
            Arg::Option(option) => return Err(call.unknown(&option)),
            Arg::Value(word) => return Err(call.unexpected(&word)),
        }
    }
    // Objects first, claims second: what is made meanwhile has no object in the first list.
    let objects = find()?;
    let boot_id = claim::boot_id()?;
    let claims: BTreeMap<Id, claim::Claim> = claim::list()?
        .into_iter()
        .map(|claim| (claim.id.clone(), claim))
        .collect();
    let mut failure: Option<Error> = None;
    for (id, found) in objects {
        let root = claims
            .get(&id)
            .and_then(|claim| claim.record.as_ref())
            .map(|record| record.root.clone());
        let Some(claim) = claims.get(&id) else {
            if orphans {
                call.line(&Line {
                    id: &id,
                    found: &found,
                    root,
                    removed: Some(false),
                })?;
            }
            continue;
        };
        if !force && !collectable(claim, &boot_id, grace) {
            continue;
        }
        if !claim.is_ours() {
            continue;
        }
        let line_root = root;
        let removed = call.dry_run()
            || match remove(call, &id, &found) {
                Ok(()) => true,
                Err(error) => {
                    failure = Some(match failure {
                        Some(first) => first.and(&error),
                        None => error,
                    });
                    false
                }
            };
        call.line(&Line {
            id: &id,
            found: &found,
            root: line_root,
            removed: Some(removed && !call.dry_run()),
        })?;
    }
    failure.map_or(Ok(()), Err)
}

fn collectable(claim: &claim::Claim, boot_id: &str, grace: Duration) -> bool {
    match State::of(&claim.id, || has_processes(&claim.id), || false) {
        State::Creating => claim.is_stale(boot_id, grace),
        State::Exited => claim.is_ours(),
        State::Created => claim.is_of_another_boot(boot_id),
        State::Running | State::Paused | State::Orphaned => false,
    }
}

/// Whether a process is in the cgroup that the container's document names.
fn has_processes(id: &Id) -> bool {
    let Ok(document) = containers::load(id) else {
        return false;
    };
    let paths: BTreeMap<String, PathBuf> = document
        .get("/bocker/cg/paths")
        .ok()
        .flatten()
        .unwrap_or_default();
    paths.values().any(|path| {
        std::fs::read_to_string(path.join("cgroup.procs"))
            .is_ok_and(|processes| !processes.trim().is_empty())
    })
}

fn remove(call: &Call, id: &Id, found: &Found) -> Result<()> {
    let mut addresses = found.addresses.clone();
    addresses.extend(&found.leases);
    addresses.sort();
    addresses.dedup();
    let mut remains = Remains::of(id.clone(), addresses, found.publish.clone(), call.dry_run())?;
    if lock::is_alive(id) {
        return Err(Error::new(Kind::InUse, format!("{id} is running")));
    }
    let mut steps = remains.steps();
    let name = host_end(id);
    if found.link.is_some() && found.netns.is_none() {
        // Its namespace is pinned no more, and some process still holds it.
        let shown = name.clone();
        steps.insert(
            0,
            Step::new("net.veth", "the cable is pulled out")
                .command(move |_| vec![format!("ip link delete {shown}")])
                .apply(move |_| Route::open()?.delete_link(&name)),
        );
    }
    call.engine().tear_down(&mut remains, steps)
}

/// What `info` prints.
#[derive(Serialize)]
struct Info {
    bridge: Option<BridgeInfo>,
    table: Option<String>,
    sysctls: Vec<TurnedOn>,
    leases: usize,
}

#[derive(Serialize)]
struct BridgeInfo {
    name: &'static str,
    address: String,
    /// Whether we made it; otherwise it is the user's and used as it is.
    made: bool,
}

/// `info`: the shared objects, as JSON.
pub(crate) fn info(call: &mut Call) -> Result<()> {
    call.no_more_args()?;
    let bridge = host::find_bridge(&mut Route::open()?)?.map(|bridge| BridgeInfo {
        name: BRIDGE,
        address: format!("{}/{}", bridge.address, bridge.subnet().prefix()),
        made: bridge.ours,
    });
    let table = Firewall::open()?
        .exists()?
        .then(|| format!("ip {}", firewall::TABLE));
    let leases = lease::list(&lease::folder(BRIDGE))?.len();
    call.line(&Info {
        bridge,
        table,
        sysctls: sysctl::turned_on()?,
        leases,
    })
}

/// `setup`: makes the shared objects, so that the first container finds them.
pub(crate) fn setup(call: &mut Call) -> Result<()> {
    call.no_more_args()?;
    let mut host = Host::look(call.dry_run())?;
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
        return Err(Error::new(Kind::InUse, format!("the network is in use by {}", users.iter().map(Id::as_str).collect::<Vec<_>>().join(", ")))
            .hint("remove those containers first: 'bocker ps', 'bocker rm'; then what they left: 'bocker-net gc'"));
    }
    let steps = reset_steps(&mut shared)?;
    call.engine().tear_down(&mut shared, steps)?;
    drop(guard);
    Ok(())
}

type Shared = (Route, Firewall);

fn reset_steps(shared: &mut Shared) -> Result<Vec<Step<Shared>>> {
    let mut steps: Vec<Step<Shared>> = Vec::new();
    if shared.1.exists()? {
        steps.push(
            Step::new("net.table", "our table goes, and with it all that it did")
                .command(|_| vec![format!("nft delete table ip {}", firewall::TABLE)])
                .look(|_| "nft list tables".into())
                .apply(|shared: &mut Shared| shared.1.remove()),
        );
    }
    if host::find_bridge(&mut shared.0).is_ok_and(|bridge| bridge.is_some_and(|bridge| bridge.ours))
    {
        steps.push(
            Step::new("net.bridge", "the bridge goes, which we made")
                .command(|_| vec![format!("ip link delete {BRIDGE}")])
                .look(|_| "ip link show type bridge".into())
                .apply(|shared: &mut Shared| shared.0.delete_link(BRIDGE)),
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
                sysctl::remove_folder()?;
                remove_empty(lease::folder(BRIDGE))?;
                remove_empty(host::folder())
            }),
    );
    Ok(steps)
}

fn remove_empty(folder: PathBuf) -> Result<()> {
    match std::fs::remove_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result.doing(|| format!("remove {}", folder.display())),
    }
}
