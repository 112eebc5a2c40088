//! `list` and `gc`: what is on this machine of containers' networks, found by their ids, and what of it is left over.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bocker_pipe::claim::Claim;
use bocker_pipe::error::Failures;
use bocker_pipe::listed::Listed;
use bocker_pipe::state::State;
use bocker_pipe::{Arg, Call, Id, Result, claim, containers};
use serde::Serialize;
use serde_json::json;

use crate::cni::plugin::attachment::{self, Label};
use crate::delete::Remains;
use crate::firewall::Firewall;
use crate::names::Names;
use crate::plug::id_of_host_end;
use crate::publish::Publish;
use crate::route::Route;
use crate::{STAGE, cni, files, host, lease, netns};

/// All that is on this machine of one container's network, found by its id; a line of `list` and of `gc`.
#[derive(Debug, Serialize)]
pub(crate) struct Found {
    id: Id,
    /// The BOCKER_ROOT of the claim; absent without a claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    netns: Option<PathBuf>,
    /// The host's ends of its pairs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) links: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) leases: Vec<IpAddr>,
    /// Of which bridge each lease is.
    #[serde(skip)]
    bridges: Vec<String>,
    /// Addresses that are masqueraded by themselves.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) masqueraded: Vec<IpAddr>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) publish: Vec<Publish>,
    /// Networks of CNI.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cni: Vec<String>,
    /// What another runtime calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    attachment: Option<Label>,
    /// The bridges in whose tables of names it is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) named: Vec<String>,
    /// In a line of `gc`: whether it is removed now.
    #[serde(skip_serializing_if = "Option::is_none")]
    removed: Option<bool>,
}

impl Found {
    pub(crate) fn nothing(id: Id) -> Found {
        Found {
            id,
            root: None,
            netns: None,
            links: Vec::new(),
            leases: Vec::new(),
            bridges: Vec::new(),
            masqueraded: Vec::new(),
            publish: Vec::new(),
            cni: Vec::new(),
            attachment: None,
            named: Vec::new(),
            removed: None,
        }
    }

    /// Adds it to what is to be removed.
    fn is_left_in(&self, remains: &mut Remains) {
        fn add<T: Clone + PartialEq>(these: &[T], to: &mut Vec<T>) {
            let new = these.iter().filter(|one| !to.contains(one)).cloned();
            let new: Vec<T> = new.collect();
            to.extend(new);
        }
        let bridges = self.bridges.iter().cloned();
        let leases: Vec<_> = bridges.zip(self.leases.iter().copied()).collect();
        add(&leases, &mut remains.leases);
        add(&self.masqueraded, &mut remains.masqueraded);
        add(&self.publish, &mut remains.ports);
        // Its namespace is pinned no more, and some process still holds it.
        if self.netns.is_none() {
            add(&self.links, &mut remains.links);
        }
    }
}

/// What has been found, by id.
#[derive(Default)]
pub(crate) struct All(BTreeMap<Id, Found>);

impl All {
    /// What is there of a container.
    pub(crate) fn of(&self, id: &Id) -> Option<&Found> {
        self.0.get(id)
    }

    fn entry(&mut self, id: Id) -> &mut Found {
        self.0
            .entry(id.clone())
            .or_insert_with(|| Found::nothing(id))
    }
}

/// Looks everywhere where an id can be: interfaces, leases, elements of our table, claims.
pub(crate) fn find() -> Result<All> {
    let mut all = All::default();
    for link in Route::open()?.links()? {
        if let Some(id) = id_of_host_end(&link.name) {
            all.entry(id).links.push(link.name);
        }
    }
    for bridge in host::bridges_with_leases()? {
        for (address, id) in lease::list(&lease::folder(&bridge))? {
            let found = all.entry(id);
            found.leases.push(address);
            found.bridges.push(bridge.clone());
        }
    }
    for (id, bridge) in Names::of_machine().members()? {
        all.entry(id).named.push(bridge);
    }
    let mut firewall = Firewall::open()?;
    if firewall.exists()? {
        for (address, id) in firewall.addresses()? {
            all.entry(id).masqueraded.push(address);
        }
        for (publish, id) in firewall.ports()? {
            all.entry(id).publish.push(publish);
        }
    }
    // Objects first, claims second: what is made meanwhile is not taken for something without a claim.
    for claim in claim::list()? {
        let Claim { id, record, .. } = claim;
        let pin = netns::path(&id);
        let is_pinned = pin.exists();
        let is_ours = record.as_ref().is_some_and(|record| record.by == STAGE);
        let has_files = files::any(&id) || cni::Kept::is_there(&id);
        if is_pinned || is_ours || has_files || all.0.contains_key(&id) {
            let found = all.entry(id.clone());
            found.cni = cni::delete::networks(&id);
            found.attachment = attachment::read(&id).map(|one| one.label);
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
    let mut listed = Listed::default();
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) if option == "--grace" => {
                grace = Duration::from_secs(call.number()?);
            }
            Arg::Option(option) if option == "--orphans" => orphans = true,
            Arg::Option(option) if option == "--force" => force = true,
            Arg::Option(option) if option == "--listed" => listed = Listed::from_stdin()?,
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
    let found = objects.0.into_values();
    for mut found in found.filter(|found| listed.has(found.id.as_str())) {
        let Some(claim) = claims.get(&found.id) else {
            if orphans {
                found.removed = Some(false);
                call.line(&found)?;
            }
            continue;
        };
        let goes = || force || collectable(claim, &boot_id, grace);
        if !claim.is_ours() || !goes() {
            continue;
        }
        let result = remove(call, &found, goes);
        if matches!(result, Ok(false)) {
            continue;
        }
        found.removed = Some(result.is_ok() && !call.dry_run());
        call.line(&found)?;
        failures.note(result.map(|_| ()));
    }
    if !call.dry_run() {
        Names::of_machine().sweep()?;
    }
    for claim in claim::sweep(grace, &listed, call.dry_run())? {
        call.line(&json!({"claim": claim, "removed": !call.dry_run()}))?;
    }
    failures.into_result()
}

fn collectable(claim: &Claim, boot_id: &str, grace: Duration) -> bool {
    match State::of(&claim.id, || has_processes(&claim.id), || false) {
        // Of another runtime's attachment nobody but that runtime knows more than whether its namespace is there.
        State::Creating => {
            let is_used = attachment::read(&claim.id).is_some_and(|one| !one.is_over());
            claim.is_stale(boot_id, grace) && (!is_used || claim.is_of_another_boot(boot_id))
        }
        State::Exited => claim.is_ours() && claim::is_over(&claim.id, boot_id, grace),
        State::Created => claim.is_of_another_boot(boot_id),
        State::Running | State::Paused | State::Restarting | State::Orphaned => false,
    }
}

/// Whether a process is in the cgroup that the container's document names.
pub(crate) fn has_processes(id: &Id) -> bool {
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

/// Removes it, if it still `goes` once no other verb is at work on the container. Answers whether it did.
fn remove(call: &Call, found: &Found, goes: impl Fn() -> bool) -> Result<bool> {
    let mut remains = Remains::of(found.id.clone(), call.dry_run())?;
    if !goes() {
        return Ok(false);
    }
    found.is_left_in(&mut remains);
    let steps = remains.steps();
    call.engine().tear_down(&mut remains, steps)?;
    Ok(true)
}

/// Looks everywhere for what is there of a container, whose document does not tell.
pub(crate) fn search(remains: &mut Remains) -> Result<()> {
    if let Some(found) = find()?.of(&remains.id) {
        found.is_left_in(remains);
    }
    Ok(())
}
