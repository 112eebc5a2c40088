//! `commit PS [IMAGE]`: what a container has become, as an image. The original wanted the image to exist; here it may.

use bocker_pipe::{Id, Result, lock};

use crate::container;
use crate::pipeline::{Pipeline, Stage};
use crate::session::Session;
use crate::tools::Piece;

/// The original's words: an image that is there has its content replaced at once, and keeps its id and names.
const SAID: &str = "{{if .replaced}}Removed: {{.id}}\\n{{end}}Created: {{.id}}";

/// Make an image of a container
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The container: id or name
    container: String,
    /// The image to replace, by id or name, or the name of a new one
    image: Option<String>,
    /// Say who made the image
    #[arg(short, long, value_name = "NAME")]
    author: Option<String>,
    #[command(flatten)]
    provenance: Provenance,
    /// Let a running container stand still meanwhile; with false its files may be of several moments
    #[arg(short, long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true")]
    pause: bool,
}

/// What is said of how an image came about.
#[derive(Debug, clap::Args)]
pub(crate) struct Provenance {
    /// Apply an instruction of a Dockerfile to the image, as 'CMD ["sh"]' or 'ENV A=1'
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Say what was done, in the image's history
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
}

impl Provenance {
    /// Hands it to a stage.
    pub(crate) fn of(&self, stage: Stage) -> Stage {
        stage
            .options("--change", &self.change)
            .option("--message", self.message.as_ref())
    }
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let (id, _) = container::find(&args.container)?;
    let stage = session
        .tool(Piece::Snap, "commit")?
        .option("--author", args.author.as_ref());
    let commit = args
        .provenance
        .of(stage)
        .arg(id.as_str())
        .args(args.image.as_ref());
    let stage = match args.pause && lock::is_alive(&id) {
        true => standing_still(session, &id, commit)?,
        false => commit,
    };
    session.run(&Pipeline::new([
        stage,
        session.own_stage("format").arg(SAID),
    ]))
}

/// The same stage, while the container stands still.
fn standing_still(session: &Session, id: &Id, stage: Stage) -> Result<Stage> {
    Ok(session
        .tool(Piece::Cg, "freeze")?
        .arg(id.as_str())
        .arg("--")
        .arg(stage.program.shown())
        .args(stage.args))
}
