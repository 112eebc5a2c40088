//! What stands outside the pipeline: `state`, `list`, `logs`, `kill` and `gc`.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use bocker_pipe::claim::{self, Claim};
use bocker_pipe::document::ExitMember;
use bocker_pipe::error::Failures;
use bocker_pipe::state::State;
use bocker_pipe::{Arg, Call, Doing, Error, Id, Kind, Result, containers, lock, paths};
use serde_json::json;

use crate::container::Container;
use crate::log::{self, Stream};
use crate::{STAGE, cgroups, oom, record, say, signals, supervise, sys};

/// An end that nobody saw: what docker records after its daemon was killed.
const CODE_UNKNOWN: u8 = 255;
/// How long what was killed may take to be gone.
const KILL_WAIT: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(5);

fn one_name(call: &mut Call) -> Result<String> {
    let mut name = None;
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) => return Err(call.unknown(&option)),
            Arg::Value(word) if name.is_some() => return Err(call.unexpected(&word)),
            Arg::Value(word) => name = Some(utf8(word)?),
        }
    }
    name.ok_or_else(|| Error::new(Kind::Usage, "no container is given"))
}

fn utf8(word: std::ffi::OsString) -> Result<String> {
    word.into_string()
        .map_err(|_| Error::new(Kind::Usage, "the container's name is not UTF-8"))
}

/// `state`: the runtime-spec's state, and how it ended.
pub(crate) fn state(call: &mut Call) -> Result<()> {
    let (container, state) = Container::find(&one_name(call)?)?.observe()?;
    let pid = container
        .process()?
        .map(|(pid, _)| pid.as_raw_nonzero().get());
    let mut answer = json!({
        "ociVersion": container.document.value("/ociVersion"),
        "id": container.id,
        "status": state.as_str(),
        "pid": pid.unwrap_or(0),
        "bundle": paths::container(&container.id),
    });
    if let (State::Exited, Some(exit)) = (state, container.document.exit()?) {
        answer["exit"] = json!(exit);
    }
    call.line(&answer)
}

/// `list`: a line for every container that was handed to this tool.
pub(crate) fn list(call: &mut Call) -> Result<()> {
    call.no_more_args()?;
    for id in containers::list()? {
        // One that is being made, or is damaged, must not hide the others.
        let found = Container::load(id.clone(), id.as_str()).and_then(Container::observe);
        let Ok((container, state)) = found else {
            continue;
        };
        let document = &container.document;
        let alive = matches!(state, State::Running | State::Paused | State::Orphaned);
        call.line(&json!({
            "id": id,
            "name": document.value("/bocker/name"),
            "image": document.value("/bocker/image/reference"),
            "command": document.value("/process/args"),
            "state": state,
            "pid": container.member.pid.filter(|_| alive),
            "created": container.member.created,
            "started": container.member.started.as_ref().filter(|_| alive),
            "exit": document.value("/bocker/exit"),
            "log": container.member.log,
        }))?;
    }
    Ok(())
}

/// `logs`: what the container wrote, each stream to ours.
pub(crate) fn logs(call: &mut Call) -> Result<()> {
    let id = containers::resolve(&one_name(call)?)?;
    let path = paths::container(&id).join(containers::LOG);
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path);
    let file = match file {
        // It has not written anything yet.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        file => file.doing(|| format!("open the log {}", path.display()))?,
    };
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
    log::replay(file, |stream, bytes| {
        let result = match stream {
            Stream::Stdout => out.write_all(bytes),
            // The order between the two, when both go to one place, is that of the log.
            Stream::Stderr => out.flush().and_then(|()| err.write_all(bytes)),
        };
        result.doing(|| "write the log".into())
    })?;
    out.flush().doing(|| "write the log".into())
}

/// `kill`: a signal to process 1, which ends it if it would end any other process (as the supervisor does it too); KILL for
/// one that lives without a supervisor reaches everything in it.
pub(crate) fn kill(call: &mut Call) -> Result<()> {
    let mut signal = libc::SIGKILL;
    let mut names = Vec::new();
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) if ["-s", "--signal"].contains(&option.as_str()) => {
                signal = signals::parse(&call.text()?)?;
            }
            Arg::Option(option) => return Err(call.unknown(&option)),
            Arg::Value(word) => names.push(utf8(word)?),
        }
    }
    if names.is_empty() {
        return Err(Error::new(Kind::Usage, "no container is given"));
    }
    let found: Vec<Container> = names
        .iter()
        .map(|name| Container::find(name))
        .collect::<Result<_>>()?;
    for container in found {
        let state = container.state();
        let process = match state {
            State::Running | State::Paused | State::Orphaned => container.process()?,
            _ => return Err(container.not_running()),
        };
        if call.dry_run() {
            continue;
        }
        match process {
            _ if state == State::Orphaned && signal == libc::SIGKILL => container.kill_all()?,
            Some((pid, pidfd)) => {
                let withheld = signals::is_withheld(signal, signals::status(pid).as_deref());
                let sent = if withheld { libc::SIGKILL } else { signal };
                sys::send_signal(pidfd.as_fd(), sent)
                    .doing(|| format!("send signal {sent} to {}", container.id))?;
                if withheld {
                    say(format_args!(
                        "process 1 of {} has no handler for signal {signal}, which the kernel keeps from it: killed",
                        container.id
                    ));
                }
            }
            None => return Err(container.not_running()),
        }
    }
    Ok(())
}

/// `gc`: ends what lives without a supervisor, records the ends that nobody saw, and removes the folders and claims of
/// this tool's own making whose containers are over.
pub(crate) fn gc(call: &mut Call) -> Result<()> {
    let (mut grace, mut orphans, mut force) = (claim::DEFAULT_GRACE, false, false);
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) => match option.as_str() {
                "--grace" => grace = Duration::from_secs(call.number()?),
                "--orphans" => orphans = true,
                "--force" => force = true,
                _ => return Err(call.unknown(&option)),
            },
            Arg::Value(word) => return Err(call.unexpected(&word)),
        }
    }
    let boot_id = claim::boot_id()?;
    // Objects first, claims second: what is made meanwhile is in the second list alone, and young.
    let ids = containers::list()?;
    let claims: BTreeMap<Id, Claim> = claim::list()?
        .into_iter()
        .map(|claim| (claim.id.clone(), claim))
        .collect();
    let mut failures = Failures::default();
    for id in &ids {
        let claimed = claims.get(id);
        if claimed.is_some_and(|claim| !claim.is_ours()) {
            continue;
        }
        if claimed.is_none()
            && orphans
            && let Ok(container) = Container::load(id.clone(), id.as_str())
        {
            failures.note(call.line(
                &json!({"id": id, "state": container.state(), "claimed": false, "removed": false}),
            ));
        }
        failures.note(collect(call, id, force));
    }
    for claim in claims.values() {
        let folder = paths::container(&claim.id);
        let is_half_made = is_own(claim)
            && !folder.join(containers::CONFIG).exists()
            && !lock::is_alive(&claim.id);
        if is_half_made && claim.is_stale(&boot_id, grace) {
            if !call.dry_run() {
                let removed = record::remove_made_folder(&folder)
                    .and_then(|()| claim::release_own(&claim.id, STAGE));
                failures.note(removed);
            }
            failures.note(call.line(
                &json!({"id": claim.id, "state": State::Creating, "removed": !call.dry_run()}),
            ));
        }
    }
    failures.into_result()
}

/// Whether this tool made the claim, and so the container's folder.
fn is_own(claim: &Claim) -> bool {
    claim
        .record
        .as_ref()
        .is_some_and(|record| record.by == STAGE)
}

fn collect(call: &Call, id: &Id, force: bool) -> Result<()> {
    // Looking changes nothing; what is done is done while no other verb acts on the container.
    let _lock = match call.dry_run() {
        true => None,
        false => lock::verbs(id).ok(),
    };
    // What was claimed and never handed over is for those who made it.
    let Ok(container) = Container::load(id.clone(), id.as_str()) else {
        return Ok(());
    };
    let state = container.state();
    let recorded = paths::container(id).join(containers::STATUS).exists();
    let action = match state {
        State::Running | State::Paused if !force => return Ok(()),
        State::Running | State::Paused | State::Orphaned => "ended",
        State::Exited if container.member.made_folder => "removed",
        State::Exited if !recorded => "recorded",
        State::Exited | State::Creating | State::Created => return Ok(()),
    };
    if !call.dry_run() {
        if action == "ended" {
            end(&container, state)?;
        }
        if !recorded && state != State::Running && state != State::Paused {
            record_unseen(container, state)?;
        }
        if action == "removed" {
            record::remove_made_folder(&paths::container(id))?;
        }
        if state == State::Exited {
            claim::release_own(id, STAGE)?;
        }
    }
    call.line(&json!({"id": id, "state": state, "action": action, "removed": action == "removed" && !call.dry_run()}))
}

/// Kills everything and waits until the kernel has let go of it. One that has a supervisor is recorded by that.
fn end(container: &Container, state: State) -> Result<()> {
    let deadline = Instant::now() + KILL_WAIT;
    loop {
        container.kill_all()?;
        if !matches!(
            container.state(),
            State::Running | State::Paused | State::Orphaned
        ) {
            break;
        }
        if Instant::now() >= deadline {
            let left = cgroups::processes(&container.cgroups);
            return Err(Error::new(
                Kind::InUse,
                format!(
                    "{} does not end, though it was killed: processes {left:?}",
                    container.id
                ),
            ));
        }
        sleep(TICK);
    }
    if state == State::Orphaned {
        say(format_args!(
            "{} lived without a supervisor; it was killed",
            container.id
        ));
    }
    Ok(())
}

/// Writes the end that no supervisor has written.
fn record_unseen(mut container: Container, state: State) -> Result<()> {
    let killed = state == State::Orphaned;
    let signal = killed.then_some(libc::SIGKILL);
    let exit = ExitMember {
        code: if killed {
            supervise::code(None, signal)
        } else {
            CODE_UNKNOWN
        },
        signal,
        oom: oom::happened(&container.cgroups),
        started: container.member.started.take(),
        finished: killed.then(|| log::now().to_string()),
    };
    record::record_end(
        &mut container.document,
        &mut container.member,
        &exit,
        &paths::container(&container.id),
    )
}
