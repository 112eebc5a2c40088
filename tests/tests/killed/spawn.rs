//! bocker-spawn: the next command of bocker cleans up after a run, and an exec leaves no process in its container.

use std::fs;

use bocker_tests::{Call, Host, Session};

use crate::{TOOLS, at_every_change, collect};

/// Longer than the machine is given to be as before.
const LASTS: &str = "sleep 7; true";

#[test]
fn a_run_is_cleaned_up_by_the_next_command() {
    let session = Session::new();
    session.run(&["--rm"], &["true"]).ok();
    let before = session.host.fingerprint();
    let prepare = || {
        let script = format!(
            "bocker-snap create --rootfs {} | bocker-net create -p 8080:80 | bocker-cg create --memory 64m",
            session.rootfs
        );
        let document = session.host.sh(&script).ok().stdout;
        let run: Call = session
            .host
            .call(&["bocker-spawn", "run", "--", "true"])
            .stdin(document);
        (run, ())
    };
    at_every_change(10, prepare, |()| {
        session.bocker(&["images"]).ok();
        for line in session
            .bocker(&["ps", "--format", "{{.ID}}"])
            .text()
            .lines()
        {
            session.bocker(&["rm", line]).ok();
        }
        // What it had not taken over when it was killed, or had passed on, is nobody's to clean up but gc's.
        collect(&session.host, &TOOLS, &before);
    });
}

#[test]
fn an_exec_leaves_no_process_in_the_container() {
    let session = Session::new();
    let id = session.sleeping("web");
    let before = session.host.fingerprint();
    let prepare = || {
        let exec = session
            .host
            .call(&["bocker-spawn", "exec", &id, "sh", "-c", LASTS]);
        (exec, ())
    };
    at_every_change(1, prepare, |()| session.host.assert_same(&before));
    session.bocker(&["rm", "-f", "web"]).ok();
}

/// The processes with this word in their command line.
fn processes(host: &Host, word: &str) -> Vec<String> {
    let all = host.fingerprint().section("processes").to_vec();
    all.into_iter().filter(|line| line.contains(word)).collect()
}

fn number(line: &str) -> String {
    line.split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn a_client_or_an_agent_of_exec_that_is_killed_takes_the_command_along() {
    let session = Session::new();
    let passwd = format!("{}/etc/passwd", session.rootfs);
    fs::write(
        passwd,
        "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/:/bin/sh\n",
    )
    .expect("passwd");
    let id = session.sleeping("web");
    let before = session.host.fingerprint();
    // The second has cleared its parent-death signal.
    for command in [
        &["sh", "-c", "sleep 4321; true"][..],
        &["su", "web", "-c", "exec sleep 4321"],
    ] {
        for killed in ["client", "agent"] {
            let words = [&["bocker-spawn", "exec", &id], command].concat();
            let exec = session.host.spawn(&words);
            let client = exec.pid().to_string();
            let command = session.host.wait_for("the command", || {
                processes(&session.host, "sleep 4321")
                    .iter()
                    .map(|line| number(line))
                    .find(|pid| {
                        fs::read_to_string(format!("/proc/{pid}/comm"))
                            .is_ok_and(|name| name.trim() == "sleep")
                    })
            });
            let agent = processes(&session.host, "bocker-spawn exec")
                .iter()
                .map(|line| number(line))
                .find(|pid| *pid != client)
                .expect("an agent");
            let victim = if killed == "client" { &client } else { &agent };
            session.host.run(&["kill", "-9", victim]).ok();
            let output = exec.wait();
            match killed {
                "client" => output.exits(137),
                _ => output.exits(125).says("the command's parent has ended"),
            };
            session.host.wait_for(
                &format!("the end of {command} without its {killed}"),
                || processes(&session.host, "4321").is_empty().then_some(()),
            );
            session.host.assert_same(&before);
        }
    }
    session.bocker(&["rm", "-f", "web"]).ok();
}
