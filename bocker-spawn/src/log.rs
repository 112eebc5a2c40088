//! The log: one record per line, as the CRI writes them: `2026-11-21T02:30:21.123456789Z stdout F message`.
//! `F` ends a line; `P` is a part of one whose rest comes in the stream's next record. Bytes stay as they were.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use bocker_pipe::time::now;
use bocker_pipe::{Doing, Result};

/// The longest record that is read back, a part of a line: more than any that is written.
const MAX_RECORD: u64 = 1 << 20;

/// Where a record's bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn as_str(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// A log that is being written.
pub(crate) struct Log {
    file: File,
    records: Vec<u8>,
}

impl Log {
    /// Opens the log, emptied or added to. It is never inside a container's root, and a link in its place is refused.
    pub(crate) fn open(path: &Path) -> Result<Log> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .doing(|| format!("open the log {}", path.display()))?;
        Ok(Log {
            file,
            records: Vec::new(),
        })
    }

    /// Records what came from a stream just now, in one write.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) -> Result<()> {
        let head = format!("{} {} ", now(), stream.as_str());
        self.records.clear();
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            self.records.extend_from_slice(head.as_bytes());
            let (mark, text) = match line.strip_suffix(b"\n") {
                Some(text) => (b"F ", text),
                None => (b"P ", line),
            };
            self.records.extend_from_slice(mark);
            self.records.extend_from_slice(text);
            self.records.push(b'\n');
        }
        self.file
            .write_all(&self.records)
            .doing(|| "write the log".into())
    }
}

/// Reads a log back, each stream's bytes as they were written.
pub(crate) fn replay(
    from: impl std::io::Read,
    mut write: impl FnMut(Stream, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut reader = BufReader::new(from);
    let mut record = Vec::new();
    loop {
        record.clear();
        let mut limited = std::io::Read::take(&mut reader, MAX_RECORD);
        let length = limited
            .read_until(b'\n', &mut record)
            .doing(|| "read the log".into())?;
        if length == 0 {
            return Ok(());
        }
        if let Some((stream, text)) = parse(&mut record) {
            write(stream, text)?;
        }
    }
}

/// The stream and the bytes of a record; the newline is the line's where it was whole. A damaged record is skipped.
fn parse(record: &mut [u8]) -> Option<(Stream, &[u8])> {
    let space = |from: usize, record: &[u8]| {
        record[from..]
            .iter()
            .position(|b| *b == b' ')
            .map(|at| from + at)
    };
    let time = space(0, record)?;
    let name = space(time + 1, record)?;
    let stream = match &record[time + 1..name] {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let mark = space(name + 1, record)?;
    let text = match &record[name + 1..mark] {
        b"F" => &record[mark + 1..],
        b"P" => record[mark + 1..].strip_suffix(b"\n")?,
        _ => return None,
    };
    Some((stream, text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn log() -> (tempfile::TempDir, Log) {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::open(&folder.path().join("log")).unwrap();
        (folder, log)
    }

    fn read(folder: &tempfile::TempDir) -> (Vec<u8>, Vec<u8>) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let file = File::open(folder.path().join("log")).unwrap();
        replay(file, |stream, bytes| {
            match stream {
                Stream::Stdout => out.extend_from_slice(bytes),
                Stream::Stderr => err.extend_from_slice(bytes),
            }
            Ok(())
        })
        .unwrap();
        (out, err)
    }

    #[test]
    fn a_record_is_what_the_cri_writes() {
        let (folder, mut log) = log();
        log.write(Stream::Stdout, b"one\ntwo").unwrap();
        let text = std::fs::read_to_string(folder.path().join("log")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with("Z stdout F one"), "{text}");
        assert!(lines[1].ends_with("Z stdout P two"), "{text}");
        assert_eq!(lines[0].split(' ').next().unwrap().len(), 30);
    }

    #[test]
    fn a_link_in_the_logs_place_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(Log::open(&path).is_err());
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back_to_the_byte(chunks in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..64)), 0..16)) {
            let (folder, mut log) = log();
            let (mut out, mut err) = (Vec::new(), Vec::new());
            for (is_out, bytes) in &chunks {
                let (stream, all) = if *is_out { (Stream::Stdout, &mut out) } else { (Stream::Stderr, &mut err) };
                log.write(stream, bytes).unwrap();
                all.extend_from_slice(bytes);
            }
            prop_assert_eq!(read(&folder), (out, err));
        }

        #[test]
        fn no_bytes_in_a_log_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = replay(&bytes[..], |_, _| Ok(()));
        }
    }
}
