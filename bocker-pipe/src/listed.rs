//! `gc --listed`: what was listed is removed, and nothing else. A `gc --dry-run` names what it would remove, one JSON line each;
//! the same lines on stdin bound what a later `gc` takes, whatever has become garbage in between.

use std::collections::HashSet;
use std::io::{self, Read};

use serde_json::Value;

use crate::error::{Error, Kind, Result};

/// The members by which a line names its object: a container, a file, a claim.
const NAMES: [&str; 3] = ["id", "path", "claim"];

/// What may be removed.
#[derive(Debug, Default)]
pub struct Listed(Option<HashSet<String>>);

impl Listed {
    /// Reads the lines from stdin. Fails with [`Kind::Usage`] when they are not JSON.
    pub fn from_stdin() -> Result<Listed> {
        Listed::read(io::stdin().lock())
    }

    fn read(lines: impl Read) -> Result<Listed> {
        let mut names = HashSet::new();
        for line in serde_json::Deserializer::from_reader(lines).into_iter::<Value>() {
            let line = line.map_err(|error| {
                Error::new(Kind::Usage, format!("stdin is no list of 'gc': {error}"))
                    .hint("give what 'gc --dry-run' has printed")
            })?;
            let found = NAMES.iter().filter_map(|name| line.get(name)?.as_str());
            names.extend(found.map(str::to_owned));
        }
        Ok(Listed(Some(names)))
    }

    /// Whether this was listed. Without a list everything is.
    pub fn has(&self, name: &str) -> bool {
        self.0.as_ref().is_none_or(|names| names.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_list_all_may_go_and_with_one_only_what_it_names() {
        assert!(Listed::default().has("anything"));
        let lines = "{\"id\":\"ps_aaaaaa\",\"removed\":false}\n{\"kind\":\"blob\",\"path\":\"blobs/x\"}\n{\"claim\":\"/run/y\"}\n";
        let listed = Listed::read(lines.as_bytes()).unwrap();
        for name in ["ps_aaaaaa", "blobs/x", "/run/y"] {
            assert!(listed.has(name), "{name}");
        }
        assert!(!listed.has("ps_bbbbbb") && !listed.has("blob"));
        assert!(!Listed::read(&b""[..]).unwrap().has("anything"));
        assert!(Listed::read(&b"nothing"[..]).is_err());
    }
}
