//! Containers as the reports of the tools and their documents show them.

use bocker_pipe::document::ExitMember;
use bocker_pipe::{Document, Id, Result, containers};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::ports::{self, Port};
use crate::session::{Session, not_understood};
use crate::time;
use crate::tools::Piece;

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
    created: Option<String>,
    started: Option<String>,
    /// What bocker-spawn said of it.
    pub(crate) line: Value,
    pub(crate) document: Document,
}

/// Every container that was handed to bocker-spawn, running or not; the newest first.
pub(crate) fn all(session: &Session) -> Result<Vec<Container>> {
    let stage = session.tool(Piece::Spawn, "list")?;
    let lines: Vec<Value> = session.read(&stage)?;
    let mut all = Vec::new();
    for line in lines {
        let listed = Listed::deserialize(&line).map_err(|error| not_understood(&stage, &error))?;
        // One that was removed since has no document.
        if let Ok(document) = containers::load(&listed.id) {
            all.push(Container {
                id: listed.id,
                state: listed.state,
                created: listed.created,
                started: listed.started,
                line,
                document,
            });
        }
    }
    // Times in RFC 3339 sort as text.
    all.sort_by(|a, b| b.created.cmp(&a.created));
    Ok(all)
}

impl Container {
    /// Whether it has ended, or was never started.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state.as_str(), "exited" | "created")
    }

    /// What lists and templates show, under docker's names.
    pub(crate) fn record(&self) -> Value {
        json!({
            "ID": self.id,
            "Command": self.command(),
            "Image": self.image(),
            "CreatedAt": self.created,
            "RunningFor": self.created.as_deref().and_then(time::since).map(|since| format!("{since} ago")),
            "State": self.state,
            "Status": self.status(),
            "Ports": self.ports(),
            "Names": self.text("/bocker/name").unwrap_or_default(),
            "Labels": self.document.value("/bocker/labels").cloned().unwrap_or_else(|| json!({})),
        })
    }

    fn text(&self, pointer: &str) -> Option<&str> {
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
    fn command(&self) -> String {
        let args = self.words("/process/args");
        let typed = self.words("/bocker/command");
        match (args.as_slice(), typed.as_slice()) {
            (["/bin/sh", "-c", line], [.., before, last]) if line == last && *before != "-c" => {
                (*line).to_owned()
            }
            _ => args.join(" "),
        }
    }

    fn image(&self) -> String {
        self.text("/bocker/image/reference")
            .or_else(|| self.text("/bocker/image/id"))
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
                if self.state == "paused" {
                    format!("{up} (Paused)")
                } else {
                    up
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

/// How long it has ended, as ` 3 seconds ago`.
fn ago(exit: &ExitMember) -> String {
    let since = exit.finished.as_deref().and_then(time::since);
    since.map_or(String::new(), |time| format!(" {time} ago"))
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
