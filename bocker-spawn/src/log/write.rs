//! Writing the log: in as many files as were asked for, and on a disk that is full for a while.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bocker_pipe::{Doing, Result, files, rotated, time};
use memchr::{memchr, memchr_iter, memrchr};
use serde::{Deserialize, Serialize};

use super::{Request, Stream};
use crate::say;

/// What stands before a record's text: the time, the stream and the mark, always of one length.
const HEAD: usize = 40;
/// Records of so many bytes are written at once: short lines take many times their bytes, and memory is bounded.
const PIECE: usize = 128 << 10;
/// How long after a failure it is tried again: to look for room on a full filesystem can take it milliseconds.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often it is looked whether somebody has emptied or removed the file.
const LOOK: Duration = Duration::from_secs(1);

/// What could not be written: `bocker.spawn.lost`, and as long as the container runs `lost` in its claim's folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lost {
    /// So many records.
    records: u64,
    /// So many bytes, as the container wrote them.
    bytes: u64,
    /// From when on, RFC 3339 in UTC.
    since: String,
    /// Why.
    error: String,
}

/// A log that is being written.
pub(crate) struct Log {
    path: PathBuf,
    /// How many bytes a file may have, and how many old ones there are to be.
    most: u64,
    old: usize,
    /// Absent when it could not be opened again.
    file: Option<File>,
    size: u64,
    looked: Instant,
    records: Vec<u8>,
    /// So much of them is written.
    start: usize,
    /// All that was ever lost, and where it is shown.
    lost: Option<Lost>,
    shown: PathBuf,
    outage: Option<Outage>,
}

/// A time in which nothing can be written, and what was lost in it.
struct Outage {
    lost: Lost,
    again: Instant,
    shown: Option<Instant>,
}

impl Log {
    /// Opens the log to be added to. It is never inside a container's root, and a link in its place is refused.
    pub(crate) fn open(
        path: &Path,
        request: &Request,
        lost: Option<Lost>,
        shown: PathBuf,
    ) -> Result<Log> {
        let mut log = Log {
            path: path.to_owned(),
            most: request.most().unwrap_or(u64::MAX),
            old: request.old(),
            file: None,
            size: 0,
            looked: Instant::now(),
            records: Vec::new(),
            start: 0,
            lost,
            shown,
            outage: None,
        };
        log.reopen()?;
        Ok(log)
    }

    fn reopen(&mut self) -> Result<()> {
        let doing = || format!("open the log {}", self.path.display());
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&self.path)
            .doing(doing)?;
        self.size = file.metadata().doing(doing)?.len();
        let mut last = [b'\n'];
        if self.size > 0 && file.read_at(&mut last, self.size - 1).is_ok() && last != [b'\n'] {
            // Half a record of one that was killed must not be the beginning of ours.
            file.write_all(b"\n").doing(doing)?;
            self.size += 1;
        }
        self.file = Some(file);
        Ok(())
    }

    /// Records what came from a stream just now. What cannot be written is counted, and the container goes on.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        let now = Instant::now();
        if self.outage.is_some() && !self.resumes(now) {
            let ends = memchr_iter(b'\n', bytes).count();
            let records = ends + usize::from(!bytes.ends_with(b"\n"));
            return self.count(records, bytes.len());
        }
        self.look(now);
        let head = head(stream);
        let mut rest = bytes;
        while !rest.is_empty() {
            let end = memchr(b'\n', rest);
            let text = &rest[..end.unwrap_or(rest.len())];
            self.put(&head, if end.is_some() { b"F " } else { b"P " }, text);
            rest = end.map_or(&[], |end| &rest[end + 1..]);
            if self.records.len() >= PIECE {
                self.flush();
            }
        }
        self.flush();
    }

    fn put(&mut self, head: &str, mark: &[u8; 2], text: &[u8]) {
        self.records.extend_from_slice(head.as_bytes());
        self.records.extend_from_slice(mark);
        self.records.extend_from_slice(text);
        self.records.push(b'\n');
    }

    /// Writes what has been put together, or counts it as lost.
    fn flush(&mut self) {
        let result = match self.outage {
            Some(_) => Ok(()),
            None => self.append(),
        };
        if let Err(error) = result {
            say(format_args!("{error}; the container goes on"));
            let lost = Lost {
                since: time::now().to_string(),
                error: error.message().to_owned(),
                ..Lost::default()
            };
            self.outage = Some(Outage {
                lost,
                again: Instant::now() + PATIENCE,
                shown: None,
            });
        }
        let left = &self.records[self.start..];
        let records = memchr_iter(b'\n', left).count();
        let bytes = left.len().saturating_sub(records * HEAD);
        self.forget();
        self.count(records, bytes);
    }

    fn forget(&mut self) {
        self.records.clear();
        self.start = 0;
    }

    /// Counts what was lost, and shows it.
    fn count(&mut self, records: usize, bytes: usize) {
        let Some(outage) = self.outage.as_mut().filter(|_| records > 0) else {
            return;
        };
        let all = self.lost.get_or_insert_with(|| outage.lost.clone());
        for lost in [&mut outage.lost, all] {
            lost.records += records as u64;
            lost.bytes += bytes as u64;
        }
        all.error.clone_from(&outage.lost.error);
        let now = Instant::now();
        if outage.shown.is_none_or(|shown| now >= shown + PATIENCE) {
            outage.shown = Some(now);
            self.show();
        }
    }

    /// In memory, where there is room.
    fn show(&self) {
        let _ = serde_json::to_vec(&self.lost).map(|bytes| files::replace(&self.shown, &bytes));
    }

    /// Whether it can be written again: then a record says how much is missing before it.
    fn resumes(&mut self, now: Instant) -> bool {
        let Some(outage) = self.outage.as_mut().filter(|outage| now >= outage.again) else {
            return false;
        };
        outage.again = now + PATIENCE;
        let Lost {
            records,
            bytes,
            since,
            error,
        } = &outage.lost;
        let text = format!(
            "bocker-spawn: {records} records, {bytes} bytes, are missing here since {since}: {error}"
        );
        self.put(&head(Stream::Stderr), b"F ", text.as_bytes());
        let is_written = self.append().is_ok();
        self.forget();
        if is_written {
            self.outage = None;
            self.show();
        }
        is_written
    }

    /// Writes the records, in several files where one becomes full. Where that fails, whole records are written.
    fn append(&mut self) -> Result<()> {
        while self.start < self.records.len() {
            let left = &self.records[self.start..];
            let room = self.most.saturating_sub(self.size);
            let room = usize::try_from(room).unwrap_or(usize::MAX).min(left.len());
            let piece = match memrchr(b'\n', &left[..room]) {
                Some(at) => at + 1,
                // One record is larger than a file is to be.
                None if self.size == 0 => memchr(b'\n', left).map_or(left.len(), |at| at + 1),
                None => {
                    self.turn()?;
                    continue;
                }
            };
            self.append_to_file(self.start + piece)?;
        }
        Ok(())
    }

    /// Begins the next file.
    fn turn(&mut self) -> Result<()> {
        self.file = None;
        self.size = 0;
        rotated::rotate(&self.path, self.old)
            .doing(|| format!("rename the log {}", self.path.display()))
    }

    fn append_to_file(&mut self, end: usize) -> Result<()> {
        if self.file.is_none() {
            self.reopen()?;
        }
        while let (Some(file), true) = (&mut self.file, self.start < end) {
            let result = match file.write(&self.records[self.start..end]) {
                Ok(0) => Err(ErrorKind::WriteZero.into()),
                result => result,
            };
            match result {
                Ok(length) => {
                    self.start += length;
                    self.size += length as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    let whole = memrchr(b'\n', &self.records[..self.start]);
                    let whole = whole.map_or(0, |at| at + 1);
                    self.size = self.size.saturating_sub((self.start - whole) as u64);
                    self.start = whole;
                    // Where it cannot be cut, who opens it next ends the line.
                    if file.set_len(self.size).is_err() {
                        self.file = None;
                    }
                    return Err(error).doing(|| format!("write the log {}", self.path.display()));
                }
            }
        }
        Ok(())
    }

    /// Somebody may have emptied the file, or removed it: then another takes its place.
    fn look(&mut self, now: Instant) {
        if now < self.looked + LOOK {
            return;
        }
        self.looked = now;
        match self.file.as_ref().map(File::metadata) {
            Some(Ok(there)) if there.nlink() > 0 => self.size = there.len(),
            _ => self.file = None,
        }
    }

    /// Gives the memory back that the next record needs again.
    pub(crate) fn rest(&mut self) {
        self.records = Vec::new();
    }

    /// What was ever lost. If there is room again, the last record says so.
    pub(crate) fn lost(&mut self) -> Option<Lost> {
        if let Some(outage) = &mut self.outage {
            let now = Instant::now();
            outage.again = now;
            self.resumes(now);
        }
        self.lost.clone()
    }
}

fn head(stream: Stream) -> String {
    format!("{} {} ", time::now(), stream.as_str())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Record;
    use super::*;

    fn open(folder: &tempfile::TempDir, options: &[&str]) -> Log {
        let request = Request::asked(options).unwrap();
        let shown = folder.path().join("lost");
        Log::open(&folder.path().join("log"), &request, None, shown).unwrap()
    }

    /// What each stream wrote, of all files.
    fn read(folder: &tempfile::TempDir) -> [Vec<u8>; 2] {
        let mut all = [Vec::new(), Vec::new()];
        let mut reader = rotated::Reader::open(&folder.path().join("log")).unwrap();
        while let Some(line) = reader.line().unwrap() {
            if let Some(record) = Record::parse(line) {
                let to = &mut all[record.stream as usize];
                to.extend_from_slice(record.text);
                to.extend_from_slice(&b"\n"[..usize::from(record.is_end)]);
            }
        }
        all
    }

    #[test]
    fn a_record_is_what_the_cri_writes() {
        let folder = tempfile::tempdir().unwrap();
        open(&folder, &[]).write(Stream::Stdout, b"one\ntwo");
        let text = std::fs::read_to_string(folder.path().join("log")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with("Z stdout F one"), "{text}");
        assert!(lines[1].ends_with("Z stdout P two"), "{text}");
        assert_eq!(lines[0].len(), HEAD + "one".len());
    }

    #[test]
    fn a_link_in_the_logs_place_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(Log::open(&path, &Request::default(), None, folder.path().join("lost")).is_err());
    }

    #[test]
    fn files_have_the_size_and_the_number_that_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = open(&folder, &["max-size=1000", "max-file=3"]);
        for number in 0..100 {
            log.write(Stream::Stdout, format!("{number:09}\n").as_bytes());
        }
        let size = |name: &str| std::fs::metadata(folder.path().join(name)).map(|meta| meta.len());
        assert_eq!(
            (size("log.2").unwrap(), size("log.1").unwrap()),
            (1000, 1000)
        );
        assert!(size("log").unwrap() <= 1000 && size("log.3").is_err());
        let text = String::from_utf8(read(&folder)[0].clone()).unwrap();
        let numbers: Vec<u32> = text.lines().map(|line| line.parse().unwrap()).collect();
        assert!(
            numbers.len() > 40 && numbers.is_sorted() && numbers.ends_with(&[99]),
            "{numbers:?}"
        );
    }

    #[test]
    fn one_file_is_emptied_when_no_more_are_to_be() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = open(&folder, &["max-size=100"]);
        for _ in 0..3 {
            log.write(Stream::Stdout, b"a line\nanother\n");
        }
        assert!(!folder.path().join("log.1").exists());
        assert_eq!(read(&folder)[0], b"a line\nanother\n");
    }

    #[test]
    fn a_file_that_was_removed_or_emptied_is_begun_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = open(&folder, &["max-size=90"]);
        log.write(Stream::Stdout, b"gone\n");
        std::fs::remove_file(folder.path().join("log")).unwrap();
        log.looked -= LOOK;
        log.write(Stream::Stdout, b"kept\n");
        assert_eq!(read(&folder)[0], b"kept\n");
        std::fs::write(folder.path().join("log"), "").unwrap();
        log.looked -= LOOK;
        for text in [b"1\n", b"2\n"] {
            log.write(Stream::Stdout, text);
        }
        assert_eq!(read(&folder)[0], b"1\n2\n");
    }

    #[test]
    fn half_a_record_of_one_that_was_killed_ends_where_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("log"),
            "2026-11-21T02:30:21.123456789Z stdout F ha",
        )
        .unwrap();
        open(&folder, &[]).write(Stream::Stdout, b"whole\n");
        assert_eq!(read(&folder)[0], b"ha\nwhole\n");
    }

    /// /dev/full answers every write with ENOSPC, as a full disk does.
    #[test]
    fn what_a_full_disk_does_not_take_is_counted_and_told_when_it_does_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = open(&folder, &[]);
        log.write(Stream::Stdout, b"before\n");
        log.file = Some(OpenOptions::new().write(true).open("/dev/full").unwrap());
        log.write(Stream::Stdout, b"lost\nlost too");
        log.write(Stream::Stderr, b"and this\n");
        let shown: Lost = serde_json::from_slice(&std::fs::read(&log.shown).unwrap()).unwrap();
        assert_eq!(
            (shown.records, shown.bytes),
            (2, 14),
            "both were lost in one write"
        );
        assert!(shown.error.contains("ENOSPC"), "{shown:?}");
        log.file = None;
        log.outage.as_mut().unwrap().again = Instant::now();
        log.write(Stream::Stdout, b"after\n");
        let [out, err] = read(&folder);
        assert_eq!(out, b"before\nafter\n");
        let err = String::from_utf8(err).unwrap();
        assert!(
            err.starts_with("bocker-spawn: 3 records, 23 bytes, are missing here since 20"),
            "{err}"
        );
        assert_eq!(log.lost().unwrap().records, 3);
    }

    #[test]
    fn the_end_tells_what_was_lost_and_the_last_reason() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = open(&folder, &[]);
        log.file = Some(OpenOptions::new().write(true).open("/dev/full").unwrap());
        log.write(Stream::Stdout, b"lost\n");
        log.outage.as_mut().unwrap().lost.error = "another".into();
        log.write(Stream::Stdout, b"lost too\n");
        log.file = None;
        assert_eq!(log.lost().unwrap().error, "another");
        let [_, err] = read(&folder);
        let err = String::from_utf8(err).unwrap();
        assert!(err.contains("2 records, 14 bytes, are missing"), "{err}");
    }

    #[test]
    fn the_shortest_lines_take_no_more_memory_than_others() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = open(&folder, &[]);
        let lines = [b'\n'; 64 << 10];
        log.write(Stream::Stdout, &lines);
        assert_eq!(read(&folder)[0], lines);
        assert!(log.records.capacity() <= 2 * (PIECE + HEAD));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back_to_the_byte(chunks in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..64)), 0..16), limits in any::<bool>()) {
            let folder = tempfile::tempdir().unwrap();
            let options: &[&str] = if limits { &["max-size=1000", "max-file=60"] } else { &[] };
            let mut log = open(&folder, options);
            let mut all = [Vec::new(), Vec::new()];
            for (is_out, bytes) in &chunks {
                let stream = if *is_out { Stream::Stdout } else { Stream::Stderr };
                log.write(stream, bytes);
                all[stream as usize].extend_from_slice(bytes);
            }
            prop_assert_eq!(read(&folder), all);
        }
    }
}
