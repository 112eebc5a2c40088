//! `top`: the processes of a container.

use bocker_tests::Session;

#[test]
fn top_shows_each_process_with_the_containers_own_names() {
    let s = Session::with_base();
    let script = "echo 'web:x:77:77::/:/bin/sh' >> /etc/passwd; echo ready; exec sleep 1000";
    s.runs("box", &[], script);
    s.runs("other", &[], "echo ready; exec sleep 1001");
    s.bocker(&["exec", "-d", "-u", "77", "box", "sleep", "2000"])
        .ok();
    let top = |options: &[&str]| s.bocker(&[&["top", "box"], options].concat()).text();
    let usual = s.host.wait_for("both run", || {
        let shown = top(&[]);
        shown.contains("sleep 2000").then_some(shown)
    });
    let fields: Vec<Vec<&str>> = usual
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        fields[0].join(" "),
        "USER PID PPID %CPU ELAPSED TTY TIME COMMAND"
    );
    let pid = s.bocker(&["inspect", "-f", "{{.State.Pid}}", "box"]).text();
    let first = fields
        .iter()
        .find(|line| line[1] == pid.trim())
        .expect("process 1");
    assert_eq!(
        (first[0], first[5], first[7..].join(" ")),
        ("root", "?", "sleep 1000".into())
    );
    assert!(!usual.contains("1001"), "another container's: {usual}");
    let chosen = top(&["-o", "user,nspid,comm"]);
    let mut lines: Vec<String> = chosen
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(lines.remove(0), "USER NSPID COMMAND");
    assert!(lines.contains(&"root 1 sleep".to_owned()), "{chosen}");
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("web ") && line.ends_with(" sleep")),
        "{chosen}"
    );
}

#[test]
fn what_top_cannot_show_is_said() {
    let s = Session::with_base();
    s.ran("done", &[], "true");
    s.bocker(&["top", "done"])
        .exits(125)
        .says("exists but is not running");
    s.bocker(&["top", "nothing"])
        .exits(125)
        .says("No container named 'nothing'");
    s.bocker(&["top", "done", "aux"])
        .exits(125)
        .says("ps(1) itself is not run");
    s.bocker(&["top", "done", "-o", "pid,frob"])
        .exits(125)
        .says("no column 'frob'; there are user");
}
