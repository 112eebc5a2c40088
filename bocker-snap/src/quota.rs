//! How much a container may write, by the simple quotas of btrfs (Linux 6.7): an extent counts for the subvolume that wrote it
//! first, so that a container begins at nothing, however large its image is.
//!
//! The limit is on a group of its own above the subvolume's (`2828/<id>`), since subvolumes that a container makes within its root
//! are put into the groups that its root is in, by the kernel, and could not be limited otherwise.

use std::fs;
use std::path::{Path, PathBuf};

use bocker_pipe::step::quote;
use bocker_pipe::{Doing, Error, Kind, Result, paths};
use rustix::io::Errno;

use crate::ioctl;
use crate::tree::{open_directory, remove_path};

/// By which our groups are known; those of subvolumes are of level 0, and who makes some by hand begins with 1.
const LEVEL: u64 = 2828;
/// Where the level stands in a group's id (btrfs_tree.h, `BTRFS_QGROUP_LEVEL_SHIFT`).
const LEVEL_SHIFT: u32 = 48;
/// In `BOCKER_ROOT`: quotas were switched on by us.
const MARK: &str = "quota";

/// Whether and how the filesystem counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Off,
    Simple,
    Full,
}

/// How the filesystem of `BOCKER_ROOT` counts.
pub(crate) fn mode() -> Result<Mode> {
    let root = open_directory(&paths::root())?;
    Ok(
        match ioctl::quota_flags(&root).doing(|| "ask for quotas".into())? {
            Some(flags) if flags & ioctl::QUOTA_ON == 0 => Mode::Off,
            Some(flags) if flags & ioctl::QUOTA_SIMPLE != 0 => Mode::Simple,
            Some(_) => Mode::Full,
            None => Mode::Off,
        },
    )
}

/// Switches simple quotas on. Answers whether they were off. Fails with [`Kind::Unsupported`] where another way of counting is on.
pub(crate) fn enable() -> Result<bool> {
    match mode()? {
        Mode::Simple => return Ok(false),
        Mode::Off => {}
        Mode::Full => {
            let what = "full quotas are on, by which a container's image would count as well";
            return Err(Error::new(Kind::Unsupported, what).hint(format!(
                "switch them off with 'btrfs quota disable {}'",
                paths::root().display()
            )));
        }
    }
    let mark = mark();
    fs::write(&mark, []).doing(|| format!("make {}", mark.display()))?;
    let root = open_directory(&paths::root())?;
    match ioctl::enable_simple_quotas(&root) {
        Err(Errno::INVAL | Errno::NOTTY | Errno::OPNOTSUPP) => {
            let what = "this kernel has no simple quotas";
            Err(Error::new(Kind::Unsupported, what).hint("they came with Linux 6.7"))
        }
        enabled => enabled.doing(|| "switch simple quotas on".into()),
    }?;
    Ok(true)
}

/// Switches them off, if they were switched on here and nobody else has a limit by them. Answers whether it did.
pub(crate) fn disable(dry_run: bool) -> Result<bool> {
    if !mark().exists() || mode()? != Mode::Simple {
        return Ok(false);
    }
    let root = open_directory(&paths::root())?;
    if !ioctl::quota_groups(&root, LEVEL << LEVEL_SHIFT)
        .doing(|| "look for limits".into())?
        .is_empty()
    {
        return Ok(false);
    }
    if !dry_run {
        ioctl::disable_quotas(&root).doing(|| "switch quotas off".into())?;
        remove_path(&mark())?;
    }
    Ok(true)
}

fn mark() -> PathBuf {
    paths::root().join(MARK)
}

/// The command that does what [`enable`] does.
pub(crate) fn enable_command() -> String {
    format!(
        "btrfs quota enable --simple {}",
        quote(&paths::root().display().to_string())
    )
}

/// Limits what is written to a subvolume, and to those that are made in it from now on. It leaves nothing when it fails.
pub(crate) fn limit(root: &Path, bytes: u64) -> Result<()> {
    let (subvolume, outside) = (open_directory(root)?, open_directory(&paths::root())?);
    let set = || -> rustix::io::Result<()> {
        let id = ioctl::info(&subvolume)?.id;
        ioctl::make_group(&outside, group(id))?;
        ioctl::assign_group(&outside, id, group(id))?;
        ioctl::limit_group(&outside, group(id), bytes)
    };
    let result = set().doing(|| format!("limit the size of {}", root.display()));
    if result.is_err() {
        let _ = lift(root);
    }
    result
}

/// Takes the limit away. Not there is success.
pub(crate) fn lift(root: &Path) -> Result<()> {
    let subvolume = match open_directory(root) {
        Err(error) if error.is(nix::errno::Errno::ENOENT) => return Ok(()),
        subvolume => subvolume?,
    };
    // A change of groups reserves room in the subvolume through which it is asked for, and this one may be full.
    let outside = open_directory(&paths::root())?;
    let lift = || -> rustix::io::Result<()> {
        let group = group(ioctl::info(&subvolume)?.id);
        for member in ioctl::members_of_group(&outside, group)? {
            match ioctl::unassign_group(&outside, member, group) {
                Err(Errno::NOENT) => {}
                result => result?,
            }
        }
        match ioctl::remove_group(&outside, group) {
            // Without quotas there are no groups.
            Err(Errno::NOENT | Errno::NOTCONN) => Ok(()),
            result => result,
        }
    };
    lift().doing(|| format!("lift the limit of {}", root.display()))
}

/// The commands that do what [`limit`] does, with the id of the subvolume, which is known when it is there.
pub(crate) fn limit_commands(root: &Path, bytes: u64) -> Vec<String> {
    let shown = quote(&root.display().to_string());
    vec![
        format!("id=$(btrfs inspect-internal rootid {shown})"),
        format!("btrfs qgroup create {LEVEL}/$id {shown}"),
        format!("btrfs qgroup assign 0/$id {LEVEL}/$id {shown}"),
        format!("btrfs qgroup limit {bytes} {LEVEL}/$id {shown}"),
    ]
}

/// The command that shows the limit.
pub(crate) fn look_command(root: &Path) -> String {
    let shown = quote(&root.display().to_string());
    format!("btrfs qgroup show -pr {shown}")
}

fn group(subvolume: u64) -> u64 {
    LEVEL << LEVEL_SHIFT | subvolume
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_named_by_level_and_subvolume() {
        assert_eq!(group(257), 0x0b0c_0000_0000_0101);
    }
}
