//! Addresses from another plugin (SPEC.md, section 4): it is called with what we were called with.

use std::path::Path;
use std::time::Duration;

use super::attachment::{Attachment, Delegate};
use super::config::{Config, Where};
use super::{Code, Failure};
use crate::cni::chain::spoken_by;
use crate::cni::invoke::{self, Failed, Invocation, Verb};
use crate::cni::result::Outcome;
use crate::cni::version::Version;

const ARGUMENTS: &str = "CNI_ARGS";
/// As the runtime's own patience, usually.
const PATIENCE: Duration = Duration::from_secs(60);

impl From<Failed> for Failure {
    /// What the plugin has said, its code included, is what we say.
    fn from(failed: Failed) -> Failure {
        match failed.refused {
            Some(refused) => Failure {
                code: refused.code,
                error: failed.error,
            },
            None => failed.error.into(),
        }
    }
}

/// The plugin that a configuration names for addresses.
pub(super) fn of(config: &Config) -> Option<Delegate> {
    match &config.place {
        Where::Network(_) => None,
        Where::Bridge { ipam, .. } => Some(Delegate {
            kind: ipam.clone(),
            path: invoke::folders(),
            input: config.input.clone(),
        }),
    }
}

/// Calls it.
pub(super) fn call(
    verb: Verb,
    delegate: &Delegate,
    container: &str,
    ifname: &str,
    netns: Option<&Path>,
) -> Result<Vec<u8>, Failed> {
    with(verb, delegate, (container, ifname, netns), |one| one.run())?
}

/// Frees the addresses of an attachment, whether its namespace is still there or not.
pub(super) fn free(attachment: &Attachment, delegate: &Delegate) -> Result<(), Failed> {
    with(Verb::Del, delegate, place(attachment), |one| one.run())?.map(drop)
}

/// The command that does.
pub(super) fn free_command(attachment: &Attachment, delegate: &Delegate) -> String {
    let command = with(Verb::Del, delegate, place(attachment), |one| one.command());
    command.unwrap_or_else(|error| format!("# {error}"))
}

/// A container, its interface, and its namespace as long as that is there.
fn place(attachment: &Attachment) -> (&str, &str, Option<&Path>) {
    let Attachment { label, netns, .. } = attachment;
    let netns = Some(netns.as_path()).filter(|path| path.exists());
    (&label.container, &label.ifname, netns)
}

fn with<T>(
    verb: Verb,
    delegate: &Delegate,
    (container, ifname, netns): (&str, &str, Option<&Path>),
    work: impl FnOnce(&Invocation<'_>) -> T,
) -> bocker_pipe::Result<T> {
    let program = invoke::find(&delegate.kind, &delegate.path)?;
    Ok(work(&Invocation {
        verb,
        program: &program,
        container,
        netns,
        ifname,
        arguments: &std::env::var(ARGUMENTS).unwrap_or_default(),
        folders: &delegate.path,
        input: &delegate.input,
        patience: PATIENCE,
    }))
}

/// Whether it knows the commands that 1.1.0 has added.
pub(super) fn is_recent(delegate: &Delegate) -> Result<bool, Failure> {
    let program = invoke::find(&delegate.kind, &delegate.path)?;
    Ok(spoken_by(&program, &delegate.path, PATIENCE)?.contains(&Version::V1_1_0))
}

/// Asks for addresses.
pub(super) fn add(attachment: &Attachment, delegate: &Delegate) -> Result<Outcome, Failure> {
    let Attachment { label, netns, .. } = attachment;
    let stdout = call(
        Verb::Add,
        delegate,
        &label.container,
        &label.ifname,
        Some(netns),
    )?;
    let outcome = Outcome::parse(&stdout).map_err(|error| {
        let what = format!(
            "the ipam plugin '{}' answers ADD with {}",
            delegate.kind,
            error.message()
        );
        Failure::new(Code::Configuration, what)
    })?;
    match outcome.addresses.is_empty() {
        true => {
            let what = format!("the ipam plugin '{}' gives no address", delegate.kind);
            Err(Failure::new(Code::Configuration, what))
        }
        false => Ok(outcome),
    }
}
