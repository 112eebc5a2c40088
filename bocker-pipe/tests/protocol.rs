//! Executes what the protocol page promises: its example documents go through a real stage, and the rules for stages that
//! fail are tried with real pipes and signals.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const PAGE: &str = include_str!("../README.md");

const STAGE: &str = env!("CARGO_BIN_EXE_stage");

fn start(args: &[&str]) -> Child {
    Command::new(STAGE)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn run(args: &[&str], input: &str) -> (i32, String, String) {
    let mut child = start(args);
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

struct Example {
    args: Vec<String>,
    exit: i32,
    input: String,
    output: String,
}

fn examples() -> Vec<Example> {
    let mut examples = Vec::new();
    let mut lines = PAGE.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```json input=") else {
            continue;
        };
        let (args, exit) = info.split_once(" exit=").unwrap();
        let mut block = || {
            lines
                .by_ref()
                .take_while(|line| *line != "```")
                .collect::<Vec<_>>()
                .join("\n")
        };
        let input = block();
        let output = block();
        examples.push(Example {
            args: args.split(',').map(Into::into).collect(),
            exit: exit.parse().unwrap(),
            input,
            output: output.strip_prefix("```json output\n").unwrap().into(),
        });
    }
    examples
}

#[test]
fn the_pages_examples_come_out_as_it_says() {
    let examples = examples();
    assert!(examples.len() >= 7, "the page has examples");
    for example in examples {
        let args: Vec<&str> = example.args.iter().map(String::as_str).collect();
        let (exit, output, _) = run(&args, &example.input);
        assert_eq!(exit, example.exit, "{args:?} {}", example.input);
        assert_eq!(output.lines().count(), 1, "one line in a pipe");
        // As text after parsing, so that numbers are compared as they were written.
        let text = |json: &str| serde_json::from_str::<Value>(json).unwrap().to_string();
        assert_eq!(text(&output), text(&example.output), "{args:?}");
    }
}

#[test]
fn end_of_file_before_a_document_is_an_error_that_says_so() {
    let (exit, output, said) = run(&["create"], "");
    assert_eq!(exit, 125);
    assert_eq!(said, "stage: the stage before ended without a document\n");
    assert!(output.contains(r#""kind":"document""#));
}

#[test]
fn a_mistyped_option_of_a_creating_stage_reads_the_document_and_passes_it_on() {
    let (exit, output, said) = run(
        &["create", "--tpyo"],
        r#"{"bocker":{"version":1,"id":"ps_3fa0c1"}}"#,
    );
    assert_eq!(exit, 125);
    assert!(said.starts_with("stage: unknown option '--tpyo'"), "{said}");
    let document: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(document["bocker"]["id"], "ps_3fa0c1");
    assert_eq!(document["bocker"]["error"]["kind"], "usage");
    assert!(document["bocker"].get("example").is_none());
}

#[test]
fn a_mistyped_option_of_a_deleting_stage_fails_and_deletes_all_the_same() {
    let (exit, output, said) = run(
        &["delete", "--tpyo"],
        r#"{"bocker":{"version":1,"example":{"made":true}}}"#,
    );
    assert_eq!(exit, 125);
    assert!(said.contains("--tpyo"));
    assert!(!output.contains("example"), "{output}");
}

#[test]
fn a_verb_that_does_not_exist_passes_the_document_on() {
    let (exit, output, _) = run(&["craete"], r#"{"bocker":{"version":1,"id":"ps_3fa0c1"}}"#);
    assert_eq!(exit, 125);
    assert!(output.contains("ps_3fa0c1") && output.contains(r#""kind":"usage""#));
}

#[test]
fn a_stage_whose_reader_is_gone_takes_its_work_back_and_fails() {
    let mut child = start(&["create", "-v"]);
    drop(child.stdout.take());
    child.stdin.take().unwrap().write_all(b"{}").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.starts_with("+ true\n# undo example.nothing\n"),
        "{said}"
    );
    assert!(
        said.contains("cannot pass the document on: Broken pipe (EPIPE)"),
        "{said}"
    );
}

#[test]
fn a_signal_that_comes_while_a_creating_stage_waits_is_passed_on_with_the_document() {
    let mut child = start(&["create"]);
    wait_until_it_catches(&child, 2);
    signal(&child, 2);
    child
        .stdin
        .take()
        .unwrap()
        .write_all(br#"{"bocker":{"version":1,"id":"ps_3fa0c1"}}"#)
        .unwrap();
    let mut output = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut output)
        .unwrap();
    let status = child.wait().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(130), None));
    assert!(
        output.contains("ps_3fa0c1") && output.contains(r#""kind":"interrupted""#),
        "{output}"
    );
}

#[test]
fn a_signal_does_not_stop_a_deleting_stage() {
    for number in [1, 2, 3, 15] {
        let mut child = start(&["delete"]);
        wait_until_it_catches(&child, number);
        signal(&child, number);
        child
            .stdin
            .take()
            .unwrap()
            .write_all(br#"{"bocker":{"version":1,"example":1}}"#)
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "signal {number}");
        assert!(
            !String::from_utf8(output.stdout)
                .unwrap()
                .contains("example")
        );
    }
}

#[test]
fn the_whole_pipe_ends_with_the_code_of_the_stage_that_failed() {
    let script =
        r#"echo '{}' | "$1" fail 2>/dev/null | "$1" create | "$1" delete | "$1" delete --status"#;
    let output = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(STAGE)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(126));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "",
        "said once, by the stage that failed"
    );
}

fn signal(child: &Child, number: u32) {
    let status = Command::new("sh")
        .args(["-c", &format!("kill -{number} {}", child.id())])
        .status()
        .unwrap();
    assert!(status.success());
}

/// Waits until /proc says that the child no longer dies of the signal.
fn wait_until_it_catches(child: &Child, number: u32) {
    let bit = 1u64 << (number - 1);
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let mask = |name: &str| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap();
            u64::from_str_radix(line.trim(), 16).unwrap()
        };
        if (mask("SigCgt:") | mask("SigIgn:")) & bit != 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("the stage did not set its signals up");
}
