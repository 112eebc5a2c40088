//! What the verbs of `volume` and `network` have in common: a tool keeps objects under names, reports them as JSON lines, and removes
//! what nobody uses.

use bocker_pipe::{Kind, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::inspect::{EXIT_MISSING, print};
use super::outcome::{Outcome, each};
use crate::pipeline::{Pipeline, Stage};
use crate::session::{Session, not_understood, say};

/// What a stage reports, understood and as it came.
pub(crate) fn read<T: DeserializeOwned>(
    session: &Session,
    stage: &Stage,
) -> Result<(Vec<T>, Vec<Value>)> {
    let lines = session.read(stage)?;
    let objects = lines.iter().map(T::deserialize);
    let objects = objects
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| not_understood(stage, &error))?;
    Ok((objects, lines))
}

/// Prints those that are named, as `described` puts them, and goes on after one that is not there.
pub(crate) fn inspect<T: DeserializeOwned>(
    session: &Session,
    stage: &Stage,
    names: &[String],
    format: Option<&str>,
    described: fn(&T) -> Value,
) -> Result<u8> {
    let mut found = Vec::new();
    let mut code = 0;
    for name in names {
        match describe(session, stage, name, described)? {
            Some(object) => found.push(object),
            None => code = EXIT_MISSING,
        }
    }
    print(found, format)?;
    Ok(code)
}

/// The one of this name, as `described` puts it; nothing when there is none, and then the tool has said so.
pub(crate) fn describe<T: DeserializeOwned>(
    session: &Session,
    stage: &Stage,
    name: &str,
    described: fn(&T) -> Value,
) -> Result<Option<Value>> {
    match read::<T>(session, &stage.clone().args(["--", name])) {
        Ok((objects, _)) => Ok(objects.first().map(described)),
        Err(error) if matches!(error.kind(), Kind::Passed(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes those that are named, and goes on after one that cannot be.
pub(crate) fn remove(session: &Session, stage: &Stage, names: &[String]) -> Result<u8> {
    let worst = each(names, |name| {
        let pipeline = Pipeline::new([stage.clone().args(["--", name])])
            .discarded()
            .said(name.to_owned());
        Ok(Outcome::of_status(session.run(&pipeline)?))
    })?;
    Ok(worst.exit_code())
}

/// Says which of the `kind` a stage that prunes would remove, and answers their names.
pub(crate) fn unused(session: &Session, prune: &Stage, kind: &str) -> Result<Vec<String>> {
    let listed = session.read(&prune.clone().arg("--dry-run"))?;
    let names = listed.iter().filter_map(|line| line["name"].as_str());
    self::listed(names.map(str::to_owned).collect(), kind)
}

/// Says which of the `kind` are to be removed.
pub(crate) fn listed(names: Vec<String>, kind: &str) -> Result<Vec<String>> {
    for name in &names {
        say(&format!("{kind}: {name}"))?;
    }
    Ok(names)
}

/// Removes those of these names that still may be.
pub(crate) fn prune(session: &Session, prune: Stage, names: &[String]) -> Result<u8> {
    match names {
        [] => Ok(0),
        names => session.run(&Pipeline::new([prune.arg("--").args(names)]).discarded()),
    }
}
