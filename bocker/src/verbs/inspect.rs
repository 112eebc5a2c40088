//! `inspect`: containers, or the line that made one; images, volumes and networks, as the verbs of their groups show them.

use std::collections::HashMap;
use std::io::{self, Write};

use bocker_pipe::{Doing, Error, Kind, Result, containers, paths};
use serde_json::Value;

use super::{image_inspect, network, volume};
use crate::container::{self, Container, Sizes};
use crate::image;
use crate::session::{Session, complain, say};
use crate::template::Template;
use crate::{shape, shell};

/// Expected and not there: neither success nor a failure of the tool.
pub(crate) const EXIT_MISSING: u8 = 1;

/// Print containers as JSON, and images, volumes and networks where no container has the name
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ids or names
    #[arg(required = true)]
    names: Vec<String>,
    /// Print the 'bocker run' line that made each
    #[arg(long)]
    as_command: bool,
    /// Print each by a template, as '{{.State.Status}}'
    #[arg(short, long, value_name = "TEMPLATE", conflicts_with = "as_command")]
    format: Option<String>,
    /// Only what is of this kind
    #[arg(long = "type", value_name = "TYPE", conflicts_with = "as_command")]
    kind: Option<Type>,
    /// Say also how much each container has written, and how large it is with its image
    #[arg(short, long)]
    size: bool,
}

/// What can be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Type {
    Container,
    Image,
    Volume,
    Network,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    // A template that is wrong is said before anything is asked.
    args.format.as_deref().map(Template::parse).transpose()?;
    let is_container = |name: &&String| {
        args.kind.is_none_or(|kind| kind == Type::Container) && containers::resolve(name).is_ok()
    };
    let names: Vec<&String> = args.names.iter().filter(is_container).collect();
    let all = match names.is_empty() {
        true => Vec::new(),
        false => container::list(session, |stage| {
            stage.args(["--with", "", "--"]).args(&names)
        })?,
    };
    let sizes = match args.size && !all.is_empty() {
        true => container::sizes(session)?,
        false => HashMap::new(),
    };
    let mut found = Vec::new();
    let mut code = 0;
    for name in &args.names {
        let kind = args
            .kind
            .map_or_else(|| kind_of(name, args.as_command), Ok)?;
        let some = match kind {
            Type::Container => container_of(&all, name).and_then(|one| match args.as_command {
                true => as_command(one).map(|()| None),
                false => Ok(Some(described(one, &sizes))),
            }),
            Type::Image => quietly(image_inspect::describe(session, name)),
            Type::Volume => quietly(volume::describe(session, name)),
            Type::Network => quietly(network::describe(session, name)),
        };
        match some {
            Ok(some) => found.extend(some),
            Err(error) => {
                complain(&error);
                code = EXIT_MISSING;
            }
        }
    }
    if !args.as_command {
        print(found, args.format.as_deref())?;
    }
    Ok(code)
}

/// What a name means: a container before all others.
fn kind_of(name: &str, as_command: bool) -> Result<Type> {
    if as_command || containers::resolve(name).is_ok() {
        return Ok(Type::Container);
    }
    if image::find(name)?.is_some() {
        return Ok(Type::Image);
    }
    let is_file = |folder: &str, file: &str| paths::root().join(folder).join(file).exists();
    let is_plain = !name.starts_with('.') && !name.contains('/') && !name.is_empty();
    Ok(match is_plain {
        true if is_file("volumes", name) => Type::Volume,
        true if is_file("networks", &format!("{name}.json")) => Type::Network,
        _ => Type::Container,
    })
}

fn container_of<'a>(all: &'a [Container], name: &str) -> Result<&'a Container> {
    let id = containers::resolve(name)?;
    all.iter()
        .find(|one| one.id == id)
        .ok_or_else(|| match containers::load(&id) {
            Err(error) if error.kind() != &Kind::NotFound => {
                Error::new(Kind::Passed(EXIT_MISSING), "bocker-spawn has said why")
            }
            _ => Error::new(Kind::NotFound, format!("{id} was never started")),
        })
}

/// One that is not there is an error that its tool has said.
fn quietly(found: Result<Option<Value>>) -> Result<Option<Value>> {
    found?
        .map(Some)
        .ok_or_else(|| Error::new(Kind::Passed(EXIT_MISSING), "it is not there"))
}

/// Prints each by a template, or all as one array.
pub(crate) fn print(found: Vec<Value>, format: Option<&str>) -> Result<()> {
    let Some(template) = format else {
        return say(&format!("{:#}", Value::Array(found)));
    };
    let template = Template::parse(template)?;
    found
        .iter()
        .try_for_each(|value| say(&template.fill(value)?))
}

fn described(container: &Container, sizes: &HashMap<String, Sizes>) -> Value {
    let mut shape = shape::of(container);
    if let Some(sizes) = sizes.get(container.id.as_str()) {
        shape["SizeRw"] = sizes.written.into();
        shape["SizeRootFs"] = sizes.whole.into();
    }
    shape
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
