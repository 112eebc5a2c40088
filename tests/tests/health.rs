//! Health checks: what is found, when it changes, and that nothing is left of a check.

use std::fs;

use bocker_tests::Session;
use serde_json::Value;

/// Leaves a container named `web` in the background, looked at every 50 milliseconds.
fn checked(s: &Session, command: &str, options: &[&str]) {
    let usual = ["-d", "--name", "web", "--health-cmd", command];
    let often = ["--health-interval", "50ms", "--health-retries", "2"];
    s.run(&[&usual, &often[..], options].concat(), &["sleep", "1000"])
        .ok();
}

fn health(s: &Session) -> Value {
    s.host.run(&["bocker-spawn", "list"]).ok().json()["health"].clone()
}

#[track_caller]
fn wait_for_health(s: &Session, wanted: &str) -> Value {
    s.host.wait_for(wanted, || {
        let health = health(s);
        (health["status"] == wanted).then_some(health)
    })
}

#[test]
fn it_is_healthy_when_a_check_succeeds_and_unhealthy_when_as_many_fail_as_are_too_many() {
    let s = Session::new();
    checked(&s, "cat /ok", &[]);
    let failed = wait_for_health(&s, "unhealthy");
    let last = failed["log"].as_array().and_then(|log| log.last());
    let last = last.expect("a check");
    assert_eq!(last["exitCode"], 1);
    let output = last["output"].as_str().expect("output");
    assert!(output.contains("can't open '/ok'"), "{output}");
    assert!(failed["failingStreak"].as_u64() >= Some(2));

    s.bocker(&["exec", "web", "sh", "-c", "echo fine > /ok"])
        .ok();
    let healthy = wait_for_health(&s, "healthy");
    assert_eq!(healthy["failingStreak"], 0);
    s.bocker(&["exec", "web", "rm", "/ok"]).ok();
    wait_for_health(&s, "unhealthy");
    s.host.wait_for("five are kept", || {
        let log = health(&s)["log"].as_array().map(Vec::len);
        assert!(log <= Some(5), "{log:?}");
        (log == Some(5)).then_some(())
    });

    s.bocker(&["stop", "web"]).ok();
    assert_eq!(health(&s), Value::Null, "one that does not run has none");
    let told = fs::read_to_string(s.host.root().join("events")).expect("events");
    let told: Vec<&str> = told
        .lines()
        .filter(|line| line.contains("health_status"))
        .collect();
    assert!(
        told.len() >= 3 && told[1].contains("health_status: healthy"),
        "{told:?}"
    );
    // Asked for once, it is asked for by every start.
    s.bocker(&["start", "web"]).ok();
    wait_for_health(&s, "unhealthy");
    s.bocker(&["rm", "-f", "web"]).ok();
}

#[test]
fn a_check_that_hangs_has_failed_when_its_time_is_over_and_nothing_is_left_of_it() {
    let s = Session::new();
    checked(&s, "sleep 777", &["--health-timeout", "50ms"]);
    let health = wait_for_health(&s, "unhealthy");
    let last = &health["log"][0];
    assert_eq!(
        (last["exitCode"].as_i64(), &last["output"]),
        (Some(-1), &"it took longer than it may".into())
    );
    s.bocker(&["pause", "web"]).ok();
    s.bocker(&["unpause", "web"]).ok();
    // At most the one that is going on.
    for _ in 0..5 {
        let running = s.bocker(&["exec", "web", "sh", "-c", "ps | grep -c 'sleep 77[7]'"]);
        assert!(
            ["0\n", "1\n"].contains(&running.stdout.as_str()),
            "{running}"
        );
    }
    s.bocker(&["rm", "-f", "web"]).ok();
}

/// When the last checks of a container began.
fn starts(s: &Session, name: &str) -> Vec<String> {
    let lines = s.host.run(&["bocker-spawn", "list"]).ok().json_lines();
    let line = lines.into_iter().find(|line| line["name"] == name);
    let log = line.expect("it is listed")["health"]["log"].clone();
    let of = |check: &Value| check["start"].as_str().map(str::to_owned);
    let log = log
        .as_array()
        .map(|log| log.iter().filter_map(of).collect());
    log.unwrap_or_default()
}

#[test]
fn one_that_stands_still_is_not_checked() {
    let s = Session::new();
    checked(&s, "true", &[]);
    let often = ["--health-cmd", "true", "--health-interval", "50ms"];
    s.run(
        &[&["-d", "--name", "clock"], &often[..]].concat(),
        &["sleep", "1000"],
    )
    .ok();
    wait_for(&s, "web", 1);
    s.bocker(&["pause", "web"]).ok();
    // Five are kept: when the last of now has gone, there have been five in which there was time for one of the other.
    let last = wait_for(&s, "clock", 1).pop();
    s.host.wait_for("the clock goes round", || {
        let now = starts(&s, "clock");
        (now.len() == 5 && now.first() > last.as_ref()).then_some(())
    });
    s.bocker(&["unpause", "web"]).ok();
    let lines = s.host.run(&["bocker-spawn", "list"]).ok().json_lines();
    for line in lines {
        let checks = line["health"]["log"].as_array().expect("checks");
        assert!(checks.iter().all(|check| check["exitCode"] == 0), "{line}");
    }
    s.bocker(&["rm", "-f", "web", "clock"]).ok();
}

/// Waits for so many checks.
#[track_caller]
fn wait_for(s: &Session, name: &str, count: usize) -> Vec<String> {
    s.host.wait_for("checks", || {
        let starts = starts(s, name);
        (starts.len() >= count).then_some(starts)
    })
}

#[test]
fn failures_of_one_that_is_starting_do_not_count() {
    let s = Session::new();
    checked(&s, "false", &["--health-start-period", "1h"]);
    wait_for(&s, "web", 3);
    let found = health(&s);
    assert_eq!(found["status"], "starting");
    assert_eq!(found["failingStreak"], 0);
    s.bocker(&["rm", "-f", "web"]).ok();
}

#[test]
fn a_container_can_end_while_it_is_checked() {
    let s = Session::new();
    s.run(&["--rm", "--name", "web"], &["true"]).ok();
    let before = s.host.fingerprint();
    // No other test's.
    let command = format!("sleep 7{}", std::process::id());
    checked(&s, &command, &["--rm"]);
    s.host.wait_for("a check", || {
        let all = s.bocker(&["exec", "web", "ps"]).stdout;
        all.contains(&command).then_some(())
    });
    s.bocker(&["stop", "web"]).ok();
    s.host.assert_same(&before);
    assert_ne!(s.host.run(&["pgrep", "-f", &command]).code, 0);
}

#[test]
fn of_what_a_check_writes_the_beginning_is_kept() {
    let s = Session::new();
    checked(&s, "yes | head -c 300000", &[]);
    let health = wait_for_health(&s, "healthy");
    let output = health["log"][0]["output"].as_str().expect("output");
    assert_eq!(output.len(), 4096);
    s.bocker(&["rm", "-f", "web"]).ok();
}

#[test]
fn a_list_of_words_needs_no_shell_and_what_cannot_be_executed_is_a_failure() {
    let s = Session::new();
    checked(&s, r#"["test", "a b", "=", "a b"]"#, &[]);
    wait_for_health(&s, "healthy");
    s.bocker(&["rm", "-f", "web"]).ok();
    checked(&s, r#"["/no/such/program"]"#, &[]);
    let health = wait_for_health(&s, "unhealthy");
    assert_eq!(health["log"][0]["exitCode"], 127);
    s.bocker(&["rm", "-f", "web"]).ok();
}

#[test]
fn checks_that_make_no_sense_are_refused() {
    let s = Session::new();
    let refused = |options: &[&str], why: &str| {
        s.run(options, &["true"]).exits(125).says(why);
    };
    refused(&["--health-interval", "1s"], "has no command");
    refused(
        &["--health-cmd", "x", "--health-interval", "5"],
        "'5' is no duration",
    );
    refused(
        &["--health-cmd", "x", "--health-timeout", "0s"],
        "more time than none",
    );
    refused(
        &["--health-cmd", "[1]"],
        "begins as a list of words and is none",
    );
    refused(
        &["--health-cmd", "x", "--no-healthcheck"],
        "cannot be used with",
    );
}
