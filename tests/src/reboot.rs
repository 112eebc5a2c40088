//! A restart of the machine, as far as it can be seen: no process, mount, network or cgroup of before, and another boot id.

use std::fs;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::host::Host;

/// Where the kernel tells one boot from another (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const RUN: &str = "/run/bocker";

/// What becomes of `/run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// A tmpfs, as nearly everywhere.
    Emptied,
    /// A folder of a disk, as in some chroots: the files stay.
    Kept,
}

impl Host {
    /// Stops this piece of the machine without a warning, and starts it again.
    ///
    /// # Panics
    /// When the kernel keeps anything of before.
    pub fn reboot(&self, run: Run) {
        self.cgroups.kill();
        self.cgroups.clear();
        for mount in mounts_beneath(&[&self.dir, Path::new(RUN)]) {
            umount2(mount.as_str(), MntFlags::MNT_DETACH).expect("unmount");
        }
        if run == Run::Emptied {
            for entry in fs::read_dir(RUN).expect(RUN).flatten() {
                let path = entry.path();
                let removed = match path.is_dir() {
                    true => fs::remove_dir_all(&path),
                    false => fs::remove_file(&path),
                };
                removed.expect("empty /run/bocker");
            }
        }
        unshare(CloneFlags::CLONE_NEWNET).expect("a network as the kernel makes it");
        self.run(&["ip", "link", "set", "lo", "up"]).ok();
        self.change_boot_id();
    }

    fn change_boot_id(&self) {
        let before = fs::read_to_string(BOOT_ID).expect(BOOT_ID);
        let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").expect("a uuid");
        let file = self.scratch().join("boot_id");
        // A file of its own each time: the one before is mounted.
        _ = fs::remove_file(&file);
        fs::write(&file, uuid).expect("a boot id");
        mount(
            Some(&file),
            BOOT_ID,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .expect("mount a boot id");
        let after = fs::read_to_string(BOOT_ID).expect(BOOT_ID);
        assert_ne!(before, after);
    }
}

/// The mounts beneath folders, the last one first.
fn mounts_beneath(folders: &[&Path]) -> Vec<String> {
    let text = fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
    let mut mounts: Vec<String> = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|mount| {
            folders
                .iter()
                .any(|folder| Path::new(mount) != *folder && Path::new(mount).starts_with(folder))
        })
        .map(str::to_owned)
        .collect();
    mounts.reverse();
    mounts
}
