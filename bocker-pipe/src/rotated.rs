//! A file of lines that is renamed when it is full: `log` to `log.1`, that to `log.2`, and so on. Reading goes through all of
//! them, and on with what is appended.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Result};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use memchr::{memchr, memrchr_iter};

/// How much is read at once.
const CHUNK: usize = 256 << 10;
/// A longer line comes in pieces. It is more than any that is written.
const MAX_LINE: usize = 1 << 20;
/// How much of a line is shown to who goes back.
const HEAD: usize = 64;
/// How much is read at once by who goes back, who mostly wants the end alone.
const BLOCK: u64 = 32 << 10;

/// The `n`th of the old files.
pub fn old(path: &Path, n: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

/// Makes way for a new file at `path`: what is there becomes the first of the `kept` old ones, and the last of those goes.
pub fn rotate(path: &Path, kept: usize) -> Result<()> {
    for n in (1..kept).rev() {
        if_there(fs::rename(old(path, n), old(path, n + 1)))?;
    }
    if_there(match kept {
        0 => fs::remove_file(path),
        _ => fs::rename(path, old(path, 1)),
    })
    .map(drop)
}

/// Removes the file and the old ones.
pub fn remove(path: &Path) -> Result<()> {
    if_there(fs::remove_file(path))?;
    let mut n = 1;
    while if_there(fs::remove_file(old(path, n)))?.is_some() {
        n += 1;
    }
    Ok(())
}

fn if_there<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// The files, the oldest first. They may be renamed meanwhile.
fn open(path: &Path) -> Result<VecDeque<File>> {
    let open = |path: &Path| {
        let mut options = OpenOptions::new();
        let options = options.read(true).custom_flags(libc::O_NOFOLLOW);
        if_there(options.open(path))
    };
    let mut files: VecDeque<File> = open(path)?.into_iter().collect();
    let mut n = 1;
    while let Some(file) = open(&old(path, n))? {
        // From the newest on: one that has been renamed since is met again, and none is missed.
        let again = files.front().map(|newer| are_one(newer, &file));
        if !again.transpose()?.unwrap_or(false) {
            files.push_front(file);
        }
        n += 1;
    }
    Ok(files)
}

fn are_one(a: &File, b: &File) -> Result<bool> {
    let (a, b) = (a.metadata()?, b.metadata()?);
    Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
}

/// A place between two lines of the files that a [`Reader`] has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    file: usize,
    at: u64,
}

/// Reads lines, the oldest first.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    /// Those to be read, the one that is being read first.
    files: VecDeque<File>,
    /// The one before that.
    before: Option<File>,
    /// Where to read on.
    at: u64,
    /// What was read of it and is not handed out yet lies between the two.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Another has taken the first file's place, so that nothing is appended to it any more.
    is_old: bool,
}

impl Reader {
    /// Finds the files there are; there may be none yet.
    pub fn open(path: &Path) -> Result<Reader> {
        Ok(Reader {
            files: open(path)?,
            before: None,
            path: path.to_owned(),
            at: 0,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            is_old: false,
        })
    }

    /// The next line with its newline, or without it at the end of a file that has got a successor. `None` when there is none
    /// as yet: asked again, it has looked whether there is more, or another file.
    pub fn line(&mut self) -> Result<Option<&[u8]>> {
        let mut seen = 0;
        let length = loop {
            let pending = &self.buffer[self.start..self.end];
            match memchr(b'\n', &pending[seen..]) {
                Some(at) => break seen + at + 1,
                None if pending.len() >= MAX_LINE => break pending.len(),
                None => seen = pending.len(),
            }
            if self.fill()? {
                continue;
            }
            match self.next_file()? {
                Next::More => {}
                Next::Another if seen > 0 => break seen,
                Next::Another => {}
                Next::Nothing => return Ok(None),
            }
        };
        let from = self.start;
        self.start += length;
        Ok(Some(&self.buffer[from..self.start]))
    }

    /// What there is of a line whose newline has not been written.
    pub fn rest(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Reads on in the first file. Whether there was something.
    fn fill(&mut self) -> Result<bool> {
        let Some(file) = self.files.front() else {
            return Ok(false);
        };
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.buffer.len() < self.end + CHUNK / 2 {
            self.buffer.resize(self.end + CHUNK, 0);
        }
        let length = file.read_at(&mut self.buffer[self.end..], self.at)?;
        self.end += length;
        self.at += length as u64;
        Ok(length > 0)
    }

    /// What comes after the first file has been read to its end.
    fn next_file(&mut self) -> Result<Next> {
        if self.files.len() > 1 {
            self.before = self.files.pop_front();
            self.at = 0;
            return Ok(Next::Another);
        }
        let Some(file) = self.files.front() else {
            self.files = open(&self.path)?;
            let found = !self.files.is_empty();
            return Ok(if found { Next::Another } else { Next::Nothing });
        };
        let now = file.metadata()?;
        if now.len() < self.at {
            // Somebody has emptied it.
            (self.at, self.start, self.end) = (0, 0, 0);
            return Ok(Next::More);
        }
        let there = if_there(fs::symlink_metadata(&self.path))?;
        if there.is_none_or(|there| (there.dev(), there.ino()) == (now.dev(), now.ino())) {
            return Ok(Next::Nothing);
        }
        if !self.is_old {
            // It may have grown between the reading and the renaming.
            self.is_old = true;
            return Ok(Next::More);
        }
        let mut files = open(&self.path)?;
        // One that is not found any more has been removed, perhaps the one before it too.
        let mut known = 0;
        for (place, other) in files.iter().enumerate() {
            for ours in self.before.iter().chain([file]) {
                if are_one(ours, other)? {
                    known = place + 1;
                }
            }
        }
        self.before = self.files.pop_front();
        self.files = files.split_off(known);
        self.at = 0;
        self.is_old = false;
        Ok(Next::Another)
    }

    /// Goes back through the lines from the end of the files found so far, and shows of each where it begins and how, until
    /// there are none or `visit` says that it is enough.
    pub fn back(&self, mut visit: impl FnMut(Place, &[u8]) -> bool) -> Result<()> {
        let mut block = vec![0; BLOCK as usize];
        for (number, file) in self.files.iter().enumerate().rev() {
            let mut line_end = file.metadata()?.len();
            let mut end = line_end;
            while end > 0 {
                let from = end.saturating_sub(BLOCK);
                let block = &mut block[..(end - from) as usize];
                if file.read_exact_at(block, from).is_err() {
                    // Somebody has emptied it.
                    break;
                }
                let first = (from == 0).then_some(0);
                let starts = memrchr_iter(b'\n', block).map(|at| from + at as u64 + 1);
                for at in starts.chain(first) {
                    if at < line_end {
                        let mut head = [0; HEAD];
                        let length = (line_end - at).min(HEAD as u64) as usize;
                        let offset = (at - from) as usize;
                        match block.get(offset..offset + length) {
                            Some(bytes) => head[..length].copy_from_slice(bytes),
                            None => drop(file.read_at(&mut head[..length], at)?),
                        }
                        let place = Place { file: number, at };
                        if !visit(place, &head[..length]) {
                            return Ok(());
                        }
                    }
                    line_end = at;
                }
                end = from;
            }
        }
        Ok(())
    }

    /// Begins to read at a place that [`Reader::back`] has shown.
    pub fn begin_at(&mut self, place: Place) {
        self.before = self.files.drain(..place.file).next_back();
        self.at = place.at;
    }

    /// Begins to read behind all that is there.
    pub fn begin_at_end(&mut self) -> Result<()> {
        if let Some(last) = self.files.pop_back() {
            self.at = last.metadata()?.len();
            self.before = self.files.pop_back();
            self.files.clear();
            self.files.push_back(last);
        }
        Ok(())
    }
}

/// What comes after the end of a file.
enum Next {
    /// Perhaps more of the same.
    More,
    /// Another file.
    Another,
    /// Nothing as yet.
    Nothing,
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn append(path: &Path, text: &str) {
        let mut options = OpenOptions::new();
        let mut file = options.append(true).create(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn lines(reader: &mut Reader) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(line) = reader.line().unwrap() {
            lines.push(String::from_utf8_lossy(line).into_owned());
        }
        lines
    }

    #[test]
    fn the_oldest_come_first_and_the_last_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        for text in ["1\n", "2\n", "3\n", "4\n"] {
            rotate(&path, 2).unwrap();
            append(&path, text);
        }
        let mut reader = Reader::open(&path).unwrap();
        assert_eq!(lines(&mut reader), ["2\n", "3\n", "4\n"]);
        remove(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn who_follows_misses_nothing_over_renames_a_removal_and_an_emptying() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut reader = Reader::open(&path).unwrap();
        assert!(lines(&mut reader).is_empty());
        append(&path, "a\nhal");
        assert_eq!(lines(&mut reader), ["a\n"]);
        assert_eq!(reader.rest(), b"hal");
        append(&path, "f\nb");
        rotate(&path, 3).unwrap();
        append(&path, "c\n");
        rotate(&path, 3).unwrap();
        append(&path, "d\n");
        assert_eq!(lines(&mut reader), ["half\n", "b", "c\n", "d\n"]);
        rotate(&path, 0).unwrap();
        append(&path, "e\n");
        assert_eq!(lines(&mut reader), ["e\n"]);
        File::create(&path).unwrap();
        assert!(lines(&mut reader).is_empty());
        append(&path, "f\n");
        assert_eq!(lines(&mut reader), ["f\n"]);
    }

    #[test]
    fn what_a_file_has_got_before_it_was_renamed_is_read_before_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        append(&path, "a\n");
        let mut reader = Reader::open(&path).unwrap();
        assert_eq!(lines(&mut reader), ["a\n"]);
        append(&path, "late\n");
        rotate(&path, 1).unwrap();
        append(&path, "b\n");
        // As if it had found the end just before.
        assert!(matches!(reader.next_file().unwrap(), Next::More));
        assert_eq!(lines(&mut reader), ["late\n", "b\n"]);
    }

    #[test]
    fn a_file_that_is_met_again_under_its_next_name_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        append(&path, "a\n");
        fs::hard_link(&path, old(&path, 1)).unwrap();
        assert_eq!(lines(&mut Reader::open(&path).unwrap()), ["a\n"]);
    }

    #[test]
    fn what_was_passed_over_is_not_read_when_the_file_after_it_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        for at_end in [true, false] {
            append(&path, "passed over\n");
            rotate(&path, 1).unwrap();
            append(&path, "b\n");
            let mut reader = Reader::open(&path).unwrap();
            if at_end {
                reader.begin_at_end().unwrap();
            } else {
                reader.begin_at(Place { file: 1, at: 2 });
            }
            assert!(lines(&mut reader).is_empty());
            rotate(&path, 0).unwrap();
            append(&path, "c\n");
            assert_eq!(lines(&mut reader), ["c\n"]);
            remove(&path).unwrap();
        }
    }

    #[test]
    fn a_file_that_is_emptied_while_somebody_goes_back_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        append(&path, &"a line\n".repeat(2 * BLOCK as usize));
        let mut shown = 0;
        let reader = Reader::open(&path).unwrap();
        let back = reader.back(|_, _| {
            shown += 1;
            fs::write(&path, "").unwrap();
            true
        });
        assert!(back.is_ok() && shown <= BLOCK as usize, "{shown}");
    }

    #[test]
    fn a_link_in_a_files_place_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(Reader::open(&path).is_err());
    }

    #[test]
    fn a_line_without_end_comes_in_pieces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        append(&path, &format!("{}\nnext\n", "x".repeat(MAX_LINE * 2)));
        let mut reader = Reader::open(&path).unwrap();
        let lines = lines(&mut reader);
        assert!(lines.len() > 2 && lines.last().unwrap() == "next\n");
        let all: usize = lines.iter().map(String::len).sum();
        assert_eq!(all, MAX_LINE * 2 + 6);
    }

    proptest! {
        #[test]
        fn going_back_shows_the_lines_in_reverse(files in prop::collection::vec(prop::collection::vec(0usize..70_000, 0..4), 1..4)) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("log");
            for (number, lengths) in files.iter().enumerate() {
                rotate(&path, 9).unwrap();
                for (line, length) in lengths.iter().enumerate() {
                    append(&path, &format!("{number} {line} {}\n", "x".repeat(*length)));
                }
            }
            let mut reader = Reader::open(&path).unwrap();
            let mut heads = Vec::new();
            let mut last = None;
            reader.back(|place, head| {
                heads.push(head.to_vec());
                last = Some(place);
                true
            }).unwrap();
            let mut forth = Reader::open(&path).unwrap();
            let mut expected: Vec<Vec<u8>> = lines(&mut forth).into_iter().map(|line| line.as_bytes()[..line.len().min(HEAD)].to_vec()).collect();
            expected.reverse();
            prop_assert_eq!(&heads, &expected);
            if let Some(place) = last {
                reader.begin_at(place);
                prop_assert_eq!(lines(&mut reader).len(), expected.len());
            }
        }
    }
}
