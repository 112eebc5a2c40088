//! `login [REGISTRY] -u USER --password-stdin` and `logout [REGISTRY]`.

use bocker_pipe::Result;

use crate::session::Session;
use crate::tools::Piece;

/// Log in to a registry
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// HOST[:PORT] (docker.io)
    registry: Option<String>,
    /// The user
    #[arg(short, long)]
    username: String,
    /// Read the password from stdin
    #[arg(long, required = true)]
    password_stdin: bool,
    /// Without TLS
    #[arg(long)]
    plain_http: bool,
}

/// Log out from a registry
#[derive(Debug, clap::Args)]
pub(crate) struct OutArgs {
    /// HOST[:PORT] (docker.io)
    registry: Option<String>,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let stage = session
        .tool(Piece::Pull, "login")?
        .option("-u", Some(&args.username))
        .flag("--password-stdin", args.password_stdin)
        .flag("--plain-http", args.plain_http)
        .args(args.registry.as_ref());
    session.become_stage(&stage)
}

pub(crate) fn out(session: &Session, args: &OutArgs) -> Result<u8> {
    let stage = session.tool(Piece::Pull, "logout")?;
    session.become_stage(&stage.args(args.registry.as_ref()))
}
