//! `network`: networks that people make, beside the one that is there.

use std::collections::BTreeMap;

use bocker_pipe::{Error, Id, Kind, Result, containers};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::objects;
use super::system::Force;
use crate::pipeline::{Pipeline, Stage};
use crate::session::Session;
use crate::table::{Format, List};
use crate::time;
use crate::tools::Piece;

/// What it is called in the list of what is removed.
const KIND: &str = "network";
/// The one that is there for all that name no other.
const DEFAULT: &str = "bridge";
/// The only kind of networks that there is, in docker's word.
const DRIVER: &str = "bridge";
/// docker's own names for what bocker-net has options for.
const OPTION_MTU: &str = "com.docker.network.driver.mtu";
const OPTION_ICC: &str = "com.docker.network.bridge.enable_icc";

/// Look after networks: who is on one finds the others on it, and nobody else does
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Make a network, and print its id
    Create(Box<Create>),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Print networks as JSON
    Inspect(Inspect),
    /// Remove networks that no container uses
    #[command(visible_alias = "remove")]
    Rm(Rm),
    /// Remove the networks that no container uses
    Prune(Prune),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Its name
    name: String,
    /// Its addresses, as 10.1.0.0/24 or fd00:1::/64 (default: some that nobody uses)
    #[arg(long, value_name = "SUBNET")]
    subnet: Vec<String>,
    /// The address of its bridge (default: the first of the subnet)
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<String>,
    /// Choose addresses from this part of the subnet
    #[arg(long, value_name = "SUBNET")]
    ip_range: Vec<String>,
    /// Nothing leads out of it, nor into it
    #[arg(long)]
    internal: bool,
    /// Give addresses of IPv6 too
    #[arg(long)]
    ipv6: bool,
    /// Those on it do not reach each other
    #[arg(long)]
    isolated: bool,
    /// The largest packet, in bytes
    #[arg(long, value_name = "N")]
    mtu: Option<String>,
    /// Set a label, as NAME=VALUE
    #[arg(long, value_name = "NAME[=VALUE]")]
    label: Vec<String>,
    /// bridge, which is all there is
    #[arg(short, long, value_name = "DRIVER", default_value = DRIVER)]
    driver: String,
    /// docker's names of --mtu and --isolated: com.docker.network.driver.mtu=N,
    /// com.docker.network.bridge.enable_icc=false
    #[arg(short, long = "opt", value_name = "NAME=VALUE")]
    options: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Ls {
    /// List only some: dangling=true, driver=bridge, id=PART, label=NAME[=VALUE], name=PART, type=custom
    #[arg(short, long)]
    filter: Vec<String>,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    /// Names or ids
    #[arg(required = true)]
    names: Vec<String>,
    /// Print each by a template, as '{{.Id}}'
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Rm {
    /// Names or ids
    #[arg(required = true)]
    names: Vec<String>,
    /// One that is not there is no error
    #[arg(short, long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Prune {
    /// Only some: label=NAME[=VALUE], name=PART
    #[arg(long)]
    filter: Vec<String>,
    /// Only list them
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    force: Force,
}

/// A subnet of one.
#[derive(Debug, Deserialize)]
struct Range {
    subnet: String,
    gateway: String,
    range: Option<String>,
}

/// One line of `bocker-net network list`, as far as it is read here.
#[derive(Debug, Deserialize)]
struct Network {
    name: String,
    id: String,
    bridge: String,
    subnets: Vec<Range>,
    internal: bool,
    isolated: bool,
    mtu: Option<u32>,
    labels: Value,
    created: String,
    containers: BTreeMap<String, Vec<String>>,
    used_by: Vec<String>,
}

impl Network {
    fn has_ipv6(&self) -> bool {
        self.subnets.iter().any(|range| range.subnet.contains(':'))
    }

    /// What lists and templates show, under docker's names.
    fn record(&self) -> Value {
        let subnets: Vec<&str> = self.subnets.iter().map(|range| &*range.subnet).collect();
        json!({
            "ID": self.id,
            "Name": self.name,
            "Driver": DRIVER,
            "Scope": "local",
            "IPv6": self.has_ipv6(),
            "Internal": self.internal,
            "Isolated": self.isolated,
            "Labels": self.labels,
            "CreatedAt": self.created,
            "CreatedSince": time::since(&self.created).map(|since| format!("{since} ago")),
            "Subnets": subnets.join(" "),
            "UsedBy": self.used_by.join(" "),
        })
    }

    /// What `inspect` prints, as docker does, and who uses it.
    fn described(&self) -> Value {
        let config = self.subnets.iter().map(|range| {
            let mut config = Map::new();
            config.insert("Subnet".into(), range.subnet.as_str().into());
            if let Some(part) = &range.range {
                config.insert("IPRange".into(), part.as_str().into());
            }
            config.insert("Gateway".into(), range.gateway.as_str().into());
            Value::Object(config)
        });
        let containers = self.containers.iter().map(|(id, addresses)| {
            let of = |six: bool| addresses.iter().find(|one| one.contains(':') == six);
            let described = json!({
                "Name": name_of(id),
                "IPv4Address": of(false),
                "IPv6Address": of(true),
            });
            (id.clone(), described)
        });
        let mut options = Map::new();
        options.insert(
            "com.docker.network.bridge.name".into(),
            self.bridge.as_str().into(),
        );
        if let Some(mtu) = self.mtu {
            options.insert(OPTION_MTU.into(), mtu.to_string().into());
        }
        if self.isolated {
            options.insert(OPTION_ICC.into(), "false".into());
        }
        json!({
            "Name": self.name,
            "Id": self.id,
            "Created": self.created,
            "Scope": "local",
            "Driver": DRIVER,
            "EnableIPv6": self.has_ipv6(),
            "IPAM": {"Driver": "default", "Config": config.collect::<Vec<_>>()},
            "Internal": self.internal,
            "Isolated": self.isolated,
            "Containers": Value::Object(containers.collect()),
            "Options": options,
            "Labels": self.labels,
            "UsedBy": self.used_by,
        })
    }
}

/// The name of a container, or its id where it has none.
fn name_of(id: &str) -> String {
    let name = Id::parse(id).ok().and_then(|id| {
        let document = containers::load(&id).ok()?;
        Some(document.value("/bocker/name")?.as_str()?.to_owned())
    });
    name.unwrap_or_else(|| id.to_owned())
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
    let stage = session.tool(Piece::Net, "network")?;
    Ok(stage.arg(verb))
}

fn create(session: &Session, args: &Create) -> Result<u8> {
    if args.driver != DRIVER {
        let what = format!("there is no driver '{}'", args.driver);
        return Err(Error::new(Kind::Unsupported, what).hint("leave --driver out: all are bridges"));
    }
    let (mut mtu, mut isolated) = (args.mtu.clone(), args.isolated);
    for option in &args.options {
        match option.split_once('=') {
            Some((OPTION_MTU, value)) => mtu = Some(value.to_owned()),
            Some((OPTION_ICC, value @ ("true" | "false"))) => isolated = value == "false",
            _ => {
                let what = format!("'{option}' is no option of a network");
                return Err(Error::new(Kind::Unsupported, what)
                    .hint(format!("use {OPTION_MTU}=N or {OPTION_ICC}=false")));
            }
        }
    }
    let stage = stage(session, "create")?
        .options("--subnet", &args.subnet)
        .options("--gateway", &args.gateway)
        .options("--ip-range", &args.ip_range)
        .flag("--internal", args.internal)
        .flag("--ipv6", args.ipv6)
        .flag("--isolated", isolated)
        .option("--mtu", mtu)
        .options("--label", &args.label)
        .args(["--", &args.name]);
    session.run(&Pipeline::new([
        stage,
        session.own_stage("format").arg("{{.id}}"),
    ]))
}

fn ls(session: &Session, args: &Ls) -> Result<u8> {
    let stage = stage(session, "list")?.options("--filter", &args.filter);
    let (networks, lines) = objects::read::<Network>(session, &stage)?;
    let list = List {
        columns: &[
            ("NETWORK_ID", "ID"),
            ("NAME", "Name"),
            ("DRIVER", "Driver"),
            ("SCOPE", "Scope"),
            ("SUBNETS", "Subnets"),
            ("USED_BY", "UsedBy"),
        ],
        rows: networks.iter().map(Network::record).collect(),
        lines,
    };
    list.print_all(&args.format)
}

fn inspect(session: &Session, args: &Inspect) -> Result<u8> {
    let stage = stage(session, "inspect")?;
    let format = args.format.as_deref();
    objects::inspect(session, &stage, &args.names, format, Network::described)
}

/// One of them as docker tells it, if it is there.
pub(crate) fn describe(session: &Session, name: &str) -> Result<Option<Value>> {
    objects::describe(
        session,
        &stage(session, "inspect")?,
        name,
        Network::described,
    )
}

fn rm(session: &Session, args: &Rm) -> Result<u8> {
    let stage = stage(session, "remove")?.flag("--force", args.force);
    objects::remove(session, &stage, &args.names)
}

/// Lists first, asks, and removes none that was not on the list.
fn prune(session: &Session, args: &Prune) -> Result<u8> {
    let prune = stage(session, "prune")?.options("--filter", &args.filter);
    let names = objects::unused(session, &prune, KIND)?;
    if args.dry_run || names.is_empty() {
        return Ok(0);
    }
    args.force.confirm("Remove these networks?")?;
    objects::prune(session, prune, &names)
}

/// Those that nobody uses but containers which are about to go.
pub(crate) fn unused(session: &Session, going: &[Id]) -> Result<Vec<String>> {
    let (networks, _) = objects::read::<Network>(session, &stage(session, "list")?)?;
    let goes = |id: &String| going.iter().any(|one| one.as_str() == id);
    let networks = networks.into_iter();
    let names = networks
        .filter(|network| network.name != DEFAULT && network.used_by.iter().all(goes))
        .map(|network| network.name)
        .collect();
    objects::listed(names, KIND)
}

/// Removes those of them that are still such.
pub(crate) fn remove_unused(session: &Session, names: &[String]) -> Result<u8> {
    objects::prune(session, stage(session, "prune")?, names)
}

/// Removes all that nobody uses, without a word.
pub(crate) fn remove_all_unused(session: &Session) -> Result<u8> {
    session.run(&Pipeline::new([stage(session, "prune")?]).discarded())
}
