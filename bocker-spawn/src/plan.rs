//! What a completed document comes to: everything that the container's first process needs, checked before anything is
//! made, so that what is malformed fails before it leaves a trace.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use bocker_pipe::document::Mount;
use bocker_pipe::{Document, Error, Kind, Result};
use serde::Deserialize;
use std::collections::BTreeMap;

use crate::caps::Sets;
use crate::process::{self, Process};

/// sethostname(2).
const MAX_HOSTNAME: usize = 64;

/// `bocker.cg`, as far as it is read here.
#[derive(Debug, Default, Deserialize)]
struct CgMember {
    path: Option<String>,
    #[serde(default)]
    paths: BTreeMap<String, PathBuf>,
    #[serde(default)]
    supervisor: Vec<PathBuf>,
}

/// The container's cgroups.
#[derive(Debug, Default, Clone)]
pub(crate) struct Cgroups {
    /// The path below each hierarchy's mount point.
    pub(crate) path: String,
    /// By controller, as bocker-cg made them.
    pub(crate) paths: BTreeMap<String, PathBuf>,
    /// Where a supervisor goes to live.
    pub(crate) supervisor: Vec<PathBuf>,
}

impl Cgroups {
    /// Of a document; empty when no stage made any.
    pub(crate) fn of(document: &Document) -> Result<Cgroups> {
        let member: CgMember = document.member("cg")?.unwrap_or_default();
        Ok(Cgroups {
            path: member.path.unwrap_or_default(),
            paths: member.paths,
            supervisor: member.supervisor,
        })
    }

    /// Each cgroup once: co-mounted controllers share one.
    pub(crate) fn unique(&self) -> Vec<&Path> {
        let mut paths: Vec<&Path> = self.paths.values().map(PathBuf::as_path).collect();
        paths.sort_unstable();
        paths.dedup();
        paths
    }
}

/// A namespace that somebody else made.
#[derive(Debug)]
pub(crate) struct Join {
    pub(crate) kind: &'static str,
    pub(crate) path: PathBuf,
}

/// The command and its surroundings, ready for execve(2).
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) args: Vec<CString>,
    pub(crate) env: Vec<CString>,
    pub(crate) path: String,
    pub(crate) cwd: String,
    pub(crate) terminal: bool,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) umask: u32,
    pub(crate) capabilities: Sets,
    pub(crate) no_new_privileges: bool,
}

impl Program {
    /// Of an OCI process.
    pub(crate) fn of(process: &Process) -> Result<Program> {
        let strings = |words: &[String]| -> Result<Vec<CString>> {
            words.iter().map(|word| c_string(word)).collect()
        };
        if process.args.is_empty() {
            return Err(Error::new(
                Kind::Document,
                "the document's process.args is empty",
            ));
        }
        Ok(Program {
            args: strings(&process.args)?,
            env: strings(&process.env)?,
            path: process::variable(&process.env, "PATH")
                .unwrap_or(process::DEFAULT_PATH)
                .to_owned(),
            cwd: process.cwd.clone(),
            terminal: process.terminal,
            uid: process.user.uid,
            gid: process.user.gid,
            groups: process.user.additional_gids.clone(),
            umask: process.user.umask.unwrap_or(0o022) & 0o777,
            capabilities: process.capabilities.clone().unwrap_or_default().sets()?,
            no_new_privileges: process.no_new_privileges,
        })
    }
}

/// A C string of a word that was checked to have no zero byte, or an error.
pub(crate) fn c_string(word: &str) -> Result<CString> {
    CString::new(word).map_err(|_| Error::new(Kind::Invalid, "a word contains a zero byte"))
}

/// A container to be.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) root: PathBuf,
    pub(crate) read_only: bool,
    pub(crate) hostname: String,
    pub(crate) domainname: Option<String>,
    /// `CLONE_NEW*` of what is new from the beginning.
    pub(crate) new: i32,
    /// A cgroup namespace is made once the process is in its cgroup, so that it becomes the root of the view.
    pub(crate) new_cgroup: bool,
    pub(crate) new_network: bool,
    pub(crate) joins: Vec<Join>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) masked: Vec<String>,
    pub(crate) read_only_paths: Vec<String>,
    pub(crate) cgroups: Cgroups,
    pub(crate) program: Program,
}

impl Plan {
    /// Of a completed document.
    pub(crate) fn of(document: &Document) -> Result<Plan> {
        let process: Process = document.need("/process", "bocker-spawn")?;
        let mut new = 0;
        let mut joins = Vec::new();
        for (kind, flag) in [
            ("pid", libc::CLONE_NEWPID),
            ("mount", libc::CLONE_NEWNS),
            ("uts", libc::CLONE_NEWUTS),
            ("ipc", libc::CLONE_NEWIPC),
            ("network", libc::CLONE_NEWNET),
        ] {
            match document.namespace(kind) {
                None => {}
                Some(None) => new |= flag,
                Some(Some(path)) => joins.push(Join {
                    kind,
                    path: path.into(),
                }),
            }
        }
        let hostname: String = document.get("/hostname")?.unwrap_or_default();
        let domainname: Option<String> = document.get("/domainname")?;
        for name in [Some(&hostname), domainname.as_ref()].into_iter().flatten() {
            if name.len() > MAX_HOSTNAME {
                return Err(Error::new(
                    Kind::Invalid,
                    format!("the name '{name}' is longer than {MAX_HOSTNAME} characters"),
                ));
            }
        }
        let mounts: Vec<Mount> = document.get("/mounts")?.unwrap_or_default();
        for mount in &mounts {
            if !mount.destination.starts_with('/') {
                return Err(Error::new(
                    Kind::Document,
                    format!(
                        "the mount destination '{}' is not absolute",
                        mount.destination
                    ),
                ));
            }
        }
        Ok(Plan {
            root: document.need("/root/path", "bocker-snap")?,
            read_only: document.get("/root/readonly")?.unwrap_or(false),
            hostname,
            domainname,
            new,
            new_cgroup: document.namespace("cgroup").is_some(),
            new_network: new & libc::CLONE_NEWNET != 0,
            joins,
            mounts,
            masked: document.get("/linux/maskedPaths")?.unwrap_or_default(),
            read_only_paths: document.get("/linux/readonlyPaths")?.unwrap_or_default(),
            cgroups: Cgroups::of(document)?,
            program: Program::of(&process)?,
        })
    }
}
