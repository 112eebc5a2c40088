//! What a container wrote can be read at any time and without loss: by its end, from a time on, while it runs, over files that
//! are renamed, and on a disk that is full.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use bocker_tests::{Output, Session};

fn folder(session: &Session, id: &str) -> PathBuf {
    session.host.root().join("containers").join(id)
}

fn logs(session: &Session, options: &[&str]) -> Output {
    session.bocker(&[&["logs"], options, &["web"]].concat())
}

/// A container in the background, and its id.
fn detached(session: &Session, options: &[&str], script: &str) -> String {
    let options = [&["-d", "--name", "web"], options].concat();
    let output = session.run(&options, &["sh", "-c", script]);
    output.text().trim().to_owned()
}

/// Waits until the container has ended.
fn ended(session: &Session) {
    session.host.wait_for("the container has ended", || {
        let state = session.bocker(&["inspect", "--format", "{{.bocker.state}}", "web"]);
        (state.stdout.trim() == "exited").then_some(())
    });
}

#[test]
fn the_end_of_a_log_is_printed_by_lines_of_both_streams() {
    let session = Session::new();
    session
        .run(&["--name", "web"], &["sh", "-c", "for i in 1 2 3 4; do echo $i; done; sleep 0.1; echo err >&2; sleep 0.1; printf last"])
        .ok();
    assert_eq!(logs(&session, &[]).ok().stdout, "1\n2\n3\n4\nlast");
    let tail = logs(&session, &["--tail", "3"]).ok();
    assert_eq!((&*tail.stdout, &*tail.stderr), ("4\nlast", "err\n"));
    assert_eq!(logs(&session, &["-n", "1"]).ok().stdout, "last");
    assert_eq!(logs(&session, &["-n0"]).ok().stdout, "");
    assert_eq!(
        logs(&session, &["-n", "all"]).ok().stdout,
        "1\n2\n3\n4\nlast"
    );
    logs(&session, &["-n", "many"])
        .exits(125)
        .says("'many' is no number of lines");
}

#[test]
fn a_time_selects_what_was_written_and_is_printed_before_each_line() {
    let session = Session::new();
    let id = detached(
        &session,
        &[],
        "echo -n first; sleep 0.2; echo ' end'; sleep 0.2; echo second",
    );
    ended(&session);
    let text = logs(&session, &["-t"]).ok().stdout;
    let lines: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .collect();
    assert_eq!(
        (lines[0].1, lines[1].1),
        ("first end", "second"),
        "a line has one time: {text}"
    );
    let second = lines[1].0;
    assert_eq!(logs(&session, &["--since", second]).ok().stdout, "second\n");
    assert_eq!(
        logs(&session, &["--until", second]).ok().stdout,
        "first end\n"
    );
    assert_eq!(
        logs(&session, &["--since", "1h"]).ok().stdout,
        "first end\nsecond\n"
    );
    assert_eq!(logs(&session, &["--until", "1h"]).ok().stdout, "");
    // Before 1970.
    assert_eq!(
        logs(&session, &["--since", "200y"]).ok().stdout,
        "first end\nsecond\n"
    );
    logs(&session, &["--since", "tomorrow"])
        .exits(125)
        .says("'tomorrow' is not a time");
    // Who sets the clock back, or writes by hand, has the records in the order in which they are there.
    let by_hand = "2000-01-01T00:00:00.000000000Z stdout F earlier\nnonsense\n\nx stdout F timeless\n2999-01-01T00:00:00.000000000Z stdout F cut";
    fs::write(folder(&session, &id).join("log"), by_hand).expect("write the log");
    assert_eq!(logs(&session, &[]).ok().stdout, "earlier\ntimeless\ncut\n");
    assert_eq!(
        logs(&session, &["--since", "10m"]).ok().stdout,
        "timeless\ncut\n"
    );
}

#[test]
fn who_follows_has_all_of_it_over_renamed_files_and_ends_with_the_container() {
    let session = Session::new();
    let script =
        "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; printf end; read x < /wait";
    let rootfs = &session.rootfs;
    session.host.sh(&format!("mkfifo {rootfs}/wait")).ok();
    let opts = ["--log-opt", "max-size=20k", "--log-opt", "max-file=50"];
    let id = detached(&session, &opts, script);
    let mut follower = session.host.spawn(&["bocker", "logs", "-f", "web"]);
    session.host.wait_for("all is written", || {
        let log = fs::read(folder(&session, &id).join("log")).ok()?;
        log.ends_with(b"P end\n").then_some(())
    });
    assert!(
        !follower.has_ended(),
        "it ends with the container, not before"
    );
    session.bocker(&["kill", "web"]).ok();
    let output = follower.wait();
    let expected: String = (0..3000).map(|i| format!("line {i}\n")).collect();
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(
        output.stdout == expected + "end",
        "{} bytes",
        output.stdout.len()
    );
    let files = fs::read_dir(folder(&session, &id))
        .expect("read the folder")
        .flatten();
    let old = files.filter(|file| file.file_name().to_string_lossy().starts_with("log."));
    let sizes: Vec<u64> = old
        .map(|file| file.metadata().expect("look").len())
        .collect();
    assert!(
        sizes.len() > 3 && sizes.iter().all(|size| *size <= 20 << 10),
        "{sizes:?}"
    );
    assert_eq!(logs(&session, &["-n", "2"]).ok().stdout, "line 2999\nend");
}

#[test]
fn who_follows_one_that_is_killed_or_removed_ends_too() {
    let session = Session::new();
    for end in [&["rm", "-f", "web"][..], &["stop", "-t", "0", "web"]] {
        detached(&session, &[], "echo here; sleep 1000");
        let mut follower = session.host.spawn(&["bocker", "logs", "-f", "web"]);
        session.host.wait_for("it has been printed", || {
            let log = logs(&session, &[]);
            log.stdout.contains("here").then_some(())
        });
        assert!(!follower.has_ended());
        let until = logs(&session, &["-f", "--until", "0s"]).ok();
        assert_eq!(until.stdout, "here\n", "it follows until then");
        session.bocker(end).ok();
        assert_eq!(follower.wait().ok().stdout, "here\n");
    }
    session.bocker(&["rm", "web"]).ok();
    logs(&session, &[])
        .exits(125)
        .says("No container named 'web' exists");
}

#[test]
fn who_follows_and_is_not_read_any_more_ends() {
    let session = Session::new();
    detached(&session, &[], "echo here; sleep 1000");
    let line = session
        .host
        .sh("bocker logs -f web | head -n 1; echo ${PIPESTATUS:-}")
        .ok();
    assert_eq!(line.stdout.trim(), "here");
    session.bocker(&["rm", "-f", "web"]).ok();
}

#[test]
fn a_log_has_the_size_that_was_asked_for_or_is_none() {
    let session = Session::new();
    let run = |options: &[&str]| {
        session.run(
            &[&["--name", "web"], options].concat(),
            &["sh", "-c", "seq 1 1000"],
        )
    };
    run(&["--log-opt", "max-size=4k"]).ok();
    let text = logs(&session, &[]).ok().stdout;
    assert!(
        text.ends_with("\n999\n1000\n") && text.lines().count() < 100,
        "{text}"
    );
    session.bocker(&["rm", "web"]).ok();
    let before = run(&["--log-driver", "none"]).ok();
    assert_eq!(
        before.stdout.lines().count(),
        1000,
        "the caller has it all the same"
    );
    logs(&session, &[]).exits(125).says("--log-driver none");
    session.bocker(&["rm", "web"]).ok();
    run(&["--log-driver", "journald"])
        .exits(125)
        .says("no log driver 'journald'");
    run(&["--log-opt", "compress=true"])
        .exits(125)
        .says("'compress=true' is not known here");
    run(&["--log-opt", "max-file=0"])
        .exits(125)
        .says("'max-file=0'");
}

#[test]
fn a_full_disk_holds_nobody_up_and_is_told_when_there_is_room_again() {
    let session = Session::new();
    session
        .host
        .sh(&format!("mkfifo {}/go", session.rootfs))
        .ok();
    let small = session.host.scratch().join("small");
    fs::create_dir_all(&small).expect("make a folder");
    session
        .host
        .sh(&format!(
            "mount -t tmpfs -o size=4m tmpfs {}",
            small.display()
        ))
        .ok();
    let on = |words: &[&str]| {
        let call = session.host.call(&[&["bocker"], words].concat());
        call.env("BOCKER_ROOT", &small)
            .timeout(Duration::from_secs(30))
            .run()
    };
    // More than there is room for, then a line for each that is asked for.
    let script = "head -c 8000000 /dev/zero | tr '\\0' x | fold -w 99; echo; echo done > /go; while :; do read x < /go && echo $x; done";
    let run = [
        "run",
        "-d",
        "--name",
        "web",
        "--rootfs",
        &session.rootfs,
        "sh",
        "-c",
        script,
    ];
    let id = on(&run).text().trim().to_owned();
    // The pipe has a reader only when all before it was taken.
    on(&["exec", "web", "sh", "-c", "cat /go"]).ok();
    let lost = fs::read_to_string(PathBuf::from("/run/bocker").join(&id).join("lost"))
        .expect("the loss is shown");
    assert!(lost.contains("ENOSPC"), "{lost}");
    let log = small.join("containers").join(&id).join("log");
    let full = fs::read(&log).expect("the log");
    assert!(full.ends_with(b"\n"), "no record is there by half");
    fs::File::options()
        .write(true)
        .open(&log)
        .and_then(|file| file.set_len(1000))
        .expect("make room");
    session.host.wait_for("it is told", || {
        on(&["exec", "web", "sh", "-c", "echo more > /go"]).ok();
        let text = on(&["logs", "web"]);
        (text.stderr.contains("are missing here since") && text.stdout.ends_with("more\n"))
            .then_some(())
    });
    on(&["stop", "-t", "0", "web"]).ok();
    let claim = PathBuf::from("/run/bocker").join(&id);
    assert!(claim.exists() && !claim.join("lost").exists());
    let lost = on(&["inspect", "--format", "{{json .bocker.spawn.lost}}", "web"])
        .ok()
        .json();
    assert!(
        lost["bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20),
        "{lost}"
    );
    on(&["rm", "web"]).ok();
    assert!(!claim.exists());
    on(&["system", "reset", "--force"]).ok();
    session.host.sh(&format!("umount {}", small.display())).ok();
}

#[test]
fn how_a_container_ended_is_known_though_the_disk_was_full_by_then() {
    let session = Session::new();
    let small = session.host.scratch().join("small");
    fs::create_dir_all(&small).expect("make a folder");
    let mount = format!("mount -t tmpfs -o size=1m tmpfs {}", small.display());
    session.host.sh(&mount).ok();
    let call = |words: &[&str]| {
        let call = session.host.call(&[&["bocker"], words].concat());
        call.env("BOCKER_ROOT", &small)
            .timeout(Duration::from_secs(30))
    };
    let on = |words: &[&str]| call(words).run();
    let run = |options: &[&str], script: &str| {
        let command = ["--rootfs", &session.rootfs, "sh", "-c", script];
        call(&[&["run"], options, &command].concat())
    };
    let script =
        |code: u8, what: &str| format!("trap 'exit {code}' TERM; {what}; sleep 1000 & wait");
    let kept = run(&["--name", "kept"], &script(4, "echo ready")).spawn();
    session.host.wait_for("it has its trap", || {
        let log = on(&["logs", "kept"]);
        log.stdout.contains("ready").then_some(())
    });
    // More than there is room for.
    let flood = script(3, "head -c 3000000 /dev/zero");
    let left = run(&["-d", "--name", "left"], &flood).run().text();
    let lost = PathBuf::from("/run/bocker").join(left.trim()).join("lost");
    session
        .host
        .wait_for("the log is full", || lost.exists().then_some(()));
    // And not a page is left.
    let filler = small.join("filler");
    let filled = format!("cat /dev/zero >{}; df {0}", filler.display());
    let filled = session.host.sh(&filled).stdout;
    assert!(filled.contains("100%"), "{filled}");
    on(&["stop", "left", "kept"]).ok();
    kept.wait().exits(4);
    for (name, code) in [("left", "3"), ("kept", "4")] {
        assert_eq!(on(&["wait", name]).text().trim(), code);
        let format = "{{.State.Status}} {{.State.ExitCode}} {{json .bocker.spawn.lost}}";
        let shown = on(&["inspect", "--format", format, name]).text();
        assert!(shown.starts_with(&format!("exited {code} ")), "{shown}");
        assert_eq!(shown.contains("ENOSPC"), name == "left", "{shown}");
    }
    run(&["--name", "other"], "true")
        .run()
        .exits(125)
        .says("ENOSPC");
    on(&["rm", "left", "kept"]).ok();
    fs::remove_file(&filler).expect("make room");
    on(&["system", "reset", "--force"]).ok();
    let unmount = format!("umount {}", small.display());
    session.host.sh(&unmount).ok();
}

#[test]
fn a_time_without_a_zone_is_one_of_the_callers_clocks() {
    let session = Session::new();
    session.run(&["--name", "web"], &["echo", "now"]).ok();
    // Three hours and a half east of Greenwich (tzset(3)): it is half past four there when it is one in UTC.
    let there = |options: &[&str]| {
        let words = [&["bocker", "logs"], options, &["web"]].concat();
        let call = session.host.call(&words).env("TZ", "THERE-3:30");
        call.run().ok().stdout
    };
    let date = |time: &str| {
        let words = ["date", "-u", "-d", time, "+%Y-%m-%dT%H:%M:%S"];
        session.host.run(&words).text().trim().to_owned()
    };
    let (before, after) = (date("+3 hours +20 minutes"), date("+3 hours +40 minutes"));
    assert_eq!(there(&["--since", &before]), "now\n");
    assert_eq!(there(&["--since", &after]), "");
    assert_eq!(there(&["--until", &after]), "now\n");
    let zoned = |time: &str| format!("{time}+03:30");
    assert_eq!(there(&["--since", &zoned(&before)]), "now\n");
    assert_eq!(there(&["--since", &zoned(&after)]), "");
    session.bocker(&["rm", "web"]).ok();
}

#[test]
fn who_follows_goes_on_over_the_runs_that_a_restart_policy_makes() {
    let session = Session::new();
    detached(
        &session,
        &["--restart", "on-failure:2"],
        "printf run; exit 3",
    );
    assert_eq!(logs(&session, &["-f"]).ok().stdout, "runrunrun");
    ended(&session);
    session.bocker(&["rm", "web"]).ok();
}
