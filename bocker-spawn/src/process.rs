//! OCI `process`: what is executed and as whom. It is derived from exactly six keys of the image's configuration and from
//! the options (image-spec, conversion.md); nothing else that an image can set is looked at.

use std::env::VarError;
use std::ffi::OsString;
use std::path::Path;

use bocker_pipe::{Document, Error, Kind, Result, files};
use serde::{Deserialize, Serialize};

use crate::caps::{self, Capabilities};
use crate::rooted::Root;
use crate::users;

/// moby, oci/defaults.go: what docker sets where the image does not.
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const DEFAULT_TERM: &str = "TERM=xterm";

/// OCI `process`, as far as it is acted on; [`refuse_unsupported`] keeps the rest out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Process {
    pub(crate) terminal: bool,
    pub(crate) user: ProcessUser,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) capabilities: Option<Capabilities>,
    pub(crate) no_new_privileges: bool,
}

/// OCI `process.user`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ProcessUser {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) umask: Option<u32>,
    pub(crate) additional_gids: Vec<u32>,
}

/// The keys of `bocker.image.config` that are acted on.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImageConfig {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    stop_signal: Option<String>,
}

/// What the command line says about the process.
#[derive(Debug, Default)]
pub(crate) struct Request {
    /// `K=V`, or `K` for the caller's own value, as `-e` and the lines of `--env-file` say.
    pub(crate) env: Vec<String>,
    pub(crate) working_dir: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) entrypoint: Option<String>,
    pub(crate) terminal: bool,
    pub(crate) command: Vec<String>,
}

impl Request {
    /// Takes a variable. Fails when it has no name.
    pub(crate) fn add_variable(&mut self, text: String) -> Result<()> {
        if name(&text).is_empty() {
            let what = format!("'{text}' is no variable: its name is missing");
            return Err(Error::new(Kind::Usage, what));
        }
        self.env.push(text);
        Ok(())
    }

    /// Takes those of a file.
    pub(crate) fn add_variables_of(&mut self, file: &Path) -> Result<()> {
        for line in files::lines(file)? {
            let line = String::from_utf8(line).map_err(|_| {
                let what = format!("{} has a line that is not UTF-8", file.display());
                Error::new(Kind::Usage, what)
            })?;
            self.add_variable(line)?;
        }
        Ok(())
    }

    /// Takes the words of the container's command. Fails for what JSON, and so a document, cannot carry.
    pub(crate) fn set_command(&mut self, words: Vec<OsString>) -> Result<()> {
        self.command = words
            .into_iter()
            .map(|word| {
                word.into_string().map_err(|word| {
                    Error::new(
                        Kind::Usage,
                        format!("the word '{}' is not UTF-8", word.display()),
                    )
                })
            })
            .collect::<Result<_>>()?;
        Ok(())
    }
}

/// What an image's configuration says about stopping it: a name such as `SIGQUIT`.
pub(crate) fn stop_signal(document: &Document) -> Result<Option<String>> {
    Ok(image_config(document)?.stop_signal)
}

fn image_config(document: &Document) -> Result<ImageConfig> {
    Ok(document.get("/bocker/image/config")?.unwrap_or_default())
}

/// The process that the document and the options ask for. A process that stands in the document already (of a run before,
/// or written by hand) is what the options change; otherwise it begins from the image's configuration.
///
/// `root` is where the names of users are looked up; it is opened only when one has to be, and `None` is the root that a
/// dry run has not made.
pub(crate) fn derive(
    document: &Document,
    request: &Request,
    hostname: &str,
    root: impl FnOnce() -> Result<Option<Root>>,
) -> Result<Process> {
    let standing: Option<Process> = document.get("/process")?;
    let image = match standing {
        Some(_) => ImageConfig::default(),
        None => image_config(document)?,
    };
    let is_new = standing.is_none();
    let mut process = standing.unwrap_or_default();
    process.terminal |= request.terminal;

    let user = request.user.as_deref().or(image.user.as_deref());
    let mut home = None;
    if is_new || request.user.is_some() {
        let user = match root()? {
            Some(root) => users::resolve(user.unwrap_or_default(), &root)?,
            None => users::User::unknown(),
        };
        process.user = ProcessUser {
            uid: user.uid,
            gid: user.gid,
            umask: process.user.umask,
            additional_gids: user.groups,
        };
        home = Some(user.home);
        process.capabilities = Some(Capabilities::default_for(user.uid));
        process.no_new_privileges = true;
    }
    if let Some(capabilities) = process.capabilities.as_mut()
        && !devices_are_guarded(document)
    {
        capabilities.remove(caps::MKNOD);
    }

    set_command(&mut process, image.entrypoint, image.cmd, request)?;

    if is_new {
        process.env = vec![
            format!("PATH={DEFAULT_PATH}"),
            format!("HOSTNAME={hostname}"),
        ];
        for variable in image.env.unwrap_or_default() {
            set_variable(&mut process.env, variable);
        }
    }
    if process.terminal && !has_variable(&process.env, "TERM") {
        process.env.push(DEFAULT_TERM.to_owned());
    }
    for variable in &request.env {
        if variable.contains('=') {
            set_variable(&mut process.env, variable.clone());
            continue;
        }
        // As docker: a bare name passes the caller's own value on, if there is one.
        match std::env::var(variable) {
            Ok(value) => set_variable(&mut process.env, format!("{variable}={value}")),
            Err(VarError::NotPresent) => process.env.retain(|entry| name(entry) != variable),
            Err(VarError::NotUnicode(_)) => {
                let what = format!("the value of {variable} is not UTF-8");
                return Err(Error::new(Kind::Usage, what));
            }
        }
    }
    if let Some(home) = home {
        if request.user.is_some() && !is_new {
            process.env.retain(|entry| name(entry) != "HOME");
        }
        if !has_variable(&process.env, "HOME") {
            process.env.push(format!("HOME={home}"));
        }
    }

    let working_dir = request.working_dir.clone().or(image.working_dir);
    if let Some(path) = working_dir.filter(|path| !path.is_empty()) {
        process.cwd = if path.starts_with('/') {
            path
        } else {
            format!("/{path}")
        };
    }
    if process.cwd.is_empty() {
        process.cwd = "/".into();
    }
    check(&process)?;
    Ok(process)
}

/// Entrypoint and command as docker joins them: a new entrypoint forgets the image's command.
fn set_command(
    process: &mut Process,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    request: &Request,
) -> Result<()> {
    let before = std::mem::take(&mut process.args);
    let command = if !request.command.is_empty() {
        request.command.clone()
    } else if request.entrypoint.is_some() {
        Vec::new()
    } else {
        cmd.unwrap_or(before)
    };
    process.args = match &request.entrypoint {
        Some(program) if program.is_empty() => Vec::new(),
        Some(program) => vec![program.clone()],
        None => entrypoint.unwrap_or_default(),
    };
    process.args.extend(command);
    if process.args.is_empty() {
        return Err(Error::new(
            Kind::Usage,
            "no command was given, and the image names none",
        )
        .hint("give one after --"));
    }
    Ok(())
}

/// What a C string cannot hold cannot be executed.
fn check(process: &Process) -> Result<()> {
    let words = process.args.iter().chain(&process.env);
    for word in words.chain([&process.cwd]) {
        if word.contains('\0') {
            return Err(Error::new(
                Kind::Invalid,
                "the process's words and variables must not contain a zero byte",
            ));
        }
    }
    if !process.cwd.starts_with('/') {
        return Err(Error::new(
            Kind::Document,
            format!("process.cwd '{}' is not absolute", process.cwd),
        ));
    }
    Ok(())
}

/// Whether a device cgroup's allow-list stands between the container and the devices that it could name with mknod(2).
fn devices_are_guarded(document: &Document) -> bool {
    let Some(first) = document.value("/linux/resources/devices/0") else {
        return false;
    };
    let any = |key: &str, all: &str| first.get(key).is_none_or(|value| value == all);
    document.value("/bocker/cg/paths/devices").is_some()
        && first.get("allow") == Some(&serde_json::Value::Bool(false))
        && any("type", "a")
        && any("access", "rwm")
        && first.get("major").is_none()
        && first.get("minor").is_none()
}

fn name(variable: &str) -> &str {
    variable.split_once('=').map_or(variable, |(name, _)| name)
}

fn has_variable(env: &[String], wanted: &str) -> bool {
    env.iter().any(|entry| name(entry) == wanted)
}

/// The value of a variable.
pub(crate) fn variable<'a>(env: &'a [String], wanted: &str) -> Option<&'a str> {
    env.iter()
        .filter_map(|entry| entry.split_once('='))
        .find(|(name, _)| *name == wanted)
        .map(|(_, value)| value)
}

fn set_variable(env: &mut Vec<String>, variable: String) {
    match env.iter_mut().find(|entry| name(entry) == name(&variable)) {
        Some(entry) => *entry = variable,
        None => env.push(variable),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document(config: &serde_json::Value) -> (tempfile::TempDir, Document) {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(
            root.path().join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/srv:/bin/sh\n",
        )
        .unwrap();
        let mut document = Document::new();
        document.set("/root/path", root.path().to_str().unwrap());
        document.set("/bocker/image/config", config);
        (root, document)
    }

    fn request(words: &[&str]) -> Request {
        Request {
            command: words.iter().map(ToString::to_string).collect(),
            ..Request::default()
        }
    }

    fn derive_for(document: &Document, request: &Request, hostname: &str) -> Result<Process> {
        let path: std::path::PathBuf = document.need("/root/path", "bocker-snap")?;
        derive(document, request, hostname, || Root::open(&path).map(Some))
    }

    #[test]
    fn entrypoint_and_command_join_as_dockers_do() {
        let (_root, document) = document(&json!({"Entrypoint": ["/init"], "Cmd": ["serve"]}));
        let args = |request: &Request| derive_for(&document, request, "h").map(|p| p.args);
        assert_eq!(args(&request(&[])).unwrap(), ["/init", "serve"]);
        assert_eq!(
            args(&request(&["a  b", ""])).unwrap(),
            ["/init", "a  b", ""]
        );
        let with = |entrypoint: &str, words: &[&str]| Request {
            entrypoint: Some(entrypoint.into()),
            ..request(words)
        };
        assert_eq!(args(&with("sh", &[])).unwrap(), ["sh"]);
        assert_eq!(args(&with("sh", &["-c", "x"])).unwrap(), ["sh", "-c", "x"]);
        assert_eq!(args(&with("", &["ls"])).unwrap(), ["ls"]);
        assert_eq!(args(&with("", &[])).unwrap_err().kind(), &Kind::Usage);
    }

    #[test]
    fn without_any_command_it_is_wrong_usage() {
        let (_root, document) = document(&json!({}));
        let error = derive_for(&document, &request(&[]), "h").unwrap_err();
        assert_eq!((error.kind(), error.exit_code()), (&Kind::Usage, 125));
    }

    #[test]
    fn a_variable_has_a_name_and_a_file_has_one_in_each_line_that_is_no_comment() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("variables");
        std::fs::write(&file, "# C=1\n\n  A=b=c\r\nPATH\nE=").unwrap();
        let mut request = Request::default();
        request.add_variables_of(&file).unwrap();
        assert_eq!(request.env, ["A=b=c", "PATH", "E="]);
        for nameless in ["", "=", "=x"] {
            let refused = request.add_variable(nameless.to_owned());
            assert_eq!(refused.unwrap_err().kind(), &Kind::Usage, "{nameless:?}");
        }
        std::fs::write(&file, b"A=\xff").unwrap();
        let refused = request.add_variables_of(&file);
        assert_eq!(refused.unwrap_err().kind(), &Kind::Usage);
    }

    #[test]
    fn the_environment_is_clean_and_later_words_win() {
        let (_root, document) =
            document(&json!({"Env": ["A=image", "PATH=/bin", "B=1"], "User": "web"}));
        let request = Request {
            env: vec!["A=option".into(), "SURELY_NOT_SET".into()],
            terminal: true,
            ..request(&["x"])
        };
        let process = derive_for(&document, &request, "box").unwrap();
        assert_eq!(
            process.env,
            [
                "PATH=/bin",
                "HOSTNAME=box",
                "A=option",
                "B=1",
                "TERM=xterm",
                "HOME=/srv"
            ]
        );
    }

    #[test]
    fn a_user_that_is_not_root_has_no_effective_capabilities() {
        let (_root, document) = document(&json!({"User": "web", "WorkingDir": "srv"}));
        let process = derive_for(&document, &request(&["x"]), "h").unwrap();
        assert_eq!((process.user.uid, process.user.gid), (33, 33));
        assert_eq!(process.user.additional_gids, [33]);
        assert!(process.capabilities.unwrap().effective.is_empty());
        assert_eq!(process.cwd, "/srv");
        assert!(process.no_new_privileges);
    }

    #[test]
    fn mknod_is_kept_only_behind_a_device_allow_list() {
        let (_root, mut document) = document(&json!({}));
        let has = |document: &Document| {
            let process = derive_for(document, &request(&["x"]), "h").unwrap();
            process
                .capabilities
                .unwrap()
                .bounding
                .contains(&caps::MKNOD.to_owned())
        };
        assert!(!has(&document));
        let deny = json!([{"allow": false, "access": "rwm"}]);
        document.set_member(
            "cg",
            &json!({"paths": {"memory": "/sys/fs/cgroup/memory/x"}}),
        );
        document.set("/linux/resources/devices", &deny);
        assert!(!has(&document), "there is no devices controller");
        document.set_member(
            "cg",
            &json!({"paths": {"devices": "/sys/fs/cgroup/devices/x"}}),
        );
        for unguarded in [
            json!([]),
            json!([{"allow": true, "access": "rwm"}]),
            json!([{"allow": false, "access": "m"}]),
            json!([{"allow": false, "access": "rwm", "type": "b"}]),
            json!([{"allow": false, "access": "rwm", "major": 8}]),
        ] {
            document.set("/linux/resources/devices", &unguarded);
            assert!(!has(&document), "{unguarded}");
        }
        document.set("/linux/resources/devices", &deny);
        assert!(has(&document));
    }

    #[test]
    fn no_other_key_of_the_image_is_acted_on() {
        let plain = json!({"Cmd": ["x"]});
        let loud = json!({"Cmd": ["x"], "Labels": {"io.bocker.privileged": "true"}, "Hostname": "evil",
            "Volumes": {"/": {}}, "Healthcheck": {"Test": ["CMD", "y"]}, "Shell": ["/bin/z"],
            "process": {"noNewPrivileges": false}, "Capabilities": ["CAP_SYS_ADMIN"], "ArgsEscaped": true});
        let (_a, plain) = document(&plain);
        let (_b, loud) = document(&loud);
        assert_eq!(
            derive_for(&plain, &request(&[]), "h").unwrap(),
            derive_for(&loud, &request(&[]), "h").unwrap()
        );
    }

    #[test]
    fn a_process_of_a_run_before_is_kept_and_options_change_it() {
        let (_root, mut document) = document(&json!({"Cmd": ["x"], "Env": ["A=1"]}));
        let first = derive_for(&document, &request(&["sleep", "9"]), "h").unwrap();
        document.set("/process", &first);
        assert_eq!(
            derive_for(&document, &request(&[]), "other").unwrap(),
            first
        );
        let changed = Request {
            user: Some("web".into()),
            ..request(&["id"])
        };
        let second = derive_for(&document, &changed, "h").unwrap();
        assert_eq!(
            (second.user.uid, &second.args[..]),
            (33, &["id".to_owned()][..])
        );
        assert_eq!(variable(&second.env, "HOME"), Some("/srv"));
    }
}
