//! `bocker --timing`: the table names all that was done, and its parts are the whole.

use std::time::Instant;

use bocker_tests::{Host, Session};

/// Rounded to microseconds, each of some ten numbers that are added up.
const ROUNDED: f64 = 0.01;

/// A line of the table: of a stage when it is not indented, else of what the stage did.
#[derive(Debug)]
struct Row {
    took: f64,
    meanwhile: bool,
    is_stage: bool,
    name: String,
}

impl Row {
    fn parse(line: &str) -> Row {
        let (numbers, name) = line.split_at(19);
        let took = numbers[8..].trim();
        let number = took.trim_matches(['(', ')']);
        Row {
            took: number.parse().unwrap_or_else(|e| panic!("{line}: {e}")),
            meanwhile: number != took,
            is_stage: !name.starts_with(' '),
            name: name.trim().to_owned(),
        }
    }
}

fn steps_explained(stderr: &str) -> Vec<&str> {
    let steps = stderr.lines().filter_map(|line| line.strip_prefix("# "));
    let names = steps.filter_map(|line| Some(line.split_once(": ")?.0));
    names.filter(|name| name.contains('.')).collect()
}

#[test]
fn the_table_names_each_stage_and_every_step_and_its_parts_are_the_whole() {
    let host = Host::new();
    let rootfs = host.busybox_rootfs("rootfs");
    let rootfs = rootfs.to_string_lossy();
    let run = |option| {
        let line = ["bocker", option, "run", "--rm", "--rootfs", &rootfs, "true"];
        host.run(&line).ok().stderr
    };
    // What all containers share is made by the first.
    run("-x");
    let explained = run("--explain");
    let began = Instant::now();
    let timed = run("--timing");
    let wall = began.elapsed().as_secs_f64() * 1e3;

    let mut lines: Vec<&str> = timed.lines().skip(1).collect();
    let last = lines.pop().unwrap_or_default();
    let all: f64 = last
        .split_whitespace()
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("{timed}"));
    let rows: Vec<Row> = lines.into_iter().map(Row::parse).collect();

    let steps = steps_explained(&explained);
    assert!(steps.len() > 30, "{explained}");
    for step in steps {
        let found = rows.iter().any(|row| !row.is_stage && row.name == step);
        assert!(found, "{step} is missing: {timed}");
    }
    let stages: Vec<&Row> = rows.iter().filter(|row| row.is_stage).collect();
    let names: Vec<&str> = stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "bocker",
            "snap create",
            "net create",
            "cg create",
            "spawn run",
            "cg delete",
            "net delete",
            "snap delete",
            "bocker"
        ]
    );

    assert!(rows.iter().all(|row| row.took >= 0.0), "{timed}");
    assert!(all > 0.0 && all <= wall, "{wall} ms passed: {timed}");
    let sum: f64 = stages.iter().map(|stage| stage.took).sum();
    assert!((sum - all).abs() < ROUNDED, "{sum} is not {all}: {timed}");
    for section in rows.chunk_by(|_, next| !next.is_stage) {
        let (stage, parts) = section.split_first().unwrap_or_else(|| panic!("{timed}"));
        let parts = parts.iter().filter(|row| !row.meanwhile);
        let sum: f64 = parts.map(|row| row.took).sum();
        assert!(
            (sum - stage.took).abs() < 2.0 * ROUNDED,
            "{sum} is not {stage:?}: {timed}"
        );
    }
}

#[test]
fn without_the_option_nothing_is_said() {
    let session = Session::new();
    assert_eq!(session.run(&["--rm"], &["true"]).ok().stderr, "");
}

#[test]
fn whoever_pipes_by_hand_names_a_descriptor() {
    let host = Host::new();
    let pipeline = "bocker-net create --new | bocker-net delete >/dev/null";
    let timed = host.sh(&format!("export BOCKER_TIMING=2; {pipeline}")).ok();
    let lines: Vec<Vec<&str>> = timed
        .stderr
        .lines()
        .map(|line| line.split('\t').collect())
        .collect();
    for columns in &lines {
        let [at, took, _, _] = columns[..] else {
            panic!("{timed}")
        };
        for number in [at, took] {
            assert!(number.parse::<f64>().is_ok_and(|ms| ms >= 0.0), "{timed}");
        }
    }
    for what in [["net create", "net.veth"], ["net delete", "net.netns"]] {
        assert!(
            lines.iter().any(|columns| columns[2..] == what),
            "{what:?}: {timed}"
        );
    }

    // What cannot be written does not matter.
    for number in ["99", "-1", "two", ""] {
        let call = host.sh(&format!("export BOCKER_TIMING={number}; {pipeline}"));
        assert_eq!(call.ok().stderr, "", "{number}");
    }
}

#[test]
fn the_container_does_not_get_the_descriptor() {
    let host = Host::new();
    let rootfs = host.busybox_rootfs("rootfs");
    let script = "cd /proc/self/fd; echo *; env";
    let line = [
        "bocker",
        "--timing",
        "run",
        "--rm",
        "--rootfs",
        &rootfs.to_string_lossy(),
        "sh",
        "-c",
        script,
    ];
    let seen = host.run(&line).ok().stdout;
    assert!(
        seen.starts_with("0 1 2\n") || seen.starts_with("0 1 2 3\n"),
        "{seen}"
    );
    assert!(!seen.contains("BOCKER_TIMING"), "{seen}");
}
