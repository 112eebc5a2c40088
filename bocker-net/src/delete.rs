//! `delete`: takes back what `create` made, in reverse. Idempotent, and by the id alone: no path of a document is believed.

use std::net::IpAddr;
use std::time::Duration;

use bocker_pipe::events::Event;
use bocker_pipe::lock::Supervisor;
use bocker_pipe::{Call, Document, Error, Id, Kind, Result, Step, claim, lock, paths};
use serde_json::Value;

use crate::firewall::{self, Firewall};
use crate::member::{Attachment, CniIp, Mode};
use crate::names::Names;
use crate::nft::Family;
use crate::publish::Publish;
use crate::route::Route;
use crate::{MEMBER, STAGE, cni, files, gc, host, lease, netns, ruleset, told};

/// Where our member is.
const POINTER: &str = "/bocker/net";
const ATTACHMENTS: &str = "/bocker/net/attachments";
/// In a pipeline, the stage before this one holds its lock until its process has ended, a moment after it passed the document on.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is to be removed, of one container.
pub(crate) struct Remains {
    pub(crate) id: Id,
    /// Bridges and addresses.
    pub(crate) leases: Vec<(String, IpAddr)>,
    /// Addresses that are masqueraded by themselves.
    pub(crate) masqueraded: Vec<IpAddr>,
    pub(crate) ports: Vec<Publish>,
    /// Over which those on all addresses are published.
    families: Vec<Family>,
    /// The host's ends of cables that have to be removed by themselves.
    pub(crate) links: Vec<String>,
    /// Whether the container's document is of a network of CNI.
    pub(crate) is_cni: bool,
    /// Whether others find it by name.
    is_named: bool,
    /// Opened at first need: a container without a bridge has nothing in it.
    firewall: Option<Firewall>,
    #[expect(dead_code, reason = "held for its drop")]
    verbs: Option<lock::Lock>,
}

impl Remains {
    /// Nothing yet of this container, whose verbs wait for this one until it is done. A dry run makes nobody wait.
    pub(crate) fn of(id: Id, dry_run: bool) -> Result<Remains> {
        let verbs = if dry_run { None } else { verbs(&id)? };
        Ok(Remains {
            is_named: Names::of_machine().knows(&id)?,
            id,
            leases: Vec::new(),
            masqueraded: Vec::new(),
            ports: Vec::new(),
            families: vec![Family::V4],
            links: Vec::new(),
            is_cni: false,
            firewall: None,
            verbs,
        })
    }

    fn firewall(&mut self) -> Result<&mut Firewall> {
        match &mut self.firewall {
            Some(firewall) => Ok(firewall),
            none => Ok(none.insert(Firewall::open()?)),
        }
    }

    /// The steps that remove it. The claim goes last, if it is ours to release.
    pub(crate) fn steps(&self) -> Vec<Step<Remains>> {
        let mut steps = Vec::new();
        steps.extend(cni::delete::step(&self.id, self.is_cni));
        let [addresses, attachment] = cni::plugin::steps(&self.id);
        steps.extend(addresses);
        if self.is_named {
            steps.push(
                Step::new("net.names", "nobody on its networks finds it any more")
                    .command(|remains: &Remains| {
                        vec![
                            forget_command(&remains.id),
                            "# and out of the hosts file of everyone in these tables".into(),
                        ]
                    })
                    .look(|_| format!("grep . {}/*", Names::of_machine().folder().display()))
                    .apply(|remains: &mut Remains| Names::of_machine().leave(&remains.id)),
            );
        }
        if !self.ports.is_empty() {
            steps.push(
                Step::new("net.port", "the ports of the host are free again")
                    .command(|remains: &Remains| {
                        firewall::delete_ports_commands(&remains.ports, &remains.families)
                    })
                    .look(|_| format!("nft list table inet {}", ruleset::TABLE))
                    .apply(|remains: &mut Remains| {
                        let (id, ports) = (remains.id.clone(), remains.ports.clone());
                        remains.firewall()?.unpublish(&ports, &id)
                    }),
            );
        }
        for address in self.masqueraded.clone() {
            steps.push(
                Step::new("net.masquerade", "the address is no container's any more")
                    .command(move |_| vec![firewall::delete_address_command(address)])
                    .look(|_| format!("nft list table inet {}", ruleset::TABLE))
                    .apply(move |remains: &mut Remains| {
                        let id = remains.id.clone();
                        remains.firewall()?.delete_address(address, &id)
                    }),
            );
        }
        steps.push(
            Step::new(
                "net.netns",
                "the namespace ends with its last process, and the veth pairs with the namespace",
            )
            .command(|remains: &Remains| {
                let path = netns::path(&remains.id);
                let path = path.display();
                vec![format!("umount -l {path}"), format!("rm -f {path}")]
            })
            .look(|remains| format!("ip link show | grep {}", remains.id))
            .apply(|remains| netns::unpin(&netns::path(&remains.id))),
        );
        for name in self.links.clone() {
            let shown = name.clone();
            steps.push(
                Step::new("net.veth", "the cable is pulled out")
                    .command(move |_| vec![format!("ip link delete {shown}")])
                    .apply(move |_| Route::open()?.delete_link(&name)),
            );
        }
        for (bridge, address) in self.leases.clone() {
            let folder = lease::folder(&bridge);
            let path = folder.join(address.to_string());
            let shown = folder.clone();
            steps.push(
                Step::new(
                    "net.lease",
                    "the address may be given to another, once the veth pair is gone",
                )
                .command(move |_| vec![format!("rm -f {}", path.display())])
                .look(move |_| format!("ls -l {}", shown.display()))
                .apply(move |remains: &mut Remains| lease::release(&folder, address, &remains.id)),
            );
        }
        // As long as they are there, so is the claim: by it what is left can be told to be this container's.
        steps.push(
            Step::new("net.files", "nobody asks these files any more")
                .command(|remains: &Remains| vec![files::remove_command(&remains.id)])
                .apply(|remains| files::remove(&remains.id))
                .last(),
        );
        steps.extend(attachment);
        // Without a record it may be half released.
        if claim::read(&self.id).is_none_or(|record| record.by == STAGE) {
            steps.push(
                Step::new("net.claim", "the id is free again")
                    .command(|remains: &Remains| {
                        vec![format!("rm -r {}", paths::claim(&remains.id).display())]
                    })
                    .apply(|remains: &mut Remains| claim::release_own(&remains.id, STAGE))
                    .last(),
            );
        }
        steps
    }
}

/// The command that takes a container out of the tables of names.
pub(crate) fn forget_command(id: &Id) -> String {
    let tables = Names::of_machine().folder().join("*");
    format!("sed -i /{id}/d {}", tables.display())
}

fn verbs(id: &Id) -> Result<Option<lock::Lock>> {
    match lock::verbs(id) {
        Ok(lock) => Ok(Some(lock)),
        // The claim is gone, and with it what it orders; what is left in the kernel is removed all the same.
        Err(error) if error.kind() == &Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The verb.
pub(crate) fn run(call: &mut Call) -> Result<()> {
    let mut force = false;
    let name = call.container(Some(&mut force))?;
    let document = match &name {
        Some(name) => call.document_of(name)?,
        None => call.document()?,
    };
    let is_ours = document.value(POINTER).is_some();
    // Nothing of ours in it, or nothing at all: a stage before failed before it made anything.
    if name.is_none() && !is_ours {
        return call.write();
    }
    let attachments = attachments(document)?;
    let is_told = document.value(ATTACHMENTS).is_some();
    let id = document.id()?;
    let refuses = !force && !call.dry_run();
    if refuses {
        let patience = match name {
            Some(_) => Duration::ZERO,
            None => PATIENCE,
        };
        refuse_alive(&id, patience)?;
    }
    let is_cni = cni::is_in(call.document()?);
    let mut remains = Remains::of(id, call.dry_run())?;
    if refuses {
        // It may have been started before the lock was ours.
        refuse_alive(&remains.id, Duration::ZERO)?;
    }
    remains.is_cni = is_cni;
    for attachment in attachments {
        let ports = attachment.ports();
        let addresses = attachment.result.ips.iter().filter_map(CniIp::address);
        if !ports.is_empty() {
            remains.families = addresses.clone().map(Family::of).collect();
            remains.ports.extend(ports);
        }
        if let Some(bridge) = attachment.bridge {
            let leases = addresses.clone().map(|address| (bridge.clone(), address));
            remains.leases.extend(leases);
        }
        if attachment.masquerade {
            remains.masqueraded.extend(addresses);
        }
    }
    if !is_told {
        // Its create may have been killed before it could say what it had made.
        gc::search(&mut remains)?;
    }
    let steps = remains.steps();
    let was_there = netns::path(&remains.id).exists();
    call.delete(remains, steps, |document, remains| {
        if was_there {
            told::events(document, "disconnect")
                .into_iter()
                .for_each(Event::record);
        }
        strip(document, &remains.id);
        Ok(())
    })
}

/// Fails with [`Kind::InUse`] while the container runs.
fn refuse_alive(id: &Id, patience: Duration) -> Result<()> {
    if lock::wait(id, patience, |state| state != Supervisor::Runs)? {
        return Ok(());
    }
    Err(
        Error::new(Kind::InUse, format!("{id} is running")).hint(format!(
            "stop it first with 'bocker stop {id}', or give --force"
        )),
    )
}

/// The attachments to our bridges. Others, of whatever shape, are for those to remove who made them.
pub(crate) fn attachments(document: &Document) -> Result<Vec<Attachment>> {
    if cni::is_in(document) {
        return Ok(Vec::new());
    }
    let all = document.value(ATTACHMENTS).and_then(Value::as_array);
    let mut ours = Vec::new();
    for place in 0..all.map_or(0, Vec::len) {
        let pointer = format!("{ATTACHMENTS}/{place}");
        let bridge = document.value(&format!("{pointer}/bridge"));
        if bridge
            .and_then(Value::as_str)
            .is_some_and(host::is_bridge_name)
        {
            ours.extend(document.get(&pointer)?);
        }
    }
    Ok(ours)
}

/// Removes from the document all that `create` put in.
fn strip(document: &mut Document, id: &Id) {
    let hostname: Option<String> = document.get(&format!("{POINTER}/hostname")).unwrap_or(None);
    if document.get("/hostname").unwrap_or(None) == hostname {
        document.remove("/hostname");
    }
    // In mode container they are those of another.
    let joined: Option<Id> = document
        .get(&format!("{POINTER}/container"))
        .unwrap_or(None);
    let entered: Option<String> = document
        .get(&format!("{POINTER}/netns/path"))
        .unwrap_or(None);
    let made = document
        .get(&format!("{POINTER}/netns/made"))
        .unwrap_or(None)
        == Some(true);
    let mode: Option<Mode> = document.get(&format!("{POINTER}/mode")).unwrap_or(None);
    document.remove_member(MEMBER);
    let files_of = joined.as_ref().unwrap_or(id);
    document.remove_mounts(|destination, source| files::is_mount(files_of, destination, source));
    let path = match made {
        true => netns::path(id).to_str().map(str::to_owned),
        // Whoever has written this member has another mode, or none.
        false => entered.filter(|_| matches!(mode, Some(Mode::Container | Mode::Ns))),
    };
    if document.namespace("network").flatten() == path.as_deref() {
        document.remove_namespace("network");
    }
}
