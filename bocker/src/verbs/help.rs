//! `help [VERB]`, as the original showed it: a block for each verb, what it does and how it is typed.

use bocker_pipe::{Error, Kind, Result};

use crate::cli;
use crate::session::say;

/// Print this, or the page of a verb
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// The verb
    verb: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<u8> {
    let Some(verb) = &args.verb else {
        return say(page().trim_end()).map(|()| 0);
    };
    let mut command = cli::command();
    let Some(page) = command.find_subcommand_mut(verb) else {
        return Err(
            Error::new(Kind::Usage, format!("there is no verb '{verb}'")).hint("see 'bocker help'"),
        );
    };
    say(page.render_help().to_string().trim_end()).map(|()| 0)
}

/// `version`
pub(crate) fn version() -> Result<u8> {
    say(&format!("bocker {}", env!("CARGO_PKG_VERSION"))).map(|()| 0)
}

/// A block for each verb, then the leading options.
pub(crate) fn page() -> String {
    let mut command = cli::command();
    let mut text = String::new();
    for verb in command
        .get_subcommands_mut()
        .filter(|verb| !verb.is_hide_set())
    {
        let about = verb
            .get_about()
            .map(ToString::to_string)
            .unwrap_or_default();
        let usage = verb.render_usage().to_string();
        let usage = usage
            .trim_start_matches("Usage: ")
            .replace(" [OPTIONS]", "")
            .replace(
                "
       ", "
	",
            );
        text.push_str(&format!("{about}:\n\t{usage}\n\n"));
    }
    text.push_str("Run 'bocker-frob' from PATH:\n\tbocker frob\n\nBefore the verb:\n");
    for option in command.get_arguments() {
        let help = option
            .get_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        let value = option
            .get_value_names()
            .filter(|_| option.get_action().takes_values());
        let value = value
            .and_then(|names| names.first())
            .map(|name| format!("={name}"))
            .unwrap_or_default();
        let name = match (option.get_short(), option.get_long()) {
            (Some(short), Some(long)) => format!("-{short}, --{long}"),
            (Some(short), None) => format!("-{short}"),
            (None, long) => format!("--{}", long.unwrap_or_default()),
        };
        text.push_str(&format!("\t{:<22}  {help}\n", name + &value));
    }
    text
}
