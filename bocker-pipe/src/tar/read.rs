//! Reads tar streams: every entry with its extension headers applied, in bounded memory whatever the stream says.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};

use crate::error::{Doing, Error, Kind, Result};
use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use super::{BLOCK, Entry, EntryKind, Sparse, Time, XATTR_PREFIX, padding};

/// The most that the extension headers of one entry may hold together, in bytes; Go's archive/tar has this for each.
const MAX_EXTENSION: u64 = 1 << 20;
/// The longest path that a system call takes, its end included (limits.h, PATH_MAX).
const MAX_PATH: usize = 4096;
/// The largest device numbers that Linux has (kdev_t.h: 12 bits and 20).
const MAX_DEVICE: (u32, u32) = (0xfff, 0xf_ffff);
/// How many pieces a sparse file may have.
const MAX_PIECES: usize = 1 << 16;
/// The type of a volume label of GNU tar, which stands for no file.
const VOLUME_LABEL: u8 = b'V';
/// The magics of ustar and GNU headers, and the versions that go with them (tar(5)).
const FORMATS: [(&[u8; 6], &[u8; 2]); 2] = [(b"ustar\0", b"00"), (b"ustar ", b" \0")];

/// An iterator over the entries of a stream. Between two calls of [`Reader::next`], reading gives the entry's data.
pub struct Reader<R> {
    stream: R,
    /// Data bytes of the current entry that were not read yet.
    left: u64,
    /// What fills the current entry's last block.
    fill: u64,
}

/// What extension headers say about the entry after them.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<Time>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    sparse: SparseRecords,
}

#[derive(Default)]
struct SparseRecords {
    /// GNU.sparse.major, which is 1 where the map stands before the data.
    major: Option<u64>,
    name: Option<Vec<u8>>,
    length: Option<u64>,
    /// Numbers of the older forms: offset and length in turn.
    map: Vec<u64>,
    seen: bool,
}

impl<R: Read> Reader<R> {
    /// Reads from the start of a stream.
    pub fn new(stream: R) -> Reader<R> {
        Reader {
            stream,
            left: 0,
            fill: 0,
        }
    }

    /// The next entry, or none at the end. What was not read of the current one is skipped.
    /// Fails with [`Kind::Invalid`] on anything that is not a tar, and on what would not be restored faithfully.
    #[expect(
        clippy::should_implement_trait,
        reason = "an entry's data is read between two calls, which an iterator does not allow"
    )]
    pub fn next(&mut self) -> Result<Option<Entry>> {
        let mut extension = Extension::default();
        let mut extended = false;
        let mut left = MAX_EXTENSION;
        loop {
            self.skip()?;
            let Some(block) = self.block()? else {
                return if extended {
                    Err(invalid("it ends after an extension header"))
                } else {
                    Ok(None)
                };
            };
            if block.iter().all(|byte| *byte == 0) {
                // The end is two blocks of zeros; a writer that was content with one is understood too.
                return match self.block()? {
                    Some(second) if second.iter().any(|byte| *byte != 0) => {
                        Err(invalid("data follows its end"))
                    }
                    _ => Ok(None),
                };
            }
            let header = &header(&block)?;
            let kind = header.entry_type();
            match kind {
                EntryType::XGlobalHeader => drop(self.extension(header, &mut left)?),
                EntryType::XHeader => {
                    extension.take_pax(&self.extension(header, &mut left)?)?;
                }
                EntryType::GNULongName => extension.path = Some(self.long_name(header, &mut left)?),
                EntryType::GNULongLink => extension.link = Some(self.long_name(header, &mut left)?),
                label if label.as_byte() == VOLUME_LABEL => {
                    self.begin(number(&header.as_old().size)?)?
                }
                _ => return self.entry(header, extension).map(Some),
            }
            extended |=
                kind.is_pax_local_extensions() || kind.is_gnu_longname() || kind.is_gnu_longlink();
        }
    }

    /// Reads the stream to its end: padding after the last entry belongs to what was signed.
    pub fn finish(mut self) -> Result<()> {
        self.skip()?;
        io::copy(&mut self.stream, &mut io::sink())
            .map(drop)
            .doing(|| "read the archive".into())
    }

    fn entry(&mut self, header: &Header, extension: Extension) -> Result<Entry> {
        let fields = header.as_old();
        let path = extension
            .path
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let kind = match header.entry_type() {
            // Before POSIX, a directory was a file whose name ends with a slash.
            EntryType::Regular if fields.linkflag == [0] && path.ends_with(b"/") => {
                EntryKind::Directory
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => EntryKind::File,
            EntryType::Link => EntryKind::HardLink,
            EntryType::Symlink => EntryKind::Symlink,
            EntryType::Char => EntryKind::CharDevice,
            EntryType::Block => EntryKind::BlockDevice,
            EntryType::Directory => EntryKind::Directory,
            EntryType::Fifo => EntryKind::Fifo,
            other => {
                return Err(invalid(&format!(
                    "'{}' is of the unknown type '{}'",
                    String::from_utf8_lossy(&path),
                    char::from(other.as_byte())
                )));
            }
        };
        let mut entry = Entry::new(kind, path);
        entry.mode = (number::<u64>(&fields.mode)? & 0o7777) as u32;
        entry.uid = match extension.uid {
            Some(uid) => uid,
            None => id(number(&fields.uid)?)?,
        };
        entry.gid = match extension.gid {
            Some(gid) => gid,
            None => id(number(&fields.gid)?)?,
        };
        entry.mtime = match extension.mtime {
            Some(mtime) => mtime,
            None => Time {
                seconds: number(&fields.mtime)?,
                nanoseconds: 0,
            },
        };
        if matches!(kind, EntryKind::Symlink | EntryKind::HardLink) {
            entry.link = extension
                .link
                .unwrap_or_else(|| until_nul(&fields.linkname).to_vec());
        }
        if matches!(kind, EntryKind::CharDevice | EntryKind::BlockDevice) {
            entry.device = device(header)?;
        }
        entry.xattrs = extension.xattrs.into_iter().collect();
        if kind == EntryKind::File {
            let size = match extension.size {
                Some(size) => size,
                None => number(&fields.size)?,
            };
            self.begin(size)?;
            entry.size = size;
            if header.entry_type().is_gnu_sparse() {
                entry.sparse = Some(self.gnu_sparse(header)?);
            } else if extension.sparse.seen {
                if let Some(name) = &extension.sparse.name {
                    entry.path.clone_from(name);
                }
                entry.sparse = Some(self.pax_sparse(extension.sparse)?);
                entry.size = self.left;
            }
            if let Some(sparse) = &entry.sparse {
                check_sparse(sparse, entry.size)?;
            }
        }
        // A slash after the name of a directory is none of its path.
        let path = entry.path.strip_suffix(b"/").unwrap_or(&entry.path);
        let longest = path.len().max(entry.link.len());
        if longest >= MAX_PATH {
            return Err(invalid(&format!("a path of {longest} bytes is too long")));
        }
        if entry.path.contains(&0) || entry.link.contains(&0) {
            return Err(invalid("a path holds a NUL byte"));
        }
        Ok(entry)
    }

    /// The map of an old GNU sparse file: in its header, and in blocks between that and the data.
    fn gnu_sparse(&mut self, header: &Header) -> Result<Sparse> {
        let header = header
            .as_gnu()
            .ok_or_else(|| invalid("a sparse file of GNU tar has no header of GNU tar"))?;
        let mut sparse = Sparse {
            pieces: Vec::new(),
            length: number(&header.realsize)?,
        };
        let mut take = |fields: &[GnuSparseHeader]| -> Result<()> {
            for field in fields.iter().take_while(|field| field.offset[0] != 0) {
                sparse
                    .pieces
                    .push((number(&field.offset)?, number(&field.numbytes)?));
                if sparse.pieces.len() > MAX_PIECES {
                    return Err(invalid("a sparse file has too many pieces"));
                }
            }
            Ok(())
        };
        take(&header.sparse)?;
        // As GNU tar, which takes anything but 0 for true.
        let mut more = header.isextended != [0];
        while more {
            let mut next = GnuExtSparseHeader::new();
            *next.as_mut_bytes() = self.block()?.ok_or_else(cut)?;
            take(next.sparse())?;
            more = next.isextended != [0];
        }
        Ok(sparse)
    }

    /// The map of a PAX sparse file: in its records (0.0, 0.1), or as lines of decimal numbers before the data (1.0).
    fn pax_sparse(&mut self, records: SparseRecords) -> Result<Sparse> {
        let length = records
            .length
            .ok_or_else(|| invalid("a sparse file does not tell its length"))?;
        let mut numbers = records.map;
        if records.major == Some(1) {
            let mut expected = None;
            let mut line = Vec::new();
            let mut taken = 0;
            while expected.is_none_or(|count| numbers.len() < count) {
                let mut byte = [0];
                if self.read(&mut byte).doing(|| "read the archive".into())? == 0 {
                    return Err(cut());
                }
                taken += 1;
                match byte[0] {
                    b'\n' => {
                        let value = decimal(&line)?;
                        line.clear();
                        match expected {
                            None => {
                                let count = usize::try_from(value)
                                    .ok()
                                    .filter(|count| *count <= MAX_PIECES)
                                    .ok_or_else(|| invalid("a sparse file has too many pieces"))?;
                                expected = Some(2 * count);
                            }
                            Some(_) => numbers.push(value),
                        }
                    }
                    digit if line.len() < 20 => line.push(digit),
                    _ => return Err(invalid("the map of a sparse file is malformed")),
                }
            }
            let rest = padding(taken);
            let skipped = io::copy(&mut self.by_ref().take(rest), &mut io::sink())
                .doing(|| "read the archive".into())?;
            if skipped != rest {
                return Err(cut());
            }
        }
        if !numbers.len().is_multiple_of(2) || numbers.len() / 2 > MAX_PIECES {
            return Err(invalid("the map of a sparse file is malformed"));
        }
        let pieces = numbers
            .chunks_exact(2)
            .map(|pair| (pair[0], pair[1]))
            .collect();
        Ok(Sparse { pieces, length })
    }

    fn by_ref(&mut self) -> &mut Self {
        self
    }

    /// The data of an extension header, as long as no more than `left` is left for those of one entry.
    fn extension(&mut self, header: &Header, left: &mut u64) -> Result<Vec<u8>> {
        let size: u64 = number(&header.as_old().size)?;
        *left = left.checked_sub(size).ok_or_else(|| {
            invalid(&format!(
                "with an extension header of {size} bytes, those of an entry are larger than {MAX_EXTENSION}"
            ))
        })?;
        self.begin(size)?;
        let mut data = Vec::with_capacity(size as usize);
        self.read_to_end(&mut data)
            .doing(|| "read the archive".into())?;
        if self.left > 0 {
            return Err(cut());
        }
        Ok(data)
    }

    fn long_name(&mut self, header: &Header, left: &mut u64) -> Result<Vec<u8>> {
        Ok(until_nul(&self.extension(header, left)?).to_vec())
    }

    fn begin(&mut self, size: u64) -> Result<()> {
        if size > i64::MAX as u64 {
            return Err(invalid("a size is out of range"));
        }
        self.left = size;
        self.fill = padding(size);
        Ok(())
    }

    /// Goes on to where the next header is. Some writers end right after the last entry's data, without what fills its block
    /// and without the two blocks of the end; Go's archive/tar, and so docker and umoci, take that for the end, and so does
    /// [`Reader::block`] then.
    fn skip(&mut self) -> Result<()> {
        let (data, fill) = (self.left, self.fill);
        self.left = 0;
        self.fill = 0;
        let mut pass = |count| {
            io::copy(&mut (&mut self.stream).take(count), &mut io::sink())
                .doing(|| "read the archive".into())
        };
        if pass(data)? != data {
            return Err(cut());
        }
        pass(fill).map(drop)
    }

    /// One block, or none at the end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.stream.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(cut()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).doing(|| "read the archive".into()),
            }
        }
        Ok(Some(block))
    }
}

impl<R: Read> Read for Reader<R> {
    /// Reads the current entry's data.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = self.stream.read(&mut buffer[..limit])?;
        if count == 0 && limit > 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the archive is cut short",
            ));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Reader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let there = self.stream.fill_buf()?;
        if there.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the archive is cut short",
            ));
        }
        let limit = usize::try_from(self.left).unwrap_or(usize::MAX);
        Ok(&there[..limit.min(there.len())])
    }

    fn consume(&mut self, count: usize) {
        self.stream.consume(count);
        self.left -= count as u64;
    }
}

impl Extension {
    /// Records of the form "length key=value\n"; the last of a key wins, an empty value takes back.
    fn take_pax(&mut self, mut data: &[u8]) -> Result<()> {
        let malformed = || invalid("a PAX record is malformed");
        while !data.is_empty() {
            let space = data
                .iter()
                .position(|byte| *byte == b' ')
                .ok_or_else(malformed)?;
            let length = usize::try_from(decimal(&data[..space])?).map_err(|_| malformed())?;
            if length <= space + 1 || length > data.len() || data[length - 1] != b'\n' {
                return Err(malformed());
            }
            let record = &data[space + 1..length - 1];
            let equals = record
                .iter()
                .position(|byte| *byte == b'=')
                .ok_or_else(malformed)?;
            self.take_record(&record[..equals], &record[equals + 1..])?;
            data = &data[length..];
        }
        Ok(())
    }

    fn take_record(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let some = !value.is_empty();
        match key {
            b"path" => self.path = some.then(|| value.to_vec()),
            b"linkpath" => self.link = some.then(|| value.to_vec()),
            b"size" => self.size = some.then(|| decimal(value)).transpose()?,
            b"uid" => self.uid = some.then(|| id(decimal(value)?)).transpose()?,
            b"gid" => self.gid = some.then(|| id(decimal(value)?)).transpose()?,
            b"mtime" => self.mtime = some.then(|| time(value)).transpose()?,
            b"GNU.sparse.major" => self.sparse.major = Some(decimal(value)?),
            b"GNU.sparse.name" => self.sparse.name = some.then(|| value.to_vec()),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
                self.sparse.length = Some(decimal(value)?);
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse.map.push(decimal(value)?),
            b"GNU.sparse.map" => {
                self.sparse.map = value
                    .split(|byte| *byte == b',')
                    .map(decimal)
                    .collect::<Result<_>>()?;
            }
            _ => {
                if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                }
            }
        }
        self.sparse.seen |= key.starts_with(b"GNU.sparse.");
        Ok(())
    }
}

fn invalid(what: &str) -> Error {
    Error::new(Kind::Invalid, format!("the archive is malformed: {what}"))
}

fn cut() -> Error {
    invalid("it is cut short")
}

/// The block as a header, its checksum verified. GNU tar and Go know a format by its magic alone, the crate only with the
/// version: without it, the path would lose its first part.
fn header(block: &[u8; BLOCK]) -> Result<Header> {
    let mut header = Header::from_byte_slice(block).clone();
    let wrong = || invalid("a header's checksum is wrong").hint("is it a tar archive?");
    let told: u32 = number(&header.as_old().cksum).map_err(|_| wrong())?;
    // Set after `told` was read; the crate has no way to ask for the sum alone.
    header.set_cksum();
    let sum: u32 = number(&header.as_old().cksum)?;
    // Some historic writers summed signed bytes.
    let high = block.iter().filter(|byte| **byte >= 0x80).count() as u32;
    if told != sum && told != sum.wrapping_sub(high * 256) {
        return Err(wrong());
    }
    let rest = &mut header.as_old_mut().pad;
    for (magic, version) in FORMATS {
        if rest.starts_with(magic) {
            rest[magic.len()..][..version.len()].copy_from_slice(version);
        }
    }
    Ok(header)
}

/// The number of a device, which V7 headers have no place for.
fn device(header: &Header) -> Result<(u32, u32)> {
    let (major, minor) = match (header.as_ustar(), header.as_gnu()) {
        (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
        (_, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
        (None, None) => return Err(invalid("a device has no number")),
    };
    let device: (u32, u32) = (number(major)?, number(minor)?);
    // mknod(2) would cut them: to 0:0 perhaps, which hides a name.
    if device.0 > MAX_DEVICE.0 || device.1 > MAX_DEVICE.1 {
        return Err(invalid("a device number is out of range"));
    }
    Ok(device)
}

fn check_sparse(sparse: &Sparse, size: u64) -> Result<()> {
    let mut end = 0;
    let mut sum = 0_u64;
    for (offset, length) in &sparse.pieces {
        if *offset < end {
            return Err(invalid("the pieces of a sparse file are not in order"));
        }
        end = offset
            .checked_add(*length)
            .ok_or_else(|| invalid("a sparse file is out of range"))?;
        sum += length;
    }
    if end > sparse.length || sum != size || sparse.length > i64::MAX as u64 {
        return Err(invalid("the pieces of a sparse file do not fit its length"));
    }
    Ok(())
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number of a header: octal digits between spaces and NULs, or base-256 where the first bit is set (GNU). `tar` refuses
/// blank fields, and cuts large numbers (see the head of `super`).
fn number<N: TryFrom<i128>>(field: &[u8]) -> Result<N> {
    let value = match field.first() {
        Some(first) if first & 0x80 != 0 => {
            // Two's complement, of which the first bit was taken by the mark.
            let start = if first & 0x40 != 0 { -1 } else { 0 };
            let first = i128::from(first & 0x7f) | if start < 0 { !0x7f } else { 0 };
            field[1..]
                .iter()
                .fold(first, |value, byte| value << 8 | i128::from(*byte))
        }
        _ => {
            let is_blank = |byte: &u8| matches!(byte, b' ' | 0);
            let start = field
                .iter()
                .position(|byte| !is_blank(byte))
                .unwrap_or(field.len());
            let digits = field[start..].split(is_blank).next().unwrap_or_default();
            digits.iter().try_fold(0_i128, |value, digit| match digit {
                b'0'..=b'7' => Ok(value << 3 | i128::from(digit - b'0')),
                _ => Err(invalid("a number is not octal")),
            })?
        }
    };
    N::try_from(value).map_err(|_| invalid("a number is out of range"))
}

fn decimal(text: &[u8]) -> Result<u64> {
    std::str::from_utf8(text)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| invalid("a number is not decimal"))
}

/// An owner. The largest number means "leave it" to chown(2) and can be nobody's.
fn id(value: u64) -> Result<u32> {
    u32::try_from(value)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| invalid(&format!("{value} is no user or group")))
}

/// Decimal seconds, perhaps negative, perhaps with a fraction.
fn time(text: &[u8]) -> Result<Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = i128::from(decimal(parts.next().unwrap_or_default())?);
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(invalid("a time is malformed"));
    }
    let digits = &fraction[..fraction.len().min(9)];
    let scale = 10_u64.pow(9 - digits.len() as u32);
    let nanoseconds = if digits.is_empty() {
        0
    } else {
        // Nine digits and a scale to nine: less than 10^9.
        (decimal(digits)? * scale) as u32
    };
    let (seconds, nanoseconds) = match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    };
    Ok(Time {
        seconds: i64::try_from(seconds).map_err(|_| invalid("a time is out of range"))?,
        nanoseconds,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::write::Writer;
    use super::*;

    fn entries(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>> {
        let mut reader = Reader::new(bytes);
        let mut all = Vec::new();
        while let Some(entry) = reader.next()? {
            let mut data = Vec::new();
            reader.read_to_end(&mut data).doing(|| "read".into())?;
            all.push((entry, data));
        }
        Ok(all)
    }

    fn header(kind: u8, name: &[u8], size: u64) -> [u8; BLOCK] {
        let mut header = Header::new_ustar();
        let fields = header.as_ustar_mut().unwrap();
        fields.name[..name.len()].copy_from_slice(name);
        fields.typeflag = [kind];
        // Some writers leave these empty, and the version too.
        (fields.mtime, fields.version) = ([0; 12], [0; 2]);
        header.set_size(size);
        header.set_cksum();
        *header.as_bytes()
    }

    fn padded(data: &[u8]) -> Vec<u8> {
        let mut data = data.to_vec();
        data.resize(data.len().next_multiple_of(BLOCK), 0);
        data
    }

    fn record(key: &str, value: &str) -> Vec<u8> {
        let rest = format!(" {key}={value}\n");
        let mut length = rest.len() + 1;
        while length.to_string().len() + rest.len() != length {
            length += 1;
        }
        format!("{length}{rest}").into_bytes()
    }

    fn pax(records: &[(&str, &str)], then: &[u8]) -> Vec<u8> {
        let data: Vec<u8> = records
            .iter()
            .flat_map(|(key, value)| record(key, value))
            .collect();
        [
            header(b'x', b"pax", data.len() as u64).as_slice(),
            &padded(&data),
            then,
        ]
        .concat()
    }

    /// Whichever of the two sizes a reader believes, what the other tells to be an entry is data (CVE-2025-62518), or is not
    /// reached (CVE-2026-33055): here it is always the extension's.
    #[test]
    fn the_size_is_told_by_the_extension_alone_when_both_tell_it() {
        let smuggled = header(b'0', b"smuggled", 0);
        for (told, size, expected) in [
            ("512", 0, &[b"file".as_slice(), b"next"][..]),
            ("512", 1024, &[b"file", b"next"]),
            ("0", 512, &[b"file", b"smuggled", b"next"]),
            ("0", 1 << 40, &[b"file", b"smuggled", b"next"]),
        ] {
            let archive = [
                pax(&[("size", told)], &header(b'0', b"file", size)),
                smuggled.to_vec(),
                header(b'0', b"next", 0).to_vec(),
            ]
            .concat();
            let found = entries(&archive).unwrap();
            let names: Vec<&[u8]> = found
                .iter()
                .map(|(entry, _)| entry.path.as_slice())
                .collect();
            assert_eq!(names, expected, "{told} and {size}");
            assert_eq!(found[0].0.size.to_string(), told);
        }
        // Nor is there an entry where the data ends too early.
        for told in ["1024", "9223372036854775807", "9223372036854775808"] {
            let archive = [
                pax(&[("size", told)], &header(b'0', b"file", 0)),
                smuggled.to_vec(),
            ];
            assert!(entries(&archive.concat()).is_err(), "{told}");
        }
    }

    #[test]
    fn the_extension_headers_of_an_entry_are_bounded_together() {
        for kind in *b"xgLK" {
            let error = entries(&header(kind, b"large", 3 << 29)).unwrap_err();
            assert!(error.message().contains("larger than"), "{error}");
            let half = record("comment", &"x".repeat(MAX_EXTENSION as usize / 2));
            let one = [
                header(kind, b"half", half.len() as u64).as_slice(),
                &padded(&half),
            ]
            .concat();
            let error = entries(&[one.as_slice(), &one].concat()).unwrap_err();
            assert!(error.message().contains("larger than"), "{error}");
        }
    }

    #[test]
    fn the_last_record_of_a_key_counts_and_an_empty_one_takes_back_but_attributes_may_be_empty() {
        let records = [
            ("path", "first"),
            ("path", "second"),
            ("uid", "5"),
            ("uid", ""),
            ("SCHILY.xattr.user.k", "v"),
            ("SCHILY.xattr.user.k", ""),
        ];
        let (entry, _) = entries(&pax(&records, &header(b'0', b"x", 0)))
            .unwrap()
            .remove(0);
        assert_eq!((entry.path.as_slice(), entry.uid), (&b"second"[..], 0));
        assert_eq!(entry.xattrs, [(b"user.k".to_vec(), Vec::new())]);
    }

    #[test]
    fn a_global_header_says_nothing_about_any_entry() {
        let records: Vec<u8> = [("path", "other"), ("size", "512"), ("uid", "7")]
            .iter()
            .flat_map(|(key, value)| record(key, value))
            .collect();
        let archive = [
            header(b'g', b"global", records.len() as u64).as_slice(),
            &padded(&records),
            &header(b'0', b"file", 3),
            &padded(b"abc"),
        ]
        .concat();
        let found = entries(&archive).unwrap();
        assert_eq!(
            (found[0].0.path.as_slice(), found[0].0.uid),
            (&b"file"[..], 0)
        );
        assert_eq!(found[0].1, b"abc");
    }

    #[test]
    fn a_device_number_that_the_kernel_would_cut_is_refused() {
        for (major, minor, is_taken) in [
            (0xfff, 0xf_ffff, true),
            (0x1000, 0, false),
            (0, 0x10_0000, false),
        ] {
            let mut block = Header::new_ustar();
            block.set_entry_type(EntryType::Char);
            let fields = block.as_ustar_mut().unwrap();
            fields.name[0] = b'x';
            fields.set_device_major(major);
            fields.set_device_minor(minor);
            block.set_size(0);
            block.set_cksum();
            let found = entries(block.as_bytes());
            assert_eq!(found.is_ok(), is_taken, "{major}:{minor}");
        }
    }

    #[test]
    fn a_name_of_any_length_is_taken_up_to_what_the_kernel_takes() {
        let long = "d/".repeat(400) + "file";
        let archive = [
            header(b'L', b"name", long.len() as u64 + 1).as_slice(),
            &padded(format!("{long}\0").as_bytes()),
            &header(b'0', b"short", 0),
        ]
        .concat();
        assert_eq!(entries(&archive).unwrap()[0].0.path, long.as_bytes());
        let taken = |kind: u8, path: &str| entries(&pax(&[("path", path)], &header(kind, b"x", 0)));
        let longest = "x".repeat(MAX_PATH - 1);
        assert!(taken(b'0', &longest).is_ok());
        assert!(taken(b'5', &format!("{longest}/")).is_ok());
        assert!(taken(b'0', &format!("{longest}x")).is_err());
        assert!(taken(b'5', &format!("{longest}x/")).is_err());
    }

    #[test]
    fn a_name_with_a_nul_in_it_is_refused() {
        assert!(entries(&pax(&[("path", "a\0b")], &header(b'0', b"x", 0))).is_err());
    }

    #[test]
    fn an_owner_that_chown_would_not_set_is_refused() {
        for value in ["4294967295", "4294967296", "-1", "x"] {
            let archive = pax(&[("uid", value)], &header(b'0', b"x", 0));
            assert!(entries(&archive).is_err(), "{value}");
        }
    }

    #[test]
    fn times_before_1970_and_fractions_are_exact() {
        for (text, seconds, nanoseconds) in [
            ("0", 0, 0),
            ("1.5", 1, 500_000_000),
            ("1.000000001", 1, 1),
            ("1.0000000019", 1, 1),
            ("-1.25", -2, 750_000_000),
            ("-7", -7, 0),
            ("-0.5", -1, 500_000_000),
            ("9223372036854775807", i64::MAX, 0),
            ("-9223372036854775808", i64::MIN, 0),
        ] {
            let time = time(text.as_bytes()).unwrap();
            assert_eq!(
                (time.seconds, time.nanoseconds),
                (seconds, nanoseconds),
                "{text}"
            );
        }
        for text in [
            "1e9",
            "",
            ".5",
            "--1",
            "1.x",
            "1.0000000001x",
            "9223372036854775808",
        ] {
            assert!(time(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_octal_or_base_256() {
        assert_eq!(number::<u64>(b"0000644\0").unwrap(), 0o644);
        assert_eq!(number::<u64>(b"    644 ").unwrap(), 0o644);
        assert_eq!(number::<u64>(b"\0\0\0\0").unwrap(), 0);
        assert_eq!(number::<u64>(&[0x80, 0, 0, 1, 0]).unwrap(), 256);
        assert_eq!(number::<i64>(&[0xff, 0xff, 0xff, 0xff]).unwrap(), -1);
        assert!(number::<u64>(&[0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(number::<u64>(b"12x").is_err());
    }

    #[test]
    fn a_size_beyond_64_bits_is_refused_not_cut() {
        let mut header = Header::new_gnu();
        header.as_old_mut().size = [0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        header.set_cksum();
        let error = entries(header.as_bytes()).unwrap_err();
        assert!(error.message().contains("out of range"), "{error}");
    }

    #[test]
    fn a_path_has_its_first_part_whatever_the_version_of_the_header() {
        for version in [*b"00", [0; 2]] {
            let mut header = Header::new_ustar();
            let fields = header.as_ustar_mut().unwrap();
            fields.prefix[..5].copy_from_slice(b"first");
            fields.name[..4].copy_from_slice(b"last");
            fields.version = version;
            header.set_size(0);
            header.set_cksum();
            let found = entries(header.as_bytes()).unwrap();
            assert_eq!(found[0].0.path, b"first/last");
        }
    }

    #[test]
    fn a_path_is_written_as_it_is() {
        let long = "d".repeat(60);
        for path in [
            "./a",
            "a//b",
            "../a",
            "/a",
            "a/./b",
            "a/",
            ".",
            "/",
            "a\\b",
            "a\nb",
            &format!("{long}/{long}/"),
            &format!("{long}//{long}"),
            &format!("/{long}{long}"),
            &format!("./{long}/../{long}"),
        ] {
            let mut writer = Writer::new(Vec::new());
            let entry = Entry::new(EntryKind::Directory, path);
            writer.append(&entry, &mut io::empty()).unwrap();
            let bytes = writer.finish().unwrap();
            assert_eq!(entries(&bytes).unwrap(), [(entry, Vec::new())], "{path}");
        }
    }

    #[test]
    fn a_damaged_or_cut_archive_is_refused() {
        let mut block = header(b'0', b"x", 0);
        block[0] = b'y';
        assert!(entries(&block).unwrap_err().message().contains("checksum"));
        let cut = header(b'0', b"x", 100);
        assert!(entries(&cut).is_err());
        assert!(entries(&header(b'0', b"x", 0)[..100]).is_err());
        assert!(entries(&header(b'x', b"x", 0)).is_err());
    }

    #[test]
    fn an_archive_may_end_after_its_last_entrys_data_but_not_within() {
        let whole = [
            header(b'0', b"first", 3).as_slice(),
            &padded(b"abc"),
            &header(b'0', b"last", 600),
            &padded(&[b'x'; 600]),
        ]
        .concat();
        let end = whole.len();
        let data_end = 3 * BLOCK + 600;
        for length in [end, end - 1, data_end + 1, data_end] {
            let found = entries(&whole[..length]).unwrap();
            assert_eq!(found.len(), 2, "{length}");
            assert_eq!(found[1].1, [b'x'; 600], "{length}");
        }
        for length in [data_end - 1, 3 * BLOCK, 3 * BLOCK - 1, 2 * BLOCK + 1] {
            assert!(entries(&whole[..length]).is_err(), "{length}");
        }
        // An extension header says something about an entry, so that one has to follow.
        let extended = pax(&[("path", "x")], &[]);
        assert!(entries(&extended[..BLOCK + 10]).is_err());
    }

    #[test]
    fn nothing_at_all_is_an_empty_archive() {
        assert!(entries(b"").unwrap().is_empty());
        assert!(entries(&[0; 2 * BLOCK]).unwrap().is_empty());
        assert!(entries(&[0; BLOCK]).unwrap().is_empty());
    }

    #[test]
    fn links_and_devices_have_no_data_whatever_their_size_says() {
        let archive = [
            header(b'1', b"link", 999).as_slice(),
            &header(b'0', b"file", 0),
        ]
        .concat();
        let found = entries(&archive).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].0.size, 0);
    }

    #[test]
    fn a_sparse_file_tells_where_its_data_goes_in_each_of_the_four_forms() {
        let old = |pieces: &[(u64, u64)], is_extended: bool| {
            let mut block = Header::new_gnu();
            block.set_entry_type(EntryType::GNUSparse);
            block.set_size(6);
            let fields = block.as_gnu_mut().unwrap();
            fields.name[..4].copy_from_slice(b"name");
            for (field, (offset, length)) in fields.sparse.iter_mut().zip(pieces) {
                field.set_offset(*offset);
                field.set_length(*length);
            }
            fields.set_real_size(8192);
            fields.isextended = [is_extended.into()];
            block.set_cksum();
            block.as_bytes().to_vec()
        };
        let mut more = GnuExtSparseHeader::new();
        more.sparse[0].set_offset(5000);
        more.sparse[0].set_length(4);
        let form = |records: &[(&str, &str)], name: &[u8], map: &[u8]| {
            let size = map.len() as u64 + 6;
            [pax(records, &header(b'0', name, size)), map.to_vec()].concat()
        };
        let size = ("GNU.sparse.size", "8192");
        for (what, front) in [
            ("GNU tar's old one", old(&[(4096, 2), (5000, 4)], false)),
            (
                "the same, in a second block",
                [old(&[(4096, 2)], true), more.as_bytes().to_vec()].concat(),
            ),
            (
                "PAX 0.0",
                form(
                    &[
                        size,
                        ("GNU.sparse.numblocks", "2"),
                        ("GNU.sparse.offset", "4096"),
                        ("GNU.sparse.numbytes", "2"),
                        ("GNU.sparse.offset", "5000"),
                        ("GNU.sparse.numbytes", "4"),
                    ],
                    b"name",
                    b"",
                ),
            ),
            (
                "PAX 0.1",
                form(
                    &[
                        size,
                        ("GNU.sparse.numblocks", "2"),
                        ("GNU.sparse.map", "4096,2,5000,4"),
                        ("GNU.sparse.name", "name"),
                    ],
                    b"GNUSparseFile.0/name",
                    b"",
                ),
            ),
            (
                "PAX 1.0",
                form(
                    &[
                        ("GNU.sparse.major", "1"),
                        ("GNU.sparse.minor", "0"),
                        ("GNU.sparse.name", "name"),
                        ("GNU.sparse.realsize", "8192"),
                    ],
                    b"GNUSparseFile.0/name",
                    &padded(b"2\n4096\n2\n5000\n4\n"),
                ),
            ),
        ] {
            let archive = [front, padded(b"abcdef"), header(b'0', b"next", 0).to_vec()].concat();
            let found = entries(&archive).unwrap();
            let names: Vec<&[u8]> = found
                .iter()
                .map(|(entry, _)| entry.path.as_slice())
                .collect();
            assert_eq!(names, [b"name", b"next"], "{what}");
            assert_eq!(found[0].1, b"abcdef", "{what}");
            let sparse = found[0].0.sparse.as_ref().unwrap();
            assert_eq!(sparse.pieces, [(4096, 2), (5000, 4)], "{what}");
            assert_eq!(sparse.length, 8192, "{what}");
        }
    }

    #[test]
    fn a_sparse_map_that_lies_is_refused() {
        for map in [
            "5000,3,4096,3",
            "0,3",
            "18446744073709551615,3",
            "4096,4",
            "1",
        ] {
            let archive = [
                pax(
                    &[("GNU.sparse.map", map), ("GNU.sparse.size", "4100")],
                    &header(b'0', b"x", 3 + 3),
                ),
                padded(b"abcdef"),
            ]
            .concat();
            assert!(entries(&archive).is_err(), "{map}");
        }
    }

    fn any_entry() -> impl Strategy<Value = (Entry, Vec<u8>)> {
        let name = prop::collection::vec(1_u8..=255, 1..300);
        let kinds = prop_oneof![
            Just(EntryKind::File),
            Just(EntryKind::Directory),
            Just(EntryKind::Symlink),
            Just(EntryKind::HardLink),
            Just(EntryKind::CharDevice),
            Just(EntryKind::Fifo),
        ];
        (
            (name.clone(), name, kinds, 0_u32..0o10000),
            (0..u32::MAX, 0..u32::MAX, any::<i64>(), 0_u32..1_000_000_000),
            (0_u32..4096, 0_u32..1 << 20),
            prop::collection::vec(
                (
                    "user\\.[a-z]{1,8}",
                    prop::collection::vec(any::<u8>(), 0..50),
                ),
                0..3,
            ),
            prop::collection::vec(any::<u8>(), 0..1500),
        )
            .prop_map(|(names, numbers, device, xattrs, data)| {
                let (path, link, kind, mode) = names;
                let mut entry = Entry::new(kind, path);
                (entry.mode, entry.uid, entry.gid) = (mode, numbers.0, numbers.1);
                entry.mtime = Time {
                    seconds: numbers.2 / 2,
                    nanoseconds: numbers.3,
                };
                match kind {
                    EntryKind::File => entry.size = data.len() as u64,
                    EntryKind::Symlink | EntryKind::HardLink => entry.link = link,
                    EntryKind::CharDevice => entry.device = device,
                    _ => {}
                }
                let xattrs = xattrs
                    .into_iter()
                    .map(|(name, value)| (name.into_bytes(), value));
                entry.xattrs = xattrs.collect::<BTreeMap<_, _>>().into_iter().collect();
                let data = if kind == EntryKind::File {
                    data
                } else {
                    Vec::new()
                };
                (entry, data)
            })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(all in prop::collection::vec(any_entry(), 0..5)) {
            let mut writer = Writer::new(Vec::new());
            for (entry, data) in &all {
                writer.append(entry, &mut data.as_slice()).unwrap();
            }
            let bytes = writer.finish().unwrap();
            prop_assert_eq!(entries(&bytes).unwrap(), all);
        }

        #[test]
        fn no_input_makes_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
            let _ = entries(&bytes);
        }

        #[test]
        fn no_extension_makes_the_reader_panic(data in prop::collection::vec(any::<u8>(), 0..600), kind in prop::sample::select(b"xgLKSV".to_vec())) {
            let archive = [header(kind, b"x", data.len() as u64).as_slice(), &padded(&data), &header(b'0', b"y", 0)].concat();
            let _ = entries(&archive);
        }

        #[test]
        fn no_record_makes_the_reader_panic(text in "[0-9]{1,2} (path|size|mtime|GNU.sparse.map|GNU.sparse.major|SCHILY.xattr.a)=[-0-9.,]{0,30}\n") {
            let archive = [header(b'x', b"x", text.len() as u64).as_slice(), &padded(text.as_bytes()), &header(b'0', b"y", 0)].concat();
            let _ = entries(&archive);
        }
    }
}
