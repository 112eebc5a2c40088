//! Configuration lists (SPEC.md, section 1): found by the network's name or by a path, read, and turned into what each plugin
//! gets on its stdin (section 3, "Deriving execution configuration from plugin configuration").

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use bocker_pipe::{Doing, Error, Kind, Result};
use serde_json::{Map, Value, json};

use super::version::Version;
use super::{MAX_SIZE, is_name};

/// Where administrators put them.
const FOLDER: &str = "/etc/cni/net.d";
/// A file with one of these endings is one; the last two may hold a single plugin's configuration instead of a list.
const ENDINGS: [&str; 3] = ["conflist", "conf", "json"];
const MAX_PLUGINS: usize = 64;

/// Which list: what `--cni` was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// That of this name, in the administrator's folder.
    Name(String),
    /// This file.
    File(PathBuf),
}

impl Source {
    /// What has a slash in it, or ends as such files do, is a path. Fails with [`Kind::Usage`] when it can be neither.
    pub(crate) fn parse(text: &str) -> Result<Source> {
        let path = Path::new(text);
        if text.contains('/') || has_ending(path) {
            return Ok(Source::File(path.into()));
        }
        if is_name(text) {
            return Ok(Source::Name(text.to_owned()));
        }
        Err(Error::new(
            Kind::Usage,
            format!("'{text}' is neither the name of a CNI network nor a file of one"),
        )
        .hint("give letters, digits, '_', '.' and '-', or a path to a .conflist or .conf"))
    }

    /// Reads it. Fails with [`Kind::NotFound`], or [`Kind::Invalid`] where it is malformed.
    pub(crate) fn load(&self) -> Result<List> {
        match self {
            Source::File(path) => read(path),
            Source::Name(name) => find(Path::new(FOLDER), name),
        }
    }
}

/// One plugin of a list.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plugin {
    /// The name of its program.
    pub(crate) kind: String,
    /// As it stands in the list.
    configuration: Map<String, Value>,
}

/// A configuration list.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct List {
    pub(crate) name: String,
    /// Those that it is written for and we speak, lowest first; at least one.
    pub(crate) versions: Vec<Version>,
    pub(crate) disable_check: bool,
    /// At least one.
    pub(crate) plugins: Vec<Plugin>,
    /// Verbatim: what it was when ADD was called, DEL is to be given (SPEC.md, section 3).
    pub(crate) source: Value,
}

impl List {
    /// Takes a list, or the configuration of a single plugin. Fails with [`Kind::Invalid`], or [`Kind::Unsupported`] when
    /// it is written for versions that we do not speak.
    pub(crate) fn parse(source: Value) -> Result<List> {
        let refuse = |what: &str| Err(Error::new(Kind::Invalid, what));
        let Some(members) = source.as_object() else {
            return refuse("it is not a JSON object");
        };
        let Some(name) = members.get("name").and_then(Value::as_str) else {
            return refuse("it has no name");
        };
        if !is_name(name) {
            return refuse(&format!(
                "its name '{name}' is not one: letters, digits, '_', '.' and '-'"
            ));
        }
        let single = [source.clone()];
        let plugins = match members.get("plugins") {
            Some(Value::Array(plugins)) => plugins.as_slice(),
            Some(_) => return refuse("its plugins are not an array"),
            None => &single,
        };
        if plugins.is_empty() || plugins.len() > MAX_PLUGINS {
            return refuse(&format!("it has not between 1 and {MAX_PLUGINS} plugins"));
        }
        let plugins: Result<Vec<Plugin>> = plugins.iter().map(plugin).collect();
        Ok(List {
            name: name.to_owned(),
            versions: versions(members)?,
            // Older lists have it as a text.
            disable_check: match members.get("disableCheck") {
                Some(Value::String(text)) => text == "true",
                other => other == Some(&Value::Bool(true)),
            },
            plugins: plugins?,
            source,
        })
    }

    /// What a plugin gets on its stdin. `capabilities` is all that could be passed to plugins that ask for it.
    pub(crate) fn input(
        &self,
        plugin: &Plugin,
        version: Version,
        capabilities: &Map<String, Value>,
        previous: Option<&Value>,
    ) -> Value {
        let mut input = plugin.configuration.clone();
        let wanted = plugin.capabilities();
        let given: Map<String, Value> = capabilities
            .iter()
            .filter(|(name, _)| wanted.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        input.shift_remove("capabilities");
        input.insert("cniVersion".into(), version.as_str().into());
        input.insert("name".into(), self.name.as_str().into());
        if !given.is_empty() {
            input.insert("runtimeConfig".into(), given.into());
        }
        if let Some(previous) = previous {
            input.insert("prevResult".into(), previous.clone());
        }
        input.into()
    }

    /// Whether a plugin of the list asks for this capability.
    pub(crate) fn takes(&self, capability: &str) -> bool {
        self.plugins
            .iter()
            .any(|plugin| plugin.capabilities().contains(&capability))
    }
}

impl Plugin {
    fn capabilities(&self) -> Vec<&str> {
        let all = self
            .configuration
            .get("capabilities")
            .and_then(Value::as_object);
        all.into_iter()
            .flatten()
            .filter(|(_, wanted)| **wanted == Value::Bool(true))
            .map(|(name, _)| name.as_str())
            .collect()
    }
}

fn plugin(configuration: &Value) -> Result<Plugin> {
    let refuse = |what: &str| Err(Error::new(Kind::Invalid, what));
    let Some(members) = configuration.as_object() else {
        return refuse("one of its plugins is not an object");
    };
    match members.get("type").and_then(Value::as_str) {
        Some(kind) if is_name(kind) => Ok(Plugin {
            kind: kind.to_owned(),
            configuration: members.clone(),
        }),
        Some(kind) => refuse(&format!("the type '{kind}' is not the name of a program")),
        None => refuse("one of its plugins has no type"),
    }
}

/// Those that we speak, of `cniVersion` and `cniVersions`.
fn versions(members: &Map<String, Value>) -> Result<Vec<Version>> {
    let one = members.get("cniVersion").and_then(Value::as_str);
    let several = members.get("cniVersions").and_then(Value::as_array);
    let several = several.into_iter().flatten().filter_map(Value::as_str);
    let named: Vec<&str> = one.into_iter().chain(several).collect();
    let mut versions: Vec<Version> = named
        .iter()
        .filter_map(|text| Version::parse(text))
        .collect();
    versions.sort();
    versions.dedup();
    if !versions.is_empty() {
        return Ok(versions);
    }
    let named = match named.is_empty() {
        true => "no version".to_owned(),
        false => format!("version {}", named.join(", ")),
    };
    Err(Error::new(
        Kind::Unsupported,
        format!(
            "it is of {named} of CNI, and {} are spoken",
            Version::list()
        ),
    ))
}

fn has_ending(path: &Path) -> bool {
    path.extension()
        .is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known))
}

fn read(path: &Path) -> Result<List> {
    let what = || format!("read the CNI configuration {}", path.display());
    let mut bytes = Vec::new();
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let message = format!("there is no CNI configuration {}", path.display());
            return Err(Error::new(Kind::NotFound, message));
        }
        file => file.doing(what)?,
    };
    file.take(MAX_SIZE as u64 + 1)
        .read_to_end(&mut bytes)
        .doing(what)?;
    parse(&bytes).map_err(|error| {
        let message = format!(
            "the CNI configuration {}: {}",
            path.display(),
            error.message()
        );
        Error::new(error.kind().clone(), message)
    })
}

fn parse(bytes: &[u8]) -> Result<List> {
    let invalid = |message: String| Error::new(Kind::Invalid, message);
    if bytes.len() > MAX_SIZE {
        return Err(invalid(format!("it is larger than {} MiB", MAX_SIZE >> 20)));
    }
    let source: Value = serde_json::from_slice(bytes)
        .map_err(|error| invalid(format!("it is not JSON: {error}")))?;
    List::parse(source)
}

/// The first of this name, in the order of the files' names.
fn find(folder: &Path, name: &str) -> Result<List> {
    let mut paths = match fs::read_dir(folder) {
        Ok(entries) => entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| has_ending(path))
            .collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).doing(|| format!("read {}", folder.display())),
    };
    paths.sort();
    let (mut others, mut unreadable) = (Vec::new(), Vec::new());
    for path in paths {
        match read(&path) {
            Ok(list) if list.name == name => return Ok(list),
            Ok(list) => others.push(list.name),
            Err(error) => unreadable.push(error.message().to_owned()),
        }
    }
    let hint = match (&others[..], &unreadable[..]) {
        ([], []) => "put its configuration list there, or give a path to one".to_owned(),
        (names, []) => format!("there are {}", names.join(", ")),
        ([], broken) => broken.join("; "),
        (names, broken) => format!("there are {}; {}", names.join(", "), broken.join("; ")),
    };
    let message = format!("there is no CNI network '{name}' in {}", folder.display());
    Err(Error::new(Kind::NotFound, message).hint(hint))
}

/// The stdin of STATUS and VERSION, which are about no network in particular.
pub(crate) fn bare_input(version: Version) -> Value {
    json!({"cniVersion": version.as_str()})
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(text: &str) -> Result<List> {
        parse(text.as_bytes())
    }

    fn refused(text: &str, says: &str) {
        let error = list(text).unwrap_err();
        assert!(error.message().contains(says), "{text}: {error}");
    }

    #[test]
    fn a_word_is_a_name_and_what_looks_like_a_file_is_one() {
        assert_eq!(
            Source::parse("podman").unwrap(),
            Source::Name("podman".into())
        );
        for path in ["./podman", "a.conflist", "/etc/cni/net.d/a", "a.conf"] {
            assert_eq!(Source::parse(path).unwrap(), Source::File(path.into()));
        }
        for text in ["", "a b", "-a", ".", "..", "ä", "a\n"] {
            assert_eq!(
                Source::parse(text).unwrap_err().kind(),
                &Kind::Usage,
                "{text:?}"
            );
        }
    }

    #[test]
    fn what_is_no_configuration_says_why() {
        refused("", "not JSON");
        refused("[]", "not a JSON object");
        refused("{}", "no name");
        refused(r#"{"name":"../x","type":"a"}"#, "is not one");
        refused(
            r#"{"name":"x","cniVersion":"1.0.0","plugins":[]}"#,
            "between 1 and 64",
        );
        refused(
            r#"{"name":"x","cniVersion":"1.0.0","plugins":{}}"#,
            "not an array",
        );
        refused(
            r#"{"name":"x","cniVersion":"1.0.0","plugins":[{}]}"#,
            "no type",
        );
        refused(
            r#"{"name":"x","cniVersion":"1.0.0","plugins":[{"type":"../../bin/sh"}]}"#,
            "not the name of a program",
        );
        refused(r#"{"name":"x","plugins":[{"type":"a"}]}"#, "no version");
        refused(
            r#"{"name":"x","cniVersion":"0.2.0","plugins":[{"type":"a"}]}"#,
            "version 0.2.0",
        );
        refused(&" ".repeat(MAX_SIZE + 1), "larger than");
        refused(&"[".repeat(10_000), "not JSON");
    }

    #[test]
    fn versions_of_both_members_count_and_unknown_ones_do_not() {
        let text = r#"{"name":"x","cniVersion":"0.4.0","cniVersions":["1.1.0","0.4.0","9.9.9"],"type":"a"}"#;
        assert_eq!(
            list(text).unwrap().versions,
            [Version::V0_4_0, Version::V1_1_0]
        );
    }

    #[test]
    fn a_plugin_gets_its_own_configuration_and_only_the_capabilities_that_it_asks_for() {
        let text = r#"{"name":"x","cniVersion":"1.0.0","plugins":[
            {"type":"a","unknown":1e+400,"capabilities":{"mac":true,"ips":false}},{"type":"b"}]}"#;
        let list = list(text).unwrap();
        let capabilities =
            json!({"mac": "02:42:00:00:00:01", "ips": ["10.0.0.2"], "bandwidth": {}});
        let capabilities = capabilities.as_object().unwrap();
        let previous = json!({"cniVersion": "1.0.0"});
        let input = |place: usize, previous| {
            let plugin = &list.plugins[place];
            list.input(plugin, Version::V1_0_0, capabilities, previous)
                .to_string()
        };
        assert_eq!(
            input(0, None),
            r#"{"type":"a","unknown":1e+400,"cniVersion":"1.0.0","name":"x","runtimeConfig":{"mac":"02:42:00:00:00:01"}}"#
        );
        assert_eq!(
            input(1, Some(&previous)),
            r#"{"type":"b","cniVersion":"1.0.0","name":"x","prevResult":{"cniVersion":"1.0.0"}}"#
        );
        assert!(list.takes("mac") && !list.takes("ips") && !list.takes("portMappings"));
    }

    #[test]
    fn a_network_is_found_by_its_name_whatever_the_file_is_called() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write(
            "10-a.conflist",
            r#"{"name":"one","cniVersion":"1.0.0","plugins":[{"type":"a"}]}"#,
        );
        write(
            "20-b.conf",
            r#"{"name":"two","cniVersion":"0.4.0","type":"b"}"#,
        );
        write("30-c.conf", "{");
        write("README", "{");
        assert_eq!(find(folder.path(), "two").unwrap().plugins[0].kind, "b");
        let error = find(folder.path(), "three").unwrap_err();
        assert_eq!(error.kind(), &Kind::NotFound);
        let hint = error.hint_text().unwrap();
        assert!(
            hint.contains("one, two") && hint.contains("30-c.conf"),
            "{hint}"
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn whatever_is_read_is_read_again_the_same(name in "[a-z][a-z0-9_.-]{0,8}", kinds in proptest::collection::vec("[a-z.-]{1,4}", 0..4)) {
            let plugins: Vec<Value> = kinds.iter().map(|kind| json!({"type": kind})).collect();
            let source = json!({"name": name, "cniVersion": "1.0.0", "plugins": plugins});
            if let Ok(list) = List::parse(source) {
                prop_assert_eq!(List::parse(list.source.clone()).unwrap(), list);
            }
        }
    }
}
