//! `login [REGISTRY] [-u USER] [--password-stdin]` and `logout [REGISTRY]`.

use bocker_pipe::Result;

use crate::session::Session;
use crate::tools::Piece;

/// Log in to a registry
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// HOST[:PORT] (docker.io)
    registry: Option<String>,
    /// The user; who is not named is asked for at the terminal
    #[arg(short, long)]
    username: Option<String>,
    /// Read the password from stdin instead of asking for it
    #[arg(long, requires = "username")]
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
        .option("-u", args.username.as_ref())
        .flag("--password-stdin", args.password_stdin)
        .flag("--plain-http", args.plain_http)
        .args(args.registry.as_ref());
    session.become_stage(&stage)
}

pub(crate) fn out(session: &Session, args: &OutArgs) -> Result<u8> {
    let stage = session.tool(Piece::Pull, "logout")?;
    session.become_stage(&stage.args(args.registry.as_ref()))
}
