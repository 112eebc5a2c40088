//! The life of a container where the tree of cgroup v2 is mounted beside those of v1, as in systemd's hybrid layout: no limit
//! is set there, but systemd finds by it what belongs to a unit. All tests here have that tree.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bocker_tests::{Host, Session, need_hybrid};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where the tree is, and where each hierarchy has the supervisors.
const TREE: &str = "/sys/fs/cgroup/unified";
const SUPERVISORS: &str = "/bocker-supervisors";

/// The groups of a process: by the names of the controllers, of which the tree of v2 has none.
fn groups(pid: Pid) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("a process");
    let group = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1).map(str::to_owned);
        Some((fields.next()?, fields.next()?))
    };
    text.lines().filter_map(group).collect()
}

/// Process 1 of a container, once it is one that is not this.
fn process_1(s: &Session, name: &str, former: Option<Pid>) -> Pid {
    s.host.wait_for("process 1", || {
        // None is 0, as OCI has it.
        let state = s.host.run(&["bocker-spawn", "state", name]).ok().json();
        let pid = i32::try_from(state["pid"].as_i64()?).ok()?;
        let pid = (pid > 0).then_some(Pid::from_raw(pid));
        pid.filter(|_| pid != former)
    })
}

fn parent(pid: Pid) -> Pid {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let fields = stat.rsplit_once(')').expect("a name").1;
    let parent = fields.split_ascii_whitespace().nth(1).expect("a parent");
    Pid::from_raw(parent.parse().expect("a number"))
}

/// The supervisor is in its group in every hierarchy, and process 1 too where the container has no group of its own.
#[track_caller]
fn is_where_it_belongs(id: &str, process_1: Pid) {
    let own = groups(parent(process_1));
    assert!(own.contains_key(""), "the tree of v2 is there: {own:?}");
    assert!(own.values().all(|group| group == SUPERVISORS), "{own:?}");
    let limited = ["cpu", "cpuacct", "memory", "pids", "devices", "freezer"];
    for (names, group) in groups(process_1) {
        let expected = match names.split(',').any(|name| limited.contains(&name)) {
            true => &format!("/{id}"),
            false => SUPERVISORS,
        };
        assert_eq!(group, expected, "{names:?}");
    }
}

/// What is left in the tree besides the group of the test itself.
fn left() -> Vec<String> {
    let entries = fs::read_dir(TREE).expect("the tree").flatten();
    let groups = entries.filter(|entry| entry.path().is_dir());
    let names = groups.map(|group| group.file_name().to_string_lossy().into_owned());
    names.filter(|name| name != "test").collect()
}

#[test]
fn a_supervisor_and_its_container_leave_the_unit_that_started_them_and_nothing_of_them_is_left() {
    if !need_hybrid() {
        return;
    }
    let s = Session::on(Host::hybrid());
    assert!(left().is_empty());
    s.run(&["--rm"], &["true"]).ok();
    let before = s.host.fingerprint();
    let unit = Path::new(TREE).join("unit");
    fs::create_dir(&unit).expect("mkdir");
    let command = ["run", "-d", "--name", "web", "--restart", "on-failure"];
    let script = format!(
        "echo $$ > {}/cgroup.procs; exec bocker \"$@\"",
        unit.display()
    );
    let words = [
        &["sh", "-c", &script, "sh"],
        &command[..],
        &s.base(),
        &["sleep", "1000"],
    ]
    .concat();
    let id = s.host.run(&words).text();
    let id = id.trim();
    // Whoever ends the unit finds nobody.
    s.host
        .wait_for("the unit is empty", || fs::remove_dir(&unit).ok());
    let first = process_1(&s, "web", None);
    is_where_it_belongs(id, first);

    kill(first, Signal::SIGKILL).expect("kill");
    let second = process_1(&s, "web", Some(first));
    is_where_it_belongs(id, second);
    s.bocker(&["pause", "web"]).ok();
    s.bocker(&["unpause", "web"]).ok();
    s.bocker(&["exec", "web", "true"]).ok();
    s.bocker(&["restart", "web"]).ok();
    is_where_it_belongs(id, process_1(&s, "web", Some(second)));

    let info = s.bocker(&["system", "info"]).ok().json();
    let homes = info["cg"]["supervisors"].as_array().expect("supervisors");
    assert!(
        homes.contains(&format!("{TREE}{SUPERVISORS}").into()),
        "{homes:?}"
    );
    s.bocker(&["rm", "-f", "web"]).ok();
    s.host.assert_same(&before);
    assert_eq!(left(), [&SUPERVISORS[1..]]);
    s.bocker(&["system", "reset", "--force"]).ok();
    assert!(left().is_empty());
}

#[test]
fn one_in_the_foreground_and_one_at_a_terminal_are_cleaned_up_too() {
    if !need_hybrid() {
        return;
    }
    let s = Session::on(Host::hybrid());
    s.run(&["--rm"], &["true"]).ok();
    let before = s.host.fingerprint();
    s.run(&["--rm"], &["sh", "-c", "exit 3"]).exits(3);
    let words = [
        &["bocker", "run", "--rm", "-it", "--name", "web"],
        &s.base()[..],
        &["/bin/sh"],
    ];
    let terminal = s
        .host
        .call(&words.concat())
        .env("TERM", "xterm")
        .at_terminal(24, 80);
    terminal.shows("/ # ");
    let id = s.bocker(&["ps", "-q"]).text();
    is_where_it_belongs(id.trim(), process_1(&s, "web", None));
    terminal.types("exit 4\n");
    assert_eq!(terminal.wait().0, 4);
    s.host.assert_same(&before);
}

#[test]
fn what_a_killed_supervisor_leaves_is_ended_and_collected() {
    if !need_hybrid() {
        return;
    }
    let s = Session::on(Host::hybrid());
    s.run(&["--rm"], &["true"]).ok();
    let before = s.host.fingerprint();
    s.sleeping("web");
    kill(parent(process_1(&s, "web", None)), Signal::SIGKILL).expect("kill");
    s.host.wait_for("it is told", || {
        let output = s.bocker(&["ps"]).ok();
        output.stderr.contains("lost its supervisor").then_some(())
    });
    s.bocker(&["rm", "web"]).ok();
    s.host.assert_same(&before);
}
