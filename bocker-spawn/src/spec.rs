//! Completes the document: everything of an OCI `config.json` that no other stage owns, with Docker's defaults
//! (moby, daemon/pkg/oci/defaults.go). The result is what `run` obeys and what `spec` prints for another runtime.

use std::path::{Path, PathBuf};

use bocker_pipe::document::Mount;
use bocker_pipe::{Document, Error, Kind, Result};
use serde_json::{Value, json};

use crate::mounts;
use crate::process::{self, Process, Request};
use crate::rooted::Root;

/// The new namespaces of every container; the network's is bocker-net's to give, and a cgroup namespace comes with v2.
const NAMESPACES: [&str; 4] = ["pid", "mount", "uts", "ipc"];
/// Paths that tell about the host or reach its hardware.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// One per processor (GHSA-6fw5-f8r9-fgfm): below /sys/devices/system/cpu, in each cpuN.
const CPUS: &str = "/sys/devices/system/cpu";
const THERMAL: &str = "thermal_throttle";
/// Paths through which the host's kernel could be set.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];
/// Where the cgroups of the host are mounted, and the container's own are shown to it.
pub(crate) const CGROUP: &str = "/sys/fs/cgroup";
/// How the mounts of a container's namespace are tied to the host's: what makes runc let bind mounts be shared, or slaves. Here each
/// is tied by itself.
const PROPAGATION: &str = "/linux/rootfsPropagation";

/// What of the document is not acted on here, and so must not be asked for: to run without it would be to run laxer, or
/// other, than the document says.
const UNSUPPORTED: [&str; 25] = [
    "/hooks",
    "/linux/devices",
    "/linux/gidMappings",
    "/linux/intelRdt",
    "/linux/memoryPolicy",
    "/linux/mountLabel",
    "/linux/netDevices",
    "/linux/personality",
    "/linux/seccomp",
    "/linux/sysctl",
    "/linux/timeOffsets",
    "/linux/uidMappings",
    "/process/apparmorProfile",
    "/process/commandLine",
    "/process/consoleSize",
    "/process/execCPUAffinity",
    "/process/ioPriority",
    "/process/oomScoreAdj",
    "/process/rlimits",
    "/process/scheduler",
    "/process/selinuxLabel",
    "/solaris",
    "/vm",
    "/windows",
    "/zos",
];

/// Fails with [`Kind::Unsupported`], naming the member, when the document asks for what is not done here.
pub(crate) fn refuse_unsupported(document: &Document) -> Result<()> {
    let refuse = |name: &str| {
        Err(Error::new(
            Kind::Unsupported,
            format!("the document's {name} is not supported by this tool"),
        )
        .hint("remove it, or give the document to another runtime: it is an OCI config.json"))
    };
    for pointer in UNSUPPORTED {
        let empty = match document.value(pointer) {
            None | Some(Value::Null) => true,
            Some(Value::String(text)) => text.is_empty(),
            Some(Value::Array(items)) => items.is_empty(),
            Some(Value::Object(members)) => members.is_empty(),
            Some(_) => false,
        };
        if !empty {
            return refuse(&pointer[1..].replace('/', "."));
        }
    }
    let propagation = document.value(PROPAGATION).and_then(Value::as_str);
    if let Some(asked) = propagation.filter(|word| !matches!(*word, "" | "private" | "rprivate"))
        && Some(asked)
            != mounts::propagation(&document.get::<Vec<Mount>>("/mounts")?.unwrap_or_default())?
    {
        return refuse(&format!("linux.rootfsPropagation '{asked}'"));
    }
    for entry in document
        .value("/linux/namespaces")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let kind = entry.get("type").and_then(Value::as_str).unwrap_or("");
        let joins = entry.get("path").is_some_and(|path| !path.is_null());
        match (kind, joins) {
            ("network" | "ipc" | "uts", _) | ("pid" | "mount" | "cgroup", false) => {}
            (_, true) => return refuse(&format!("linux.namespaces[{kind}].path")),
            _ => return refuse(&format!("linux.namespaces[{kind}]")),
        }
    }
    Ok(())
}

/// Fills in what is missing. `name` is the host name where no stage gave one. In a dry run the root may not be there.
pub(crate) fn complete(
    document: &mut Document,
    request: &Request,
    name: &str,
    dry_run: bool,
) -> Result<()> {
    refuse_unsupported(document)?;
    if document.value("/hostname").is_none() {
        document.set("/hostname", name);
    }
    let hostname: String = document.need("/hostname", "bocker-net")?;
    let root: PathBuf = document.need("/root/path", "bocker-snap")?;
    let process: Process = process::derive(document, request, &hostname, || {
        match Root::open(&root) {
            // What would be made is not there to be read.
            Err(_) if dry_run => Ok(None),
            root => root.map(Some),
        }
    })?;
    document.set("/process", &process);

    for kind in NAMESPACES {
        if document.namespace(kind).is_none() {
            document.set_namespace(kind, None);
        }
    }
    let on_v2 = is_unified(Path::new(CGROUP));
    if on_v2 && document.namespace("cgroup").is_none() {
        document.set_namespace("cgroup", None);
    }
    // Isolated is the default. Whoever wants the host's network says so, to bocker-net.
    if document.namespace("network").is_none() && document.value("/bocker/net").is_none() {
        document.set_namespace("network", None);
    }

    let has_cgroup = document.value("/bocker/cg").is_some();
    let ordered = order_mounts(document.get("/mounts")?.unwrap_or_default(), has_cgroup);
    document.set("/mounts", &ordered);
    if let Some(propagation) = mounts::propagation(&ordered)? {
        document.set(PROPAGATION, propagation);
    }
    if document.value("/linux/maskedPaths").is_none() {
        document.set("/linux/maskedPaths", &masked_paths());
    }
    if document.value("/linux/readonlyPaths").is_none() {
        document.set("/linux/readonlyPaths", &READ_ONLY);
    }
    Ok(())
}

/// Our own mounts first, the others after them, stably by depth: one may lie inside another.
fn order_mounts(given: Vec<Mount>, has_cgroup: bool) -> Vec<Mount> {
    let own = own_mounts(has_cgroup);
    let mut others: Vec<Mount> = given
        .into_iter()
        .filter(|mount| !own_mounts(true).contains(mount))
        .collect();
    others.sort_by_key(|mount| depth(&mount.destination));
    own.into_iter().chain(others).collect()
}

fn depth(path: &str) -> usize {
    path.split('/')
        .filter(|name| !name.is_empty() && *name != ".")
        .count()
}

fn own_mounts(has_cgroup: bool) -> Vec<Mount> {
    let mount = |destination: &str, kind: &str, options: &[&str]| Mount {
        destination: destination.into(),
        kind: Some(kind.into()),
        source: Some(
            if destination == "/dev/shm" {
                "shm"
            } else {
                kind
            }
            .into(),
        ),
        options: options.iter().map(ToString::to_string).collect(),
    };
    const NO: [&str; 3] = ["nosuid", "noexec", "nodev"];
    let with = |more: &[&'static str]| -> Vec<&str> { [&NO[..], more].concat() };
    let mut mounts = vec![
        mount("/proc", "proc", &NO),
        mount(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount("/sys", "sysfs", &with(&["ro"])),
    ];
    if has_cgroup {
        mounts.push(mount(CGROUP, "cgroup", &with(&["relatime", "ro"])));
    }
    mounts.push(mount("/dev/mqueue", "mqueue", &NO));
    mounts.push(mount(
        "/dev/shm",
        "tmpfs",
        &with(&["mode=1777", "size=65536k"]),
    ));
    mounts
}

fn masked_paths() -> Value {
    let mut paths: Vec<String> = MASKED.iter().map(ToString::to_string).collect();
    // Every possible processor has its folder, online or not; which have the file only the kernel knows.
    let mut cpus: Vec<u32> = std::fs::read_dir(CPUS)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let number = entry
                .file_name()
                .to_str()?
                .strip_prefix("cpu")?
                .parse()
                .ok()?;
            entry.path().join(THERMAL).exists().then_some(number)
        })
        .collect();
    cpus.sort_unstable();
    paths.extend(
        cpus.iter()
            .map(|number| format!("{CPUS}/cpu{number}/{THERMAL}")),
    );
    json!(paths)
}

/// Whether cgroups v2 alone are mounted there (cgroups(7)).
pub(crate) fn is_unified(path: &Path) -> bool {
    rustix::fs::statfs(path)
        .is_ok_and(|stat| stat.f_type as u64 == libc::CGROUP2_SUPER_MAGIC as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(destination: &str) -> Mount {
        Mount {
            destination: destination.into(),
            kind: Some("bind".into()),
            source: Some("/srv".into()),
            options: vec!["rbind".into()],
        }
    }

    #[test]
    fn our_mounts_come_first_and_the_others_stably_by_depth() {
        let given = vec![bind("/a/b/c"), bind("/z"), bind("/a//./"), bind("/y/x")];
        let ordered = order_mounts(given, true);
        let names: Vec<&str> = ordered.iter().map(|mount| &*mount.destination).collect();
        assert_eq!(names[..3], ["/proc", "/dev", "/dev/pts"]);
        assert_eq!(names[7..], ["/z", "/a//./", "/y/x", "/a/b/c"]);
    }

    #[test]
    fn ordering_twice_is_ordering_once() {
        let once = order_mounts(vec![bind("/a")], true);
        assert_eq!(order_mounts(once.clone(), true), once);
        assert_eq!(order_mounts(once.clone(), false).len(), once.len() - 1);
    }

    #[test]
    fn what_is_not_done_here_is_refused_by_name() {
        for (pointer, value) in [
            ("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ERRNO"})),
            ("/hooks", json!({"prestart": [{"path": "/x"}]})),
            ("/linux/namespaces", json!([{"type": "user"}])),
            (
                "/linux/namespaces",
                json!([{"type": "pid", "path": "/proc/1/ns/pid"}]),
            ),
            ("/process", json!({"rlimits": [{"type": "RLIMIT_CORE"}]})),
            ("/linux/rootfsPropagation", json!("shared")),
        ] {
            let mut document = Document::new();
            document.set(pointer, &value);
            let error = refuse_unsupported(&document).unwrap_err();
            assert_eq!(error.kind(), &Kind::Unsupported, "{pointer}");
        }
        let mut document = Document::new();
        document.set("/linux/seccomp", &json!(null));
        document.set("/hooks", &json!({}));
        refuse_unsupported(&document).unwrap();
    }

    #[test]
    fn the_propagation_of_the_root_is_what_its_bind_mounts_need() {
        let root = tempfile::tempdir().unwrap();
        for (options, expected) in [
            (&["rbind", "rprivate"][..], Value::Null),
            (&["rbind", "rslave"], json!("rslave")),
            (&["bind", "shared"], json!("shared")),
        ] {
            let mut document = Document::new();
            document.set("/root/path", root.path().to_str().unwrap());
            let mut tied = bind("/tied");
            tied.options = options.iter().map(ToString::to_string).collect();
            document.set("/mounts", &[bind("/data"), tied]);
            let request = Request {
                command: vec!["x".into()],
                ..Request::default()
            };
            for _ in 0..2 {
                complete(&mut document, &request, "h", false).unwrap();
                let found = document.value(PROPAGATION).cloned();
                assert_eq!(found.unwrap_or_default(), expected, "{options:?}");
            }
        }
    }

    #[test]
    fn isolated_is_the_default_and_the_hosts_network_is_bocker_nets_word() {
        let root = tempfile::tempdir().unwrap();
        let mut document = Document::new();
        document.set("/root/path", root.path().to_str().unwrap());
        let request = Request {
            command: vec!["x".into()],
            ..Request::default()
        };
        let mut isolated = document.clone();
        complete(&mut isolated, &request, "ps_aaaaaa", false).unwrap();
        assert_eq!(isolated.namespace("network"), Some(None));
        assert_eq!(isolated.value("/hostname"), Some(&json!("ps_aaaaaa")));

        document.set_member("net", &json!({"mode": "host"}));
        complete(&mut document, &request, "ps_aaaaaa", false).unwrap();
        assert_eq!(document.namespace("network"), None);
    }

    #[test]
    fn completing_twice_is_completing_once() {
        let root = tempfile::tempdir().unwrap();
        let mut document = Document::new();
        document.set("/root/path", root.path().to_str().unwrap());
        document.set("/mounts", &[bind("/data")]);
        let request = Request {
            command: vec!["x".into()],
            ..Request::default()
        };
        complete(&mut document, &request, "h", false).unwrap();
        let once = document.clone();
        complete(&mut document, &Request::default(), "h", false).unwrap();
        assert_eq!(document, once);
    }
}
