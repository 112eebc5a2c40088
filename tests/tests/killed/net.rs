//! bocker-net.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use bocker_tests::{Call, Fingerprint, Host, Output, Struck};
use serde_json::Value;

use crate::{at_every_change, collect};

const NET: &[&str] = &["bocker-net"];
/// How many changes to the machine a create makes, at least, before it writes files: the same for every network.
const BEFORE_FILES: usize = 36;
const PORTS: [&str; 4] = ["-p", "127.0.0.1:8080:80", "-p", "5353:53/udp"];

/// A machine whose shared objects stand already.
struct Machine {
    host: Host,
    before: Fingerprint,
}

impl Machine {
    fn new() -> Machine {
        let host = Host::new();
        host.run(&["bocker-net", "setup"]).ok();
        Machine {
            before: host.fingerprint(),
            host,
        }
    }

    fn create(&self) -> Call {
        self.host
            .call(&[&["bocker-net", "create", "--new"], &PORTS[..]].concat())
    }

    fn delete(&self, document: &str) -> Call {
        self.host.call(&["bocker-net", "delete"]).stdin(document)
    }

    fn run(&self, words: &[&str]) -> Output {
        self.host.run(&[NET, words].concat())
    }

    /// The addresses of all networks that are listed.
    fn addresses(&self) -> Vec<String> {
        let lines = self.run(&["list"]).ok().json_lines();
        let leases = lines.iter().filter_map(|line| line["leases"].as_array());
        leases
            .flatten()
            .map(|lease| text(lease).to_owned())
            .collect()
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[test]
fn a_create_is_collected() {
    let machine = Machine::new();
    at_every_change(
        30,
        || (machine.create(), ()),
        |()| collect(&machine.host, NET, &machine.before),
    );
}

#[test]
fn no_address_and_no_port_is_given_to_two_whoever_was_killed_with_it() {
    let machine = Machine::new();
    at_every_change(
        30,
        || (machine.create(), ()),
        |()| {
            let left = machine.addresses();
            let new: Vec<Output> = (0..2)
                .map(|_| machine.run(&["create", "--new"]).ok())
                .collect();
            let given = new.iter().map(|output| {
                let ips = &output.json()["bocker"]["net"]["attachments"][0]["result"]["ips"];
                let address = text(&ips[0]["address"])
                    .split('/')
                    .next()
                    .map(str::to_owned);
                address.expect("an address")
            });
            let all: Vec<String> = left.into_iter().chain(given).collect();
            let different: BTreeSet<&String> = all.iter().collect();
            assert_eq!(all.len(), different.len(), "{all:?}");
            for one in new {
                machine.delete(&one.stdout).run().ok();
            }
            machine.run(&["gc", "--grace", "0"]).ok();
            // The ports are free.
            let again = machine.create().run().ok();
            machine.delete(&again.stdout).run().ok();
        },
    );
    machine.host.assert_same(&machine.before);
}

#[test]
fn a_create_that_fails_and_is_killed_while_it_takes_back_what_it_did_is_collected() {
    let machine = Machine::new();
    at_every_change(
        40,
        || (machine.create().env("BOCKER_FAIL_AT", "net.files"), ()),
        |()| collect(&machine.host, NET, &machine.before),
    );
}

#[test]
fn a_container_whose_network_was_left_half_made_is_removed_as_any_other() {
    let host = Host::new();
    let rootfs = host.busybox_rootfs("rootfs").display().to_string();
    host.run(&["bocker", "system", "setup"]).ok();
    let create = [
        "bocker-snap",
        "create",
        "--rootfs",
        &rootfs,
        "--name",
        "web",
    ];
    host.run(&create).ok();
    host.run(&["bocker", "rm", "-f", "web"]).ok();
    let before = host.fingerprint();
    at_every_change(
        30,
        || {
            let words = [&["bocker-net", "create"], &PORTS[..]].concat();
            let document = host.run(&create).text();
            (host.call(&words).stdin(document), ())
        },
        |()| {
            host.run(&["bocker", "rm", "-f", "web"]).ok();
            host.assert_same(&before);
        },
    );
}

#[test]
fn a_delete_is_finished_by_the_next_or_by_a_collection() {
    let machine = Machine::new();
    for by_collection in [false, true] {
        at_every_change(
            10,
            || {
                let document = machine.create().run().text();
                (machine.delete(&document), document)
            },
            |document| {
                match by_collection {
                    true => machine.run(&["gc", "--grace", "0"]).ok(),
                    false => machine.delete(&document).run().ok(),
                };
                machine.host.assert_same(&machine.before);
            },
        );
    }
}

#[test]
fn a_collection_is_finished_by_the_next() {
    let machine = Machine::new();
    at_every_change(
        10,
        || {
            machine.create().run().ok();
            (machine.host.call(&["bocker-net", "gc", "--grace", "0"]), ())
        },
        |()| collect(&machine.host, NET, &machine.before),
    );
}

/// A network of CNI whose plugin keeps a file for each container, slowly, and says so.
struct Keeper {
    machine: Machine,
    kept: PathBuf,
    list: String,
}

impl Keeper {
    fn new() -> Keeper {
        let machine = Machine::new();
        let kept = machine.host.scratch().join("kept");
        fs::create_dir(&kept).expect("a folder");
        let script = format!(
            r#"#!/bin/sh
            cat >/dev/null; mine={}/$CNI_CONTAINERID
            case $CNI_COMMAND in
            ADD) : >"$mine"; sleep 0.002; : >"$mine.more"; echo '{{"cniVersion":"1.0.0"}}';;
            DEL) rm -f "$mine" "$mine.more";;
            esac"#,
            kept.display()
        );
        let plugins = machine.host.scratch();
        let list = r#"{"cniVersion":"1.0.0","name":"lab","plugins":[{"type":"keeper"},{"type":"keeper"}]}"#;
        fs::write(plugins.join("lab.conflist"), list).expect("a list");
        let _ = machine.host.script("keeper", &script);
        Keeper {
            list: plugins.join("lab.conflist").display().to_string(),
            machine,
            kept,
        }
    }

    fn create(&self) -> Call {
        let words = ["bocker-net", "create", "--new", "--cni", &self.list];
        let call = self.machine.host.call(&words);
        call.env("CNI_PATH", self.machine.host.scratch())
    }

    #[track_caller]
    fn assert_nothing_is_kept(&self) {
        let left: Vec<_> = fs::read_dir(&self.kept).expect("a folder").collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn what_plugins_were_called_for_is_taken_back_by_a_collection() {
    let keeper = Keeper::new();
    at_every_change(
        20,
        || (keeper.create(), ()),
        |()| {
            keeper.machine.run(&["gc", "--grace", "0"]).ok();
            keeper.assert_nothing_is_kept();
        },
    );
    keeper.machine.host.assert_same(&keeper.machine.before);
    at_every_change(
        6,
        || {
            let document = keeper.create().run().text();
            (keeper.machine.delete(&document), ())
        },
        |()| {
            keeper.machine.run(&["gc", "--grace", "0"]).ok();
            keeper.assert_nothing_is_kept();
        },
    );
    keeper.machine.host.assert_same(&keeper.machine.before);
}

#[test]
fn what_containers_share_is_completed_by_the_next_and_removed_exactly() {
    let host = Host::new();
    let empty = host.fingerprint();
    host.run(&["bocker-net", "setup"]).ok();
    let complete = host.fingerprint();
    host.run(&["bocker-net", "reset"]).ok();
    host.assert_same(&empty);
    let mut completes = false;
    at_every_change(
        15,
        || (host.call(&["bocker-net", "setup"]), ()),
        |()| {
            completes = !completes;
            if completes {
                host.run(&["bocker-net", "setup"]).ok();
                host.assert_same(&complete);
            }
            host.run(&["bocker-net", "reset"]).ok();
            host.assert_same(&empty);
        },
    );
    at_every_change(
        6,
        || {
            host.run(&["bocker-net", "setup"]).ok();
            (host.call(&["bocker-net", "reset"]), ())
        },
        |()| {
            host.run(&["bocker-net", "reset"]).ok();
            host.assert_same(&empty);
        },
    );
}

#[test]
fn neighbours_are_told_the_truth_whoever_was_killed_telling_them() {
    let machine = Machine::new();
    machine.run(&["network", "create", "lan"]).ok();
    let neighbour = machine.run(&["create", "--new", "--network", "lan"]).ok();
    let id = text(&neighbour.json()["bocker"]["id"]).to_owned();
    let hosts = || std::fs::read_to_string(format!("/run/bocker/{id}/hosts")).expect("hosts");
    let before = (machine.host.fingerprint(), hosts());
    let other = [
        "create",
        "--new",
        "--network",
        "lan",
        "--network-alias",
        "db",
    ];
    let create = || machine.host.call(&[NET, &other].concat());
    let collect = || {
        // Not the neighbour, whose claim is as young.
        let lines = machine
            .run(&["gc", "--grace", "0", "--dry-run"])
            .ok()
            .stdout;
        let lines: Vec<&str> = lines.lines().filter(|line| !line.contains(&id)).collect();
        let call = machine
            .host
            .call(&["bocker-net", "gc", "--grace", "0", "--listed"]);
        call.stdin(lines.join("\n")).run().ok();
        machine.host.assert_same(&before.0);
        assert_eq!(hosts(), before.1);
    };
    let mut changes = Vec::new();
    for count in BEFORE_FILES.. {
        match create().kill_after_change(count) {
            Struck::Killed(name) => changes.push(name),
            Struck::Ended(made) => {
                machine.delete(&made.stdout).run().ok();
                break;
            }
        }
        collect();
    }
    // The table, and the files of both.
    for name in ["rename", "pwrite64"] {
        assert!(changes.contains(&name), "{changes:?}");
    }
    at_every_change(
        12,
        || (machine.delete(&create().run().ok().stdout), ()),
        |()| collect(),
    );
}

#[test]
fn a_network_whose_making_or_removal_was_killed_is_there_or_not_and_the_next_makes_it_right() {
    let host = Host::new();
    let network = |words: &[&str]| host.call(&[&["bocker-net", "network"], words].concat());
    let used = || {
        network(&["create", "web"]).run().ok();
        let create = ["bocker-net", "create", "--new", "--network", "web"];
        let document = host.run(&create).ok().stdout;
        let delete = host.call(&["bocker-net", "delete"]).stdin(document);
        delete.run().ok();
    };
    // What all networks share is made with the first.
    used();
    network(&["remove", "web"]).run().ok();
    let before = host.fingerprint();
    at_every_change(
        3,
        || (network(&["create", "web"]), ()),
        |()| {
            // Either it is there as a whole, or its name is free.
            if network(&["list"]).run().ok().json_lines().len() == 1 {
                network(&["create", "web"]).run().ok();
            }
            network(&["remove", "web"]).run().ok();
            host.assert_same(&before);
        },
    );
    at_every_change(
        6,
        || {
            used();
            (network(&["remove", "web"]), ())
        },
        |()| {
            network(&["remove", "--force", "web"]).run().ok();
            network(&["prune"]).run().ok();
            host.assert_same(&before);
        },
    );
}

#[test]
fn a_create_on_a_network_that_has_no_bridge_yet_is_collected_and_its_bridge_removed() {
    let host = Host::new();
    let empty = host.fingerprint();
    let run = |words: &[&str]| host.run(&[NET, words].concat()).ok();
    let create = ["bocker-net", "create", "--new", "--network", "web"];
    run(&["network", "create", "web", "--ipv6", "--isolated"]);
    at_every_change(
        40,
        || (host.call(&create), ()),
        |()| {
            run(&["gc", "--grace", "0"]);
            run(&["reset"]);
            assert!(!host.sh("ip -br link").text().contains("net_"));
        },
    );
    // One that was left half made is completed.
    let document = run(&create[1..]).stdout;
    let delete = host.call(&["bocker-net", "delete"]).stdin(document);
    delete.run().ok();
    run(&["network", "prune"]);
    run(&["reset"]);
    host.assert_same(&empty);
}
