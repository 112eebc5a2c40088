//! The machine stops without a warning and starts again, with `/run` emptied or not: nothing is believed from before, everything
//! that ran has exited, and starts again with what was asked for.

use std::collections::BTreeSet;
use std::fs;

use bocker_tests::{Run, Session};
use serde_json::{Value, json};

/// `NAME STATUS` of each container, by name.
fn statuses(session: &Session) -> Vec<String> {
    let output = session.bocker(&["ps", "--format", "{{.Names}} {{.Status}}"]);
    assert_eq!(output.stderr, "");
    let mut lines: Vec<String> = output.text().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn id(session: &Session, name: &str) -> String {
    let output = session.bocker(&["inspect", "--format", "{{.bocker.id}}", name]);
    output.text().trim().to_owned()
}

fn config(session: &Session, id: &str) -> std::path::PathBuf {
    session
        .host
        .root()
        .join("containers")
        .join(id)
        .join("config.json")
}

fn edit(session: &Session, id: &str, change: impl Fn(&mut Value)) {
    let path = config(session, id);
    let text = fs::read(&path).expect("config.json");
    let mut document: Value = serde_json::from_slice(&text).expect("a document");
    change(&mut document);
    fs::write(&path, document.to_string()).expect("config.json");
}

fn freeze(session: &Session, id: &str) {
    let text = fs::read(config(session, id)).expect("config.json");
    let document: Value = serde_json::from_slice(&text).expect("a document");
    let paths = &document["bocker"]["cg"]["paths"];
    let group = |name: &str| paths[name].as_str().map(std::path::Path::new);
    let (file, word) = match group("freezer") {
        Some(group) if group.join("freezer.state").exists() => {
            (group.join("freezer.state"), "FROZEN")
        }
        _ => (group("pids").expect("a group").join("cgroup.freeze"), "1"),
    };
    fs::write(file, word).expect("freeze");
}

/// One container in each state that there is: the machine's own, so to speak.
fn inhabited() -> Session {
    let session = Session::new();
    let host = &session.host;
    let serving = [
        &["-d", "--name", "web", "-p", "8080:80", "--memory", "64m"][..],
        &["-e", "A=b c", "--hostname", "www", "-v", "kept:/data"],
    ];
    session
        .run(
            &serving.concat(),
            &[
                "sh",
                "-c",
                "echo begun; echo $A >>/data/begun; exec sleep 1000",
            ],
        )
        .ok();
    session.sleeping("frozen");
    freeze(&session, &id(&session, "frozen"));
    session
        .run(&["--name", "done"], &["sh", "-c", "exit 3"])
        .exits(3);
    session
        .run(&["-d", "--rm", "--name", "passing"], &["sleep", "1000"])
        .ok();
    let script = format!(
        "bocker-snap create --name made --rootfs {} | bocker-net create | bocker-cg create | bocker-spawn create -- sleep 1000",
        session.rootfs
    );
    host.sh(&script).ok();
    host.wait_for("the first line", || {
        session
            .bocker(&["logs", "web"])
            .text()
            .contains("begun")
            .then_some(())
    });
    let states: Vec<Value> = host.run(&["bocker-spawn", "list"]).ok().json_lines();
    let states: BTreeSet<&str> = states.iter().filter_map(|s| s["state"].as_str()).collect();
    assert_eq!(
        Vec::from_iter(states),
        ["created", "exited", "paused", "running"]
    );
    session
}

fn everything_starts_again(run: Run) {
    let session = inhabited();
    session.host.reboot(run);

    // One of `run --rm` is gone, as after a restart of docker's daemon.
    let mut all = statuses(&session);
    for line in &mut all {
        // How long ago is another matter.
        if let Some(code) = line.find(')') {
            line.truncate(code + 1);
        }
    }
    assert_eq!(
        all,
        [
            "done Exited (3)",
            "frozen Exited (255)",
            "made Created",
            "web Exited (255)"
        ]
    );
    let leases = session.host.fingerprint().section("leases").to_vec();
    assert!(
        leases.iter().all(|lease| !lease.contains("ps_")),
        "{leases:?}"
    );

    // What one does with a container that has exited.
    assert_eq!(session.bocker(&["logs", "web"]).text(), "begun\n");
    session
        .bocker(&["exec", "web", "true"])
        .exits(125)
        .says("Container 'web' exists but is not running");
    session.bocker(&["stop", "web"]).ok();
    session.bocker(&["commit", "web", "web:1"]).ok();
    session.bocker(&["rmi", "web:1"]).ok();

    let started = session.bocker(&["start", "web", "frozen", "done", "made"]);
    assert_eq!(started.text(), "web\nfrozen\ndone\nmade\n");
    session.host.wait_for("the end of one", || {
        let all = statuses(&session);
        let up = |name: &str| {
            all.iter()
                .any(|line| line.starts_with(&format!("{name} Up")))
        };
        let ended = all.iter().any(|line| line.starts_with("done Exited (3)"));
        (up("web") && up("frozen") && up("made") && ended).then_some(())
    });

    // What was asked for was made again.
    let inside = session.bocker(&[
        "exec",
        "web",
        "sh",
        "-c",
        "hostname; echo $A; cat /data/begun",
    ]);
    assert_eq!(inside.text(), "www\nb c\nb c\nb c\n");
    let web: Value = session.bocker(&["inspect", "web"]).ok().json()[0].clone();
    assert_eq!(web["bocker"]["state"], "running");
    assert_eq!(web["linux"]["resources"]["memory"]["limit"], 64 << 20);
    let picture = session.host.fingerprint();
    let rules = picture.section("nftables").join("\n");
    assert!(rules.contains("8080"), "{rules}");
    let addresses: Vec<String> = ["web", "frozen", "made"]
        .map(|name| {
            session
                .bocker(&["exec", name, "ip", "-4", "-o", "addr", "show", "eth0"])
                .text()
        })
        .into();
    let distinct: BTreeSet<&String> = addresses.iter().collect();
    assert_eq!(distinct.len(), addresses.len(), "{addresses:?}");

    session
        .bocker(&["rm", "-f", "web", "frozen", "done", "made"])
        .ok();
    assert_eq!(statuses(&session), Vec::<String>::new());
    let left = session.host.fingerprint();
    for subject in ["/run/bocker", "links", "cgroups", "mounts", "nftables"] {
        let lines = left.section(subject).join("\n");
        assert!(!lines.contains("ps_"), "{subject}: {lines}");
    }
}

#[test]
fn after_a_restart_that_empties_run_everything_has_exited_and_starts_again() {
    everything_starts_again(Run::Emptied);
}

#[test]
fn after_a_restart_that_keeps_run_everything_has_exited_and_starts_again() {
    everything_starts_again(Run::Kept);
}

#[test]
fn those_that_are_to_run_are_started_by_their_policy_and_what_was_stopped_stays() {
    let session = Session::new();
    let host = &session.host;
    for (name, policy) in [
        ("always", "always"),
        ("kept", "unless-stopped"),
        ("stopped", "unless-stopped"),
        ("failing", "on-failure"),
        ("plain", "no"),
    ] {
        let options = ["-d", "--name", name, "--restart", policy, "-l", "of=test"];
        session.run(&options, &["sleep", "1000"]).ok();
    }
    session.bocker(&["stop", "stopped", "always"]).ok();
    host.reboot(Run::Emptied);
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../contrib/bocker.service");
    let unit = fs::read_to_string(unit).expect("the unit");
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart=@BIN@/"));
    let started = host.sh(line.expect("what the unit executes"));
    assert_eq!(started.text(), "always\nkept\n");
    let nothing = host.sh(line.expect("what the unit executes"));
    assert_eq!(nothing.text(), "", "they run");

    let labelled = [
        "start",
        "--filter",
        "label=of=test",
        "--filter",
        "name=^plain$",
    ];
    assert_eq!(session.bocker(&labelled).text(), "plain\n");
    assert_eq!(
        session.bocker(&["start", "--all"]).text(),
        "stopped\nfailing\n"
    );
    session.bocker(&["start"]).exits(125);
    session.bocker(&["start", "--all", "plain"]).exits(125);
    session
        .bocker(&["rm", "-f", "always", "kept", "stopped", "failing", "plain"])
        .ok();
}

#[test]
fn one_that_was_to_run_again_when_the_machine_stopped_has_exited_without_a_word() {
    for run in [Run::Emptied, Run::Kept] {
        let session = Session::new();
        let options = ["-d", "--name", "web", "--restart", "always"];
        session.run(&options, &["sh", "-c", "exit 5"]).ok();
        let id = id(&session, "web");
        let is_between = || {
            // The end is recorded a moment after it is known.
            let listed = session.host.run(&["bocker-spawn", "list"]).ok().json();
            listed["state"] == "restarting" && listed["exit"]["code"] == 5
        };
        // In the pause its supervisor is stopped, so that it stays there.
        session.host.wait_for("the pause", || {
            if !is_between() {
                return None;
            }
            let found = session
                .host
                .run(&["fuser", &format!("/run/bocker/{id}/alive")]);
            let pid = found.stdout.split_whitespace().next()?.to_owned();
            session.host.run(&["kill", "-STOP", &pid]).ok();
            if !is_between() {
                session.host.run(&["kill", "-CONT", &pid]).ok();
                return None;
            }
            Some(())
        });
        session.host.reboot(run);
        let status = statuses(&session);
        assert!(
            status[0].starts_with("web Exited (5)"),
            "{status:?} {run:?}"
        );
        session.bocker(&["rm", "web"]).ok();
    }
}

#[test]
fn the_tools_alone_say_the_same_and_start_it_again() {
    for run in [Run::Emptied, Run::Kept] {
        let session = Session::new();
        let id = session.sleeping("web");
        session.host.reboot(run);
        let state = session
            .host
            .run(&["bocker-spawn", "state", &id])
            .ok()
            .json();
        assert_eq!(
            (&state["status"], &state["pid"], &state["exit"]["code"]),
            (&json!("exited"), &json!(0), &json!(255)),
            "{run:?}"
        );
        session
            .host
            .sh(&format!(
                "bocker-spawn reap {id} | bocker-cg delete | bocker-net delete | bocker-snap unmount >/dev/null
                 bocker-snap mount {id} | bocker-net create | bocker-cg create | bocker-spawn run --detach >/dev/null"
            ))
            .ok();
        let state = session
            .host
            .run(&["bocker-spawn", "state", &id])
            .ok()
            .json();
        assert_eq!(state["status"], "running", "{run:?}");
        session.bocker(&["rm", "-f", "web"]).ok();
    }
}

#[test]
fn a_process_of_now_that_has_the_number_of_then_is_left_alone() {
    let session = Session::new();
    let id = session.sleeping("web");
    session.host.reboot(Run::Kept);
    let mut other = session.host.spawn(&["sleep", "1000"]);
    let stat = fs::read_to_string(format!("/proc/{}/stat", other.pid())).expect("stat");
    let start_time = stat
        .split(' ')
        .nth(21)
        .and_then(|text| text.parse::<u64>().ok());
    // Its number, and even its start time: only the boot tells it from what ran before.
    edit(&session, &id, |document| {
        document["bocker"]["spawn"]["pid"] = other.pid().into();
        document["bocker"]["spawn"]["start_time"] = start_time.into();
    });
    assert_eq!(statuses(&session), ["web Exited (255)"]);
    session.bocker(&["rm", "-f", "web"]).ok();
    assert!(!other.has_ended());
    other.signal(nix::sys::signal::Signal::SIGKILL);
    _ = other.wait();
}

#[test]
fn a_container_that_was_being_made_is_swept_up_after_a_restart_and_its_address_is_free() {
    let session = Session::new();
    session.run(&["--rm"], &["true"]).ok();
    let begin = format!(
        "bocker-snap create --rootfs {} | bocker-net create",
        session.rootfs
    );
    session.host.sh(&begin).ok();
    session.host.reboot(Run::Kept);
    assert_eq!(statuses(&session), Vec::<String>::new());
    session.bocker(&["system", "prune", "--force"]).ok();
    let left = session.host.fingerprint();
    for subject in ["/run/bocker", "BOCKER_ROOT", "leases"] {
        let lines = left.section(subject).join("\n");
        assert!(!lines.contains("ps_"), "{subject}: {lines}");
    }
}

#[test]
fn start_can_stay_with_the_container_to_its_end() {
    let session = Session::new();
    session
        .run(&["--name", "cat", "-i"], &["sh", "-c", "cat; exit 4"])
        .exits(4);
    let output = session
        .host
        .call(&["bocker", "start", "-a", "-i", "cat"])
        .stdin("again\n")
        .run()
        .exits(4);
    assert_eq!(output.stdout, "again\n");
    session.bocker(&["start", "-a", "cat", "cat"]).exits(125);
    session
        .bocker(&["start", "nobody"])
        .exits(125)
        .says("No container named 'nobody' exists");
    session.bocker(&["rm", "cat"]).ok();
}

#[test]
fn a_container_that_cannot_start_again_is_kept_as_it_was() {
    let session = Session::new();
    session
        .run(&["--name", "web", "-p", "8080:80"], &["sh", "-c", "exit 5"])
        .exits(5);
    session
        .run(
            &["-d", "--name", "other", "-p", "8080:80"],
            &["sleep", "1000"],
        )
        .ok();
    let before = session.host.fingerprint();
    session.bocker(&["start", "web"]).exits(125).says("8080");
    let after = session.host.fingerprint();
    for subject in ["links", "leases", "cgroups", "mounts", "nftables"] {
        assert_eq!(after.section(subject), before.section(subject), "{subject}");
    }
    assert!(statuses(&session)[1].starts_with("web Exited (5)"));
    session.bocker(&["rm", "-f", "other"]).ok();
    assert_eq!(session.bocker(&["start", "web"]).text(), "web\n");
    session.bocker(&["rm", "-f", "web"]).ok();
}

#[test]
fn one_that_runs_is_started_already() {
    let session = Session::new();
    session.sleeping("web");
    assert_eq!(session.bocker(&["start", "web"]).text(), "web\n");
    session.bocker(&["rm", "-f", "web"]).ok();
}

#[test]
fn what_x_prints_of_a_start_starts_it_when_pasted() {
    let session = Session::new();
    session.run(&["--name", "web"], &["sleep", "0.1"]).ok();
    let shown = session.bocker(&["--dry-run", "start", "web"]).text();
    assert_eq!(session.host.sh(&shown).text(), "web\n", "{shown}");
    session.bocker(&["rm", "-f", "web"]).ok();
}
