//! `setup`, `reset` and `info`: what all containers share, made beforehand, removed, and shown.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use bocker_pipe::{Call, Doing, Error, Id, Kind, Result, Step, paths};
use nix::fcntl::FlockArg;
use serde::Serialize;

use crate::firewall::Firewall;
use crate::host::{self, Host};
use crate::route::Route;
use crate::sysctl::{self, TurnedOn};
use crate::{BRIDGE, lease, ruleset};

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
        .then(|| format!("inet {}", ruleset::TABLE));
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
        let users: Vec<&str> = users.iter().map(Id::as_str).collect();
        let message = format!("the network is in use by {}", users.join(", "));
        return Err(Error::new(Kind::InUse, message).hint(
            "remove those containers with 'bocker rm', what is left over with 'bocker-net gc'",
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
                remove_empty(&lease::folder(BRIDGE))?;
                remove_empty(&host::folder())
            }),
    );
    Ok(steps)
}

fn remove_empty(folder: &Path) -> Result<()> {
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.doing(|| format!("remove {}", folder.display())),
    }
}
