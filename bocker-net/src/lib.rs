//! bocker-net: network namespaces, veth pairs, the bridge, addresses, masquerading, published ports and names.
//! Everything is done by netlink; no program is executed but plugins of CNI that were asked for. It is such a plugin itself.

mod bridge;
mod check;
mod cni;
mod conntrack;
mod create;
mod delete;
pub mod extra;
mod files;
mod firewall;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod gc;
mod host;
mod inspect;
mod lease;
pub mod member;
mod names;
mod netlink;
mod netns;
mod network;
mod networks;
mod nft;
mod observe;
mod plug;
mod policy;
mod ports;
pub mod publish;
mod rename;
mod resolve;
mod restore;
mod route;
mod ruleset;
mod shared;
mod steps;
mod subnet;
mod sysctl;
mod told;
mod used;

use bocker_pipe::{Tool, Verb, VerbKind};

/// The stage's name in documents, steps and claims, and that of its member.
const STAGE: &str = "net";
const MEMBER: &str = STAGE;
/// The bridge of the default network, as the original called it.
const BRIDGE: &str = "bridge0";

const HELP: &str = "\
bocker-net: network namespaces, veth pairs, addresses, NAT, published ports, names

  create [OPTIONS]        read a document, connect its container, pass it on
      --network NETWORK   bridge (default), a network's name, none, host,
                          container:NAME, ns:PATH or cni:NAME; a name is repeatable, as
                          name=NAME,ip=..,ip6=..,mac=..,ifname=..,alias=.. too
      --ip, --ip6, --mac-address, --network-alias   of the only or first one
      --cni NAME|FILE     instead, a network of CNI, by its plugins; repeatable
      --cni-capability NAME=JSON, --cni-timeout SECONDS   what plugins get
      -p, --publish [IP:][HOSTPORT:]PORT[/udp]   repeatable; ranges as 80-89
      -P, --publish-all   all ports that the image exposes
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
  rename ID               the others find it by the name that it has by now
  network create NAME [--subnet S]... [--gateway A]... [--ip-range R]... [--ipv6]
          [--internal] [--isolated] [--mtu N] [--label KEY[=VALUE]]...
  network list [--filter F]...   as JSON Lines; network inspect NAME...
  network remove NAME... [--force]; network prune [--filter F]... [NAME]...
  gc [--grace SECONDS] [--listed] [--orphans] [--force]   remove leftovers
  setup, reset            make, or remove, what all containers share
  info                    the shared bridge, table and sysctls, as JSON

Started with CNI_COMMAND set and no arguments, it is a plugin of CNI.

Common: -v print each step as its command, --explain with why, --dry-run only
print, --document FD read from FD, --help, --version
Example: bocker-net create --new -v -p 8080:80 | tee net.json; \\
         bocker-net delete < net.json
";

/// The program: the tool, or where a runtime of CNI calls it, a plugin. Gives the exit code.
pub fn main() -> u8 {
    match cni::plugin::is_called() {
        true => cni::plugin::main(),
        false => bocker_pipe::tool::main(&TOOL),
    }
}

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
            name: "rename",
            kind: VerbKind::Reports,
            run: rename::run,
        },
        Verb {
            name: "gc",
            kind: VerbKind::Reports,
            run: gc::gc,
        },
        Verb {
            name: "network",
            kind: VerbKind::Reports,
            run: networks::network,
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
