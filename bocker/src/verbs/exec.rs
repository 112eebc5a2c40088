//! `exec`: another process in a running container.

use std::ffi::OsString;

use bocker_pipe::{Error, Kind, Result, lock};

use super::chosen;
use super::kill::not_running;
use super::run::refuse_half_a_terminal;
use crate::container;
use crate::session::Session;
use crate::tools::Piece;

/// Run a command in a running container
#[derive(Debug, clap::Args)]
#[command(override_usage = "bocker exec [OPTIONS] CONTAINER COMMAND [ARG]...")]
pub(crate) struct Args {
    /// Return when the command is executed, and leave it running
    #[arg(short, long)]
    detach: bool,
    /// Give the command every capability
    #[arg(long)]
    privileged: bool,
    /// Leave the command's terminal by these keys (default ctrl-p,ctrl-q)
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Hand stdin to the command
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Set a variable, as NAME=VALUE, or NAME to hand on the caller's
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<OsString>,
    /// Set the variables of a file, a NAME=VALUE each line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<OsString>,
    /// The working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<OsString>,
    /// The user, as USER[:GROUP], by name or number
    #[arg(short, long)]
    user: Option<String>,
    /// In the one made last: no container is named before the command
    #[arg(short, long)]
    latest: bool,
    /// Id or name, the command, and its own arguments
    #[arg(required = true, num_args = 1.., trailing_var_arg = true, value_name = "CONTAINER")]
    words: Vec<OsString>,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let (name, command) = match args.words.split_first() {
        _ if args.latest => (chosen::latest(session)?, args.words.as_slice()),
        Some((name, command)) if !command.is_empty() => {
            (name.to_string_lossy().into_owned(), command)
        }
        _ => {
            return Err(
                Error::new(Kind::Usage, "no command is given").hint("see 'bocker help exec'")
            );
        }
    };
    refuse_half_a_terminal(args.interactive && !args.detach, args.tty)?;
    let (id, _) = container::find(&name)?;
    if !lock::is_alive(&id) {
        return Err(not_running(&name));
    }
    let stage = session
        .stage(Piece::Spawn, "exec")?
        .flag("--detach", args.detach)
        .flag("--privileged", args.privileged)
        .option("--detach-keys", args.detach_keys.as_ref())
        .flag("--interactive", args.interactive)
        .flag("--tty", args.tty)
        .options("--env-file", &args.env_file)
        .options("--env", &args.env)
        .option("--workdir", args.workdir.as_ref())
        .option("--user", args.user.as_ref())
        .arg(id.as_str())
        .arg("--")
        .args(command);
    session.become_stage(&stage)
}
