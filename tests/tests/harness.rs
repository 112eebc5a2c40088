//! The harness notices what a container may leave behind: a check that cannot fail would prove nothing.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bocker_tests::{Host, Image, Registry, need, pids_hierarchy};

/// Makes something, expects the picture to show it under `subject` as a line that holds `text`, takes it back, and
/// expects the picture to be as before.
fn notices(subject: &str, text: &str, make: &str, undo: &str) {
    let host = Host::new();
    let before = host.fingerprint();
    host.sh(make).ok();
    let after = host.fingerprint();
    let diff = before.diff(&after);
    let lines = after.section(subject);
    assert!(
        diff.contains(&format!("{subject}:")) && lines.iter().any(|l| l.contains(text)),
        "{make} shows as\n{diff}"
    );
    host.sh(undo).ok();
    host.assert_same(&before);
}

#[test]
fn a_leaked_link_is_noticed() {
    notices(
        "links",
        "\"leaked0\"",
        "ip link add leaked0 type veth peer name leaked1",
        "ip link del leaked0",
    );
}

#[test]
fn a_leaked_address_is_noticed() {
    notices(
        "addresses",
        "10.9.8.7",
        "ip addr add 10.9.8.7/24 dev lo",
        "ip addr del 10.9.8.7/24 dev lo",
    );
}

#[test]
fn a_leaked_route_is_noticed() {
    notices(
        "routes",
        "10.200.0.0/16",
        "ip route add 10.200.0.0/16 dev lo",
        "ip route del 10.200.0.0/16 dev lo",
    );
}

#[test]
fn a_leaked_mount_is_noticed() {
    notices(
        "mounts",
        "/mnt",
        "mount -t tmpfs leaked /mnt",
        "umount /mnt",
    );
}

#[test]
fn a_leaked_pinned_namespace_is_noticed() {
    notices(
        "mounts",
        "nsfs",
        ": > /run/netns/leaked; unshare --net=/run/netns/leaked true",
        "umount /run/netns/leaked; rm /run/netns/leaked",
    );
}

#[test]
fn a_leaked_cgroup_is_noticed() {
    let group = format!("{}/leaked", pids_hierarchy());
    notices(
        "cgroups",
        &group,
        &format!("mkdir {group}"),
        &format!("rmdir {group}"),
    );
}

#[test]
fn a_leaked_nftables_rule_is_noticed() {
    notices(
        "nftables",
        "leaked",
        "nft add table ip leaked; nft add chain ip leaked c; nft add rule ip leaked c counter accept",
        "nft delete table ip leaked",
    );
}

#[test]
fn a_changed_sysctl_is_noticed() {
    notices(
        "sysctls",
        "ip_forward=1",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
        "echo 0 > /proc/sys/net/ipv4/ip_forward",
    );
}

#[test]
fn leaked_files_are_noticed() {
    notices(
        "/run/bocker",
        "dir 755 ps_000000",
        "mkdir -m 755 /run/bocker/ps_000000",
        "rmdir /run/bocker/ps_000000",
    );
    notices(
        "BOCKER_ROOT",
        "file 644 a/b",
        "mkdir $BOCKER_ROOT/a && umask 022 && : > $BOCKER_ROOT/a/b",
        "rm -r $BOCKER_ROOT/a",
    );
    notices(
        "TMPDIR",
        "leaked",
        ": > $TMPDIR/leaked",
        "rm $TMPDIR/leaked",
    );
}

#[test]
fn a_changed_lease_is_noticed() {
    notices(
        "leases",
        "ps_000000",
        "mkdir -p /run/bocker/net/bridge0 && echo ps_000000 > /run/bocker/net/bridge0/10.0.0.2",
        "rm -r /run/bocker/net",
    );
}

#[test]
fn a_leaked_process_is_noticed_wherever_it_went() {
    let group = format!("{}/deep", pids_hierarchy());
    notices(
        "processes",
        "sleep 987",
        &format!(
            "mkdir {group}
             setsid -f sh -c 'echo $$ > {group}/cgroup.procs; exec sleep 987' >/dev/null 2>&1 </dev/null
             sleep 0.3"
        ),
        &format!("kill $(cat {group}/cgroup.procs); sleep 0.3; rmdir {group}"),
    );
}

#[test]
#[should_panic(expected = "+ {\"table\"")]
fn the_comparison_fails_with_the_difference() {
    let host = Host::new();
    let before = host.fingerprint();
    host.sh("nft add table ip leaked").ok();
    host.assert_same(&before);
}

#[test]
fn a_dropped_host_leaves_nothing_on_the_machine() {
    let groups = || fs::read_to_string("/proc/thread-self/cgroup").expect("cgroup");
    let netns = || fs::read_link("/proc/thread-self/ns/net").expect("netns");
    let outside = (groups(), netns());
    let host = Host::new();
    assert_ne!(netns(), outside.1);
    let root = host.root();
    host.sh(&format!(
        "mkdir {}/left; mount -t tmpfs x $BOCKER_ROOT; : > $BOCKER_ROOT/f; setsid -f sleep 600 >/dev/null 2>&1",
        pids_hierarchy()
    ))
    .ok();
    drop(host);
    assert_eq!((groups(), netns()), outside);
    assert!(!root.exists());
}

#[test]
#[should_panic(expected = "has not ended")]
fn a_program_that_hangs_fails_the_test() {
    let host = Host::new();
    host.call(&["sleep", "600"])
        .timeout(Duration::from_millis(300))
        .run();
}

#[test]
#[should_panic(expected = "something still holds its output")]
fn a_process_that_keeps_the_output_fails_the_test() {
    let host = Host::new();
    host.call(&["sh", "-c", "sleep 600 &"])
        .timeout(Duration::from_millis(300))
        .run();
}

#[test]
fn the_registry_gives_back_the_image_that_was_pushed() {
    if !need("docker-registry skopeo jq") {
        return;
    }
    let host = Host::new();
    let registry = Registry::start(&host);
    for (image, layers) in [
        (Image::simple(), 1),
        (Image::full(), 4),
        (Image::two_platforms(), 2),
        (Image::links_to_the_host(&host.scratch()), 1),
        (Image::imitation(&host.scratch()), 1),
    ] {
        let reference = registry.push(&image, "dir/name:tag");
        let seen = host
            .run(&[
                "skopeo",
                "inspect",
                "--tls-verify=false",
                &format!("docker://{reference}"),
            ])
            .ok()
            .json();
        assert_eq!(seen["Layers"].as_array().map(Vec::len), Some(layers));
    }
}

#[test]
fn the_full_image_unpacks_with_the_field_s_own_tool() {
    if !need("umoci") {
        return;
    }
    let host = Host::new();
    host.sh(&format!(
        "skopeo copy --quiet --insecure-policy oci:{} oci:$TMPDIR/image:tag && umoci unpack --image $TMPDIR/image:tag $TMPDIR/bundle",
        Image::full().layout().display()
    ))
    .ok();
    let look = "cd $TMPDIR/bundle/rootfs
        cat order data/linked-across lib/through-link becomes-dir/inside becomes-file
        ls opt/opaque; test ! -e etc/removed; test ! -e opt/gone
        stat -c '%n %a %u %g %F' usr/bin/setuid nodes/null data/private data/wild nodes/fifo
        stat -c %h data/linked
        getfattr --absolute-names -n user.note --only-values data/noted; echo
        getcap usr/bin/capable";
    assert_eq!(
        host.sh(look).text(),
        "the fourth layer\none file, three names\nin /usr/lib\na directory in the end\na file in the end\n\
         three\n\
         usr/bin/setuid 4755 0 0 regular file\nnodes/null 666 0 0 character special file\n\
         data/private 600 1000 2000 regular file\ndata/wild 7777 4000000 4000001 directory\nnodes/fifo 640 0 0 fifo\n\
         3\n\
         kept\n\
         usr/bin/capable cap_net_raw=ep\n"
    );
}

#[test]
fn a_thread_that_still_runs_does_not_keep_the_test_in_its_machine() {
    let netns = || fs::read_link("/proc/thread-self/ns/net").expect("netns");
    let outside = netns();
    let host = Host::new();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || stopped.recv());
    let begun = std::time::Instant::now();
    drop(host);
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(netns(), outside);
    drop(stop);
    assert!(thread.join().expect("the thread").is_err());
}

#[test]
fn what_a_killed_test_has_left_is_removed_by_the_next() {
    // The pid of a process that has ended.
    let mut child = std::process::Command::new("true").spawn().expect("true");
    child.wait().expect("true");
    let name = format!("bocker-test-{}-0", child.id());
    let left = [
        format!("{}/{name}/deep", pids_hierarchy()),
        format!("/var/tmp/{name}/root"),
    ];
    for folder in &left {
        fs::create_dir_all(folder).expect("mkdir");
    }
    let host = Host::new();
    drop(host);
    for folder in &left {
        assert!(!fs::exists(folder).expect("stat"), "{folder}");
    }
}

/// What comes with a package of which another program is named, or is everywhere.
const BESIDE: [&str; 4] = ["setcap", "setfattr", "/usr/lib/cni/host-local", "gzip"];

#[test]
fn make_test_installs_all_that_a_test_needs() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let makefile = fs::read_to_string(top.join("../Makefile")).expect("the Makefile");
    let (_, rest) = makefile.split_once("\nNEEDED =").expect("a list");
    let (list, _) = rest.split_once("\n#").expect("its end");
    let installed: Vec<&str> = list
        .split_whitespace()
        .filter_map(|pair| Some(pair.split_once('=')?.0))
        .chain(BESIDE)
        .collect();
    let mut folders = vec![top.join("tests"), top.join("src")];
    let mut asked = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let source = fs::read_to_string(&path).expect("a source");
            for part in source.split("need(\"").skip(1) {
                let (programs, _) = part.split_once('"').expect("the end of a string");
                for program in programs.split_whitespace() {
                    asked += 1;
                    let path = path.display();
                    assert!(installed.contains(&program), "{program}, of {path}");
                }
            }
        }
    }
    assert!(asked > 100, "{asked} programs are asked for");
}
