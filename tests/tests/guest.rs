//! The virtual machine of the tests: that it is another machine, and that whatever ends it early is a failure.
//! `make test` runs whole files of tests in it beside these.

use std::time::Duration;

use bocker_tests::{Host, Output, need_guest};

/// How long a machine may take, the host being busy; its own limit ends it long before.
const PATIENCE: Duration = Duration::from_secs(400);

fn in_guest(host: &Host, words: &[&str]) -> Output {
    host.call(&[&[env!("CARGO_BIN_EXE_in-guest")], words].concat())
        .env("BOCKER_BIN_DIR", host.bins())
        .timeout(PATIENCE)
        .run()
}

#[test]
fn a_guest_is_a_machine_with_cgroup_v2_alone_that_ends_with_the_programs_status() {
    if !need_guest() {
        return;
    }
    let host = Host::new();
    let script = "grep -c cgroup2 /proc/mounts; grep -c 'cgroup cgroup ' /proc/mounts; echo \"$1\"; echo error >&2; exit 7";
    let output = in_guest(&host, &["sh", "-c", script, "sh", "it's \"quoted\""]);
    assert_eq!(
        output.exits(7).stdout,
        "1\n0\nit's \"quoted\"\nerror\n",
        "and no message of the kernel's"
    );
}

#[test]
fn a_guest_whose_kernel_panics_has_failed() {
    if !need_guest() {
        return;
    }
    let host = Host::new();
    in_guest(
        &host,
        &["sh", "-c", "echo so far; echo c > /proc/sysrq-trigger"],
    )
    .exits(125)
    .says("ended before the program did")
    .says("Kernel panic - not syncing: sysrq triggered crash");
}

#[test]
fn a_guest_that_hangs_has_failed() {
    if !need_guest() {
        return;
    }
    let host = Host::new();
    in_guest(&host, &["--limit", "2", "sleep", "1000"])
        .exits(125)
        .says("the guest hung");
}
