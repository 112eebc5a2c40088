//! `ps`: what it shows, in which form, and of which containers.

use std::fs;

use bocker_tests::Session;

/// The names of those that are listed, in order.
fn names(s: &Session, options: &[&str]) -> String {
    let words = [&["ps", "--format", "{{.Names}}"], options].concat();
    let output = s.bocker(&words).text();
    output.lines().collect::<Vec<_>>().join(" ")
}

/// `web`, which runs, and before it `done`, which has ended with 3, and `made`, which never ran.
fn three(s: &Session) {
    let create = [
        "create",
        "--name",
        "made",
        "--label",
        "tier=db",
        "-v",
        "data:/data",
    ];
    s.bocker(&[&create[..], &["base:1", "true"]].concat()).ok();
    s.bocker(&[
        "run", "--name", "done", "-l", "tier=web", "-l", "old", "base:1", "sh", "-c", "exit 3",
    ])
    .exits(3);
    s.bocker(&["network", "create", "front"]).ok();
    let options = [
        "-l",
        "tier=web",
        "-p",
        "127.0.0.1:8080:80/udp",
        "--network",
        "front",
    ];
    s.runs("web", &options, "echo ready; exec sleep 1000");
}

#[test]
fn filters_of_one_key_are_alternatives_and_of_several_all_have_to_hold() {
    let s = Session::with_base();
    three(&s);
    let done = s.bocker(&["ps", "-q", "--filter", "name=done"]).text();
    let id = format!("id={}", &done.trim()[..6]);
    let digest = s
        .bocker(&["image", "inspect", "-f", "{{.Id}}", "base:1"])
        .text();
    let ancestor = format!("ancestor={}", digest.trim());
    for (filters, expected) in [
        (&[][..], "web done made"),
        (&["status=running"], "web"),
        (&["status=running", "status=created"], "web made"),
        (&["status=exited", "name=web"], ""),
        (&["exited=3"], "done"),
        (&["exited=0"], ""),
        (&["label=tier"], "web done made"),
        (&["label=tier=web"], "web done"),
        (&["label=tier=web", "label=old"], "done"),
        (&["label=none"], ""),
        (&["name=e"], "web done made"),
        (&["name=^/web$"], "web"),
        (&["name=^(web|made)$", "label=tier=db"], "made"),
        (&[&id], "done"),
        (&["ancestor=base:1"], "web done made"),
        (&["ancestor=base"], ""),
        (&[&ancestor], "web done made"),
        (&["before=web"], "done made"),
        (&["since=made", "status=exited"], "done"),
        (&["volume=data"], "made"),
        (&["volume=/data"], "made"),
        (&["network=front"], "web"),
        (&["publish=80/udp"], "web"),
        (&["publish=70-90"], "web"),
        (&["publish=80/tcp"], ""),
        (&["expose=80"], "web"),
        (&["health=none"], "web done made"),
        (&["health=healthy"], ""),
    ] {
        let options: Vec<&str> = filters.iter().flat_map(|filter| ["-f", filter]).collect();
        assert_eq!(names(&s, &options), expected, "{filters:?}");
    }
    s.bocker(&["ps", "-f", "frob=1"])
        .exits(125)
        .says("there is no filter 'frob'; there are ancestor");
    s.bocker(&["ps", "-f", "since=nothing"])
        .exits(125)
        .says("No container named 'nothing'");
    s.bocker(&["rm", "-v", "made"]).ok();
    s.bocker(&["rm", "-f", "web"]).ok();
    s.bocker(&["network", "rm", "front"]).ok();
}

#[test]
fn an_image_is_the_ancestor_of_what_runs_on_one_that_was_made_of_it() {
    let s = Session::with_base();
    s.ran("one", &[], "echo more > /more");
    s.bocker(&["commit", "one", "child:1"]).ok();
    s.bocker(&["run", "--name", "two", "child:1", "/bin/true"])
        .ok();
    s.bocker(&["run", "--name", "none", "--rootfs", &s.rootfs, "true"])
        .ok();
    for (ancestor, expected) in [("base:1", "two one"), ("child:1", "two"), ("nothing:1", "")] {
        let filter = format!("ancestor={ancestor}");
        assert_eq!(names(&s, &["-f", &filter]), expected, "{ancestor}");
    }
    s.bocker(&["rm", "one", "two", "none"]).ok();
}

#[test]
fn the_last_ones_made_come_first_and_may_be_asked_for_alone() {
    let s = Session::with_base();
    for name in ["first", "second", "third"] {
        s.bocker(&["create", "--name", name, "base:1", "true"]).ok();
    }
    assert_eq!(names(&s, &[]), "third second first");
    assert_eq!(names(&s, &["-n", "2"]), "third second");
    assert_eq!(names(&s, &["-l"]), "third");
    assert_eq!(names(&s, &["-n", "1", "-f", "name=first"]), "first");
    let quiet = s.bocker(&["ps", "-lq"]).text();
    assert_eq!(
        s.bocker(&["inspect", "-f", "{{.bocker.name}}", quiet.trim()])
            .text(),
        "third\n"
    );
}

#[test]
fn every_format_shows_the_same_container() {
    let s = Session::with_base();
    s.bocker(&[
        "create", "--name", "box", "--label", "a=b", "--label", "c=", "base:1", "echo", "a b",
    ])
    .ok();
    let id = s.bocker(&["ps", "-q"]).text();
    let id = id.trim();
    let ps = |options: &[&str]| s.bocker(&[&["ps"], options].concat()).text();
    assert_eq!(
        ps(&[]),
        format!("CONTAINER_ID\t\tCOMMAND\n{id}\t\techo a b\n")
    );
    assert_eq!(ps(&["--noheading"]), format!("{id}\t\techo a b\n"));
    assert_eq!(
        ps(&["--format", "table {{.Names}}\\t{{.ID}}\\t{{upper .Status}}"]),
        format!("NAMES  CONTAINER_ID  STATUS\nbox    {id}     CREATED\n")
    );
    assert_eq!(
        ps(&[
            "--format",
            "{{range $k, $v := .Labels}}{{$k}}={{$v}};{{end}}{{.Label \"a\"}}"
        ]),
        "a=b;c=;b\n"
    );
    let json = s.bocker(&["ps", "--format", "json"]).json_lines();
    assert_eq!(json.len(), 1);
    assert_eq!(
        (&json[0]["ID"], &json[0]["State"]),
        (&id.into(), &"created".into())
    );
    assert_eq!(s.bocker(&["ps", "--json"]).json_lines()[0]["name"], "box");
    let table = ps(&["--format", "table"]);
    assert!(
        table.starts_with("CONTAINER_ID  COMMAND   IMAGE "),
        "{table}"
    );
    s.bocker(&["ps", "--format", "{{.Names"])
        .exits(125)
        .says("{{ without }}");
    s.bocker(&["ps", "--format", "{{frob .Names}}"])
        .exits(125)
        .says("'frob'");
}

#[test]
fn a_terminal_is_never_overrun_and_a_pipe_never_cut() {
    let s = Session::with_base();
    let long = "x".repeat(300);
    s.bocker(&["create", "--name", "box", "base:1", "echo", &long])
        .ok();
    assert!(s.bocker(&["ps"]).text().contains(&long));
    let terminal = |line: &str| {
        let line = format!("stty cols 80; {line}");
        s.host.run(&["script", "-qec", &line, "/dev/null"]).text()
    };
    let shown = terminal("bocker ps");
    assert!(
        shown
            .lines()
            .all(|line| line.trim_end().chars().count() <= 80),
        "{shown}"
    );
    assert!(shown.contains('…') && shown.contains("CONTAINER_ID") && !shown.contains(&long));
    assert!(terminal("bocker ps --no-trunc").contains(&long));
}

#[test]
fn sizes_are_what_was_written_and_what_it_stands_on() {
    let s = Session::with_base();
    s.ran("box", &[], "head -c 3000000 /dev/urandom > /file");
    s.bocker(&["create", "--name", "empty", "base:1", "true"])
        .ok();
    let size = |name: &str| {
        let filter = format!("name={name}");
        s.bocker(&["ps", "-f", &filter, "--format", "{{.Size}}"])
            .text()
    };
    let (written, empty) = (size("box"), size("empty"));
    assert!(
        written.starts_with("3.0") && written.contains("MB (virtual "),
        "{written}"
    );
    assert!(empty.contains("kB (virtual "), "{empty}");
    let table = s.bocker(&["ps", "-s"]).text();
    assert!(
        table
            .lines()
            .next()
            .is_some_and(|line| line.ends_with("SIZE")),
        "{table}"
    );
    assert!(table.contains(written.trim()), "{table}");
}

#[test]
fn namespaces_are_those_of_process_1() {
    let s = Session::with_base();
    s.runs("web", &[], "echo ready; exec sleep 1000");
    s.bocker(&["create", "--name", "made", "base:1", "true"])
        .ok();
    let format = "{{.Names}} {{.Pid}} {{.net}} {{.pid}}";
    let shown = s.bocker(&["ps", "--ns", "--format", format]).text();
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[0], "made <no value> <no value> <no value>");
    let fields: Vec<&str> = lines[1].split(' ').collect();
    let inside = |name: &str| {
        let link = s
            .bocker(&["exec", "web", "readlink", &format!("/proc/1/ns/{name}")])
            .text();
        link.split(['[', ']']).nth(1).expect("a number").to_owned()
    };
    assert_eq!(fields[2..], [inside("net"), inside("pid")]);
    let pid = s
        .bocker(&["inspect", "-f", "{{.bocker.spawn.pid}}", "web"])
        .text();
    assert_eq!(fields[1], pid.trim());
    let table = s.bocker(&["ps", "--ns"]).text();
    let heading: Vec<&str> = table
        .lines()
        .next()
        .expect("a heading")
        .split_whitespace()
        .collect();
    let expected = "ID NAMES PID CGROUPNS IPC MNT NET PIDNS USERNS UTS";
    assert_eq!(heading.join(" "), expected);
}

#[test]
fn a_paused_container_says_so() {
    let s = Session::with_base();
    s.runs("web", &[], "echo ready; exec sleep 1000");
    s.bocker(&["pause", "web"]).ok();
    let shown = s
        .bocker(&["ps", "--format", "{{.State}} {{.Status}}"])
        .text();
    assert!(
        shown.starts_with("paused Up ") && shown.ends_with(" (Paused)\n"),
        "{shown}"
    );
    assert_eq!(names(&s, &["-f", "status=paused"]), "web");
    s.bocker(&["unpause", "web"]).ok();
    assert_eq!(names(&s, &["-f", "status=paused"]), "");
}

#[test]
fn of_more_than_one_thread_reads_each_is_listed_once_and_in_its_order() {
    let s = Session::new();
    s.run(&["--name", "done"], &["true"]).ok();
    let id = s.bocker(&["ps", "-a", "-q"]).text().trim().to_owned();
    let containers = s.host.root().join("containers");
    let written = fs::read_to_string(containers.join(&id).join("config.json")).expect("one");
    let mut ids: Vec<String> = (0..70).map(|number| format!("ps_{number:06}")).collect();
    for copy in &ids {
        fs::create_dir(containers.join(copy)).expect("a folder");
        let path = containers.join(copy).join("config.json");
        fs::write(path, written.replace(&id, copy)).expect("another");
    }
    ids.push(id);
    ids.sort();
    let listed = s.host.run(&["bocker-spawn", "list"]).ok().json_lines();
    let listed: Vec<&str> = listed
        .iter()
        .filter_map(|line| line["id"].as_str())
        .collect();
    assert_eq!(listed, ids);
}
