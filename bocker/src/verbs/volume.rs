//! `volume`: directories that outlive containers.

use bocker_pipe::Result;
use serde::Deserialize;
use serde_json::{Value, json};

use super::objects;
use super::system::Force;
use crate::pipeline::{Pipeline, Stage};
use crate::session::Session;
use crate::table::{Format, List};
use crate::time;
use crate::tools::Piece;

/// What it is called in the list of what is removed.
const KIND: &str = "volume";

/// Look after volumes, which outlive containers
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Make a volume, unless it is there, and print its name
    Create(Create),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Print volumes as JSON
    Inspect(Inspect),
    /// Remove volumes that no container uses
    Rm(Rm),
    /// Remove the volumes that no container uses and nobody named
    Prune(Prune),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Its name (default: one that no other has)
    name: Option<String>,
    /// Set a label, as NAME=VALUE
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    label: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Ls {
    /// List only some: dangling=true, label=NAME[=VALUE], name=PART
    #[arg(short, long)]
    filter: Vec<String>,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    /// Names
    #[arg(required = true)]
    names: Vec<String>,
    /// Print each by a template, as '{{.Mountpoint}}'
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Rm {
    /// Names
    #[arg(required = true)]
    names: Vec<String>,
    /// One that is not there is no error
    #[arg(short, long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Prune {
    /// Those that somebody named too
    #[arg(short, long)]
    all: bool,
    /// Only some: label=NAME[=VALUE], name=PART
    #[arg(long)]
    filter: Vec<String>,
    /// Only list them
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    force: Force,
}

/// One line of `bocker-snap volume ls`, as far as it is read here.
#[derive(Debug, Deserialize)]
struct Volume {
    name: String,
    mountpoint: String,
    created: String,
    labels: Value,
    anonymous: bool,
    used_by: Vec<String>,
}

impl Volume {
    /// What lists and templates show, under docker's names.
    fn record(&self) -> Value {
        json!({
            // What is printed of anything under -q.
            "ID": self.name,
            "Name": self.name,
            "Driver": "local",
            "Scope": "local",
            "Mountpoint": self.mountpoint,
            "CreatedAt": self.created,
            "CreatedSince": time::since(&self.created).map(|since| format!("{since} ago")),
            "Labels": self.labels,
            "Anonymous": self.anonymous,
            "UsedBy": self.used_by.join(" "),
            "Links": self.used_by.len(),
        })
    }

    /// What `inspect` prints, as docker does, and who uses it.
    fn described(&self) -> Value {
        json!({
            "Name": self.name,
            "Driver": "local",
            "Scope": "local",
            "Mountpoint": self.mountpoint,
            "CreatedAt": self.created,
            "Labels": self.labels,
            "Options": null,
            "Anonymous": self.anonymous,
            "UsedBy": self.used_by,
        })
    }
}

pub(crate) fn run(session: &Session, verb: &Verb) -> Result<u8> {
    match verb {
        Verb::Create(args) => create(session, args),
        Verb::Ls(args) => ls(session, args),
        Verb::Inspect(args) => inspect(session, args),
        Verb::Rm(args) => rm(session, args),
        Verb::Prune(args) => prune(session, args),
    }
}

fn stage(session: &Session, verb: &str) -> Result<Stage> {
    let stage = session.tool(Piece::Snap, "volume")?;
    Ok(stage.arg(verb))
}

fn create(session: &Session, args: &Create) -> Result<u8> {
    let stage = stage(session, "create")?.options("--label", &args.label);
    let stage = match &args.name {
        Some(name) => stage.args(["--", name]),
        None => stage,
    };
    session.run(&Pipeline::new([
        stage,
        session.own_stage("format").arg("{{.name}}"),
    ]))
}

fn ls(session: &Session, args: &Ls) -> Result<u8> {
    let stage = stage(session, "ls")?.options("--filter", &args.filter);
    let (volumes, lines) = objects::read::<Volume>(session, &stage)?;
    let list = List {
        columns: &[
            ("VOLUME_NAME", "Name"),
            ("USED_BY", "UsedBy"),
            ("CREATED", "CreatedSince"),
            ("MOUNTPOINT", "Mountpoint"),
        ],
        rows: volumes.iter().map(Volume::record).collect(),
        lines,
    };
    list.print(&args.format)
}

fn inspect(session: &Session, args: &Inspect) -> Result<u8> {
    let stage = stage(session, "inspect")?;
    let format = args.format.as_deref();
    objects::inspect(session, &stage, &args.names, format, Volume::described)
}

/// One of them as docker tells it, if it is there.
pub(crate) fn describe(session: &Session, name: &str) -> Result<Option<Value>> {
    objects::describe(
        session,
        &stage(session, "inspect")?,
        name,
        Volume::described,
    )
}

fn rm(session: &Session, args: &Rm) -> Result<u8> {
    let stage = stage(session, "rm")?.flag("--force", args.force);
    objects::remove(session, &stage, &args.names)
}

/// Lists first, asks, and removes none that was not on the list.
fn prune(session: &Session, args: &Prune) -> Result<u8> {
    let prune = stage(session, "prune")?
        .flag("--all", args.all)
        .options("--filter", &args.filter);
    let names = objects::unused(session, &prune, KIND)?;
    if args.dry_run || names.is_empty() {
        return Ok(0);
    }
    args.force
        .confirm("Remove these volumes, and all that they hold?")?;
    objects::prune(session, prune, &names)
}

/// Those that nobody uses and nobody named.
pub(crate) fn anonymous(session: &Session) -> Result<Vec<String>> {
    objects::unused(session, &stage(session, "prune")?, KIND)
}

/// Removes those of them that are still such.
pub(crate) fn remove_anonymous(session: &Session, names: &[String]) -> Result<u8> {
    objects::prune(session, stage(session, "prune")?, names)
}
