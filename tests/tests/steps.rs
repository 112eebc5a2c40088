//! What `-v` prints is true: the `+` lines, run by root, make the same objects. And a dry run makes none.

use std::fs;

use bocker_tests::{Fingerprint, Host};

const CREATE: [&str; 3] = [
    "bocker-snap create",
    "bocker-net create -p 127.0.0.1:8080:80 -p 5353:53/udp",
    "bocker-cg create --cpu-shares 512 --cpus 1.5 --memory 64m --pids-limit 50",
];

fn pipeline(options: &str, source: &str) -> String {
    let [snap, net, cg] = CREATE;
    format!("{snap} {options} {source} | {net} {options} | {cg} {options}")
}

#[test]
fn the_lines_that_v_prints_make_the_same_objects() {
    let host = Host::new();
    let rootfs = host.busybox_rootfs("rootfs");
    let source = format!("--rootfs {}", rootfs.display());
    let empty = host.fingerprint();

    let made = host.sh(&pipeline("-v", &source)).ok();
    let lines: Vec<&str> = made
        .stderr
        .lines()
        .filter_map(|line| line.strip_prefix("+ "))
        .collect();
    assert!(lines.len() > 20, "{made}");
    let by_the_tools = host.fingerprint();
    assert_ne!(empty.diff(&by_the_tools).to_string(), "");

    let id = made.json()["bocker"]["id"].clone();
    let id = id.as_str().unwrap_or_default();
    let document = made.stdout.clone();
    host.call(&[
        "sh",
        "-c",
        "bocker-cg delete | bocker-net delete | bocker-snap delete >/dev/null",
    ])
    .stdin(document)
    .run()
    .ok();
    host.run(&["bocker", "system", "reset", "--force"]).ok();
    host.assert_same(&empty);

    let script = host.scratch().join("typed-by-root");
    fs::write(&script, format!("set -e\n{}\n", lines.join("\n"))).unwrap_or_else(|e| panic!("{e}"));
    host.run(&["sh".as_ref(), script.as_os_str()]).ok();
    let by_root = host.fingerprint();
    // Records that only the tools read differ in their modes and times; every object of the kernel's is the same.
    for subject in [
        "links",
        "addresses",
        "routes",
        "nftables",
        "sysctls",
        "cgroups",
        "leases",
        "mounts",
    ] {
        assert_eq!(
            objects(&by_root, subject),
            objects(&by_the_tools, subject),
            "{subject}"
        );
    }
    host.run(&["bocker", "rm", "-f", id]);
}

/// The lines of a subject. mount(8) names a layer with `lowerdir=`, fsconfig(2) with `lowerdir+=`: the mount is the same.
/// A namespace made again has another inode number.
fn objects(fingerprint: &Fingerprint, subject: &str) -> Vec<String> {
    let same = |line: &String| {
        let line = line.replace("lowerdir+=", "lowerdir=");
        match line
            .split_once("net:[")
            .and_then(|(before, rest)| Some((before, rest.split_once(']')?.1)))
        {
            Some((before, after)) => format!("{before}net:[]{after}"),
            None => line,
        }
    };
    fingerprint.section(subject).iter().map(same).collect()
}

#[test]
fn a_dry_run_prints_the_same_kinds_of_lines_and_makes_nothing() {
    let host = Host::new();
    let rootfs = host.busybox_rootfs("rootfs");
    let source = format!("--rootfs {}", rootfs.display());
    let before = host.fingerprint();
    let planned = host.sh(&pipeline("--dry-run", &source)).ok();
    host.assert_same(&before);
    assert_eq!(planned.json()["bocker"]["dry_run"], true);
    assert_eq!(planned.json()["bocker"]["id"], "ps_dryrun");
    for word in [
        "ip link add",
        "mount -t overlay",
        "memory.limit_in_bytes",
        "nft add",
    ] {
        assert!(
            planned
                .stderr
                .lines()
                .any(|line| line.starts_with("+ ") && line.contains(word)),
            "{word}: {planned}"
        );
    }
}

#[test]
fn one_stage_of_a_dry_run_makes_all_later_ones_only_print() {
    let host = Host::new();
    let rootfs = host.busybox_rootfs("rootfs");
    let before = host.fingerprint();
    let script = format!(
        "bocker-snap create --dry-run --rootfs {} | bocker-net create | bocker-cg create --memory 64m | bocker-spawn run -- true | bocker-cg delete | bocker-net delete | bocker-snap delete --status",
        rootfs.display()
    );
    host.sh(&script).exits(0);
    host.assert_same(&before);
}

#[test]
fn an_explanation_says_why_and_how_to_look_in_the_order_in_which_networking_is_taught() {
    let host = Host::new();
    let rootfs = host.busybox_rootfs("rootfs");
    let text = host
        .sh(&pipeline(
            "--dry-run --explain",
            &format!("--rootfs {}", rootfs.display()),
        ))
        .ok()
        .stderr;
    let order = ["net.netns", "net.veth", "net.address", "net.route"];
    let places: Vec<Option<usize>> = order
        .iter()
        .map(|step| text.find(&format!("# {step}: ")))
        .collect();
    assert!(
        places.iter().all(Option::is_some) && places.is_sorted(),
        "{places:?}\n{text}"
    );
    assert!(text.contains("#   look: "), "{text}");
}
