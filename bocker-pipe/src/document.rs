//! The document that crosses the pipes: an OCI runtime-spec `config.json` with one extra member, `bocker`.
//!
//! It stays a JSON tree in the order in which it came, numbers as they were written, so that what a stage does not own
//! passes unchanged. What a stage owns it reads and writes through typed views of single members.
//! Types that cross must not use `#[serde(flatten)]` or untagged enums: numbers kept as text do not survive their buffer.

use std::io::{Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::{Error, Kind, Result};
use crate::id::Id;
use crate::incoming;

/// The member of `bocker` that says that a container goes with its end.
pub const RM: &str = "rm";
/// The major version of the protocol. A reader takes the same and refuses any other.
pub const VERSION: u64 = 1;
/// The version of the runtime-spec that documents follow.
pub const OCI_VERSION: &str = "1.0.2";
/// The largest document that is read, in bytes.
pub const MAX_SIZE: u64 = 16 << 20;

/// `bocker.error`: which stage failed, how, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorMember {
    /// The short name of the tool: `net`.
    pub stage: String,
    /// The exit code, 1 to 255.
    pub code: u8,
    /// One of the names of [`Kind`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// One line.
    pub message: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// `bocker.exit`: how the container's process 1 ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitMember {
    /// The exit status as a shell sees it: 128+n when a signal ended it.
    pub code: u8,
    /// The signal that ended it, so that 137 by exit(2) and by SIGKILL differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether the kernel killed in the container for want of memory.
    #[serde(default)]
    pub oom: bool,
    /// When the command was executed, RFC 3339 in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// When it ended, RFC 3339 in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<String>,
    /// Why it could not be begun again, where its supervisor was to do that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One entry of the OCI `mounts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where in the container, absolute.
    pub destination: String,
    /// `bind`, `tmpfs`, ...
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// As in fstab(5).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// A document: one JSON object.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    tree: Value,
}

impl Default for Document {
    fn default() -> Document {
        Document::new()
    }
}

impl Document {
    /// The document that begins a pipeline.
    pub fn new() -> Document {
        Document {
            tree: json!({"ociVersion": OCI_VERSION, "bocker": {"version": VERSION}}),
        }
    }

    /// Parses one document. Fails with [`Kind::Document`] when the bytes are no JSON object, and with [`Kind::Version`]
    /// when it is of another major version. A missing `bocker` member is added: `{}` begins as well as any.
    pub fn parse(bytes: &[u8]) -> Result<Document> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(Error::new(
                Kind::Document,
                "the stage before ended without a document",
            ));
        }
        let tree: Value = serde_json::from_slice(bytes).map_err(|error| {
            Error::new(Kind::Document, format!("the document is not JSON: {error}"))
        })?;
        Document::from_tree(tree)
    }

    /// The same of a tree that was parsed already, or of parts of one.
    pub fn from_tree(tree: Value) -> Result<Document> {
        if !tree.is_object() {
            return Err(Error::new(
                Kind::Document,
                "the document is not a JSON object",
            ));
        }
        let mut document = Document { tree };
        match document.value("/bocker") {
            None => document.set("/bocker", &json!({"version": VERSION})),
            Some(Value::Object(members)) => match members.get("version") {
                None => document.set("/bocker/version", &VERSION),
                Some(version) if version.as_u64() == Some(VERSION) => {}
                Some(version) => {
                    return Err(Error::new(
                        Kind::Version,
                        format!("the document is of version {version}, this tool speaks version {VERSION}"),
                    )
                    .hint("use tools of one release"));
                }
            },
            Some(_) => {
                return Err(Error::new(
                    Kind::Document,
                    "the document's member bocker is not an object",
                ));
            }
        }
        if document.value("/ociVersion").is_none() {
            document.set("/ociVersion", &OCI_VERSION);
        }
        Ok(document)
    }

    /// Reads one document up to the end of file, of at most [`MAX_SIZE`] bytes. Lines of bocker-pull before it are passed over.
    pub fn read(from: impl Read) -> Result<Document> {
        let mut bytes = Vec::with_capacity(8 << 10);
        from.take(MAX_SIZE + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| Error::new(Kind::Document, unreadable(&error)))?;
        if bytes.len() as u64 > MAX_SIZE {
            return Err(Error::new(Kind::Document, unreadable(&too_large())));
        }
        Document::parse(incoming::skip(&bytes))
    }

    /// Writes the document and a newline in one piece; `pretty` is for people.
    pub fn write(&self, mut to: impl Write, pretty: bool) -> std::io::Result<()> {
        let mut bytes = if pretty {
            serde_json::to_vec_pretty(&self.tree)
        } else {
            serde_json::to_vec(&self.tree)
        }?;
        bytes.push(b'\n');
        to.write_all(&bytes)?;
        to.flush()
    }

    /// The whole tree.
    pub fn tree(&self) -> &Value {
        &self.tree
    }

    /// The value at a JSON pointer (RFC 6901), as it stands. As [`Value::pointer`], but nothing is allocated for it where nothing
    /// is escaped: of a thousand containers dozens of members each are asked for.
    pub fn value(&self, pointer: &str) -> Option<&Value> {
        let mut tokens = pointer.split('/');
        if tokens.next() != Some("") {
            return None;
        }
        tokens.try_fold(&self.tree, |value, token| match value {
            Value::Object(members) if token.contains('~') => members.get(&unescape(token)),
            Value::Object(members) => members.get(token),
            Value::Array(items) => items.get(index(token)?),
            _ => None,
        })
    }

    /// The value at a JSON pointer, typed. `null` counts as absent.
    /// Fails with [`Kind::Document`], naming the pointer, when it has another shape.
    pub fn get<T: DeserializeOwned>(&self, pointer: &str) -> Result<Option<T>> {
        match self.value(pointer) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::deserialize(value).map(Some).map_err(|error| {
                let name = pointer.trim_start_matches('/').replace('/', ".");
                Error::new(
                    Kind::Document,
                    format!("the document's {name} is malformed: {error}"),
                )
            }),
        }
    }

    /// Like [`Document::get`], but absence is an error that names the stage which should have written it.
    pub fn need<T: DeserializeOwned>(&self, pointer: &str, owner: &str) -> Result<T> {
        self.get(pointer)?.ok_or_else(|| {
            let name = pointer.trim_start_matches('/').replace('/', ".");
            Error::new(Kind::Document, format!("the document has no {name}"))
                .hint(format!("put {owner} before this stage"))
        })
    }

    /// Sets the value at a JSON pointer, making objects on the way; a last token `-` appends to an array, made at need.
    /// What stands in the way and is neither object nor array is replaced.
    pub fn set(&mut self, pointer: &str, value: &(impl Serialize + ?Sized)) {
        // Keys of our types are strings and their values finite, so that conversion cannot fail; null if it ever did.
        let value = serde_json::to_value(value).unwrap_or(Value::Null);
        let mut place = &mut self.tree;
        let mut tokens = pointer.split('/').skip(1).map(unescape).peekable();
        while let Some(token) = tokens.next() {
            if token == "-" && tokens.peek().is_none() {
                if !place.is_array() {
                    *place = Value::Array(Vec::new());
                }
                if let Value::Array(items) = place {
                    items.push(value);
                }
                return;
            }
            let index = index(&token);
            let is_item =
                matches!((&*place, index), (Value::Array(items), Some(i)) if i < items.len());
            if !is_item && !place.is_object() {
                *place = Value::Object(Map::new());
            }
            place = match (place, index) {
                (Value::Array(items), Some(index)) => &mut items[index],
                (Value::Object(members), _) => members.entry(token).or_insert(Value::Null),
                _ => return,
            };
        }
        *place = value;
    }

    /// Removes and returns the value at a JSON pointer.
    pub fn remove(&mut self, pointer: &str) -> Option<Value> {
        let (parent, token) = pointer.rsplit_once('/')?;
        match self.tree.pointer_mut(parent)? {
            Value::Object(members) => members.shift_remove(&unescape(token)),
            Value::Array(items) => {
                let index = index(token)?;
                (index < items.len()).then(|| items.remove(index))
            }
            _ => None,
        }
    }

    /// A member of `bocker`, typed.
    pub fn member<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        self.get(&format!("/bocker/{name}"))
    }

    /// Sets a member of `bocker`.
    pub fn set_member(&mut self, name: &str, value: &(impl Serialize + ?Sized)) {
        self.set(&format!("/bocker/{name}"), value);
    }

    /// Removes a member of `bocker`.
    pub fn remove_member(&mut self, name: &str) -> Option<Value> {
        self.remove(&format!("/bocker/{name}"))
    }

    /// `bocker.id`. Fails with [`Kind::Document`] when nobody has claimed one yet.
    pub fn id(&self) -> Result<Id> {
        match self.member::<Id>("id")? {
            Some(id) if id.is_container() => Ok(id),
            Some(id) => Err(Error::new(
                Kind::Document,
                format!("{id} is not a container's id"),
            )),
            None => Err(Error::new(
                Kind::Document,
                "the document names no container (bocker.id)",
            )
            .hint("begin with 'bocker-snap create', or with --new")),
        }
    }

    /// `bocker.error`. One that is malformed still stops the stages after it, as a failure with code 125.
    pub fn error(&self) -> Option<ErrorMember> {
        let value = self
            .value("/bocker/error")
            .filter(|value| !value.is_null())?;
        Some(match ErrorMember::deserialize(value) {
            Ok(member) if member.code != 0 => member,
            _ => ErrorMember {
                stage: "unknown".into(),
                code: crate::error::EXIT_FAILED,
                kind: None,
                message: value.to_string(),
                hint: None,
            },
        })
    }

    /// Records the error of a stage, unless one stands there already: the first cause is the one to know.
    pub fn set_error(&mut self, stage: &str, error: &Error) {
        if self.error().is_none() {
            self.set_member(
                "error",
                &ErrorMember {
                    stage: stage.into(),
                    code: error.exit_code(),
                    kind: Some(error.kind().name().into()),
                    message: error.message().into(),
                    hint: error.hint_text().map(Into::into),
                },
            );
        }
    }

    /// `bocker.exit`.
    pub fn exit(&self) -> Result<Option<ExitMember>> {
        self.member("exit")
    }

    /// Whether this document comes from a dry run: later stages only print too.
    pub fn dry_run(&self) -> bool {
        self.value("/bocker/dry_run")
            .and_then(Value::as_bool)
            .unwrap_or(false)
    }

    /// Whether the container goes with its end.
    pub fn is_removed_at_its_end(&self) -> bool {
        self.member(RM).ok().flatten().unwrap_or(false)
    }

    /// The status that the pipeline should end with: the container's where one ran, else the error's code, else 0.
    pub fn status(&self) -> u8 {
        match (self.exit(), self.error()) {
            (Ok(Some(exit)), _) => exit.code,
            (_, Some(error)) => error.code,
            (Err(_), None) => crate::error::EXIT_FAILED,
            (Ok(None), None) => 0,
        }
    }

    /// Adds a mount after those that stand there.
    pub fn add_mount(&mut self, mount: &Mount) {
        self.set("/mounts/-", mount);
    }

    /// Removes the mounts for which `which(destination, source)` holds.
    pub fn remove_mounts(&mut self, which: impl Fn(&str, &str) -> bool) {
        let text = |mount: &Value, key: &str| {
            mount
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or("")
                .to_owned()
        };
        if let Some(Value::Array(mounts)) = self.tree.pointer_mut("/mounts") {
            mounts.retain(|mount| !which(&text(mount, "destination"), &text(mount, "source")));
        }
        if self.value("/mounts") == Some(&json!([])) {
            self.remove("/mounts");
        }
    }

    /// Sets the namespace of a kind (`network`, `pid`, ...): a new one, or the one pinned at `path`.
    pub fn set_namespace(&mut self, kind: &str, path: Option<&str>) {
        self.remove_namespace(kind);
        let entry = match path {
            Some(path) => json!({"type": kind, "path": path}),
            None => json!({"type": kind}),
        };
        self.set("/linux/namespaces/-", &entry);
    }

    /// Removes the namespace entry of a kind: the container shares its parent's.
    pub fn remove_namespace(&mut self, kind: &str) {
        if let Some(Value::Array(entries)) = self.tree.pointer_mut("/linux/namespaces") {
            entries.retain(|entry| entry.get("type").and_then(Value::as_str) != Some(kind));
        }
        if self.value("/linux/namespaces") == Some(&json!([])) {
            self.remove("/linux/namespaces");
        }
        if self.value("/linux") == Some(&json!({})) {
            self.remove("/linux");
        }
    }

    /// The entry of a kind of namespace: `None` without one, `Some(None)` for a new one, `Some(Some(path))` for a pinned one.
    pub fn namespace(&self, kind: &str) -> Option<Option<&str>> {
        let entries = self.value("/linux/namespaces")?.as_array()?;
        let entry = entries
            .iter()
            .find(|entry| entry.get("type").and_then(Value::as_str) == Some(kind))?;
        Some(entry.get("path").and_then(Value::as_str))
    }
}

/// A token as the index of an array: digits without leading zeros or sign (RFC 6901, section 4).
fn index(token: &str) -> Option<usize> {
    let canonical = token == "0" || !token.starts_with(['0', '+']);
    canonical.then(|| token.parse().ok()).flatten()
}

fn unescape(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

pub(crate) fn unreadable(why: &(impl std::fmt::Display + ?Sized)) -> String {
    format!("cannot read the document: {why}")
}

pub(crate) fn too_large() -> String {
    format!("it is larger than {} MiB", MAX_SIZE >> 20)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            // Numbers that neither an f64 nor an i64 can hold.
            "-?[1-9][0-9]{20,40}(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,4})?"
                .prop_map(|text| serde_json::from_str(&text).unwrap()),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..8)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_a_stage_does_not_own_passes_unchanged(
            members in prop::collection::vec((any::<String>(), json()), 0..8),
            ours in prop::collection::vec((any::<String>(), json()), 0..4),
        ) {
            let mut tree: Map<String, Value> = members.into_iter().collect();
            let mut bocker: Map<String, Value> = ours.into_iter().collect();
            bocker.insert("version".into(), VERSION.into());
            bocker.shift_remove("net");
            tree.insert("bocker".into(), bocker.into());
            tree.entry("ociVersion").or_insert("1.0.2".into());
            let before = serde_json::to_vec(&Value::Object(tree)).unwrap();

            let mut document = Document::parse(&before).unwrap();
            document.set_member("net", &json!({"netns": {"path": "/x"}}));
            let mut crossed = Vec::new();
            document.write(&mut crossed, false).unwrap();
            let mut document = Document::parse(&crossed).unwrap();
            document.remove_member("net");
            let mut after = Vec::new();
            document.write(&mut after, false).unwrap();
            prop_assert_eq!(String::from_utf8(before).unwrap() + "\n", String::from_utf8(after).unwrap());
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = Document::parse(&bytes);
        }

        #[test]
        fn what_is_set_at_a_pointer_is_found_there(tree in json(), value in json(), path in "(/[a-z0-9~]{1,3}){1,4}") {
            let mut document = Document::new();
            document.set("/x", &tree);
            let pointer = format!("/x{}", path.replace('~', "~0"));
            document.set(&pointer, &value);
            prop_assert_eq!(document.value(&pointer), Some(&value));
            document.remove(&pointer);
        }
    }

    #[test]
    fn an_index_with_a_leading_zero_or_a_sign_is_a_name() {
        for token in ["00", "01", "+1"] {
            let mut document = Document::new();
            document.set("/x", &json!([0, 1]));
            document.set(&format!("/x/{token}"), &7);
            assert_eq!(document.value("/x"), Some(&json!({ token: 7 })));
        }
    }

    #[test]
    fn an_empty_pipe_is_an_error_that_says_so() {
        let error = Document::read(&b" \n"[..]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the stage before ended without a document"
        );
    }

    #[test]
    fn another_major_version_is_refused_naming_both() {
        let error = Document::parse(br#"{"bocker":{"version":2}}"#).unwrap_err();
        assert_eq!(error.kind(), &Kind::Version);
        assert!(error.message().contains("version 2") && error.message().contains("version 1"));
    }

    #[test]
    fn a_malformed_error_member_still_stops_the_stages_after_it() {
        let document = Document::parse(br#"{"bocker":{"version":1,"error":{"code":0}}}"#).unwrap();
        assert_eq!(document.error().unwrap().code, 125);
    }

    #[test]
    fn the_first_cause_is_kept() {
        let mut document = Document::new();
        document.set_error("net", &Error::new(Kind::Invalid, "first"));
        document.set_error("cg", &Error::new(Kind::Invalid, "second"));
        assert_eq!(document.error().unwrap().message, "first");
    }

    #[test]
    fn the_status_is_the_containers_before_the_errors() {
        let mut document = Document::new();
        assert_eq!(document.status(), 0);
        document.set_error(
            "spawn",
            &Error::new(Kind::CommandNotFound, "no such command"),
        );
        assert_eq!(document.status(), 127);
        document.set_member(
            "exit",
            &ExitMember {
                code: 3,
                ..ExitMember::default()
            },
        );
        assert_eq!(document.status(), 3);
    }

    #[test]
    fn namespaces_and_mounts_leave_no_trace_when_removed() {
        let mut document = Document::new();
        let before = document.clone();
        document.set_namespace("network", Some("/run/x"));
        document.set_namespace("network", Some("/run/y"));
        document.add_mount(&Mount {
            destination: "/etc/hosts".into(),
            kind: Some("bind".into()),
            source: Some("/run/hosts".into()),
            options: vec!["bind".into()],
        });
        assert_eq!(document.namespace("network"), Some(Some("/run/y")));
        document.remove_namespace("network");
        document.remove_mounts(|destination, _| destination == "/etc/hosts");
        assert_eq!(document, before);
    }
}
