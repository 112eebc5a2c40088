//! bocker-cg.

use bocker_tests::{Call, Host};

use crate::{at_every_change, collect};

const CG: &[&str] = &["bocker-cg"];
const LIMITS: [&str; 6] = ["--memory", "64m", "--pids-limit", "50", "--cpus", "1.5"];

fn create(host: &Host) -> Call {
    host.call(&[&["bocker-cg", "create", "--new"], &LIMITS[..]].concat())
}

fn delete(host: &Host, document: &str) -> Call {
    host.call(&["bocker-cg", "delete"]).stdin(document)
}

#[test]
fn a_create_is_collected_and_so_is_its_undo() {
    let host = Host::new();
    let before = host.fingerprint();
    for fail_at in ["", "cg.pids"] {
        at_every_change(
            12,
            || (create(&host).env("BOCKER_FAIL_AT", fail_at), ()),
            |()| collect(&host, CG, &before),
        );
    }
}

#[test]
fn a_container_whose_groups_were_left_half_made_is_removed_as_any_other() {
    let host = Host::new();
    let rootfs = host.busybox_rootfs("rootfs").display().to_string();
    let snap = [
        "bocker-snap",
        "create",
        "--rootfs",
        &rootfs,
        "--name",
        "web",
    ];
    host.run(&snap).ok();
    host.run(&["bocker", "rm", "-f", "web"]).ok();
    let before = host.fingerprint();
    at_every_change(
        10,
        || {
            let words = [&["bocker-cg", "create"], &LIMITS[..]].concat();
            let document = host.run(&snap).text();
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
    let host = Host::new();
    let before = host.fingerprint();
    for by_collection in [false, true] {
        at_every_change(
            8,
            || {
                let document = create(&host).run().text();
                (delete(&host, &document), document)
            },
            |document| {
                match by_collection {
                    true => host.run(&["bocker-cg", "gc", "--grace", "0"]).ok(),
                    false => delete(&host, &document).run().ok(),
                };
                host.assert_same(&before);
            },
        );
    }
}

#[test]
fn a_collection_is_finished_by_the_next() {
    let host = Host::new();
    let before = host.fingerprint();
    at_every_change(
        8,
        || {
            create(&host).run().ok();
            (host.call(&["bocker-cg", "gc", "--grace", "0"]), ())
        },
        |()| collect(&host, CG, &before),
    );
}
