//! Containers that are made before they run, and what they are called: `create`, `rename`, names of two words, and the files by
//! which scripts know them.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use bocker_tests::Session;

/// What a template makes of a container.
fn shown(s: &Session, name: &str, template: &str) -> String {
    let output = s.bocker(&["inspect", "--format", template, name]);
    output.text().trim_end().to_owned()
}

#[test]
fn create_and_start_say_what_run_says() {
    let s = Session::with_base();
    let script = "cat; echo \"$A $(pwd) $(id -u)\"; echo error >&2; exit 7";
    let options = [
        "-i", "-e", "A=b c", "-w", "/tmp", "-u", "7", "--tmpfs", "/x", "-m", "64m",
    ];
    let words = ["base:1", "sh", "-c", script];
    let call = |before: &[&str], after: &[&str]| {
        let words = [&["bocker"], before, after].concat();
        s.host.call(&words).stdin("typed\n").run()
    };
    let run = call(&["run"], &[&options[..], &words].concat()).exits(7);
    assert_eq!(run.stdout, "typed\nb c /tmp 7\n");
    let create = call(
        &["create", "--name", "box"],
        &[&options[..], &words].concat(),
    );
    let id = create.text();
    assert_eq!(
        shown(&s, "box", "{{.bocker.state}} {{.bocker.id}}"),
        format!("created {}", id.trim())
    );
    for _ in 0..2 {
        let start = call(&["start", "-a", "-i", "box"], &[]).exits(7);
        assert_eq!(
            (start.stdout, start.stderr),
            (run.stdout.clone(), run.stderr.clone())
        );
    }
    let line = s.bocker(&["inspect", "--as-command", "box"]).text();
    assert!(
        line.starts_with("bocker create --name box -i -e 'A=b c'"),
        "{line}"
    );
}

#[test]
fn what_is_created_holds_nothing_of_the_machine() {
    let s = Session::with_base();
    let all = ["-p", "8080:80", "-v", "data:/data", "base:1", "true"];
    s.bocker(&[&["run", "--rm"], &all[..]].concat()).ok();
    s.bocker(&["volume", "rm", "data"]).ok();
    let before = s.host.fingerprint();
    let id = s.bocker(&[&["create"], &all[..]].concat()).text();
    let ports = s.host.run(&["nft", "list", "ruleset"]).text();
    assert!(!ports.contains("8080"), "{ports}");
    // The port is another's in between.
    s.bocker(&["run", "--rm", "-p", "8080:80", "base:1", "true"])
        .ok();
    s.bocker(&["start", "-a", id.trim()]).ok();
    s.bocker(&["rm", id.trim()]).ok();
    s.bocker(&["volume", "rm", "data"]).ok();
    s.host.assert_same(&before);
}

#[test]
fn what_cannot_be_created_leaves_nothing_and_says_why() {
    let s = Session::with_base();
    s.bocker(&["run", "--rm", "base:1", "true"]).ok();
    let before = s.host.fingerprint();
    let file = s.host.scratch().join("id").display().to_string();
    for (options, says) in [
        (&["-m", "1", "--cidfile", &file][..], "memory"),
        (&["-u", "nobody-here"], "nobody-here"),
        (&["--network", "none-such"], "none-such"),
        (&["-d"], "leave -d out"),
        (&["--label", "=x"], "no label"),
    ] {
        let words = [&["create"], options, &["base:1", "true"]].concat();
        let output = s.bocker(&words).exits(125).says(says);
        assert_eq!(output.stdout, "");
        assert!(!Path::new(&file).exists());
    }
    s.host.assert_same(&before);
}

#[test]
fn create_pasted_makes_another() {
    let s = Session::with_base();
    let line = s
        .bocker(&[
            "--dry-run",
            "create",
            "--label",
            "a=b",
            "base:1",
            "echo",
            "hi",
        ])
        .text();
    let id = s.host.sh(&line).text();
    let start = s.bocker(&["start", "-a", id.trim()]).ok();
    assert_eq!(start.stdout, "hi\n");
    assert_eq!(s.bocker(&["ps", "-q"]).text(), id);
}

#[test]
fn a_container_without_a_name_gets_two_words_that_nobody_else_has() {
    let s = Session::with_base();
    let mut names = HashSet::new();
    let running: Vec<_> = (0..4)
        .map(|_| {
            let script = "for i in 1 2; do bocker create base:1 true; done";
            s.host.spawn(&["sh", "-c", script])
        })
        .collect();
    for shell in running {
        for id in shell.wait().ok().stdout.lines() {
            let name = shown(&s, id, "{{.bocker.name}}");
            let words: Vec<&str> = name.split('_').collect();
            assert!(
                words.len() == 2 && words.iter().all(|word| word.len() > 1),
                "{name}"
            );
            assert_eq!(shown(&s, &name, "{{.bocker.id}}"), id);
            names.insert(name);
        }
    }
    assert_eq!(names.len(), 8);
    // The tool alone gives none unless it is asked.
    let document = s.host.run(&["bocker-snap", "create", "base:1"]).ok();
    assert!(document.json()["bocker"]["name"].is_null());
    s.host
        .call(&["bocker-snap", "delete"])
        .stdin(document.stdout)
        .run()
        .ok();
}

#[test]
fn a_renamed_container_goes_by_its_new_name_alone() {
    let s = Session::with_base();
    s.bocker(&["create", "--name", "old", "base:1", "true"])
        .ok();
    s.bocker(&["create", "--name", "other", "base:1", "true"])
        .ok();
    assert_eq!(s.bocker(&["rename", "old", "new"]).text(), "");
    s.bocker(&["inspect", "old"]).exits(1);
    assert_eq!(shown(&s, "new", "{{.bocker.name}}"), "new");
    s.bocker(&["rename", "new", "other"])
        .exits(125)
        .says("taken by ps_");
    s.bocker(&["rename", "nothing", "some"])
        .exits(125)
        .says("No container named 'nothing'");
    s.bocker(&["rename", "new", "a/b"]).exits(125).says("'a/b'");
    s.bocker(&["rename", "new", "ps_abcdef"])
        .exits(125)
        .says("'ps_abcdef'");
    // Its own name again, and one that is free again.
    s.bocker(&["rename", "new", "new"]).ok();
    s.bocker(&["rename", "other", "old"]).ok();
    assert_eq!(shown(&s, "old", "{{.bocker.name}}"), "old");
    s.bocker(&["start", "-a", "new"]).ok();
    assert_eq!(
        shown(&s, "new", "{{.bocker.name}} {{.bocker.state}}"),
        "new exited"
    );
}

#[test]
fn a_container_that_runs_keeps_its_new_name_after_its_end() {
    let s = Session::with_base();
    s.runs(
        "old",
        &[],
        "trap 'exit 3' TERM; echo ready; while :; do sleep 0.02; done",
    );
    s.bocker(&["rename", "old", "new"]).ok();
    assert_eq!(
        shown(&s, "new", "{{.bocker.name}} {{.bocker.state}}"),
        "new running"
    );
    s.bocker(&["stop", "new"]).ok();
    let ended = shown(
        &s,
        "new",
        "{{.bocker.name}} {{.bocker.state}} {{.bocker.exit.code}}",
    );
    assert_eq!(ended, "new exited 3");
}

#[test]
fn of_two_who_rename_to_one_name_one_is_refused() {
    let s = Session::with_base();
    for name in ["aa", "bb"] {
        s.bocker(&["create", "--name", name, "base:1", "true"]).ok();
    }
    let renames = ["aa", "bb"].map(|name| s.host.spawn(&["bocker", "rename", name, "one"]));
    let mut codes = renames.map(|rename| rename.wait().code);
    codes.sort_unstable();
    assert_eq!(codes, [0, 125]);
    let names = fs::read_dir(s.host.root().join("names")).expect("names");
    let mut names: Vec<_> = names
        .map(|entry| {
            entry
                .expect("a name")
                .file_name()
                .into_string()
                .expect("text")
        })
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort_unstable();
    assert!(
        names == ["aa", "one"] || names == ["bb", "one"],
        "{names:?}"
    );
    for name in names {
        assert_eq!(shown(&s, &name, "{{.bocker.name}}"), name);
    }
}

#[test]
fn a_rename_beside_the_end_loses_neither() {
    let s = Session::with_base();
    for round in 0..4 {
        let (old, new) = (format!("old{round}"), format!("new{round}"));
        s.bocker(&["run", "-d", "--name", &old, "base:1", "sh", "-c", "exit 5"])
            .ok();
        s.bocker(&["rename", &old, &new]).ok();
        s.host.wait_for("it has ended", || {
            (shown(&s, &new, "{{.bocker.state}}") == "exited").then_some(())
        });
        assert_eq!(
            shown(&s, &new, "{{.bocker.name}} {{.bocker.exit.code}}"),
            format!("{new} 5")
        );
    }
}

#[test]
fn a_cidfile_holds_the_id_and_is_never_another_ones() {
    let s = Session::with_base();
    let file = s.host.scratch().join("id");
    let path = file.display().to_string();
    let id = s
        .bocker(&["run", "-d", "--cidfile", &path, "base:1", "sleep", "1000"])
        .text();
    assert_eq!(fs::read_to_string(&file).expect("the id"), id.trim());
    let before = s.host.fingerprint();
    s.bocker(&["run", "--rm", "--cidfile", &path, "base:1", "true"])
        .exits(125)
        .says("exists");
    s.host.assert_same(&before);
    assert_eq!(fs::read_to_string(&file).expect("the id"), id.trim());
}

#[test]
fn a_pidfile_holds_the_number_of_process_1_for_as_long_as_it_runs() {
    let s = Session::with_base();
    let file = s.host.scratch().join("pid");
    let path = file.display().to_string();
    let pid = || fs::read_to_string(&file).ok();
    let is_told = || {
        let shown = s.bocker(&["inspect", "--format", "{{.State.Pid}}", "box"]);
        pid() == Some(shown.text())
    };
    s.bocker(&[
        "create",
        "--name",
        "box",
        "--pidfile",
        &path,
        "base:1",
        "sleep",
        "1000",
    ])
    .ok();
    assert_eq!(pid(), None, "it has not begun");
    for _ in 0..2 {
        s.bocker(&["start", "box"]).ok();
        assert!(is_told(), "{:?}", pid());
        s.bocker(&["stop", "-t", "0", "box"]).ok();
        assert_eq!(pid(), None, "it has ended");
    }
}

#[test]
fn what_was_asked_for_once_is_asked_for_by_every_start() {
    let s = Session::with_base();
    let create = "cd $FOLDER && bocker create --name box -i --init --stop-signal USR1 \
                  --stop-timeout 7 --timeout 700 --restart unless-stopped --log-opt max-size=1m \
                  --log-opt max-file=2 --health-cmd true --pidfile pid base:1 sleep 1000";
    let call = s.host.call(&["sh", "-c", create]);
    call.env("FOLDER", s.host.scratch()).run().ok();
    let asked = || shown(&s, "box", "{{json .bocker.spawn.request}}");
    let before = asked();
    for word in [
        "interactive",
        "init",
        "USR1",
        "stop_timeout",
        "700",
        "unless-stopped",
        "max-file",
        "health",
    ] {
        assert!(before.contains(word), "{word} in {before}");
    }
    s.bocker(&["start", "box"]).ok();
    assert_eq!(asked(), before);
    assert!(s.host.scratch().join("pid").exists());
    s.bocker(&["rm", "-f", "box"]).ok();
}

#[test]
fn labels_come_from_files_and_options() {
    let s = Session::with_base();
    let file = s.host.scratch().join("labels");
    fs::write(&file, "# a comment\n\na=file\nb=x=y\nc\n").expect("a file");
    let file = file.display().to_string();
    s.bocker(&[
        "create",
        "--name",
        "box",
        "--label-file",
        &file,
        "-l",
        "a=option",
        "base:1",
        "true",
    ])
    .ok();
    assert_eq!(
        shown(&s, "box", "{{json .bocker.labels}}"),
        r#"{"a":"option","b":"x=y","c":""}"#
    );
    s.bocker(&["create", "--label-file", "/no/such", "base:1", "true"])
        .exits(125)
        .says("/no/such");
}

#[test]
fn never_means_that_no_registry_is_asked() {
    let s = Session::with_base();
    let never = ["run", "--rm", "--pull", "never"];
    s.bocker(&[&never[..], &["base:1", "true"]].concat()).ok();
    s.bocker(&[&never[..], &["127.0.0.1:1/not/here", "true"]].concat())
        .exits(125)
        .says("--pull never");
    let always = [
        "run",
        "--rm",
        "-q",
        "--pull",
        "always",
        "127.0.0.1:1/not/here",
        "true",
    ];
    s.bocker(&always).exits(125).says("could not be pulled");
    s.bocker(&["run", "--pull", "often", "base:1", "true"])
        .exits(125)
        .says("'often'");
}

#[test]
fn whether_something_exists_is_told_by_the_exit_status_alone() {
    let s = Session::with_base();
    let id = s
        .bocker(&["create", "--name", "box", "base:1", "true"])
        .text();
    for (words, code) in [
        (&["container", "exists", "box"][..], 0),
        (&["container", "exists", id.trim()], 0),
        (&["container", "exists", &id[..6]], 0),
        (&["container", "exists", "nothing"], 1),
        (&["image", "exists", "base:1"], 0),
        (&["image", "exists", "base:2"], 1),
    ] {
        let output = s.bocker(words).exits(code);
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""));
    }
    s.bocker(&["container", "exists", ""])
        .exits(125)
        .says("empty");
    s.bocker(&["container", "ls", "-q"]).ok().says("");
    assert_eq!(s.bocker(&["container", "ls", "-q"]).text(), id);
    assert_eq!(
        s.bocker(&["container", "rm", "box"]).text(),
        "Removed: box\n"
    );
}
