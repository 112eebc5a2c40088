//! bocker-net: network namespaces, veth pairs, the bridge, addresses, masquerading, published ports and names.
//! Everything is done by netlink; no program is executed.

mod check;
mod cni;
mod conntrack;
mod create;
mod delete;
pub mod extra;
mod files;
mod firewall;
mod gc;
mod host;
mod inspect;
mod lease;
pub mod member;
mod netlink;
mod netns;
mod nft;
mod observe;
pub mod publish;
mod resolve;
mod route;
mod ruleset;
mod shared;
mod steps;
mod subnet;
mod sysctl;

use std::net::Ipv4Addr;

use bocker_pipe::{Id, Tool, Verb, VerbKind};

/// The stage's name in documents, steps and claims, and that of its member.
const STAGE: &str = "net";
const MEMBER: &str = STAGE;
/// The bridge, as the original called it.
const BRIDGE: &str = "bridge0";
/// The interface in the container.
const IFNAME: &str = "eth0";
const HOST_END: &str = "veth0_";

/// The host's end of a container's veth pair; with the id, all 15 characters that a name can have.
fn host_end(id: &Id) -> String {
    format!("{HOST_END}{id}")
}

fn id_of_host_end(name: &str) -> Option<Id> {
    Id::parse(name.strip_prefix(HOST_END)?).ok()
}

/// The alternative name of the container's end, which the original gave it.
fn peer_altname(id: &Id) -> String {
    format!("veth1_{id}")
}

/// The alternative name of the host's end: as long as the kernel knows it, the address is not given to another.
fn altname(address: Ipv4Addr) -> String {
    format!("bocker-{address}")
}

const HELP: &str = "\
bocker-net: network namespaces, veth pairs, addresses, NAT, published ports, names

  create [OPTIONS]        read a document, connect its container, pass it on
      --network MODE      bridge (default), none, host, or cni:NAME
      --cni NAME|FILE     instead, a network of CNI, by its plugins; repeatable
      --cni-capability NAME=JSON, --cni-timeout SECONDS   what plugins get
      -p, --publish [IP:]HOSTPORT:PORT[/udp]   repeatable
      --hostname NAME     default: the id
      --add-host NAME:ADDRESS     a name it knows; host-gateway is the host
      --dns ADDRESS       name server, repeatable; default: the host's
      --dns-search DOMAIN, --dns-option OPTION   the same for resolv.conf's
                          search (. for none) and options
      --new               begin from nothing: a network alone
  delete [ID] [--force]   take it back, pass the document on
      --status            exit with what the document carries
  list                    networks on this machine, as JSON Lines
  inspect ID...           one as it is now: interfaces, addresses, routes, counters
  check [ID... | -]       what differs from the document; exit 1 if anything does
  gc [--grace SECONDS] [--listed] [--orphans] [--force]   remove leftovers
  setup, reset            make, or remove, what all containers share
  info                    the shared bridge, table and sysctls, as JSON

Common: -v print each step as its command, --explain with why, --dry-run only
print, --document FD read from FD, --help, --version
Example: bocker-net create --new -v -p 8080:80 | tee net.json; \\
         bocker-net delete < net.json
";

/// The tool.
pub static TOOL: Tool = Tool {
    name: "bocker-net",
    stage: STAGE,
    help: HELP,
    verbs: &[
        Verb {
            name: "create",
            kind: VerbKind::Creates,
            run: create::run,
        },
        Verb {
            name: "delete",
            kind: VerbKind::Deletes,
            run: delete::run,
        },
        Verb {
            name: "list",
            kind: VerbKind::Reports,
            run: gc::list,
        },
        Verb {
            name: "inspect",
            kind: VerbKind::Reports,
            run: inspect::run,
        },
        Verb {
            name: "check",
            kind: VerbKind::Reports,
            run: check::run,
        },
        Verb {
            name: "gc",
            kind: VerbKind::Reports,
            run: gc::gc,
        },
        Verb {
            name: "setup",
            kind: VerbKind::Reports,
            run: shared::setup,
        },
        Verb {
            name: "reset",
            kind: VerbKind::Reports,
            run: shared::reset,
        },
        Verb {
            name: "info",
            kind: VerbKind::Reports,
            run: shared::info,
        },
    ],
    default_verb: None,
};
