//! `top`: the processes of a container, in podman's columns or those that are asked for as of ps(1), which is not run for it.

use bocker_pipe::{Error, Kind, Result};
use serde_json::{Map, Value};

use crate::session::Session;
use crate::table::{Format, List};
use crate::tools::Piece;

/// A column: its heading, the names by which it is asked for, and the member of the lines.
struct Column {
    heading: &'static str,
    names: &'static [&'static str],
    member: &'static str,
}

const fn column(
    heading: &'static str,
    names: &'static [&'static str],
    member: &'static str,
) -> Column {
    Column {
        heading,
        names,
        member,
    }
}

const COLUMNS: &[Column] = &[
    column("USER", &["user", "euser"], "user"),
    column("UID", &["uid", "euid"], "uid"),
    column("PID", &["pid", "hpid"], "pid"),
    column("NSPID", &["nspid"], "inner_pid"),
    column("PPID", &["ppid"], "ppid"),
    column("%CPU", &["pcpu", "%cpu", "c"], "cpu"),
    column("ELAPSED", &["etime"], "elapsed"),
    column("TTY", &["tty", "tt", "tname"], "tty"),
    column("TIME", &["time", "cputime"], "time"),
    column("S", &["s", "state", "stat"], "state"),
    column("COMMAND", &["args", "cmd", "command"], "args"),
    column("COMMAND", &["comm", "ucmd", "ucomm"], "name"),
];
/// Podman's.
const USUAL: &str = "user,pid,ppid,pcpu,etime,tty,time,args";
/// Those that are seconds.
const TIMES: [&str; 2] = ["elapsed", "time"];

/// Show the processes of a running container
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Id or name
    container: String,
    /// Show these columns, as '-o pid,user,args'; no other option of ps(1) is known
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "-o COLUMN[,COLUMN...]"
    )]
    options: Vec<String>,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let columns = columns(&args.options)?;
    let stage = session
        .tool(Piece::Spawn, "top")?
        .args(["--", &args.container]);
    let lines = session.read(&stage)?;
    let row = |line: &Value| {
        let cells = columns.iter().map(|column| {
            let value = &line[column.member];
            let shown = match value.as_u64() {
                Some(seconds) if TIMES.contains(&column.member) => clock(seconds).into(),
                _ => value.clone(),
            };
            (column.member.to_owned(), shown)
        });
        cells.collect::<Map<_, _>>().into()
    };
    let shown: Vec<(&'static str, &'static str)> = columns
        .iter()
        .map(|column| (column.heading, column.member))
        .collect();
    let list = List {
        columns: &shown,
        rows: lines.iter().map(row).collect(),
        lines: Vec::new(),
    };
    list.print_all(&Format::default())
}

/// Those that are asked for, as ps(1) is asked: `-o a,b`, `-oa,b`, `-o a -o b`, `-eo a`.
fn columns(options: &[String]) -> Result<Vec<&'static Column>> {
    let mut names = Vec::new();
    let mut words = options.iter();
    while let Some(word) = words.next() {
        let rest = ["-eo", "-o"]
            .iter()
            .find_map(|option| word.strip_prefix(option));
        match rest {
            Some("") => names.extend(words.next().cloned()),
            Some(rest) => names.push(rest.to_owned()),
            None => {
                return Err(
                    Error::new(Kind::Unsupported, format!("'{word}' is not known here"))
                        .hint("choose columns with '-o pid,user,args'; ps(1) itself is not run"),
                );
            }
        }
    }
    if names.is_empty() {
        names.push(USUAL.into());
    }
    let names = names.join(",");
    names
        .split(',')
        .map(|name| {
            let known = COLUMNS.iter().find(|column| column.names.contains(&name));
            known.ok_or_else(|| {
                let names: Vec<&str> = COLUMNS.iter().map(|column| column.names[0]).collect();
                Error::new(Kind::Usage, format!("there is no column '{name}'"))
                    .hint(format!("there are {}", names.join(", ")))
            })
        })
        .collect()
}

/// `[DAYS-]HOURS:MINUTES:SECONDS`
fn clock(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let clock = format!("{:02}:{:02}:{:02}", hours % 24, minutes % 60, seconds % 60);
    match days {
        0 => clock,
        days => format!("{days}-{clock}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headings(options: &[&str]) -> Result<String> {
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        let headings: Vec<&str> = columns(&options)?
            .iter()
            .map(|column| column.heading)
            .collect();
        Ok(headings.join(" "))
    }

    #[test]
    fn columns_are_chosen_as_of_ps() {
        let usual = "USER PID PPID %CPU ELAPSED TTY TIME COMMAND";
        assert_eq!(headings(&[]).unwrap(), usual);
        for options in [
            &["-o", "pid,args"][..],
            &["-opid,args"],
            &["-o", "pid", "-o", "args"],
            &["-eo", "pid,cmd"],
        ] {
            assert_eq!(headings(options).unwrap(), "PID COMMAND", "{options:?}");
        }
        assert_eq!(headings(&["aux"]).unwrap_err().kind(), &Kind::Unsupported);
        assert_eq!(
            headings(&["-o", "pid,frob"]).unwrap_err().kind(),
            &Kind::Usage
        );
    }

    #[test]
    fn a_time_is_shown_as_a_clock() {
        assert_eq!(clock(59), "00:00:59");
        assert_eq!(clock(3_661), "01:01:01");
        assert_eq!(clock(90_000), "1-01:00:00");
    }
}
