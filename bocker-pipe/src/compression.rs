//! How an archive or a layer is compressed, told by how it begins and never by what somebody calls it.

use std::io::{self, BufReader, Cursor, Read};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;

use crate::zstd::Zstd;

/// What a gzip member begins with (RFC 1952).
const GZIP: [u8; 3] = [0x1f, 0x8b, 8];
/// What a zstd frame begins with, and the bytes after the first of what a skippable one does (RFC 8878).
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];
/// What an xz stream begins with (<https://tukaani.org/xz/xz-file-format.txt>).
const XZ: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];
/// What a bzip2 stream begins with; after a digit, the size of its blocks, comes what its first block begins with, or its end if it
/// is empty. A file in an archive can be called BZh9, too.
const BZIP2: [u8; 3] = *b"BZh";
const BZIP2_BLOCKS: [[u8; 6]; 2] = [
    [0x31, 0x41, 0x59, 0x26, 0x53, 0x59],
    [0x17, 0x72, 0x45, 0x38, 0x50, 0x90],
];
/// How much is read at once, in bytes.
const BUFFER: usize = 256 << 10;
/// How much memory who unpacks xz may need, in KiB: enough for `xz -9`, whose dictionary has 64 MiB. A stream may ask for 4 GiB.
const XZ_MEMORY: u32 = 65 << 10;

/// How something is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all, or in a way that is not known here.
    None,
    /// gzip, of any number of members.
    Gzip,
    /// zstd, of any number of frames.
    Zstd,
    /// xz, of any number of streams.
    Xz,
    /// bzip2, of any number of streams.
    Bzip2,
}

impl Compression {
    /// How many bytes have to be known to tell it.
    pub const MAGIC: usize = 10;

    /// Tells it by the first bytes, [`Compression::MAGIC`] of them unless there are fewer.
    pub fn of(head: &[u8]) -> Compression {
        let is_bzip2 = |level: u8, block: &[u8]| {
            let is_block = BZIP2_BLOCKS.iter().any(|magic| block.starts_with(magic));
            matches!(level, b'1'..=b'9') && is_block
        };
        match head {
            _ if head.starts_with(&GZIP) => Compression::Gzip,
            _ if head.starts_with(&ZSTD) => Compression::Zstd,
            [_, rest @ ..] if rest.starts_with(&ZSTD_SKIPPABLE) => Compression::Zstd,
            _ if head.starts_with(&XZ) => Compression::Xz,
            [a, b, c, level, rest @ ..] if [*a, *b, *c] == BZIP2 && is_bzip2(*level, rest) => {
                Compression::Bzip2
            }
            _ => Compression::None,
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
    let buffered = |whole| BufReader::with_capacity(BUFFER, whole);
    Ok(match compression {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(MultiGzDecoder::new(buffered(whole))),
        Compression::Zstd => Box::new(Zstd::new(buffered(whole))),
        Compression::Xz => Box::new(XzReader::new_mem_limit(buffered(whole), true, XZ_MEMORY)),
        Compression::Bzip2 => Box::new(MultiBzDecoder::new(buffered(whole))),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// "some text that is compressed\n" and nothing at all, by xz and by bzip2.
    const TEXT: &[u8] = b"some text that is compressed\n";
    const XZ_TEXT: &[u8] = b"\xfd\x37\x7a\x58\x5a\x00\x00\x04\xe6\xd6\xb4\x46\x02\x00\x21\x01\x16\x00\x00\x00\x74\x2f\xe5\xa3\x01\x00\x1c\x73\x6f\x6d\x65\x20\x74\x65\x78\x74\x20\x74\x68\x61\x74\x20\x69\x73\x20\x63\x6f\x6d\x70\x72\x65\x73\x73\x65\x64\x0a\x00\x00\x00\x00\xdc\xc4\x9a\x69\x79\x29\xc3\x30\x00\x01\x35\x1d\x44\x1b\xb1\xe1\x1f\xb6\xf3\x7d\x01\x00\x00\x00\x00\x04\x59\x5a";
    const XZ_EMPTY: &[u8] = b"\xfd\x37\x7a\x58\x5a\x00\x00\x04\xe6\xd6\xb4\x46\x00\x00\x00\x00\x1c\xdf\x44\x21\x1f\xb6\xf3\x7d\x01\x00\x00\x00\x00\x04\x59\x5a";
    const BZIP2_TEXT: &[u8] = b"\x42\x5a\x68\x39\x31\x41\x59\x26\x53\x59\x02\xf6\xcf\x64\x00\x00\x0b\x51\x80\x00\x10\x40\x00\x2e\x62\xdc\x40\x20\x00\x22\x21\xb4\x43\xd1\xa8\x29\x80\x00\x16\xb7\x9e\x4b\x98\x52\xd1\x6c\x2a\x52\x16\x57\x8b\x3f\xc5\xdc\x91\x4e\x14\x24\x00\xbd\xb3\xd9\x00";
    const BZIP2_EMPTY: &[u8] = b"\x42\x5a\x68\x39\x17\x72\x45\x38\x50\x90\x00\x00\x00\x00";

    fn unpacked(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut data = Vec::new();
        // Few of those that are damaged unpack to more than they are.
        decoder(bytes)?.take(1 << 20).read_to_end(&mut data)?;
        Ok(data)
    }

    #[test]
    fn xz_and_bzip2_are_told_and_unpacked_stream_after_stream() {
        for (packed, empty, compression) in [
            (XZ_TEXT, XZ_EMPTY, Compression::Xz),
            (BZIP2_TEXT, BZIP2_EMPTY, Compression::Bzip2),
        ] {
            assert_eq!(Compression::of(packed), compression);
            assert_eq!(Compression::of(empty), compression);
            assert_eq!(unpacked(packed).unwrap(), TEXT);
            assert!(unpacked(empty).unwrap().is_empty());
            let twice = [packed, empty, packed].concat();
            assert_eq!(unpacked(&twice).unwrap(), TEXT.repeat(2));
            assert!(unpacked(&packed[..packed.len() - 2]).is_err(), "it is cut");
        }
    }

    #[test]
    fn a_name_in_an_archive_is_no_compression() {
        for head in [&b"BZh9"[..], b"BZh9/etc/p", b"BZhx1AY&SY", b"\xfd7zXZ", b""] {
            assert_eq!(Compression::of(head), Compression::None, "{head:?}");
        }
        assert_eq!(
            Compression::of(&[0x5a, 0x2a, 0x4d, 0x18]),
            Compression::Zstd
        );
    }

    #[test]
    fn xz_that_asks_for_more_memory_than_it_gets_is_an_error() {
        // The size of the dictionary is a byte of the block's header, whose last four are the sum of the others.
        let mut greedy = XZ_TEXT.to_vec();
        let header = 12..12 + (usize::from(greedy[12]) + 1) * 4;
        let filter = header.start + 2;
        assert_eq!(greedy[filter..filter + 2], [0x21, 1], "LZMA2, one byte");
        for (dictionary, fits) in [(28, true), (29, false), (40, false)] {
            greedy[filter + 2] = dictionary;
            let sum = crc32(&greedy[header.start..header.end - 4]);
            greedy[header.end - 4..header.end].copy_from_slice(&sum.to_le_bytes());
            let result = unpacked(&greedy);
            assert_eq!(result.is_ok(), fits, "{dictionary}: {result:?}");
        }
    }

    fn crc32(bytes: &[u8]) -> u32 {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum()
    }

    proptest! {
        #[test]
        fn what_is_damaged_is_an_error_and_no_panic(
            is_xz: bool,
            at in 0_usize..200,
            with in proptest::collection::vec(any::<u8>(), 0..8),
        ) {
            let mut bytes = if is_xz { XZ_TEXT } else { BZIP2_TEXT }.to_vec();
            let at = at % bytes.len();
            let end = (at + with.len()).min(bytes.len());
            bytes.splice(at..end, with);
            let _ = unpacked(&bytes);
        }
    }
}
