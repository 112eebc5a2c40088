//! `logs`: what a container wrote, each stream to ours; its end alone, and what it writes from now on.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::SystemTime;

use bocker_pipe::lock::{self, Supervisor};
use bocker_pipe::rotated::Reader;
use bocker_pipe::watch::Watch;
use bocker_pipe::{Arg, Call, Doing, Error, Id, Kind, Result, containers, paths, time};

use super::{Record, Stream};
use crate::record::SpawnMember;

/// How many records are searched for the beginning of a line that came in parts, after none of these was met.
const LOOK_BACK: u64 = 4096;
/// How much is written at once.
const PIECE: usize = 64 << 10;
/// The length of a time as the log has it. Texts of this length are ordered as the times are.
const TIME: usize = "2026-11-21T02:30:21.123456789Z".len();

#[derive(Default)]
struct Options {
    follow: bool,
    timestamps: bool,
    /// So many lines at the end.
    tail: Option<u64>,
    since: Option<SystemTime>,
    until: Option<SystemTime>,
}

/// The verb.
pub(crate) fn logs(call: &mut Call) -> Result<()> {
    let mut options = Options::default();
    let mut name = None;
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) => match option.as_str() {
                "-f" | "--follow" => options.follow = true,
                "-t" | "--timestamps" => options.timestamps = true,
                "-n" | "--tail" => options.tail = tail(&call.text()?)?,
                "--since" => options.since = Some(time::parse(&call.text()?)?),
                "--until" => options.until = Some(time::parse(&call.text()?)?),
                _ => return Err(call.unknown(&option)),
            },
            Arg::Value(word) if name.is_some() => return Err(call.unexpected(&word)),
            Arg::Value(word) => name = Some(word.to_string_lossy().into_owned()),
        }
    }
    let name = name.ok_or_else(|| Error::new(Kind::Usage, "no container is given"))?;
    let id = containers::resolve(&name)?;
    let document = containers::load(&id)?;
    let member: SpawnMember = document.member("spawn")?.unwrap_or_default();
    if !member.request.log.is_kept() {
        let what = format!("{id} keeps no log: it was made with --log-driver none");
        return Err(Error::new(Kind::Unsupported, what));
    }
    show(&id, &options)
}

/// A number, or `all`. As docker, what is less than nothing is all.
fn tail(text: &str) -> Result<Option<u64>> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    match digits.parse() {
        Ok(_) if digits.len() < text.len() => Ok(None),
        Ok(number) => Ok(Some(number)),
        Err(_) if text == "all" => Ok(None),
        Err(_) => {
            let what = format!("'{text}' is no number of lines");
            Err(Error::new(Kind::Usage, what).hint("give one, or 'all'"))
        }
    }
}

fn show(id: &Id, options: &Options) -> Result<()> {
    let folder = paths::container(id);
    let path = folder.join(containers::LOG);
    let doing = || format!("read the log {}", path.display());
    // Before the first look, so that nothing changes unnoticed.
    let watch = match options.follow {
        true => Some(Watch::new()?),
        false => None,
    };
    if let Some(watch) = &watch {
        watch.add(&folder)?;
        watch.add(&paths::claim(id))?;
    }
    let mut reader = Reader::open(&path).doing(doing)?;
    let mut printer = Printer::new(options)?;
    if let Some(lines) = options.tail {
        printer.skip = go_to_tail(&mut reader, lines).doing(doing)?;
    }
    loop {
        // Asked before reading: what it wrote to its end is there then.
        let ended = watch.is_none() || lock::supervisor(id) != Supervisor::Runs;
        while let Some(line) = reader.line().doing(doing)? {
            printer.print(line)?;
        }
        let Some(watch) = watch.as_ref().filter(|_| !ended) else {
            break;
        };
        printer.flush()?;
        let patience = options
            .until
            .map(|until| until.duration_since(SystemTime::now()).unwrap_or_default());
        if patience.is_some_and(|patience| patience.is_zero()) {
            break;
        }
        watch.wait(std::io::stdout().as_fd(), patience)?;
    }
    // One that was cut within a record shows what there is of it.
    let rest = match watch.is_some() || lock::supervisor(id) != Supervisor::Runs {
        true => reader.rest(),
        false => &[],
    };
    printer.print(rest)?;
    printer.flush()
}

/// Puts the reader where the last lines begin. The answer is how many records of each stream are none of them from there on.
fn go_to_tail(reader: &mut Reader, lines: u64) -> std::io::Result<[u64; 2]> {
    let mut tail = Tail {
        wanted: lines,
        ..Tail::default()
    };
    let mut begin = None;
    if lines > 0 {
        reader.back(|place, head| {
            if tail.takes(Record::parse(head).as_ref()) {
                begin = Some((place, tail.skipped));
            }
            !tail.is_complete()
        })?;
    }
    let Some((place, skipped)) = begin else {
        return reader.begin_at_end().map(|()| [0; 2]);
    };
    reader.begin_at(place);
    Ok(skipped)
}

/// The end of a log, met from its last record on.
#[derive(Default)]
struct Tail {
    /// So many lines are still to be met.
    wanted: u64,
    /// Of each stream, whether a record was met, whether the records that are met now belong to a wanted line, and how many did
    /// not.
    met: [bool; 2],
    inside: [bool; 2],
    skipped: [u64; 2],
    /// So many records were met since one belonged to a wanted line.
    since: u64,
}

impl Tail {
    /// Whether it belongs to a wanted line.
    fn takes(&mut self, record: Option<&Record>) -> bool {
        self.since += 1;
        let Some(record) = record else {
            return false;
        };
        let stream = record.stream as usize;
        // The last line of all may have no end.
        let is_end = record.is_end || !self.met[stream];
        self.met[stream] = true;
        if is_end {
            self.inside[stream] = self.wanted > 0;
            self.wanted = self.wanted.saturating_sub(1);
        }
        if self.inside[stream] {
            self.since = 0;
        } else {
            self.skipped[stream] += 1;
        }
        self.inside[stream]
    }

    /// Whether what is still to be met does not belong to it.
    fn is_complete(&self) -> bool {
        self.wanted == 0 && (self.inside == [false; 2] || self.since > LOOK_BACK)
    }
}

/// Writes records to our streams.
struct Printer {
    to: [BufWriter<File>; 2],
    last: Stream,
    /// Of each stream, how many records are not written, and whether a line has begun.
    skip: [u64; 2],
    within: [bool; 2],
    since: Option<String>,
    until: Option<String>,
    timestamps: bool,
}

impl Printer {
    fn new(options: &Options) -> Result<Printer> {
        // The standard library's own stdout makes a system call for each line.
        let open = |fd: std::io::Result<OwnedFd>| {
            let file = File::from(fd.doing(|| "use stdout and stderr".into())?);
            Ok(BufWriter::with_capacity(PIECE, file))
        };
        let text = |moment: Option<SystemTime>| moment.map(|moment| time::text(moment).to_string());
        Ok(Printer {
            to: [
                open(std::io::stdout().as_fd().try_clone_to_owned())?,
                open(std::io::stderr().as_fd().try_clone_to_owned())?,
            ],
            last: Stream::Stdout,
            skip: [0; 2],
            within: [false; 2],
            since: text(options.since),
            until: text(options.until),
            timestamps: options.timestamps,
        })
    }

    /// What is no record is skipped.
    fn print(&mut self, line: &[u8]) -> Result<()> {
        let Some(record) = Record::parse(line) else {
            return Ok(());
        };
        let stream = record.stream as usize;
        if self.skip[stream] > 0 {
            self.skip[stream] -= 1;
            return Ok(());
        }
        if !self.is_in_time(record.time) {
            return Ok(());
        }
        // The order between the two, when both go to one place, is that of the log.
        if record.stream != self.last {
            self.flush()?;
            self.last = record.stream;
        }
        let to = &mut self.to[stream];
        let mut write = || {
            if self.timestamps && !self.within[stream] {
                to.write_all(record.time)?;
                to.write_all(b" ")?;
            }
            to.write_all(record.text)?;
            to.write_all(&b"\n"[..usize::from(record.is_end)])
        };
        write().doing(|| "write the log".into())?;
        self.within[stream] = !record.is_end;
        Ok(())
    }

    /// What has no time of ours is shown.
    fn is_in_time(&self, time: &[u8]) -> bool {
        if time.len() != TIME || !time[0].is_ascii_digit() {
            return true;
        }
        let is_before = |limit: &Option<String>, otherwise: bool| {
            limit
                .as_ref()
                .map_or(otherwise, |limit| time < limit.as_bytes())
        };
        !is_before(&self.since, false) && is_before(&self.until, true)
    }

    fn flush(&mut self) -> Result<()> {
        self.to[self.last as usize]
            .flush()
            .doing(|| "write the log".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The records that are shown of a log with so many lines wanted.
    fn tail_of(lines: u64, records: &[&str]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let text: String = records
            .iter()
            .map(|record| format!("T std{record}\n"))
            .collect();
        std::fs::write(&path, text).unwrap();
        let mut reader = Reader::open(&path).unwrap();
        let mut skip = go_to_tail(&mut reader, lines).unwrap();
        let mut shown = Vec::new();
        while let Some(line) = reader.line().unwrap() {
            let Some(record) = Record::parse(line) else {
                continue;
            };
            let skip = &mut skip[record.stream as usize];
            if *skip == 0 {
                shown.push(String::from_utf8_lossy(record.text).into_owned());
            }
            *skip = skip.saturating_sub(1);
        }
        shown
    }

    #[test]
    fn a_tail_is_counted_in_lines_of_both_streams() {
        let log = ["out F a", "err F b", "out F c", "damaged", "err F d"];
        assert_eq!(tail_of(2, &log), ["c", "d"]);
        assert_eq!(tail_of(3, &log), ["b", "c", "d"]);
        assert_eq!(tail_of(9, &log), ["a", "b", "c", "d"]);
        assert!(tail_of(0, &log).is_empty());
    }

    #[test]
    fn a_line_that_came_in_parts_is_one_and_whole() {
        let log = [
            "out F a", "out P b1", "err F c", "out P b2", "out F b3", "err P d",
        ];
        assert_eq!(tail_of(1, &log), ["d"]);
        assert_eq!(tail_of(2, &log), ["b1", "b2", "b3", "d"]);
        assert_eq!(tail_of(3, &log), ["b1", "c", "b2", "b3", "d"]);
    }

    #[test]
    fn the_beginning_of_a_line_is_not_looked_for_without_end() {
        let between = vec!["err F x"; LOOK_BACK as usize + 1];
        for (between, shown) in [(&between[..], &["b"][..]), (&between[2..], &["a", "b"])] {
            let log = [&["out P a"], between, &["out F b"]].concat();
            assert_eq!(tail_of(1, &log), shown);
        }
    }

    #[test]
    fn a_number_of_lines_is_dockers() {
        assert_eq!(tail("10").unwrap(), Some(10));
        assert_eq!(tail("0").unwrap(), Some(0));
        assert_eq!((tail("all").unwrap(), tail("-1").unwrap()), (None, None));
        assert!(tail("x").is_err() && tail("").is_err());
    }
}
