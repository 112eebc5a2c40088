//! Many containers at once, and two roots on one machine.

use std::collections::BTreeSet;

use bocker_tests::Host;

const COUNT: usize = 20;

#[test]
fn twenty_containers_at_once_have_twenty_ids_addresses_and_outputs_and_leave_nothing() {
    let host = Host::new();
    let rootfs = host.busybox_rootfs("rootfs").display().to_string();
    host.run(&["bocker", "system", "setup"]).ok();
    host.run(&["bocker", "run", "--rm", "--rootfs", &rootfs, "true"])
        .ok();
    let before = host.fingerprint();
    // Each waits until all are there, so that all addresses are taken at one time.
    let script = "echo $0; hostname; ip -4 -o addr show eth0 | awk '{print $4}'; read go";
    let running: Vec<_> = (0..COUNT)
        .map(|number| {
            let line = format!("{{ sleep 8; echo go; }} | bocker run -i --rm --rootfs {rootfs} sh -c \"$0\" number-{number}");
            host.spawn(&["sh", "-c", &line, script])
        })
        .collect();
    let outputs: Vec<String> = running.into_iter().map(|one| one.wait().text()).collect();
    let mut ids = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    for (number, output) in outputs.iter().enumerate() {
        let lines: Vec<&str> = output.lines().collect();
        assert_eq!(lines.len(), 3, "{output}");
        assert_eq!(lines[0], format!("number-{number}"));
        assert!(
            lines[1].starts_with("ps_"),
            "the hostname is the id: {output}"
        );
        assert!(lines[2].ends_with("/16"), "{output}");
        ids.insert(lines[1].to_owned());
        addresses.insert(lines[2].to_owned());
    }
    assert_eq!(
        (ids.len(), addresses.len()),
        (COUNT, COUNT),
        "{ids:?} {addresses:?}"
    );
    host.assert_same(&before);
}

#[test]
fn two_roots_on_one_machine_never_touch_each_others_things() {
    let host = Host::new();
    let rootfs = host.busybox_rootfs("rootfs").display().to_string();
    let other = host.another_root("other");
    let in_other = |words: &[&str]| host.call(words).env("BOCKER_ROOT", &other);
    host.run(&["bocker", "system", "setup"]).ok();

    let mine = host
        .run(&[
            "bocker", "run", "-d", "--name", "mine", "--rootfs", &rootfs, "sleep", "1000",
        ])
        .text();
    let theirs = in_other(&[
        "bocker", "run", "-d", "--name", "mine", "--rootfs", &rootfs, "sleep", "1000",
    ])
    .run()
    .text();
    assert_ne!(
        mine.trim(),
        theirs.trim(),
        "ids are the machine's, names are a root's"
    );

    let address = |words: &dyn Fn(&[&str]) -> bocker_tests::Output, id: &str| {
        words(&[
            "bocker", "exec", id, "ip", "-4", "-o", "addr", "show", "eth0",
        ])
        .text()
    };
    let a = address(&|words| host.run(words), mine.trim());
    let b = address(&|words| in_other(words).run(), theirs.trim());
    assert_ne!(a, b, "leases are the bridge's, not a root's");

    // Half-made things of the other root, which its own gc would take.
    let left = in_other(&[
        "sh",
        "-c",
        "bocker-snap create --rootfs \"$0\" | BOCKER_FAIL_AT=kill:net.veth bocker-net create",
        &rootfs,
    ])
    .run();
    assert_ne!(left.code, 0, "{left}");
    let before = host.fingerprint();
    for tool in ["bocker-snap", "bocker-net", "bocker-cg", "bocker-spawn"] {
        host.run(&[tool, "gc", "--grace", "0"]).ok();
    }
    host.assert_same(&before);
    assert!(
        !host
            .run(&["bocker", "ps", "-q"])
            .text()
            .contains(theirs.trim())
    );
    host.run(&["bocker", "inspect", theirs.trim()]).exits(1);
    host.run(&["bocker", "system", "reset", "--force"]);
    in_other(&["bocker", "exec", theirs.trim(), "true"])
        .run()
        .ok();

    in_other(&["bocker", "rm", "-f", theirs.trim()]).run().ok();
    in_other(&["bocker", "system", "prune", "--force"]).run();
    host.run(&["bocker", "rm", "-f", "mine"]);
}
