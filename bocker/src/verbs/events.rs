//! `events`: what has happened, and what happens from now on. It reads the file that the tools write, as `tail -F` would.

use std::fs::DirBuilder;
use std::io::{BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bocker_pipe::events::{self, Event, Type};
use bocker_pipe::rotated::Reader;
use bocker_pipe::watch::Watch;
use bocker_pipe::{Doing, Error, Kind, Result, paths, time};
use serde_json::{Value, json};

use crate::table::visible;
use crate::template::Template;

/// Actions whose filter is their first word: what follows the colon is the command, or how it is.
const FIRST_WORDS: [&str; 3] = ["exec_create", "exec_start", "health_status"];

/// Print what happens
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print first what has happened from a time on, as 2026-11-21T14:30:00Z, or 10m for ten minutes ago
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// End at a time; one that has passed ends it at once
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Print what is so only: type=, event=, container=, image=, network=, volume= or label=
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = Filter::parse)]
    filter: Vec<Filter>,
    /// Print each by a template, as '{{.Action}} {{.Actor.ID}}', or as JSON ('json')
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "json")]
    format: Option<String>,
    /// Print the lines as the tools write them
    #[arg(long)]
    json: bool,
}

/// What an event has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Filter {
    key: Key,
    value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Event,
    Image,
    Label,
    Type,
    /// What it happened to, by the beginning of its id or name.
    Object(Type),
}

impl Filter {
    fn parse(text: &str) -> std::result::Result<Filter, String> {
        let known = "use type, event, container, image, network, volume or label";
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| format!("'{text}' is not KEY=VALUE; {known}"))?;
        let key = match key {
            "event" => Key::Event,
            "image" => Key::Image,
            "label" => Key::Label,
            "type" => Key::Type,
            "container" => Key::Object(Type::Container),
            "network" => Key::Object(Type::Network),
            "volume" => Key::Object(Type::Volume),
            _ => return Err(format!("there is no filter '{key}'; {known}")),
        };
        Ok(Filter {
            key,
            value: value.to_owned(),
        })
    }

    fn takes(&self, event: &Event) -> bool {
        let value = self.value.as_str();
        match self.key {
            Key::Type => event.kind.as_str() == value,
            Key::Event => {
                let first = event.action.split(':').next().unwrap_or_default();
                event.action == value || (first == value && FIRST_WORDS.contains(&value))
            }
            Key::Label => {
                let (key, wanted) = value.split_once('=').unwrap_or((value, ""));
                let label = event.attributes.get(key);
                label.is_some_and(|label| !value.contains('=') || label == wanted)
            }
            Key::Image => {
                let names = [Some(&event.name), event.attributes.get("image")];
                let is_its = |name: &String| {
                    [name, familiar(name)].iter().any(|name| {
                        *name == value
                            || name.rsplit_once(':').is_some_and(|(name, _)| name == value)
                    })
                };
                match event.kind {
                    Type::Image => event.id == value || is_its(&event.name),
                    Type::Container => names[1].is_some_and(is_its),
                    _ => false,
                }
            }
            Key::Object(kind) => {
                event.kind == kind && (event.id.starts_with(value) || event.name.starts_with(value))
            }
        }
    }
}

/// As docker: one filter of each kind has to take it, but every label.
fn is_wanted(filters: &[Filter], event: &Event) -> bool {
    filters.iter().all(|filter| {
        let mut same = filters.iter().filter(|other| other.key == filter.key);
        match filter.key {
            Key::Label => filter.takes(event),
            _ => same.any(|other| other.takes(event)),
        }
    })
}

/// A reference as people write it.
fn familiar(name: &str) -> &str {
    let short = name.strip_prefix("docker.io/").unwrap_or(name);
    short.strip_prefix("library/").unwrap_or(short)
}

/// How it is printed.
enum Form {
    Text,
    Lines,
    Json,
    Template(Template),
}

impl Form {
    fn line(&self, event: &Event) -> Result<String> {
        match self {
            Form::Text => Ok(text(event)),
            Form::Lines => serde_json::to_string(event)
                .map_err(|error| Error::new(Kind::Invalid, error.to_string())),
            Form::Json => Ok(dockers(event).to_string()),
            Form::Template(template) => template.fill(&dockers(event)),
        }
    }
}

/// `2026-11-21T14:30:00.123456789Z container die ps_3fa0c1 (exitCode=0, image=busybox:1, name=web)`
fn text(event: &Event) -> String {
    let attributes = attributes(event);
    let words: Vec<String> = attributes
        .iter()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    let shown = match words.is_empty() {
        true => String::new(),
        false => format!(" ({})", words.join(", ")),
    };
    let kind = event.kind.as_str();
    visible(&format!(
        "{} {kind} {} {}{shown}",
        event.time, event.action, event.id
    ))
}

/// With the name, and the image as people write it, in the order of the keys.
fn attributes(event: &Event) -> serde_json::Map<String, Value> {
    let mut all = event.attributes.clone();
    if !event.name.is_empty() {
        all.insert("name".into(), familiar(&event.name).into());
    }
    if let Some(image) = all.get_mut("image") {
        *image = familiar(image).to_owned();
    }
    all.into_iter()
        .map(|(key, value)| (key, value.into()))
        .collect()
}

/// The members that docker's templates know.
fn dockers(event: &Event) -> Value {
    let attributes = attributes(event);
    let since = moment(event)
        .and_then(|moment| moment.duration_since(UNIX_EPOCH).ok())
        .unwrap_or_default();
    json!({
        "status": event.action,
        "id": event.id,
        "from": attributes.get("image"),
        "Type": event.kind,
        "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": attributes},
        "scope": "local",
        "time": since.as_secs(),
        "timeNano": u64::try_from(since.as_nanos()).unwrap_or_default(),
    })
}

fn moment(event: &Event) -> Option<SystemTime> {
    time::parse(&event.time).ok()
}

pub(crate) fn run(args: &Args) -> Result<u8> {
    let parse = |text: &Option<String>| text.as_deref().map(time::parse).transpose();
    let (since, until) = (parse(&args.since)?, parse(&args.until)?);
    let form = match args.format.as_deref() {
        _ if args.json => Form::Lines,
        None => Form::Text,
        Some("json") => Form::Json,
        Some(template) => Form::Template(Template::parse(template)?),
    };
    let root = paths::root();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&root)
        .doing(|| format!("make {}", root.display()))?;
    // Before the first look, so that nothing happens unnoticed.
    let watch = Watch::new()?;
    watch.add(&root)?;
    let path = events::path();
    let doing = || format!("read {}", path.display());
    let mut reader = Reader::open(&path).doing(doing)?;
    if since.is_none() && until.is_none() {
        reader.begin_at_end().doing(doing)?;
    }
    let is_in_time = |event: &Event| {
        moment(event).is_none_or(|moment| {
            since.is_none_or(|since| moment >= since) && until.is_none_or(|until| moment < until)
        })
    };
    let stdout = std::io::stdout();
    let mut out = BufWriter::new(stdout.lock());
    loop {
        let patience =
            until.map(|until| until.duration_since(SystemTime::now()).unwrap_or_default());
        while let Some(line) = reader.line().doing(doing)? {
            // What a full disk or a hand has left of one is none.
            let Ok(event) = serde_json::from_slice::<Event>(line) else {
                continue;
            };
            if is_in_time(&event) && is_wanted(&args.filter, &event) {
                writeln!(out, "{}", form.line(&event)?).doing(|| "write to stdout".into())?;
            }
        }
        out.flush().doing(|| "write to stdout".into())?;
        if patience == Some(Duration::ZERO) {
            return Ok(0);
        }
        watch.wait(stdout.as_fd(), patience)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn die() -> Event {
        let mut event = Event::new(Type::Container, "die", "ps_abc123")
            .name("web")
            .with("exitCode", 3)
            .with("image", "docker.io/library/busybox:1")
            .with("tier", "front");
        event.time = "2026-11-21T14:30:00.000000001Z".into();
        event
    }

    fn takes(event: &Event, filters: &[&str]) -> bool {
        let filters: Vec<Filter> = filters
            .iter()
            .map(|text| Filter::parse(text).unwrap())
            .collect();
        is_wanted(&filters, event)
    }

    #[test]
    fn an_event_is_printed_as_docker_prints_it() {
        assert_eq!(
            text(&die()),
            "2026-11-21T14:30:00.000000001Z container die ps_abc123 (exitCode=3, image=busybox:1, name=web, tier=front)"
        );
        let value = dockers(&die());
        assert_eq!(value["timeNano"], 1_795_271_400_000_000_001_u64);
        assert_eq!(value["Actor"]["Attributes"]["name"], "web");
        assert_eq!(value["from"], "busybox:1");
    }

    #[test]
    fn filters_of_one_kind_are_alternatives_and_those_of_several_are_not() {
        for filters in [
            &["event=start", "event=die"][..],
            &["container=web", "type=container"],
            &["container=ps_abc"],
            &["image=busybox"],
            &["image=busybox:1", "label=tier", "label=tier=front"],
            &[],
        ] {
            assert!(takes(&die(), filters), "{filters:?}");
        }
        for filters in [
            &["event=start"][..],
            &["event=die", "type=network"],
            &["container=db"],
            &["network=web"],
            &["image=alpine"],
            &["label=tier", "label=x"],
            &["label=tier=back"],
        ] {
            assert!(!takes(&die(), filters), "{filters:?}");
        }
        let exec = Event::new(Type::Container, "exec_start: sh -c ls", "ps_abc123");
        assert!(takes(&exec, &["event=exec_start"]) && !takes(&exec, &["event=exec"]));
        assert!(Filter::parse("frob=x").is_err() && Filter::parse("event").is_err());
    }

    #[test]
    fn what_a_name_holds_cannot_break_the_line() {
        let event = die().with("label", "a\nb\u{1b}[2J");
        assert_eq!(text(&event).lines().count(), 1);
    }
}
