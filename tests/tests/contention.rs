//! Verbs that meet at one container, each held up at the moment at which the other does its work.

use std::fs;
use std::os::unix::fs::MetadataExt;

use bocker_tests::{Host, Running, Session};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Starts a container whose supervisor stops when it has claimed it: it holds the lock of the verbs, and listens nowhere yet.
fn half_started(s: &Session, name: &str) -> (Running, Pid) {
    let call = s.host.call(&["bocker", "start", name]);
    let start = call.env("BOCKER_FAIL_AT", "stop:spawn.claim").spawn();
    let root = format!("BOCKER_ROOT={}\0", s.host.root().display());
    let supervisor = s.host.wait_for("a supervisor that stands still", || {
        let processes = fs::read_dir("/proc").expect("/proc").flatten();
        let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.find(|pid: &i32| {
            let read = |file| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            String::from_utf8_lossy(&read("status")).contains("State:\tT")
                && String::from_utf8_lossy(&read("environ")).contains(&root)
        })
    });
    (start, Pid::from_raw(supervisor))
}

/// Waits until somebody waits for the lock of the container's verbs (proc_locks(5)).
fn wait_for_the_next(host: &Host, id: &str) {
    let lock = fs::metadata(format!("/run/bocker/{id}/lock")).expect("a claim");
    let inode = format!(":{} ", lock.ino());
    host.wait_for("a verb that waits for its turn", || {
        let locks = fs::read_to_string("/proc/locks").expect("locks");
        let mut waiting = locks.lines().filter(|line| line.contains("-> FLOCK"));
        waiting.any(|line| line.contains(&inode)).then_some(())
    });
}

#[test]
fn one_that_is_being_started_is_ended_by_what_comes_meanwhile_and_not_begun_again() {
    let s = Session::new();
    s.run(&["--rm"], &["true"]).ok();
    let before = s.host.fingerprint();
    for policy in ["no", "always"] {
        let options = ["-d", "--name", "web", "--restart", policy];
        let id = s.run(&options, &["sleep", "1000"]).text();
        for ending in [&["stop", "-t", "0"][..], &["kill"], &["rm", "-f"]] {
            s.bocker(&["stop", "-t", "0", "web"]).ok();
            let (start, supervisor) = half_started(&s, "web");
            let words = [&["bocker"], ending, &["web"]].concat();
            let end = s.host.spawn(&words);
            wait_for_the_next(&s.host, id.trim());
            kill(supervisor, Signal::SIGCONT).expect("SIGCONT");
            start.wait().ok();
            end.wait().ok();
            s.host.wait_for("its end", || {
                let shown = s.bocker(&["ps", "-a", "--format", "{{.State}}"]).text();
                (shown.trim() != "running").then_some(())
            });
            let shown = s.bocker(&["ps", "-a", "--format", "{{.State}}"]).text();
            let left = if ending[0] == "rm" { "" } else { "exited\n" };
            assert_eq!(shown, left, "{ending:?} of --restart {policy}");
        }
        s.host.assert_same(&before);
    }
}

#[test]
fn one_that_is_started_while_it_is_removed_loses_nothing_that_it_stands_on_and_is_removed() {
    let s = Session::new();
    s.run(&["--rm"], &["true"]).ok();
    let before = s.host.fingerprint();
    let options = ["-d", "--name", "web", "--restart", "always"];
    s.run(&options, &["sleep", "1000"]).ok();
    // Between the first stage and the second somebody starts it, once.
    let once = s.host.scratch().join("once");
    let net = s.host.script(
        "net",
        &format!(
            "#!/bin/sh\n[ -e {once} ] || {{ >{once}; BOCKER_NET= bocker start web >&2; }}\nexec bocker-net \"$@\"\n",
            once = once.display()
        ),
    );
    let call = s.host.call(&["bocker", "rm", "-f", "web"]);
    let removed = call.env("BOCKER_NET", net).run().ok();
    assert!(once.exists());
    assert_eq!(removed.stdout, "Removed: web\n");
    s.host.assert_same(&before);
}

#[test]
fn one_whose_document_is_damaged_is_removed_and_not_begun_again_on_the_way() {
    let s = Session::new();
    s.run(&["--rm"], &["true"]).ok();
    let before = s.host.fingerprint();
    let options = ["-d", "--name", "web", "--restart", "always"];
    let id = s.run(&options, &["sleep", "1000"]).text();
    let config = s.host.root().join("containers").join(id.trim());
    fs::write(config.join("config.json"), "{").expect("config.json");
    s.bocker(&["rm", "-f", "web"]).ok();
    s.host.assert_same(&before);
}

#[test]
fn a_forced_collection_ends_what_runs_without_standing_in_its_way() {
    let s = Session::new();
    for policy in ["no", "always"] {
        let options = ["-d", "--name", "web", "--restart", policy];
        s.run(&options, &["sleep", "1000"]).ok();
        let collected = s.host.run(&["bocker-spawn", "gc", "--force"]).ok();
        assert_eq!(collected.json()["action"], "ended");
        let status = s.bocker(&["ps", "--format", "{{.State}}"]).text();
        assert_eq!(status, "exited\n");
        s.bocker(&["rm", "web"]).ok();
    }
}
