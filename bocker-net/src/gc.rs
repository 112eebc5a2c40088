//! `list` and `gc`: what is on this machine of containers' networks, found by their ids, and what of it is left over.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use bocker_pipe::claim::Claim;
use bocker_pipe::error::Failures;
use bocker_pipe::state::State;
use bocker_pipe::{Arg, Call, Error, Id, Kind, Result, Step, claim, containers, lock};
use serde::Serialize;

use crate::delete::Remains;
use crate::firewall::Firewall;
use crate::publish::Publish;
use crate::route::Route;
use crate::{BRIDGE, STAGE, files, host_end, id_of_host_end, lease, netns};

/// All that is on this machine of one container's network, found by its id; a line of `list` and of `gc`.
#[derive(Debug, Serialize)]
struct Found {
    id: Id,
    /// The BOCKER_ROOT of the claim; absent without a claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    netns: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    leases: Vec<Ipv4Addr>,
    /// Addresses that are masqueraded by themselves.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    masqueraded: Vec<Ipv4Addr>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    publish: Vec<Publish>,
    /// In a line of `gc`: whether it is removed now.
    #[serde(skip_serializing_if = "Option::is_none")]
    removed: Option<bool>,
}

impl Found {
    fn nothing(id: Id) -> Found {
        Found {
            id,
            root: None,
            netns: None,
            link: None,
            leases: Vec::new(),
            masqueraded: Vec::new(),
            publish: Vec::new(),
            removed: None,
        }
    }
}

/// What has been found, by id.
#[derive(Default)]
struct All(BTreeMap<Id, Found>);

impl All {
    fn of(&mut self, id: Id) -> &mut Found {
        self.0
            .entry(id.clone())
            .or_insert_with(|| Found::nothing(id))
    }
}

/// Looks everywhere where an id can be: interfaces, leases, elements of our table, claims.
fn find() -> Result<All> {
    let mut all = All::default();
    for link in Route::open()?.links()? {
        if let Some(id) = id_of_host_end(&link.name) {
            all.of(id).link = Some(link.name);
        }
    }
    for (address, id) in lease::list(&lease::folder(BRIDGE))? {
        all.of(id).leases.push(address);
    }
    let mut firewall = Firewall::open()?;
    if firewall.exists()? {
        for (address, id) in firewall.addresses()? {
            all.of(id).masqueraded.push(address);
        }
        for (publish, id) in firewall.ports()? {
            all.of(id).publish.push(publish);
        }
    }
    // Objects first, claims second: what is made meanwhile is not taken for something without a claim.
    for claim in claim::list()? {
        let Claim { id, record, .. } = claim;
        let pin = netns::path(&id);
        let is_pinned = pin.exists();
        let is_ours = record.as_ref().is_some_and(|record| record.by == STAGE);
        if is_pinned || is_ours || files::any(&id) || all.0.contains_key(&id) {
            let found = all.of(id);
            found.netns = is_pinned.then_some(pin);
            found.root = record.map(|record| record.root);
        }
    }
    Ok(all)
}

/// `list`.
pub(crate) fn list(call: &mut Call) -> Result<()> {
    call.no_more_args()?;
    find()?
        .0
        .into_values()
        .try_for_each(|found| call.line(&found))
}

/// `gc`: removes what containers of our root have left that are no more, and prints it.
pub(crate) fn gc(call: &mut Call) -> Result<()> {
    let (mut grace, mut orphans, mut force) = (claim::DEFAULT_GRACE, false, false);
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) if option == "--grace" => {
                grace = Duration::from_secs(call.number()?);
            }
            Arg::Option(option) if option == "--orphans" => orphans = true,
            Arg::Option(option) if option == "--force" => force = true,
            Arg::Option(option) => return Err(call.unknown(&option)),
            Arg::Value(word) => return Err(call.unexpected(&word)),
        }
    }
    let objects = find()?;
    let boot_id = claim::boot_id()?;
    let claims: BTreeMap<Id, Claim> = claim::list()?
        .into_iter()
        .map(|claim| (claim.id.clone(), claim))
        .collect();
    let mut failures = Failures::default();
    for mut found in objects.0.into_values() {
        let Some(claim) = claims.get(&found.id) else {
            if orphans {
                found.removed = Some(false);
                call.line(&found)?;
            }
            continue;
        };
        if !claim.is_ours() || !(force || collectable(claim, &boot_id, grace)) {
            continue;
        }
        let result = remove(call, &found, force);
        found.removed = Some(result.is_ok() && !call.dry_run());
        call.line(&found)?;
        failures.note(result);
    }
    failures.into_result()
}

fn collectable(claim: &Claim, boot_id: &str, grace: Duration) -> bool {
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

fn remove(call: &Call, found: &Found, force: bool) -> Result<()> {
    let mut remains = Remains::of(found.id.clone(), call.dry_run())?;
    // Asked under the lock: a container cannot be started between the question and the removal.
    if !force && lock::is_alive(&found.id) {
        return Err(Error::new(Kind::InUse, format!("{} is running", found.id)));
    }
    let steps = found.steps(&mut remains);
    call.engine().tear_down(&mut remains, steps)
}

/// The steps that remove all that is found by the id, for one whose document does not tell.
pub(crate) fn steps(remains: &mut Remains) -> Result<Vec<Step<Remains>>> {
    Ok(match find()?.0.remove(&remains.id) {
        Some(found) => found.steps(remains),
        None => remains.steps(),
    })
}

impl Found {
    fn steps(&self, remains: &mut Remains) -> Vec<Step<Remains>> {
        remains.leases.clone_from(&self.leases);
        remains.masqueraded.clone_from(&self.masqueraded);
        remains.ports.clone_from(&self.publish);
        let mut steps = remains.steps();
        if self.link.is_some() && self.netns.is_none() {
            // Its namespace is pinned no more, and some process still holds it.
            let (shown, name) = (host_end(&self.id), host_end(&self.id));
            steps.push(
                Step::new("net.veth", "the cable is pulled out")
                    .command(move |_| vec![format!("ip link delete {shown}")])
                    .apply(move |_| Route::open()?.delete_link(&name)),
            );
        }
        steps
    }
}
