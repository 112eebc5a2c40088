//! `inspect`: the documents of containers, or the line that made one.

use std::io::{self, Write};

use bocker_pipe::{Doing, Error, Kind, Result, containers};
use serde_json::Value;

use crate::container::{self, Container};
use crate::session::{Session, complain, say};
use crate::shell;
use crate::template::Template;

/// Expected and not there: neither success nor a failure of the tool.
const EXIT_MISSING: u8 = 1;

/// Print containers as JSON
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ids or names
    #[arg(required = true)]
    names: Vec<String>,
    /// Print the 'bocker run' line that made each
    #[arg(long)]
    as_command: bool,
    /// Print each by a template, as '{{.bocker.state}}'
    #[arg(short, long, value_name = "TEMPLATE", conflicts_with = "as_command")]
    format: Option<String>,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let all = container::all(session)?;
    let mut found = Vec::new();
    let mut code = 0;
    for name in &args.names {
        let container = containers::resolve(name).and_then(|id| {
            all.iter()
                .find(|container| container.id == id)
                .ok_or_else(|| Error::new(Kind::NotFound, format!("{id} was never started")))
        });
        match container {
            Ok(container) => found.push(container),
            Err(error) => {
                complain(&error);
                code = EXIT_MISSING;
            }
        }
    }
    match (&args.format, args.as_command) {
        (_, true) => found
            .iter()
            .try_for_each(|container| as_command(container))?,
        (Some(template), _) => {
            let template = Template::parse(template)?;
            found
                .iter()
                .try_for_each(|container| say(&template.fill(&described(container))))?;
        }
        _ => say(&format!(
            "{:#}",
            Value::Array(found.into_iter().map(described).collect())
        ))?,
    }
    Ok(code)
}

/// The document, with the state that the kernel shows instead of the one that was last written.
fn described(container: &Container) -> Value {
    let mut document = container.document.clone();
    document.set_member("state", &container.state);
    document.tree().clone()
}

fn as_command(container: &Container) -> Result<()> {
    let words: Option<Vec<String>> = container.document.member("command")?;
    let words = words.ok_or_else(|| {
        Error::new(
            Kind::NotFound,
            format!("{} was not made by bocker, but by its tools", container.id),
        )
    })?;
    let line = [shell::join(&words), b"\n".to_vec()].concat();
    io::stdout()
        .write_all(&line)
        .doing(|| "write to stdout".into())
}
