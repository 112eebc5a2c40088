//! `system`: what concerns the machine and the whole store rather than one container.

use std::io::{self, BufRead, IsTerminal, Write};

use bocker_pipe::error::EXIT_FAILED;
use bocker_pipe::{Doing, Error, Id, Kind, Result, containers, paths};
use serde_json::{Map, Value, json};

use super::outcome::each;
use super::stop::How;
use super::{df, image, network, rm, volume};
use crate::container;
use crate::pipeline::Pipeline;
use crate::session::{Session, say};
use crate::tools::Piece;

/// Those with a `gc`, in the order in which what is made by one may stand on what is made by the next.
const COLLECTORS: [Piece; 5] = [
    Piece::Spawn,
    Piece::Cg,
    Piece::Net,
    Piece::Snap,
    Piece::Pull,
];
/// Those with an `info`.
const INFORMERS: [Piece; 3] = [Piece::Snap, Piece::Net, Piece::Cg];

/// Look after what all containers share
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    Df(df::Args),
    /// Remove what dead containers have left, the containers that have ended or never began, networks that none uses, and images
    /// that have lost their names
    Prune(Prune),
    /// Print what the tools found on this machine, as JSON
    Info,
    /// Remove every container, image, volume and network, and what all containers share
    Reset(Force),
    /// Make what all containers share, which the first one makes otherwise
    Setup(Setup),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Setup {
    /// Make a pool of at most SIZE (as 20g) for images and containers, where snapshots are made; or let it grow to SIZE
    #[arg(long, value_name = "SIZE")]
    btrfs: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Prune {
    /// Remove every image that no container is made of
    #[arg(short, long)]
    all: bool,
    /// Remove the volumes too that no container uses and nobody named
    #[arg(long)]
    volumes: bool,
    /// Only list it
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    force: Force,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Force {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

pub(crate) fn run(session: &Session, verb: &Verb) -> Result<u8> {
    match verb {
        Verb::Df(args) => df::run(session, args),
        Verb::Prune(args) => prune(session, args),
        Verb::Info => info(session),
        Verb::Reset(force) => reset(session, force),
        Verb::Setup(args) => setup(session, args),
    }
}

/// Makes what every root shares, and first the place of this one's images and containers.
fn setup(session: &Session, args: &Setup) -> Result<u8> {
    let mut pool = session.tool(Piece::Snap, "setup")?;
    if let Some(size) = &args.btrfs {
        pool = pool.args(["--btrfs", size]);
    }
    let mut code = session.run(&Pipeline::new([pool]))?;
    if code != 0 {
        return Ok(code);
    }
    for piece in [Piece::Cg, Piece::Net] {
        code = code.max(session.run(&Pipeline::new([session.tool(piece, "setup")?]))?);
    }
    Ok(code)
}

/// Lists first, asks, and removes nothing that was not on the list: what has come or become garbage since stays.
fn prune(session: &Session, args: &Prune) -> Result<u8> {
    let mut leftovers = Vec::new();
    for piece in COLLECTORS {
        let stage = session.tool(piece, "gc")?.arg("--dry-run");
        let mut lines = session.read(&stage)?;
        // What lives and cannot be ended, as was said, loses nothing.
        let unended = session.unended.borrow();
        lines.retain(|line| !unended.iter().any(|id| line["id"] == id.as_str()));
        for line in &lines {
            say(&format!("{}: {}", piece.stage(), leftover(line)))?;
        }
        if !lines.is_empty() {
            leftovers.push((piece, lines));
        }
    }
    let (dead, others): (Vec<_>, Vec<_>) = container::all(session)?
        .into_iter()
        .partition(container::Container::is_over);
    super::container::show(&dead)?;
    let images = image::unused(session, &others, |image| {
        args.all || image.has_lost_its_name()
    })?;
    image::show(&images)?;
    let volumes = match args.volumes {
        true => volume::anonymous(session)?,
        false => Vec::new(),
    };
    let going: Vec<Id> = dead.iter().map(|container| container.id.clone()).collect();
    let networks = network::unused(session, &going)?;
    let is_clean = leftovers.is_empty()
        && dead.is_empty()
        && images.is_empty()
        && volumes.is_empty()
        && networks.is_empty();
    if args.dry_run || is_clean {
        return Ok(0);
    }
    args.force.confirm("Remove all of this?")?;
    let mut code = 0;
    for (piece, lines) in leftovers {
        let gc = session.tool(piece, "gc")?.arg("--listed");
        let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
        let pipeline = Pipeline {
            document: Some(lines.join("\n")),
            ..Pipeline::new([gc]).discarded()
        };
        if session.run(&pipeline)? != 0 {
            code = EXIT_FAILED;
        }
    }
    code = code.max(super::container::remove(session, &going)?);
    code = code.max(image::remove(session, &images)?);
    code = code.max(network::remove_unused(session, &networks)?);
    Ok(code.max(volume::remove_anonymous(session, &volumes)?))
}

fn remove_all(session: &Session, ids: &[String], force: bool) -> Result<u8> {
    let how = force.then(|| How::forced(None));
    let worst = each(ids, |id| {
        rm::remove(session, &Id::parse(id)?, id, how.as_ref(), true)
    })?;
    Ok(worst.exit_code())
}

/// What is left of one thing: its id or name, and the objects.
fn leftover(line: &Value) -> String {
    let Some(members) = line.as_object() else {
        return line.to_string();
    };
    let parts = members
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "removed" | "root"))
        .map(|(name, value)| match value {
            Value::String(text) if name == "id" => text.clone(),
            Value::String(text) => format!("{name}={text}"),
            other => format!("{name}={other}"),
        });
    crate::table::visible(&parts.collect::<Vec<_>>().join("  "))
}

/// Runs each tool's `gc`.
fn collect(session: &Session, pieces: &[Piece], options: &[&str]) -> Result<u8> {
    let mut code = 0;
    for piece in pieces {
        let stage = session.tool(*piece, "gc")?.args(options);
        if session.run(&Pipeline::new([stage]).discarded())? != 0 {
            code = EXIT_FAILED;
        }
    }
    Ok(code)
}

/// Kills and removes all that is of this BOCKER_ROOT, then what every root shares.
fn reset(session: &Session, force: &Force) -> Result<u8> {
    if !session.dry_run {
        force.confirm(&format!(
            "Remove every container, image, volume and network in {}, and what all containers share?",
            paths::root().display()
        ))?;
    }
    let ids: Vec<String> = containers::list()?.iter().map(Id::to_string).collect();
    let mut code = remove_all(session, &ids, true)?;
    let makers = [Piece::Spawn, Piece::Cg, Piece::Net, Piece::Snap];
    code = code.max(collect(session, &makers, &["--grace", "0", "--force"])?);
    code = code.max(network::remove_all_unused(session)?);
    for piece in [Piece::Snap, Piece::Cg, Piece::Net] {
        let status = session.run(&Pipeline::new([session.tool(piece, "reset")?]).discarded())?;
        code = code.max(status);
    }
    Ok(code)
}

impl Force {
    /// Whether nobody is to be asked.
    pub(crate) fn is_given(&self) -> bool {
        self.force
    }

    /// Asks on a terminal; without one nothing is removed unasked.
    pub(crate) fn confirm(&self, question: &str) -> Result<()> {
        if self.force {
            return Ok(());
        }
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Err(
                Error::new(Kind::Usage, "nothing is removed without being asked for")
                    .hint("say so with --force"),
            );
        }
        let mut stderr = io::stderr();
        write!(stderr, "{question} [y/N] ").doing(|| "ask".into())?;
        let mut answer = String::new();
        stdin
            .lock()
            .read_line(&mut answer)
            .doing(|| "read the answer".into())?;
        match answer.trim() {
            "y" | "Y" | "yes" => Ok(()),
            _ => Err(Error::new(Kind::Usage, "nothing was removed")),
        }
    }
}

fn info(session: &Session) -> Result<u8> {
    let mut all = Map::new();
    all.insert(
        "bocker".into(),
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "root": paths::root(),
            "containers": containers::list()?.len(),
        }),
    );
    for piece in INFORMERS {
        let stage = session.tool(piece, "info")?;
        let mut lines: Vec<Value> = session.read(&stage)?;
        let value = match lines.len() {
            1 => lines.remove(0),
            _ => Value::Array(lines),
        };
        all.insert(piece.stage().into(), value);
    }
    say(&format!("{:#}", Value::Object(all))).map(|()| 0)
}
