//! `delete`: takes back what `create` made, in reverse. Idempotent, and by the id alone: no path of a document is believed.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bocker_pipe::{Call, Document, Error, Id, Kind, Result, Step, claim, lock, paths};
use serde_json::Value;

use crate::firewall::{self, Firewall};
use crate::member::{Attachment, CniIp};
use crate::publish::Publish;
use crate::route::Route;
use crate::{BRIDGE, MEMBER, STAGE, cni, files, gc, host_end, lease, netns, ruleset};

/// Where our member is.
const POINTER: &str = "/bocker/net";
const ATTACHMENTS: &str = "/bocker/net/attachments";
/// In a pipeline, the stage before this one holds its lock until its process has ended, a moment after it passed the document on.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is to be removed, of one container.
pub(crate) struct Remains {
    pub(crate) id: Id,
    pub(crate) leases: Vec<Ipv4Addr>,
    /// Addresses that are masqueraded by themselves.
    pub(crate) masqueraded: Vec<Ipv4Addr>,
    pub(crate) ports: Vec<Publish>,
    /// Whether the host's end of the cable has to be removed by itself.
    pub(crate) veth: bool,
    /// Whether the container's document is of a network of CNI.
    pub(crate) is_cni: bool,
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
            id,
            leases: Vec::new(),
            masqueraded: Vec::new(),
            ports: Vec::new(),
            veth: false,
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
        for publish in self.ports.clone() {
            let shown = publish.clone();
            steps.push(
                Step::new("net.port", "the port of the host is free again")
                    .command(move |_| vec![firewall::delete_port_command(&shown)])
                    .look(|_| format!("nft list table inet {}", ruleset::TABLE))
                    .apply(move |remains: &mut Remains| {
                        let id = remains.id.clone();
                        remains.firewall()?.unpublish(&publish, &id)
                    }),
            );
        }
        for address in self.masqueraded.clone() {
            steps.push(
                Step::new("net.masquerade", "the address is no container's any more")
                    .command(move |_| vec![firewall::delete_address_command(address.into())])
                    .look(|_| format!("nft list table inet {}", ruleset::TABLE))
                    .apply(move |remains: &mut Remains| {
                        let id = remains.id.clone();
                        remains.firewall()?.delete_address(address.into(), &id)
                    }),
            );
        }
        steps.push(
            Step::new(
                "net.netns",
                "the namespace ends with its last process, and the veth pair with the namespace",
            )
            .command(|remains: &Remains| {
                let path = netns::path(&remains.id);
                let path = path.display();
                vec![format!("umount -l {path}"), format!("rm -f {path}")]
            })
            .look(|remains| format!("ip link show {}", host_end(&remains.id)))
            .apply(|remains| netns::unpin(&netns::path(&remains.id))),
        );
        if self.veth {
            steps.push(
                Step::new("net.veth", "the cable is pulled out")
                    .command(|remains: &Remains| {
                        vec![format!("ip link delete {}", host_end(&remains.id))]
                    })
                    .apply(|remains| Route::open()?.delete_link(&host_end(&remains.id))),
            );
        }
        for address in self.leases.clone() {
            let path = lease::folder(BRIDGE).join(address.to_string());
            steps.push(
                Step::new(
                    "net.lease",
                    "the address may be given to another, once the veth pair is gone",
                )
                .command(move |_| vec![format!("rm -f {}", path.display())])
                .look(|_| format!("ls -l {}", lease::folder(BRIDGE).display()))
                .apply(move |remains: &mut Remains| {
                    lease::release(&lease::folder(BRIDGE), address, &remains.id)
                }),
            );
        }
        // As long as they are there, so is the claim: by it what is left can be told to be this container's.
        steps.push(
            Step::new("net.files", "nobody asks these files any more")
                .command(|remains: &Remains| vec![files::remove_command(&remains.id)])
                .apply(|remains| files::remove(&remains.id)),
        );
        // Without a record it may be half released.
        if claim::read(&self.id).is_none_or(|record| record.by == STAGE) {
            steps.push(
                Step::new("net.claim", "the id is free again")
                    .command(|remains: &Remains| {
                        vec![format!("rm -r {}", paths::claim(&remains.id).display())]
                    })
                    .apply(|remains: &mut Remains| claim::release_own(&remains.id, STAGE)),
            );
        }
        steps
    }
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
    if !force && !call.dry_run() {
        let patience = match name {
            Some(_) => Duration::ZERO,
            None => PATIENCE,
        };
        refuse_alive(&id, patience)?;
    }
    let is_cni = cni::is_in(call.document()?);
    let mut remains = Remains::of(id, call.dry_run())?;
    remains.is_cni = is_cni;
    for attachment in attachments {
        let addresses = attachment.result.ips.iter().filter_map(CniIp::address);
        remains.leases.extend(addresses.clone());
        if attachment.masquerade {
            remains.masqueraded.extend(addresses);
        }
        remains.ports.extend(attachment.request.publish);
    }
    if !is_told {
        // Its create may have been killed before it could say what it had made.
        gc::search(&mut remains)?;
    }
    let steps = remains.steps();
    call.delete(remains, steps, |document, remains| {
        strip(document, &remains.id);
        Ok(())
    })
}

/// Fails with [`Kind::InUse`] while the container runs.
fn refuse_alive(id: &Id, patience: Duration) -> Result<()> {
    let start = Instant::now();
    while lock::is_alive(id) {
        if start.elapsed() >= patience {
            return Err(
                Error::new(Kind::InUse, format!("{id} is running")).hint(format!(
                    "stop it first with 'bocker stop {id}', or give --force"
                )),
            );
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The attachments to our bridge. Others, of whatever shape, are for those to remove who made them.
fn attachments(document: &Document) -> Result<Vec<Attachment>> {
    if cni::is_in(document) {
        return Ok(Vec::new());
    }
    let all = document.value(ATTACHMENTS).and_then(Value::as_array);
    let mut ours = Vec::new();
    for place in 0..all.map_or(0, Vec::len) {
        let pointer = format!("{ATTACHMENTS}/{place}");
        let network = document.value(&format!("{pointer}/network"));
        if network.is_some_and(|network| network == BRIDGE) {
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
    document.remove_member(MEMBER);
    document.remove_mounts(|destination, source| files::is_mount(id, destination, source));
    let path = netns::path(id);
    if document.namespace("network").flatten() == path.to_str() {
        document.remove_namespace("network");
    }
}
