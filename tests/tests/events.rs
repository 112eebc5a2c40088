//! What happened: each thing that a tool does is told once, in its order, under docker's names.

use std::fs;
use std::io::Write;

use bocker_tests::Session;
use serde_json::Value;

/// `type action name`, of what is told in the file; not of images, which some roots are made of.
fn told(session: &Session) -> Vec<String> {
    let text = fs::read_to_string(session.host.root().join("events")).unwrap_or_default();
    text.lines()
        .filter(|line| !line.is_empty())
        .map(|line| {
            let event: Value = serde_json::from_str(line).expect("a line is JSON");
            let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
            format!("{} {} {}", text("type"), text("action"), text("name"))
        })
        .filter(|line| !line.starts_with("image "))
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
fn one_that_is_renamed_and_killed_is_told_once_and_under_its_name() {
    let session = Session::new();
    session.sleeping("web");
    session.bocker(&["rename", "web", "store"]).ok();
    session.bocker(&["kill", "store"]).ok();
    session.bocker(&["wait", "store"]).ok();
    let told = told(&session).into_iter();
    let told: Vec<String> = told.filter(|line| line.starts_with("container")).collect();
    assert_eq!(
        told,
        [
            "container create web",
            "container start web",
            "container rename store",
            "container kill store",
            "container die store",
        ]
    );
    session.bocker(&["rm", "store"]).ok();
}

#[test]
fn a_stop_is_told_once_and_only_of_one_that_ran() {
    let session = Session::new();
    session.sleeping("web");
    for _ in 0..2 {
        session.bocker(&["stop", "web"]).ok();
    }
    let told = told(&session).into_iter();
    let told: Vec<String> = told.filter(|line| line.starts_with("container")).collect();
    assert_eq!(
        told[2..],
        [
            "container kill web",
            "container die web",
            "container stop web"
        ]
    );
    session.bocker(&["rm", "web"]).ok();
}

#[test]
fn what_is_done_to_a_container_is_told_under_dockers_names() {
    let session = Session::new();
    session.sleeping("web");
    let from = told(&session).len();
    let host = session.host.scratch().join("file").display().to_string();
    session.bocker(&["top", "web"]).ok();
    session.bocker(&["cp", "web:/bin/sh", &host]).ok();
    session.bocker(&["cp", &host, "web:/tmp/file"]).ok();
    session.bocker(&["export", "-o", &host, "web"]).ok();
    session.bocker(&["restart", "-t", "0", "web"]).ok();
    let told = told(&session).into_iter().skip(from);
    let mut told: Vec<String> = told.filter(|line| line.starts_with("container")).collect();
    // The supervisor tells of the end while the verb that asked for it goes on.
    told[4..7].sort();
    assert_eq!(
        told,
        [
            "container top web",
            "container archive-path web",
            "container extract-to-dir web",
            "container export web",
            "container die web",
            "container kill web",
            "container stop web",
            "container start web",
            "container restart web",
        ]
    );
    session.bocker(&["rm", "-f", "web"]).ok();
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

#[test]
fn who_follows_is_told_what_is_wanted_until_a_time_and_over_a_full_file() {
    let session = Session::new();
    let root = session.host.root();
    let filters = [
        "--filter",
        "type=container",
        "--filter",
        "event=start",
        "--filter",
        "event=die",
    ];
    let format = [
        "--format",
        "{{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.exitCode}}",
    ];
    let words = [&["bocker", "events", "--since", "0"][..], &filters, &format].concat();
    let follower = session.host.spawn(&words);
    session.run(&["--rm", "--name", "one"], &["true"]).ok();
    // The next event finds the file full, and renames it.
    let file = fs::File::options().append(true).open(root.join("events"));
    let filled = file.and_then(|mut file| file.write_all(&vec![b'\n'; 1 << 20]));
    filled.expect("fill the file");
    session
        .run(&["--rm", "--name", "two"], &["sh", "-c", "exit 3"])
        .exits(3);
    assert!(root.join("events.1").exists(), "it was not renamed");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let soon = now.expect("a time") + std::time::Duration::from_millis(300);
    let soon = format!("{}.{:09}", soon.as_secs(), soon.subsec_nanos());
    let until = session
        .host
        .run(&[&words[..], &["--until", &soon]].concat())
        .ok();
    assert_eq!(
        until.stdout,
        "start one <no value>\ndie one 0\nstart two <no value>\ndie two 3\n"
    );
    follower.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(
        follower.wait().stdout,
        until.stdout,
        "who was there has the same"
    );
}

#[test]
fn events_are_printed_in_dockers_words_and_filtered_as_there() {
    let session = Session::new();
    session
        .run(&["--name", "web", "--label", "tier=front"], &["true"])
        .ok();
    let past = |options: &[&str]| {
        let words = [&["events", "--until", "0s"], options].concat();
        session.bocker(&words).ok()
    };
    let text = past(&["-f", "label=tier=front", "-f", "event=die"]).stdout;
    assert!(
        text.contains(" container die ps_")
            && text.contains(" (exitCode=0, ")
            && text.ends_with("name=web, tier=front)\n"),
        "{text}"
    );
    let lines = past(&["-f", "container=web", "--format", "json"]).json_lines();
    let actions: Vec<&str> = lines
        .iter()
        .filter_map(|line| line["Action"].as_str())
        .collect();
    assert_eq!(actions, ["create", "start", "die"]);
    assert_eq!(
        past(&["-f", "type=network", "--json"]).json_lines()[0]["action"],
        "connect"
    );
    session
        .bocker(&["events", "-f", "x=y"])
        .exits(125)
        .says("there is no filter 'x'");
    session.bocker(&["rm", "web"]).ok();
}
