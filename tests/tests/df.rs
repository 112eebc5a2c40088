//! `bocker system df`: what it says comes back is what the filesystem gains; and what prunes list is what they remove.

use std::fs;
use std::path::PathBuf;

use bocker_tests::{Host, Output, need};
use serde_json::Value;

/// A machine whose `BOCKER_ROOT` has a filesystem to itself, so that all that is gained there is bocker's.
struct Machine {
    host: Host,
    place: PathBuf,
    root: PathBuf,
    /// How far, in bytes and in percent, what is gained may be from what was promised: directories do not shrink when names go,
    /// and of the trees of btrfs only the items are known.
    tolerance: (u64, u64),
}

impl Machine {
    fn on(filesystem: &str) -> Machine {
        let host = Host::new();
        let place = host.another_root("place");
        let (make, tolerance) = match filesystem {
            "btrfs" => ("mkfs.btrfs -q -m single", (512 << 10, 1)),
            _ => ("mkfs.ext4 -q", (64 << 10, 0)),
        };
        // In memory: what is written is to be on the disk before anything is counted, over and over.
        host.sh(&format!(
            "cd {0} && mount -t tmpfs tmpfs . && cd {0} && truncate -s 600M disk && {make} disk && mount -o loop disk {0}",
            place.display()
        ))
        .ok();
        let root = place.join("bocker");
        Machine {
            host,
            place,
            root,
            tolerance,
        }
    }

    fn sh(&self, script: &str) -> Output {
        let script = format!("cd {} && {script}", self.host.scratch().display());
        let call = self.host.call(&["sh", "-c", &script]);
        call.env("BOCKER_ROOT", &self.root).run()
    }

    fn df(&self) -> Vec<Value> {
        self.sh("bocker system df --json").ok().json_lines()
    }

    /// The line of all images, containers, volumes or leftovers.
    fn total(&self, kind: &str, member: &str) -> u64 {
        let lines = self.df();
        let line = lines.iter().find(|line| line["kind"] == kind);
        line.and_then(|line| line[member].as_u64())
            .unwrap_or_else(|| panic!("{kind} {member}: {lines:?}"))
    }

    /// Bytes that are free once everything is written and everything that was removed is freed.
    fn free(&self) -> u64 {
        let place = self.place.display();
        let (_, percent) = self.tolerance;
        if percent > 0 {
            // 'btrfs subvolume sync' looks once a second.
            self.host
                .wait_for("subvolumes that were removed are freed", || {
                    let left =
                        format!("btrfs filesystem sync {place} && btrfs subvolume list -d {place}");
                    self.sh(&left).ok().stdout.is_empty().then_some(())
                });
        }
        let free = self
            .sh(&format!("sync -f {place} && stat -f -c '%f %S' {place}"))
            .text();
        let numbers: Vec<u64> = free
            .split_whitespace()
            .map(|word| word.parse().expect("a number"))
            .collect();
        numbers.iter().product()
    }

    /// Does it, and compares what it has freed with what was promised.
    fn gains(&self, promised: u64, script: &str) {
        assert!(promised > 1 << 20, "{script}: only {promised} are promised");
        let before = self.free();
        self.sh(script).ok();
        let gained = self.free() - before;
        let (bytes, percent) = self.tolerance;
        let off = gained.abs_diff(promised);
        assert!(
            off <= bytes + promised * percent / 100,
            "{script}: {promised} were promised and {gained} gained"
        );
    }
}

#[test]
fn what_df_calls_reclaimable_is_what_the_filesystem_gains() {
    if !need("mkfs.ext4 mkfs.btrfs btrfs") {
        return;
    }
    for filesystem in ["ext4", "btrfs"] {
        let machine = Machine::on(filesystem);
        let base = machine.host.busybox_rootfs("base");
        for number in 0..200 {
            let bytes = vec![(number % 251) as u8; 20_000 + number * 100];
            fs::write(base.join(format!("etc/{number}")), bytes).expect("a file");
        }
        let base = base.display();
        let random = |path: &str, megabytes: u32| {
            format!("dd if=/dev/urandom of={path} bs=1M count={megabytes}")
        };
        machine
            .sh(&format!(
                "set -e; {}; ln {base}/random {base}/again
                bocker init {base} base:1; bocker run --rm --network none base:1 true
                bocker run --network none --name derived base:1 {}; bocker commit derived derived:1
                bocker run --network none --name kept base:1 {}
                bocker-snap import derived:1 >/dev/null
                bocker run --network none --rm -v cache:/data base:1 {}
                mkdir other; {}; bocker init other other:1; bocker-snap import other:1 >/dev/null
                head -c 2000000 /dev/urandom > $BOCKER_ROOT/images/blobs/sha256/$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n')",
                random(&format!("{base}/random"), 6),
                random("/written", 3),
                random("/etc/0", 2),
                random("/data/file", 4),
                random("other/file", 5),
            ))
            .ok();

        // One image alone, by what is told of it; then everything of one kind after another.
        let lines = machine.df();
        let named = |name: &str| {
            let is_named = |line: &&Value| line["references"].to_string().contains(name);
            lines.iter().find(is_named).expect("an image")
        };
        assert_eq!(named("other")["shared"], 0);
        assert!(named("derived")["shared"].as_u64() > Some(6 << 20));
        let unique = named("derived")["unique"].as_u64().expect("bytes");
        machine.gains(unique, "bocker rmi derived:1");
        let leftovers = machine.total("leftovers", "reclaimable");
        machine.gains(leftovers, "bocker-pull gc --grace 0");
        assert_eq!(machine.total("leftovers", "size"), 0);
        let containers = machine.total("containers", "reclaimable");
        machine.gains(containers, "bocker rm derived kept");
        assert_eq!(machine.total("containers", "count"), 0);
        assert_eq!(machine.total("images", "active"), 0);
        let images = machine.total("images", "reclaimable");
        assert_eq!(images, machine.total("images", "size"));
        machine.gains(images, "bocker image prune --all --force");
        assert_eq!(machine.total("images", "count"), 0);
        let volumes = machine.total("volumes", "reclaimable");
        machine.gains(volumes, "bocker volume prune --all --force");
        assert_eq!(machine.total("volumes", "size"), 0);
    }
}

#[test]
fn df_is_shown_as_docker_shows_it() {
    let host = Host::new();
    let rootfs = host.busybox_rootfs("rootfs").display().to_string();
    host.sh(&format!("bocker init {rootfs} base:1")).ok();
    host.run(&[
        "bocker",
        "run",
        "--network",
        "none",
        "--name",
        "web",
        "base:1",
        "true",
    ])
    .ok();
    let shown = host.run(&["bocker", "system", "df"]).ok().stdout;
    let words: Vec<Vec<&str>> = shown
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        words[0],
        ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"],
        "{shown}"
    );
    assert_eq!(words[1][..3], ["Images", "1", "1"], "{shown}");
    assert_eq!(words[2][..3], ["Containers", "1", "0"], "{shown}");
    assert_eq!(words[2][5], "(100%)", "{shown}");
    assert_eq!(words[3], ["Volumes", "0", "0", "0B", "0B"], "{shown}");
    let template = "{{.Type}} {{.TotalCount}}";
    let shown = host.run(&["bocker", "system", "df", "--format", template]);
    assert_eq!(
        shown.ok().stdout,
        "Images 1\nContainers 1\nVolumes 0\nLeftovers 0\n"
    );
    let shown = host.run(&["bocker", "system", "df", "-v"]).ok().stdout;
    assert!(shown.contains("base:1") && shown.contains("web"), "{shown}");
    host.run(&["bocker", "rm", "web"]).ok();
}

#[test]
fn an_image_prune_takes_those_without_a_name_and_with_all_those_that_no_container_is_made_of() {
    let host = Host::new();
    let rootfs = host.busybox_rootfs("rootfs");
    let init = |name: &str| {
        fs::write(rootfs.join("etc/name"), name).expect("a file");
        host.sh(&format!("bocker init {} {name}", rootfs.display()))
            .ok();
    };
    init("used:1");
    let left = || host.run(&["bocker-pull", "list"]).ok().json_lines().len();
    host.run(&[
        "bocker",
        "run",
        "--network",
        "none",
        "--name",
        "web",
        "used:1",
        "true",
    ])
    .ok();
    host.run(&["bocker", "commit", "web", "unused:1"]).ok();
    let dangling = host.run(&["bocker", "image", "prune", "--force"]).ok();
    assert_eq!((&*dangling.stdout, left()), ("", 2));
    // Another takes its name.
    host.run(&["bocker", "tag", "used:1", "unused:1"]).ok();
    assert_eq!(left(), 3);
    let listed = host.run(&["bocker", "image", "prune", "--dry-run"]).ok();
    assert_eq!((listed.stdout.lines().count(), left()), (1, 3));
    host.run(&["bocker", "image", "prune"]).exits(125);
    assert_eq!(left(), 3, "nobody was asked");
    host.run(&["bocker", "image", "prune", "--force"]).ok();
    assert_eq!(left(), 2);
    host.run(&["bocker", "image", "prune", "-a", "-f"]).ok();
    assert_eq!(left(), 2, "both names of the image that is used");
    host.run(&["bocker", "rm", "web"]).ok();
    host.run(&["bocker", "image", "prune", "-a", "-f"]).ok();
    assert_eq!(left(), 0);
    assert!(
        fs::read_dir(host.root().join("layers"))
            .expect("layers")
            .next()
            .is_none()
    );
}

#[test]
fn a_collection_with_a_list_removes_what_is_listed_and_not_what_has_come_since() {
    let host = Host::new();
    let rootfs = host.busybox_rootfs("rootfs").display().to_string();
    host.sh(&format!("bocker init {rootfs} base:1")).ok();
    let blobs = host.root().join("images/blobs/sha256");
    let garbage = |name: &str| {
        let path = blobs.join(name.repeat(64));
        fs::write(&path, name).expect("a blob");
        path
    };
    let dead = |id: &str| {
        let folder = host.root().join("containers").join(id);
        fs::create_dir_all(&folder).expect("a container's folder");
        folder
    };
    let (listed, folder) = (garbage("a"), dead("ps_aaaaaa"));
    let mut since = Vec::new();
    for (tool, name) in [("bocker-pull", "b"), ("bocker-snap", "c")] {
        fs::write(&listed, "a").expect("a blob");
        let list = host
            .run(&[tool, "gc", "--grace", "0", "--dry-run"])
            .ok()
            .stdout;
        let later = list
            .lines()
            .filter(|line| since.iter().all(|name| !line.contains(name)));
        let list: String = later.map(|line| format!("{line}\n")).collect();
        garbage(name);
        dead(&format!("ps_{}", name.repeat(6)));
        since.push(name.repeat(6));
        let collect = [tool, "gc", "--grace", "0", "--listed"];
        host.call(&collect).stdin(list).run().ok();
        assert!(!listed.exists());
        for name in ["b", "c"]
            .iter()
            .filter(|name| since.contains(&name.repeat(6)))
        {
            assert!(blobs.join(name.repeat(64)).exists(), "{tool} {name}");
            let id = format!("containers/ps_{}", name.repeat(6));
            assert!(host.root().join(id).exists(), "{tool} {name}");
        }
    }
    assert!(!folder.exists());
    host.call(&["bocker-snap", "gc", "--listed"])
        .stdin("no list")
        .run()
        .exits(125)
        .says("gc --dry-run");
    // Without a list all of it goes.
    host.run(&["bocker-snap", "gc", "--grace", "0"]).ok();
    for path in ["images/blobs/sha256", "containers"] {
        let left = fs::read_dir(host.root().join(path)).expect(path);
        let left: Vec<_> = left.flatten().map(|entry| entry.file_name()).collect();
        let strangers = ["b", "c"].map(|name| name.repeat(6));
        assert!(
            left.iter().all(|name| strangers
                .iter()
                .all(|stranger| !name.to_string_lossy().contains(stranger))),
            "{left:?}"
        );
    }
}
