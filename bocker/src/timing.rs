//! `--timing`: where the time of a pipeline went. This program and the stages write what they did, and when, into one file in
//! memory; the table divides the time between them at the moments at which the document was passed on.

use std::fmt::{Display, Write as _};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::OnceLock;

use bocker_pipe::timing::{ALL, PASSES_ON, READS, VARIABLE, log_to, measure};
use bocker_pipe::{Doing, Result};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use rustix::io::fcntl_dupfd_cloexec;

use crate::pipeline::Stage;

/// The name of this program in the log and the table.
const OWN: &str = "bocker";
const BEGIN: &str = "begins";
const END: &str = "ends";
const STARTS: &str = "starts ";

/// Below this, descriptors are numbered by what is pasted into a shell.
const FIRST_OWN: i32 = 10;

static LOG: OnceLock<File> = OnceLock::new();

/// From now on everything is timed.
pub(crate) fn begin() -> Result<()> {
    let doing = || "keep the times".to_owned();
    let fd = memfd_create("timing", MFdFlags::MFD_CLOEXEC).doing(doing)?;
    let log = File::from(fcntl_dupfd_cloexec(fd, FIRST_OWN).doing(doing)?);
    // All write to it, each at its end.
    fcntl(&log, FcntlArg::F_SETFL(OFlag::O_APPEND)).doing(doing)?;
    // The stages inherit it.
    fcntl(&log, FcntlArg::F_SETFD(FdFlag::empty())).doing(doing)?;
    log_to(log.as_raw_fd(), OWN);
    let _ = LOG.set(log);
    mark(BEGIN);
    Ok(())
}

fn mark(what: impl Display) {
    measure(what, || ());
}

/// Lets a tool write its times as well.
pub(crate) fn hand_on(command: &mut Command) {
    if let Some(log) = LOG.get() {
        command.env(VARIABLE, log.as_raw_fd().to_string());
    }
}

/// Notes that a stage starts now.
pub(crate) fn starts(stage: &Stage) {
    mark(format_args!("{STARTS}{}", stage.label()));
}

/// Prints the table of the pipeline that has just ended, if anything is timed, and begins anew.
pub(crate) fn report(stages: &[Stage]) -> Result<()> {
    let Some(mut log) = LOG.get() else {
        return Ok(());
    };
    mark(END);
    let mut text = String::new();
    log.rewind()
        .and_then(|()| log.read_to_string(&mut text))
        .and_then(|_| log.set_len(0))
        .doing(|| "read the times".into())?;
    let stages: Vec<String> = stages.iter().map(Stage::label).collect();
    let lines: Vec<Line> = text.lines().filter_map(Line::parse).collect();
    let result = io::stderr().write_all(table(&lines, &stages).as_bytes());
    mark(BEGIN);
    result.doing(|| "write to stderr".into())
}

/// What a process did, in milliseconds.
#[derive(Debug, Clone, PartialEq)]
struct Line {
    at: f64,
    took: f64,
    who: String,
    what: String,
}

impl Line {
    /// Reads what [`measure`] has written; `None` for what somebody else has.
    fn parse(line: &str) -> Option<Line> {
        let mut columns = line.splitn(4, '\t');
        let mut next = || columns.next();
        Some(Line {
            at: next()?.parse().ok()?,
            took: next()?.parse().ok()?,
            who: next()?.to_owned(),
            what: next()?.to_owned(),
        })
    }

    fn is_mark(&self) -> bool {
        self.what == BEGIN || self.what == END || self.what.starts_with(STARTS)
    }

    fn end(&self) -> f64 {
        self.at + self.took
    }

    /// The part before a moment, and the part from it on.
    fn split(&self, moment: f64) -> (Option<Line>, Option<Line>) {
        let moment = moment.clamp(self.at, self.end());
        let before = Line {
            took: moment - self.at,
            ..self.clone()
        };
        let after = Line {
            at: moment,
            took: self.end() - moment,
            ..self.clone()
        };
        match (before.took > 0.0, after.took > 0.0) {
            (true, true) => (Some(before), Some(after)),
            (true, false) => (Some(before), None),
            (false, _) => (None, Some(after)),
        }
    }
}

/// A section for each stage, in order, from the moment at which the stage before it passed the document on to that at which
/// it did so itself: together they are the whole time. What a stage did earlier took no time of its own.
fn table(lines: &[Line], stages: &[String]) -> String {
    let own = |what: &str| of(lines, OWN).find(|line| line.what == what);
    let start = |stage: &String| own(&format!("{STARTS}{stage}"));
    let begin = own(BEGIN).map_or(0.0, |line| line.at);
    let end = own(END).map_or(begin, |line| line.at);
    let first = stages.first().and_then(start);

    let mut table = Table {
        begin,
        text: "   at ms  took ms\n".into(),
    };
    let mut cursor = first.map_or(end, |line| line.at);
    let (before, after): (Vec<Line>, Vec<Line>) = of(lines, OWN)
        .filter(|line| !line.is_mark())
        .cloned()
        .partition(|line| line.at < cursor);
    table.section(OWN, begin, cursor, before);
    for stage in stages {
        let mut items: Vec<Line> = of(lines, stage).cloned().collect();
        if let (Some(start), Some(main)) = (start(stage), items.iter_mut().find(|l| l.what == ALL))
        {
            main.what = "from fork(2) to main".into();
            main.took = main.at - start.at;
            main.at = start.at;
        }
        let passed_on = items.iter().rfind(|line| line.what == PASSES_ON);
        let Some(until) = passed_on.map(Line::end) else {
            let _ = writeln!(table.text, "{:>17}  {stage}: has not said", "");
            continue;
        };
        table.section(stage, cursor, until, items);
        cursor = until;
    }
    table.section(OWN, cursor, end, after);
    let all = end - begin;
    let _ = writeln!(
        table.text,
        "{all:>8.3}           in all; in (), while others were at work"
    );
    table.text
}

fn of<'a>(lines: &'a [Line], who: &'a str) -> impl DoubleEndedIterator<Item = &'a Line> {
    lines.iter().filter(move |line| line.who == who)
}

struct Table {
    begin: f64,
    text: String,
}

impl Table {
    fn section(&mut self, who: &str, from: f64, until: f64, mut items: Vec<Line>) {
        self.row(from, &format!("{:.3}", until - from), who);
        items.sort_by(|a, b| a.at.total_cmp(&b.at));
        // Process 1 is at work before bocker-spawn has returned from making it: a part is over when the next begins.
        for next in 1..items.len() {
            let until = items[next].at;
            let part = &mut items[next - 1];
            part.took = part.took.min(until - part.at);
        }
        let mut rest = until - from;
        for item in items {
            let (before, after) = item.split(from);
            if let Some(before) = before {
                let what = match (before.what.as_str(), &after) {
                    (READS, Some(_)) => "waits for the document",
                    (what, _) => what,
                };
                self.row(
                    before.at,
                    &format!("({:.3})", before.took),
                    &format!("  {what}"),
                );
            }
            if let Some(after) = after {
                rest -= after.took;
                self.row(
                    after.at,
                    &format!("{:.3}", after.took),
                    &format!("  {}", after.what),
                );
            }
        }
        let _ = writeln!(self.text, "{:>8}  {:>7.3}    the rest", "", rest.max(0.0));
    }

    fn row(&mut self, at: f64, took: &str, what: &str) {
        let _ = writeln!(self.text, "{:>8.3}  {took:>7}  {what}", at - self.begin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at: f64, took: f64, what: &str) -> Line {
        let (who, what) = ("spawn run".to_owned(), what.to_owned());
        Line {
            at,
            took,
            who,
            what,
        }
    }

    #[test]
    fn parts_that_were_at_work_side_by_side_are_counted_once() {
        let mut table = Table {
            begin: 0.0,
            text: String::new(),
        };
        let parts = vec![line(1.0, 5.0, "made"), line(2.0, 3.0, "began before that")];
        table.section("spawn run", 0.0, 10.0, parts);
        let took = |what: &str| {
            let row = table.text.lines().find(|row| row.ends_with(what));
            row.and_then(|row| row[8..].split_whitespace().next()?.parse::<f64>().ok())
        };
        assert_eq!(took("  made"), Some(1.0));
        assert_eq!(took("began before that"), Some(3.0));
        assert_eq!(took("the rest"), Some(6.0));
    }
}
