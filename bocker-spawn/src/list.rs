//! `list`: a line for every container that was handed to this tool, with the members of its document that are asked for.

use std::fs;
use std::io::Write;
use std::num::NonZero;

use bocker_pipe::part::Parts;
use bocker_pipe::state::State;
use bocker_pipe::{Arg, Call, Doing, Id, Kind, Result, claim, containers, paths};
use serde_json::{Map, Value, json};

use crate::cgroups::Present;
use crate::container::Container;
use crate::report::utf8;
use crate::say;

/// What the lines and the state of a container are made of.
const NEEDED: [&str; 9] = [
    "/bocker/version",
    "/bocker/name",
    "/bocker/image/reference",
    "/bocker/state",
    "/bocker/exit",
    "/bocker/spawn",
    "/bocker/cg/path",
    "/bocker/cg/paths",
    "/process/args",
];
/// In a claim's folder, while the container lives: what the supervisor notes for those who look.
const NOTES: [&str; 2] = [claim::HEALTH, claim::LOST];
/// The namespaces of process 1 (proc(5), /proc/PID/ns).
const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// Fewer than this are not worth another thread.
const SHARE: usize = 32;

#[derive(Default)]
struct Options {
    /// Pointers to members of the documents that are to be shown.
    with: Vec<String>,
    namespaces: bool,
    /// Of all, if none is named.
    names: Vec<String>,
}

/// The verb.
pub(crate) fn list(call: &mut Call) -> Result<()> {
    let mut options = Options::default();
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) => match option.as_str() {
                "--with" => options.with.push(call.text()?),
                "--namespaces" => options.namespaces = true,
                _ => return Err(call.unknown(&option)),
            },
            Arg::Value(word) => options.names.push(utf8(word)?),
        }
    }
    let mut parts = Parts::of(NEEDED);
    options.with.iter().for_each(|pointer| parts.add(pointer));
    let wanted = Parts::of(options.with.iter().map(String::as_str));
    let ids = match options.names.as_slice() {
        [] => containers::list()?,
        names => {
            let ids = names.iter().map(|name| containers::resolve(name));
            ids.collect::<Result<_>>()?
        }
    };
    let lines = |ids: &[Id]| lines(ids, &parts, &wanted, &options);
    let lines = &lines;
    // Most of the time is the kernel's.
    let share = ids.len().div_ceil(processors()).max(SHARE);
    let all: Vec<u8> = std::thread::scope(|scope| {
        let (first, others) = ids.split_at(share.min(ids.len()));
        let others: Vec<_> = others
            .chunks(share)
            .map(|ids| scope.spawn(move || lines(ids)))
            .collect();
        let mut all = lines(first);
        for other in others {
            match other.join() {
                Ok(lines) => all.extend(lines),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    std::io::stdout()
        .write_all(&all)
        .doing(|| "write to stdout".into())
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Those of some containers. One that is being made, or is damaged, must not hide the others.
fn lines(ids: &[Id], parts: &Parts, wanted: &Parts, options: &Options) -> Vec<u8> {
    let mut lines = Vec::new();
    let mut present = Present::default();
    for id in ids {
        let found = Container::load_parts(id.clone(), parts).and_then(|mut container| {
            present.retain(&mut container.cgroups);
            container.observe()
        });
        let (container, state) = match found {
            Ok(found) => found,
            // It is on its way in or out.
            Err(error) if error.kind() == &Kind::NotFound => continue,
            Err(error) => {
                say(format_args!("{id} is not listed: {error}"));
                continue;
            }
        };
        let mut line = line(&container, state, options.namespaces);
        if !options.with.is_empty() {
            line["document"] = wanted.of_value(container.document.tree());
        }
        lines.extend(line.to_string().into_bytes());
        lines.push(b'\n');
    }
    lines
}

fn line(container: &Container, state: State, namespaces: bool) -> Value {
    let document = &container.document;
    let is_over = matches!(state, State::Creating | State::Created | State::Exited);
    let pid = container.member.pid.filter(|_| !is_over);
    let mut line = json!({
        "id": container.id,
        "name": document.value("/bocker/name"),
        "image": document.value("/bocker/image/reference"),
        "command": document.value("/process/args"),
        "state": state,
        "pid": pid,
        "created": container.member.created,
        "started": container.member.started.as_ref().filter(|_| !is_over),
        "exit": document.value("/bocker/exit"),
        "log": container.member.log,
    });
    if !is_over {
        for name in NOTES {
            if let Some(note) = note(&container.id, name) {
                line[name] = note;
            }
        }
    }
    if let Some(pid) = pid.filter(|_| namespaces) {
        let of = |name: &str| Some((name.to_owned(), namespace(pid, name)?));
        line["namespaces"] = NAMESPACES
            .into_iter()
            .filter_map(of)
            .collect::<Map<_, _>>()
            .into();
    }
    line
}

/// What the supervisor has noted, if it has, and all of it.
fn note(id: &Id, name: &str) -> Option<Value> {
    let bytes = fs::read(paths::claim(id).join(name)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// The number by which a namespace is told from others, as `readlink` shows it: `net:[4026531840]`.
fn namespace(pid: i32, name: &str) -> Option<Value> {
    let link = fs::read_link(format!("/proc/{pid}/ns/{name}")).ok()?;
    let number = link.to_str()?.split(['[', ']']).nth(1)?;
    Some(number.into())
}
