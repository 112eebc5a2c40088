//! What happened: each thing that a tool does is told once, in its order, under docker's names.

use std::fs;

use bocker_tests::Session;
use serde_json::Value;

/// `type action name`, of what is told in the file.
fn told(session: &Session) -> Vec<String> {
    let text = fs::read_to_string(session.host.root().join("events")).unwrap_or_default();
    text.lines()
        .filter(|line| !line.is_empty())
        .map(|line| {
            let event: Value = serde_json::from_str(line).expect("a line is JSON");
            let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
            format!("{} {} {}", text("type"), text("action"), text("name"))
        })
        .collect()
}

#[test]
fn a_containers_whole_life_can_be_told() {
    let session = Session::new();
    session.run(&["--rm", "--name", "web"], &["true"]).ok();
    assert_eq!(
        told(&session),
        [
            "container create web",
            "network connect bridge",
            "container start web",
            "container die web",
            "network disconnect bridge",
            "container destroy web",
        ]
    );
}

#[test]
fn what_comes_to_nothing_is_told_to_its_end() {
    let session = Session::new();
    session
        .run(&["--rm", "--name", "web"], &["/bin/nothing"])
        .exits(127);
    assert_eq!(
        told(&session),
        [
            "container create web",
            "network connect bridge",
            "network disconnect bridge",
            "container destroy web",
        ]
    );
}

#[test]
fn an_event_that_cannot_be_written_is_said_and_fails_nothing() {
    let session = Session::new();
    fs::create_dir_all(session.host.root().join("events")).expect("a folder in its place");
    let output = session.bocker(&["volume", "create", "data"]).ok();
    assert_eq!(output.stdout, "data\n");
    output.says("the event is lost");
    fs::remove_dir(session.host.root().join("events")).expect("remove the folder");
}
