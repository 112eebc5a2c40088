//! A bocker-spawn that is killed: after each of its steps, while it keeps a container company, and in what comes after. The
//! next command of any kind finds what it has left, ends it, records the end, cleans up, and says so once.

use std::fs;
use std::path::PathBuf;

use bocker_tests::{Fingerprint, Output, Running, Session, step_names};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const LOST: &str = "lost its supervisor";
/// A port, a name and limits: something of every tool's.
const OPTIONS: [&str; 6] = ["-p", "8080:80", "--name", "web", "--memory", "64m"];

/// A machine on which containers have run, so that what comes and goes with one is all that changes.
fn prepared() -> (Session, Fingerprint) {
    let session = Session::new();
    let passwd = format!("{}/etc/passwd", session.rootfs);
    fs::write(
        passwd,
        "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/:/bin/sh\n",
    )
    .expect("passwd");
    session
        .run(&[&["--rm"], &OPTIONS[..]].concat(), &["true"])
        .ok();
    let before = session.host.fingerprint();
    (session, before)
}

/// `bocker run` with something of every tool's, and these options before and words after.
fn line(session: &Session, options: &[&str], command: &[&str]) -> Vec<String> {
    let words = [
        &["bocker", "run"],
        options,
        &OPTIONS,
        &["--rootfs", &session.rootfs],
        command,
    ];
    words.concat().iter().map(ToString::to_string).collect()
}

fn detached(session: &Session, options: &[&str], command: &[&str]) -> String {
    let line = line(session, &[&["-d"], options].concat(), command);
    session.host.run(&line).text().trim().to_owned()
}

/// The steps of a verb of bocker-spawn, as it lists them.
fn steps(session: &Session, verb: &str) -> Vec<String> {
    let explained = session.host.sh(&format!(
        "bocker-snap create --dry-run --rootfs {} | bocker-spawn {verb} --explain -- true",
        session.rootfs
    ));
    step_names(&explained.ok().stderr)
}

fn listed(session: &Session, id: &str) -> Value {
    let lines = session
        .host
        .run(&["bocker-spawn", "list"])
        .ok()
        .json_lines();
    let found = lines.into_iter().find(|line| line["id"] == id);
    found.unwrap_or_else(|| panic!("{id} is not listed"))
}

fn state(session: &Session, id: &str) -> String {
    let state = listed(session, id)["state"].clone();
    state.as_str().expect("a state").to_owned()
}

fn wait_for_state(session: &Session, id: &str, wanted: &str) {
    session
        .host
        .wait_for(wanted, || (state(session, id) == wanted).then_some(()));
}

fn process_1(session: &Session, id: &str) -> i32 {
    let pid = listed(session, id)["pid"].as_i64().expect("a pid");
    i32::try_from(pid).expect("a pid")
}

fn parent(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let fields = stat.rsplit_once(')').expect("a name").1;
    let parent = fields.split_ascii_whitespace().nth(1).expect("a parent");
    parent.parse().expect("a pid")
}

fn kill_now(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill");
}

/// Kills it, and waits until the kernel has closed what it had open: its lock.
fn kill_supervisor(session: &Session, id: &str) {
    kill_now(parent(process_1(session, id)));
    session.host.wait_for("its end", || {
        let state = state(session, id);
        ["orphaned", "exited"].contains(&&*state).then_some(())
    });
}

/// A container whose process 1 has changed its user, which clears the parent-death signal, and has lost its supervisor.
fn orphan(session: &Session, options: &[&str]) -> String {
    let id = detached(
        session,
        options,
        &["su", "web", "-c", "sleep 999 & exec sleep 1000"],
    );
    let pid = process_1(session, &id);
    session.host.wait_for("the change of user", || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        (status.contains("Uid:\t33") && status.contains("Name:\tsleep")).then_some(())
    });
    kill_supervisor(session, &id);
    wait_for_state(session, &id, "orphaned");
    id
}

fn said(output: &Output) -> usize {
    output.stderr.matches(LOST).count()
}

#[test]
fn killed_after_any_step_of_a_run_it_leaves_nothing_once_the_run_has_returned() {
    let (session, before) = prepared();
    let steps = steps(&session, "run");
    assert!(steps.len() >= 11, "{steps:?}");
    for step in &steps {
        for options in [&["--rm"][..], &["-d", "--rm"]] {
            let line = line(&session, options, &["sleep", "1000"]);
            session
                .host
                .call(&line)
                .env("BOCKER_FAIL_AT", format!("kill:{step}"))
                .run()
                .exits(125);
            eprintln!("killed after {step}, {options:?}");
            session.host.assert_same(&before);
        }
    }
}

#[test]
fn killed_in_a_pipeline_that_a_shell_runs_it_leaves_nothing_once_any_command_has_run() {
    let (session, before) = prepared();
    for step in steps(&session, "run") {
        for options in [&["--rm"][..], &["-d", "--rm"]] {
            let line = line(&session, options, &["sleep", "1000"]);
            let words: Vec<&str> = line[1..].iter().map(String::as_str).collect();
            let pasted = session.bocker(&[&["--dry-run"], &words[..]].concat());
            session
                .host
                .call(&["sh", "-c", &pasted.ok().stdout])
                .env("BOCKER_FAIL_AT", format!("kill:{step}"))
                .run()
                .exits(125);
            let diff = before.diff(&session.host.fingerprint());
            // Of a supervisor, the process that began it lives, and may have passed on what there was.
            let is_left = !diff.is_empty() || options.contains(&"-d");
            assert!(is_left, "nothing was left after {step}");
            session.bocker(&["images"]).ok();
            session.host.assert_same(&before);
        }
    }
}

#[test]
fn without_rm_what_had_a_document_is_kept_as_exited_and_nothing_else_is() {
    let (session, before) = prepared();
    let steps = steps(&session, "run");
    let documented = steps.iter().position(|step| step == "spawn.config");
    for (position, step) in steps.iter().enumerate() {
        let line = line(&session, &["-d"], &["sleep", "1000"]);
        session
            .host
            .call(&line)
            .env("BOCKER_FAIL_AT", format!("kill:{step}"))
            .run()
            .exits(125);
        if Some(position) >= documented {
            // Whether process 1 has gone already, or is met and killed.
            let shown = session.bocker(&["ps", "--format", "{{.Status}}"]).ok();
            assert!(
                ["Exited (255)", "Exited (137)"]
                    .iter()
                    .any(|status| shown.stdout.starts_with(status)),
                "{step}: {shown}"
            );
            session.bocker(&["rm", "web"]).ok();
        }
        session.host.assert_same(&before);
    }
}

#[test]
fn killed_after_any_step_of_a_create_it_has_created_a_container_that_can_be_removed() {
    let (session, before) = prepared();
    for step in steps(&session, "create") {
        let script = format!(
            "bocker-snap create --name web --rootfs {} | bocker-net create | bocker-cg create | bocker-spawn create -- true",
            session.rootfs
        );
        session
            .host
            .call(&["sh", "-c", &script])
            .env("BOCKER_FAIL_AT", format!("kill:{step}"))
            .run()
            .exits(137);
        let shown = session.bocker(&["ps", "--format", "{{.Names}} {{.Status}}"]);
        assert_eq!(shown.text(), "web Created\n");
        session.bocker(&["rm", "web"]).ok();
        session.host.assert_same(&before);
    }
}

#[test]
fn a_supervisor_that_is_killed_takes_its_container_along_and_the_next_command_cleans_up() {
    let (session, before) = prepared();
    for user in ["root", "1000"] {
        let id = detached(&session, &["--user", user], &["sleep", "1000"]);
        kill_supervisor(&session, &id);
        wait_for_state(&session, &id, "exited");
        let output = session.bocker(&["images"]).ok();
        assert_eq!(
            output.stderr,
            format!("bocker-spawn: {id} {LOST}: it has ended, exit code 255\n")
        );
        let kept = before.diff(&session.host.fingerprint()).to_string();
        for subject in ["links", "mounts", "nftables", "cgroups", "leases"] {
            assert!(!kept.contains(&format!("{subject}:")), "{kept}");
        }
        let shown = session.bocker(&["ps", "--format", "{{.Names}} {{.Status}}"]);
        assert_eq!(said(&shown), 0, "said once");
        assert_eq!(shown.text(), "web Exited (255)\n");
        session.bocker(&["rm", "web"]).ok();
        session.host.assert_same(&before);
    }
}

#[test]
fn an_orphan_is_ended_by_the_next_command_of_any_kind() {
    let (session, before) = prepared();
    for command in [
        &["ps"][..],
        &["images"],
        &["run", "--rm", "--rootfs", &session.rootfs, "true"],
        &["system", "info"],
        &["logs", "web"],
        &["inspect", "web"],
        &["stop", "web"],
    ] {
        let orphan = orphan(&session, &[]);
        let output = session.bocker(command).ok();
        assert_eq!(
            output.stderr,
            format!(
                "bocker-spawn: {orphan} {LOST}: what was left of it was killed, exit code 137\n"
            ),
            "{command:?}"
        );
        let shown = session.bocker(&["ps", "--format", "{{.State}} {{.Status}}"]);
        assert!(
            shown.stdout.starts_with("exited Exited (137)"),
            "{command:?}: {shown}"
        );
        assert_eq!(said(&shown), 0, "{shown}");
        session.bocker(&["rm", "web"]).ok();
        session.host.assert_same(&before);
    }
}

#[test]
fn an_orphan_of_run_rm_is_removed_whole() {
    let (session, before) = prepared();
    orphan(&session, &["--rm"]);
    assert_eq!(said(&session.bocker(&["ps"]).ok()), 1);
    session.host.assert_same(&before);
}

#[test]
fn an_orphan_that_was_to_be_begun_again_is_ended_and_its_pidfile_goes() {
    let (session, before) = prepared();
    let file = session.host.scratch().join("pid");
    let path = file.display().to_string();
    orphan(&session, &["--restart", "always", "--pidfile", &path]);
    assert!(file.exists());
    let next = session.bocker(&["ps", "--format", "{{.Status}}"]).ok();
    assert!(next.stdout.starts_with("Exited (137)"), "{next}");
    assert_eq!(said(&next), 1, "{next}");
    assert!(!file.exists());
    session.bocker(&["rm", "web"]).ok();
    session.host.assert_same(&before);
}

#[test]
fn an_orphan_does_not_run_again_before_it_is_ended_and_its_port_and_name_are_free_then() {
    let (session, before) = prepared();
    let id = orphan(&session, &["--rm"]);
    let old = process_1(&session, &id);
    // The same name and port.
    detached(&session, &["--rm"], &["sleep", "1000"]);
    assert!(
        fs::read_to_string(format!("/proc/{old}/status"))
            .map_or(true, |status| status.contains("State:\tZ"))
    );
    session.bocker(&["rm", "-f", "web"]).ok();
    session.host.assert_same(&before);
}

#[test]
fn what_a_supervisor_noted_goes_with_its_container_however_much_of_it_was_written() {
    let (session, before) = prepared();
    let id = detached(&session, &[], &["sleep", "1000"]);
    for name in ["health", "health.new", "lost", "lost.new"] {
        fs::write(format!("/run/bocker/{id}/{name}"), "{").expect("write a note");
    }
    kill_supervisor(&session, &id);
    wait_for_state(&session, &id, "exited");
    session.bocker(&["start", "web"]).ok();
    let left = fs::read_dir(format!("/run/bocker/{id}")).expect("a claim");
    let left = left.flatten().map(|entry| entry.file_name());
    assert_eq!(left.filter(|name| name == "lost").count(), 0);
    fs::write(format!("/run/bocker/{id}/lost.new"), "{").expect("write a note");
    session.bocker(&["rm", "-f", "web"]).ok();
    session.host.assert_same(&before);
}

#[test]
fn a_gc_that_may_use_force_ends_what_runs_or_is_about_to_and_its_supervisor_records_it() {
    let (session, before) = prepared();
    for (command, state) in [("sleep 1000", "running"), ("exit 3", "restarting")] {
        let id = detached(&session, &["--restart", "always"], &["sh", "-c", command]);
        wait_for_state(&session, &id, state);
        let ended = session.host.run(&["bocker-spawn", "gc", "--force"]).ok();
        assert_eq!(ended.json()["action"], "ended", "{ended}");
        wait_for_state(&session, &id, "exited");
        session.bocker(&["rm", "web"]).ok();
        session.host.assert_same(&before);
    }
}

#[test]
fn an_orphan_that_was_paused_is_ended_as_any_other() {
    let (session, before) = prepared();
    let id = detached(&session, &["--rm"], &["sleep", "1000"]);
    session.bocker(&["pause", &id]).ok();
    kill_supervisor(&session, &id);
    let next = session.bocker(&["ps", "-q"]).ok();
    assert_eq!((said(&next), next.stdout.as_str()), (1, ""), "{next}");
    session.host.assert_same(&before);
}

#[test]
fn commands_that_meet_at_an_orphan_say_it_once_between_them() {
    let (session, before) = prepared();
    orphan(&session, &["--rm"]);
    let all: Vec<_> = (0..4)
        .map(|_| session.host.spawn(&["bocker", "ps"]))
        .collect();
    let times: usize = all
        .into_iter()
        .map(|running| {
            let output = running.wait().ok();
            said(&output)
        })
        .sum();
    assert_eq!(times, 1);
    session.host.assert_same(&before);
}

#[test]
fn a_whole_run_that_is_killed_at_once_leaves_nothing_after_the_next_command() {
    let (session, before) = prepared();
    let running = session
        .host
        .spawn(&line(&session, &["--rm"], &["sleep", "1000"]));
    session.wait_until_running();
    running.signal_group(Signal::SIGKILL);
    running.wait().exits(137);
    // The last of them in its own time.
    session.host.wait_for("the supervisor's end", || {
        let listed = session.host.run(&["bocker-spawn", "list"]).ok().json();
        (listed["state"] != "running").then_some(())
    });
    assert_eq!(said(&session.bocker(&["ps"]).ok()), 1);
    session.host.assert_same(&before);
}

/// A program in the place of bocker-net that does something before its first `delete`, once it has the document.
fn slow_net(session: &Session, does: &str) -> String {
    let mark = session.host.scratch().join("deleting");
    let text = format!(
        "#!/bin/sh
[ $1 = delete ] || exec bocker-net \"$@\"
document=$(cat)
if mkdir {}; then {does}; fi 2>/dev/null
printf '%s\\n' \"$document\" | bocker-net \"$@\"
",
        mark.display()
    );
    let path = session.host.script("net", &text);
    _ = fs::remove_dir(&mark);
    format!("net={}", path.display())
}

fn run_with(session: &Session, swap: &str, command: &[&str]) -> String {
    let line = line(session, &["-d", "--rm"], command);
    let words: Vec<&str> = line[1..].iter().map(String::as_str).collect();
    let output = session.bocker(&[&["--with", swap], &words[..]].concat());
    output.text().trim().to_owned()
}

#[test]
fn what_a_killed_cleanup_has_left_is_done_by_the_next_command_without_a_word() {
    let (session, before) = prepared();
    // `bocker cleanup` is the parent of its stages, and the supervisor that of `bocker cleanup`.
    for killed in [
        "kill -9 $PPID",
        "kill -9 $(cut -d' ' -f4 /proc/$PPID/stat) $PPID",
    ] {
        let swap = slow_net(&session, &format!("{killed}; exit 1"));
        let id = run_with(&session, &swap, &["true"]);
        let lost = session.host.root().join("containers").join(&id);
        session.host.wait_for("the kill", || {
            (session.host.scratch().join("deleting").exists() && lost.join("status").exists())
                .then_some(())
        });
        session.host.wait_for("the next command", || {
            let output = session.bocker(&["images"]).ok();
            assert_eq!(output.stderr, "", "{killed}");
            (!lost.exists()).then_some(())
        });
        session.host.assert_same(&before);
    }
}

#[test]
fn an_end_that_was_written_by_half_is_the_end() {
    let (session, before) = prepared();
    let id = detached(&session, &[], &["sleep", "1000"]);
    kill_supervisor(&session, &id);
    wait_for_state(&session, &id, "exited");
    let folder = session.host.root().join("containers").join(&id);
    fs::write(
        folder.join("status"),
        r#"{"code":7,"oom":false,"finished":"2026-01-01T00:00:00Z"}"#,
    )
    .expect("status");
    let shown = session.bocker(&["ps", "--format", "{{.Status}}"]);
    assert!(shown.stdout.starts_with("Exited (7) "), "{shown}");
    session.bocker(&["rm", "web"]).ok();
    session.host.assert_same(&before);
}

#[test]
fn stop_returns_when_the_container_is_cleaned_up() {
    let (session, before) = prepared();
    let swap = slow_net(&session, "sleep 1");
    run_with(&session, &swap, &["sleep", "1000"]);
    session.bocker(&["stop", "web"]).ok();
    let diff = before.diff(&session.host.fingerprint());
    assert!(diff.is_empty(), "{diff}");
}

#[test]
fn who_waits_for_one_that_is_being_removed_is_told_that_its_exit_status_goes_too() {
    let (session, before) = prepared();
    let go = session.host.scratch().join("go");
    let swap = slow_net(
        &session,
        &format!("until [ -e {} ]; do sleep 0.01; done", go.display()),
    );
    let line = line(&session, &["--rm"], &["sh", "-c", "exit 3"]);
    let words: Vec<&str> = line[1..].iter().map(String::as_str).collect();
    let run = [&["bocker", "--with", &swap], &words[..]].concat();
    let running = session.host.spawn(&run);
    let deleting = session.host.scratch().join("deleting");
    session
        .host
        .wait_for("its end", || deleting.exists().then_some(()));
    session
        .bocker(&["wait", "web"])
        .exits(125)
        .says("web has ended, and its exit status went with it");
    fs::write(go, "").expect("a file");
    running.wait().exits(3);
    session.host.assert_same(&before);
}

/// A bocker-spawn by itself that gets this signal as soon as it has claimed an id, and that.
fn half_made(session: &Session, signal: &str) -> (Running, String) {
    let alone = session.host.call(&["bocker-spawn", "run", "--", "true"]);
    let document = format!(r#"{{"root":{{"path":"{}"}}}}"#, session.rootfs);
    let at = format!("{signal}:spawn.claim");
    let running = alone.env("BOCKER_FAIL_AT", at).stdin(document).spawn();
    let id = session.host.wait_for("a claim", || {
        let claims = fs::read_dir("/run/bocker").ok()?.flatten();
        let mut names = claims.filter_map(|entry| entry.file_name().into_string().ok());
        names.find(|name| name.starts_with("ps_"))
    });
    (running, id)
}

#[test]
fn what_spawn_alone_has_half_made_is_taken_once_it_is_dead() {
    let (session, before) = prepared();
    let gc = |options: &[&str]| {
        let words = [&["bocker-spawn", "gc"], options].concat();
        session.host.run(&words).ok().json_lines()
    };
    let (alone, _) = half_made(&session, "kill");
    assert_eq!(alone.wait().code, 137);
    assert_eq!(gc(&[])[0]["state"], "creating");
    session.host.assert_same(&before);
    let (alone, id) = half_made(&session, "stop");
    let alive = PathBuf::from(format!("/run/bocker/{id}/alive"));
    session
        .host
        .wait_for("it lives", || alive.exists().then_some(()));
    assert_eq!(gc(&["--grace", "0", "--dry-run"]), [] as [Value; 0]);
    alone.signal(Signal::SIGKILL);
    assert_eq!(alone.wait().code, 137);
    // By its claim alone.
    fs::remove_dir_all(session.host.root().join("containers").join(&id)).expect("its folder");
    session.host.run(&["bocker-spawn", "reap", &id]).ok();
    session.host.assert_same(&before);
}

#[test]
fn reap_takes_neither_what_runs_nor_what_is_being_cleaned_up() {
    let (session, before) = prepared();
    let reap = |id: &str| session.host.run(&["bocker-spawn", "reap", id]);
    let go = session.host.scratch().join("go");
    let until = format!("until [ -e {} ]; do sleep 0.01; done", go.display());
    let id = run_with(&session, &slow_net(&session, &until), &["sleep", "1000"]);
    reap(&id).exits(125).says("is running");
    let nobody = session.host.call(&["bocker-spawn", "reap"]).stdin("{}");
    nobody.run().ok();
    session.bocker(&["kill", &id]).ok();
    let deleting = session.host.scratch().join("deleting");
    session
        .host
        .wait_for("its end", || deleting.exists().then_some(()));
    reap(&id).exits(125).says("is being cleaned up");
    fs::write(go, "").expect("a file");
    session.host.wait_for("it is removed", || {
        before
            .diff(&session.host.fingerprint())
            .is_empty()
            .then_some(())
    });
}

#[test]
fn gc_records_an_end_that_nobody_saw_and_takes_nothing_that_another_root_has_claimed() {
    let (session, before) = prepared();
    let script = "tail /dev/zero; echo over; exec sleep 1000";
    let id = detached(&session, &[], &["sh", "-c", script]);
    session.host.wait_for("the end of its memory", || {
        let log = session.bocker(&["logs", "web"]).stdout;
        log.contains("over").then_some(())
    });
    kill_supervisor(&session, &id);
    wait_for_state(&session, &id, "exited");
    let gc = |options: &[&str]| {
        let words = [&["bocker-spawn", "gc"], options].concat();
        session.host.run(&words).ok().json_lines()
    };
    let folder = format!("/run/bocker/{id}");
    let claim = format!("{folder}/claim");
    let ours = fs::read_to_string(&claim).expect("a claim");
    let root = session.host.root().display().to_string();
    fs::write(&claim, ours.replace(&root, "/elsewhere")).expect("another's");
    assert_eq!(gc(&[]), [] as [Value; 0]);
    fs::write(&claim, ours).expect("ours");
    let recorded = gc(&[]);
    assert_eq!(recorded[0]["action"], "recorded", "{recorded:?}");
    assert!(!PathBuf::from(&folder).join("alive").exists());
    let known = session.bocker(&["inspect", "-f", "{{.State.OOMKilled}}", "web"]);
    assert_eq!(known.text(), "true\n");
    let format = "{{.Actor.Attributes.exitCode}}";
    let words = ["--since", "1h", "--until", "0s", "--format", format];
    let ends = ["-f", "event=die", "-f", &format!("container={id}")];
    let told = session.bocker(&[&["events"], &words[..], &ends].concat());
    assert_eq!(told.text(), "255\n");
    session.bocker(&["cleanup", "web"]).exits(255);
    fs::remove_dir_all(folder).expect("a claim");
    assert_eq!(gc(&[]), [] as [Value; 0]);
    let left = gc(&["--orphans"]);
    assert_eq!(
        (&left[0]["id"], &left[0]["claimed"]),
        (&id.into(), &false.into())
    );
    session.bocker(&["rm", "web"]).ok();
    session.host.assert_same(&before);
}

#[test]
fn a_start_that_fails_leaves_what_was_known_of_the_last_run() {
    let (session, before) = prepared();
    let pidfile = session.host.file("pid", "");
    let options = ["--pidfile", &pidfile];
    let id = detached(&session, &options, &["sh", "-c", "exit 3"]);
    wait_for_state(&session, &id, "exited");
    fs::write(&pidfile, "another's").expect("a file");
    let folder = session.host.root().join("containers").join(&id);
    let kept = || {
        let files = ["config.json", &pidfile].map(|name| folder.join(name));
        files.map(|path| fs::read(path).ok())
    };
    let known = kept();
    let start = session.host.call(&["bocker", "start", "web"]);
    start.env("BOCKER_FAIL_AT", "spawn.config").run().exits(125);
    assert!(kept() == known);
    session.bocker(&["rm", "web"]).ok();
    fs::remove_file(pidfile).expect("a file");
    session.host.assert_same(&before);
}

#[test]
fn x_shows_how_an_orphan_is_ended_and_a_shell_does_the_same() {
    let (session, before) = prepared();
    let id = orphan(&session, &["--rm"]);
    let shown = session.bocker(&["--dry-run", "images"]).text();
    let pasted = shown.lines().next().expect("a line");
    assert_eq!(
        pasted,
        format!(
            "bocker-spawn reap {id} | bocker-cg delete | bocker-net delete | bocker-snap delete --volumes --status >/dev/null"
        )
    );
    assert_eq!(state(&session, &id), "orphaned", "a dry run does nothing");
    session.host.sh(pasted).exits(137).says(LOST);
    session.host.assert_same(&before);
}

#[test]
fn what_a_start_that_was_killed_early_has_mounted_is_collected_after_its_grace() {
    let (s, _) = prepared();
    s.run(&["--name", "again"], &["touch", "/kept"]).ok();
    let rest = s.host.fingerprint();
    // Its first stage, and none after it.
    s.host.run(&["bocker-snap", "mount", "again"]).ok();
    let begun = s.host.fingerprint();
    assert_ne!(begun.diff(&rest).to_string(), "");
    s.host.run(&["bocker-snap", "gc"]).ok();
    s.host.assert_same(&begun);
    s.host.run(&["bocker-snap", "gc", "--grace", "0"]).ok();
    assert_eq!(
        s.host.fingerprint().section("mounts"),
        rest.section("mounts")
    );
    s.bocker(&["start", "-a", "again"]).ok();
}
