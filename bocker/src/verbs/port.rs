//! `port`: where the ports of a container are published.

use bocker_pipe::{Error, Kind, Result};

use crate::container;
use crate::ports::{self, Port};
use crate::session::{Session, say};

/// Show where the ports of a running container are published
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Id or name
    container: String,
    /// Only this port of the container
    #[arg(value_name = "PORT[/udp]")]
    port: Option<String>,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8> {
    let (id, _) = container::find(&args.container)?;
    let all = container::all(session)?;
    let container = all.iter().find(|one| one.id == id && !one.is_over());
    let all = container.map_or(Vec::new(), |one| ports::of(&one.document));
    let mut pairs: Vec<_> = all.iter().flat_map(Port::each).collect();
    pairs.sort_by(|(one, _), (other, _)| one.cmp(other));
    let Some(port) = &args.port else {
        for (inner, outer) in pairs {
            say(&format!("{inner} -> {outer}"))?;
        }
        return Ok(0);
    };
    let wanted = if port.contains('/') {
        port.clone()
    } else {
        format!("{port}/tcp")
    };
    pairs.retain(|(inner, _)| inner.to_string() == wanted);
    if pairs.is_empty() {
        return Err(Error::new(
            Kind::NotFound,
            format!("{} has not published its port {wanted}", args.container),
        )
        .hint(format!(
            "'bocker port {}' lists those it has",
            args.container
        )));
    }
    for (_, outer) in pairs {
        say(&outer)?;
    }
    Ok(0)
}
