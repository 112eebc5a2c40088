//! Writes tar streams: ustar headers, with PAX records where a value does not fit one. The same entries give the same bytes.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{Doing, Error, Kind, Result};
use tar::{EntryType, Header};

use super::{BLOCK, Entry, EntryKind, Time, XATTR_PREFIX, padding};

/// The name that a PAX header itself goes by; a reader that does not know PAX would unpack it as a file.
const PAX_NAME: &[u8] = b"PaxHeaders.0/entry";
/// The largest numbers that seven and eleven octal digits write.
const SEVEN_DIGITS: u64 = 0o777_7777;
const ELEVEN_DIGITS: u64 = 0o777_7777_7777;
/// How much is copied at once, in bytes.
const BUFFER: usize = 256 << 10;

/// Appends entries to a stream.
pub struct Writer<W> {
    stream: W,
    buffer: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Writes to a stream.
    pub fn new(stream: W) -> Writer<W> {
        Writer {
            stream,
            buffer: vec![0; BUFFER],
        }
    }

    /// Appends an entry and its `size` bytes of data. Fails with [`Kind::Invalid`] when there are fewer.
    pub fn append(&mut self, entry: &Entry, data: &mut impl Read) -> Result<()> {
        self.begin(entry)?;
        match self.copy(data, entry.size)? {
            true => Ok(()),
            false => Err(shorter(entry)),
        }
    }

    /// Appends an entry, whose `size` bytes of data `write` writes to the stream itself. It answers how many it wrote.
    pub fn append_with(
        &mut self,
        entry: &Entry,
        write: impl FnOnce(&mut W) -> Result<u64>,
    ) -> Result<()> {
        self.begin(entry)?;
        if write(&mut self.stream)? != entry.size {
            return Err(shorter(entry));
        }
        self.write(&[0; BLOCK][..padding(entry.size) as usize])
    }

    fn begin(&mut self, entry: &Entry) -> Result<()> {
        let mut records = Vec::new();
        let mut header = Header::new_ustar();
        // The crate tidies paths and refuses some; one that does not come back as it is goes into a record.
        let path = Path::new(OsStr::from_bytes(&entry.path));
        if header.set_path_absolute(path).is_err() || *header.path_bytes() != *entry.path {
            record(&mut records, b"path", &entry.path);
        }
        if header.set_link_name_literal(&entry.link).is_err() {
            record(&mut records, b"linkpath", &entry.link);
        }
        header.set_mode(entry.mode);
        let mut number = |set: fn(&mut Header, u64), key: &[u8], value: u64, most: u64| {
            let fits = value <= most;
            set(&mut header, if fits { value } else { 0 });
            if !fits {
                record(&mut records, key, value.to_string().as_bytes());
            }
        };
        number(Header::set_uid, b"uid", entry.uid.into(), SEVEN_DIGITS);
        number(Header::set_gid, b"gid", entry.gid.into(), SEVEN_DIGITS);
        number(Header::set_size, b"size", entry.size, ELEVEN_DIGITS);
        let whole = u64::try_from(entry.mtime.seconds)
            .ok()
            .filter(|seconds| *seconds <= ELEVEN_DIGITS);
        header.set_mtime(whole.unwrap_or(0));
        if whole.is_none() || entry.mtime.nanoseconds != 0 {
            record(&mut records, b"mtime", time(entry.mtime).as_bytes());
        }
        if let (EntryKind::CharDevice | EntryKind::BlockDevice, Some(fields)) =
            (entry.kind, header.as_ustar_mut())
        {
            let (major, minor) = entry.device;
            // The crate would cut what does not fit.
            if u64::from(major.max(minor)) > SEVEN_DIGITS {
                return Err(Error::new(
                    Kind::Invalid,
                    format!("the device number of '{}' is out of range", entry.name()),
                ));
            }
            fields.set_device_major(major);
            fields.set_device_minor(minor);
        }
        for (name, value) in &entry.xattrs {
            record(&mut records, &[XATTR_PREFIX, name].concat(), value);
        }
        if !records.is_empty() {
            let mut extension = Header::new_ustar();
            extension.as_old_mut().name[..PAX_NAME.len()].copy_from_slice(PAX_NAME);
            extension.set_mode(0o644);
            extension.set_uid(0);
            extension.set_gid(0);
            extension.set_size(records.len() as u64);
            self.header(&mut extension, EntryType::XHeader)?;
            self.copy(&mut records.as_slice(), records.len() as u64)?;
        }
        let kind = match entry.kind {
            EntryKind::File => EntryType::Regular,
            EntryKind::HardLink => EntryType::Link,
            EntryKind::Symlink => EntryType::Symlink,
            EntryKind::CharDevice => EntryType::Char,
            EntryKind::BlockDevice => EntryType::Block,
            EntryKind::Directory => EntryType::Directory,
            EntryKind::Fifo => EntryType::Fifo,
        };
        self.header(&mut header, kind)
    }

    /// Ends the archive and gives the stream back.
    pub fn finish(mut self) -> Result<W> {
        self.write(&[0; 2 * BLOCK])?;
        Ok(self.stream)
    }

    fn header(&mut self, header: &mut Header, kind: EntryType) -> Result<()> {
        header.set_entry_type(kind);
        header.set_cksum();
        self.write(header.as_bytes())
    }

    /// Copies `size` bytes and fills the last block. Answers whether there were as many.
    fn copy(&mut self, data: &mut impl Read, size: u64) -> Result<bool> {
        let mut left = size;
        while left > 0 {
            let limit = usize::try_from(left).unwrap_or(BUFFER).min(BUFFER);
            match data.read(&mut self.buffer[..limit]) {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    self.stream
                        .write_all(&self.buffer[..count])
                        .doing(|| "write the layer".into())?;
                    left -= count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).doing(|| "read a file for the layer".into()),
            }
        }
        self.write(&[0; BLOCK][..padding(size) as usize])?;
        Ok(true)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream
            .write_all(bytes)
            .doing(|| "write the layer".into())
    }
}

fn shorter(entry: &Entry) -> Error {
    Error::new(
        Kind::Invalid,
        format!("'{}' became shorter while it was read", entry.name()),
    )
}

/// "length key=value\n", where the length counts itself. Keys are bytes: names of attributes need not be UTF-8.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length += 1;
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn time(time: Time) -> String {
    match (time.seconds, time.nanoseconds) {
        (seconds, 0) => seconds.to_string(),
        (seconds, nanoseconds) if seconds >= 0 => format!("{seconds}.{nanoseconds:09}"),
        // One second more, less what remains of it: -2 s and 750 ms after are -1.25 s.
        (seconds, nanoseconds) => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds),
    }
}
