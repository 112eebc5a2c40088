//! Where things lie: `/var/bocker` (moved by `BOCKER_ROOT`) and `/run/bocker`, which is the machine's and is never moved,
//! because interfaces, cgroups and addresses are the machine's too.

use std::path::{Path, PathBuf};

use crate::id::Id;

/// Names the folder that holds images, layers, containers and volumes.
pub const ROOT_VARIABLE: &str = "BOCKER_ROOT";
const DEFAULT_ROOT: &str = "/var/bocker";
const RUN: &str = "/run/bocker";

/// `BOCKER_ROOT`, made absolute, or `/var/bocker`.
pub fn root() -> PathBuf {
    match std::env::var_os(ROOT_VARIABLE) {
        Some(root) if !root.is_empty() => {
            std::path::absolute(&root).unwrap_or_else(|_| root.into())
        }
        _ => DEFAULT_ROOT.into(),
    }
}

/// The file of the filesystem that is mounted on [`root`], where `bocker system setup --btrfs` made one.
pub fn pool() -> PathBuf {
    let mut path = root().into_os_string();
    path.push(".btrfs");
    path.into()
}

/// The OCI image layout.
pub fn images() -> PathBuf {
    root().join("images")
}

/// Unpacked layers by chain id.
pub fn layers() -> PathBuf {
    root().join("layers")
}

/// The folders of all containers.
pub fn containers() -> PathBuf {
    root().join("containers")
}

/// One container's folder: `config.json`, `rootfs`, `log`, `status`.
pub fn container(id: &Id) -> PathBuf {
    containers().join(id)
}

/// Names of containers: symbolic links to their folders.
pub fn names() -> PathBuf {
    root().join("names")
}

/// Named volumes.
pub fn volumes() -> PathBuf {
    root().join("volumes")
}

/// In a volume's folder: what containers see of it.
pub const VOLUME_DATA: &str = "data";

/// The machine's run folder, which holds the claims.
pub fn run() -> &'static Path {
    Path::new(RUN)
}

/// One claim's folder.
pub fn claim(id: &Id) -> PathBuf {
    run().join(id)
}
