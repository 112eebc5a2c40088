//! `pull REF`, and the original's `pull NAME TAG`.

use bocker_pipe::Result;

use crate::image;
use crate::session::Session;
use crate::tools::Piece;

/// Pull an image from a registry
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// [REGISTRY/]NAME[:TAG|@DIGEST]
    name: String,
    /// The tag, apart from the name
    tag: Option<String>,
    /// OS/ARCH[/VARIANT], if not the host's
    #[arg(long)]
    platform: Option<String>,
    /// Ask there before the registry
    #[arg(long, value_name = "ADDRESS")]
    mirror: Vec<String>,
    /// Without TLS
    #[arg(long)]
    plain_http: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let reference = match &args.tag {
        Some(tag) => format!("{}:{tag}", args.name),
        None => args.name.clone(),
    };
    let stage = session
        .stage(Piece::Pull, "pull")?
        .option("--platform", args.platform.as_ref())
        .options("--mirror", &args.mirror)
        .flag("--plain-http", args.plain_http)
        .flag("--quiet", args.quiet)
        .arg(reference);
    let mut pipeline = image::fetch(session, stage)?;
    pipeline.stages.push(
        session
            .own_stage("format")
            .arg("Created: {{.bocker.image.id}}"),
    );
    session.run(&pipeline)
}
