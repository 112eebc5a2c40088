//! `bocker system setup --btrfs SIZE`: a pool is made, comes back after a restart, grows, and goes without a trace.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use bocker_tests::{Host, Output, need};

/// A machine with a `BOCKER_ROOT` that is not there yet, on a filesystem other than btrfs.
struct Machine {
    host: Host,
    root: PathBuf,
}

impl Machine {
    fn new() -> Machine {
        let host = Host::new();
        let root = host.another_root("place").join("bocker");
        Machine { host, root }
    }

    fn pool(&self) -> PathBuf {
        self.root.with_extension("btrfs")
    }

    fn sh(&self, script: &str) -> Output {
        let call = self.host.call(&["bash", "-c", script]);
        call.env("BOCKER_ROOT", &self.root).run()
    }

    fn setup(&self, size: &str) -> Output {
        self.sh(&format!("bocker-snap setup --btrfs {size}"))
    }

    fn is_mounted(&self) -> bool {
        self.mounts() > 0
    }

    /// How often something is mounted on `BOCKER_ROOT`.
    fn mounts(&self) -> usize {
        let mounts = self.host.run(&["cat", "/proc/self/mountinfo"]).text();
        let root = format!(" {} ", self.root.display());
        mounts.lines().filter(|line| line.contains(&root)).count()
    }

    /// As after a restart: nothing is mounted, and /run is empty.
    fn restart(&self) {
        self.host
            .run(&["umount".as_ref(), self.root.as_os_str()])
            .ok();
        self.host.sh("rm -rf /run/bocker/*").ok();
        assert!(!self.is_mounted());
    }

    /// The loop devices that have the pool's file.
    fn loop_devices(&self) -> usize {
        let listed = self.sh(&format!("losetup -n -O NAME -j {}", self.pool().display()));
        listed.ok().stdout.lines().count()
    }

    fn image(&self) {
        let rootfs = self.host.busybox_rootfs("rootfs").display().to_string();
        self.sh(&format!("bocker-snap init {rootfs} --name busybox:1"))
            .ok();
    }

    /// Another disk for `BOCKER_ROOT`, of as many MiB.
    fn on_a_disk_of(&mut self, mebibytes: u64) {
        let place = self.host.another_root("disk");
        let file = self.host.scratch().join("disk");
        let (file, place_shown) = (file.display(), place.display());
        self.host
            .sh(&format!(
                "truncate -s {mebibytes}M {file} && mkfs.ext4 -q -m 0 {file} && mount -o loop {file} {place_shown}"
            ))
            .ok();
        self.root = place.join("bocker");
    }
}

fn can_run() -> bool {
    need("mkfs.btrfs mkfs.ext4 losetup")
}

#[test]
fn a_pool_is_made_used_and_removed_without_a_trace() {
    if !can_run() {
        return;
    }
    let machine = Machine::new();
    let before = machine.host.fingerprint();
    machine.sh("bocker system setup --btrfs 1g").ok();
    let file = fs::metadata(machine.pool()).expect("the pool");
    assert_eq!((file.len(), file.mode() & 0o777), (1 << 30, 0o600));
    assert!(file.blocks() * 512 < 64 << 20, "it is sparse");
    assert_eq!(
        fs::metadata(&machine.root).expect("the root").mode() & 0o777,
        0o700
    );

    machine.image();
    let run = machine.sh("bocker run --rm --network none busybox:1 sh -c 'echo x > /new; cat /new; grep \" / / \" /proc/self/mountinfo || cat /proc/self/mountinfo'");
    let text = run.ok().stdout;
    assert!(
        text.starts_with("x\n") && text.contains(" btrfs "),
        "{text}"
    );
    let info = machine.sh("bocker system info").ok().json()["snap"].clone();
    assert_eq!(info["driver"], "btrfs");
    assert_eq!(info["pool"]["size"], 1 << 30);
    assert_eq!(info["pool"]["direct_io"], true);
    assert!(info["pool"]["used"].as_u64() > Some(1 << 20));
    assert_eq!(info["pool"].get("warning"), None);

    machine.sh("bocker system reset --force").ok();
    assert!(!machine.is_mounted() && !machine.pool().exists() && !machine.root.exists());
    machine.host.wait_for("the loop device goes", || {
        (machine.loop_devices() == 0).then_some(())
    });
    machine
        .host
        .run(&["bocker", "system", "reset", "--force"])
        .ok();
    machine.host.assert_same(&before);
}

#[test]
fn whichever_tool_comes_first_after_a_restart_finds_the_pool_mounted() {
    if !can_run() {
        return;
    }
    let machine = Machine::new();
    machine.setup("1g").ok();
    machine.image();
    machine.sh("bocker-snap create --name web busybox:1").ok();
    for line in [
        "bocker images",
        "bocker ps",
        "bocker-pull list",
        "bocker-spawn list",
        "bocker-net list",
        "bocker-cg list",
        "bocker-snap setup",
        "bocker system setup",
        "bocker-pull gc",
    ] {
        machine.restart();
        machine.sh(line).ok();
        assert!(machine.is_mounted(), "{line}");
        assert_eq!(machine.loop_devices(), 1);
    }
    machine.restart();
    assert!(
        machine
            .sh("bocker images")
            .ok()
            .stdout
            .contains("busybox:1")
    );
    machine.restart();
    // Twenty at once.
    machine
        .sh("for i in $(seq 20); do bocker-snap list & done | sort | uniq -c | grep -q '^ *20 .*\"web\"'")
        .ok();
    assert_eq!(machine.mounts(), 1);
    machine
        .sh("bocker-snap delete web && bocker-snap reset")
        .ok();
    assert!(!machine.pool().exists());
}

#[test]
fn a_pool_that_cannot_be_mounted_is_said_and_nothing_is_written_beside_it() {
    if !can_run() {
        return;
    }
    let machine = Machine::new();
    machine.setup("256m").ok();
    machine.restart();
    machine.sh(&format!("cp {0} {0}.kept && dd if=/dev/zero of={0} bs=1M count=1 conv=notrunc seek=0 2>/dev/null", machine.pool().display())).ok();
    machine
        .sh("bocker-snap list")
        .exits(125)
        .says("is not mounted: bocker-snap: cannot mount");
    machine
        .sh("bocker images")
        .exits(125)
        .says("is not mounted");
    assert_eq!(
        machine.sh("bocker-snap create x").exits(125).json()["bocker"]["error"]["stage"],
        "snap"
    );
    assert_eq!(
        fs::read_dir(&machine.root)
            .expect("the mount point")
            .count(),
        0
    );
    machine
        .sh(&format!(
            "mv {0}.kept {0} && bocker-snap list",
            machine.pool().display()
        ))
        .ok();
    machine.sh("bocker-snap reset").ok();
}

#[test]
fn a_pool_grows_while_a_container_runs_in_it_and_never_shrinks() {
    if !can_run() {
        return;
    }
    let machine = Machine::new();
    machine.setup("300m").ok();
    machine.image();
    let id = machine
        .sh("bocker run -d --network none busybox:1 sleep 1000")
        .ok()
        .text();
    let id = id.trim();
    machine
        .sh(&format!(
            "bocker exec {id} dd if=/dev/zero of=/large bs=1M count=400"
        ))
        .exits(1);
    machine.sh(&format!("bocker exec {id} rm /large")).ok();
    machine.sh("bocker system setup --btrfs 1g").ok();
    machine
        .sh(&format!(
            "bocker exec {id} dd if=/dev/urandom of=/large bs=1M count=400 conv=fsync"
        ))
        .ok();
    // btrfs counts what is written when it commits, and fsync(2) may do with its log.
    machine.sh("sync -f $BOCKER_ROOT").ok();
    let info = machine.sh("bocker-snap info").ok().json();
    assert_eq!(info["pool"]["size"], 1 << 30);
    assert!(info["pool"]["used"].as_u64() > Some(400 << 20));
    machine.setup("1g").ok();
    machine.setup("512m").exits(125).says("a pool only grows");
    machine.restart_is_refused_while(id);
    machine
        .sh("bocker rm -f $(bocker-snap list | jq -r .id) && bocker-snap reset")
        .ok();
}

impl Machine {
    /// What a container runs in is not pulled away.
    fn restart_is_refused_while(&self, id: &str) {
        self.sh("bocker-snap reset")
            .exits(125)
            .says(&format!("{id} is running"));
        assert!(self.is_mounted());
    }
}

#[test]
fn a_disk_that_is_nearly_full_is_refused_and_one_that_becomes_so_is_warned_of() {
    if !can_run() {
        return;
    }
    let mut machine = Machine::new();
    machine.on_a_disk_of(600);
    machine.setup("256m").exits(125).says("is nearly full");
    assert_eq!(
        fs::read_dir(machine.root.parent().expect("a disk"))
            .expect("a disk")
            .count(),
        1
    );

    let mut machine = machine;
    machine
        .host
        .run(&[
            "umount".as_ref(),
            machine.root.parent().expect("a disk").as_os_str(),
        ])
        .ok();
    fs::remove_dir(machine.root.parent().expect("a disk")).expect("a folder");
    machine.on_a_disk_of(2000);
    // Larger than what is free: only what is written counts.
    machine.setup("8g").ok().says("may grow to 8 GiB");
    assert_eq!(
        machine.sh("bocker-snap info").ok().says("").json()["pool"].get("warning"),
        None
    );
    machine
        .sh("fallocate -l 1200M $(dirname $BOCKER_ROOT)/large")
        .ok();
    machine.setup("9g").exits(125).says("is nearly full");
    let info = machine
        .sh("bocker-snap info")
        .ok()
        .says("becomes read-only")
        .json();
    assert!(info["pool"]["warning"].is_string());
    assert_eq!(info["pool"]["size"], 8_u64 << 30);
    machine.sh("bocker-snap reset").ok();
    assert!(!machine.pool().exists());
}

#[test]
fn setups_at_once_make_one_pool_and_both_succeed() {
    if !can_run() {
        return;
    }
    let machine = Machine::new();
    for _ in 0..5 {
        machine
            .sh("for i in 1 2 3 4; do bocker-snap setup --btrfs 256m & done | jq -r .size | uniq -c | grep -qx ' *4 268435456'")
            .ok();
        assert!(machine.is_mounted());
        assert_eq!(machine.mounts(), 1);
        assert_eq!(machine.loop_devices(), 1);
        machine.sh("bocker-snap reset").ok();
    }
    let left: Vec<_> = fs::read_dir(machine.root.parent().expect("a folder"))
        .expect("a folder")
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_setup_that_fails_or_is_killed_at_a_step_is_taken_back_or_finished_by_the_next() {
    if !can_run() {
        return;
    }
    let machine = Machine::new();
    let place = machine.root.parent().expect("a folder").to_owned();
    let before = machine.host.fingerprint();
    for step in ["snap.pool", "snap.loop", "snap.grow"] {
        machine
            .sh(&format!(
                "BOCKER_FAIL_AT={step} bocker-snap setup --btrfs 256m"
            ))
            .exits(125);
        assert!(!machine.pool().exists() && !machine.is_mounted(), "{step}");
        machine.host.wait_for("the loop device goes", || {
            (machine.loop_devices() == 0).then_some(())
        });
        for end in [
            "bocker-snap setup --btrfs 256m",
            "bocker-snap list",
            "bocker-snap reset",
        ] {
            machine
                .sh(&format!(
                    "BOCKER_FAIL_AT=kill:{step} bocker-snap setup --btrfs 256m"
                ))
                .exits(137);
            machine.sh(end).ok();
            machine.sh("bocker-snap reset").ok();
            let left: Vec<_> = fs::read_dir(&place).expect("a folder").collect();
            assert!(left.is_empty(), "{step}, {end}: {left:?}");
        }
    }
    // Killed within the first step: what is half made under its passing name is made again, or removed.
    for end in [
        "bocker-snap setup --btrfs 256m && bocker-snap reset",
        "bocker-snap reset",
    ] {
        fs::write(place.join("bocker.btrfs.new"), "half").expect("a file");
        machine.sh(end).ok();
        let left: Vec<_> = fs::read_dir(&place).expect("a folder").collect();
        assert!(left.is_empty(), "{end}: {left:?}");
    }
    machine.host.assert_same(&before);
}

#[test]
fn what_is_wrong_with_a_setup_is_said_before_anything_is_made() {
    if !can_run() {
        return;
    }
    let machine = Machine::new();
    let place = machine.root.parent().expect("a folder").to_owned();
    for (size, message) in [
        ("0", "256 MiB or more"),
        ("255m", "256 MiB or more"),
        ("x", "is not a size"),
    ] {
        machine.setup(size).exits(125).says(message);
    }
    machine.sh("bocker-snap setup").ok();
    machine
        .sh("bocker-snap setup --dry-run --btrfs 1g")
        .ok()
        .says("+ mkfs.btrfs");
    assert_eq!(fs::read_dir(&place).expect("a folder").count(), 0);

    machine.sh("mkdir -p $BOCKER_ROOT/images").ok();
    machine.setup("1g").exits(125).says("holds files already");
    machine.sh("rm -r $BOCKER_ROOT").ok();

    machine
        .sh("mount --bind /dev/null $(PATH=$PATH:/usr/sbin:/sbin command -v mkfs.btrfs)")
        .ok();
    machine
        .setup("1g")
        .exits(125)
        .says("apt install btrfs-progs");
    machine
        .sh("umount $(PATH=$PATH:/usr/sbin:/sbin command -v mkfs.btrfs)")
        .ok();
    assert_eq!(fs::read_dir(&place).expect("a folder").count(), 0);

    fs::create_dir(&machine.root).expect("a root");
    machine.host.mount_btrfs("disk", &machine.root);
    machine.setup("1g").exits(125).says("is on btrfs");
}

#[test]
fn the_file_of_a_pool_is_not_seen_in_a_view_of_the_host_or_an_image_of_it() {
    if !can_run() {
        return;
    }
    let machine = Machine::new();
    machine.setup("256m").ok();
    let place = machine
        .root
        .parent()
        .expect("a folder")
        .display()
        .to_string();
    let made = machine
        .sh(&format!("bocker-snap create --name web --rootfs {place}"))
        .ok()
        .json();
    let view = PathBuf::from(made["root"]["path"].as_str().expect("a root"));
    assert!(!view.join("bocker.btrfs").exists());
    assert!(view.join("bocker").is_dir());
    machine
        .sh(&format!("bocker-snap init {place} --name place:1"))
        .ok();
    let image = machine.sh("bocker-snap create place:1").ok().json();
    let image = PathBuf::from(image["root"]["path"].as_str().expect("a root"));
    assert!(!image.join("bocker.btrfs").exists() && image.join("bocker").is_dir());
    machine.sh("bocker-snap reset").ok();
}

#[test]
fn the_commands_that_a_setup_prints_make_the_same_pool() {
    if !can_run() {
        return;
    }
    let machine = Machine::new();
    let made = machine.sh("bocker-snap setup --btrfs 256m -v").ok();
    let lines: Vec<&str> = made
        .stderr
        .lines()
        .filter_map(|line| line.strip_prefix("+ "))
        .collect();
    let mounted = || {
        let mounts = machine.host.run(&["cat", "/proc/self/mountinfo"]).text();
        let line = mounts
            .lines()
            .find(|line| line.contains(" - btrfs "))
            .expect("mounted");
        let words: Vec<&str> = line.split(' ').collect();
        (words[5].to_owned(), words[words.len() - 1].to_owned())
    };
    let ours = mounted();
    machine.sh("bocker-snap reset").ok();
    machine.sh(&format!("set -e\n{}", lines.join("\n"))).ok();
    assert_eq!(mounted(), ours);
    assert_eq!(
        machine.sh("bocker-snap info").ok().json()["pool"]["size"],
        256 << 20
    );
    // losetup(8) makes one that does not go by itself: told so while it is mounted, it does.
    machine
        .sh("losetup -n -O NAME -j $BOCKER_ROOT.btrfs | xargs losetup -d && bocker-snap reset")
        .ok();
    let file = machine.pool().display().to_string();
    machine.host.wait_for("the loop device goes", || {
        let devices = machine.sh("losetup -n -O BACK-FILE").ok().stdout;
        (!devices.contains(&file)).then_some(())
    });
}
