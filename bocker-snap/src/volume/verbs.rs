//! `volume create|ls|inspect|rm|prune`: volumes by themselves, without a container.

use std::collections::BTreeMap;

use bocker_pipe::error::Failures;
use bocker_pipe::step::quote;
use bocker_pipe::{Arg, Call, Error, Id, Kind, Result, Step, paths};
use serde::Serialize;

use super::request::label;
use super::{Record, Volume, all, random_name, users};
use crate::tree;

/// One volume, as it is listed.
#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    mountpoint: String,
    created: String,
    labels: BTreeMap<String, String>,
    anonymous: bool,
    /// The containers that use it.
    used_by: Vec<Id>,
}

impl Listed {
    fn new(volume: &Volume, users: &mut BTreeMap<String, Vec<Id>>) -> Result<Listed> {
        let record = volume.record()?;
        Ok(Listed {
            name: volume.name().to_owned(),
            mountpoint: tree::text(&volume.data())?.to_owned(),
            created: record.created,
            labels: record.labels,
            anonymous: record.anonymous,
            used_by: users.remove(volume.name()).unwrap_or_default(),
        })
    }
}

/// What was removed, or would be.
#[derive(Debug, Serialize)]
struct Removed<'a> {
    name: &'a str,
}

/// What a volume must be to be listed or removed.
#[derive(Debug, PartialEq, Eq)]
enum Filter {
    /// Whether no container uses it.
    Dangling(bool),
    /// That it has a label, perhaps with this value.
    Label(String, Option<String>),
    /// What its name contains.
    Name(String),
}

impl Filter {
    /// Takes `dangling=true`, `label=KEY[=VALUE]` or `name=PART`.
    fn parse(text: &str) -> Result<Filter> {
        match text.split_once('=') {
            Some(("dangling", "true" | "1")) => Ok(Filter::Dangling(true)),
            Some(("dangling", "false" | "0")) => Ok(Filter::Dangling(false)),
            Some(("label", label)) => Ok(match label.split_once('=') {
                Some((name, value)) => Filter::Label(name.into(), Some(value.into())),
                None => Filter::Label(label.into(), None),
            }),
            Some(("name", part)) => Ok(Filter::Name(part.into())),
            _ => Err(
                Error::new(Kind::Usage, format!("'{text}' is no filter for volumes"))
                    .hint("use dangling=true, label=KEY, label=KEY=VALUE or name=PART"),
            ),
        }
    }

    fn takes(&self, volume: &Listed) -> bool {
        match self {
            Filter::Dangling(dangling) => volume.used_by.is_empty() == *dangling,
            Filter::Label(name, value) => {
                let found = volume.labels.get(name);
                found.is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
            }
            Filter::Name(part) => volume.name.contains(part),
        }
    }
}

/// The arguments of one of the verbs, as far as it takes them.
#[derive(Debug, Default)]
struct Options {
    names: Vec<String>,
    labels: BTreeMap<String, String>,
    filters: Vec<Filter>,
    force: bool,
    all: bool,
}

impl Options {
    fn read(call: &mut Call, allowed: &[&str]) -> Result<Options> {
        let mut options = Options::default();
        options.names = call.words(allowed, |call, option| {
            match option {
                "--label" => {
                    let (name, value) = label(&call.text()?);
                    options.labels.insert(name, value);
                }
                "--filter" => options.filters.push(Filter::parse(&call.text()?)?),
                "-a" | "--all" => options.all = true,
                _ => options.force = true,
            }
            Ok(())
        })?;
        Ok(options)
    }

    /// The volumes that are named, at least one.
    fn named(&self) -> Result<Vec<Volume>> {
        if self.names.is_empty() {
            return Err(Error::new(Kind::Usage, "no volume is named"));
        }
        self.names.iter().map(|name| Volume::parse(name)).collect()
    }
}

/// `volume VERB ...`.
pub(crate) fn volume(call: &mut Call) -> Result<()> {
    let verb = match call.arg()? {
        Some(Arg::Value(verb)) => verb,
        Some(Arg::Option(option)) => return Err(call.unknown(&option)),
        None => {
            let what = "the verb after 'volume' is missing";
            return Err(
                Error::new(Kind::Usage, what).hint("it is create, ls, inspect, rm or prune")
            );
        }
    };
    match verb.to_str() {
        Some("create") => create(call),
        Some("ls" | "list") => ls(call),
        Some("inspect") => inspect(call),
        Some("rm") => rm(call),
        Some("prune") => prune(call),
        _ => Err(call.unexpected(&verb)),
    }
}

/// What `create` does, and what has come of it.
struct Creation {
    volume: Volume,
    record: Record,
    made: bool,
}

/// `volume create [NAME] [--label KEY=VALUE]`: one that is there is as good, as for docker.
fn create(call: &mut Call) -> Result<()> {
    let options = Options::read(call, &["--label"])?;
    let volume = match &options.names[..] {
        [] => Volume::named(&random_name()?),
        [name] => Volume::parse(name)?,
        [_, second, ..] => return Err(call.unexpected(&second.into())),
    };
    let mut creation = Creation {
        record: Record::new(options.labels, options.names.is_empty()),
        volume,
        made: false,
    };
    call.run_steps(&mut creation, vec![create_step()])?;
    if call.dry_run() {
        return Ok(());
    }
    call.line(&Listed::new(&creation.volume, &mut users()?)?)
}

fn create_step() -> Step<Creation> {
    Step::new(
        "snap.volume",
        "a volume is a directory that outlives the containers that have it mounted",
    )
    .command(|c: &Creation| match c.made || !c.volume.exists() {
        true => c.volume.make_commands(&c.record, None),
        false => vec!["# the volume was there before".into()],
    })
    .look(|_| format!("ls -l {}", quote(&paths::volumes().display().to_string())))
    .apply(|c| {
        c.made = c.volume.make(&c.record, None)?;
        Ok(())
    })
    .undo(|c| match c.made {
        true => c.volume.remove(None).map(drop),
        false => Ok(()),
    })
}

/// `volume ls [--filter FILTER]`.
fn ls(call: &mut Call) -> Result<()> {
    let options = Options::read(call, &["--filter"])?;
    if let Some(name) = options.names.first() {
        return Err(call.unexpected(&name.into()));
    }
    for volume in listed(&options.filters)? {
        call.line(&volume)?;
    }
    Ok(())
}

fn listed(filters: &[Filter]) -> Result<Vec<Listed>> {
    let mut users = users()?;
    let mut listed = Vec::new();
    for volume in all()? {
        match Listed::new(&volume, &mut users) {
            // Removed since.
            Err(error) if error.kind() == &Kind::NotFound => {}
            volume => {
                let volume = volume?;
                if filters.iter().all(|filter| filter.takes(&volume)) {
                    listed.push(volume);
                }
            }
        }
    }
    Ok(listed)
}

/// `volume inspect NAME...`.
fn inspect(call: &mut Call) -> Result<()> {
    let options = Options::read(call, &[])?;
    let mut users = users()?;
    let mut failures = Failures::default();
    for volume in options.named()? {
        match Listed::new(&volume, &mut users) {
            Ok(listed) => call.line(&listed)?,
            Err(error) => failures.note(Err(error)),
        }
    }
    failures.into_result()
}

/// `volume rm [-f] NAME...`: with `-f` it is no error that there is none.
fn rm(call: &mut Call) -> Result<()> {
    let options = Options::read(call, &["-f", "--force"])?;
    let mut failures = Failures::default();
    for volume in options.named()? {
        let removed = remove(call, &volume).and_then(|removed| match removed || options.force {
            true => Ok(()),
            false => Err(volume.missing()),
        });
        failures.note(removed);
    }
    failures.into_result()
}

/// `volume prune [--all] [--filter FILTER] [NAME...]`: volumes that no container uses, those that nobody has named or all of
/// them. With names only these, if they still are such.
fn prune(call: &mut Call) -> Result<()> {
    let mut options = Options::read(call, &["-f", "--force", "-a", "--all", "--filter"])?;
    options.filters.push(Filter::Dangling(true));
    let mut failures = Failures::default();
    for listed in listed(&options.filters)? {
        let asked = options.names.is_empty() || options.names.contains(&listed.name);
        if !asked || !(options.all || listed.anonymous) {
            continue;
        }
        match remove(call, &Volume::named(&listed.name)) {
            // A container has taken it meanwhile.
            Err(error) if error.kind() == &Kind::InUse => {}
            removed => failures.note(removed.map(drop)),
        }
    }
    failures.into_result()
}

/// Removes one and says so. Answers whether it was there.
fn remove(call: &Call, volume: &Volume) -> Result<bool> {
    if !volume.exists() {
        return Ok(false);
    }
    volume.refuse_used(None)?;
    let mut removed = false;
    let name = volume.clone();
    let shown = volume.clone();
    let step = Step::new("snap.volume", "what nobody needs any more takes no space")
        .command(move |_: &bool| vec![shown.remove_command()])
        .apply(move |removed| {
            *removed = name.remove(None)?;
            Ok(())
        });
    call.run_steps(&mut removed, vec![step])?;
    if removed || call.dry_run() {
        call.line(&Removed {
            name: volume.name(),
        })?;
    }
    Ok(removed || call.dry_run())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str, labels: &[(&str, &str)], used: bool) -> Listed {
        let labels = labels.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        Listed {
            name: name.into(),
            mountpoint: String::new(),
            created: String::new(),
            labels: labels.collect(),
            anonymous: false,
            used_by: used
                .then(|| Id::parse("ps_aaaaaa").unwrap())
                .into_iter()
                .collect(),
        }
    }

    #[test]
    fn a_filter_takes_what_docker_takes() {
        let web = volume("web-data", &[("tier", "front")], true);
        let takes = |text: &str| Filter::parse(text).unwrap().takes(&web);
        for text in [
            "dangling=false",
            "dangling=0",
            "label=tier",
            "label=tier=front",
            "name=b-d",
        ] {
            assert!(takes(text), "{text}");
        }
        for text in ["dangling=true", "label=x", "label=tier=back", "name=db"] {
            assert!(!takes(text), "{text}");
        }
        for text in ["", "dangling", "dangling=maybe", "driver=local"] {
            assert!(Filter::parse(text).is_err(), "{text}");
        }
    }
}
