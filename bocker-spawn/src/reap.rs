//! `reap` and `gc`: what is done for a container whose supervisor was killed, or the machine stopped, before its end was seen.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use bocker_pipe::claim::{self, Claim};
use bocker_pipe::document::{ExitMember, VERSION};
use bocker_pipe::error::Failures;
use bocker_pipe::events::{Event, Type};
use bocker_pipe::listed::Listed;
use bocker_pipe::lock::{self, Supervisor};
use bocker_pipe::state::State;
use bocker_pipe::{Arg, Call, Document, Error, Id, Kind, Result, containers, paths, time};
use serde_json::json;

use crate::container::Container;
use crate::{STAGE, cgroups, holders, oom, record, say, stop, supervise};

/// An end that nobody saw: what docker records after its daemon was killed.
const CODE_UNKNOWN: u8 = 255;
/// How long what was killed may take to be gone.
const KILL_WAIT: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(5);

/// `reap [ID]`: ends what lives of a container without a supervisor, records the end that nobody saw, and passes the
/// document on to those who delete the rest.
pub(crate) fn reap(call: &mut Call) -> Result<()> {
    let id = match call.container(None)? {
        Some(name) => find(&name)?,
        None if call.document()?.value("/bocker/id").is_none() => return Ok(()),
        None => call.document()?.id()?,
    };
    // Should this fail, the stages after it have nothing to delete.
    call.adopt(Document::new());
    let dry_run = call.dry_run();
    let _lock = match dry_run {
        true => None,
        // Without a claim nobody else acts on it.
        false => lock::verbs(&id).ok(),
    };
    match lock::supervisor(&id) {
        Supervisor::Runs => return Err(Error::new(Kind::InUse, format!("{id} is running"))),
        Supervisor::Tidies => {
            let what = format!("{id} is being cleaned up");
            return Err(Error::new(Kind::InUse, what).hint("'bocker stop' waits for it"));
        }
        Supervisor::Lost | Supervisor::Absent => {}
    }
    let document = match Container::load(id.clone(), id.as_str()) {
        Ok(container) if dry_run => container.document,
        Ok(container) => settle(container)?,
        // What it has only its own release knows.
        Err(error) if error.kind() == &Kind::Version => return Err(error),
        Err(error) => {
            if error.kind() == &Kind::NotFound && !dry_run {
                remove_half_made(&id)?;
            }
            bare(&id)
        }
    };
    if !dry_run {
        lock::forget(&id)?;
    }
    call.adopt(document);
    Ok(())
}

/// The id of a container by its name, or of a claim that nothing came of.
fn find(name: &str) -> Result<Id> {
    match (containers::resolve(name), Id::parse(name)) {
        (Err(_), Ok(id)) if id.is_container() && claim::read(&id).is_some() => Ok(id),
        (result, _) => result,
    }
}

/// Of a container without a document of its own: whatever there may be of it is found by the id.
fn bare(id: &Id) -> Document {
    let mut document = Document::new();
    document.set_member("version", &VERSION);
    document.set_member("id", id);
    for stage in ["cg", "net", "snap", STAGE] {
        document.set_member(stage, &json!({}));
    }
    document
}

/// Sees to it that nothing of it lives and that its end is recorded.
fn settle(container: Container) -> Result<Document> {
    let state = container.state();
    if state == State::Orphaned {
        end(&container)?;
    }
    match state {
        State::Exited | State::Orphaned if !container.is_recorded() => {
            record_unseen(container, state)
        }
        State::Exited if lock::is_between_runs(&container.id) => {
            let id = &container.id;
            let was_killed = claim::boot_id().ok() == claim::read(id).map(|record| record.boot_id);
            if was_killed {
                say(format_args!(
                    "{id} lost its supervisor, and is not restarted; 'bocker start {id}' does"
                ));
            }
            Ok(container.document)
        }
        _ => Ok(container.document),
    }
}

/// `gc`: ends what lives without a supervisor, records the ends that nobody saw, and removes the folders and claims of
/// this tool's own making whose containers are over.
pub(crate) fn gc(call: &mut Call) -> Result<()> {
    let (mut grace, mut orphans, mut force) = (claim::DEFAULT_GRACE, false, false);
    let mut listed = Listed::default();
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) => match option.as_str() {
                "--grace" => grace = Duration::from_secs(call.number()?),
                "--orphans" => orphans = true,
                "--force" => force = true,
                "--listed" => listed = Listed::from_stdin()?,
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
    for id in ids.iter().filter(|id| listed.has(id.as_str())) {
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
        let is_half_made = listed.has(claim.id.as_str())
            && is_own(claim)
            && !paths::container(&claim.id)
                .join(containers::CONFIG)
                .exists()
            && !lock::is_alive(&claim.id);
        if is_half_made && claim.is_stale(&boot_id, grace) {
            if !call.dry_run() {
                let _lock = lock::verbs(&claim.id).ok();
                failures.note(remove_half_made(&claim.id));
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

/// What there is of this tool's making for a container without a document.
fn remove_half_made(id: &Id) -> Result<()> {
    if claim::read(id).is_some_and(|record| record.by == STAGE) {
        record::remove_made_folder(&paths::container(id))?;
    }
    claim::release_own(id, STAGE)
}

fn collect(call: &Call, id: &Id, force: bool) -> Result<()> {
    // Looking changes nothing; what is done is done while no other verb acts on the container.
    let lock = match call.dry_run() {
        true => None,
        false => lock::verbs(id).ok(),
    };
    // What was claimed and never handed over is for those who made it.
    let Ok(container) = Container::load(id.clone(), id.as_str()) else {
        return Ok(());
    };
    let state = container.state();
    let action = match state {
        State::Running | State::Paused | State::Restarting if !force => return Ok(()),
        State::Running | State::Paused | State::Restarting | State::Orphaned => "ended",
        State::Exited if container.member.made_folder => "removed",
        State::Exited if !container.is_recorded() => "recorded",
        State::Exited | State::Creating | State::Created => return Ok(()),
    };
    if !call.dry_run() {
        match state {
            // Its supervisor records it, and takes the lock for that.
            State::Running | State::Paused | State::Restarting => {
                drop(lock);
                end(&stop::begin_no_other(container)?)?;
            }
            _ => {
                settle(container)?;
                lock::forget(id)?;
            }
        }
        if action == "removed" {
            Event::new(Type::Container, "destroy", id).record();
            record::remove_made_folder(&paths::container(id))?;
        }
        if state == State::Exited {
            claim::release_own(id, STAGE)?;
        }
    }
    call.line(&json!({"id": id, "state": state, "action": action, "removed": action == "removed" && !call.dry_run()}))
}

/// Kills everything and waits until the kernel has let go of it; not when nobody knows how long that takes, as the next command
/// of any kind tries it again.
fn end(container: &Container) -> Result<()> {
    let begun = Instant::now();
    loop {
        container.kill_all()?;
        if !matches!(
            container.state(),
            State::Running | State::Paused | State::Restarting | State::Orphaned
        ) {
            return Ok(());
        }
        let waited = begun.elapsed();
        if waited >= stop::LOOK_AFTER
            && let Some((process_1, _)) = container.process()?
        {
            let holders = holders::of(process_1);
            if !holders.will_go() || waited >= KILL_WAIT {
                return Err(holders.error(&container.id));
            }
        }
        if waited >= KILL_WAIT {
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
}

/// Writes the end that no supervisor has written, or not to its end, and says so unless the machine has been started since.
fn record_unseen(mut container: Container, state: State) -> Result<Document> {
    let exit = container.unrecorded_exit(state);
    let member = &mut container.member;
    let was_killed = member.boot_id == claim::boot_id().ok();
    supervise::tell_end(&container.document, &exit);
    record::end(&mut container.document, member, &exit);
    member.request.remove_pidfile();
    let folder = paths::container(&container.id);
    record::write_status(&exit, &folder)?;
    record::write_document(&mut container.document, &folder)?;
    if was_killed {
        say(format_args!(
            "{} lost its supervisor: {}, exit code {}",
            container.id,
            match state {
                State::Orphaned => "what was left of it was killed",
                _ => "it has ended",
            },
            exit.code
        ));
    }
    Ok(container.document)
}

impl Container {
    /// Whether its document tells how it ended, or that it was never started.
    pub(crate) fn is_recorded(&self) -> bool {
        let said: Option<State> = self.document.member("state").ok().flatten();
        said != Some(State::Running)
    }

    /// The end of one whose document does not tell it: what its supervisor had still written, or as much as can be known.
    pub(crate) fn unrecorded_exit(&self, state: State) -> ExitMember {
        if let Some(exit) = record::status(&paths::container(&self.id)) {
            return exit;
        }
        let killed = state == State::Orphaned;
        let signal = killed.then_some(libc::SIGKILL);
        ExitMember {
            code: match signal {
                Some(_) => supervise::code(None, signal),
                None => CODE_UNKNOWN,
            },
            signal,
            oom: oom::kills(&self.cgroups) > 0,
            error: None,
            started: self.member.started.clone(),
            finished: killed.then(|| time::now().to_string()),
        }
    }
}
