//! Containers as the reports of the tools and their documents show them.

use std::collections::HashMap;

use bocker_pipe::document::ExitMember;
use bocker_pipe::part::Parts;
use bocker_pipe::reference::Reference;
use bocker_pipe::{Document, Id, Result, containers};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::pipeline::Stage;
use crate::ports::{self, Port};
use crate::session::{Session, not_understood};
use crate::time;
use crate::tools::Piece;

/// What lists of containers show of their documents.
pub(crate) const SHOWN: &[&str] = &[
    "/process/args",
    "/bocker/command",
    "/bocker/exit",
    "/bocker/image/config/ExposedPorts",
    "/bocker/image/digest",
    "/bocker/image/id",
    "/bocker/image/reference",
    "/bocker/labels",
    "/bocker/name",
    "/bocker/net/attachments",
    "/bocker/snap/rootfs",
    "/bocker/snap/volumes",
    "/bocker/spawn/request/restart",
    "/bocker/spawn/stopped",
];

/// What [`Container::command`] is made of.
pub(crate) const COMMAND: &[&str] = &["/process/args", "/bocker/command"];

/// What of a line of `bocker-spawn list` is read here. The rest is in the document, too, where it is asked for.
const READ: [&str; 9] = [
    "/id",
    "/state",
    "/pid",
    "/created",
    "/started",
    "/health",
    "/lost",
    "/namespaces",
    "/document",
];

/// One line of `bocker-spawn list`, as far as it is read here.
#[derive(Debug, Deserialize)]
struct Listed {
    id: Id,
    state: String,
    created: Option<String>,
    started: Option<String>,
}

/// A container and its state, asked of the kernel just now.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: Id,
    pub(crate) state: String,
    pub(crate) created: Option<String>,
    started: Option<String>,
    /// What bocker-spawn said of it, as far as it was read.
    pub(crate) line: Value,
    /// As much of its document as was asked for.
    pub(crate) document: Document,
}

/// Every container that was handed to bocker-spawn, running or not, the newest first, with all that lists show.
pub(crate) fn all(session: &Session) -> Result<Vec<Container>> {
    list(session, |stage| stage.options("--with", SHOWN))
}

/// Those and as much of them as the stage is made to list.
pub(crate) fn list(session: &Session, ask: impl FnOnce(Stage) -> Stage) -> Result<Vec<Container>> {
    list_lines(session, &Parts::of(READ), ask)
}

/// The same with other parts of the lines, which are to have [`READ`].
pub(crate) fn list_lines(
    session: &Session,
    read: &Parts,
    ask: impl FnOnce(Stage) -> Stage,
) -> Result<Vec<Container>> {
    let stage = ask(session.tool(Piece::Spawn, "list")?);
    let lines = session.read_parts(&stage, read)?;
    let mut all = Vec::with_capacity(lines.len());
    for mut line in lines {
        let listed = Listed::deserialize(&line).map_err(|error| not_understood(&stage, &error))?;
        let document = line
            .as_object_mut()
            .and_then(|line| line.shift_remove("document"))
            .unwrap_or_else(|| json!({}));
        all.push(Container {
            id: listed.id,
            state: listed.state,
            created: listed.created,
            started: listed.started,
            line,
            document: Document::from_tree(document)?,
        });
    }
    // Times in RFC 3339 sort as text.
    all.sort_by(|a, b| b.created.cmp(&a.created));
    Ok(all)
}

/// How much a container takes, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    /// What it has written.
    pub(crate) written: u64,
    /// With the layers that it stands on.
    pub(crate) whole: u64,
}

/// Of each container, by its id. All that is on the disk is read for it.
pub(crate) fn sizes(session: &Session) -> Result<HashMap<String, Sizes>> {
    let lines = session.read(&session.tool(Piece::Snap, "df")?)?;
    let of = |line: &Value| {
        let sizes = Sizes {
            written: line["size"].as_u64()?,
            whole: line["virtual"].as_u64()?,
        };
        Some((line["id"].as_str()?.to_owned(), sizes))
    };
    Ok(lines.iter().filter_map(of).collect())
}

impl Container {
    /// Whether it has ended, or was never started.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state.as_str(), "exited" | "created")
    }

    /// What lists and templates show, under docker's names.
    pub(crate) fn record(&self) -> Value {
        let networks = self.networks();
        let mounts: Vec<&str> = self.volumes().map(Volume::shown).collect();
        let is_local = |volume: &Volume| volume.kind == "volume";
        json!({
            "ID": self.id,
            "Command": self.command(),
            "Image": self.image(),
            "CreatedAt": self.created,
            "RunningFor": self.created.as_deref().and_then(time::since).map(|since| format!("{since} ago")),
            "State": self.state,
            "Status": self.status(),
            "Ports": self.ports(),
            "Names": self.name(),
            "Labels": self.labels().cloned().unwrap_or_else(|| json!({})),
            "Networks": networks.join(","),
            "Mounts": mounts.join(","),
            "LocalVolumes": self.volumes().filter(is_local).count(),
        })
    }

    /// The name that it goes by, beside its id.
    pub(crate) fn name(&self) -> &str {
        self.text("/bocker/name").unwrap_or_default()
    }

    pub(crate) fn labels(&self) -> Option<&Value> {
        self.document.value("/bocker/labels")
    }

    /// The names of the networks that it is on.
    pub(crate) fn networks(&self) -> Vec<&str> {
        let attachments = self.array("/bocker/net/attachments");
        attachments
            .filter_map(|one| one["network"].as_str())
            .collect()
    }

    /// The volumes, paths and filesystems in memory that were asked for.
    pub(crate) fn volumes(&self) -> impl Iterator<Item = Volume<'_>> {
        self.array("/bocker/snap/volumes").map(|request| {
            let text = |key: &str| request[key].as_str().unwrap_or_default();
            Volume {
                kind: text("type"),
                source: text("source"),
                destination: text("destination"),
            }
        })
    }

    fn array(&self, pointer: &str) -> impl Iterator<Item = &Value> {
        let items = self.document.value(pointer).and_then(Value::as_array);
        items.into_iter().flatten()
    }

    /// Whether the user has stopped it, and wants it to stay so until it is started by name.
    pub(crate) fn stays_stopped(&self) -> bool {
        let stopped = self.document.value("/bocker/spawn/stopped");
        restart_policy(&self.document) == "unless-stopped" && stopped == Some(&Value::Bool(true))
    }

    /// What its health check says: `starting`, `healthy`, `unhealthy`, or nothing where there is none.
    pub(crate) fn health(&self) -> Option<&str> {
        self.line["health"]["status"].as_str()
    }

    /// The exit code of one that has ended.
    pub(crate) fn exit_code(&self) -> Option<u8> {
        let exit = self.document.exit().ok().flatten();
        exit.filter(|_| self.state == "exited")
            .map(|exit| exit.code)
    }

    pub(crate) fn text(&self, pointer: &str) -> Option<&str> {
        self.document.value(pointer)?.as_str()
    }

    fn words(&self, pointer: &str) -> Vec<&str> {
        let words = self.document.value(pointer).and_then(Value::as_array);
        words
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect()
    }

    /// The command's words joined by single spaces. A line that was typed as one word is shown as that word, though a shell
    /// of the image runs it.
    pub(crate) fn command(&self) -> String {
        let args = self.words("/process/args");
        let typed = self.words("/bocker/command");
        match (args.as_slice(), typed.as_slice()) {
            (["/bin/sh", "-c", line], [.., before, last]) if line == last && *before != "-c" => {
                (*line).to_owned()
            }
            _ => args.join(" "),
        }
    }

    /// The image's name without what is usual in one, or what else it is made of.
    pub(crate) fn image(&self) -> String {
        if let Some(reference) = self.text("/bocker/image/reference") {
            let parsed = Reference::parse(reference);
            return parsed.map_or_else(|_| reference.to_owned(), |parsed| parsed.familiar());
        }
        self.text("/bocker/image/id")
            .or_else(|| self.text("/bocker/snap/rootfs"))
            .unwrap_or_default()
            .to_owned()
    }

    fn status(&self) -> String {
        match self.state.as_str() {
            "running" | "paused" => {
                let up = self
                    .started
                    .as_deref()
                    .and_then(time::since)
                    .map_or("Up".into(), |time| format!("Up {time}"));
                match self.health() {
                    _ if self.state == "paused" => format!("{up} (Paused)"),
                    Some("starting") => format!("{up} (health: starting)"),
                    Some(health) => format!("{up} ({health})"),
                    None => up,
                }
            }
            "exited" => match self.document.exit() {
                Ok(Some(exit)) => {
                    let ago = ago(&exit);
                    let why = if exit.oom { ", out of memory" } else { "" };
                    format!("Exited ({}{why}){ago}", exit.code)
                }
                _ => "Exited".into(),
            },
            "restarting" => match self.document.exit() {
                Ok(Some(exit)) => format!("Restarting ({}){}", exit.code, ago(&exit)),
                _ => "Restarting".into(),
            },
            "created" => "Created".into(),
            other => other.to_owned(),
        }
    }

    /// As docker shows them: `0.0.0.0:8080->80/tcp`. One that has ended has published nothing.
    fn ports(&self) -> String {
        if self.is_over() {
            return String::new();
        }
        let all = ports::of(&self.document);
        let texts: Vec<String> = all.iter().map(Port::to_string).collect();
        texts.join(", ")
    }
}

/// When it is begun again, as `run --restart` takes it.
pub(crate) fn restart_policy(document: &Document) -> &str {
    let policy = document.value("/bocker/spawn/request/restart/policy");
    policy.and_then(Value::as_str).unwrap_or("no")
}

/// How long it has ended, as ` 3 seconds ago`.
fn ago(exit: &ExitMember) -> String {
    let since = exit.finished.as_deref().and_then(time::since);
    since.map_or(String::new(), |time| format!(" {time} ago"))
}

/// One of the things that a container has mounted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Volume<'a> {
    kind: &'a str,
    pub(crate) source: &'a str,
    pub(crate) destination: &'a str,
}

impl<'a> Volume<'a> {
    /// The name of a volume, the path of a bind mount; of what is in memory where it is.
    fn shown(self) -> &'a str {
        match self.source {
            "" => self.destination,
            source => source,
        }
    }
}

/// The container that a name, an id or a prefix means, of those that have a document.
pub(crate) fn find(name: &str) -> Result<(Id, Document)> {
    let id = containers::resolve(name)?;
    let document = containers::load(&id)?;
    Ok((id, document))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(state: &str, document: Value) -> Container {
        Container {
            id: Id::parse("ps_abc123").unwrap(),
            state: state.into(),
            created: None,
            started: None,
            line: Value::Null,
            document: Document::parse(document.to_string().as_bytes()).unwrap(),
        }
    }

    #[test]
    fn a_line_typed_as_one_word_is_shown_as_it_was_typed() {
        let args = json!({"args": ["/bin/sh", "-c", "echo  a"]});
        let of = |typed: Value| {
            container(
                "exited",
                json!({"process": args, "bocker": {"command": typed}}),
            )
            .command()
        };
        assert_eq!(of(json!(["bocker", "run", "img", "echo  a"])), "echo  a");
        assert_eq!(
            of(json!(["bocker", "run", "img", "/bin/sh", "-c", "echo  a"])),
            "/bin/sh -c echo  a"
        );
    }

    #[test]
    fn one_that_has_ended_has_published_nothing() {
        let published = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
        let net = json!({"attachments": [{"published": published}]});
        let ports = |state| container(state, json!({"bocker": {"net": net}})).ports();
        assert_eq!(ports("running"), "0.0.0.0:8080->80/tcp");
        assert_eq!(ports("exited"), "");
    }

    #[test]
    fn the_status_says_how_it_ended() {
        let exit = json!({"bocker": {"exit": {"code": 137, "signal": 9, "oom": true}}});
        assert_eq!(
            container("exited", exit).status(),
            "Exited (137, out of memory)"
        );
        assert_eq!(container("created", json!({})).status(), "Created");
        assert_eq!(container("orphaned", json!({})).status(), "orphaned");
    }

    #[test]
    fn the_status_says_what_the_supervisor_knows() {
        let status = |state: &str, line: Value| {
            let mut container = container(state, json!({}));
            container.line = line;
            container.status()
        };
        for (state, line, expected) in [
            ("running", json!({}), "Up"),
            (
                "paused",
                json!({"health": {"status": "healthy"}}),
                "Up (Paused)",
            ),
            (
                "running",
                json!({"health": {"status": "healthy"}}),
                "Up (healthy)",
            ),
            (
                "running",
                json!({"health": {"status": "starting"}}),
                "Up (health: starting)",
            ),
        ] {
            assert_eq!(status(state, line), expected);
        }
    }

    #[test]
    fn what_may_still_have_processes_is_not_over() {
        for (state, over) in [
            ("running", false),
            ("paused", false),
            ("orphaned", false),
            ("exited", true),
            ("created", true),
        ] {
            assert_eq!(container(state, json!({})).is_over(), over, "{state}");
        }
    }
}
