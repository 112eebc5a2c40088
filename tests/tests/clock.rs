//! The clock of the machine is set back by a day while containers run, and forward again. A clock is nobody's own (there is no
//! namespace of CLOCK_REALTIME), so that this runs in the virtual machine alone.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bocker_tests::{Host, Session};
use serde_json::Value;

const DAY: Duration = Duration::from_secs(86_400);
/// The machine's name, as tests/src/guest/init has it. No other clock is touched.
const GUEST: &str = "guest";

const TOOLS: [&str; 4] = ["bocker-spawn", "bocker-cg", "bocker-net", "bocker-snap"];

fn set(host: &Host, moment: SystemTime) {
    let name = host.run(&["hostname"]).text();
    assert_eq!(name.trim(), GUEST, "this sets the machine's clock");
    let seconds = moment
        .duration_since(UNIX_EPOCH)
        .expect("a moment")
        .as_secs();
    host.run(&["date", "-s", &format!("@{seconds}")]).ok();
}

/// Collects what is left over, with the grace that is usual.
fn collect(host: &Host) {
    for tool in TOOLS {
        host.run(&[tool, "gc"]).ok();
    }
}

fn inspect(s: &Session, name: &str) -> Value {
    s.bocker(&["inspect", name]).ok().json()[0].clone()
}

fn status(s: &Session, name: &str) -> String {
    let list = s
        .bocker(&["ps", "-a", "--format", "{{.Names}} {{.Status}}"])
        .text();
    let line = list.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("{name} is not in {list}"))
        .trim()
        .to_owned()
}

#[track_caller]
fn no_age_is_negative(s: &Session) {
    let ages = s.bocker(&[
        "ps",
        "-a",
        "--format",
        "{{.Names}}: {{.Status}}, {{.RunningFor}}",
    ]);
    let ages = ages.text();
    for line in ages.lines() {
        assert!(line.ends_with(" ago") && !line.contains('-'), "{ages}");
    }
    assert_eq!(ages.lines().count(), 5, "{ages}");
}

#[test]
#[ignore = "in the virtual machine"]
fn a_clock_that_is_set_back_and_forward_holds_nobody_up_and_ends_nothing() {
    let s = Session::new();
    s.run(&["--rm"], &["true"]).ok();
    let before = s.host.fingerprint();
    let runs = |name: &str, options: &[&str], script: &str| {
        let usual = ["-d", "--name", name];
        s.run(&[&usual, options].concat(), &["sh", "-c", script])
            .ok();
    };
    let deaf = "trap '' TERM; echo ready; while :; do sleep 0.1; done";
    runs("deaf", &["--stop-timeout", "1"], deaf);
    runs("again", &["--restart", "always"], "exit 3");
    runs("timed", &["--timeout", "10"], "exec sleep 1000");
    let health = ["--health-cmd", "true", "--health-interval", "200ms"];
    runs("checked", &health, "exec sleep 1000");
    runs(
        "writes",
        &[],
        "echo first; mkfifo /go /on; read line < /go; echo second; read line < /on",
    );
    s.host.wait_for("the first line", || {
        s.bocker(&["logs", "writes"])
            .text()
            .contains("first")
            .then_some(())
    });
    let follower = s.host.spawn(&["bocker", "logs", "-f", "writes"]);
    let half_made = s
        .host
        .sh(&format!("bocker-snap create --rootfs {}", s.rootfs))
        .ok()
        .json();
    let half_made = half_made["bocker"]["id"].as_str().expect("an id");
    let is_claimed = || std::path::Path::new("/run/bocker").join(half_made).exists();

    let then = SystemTime::now();
    let moment = then.duration_since(UNIX_EPOCH).expect("a moment");
    let moment = format!("{}.{:09}", moment.as_secs(), moment.subsec_nanos());
    set(&s.host, then - DAY);
    no_age_is_negative(&s);
    // What is made meanwhile is of the future, and young.
    collect(&s.host);
    assert!(is_claimed());

    let restarts = inspect(&s, "again")["RestartCount"].as_u64();
    s.host.wait_for("another run", || {
        (inspect(&s, "again")["RestartCount"].as_u64() > restarts).then_some(())
    });
    let started = inspect(&s, "checked")["State"]["StartedAt"].clone();
    let started = started.as_str().expect("a time");
    s.host.wait_for("a check of today", || {
        let state = inspect(&s, "checked")["State"].clone();
        let last = state["Health"]["Log"].as_array()?.last()?.clone();
        (state["Health"]["Status"] == "healthy" && last["Start"].as_str()? < started).then_some(())
    });

    s.bocker(&["exec", "writes", "sh", "-c", "echo > /go"]).ok();
    let lines = || s.bocker(&["logs", "writes"]).text();
    s.host.wait_for("the second line", || {
        (lines() == "first\nsecond\n").then_some(())
    });
    // Each by its own time.
    let since = |when: &str| s.bocker(&["logs", "--since", when, "writes"]).text();
    let until = |when: &str| s.bocker(&["logs", "--until", when, "writes"]).text();
    assert_eq!(since("1h"), "first\nsecond\n");
    assert_eq!(
        (since(&moment).as_str(), until("0s").as_str()),
        ("", "second\n")
    );
    s.bocker(&["exec", "-d", "writes", "sh", "-c", "echo > /on"])
        .ok();
    assert_eq!(follower.wait().text(), "first\nsecond\n");
    assert_eq!(s.bocker(&["wait", "writes"]).text(), "0\n");
    assert!(status(&s, "writes").starts_with("Exited (0) "));

    s.bocker(&["stop", "deaf"])
        .ok()
        .says("did not end after signal 15");
    assert!(status(&s, "deaf").starts_with("Exited (137)"));
    s.bocker(&["wait", "timed"]).ok();
    assert!(status(&s, "timed").starts_with("Exited"));
    no_age_is_negative(&s);
    s.bocker(&["restart", "-t", "0", "checked"]).ok();
    s.bocker(&["events", "--since", "48h", "--until", "0s"])
        .ok();

    // The other way all is old at once, and what lives is nobody's to collect.
    set(&s.host, then + DAY);
    no_age_is_negative(&s);
    assert_eq!(
        status(&s, "checked").split(" (").next(),
        Some("Up 47 hours")
    );
    collect(&s.host);
    assert!(!is_claimed());
    s.bocker(&["exec", "checked", "true"]).ok();
    assert!(!status(&s, "again").starts_with("Exited"));
    s.bocker(&["rm", "-f", "deaf", "again", "timed", "checked", "writes"])
        .ok();
    s.host.assert_same(&before);
    set(&s.host, then);
}
