//! Where credentials are: the files that docker and podman keep
//! (<https://github.com/containers/image/blob/main/docs/containers-auth.json.5.md>), and the helper programs that those name
//! (<https://github.com/docker/docker-credential-helpers>).
//!
//! A file that a variable names is the only one that is read; without one, podman's come before docker's, and the first that
//! knows the registry counts.

use std::env;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bocker_pipe::{Doing, Error, Kind, Result};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Docker Hub, as its images are called.
const HUB: &str = "docker.io";
/// Docker Hub, as docker files it.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// Other names of it.
const HUB_HOSTS: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];
/// What a helper gives as the user when the secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// By these words, on stdout, a helper says that it has nothing (docker-credential-helpers: credentials/error.go).
const HELPER_HAS_NONE: &str = "credentials not found in native keychain";
const HELPER: &str = "docker-credential-";
/// The largest file, and the longest answer of a helper, that is read.
const MAX: u64 = 1 << 20;

/// What identifies us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Credential {
    /// A user and a password.
    Password {
        /// The user.
        user: String,
        /// The password, or a token that passes for one.
        secret: String,
    },
    /// A token that is exchanged for others.
    IdentityToken(String),
    /// A token that is used as it is.
    RegistryToken(String),
}

impl Credential {
    /// The user's name, if there is one.
    pub(crate) fn user(&self) -> Option<&str> {
        match self {
            Credential::Password { user, .. } => Some(user),
            _ => None,
        }
    }
}

/// A credential and where it was.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) credential: Credential,
    pub(crate) origin: String,
}

/// Where to look for credentials when they are needed.
#[derive(Debug)]
pub(crate) enum Source {
    /// There are none.
    Nobody,
    /// In the user's files, those of a repository: `docker.io/library/busybox`.
    Files(String),
    /// These.
    Given(Credential),
}

impl Source {
    /// Of a repository.
    pub(crate) fn of(repository: String) -> Source {
        Source::Files(repository)
    }

    pub(crate) fn find(&self) -> Result<Option<Found>> {
        match self {
            Source::Nobody => Ok(None),
            Source::Given(credential) => Ok(Some(Found {
                credential: credential.clone(),
                origin: "the command line".to_owned(),
            })),
            Source::Files(repository) => {
                for path in to_read() {
                    if let Some(found) = Store::at(path).read()?.find(repository)? {
                        return Ok(Some(found));
                    }
                }
                Ok(None)
            }
        }
    }
}

/// The files, in the order in which they are asked.
fn to_read() -> Vec<PathBuf> {
    if let Some(file) = variable("REGISTRY_AUTH_FILE") {
        return vec![file];
    }
    if let Some(folder) = variable("DOCKER_CONFIG") {
        return vec![folder.join("config.json")];
    }
    let run = variable("XDG_RUNTIME_DIR").unwrap_or_else(|| {
        // Where podman keeps it when nobody has logged in to the machine, as of root's usually.
        let uid = rustix::process::geteuid().as_raw();
        format!("/run/containers/{uid}").into()
    });
    let runtime = match variable("XDG_RUNTIME_DIR") {
        Some(_) => run.join("containers/auth.json"),
        None => run.join("auth.json"),
    };
    let mut files = vec![runtime];
    let home = variable("HOME");
    let config = variable("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
    files.extend(config.map(|folder| folder.join("containers/auth.json")));
    files.extend(home.map(|folder| folder.join(".docker/config.json")));
    files
}

/// The file that a login is written to.
pub(crate) fn to_write() -> Result<PathBuf> {
    if let Some(file) = variable("REGISTRY_AUTH_FILE") {
        return Ok(file);
    }
    let folder = variable("DOCKER_CONFIG").or_else(|| Some(variable("HOME")?.join(".docker")));
    let folder = folder.ok_or_else(|| {
        Error::new(Kind::NotFound, "there is no home to keep credentials in")
            .hint("set HOME, DOCKER_CONFIG or REGISTRY_AUTH_FILE")
    })?;
    Ok(folder.join("config.json"))
}

fn variable(name: &str) -> Option<PathBuf> {
    let value = env::var_os(name).filter(|value| !value.is_empty());
    value.map(PathBuf::from)
}

/// One file.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
}

impl Store {
    pub(crate) fn at(path: PathBuf) -> Store {
        Store { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What is in it; nothing if it is not there.
    pub(crate) fn read(&self) -> Result<Content> {
        let path = &self.path;
        let mut bytes = Vec::new();
        match File::open(path) {
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            file => {
                file.and_then(|file| file.take(MAX + 1).read_to_end(&mut bytes))
                    .doing(|| format!("read {}", path.display()))?;
            }
        }
        let shown = path.display().to_string();
        if bytes.len() as u64 > MAX {
            let what = format!("{shown} has more than {MAX} bytes");
            return Err(Error::new(Kind::Invalid, what));
        }
        Content::parse(&bytes, shown)
    }

    /// Keeps credentials, in a helper where one is in charge of the registry, else in the file. What was there is answered.
    pub(crate) fn put(
        &self,
        registry: &str,
        credential: &Credential,
    ) -> Result<Option<Credential>> {
        let content = self.read()?;
        let before = content.own(registry)?;
        match content.helper(registry) {
            Some(helper) => helper.store(&server(registry), credential)?,
            None => self.edit(|fields| {
                let auths = object(fields, "auths", &self.path)?;
                remove(auths, registry);
                auths.insert(key(registry), entry(credential));
                Ok(())
            })?,
        }
        Ok(before)
    }

    /// Forgets the credentials of a registry. What they were is answered.
    pub(crate) fn remove(&self, registry: &str) -> Result<Option<Credential>> {
        let content = self.read()?;
        let before = content.own(registry)?;
        if before.is_none() {
            return Ok(None);
        }
        if let Some(helper) = content.helper(registry) {
            helper.erase(&server(registry))?;
        }
        if content.names(registry) {
            self.edit(|fields| {
                remove(object(fields, "auths", &self.path)?, registry);
                Ok(())
            })?;
        }
        Ok(before)
    }

    /// Changes the file as a whole, under a lock on its folder that keeps two of us apart, and lets nobody else read it.
    fn edit(&self, change: impl FnOnce(&mut Map<String, Value>) -> Result<()>) -> Result<()> {
        // A link is followed: the file may well be kept elsewhere.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let writing = || format!("write {}", path.display());
        fs::DirBuilder::new()
            .recursive(true)
            .create(folder)
            .doing(|| format!("make {}", folder.display()))?;
        let lock = File::open(folder).doing(writing)?;
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(io::Error::from)
            .doing(writing)?;
        let mut content = Store::at(path.clone()).read()?;
        change(&mut content.fields)?;
        let mut bytes = serde_json::to_vec_pretty(&content.fields)
            .map_err(|error| Error::new(Kind::Invalid, format!("cannot write as JSON: {error}")))?;
        bytes.push(b'\n');
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let new = folder.join(name);
        let write = || {
            // The lock is ours: what is left there is of one that was killed.
            match fs::remove_file(&new) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut options = OpenOptions::new();
            let mut file = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&new)?;
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            lock.sync_all()
        };
        write().doing(writing)
    }
}

/// What a file holds.
#[derive(Debug)]
pub(crate) struct Content {
    fields: Map<String, Value>,
    origin: String,
}

/// One registry's entry under `auths`.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl Content {
    /// Reads a file's bytes, of which none are an empty file. `origin` is for errors.
    ///
    /// # Errors
    /// [`Kind::Invalid`] when it is no JSON object.
    pub(crate) fn parse(bytes: &[u8], origin: String) -> Result<Content> {
        let fields = match bytes.trim_ascii() {
            [] => Map::new(),
            bytes => serde_json::from_slice(bytes).map_err(|error| {
                // Not what the error says of the content: that is secret.
                let (line, column) = (error.line(), error.column());
                let what = format!("{origin} is no JSON object (line {line}, column {column})");
                Error::new(Kind::Invalid, what).hint("correct or remove it")
            })?,
        };
        Ok(Content { fields, origin })
    }

    /// The credentials of a repository: of the longest beginning of its name that there are some for.
    ///
    /// # Errors
    /// [`Kind::Invalid`] when its entry cannot be read; what a helper says.
    pub(crate) fn find(&self, repository: &str) -> Result<Option<Found>> {
        let found = |credential, origin: &str| {
            Some(Found {
                credential,
                origin: origin.to_owned(),
            })
        };
        let mut name = repository;
        loop {
            if let Some(credential) = self.entry(name)? {
                return Ok(found(credential, &self.origin));
            }
            match name.rsplit_once('/') {
                Some((shorter, _)) => name = shorter,
                None => break,
            }
        }
        let Some(helper) = self.helper(name) else {
            return Ok(None);
        };
        let got = helper.get(&server(name))?;
        Ok(got.and_then(|credential| found(credential, &helper.program())))
    }

    /// The credentials of exactly this registry, wherever they are kept.
    pub(crate) fn own(&self, registry: &str) -> Result<Option<Credential>> {
        match self.helper(registry) {
            Some(helper) => match helper.get(&server(registry))? {
                None => self.entry(registry),
                found => Ok(found),
            },
            None => self.entry(registry),
        }
    }

    fn auths(&self) -> impl Iterator<Item = (&String, &Value)> {
        let auths = self.fields.get("auths").and_then(Value::as_object);
        auths.into_iter().flatten()
    }

    /// Whether the registry has an entry, be it an empty one.
    fn names(&self, registry: &str) -> bool {
        self.auths().any(|(key, _)| canonical(key) == registry)
    }

    /// The credentials of a name in the file itself.
    pub(crate) fn entry(&self, name: &str) -> Result<Option<Credential>> {
        for (key, value) in self.auths().filter(|(key, _)| canonical(key) == name) {
            let wrong = || {
                let what = format!("the entry of '{key}' in {} is malformed", self.origin);
                Error::new(Kind::Invalid, what).hint("log in again")
            };
            let entry = Entry::deserialize(value).map_err(|_| wrong())?;
            if let Some(credential) = entry.credential().ok_or_else(wrong)? {
                return Ok(Some(credential));
            }
        }
        Ok(None)
    }

    /// The program that is in charge of a registry.
    fn helper(&self, registry: &str) -> Option<Helper> {
        let helpers = self.fields.get("credHelpers").and_then(Value::as_object);
        let mut helpers = helpers.into_iter().flatten();
        let own = helpers.find(|(key, _)| canonical(key) == registry);
        let suffix = match own {
            Some((_, suffix)) => Some(suffix),
            None => self.fields.get("credsStore"),
        };
        let suffix = suffix.and_then(Value::as_str).filter(|it| !it.is_empty());
        suffix.map(|suffix| Helper {
            suffix: suffix.to_owned(),
            origin: self.origin.clone(),
        })
    }
}

impl Entry {
    /// The inner `None`: it holds nothing, as where a helper has the secret.
    fn credential(self) -> Option<Option<Credential>> {
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        if let Some(token) = filled(self.registrytoken) {
            return Some(Some(Credential::RegistryToken(token)));
        }
        if let Some(token) = filled(self.identitytoken) {
            return Some(Some(Credential::IdentityToken(token)));
        }
        if let Some(auth) = filled(self.auth) {
            let decoded = BASE64_STANDARD.decode(auth.trim()).ok()?;
            let decoded = String::from_utf8(decoded).ok()?;
            let (user, secret) = decoded.split_once(':')?;
            return Some(Some(Credential::Password {
                user: user.to_owned(),
                // Old versions of docker have padded it so.
                secret: secret.trim_matches('\0').to_owned(),
            }));
        }
        let password = filled(self.username).zip(filled(self.password));
        Some(password.map(|(user, secret)| Credential::Password { user, secret }))
    }
}

/// A credential as docker writes it.
fn entry(credential: &Credential) -> Value {
    match credential {
        Credential::Password { user, secret } => {
            json!({"auth": BASE64_STANDARD.encode(format!("{user}:{secret}"))})
        }
        Credential::IdentityToken(token) => json!({"auth": "", "identitytoken": token}),
        Credential::RegistryToken(token) => json!({"registrytoken": token}),
    }
}

/// An object that is a member of another, made at need.
fn object<'a>(
    fields: &'a mut Map<String, Value>,
    name: &str,
    path: &Path,
) -> Result<&'a mut Map<String, Value>> {
    let member = fields.entry(name).or_insert_with(|| json!({}));
    member.as_object_mut().ok_or_else(|| {
        let what = format!("'{name}' in {} is no object", path.display());
        Error::new(Kind::Invalid, what).hint("correct or remove it")
    })
}

fn remove(auths: &mut Map<String, Value>, registry: &str) {
    auths.retain(|key, _| canonical(key) != registry);
}

/// The key under which a registry is filed.
fn key(registry: &str) -> String {
    match registry {
        HUB => HUB_KEY.to_owned(),
        other => other.to_owned(),
    }
}

/// What helpers know a registry by.
fn server(registry: &str) -> String {
    key(registry)
}

/// What a key means: a registry, or a name on one. Keys that are addresses mean the host alone, as docker has it.
pub(crate) fn canonical(key: &str) -> &str {
    let host_of = |rest| str::split(rest, '/').next().unwrap_or_default();
    let name = match key.strip_prefix("https://").or(key.strip_prefix("http://")) {
        Some(rest) => host_of(rest),
        None => key.trim_end_matches('/'),
    };
    match name {
        name if HUB_HOSTS.contains(&name) => HUB,
        name => match name.split_once('/') {
            // Old versions of docker have left the scheme out.
            Some((host, "v1" | "v2")) if HUB_HOSTS.contains(&host) => HUB,
            Some((host, "v1" | "v2")) => host,
            _ => name,
        },
    }
}

/// `docker-credential-SUFFIX`.
#[derive(Debug)]
struct Helper {
    suffix: String,
    origin: String,
}

/// What goes between us and a helper.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Exchange {
    #[serde(rename = "ServerURL", default)]
    server_url: String,
    username: String,
    secret: String,
}

impl Helper {
    fn program(&self) -> String {
        format!("{HELPER}{}", self.suffix)
    }

    fn get(&self, server: &str) -> Result<Option<Credential>> {
        let Some(output) = self.run("get", server.as_bytes())? else {
            return Ok(None);
        };
        let got: Exchange = serde_json::from_slice(&output)
            .map_err(|_| self.failed("get", "what it has printed is not understood"))?;
        Ok(match (got.username.as_str(), got.secret.as_str()) {
            ("", "") => None,
            (TOKEN_USER, _) => Some(Credential::IdentityToken(got.secret)),
            _ => Some(Credential::Password {
                user: got.username,
                secret: got.secret,
            }),
        })
    }

    fn store(&self, server: &str, credential: &Credential) -> Result<()> {
        let (user, secret) = match credential {
            Credential::Password { user, secret } => (user.as_str(), secret),
            Credential::IdentityToken(token) | Credential::RegistryToken(token) => {
                (TOKEN_USER, token)
            }
        };
        let sent = Exchange {
            server_url: server.to_owned(),
            username: user.to_owned(),
            secret: secret.clone(),
        };
        let sent =
            serde_json::to_vec(&sent).map_err(|error| self.failed("store", &error.to_string()))?;
        self.run("store", &sent).map(drop)
    }

    fn erase(&self, server: &str) -> Result<()> {
        self.run("erase", server.as_bytes()).map(drop)
    }

    /// What it prints; `None` when it has nothing.
    fn run(&self, verb: &str, input: &[u8]) -> Result<Option<Vec<u8>>> {
        if self.suffix.contains('/') {
            return Err(self.failed(verb, "that is a path"));
        }
        let start = || format!("start {}, which {} names", self.program(), self.origin);
        let mut child = Command::new(self.program())
            .arg(verb)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .doing(start)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program may well not want to hear it all.
            let _ = stdin.write_all(input);
        }
        let mut output = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout
                .take(MAX)
                .read_to_end(&mut output)
                .doing(|| format!("read what {} says", self.program()))?;
        }
        let status = child
            .wait()
            .doing(|| format!("wait for {}", self.program()))?;
        if status.success() {
            return Ok(Some(output));
        }
        let said = String::from_utf8_lossy(&output);
        match said.trim() {
            HELPER_HAS_NONE => Ok(None),
            "" => Err(self.failed(verb, &status.to_string())),
            said => Err(self.failed(verb, said)),
        }
    }

    fn failed(&self, verb: &str, why: &str) -> Error {
        let (program, origin) = (self.program(), &self.origin);
        Error::new(
            Kind::Invalid,
            format!("'{program} {verb}', which {origin} names, has failed: {why}"),
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn content(text: &str) -> Content {
        Content::parse(text.as_bytes(), "file".into()).unwrap()
    }

    fn password(user: &str, secret: &str) -> Option<Credential> {
        Some(Credential::Password {
            user: user.into(),
            secret: secret.into(),
        })
    }

    /// `u:p`, `a:b:c` and so on, as files have them.
    fn encoded(text: &str) -> String {
        BASE64_STANDARD.encode(text)
    }

    #[test]
    fn every_way_to_write_a_registry_is_understood() {
        for (key, name) in [
            ("https://index.docker.io/v1/", "docker.io"),
            ("index.docker.io/v1/", "docker.io"),
            ("https://registry-1.docker.io", "docker.io"),
            ("docker.io", "docker.io"),
            ("docker.io/library/busybox", "docker.io/library/busybox"),
            ("http://localhost:5000/v2/", "localhost:5000"),
            ("localhost:5000", "localhost:5000"),
            ("https://gcr.io", "gcr.io"),
            ("gcr.io/v1/", "gcr.io"),
            ("r.example/team", "r.example/team"),
            ("", ""),
        ] {
            assert_eq!(canonical(key), name, "{key}");
        }
    }

    #[test]
    fn every_kind_of_entry_is_read() {
        for (entry, expected) in [
            (json!({"auth": encoded("u:p:q")}), password("u", "p:q")),
            (json!({"auth": encoded("u:p\0\0")}), password("u", "p")),
            (
                json!({"username": "u", "password": "p"}),
                password("u", "p"),
            ),
            (
                json!({"auth": encoded("u:"), "identitytoken": "t"}),
                Some(Credential::IdentityToken("t".into())),
            ),
            (
                json!({"registrytoken": "t"}),
                Some(Credential::RegistryToken("t".into())),
            ),
            (json!({"auth": "", "identitytoken": ""}), None),
            (json!({"email": "x"}), None),
            (json!({}), None),
        ] {
            let file = json!({"auths": {"r.example": entry}}).to_string();
            assert_eq!(
                content(&file).entry("r.example").unwrap(),
                expected,
                "{file}"
            );
        }
        for entry in [
            json!({"auth": "no base64!"}),
            json!({"auth": encoded("no colon")}),
            json!({"auth": 1}),
            json!(1),
        ] {
            let file = json!({"auths": {"r.example": entry}}).to_string();
            let error = content(&file).entry("r.example").unwrap_err();
            assert_eq!(*error.kind(), Kind::Invalid, "{file}");
            assert!(content(&file).entry("other.example").unwrap().is_none());
        }
    }

    #[test]
    fn the_longest_beginning_of_a_name_counts() {
        let entry = |user: &str| json!({"auth": encoded(&format!("{user}:p"))});
        let file = json!({"auths": {
            "r.example": entry("host"),
            "r.example/team": entry("team"),
            "r.example/team/app": entry("app"),
            "https://other.example/v1/": entry("other"),
        }});
        let content = content(&file.to_string());
        for (name, user) in [
            ("r.example/x", Some("host")),
            ("r.example/teams/app", Some("host")),
            ("r.example/team/x", Some("team")),
            ("r.example/team/app", Some("app")),
            ("r.example/team/app/x", Some("app")),
            ("other.example/x/y", Some("other")),
            ("docker.io/library/x", None),
        ] {
            let found = content.find(name).unwrap();
            let found = found.as_ref().and_then(|found| found.credential.user());
            assert_eq!(found, user, "{name}");
        }
    }

    #[test]
    fn a_file_keeps_everything_else_and_is_for_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().join("real.json");
        let before = r#"{"HttpHeaders":{"a":"b"},"auths":{"index.docker.io":{"auth":"eDp5"},"r.example":{"x":1e400}},"n":0.10}"#;
        fs::write(&real, before).unwrap();
        let link = folder.path().join("config.json");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let store = Store::at(link.clone());
        let credential = password("u", "p").unwrap();
        assert_eq!(
            store.put("docker.io", &credential).unwrap(),
            password("x", "y")
        );
        let text = fs::read_to_string(&real).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        let expected: Value = serde_json::from_str(&before.replace(
            r#""index.docker.io":{"auth":"eDp5"}"#,
            r#""https://index.docker.io/v1/":{"auth":"dTpw"}"#,
        ))
        .unwrap();
        assert_eq!(value, expected);
        assert!(text.contains("1e+400") && text.contains("0.10"), "{text}");
        assert_eq!(real.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(store.remove("docker.io").unwrap(), Some(credential));
        assert_eq!(store.remove("docker.io").unwrap(), None);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        // Where there was none.
        let store = Store::at(folder.path().join("a/b/config.json"));
        assert_eq!(store.remove("r.example").unwrap(), None);
        assert!(!folder.path().join("a").exists());
        store
            .put("r.example", &Credential::IdentityToken("t".into()))
            .unwrap();
        let read = store.read().unwrap();
        let token = Credential::IdentityToken("t".into());
        assert_eq!(read.entry("r.example").unwrap(), Some(token));
    }

    #[test]
    fn what_is_no_json_is_refused_without_showing_what_it_is() {
        let error = Content::parse(b"{\"auths\": {\"x\": secret}}", "file".into()).unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(Content::parse(b" \n", "file".into()).is_ok());
        assert!(Content::parse(b"[]", "file".into()).is_err());
    }

    proptest! {
        #[test]
        fn no_file_makes_the_reader_panic(text in r#"([ -~]|\{"auths":|"r.example":|"auth":|[{}"]){0,20}"#) {
            if let Ok(content) = Content::parse(text.as_bytes(), "file".into()) {
                let _ = content.entry("r.example");
            }
        }

        #[test]
        fn what_was_written_is_read(user in "[^:]{0,20}", secret in "[^\0]{0,20}") {
            let credential = Credential::Password { user, secret };
            let file = json!({"auths": {"r.example": entry(&credential)}}).to_string();
            prop_assert_eq!(content(&file).entry("r.example").unwrap(), Some(credential));
        }

        #[test]
        fn a_key_means_what_its_meaning_means(key in "(https://|http://)?[a-z.:0-9/]{0,30}") {
            let name = canonical(&key);
            prop_assert_eq!(canonical(name), name);
        }
    }
}
