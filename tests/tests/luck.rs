//! Bad input and bad luck in the life of a container: each is a clear error or what the page says, and nothing is left.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use bocker_tests::{Fingerprint, Output, Running, Session, Struck, is_btrfs, need};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// elf(5): where the machine is that a program is for, and one that this is not.
const E_MACHINE: usize = 18;
const EM_S390: u8 = 22;

fn id(s: &Session, name: &str) -> String {
    let output = s.bocker(&["inspect", "--format", "{{.bocker.id}}", name]);
    output.text().trim().to_owned()
}

fn config(s: &Session, id: &str) -> PathBuf {
    s.host
        .root()
        .join("containers")
        .join(id)
        .join("config.json")
}

fn edit(s: &Session, id: &str, change: impl Fn(&mut Value)) {
    let path = config(s, id);
    let mut document: Value =
        serde_json::from_slice(&fs::read(&path).expect("config.json")).expect("a document");
    change(&mut document);
    fs::write(&path, document.to_string()).expect("config.json");
}

/// It did what it should, or says in a line why not.
#[track_caller]
fn is_clear(output: &Output) {
    let is_said = output.stderr.lines().any(|line| line.starts_with("bocker"));
    assert!(output.code == 0 || is_said, "{output}");
    assert!(!output.stderr.contains("panicked"), "{output}");
}

#[test]
fn what_cannot_be_executed_is_126_or_127_or_says_what_is_missing() {
    let s = Session::new();
    let mut program = fs::read("/bin/busybox").expect("busybox-static");
    program[E_MACHINE] = EM_S390;
    let elsewhere = PathBuf::from(&s.rootfs).join("bin/elsewhere");
    fs::write(&elsewhere, program).expect("a program");
    s.host
        .run(&["chmod", "755", &elsewhere.display().to_string()])
        .ok();
    s.run(&["--rm"], &["true"]).ok();
    let before = s.host.fingerprint();
    for ways in [&["--rm"][..], &["-d", "--rm"]] {
        let run = |options: &[&str], command: &str| s.run(&[ways, options].concat(), &[command]);
        run(&[], "elsewhere").exits(126).says("elsewhere");
        run(&[], "nowhere").exits(127).says("nowhere");
        run(&["--user", "nonesuch"], "true")
            .exits(125)
            .says("nonesuch");
        run(&["--workdir", "/bin/busybox"], "true")
            .exits(125)
            .says("/bin/busybox");
        s.host.assert_same(&before);
    }
    // As docker, a working directory that is missing is made.
    s.run(&["--rm", "--workdir", "/made/for/it"], &["pwd"]).ok();
}

#[test]
fn streams_that_are_closed_or_at_their_end_are_none() {
    let s = Session::new();
    s.run(&["--rm"], &["true"]).ok();
    let before = s.host.fingerprint();
    let script = "echo out; echo err >&2; cat; exit 4";
    let none = "<&- >&- 2>&-";
    for (line, code) in [
        ("run --rm -i --rootfs $0 sh -c \"$1\" < /dev/null", 4),
        ("run --rm -i --rootfs $0 sh -c \"$1\" <&-", 4),
        (&format!("run --rm -i --rootfs $0 sh -c \"$1\" {none}"), 4),
        (
            &format!("run -d --name web --rootfs $0 sleep 1000 {none}"),
            0,
        ),
        ("exec -i web sh -c \"$1\" < /dev/null", 4),
        (&format!("exec -i web sh -c \"$1\" {none}"), 4),
        (&format!("restart -t 0 web {none}"), 0),
        (&format!("stop web {none}"), 0),
        (&format!("logs web {none}"), 0),
        (&format!("rm web {none}"), 0),
    ] {
        let line = format!("exec bocker {line}");
        let output = s.host.run(&["sh", "-c", &line, &s.rootfs, script]);
        let output = output.exits(code);
        if code == 4 && !line.contains(none) {
            assert_eq!(
                (&*output.stdout, &*output.stderr),
                ("out\n", "err\n"),
                "{line}"
            );
        }
    }
    s.host.assert_same(&before);
}

#[test]
fn what_a_container_has_left_running_ends_with_it_and_holds_nobody_up() {
    let s = Session::new();
    s.run(&["--rm"], &["true"]).ok();
    let before = s.host.fingerprint();
    // Each has the container's stdout, and none is waited for by its parent.
    let script = "(setsid sleep 1000 &); (nohup sleep 1000 &); (sh -c 'sleep 1000 & exec sleep 1000' &); echo last; exit 3";
    let output = s.run(&["--rm"], &["sh", "-c", script]).exits(3);
    assert_eq!(output.stdout, "last\n");
    s.host.assert_same(&before);
    s.run(&["-d", "--name", "web"], &["sh", "-c", script]).ok();
    assert_eq!(s.bocker(&["wait", "web"]).text(), "3\n");
    assert_eq!(s.bocker(&["logs", "web"]).ok().stdout, "last\n");
    s.bocker(&["rm", "web"]).ok();
    s.host.assert_same(&before);
}

#[test]
fn a_container_whose_root_is_taken_away_goes_on_and_ends_and_is_not_begun_again_without() {
    let s = Session::new();
    s.run(&["--rm", "--name", "web"], &["true"]).ok();
    let before = s.host.fingerprint();
    s.run(
        &["-d", "--name", "web", "--restart", "always"],
        &["sleep", "1000"],
    )
    .ok();
    let document = s.bocker(&["inspect", "web"]).ok().json()[0].clone();
    // A snapshot is a directory, and no mount.
    let root = document["root"]["path"].as_str().expect("a root");
    let gone = format!("{root}.gone");
    let (take, missing) = match is_btrfs() {
        true => (["mv", root, &gone], "/rootfs"),
        false => (["umount", "-l", root], "sleep"),
    };
    s.host.run(&take).ok();
    s.bocker(&["exec", "web", "ls", "/bin/busybox"]).ok();
    let pid = document["bocker"]["spawn"]["pid"].as_i64().expect("a pid");
    kill(
        Pid::from_raw(i32::try_from(pid).expect("a pid")),
        Signal::SIGKILL,
    )
    .expect("kill");
    let error = s.host.wait_for("its end", || {
        let document = s.bocker(&["inspect", "web"]).ok().json()[0].clone();
        let error = document["bocker"]["exit"]["error"].as_str();
        error.map(str::to_owned)
    });
    assert!(error.contains(missing), "{error}");
    if is_btrfs() {
        s.bocker(&["start", "web"]).exits(125).says("/rootfs");
        s.host.run(&["mv", &gone, root]).ok();
    }
    s.bocker(&["start", "web"]).ok();
    s.bocker(&["rm", "-f", "web"]).ok();
    s.host.assert_same(&before);
}

#[test]
fn a_number_that_is_another_process_by_now_is_not_signalled_and_the_container_ends_all_the_same() {
    let s = Session::new();
    s.run(&["--rm", "--name", "web"], &["true"]).ok();
    let before = s.host.fingerprint();
    let mut other = s.host.spawn(&["sleep", "1000"]);
    // The container is started in another tick of the clock by which start times are told, which this file shows, too.
    let uptime = || fs::read_to_string("/proc/uptime").expect("uptime");
    let tick = || uptime().split(' ').next().map(str::to_owned);
    let begun = tick();
    s.host
        .wait_for("the next tick", || (tick() != begun).then_some(()));
    let id = s.sleeping("web");
    edit(&s, &id, |document| {
        document["bocker"]["spawn"]["pid"] = other.pid().into()
    });
    s.bocker(&["kill", "web"]).exits(125);
    s.bocker(&["rm", "-f", "web"]).ok();
    assert!(!other.has_ended());
    other.signal(Signal::SIGKILL);
    _ = other.wait();
    s.host.assert_same(&before);
}

/// A filesystem of its own on which nothing is written as long as this lives: who tries waits in state D, which no signal ends
/// (ioctl_fs(2), FIFREEZE). Whatever ends the test, it goes on.
struct Frozen(Child);

impl Frozen {
    /// Mounts one.
    fn mount(s: &Session) -> String {
        let folder = s.host.scratch().join("data");
        fs::create_dir(&folder).expect("a folder");
        let (disk, folder) = (s.host.file("disk", ""), folder.display().to_string());
        let script = format!(
            "truncate -s 16M {disk} && mkfs.ext4 -q -F {disk} && mount -o loop {disk} {folder}"
        );
        s.host.sh(&script).ok();
        folder
    }

    fn begin(folder: &str) -> Frozen {
        let script = "busybox fsfreeze --freeze $0 && echo done && read line; busybox fsfreeze --unfreeze $0";
        let mut child = Command::new("sh")
            .args(["-c", script, folder])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh");
        let mut said = [0; 5];
        let stdout = child.stdout.as_mut().expect("its stdout");
        stdout.read_exact(&mut said).expect("it is frozen");
        Frozen(child)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        _ = self.0.wait();
    }
}

fn process_1(s: &Session, name: &str) -> Pid {
    let pid = s.bocker(&["inspect", "--format", "{{.State.Pid}}", name]);
    Pid::from_raw(pid.text().trim().parse().expect("a pid"))
}

/// Of process 1: its supervisor.
fn parent(pid: Pid) -> Pid {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let parent = stat.split(' ').nth(3).expect("a parent");
    Pid::from_raw(parent.parse().expect("a pid"))
}

/// A container `web` whose process 1 waits for the kernel.
struct Waiting {
    frozen: Frozen,
    /// Of process 1.
    pid: Pid,
    /// What it has written to.
    file: PathBuf,
    /// The machine without it.
    before: Fingerprint,
}

impl Waiting {
    /// `None` where there is no filesystem that could be frozen.
    fn begin() -> Option<(Session, Waiting)> {
        if !need("mkfs.ext4 losetup") {
            return None;
        }
        let s = Session::new();
        s.run(&["--rm"], &["true"]).ok();
        let folder = Frozen::mount(&s);
        let before = s.host.fingerprint();
        let volume = format!("{folder}:/data");
        let script = "while :; do echo x >> /data/file; done";
        s.run(
            &["-d", "--name", "web", "-v", &volume],
            &["sh", "-c", script],
        )
        .ok();
        let file = PathBuf::from(&folder).join("file");
        s.host.wait_for("it writes", || file.exists().then_some(()));
        let frozen = Frozen::begin(&folder);
        let pid = process_1(&s, "web");
        s.host.wait_for("state D", || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            stat.contains(") D ").then_some(())
        });
        let waiting = Waiting {
            frozen,
            pid,
            file,
            before,
        };
        Some((s, waiting))
    }

    /// What is said of it by who has killed it.
    fn said(&self) -> String {
        let pid = self.pid;
        format!("was killed and is not gone: {pid} (sh) is in state D")
    }
}

#[test]
fn what_waits_for_the_kernel_is_named_and_nothing_is_taken_from_it() {
    let Some((s, waiting)) = Waiting::begin() else {
        return;
    };
    let said = waiting.said();
    s.sleeping("other");
    s.sleeping("deaf");
    let stopped = parent(process_1(&s, "deaf"));
    kill(stopped, Signal::SIGSTOP).expect("stop a supervisor");
    // They wait as long as a kill may take, and not for ever.
    let ways = [
        (&["bocker", "stop", "web"][..], &*said),
        (&["bocker", "rm", "-f", "web"], &said),
        (
            &["bocker", "stop", "deaf"],
            "has ended, and its supervisor does not notice",
        ),
    ];
    let ending = ways.map(|(way, said)| (s.host.spawn(way), said));
    // Nobody else does.
    s.bocker(&["stop", "-t", "0", "other"]).ok();
    for (way, said) in ending {
        let output = way.wait().says(said);
        assert_ne!(output.code, 0, "{output}");
    }
    kill(stopped, Signal::SIGCONT).expect("let it go on");
    assert_eq!(s.bocker(&["wait", "deaf"]).text(), "137\n");
    s.bocker(&["rm", "deaf"]).ok();
    let shown = s.bocker(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]);
    assert_eq!(shown.text(), "other exited\nweb running\n");
    drop(waiting.frozen);
    s.host.wait_for("its end", || {
        let state = s.bocker(&[
            "inspect",
            "--format",
            "{{.State.Status}} {{.State.ExitCode}}",
            "web",
        ]);
        (state.text() == "exited 137\n").then_some(())
    });
    s.bocker(&["rm", "web", "other"]).ok();
    fs::remove_file(waiting.file).expect("its file");
    s.host.assert_same(&waiting.before);
}

#[test]
fn what_waits_for_the_kernel_without_a_supervisor_holds_nobody_up_and_is_not_begun_again_beside() {
    let Some((s, waiting)) = Waiting::begin() else {
        return;
    };
    let said = waiting.said();
    let id = id(&s, "web");
    let document = s.bocker(&["inspect", "web"]).json()[0].clone();
    kill(parent(waiting.pid), Signal::SIGKILL).expect("kill");
    s.host.wait_for("the supervisor's end", || {
        let state = s.host.run(&["bocker-spawn", "state", "web"]).ok().json();
        (state["status"] == "orphaned").then_some(())
    });
    s.bocker(&["images"]).ok().says(&said);
    for verb in [
        &["start", "web"][..],
        &["rm", "-f", "web"],
        &["system", "prune", "--force"],
    ] {
        let output = s.bocker(verb).says(&said);
        let left = "what is left of container 'web' has not ended";
        let lines = [&said, left].map(|line| output.stderr.matches(line).count());
        // Nothing of it is to be pruned, and nothing else is there.
        let (code_is_0, expected) = match verb[0] {
            "system" => (true, [1, 0]),
            _ => (false, [1, 1]),
        };
        assert_eq!((output.code == 0, lines), (code_is_0, expected), "{output}");
        assert_eq!(output.stdout, "");
    }
    let alone = s
        .host
        .call(&["bocker-spawn", "run", "--detach"])
        .stdin(document.to_string());
    alone
        .run()
        .exits(125)
        .says("has lost its supervisor, and what is left of it has not ended");
    assert!(config(&s, &id).exists());
    drop(waiting.frozen);
    s.bocker(&["start", "web"]).ok().says("lost its supervisor");
    s.bocker(&["rm", "-f", "web"]).ok();
    fs::remove_file(waiting.file).expect("its file");
    s.host.assert_same(&waiting.before);
}

#[test]
fn a_document_that_is_cut_off_while_its_container_runs_keeps_nobody_else_from_anything() {
    let s = Session::new();
    s.run(&["--rm", "--name", "web"], &["true"]).ok();
    let before = s.host.fingerprint();
    let id = s.sleeping("web");
    s.sleeping("other");
    let path = config(&s, &id);
    let length = fs::metadata(&path).expect("config.json").len();
    let file = fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .expect("config.json");
    file.set_len(length / 2).expect("cut off");
    let shown = s.bocker(&["ps", "--format", "{{.Names}}"]);
    assert_eq!(shown.stdout, "other\n");
    assert!(
        shown.stderr.contains(&format!("{id} is not listed: ")),
        "{shown}"
    );
    for verb in [
        "stop", "start", "kill", "pause", "restart", "inspect", "exec",
    ] {
        let words = match verb {
            "exec" => vec!["exec", "web", "true"],
            verb => vec![verb, "web"],
        };
        let output = s.bocker(&words);
        assert_ne!(output.code, 0, "{output}");
        is_clear(&output);
    }
    s.bocker(&["rm", "-f", "web", "other"]).ok();
    s.host.assert_same(&before);
}

/// Verbs on a container `web`, and what else they need.
const VERBS: [&[&str]; 21] = [
    &["start", "web"],
    &["stop", "web"],
    &["restart", "web"],
    &["kill", "web"],
    &["pause", "web"],
    &["unpause", "web"],
    &["wait", "web"],
    &["attach", "web"],
    &["exec", "web", "true"],
    &["logs", "web"],
    &["logs", "-f", "web"],
    &["top", "web"],
    &["port", "web"],
    &["inspect", "web"],
    &["rename", "web", "other"],
    &["diff", "web"],
    &["commit", "web", "made:1"],
    &["cp", "web:/etc/passwd", "-"],
    &["export", "web"],
    &["rm", "web"],
    &["rm", "-f", "web"],
];

#[test]
fn a_stage_that_is_killed_is_named_with_the_signal_and_so_is_a_supervisor_at_its_birth() {
    let s = Session::new();
    s.run(&["--rm", "--name", "web"], &["true"]).ok();
    let before = s.host.fingerprint();
    let run = |at: &str, options: &[&str]| {
        let words = ["bocker", "run", "--rm", "--rootfs", &s.rootfs];
        let words = [&words, options, &["true"]].concat();
        s.host.call(&words).env("BOCKER_FAIL_AT", at).run()
    };
    let hint = "'bocker system prune' removes what";
    for (at, stage) in [
        ("kill:snap.mount", "'snap create'"),
        ("kill:net.veth", "'net create'"),
        ("kill:spawn.namespaces", "'spawn run'"),
        ("kill:spawn.exec", "'spawn run'"),
    ] {
        let what = format!("bocker: {stage} was killed by SIGKILL; {hint}");
        run(at, &[]).exits(125).says(&what);
        // It could be at work for ten minutes.
        for tool in ["bocker-cg", "bocker-net", "bocker-snap"] {
            s.host.run(&[tool, "gc", "--grace", "0"]).ok();
        }
        s.host.assert_same(&before);
    }
    for options in [&["-d"][..], &["-d", "-t"], &["-t"]] {
        for at in [
            "kill:spawn.namespaces",
            "kill:spawn.config",
            "kill:spawn.exec",
        ] {
            let said = run(at, options).exits(125);
            let ours = |line: &&str| line.starts_with("bocker-spawn: the supervisor of ps_");
            let line = said.stderr.lines().find(ours).unwrap_or_default();
            assert!(line.contains(&format!("was killed; {hint}")), "{said}");
            assert!(!said.stderr.contains("without a document"), "{said}");
            s.host.assert_same(&before);
        }
    }
}

#[test]
fn a_document_of_another_version_is_refused_by_every_verb_and_nothing_of_it_is_lost() {
    let s = Session::new();
    s.run(&["--rm"], &["true"]).ok();
    let before = s.host.fingerprint();
    s.run(&["--name", "web"], &["echo", "said"]).ok();
    s.run(&["--name", "old"], &["true"]).ok();
    let id = id(&s, "web");
    edit(&s, &id, |document| document["bocker"]["version"] = 2.into());
    let picture = s.host.fingerprint();
    let content = || fs::read(config(&s, &id)).expect("config.json");
    let written = content();
    let said =
        "the document is of version 2, this tool speaks version 1; use the release that wrote it";
    for verb in VERBS {
        let output = s.bocker(verb).says(said);
        assert_ne!(output.code, 0, "{output}");
    }
    let shown = s.bocker(&["ps", "-a", "--format", "{{.Names}}"]).says(said);
    assert_eq!(shown.text(), "old\n");
    for tool in ["bocker-spawn", "bocker-cg", "bocker-net", "bocker-snap"] {
        s.host.run(&[tool, "gc", "--grace", "0", "--force"]).ok();
    }
    s.host.assert_same(&picture);
    assert_eq!(content(), written);
    edit(&s, &id, |document| document["bocker"]["version"] = 1.into());
    s.bocker(&["rm", "web", "old"]).ok();
    s.host.assert_same(&before);
}

/// The files of a container, in its folder `$0` and in that of its claim `$1`, by what depends on them.
const FILES: [&str; 3] = [
    "$0/config.json",
    "$0/status $0/log $1/health $1/lost $1/restarting $1/still",
    "$1/claim $1/lock $1/alive $1/socket",
];

/// What somebody does to a file `$file`, of which there need not be one.
const DAMAGES: [&str; 4] = [
    ": > $file",
    r#"rm -f $file; printf '\377{"a":[' > $file"#,
    "rm -f $file",
    "rm -f $file; mkdir $file",
];

#[test]
fn files_that_somebody_edits_harm_no_other_container_and_theirs_can_be_removed() {
    let s = Session::new();
    s.run(&["--rm", "--name", "web"], &["true"]).ok();
    let other = s.sleeping("other");
    let before = s.host.fingerprint();
    for (damage, files) in DAMAGES
        .iter()
        .flat_map(|damage| FILES.map(|files| (damage, files)))
    {
        let options = ["-d", "--name", "web", "--health-cmd", "true"];
        let id = s.run(&options, &["sleep", "1000"]).text().trim().to_owned();
        let folder = s
            .host
            .root()
            .join("containers")
            .join(&id)
            .display()
            .to_string();
        let script = format!("exec 2> /dev/null; for file in {files}; do {damage}; done");
        let damaged = || {
            s.host
                .run(&["sh", "-c", &script, &folder, &format!("/run/bocker/{id}")])
        };
        eprintln!("{damage}: {files}");
        damaged();
        let shown = s.bocker(&["ps", "--format", "{{.ID}}"]).ok();
        assert!(shown.stdout.contains(&other), "{shown}");
        is_clear(&s.bocker(&["exec", &id, "true"]));
        is_clear(&s.bocker(&["stop", "-t", "0", &id]));
        damaged();
        is_clear(&s.bocker(&["start", &id]));
        s.bocker(&["rm", "-f", &id]).ok();
        s.host.assert_same(&before);
    }
    // A folder in the place of its lock keeps nobody from seeing that a container runs; what is in one is nobody's to remove.
    let id = s.sleeping("web");
    let folder = format!("/run/bocker/{id}");
    let script = "cd $0 && rm alive lock && mkdir alive lock && touch lock/kept";
    s.host.run(&["sh", "-c", script, &folder]).ok();
    s.bocker(&["exec", "web", "true"]).ok();
    let removed = s.bocker(&["rm", "-f", "web"]);
    assert_ne!(removed.code, 0, "{removed}");
    is_clear(&removed.says("look whose this is, and remove it"));
    s.host.run(&["rm", &format!("{folder}/lock/kept")]).ok();
    s.bocker(&["rm", "-f", "web"]).ok();
    s.host.assert_same(&before);
    s.bocker(&["exec", "other", "true"]).ok();
    s.bocker(&["rm", "-f", "other"]).ok();
}

#[test]
fn a_name_that_somebody_damages_can_be_given_again() {
    let s = Session::new();
    s.run(&["--rm", "--name", "web"], &["true"]).ok();
    let before = s.host.fingerprint();
    let name = s.host.root().join("names/web");
    for damage in [
        "rm -f $0",
        "ln -sfn ../containers/ps_000000 $0",
        "rm $0; echo > $0",
    ] {
        let id = s.sleeping("web");
        let script = ["sh", "-c", damage, &name.display().to_string()];
        s.host.run(&script).ok();
        s.bocker(&["stop", "web"])
            .exits(125)
            .says("No container named 'web' exists");
        s.bocker(&["exec", &id, "true"]).ok();
        let other = s.sleeping("web");
        s.bocker(&["exec", "web", "true"]).ok();
        s.bocker(&["rm", "-f", &id]).ok();
        s.bocker(&["rm", "-f", "web"]).ok();
        assert_ne!(id, other);
        s.host.assert_same(&before);
    }
}

#[test]
fn a_stop_that_is_killed_at_any_moment_has_stopped_it_or_not() {
    let s = Session::new();
    s.run(&["--rm", "--name", "web"], &["true"]).ok();
    let before = s.host.fingerprint();
    for count in 1.. {
        s.run(
            &["-d", "--name", "web", "--restart", "always"],
            &["sleep", "1000"],
        )
        .ok();
        let stop = s.host.call(&["bocker-spawn", "stop", "web"]);
        let struck = stop.kill_after_change(count);
        s.bocker(&["stop", "web"]).ok();
        let status = s.bocker(&["ps", "-a", "--format", "{{.Status}}"]).text();
        assert!(status.starts_with("Exited"), "{status}");
        s.bocker(&["rm", "web"]).ok();
        s.host.assert_same(&before);
        if let Struck::Ended(output) = struck {
            output.ok();
            assert!(count > 2, "it was killed {count} times");
            break;
        }
    }
}

/// Each shell does this to the one container there is, whatever the others do.
const DOINGS: [&str; 10] = [
    "bocker start web; bocker stop -t 1 web",
    "bocker stop web; bocker start web",
    "bocker kill web; bocker start web",
    "bocker restart -t 0 web",
    "bocker pause web; bocker unpause web",
    "bocker exec web true; bocker ps -a",
    "bocker kill -s TERM web; bocker inspect web",
    "bocker rm -f web",
    "bocker run -d --name web --restart always -p 8080:80 $BASE sleep 1000",
    "bocker start web; bocker kill web",
];

#[test]
fn ten_shells_that_do_everything_to_one_container_leave_it_whole_or_gone() {
    let s = Session::new();
    let options = [
        "-d",
        "--name",
        "web",
        "--restart",
        "always",
        "-p",
        "8080:80",
    ];
    s.run(&options, &["true"]).ok();
    s.bocker(&["rm", "-f", "web"]).ok();
    let before = s.host.fingerprint();
    for _ in 0..2 {
        s.run(&options, &["sleep", "1000"]).ok();
        let shells: Vec<Running> = DOINGS
            .iter()
            .map(|doing| {
                let script = format!("for i in 1 2; do {doing}; done");
                let call = s.host.call(&["sh", "-c", &script]);
                call.env("BASE", s.base().join(" ")).spawn()
            })
            .collect();
        for shell in shells {
            is_clear(&shell.wait());
        }
        // Whoever was last, it can be told what it is, and be removed.
        let shown = s.bocker(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]);
        let states = [
            "",
            "web running\n",
            "web exited\n",
            "web paused\n",
            "web restarting\n",
        ];
        assert!(states.contains(&shown.stdout.as_str()), "{shown}");
        let removed = s.bocker(&["rm", "-f", "web"]);
        // Should it still be there, this is why.
        eprintln!("{removed}");
        for tool in ["bocker-spawn", "bocker-cg", "bocker-net", "bocker-snap"] {
            s.host.run(&[tool, "gc", "--grace", "0"]).ok();
        }
        s.host.assert_same(&before);
    }
}
