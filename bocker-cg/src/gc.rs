//! `gc`: removes the groups that dead containers of this `BOCKER_ROOT` have left.

use std::collections::BTreeMap;
use std::time::Duration;

use bocker_pipe::claim::{self, Claim};
use bocker_pipe::containers::CONFIG;
use bocker_pipe::error::Failures;
use bocker_pipe::listed::Listed;
use bocker_pipe::state::State;
use bocker_pipe::{Arg, Call, Id, Result, lock, paths};
use serde_json::json;

use crate::STAGE;
use crate::hierarchies::Hierarchies;
use crate::{delete, group, list, pause};

/// What the caller wants.
struct Options {
    grace: Duration,
    orphans: bool,
    force: bool,
    listed: Listed,
}

pub(crate) fn run(call: &mut Call) -> Result<()> {
    let options = options(call)?;
    let hierarchies = Hierarchies::read()?;
    // Objects before claims: a group that is made in between has a claim then, and an older one without is nobody's.
    let groups = list::ids(&hierarchies);
    let claims: BTreeMap<Id, Claim> = claim::list()?
        .into_iter()
        .map(|claim| (claim.id.clone(), claim))
        .collect();
    let boot_id = claim::boot_id()?;
    let mut failures = Failures::default();

    let bare_claims = claims.values().filter(|c| !groups.contains(&c.id));
    let our_bare_claims = bare_claims.filter(|c| made_the_claim(c)).map(|c| &c.id);
    let found = groups.iter().chain(our_bare_claims);
    for id in found.filter(|id| options.listed.has(id.as_str())) {
        let result = match claims.get(id) {
            None if options.orphans => call.line(&json!({
                "id": id,
                "state": "unclaimed",
                "paths": list::paths(&hierarchies, id),
                "removed": false,
            })),
            Some(claim) if claim.is_ours() => thaw(call, &hierarchies, id)
                .and_then(|()| collect(call, claim, &hierarchies, &boot_id, &options)),
            _ => Ok(()),
        };
        failures.note(result);
    }
    for claim in claim::sweep(options.grace, &options.listed, call.dry_run())? {
        call.line(&json!({"claim": claim, "removed": !call.dry_run()}))?;
    }
    failures.into_result()
}

fn options(call: &mut Call) -> Result<Options> {
    let mut options = Options {
        grace: claim::DEFAULT_GRACE,
        orphans: false,
        force: false,
        listed: Listed::default(),
    };
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) => match option.as_str() {
                "--grace" => options.grace = Duration::from_secs(call.number()?),
                "--orphans" => options.orphans = true,
                "--force" => options.force = true,
                "--listed" => options.listed = Listed::from_stdin()?,
                _ => return Err(call.unknown(&option)),
            },
            Arg::Value(word) => return Err(call.unexpected(&word)),
        }
    }
    Ok(options)
}

/// Lets go on what stands still for somebody who was killed.
fn thaw(call: &Call, hierarchies: &Hierarchies, id: &Id) -> Result<()> {
    match pause::thaw_forgotten(call, hierarchies, id)? {
        true => call.line(&json!({"id": id, "thawed": !call.dry_run()})),
        false => Ok(()),
    }
}

fn made_the_claim(claim: &Claim) -> bool {
    claim.record.as_ref().is_some_and(|r| r.by == STAGE)
}

fn collect(
    call: &Call,
    claim: &Claim,
    hierarchies: &Hierarchies,
    boot_id: &str,
    options: &Options,
) -> Result<()> {
    let id = &claim.id;
    let looked = || {
        let groups = group::all(hierarchies, id);
        let state = State::of(
            id,
            || !group::are_empty(&groups),
            || list::is_frozen(hierarchies, id),
        );
        let takes = match state {
            State::Creating => claim.is_stale(boot_id, options.grace),
            State::Created => false,
            State::Running | State::Paused | State::Restarting => options.force,
            State::Exited => claim::is_over(id, boot_id, options.grace),
            // Processes in a group that was never bocker-spawn's are somebody else's.
            State::Orphaned => options.force || paths::container(id).join(CONFIG).exists(),
        };
        takes.then_some(state)
    };
    if looked().is_none() {
        return Ok(());
    }
    // Only now, so that looking at a container changes nothing; another verb may have come first.
    let _lock = (!call.dry_run()).then(|| lock::verbs(id).ok());
    let Some(state) = looked() else { return Ok(()) };
    if state == State::Orphaned && !call.dry_run() {
        delete::say_orphaned(id);
    }
    let groups = list::paths(hierarchies, id);
    let kill = !matches!(state, State::Creating | State::Exited);
    delete::sweep(call, id, hierarchies, kill, made_the_claim(claim))?;
    call.line(&json!({
        "id": id,
        "state": state,
        "paths": groups,
        "removed": !call.dry_run(),
    }))
}
