//! How an archive or a layer is compressed, told by how it begins and never by what somebody calls it.

use std::io::{self, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

use crate::zstd::Zstd;

/// What a gzip member begins with (RFC 1952).
const GZIP: [u8; 3] = [0x1f, 0x8b, 8];
/// What a zstd frame begins with, and the three last bytes of what a skippable one does (RFC 8878).
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];
/// How much is read at once, in bytes.
const BUFFER: usize = 256 << 10;

/// How something is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all, or in a way that is not known here.
    None,
    /// gzip, of any number of members.
    Gzip,
    /// zstd, of any number of frames.
    Zstd,
}

impl Compression {
    /// How many bytes have to be known to tell it.
    pub const MAGIC: usize = 4;

    /// Tells it by the first bytes, [`Compression::MAGIC`] of them unless there are fewer.
    pub fn of(head: &[u8]) -> Compression {
        let head = &head[..head.len().min(Compression::MAGIC)];
        if head.starts_with(&GZIP) {
            Compression::Gzip
        } else if head == ZSTD || head.ends_with(&ZSTD_SKIPPABLE) {
            Compression::Zstd
        } else {
            Compression::None
        }
    }
}

/// The decompressed stream.
pub fn decoder<'a>(mut from: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut head = Vec::with_capacity(Compression::MAGIC);
    (&mut from)
        .take(Compression::MAGIC as u64)
        .read_to_end(&mut head)?;
    let compression = Compression::of(&head);
    let whole = Cursor::new(head).chain(from);
    Ok(match compression {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(MultiGzDecoder::new(BufReader::with_capacity(BUFFER, whole))),
        Compression::Zstd => Box::new(Zstd::new(BufReader::with_capacity(BUFFER, whole))),
    })
}
