//! `list`: a line for every container that was handed to this tool, with the members of its document that are asked for.

use std::borrow::Cow;
use std::fs;
use std::io::{self, Write};
use std::num::NonZero;
use std::path::Path;

use bocker_pipe::part::{Parts, PartsOf};
use bocker_pipe::state::State;
use bocker_pipe::{Arg, Call, Doing, Id, Kind, Result, claim, containers, paths};
use serde::Serialize;
use serde_json::{Map, Value};

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
    let present = Present::default();
    let lines = |ids: &[Id]| lines(ids, &parts, &wanted, &present, &options);
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
    io::stdout()
        .write_all(&all)
        .doing(|| "write to stdout".into())
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Those of some containers. One that is being made, or is damaged, must not hide the others.
fn lines(
    ids: &[Id],
    parts: &Parts,
    wanted: &Parts,
    present: &Present,
    options: &Options,
) -> Vec<u8> {
    let mut lines = Vec::new();
    for id in ids {
        let found = Container::load_parts(id.clone(), parts).and_then(|container| {
            let state = container.state_among(present);
            let (container, state) = container.observed(state)?;
            let document =
                (!options.with.is_empty()).then(|| wanted.of_value(container.document.tree()));
            let line = Line::of(&container, state, document, options.namespaces);
            serde_json::to_writer(&mut lines, &line)
                .map_err(io::Error::from)
                .doing(|| "write a line".into())
        });
        match found {
            Ok(()) => lines.push(b'\n'),
            // It is on its way in or out.
            Err(error) if error.kind() == &Kind::NotFound => {}
            Err(error) => say(format_args!("{id} is not listed: {error}")),
        }
    }
    lines
}

/// One container, as it is written: nothing of its document is copied.
#[derive(Serialize)]
struct Line<'a> {
    id: &'a Id,
    name: Option<&'a Value>,
    image: Option<&'a Value>,
    command: Option<&'a Value>,
    state: State,
    pid: Option<i32>,
    created: Option<&'a str>,
    started: Option<&'a str>,
    exit: Option<&'a Value>,
    log: Option<Cow<'a, str>>,
    /// What the supervisor notes for those who look, while the container lives.
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespaces: Option<Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<PartsOf<'a>>,
}

impl<'a> Line<'a> {
    fn of(
        container: &'a Container,
        state: State,
        shown: Option<PartsOf<'a>>,
        with_namespaces: bool,
    ) -> Line<'a> {
        let Container {
            id,
            document,
            member,
            ..
        } = container;
        let is_over = matches!(state, State::Creating | State::Created | State::Exited);
        let pid = member.pid.filter(|_| !is_over);
        let note = |name| (!is_over).then(|| note(id, name)).flatten();
        Line {
            id,
            name: document.value("/bocker/name"),
            image: document.value("/bocker/image/reference"),
            command: document.value("/process/args"),
            state,
            pid,
            created: member.created.as_deref(),
            started: member.started.as_deref().filter(|_| !is_over),
            exit: document.value("/bocker/exit"),
            log: member.log.as_deref().map(Path::to_string_lossy),
            // Only where there is a check: to find that there is no such file takes time too.
            health: member
                .request
                .health
                .as_ref()
                .and_then(|_| note(claim::HEALTH)),
            lost: note(claim::LOST),
            namespaces: pid.filter(|_| with_namespaces).map(namespaces),
            document: shown,
        }
    }
}

/// Of process 1, those that can be told.
fn namespaces(pid: i32) -> Map<String, Value> {
    let of = |name: &str| Some((name.to_owned(), namespace(pid, name)?));
    NAMESPACES.into_iter().filter_map(of).collect()
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
