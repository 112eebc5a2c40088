//! The plugins of one list, called for one container: forwards to add it to the network, backwards to take it out (SPEC.md,
//! section 3).

use std::path::{Path, PathBuf};
use std::time::Duration;

use bocker_pipe::error::Failures;
use bocker_pipe::{Error, Id, Kind, Result};
use serde_json::Value;

use super::invoke::{self, Failed, Invocation, Verb};
use super::list::{List, Plugin, bare_input};
use super::record::Attached;
use super::result::Outcome;
use super::version::Version;
use crate::netns;

/// A container and a network of CNI.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    id: Id,
    list: List,
    version: Version,
    pub(crate) attached: Attached,
    /// What ADD has given so far.
    outcome: Option<Outcome>,
    /// How many plugins have been called to add, the last of them perhaps in vain.
    begun: usize,
}

impl Chain {
    /// One that is to be made. All plugins are looked for; those of a list for several versions are asked which they speak,
    /// but in a dry run.
    pub(crate) fn plan(list: List, mut attached: Attached, dry_run: bool) -> Result<Chain> {
        for plugin in &list.plugins {
            invoke::find(&plugin.kind, &attached.path)?;
        }
        let version = match list.versions[..] {
            [version] => version,
            _ if dry_run => list
                .versions
                .iter()
                .copied()
                .max()
                .unwrap_or(Version::LATEST),
            _ => negotiated(&list, &attached)?,
        };
        attached.version = version.as_str().into();
        Ok(Chain {
            id: Id::placeholder(),
            list,
            version,
            attached,
            outcome: None,
            begun: 0,
        })
    }

    /// One that may have been made. Fails with [`Kind::Invalid`] when what is kept of it cannot be understood.
    pub(crate) fn kept(id: &Id, attached: Attached) -> Result<Chain> {
        let list = List::parse(attached.list.clone())?;
        let version = Version::parse(&attached.version).ok_or_else(|| {
            let message = format!("version '{}' of CNI is not spoken", attached.version);
            Error::new(Kind::Invalid, message)
        })?;
        // What does not stand up to a look is as good as none: DEL can do without.
        let outcome = attached
            .result
            .clone()
            .and_then(|value| Outcome::of(value).ok());
        Ok(Chain {
            id: id.clone(),
            begun: list.plugins.len(),
            list,
            version,
            attached,
            outcome,
        })
    }

    /// The name of the network.
    pub(crate) fn network(&self) -> &str {
        &self.list.name
    }

    pub(crate) fn takes(&self, capability: &str) -> bool {
        self.list.takes(capability)
    }

    pub(crate) fn belongs_to(&mut self, id: &Id) {
        self.id = id.clone();
    }

    pub(crate) fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// Calls one plugin of the list.
    fn call<T>(
        &self,
        verb: Verb,
        plugin: &Plugin,
        previous: Option<&Value>,
        work: impl FnOnce(&Invocation<'_>) -> T,
    ) -> Result<T> {
        let program = invoke::find(&plugin.kind, &self.attached.path)?;
        let netns = netns::path(&self.id);
        // Where it is gone already, DEL does without (SPEC.md, section 2).
        let is_there = verb != Verb::Del || netns::is_pinned(&netns);
        let input = self
            .list
            .input(plugin, self.version, &self.attached.capabilities, previous);
        Ok(work(&Invocation {
            verb,
            program: &program,
            container: self.id.as_str(),
            netns: is_there.then_some(netns.as_path()),
            ifname: &self.attached.ifname,
            arguments: "",
            folders: &self.attached.path,
            input: &input,
            patience: Duration::from_secs(self.attached.timeout),
        }))
    }

    /// Adds the container to the network. What a failure leaves is for [`Chain::delete`].
    pub(crate) fn add(&mut self) -> Result<()> {
        self.outcome = None;
        for place in 0..self.list.plugins.len() {
            self.begun = place + 1;
            if let Err(failed) = self.add_one(place) {
                if failed.did_nothing() {
                    self.begun = place;
                }
                return Err(failed.error);
            }
        }
        self.attached.result = self.outcome.as_ref().map(|outcome| outcome.value.clone());
        Ok(())
    }

    fn add_one(&mut self, place: usize) -> Result<(), Failed> {
        let previous = self.previous();
        let plugin = self.plugin(place)?;
        let outcome = self.call(Verb::Add, plugin, previous.as_ref(), |one| {
            let lie = |error: Error| one.error(&format!("answers ADD with {}", error.message()));
            Ok::<_, Failed>(Outcome::parse(&one.run()?).map_err(lie)?)
        })?;
        self.outcome = Some(outcome?);
        Ok(())
    }

    fn plugin(&self, place: usize) -> Result<&Plugin> {
        let plugin = self.list.plugins.get(place);
        plugin.ok_or_else(|| Error::new(Kind::Invalid, "the list has no such plugin"))
    }

    /// What is passed on to a plugin that is called to add.
    fn previous(&self) -> Option<Value> {
        self.outcome
            .as_ref()
            .map(|outcome| outcome.in_version(self.version))
    }

    /// The same for one that is called to check or to delete.
    fn result(&self) -> Option<Value> {
        self.previous().filter(|_| self.version >= Version::V0_4_0)
    }

    /// Takes the container out of the network, as far as it is in, by the plugins that have been called, last first. Goes on
    /// after failures.
    pub(crate) fn delete(&self) -> Result<()> {
        let result = self.result();
        let mut failures = Failures::default();
        for plugin in self.list.plugins.iter().take(self.begun).rev() {
            let called = self.call(Verb::Del, plugin, result.as_ref(), |one| one.run());
            failures.note(called.and_then(|answer| match answer {
                Ok(_) => Ok(()),
                Err(failed) if self.is_gone(&failed) => Ok(()),
                Err(failed) => Err(failed.error),
            }));
        }
        failures.into_result()
    }

    /// Whether a plugin that refuses to delete has nothing to delete.
    fn is_gone(&self, failed: &Failed) -> bool {
        // One that speaks another version by now may have been added to with this one.
        let was_added = self.attached.result.is_some();
        failed.refused.as_ref().is_some_and(|refused| {
            refused.is_unknown_container() || refused.is_incompatible() && !was_added
        })
    }

    /// Whether all is as ADD has made it, as far as the plugins can tell. `None` where they cannot be asked: before 0.4.0, and
    /// where the list says so.
    pub(crate) fn check(&self) -> Option<Result<()>> {
        let result = self.result().filter(|_| !self.list.disable_check)?;
        let ask = |plugin| {
            self.call(Verb::Check, plugin, Some(&result), |one| one.run())?
                .map_err(|failed| failed.error)
        };
        Some(
            self.list
                .plugins
                .iter()
                .try_for_each(|plugin| ask(plugin).map(drop)),
        )
    }

    /// The commands that add, each with what the one before has said.
    pub(crate) fn add_commands(&self) -> Vec<String> {
        let plugins = self.list.plugins.iter().enumerate();
        let command = |(place, plugin): (usize, &Plugin)| {
            self.call(Verb::Add, plugin, None, |one| one.adding_command(place > 0))
        };
        shown(plugins.map(command))
    }

    /// The commands that delete.
    pub(crate) fn delete_commands(&self) -> Vec<String> {
        let result = self.result();
        let command = |plugin| self.call(Verb::Del, plugin, result.as_ref(), |one| one.command());
        shown(self.list.plugins.iter().rev().map(command))
    }
}

fn shown(commands: impl Iterator<Item = Result<String>>) -> Vec<String> {
    commands
        .map(|command| command.unwrap_or_else(|error| format!("# {error}")))
        .collect()
}

/// The highest version that the list and all of its plugins speak.
fn negotiated(list: &List, attached: &Attached) -> Result<Version> {
    let mut versions = list.versions.clone();
    for plugin in &list.plugins {
        let program = invoke::find(&plugin.kind, &attached.path)?;
        let patience = Duration::from_secs(attached.timeout);
        let spoken = spoken_by(&program, &attached.path, patience)?;
        versions.retain(|version| spoken.contains(version));
    }
    versions.into_iter().max().ok_or_else(|| {
        let named: Vec<&str> = list
            .versions
            .iter()
            .map(|version| version.as_str())
            .collect();
        let message = format!(
            "no version of CNI is spoken by all plugins of '{}', of {}",
            list.name,
            named.join(", ")
        );
        Error::new(Kind::Unsupported, message).hint("name an older one in its cniVersions")
    })
}

/// The versions that a plugin speaks, of those that we do.
pub(crate) fn spoken_by(
    program: &Path,
    folders: &[PathBuf],
    patience: Duration,
) -> Result<Vec<Version>> {
    let invocation = Invocation {
        verb: Verb::Version,
        program,
        container: "",
        netns: None,
        ifname: "",
        arguments: "",
        folders,
        input: &bare_input(Version::LATEST),
        patience,
    };
    let stdout = invocation.run().map_err(|failed| failed.error)?;
    let answer: Value = serde_json::from_slice(&stdout).unwrap_or_default();
    let Some(versions) = answer.get("supportedVersions").and_then(Value::as_array) else {
        return Err(invocation.error("does not say which versions of CNI it speaks"));
    };
    let versions = versions.iter().filter_map(Value::as_str);
    Ok(versions.filter_map(Version::parse).collect())
}
