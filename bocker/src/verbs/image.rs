//! `image VERB`: docker's other words for the verbs on images, and `image prune`. Which images nobody uses is found out here, for
//! `system prune` too.

use bocker_pipe::Result;
use serde::Deserialize;
use serde_json::Value;

use super::outcome::{Outcome, each};
use super::system::Force;
use super::{exists, history, image_inspect, images, import, load, pull, push, rmi, save, tag};
use crate::container::{self, Container};
use crate::session::{Session, not_understood, say};
use crate::table::visible;
use crate::tools::Piece;

/// What 'bocker-pull list' shows where there is neither a name nor anything that the image was made of.
const NAMELESS: &str = "<none>";

/// Manage images
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    #[command(visible_alias = "list")]
    Ls(images::Args),
    #[command(visible_alias = "remove")]
    Rm(rmi::Args),
    Inspect(image_inspect::Args),
    Exists(exists::Args),
    History(history::Args),
    Import(import::Args),
    Prune(Prune),
    Pull(pull::Args),
    Push(push::Args),
    Save(save::Args),
    Load(load::Args),
    Tag(tag::Args),
}

/// Remove images without a name that no container is made of
#[derive(Debug, clap::Args)]
pub(crate) struct Prune {
    /// Those that have a name too
    #[arg(short, long)]
    all: bool,
    /// Only list them
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    force: Force,
}

/// One line of `bocker-pull list`, as far as it is read here.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Image {
    id: String,
    reference: Option<String>,
    source: String,
    digest: String,
}

pub(crate) fn run(session: &Session, verb: &Verb) -> Result<u8> {
    match verb {
        Verb::Ls(args) => images::run(session, args),
        Verb::Rm(args) => rmi::run(session, args),
        Verb::Inspect(args) => image_inspect::run(session, args),
        Verb::Exists(args) => exists::image(args),
        Verb::History(args) => history::run(session, args),
        Verb::Import(args) => import::run(session, args),
        Verb::Prune(args) => prune(session, args),
        Verb::Pull(args) => pull::run(session, args),
        Verb::Push(args) => push::run(session, args),
        Verb::Save(args) => save::run(session, args),
        Verb::Load(args) => load::run(session, args),
        Verb::Tag(args) => tag::run(session, args),
    }
}

fn prune(session: &Session, args: &Prune) -> Result<u8> {
    let containers = container::all(session)?;
    let images = unused(session, &containers, |image| {
        args.all || image.reference.is_none()
    })?;
    if args.dry_run {
        return show(&images).map(|()| 0);
    }
    if !session.dry_run && !images.is_empty() && !args.force.is_given() {
        show(&images)?;
        args.force.confirm("Remove all of these?")?;
    }
    remove(session, &images)
}

/// Images of this kind of which none of these containers is made.
pub(crate) fn unused(
    session: &Session,
    containers: &[Container],
    is_meant: impl Fn(&Image) -> bool,
) -> Result<Vec<Image>> {
    let mut images = list(session)?;
    let is_used = |image: &Image| {
        let is_its = |container: &Container| {
            let says = |member: &str| container.document.value(member).and_then(Value::as_str);
            says("/bocker/image/digest") == Some(&image.digest)
                || says("/bocker/image/id") == Some(&image.id)
        };
        containers.iter().any(is_its)
    };
    images.retain(|image| is_meant(image) && !is_used(image));
    Ok(images)
}

impl Image {
    /// Whether it has lost its name to another. What was made of a directory may never have had one, and is somebody's all the same.
    pub(crate) fn has_lost_its_name(&self) -> bool {
        self.source == NAMELESS
    }
}

fn list(session: &Session) -> Result<Vec<Image>> {
    let stage = session.tool(Piece::Pull, "list")?;
    let lines = session.read(&stage)?;
    lines
        .iter()
        .map(Image::deserialize)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| not_understood(&stage, &error))
}

/// Says what they are.
pub(crate) fn show(images: &[Image]) -> Result<()> {
    images
        .iter()
        .try_for_each(|image| say(&format!("image: {}  {}", image.id, visible(&image.source))))
}

/// Removes those that are still what they were when they were listed.
pub(crate) fn remove(session: &Session, images: &[Image]) -> Result<u8> {
    let mut worst = Outcome::Done;
    for image in images {
        if !list(session)?.contains(image) {
            continue;
        }
        let name = image.reference.as_ref().unwrap_or(&image.id).clone();
        worst = worst.max(each(&[name], |name| rmi::remove(session, name, false))?);
    }
    Ok(worst.exit_code())
}
