//! `push IMAGE [REF]`: an image to a registry.

use bocker_pipe::Result;

use crate::pipeline::Pipeline;
use crate::session::Session;
use crate::tools::Piece;

/// Push an image to a registry
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The image: id, unique beginning of it, or name
    image: String,
    /// Where to push it: [REGISTRY/]NAME[:TAG]; to where its name says if left out
    target: Option<String>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// How progress is shown: auto, plain, json or quiet
    #[arg(long, value_name = "HOW")]
    progress: Option<String>,
    /// Speak HTTP without TLS
    #[arg(long)]
    plain_http: bool,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let stage = session
        .tool(Piece::Pull, "push")?
        .flag("--quiet", args.quiet)
        .option("--progress", args.progress.as_ref())
        .flag("--plain-http", args.plain_http)
        .arg("--")
        .arg(&args.image)
        .args(&args.target);
    session.run(&Pipeline::new([
        stage,
        session
            .own_stage("format")
            .arg("{{.tag}}: digest: {{.digest}} size: {{.size}}"),
    ]))
}
