//! The ioctls of btrfs that are used here: their numbers, their structures, and one function for each.
//!
//! All from the kernel's `include/uapi/linux/btrfs.h` and `btrfs_tree.h`, explained in
//! <https://btrfs.readthedocs.io/en/latest/btrfs-ioctl.html>.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::libc;
use rustix::io::{Errno, Result};
use rustix::ioctl::{Getter, Opcode, Setter, Updater, ioctl, opcode};

/// `BTRFS_SUPER_MAGIC` (linux/magic.h): what statfs(2) says of the filesystem.
pub(crate) const MAGIC: u64 = 0x9123_683e;
/// `BTRFS_FIRST_FREE_OBJECTID`: the inode number of every subvolume's root.
pub(crate) const ROOT_INODE: u64 = 256;

/// `BTRFS_IOCTL_MAGIC`.
const GROUP: u8 = 0x94;
const RESIZE: Opcode = opcode::write::<VolArgs>(GROUP, 3);
const SYNC: Opcode = opcode::none(GROUP, 8);
const TREE_SEARCH_V2: Opcode = opcode::read_write::<SearchHead>(GROUP, 17);
const SNAP_CREATE_V2: Opcode = opcode::write::<VolArgsV2>(GROUP, 23);
const SUBVOL_CREATE_V2: Opcode = opcode::write::<VolArgsV2>(GROUP, 24);
const SUBVOL_SETFLAGS: Opcode = opcode::write::<u64>(GROUP, 26);
const QUOTA_CTL: Opcode = opcode::read_write::<[u64; 2]>(GROUP, 40);
const QGROUP_ASSIGN: Opcode = opcode::write::<[u64; 3]>(GROUP, 41);
const QGROUP_CREATE: Opcode = opcode::write::<[u64; 2]>(GROUP, 42);
const QGROUP_LIMIT: Opcode = opcode::read::<QgroupLimit>(GROUP, 43);
const DEV_INFO: Opcode = opcode::read_write::<DevInfo>(GROUP, 30);
const GET_SUBVOL_INFO: Opcode = opcode::read::<SubvolInfo>(GROUP, 60);
const GET_SUBVOL_ROOTREF: Opcode = opcode::read_write::<RootRefs>(GROUP, 61);
const SNAP_DESTROY_V2: Opcode = opcode::write::<VolArgsV2>(GROUP, 63);

/// `BTRFS_SUBVOL_RDONLY`.
const READ_ONLY: u64 = 1 << 1;
/// `BTRFS_SUBVOL_SPEC_BY_ID`: a subvolume is named by its id.
const BY_ID: u64 = 1 << 4;
/// `BTRFS_QUOTA_CTL_DISABLE`, `BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA`.
const QUOTA_DISABLE: u64 = 2;
const QUOTA_ENABLE_SIMPLE: u64 = 4;
/// `BTRFS_QGROUP_LIMIT_MAX_RFER`.
const MAX_REFERENCED: u64 = 1;
/// `BTRFS_QUOTA_TREE_OBJECTID`, and the kinds of its items: the state of all, a group, and that one is in another.
const QUOTA_TREE: u64 = 8;
const QGROUP_STATUS: u32 = 240;
const QGROUP_INFO: u32 = 242;
const QGROUP_RELATION: u32 = 246;
/// Of `struct btrfs_qgroup_status_item`: where the flags stand; `BTRFS_QGROUP_STATUS_FLAG_ON`, `..._SIMPLE_MODE`.
const STATUS_FLAGS: usize = 16;
pub(crate) const QUOTA_ON: u64 = 1;
pub(crate) const QUOTA_SIMPLE: u64 = 1 << 3;
/// `FILEID_BTRFS_WITHOUT_PARENT` (linux/exportfs.h).
const HANDLE_KIND: i32 = 0x4d;
/// How many bytes one search may answer at once; the largest item is a node of the tree, 64 KiB.
const SEARCH_BUFFER: usize = 128 << 10;

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct VolArgs {
    fd: i64,
    name: [u8; 4088],
}

/// `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
struct VolArgsV2 {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    /// Ends with a NUL byte, or is the id of a subvolume.
    name: [u8; 4040],
}

/// `struct btrfs_ioctl_dev_info_args`.
#[repr(C)]
struct DevInfo {
    id: u64,
    uuid: [u8; 16],
    used: u64,
    size: u64,
    unused: [u64; 379],
    path: [u8; 1024],
}

/// `struct btrfs_ioctl_get_subvol_info_args`.
#[repr(C)]
struct SubvolInfo {
    id: u64,
    name: [u8; 256],
    parent_id: u64,
    directory: u64,
    generation: u64,
    flags: u64,
    uuid: [u8; 16],
    parent_uuid: [u8; 16],
    received_uuid: [u8; 16],
    changed_in: u64,
    made_in: u64,
    sent_in: u64,
    received_in: u64,
    /// Four of `struct btrfs_ioctl_timespec`.
    times: [[u64; 2]; 4],
    reserved: [u64; 8],
}

/// `struct btrfs_ioctl_get_subvol_rootref_args`.
#[repr(C)]
struct RootRefs {
    first: u64,
    /// The id of a subvolume and the inode number of the directory that it lies in.
    found: [[u64; 2]; 255],
    count: u8,
    align: [u8; 7],
}

/// `struct btrfs_ioctl_qgroup_limit_args`.
#[repr(C)]
struct QgroupLimit {
    group: u64,
    flags: u64,
    max_referenced: u64,
    max_exclusive: u64,
    reserved: [u64; 2],
}

/// `struct btrfs_ioctl_search_args_v2` up to its buffer.
#[repr(C)]
#[derive(Clone, Copy)]
struct SearchHead {
    tree: u64,
    min_object: u64,
    max_object: u64,
    min_offset: u64,
    max_offset: u64,
    min_transaction: u64,
    max_transaction: u64,
    min_kind: u32,
    max_kind: u32,
    count: u32,
    unused: [u32; 9],
    size: u64,
}

#[repr(C)]
struct Search {
    head: SearchHead,
    buffer: [u8; SEARCH_BUFFER],
}

/// `struct btrfs_ioctl_search_header`, which stands before each item that was found.
const ITEM_HEADER: usize = 32;

// What the kernel copies must be as long as it thinks.
const _: () = assert!(size_of::<VolArgs>() == 4096);
const _: () = assert!(size_of::<VolArgsV2>() == 4096);
const _: () = assert!(size_of::<DevInfo>() == 4096);
const _: () = assert!(size_of::<SubvolInfo>() == 504);
const _: () = assert!(size_of::<RootRefs>() == 4096);
const _: () = assert!(size_of::<QgroupLimit>() == 48);
const _: () = assert!(size_of::<SearchHead>() == 112);

/// What a subvolume is known by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subvolume {
    pub(crate) id: u64,
    pub(crate) uuid: [u8; 16],
    /// Of the subvolume that it was a snapshot of, else zero.
    pub(crate) parent_uuid: [u8; 16],
    /// The transaction in which it was made (`otransid`).
    pub(crate) made_in: u64,
}

/// A key of a tree: object, kind and offset, which order items in this order (`struct btrfs_key`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) object: u64,
    pub(crate) kind: u32,
    pub(crate) offset: u64,
}

/// A device of a filesystem.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) path: Vec<u8>,
    pub(crate) size: u64,
}

/// Makes an empty subvolume under a name in a directory.
pub(crate) fn create(parent: impl AsFd, name: &OsStr) -> Result<()> {
    let args = named(0, 0, name)?;
    // SAFETY: the number is that of the structure.
    let request = unsafe { Setter::<SUBVOL_CREATE_V2, _>::new(args) };
    // SAFETY: the kernel only reads the structure, which lives until the call returns.
    unsafe { ioctl(parent, request) }
}

/// Makes a snapshot of the subvolume of which `source` is the root. It is on the disk when this returns: a snapshot is made
/// as its transaction commits.
pub(crate) fn snapshot(
    source: BorrowedFd<'_>,
    parent: impl AsFd,
    name: &OsStr,
    read_only: bool,
) -> Result<()> {
    let flags = if read_only { READ_ONLY } else { 0 };
    let args = named(source.as_raw_fd().into(), flags, name)?;
    // SAFETY: the number is that of the structure.
    let request = unsafe { Setter::<SNAP_CREATE_V2, _>::new(args) };
    // SAFETY: as above.
    unsafe { ioctl(parent, request) }
}

/// Unlinks a subvolume, which the kernel frees in the background. Fails with ENOTEMPTY where others lie in it.
pub(crate) fn destroy(parent: impl AsFd, name: &OsStr) -> Result<()> {
    destroy_as(parent, named(0, 0, name)?)
}

/// As [`destroy`], for one anywhere in the filesystem (Linux 5.7).
pub(crate) fn destroy_by_id(any: impl AsFd, id: u64) -> Result<()> {
    let mut args = named(0, BY_ID, OsStr::new(""))?;
    args.name[..8].copy_from_slice(&id.to_ne_bytes());
    destroy_as(any, args)
}

fn destroy_as(fd: impl AsFd, args: VolArgsV2) -> Result<()> {
    // SAFETY: the number is that of the structure.
    let request = unsafe { Setter::<SNAP_DESTROY_V2, _>::new(args) };
    // SAFETY: as above.
    unsafe { ioctl(fd, request) }
}

fn named(fd: i64, flags: u64, name: &OsStr) -> Result<VolArgsV2> {
    let mut args = VolArgsV2 {
        fd,
        transid: 0,
        flags,
        unused: [0; 4],
        name: [0; 4040],
    };
    let name = name.as_bytes();
    if name.len() >= args.name.len() {
        return Err(Errno::NAMETOOLONG);
    }
    args.name[..name.len()].copy_from_slice(name);
    Ok(args)
}

/// Lets a subvolume be written to.
pub(crate) fn make_writable(subvolume: impl AsFd) -> Result<()> {
    // SAFETY: the number is that of an u64, the flags.
    let request = unsafe { Setter::<SUBVOL_SETFLAGS, u64>::new(0) };
    // SAFETY: the kernel only reads the flags.
    unsafe { ioctl(subvolume, request) }
}

/// What the subvolume in which `inside` lies is known by.
pub(crate) fn info(inside: impl AsFd) -> Result<Subvolume> {
    // SAFETY: the number is that of the structure, of which every pattern of bits is a value.
    let request = unsafe { Getter::<GET_SUBVOL_INFO, SubvolInfo>::new() };
    // SAFETY: the kernel fills the structure.
    let info = unsafe { ioctl(inside, request) }?;
    Ok(Subvolume {
        id: info.id,
        uuid: info.uuid,
        parent_uuid: info.parent_uuid,
        made_in: info.made_in,
    })
}

/// The ids of the subvolumes that lie in this one, not of those below them.
pub(crate) fn children(root: impl AsFd) -> Result<Vec<u64>> {
    let mut ids = Vec::new();
    let mut refs = RootRefs {
        first: 0,
        found: [[0; 2]; 255],
        count: 0,
        align: [0; 7],
    };
    loop {
        // SAFETY: the number is that of the structure.
        let request = unsafe { Updater::<'_, GET_SUBVOL_ROOTREF, RootRefs>::new(&mut refs) };
        // SAFETY: the kernel reads and fills the structure.
        let more = match unsafe { ioctl(&root, request) } {
            Ok(()) => false,
            Err(Errno::OVERFLOW) => true,
            Err(error) => return Err(error),
        };
        let found = refs.found.iter().take(usize::from(refs.count));
        ids.extend(found.map(|[id, _]| *id));
        if !more {
            return Ok(ids);
        }
    }
}

/// Opens the root of a subvolume by its id, without any path: by the file handle under which btrfs would export it.
pub(crate) fn open_by_id(any: impl AsFd, id: u64) -> Result<OwnedFd> {
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        /// `struct btrfs_fid` of `fs/btrfs/export.h`: object and root in 64 bits each, and the generation: 0 is any.
        fid: [u32; 5],
    }
    let mut fid = [0; 5];
    fid[0] = ROOT_INODE as u32;
    fid[2] = id as u32;
    fid[3] = (id >> 32) as u32;
    if cfg!(target_endian = "big") {
        (fid[0], fid[1], fid[2], fid[3]) = (0, fid[0], fid[3], fid[2]);
    }
    let mut handle = Handle {
        bytes: 20,
        kind: HANDLE_KIND,
        fid,
    };
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    let handle = (&raw mut handle).cast();
    // SAFETY: the handle is as long as it says.
    let fd = unsafe { libc::open_by_handle_at(any.as_fd().as_raw_fd(), handle, flags) };
    if fd < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    // SAFETY: the descriptor was made just now, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Commits the running transaction, so that searches see all of it.
pub(crate) fn sync(fd: impl AsFd) -> Result<()> {
    // SAFETY: the call takes no argument.
    let request = unsafe { rustix::ioctl::NoArg::<SYNC>::new() };
    // SAFETY: as above.
    unsafe { ioctl(fd, request) }
}

/// Counts from now on for each subvolume what it writes.
pub(crate) fn enable_simple_quotas(inside: impl AsFd) -> Result<()> {
    quota_control(inside, QUOTA_ENABLE_SIMPLE)
}

/// Counts nothing any more, and forgets all groups.
pub(crate) fn disable_quotas(inside: impl AsFd) -> Result<()> {
    quota_control(inside, QUOTA_DISABLE)
}

fn quota_control(inside: impl AsFd, command: u64) -> Result<()> {
    let mut args = [command, 0];
    // SAFETY: the number is that of `struct btrfs_ioctl_quota_ctl_args`, two numbers.
    let request = unsafe { Updater::<'_, QUOTA_CTL, [u64; 2]>::new(&mut args) };
    // SAFETY: the kernel reads and fills the structure.
    unsafe { ioctl(inside, request) }
}

/// The flags of the filesystem's quotas, if it ever had any.
pub(crate) fn quota_flags(inside: impl AsFd) -> Result<Option<u64>> {
    let at = |kind| Key {
        object: 0,
        kind,
        offset: 0,
    };
    let mut flags = None;
    let status = at(QGROUP_STATUS);
    search_quotas(inside, status, status, |_, item| {
        flags = number(item, STATUS_FLAGS, 8);
    })?;
    Ok(flags)
}

/// The groups of which the id is `first` or greater.
pub(crate) fn quota_groups(inside: impl AsFd, first: u64) -> Result<Vec<u64>> {
    let at = |offset| Key {
        object: 0,
        kind: QGROUP_INFO,
        offset,
    };
    let mut groups = Vec::new();
    search_quotas(inside, at(first), at(u64::MAX), |key, _| {
        groups.push(key.offset);
    })?;
    Ok(groups)
}

/// The groups that are in this one.
pub(crate) fn members_of_group(inside: impl AsFd, group: u64) -> Result<Vec<u64>> {
    let at = |offset| Key {
        object: group,
        kind: QGROUP_RELATION,
        offset,
    };
    let mut members = Vec::new();
    search_quotas(inside, at(0), at(u64::MAX), |key, _| {
        if key.object == group && key.kind == QGROUP_RELATION {
            members.push(key.offset);
        }
    })?;
    Ok(members)
}

/// Without quotas there is nothing to be found.
fn search_quotas(
    inside: impl AsFd,
    first: Key,
    last: Key,
    mut each: impl FnMut(Key, &[u8]),
) -> Result<()> {
    match search_tree(inside, QUOTA_TREE, first, last, 0, |_, key, item| {
        each(key, item)
    }) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// Makes a group of subvolumes. One that is there is as good.
pub(crate) fn make_group(inside: impl AsFd, group: u64) -> Result<()> {
    match change_group(inside, 1, group) {
        Err(Errno::EXIST) => Ok(()),
        result => result,
    }
}

/// Removes a group in which no other is.
pub(crate) fn remove_group(inside: impl AsFd, group: u64) -> Result<()> {
    change_group(inside, 0, group)
}

fn change_group(inside: impl AsFd, create: u64, group: u64) -> Result<()> {
    // SAFETY: the number is that of `struct btrfs_ioctl_qgroup_create_args`, two numbers.
    let request = unsafe { Setter::<QGROUP_CREATE, [u64; 2]>::new([create, group]) };
    // SAFETY: the kernel only reads the structure.
    unsafe { ioctl(inside, request) }
}

/// Puts a group into another, of a higher level.
pub(crate) fn assign_group(inside: impl AsFd, member: u64, group: u64) -> Result<()> {
    relate_groups(inside, 1, member, group)
}

/// Takes it out again.
pub(crate) fn unassign_group(inside: impl AsFd, member: u64, group: u64) -> Result<()> {
    relate_groups(inside, 0, member, group)
}

fn relate_groups(inside: impl AsFd, assign: u64, member: u64, group: u64) -> Result<()> {
    // SAFETY: the number is that of `struct btrfs_ioctl_qgroup_assign_args`, three numbers.
    let request = unsafe { Setter::<QGROUP_ASSIGN, [u64; 3]>::new([assign, member, group]) };
    // SAFETY: the kernel only reads the structure.
    unsafe { ioctl(inside, request) }
}

/// Limits how many bytes count for a group.
pub(crate) fn limit_group(inside: impl AsFd, group: u64, bytes: u64) -> Result<()> {
    let args = QgroupLimit {
        group,
        flags: MAX_REFERENCED,
        max_referenced: bytes,
        max_exclusive: 0,
        reserved: [0; 2],
    };
    // SAFETY: the number is that of the structure, though it tells the kernel's direction wrongly: it is read.
    let request = unsafe { Setter::<QGROUP_LIMIT, _>::new(args) };
    // SAFETY: the kernel only reads the structure.
    unsafe { ioctl(inside, request) }
}

/// Tells each item between two keys, both included, of the subvolume in which `inside` lies. Parts of the tree that no
/// transaction from `since` on has written are passed over.
pub(crate) fn search(
    inside: impl AsFd,
    first: Key,
    last: Key,
    since: u64,
    mut each: impl FnMut(Key, &[u8]),
) -> Result<()> {
    search_tree(inside, 0, first, last, since, |_, key, item| {
        each(key, item)
    })
}

/// As [`search`], of all items, each with the transaction that has written its leaf last.
pub(crate) fn search_all(inside: impl AsFd, each: impl FnMut(u64, Key, &[u8])) -> Result<()> {
    let key = |number, kind| Key {
        object: number,
        kind,
        offset: number,
    };
    let (first, last) = (key(0, 0), key(u64::MAX, u8::MAX.into()));
    search_tree(inside, 0, first, last, 0, each)
}

/// As [`search`], of the tree with this id, and with transactions.
fn search_tree(
    inside: impl AsFd,
    tree: u64,
    first: Key,
    last: Key,
    since: u64,
    mut each: impl FnMut(u64, Key, &[u8]),
) -> Result<()> {
    let mut search = Box::new(Search {
        head: SearchHead {
            tree,
            min_object: first.object,
            max_object: last.object,
            min_offset: first.offset,
            max_offset: last.offset,
            min_transaction: since,
            max_transaction: u64::MAX,
            min_kind: first.kind,
            max_kind: last.kind,
            count: 0,
            unused: [0; 9],
            size: SEARCH_BUFFER as u64,
        },
        buffer: [0; SEARCH_BUFFER],
    });
    loop {
        search.head.count = u32::MAX;
        // SAFETY: the number is that of the head, and the buffer behind it is as long as the head says.
        let request = unsafe { Updater::<'_, TREE_SEARCH_V2, Search>::new(&mut search) };
        // SAFETY: the kernel reads the head, and writes to it and the buffer.
        unsafe { ioctl(&inside, request) }?;
        let mut rest = &search.buffer[..];
        let mut at = None;
        for _ in 0..search.head.count {
            let (Some(transaction), Some(key), Some(length)) =
                (number(rest, 0, 8), key_of(rest), number(rest, 28, 4))
            else {
                return Err(Errno::IO);
            };
            let end = ITEM_HEADER + usize::try_from(length).unwrap_or(usize::MAX - ITEM_HEADER);
            let item = rest.get(ITEM_HEADER..end).ok_or(Errno::IO)?;
            each(transaction, key, item);
            rest = &rest[end..];
            at = Some(key);
        }
        let Some(next) = at.and_then(Key::next) else {
            return Ok(());
        };
        search.head.min_object = next.object;
        search.head.min_kind = next.kind;
        search.head.min_offset = next.offset;
    }
}

impl Key {
    /// The least that is greater.
    fn next(self) -> Option<Key> {
        if let Some(offset) = self.offset.checked_add(1) {
            return Some(Key { offset, ..self });
        }
        if self.kind < u32::from(u8::MAX) {
            return Some(Key {
                kind: self.kind + 1,
                offset: 0,
                ..self
            });
        }
        Some(Key {
            object: self.object.checked_add(1)?,
            kind: 0,
            offset: 0,
        })
    }
}

/// Of a header: transaction, object, offset, kind, length.
fn key_of(header: &[u8]) -> Option<Key> {
    Some(Key {
        object: number(header, 8, 8)?,
        offset: number(header, 16, 8)?,
        kind: u32::try_from(number(header, 24, 4)?).ok()?,
    })
}

/// A number of the machine's byte order.
fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + length)?;
    let mut wide = [0; 8];
    match cfg!(target_endian = "big") {
        true => wide[8 - length..].copy_from_slice(bytes),
        false => wide[..length].copy_from_slice(bytes),
    }
    Some(u64::from_ne_bytes(wide))
}

/// The first device of the filesystem on which `inside` lies.
pub(crate) fn device(inside: impl AsFd) -> Result<Device> {
    let mut info = DevInfo {
        id: 1,
        uuid: [0; 16],
        used: 0,
        size: 0,
        unused: [0; 379],
        path: [0; 1024],
    };
    // SAFETY: the number is that of the structure.
    let request = unsafe { Updater::<'_, DEV_INFO, DevInfo>::new(&mut info) };
    // SAFETY: the kernel reads and fills the structure.
    unsafe { ioctl(inside, request) }?;
    let path = info.path.split(|byte| *byte == 0).next().unwrap_or(&[]);
    Ok(Device {
        path: path.to_vec(),
        size: info.size,
    })
}

/// Grows a mounted filesystem to the size of its device.
pub(crate) fn grow(inside: impl AsFd) -> Result<()> {
    let mut args = VolArgs {
        fd: 0,
        name: [0; 4088],
    };
    args.name[..3].copy_from_slice(b"max");
    // SAFETY: the number is that of the structure.
    let request = unsafe { Setter::<RESIZE, _>::new(args) };
    // SAFETY: the kernel only reads the structure.
    unsafe { ioctl(inside, request) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_kernels_header() {
        assert_eq!(SNAP_CREATE_V2, 0x5000_9417);
        assert_eq!(SUBVOL_CREATE_V2, 0x5000_9418);
        assert_eq!(SNAP_DESTROY_V2, 0x5000_943f);
        assert_eq!(SUBVOL_SETFLAGS, 0x4008_941a);
        assert_eq!(TREE_SEARCH_V2, 0xc070_9411);
        assert_eq!(GET_SUBVOL_INFO, 0x81f8_943c);
        assert_eq!(GET_SUBVOL_ROOTREF, 0xd000_943d);
        assert_eq!(QUOTA_CTL, 0xc010_9428);
        assert_eq!(QGROUP_ASSIGN, 0x4018_9429);
        assert_eq!(QGROUP_CREATE, 0x4010_942a);
        assert_eq!(QGROUP_LIMIT, 0x8030_942b);
        assert_eq!(DEV_INFO, 0xd000_941e);
        assert_eq!(RESIZE, 0x5000_9403);
        assert_eq!(SYNC, 0x9408);
    }

    #[test]
    fn the_key_after_the_last_of_its_kind_is_the_first_of_the_next() {
        let key = |object, kind, offset| Key {
            object,
            kind,
            offset,
        };
        assert_eq!(key(256, 1, 0).next(), Some(key(256, 1, 1)));
        assert_eq!(key(256, 1, u64::MAX).next(), Some(key(256, 2, 0)));
        assert_eq!(key(256, 255, u64::MAX).next(), Some(key(257, 0, 0)));
        assert_eq!(key(u64::MAX, 255, u64::MAX).next(), None);
    }

    #[test]
    fn a_name_that_does_not_fit_is_refused() {
        assert!(named(0, 0, OsStr::new(&"x".repeat(4039))).is_ok());
        let long = named(0, 0, OsStr::new(&"x".repeat(4040)));
        assert_eq!(long.err(), Some(Errno::NAMETOOLONG));
    }
}
