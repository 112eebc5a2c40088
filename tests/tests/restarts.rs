//! Restart policies: who is begun again by the supervisor, how often and after what pauses, and what ends that.

use std::fs;
use std::path::PathBuf;

use bocker_tests::{Fingerprint, Session};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// A machine on which a container has run, and a folder that containers have as `/shared`.
fn prepared() -> (Session, Fingerprint) {
    let s = Session::new();
    fs::create_dir(s.host.scratch().join("shared")).expect("a folder");
    s.run(&["--rm", "--name", "web", "-p", "8080:80"], &["true"])
        .ok();
    let before = s.host.fingerprint();
    (s, before)
}

fn shared(s: &Session) -> PathBuf {
    s.host.scratch().join("shared")
}

/// Leaves a script in the background, each of whose runs is a line of the file `runs` first.
fn runs(s: &Session, policy: &str, options: &[&str], script: &str) {
    let volume = format!("{}:/shared", shared(s).display());
    let script = format!("echo run >> /shared/runs; {script}");
    let usual = ["-d", "--name", "web", "--restart", policy, "-v", &volume];
    s.run(&[&usual, options].concat(), &["sh", "-c", &script])
        .ok();
}

fn count(s: &Session) -> usize {
    let runs = fs::read_to_string(shared(s).join("runs")).unwrap_or_default();
    runs.lines().count()
}

#[track_caller]
fn wait_for_runs(s: &Session, least: usize) {
    s.host
        .wait_for("its runs", || (count(s) >= least).then_some(()));
}

fn status(s: &Session) -> String {
    let line = s.bocker(&["ps", "-a", "--format", "{{.Status}}"]);
    line.text().trim_end().to_owned()
}

#[track_caller]
fn wait_for_status(s: &Session, wanted: &str) {
    s.host
        .wait_for(wanted, || status(s).starts_with(wanted).then_some(()));
}

/// After the fifth run the pause takes 1.6 seconds.
#[track_caller]
fn meet_in_the_pause(s: &Session) {
    wait_for_runs(s, 5);
    wait_for_status(s, "Restarting (5)");
}

fn spawn_member(s: &Session) -> Value {
    s.bocker(&["inspect", "web"]).ok().json()[0]["bocker"]["spawn"].clone()
}

fn process_1(s: &Session) -> Pid {
    let pid = spawn_member(s)["pid"].as_i64().expect("a pid");
    Pid::from_raw(i32::try_from(pid).expect("a pid"))
}

/// The supervisor: who holds the lock of a container that has no process just now.
fn supervisor(s: &Session, id: &str) -> Pid {
    let found = s.host.run(&["fuser", &format!("/run/bocker/{id}/alive")]);
    let pid = found
        .stdout
        .split_whitespace()
        .next()
        .expect("a supervisor");
    Pid::from_raw(pid.parse().expect("a pid"))
}

fn id(s: &Session) -> String {
    let output = s.bocker(&["inspect", "--format", "{{.bocker.id}}", "web"]);
    output.text().trim().to_owned()
}

#[test]
fn a_failure_is_tried_again_so_many_times_with_its_log_going_on() {
    let (s, before) = prepared();
    runs(&s, "on-failure:2", &[], "echo said; exit 3");
    wait_for_status(&s, "Exited (3)");
    assert_eq!(count(&s), 3);
    assert_eq!(s.bocker(&["logs", "web"]).text(), "said\nsaid\nsaid\n");
    assert_eq!(spawn_member(&s)["restarts"], 2);
    // Started by hand it has all its tries again.
    s.bocker(&["start", "web"]).ok();
    wait_for_runs(&s, 6);
    wait_for_status(&s, "Exited (3)");
    assert_eq!(spawn_member(&s)["restarts"], 2);
    s.bocker(&["rm", "web"]).ok();
    s.host.assert_same(&before);
}

#[test]
fn the_end_of_a_run_is_kept_though_its_supervisor_is_killed_as_it_waits_to_record_it() {
    let (s, before) = prepared();
    let script = "until [ -e /shared/end ]; do sleep 0.01; done; exit 3";
    runs(&s, "always", &[], script);
    let folder = format!("/run/bocker/{}", id(&s));
    let verbs = fs::File::open(format!("{folder}/lock")).expect("its lock");
    verbs.lock().expect("lock");
    fs::write(shared(&s).join("end"), "").expect("a file");
    let mark = PathBuf::from(&folder).join("restarting");
    s.host.wait_for("its end", || mark.exists().then_some(()));
    kill(supervisor(&s, &id(&s)), Signal::SIGKILL).expect("kill");
    drop(verbs);
    wait_for_status(&s, "Exited (3)");
    s.bocker(&["rm", "web"]).ok();
    s.host.assert_same(&before);
}

#[test]
fn success_is_the_end_of_on_failure_and_not_of_always() {
    let (s, before) = prepared();
    let second = "[ $(wc -l < /shared/runs) -lt 2 ]";
    runs(
        &s,
        "on-failure",
        &[],
        &format!("{second} && exit 1; exit 0"),
    );
    wait_for_status(&s, "Exited (0)");
    assert_eq!(count(&s), 2);
    s.bocker(&["rm", "web"]).ok();
    fs::remove_file(shared(&s).join("runs")).expect("runs");

    runs(&s, "always", &[], "exit 0");
    wait_for_runs(&s, 4);
    s.bocker(&["rm", "-f", "web"]).ok();
    s.host.assert_same(&before);
}

#[test]
fn who_stays_with_it_stays_for_the_run_and_it_goes_on_without() {
    let (s, before) = prepared();
    let volume = format!("{}:/shared", shared(&s).display());
    let options = ["--name", "web", "--restart", "on-failure:1", "-v", &volume];
    let script = "echo run >> /shared/runs; echo said; exit 3";
    let output = s.run(&options, &["sh", "-c", script]).exits(3);
    assert_eq!(output.stdout, "said\n");
    wait_for_runs(&s, 2);
    wait_for_status(&s, "Exited (3)");
    s.bocker(&["rm", "web"]).ok();
    s.host.assert_same(&before);
}

#[test]
fn a_new_run_has_the_same_root_network_and_cgroup() {
    let (s, before) = prepared();
    let options = ["-p", "8080:80", "-e", "A=b", "--memory", "64m"];
    runs(
        &s,
        "always",
        &options,
        "hostname -i >> /kept; exec sleep 1000",
    );
    let addresses = |runs: usize| {
        s.host.wait_for("its addresses", || {
            let kept = s.bocker(&["exec", "web", "cat", "/kept"]).stdout;
            let lines: Vec<String> = kept.lines().map(str::to_owned).collect();
            (lines.len() == runs).then_some(lines)
        })
    };
    addresses(1);
    let first = process_1(&s);
    kill(first, Signal::SIGKILL).expect("kill");
    let both = addresses(2);
    assert_eq!(both[0], both[1]);
    assert_ne!(process_1(&s), first);
    assert_eq!(
        s.bocker(&["exec", "web", "sh", "-c", "echo $A"]).text(),
        "b\n"
    );
    assert_eq!(
        s.bocker(&["port", "web"]).text(),
        "80/tcp -> 0.0.0.0:8080\n"
    );
    assert!(status(&s).starts_with("Up"));
    s.bocker(&["rm", "-f", "web"]).ok();
    s.host.assert_same(&before);
}

#[test]
fn in_the_pause_it_is_restarting_and_a_stop_ends_it_at_once() {
    let (s, before) = prepared();
    let check = ["--health-cmd", "true", "--health-interval", "50ms"];
    runs(&s, "always", &check, "exit 5");
    meet_in_the_pause(&s);
    let listed = s.host.run(&["bocker-spawn", "list"]).ok().json();
    assert!(listed["health"].is_null(), "it does not run: {listed}");
    for verb in [&["exec", "web", "true"][..], &["attach", "web"]] {
        s.bocker(verb).exits(125).says("is between two runs");
    }
    s.bocker(&["pause", "web"]).exits(125);
    assert_eq!(s.bocker(&["start", "web"]).text(), "web\n");
    assert_eq!(s.bocker(&["stop", "web"]).text(), "web\n");
    let ran = count(&s);
    assert!(status(&s).starts_with("Exited (5)"));
    assert_eq!(spawn_member(&s)["stopped"], true);
    assert_eq!(count(&s), ran);
    s.bocker(&["rm", "web"]).ok();
    s.host.assert_same(&before);
}

#[test]
fn kill_and_a_removal_by_force_end_it_whenever_they_come() {
    let (s, before) = prepared();
    for way in [&["kill", "web"][..], &["rm", "-f", "web"]] {
        runs(&s, "always", &[], "exit 5");
        wait_for_runs(&s, 2);
        s.bocker(way).ok();
        if way[0] == "kill" {
            wait_for_status(&s, "Exited");
            s.bocker(&["rm", "web"]).ok();
        }
        s.host.assert_same(&before);
        fs::remove_file(shared(&s).join("runs")).expect("runs");
    }
}

#[test]
fn one_that_is_stopped_or_killed_while_it_runs_stays_so_until_it_is_started() {
    let (s, before) = prepared();
    for way in [
        &["stop", "web"][..],
        &["kill", "web"],
        &["kill", "-s", "TERM", "web"],
    ] {
        runs(&s, "unless-stopped", &[], "exec sleep 1000");
        wait_for_runs(&s, 1);
        s.bocker(way).ok();
        wait_for_status(&s, "Exited (137)");
        assert_eq!(spawn_member(&s)["stopped"], true);
        s.bocker(&["start", "web"]).ok();
        wait_for_runs(&s, 2);
        assert_eq!(spawn_member(&s).get("stopped"), None);
        // The policy is as before.
        kill(process_1(&s), Signal::SIGKILL).expect("kill");
        wait_for_runs(&s, 3);
        s.bocker(&["rm", "-f", "web"]).ok();
        fs::remove_file(shared(&s).join("runs")).expect("runs");
        s.host.assert_same(&before);
    }
}

#[test]
fn a_supervisor_that_is_killed_in_the_pause_is_named_once_and_the_container_starts_again() {
    let (s, before) = prepared();
    runs(&s, "always", &["-p", "8080:80"], "exit 5");
    meet_in_the_pause(&s);
    let id = id(&s);
    kill(supervisor(&s, &id), Signal::SIGKILL).expect("kill");
    s.host.wait_for("its end", || {
        let state = s.host.run(&["bocker-spawn", "state", &id]).ok().json();
        (state["status"] == "exited").then_some(())
    });
    let ran = count(&s);
    let said = s.bocker(&["images"]).ok().stderr;
    let expected = format!(
        "bocker-spawn: {id} lost its supervisor, and is not restarted; 'bocker start {id}' does\n"
    );
    assert_eq!(said, expected);
    let again = s.bocker(&["ps", "--format", "{{.Status}}"]).ok();
    assert!(
        again.stdout.starts_with("Exited (5)") && again.stderr.is_empty(),
        "{again}"
    );
    assert_eq!(count(&s), ran);
    s.bocker(&["start", "web"]).ok();
    wait_for_runs(&s, ran + 2);
    s.bocker(&["rm", "-f", "web"]).ok();
    s.host.assert_same(&before);
}

#[test]
fn one_whose_supervisor_is_killed_while_it_runs_ends_with_it_whatever_the_policy() {
    let (s, before) = prepared();
    runs(&s, "always", &["-p", "8080:80"], "exec sleep 1000");
    wait_for_runs(&s, 1);
    let id = id(&s);
    kill(supervisor(&s, &id), Signal::SIGKILL).expect("kill");
    s.host.wait_for("its end", || {
        let state = s.host.run(&["bocker-spawn", "state", &id]).ok().json();
        (state["status"] == "exited").then_some(())
    });
    let said = s.bocker(&["volume", "ls"]).ok().stderr;
    let expected = format!("bocker-spawn: {id} lost its supervisor: it has ended, exit code 255\n");
    assert_eq!(said, expected);
    assert_eq!(s.bocker(&["ps"]).ok().stderr, "");
    assert_eq!(count(&s), 1);
    s.bocker(&["rm", "web"]).ok();
    s.host.assert_same(&before);
}

#[test]
fn its_own_stop_signal_is_a_stop_too() {
    let (s, before) = prepared();
    let trap = "trap 'exit 6' USR1; echo > /shared/ready; while :; do sleep 0.02; done";
    runs(&s, "always", &["--stop-signal", "USR1"], trap);
    s.host.wait_for("the trap", || {
        shared(&s).join("ready").exists().then_some(())
    });
    s.bocker(&["kill", "-s", "USR1", "web"]).ok();
    wait_for_status(&s, "Exited (6)");
    assert_eq!((count(&s), &spawn_member(&s)["stopped"]), (1, &true.into()));
    s.bocker(&["rm", "web"]).ok();
    s.host.assert_same(&before);
}

#[test]
fn a_supervisor_that_is_asked_to_end_begins_no_other_run_and_nobody_has_stopped_it() {
    let (s, before) = prepared();
    for script in ["exec sleep 1000", "exit 5"] {
        runs(&s, "unless-stopped", &[], script);
        match script {
            "exit 5" => meet_in_the_pause(&s),
            _ => wait_for_runs(&s, 1),
        }
        let (id, ran) = (id(&s), count(&s));
        kill(supervisor(&s, &id), Signal::SIGTERM).expect("kill");
        wait_for_status(&s, "Exited");
        assert_eq!((count(&s), spawn_member(&s).get("stopped")), (ran, None));
        s.bocker(&["rm", "web"]).ok();
        fs::remove_file(shared(&s).join("runs")).expect("runs");
        s.host.assert_same(&before);
    }
}

#[test]
fn a_name_that_is_given_in_the_pause_is_that_of_the_next_run() {
    let (s, before) = prepared();
    runs(&s, "always", &[], "exit 5");
    meet_in_the_pause(&s);
    s.bocker(&["rename", "web", "store"]).ok();
    wait_for_runs(&s, 6);
    let name = s.bocker(&["inspect", "--format", "{{.bocker.name}}", "store"]);
    assert_eq!(name.text(), "store\n");
    s.bocker(&["rm", "-f", "store"]).ok();
    s.host.assert_same(&before);
}

#[test]
fn a_later_run_has_a_stdin_that_is_open() {
    let (s, before) = prepared();
    let volume = format!("{}:/shared", shared(&s).display());
    let options = [
        "-i",
        "--name",
        "web",
        "--restart",
        "on-failure:1",
        "-v",
        &volume,
    ];
    let script = "echo run >> /shared/runs; [ $(wc -l < /shared/runs) -lt 2 ] && exit 3; \
                  read x; echo got $x";
    s.run(&options, &["sh", "-c", script]).exits(3);
    wait_for_runs(&s, 2);
    let client = s.host.call(&["bocker", "attach", "web"]).stdin("later\n");
    assert_eq!(client.run().text(), "got later\n");
    wait_for_status(&s, "Exited (0)");
    s.bocker(&["rm", "web"]).ok();
    s.host.assert_same(&before);
}

#[test]
fn memory_that_was_short_in_one_run_is_not_told_of_the_next() {
    let (s, before) = prepared();
    let script =
        "[ $(wc -l < /shared/runs) -lt 2 ] && dd if=/dev/zero of=/dev/shm/x bs=1M count=60; exit 3";
    runs(&s, "on-failure:1", &["-m", "16m"], script);
    s.bocker(&["wait", "web"]).ok();
    wait_for_status(&s, "Exited (3)");
    let document = s.bocker(&["inspect", "web"]).ok().json()[0].clone();
    assert_ne!(document["bocker"]["exit"]["oom"], true);
    let told = fs::read_to_string(s.host.root().join("events")).expect("events");
    assert_eq!(told.matches(r#""action":"oom""#).count(), 1);
    s.bocker(&["rm", "web"]).ok();
    s.host.assert_same(&before);
}

#[test]
fn what_cannot_be_begun_again_ends_with_the_reason() {
    let (s, before) = prepared();
    let pidfile = s.host.scratch().join("pid");
    let volume = format!("{}:/shared", shared(&s).display());
    fs::copy("/bin/busybox", shared(&s).join("busybox")).expect("busybox-static");
    let command = ["/shared/busybox", "sh", "-c", "rm /shared/busybox; exit 1"];
    let options = ["-d", "--name", "web", "--restart", "always", "-v", &volume];
    let file = ["--pidfile", &pidfile.display().to_string()];
    s.run(&[&options[..], &file].concat(), &command).ok();
    wait_for_status(&s, "Exited (127)");
    assert!(!pidfile.exists());
    let document = s.bocker(&["inspect", "web"]).ok().json()[0].clone();
    let error = document["bocker"]["exit"]["error"].as_str().expect("why");
    assert!(error.contains("/shared/busybox"), "{error}");
    s.bocker(&["rm", "web"]).ok();
    s.host.assert_same(&before);
}

#[test]
fn each_run_ends_when_its_time_is_over() {
    let (s, before) = prepared();
    let trap = "trap 'exit 4' USR1; while :; do sleep 0.02; done";
    let options = ["--timeout", "1", "--stop-signal", "USR1"];
    runs(&s, "on-failure:1", &options, trap);
    let deaf = "trap '' TERM; while :; do sleep 0.02; done";
    let options = [
        "-d",
        "--name",
        "deaf",
        "--timeout",
        "1",
        "--stop-timeout",
        "0",
    ];
    s.run(&options, &["sh", "-c", deaf]).ok();
    let codes = s.host.run(&["bocker-spawn", "wait", "deaf", "web"]);
    assert_eq!((codes.text().as_str(), count(&s)), ("137\n4\n", 2));
    s.bocker(&["rm", "web", "deaf"]).ok();
    s.run(&["--rm", "--timeout", "0"], &["sleep", "0.1"]).ok();
    s.host.assert_same(&before);
}

#[test]
fn policies_that_are_none_or_contradict_are_refused_before_anything_is_made() {
    let (s, before) = prepared();
    let refused = |options: &[&str], why: &str| s.run(options, &["true"]).exits(125).says(why);
    refused(
        &["-d", "--rm", "--restart", "always"],
        "--rm removes what --restart",
    );
    refused(
        &["-d", "--restart", "sometimes"],
        "'sometimes' is not a restart policy",
    );
    refused(&["-d", "--restart", "always:3"], "takes no number of times");
    s.host.assert_same(&before);
}
