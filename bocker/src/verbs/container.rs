//! `container VERB`: docker's longer words for the verbs on containers, and `container prune`. What is removed there, `system prune`
//! removes too.

use std::ffi::OsString;

use bocker_pipe::error::EXIT_FAILED;
use bocker_pipe::{Error, Id, Kind, Result, containers};

use super::outcome::{Outcome, each};
use super::system::Force;
use super::{exists, rm};
use crate::container::{self, Container};
use crate::filter::{self, Filter};
use crate::session::{Session, say};
use crate::table;

/// What a verb is called after `container`, and without it.
const VERBS: &[(&str, &str)] = &[
    ("attach", "attach"),
    ("cleanup", "cleanup"),
    ("commit", "commit"),
    ("cp", "cp"),
    ("create", "create"),
    ("diff", "diff"),
    ("exec", "exec"),
    ("export", "export"),
    ("inspect", "inspect"),
    ("kill", "kill"),
    ("list", "ps"),
    ("logs", "logs"),
    ("ls", "ps"),
    ("pause", "pause"),
    ("port", "port"),
    ("ps", "ps"),
    ("rename", "rename"),
    ("restart", "restart"),
    ("rm", "rm"),
    ("run", "run"),
    ("start", "start"),
    ("stop", "stop"),
    ("top", "top"),
    ("unpause", "unpause"),
    ("wait", "wait"),
];

/// Manage containers
#[derive(Debug, clap::Subcommand)]
#[command(
    long_about = "Manage containers: 'container ls' is 'ps', and 'container run', 'container rm' and so on are 'run', 'rm' and so on."
)]
pub(crate) enum Verb {
    Exists(exists::Args),
    Prune(Prune),
    /// The same as without 'container'
    #[command(external_subcommand)]
    Same(Vec<OsString>),
}

/// Remove the containers that have ended or never began
#[derive(Debug, clap::Args)]
pub(crate) struct Prune {
    /// Those of them of which this holds, see 'bocker help ps'
    #[arg(long, value_name = "KEY=VALUE", value_parser = Filter::parse)]
    filter: Vec<Filter>,
    /// Only list them
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    force: Force,
}

pub(crate) fn run(session: &Session, verb: &Verb) -> Result<u8> {
    match verb {
        Verb::Exists(args) => exists::container(args),
        Verb::Prune(args) => prune(session, args),
        // They are read as the verb itself before anything is run.
        Verb::Same(words) => plain(words).map(|_| EXIT_FAILED),
    }
}

fn prune(session: &Session, args: &Prune) -> Result<u8> {
    let mut dead = container::list(session, |stage| {
        stage.options("--with", filter::shown(&args.filter))
    })?;
    filter::keep(&mut dead, &args.filter)?;
    dead.retain(Container::is_over);
    if args.dry_run {
        return show(&dead).map(|()| 0);
    }
    if !session.dry_run && !dead.is_empty() && !args.force.is_given() {
        show(&dead)?;
        args.force.confirm("Remove all of these?")?;
    }
    let ids: Vec<Id> = dead.into_iter().map(|container| container.id).collect();
    remove(session, &ids)
}

/// Lists what is to be removed.
pub(crate) fn show(dead: &[Container]) -> Result<()> {
    dead.iter().try_for_each(|container| {
        let record = container.record();
        let text = |member: &str| record[member].as_str().unwrap_or_default().to_owned();
        say(&format!(
            "container: {}  {}  {}",
            container.id,
            text("Status"),
            table::visible(&text("Command"))
        ))
    })
}

/// Removes those that were listed. What runs by now is refused.
pub(crate) fn remove(session: &Session, dead: &[Id]) -> Result<u8> {
    let names: Vec<String> = dead.iter().map(Id::to_string).collect();
    let worst = each(&names, |name| {
        let id = Id::parse(name)?;
        let is_there = || containers::load(&id).is_ok();
        // Others remove containers too, those of 'run --rm' go by themselves, and gone is gone.
        match is_there() {
            true => rm::remove(session, &id, name, None, false),
            false => Ok(Outcome::Done),
        }
        .map(|outcome| if is_there() { outcome } else { Outcome::Done })
    })?;
    Ok(worst.exit_code())
}

/// The words of the verb itself, without `container` before it.
pub(crate) fn plain(words: &[OsString]) -> Result<Vec<OsString>> {
    let (verb, rest) = words.split_first().ok_or_else(|| unknown(""))?;
    let verb = verb.to_string_lossy();
    let (_, plain) = VERBS
        .iter()
        .find(|(name, _)| *name == verb)
        .ok_or_else(|| unknown(&verb))?;
    let plain = std::iter::once(OsString::from(plain));
    Ok(plain.chain(rest.iter().cloned()).collect())
}

/// The error for what is no verb after `container`.
fn unknown(verb: &str) -> Error {
    let names: Vec<&str> = VERBS.iter().map(|(name, _)| *name).collect();
    Error::new(Kind::Usage, format!("there is no verb 'container {verb}'"))
        .hint(format!("there are exists, prune, {}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;

    #[test]
    fn each_is_a_verb_by_itself_too() {
        let command = cli::command();
        let known: Vec<&str> = command
            .get_subcommands()
            .map(clap::Command::get_name)
            .collect();
        for (name, plain) in VERBS {
            assert!(known.contains(plain), "{name}");
        }
    }
}
