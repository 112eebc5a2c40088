//! `pull REF`, and the original's `pull NAME TAG`.

use std::ffi::OsString;

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
    /// How progress is shown: auto, plain, json or quiet
    #[arg(long, value_name = "HOW")]
    progress: Option<String>,
    /// Run PROGRAM with the reference and its digest; pull only if it exits with 0
    #[arg(long, value_name = "PROGRAM")]
    verify: Option<OsString>,
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
        .option("--progress", args.progress.as_ref())
        .option("--verify", args.verify.as_ref())
        .arg(reference);
    let mut pipeline = image::fetch(session, stage)?;
    pipeline.stages.push(
        session
            .own_stage("format")
            .arg("Created: {{.bocker.image.id}}"),
    );
    session.run(&pipeline)
}
