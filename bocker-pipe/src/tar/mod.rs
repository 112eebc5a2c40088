//! The tar format as layers use it: ustar headers, PAX records and GNU long names (POSIX pax, GNU tar manual, tar(5)).
//!
//! The crate `tar` knows the layout of a header; what goes around it is our own, because a layer is hostile input and is to
//! be restored faithfully, and `tar` 0.4.46
//! - has no limit for extension headers, which here are bounded, as is the map of a sparse file, and a size that is told
//!   twice is taken from one place only (CVE-2025-62518, CVE-2026-33055);
//! - ends a PAX record at the first newline and all records at an empty line (`PaxExtensions`), but attributes are bytes
//!   (`security.capability`) and names may hold a newline; it writes no attribute whose name is not UTF-8
//!   (`append_pax_extensions`);
//! - takes a blank number for an error, which V7 archives have, and cuts one of base 256 to 64 bits without a word, so that
//!   a size of 2^64 is 0, where others read on or refuse (`Header::size`);
//! - takes no checksum of signed bytes, and knows ustar only with its version, where GNU tar and Go look at the magic alone;
//! - copies what a file has, not the size that its header promised (`Builder::append`).

pub mod read;
pub mod write;

/// Everything in a tar comes in blocks of this size.
pub const BLOCK: usize = 512;
/// The PAX key prefix of extended attributes.
const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// A point in time: seconds since 1970, possibly before, and nanoseconds after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Since 1970, or before.
    pub seconds: i64,
    /// After the second.
    pub nanoseconds: u32,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Another name of an entry that came before, or of a file of a lower layer.
    HardLink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
}

/// One entry, all extension headers applied. Its data, if any, is read from the reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As it stands in the archive: anything may be in it.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// The permission bits, set-id and sticky bits included.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Bytes of data that follow; 0 unless a file.
    pub size: u64,
    /// When its content was changed.
    pub mtime: Time,
    /// The target of a symbolic or hard link.
    pub link: Vec<u8>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes, by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// For a sparse file: where the data goes, in order, and the file's whole length.
    pub sparse: Option<Sparse>,
}

/// Where the data of a sparse file goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sparse {
    /// Offset and length of each piece of data.
    pub pieces: Vec<(u64, u64)>,
    /// The file's length.
    pub length: u64,
}

impl Entry {
    /// An entry with nothing but a kind and a path.
    pub fn new(kind: EntryKind, path: impl Into<Vec<u8>>) -> Entry {
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
    pub fn name(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.path)
    }
}

/// How many bytes fill the last block of `size` bytes.
fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}
