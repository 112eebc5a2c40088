//! How containers are ended, let stand still, and begun again.

use bocker_tests::{Output, Session};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Leaves a script in the background and waits until it says `ready`.
fn runs(s: &Session, name: &str, options: &[&str], script: &str) {
    s.run(
        &[&["-d", "--name", name], options].concat(),
        &["sh", "-c", script],
    )
    .ok();
    s.host.wait_for("the script is ready", || {
        let log = s.bocker(&["logs", name]);
        log.stdout.contains("ready").then_some(())
    });
}

/// One that does this when it gets the signal.
fn traps(s: &Session, name: &str, options: &[&str], action: &str, signal: &str) {
    let script = format!("trap '{action}' {signal}; echo ready; while :; do sleep 0.02; done");
    runs(s, name, options, &script);
}

fn status(s: &Session, name: &str) -> String {
    let list = s.bocker(&["ps", "-a", "--format", "{{.Names}}={{.Status}}"]);
    let list = list.text();
    let line = list.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("{name} is not in {list}"))[1..].to_owned()
}

#[track_caller]
fn ended(s: &Session, name: &str, code: u8) {
    let status = status(s, name);
    assert!(status.starts_with(&format!("Exited ({code})")), "{status}");
}

fn inspect(s: &Session, name: &str) -> Value {
    s.bocker(&["inspect", name]).ok().json()[0].clone()
}

fn process_1(s: &Session, name: &str) -> i64 {
    inspect(s, name)["bocker"]["spawn"]["pid"]
        .as_i64()
        .expect("a pid")
}

#[test]
fn a_container_that_is_paused_stands_still_and_goes_on() {
    let s = Session::new();
    runs(
        &s,
        "web",
        &[],
        "echo ready; while :; do echo x; sleep 0.01; done",
    );
    assert_eq!(s.bocker(&["pause", "web"]).text(), "web\n");
    assert!(status(&s, "web").ends_with(" (Paused)"));
    let lines = || s.bocker(&["logs", "web"]).text().len();
    let before = lines();
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(lines(), before);
    s.bocker(&["exec", "web", "true"])
        .exits(125)
        .says("is paused; 'bocker unpause ");
    s.bocker(&["pause", "web"])
        .exits(125)
        .says("is paused already");
    assert_eq!(s.bocker(&["unpause", "web"]).text(), "web\n");
    s.host
        .wait_for("it goes on", || (lines() > before).then_some(()));
    s.bocker(&["unpause", "web"])
        .exits(125)
        .says("is not paused");
    s.bocker(&["rm", "-f", "web"]).ok();
    s.bocker(&["pause", "web"]).exits(125).says("No container");
}

#[test]
fn a_paused_container_goes_on_for_its_end() {
    let s = Session::new();
    let ways: [(&[&str], u8); 4] = [
        (&["stop", "web"], 3),
        (&["kill", "-s", "TERM", "web"], 3),
        (&["kill", "web"], 137),
        (&["restart", "web"], 3),
    ];
    for (way, code) in ways {
        traps(&s, "web", &[], "exit 3", "TERM");
        s.bocker(&["pause", "web"]).ok();
        assert_eq!(s.bocker(way).text(), "web\n", "{way:?}");
        match way[0] {
            "restart" => assert!(status(&s, "web").starts_with("Up")),
            _ => s.host.wait_for("the end", || {
                let wanted = format!("Exited ({code})");
                status(&s, "web").starts_with(&wanted).then_some(())
            }),
        }
        s.bocker(&["pause", "web"]);
        s.bocker(&["rm", "-f", "web"]).ok();
    }
}

#[test]
fn another_signal_waits_until_a_paused_container_goes_on() {
    let s = Session::new();
    traps(&s, "web", &[], "echo got it", "USR1");
    s.bocker(&["pause", "web"]).ok();
    s.bocker(&["kill", "-s", "USR1", "web"]).ok();
    assert!(status(&s, "web").ends_with("(Paused)"));
    s.bocker(&["unpause", "web"]).ok();
    s.host.wait_for("the signal", || {
        s.bocker(&["logs", "web"])
            .text()
            .contains("got it")
            .then_some(())
    });
    s.bocker(&["rm", "-f", "web"]).ok();
}

#[test]
fn a_restart_is_a_new_run_with_all_that_was_asked_for() {
    let s = Session::new();
    let options = [
        "-e",
        "A=b c",
        "--hostname",
        "www",
        "-p",
        "8080:80",
        "--stop-signal",
        "USR1",
    ];
    traps(&s, "web", &options, "exit 7", "USR1");
    let before = process_1(&s, "web");
    assert_eq!(s.bocker(&["restart", "web"]).text(), "web\n");
    assert_ne!(process_1(&s, "web"), before);
    let inside = s.bocker(&["exec", "web", "sh", "-c", "hostname; echo $A"]);
    assert_eq!(inside.text(), "www\nb c\n");
    let picture = s.host.fingerprint();
    assert!(picture.section("nftables").join("\n").contains("8080"));
    // The stop signal too, once the trap is set again.
    s.host.wait_for("both are ready", || {
        let log = s.bocker(&["logs", "web"]).text();
        (log.matches("ready").count() == 2).then_some(())
    });
    s.bocker(&["stop", "web"]).ok();
    ended(&s, "web", 7);
    assert_eq!(
        s.bocker(&["restart", "web"]).text(),
        "web\n",
        "one that has ended"
    );
    s.bocker(&["rm", "-f", "web"]).ok();

    s.run(&["-d", "--rm", "--name", "web"], &["sleep", "1000"])
        .ok();
    s.bocker(&["restart", "web"])
        .exits(125)
        .says("was run with --rm");
    s.bocker(&["restart", "nobody"])
        .exits(125)
        .says("No container");
    s.bocker(&["rm", "-f", "web"]).ok();
}

#[test]
fn all_are_asked_to_stop_before_one_is_waited_for() {
    let s = Session::new();
    traps(&s, "deaf", &[], "", "TERM");
    traps(&s, "polite", &[], "exit 3", "TERM");
    let stop = s
        .host
        .spawn(&["bocker", "stop", "-t", "1000", "deaf", "nobody", "polite"]);
    s.host.wait_for("the end of the second", || {
        status(&s, "polite").starts_with("Exited (3)").then_some(())
    });
    assert!(status(&s, "deaf").starts_with("Up"));
    s.bocker(&["kill", "deaf"]).ok();
    let output = stop
        .wait()
        .exits(125)
        .says("No container named 'nobody' exists");
    assert_eq!(output.stdout, "deaf\npolite\n");
}

#[test]
fn a_stop_that_had_to_kill_says_why_and_how_to_avoid_it() {
    let s = Session::new();
    for (action, why) in [
        ("", "ignores it, --stop-signal names one that it does not"),
        (
            ":",
            "has a handler, -t or --stop-timeout gives it more time",
        ),
    ] {
        traps(&s, "deaf", &["--stop-timeout", "0"], action, "TERM");
        let output = s.bocker(&["stop", "deaf"]).ok();
        let said = format!("did not end after signal 15: killed ({why})");
        assert!(output.stderr.trim_end().ends_with(&said), "{output}");
        ended(&s, "deaf", 137);
        s.bocker(&["rm", "deaf"]).ok();
    }
    let output = s.run(&["--stop-signal", "NOPE"], &["true"]).exits(125);
    assert!(output.stderr.contains("'NOPE' is not a signal"), "{output}");
}

#[test]
fn one_that_has_for_ever_to_end_in_is_not_killed() {
    let s = Session::new();
    let patient = ["--stop-timeout", "-1"];
    traps(&s, "own", &patient, "sleep 1; exit 3", "TERM");
    traps(
        &s,
        "told",
        &["--stop-timeout", "0"],
        "sleep 1; exit 3",
        "TERM",
    );
    let shown = s.bocker(&["inspect", "-f", "{{.Config.StopTimeout}}", "own"]);
    assert_eq!(shown.text(), "-1\n");
    s.bocker(&["stop", "own"]).ok();
    s.bocker(&["stop", "-t", "-1", "told"]).ok();
    ended(&s, "own", 3);
    ended(&s, "told", 3);
    s.bocker(&["stop", "-t", "-2", "own"])
        .exits(125)
        .says("-2 is not in -1..");
    s.host
        .run(&["bocker-spawn", "stop", "-t", "1s", "own"])
        .exits(125)
        .says("'1s' is not a number of seconds");
    s.bocker(&["rm", "own", "told"]).ok();
}

#[test]
fn all_to_which_it_can_be_done_are_meant_or_the_last_one_made_or_what_a_filter_says() {
    let s = Session::new();
    s.run(&["--name", "done", "--label", "tier=db"], &["true"])
        .ok();
    for name in ["web", "cache"] {
        s.sleeping(name);
    }
    let told = |words: &[&str]| s.bocker(words).ok().stdout;
    assert_eq!(told(&["pause", "-a"]), "web\ncache\n");
    assert_eq!(told(&["unpause", "--all"]), "web\ncache\n");
    assert_eq!(told(&["kill", "-l"]), "cache\n");
    assert_eq!(told(&["wait", "-l"]), "137\n");
    assert_eq!(told(&["start", "--latest"]), "cache\n");
    assert_eq!(told(&["exec", "-l", "echo", "-l", "said"]), "-l said\n");
    assert_eq!(told(&["logs", "--details", "-l"]), "");
    s.bocker(&["attach", "-l", "web"]).exits(125);
    assert_eq!(told(&["stop", "-t", "0", "-a"]), "web\ncache\n");
    assert_eq!(told(&["stop", "-a"]), "");
    assert_eq!(told(&["start", "--filter", "name=web"]), "web\n");
    assert_eq!(
        told(&["restart", "-t", "0", "--filter", "name=web"]),
        "web\n"
    );
    assert_eq!(told(&["rm", "--filter", "label=tier"]), "Removed: done\n");
    s.bocker(&["rm", "-a"])
        .exits(2)
        .says("Container 'web' is running");
    assert_eq!(told(&["stop", "-t", "0", "-i", "none", "web"]), "web\n");
    assert_eq!(told(&["stop", "-i", "none"]), "");
    s.bocker(&["stop", "none", "web"])
        .exits(125)
        .says("No container named 'none'");
    assert_eq!(told(&["rm", "-i", "none", "web"]), "Removed: web\n");
    s.bocker(&["rm", "none"]).exits(1);
    for words in [&["stop"][..], &["kill", "-a", "web"], &["rm", "-l", "web"]] {
        s.bocker(words).exits(125);
    }
    s.sleeping("last");
    traps(&s, "deaf", &[], "echo deaf", "TERM");
    s.bocker(&["rm", "-f", "-t", "0", "deaf"])
        .ok()
        .says("did not end after signal 15");
    assert_eq!(told(&["rm", "-f", "-a"]), "Removed: last\n");
    assert_eq!(told(&["ps", "-q"]), "");
}

#[test]
fn who_is_stopped_already_is_stopped() {
    let s = Session::new();
    s.run(&["--name", "web"], &["true"]).ok();
    assert_eq!(s.bocker(&["stop", "web", "web"]).text(), "web\nweb\n");
    s.sleeping("other");
    assert_eq!(
        s.bocker(&["stop", "other", "other"]).text(),
        "other\nother\n"
    );
    ended(&s, "other", 137);
}

/// A process of the host's that enters the container's pid namespace and is suspended then, as `nsenter` under ^Z.
#[test]
fn stop_names_what_holds_a_container_that_cannot_be_gone() {
    let s = Session::new();
    s.sleeping("web");
    let pid = process_1(&s, "web").to_string();
    let entered = s.host.spawn(&[
        "nsenter",
        "-t",
        &pid,
        "-p",
        "sh",
        "-c",
        "echo in; sleep 1000",
    ]);
    s.host.wait_for("the child of nsenter", || {
        let found = s.host.run(&["pgrep", "-P", &entered.pid().to_string()]);
        (found.code == 0).then_some(())
    });
    entered.signal(Signal::SIGSTOP);
    let said: Output = s.bocker(&["stop", "web"]).exits(125);
    let holder = format!("until {} (nsenter, state T) reaps it", entered.pid());
    assert!(said.stderr.contains(&holder), "{said}");
    entered.signal(Signal::SIGCONT);
    entered.wait();
    s.bocker(&["stop", "web"]).ok();
    s.bocker(&["rm", "web"]).ok();
}
