//! What can be typed: the leading options, the verbs, their pages, and one line for everything mistyped.

use std::ffi::{OsStr, OsString};

use bocker_pipe::{Error, Kind};
use clap::error::ErrorKind;
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::limits;
use crate::tools::Swap;
use crate::verbs;

/// How far a mistyped verb may be from the one that is suggested, in changed characters.
const SUGGESTION_DISTANCE: usize = 2;

#[derive(Debug, Parser)]
#[command(
    name = "bocker",
    version,
    about = "Containers as a Unix pipeline",
    disable_help_subcommand = true,
    disable_help_flag = true,
    disable_version_flag = true,
    subcommand_required = false,
    args_override_self = true
)]
pub(crate) struct Cli {
    /// Print each pipeline, quoted for a shell, before running it
    #[arg(short = 'x')]
    pub(crate) trace: bool,
    /// Print the pipelines and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Have the tools print each step as its classic command
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Have the tools say of each step why it is done, and how to look at what it did
    #[arg(long)]
    pub(crate) explain: bool,
    /// Print where the time of each pipeline went, after it has ended
    #[arg(long)]
    pub(crate) timing: bool,
    /// Relative weight of new containers (default 512, also BOCKER_CPU_SHARE)
    #[arg(long = "CPU_SHARE", value_name = "N", value_parser = limits::number)]
    pub(crate) cpu_share: Option<u64>,
    /// Memory of new containers in MB of 10^6 bytes (default 512, also BOCKER_MEM_LIMIT)
    #[arg(long = "MEM_LIMIT", value_name = "N", value_parser = limits::number)]
    pub(crate) mem_limit: Option<u64>,
    /// Use another program for pull, snap, net, cg or spawn (also BOCKER_NET=PROGRAM and so on)
    #[arg(long, value_name = "PIECE=PROGRAM", value_parser = Swap::parse, action = ArgAction::Append)]
    pub(crate) with: Vec<Swap>,
    /// Print help
    #[arg(short, long)]
    pub(crate) help: bool,
    /// Print the version
    #[arg(short = 'V', long)]
    pub(crate) version: bool,
    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Pull(verbs::pull::Args),
    Push(verbs::push::Args),
    Init(verbs::init::Args),
    Images(verbs::images::Args),
    #[command(subcommand)]
    Image(verbs::image::Verb),
    Tag(verbs::tag::Args),
    Rmi(verbs::rmi::Args),
    Save(verbs::save::Args),
    Load(verbs::load::Args),
    Login(verbs::login::Args),
    Logout(verbs::login::OutArgs),
    Run(Box<verbs::run::Args>),
    Create(Box<verbs::create::Args>),
    #[command(subcommand)]
    Container(verbs::container::Verb),
    Ps(verbs::ps::Args),
    Top(verbs::top::Args),
    Port(verbs::port::Args),
    Exec(verbs::exec::Args),
    Attach(verbs::attach::Args),
    Wait(verbs::wait::Args),
    Logs(verbs::logs::Args),
    Events(verbs::events::Args),
    Commit(verbs::commit::Args),
    Diff(verbs::diff::Args),
    Cp(verbs::cp::Args),
    Export(verbs::export::Args),
    Import(verbs::import::Args),
    History(verbs::history::Args),
    Start(verbs::start::Args),
    Stop(verbs::stop::Args),
    Restart(verbs::restart::Args),
    Pause(verbs::pause::Args),
    Unpause(verbs::pause::UnpauseArgs),
    Kill(verbs::kill::Args),
    Rename(verbs::rename::Args),
    Rm(verbs::rm::Args),
    Inspect(verbs::inspect::Args),
    #[command(subcommand)]
    Network(verbs::network::Verb),
    #[command(subcommand)]
    Volume(verbs::volume::Verb),
    #[command(subcommand)]
    System(verbs::system::Verb),
    Cleanup(verbs::cleanup::Args),
    Format(verbs::format::Args),
    Help(verbs::help::Args),
    /// The same as 'system info'
    #[command(hide = true)]
    Info,
    /// Print the version
    Version,
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

/// The command with every subcommand's full name filled in.
pub(crate) fn command() -> clap::Command {
    let mut command = with_help(Cli::command());
    command.build();
    command
}

/// With `--help` after each verb, too; `-h` is the hostname after some.
fn with_help(command: clap::Command) -> clap::Command {
    let help = clap::Arg::new("help")
        .long("help")
        .help("Print this")
        .action(ArgAction::HelpShort);
    command.mut_subcommands(|verb| with_help(verb).arg(help.clone()))
}

/// What the caller asked for, or what is wrong with it, on one line.
pub(crate) fn parse(args: &[OsString]) -> Result<Cli, Refusal> {
    let cli = parse_as_typed(args)?;
    let Some(Verb::Container(verbs::container::Verb::Same(words))) = &cli.verb else {
        return Ok(cli);
    };
    let plain = verbs::container::plain(words).map_err(Refusal::Wrong)?;
    let program = args.first().cloned();
    let plain: Vec<OsString> = program.into_iter().chain(plain).collect();
    Ok(Cli {
        verb: parse_as_typed(&plain)?.verb,
        ..cli
    })
}

fn parse_as_typed(args: &[OsString]) -> Result<Cli, Refusal> {
    let matches = with_help(Cli::command()).try_get_matches_from(args);
    let cli = matches.and_then(|matches| Cli::from_arg_matches(&matches));
    cli.map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Refusal::Answer(error.to_string()),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // It is the last word that has verbs of its own.
            let group = args.last().map(|word| word.to_string_lossy());
            let group = group.unwrap_or_default();
            let what = format!("the verb after '{group}' is missing");
            Refusal::Wrong(Error::new(Kind::Usage, what).hint(format!("see 'bocker help {group}'")))
        }
        _ => Refusal::Wrong(one_line(&error)),
    })
}

/// Why there is nothing to do.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// A page was asked for.
    Answer(String),
    /// The line is wrong.
    Wrong(Error),
}

/// Clap says it in paragraphs: what, a tip, the usage, where to read more.
fn one_line(error: &clap::Error) -> Error {
    let text = error.to_string();
    let paragraphs: Vec<String> = text
        .split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let what = paragraphs.first().map_or("wrong usage", String::as_str);
    let what = what.trim_start_matches("error: ").trim_end_matches('.');
    let tip = paragraphs.iter().find_map(|p| p.strip_prefix("tip: "));
    // The first of several tips.
    let tip = tip.and_then(|tip| tip.split(" tip: ").next());
    let usage = paragraphs.iter().find_map(|p| p.strip_prefix("Usage: "));
    let verb = usage
        .and_then(|usage| usage.split(' ').nth(1))
        .filter(|word| word.bytes().all(|b| b.is_ascii_lowercase()));
    let page = match verb {
        Some(verb) => format!("see 'bocker help {verb}'"),
        None => "see 'bocker help'".into(),
    };
    let hint = match tip {
        Some(tip) => format!("{tip}; {page}"),
        None => page,
    };
    Error::new(Kind::Usage, what).hint(hint)
}

/// The error for a verb that is neither ours nor a program on PATH.
pub(crate) fn unknown_verb(verb: &OsStr) -> Error {
    let verb = verb.to_string_lossy();
    let error = Error::new(
        Kind::Usage,
        format!("there is no verb '{verb}', and no program 'bocker-{verb}' on PATH"),
    );
    let command = Cli::command();
    let nearest = command
        .get_subcommands()
        .map(|known| (distance(&verb, known.get_name()), known.get_name()))
        .min();
    match nearest {
        Some((far, name)) if far <= SUGGESTION_DISTANCE => {
            error.hint(format!("did you mean '{name}'?"))
        }
        _ => error.hint("see 'bocker help'"),
    }
}

/// The number of characters to insert, delete or replace (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.chars().count()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    fn refused(line: &str) -> String {
        match parse(&words(line)) {
            Err(Refusal::Wrong(error)) => error.to_string(),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_command_is_well_formed() {
        with_help(Cli::command()).debug_assert();
    }

    #[test]
    fn each_verb_has_a_page() {
        for line in [
            "bocker stop --help",
            "bocker network create --help",
            "bocker container ls --help",
        ] {
            let Err(Refusal::Answer(page)) = parse(&words(line)) else {
                panic!("{line}");
            };
            assert!(page.contains("Usage: bocker "), "{page}");
        }
    }

    #[test]
    fn what_is_wrong_is_one_line_that_says_where_to_read_on() {
        assert_eq!(
            refused("bocker run --nmae web img"),
            "unexpected argument '--nmae' found; a similar argument exists: '--name'; see 'bocker help run'"
        );
        assert!(
            refused("bocker --frob").contains("'--frob'"),
            "an unknown leading flag is not accepted"
        );
        assert!(refused("bocker --CPU_SHARE=1=2 run x").contains("not a whole number"));
        assert!(refused("bocker tag a").contains("<TARGET>"));
        assert!(refused("bocker system").contains("see 'bocker help system'"));
        assert!(refused("bocker volume").contains("see 'bocker help volume'"));
        assert!(refused("bocker -x image").contains("see 'bocker help image'"));
        assert!(refused("bocker images -f label=x").contains("the only filter"));
    }

    #[test]
    fn flags_of_run_stop_at_the_image() {
        let cli = parse(&words("bocker run -it --rm img ls --rm -h -- x")).unwrap();
        let Some(Verb::Run(args)) = cli.verb else {
            panic!()
        };
        assert!(args.interactive && args.tty && args.rm);
        assert_eq!(args.words, ["img", "ls", "--rm", "-h", "--", "x"]);
    }

    #[test]
    fn in_run_h_is_the_hostname() {
        let cli = parse(&words("bocker run -h box img")).unwrap();
        let Some(Verb::Run(args)) = cli.verb else {
            panic!()
        };
        assert_eq!(args.hostname.as_deref(), Some("box"));
    }

    #[test]
    fn after_container_stand_the_verbs_themselves() {
        let cli = parse(&words("bocker -x container ls -q")).unwrap();
        assert!(cli.trace && matches!(cli.verb, Some(Verb::Ps(_))));
        let cli = parse(&words("bocker container run --rm img ls")).unwrap();
        let Some(Verb::Run(args)) = cli.verb else {
            panic!()
        };
        assert_eq!(args.words, ["img", "ls"]);
        assert!(refused("bocker container pull x").contains("no verb 'container pull'"));
        assert!(refused("bocker container").contains("see 'bocker help container'"));
        assert!(refused("bocker container ls --frob").contains("'--frob'"));
    }

    #[test]
    fn a_mistyped_verb_is_told_the_nearest() {
        assert!(
            unknown_verb("iamges".as_ref())
                .to_string()
                .ends_with("did you mean 'images'?")
        );
        assert!(
            unknown_verb("frobnicate".as_ref())
                .to_string()
                .ends_with("see 'bocker help'")
        );
    }

    #[test]
    fn the_distance_counts_changed_characters() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("same", "same"), 0);
    }
}
