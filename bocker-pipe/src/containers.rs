//! Containers on disk: finding one by id, name or unique prefix, and reading its document.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};

use crate::document::{self, Document, MAX_SIZE};
use crate::error::{Doing, Error, Kind, Result};
use crate::id::Id;
use crate::part::Parts;
use crate::paths;

/// In a container's folder: its document, written by bocker-spawn.
pub const CONFIG: &str = "config.json";
/// In a container's folder: how it ended, written by bocker-spawn.
pub const STATUS: &str = "status";
/// In a container's folder: what it wrote, written by bocker-spawn.
pub const LOG: &str = "log";

/// More than there is in most documents.
const USUAL_SIZE: usize = 16 << 10;

/// The ids of all containers of this `BOCKER_ROOT`, sorted.
pub fn list() -> Result<Vec<Id>> {
    let folder = paths::containers();
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).doing(|| format!("read {}", folder.display())),
    };
    let mut ids: Vec<Id> = entries
        .flatten()
        .filter_map(|entry| Id::parse(entry.file_name().to_str()?).ok())
        .filter(Id::is_container)
        .collect();
    ids.sort();
    Ok(ids)
}

/// The containers whose documents say that they were made of the image with this manifest, sorted. A container on its way,
/// or with a damaged document, says nothing; what it stands on is bocker-snap's to keep.
pub fn of_image(digest: &str) -> Result<Vec<Id>> {
    let image = Parts::of(["/bocker/version", "/bocker/image/digest"]);
    let is_user = |id: &Id| {
        let document = load_parts(id, &image).ok()?;
        Some(document.value("/bocker/image/digest")?.as_str() == Some(digest))
    };
    let mut ids = list()?;
    ids.retain(|id| is_user(id).unwrap_or(false));
    Ok(ids)
}

/// Whether the text may be a container's name (as docker: two characters at least).
pub fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && text.len() >= 2
        && text.len() <= 128
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// Finds a container by its id, its name, or a prefix of one id only.
/// Fails with [`Kind::NotFound`], or [`Kind::Invalid`] for a prefix that is empty or not unique.
pub fn resolve(text: &str) -> Result<Id> {
    if text.is_empty() {
        return Err(Error::new(
            Kind::Invalid,
            "an empty name names no container",
        ));
    }
    let missing = || {
        Error::new(
            Kind::NotFound,
            format!("No container named '{text}' exists"),
        )
        .hint("'bocker ps' lists them")
    };
    if let Ok(id) = Id::parse(text) {
        return if id.is_container() && paths::container(&id).is_dir() {
            Ok(id)
        } else {
            Err(missing())
        };
    }
    if is_name(text)
        && let Ok(target) = fs::read_link(paths::names().join(text))
        && let Some(id) = target
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| Id::parse(name).ok())
        && paths::container(&id).is_dir()
    {
        return Ok(id);
    }
    let mut found = list()?
        .into_iter()
        .filter(|id| id.as_str().starts_with(text));
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(id),
        (Some(_), Some(_)) => Err(Error::new(
            Kind::Invalid,
            format!("several containers begin with '{text}'"),
        )
        .hint("give more characters")),
        (None, _) => Err(missing()),
    }
}

/// Reads a container's document. Fails with [`Kind::NotFound`] when it was never handed to bocker-spawn.
pub fn load(id: &Id) -> Result<Document> {
    read(id, Document::parse)
}

/// The same; empty when it was never handed to bocker-spawn, which says nothing then of how it is to run.
pub fn load_if_written(id: &Id) -> Result<Document> {
    match load(id) {
        Err(error) if error.kind() == &Kind::NotFound => Ok(Document::new()),
        document => document,
    }
}

/// The same of some parts of it only, which takes a tenth of the time.
pub fn load_parts(id: &Id, parts: &Parts) -> Result<Document> {
    read(id, |bytes| {
        let tree = parts.read(bytes).map_err(|error| {
            Error::new(Kind::Document, format!("the document is not JSON: {error}"))
        })?;
        Document::from_tree(tree)
    })
}

fn read(id: &Id, document: impl FnOnce(&[u8]) -> Result<Document>) -> Result<Document> {
    let path = paths::container(id).join(CONFIG);
    let read = |file| whole(file).and_then(|bytes| document(&bytes));
    match File::open(&path) {
        Ok(file) => read(file).map_err(|error| {
            let what = format!("{}: {}", path.display(), error.message());
            Error::new(error.kind().clone(), what).hint(match error.kind() {
                // What else there is of it only that knows.
                Kind::Version => "use the release that wrote it".into(),
                _ => format!("remove the container with 'bocker rm -f {id}'"),
            })
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::new(
            Kind::NotFound,
            format!("{id} was never started: it has no {CONFIG}"),
        )
        .hint("'bocker system prune' removes what was left half made")),
        Err(error) => Err(error).doing(|| format!("open {}", path.display())),
    }
}

/// All of a document's file, by two calls of read(2) where it is as small as nearly all are: the second one says that it is all.
fn whole(mut file: File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut length = 0;
    loop {
        bytes.resize(length + USUAL_SIZE, 0);
        match file.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).doing(|| "read the document".into()),
        }
        if length as u64 > MAX_SIZE {
            let what = document::unreadable(&document::too_large());
            return Err(Error::new(Kind::Document, what));
        }
    }
    bytes.truncate(length);
    // A pipe that ends without a document has a stage before it to blame; a file has not.
    match length {
        0 => Err(Error::new(Kind::Document, "the document is empty")),
        _ => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_docker_takes() {
        for name in ["web", "a1", "a.b-c_d", "9x"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "a", ".a", "-a", "a/b", "a b", "..", "a\n"] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn the_empty_prefix_is_refused() {
        assert_eq!(resolve("").unwrap_err().kind(), &Kind::Invalid);
    }
}
