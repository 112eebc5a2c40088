//! The virtual machine of the tests: that it is another machine, and that whatever ends it early is a failure.
//! `make test` runs whole files of tests in it beside these.

use std::fs::File;
use std::time::Duration;

use bocker_tests::{Host, Output, need_guest};

/// How long a machine may take, the host being busy; its own limit ends it long before.
const PATIENCE: Duration = Duration::from_secs(900);

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

/// Leaves containers on the disk, one in the background, one in the foreground, one that has ended, and restarts the machine.
const BEFORE: &str = r#"set -e
    mkdir -p /var/base/bin /var/base/etc; cp /bin/busybox /var/base/bin; ln -s busybox /var/base/bin/sh
    for applet in cat echo sleep hostname; do ln -s busybox /var/base/bin/$applet; done
    bocker init /var/base > /var/image
    image=$(sed 's/Created: //' /var/image)
    bocker run -d --name box -p 8080:80 --memory 64m $image '[ -e /file ] || echo kept > /file; echo logged; exec sleep 1000' > /dev/null
    bocker run --name done $image 'exit 3' || true
    bocker run --name front $image sleep 1000 & until bocker exec front echo runs 2> /dev/null; do sleep 0.1; done
    until bocker exec box cat /file 2> /dev/null; do sleep 0.1; done
    bocker ps --format '{{.Names}} {{.State}}'
    ls /sys/fs/cgroup/bocker | grep -c ps_
    sync
    reboot -f"#;

/// Looks at what the machine knows of them, starts one again, and removes them all.
const AFTER: &str = r#"
    ls -A /run/bocker /sys/fs/cgroup/bocker 2> /dev/null
    bocker ps --format '{{.Names}} {{.State}}'
    bocker logs box
    bocker start box
    bocker exec box cat /file
    bocker exec box cat /sys/fs/cgroup/memory.max
    bocker ps --format '{{.Names}} {{.State}} {{.Ports}}'
    bocker run --rm $(sed 's/Created: //' /var/image) echo as before
    bocker rm -f box done front
    bocker system reset --force
    ls -A /run/bocker /sys/fs/cgroup/bocker /var/bocker/containers 2> /dev/null; nft list ruleset"#;

#[test]
fn after_a_restart_of_the_machine_containers_have_exited_and_start_again() {
    if !need_guest() {
        return;
    }
    let host = Host::new();
    let disk = host.scratch().join("disk");
    File::create(&disk)
        .and_then(|file| file.set_len(1 << 30))
        .expect("a disk");
    let disk = disk.to_str().expect("UTF-8");
    host.run(&["mkfs.ext4", "-q", "-F", disk]).ok();
    let before = in_guest(&host, &["--disk", disk, "sh", "-c", BEFORE]);
    assert_eq!(
        before.stdout, "runs\nkept\nfront running\ndone exited\nbox running\n2\n",
        "{before}"
    );
    before.exits(125).says("ended before the program did");
    let after = in_guest(&host, &["--disk", disk, "sh", "-c", AFTER]).text();
    assert_eq!(
        after,
        "front exited\ndone exited\nbox exited\nlogged\nbox\nkept\n67108864\n\
         front exited \ndone exited \nbox running 0.0.0.0:8080->80/tcp\n\
         as before\nRemoved: box\nRemoved: done\nRemoved: front\n/run/bocker:\n"
    );
}
