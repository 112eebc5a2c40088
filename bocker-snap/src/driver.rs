//! How roots are made of layers: by snapshots where `BOCKER_ROOT` is on btrfs, by overlay mounts elsewhere. Each has its file.

use bocker_pipe::paths;
use serde::{Deserialize, Serialize};

use crate::btrfs;

/// One way. That of a container is the one it was made by, wherever `BOCKER_ROOT` lies now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Driver {
    /// Layers are the differences, stacked by an overlay mount with a directory of the container's own on top.
    Overlay,
    /// Layers are whole trees in read-only subvolumes, and a root is a snapshot of one.
    Btrfs,
}

impl Driver {
    /// That of images, layers and what is made of them here. A view of a directory is always an overlay.
    pub(crate) fn here() -> Driver {
        match btrfs::holds(&paths::root()) {
            true => Driver::Btrfs,
            false => Driver::Overlay,
        }
    }

    /// Which layers, lowest first, have to be unpacked before a root can be made of the topmost, when `is_here` tells of one
    /// whether it is. A whole tree needs none below it.
    pub(crate) fn missing<T>(self, layers: &[T], is_here: impl Fn(&T) -> bool) -> Vec<usize> {
        let above = match self {
            Driver::Overlay => 0,
            Driver::Btrfs => layers.iter().rposition(&is_here).map_or(0, |top| top + 1),
        };
        (above..layers.len())
            .filter(|index| !is_here(&layers[*index]))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_tree_needs_no_layer_below_it_and_a_difference_needs_all() {
        let missing = |driver: Driver, here: &[bool]| driver.missing(here, |is_here| *is_here);
        assert_eq!(missing(Driver::Overlay, &[false, true, false]), [0, 2]);
        assert_eq!(missing(Driver::Btrfs, &[false, true, false]), [2]);
        assert!(missing(Driver::Btrfs, &[false, true]).is_empty());
        assert_eq!(missing(Driver::Btrfs, &[false, false]), [0, 1]);
    }

    #[test]
    fn documents_have_its_name() {
        for (driver, name) in [(Driver::Overlay, "overlay"), (Driver::Btrfs, "btrfs")] {
            assert_eq!(serde_json::to_value(driver).unwrap(), name);
        }
    }
}
