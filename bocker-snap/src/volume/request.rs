//! What a container is to see besides its root, in docker's words: `--volume`, `--mount` and `--tmpfs`.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};
use std::{fs, iter};

use bocker_pipe::document::Mount;
use bocker_pipe::{Doing, Error, Kind, Result, containers, size};
use serde::{Deserialize, Serialize};

use super::Volume;
use crate::tree;

/// What mount_namespaces(7) calls propagation types, alone and recursive.
const PROPAGATIONS: [&str; 6] = [
    "private", "rprivate", "shared", "rshared", "slave", "rslave",
];
/// Options of `--volume` that say nothing here: labels of SELinux, and how a virtual machine may cache.
const IGNORED: [&str; 5] = ["z", "Z", "cached", "consistent", "delegated"];
/// What a tmpfs has unless told otherwise, as docker's.
const TMPFS_DEFAULTS: [&str; 3] = ["noexec", "nosuid", "nodev"];
/// Flags of mount(8), and options of tmpfs(5) with values, that `--tmpfs` takes.
const TMPFS_FLAGS: [&str; 14] = [
    "ro",
    "rw",
    "exec",
    "noexec",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "atime",
    "noatime",
    "relatime",
    "strictatime",
    "diratime",
    "nodiratime",
];
const TMPFS_NUMBERS: [&str; 4] = ["uid", "gid", "nr_inodes", "nr_blocks"];
/// What is mounted there decides what the container's own processes and the tools are told of the kernel.
const PROC: &str = "/proc";

/// What is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Source {
    /// A path of the host.
    Bind,
    /// A volume, by name.
    Volume,
    /// An empty filesystem in memory.
    Tmpfs,
}

/// One thing to be mounted, as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    #[serde(rename = "type")]
    pub(crate) kind: Source,
    /// An absolute path of the host, the name of a volume, or nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) source: String,
    /// Where the container sees it, absolute.
    pub(crate) destination: String,
    /// Whether the container may only read.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) readonly: bool,
    /// A volume that was not named by anybody, and may go with the container.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) anonymous: bool,
    /// A new volume stays empty.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) nocopy: bool,
    /// What of a volume is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subpath: Option<String>,
    /// Of a bind mount, unless it is private.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) propagation: Option<String>,
    /// Of a tmpfs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) options: Vec<String>,
    /// Of a volume that is made for it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
    /// A directory of the host that is missing is made.
    #[serde(skip)]
    pub(crate) is_made: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's shape")]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl Request {
    fn new(kind: Source, destination: String) -> Request {
        Request {
            kind,
            source: String::new(),
            destination,
            readonly: false,
            anonymous: false,
            nocopy: false,
            subpath: None,
            propagation: None,
            options: Vec::new(),
            labels: BTreeMap::new(),
            is_made: false,
        }
    }

    /// A volume that nobody has named. Fails with [`Kind::Usage`] when the destination is none.
    pub(crate) fn anonymous(destination: &str) -> Result<Request> {
        let mut request = Request::new(Source::Volume, destination_of(destination)?);
        request.source = super::random_name()?;
        request.anonymous = true;
        Ok(request)
    }

    /// Takes `[SOURCE:]DESTINATION[:OPTION,...]`. A source that begins with `/` or `.` is a path, anything else a name.
    pub(crate) fn parse(text: &str) -> Result<Request> {
        let malformed = |why: &str| {
            Error::new(Kind::Usage, format!("'{text}' is not a volume: {why}"))
                .hint("give SOURCE:DESTINATION, and :ro after it for one that is only read")
        };
        let parts: Vec<&str> = text.split(':').collect();
        let (source, destination, options) = match parts[..] {
            [destination] => (None, destination, ""),
            [source, destination] => (Some(source), destination, ""),
            [source, destination, options] => (Some(source), destination, options),
            _ => return Err(malformed("it has more than three parts")),
        };
        let destination = |kind| -> Result<Request> {
            Ok(Request::new(
                kind,
                destination_of(destination).map_err(|error| malformed(error.message()))?,
            ))
        };
        let mut request = match source {
            None => Request::anonymous(parts[0]).map_err(|error| malformed(error.message()))?,
            Some(source) if source.starts_with(['/', '.']) => {
                let mut request = destination(Source::Bind)?;
                let (path, is_there) = path_of(source)?;
                request.source = path;
                request.is_made = !is_there;
                request
            }
            Some(source) if containers::is_name(source) => {
                let mut request = destination(Source::Volume)?;
                source.clone_into(&mut request.source);
                request
            }
            Some(_) => return Err(malformed("its source is neither a path nor a name")),
        };
        for option in options.split(',').filter(|_| parts.len() == 3) {
            match (option, request.kind) {
                ("ro", _) => request.readonly = true,
                ("rw", _) => request.readonly = false,
                ("nocopy", Source::Volume) => request.nocopy = true,
                (word, Source::Bind) if PROPAGATIONS.contains(&word) => {
                    request.propagation = Some(word.into());
                }
                (word, _) if IGNORED.contains(&word) => {}
                (word, _) => return Err(malformed(&format!("'{word}' is no option of it"))),
            }
        }
        Ok(request)
    }

    /// Takes `type=bind|volume|tmpfs,source=...,target=...,...`, a line of CSV as docker has it.
    pub(crate) fn parse_mount(text: &str) -> Result<Request> {
        let malformed = |why: String| {
            Error::new(Kind::Usage, format!("'{text}' is not a mount: {why}"))
                .hint("give type=bind|volume|tmpfs, source=, target= and perhaps readonly")
        };
        let fields = csv(text).ok_or_else(|| malformed("a quote is not closed".into()))?;
        let pairs: Vec<(&str, Option<&str>)> = fields
            .iter()
            .map(|field| match field.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (&**field, None),
            })
            .collect();
        let last = |names: &[&str]| {
            let mut found = pairs.iter().rev().filter(|(key, _)| names.contains(key));
            found.find_map(|(_, value)| *value)
        };
        let kind = match last(&["type"]) {
            Some("bind") => Source::Bind,
            None | Some("volume") => Source::Volume,
            Some("tmpfs") => Source::Tmpfs,
            Some(other) => return Err(malformed(format!("there is no type '{other}' here"))),
        };
        let destination = last(&["target", "destination", "dst"])
            .ok_or_else(|| malformed("its target is missing".into()))?;
        let destination =
            destination_of(destination).map_err(|error| malformed(error.message().into()))?;
        let mut request = Request::new(kind, destination);
        match (kind, last(&["source", "src"])) {
            (Source::Bind, Some(source)) => {
                let (path, is_there) = path_of(source)?;
                if !is_there {
                    let what = format!("the source {source} of a bind mount does not exist");
                    return Err(Error::new(Kind::NotFound, what)
                        .hint("make it first, or use -v, which makes a directory"));
                }
                request.source = path;
            }
            (Source::Bind, None) => return Err(malformed("its source is missing".into())),
            (Source::Volume, Some(name)) if containers::is_name(name) => {
                name.clone_into(&mut request.source);
            }
            (Source::Volume, None) => {
                request.source = super::random_name()?;
                request.anonymous = true;
            }
            (Source::Volume, Some(name)) => {
                return Err(malformed(format!("'{name}' is no name for a volume")));
            }
            (Source::Tmpfs, Some(_)) => return Err(malformed("a tmpfs has no source".into())),
            (Source::Tmpfs, None) => request.options = TMPFS_DEFAULTS.map(Into::into).into(),
        }
        for (key, value) in pairs {
            let text = || {
                value
                    .filter(|value| !value.is_empty())
                    .ok_or_else(|| malformed(format!("{key} has no value")))
            };
            let flag = || match value {
                None | Some("true" | "1") => Ok(true),
                Some("false" | "0") => Ok(false),
                Some(_) => Err(malformed(format!("{key} is true or false"))),
            };
            match (key, kind) {
                ("type" | "source" | "src" | "target" | "destination" | "dst", _) => {
                    text()?;
                }
                ("readonly" | "ro", _) => request.readonly = flag()?,
                ("consistency", _) => {}
                ("bind-propagation", Source::Bind) => {
                    let word = text()?;
                    if !PROPAGATIONS.contains(&word) {
                        return Err(malformed(format!("'{word}' is no propagation")));
                    }
                    request.propagation = Some(word.into());
                }
                ("volume-nocopy", Source::Volume) => request.nocopy = flag()?,
                ("volume-subpath", Source::Volume) => {
                    let below = destination_of(&format!("/{}", text()?));
                    let below = below.map_err(|error| malformed(error.message().into()))?;
                    request.subpath = Some(below[1..].to_owned());
                }
                ("volume-label", Source::Volume) => {
                    let (name, value) = label(text()?);
                    request.labels.insert(name, value);
                }
                ("volume-driver", Source::Volume) if value == Some("local") => {}
                ("tmpfs-size", Source::Tmpfs) => {
                    let bytes = size::parse(text()?)?;
                    request.options.push(format!("size={bytes}"));
                }
                ("tmpfs-mode", Source::Tmpfs) => {
                    let option = tmpfs_option(&format!("mode={}", text()?));
                    request
                        .options
                        .push(option.ok_or_else(|| malformed("its mode is not octal".into()))?);
                }
                _ => {
                    return Err(malformed(format!(
                        "{key} is nothing that can be said of it"
                    )));
                }
            }
        }
        Ok(request)
    }

    /// Takes `DESTINATION[:OPTION,...]`.
    pub(crate) fn parse_tmpfs(text: &str) -> Result<Request> {
        let malformed = |why: &str| {
            Error::new(Kind::Usage, format!("'{text}' is not a tmpfs: {why}"))
                .hint("give DESTINATION, and perhaps :size=64m,mode=1777,exec after it")
        };
        let (destination, options) = text.split_once(':').unwrap_or((text, ""));
        let destination =
            destination_of(destination).map_err(|error| malformed(error.message()))?;
        let mut request = Request::new(Source::Tmpfs, destination);
        request.options = TMPFS_DEFAULTS.map(Into::into).into();
        for word in options.split(',').filter(|word| !word.is_empty()) {
            let option = tmpfs_option(word)
                .ok_or_else(|| malformed(&format!("'{word}' is no option of it")))?;
            request.options.push(option);
        }
        Ok(request)
    }

    /// The volume, where it is one.
    pub(crate) fn volume(&self) -> Option<Volume> {
        (self.kind == Source::Volume).then(|| Volume::named(&self.source))
    }

    /// What the document says about it. No device file on a volume can be opened.
    pub(crate) fn mount(&self) -> Result<Mount> {
        let mut options: Vec<String> = match self.kind {
            Source::Tmpfs => self.options.clone(),
            _ => {
                let propagation = self.propagation.as_deref().unwrap_or("rprivate");
                ["rbind", propagation, "nodev"].map(Into::into).into()
            }
        };
        if self.readonly {
            options.push("ro".into());
        }
        let source = match self.volume() {
            Some(volume) => {
                let mut path = volume.data();
                path.extend(&self.subpath);
                tree::text(&path)?.to_owned()
            }
            None if self.kind == Source::Tmpfs => "tmpfs".into(),
            None => self.source.clone(),
        };
        let kind = match self.kind {
            Source::Tmpfs => "tmpfs",
            _ => "bind",
        };
        Ok(Mount {
            destination: self.destination.clone(),
            kind: Some(kind.into()),
            source: Some(source),
            options,
        })
    }
}

/// `KEY=VALUE`, or `KEY` for an empty value.
pub(crate) fn label(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    (name.to_owned(), value.to_owned())
}

/// An option of a tmpfs as the kernel takes it; `None` for one that it does not, or that is not the container's to choose.
fn tmpfs_option(word: &str) -> Option<String> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match word.split_once('=') {
        None => TMPFS_FLAGS.contains(&word).then(|| word.to_owned()),
        Some(("size", value)) => match value.strip_suffix('%') {
            Some(part) => is_number(part).then(|| word.to_owned()),
            None => Some(format!("size={}", size::parse(value).ok()?)),
        },
        Some(("mode", value)) => {
            let mode = u32::from_str_radix(value, 8).ok()?;
            (mode <= 0o7777 && !value.starts_with('+')).then(|| format!("mode={mode:o}"))
        }
        Some((key, value)) => {
            (TMPFS_NUMBERS.contains(&key) && is_number(value)).then(|| word.to_owned())
        }
    }
}

/// The fields of a line of CSV (RFC 4180): one in quotes may hold commas, and a quote doubled. `None` for one without its end.
fn csv(line: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let mut field = String::new();
        if let Some(mut quoted) = rest.strip_prefix('"') {
            loop {
                let (part, after) = quoted.split_once('"')?;
                field.push_str(part);
                match after.strip_prefix('"') {
                    Some(more) => {
                        field.push('"');
                        quoted = more;
                    }
                    None => {
                        rest = after;
                        break;
                    }
                }
            }
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            field.push_str(&rest[..end]);
            rest = &rest[end..];
        }
        fields.push(field);
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return rest.is_empty().then_some(fields),
        }
    }
}

/// A path of the host, absolute and without links as far as it is there, and whether it is. What is missing at its end can
/// be made: it has no `..`.
fn path_of(text: &str) -> Result<(String, bool)> {
    let asked = std::path::absolute(text).doing(|| format!("find {text}"))?;
    let mut below: Vec<&std::ffi::OsStr> = Vec::new();
    let mut at: &Path = &asked;
    loop {
        match fs::canonicalize(at) {
            Ok(found) => {
                let path: PathBuf = iter::once(found.as_os_str())
                    .chain(below.iter().rev().copied())
                    .collect();
                return Ok((tree::text(&path)?.to_owned(), below.is_empty()));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).doing(|| format!("find {text}")),
        }
        match (at.parent(), at.file_name()) {
            (Some(parent), Some(name)) => {
                below.push(name);
                at = parent;
            }
            _ => {
                return Err(Error::new(
                    Kind::NotFound,
                    format!("{text} leads out of a directory that does not exist"),
                )
                .hint("make it first"));
            }
        }
    }
}

/// The destination without `.` and doubled slashes; it must be absolute, and not the root itself.
fn destination_of(text: &str) -> Result<String> {
    let mut path = String::new();
    let mut parts = Path::new(text).components();
    let is_absolute = parts.next() == Some(Component::RootDir);
    for part in parts {
        match part {
            Component::Normal(name) => {
                path.push('/');
                path.push_str(tree::text(Path::new(name))?);
            }
            _ => {
                path.clear();
                break;
            }
        }
    }
    if !is_absolute || path.is_empty() {
        let what = "its destination is not an absolute path below the root";
        return Err(Error::new(Kind::Usage, what));
    }
    if Path::new(&path).starts_with(PROC) {
        let what = format!("nothing is mounted at or below {PROC}");
        return Err(Error::new(Kind::Usage, what));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn options(request: &Request) -> Vec<String> {
        request.mount().unwrap().options
    }

    #[test]
    fn a_volume_is_a_path_or_a_name_and_a_destination() {
        let request = Request::parse("/tmp/..:/data").unwrap();
        assert_eq!((&*request.source, &*request.destination), ("/", "/data"));
        assert!(request.volume().is_none() && !request.readonly && !request.is_made);
        let request = Request::parse("cache:/var//cache/:ro,nocopy").unwrap();
        assert_eq!(
            (&*request.source, &*request.destination),
            ("cache", "/var/cache")
        );
        assert!(request.readonly && request.nocopy && !request.anonymous);
        assert_eq!(options(&request), ["rbind", "rprivate", "nodev", "ro"]);
        let request = Request::parse("/tmp:/x:rslave,z").unwrap();
        assert_eq!(options(&request), ["rbind", "rslave", "nodev"]);
    }

    #[test]
    fn a_destination_alone_is_a_volume_of_a_name_that_no_other_has() {
        let [one, two] = ["/data", "/data"].map(|text| Request::parse(text).unwrap());
        assert!(one.anonymous && containers::is_name(&one.source));
        assert_ne!(one.source, two.source);
        let mount = Request::parse_mount("target=/data").unwrap();
        assert!(mount.anonymous && mount.kind == Source::Volume);
    }

    #[test]
    fn what_is_missing_of_a_path_can_be_made_where_it_is_told_without_dots() {
        let folder = tempfile::tempdir().unwrap();
        let folder = fs::canonicalize(folder.path()).unwrap();
        std::os::unix::fs::symlink(&folder, folder.join("link")).unwrap();
        let text = format!("{}/link/a/b:/x", folder.display());
        let request = Request::parse(&text).unwrap();
        assert!(request.is_made);
        assert_eq!(Path::new(&request.source), folder.join("a/b"));
        let dots = format!("{}/a/../b:/x", folder.display());
        assert_eq!(Request::parse(&dots).unwrap_err().kind(), &Kind::NotFound);
        let mount = format!("type=bind,src={}/a,dst=/x", folder.display());
        let error = Request::parse_mount(&mount).unwrap_err();
        assert_eq!(error.kind(), &Kind::NotFound);
    }

    #[test]
    fn a_volume_that_could_mean_something_else_is_refused() {
        for text in [
            "",
            ":",
            "a",
            "data",
            "x:",
            ":/x",
            "cache:data",
            "cache:/",
            "cache:/a/../b",
            "a/b:/x",
            "cache:/x:q",
            "cache:/x:",
            "cache:/x:ro:ro",
            "cache:/x:rshared",
            "/tmp:/x:nocopy",
            "cache:/proc",
            "cache:/proc/sys/x",
        ] {
            assert!(Request::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_mount_is_told_by_dockers_keys() {
        let text = "type=bind,source=/tmp,destination=/x,readonly=1,bind-propagation=rshared";
        let request = Request::parse_mount(text).unwrap();
        assert_eq!(options(&request), ["rbind", "rshared", "nodev", "ro"]);
        let text = "src=cache,dst=/x,volume-nocopy,\"volume-label=a=b,c\",volume-subpath=in//it";
        let request = Request::parse_mount(text).unwrap();
        assert!(request.nocopy && !request.readonly);
        assert_eq!(request.labels["a"], "b,c");
        let source = request.mount().unwrap().source.unwrap();
        assert!(source.ends_with("/volumes/cache/data/in/it"), "{source}");
        let text = "type=tmpfs,target=/x,tmpfs-size=1m,tmpfs-mode=700,readonly=false";
        assert_eq!(
            options(&Request::parse_mount(text).unwrap()),
            ["noexec", "nosuid", "nodev", "size=1048576", "mode=700"]
        );
    }

    #[test]
    fn a_mount_that_is_not_understood_is_refused() {
        for text in [
            "",
            "type=bind",
            "type=image,source=x,target=/x",
            "type=bind,target=/x",
            "type=bind,source=,target=/x",
            "type=tmpfs,source=/tmp,target=/x",
            "type=tmpfs,target=/x,volume-nocopy",
            "type=tmpfs,target=/x,tmpfs-mode=9",
            "type=tmpfs,target=/x,tmpfs-mode=+7",
            "type=volume,source=/tmp,target=/x",
            "type=volume,source=cache,target=/x,readonly=maybe",
            "type=volume,source=cache,target=/x,volume-subpath=../x",
            "type=volume,source=cache,target=/x,volume-driver=nfs",
            "type=volume,source=cache,target=/x,nonsense",
            "type=bind,source=/tmp,target=/x,bind-propagation=loud",
            "\"type=tmpfs,target=/x",
            "\"type=tmpfs\"x,target=/x",
        ] {
            assert!(Request::parse_mount(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_tmpfs_takes_what_the_kernel_takes_and_the_last_word_counts() {
        let request = Request::parse_tmpfs("/run:exec,size=64k,mode=0755,uid=5").unwrap();
        let expected = [
            "noexec",
            "nosuid",
            "nodev",
            "exec",
            "size=65536",
            "mode=755",
            "uid=5",
        ];
        assert_eq!(options(&request), expected);
        Request::parse_tmpfs("/run").unwrap();
        Request::parse_tmpfs("/run:size=10%").unwrap();
        for text in [
            "",
            "run",
            "/",
            "/run:size=",
            "/run:size=x",
            "/run:mode=8",
            "/run:huge=always",
            "/run:uid=-1",
            "/run:bind",
            "/run:remount",
        ] {
            assert!(Request::parse_tmpfs(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_has_a_destination_below_the_root_and_a_source_that_is_a_path_or_a_name(
            text in "[a-z/.:,=\"%0-9]{0,40}|type=(bind|volume|tmpfs),(src|dst|ro|tmpfs-mode)=[a-z/.,\"=7]{0,20},dst=/[a-z/.]{0,9}",
        ) {
            let parsers = [Request::parse, Request::parse_mount, Request::parse_tmpfs];
            for request in parsers.into_iter().filter_map(|parse| parse(&text).ok()) {
                let below = Path::new(&request.destination);
                prop_assert!(below.components().skip(1).all(|part| matches!(part, Component::Normal(_))));
                prop_assert!(request.destination.len() > 1 && !below.starts_with(PROC));
                let is_one = match request.kind {
                    Source::Bind => request.source.starts_with('/'),
                    Source::Volume => containers::is_name(&request.source),
                    Source::Tmpfs => request.source.is_empty(),
                };
                prop_assert!(is_one, "{}", request.source);
                request.mount().unwrap();
            }
        }
    }

    #[test]
    fn a_line_is_parted_as_rfc_4180_says() {
        let parted = |line: &str| csv(line);
        let fields = |fields: &[&str]| Some(fields.iter().map(ToString::to_string).collect());
        assert_eq!(parted("a,b=c,"), fields(&["a", "b=c", ""]));
        assert_eq!(parted("\"a,b\",c"), fields(&["a,b", "c"]));
        assert_eq!(parted("\"a\"\"b\""), fields(&["a\"b"]));
        assert_eq!(parted("\"a"), None);
        assert_eq!(parted("\"a\"b"), None);
    }
}
