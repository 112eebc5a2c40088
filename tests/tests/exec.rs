//! Another command in a running container: left behind, left by its keys, with every capability, a hundred at once, and in one
//! that is ending.

use std::fs;

use bocker_tests::Session;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The numbers of the parents of processes whose command line is this.
fn parents_of(command: &str) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").expect("read /proc").flatten();
    let parent = |folder: fs::DirEntry| {
        let line = fs::read_to_string(folder.path().join("cmdline")).ok()?;
        let stat = fs::read_to_string(folder.path().join("stat")).ok()?;
        let parent = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?;
        (line.replace('\0', " ").trim() == command)
            .then(|| parent.parse().map(Pid::from_raw).ok())?
    };
    processes.filter_map(parent).collect()
}

/// The actions that are told, and the exit codes that go with them.
fn told(session: &Session) -> Vec<(String, Option<String>)> {
    let text = fs::read_to_string(session.host.root().join("events")).expect("read the events");
    let events = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let text = |value: &Value| value.as_str().map(str::to_owned);
    events
        .filter_map(|event| {
            Some((
                text(&event["action"])?,
                text(&event["attributes"]["exitCode"]),
            ))
        })
        .filter(|(action, _)| action.starts_with("exec_"))
        .collect()
}

#[test]
fn one_that_is_detached_runs_on_and_how_it_ends_is_told() {
    let session = Session::new();
    session.sleeping("web");
    session.bocker(&["exec", "web", "mkfifo", "/go"]).ok();
    let words = [
        "exec",
        "-d",
        "-t",
        "web",
        "sh",
        "-c",
        "test -t 0 && read x < /go; exit 7",
    ];
    let output = session.bocker(&words).ok();
    assert_eq!((&*output.stdout, &*output.stderr), ("", ""));
    session
        .bocker(&["exec", "web", "sh", "-c", "echo > /go"])
        .ok();
    let ended = ("exec_die".to_owned(), Some("7".to_owned()));
    session.host.wait_for("its end is told", || {
        told(&session).contains(&ended).then_some(())
    });
    let created = format!("exec_create: {}", words[4..].join(" "));
    assert!(told(&session).contains(&(created, None)));
    session.bocker(&["exec", "-d", "web", "nothing"]).exits(127);
    session.bocker(&["rm", "-f", "web"]).ok();
}

#[test]
fn the_keys_leave_the_command_running_and_its_terminal_is_read_on() {
    let session = Session::new();
    session.sleeping("web");
    session.bocker(&["exec", "web", "mkfifo", "/go"]).ok();
    // More than a terminal holds, which somebody has to take.
    let script = "echo here; read x < /go; head -c 100000 /dev/zero | tr '\\0' x; exit 5";
    let words = [
        "bocker",
        "exec",
        "-it",
        "--detach-keys",
        "ctrl-x",
        "web",
        "sh",
        "-c",
        script,
    ];
    let terminal = session.host.call(&words).at_terminal(24, 80);
    terminal.shows("here");
    terminal.types("\u{18}");
    assert_eq!(terminal.wait().0, 0);
    session
        .bocker(&["exec", "web", "sh", "-c", "echo > /go"])
        .ok();
    let ended = ("exec_die".to_owned(), Some("5".to_owned()));
    session.host.wait_for("its end is told", || {
        told(&session).contains(&ended).then_some(())
    });
    session
        .bocker(&["exec", "--detach-keys", "ctrl-", "web", "true"])
        .exits(125)
        .says("is not a key");
    session.bocker(&["rm", "-f", "web"]).ok();
}

#[test]
fn a_privileged_command_has_what_the_container_has_not() {
    let session = Session::new();
    session.sleeping("web");
    session.bocker(&["exec", "web", "mkdir", "/mnt"]).ok();
    let mount = ["web", "mount", "-t", "tmpfs", "tmpfs", "/mnt"];
    let plain = session.bocker(&[&["exec"], &mount[..]].concat());
    assert_ne!(plain.code, 0, "a container may not mount");
    session
        .bocker(&[&["exec", "--privileged"], &mount[..]].concat())
        .ok();
    let status = |options: &[&str]| {
        let words = [
            &["exec"],
            options,
            &[
                "web",
                "grep",
                "-E",
                "CapBnd|NoNewPrivs",
                "/proc/self/status",
            ],
        ]
        .concat();
        session.bocker(&words).ok().stdout
    };
    let (own, all) = (status(&[]), status(&["--privileged"]));
    assert!(
        own.contains("NoNewPrivs:\t1") && all.contains("NoNewPrivs:\t0"),
        "{own}{all}"
    );
    session.bocker(&["rm", "-f", "web"]).ok();
}

#[test]
fn a_hundred_at_once_each_have_their_own_output_and_end() {
    let session = Session::new();
    let id = session.sleeping("web");
    let running: Vec<_> = (0..100)
        .map(|n| {
            let script = format!("echo {n}; exit {n}");
            session
                .host
                .spawn(&["bocker-spawn", "exec", &id, "sh", "-c", &script])
        })
        .collect();
    for (n, command) in running.into_iter().enumerate() {
        let output = command.wait();
        assert_eq!(
            (output.code, output.stdout.trim()),
            (i32::try_from(n).expect("small"), n.to_string().as_str())
        );
    }
    let ends = told(&session)
        .into_iter()
        .filter(|(action, _)| action == "exec_die");
    assert_eq!(ends.count(), 100);
    session.bocker(&["rm", "-f", "web"]).ok();
}

#[test]
fn one_that_is_ending_takes_no_command_and_nobody_waits_for_it() {
    let session = Session::new();
    session.sleeping("web");
    // The machine's processes are seen by all tests.
    let seconds = format!("1{}", std::process::id());
    session
        .bocker(&["exec", "-d", "web", "sleep", &seconds])
        .ok();
    let agents = parents_of(&format!("sleep {seconds}"));
    let [agent] = agents.as_slice() else {
        panic!("one process has one parent: {agents:?}");
    };
    // Process 1 stays in the kernel until all of its namespace are reaped, and nobody reaps this one now.
    kill(*agent, Signal::SIGSTOP).expect("stop the agent");
    let killed = session.host.spawn(&["bocker", "kill", "web"]);
    killed.wait();
    session.host.wait_for("process 1 ends", || {
        let output = session.bocker(&["exec", "web", "true"]);
        (output.code != 0).then_some(())
    });
    let output = session.bocker(&["exec", "web", "true"]);
    assert!(
        output.code == 125 || output.code == 137,
        "{}",
        output.stderr
    );
    kill(*agent, Signal::SIGCONT).expect("let the agent go on");
    session.bocker(&["rm", "-f", "web"]).ok();
}

#[test]
fn one_whose_terminal_nobody_reads_any_more_ends_as_in_any_pipeline() {
    let session = Session::new();
    session.sleeping("web");
    let line = "set -o pipefail; bocker exec -t web yes | head -n 1";
    session.host.run(&["busybox", "sh", "-c", line]).exits(141);
    session
        .host
        .wait_for("its end", || parents_of("yes").is_empty().then_some(()));
    session.bocker(&["rm", "-f", "web"]).ok();
}

#[test]
fn a_terminal_that_the_command_closes_and_opens_again_is_still_its_own() {
    let session = Session::new();
    session.sleeping("web");
    // Closed long enough for others to see it.
    let closes =
        "exec <&- >&- 2>&-; sleep 0.3; echo back > /dev/tty; echo $? > /status; exec sleep 1000";
    let attached = ["bocker", "exec", "-i", "-t", "web", "sh", "-c", closes];
    let mut terminal = session.host.call(&attached).at_terminal(24, 80);
    terminal.shows("back");
    terminal.close();
    session.bocker(&["exec", "web", "rm", "-f", "/status"]).ok();
    let detached = ["exec", "-d", "-t", "web", "sh", "-c", closes];
    session.bocker(&detached).ok();
    let status = session.host.wait_for("the command goes on", || {
        session
            .reads("web", "/status")
            .filter(|text| !text.is_empty())
    });
    assert_eq!(status, "0\n");
    session.bocker(&["rm", "-f", "web"]).ok();
}

#[test]
fn a_command_whose_parent_is_killed_goes_with_all_that_it_started() {
    let session = Session::new();
    session.sleeping("web");
    let seconds = format!("2{}", std::process::id());
    let script = format!("sleep {seconds} & sleep {seconds}9");
    let client = session
        .host
        .spawn(&["bocker", "exec", "web", "sh", "-c", &script]);
    let background = format!("sleep {seconds}");
    session.host.wait_for("both run", || {
        let runs = |command: &str| !parents_of(command).is_empty();
        (runs(&background) && runs(&format!("{background}9"))).then_some(())
    });
    // The shell has become the last of the two.
    let agents = parents_of(&format!("{background}9"));
    assert_eq!(agents.len(), 1);
    kill(agents[0], Signal::SIGKILL).expect("kill the agent");
    let output = client.wait().exits(125);
    output.says("the command's parent has ended before the command");
    session.host.wait_for("nothing is left", || {
        parents_of(&background).is_empty().then_some(())
    });
    session.bocker(&["rm", "-f", "web"]).ok();
}

#[test]
fn what_it_leaves_behind_and_never_stops_writing_holds_nobody_up() {
    let session = Session::new();
    session.sleeping("web");
    let output = session.bocker(&["exec", "web", "sh", "-c", "yes & exit 3"]);
    assert_eq!(output.code, 3, "{}", output.stderr);
    session.bocker(&["rm", "-f", "web"]).ok();
}

#[test]
fn what_is_in_the_place_of_the_terminal_multiplexer_is_not_taken_for_it() {
    let session = Session::new();
    // CVE-2025-52565. The first is another device of a devpts, the second is in none.
    for plant in [
        "mount --bind /dev/pts/0 /dev/pts/ptmx",
        "mount -t tmpfs tmpfs /dev/pts && mkdir /dev/pts/pts && mount -t devpts devpts /dev/pts/pts && \
         mknod /dev/pts/ptmx c 5 2",
    ] {
        session.sleeping("web");
        session
            .bocker(&["exec", "-d", "-t", "web", "sleep", "1000"])
            .ok();
        session
            .bocker(&["exec", "--privileged", "web", "sh", "-c", plant])
            .ok();
        session
            .bocker(&["exec", "-t", "web", "true"])
            .exits(125)
            .says("is not the terminal multiplexer");
        session.bocker(&["rm", "-f", "web"]).ok();
    }
}
