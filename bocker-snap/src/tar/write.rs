//! Writes tar streams: ustar headers, with PAX records where a value does not fit one. The same entries give the same bytes.

use std::io::{self, Read, Write};

use bocker_pipe::{Doing, Error, Kind, Result};

use super::{
    BLOCK, CHECKSUM, DEV_MAJOR, DEV_MINOR, Entry, EntryKind, GID, LINK, MAGIC, MODE, MTIME, NAME,
    PREFIX, SIZE, TYPE, Time, UID, USTAR, XATTR_PREFIX, checksum, padding,
};

/// The name that a PAX header itself goes by; a reader that does not know PAX would unpack it as a file.
const PAX_NAME: &[u8] = b"PaxHeaders.0/entry";
/// "ustar", NUL, and then the version as two digits.
const VERSION: &[u8; 2] = b"00";
/// How much is copied at once, in bytes.
const BUFFER: usize = 256 << 10;

/// Appends entries to a stream.
pub(crate) struct Writer<W> {
    stream: W,
    buffer: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Writes to a stream.
    pub(crate) fn new(stream: W) -> Writer<W> {
        Writer {
            stream,
            buffer: vec![0; BUFFER],
        }
    }

    /// Appends an entry and its `size` bytes of data. Fails with [`Kind::Invalid`] when there are fewer.
    pub(crate) fn append(&mut self, entry: &Entry, data: &mut impl Read) -> Result<()> {
        let mut records = Vec::new();
        let mut block = [0_u8; BLOCK];
        if !set_path(&mut block, &entry.path) {
            record(&mut records, b"path", &entry.path);
        }
        if !set_text(&mut block[LINK], &entry.link) {
            record(&mut records, b"linkpath", &entry.link);
        }
        set_octal(&mut block[MODE], u64::from(entry.mode));
        for (field, key, value) in [
            (UID, "uid", u64::from(entry.uid)),
            (GID, "gid", u64::from(entry.gid)),
            (SIZE, "size", entry.size),
        ] {
            if !set_octal(&mut block[field], value) {
                record(&mut records, key.as_bytes(), value.to_string().as_bytes());
            }
        }
        let whole = u64::try_from(entry.mtime.seconds).ok();
        let fits = whole.is_some_and(|seconds| set_octal(&mut block[MTIME], seconds));
        if !fits || entry.mtime.nanoseconds != 0 {
            record(&mut records, b"mtime", time(entry.mtime).as_bytes());
        }
        if matches!(entry.kind, EntryKind::CharDevice | EntryKind::BlockDevice) {
            let fits = set_octal(&mut block[DEV_MAJOR], u64::from(entry.device.0))
                && set_octal(&mut block[DEV_MINOR], u64::from(entry.device.1));
            if !fits {
                return Err(Error::new(
                    Kind::Invalid,
                    format!("the device number of '{}' is out of range", entry.name()),
                ));
            }
        }
        for (name, value) in &entry.xattrs {
            record(&mut records, &[XATTR_PREFIX, name].concat(), value);
        }
        let kind = match entry.kind {
            EntryKind::File => b'0',
            EntryKind::HardLink => b'1',
            EntryKind::Symlink => b'2',
            EntryKind::CharDevice => b'3',
            EntryKind::BlockDevice => b'4',
            EntryKind::Directory => b'5',
            EntryKind::Fifo => b'6',
        };
        if !records.is_empty() {
            let mut header = [0_u8; BLOCK];
            set_text(&mut header[NAME], PAX_NAME);
            set_octal(&mut header[MODE], 0o644);
            set_octal(&mut header[UID], 0);
            set_octal(&mut header[GID], 0);
            // A vector's length fits eleven octal digits long before memory ends.
            set_octal(&mut header[SIZE], records.len() as u64);
            set_octal(&mut header[MTIME], 0);
            self.header(&mut header, b'x')?;
            self.copy(&mut records.as_slice(), records.len() as u64)?;
        }
        self.header(&mut block, kind)?;
        if !self.copy(data, entry.size)? {
            return Err(Error::new(
                Kind::Invalid,
                format!("'{}' became shorter while it was read", entry.name()),
            ));
        }
        Ok(())
    }

    /// Ends the archive and gives the stream back.
    pub(crate) fn finish(mut self) -> Result<W> {
        self.write(&[0; 2 * BLOCK])?;
        Ok(self.stream)
    }

    fn header(&mut self, block: &mut [u8; BLOCK], kind: u8) -> Result<()> {
        block[TYPE] = kind;
        block[MAGIC].copy_from_slice(USTAR);
        block[MAGIC.end..MAGIC.end + VERSION.len()].copy_from_slice(VERSION);
        let sum = format!("{:06o}\0 ", checksum(block));
        block[CHECKSUM].copy_from_slice(sum.as_bytes());
        self.write(block)
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

fn set_text(field: &mut [u8], text: &[u8]) -> bool {
    if text.len() > field.len() {
        return false;
    }
    field[..text.len()].copy_from_slice(text);
    true
}

/// Octal digits with leading zeros and a NUL.
fn set_octal(field: &mut [u8], value: u64) -> bool {
    let digits = format!("{value:0width$o}", width = field.len() - 1);
    if digits.len() >= field.len() {
        field[..digits.len().min(1)].fill(b'0');
        return false;
    }
    field[..digits.len()].copy_from_slice(digits.as_bytes());
    true
}

/// The whole path in the name, or split at a slash into prefix and name.
fn set_path(block: &mut [u8; BLOCK], path: &[u8]) -> bool {
    if set_text(&mut block[NAME], path) {
        return true;
    }
    let split = path.iter().enumerate().position(|(index, byte)| {
        *byte == b'/'
            && (1..=PREFIX.len()).contains(&index)
            && (1..=NAME.len()).contains(&(path.len() - index - 1))
    });
    let Some(split) = split else { return false };
    set_text(&mut block[PREFIX], &path[..split]) && set_text(&mut block[NAME], &path[split + 1..])
}

/// "length key=value\n", where the length counts itself.
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
