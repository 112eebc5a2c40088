//! What the steps of `run` say of themselves: the nearest classic commands, for `-v`, `--explain` and `--dry-run`.

use std::path::Path;

use bocker_pipe::Step;
use bocker_pipe::containers::CONFIG;
use bocker_pipe::step::quote;

use crate::plan::Plan;
use crate::start::Context;

type Lines = Vec<String>;

fn with_plan(cx: &Context, lines: impl Fn(&Plan) -> Lines) -> Lines {
    cx.plan.as_ref().map(lines).unwrap_or_default()
}

pub(crate) fn claim(cx: &Context) -> Lines {
    vec![format!(
        "# hold the lock of the container; its folder is {}",
        &cx.folder.display()
    )]
}

pub(crate) fn namespaces(cx: &Context) -> Lines {
    with_plan(cx, |plan| {
        let enter: Lines = plan
            .joins
            .iter()
            .map(|join| {
                format!(
                    "nsenter --{}={} ",
                    option(join.kind),
                    quote(&join.path.to_string_lossy())
                )
            })
            .collect();
        let network = if plan.new_network { " --net" } else { "" };
        let cgroup = if plan.new_cgroup { " --cgroup" } else { "" };
        vec![format!(
            "{}unshare --mount --uts --ipc --pid{network}{cgroup} --fork --kill-child sh",
            enter.concat()
        )]
    })
}

fn option(kind: &str) -> &str {
    match kind {
        "network" => "net",
        kind => kind,
    }
}

fn cgroup(cx: &Context) -> Lines {
    with_plan(cx, |plan| {
        let paths = plan.cgroups.unique();
        if paths.is_empty() {
            return vec!["# no cgroup: no stage before has made one".into()];
        }
        paths
            .iter()
            .map(|path| {
                format!(
                    "echo {} > {}/cgroup.procs",
                    cx.shown_pid(),
                    quote(&path.to_string_lossy())
                )
            })
            .collect()
    })
}

/// The steps that the container's own process takes.
pub(crate) fn report(name: &'static str) -> Step<Context> {
    match name {
        "spawn.cgroup" => Step::new(name, "its limits hold before it does anything")
            .command(cgroup)
            .look(|cx| format!("cat /proc/{}/cgroup", cx.shown_pid())),
        "spawn.root" => Step::new(name, "nothing of it reaches the host's mounts; its root is a mount without devices")
            .command(|cx| {
                with_plan(cx, |plan| {
                    let root = quote(&plan.root.to_string_lossy());
                    let name = quote(&plan.hostname);
                    vec![
                        format!("hostname {name}"),
                        "mount --make-rprivate /".into(),
                        format!("mount --rbind {root} {root}"),
                        format!("mount -o remount,bind,nodev {root}"),
                    ]
                })
            })
            .look(mountinfo),
        "spawn.mounts" => Step::new(name, "the kernel's own filesystems, which a process expects")
            .command(|cx| with_plan(cx, |plan| mounts(plan, true)))
            .look(mountinfo),
        "spawn.devices" => Step::new(name, "a /dev with nothing of the host's")
            .command(|cx| {
                with_plan(cx, |plan| {
                    let dev = format!("{}/dev", plan.root.display());
                    vec![
                        format!("cd {}", quote(&dev)),
                        "mknod -m 666 null c 1 3".into(),
                        "mknod -m 666 zero c 1 5".into(),
                        "mknod -m 666 full c 1 7".into(),
                        "mknod -m 666 random c 1 8".into(),
                        "mknod -m 666 urandom c 1 9".into(),
                        "mknod -m 666 tty c 5 0".into(),
                        "ln -s /proc/self/fd fd".into(),
                        "ln -s /proc/self/fd/0 stdin".into(),
                        "ln -s /proc/self/fd/1 stdout".into(),
                        "ln -s /proc/self/fd/2 stderr".into(),
                        "ln -s pts/ptmx ptmx".into(),
                    ]
                })
            })
            .look(|cx| format!("ls -l /proc/{}/root/dev", cx.shown_pid())),
        "spawn.volumes" => Step::new(name, "volumes and files of other stages, inside the root whatever links the image holds")
            .command(|cx| {
                with_plan(cx, |plan| {
                    let mut lines = mounts(plan, false);
                    lines.push(format!("mkdir -p {}", inside(plan, &plan.program.cwd)));
                    lines
                })
            })
            .look(mountinfo),
        "spawn.mask" => Step::new(name, "what tells about the host or sets its kernel is out of reach, and so is the host's root")
            .command(|cx| {
                with_plan(cx, |plan| {
                    let hide = plan.masked.iter().map(|path| {
                        format!("# hide {path} under an empty read-only tmpfs, or a null device if it is a file")
                    });
                    let lock = plan.read_only_paths.iter().map(|path| {
                        let path = inside(plan, path);
                        format!("mount --bind -o ro {path} {path}")
                    });
                    let root = quote(&plan.root.to_string_lossy());
                    let mut lines: Lines = hide.chain(lock).collect();
                    if plan.read_only {
                        lines.push(format!("mount -o remount,bind,ro {root}"));
                    }
                    lines.push(format!("cd {root} && pivot_root . . && umount -l ."));
                    lines
                })
            })
            .look(mountinfo),
        _ => Step::new(name, "it gives up all that a container does not need, for good")
            .command(|cx| with_plan(cx, |plan| vec![privileges(plan)]))
            .look(|cx| format!("grep -E 'Cap|NoNewPrivs|[UG]id' /proc/{}/status", cx.shown_pid())),
    }
}

fn mountinfo(cx: &Context) -> String {
    format!("cat /proc/{}/mountinfo", cx.shown_pid())
}

fn inside(plan: &Plan, path: &str) -> String {
    quote(&format!("{}{path}", plan.root.display()))
}

fn mounts(plan: &Plan, own: bool) -> Lines {
    plan.mounts
        .iter()
        .filter(|mount| crate::child::is_own(mount) == own)
        .map(|mount| {
            let kind = mount.kind.as_deref().unwrap_or("bind");
            let source = quote(mount.source.as_deref().unwrap_or(kind));
            let target = inside(plan, &mount.destination);
            let options = quote(&mount.options.join(","));
            match kind {
                "cgroup" => {
                    format!("# show {target}: a read-only view of the container's own cgroups")
                }
                "bind" => format!("mount -o {options},nodev {source} {target}"),
                _ => format!("mount -t {kind} -o {options} {source} {target}"),
            }
        })
        .collect()
}

fn privileges(plan: &Plan) -> String {
    let program = &plan.program;
    let groups: Vec<String> = program.groups.iter().map(u32::to_string).collect();
    let nnp = if program.no_new_privileges {
        " --no-new-privs"
    } else {
        ""
    };
    format!(
        "cd {} && setpriv --reuid {} --regid {} --groups {} --bounding-set {} --inh-caps -all{nnp} ...",
        quote(&program.cwd),
        program.uid,
        program.gid,
        groups.join(","),
        program.capabilities.for_setpriv(),
    )
}

pub(crate) fn config(cx: &Context) -> Lines {
    keeps(&cx.folder)
}

/// The document in a container's folder.
pub(crate) fn keeps(folder: &Path) -> Lines {
    vec![format!(
        "# write the document to {}",
        folder.join(CONFIG).display()
    )]
}

pub(crate) fn exec(cx: &Context) -> Lines {
    with_plan(cx, |plan| {
        let env = plan
            .program
            .env
            .iter()
            .map(|word| quote(&word.to_string_lossy()));
        let args = plan
            .program
            .args
            .iter()
            .map(|word| quote(&word.to_string_lossy()));
        let words: Lines = ["exec", "env", "-i"]
            .map(String::from)
            .into_iter()
            .chain(env)
            .chain(args)
            .collect();
        let init = "# process 1 is bocker-init, which executes it as a child:";
        let init = cx.member.request.init.then(|| init.to_owned());
        init.into_iter().chain([words.join(" ")]).collect()
    })
}
