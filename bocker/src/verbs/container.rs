//! `container VERB`: docker's longer words for the verbs on containers.

use std::ffi::OsString;

use bocker_pipe::error::EXIT_FAILED;
use bocker_pipe::{Error, Kind, Result};

use super::exists;

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
    /// The same as without 'container'
    #[command(external_subcommand)]
    Same(Vec<OsString>),
}

pub(crate) fn run(verb: &Verb) -> Result<u8> {
    match verb {
        Verb::Exists(args) => exists::container(args),
        // They are read as the verb itself before anything is run.
        Verb::Same(words) => plain(words).map(|_| EXIT_FAILED),
    }
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
        .hint(format!("there are exists, {}", names.join(", ")))
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
