//! All that a container is to have mounted: what was asked for, what another container has, and the volumes of its image.

use bocker_pipe::{Error, Kind, Result, containers};
use serde_json::Value;

use super::{Request, Source};
use crate::container::Folder;

/// More volumes than any honest image asks for: each takes a mount in every container.
const MAX_OF_IMAGE: usize = 128;

/// Gathers it, those nearer to the root first. What was asked for comes before what `from` has, containers as `--volumes-from`
/// names them, and that before the `volumes` of the image's configuration. Fails with [`Kind::Usage`] when one place was asked
/// for twice.
pub(crate) fn gather(
    asked: Vec<Request>,
    from: &[String],
    volumes: Option<&Value>,
) -> Result<Vec<Request>> {
    let mut all: Vec<Request> = Vec::new();
    for request in asked {
        if is_taken(&all, &request.destination) {
            let what = format!("two mounts are asked for at {}", request.destination);
            return Err(Error::new(Kind::Usage, what).hint("leave one of them out"));
        }
        all.push(request);
    }
    // Of two containers the later counts.
    let mut others: Vec<Request> = Vec::new();
    for word in from {
        for request in requests_of(word)? {
            if !is_taken(&all, &request.destination) {
                others.retain(|other| other.destination != request.destination);
                others.push(request);
            }
        }
    }
    all.append(&mut others);
    for destination in of_image(volumes)? {
        let request = Request::anonymous(destination).map_err(|error| {
            let what = format!("the image's volume '{destination}': {}", error.message());
            Error::new(Kind::Invalid, what)
        })?;
        if !is_taken(&all, &request.destination) {
            all.push(request);
        }
    }
    all.sort_by_key(|request| request.destination.matches('/').count());
    Ok(all)
}

fn is_taken(requests: &[Request], destination: &str) -> bool {
    requests
        .iter()
        .any(|other| other.destination == destination)
}

/// What the container of a `CONTAINER[:ro]` has mounted, running or not; its memory is its own.
fn requests_of(word: &str) -> Result<Vec<Request>> {
    let (name, readonly) = match word.split_once(':') {
        None => (word, false),
        Some((name, "rw" | "z" | "Z")) => (name, false),
        Some((name, "ro")) => (name, true),
        Some((_, option)) => {
            let what = format!("'{option}' is no option of --volumes-from");
            return Err(Error::new(Kind::Usage, what).hint("give CONTAINER or CONTAINER:ro"));
        }
    };
    let mut requests = Folder::of(&containers::resolve(name)?).snap()?.volumes;
    requests.retain(|request| request.kind != Source::Tmpfs);
    for request in &mut requests {
        request.readonly |= readonly;
    }
    Ok(requests)
}

fn of_image(volumes: Option<&Value>) -> Result<Vec<&str>> {
    let invalid = |what: &str| {
        Err(Error::new(
            Kind::Invalid,
            format!("the image's Volumes {what}"),
        ))
    };
    match volumes {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Object(members)) if members.len() > MAX_OF_IMAGE => {
            invalid(&format!("are more than {MAX_OF_IMAGE}"))
        }
        Some(Value::Object(members)) => Ok(members.keys().map(String::as_str).collect()),
        Some(_) => invalid("are no object"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked(texts: &[&str]) -> Vec<Request> {
        let parsed = texts.iter().map(|text| Request::parse(text).unwrap());
        parsed.collect()
    }

    #[test]
    fn the_image_gets_a_volume_only_where_nothing_else_was_asked_for() {
        let volumes = json!({"/data/": {}, "/a/b/c": {}, "/": null});
        let error = gather(Vec::new(), &[], Some(&volumes)).unwrap_err();
        assert_eq!(error.kind(), &Kind::Invalid);
        let volumes = json!({"/data/": {}, "/a/b/c": {}});
        let all = gather(asked(&["cache:/data", "/tmp:/a/b"]), &[], Some(&volumes)).unwrap();
        let shown: Vec<(&str, bool)> = all
            .iter()
            .map(|request| (&*request.destination, request.anonymous))
            .collect();
        assert_eq!(shown, [("/data", false), ("/a/b", false), ("/a/b/c", true)]);
    }

    #[test]
    fn one_place_is_asked_for_once() {
        let mut requests = asked(&["cache:/data"]);
        requests.push(Request::parse_tmpfs("//data/").unwrap());
        let error = gather(requests, &[], None).unwrap_err();
        assert!(error.to_string().contains("/data"), "{error}");
    }

    #[test]
    fn volumes_that_no_image_has_are_refused() {
        let many: serde_json::Map<String, Value> = (0..1000)
            .map(|number| (format!("/{number}"), json!({})))
            .collect();
        for volumes in [
            json!(many),
            json!(["/data"]),
            json!({"data": {}}),
            json!({"/proc": {}}),
        ] {
            assert!(
                gather(Vec::new(), &[], Some(&volumes)).is_err(),
                "{volumes}"
            );
        }
        assert!(
            gather(Vec::new(), &[], Some(&Value::Null))
                .unwrap()
                .is_empty()
        );
    }
}
