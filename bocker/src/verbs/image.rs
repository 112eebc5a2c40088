//! `image VERB`: docker's other words for the verbs on images, and `image prune`.

use bocker_pipe::layout::Layout;
use bocker_pipe::{Kind, Result, containers};

use super::outcome::Outcome;
use super::{images, load, pull, push, rmi, save, tag};
use crate::session::Session;

/// Manage images
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    #[command(visible_alias = "list")]
    Ls(images::Args),
    #[command(visible_alias = "remove")]
    Rm(rmi::Args),
    Prune(Prune),
    Pull(pull::Args),
    Push(push::Args),
    Save(save::Args),
    Load(load::Args),
    Tag(tag::Args),
}

/// Remove images without a name that no container uses
#[derive(Debug, clap::Args)]
pub(crate) struct Prune {
    /// Remove images with a name too
    #[arg(short, long)]
    all: bool,
    /// Accepted for those used to it: nothing is asked
    #[arg(short, long)]
    force: bool,
}

pub(crate) fn run(session: &Session, verb: &Verb) -> Result<u8> {
    match verb {
        Verb::Ls(args) => images::run(session, args),
        Verb::Rm(args) => rmi::run(session, args),
        Verb::Prune(args) => prune(session, args),
        Verb::Pull(args) => pull::run(session, args),
        Verb::Push(args) => push::run(session, args),
        Verb::Save(args) => save::run(session, args),
        Verb::Load(args) => load::run(session, args),
        Verb::Tag(args) => tag::run(session, args),
    }
}

fn prune(session: &Session, args: &Prune) -> Result<u8> {
    let mut images = Layout::open().images()?;
    images.retain(|image| args.all || image.reference.is_none());
    let mut worst = Outcome::Done;
    for image in images {
        if !containers::of_image(image.digest.as_str())?.is_empty() {
            continue;
        }
        let name = image.reference.unwrap_or_else(|| image.id.to_string());
        match rmi::remove(session, &name, false) {
            Ok(outcome) => worst = worst.max(outcome),
            // Somebody else was faster, or has begun to use it.
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::InUse) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(worst.exit_code())
}
