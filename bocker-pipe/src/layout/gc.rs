//! What is left over in the layout: ingest files whose writer is dead, and blobs that no entry of `index.json` leads to.

use std::collections::BTreeSet;
use std::fs::{self, DirEntry};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::Value;

use super::blob::claim_file;
use super::digest::Digest;
use super::types::Descriptor;
use super::{INDEX_NEW, LOCK, Layout, MANIFEST_MAX, WRITERS};
use crate::error::{Doing, Error, Kind, Result};
use crate::lock;

/// One file that is left over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Garbage {
    /// `blob` or `ingest`.
    pub kind: &'static str,
    /// The file's path beneath the layout.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
}

impl Layout {
    /// Removes what is left over, older than `grace` and `may_go` by its path beneath the layout, or under a dry run only finds
    /// it; `each` hears of every file.
    /// Blobs are left alone while something is being written to the layout, since a blob may be there before what leads to it.
    pub fn gc(
        &self,
        grace: Duration,
        dry_run: bool,
        may_go: impl Fn(&str) -> bool,
        mut each: impl FnMut(Garbage) -> Result<()>,
    ) -> Result<()> {
        if !self.exists() {
            return Ok(());
        }
        let old = |entry: &DirEntry| {
            let age = entry
                .metadata()
                .and_then(|data| data.modified())
                .map(|time| SystemTime::now().duration_since(time));
            matches!(age, Ok(Ok(age)) if age >= grace) && may_go(&self.shown(&entry.path()))
        };
        for entry in files(&self.ingest())?.filter(old) {
            // A living writer holds it. What was renamed or removed since is nobody's to remove, and another's file of that name
            // is not this one.
            let Some(_held) = claim_file(&entry.path(), false)? else {
                continue;
            };
            self.collect("ingest", &entry, dry_run, &mut each)?;
        }
        {
            let path = self.root().join(LOCK);
            let _lock = match dry_run && !path.exists() {
                true => None,
                false => Some(lock::exclusive(&path)?),
            };
            for entry in files(self.root())?
                .filter(old)
                .filter(|entry| entry.file_name() == INDEX_NEW)
            {
                self.collect("ingest", &entry, dry_run, &mut each)?;
            }
        }
        let writers = self.0.join(WRITERS);
        // A dry run makes nothing, and where nobody has ever written nobody does now.
        let _alone = match dry_run && !writers.exists() {
            true => None,
            false => match lock::try_exclusive(&writers)? {
                None => return Ok(()),
                alone => alone,
            },
        };
        let reachable = self.reachable()?;
        let unreachable = |entry: &DirEntry| {
            !entry
                .file_name()
                .to_str()
                .is_some_and(|name| reachable.contains(name))
        };
        for entry in files(&self.blobs())?.filter(old).filter(unreachable) {
            self.collect("blob", &entry, dry_run, &mut each)?;
        }
        Ok(())
    }

    fn collect(
        &self,
        kind: &'static str,
        entry: &DirEntry,
        dry_run: bool,
        each: &mut impl FnMut(Garbage) -> Result<()>,
    ) -> Result<()> {
        let path = entry.path();
        let size = entry.metadata().map_or(0, |data| data.len());
        if !dry_run {
            fs::remove_file(&path).doing(|| format!("remove {}", path.display()))?;
        }
        each(Garbage {
            kind,
            path: self.shown(&path),
            size,
        })
    }

    /// A path beneath the layout.
    fn shown(&self, path: &Path) -> String {
        let below = path.strip_prefix(self.root()).unwrap_or(path);
        below.display().to_string()
    }

    /// The names of the blobs that the index leads to. Fails when something on the way is not understood: better too much kept.
    pub(super) fn reachable(&self) -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        let mut waiting: Vec<Value> = self.index()?.entries().to_vec();
        while let Some(entry) = waiting.pop() {
            let descriptor: Descriptor = serde_json::from_value(entry).map_err(|error| {
                let what = "the image store holds a descriptor that is not understood, so no blob is removed";
                Error::new(Kind::Invalid, format!("{what}: {error}"))
            })?;
            let annotated = descriptor.annotations.values();
            for digest in annotated.filter_map(|value| Digest::parse(value).ok()) {
                names.insert(digest.hex().to_owned());
            }
            if names.insert(descriptor.digest.hex().to_owned()) {
                self.mark(&descriptor.digest, &mut names, &mut waiting)?;
            }
        }
        Ok(names)
    }

    /// Marks what a manifest consists of and notes what an index leads to. Which of them it is, its members tell.
    fn mark(
        &self,
        digest: &Digest,
        names: &mut BTreeSet<String>,
        waiting: &mut Vec<Value>,
    ) -> Result<()> {
        let bytes = match self.read_blob(digest, MANIFEST_MAX) {
            // An index may well lead to what was never fetched.
            Err(error) if *error.kind() == Kind::NotFound => return Ok(()),
            result => result?,
        };
        let Ok(Value::Object(fields)) = serde_json::from_slice(&bytes) else {
            return Ok(());
        };
        let list = |name: &str| {
            fields
                .get(name)
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
        };
        waiting.extend(list("manifests").cloned());
        for leaf in fields.get("config").into_iter().chain(list("layers")) {
            let digest = leaf.get("digest").and_then(Value::as_str);
            if let Some(digest) = digest.and_then(|text| Digest::parse(text).ok()) {
                names.insert(digest.hex().to_owned());
            }
        }
        Ok(())
    }
}

fn files(folder: &Path) -> Result<impl Iterator<Item = DirEntry>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => Some(entries),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).doing(|| format!("list {}", folder.display())),
    };
    let is_file = |entry: &DirEntry| entry.file_type().is_ok_and(|kind| kind.is_file());
    Ok(entries
        .into_iter()
        .flatten()
        .filter_map(io::Result::ok)
        .filter(is_file))
}
