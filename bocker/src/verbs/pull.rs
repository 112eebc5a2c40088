//! `pull REF`, and the original's `pull NAME TAG`.

use bocker_pipe::Result;

use crate::image;
use crate::session::Session;

/// Pull an image from a registry
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// [REGISTRY/]NAME[:TAG|@DIGEST]
    name: String,
    /// The tag, apart from the name
    tag: Option<String>,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let reference = match &args.tag {
        Some(tag) => format!("{}:{tag}", args.name),
        None => args.name.clone(),
    };
    let mut pipeline = image::pull(session, &reference)?;
    pipeline.stages.push(
        session
            .own_stage("format")
            .arg("Created: {{.bocker.image.id}}"),
    );
    session.run(&pipeline)
}
