//! The tar format as layers use it: ustar headers, PAX records and GNU long names (POSIX pax, GNU tar manual, tar(5)).
//! The reader is our own because a layer is hostile input: extension headers are bounded, and a size that is told twice
//! is taken from one place only (CVE-2025-62518, CVE-2026-33055).

pub(crate) mod read;
pub(crate) mod write;

use std::ops::Range;

/// Everything in a tar comes in blocks of this size.
pub(crate) const BLOCK: usize = 512;
/// The PAX key prefix of extended attributes.
const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

const NAME: Range<usize> = 0..100;
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const TYPE: usize = 156;
const LINK: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..263;
const DEV_MAJOR: Range<usize> = 329..337;
const DEV_MINOR: Range<usize> = 337..345;
const PREFIX: Range<usize> = 345..500;
const USTAR: &[u8; 6] = b"ustar\0";

/// A point in time: seconds since 1970, possibly before, and nanoseconds after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    Directory,
    Symlink,
    /// Another name of an entry that came before, or of a file of a lower layer.
    HardLink,
    CharDevice,
    BlockDevice,
    Fifo,
}

/// One entry, all extension headers applied. Its data, if any, is read from the reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// As it stands in the archive: anything may be in it.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: EntryKind,
    /// The permission bits, set-id and sticky bits included.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Bytes of data that follow; 0 unless a file.
    pub(crate) size: u64,
    pub(crate) mtime: Time,
    /// The target of a symbolic or hard link.
    pub(crate) link: Vec<u8>,
    /// Major and minor number of a device.
    pub(crate) device: (u32, u32),
    /// Extended attributes, by name.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// For a sparse file: where the data goes, in order, and the file's whole length.
    pub(crate) sparse: Option<Sparse>,
}

/// Where the data of a sparse file goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Sparse {
    /// Offset and length of each piece of data.
    pub(crate) pieces: Vec<(u64, u64)>,
    /// The file's length.
    pub(crate) length: u64,
}

impl Entry {
    /// An entry with nothing but a kind and a path.
    pub(crate) fn new(kind: EntryKind, path: impl Into<Vec<u8>>) -> Entry {
        Entry {
            path: path.into(),
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: Time::default(),
            link: Vec::new(),
            device: (0, 0),
            xattrs: Vec::new(),
            sparse: None,
        }
    }

    /// The path for messages.
    pub(crate) fn name(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.path)
    }
}

/// The sum that a header carries: of its bytes, with the field of the sum itself taken as spaces.
fn checksum(block: &[u8; BLOCK]) -> u32 {
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    let own: u32 = block[CHECKSUM].iter().map(|b| u32::from(*b)).sum();
    sum - own + CHECKSUM.len() as u32 * u32::from(b' ')
}

/// How many bytes fill the last block of `size` bytes.
fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}
